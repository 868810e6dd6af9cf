"""What an entry of a recipe may stand for besides one dense donor: all or some experts of a mixture, slices of one block; layers with
experts of their own; rows of the donors' own routers, rows from their weights alone."""
import json
import math
import shutil

import common
from common import DATA, SAMPLES, WORK, check, f32, read_safetensors, run, same, sha256
import moe4

DONORS, TINY = DATA / "models/donors", DATA / "models/tiny"
BASE = DONORS / "base"
NAME = "model.layers.{}.block_sparse_moe.{}.weight"
(WORK / "few.txt").write_text("1 20 30 40 50 60 70 80 90 100 7 8 9 10 11 12\n")
PROMPTS = {"prose": ["and it came to pass in those days", "the lord said unto him"], "code": ["int main(void) {", "for (i = 0; i < n; i++)"],
           "math": ["12 + 5 = 17", "3 * 4 = 12"], "json": ['{"name": "a", "size": 3}', '[1, 2, {"id": 7}]']}


def tensors(path):
    return read_safetensors(path / "model.safetensors")[1]


def merge(name, text, *options, **more):
    (WORK / f"{name}.yml").write_text(text)
    run("merge", WORK / f"{name}.yml", WORK / name, "-q", "--force", *options, **more)
    return tensors(WORK / name), json.loads((WORK / name / "config.json").read_text())


def entry(model, prompts=(), **keys):
    return f"  - source_model: {model}\n" + "".join(f"    {k}: {v}\n" for k, v in keys.items()) + (
        f"    positive_prompts: {json.dumps([p for d in prompts for p in PROMPTS[d]])}\n" if prompts else "")


def logits(model, *options):
    run("forward", model, "--tokens", WORK / "few.txt", "-o", WORK / "x.safetensors", "--capture", "logits", "--force", "-q", *options)
    return read_safetensors(WORK / "x.safetensors")[1]["logits"].floats()


def rms(x):
    return math.sqrt(sum(v * v for v in x) / len(x))


def rows(t):
    values = t.floats()
    return [values[i:i + t.shape[-1]] for i in range(0, len(values), t.shape[-1])]


# ---- a mixture by itself, routers kept: the same mixture, over its own trunk or over the base's ----
mixture = moe4.build(WORK / "moe4")
want = tensors(mixture)
for base in (BASE, mixture):
    found, config = merge("again", f"base_model: {base}\ngate_mode: keep\ndtype: bfloat16\nexperts:\n" + entry(mixture))
    same(sha256(WORK / "again/model.safetensors"), sha256(mixture / "model.safetensors"), f"moe4 taken apart and put together on {base.name}")
    same({k: config[k] for k in ("num_local_experts", "num_experts_per_tok", "model_type")},
         {"num_local_experts": 4, "num_experts_per_tok": 2, "model_type": "mixtral"}, "its config")

# ---- experts of two mixtures and a dense donor, in the recipe's order; rows kept where there are some ----
head = f"base_model: {BASE}\ngate_mode: random\ndtype: bfloat16\nexperts:\n"
found, config = merge("mixed", head + entry(mixture, expert="[3, 1]") + entry(DONORS / "code") + entry(mixture, expert=0))
same(config["num_local_experts"], 4, "experts of the mixed recipe")
dense = tensors(DONORS / "code")
for layer in (0, 3):
    for e, source in enumerate((3, 1, None, 0)):
        for w, p in (("w1", "gate"), ("w2", "down"), ("w3", "up")):
            t = dense[f"model.layers.{layer}.mlp.{p}_proj.weight"] if source is None else want[NAME.format(layer, f"experts.{source}.{w}")]
            check(found[NAME.format(layer, f"experts.{e}.{w}")].data == t.data, f"expert {e} of layer {layer}")
found, config = merge("eight", f"base_model: {BASE}\ngate_mode: keep\ndtype: bfloat16\nexperts:\n" + entry(mixture) + entry(mixture, expert="[1, 0]"))
gate, own = (rows(t[NAME.format(2, "gate")]) for t in (found, want))
same(gate, own + [own[1], own[0]], "rows kept in the order of the experts")
qwen = TINY / "qwen3_moe"  # a family whose mixtures nobody merged: the base keeps what is its own
for name in ("qwen3_moe", "deepseek", "dots1", "qwen2_moe"):
    merge(name, f"base_model: {TINY / name}\ngate_mode: keep\nexperts:\n" + entry(TINY / name), "--experts-per-token",
          json.loads((TINY / name / "config.json").read_text())["num_experts_per_tok"])
    same({n: t.sha256() for n, t in tensors(WORK / name).items()}, {n: t.sha256() for n, t in tensors(TINY / name).items()}, f"{name} put together again")

# ---- fit: tokens of a mixture's prompts go where its own router sends them ----
text = f"base_model: {BASE}\ndtype: bfloat16\nexperts:\n"
said = merge("fitted", text + entry(mixture, ["prose", "code"], expert="[0, 1]") + entry(DONORS / "math", ["math"]) + entry(DONORS / "json", ["json"]))
said = run("merge", WORK / "fitted.yml", WORK / "fitted", "--force").err
accuracy = [float(line.split(":")[2].split("%")[0]) for line in said.splitlines() if "prompt tokens find" in line]
same(len(accuracy), 4, "layers fitted")
check(min(accuracy) > 60, f"prompt tokens that find their expert: {accuracy}")  # by chance 25
digest = sha256(WORK / "fitted/model.safetensors")
run("merge", WORK / "fitted.yml", WORK / "fitted", "--force", "-q", "-t", 1, env={"MOEGRAFT_ISA": "scalar"})
same(sha256(WORK / "fitted/model.safetensors"), digest, "one scalar thread")

# ---- layers with experts of their own ----
lists = "layer_experts:\n  - {layer_range: [0, 1], experts: [0, 1]}\n  - {layer_range: [1, 4], experts: [2, 3]}\n"
four = [entry(DONORS / d, [d]) for d in moe4.DONORS]
for mode in ("fit", "hidden"):
    found, config = merge("lists", text.replace("experts:", f"gate_mode: {mode}\nexperts:") + "".join(four) + lists)
    same(config["num_local_experts"], 2, "experts of a layer")
    for layer in range(4):
        for e in range(2):
            name = f"model.layers.{layer}.mlp.up_proj.weight"
            source = tensors(DONORS / moe4.DONORS[e + 2 * (layer > 0)])
            check(found[NAME.format(layer, f"experts.{e}.w3")].data == source[name].data, f"layer {layer}, expert {e}")
    same(found[NAME.format(1, "gate")].shape, [2, 256], "rows of a layer")

# ---- svd: an eigenvector of D^T D, of no less than the longest row's square; no data ----
found, _ = merge("svd", head.replace("random", "svd").replace("bfloat16", "float32") + entry(DONORS / "prose") + entry(DONORS / "math"))
base = rows(tensors(BASE)["model.layers.1.mlp.gate_proj.weight"])
for e, donor in enumerate(("prose", "math")):
    D = [[a - b for a, b in zip(x, y)] for x, y in zip(rows(tensors(DONORS / donor)["model.layers.1.mlp.gate_proj.weight"]), base)]
    v = rows(found[NAME.format(1, "gate")])[e]
    y = [sum(a * b for a, b in zip(row, v)) for row in D]
    z = [sum(y[i] * D[i][k] for i in range(len(D))) for k in range(256)]
    value = sum(a * b for a, b in zip(z, v))
    check(abs(sum(x * x for x in v) - 1) < 1e-6, "length of a row")
    # iteration ends at an angle of 1e-6; the Gram matrix is in f32
    check(rms([a - value * b for a, b in zip(z, v)]) < 1e-4 * value, f"{donor}: not a singular vector")
    check(value >= max(sum(x * x for x in row) for row in D), f"{donor}: not the first one")
    check(sum(y) >= 0, f"{donor}: its sign")
merge("svd2", (WORK / "svd.yml").read_text(), "-t", 1, env={"MOEGRAFT_ISA": "scalar"})
same(sha256(WORK / "svd2/model.safetensors"), sha256(WORK / "svd/model.safetensors"), "svd with one scalar thread")

# ---- one block split: all slices weighted alike are the block ----
zero = {NAME.format(layer, "gate"): f32([0.0] * 8 * 256, [8, 256]) for layer in range(4)}
common.write_safetensors(WORK / "zero.safetensors", zero)
text = f"base_model: {BASE}\ngate_mode: {WORK}/zero.safetensors\ndtype: bfloat16\nexperts_per_token: 8\nexperts:\n" + entry(BASE, split=8)
found, config = merge("split", text)
same((config["intermediate_size"], config["num_local_experts"]), (64, 8), "sizes of the slices")
whole = tensors(BASE)
up, down = (rows(whole[f"model.layers.2.mlp.{p}_proj.weight"]) for p in ("up", "down"))
same(rows(found[NAME.format(2, "experts.5.w3")]), up[5 * 64:6 * 64], "rows of up of a slice")
same(rows(found[NAME.format(2, "experts.5.w2")]), [[8 * v for v in row[5 * 64:6 * 64]] for row in down], "columns of down of a slice")
x, y = logits(WORK / "split"), logits(BASE)
check(rms([p - q for p, q in zip(x, y)]) <= 2e-6 * rms(y), f"all slices of the base: {rms([p - q for p, q in zip(x, y)]) / rms(y)}")  # as equal donors
run("convert", WORK / "split", WORK / "split.gguf", "-q")
same(logits(WORK / "split.gguf"), x, "the split block from a GGUF")


def loss(model):
    (WORK / "eval.txt").write_text("".join((SAMPLES / f"text/{d}.txt").read_text()[:400] for d in PROMPTS))
    return run("perplexity", model, "--text", WORK / "eval.txt", "--ctx", 128, "--json", "-q").json()["results"][0]["ppl"]


fitted = merge("split-fit", f"base_model: {BASE}\ndtype: bfloat16\nexperts_per_token: 4\nexperts:\n" + entry(BASE, ["prose", "code", "math", "json"], split=8))
chance = merge("split-random", head.replace("experts:", "experts_per_token: 4\nexperts:") + entry(BASE, split=8))
ppl = [loss(WORK / m) for m in ("split-fit", "split-random")]
check(ppl[0] < ppl[1], f"routing to the slices that matter is no better than chance: {ppl}")
_, config = merge("split-shared", head.replace("experts:", "architecture: deepseek\nexperts:") + entry(BASE, split=2) + f"shared_experts:\n  - source_model: {BASE}\n")
same((config["moe_intermediate_size"], config["intermediate_size"], config["n_shared_experts"], config["n_routed_experts"]), (256, 512, 2, 2),
     "a shared block as large as two slices")
_, config = merge("split-dense", f"base_model: {TINY}/qwen3\ngate_mode: random\narchitecture: nekomind\ndense_layers: 1\nexperts:\n" + entry(TINY / "qwen3", split=4) +
                  f"shared_experts:\n  - source_model: {TINY}/qwen3\n")
same(config["moe_intermediate_size"] * 4, config["intermediate_size"], "dense layers keep the whole size")


# ---- refusals ----
def refuse(code, words, text):
    (WORK / "bad.yml").write_text(text)
    common.refused(code, words, text[:90], "merge", WORK / "bad.yml", WORK / "never")


refuse(8, ["moe4", "experts 0 to 3"], head + entry(mixture, expert=4))
refuse(8, ["dense", "'expert'"], head + entry(BASE, expert=0))
refuse(3, ["differ"], head + entry(mixture, expert="[1, 1]"))
refuse(8, ["512", "7 experts"], head + entry(BASE, split=7))
refuse(8, ["inner size"], head + entry(BASE, split=2) + entry(DONORS / "code"))
refuse(4, ["mixture cannot be split"], head + entry(mixture, split=2))
refuse(8, ["no router"], head.replace("random", "keep") + entry(mixture) + entry(DONORS / "code"))
refuse(8, ["same row", "fit"], head.replace("random", "hidden") + entry(mixture, ["prose"]) + entry(DONORS / "code", ["code"]))
refuse(4, ["negative"], head.replace("random", "fit") + entry(mixture, ["prose"], negative_prompts="[no]") + entry(DONORS / "code", ["code"]))
refuse(8, ["does not differ", "layer 0"], head.replace("random", "svd") + entry(BASE) + entry(DONORS / "code"))
refuse(8, ["layer 0 has 1", "layer 1 has 4"], head + "".join(four) + "layer_experts: [{layer_range: [0, 1], experts: [2]}]\nexperts_per_token: 1\n")
refuse(3, ["layer_range", "no other"], head + "".join(four) + lists.replace("[1, 4]", "[0, 4]"))
refuse(8, ["layer 8", "4 layers"], head + "".join(four) + lists.replace("[1, 4]", "[1, 9]"))
refuse(3, ["experts"], head + "".join(four) + lists.replace("[2, 3]", "[2, 4]"))
refuse(4, ["mixtral", "qwen"], f"base_model: {mixture}\narchitecture: qwen\ngate_mode: random\nexperts:\n" + entry(mixture))
refuse(4, ["shared"], f"base_model: {mixture}\ngate_mode: random\nexperts:\n" + entry(mixture) + f"shared_experts:\n  - source_model: {BASE}\n")
unsaid = json.loads((mixture / "config.json").read_text())
del unsaid["num_experts_per_tok"]
shutil.copytree(mixture, WORK / "unsaid")
(WORK / "unsaid/config.json").write_text(json.dumps(unsaid))
refuse(4, ["does not state", "unsaid"], f"base_model: {WORK}/unsaid\nexperts_per_token: 1\ngate_mode: keep\nexperts:\n" + entry(WORK / "unsaid"))
refuse(8, ["mistral", "qwen3_moe"], head + entry(TINY / "qwen3_moe"))
refuse(4, ["grid"], f"base_model: {TINY}/mesh_k2\ngate_mode: keep\nexperts:\n" + entry(TINY / "mesh_k2"))
refuse(8, ["experts_per_token", "9", "8"], head.replace("experts:", "experts_per_token: 9\nexperts:") + entry(BASE, split=8))
common.done()
