"""PEFT adapters on a donor (`model+adapter` in a recipe): every kind of change that is built, against the formulas in Python; pickles; refusals
by name. tests/oracle/lora_adapters.py compares the same kinds with PEFT."""
import json
import math
import random

import common
import torch_zip
from common import WORK, check, run, same

TINY = common.DATA / "models" / "tiny"
P = "base_model.model."
rng = random.Random(7)
for family in ("llama", "qwen2"):
    run("convert", TINY / family, WORK / family, "--outtype", "f32", "-q")
BASE = {family: common.read_hf_dir(WORK / family) for family in ("llama", "qwen2")}


def rand(*shape):
    n = math.prod(shape)
    return common.f32([common.struct.unpack("<f", common.struct.pack("<f", rng.uniform(-0.3, 0.3)))[0] for _ in range(n)], list(shape))


def adapter(name, tensors, pickled=False, **config):
    folder = common.fresh(name)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 6, **config}))
    if pickled:
        torch_zip.write(folder / "adapter_model.bin", tensors)
    else:
        common.write_safetensors(folder / "adapter_model.safetensors", tensors)
    return folder


def recipe(family, folder):
    path = WORK / "recipe.yml"
    path.write_text(f"models:\n  - model: {WORK / family}+{folder}\n    parameters: {{weight: 1.0}}\nmerge_method: linear\ndtype: float32\n")
    return path


def merged(family, folder):
    run("merge", recipe(family, folder), WORK / "out", "--force", "-q")
    return common.read_hf_dir(WORK / "out")


def product(b, a, scale):
    """scale * B A as rows."""
    (out, r), cols = b.shape, a.shape[1]
    x, y = b.floats(), a.floats()
    return [[scale * sum(x[i * r + j] * y[j * cols + k] for j in range(r)) for k in range(cols)] for i in range(out)]


def rows(t):
    f = t.floats()
    return [f[i:i + t.shape[1]] for i in range(0, len(f), t.shape[1])]


def added(w, delta):
    return [[x + y for x, y in zip(*pair)] for pair in zip(w, delta)]


def turned(m):
    return [list(column) for column in zip(*m)]


def compare(case, found, base, want):
    """want: {tensor: rows or values}; all else is the base's."""
    for name, t in base.items():
        if name not in want:
            same(found[name].floats(), t.floats(), f"{case}: {name} is untouched")
            continue
        flat = [x for row in want[name] for x in row] if isinstance(want[name][0], list) else want[name]
        most = max(map(abs, flat))
        worst = max(abs(a - b) for a, b in zip(found[name].floats(), flat))
        check(len(flat) == len(found[name].floats()) and worst <= 1e-6 * most, f"{case}: {name} is off by {worst}")  # sums of a few products in f32


Q, DOWN, UP = ("model.layers.1." + n for n in ("self_attn.q_proj", "mlp.down_proj", "mlp.up_proj"))
L = BASE["llama"]


def factors(module, r=4, out=None, cols=None, name="", base=L):
    shape = base[f"{module}.weight"].shape
    return {f"{P}{module}.lora_A{name}.weight": rand(r, cols or shape[1]), f"{P}{module}.lora_B{name}.weight": rand(out or shape[0], r)}


def lowrank(t, module, scale, base=L, name=""):
    return added(rows(base[f"{module}.weight"]), product(t[f"{P}{module}.lora_B{name}.weight"], t[f"{P}{module}.lora_A{name}.weight"], scale))


# Ranks and alphas by module, rslora; the adapter's name in the tensors' names; a pickle.
t = factors(Q, 2) | factors(DOWN, 3) | factors(UP, 4, name=".default")
for pickled in (False, True):
    found = merged("llama", adapter("patterns", t, pickled, use_rslora=True, rank_pattern={"q_proj": 2, "down_proj": 3}, fan_in_fan_out=True,
                                    alpha_pattern={"layers.9.mlp.up_proj": 100, "layers\\.[13]\\.mlp.(down|gate)_proj": 3, "proj": 50, "up_proj": 2.5}))
    compare("patterns", found, L, {f"{Q}.weight": lowrank(t, Q, 6 / math.sqrt(2)), f"{DOWN}.weight": lowrank(t, DOWN, 3 / math.sqrt(3)),
                                   f"{UP}.weight": lowrank(t, UP, 2.5 / 2, name=".default")})

# DoRA: rows of the changed weight have the norms of the vector.
t = factors(Q) | factors(DOWN)
want = {}
for module, suffix in ((Q, ""), (DOWN, ".default.weight")):
    t[f"{P}{module}.lora_magnitude_vector{suffix}"] = norms = common.f32([rng.uniform(0.5, 2) for _ in range(64)])
    want[f"{module}.weight"] = [[x * m / math.sqrt(sum(y * y for y in row)) for x in row] for row, m in zip(lowrank(t, module, 1.5), norms.floats())]
compare("DoRA", merged("llama", adapter("dora", t, use_dora=True)), L, want)

# Embedding and head; the base's own embedding stored with them, another one.
emb = "model.embed_tokens"
t = factors("lm_head") | {f"{P}{emb}.lora_embedding_A": rand(4, 320), f"{P}{emb}.lora_embedding_B": rand(64, 4), f"{P}{emb}.base_layer.weight": rand(320, 64)}
want = added(rows(t[f"{P}{emb}.base_layer.weight"]), turned(product(t[f"{P}{emb}.lora_embedding_B"], t[f"{P}{emb}.lora_embedding_A"], 1.5)))
compare("embedding", merged("llama", adapter("embedding", t)), L, {f"{emb}.weight": want, "lm_head.weight": lowrank(t, "lm_head", 1.5)})

# Modules that are saved whole.
t = factors(Q) | {f"{P}lm_head.weight": rand(320, 64), f"{P}model.norm.modules_to_save.default.weight": rand(64)}
compare("modules_to_save", merged("llama", adapter("whole", t, modules_to_save=["lm_head", "norm"])), L,
        {f"{Q}.weight": lowrank(t, Q, 1.5), "lm_head.weight": t[f"{P}lm_head.weight"].floats(),
         "model.norm.weight": t[f"{P}model.norm.modules_to_save.default.weight"].floats()})

# Biases: trained ones stand in the place of the base's, those of B are added.
W = BASE["qwen2"]
K = "model.layers.1.self_attn.k_proj"
t = factors(Q, base=W) | factors(K, 2, base=W) | {f"{P}{Q}.base_layer.bias": rand(64), f"{P}model.layers.0.self_attn.v_proj.bias": rand(32),
                                                  f"{P}{K}.lora_B.bias": rand(32)}
bias = [x + 4 / 2 * y for x, y in zip(W[f"{K}.bias"].floats(), t[f"{P}{K}.lora_B.bias"].floats())]
compare("biases", merged("qwen2", adapter("biases", t, bias="all", lora_bias=True, alpha_pattern={"k_proj": 4})), W,
        {f"{Q}.weight": lowrank(t, Q, 1.5, W), f"{K}.weight": lowrank(t, K, 2, W), f"{Q}.bias": t[f"{P}{Q}.base_layer.bias"].floats(),
         "model.layers.0.self_attn.v_proj.bias": t[f"{P}model.layers.0.self_attn.v_proj.bias"].floats(), f"{K}.bias": bias})

# The result is a plan like any other: what was written can be derived again.
folder = adapter("again", factors(Q) | {f"{P}{Q}.lora_magnitude_vector": common.f32([1.0] * 64)}, use_dora=True)
run("merge", recipe("llama", folder), WORK / "out", "--force", "--manifest", "-q", "-t", 3)
digest = common.tree(WORK / "out")["model.safetensors"]
run("verify", "--provenance", WORK / "out/model.manifest.json", WORK / "llama", folder, "-q")
run("merge", recipe("llama", folder), WORK / "out", "--force", "-q", "-t", 1, env={"MOEGRAFT_ISA": "scalar"})
same(common.tree(WORK / "out")["model.safetensors"], digest, "threads and instruction sets")

# ---- refusals ----


def refused(code, words, family="llama", tensors=None, **config):
    common.refused(code, words, str(words), "merge", recipe(family, adapter("bad", tensors or factors(Q), **config)), WORK / "never")


for key, value in (("trainable_token_indices", [3]), ("target_parameters", ["x"]), ("layer_replication", [[0, 1]]), ("alora_invocation_tokens", [1]),
                   ("use_qalora", True)):
    refused(4, [key, "not built"], **{key: value})
for start in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"):
    refused(4, ["init_lora_weights", start], init_lora_weights=start)
refused(4, ["LOHA"], peft_type="LOHA")
refused(3, ["alpha_pattern", "number"], alpha_pattern={"q_proj": "x"})
vector = common.f32([1.0] * 64)
refused(4, ["DoRA of an embedding", emb], tensors={f"{P}{emb}.lora_embedding_A": rand(4, 320), f"{P}{emb}.lora_embedding_B": rand(64, 4),
                                                   f"{P}{emb}.lora_magnitude_vector": vector}, use_dora=True)
refused(3, ["norms", "no factors"], tensors={f"{P}{Q}.lora_magnitude_vector": vector})
refused(3, ["only one of the two factors", emb], tensors={f"{P}{emb}.lora_embedding_A": rand(4, 320)})
refused(8, ["norms [32]", Q], tensors=factors(Q) | {f"{P}{Q}.lora_magnitude_vector": common.f32([1.0] * 32)}, use_dora=True)
refused(3, ["use_dora", "no 'lora_magnitude_vector'", Q], use_dora=True)
refused(3, ["use_dora", "a 'lora_magnitude_vector'", Q], tensors=factors(Q) | {f"{P}{Q}.lora_magnitude_vector": vector})
refused(3, ["use_rslora", "true or false"], use_rslora="x")
refused(8, ["does not have", "lora_B.bias"], tensors=factors(Q) | {f"{P}{Q}.lora_B.bias": rand(64)}, lora_bias=True)
refused(3, ["no factors to its weight"], "qwen2", {f"{P}{Q}.lora_B.bias": rand(64)}, lora_bias=True)
refused(8, ["do not fit", emb], tensors={f"{P}{emb}.lora_embedding_A": rand(4, 319), f"{P}{emb}.lora_embedding_B": rand(64, 4)})
refused(8, ["does not have", "token_adapter"], tensors=factors(Q) | {f"{P}{emb}.token_adapter.trainable_tokens_delta": rand(2, 64)})
zero = {f"{P}{Q}.lora_A.weight": common.f32([0.0] * 256, [4, 64]), f"{P}{Q}.lora_B.weight": rand(64, 4), f"{P}{Q}.base_layer.weight": common.f32([0.0] * 4096, [64, 64]),
        f"{P}{Q}.lora_magnitude_vector": vector}
common.refused(3, ["row of norm 0", "row 0"], "a row of zeros", "merge", recipe("llama", adapter("zero", zero, use_dora=True)), WORK / "never2")
common.done()
