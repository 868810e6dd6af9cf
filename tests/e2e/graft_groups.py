"""moegraft-graft on directories in group formats: codes stay as they are, added experts are copied or rounded into the format, routers change
alone; and on GGUF files of every kind of block. Grafting and quantizing by rounding commute, which says it all at once."""
import json
import re
import shutil

import common
from common import DATA, SAMPLES, WORK, check, run, same
import moe4

DONORS = DATA / "models/donors"
moe = moe4.build(WORK / "moe4")
(WORK / "ids.txt").write_text("1 20 30 40 50 60 70 80 90 100 7 8 9 10 11 12\n")
ROUTER = re.compile(r"(block_sparse_moe|mlp)\.gate\.weight$")
RECIPES = {n: WORK / f"{n}.yml" for n in (3, 4, 5)}
for n, path in RECIPES.items():
    path.write_text("base_model: nowhere\ngate_mode: random\nexperts:\n" + "  - source_model: nowhere\n    positive_prompts: [a]\n" * n)


def parts(model, routers=True):
    """routers False: without them; random rows are rounded to bfloat16 first in a model of that type, at once in one of halves."""
    return {n: (t.dtype, t.shape, t.sha256()[:16]) for n, t in common.read_hf_dir(model).items() if routers or not ROUTER.search(n)}


def config(model):
    return json.loads((WORK / model / "config.json").read_text())


def logits(model):
    run("forward", model, "--tokens", WORK / "ids.txt", "-o", WORK / "x.safetensors", "--force")
    return common.read_safetensors(WORK / "x.safetensors")[1]["logits"].sha256()


def graft(*args, expect=0):
    return run("graft", *args, "--force", expect=expect).err


# json's feed-forward blocks on the base's trunk: AWQ's norms are then as the donor's
donor = common.fresh("donor")
for p in (DONORS / "base").iterdir():
    if p.name != "model.safetensors":
        shutil.copy(p, donor / p.name)
base, own = (common.read_safetensors(DONORS / d / "model.safetensors")[1] for d in ("base", "json"))
common.write_safetensors(donor / "model.safetensors", {n: (own if ".mlp." in n else base)[n] for n in base}, {"format": "pt"})
added = ["--add", donor, "--regate", RECIPES[5], "--random-seed", 3]
run("graft", moe, WORK / "dropped", "--drop", 1, "-q")
run("graft", moe, WORK / "added", *added, "-q")
FORMATS = [["RTN", "--group-size", 64], ["RTN", "--group-size", 64, "--layout", "v5"], ["RTN", "--format", "gptq", "--group-size", 64],
           ["RTN", "--format", "gptq_v2", "--bits", 8, "--symmetric"], ["RTN", "--format", "compressed-tensors"],
           ["RTN", "--format", "compressed-tensors", "--symmetric", "--bits", 8], ["RTN", "--format", "mlx", "--bits", 6], ["FP8_BLOCK"], ["FP8_DYNAMIC"], ["MXFP4A16"], ["NVFP4A16"]]
for form in FORMATS:
    word = " ".join(map(str, form))
    for m in ("dropped", "added"):
        run("quantize", WORK / m, WORK / f"{m}-q", *form, "-q", "--force")
    run("quantize", moe, WORK / "q", *form, "-q", "--force")
    run("quantize", donor, WORK / "json-q", *form, "-q", "--force")
    key = "quantization" if "mlx" in form else "quantization_config"

    # ---- dropped: as if it had never been there ----
    graft(WORK / "q", WORK / "out", "--drop", 1, "-q", "--manifest")
    found = run("verify", WORK / "q", WORK / "out", "--provenance", WORK / "out/model.manifest.json", "-q", "--json").json()["counts"]
    same({k: v for k, v in found.items() if v}, {"same": len(parts(WORK / "out"))}, f"{word}: tensors derived again from the manifest")
    same(parts(WORK / "out"), parts(WORK / "dropped-q"), f"{word}: parts without expert 1")
    same(config("out"), config("dropped-q"), f"{word}: config.json without expert 1")
    same(logits(WORK / "out"), logits(WORK / "dropped-q"), f"{word}: logits without expert 1")
    run("check", WORK / "out")

    # ---- nothing but a number; nothing but routers ----
    graft(WORK / "q", WORK / "out", "--experts-per-token", 3, "-q")
    same(parts(WORK / "out"), parts(WORK / "q"), f"{word}: parts with --experts-per-token")
    same(config("out") | {"num_experts_per_tok": 2}, config("q"), f"{word}: config.json with --experts-per-token")
    graft(WORK / "q", WORK / "out", "--regate", RECIPES[4], "-q")
    a, b = parts(WORK / "q"), parts(WORK / "out")
    same(sorted(n for n in a if a[n] != b[n]), sorted(n for n in a if ROUTER.search(n)), f"{word}: what --regate changes")

    # ---- added: rounded from floats, copied from the same format ----
    if form == ["NVFP4A16"]:
        common.refused(4, ["read, but not made"], f"{word} rounded", "graft", WORK / "q", WORK / "never", *added)
    else:
        said = graft(WORK / "q", WORK / "out", *added)
        check("0 are copied as they are stored, 12 rounded" in said, said)
        same(parts(WORK / "out", False), parts(WORK / "added-q", False), f"{word}: parts with an expert rounded")
        same(config("out")[key], config("added-q")[key], f"{word}: what config.json says")
    said = graft(WORK / "q", WORK / "out", "--add", WORK / "json-q", *added[2:])
    check("12 are copied as they are stored, 0 rounded" in said, f"{word}: {said}")
    same(parts(WORK / "out", False), parts(WORK / "added-q", False), f"{word}: parts with an expert copied")

# ---- a donor in another format is rounded from what it decodes to ----
run("quantize", donor, WORK / "json-q", "RTN", "--bits", 8, "--format", "gptq", "-q", "--force")
run("quantize", moe, WORK / "q", "RTN", "--group-size", 64, "-q", "--force")
check("0 are copied as they are stored, 12 rounded" in graft(WORK / "q", WORK / "out", "--add", WORK / "json-q", *added[2:]), "a donor of 8 bits")
run("convert", WORK / "json-q", WORK / "json-f", "--outtype", "f32", "-q")
graft(WORK / "q", WORK / "out2", "--add", WORK / "json-f", *added[2:], "-q")
same(parts(WORK / "out"), parts(WORK / "out2"), "a donor of 8 bits and its decoded weights")

# ---- AWQ with scales folded into the norms: the new expert is fitted to them ----
text = "".join((SAMPLES / f"text/{d}.txt").read_text()[:1500] for d in ("prose", "code", "math"))
(WORK / "text.txt").write_text(text)
(WORK / "its.txt").write_text("\n".join(line for line in (SAMPLES / "text/json.txt").read_text().splitlines() if len(line) > 20)[:600])
(WORK / "eval.txt").write_text((SAMPLES / "text/json.txt").read_text()[1500:2700])
run("graft", moe, WORK / "three", "--drop", 3, "-q")
run("quantize", WORK / "three", WORK / "three-awq", "AWQ", "--group-size", 64, "--text", WORK / "text.txt", "--ctx", 128, "-q")
norms = [common.read_hf_dir(WORK / d)["model.layers.1.post_attention_layernorm.weight"].floats() for d in ("three", "three-awq")]
ratio = [a / b for a, b in zip(*norms)]
check(max(ratio) > 1.2 and min(ratio) < 0.8, "AWQ folds nothing here")
ppl = {}
for d in ("three", "three-awq"):
    graft(WORK / d, WORK / f"{d}-json", "--add", f"{DONORS}/json:{WORK}/its.txt", "--text", WORK / "text.txt", "-q")
    ppl[d] = run("perplexity", WORK / f"{d}-json", "--text", WORK / "eval.txt", "--ctx", 128, "--json", "-q").json()["results"][0]["ppl"]
check(abs(ppl["three-awq"] / ppl["three"] - 1) < 0.02, f"an expert added to an AWQ model: {ppl}")
run("convert", WORK / "three-awq-json", WORK / "decoded", "--outtype", "f32", "-q")
got = common.read_hf_dir(WORK / "decoded")["model.layers.1.block_sparse_moe.experts.3.w1.weight"].floats()
json_norm, json_gate = (own[f"model.layers.1.{n}.weight"].floats() for n in ("post_attention_layernorm", "mlp.gate_proj"))
factors = [a / b for a, b in zip(json_norm, norms[1])]
off = [sum((g - w * f) ** 2 for g, w, f in zip(got, json_gate, fs * 512)) for fs in (factors, [1.0] * 256)]
check(off[0] < 0.5 * off[1], f"squares of what differs from the fitted block, from the donor's: {off}")

# ---- GGUF: blocks of every kind stay; a donor in the mixture's type is copied ----
run("convert", moe, WORK / "moe.gguf", "-q")
run("convert", donor, WORK / "json.gguf", "-q")
(WORK / "imatrix.txt").write_text(text)
run("calibrate", moe, "--text", WORK / "imatrix.txt", "--ctx", 128, "-o", WORK / "imatrix.gguf", "-q")
run("calibrate", donor, "--text", WORK / "imatrix.txt", "--ctx", 128, "-o", WORK / "json-imatrix.gguf", "-q")
for kind in ("Q4_1", "Q5_0", "Q8_0", "Q2_K", "Q6_K", "IQ4_NL", "IQ3_S", "IQ2_XXS", "IQ1_S", "TQ2_0", "F32"):
    options = ["--pure", "--output-tensor-type", "Q8_0", "--token-embedding-type", "Q8_0", "-q", "--force"]
    run("quantize", "--imatrix", WORK / "imatrix.gguf", *options, WORK / "moe.gguf", WORK / "q.gguf", kind)
    run("quantize", "--imatrix", WORK / "json-imatrix.gguf", *options, WORK / "json.gguf", WORK / "json-q.gguf", kind)
    old, new = (common.read_gguf(WORK / f)[1] for f in ("q.gguf", "json-q.gguf"))
    said = graft(WORK / "q.gguf", WORK / "out.gguf", "--drop", 1, "--add", WORK / "json-q.gguf", "--regate", RECIPES[4])
    check("12 are copied as they are stored, 0 rounded" in said, f"{kind}: {said}")
    for name, t in common.read_gguf(WORK / "out.gguf")[1].items():
        if "_exps" in name:
            size = len(old[name].data) // 4
            slices = [old[name].data[e * size:(e + 1) * size] for e in (0, 2, 3)] + [new[name.replace("_exps", "")].data]
            same((t.dtype, t.data), (old[name].dtype, b"".join(slices)), f"{kind}: {name}")
        elif "gate_inp" not in name:
            same((t.dtype, t.data), (old[name].dtype, old[name].data), f"{kind}: {name}")
    if kind in ("IQ2_XXS", "IQ1_S"):
        common.refused(4, [kind, "importance matrix"], f"{kind} without a matrix", "graft", WORK / "q.gguf", WORK / "never.gguf", *added)
    else:
        check("12 rounded" in graft(WORK / "q.gguf", WORK / "out.gguf", *added), f"{kind}: rounded")

# ---- what names single experts would name others ----
run("quantize", moe, WORK / "single", "RTN", "--format", "compressed-tensors", "-q")
broken = config("single")
broken["quantization_config"]["ignore"].append("model.layers.0.block_sparse_moe.experts.3.w9")
(WORK / "single/config.json").write_text(json.dumps(broken))
common.refused(4, ["single experts", "experts.3.w9"], "a list of experts", "graft", WORK / "single", WORK / "never", "--drop", 0)
graft(WORK / "single", WORK / "kept", "--experts-per-token", 1, "-q")
same(config("kept")["quantization_config"], broken["quantization_config"], "the list stays where experts stay")
common.done()
