"""How far the passes are from transformers' on every tiny model, and the noise floor of bf16 and f16 beside torch's.

Errors are the largest difference of logits and of hidden states, each over the RMS of its tensor. Transformers computes
norms, rotary angles and softmaxes in float32 in a float64 model too, so no float64 of the two is the exact one.
MOEGRAFT_SHARED names a folder with more models (models/tiny) and with the trained ones of the second table."""
import json
import os
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import load_file

from peers import DATA, SAMPLES, WORK, run

F64_LIMIT, F32_LIMIT = 5e-6, 2e-5
SHARED = pathlib.Path(os.environ["MOEGRAFT_SHARED"]) if "MOEGRAFT_SHARED" in os.environ else None
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(2)


def load(path, dtype):
    """experts_implementation: the fused kernels refuse float64."""
    for more in ({"experts_implementation": "eager"}, {}):
        try:
            return transformers.AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype, attn_implementation="eager", trust_remote_code=True, **more).eval()
        except (TypeError, ValueError) as e:
            error = e
    raise error


def theirs(path, dtype, ids):
    with torch.no_grad():
        out = load(path, dtype)(ids, output_hidden_states=True, use_cache=False)
    hidden = out.hidden_states or ()
    return {"logits": out.logits, **{f"hidden.{i}": h for i, h in enumerate(hidden)}}


def ours(path, precision, ids_file):
    to = WORK / "ours.safetensors"
    run("forward", path, "--tokens", ids_file, "--precision", precision, "--capture", "logits,hidden", "-o", to, "--force")
    return {k: v for k, v in load_file(to).items() if k != "input_ids"}


def error(a, b):
    """Logits, then the worst hidden state."""
    each = {k: ((a[k].double() - b[k].double()).abs().max() / b[k].double().pow(2).mean().sqrt()).item() for k in b}
    return each.pop("logits"), max(each.values(), default=0.0)


def by_name(path):
    """Mesh and NekoMind are not in transformers: the modules that we write beside a converted model."""
    config = (path / "config.json").read_text()
    if '"mesh"' not in config and '"nekomind"' not in config:
        return path
    to = WORK / "remote"
    shutil.rmtree(to, ignore_errors=True)
    run("convert", path, WORK / "remote.gguf", "--outtype", "bf16", "-q", "--force")
    run("convert", WORK / "remote.gguf", to, "-q")
    return to


def row(path):
    ids_file = path / "reference.safetensors"
    ids = load_file(ids_file)["input_ids"]
    found, cells = {}, []
    for precision, dtype in (("f64", torch.float64), ("f32", torch.float32)):
        found[precision] = ours(path, precision, ids_file)
        assert {t.dtype for t in found[precision].values()} == {dtype}, precision
        try:
            pair = error(found[precision], theirs(by_name(path), dtype, ids))
        except (RuntimeError, TypeError, ValueError) as e:
            cells.append((None, str(e).splitlines()[0]))
            continue
        cells.append((pair, ""))
    pair = error({k: v for k, v in found["f32"].items()}, found["f64"])
    return cells, pair


def tiny_table():
    folder = SHARED / "models/tiny" if SHARED else DATA / "models/tiny"
    print(f"{'':20} {'f64 against float64':>21} {'f32 against float32':>21} {'f32 against our f64':>21}")
    print(f"{'':20} {'logits':>10} {'hidden':>10} {'logits':>10} {'hidden':>10} {'logits':>10} {'hidden':>10}")
    bad, refused = [], []
    for path in sorted(p for p in folder.iterdir() if (p / "reference.safetensors").exists()):
        cells, own = row(path)
        text = f"{path.name:20}"
        for (pair, why), limit in zip(cells, (F64_LIMIT, F32_LIMIT)):
            text += " %10.1e %10.1e" % pair if pair else f" {'refused':>21}"
            if not pair:
                refused.append(f"{path.name}: {why}")
            elif max(pair) > limit:
                bad.append(path.name)
        print(text + " %10.1e %10.1e" % own, flush=True)
    print("\n".join(["refused:"] + refused if refused else ["no family refuses float64"]))
    return bad


def floor_table():
    """KL of torch's own 16-bit run against its float32 one, and what verify --precision says for the same windows."""
    models = [SHARED / "models/moe4", SHARED / "models/donors/prose"] if SHARED else [SAMPLES / "donors/prose"]
    ids = torch.randint(3, 1000, (8, 128), generator=torch.Generator().manual_seed(0))
    if SHARED:
        ids = load_file(SHARED / "models/text/eval_ids_prose.safetensors")["input_ids"][:24]
    (WORK / "floor.txt").write_text("".join(" ".join(map(str, r)) + "\n" for r in ids.tolist()))
    bad = []
    for path in models:
        with torch.no_grad():
            exact = load(path, torch.float32)(ids).logits[:, :-1].double().log_softmax(-1)
        for precision, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16)):
            with torch.no_grad():
                logits = load(path, dtype)(ids).logits[:, :-1].double().log_softmax(-1)
            kl = (exact.exp() * (exact - logits)).sum(-1).flatten()
            said = json.loads(run("verify", path, path, "--tokens", WORK / "floor.txt", "--precision", precision, "--json", "-q"))
            floor = said["floor"]["kl"]
            ratio = floor["median"] / kl.quantile(0.5).item()
            print(f"{path.name} {precision}: KL of torch mean {kl.mean().item():.2e}, median {kl.quantile(0.5).item():.2e}; "
                  f"noise floor mean {floor['mean']:.2e}, median {floor['median']:.2e} ({ratio:.2f})")
            # Engines differ in where they round (fused norms, the order of the experts' sum): a floor has to be of that size.
            # Of the medians, because the mean of a mixture hangs on the few tokens whose expert changes.
            if not 0.5 < ratio < 2:
                bad.append(f"{path.name} {precision}")
    return bad


print("transformers", transformers.__version__)
wrong = tiny_table() + floor_table()
assert not wrong, wrong
