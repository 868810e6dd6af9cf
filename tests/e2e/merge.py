"""moegraft-merge against mergekit-moe: rows of the donors, gates, config; `fit` routers; refusals; one pass equals three steps."""
import json
import math
import pathlib
import shutil

import common
from common import DATA, SAMPLES, WORK, check, run, same
import moe4

GOLDEN = DATA / "golden/merge"
LAYERS, HIDDEN = 4, 256


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def rows(tensor):
    values = tensor.floats()
    return [values[i:i + HIDDEN] for i in range(0, len(values), HIDDEN)]


# ---- mergekit's recipes: every row that is no gate is the donor's; gates are mergekit's ----
reference = moe4.build(WORK / "moe4")
expected = common.read_safetensors(reference / "model.safetensors")[1]
for mode in ("hidden", "cheap_embed"):
    out = WORK / mode
    run("merge", GOLDEN / f"moe4_{mode}.yml", out, "-q")
    found = common.read_safetensors(out / "model.safetensors")[1]
    gates = common.read_safetensors(GOLDEN / f"gates_{mode}.safetensors")[1]
    same(list(found), list(expected), f"{mode}: tensor names in order")
    for name, t in found.items():
        if name not in gates:
            check(t.data == expected[name].data, f"{mode}: {name} is not the donor's")
            continue
        want = gates[name]
        same(t.shape, want.shape, f"{mode}: shape of {name}")
        if mode == "cheap_embed":
            check(t.data == moe4.to_bf16(want).data, f"{name} differs from mergekit's")
        for e, (a, b) in enumerate(zip(rows(t), rows(want))):  # mergekit computes hidden in bfloat16
            check(cosine(a, b) >= 0.9999, f"{mode}: {name} row {e}: cosine {cosine(a, b)}")
    same(json.loads((out / "config.json").read_text()), json.loads((reference / "config.json").read_text()), f"{mode}: config")
    same((out / "mergekit_moe_config.yml").read_bytes(), (GOLDEN / f"moe4_{mode}.yml").read_bytes(), f"{mode}: recipe")
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        same((out / name).read_bytes(), (DATA / "models/donors/base" / name).read_bytes(), f"{mode}: {name}")
    same(common.leftovers(WORK), [], f"{mode}: leftovers")

# ---- seeded gates: the seed decides, nothing else ----
digests = {}
for name, options in {"a": [], "b": ["-t", 1], "c": ["--random-seed", 7]}.items():
    run("merge", GOLDEN / "moe4_random.yml", WORK / f"random_{name}", "-q", *options)
    digests[name] = common.sha256(WORK / f"random_{name}/model.safetensors")
same(digests["a"], digests["b"], "random gates for 1 thread")
check(digests["a"] != digests["c"], "the seed changes nothing")

# ---- gates from a file: with mergekit's own, the whole model is the reference; orthogonal rows are ----
run("merge", GOLDEN / "moe4_hidden.yml", WORK / "from_file", "-q", "--gate", GOLDEN / "gates_hidden.safetensors")
same(common.sha256(WORK / "from_file/model.safetensors"), common.sha256(reference / "model.safetensors"), "mergekit's gates from a file")
run("merge", GOLDEN / "moe4_hidden.yml", WORK / "never", "-q", "--gate", reference / "../moe4/model.safetensors.x.safetensors", expect=5)
run("merge", GOLDEN / "moe4_hidden.yml", WORK / "never", "-q", "--gate", DATA / "models/donors/base/model.safetensors", expect=3)
run("merge", GOLDEN / "moe4_hidden.yml", WORK / "orthogonal", "-q", "--gate", "orthogonal")
for name, t in common.read_safetensors(WORK / "orthogonal/model.safetensors")[1].items():
    if "gate.weight" in name:
        r = rows(t)  # bf16 rounding moves each of 256 products by 2^-9 of it at most
        check(all(abs(cosine(r[i], r[j])) < 0.01 for i in range(4) for j in range(i)), f"{name} is not orthogonal")
        check(all(abs(sum(x * x for x in row) - 1) < 0.01 for row in r), f"{name}: lengths")

# ---- fit on the sample donors: finds its experts, is the same for every thread count and instruction set ----
def shorter(prompts):
    """The sample recipe with the first few prompts of every expert: sanitizers and scalar arithmetic are slow."""
    lines = (SAMPLES / "moe4.yml").read_text().replace("donors/", f"{SAMPLES}/donors/").splitlines(True)
    kept = [line for i, line in enumerate(lines) if not all(
        previous.startswith("      - ") for previous in lines[max(0, i - prompts):i + 1])]
    path = WORK / f"recipe{prompts}.yml"
    path.write_text("".join(kept))
    same(path.read_text().count("      - "), 4 * prompts, "prompts of the shortened recipe")
    return path


recipe = shorter(10)
text = run("merge", recipe, WORK / "fit").err
accuracy = [float(line.split(":")[2].split("%")[0]) for line in text.splitlines() if "prompt tokens find" in line]
same(len(accuracy), LAYERS, "layers fitted")
check(min(accuracy) > 80 and accuracy[-1] > 99, f"prompt tokens that find their expert: {accuracy}")
short = shorter(3)
run("merge", short, WORK / "short", "-q", "-t", 3)
run("merge", short, WORK / "short1", "-q", "-t", 1, env={"MOEGRAFT_ISA": "scalar"})
same(common.tree(WORK / "short1"), common.tree(WORK / "short"), "fit: one scalar thread against three")


def perplexity(model, tokens):
    return run("perplexity", model, "--tokens", tokens, "--json", "-q").json()["results"][0]["ppl"]


# One short sequence of each kind is enough to see that the specialists are used.
better = 0
for domain in ("prose", "code", "math", "json"):
    ids = run("tokenize", SAMPLES / "donors/base", "--file", SAMPLES / f"text/{domain}.txt", "--json").json()["ids"][:200]
    (WORK / "ids.txt").write_text("1 " + " ".join(map(str, ids[1:] if ids[0] == 1 else ids)) + "\n")
    better += perplexity(WORK / "fit", WORK / "ids.txt") < perplexity(SAMPLES / "donors/base", WORK / "ids.txt")
check(better >= 3, f"the fitted model beats its base on {better} of 4 kinds of text")

# ---- one pass to a quantized file equals merge, convert, quantize; several outputs equal single ones ----
run("convert", WORK / "hidden", WORK / "three-bf16.gguf", "-q")
run("quantize", WORK / "three-bf16.gguf", WORK / "three.gguf", "Q4_K_M", "-q")
one = common.fresh("one")
run("merge", GOLDEN / "moe4_hidden.yml", one / "hidden-Q4_K_M.gguf", "--to", "Q4_K_M", "-q")
same(common.sha256(one / "hidden-Q4_K_M.gguf"), common.sha256(WORK / "three.gguf"), "merge --to Q4_K_M")
run("merge", GOLDEN / "moe4_hidden.yml", "-o", f"{one}/hidden.gguf=Q4_K_M", "-o", f"{one}/other.gguf=Q8_0", "-q")
same(common.sha256(one / "hidden.gguf"), common.sha256(WORK / "three.gguf"), "merge -o, first of two")
run("quantize", WORK / "three-bf16.gguf", WORK / "eight.gguf", "Q8_0", "-q")
same(common.sha256(one / "other.gguf"), common.sha256(WORK / "eight.gguf"), "merge -o, second of two")

# ---- a recipe is a model ----
(WORK / "few.txt").write_text("1 20 30 40 50 60 70 80\n")
for yml, written in ((short, WORK / "short"), (GOLDEN / "moe4_cheap_embed.yml", WORK / "cheap_embed")):
    same(perplexity(yml, WORK / "few.txt"), perplexity(written, WORK / "few.txt"), f"{yml.name} as a model")

# ---- a dense mean: each value the mean of the donors', rounded once ----
donors = [SAMPLES / "donors" / d for d in ("prose", "code")]
(WORK / "mean.yml").write_text(f"merge_method: linear\nbase_model: {SAMPLES}/donors/base\nmodels:\n" + "".join(
    f"  - model: {d}\n    parameters: {{weight: {w}}}\n" for d, w in zip(donors, (1, 3))) + "dtype: float32\n")
run("merge", WORK / "mean.yml", WORK / "mean", "-q")
found = common.read_safetensors(WORK / "mean/model.safetensors")[1]
a, b = (common.read_safetensors(d / "model.safetensors")[1] for d in donors)
for name in ("model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"):
    want = [x * 0.25 + y * 0.75 for x, y in zip(a[name].floats(), b[name].floats())]
    # bf16 values times a power of two or 0.75 are exact in f32; only the sum is rounded: one part in 2^24
    check(all(abs(f - w) <= abs(w) * 2**-23 + 1e-45 for f, w in zip(found[name].floats(), want)), f"mean of {name}")
same(json.loads((WORK / "mean/config.json").read_text())["torch_dtype"], "float32", "dtype of the mean")


# ---- experts back out: where only the feed-forward blocks differ, they are the donors ----
run("extract", WORK / "fit", WORK / "out", "--all", "-q")
for e, domain in enumerate(moe4.DONORS):
    donor, again = (common.read_safetensors(d / "model.safetensors")[1] for d in (SAMPLES / "donors" / domain, WORK / f"out/expert-{e}"))
    same({k: t.sha256() for k, t in again.items()}, {k: t.sha256() for k, t in donor.items()}, f"extract(merge(donors)): {domain}")
same(perplexity(WORK / "out/expert-2", WORK / "few.txt"), perplexity(SAMPLES / "donors/math", WORK / "few.txt"), "an extracted expert runs as its donor")
run("extract", WORK / "fit", WORK / "never", "--expert", 4, "-q", expect=2)
run("extract", SAMPLES / "donors/base", WORK / "never", "--expert", 0, "-q", expect=4)


# ---- Qwen3 donors become a Qwen3-MoE, with every weight of the trunk (q and k norms too) the base's ----
qwen = DATA / "models/tiny/qwen3"
(WORK / "qwen.yml").write_text(f"base_model: {qwen}\ngate_mode: random\nexperts:\n" + f"  - source_model: {qwen}\n" * 3)
run("merge", WORK / "qwen.yml", WORK / "qwen", "-q")
dense = common.read_safetensors(qwen / "model.safetensors")[1]
found = common.read_safetensors(WORK / "qwen/model.safetensors")[1]
want = {name: t.sha256() for name, t in dense.items() if ".mlp." not in name}
for name, t in dense.items():
    if ".mlp." in name:
        want |= {name.replace(".mlp.", f".mlp.experts.{e}."): t.sha256() for e in range(3)}
same({n: t.sha256() for n, t in found.items() if not n.endswith("mlp.gate.weight")}, want, "tensors of the Qwen3-MoE")
same(len(found) - len(want), 3, "its routers")
config = json.loads((WORK / "qwen/config.json").read_text())
for key, value in {"model_type": "qwen3_moe", "num_experts": 3, "num_experts_per_tok": 2, "norm_topk_prob": True,
                   "decoder_sparse_step": 1, "moe_intermediate_size": config["intermediate_size"]}.items():
    same(config[key], value, f"Qwen3-MoE: {key}")
# equal experts: whatever the routers say, the mixture is the dense model, up to the rounding of a weighted mean
(WORK / "small.txt").write_text("1 20 30 40 50 60 70 80\n")
mixture, alone = (perplexity(m, WORK / "small.txt") for m in (WORK / "qwen", qwen))
check(abs(mixture / alone - 1) < 1e-5, f"a mixture of equal experts has perplexity {mixture}, the expert {alone}")
run("extract", WORK / "qwen", WORK / "qwen1", "--expert", 1, "-q")
same(common.sha256(WORK / "qwen1/model.safetensors"), common.sha256(qwen / "model.safetensors"), "an expert of the Qwen3-MoE")


# ---- refusals: the right code, a message that names the thing, nothing written ----
def refuse(code, words, text, *options, name="bad"):
    (WORK / f"{name}.yml").write_text(text)
    common.refused(code, words, text[:60], "merge", WORK / f"{name}.yml", WORK / "never", *options)


base = DATA / "models/donors/base"
head = f"base_model: {base}\n"
expert = f"  - source_model: {DATA}/models/donors/"
two = head + "experts:\n" + expert + "prose\n    positive_prompts: [one]\n" + expert + "code\n    positive_prompts: [two]\n"
refuse(3, ["experts_per_tok", "experts_per_token"], two + "experts_per_tok: 2\n")
refuse(3, ["line 4", "positive_prompts"], two.replace("positive_prompts: [one]", "positive_prompt: [one]"))
refuse(2, ["hiden", "hidden"], two + "gate_mode: hiden\n")
refuse(8, ["experts_per_token", "3", "2"], two + "experts_per_token: 3\n")
refuse(8, ["no positive prompts", "code"], two.replace("positive_prompts: [two]", "positive_prompts: []"))
refuse(8, ["same prompts"], two.replace("[two]", "[one]"))
refuse(8, ["same model"], two.replace("donors/code", "donors/prose"))
refuse(5, ["nowhere"], two.replace("donors/code", "donors/nowhere"))
refuse(8, ["qwen2_moe", "shared_experts"], two + "architecture: qwen\n")
refuse(4, ["qwen3"], two + "architecture: qwen3\n")  # from Mistral donors
refuse(3, ["dtype"], two + "dtype: int3\n")
refuse(3, [], "experts: [\n")
refuse(4, ["ram"], f"merge_method: ram\nmodels:\n  - model: {base}\n")
refuse(8, ["sum to 0"], f"merge_method: linear\nmodels:\n  - model: {base}\n    parameters: {{weight: 0}}\n")
refuse(2, ["--text"], two, "--text", "prose")
refuse(2, ["nobody"], two, "--text", f"nobody={GOLDEN}/moe4_hidden.yml")

# donors that do not fit: every difference is named
odd = WORK / "odd"
shutil.copytree(DATA / "models/donors/code", odd)
config = json.loads((odd / "config.json").read_text())
(odd / "config.json").write_text(json.dumps(config | {"rope_theta": 5e5, "rms_norm_eps": 1e-6}))
refuse(8, ["rope_theta", "rms_norm_eps", "odd"], two.replace(f"{DATA}/models/donors/code", str(odd)))
(odd / "config.json").write_text(json.dumps(config))
tokens = json.loads((odd / "tokenizer.json").read_text())
vocab = tokens["model"]["vocab"]
first, second = [k for k, v in vocab.items() if v in (700, 701)]
vocab[first], vocab[second] = vocab[second], vocab[first]
(odd / "tokenizer.json").write_text(json.dumps(tokens))
refuse(8, ["tokenizers differ", "token 700"], two.replace(f"{DATA}/models/donors/code", str(odd)))
# an existing output is not touched without --force
before = common.tree(WORK / "hidden")
run("merge", GOLDEN / "moe4_hidden.yml", WORK / "hidden", "-q", expect=2)
same(common.tree(WORK / "hidden"), before, "an existing output")
run("merge", GOLDEN / "moe4_hidden.yml", WORK / "hidden", "-q", "--force")
same(common.tree(WORK / "hidden"), before, "--force writes the same again")
plan = run("merge", GOLDEN / "moe4_hidden.yml", WORK / "dry", "--dry-run", "--json", "-q").json()
same(sum(t["bytes"] for t in plan["tensors"]), sum(len(t.data) for t in expected.values()), "bytes of the dry run")
check(not pathlib.Path(WORK / "dry").exists(), "a dry run wrote something")
common.done()
