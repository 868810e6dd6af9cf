"""moegraft-extract: the dense family of the result, shared experts, layers of other sizes; from files of blocks and of codes, which stay
as they are or are decoded; what is refused. That merging undoes it: merge_identity."""
import json
import math

import common
from common import DATA, SAMPLES, WORK, Tensor, check, read_safetensors, run, same
import moe4

TINY = DATA / "models/tiny"
IDS = WORK / "ids.txt"
IDS.write_text("1 20 30 40 50 60 70 80 90 100 7 8 9 10 11 12\n1 99 98 97 96 95 3 4 5 6 7 8 9 250 251 252\n")


def capture(model, *options):
    run("forward", model, "--tokens", IDS, "-o", WORK / "x.safetensors", "--force", *options)
    return read_safetensors(WORK / "x.safetensors")[1]


def extract(name, model, *options, expect=0):
    return run("extract", model, WORK / name, "--force", *options, expect=expect).err


def hashes(model):
    return {n: (t.dtype, t.shape, t.sha256()) for n, t in common.read_hf_dir(model).items()}


def inspected(model):
    return {t["name"]: (t["dtype"], t["shape"], t["sha256"]) for t in run("inspect", model, "--json", "--tensors", "--hash").json()["tensors"]}


def config(name):
    return json.loads((WORK / name / "config.json").read_text())


# ---- a dense first layer of 160 before experts of 48: zeros fill, and that layer computes what it did ----
neko = TINY / "nekomind"
before = common.read_hf_dir(neko)
for how, width in (("apart", 48), ("merge", 96)):
    said = extract(how, neko, "--expert", 5, "--shared", how, *["--shared-weight", "0.25"] * (how == "merge"))
    check("zeros fill" in said, said)
    same(("shared expert is not in it" in said), how == "apart", f"{how}: {said}")
    after = common.read_hf_dir(WORK / how)
    same((config(how)["model_type"], config(how)["intermediate_size"]), ("qwen3", 160), "family and size")
    same(capture(WORK / how, "--capture", "hidden")["hidden.1"].sha256(), capture(neko, "--capture", "hidden")["hidden.1"].sha256(), "after the dense layer")
    for layer in (1, 2):
        old, new = (f"model.layers.{layer}.mlp.{x}" for x in ("experts.5.", ""))
        parts = [old] + [f"model.layers.{layer}.mlp.shared_expert."] * (how == "merge")
        for w in ("gate_proj", "up_proj"):
            rows = b"".join(before[f"{p}{w}.weight"].data for p in parts)
            same(after[f"{new}{w}.weight"].data, rows + bytes((160 - width) * 64 * 2), f"{how}: rows of {w}")
        down = after[f"{new}down_proj.weight"].floats()
        for r in range(64):
            want = []
            for p, factor in zip(parts, (1, 0.25)):  # a quarter of a bfloat16 is one
                want += [v * factor for v in before[f"{p}down_proj.weight"].floats()[48 * r:48 * r + 48]]
            same(down[160 * r:160 * r + 160], want + [0.0] * (160 - width), f"{how}: row {r} of down")
common.refused(4, ["depends on the token", "--shared-weight"], "a router", "extract", neko, WORK / "never", "--expert", 0, "--shared", "merge")
extract("only", neko, "--shared", "only")
same(common.read_hf_dir(WORK / "only")["model.layers.1.mlp.up_proj.weight"].data[:48 * 128], before["model.layers.1.mlp.shared_expert.up_proj.weight"].data, "the shared expert alone")
(WORK / "all").mkdir()
extract("all", neko, "--all", "--shared", "drop", "-q")
check(not (WORK / "all/shared").exists(), "--shared drop")

# ---- an unweighted shared expert: with one expert per token, and its weight 1, the mixture is the joined block ----
deep = TINY / "deepseek"
run("graft", deep, WORK / "one", "--experts-per-token", 1, "-q")
one = json.loads((WORK / "one/config.json").read_text()) | {"norm_topk_prob": True}
(WORK / "one/config.json").write_text(json.dumps(one))
got = capture(WORK / "one", "--precision", "f64", "--capture", "hidden,router")
first = next(l for l in range(one["num_hidden_layers"]) if f"model.layers.{l}.mlp.gate.weight" in common.read_hf_dir(deep))
n = one["n_routed_experts"]
scores = got["router.0"].floats()
chosen = [max(range(n), key=lambda e: scores[n * t + e]) for t in range(len(scores) // n)]
width = one["hidden_size"]
for e in sorted(set(chosen)):
    extract("joined", deep, "--expert", e, "--shared", "merge", "-q")
    x, y = (h[f"hidden.{first + 1}"].floats() for h in (capture(WORK / "joined", "--precision", "f64", "--capture", "hidden"), got))
    for t in [t for t, c in enumerate(chosen) if c == e]:
        a, b = x[t * width:(t + 1) * width], y[t * width:(t + 1) * width]
        size = math.sqrt(sum(v * v for v in b) / width)
        check(max(abs(p - q) for p, q in zip(a, b)) < 1e-6 * size, f"token {t} through expert {e} and the shared one")  # stored in f32
check(len(set(chosen)) > 1, "all tokens choose one expert")

# ---- families by name ----
moe = moe4.build(WORK / "moe4")
extract("mistral", moe, "--expert", 1, "-q")
extract("llama", moe, "--expert", 1, "--as", "llama", "-q")
same((config("mistral")["model_type"], config("llama")["model_type"]), ("mistral", "llama"), "families")
same(hashes(WORK / "llama"), hashes(WORK / "mistral"), "weights of both")
qwen = TINY / "qwen2_moe"
extract("qwen", qwen, "--expert", 0, "-q")
same(config("qwen")["model_type"], "qwen2", "biases that are not zero need Qwen2")
common.refused(4, ["attn_q.bias"], "a Mistral with biases", "extract", qwen, WORK / "never", "--expert", 0, "--as", "mistral")

# ---- blocks of a GGUF: as they are, with its tokenizer; decoded ----
run("convert", moe, WORK / "moe.gguf", "-q")
run("convert", WORK / "mistral", WORK / "dense.gguf", "-q")
for kind in ("Q4_K_S", "Q8_0", "Q4_0", "IQ4_NL", "Q5_K_M", "Q2_K", "F16", "MXFP4_MOE", "TQ2_0"):
    run("quantize", WORK / "moe.gguf", WORK / "q.gguf", kind, "-q", "--force")
    extract("q1.gguf", WORK / "q.gguf", "--expert", 1, "-q")
    kv, tensors = common.read_gguf(WORK / "q.gguf")
    dense_kv, dense = common.read_gguf(WORK / "q1.gguf")
    for name, t in dense.items():
        if ".ffn_" in name and "norm" not in name:
            stack = tensors[name.replace(".weight", "_exps.weight")]
            size = len(stack.data) // 4
            same((t.dtype, t.data), (stack.dtype, stack.data[size:2 * size]), f"{kind}: {name}")
        else:
            same((t.dtype, t.data), (tensors[name].dtype, tensors[name].data), f"{kind}: {name}")
    same({k: v for k, v in dense_kv.items() if k.startswith("tokenizer.")}, {k: v for k, v in kv.items() if k.startswith("tokenizer.")}, f"{kind}: tokenizer keys")
    check(not any("expert" in k for k in dense_kv), f"{kind}: keys of experts")
    same(dense_kv["general.file_type"], kv["general.file_type"], f"{kind}: file type")
    extract("q1", WORK / "q.gguf", "--expert", 1, "-q")
    same({t.dtype for t in common.read_hf_dir(WORK / "q1").values()} <= {"F32", "F16"}, True, f"{kind}: decoded")
    same(*(capture(WORK / m, "--capture", "logits")["logits"].sha256() for m in ("q1", "q1.gguf")), f"{kind}: logits of both")
    extract("q1b", WORK / "q.gguf", "--expert", 1, "-q", "--outtype", "bf16")
    same({t.dtype for t in common.read_hf_dir(WORK / "q1b").values() if len(t.shape) > 1}, {"BF16"}, f"{kind}: --outtype bf16")
check((WORK / "q1/tokenizer.json").exists(), "tokenizer files of a GGUF")
ids = [run("tokenize", WORK / m, "--text", "It came to pass", "--json").json()["ids"] for m in ("q1", "q1.gguf", "moe4")]
same(ids[0], ids[1], "tokens of directory and GGUF")
same(ids[1], ids[2], "tokens of the result and the mixture")
extract("bf.gguf", moe, "--expert", 1, "-q")
same({n: h for n, h in inspected(WORK / "bf.gguf").items()}, inspected(WORK / "dense.gguf"), "straight to GGUF and by way of a directory")
(WORK / "files").mkdir()
extract("files", WORK / "q.gguf", "--all", "--to", "gguf", "-q")
same(sorted(p.name for p in (WORK / "files").iterdir()), [f"expert-{e}.gguf" for e in range(4)], "--all --to gguf")
same(common.sha256(WORK / "files/expert-1.gguf") == common.sha256(WORK / "files/expert-2.gguf"), False, "experts differ")
run("convert", deep, WORK / "deep.gguf", "-q")
run("quantize", WORK / "deep.gguf", WORK / "deep8.gguf", "Q8_0", "-q")
extract("deep-wide.gguf", WORK / "deep8.gguf", "--expert", 2, "--shared", "merge", "-q")
extract("deep-wide", WORK / "deep8.gguf", "--expert", 2, "--shared", "merge", "--outtype", "f32", "-q")
same(*(capture(WORK / m, "--capture", "logits")["logits"].sha256() for m in ("deep-wide", "deep-wide.gguf")), "blocks beside blocks")

# ---- codes of group formats: what is quantized and taken out is what is taken out and quantized ----
for form in (["--format", "awq", "--group-size", 64], ["--format", "gptq", "--group-size", 64], ["--format", "gptq_v2", "--bits", 8, "--symmetric"],
             ["--format", "compressed-tensors"], ["--format", "mlx", "--group-size", 32]):
    word = form[1]
    run("quantize", moe, WORK / "codes", "RTN", *form, "-q", "--force")
    extract("codes1", WORK / "codes", "--expert", 1, "-q")
    run("quantize", WORK / "mistral", WORK / "again", "RTN", *form, "-q", "--force")
    same(hashes(WORK / "codes1"), hashes(WORK / "again"), f"{word}: parts")
    key = "quantization" if word == "mlx" else "quantization_config"
    lists = [{k: v for k, v in config(d)[key].items() if k not in ("modules_to_not_convert", "ignore", "dynamic", "config_groups")} for d in ("codes1", "again")]
    same(lists[0], lists[1], f"{word}: what config.json says")
    run("check", WORK / "codes1")
    extract("codes1", WORK / "codes", "--expert", 1, "-q", "--manifest")
    found = run("verify", WORK / "codes", WORK / "codes1", "--provenance", WORK / "codes1/model.manifest.json", "-q", "--json").json()["counts"]
    same({k: v for k, v in found.items() if v}, {"same": len(hashes(WORK / "codes1"))}, f"{word}: tensors derived again from the manifest")
    extract("floats1", WORK / "codes", "--expert", 1, "--outtype", "f32", "-q")
    same(*(capture(WORK / m, "--capture", "logits")["logits"].sha256() for m in ("codes1", "floats1")), f"{word}: logits of codes and of decoded weights")
    check("quantization_config" not in config("floats1"), f"{word}: decoded")
    skip = config("codes1")[key].get("modules_to_not_convert") or []
    check(not any(s in "mlp.gate_proj" for s in skip), f"{word}: a list that would hit gate_proj: {skip}")
    common.refused(4, ["decodes them"], f"{word} scaled", "extract", WORK / "codes", WORK / "never", "--expert", 1, "--scale", 2)

# ---- refusals ----
def refuse(code, words, *args):
    common.refused(code, words, args, "extract", *args)


refuse(2, ["0 to 3"], moe, WORK / "never", "--expert", 4)
refuse(2, ["--expert N or --all"], moe, WORK / "never")
refuse(2, ["leave --expert"], neko, WORK / "never", "--expert", 1, "--shared", "only")
refuse(2, ["apart, drop"], neko, WORK / "never", "--expert", 1, "--shared", "both")
refuse(2, ["number"], neko, WORK / "never", "--expert", 1, "--scale", "two")
refuse(2, ["no such family"], moe, WORK / "never", "--expert", 1, "--as", "falcon")
refuse(2, ["not made of qwen3"], moe, WORK / "never", "--expert", 1, "--as", "qwen3")
refuse(4, ["no shared expert"], moe, WORK / "never", "--shared", "only")
refuse(4, ["not made of dense"], TINY / "gpt_oss", WORK / "never", "--expert", 0)
refuse(4, ["no experts"], DATA / "models/donors/base", WORK / "never", "--expert", 0)
refuse(4, ["q8_0"], moe, WORK / "never", "--expert", 0, "--outtype", "q8_0")
refuse(4, ["moegraft-quantize"], moe, WORK / "never.gguf", "--expert", 0, "--outtype", "q4_k")
refuse(4, ["multiplied"], WORK / "q.gguf", WORK / "never.gguf", "--expert", 0, "--scale", 2)
refuse(2, ["ends in .gguf"], moe, WORK / "never.gguf", "--all")
common.done()
