"""moegraft-forward against transformers' activations; the same bytes for every instruction set, thread count and batch
size; refusals."""
import math
import common
from common import check, run, same

TINY = common.DATA / "models/tiny"
MODELS = ["llama", "llama_rope_llama3", "llama_rope_linear", "llama_rope_yarn", "mistral", "mistral_swa", "mixtral",
          "qwen2", "qwen3",
          "smollm3", "stablelm", "olmo2", "phi3", "phi3_longrope", "granite", "gemma", "gemma2", "gemma3_text"]

MIXTURES = ["qwen2_moe", "mesh_no_exchange", "mesh_k1", "mesh_k2", "mesh_dense", "qwen3_moe", "nekomind",
            "nekomind_untied", "olmoe", "hunyuan_v1_moe", "dots1", "ernie4_5_moe",
            "granitemoe", "glm4_moe", "minimax_m2", "phimoe",
            "deepseek", "deepseek_v2", "deepseek_v3", "gpt_oss"]


def worst(found, expected):
    """Largest difference relative to the RMS of the expected tensor."""
    a, b = found.floats(), expected.floats()
    rms = math.sqrt(sum(v * v for v in b) / len(b))
    return max(abs(x - y) for x, y in zip(a, b)) / rms


for name in MODELS + MIXTURES:
    ref_path = TINY / name / "reference.safetensors"
    ref = common.read_safetensors(ref_path)[1]
    out = common.WORK / f"{name}.safetensors"
    run("forward", TINY / name, "--tokens", ref_path, "-o", out)
    got = common.read_safetensors(out)[1]
    same(sorted(got), sorted(ref), f"tensors of {name}")
    for key, expected in ref.items():
        same(got[key].shape, expected.shape, f"shape of {name} {key}")
        # Two f32 implementations that add in different orders; measured 4e-6 at most.
        check(worst(got[key], expected) <= 2e-5, f"{name} {key}: {worst(got[key], expected):.1e} of the RMS")
    digest = common.sha256(out)
    variants = [(["-t", 1], {"MOEGRAFT_ISA": "scalar"}), (["-t", 3], {}), (["--memory", 1], {}),
                (["-t", 2, "--memory", "200KB"], {"MOEGRAFT_ISA": "avx2"})]
    if name in MIXTURES:  # one run that differs in everything: the passes share their code
        variants = [(["-t", 1, "--memory", "200KB"], {"MOEGRAFT_ISA": "scalar"})]
    for extra, env in variants:
        other = common.WORK / "other.safetensors"
        run("forward", TINY / name, "--tokens", ref_path, "-o", other, "--force", *extra, env=env)
        same(common.sha256(other), digest, f"{name} with {extra} {env}")

    # The same weights in a GGUF: the same bytes, where GGUF can say all that the config says. It cannot say a window for the
    # name "llama", and holds llama3's frequencies as factors, which round.
    if name in ("mistral_swa", "llama_rope_llama3"):
        continue
    gguf = common.WORK / f"{name}.gguf"
    run("convert", TINY / name, gguf, "--outtype", "bf16", "-q", "--no-manifest")
    run("forward", gguf, "--tokens", ref_path, "-o", other, "--force")
    again = common.read_safetensors(other)[1]
    for key in got:
        same(again[key].data, got[key].data, f"{name} {key} from a GGUF")

# Quantizing drops the leading 1 of the shared expert's router, as ggml's writers do; it is read all the same.
q8 = common.WORK / "q8.gguf"
run("quantize", "-q", common.WORK / "nekomind.gguf", q8, "Q8_0")
same(len(common.read_gguf(q8)[1]["blk.1.ffn_gate_inp_shexp.weight"].shape), 1, "dimensions of a router of one row")
run("forward", q8, "--tokens", TINY / "nekomind/reference.safetensors", "-o", common.WORK / "q8.safetensors")
found = common.read_safetensors(common.WORK / "q8.safetensors")[1]["logits"]
check(worst(found, common.read_safetensors(TINY / "nekomind/reference.safetensors")[1]["logits"]) < 0.3, "nekomind in 8 bits")

# Double: close to the same reference, and not the f32 pass under another name.
ref_path = TINY / "mixtral/reference.safetensors"
ref = common.read_safetensors(ref_path)[1]
out = common.WORK / "f64.safetensors"
run("forward", TINY / "mixtral", "--tokens", ref_path, "-o", out, "--precision", "f64", "-t", 3)
got = common.read_safetensors(out)[1]
for key in got:
    check(worst(got[key], ref[key]) <= 2e-5, f"f64 {key}")
check(common.sha256(out) != common.sha256(common.WORK / "mixtral.safetensors"), "f64 equals f32")

# The same ids as text lines and on the command line; a choice of captures.
ids = ref["input_ids"].floats()
rows = [ids[:24], ids[24:]]
lines = common.WORK / "ids.txt"
lines.write_text(" ".join(map(str, rows[0])) + "\n\n" + str(rows[1]) + "\n")
out = common.WORK / "lines.safetensors"
run("forward", TINY / "mixtral", "--tokens", lines, "-o", out)
same(common.sha256(out), common.sha256(common.WORK / "mixtral.safetensors"), "ids as text lines")
out = common.WORK / "one.safetensors"
run("forward", TINY / "mixtral", "--ids", ",".join(map(str, rows[0])), "-o", out, "--capture", "router,logits")
got, full = common.read_safetensors(out)[1], common.read_safetensors(common.WORK / "mixtral.safetensors")[1]
same(sorted(got), ["input_ids", "logits", "router.0", "router.1", "router.2"], "captured tensors")
same(got["logits"].data, full["logits"].data[:len(got["logits"].data)], "logits of the first sequence alone")

# More experts change the result; all of them is k = 4.
for k in ["1", "4", "all"]:
    run("forward", TINY / "mixtral", "--tokens", ref_path, "-o", common.WORK / f"k{k}.safetensors", "--experts-per-token", k)
digests = {k: common.sha256(common.WORK / f"k{k}.safetensors") for k in ["1", "4", "all"]}
same(digests["4"], digests["all"], "4 experts and all")
check(digests["1"] != digests["4"], "the number of experts is ignored")

# Refusals leave nothing behind.
out = common.WORK / "no.safetensors"
for code, args in [(2, ["--ids", "1,x"]), (2, []), (2, ["--ids", "1", "--capture", "loss"]), (2, ["--ids", "1", "--precision", "f8"]),
                   (3, ["--ids", "1,320"]), (2, ["--ids", "1", "--experts-per-token", "5"])]:
    run("forward", TINY / "mixtral", "-o", out, *args, expect=code)
    check(not out.exists(), f"a file after {args}")
run("forward", TINY / "llama", "--ids", "1,2", "-o", lines, expect=2)
run("forward", TINY / "llama", "--ids", "1,2", "--capture", "router", "-o", out, expect=2)
ragged = common.WORK / "ragged.txt"
ragged.write_text("1 2 3\n1 2\n")
run("forward", TINY / "llama", "--tokens", ragged, "-o", out, expect=2)
run("forward", TINY / "absent", "--ids", "1", "-o", out, expect=5)
same(common.leftovers(common.WORK), [], "partial files")
common.done()
