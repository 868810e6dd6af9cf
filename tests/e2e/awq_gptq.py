"""quantize IN OUT AWQ and GPTQ: folding is exact in every family, the result is closer to the original than rounding, bytes do not
depend on threads, instruction set or memory. Interrupted runs: awq_resume.py; models of the unusual kind: awq_unusual.py."""
import shutil
import struct

import common
from awq_runs import IDS, TINY, calibrated, divergence, report

PROSE = common.SAMPLES / "donors" / "prose"

# ---- every consumer of a norm is scaled: unquantized logits stay ----

FAMILIES = ("llama", "mixtral", "qwen2_moe", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "olmo2", "phi3", "stablelm", "deepseek_v2",
            "ernie4_5_moe", "mesh_k2", "nekomind", "granite", "granitemoe", "gpt_oss")
for name in FAMILIES:
    calibrated(TINY / name, "fold", "AWQ", "--fold-only", "--tokens", IDS, "--bits", 3, "--group-size", 32)
    found = report("fold")
    # f32 rounds each folded weight once: some 1e-7 of the logits
    common.check(found["folding"]["logits_rms_difference"] < 1e-5, f"{name}: folding changes logits: {found['folding']}")
    for layer in found["awq"]:
        for x in layer["awq"]:
            common.check(x["loss"] <= x["plain"], f"{name}: scales worse than rounding: {x}")
    common.check(divergence(TINY / name, "fold", "--tokens", IDS) < 1e-8, f"{name}: the folded model differs")

# ---- folded, then a GGUF type: F32 keeps the model, and the folding is in it ----

common.run("quantize", TINY / "qwen2_moe", common.WORK / "fold.gguf", "F32", "--fold-only", "--tokens", IDS, "--progress", "none")
common.run("quantize", TINY / "qwen2_moe", common.WORK / "plain.gguf", "F32")
common.check(divergence(TINY / "qwen2_moe", "fold.gguf", "--tokens", IDS) < 1e-8, "the folded GGUF differs")
common.check(common.sha256(common.WORK / "fold.gguf") != common.sha256(common.WORK / "plain.gguf"), "nothing was folded")
for options, said in ((("--fold-only",), "calibration text"), (("--fold-only", "--tokens", IDS, "--method", "gptq"), "gptq"),
                      (("--fold-only", "--tokens", IDS, "--target-bpw", 5), "--fold-only")):
    done = common.run("quantize", TINY / "qwen2_moe", common.WORK / "no.gguf", "Q8_0", *options, expect=2)
    common.check(said in done.err and not (common.WORK / "no.gguf").exists(), done.err)

# ---- better than rounding, on text that was not calibrated on ----

TEXT = ("--text", common.SAMPLES / "text" / "calibration_prose.txt", "--samples", 12, "--ctx", 256)
EVAL = common.WORK / "eval.txt"
EVAL.write_text((common.SAMPLES / "text" / "prose.txt").read_text()[:6000])
kl = {}
for method in ("rtn", "awq", "gptq", "awq+gptq"):
    what = ("RTN",) if method == "rtn" else ("AWQ", "--method", method, *TEXT)
    calibrated(PROSE, method, *what, "--group-size", 64)
    kl[method] = divergence(PROSE, method, "--text", EVAL, "--ctx", 256)
common.check(kl["awq"] < 0.8 * kl["rtn"], f"AWQ is not better than rounding: {kl}")
common.check(kl["gptq"] < 0.5 * kl["rtn"] and kl["awq+gptq"] < 0.5 * kl["rtn"], f"GPTQ is not better than rounding: {kl}")
for method in ("rtn", "gptq", "awq+gptq"):  # codes with scales and biases
    what = ("RTN",) if method == "rtn" else ("GPTQ", "--method", method, *TEXT)
    calibrated(PROSE, f"mlx-{method}", *what, "--group-size", 64, "--format", "mlx")
    kl[f"mlx-{method}"] = divergence(PROSE, f"mlx-{method}", "--text", EVAL, "--ctx", 256)
common.check(max(kl["mlx-gptq"], kl["mlx-awq+gptq"]) < 0.5 * kl["mlx-rtn"], f"GPTQ into MLX is not better than rounding: {kl}")
for layer in report("awq")["awq"]:
    for x in layer["limits"]:
        common.check(x["loss"] <= x["plain"], f"limits worse than rounding: {x}")

# ---- the last candidates are judged by the block's output: the same figure from the forward pass of a model with only these rounded ----


def hidden(model):
    common.run("forward", model, "--tokens", IDS, "-o", common.WORK / "hidden.safetensors", "--capture", "hidden", "--force")
    return common.read_safetensors(common.WORK / "hidden.safetensors")[1]["hidden.1"].floats()


for name in ("llama", "mixtral"):
    source = TINY / name
    calibrated(source, "judged", "AWQ", "--tokens", IDS, "--group-size", -1)
    calibrated(source, "rounded", "RTN", "--group-size", -1)
    common.run("convert", common.WORK / "rounded", common.WORK / f"{name}-dense", "--outtype", "f32")
    rounded, mixed = common.read_hf_dir(common.WORK / f"{name}-dense"), common.fresh(f"{name}-mixed")
    shutil.copy(source / "config.json", mixed)
    widened = {k: common.Tensor("F32", t.shape, struct.pack(f"<{len(t.floats())}f", *t.floats())) for k, t in common.read_hf_dir(source).items()}
    inside = {k: rounded[k] for k in widened if "layers.0." in k and k.split(".")[-2] in ("gate_proj", "up_proj", "w1", "w3")}
    common.check(len(inside) >= 2, f"{name}: no gate and up among {list(widened)}")
    common.write_safetensors(mixed / "model.safetensors", {**widened, **inside}, {"format": "pt"})
    want = sum((a - b) ** 2 for a, b in zip(hidden(source), hidden(mixed)))
    found = [x for layer in report("judged")["awq"] for x in layer["awq"]]
    blocks = [x for x in found if "block_plain" in x]
    common.check(all(x["block_loss"] <= x["block_plain"] and x["candidates"] in (2, 3) for x in blocks), f"{name}: {blocks}")
    common.check({x["input"] for x in blocks} <= {"attention", "feed-forward"} and len(blocks) > 2, f"{name}: {blocks}")
    got = next(x["block_plain"] for x in report("judged")["awq"][0]["awq"] if x["input"] == "feed-forward")
    common.check(abs(got - want) < 1e-4 * want, f"{name}: the block's loss is {got}, expected {want}")  # f32 activations, some 1e-7 each

# ---- the same bytes ----


def contents(out):
    """Hashes of all files; entries of the report stand in the order of work, which depends on memory."""
    found = {k: v for k, v in common.tree(common.WORK / out).items() if "manifest" not in k and k != "calibration.json"}
    sort = lambda v: sorted(map(sort, v), key=str) if isinstance(v, list) else {k: sort(x) for k, x in v.items()} if isinstance(v, dict) else v
    return found, sort(report(out))


for number, (kind, model, memory, options) in enumerate([
        ("AWQ", PROSE, "8MiB", ("--method", "awq+gptq", *TEXT)), ("AWQ", TINY / "mixtral", "3MiB", ("--tokens", IDS, "--group-size", -1)),
        ("GPTQ", TINY / "phi3", "1MiB", ("--tokens", IDS, "--group-size", 32, "--symmetric")),
        ("GPTQ", TINY / "llama", "1MiB", ("--tokens", IDS, "--group-size", 32, "--format", "mlx"))]):
    calibrated(model, "one", kind, *options, "-t", 1)
    calibrated(model, "two", kind, *options, "-t", 3, env={"MOEGRAFT_ISA": "scalar" if number else "avx2"})
    calibrated(model, "small", kind, *options, "--memory", memory)  # little more than a layer's matrices: batches are small
    first = contents("one")
    for other in ("two", "small"):
        common.same(contents(other), first, f"{kind} of {model.name}, {other}")

# ---- matrices that do not fit are refused before anything is run ----

done = calibrated(PROSE, "large", "GPTQ", *TEXT, "--memory", "1MiB", expect=6)
common.check("statistics" in done.err and not list(common.WORK.glob("*large*")) and not list(common.WORK.glob(".large*")), done.err)

# ---- refused before work starts ----

for options, code, said in ((("AWQ",), 2, "calibration text"), (("RTN", "--tokens", IDS), 2, "no text"), (("AWQ", "--method", "best", "--tokens", IDS), 2, "best"),
                            (("RTN", "--method", "awq", "--tokens", IDS), 2, "AWQ or GPTQ"), (("GPTQ", "--fold-only", "--tokens", IDS), 2, "fold-only"),
                            (("AWQ", "--tokens", IDS, "--group-size", 128), 4, "multiple of the group"),
                            (("AWQ", "--tokens", IDS, "--imatrix", "x.gguf"), 2, "--imatrix")):
    done = calibrated(TINY / "llama", "none", *options, expect=code)
    common.check(said in done.err, f"{options}: {done.err}")
    common.check(not (common.WORK / "none").exists() and not (common.WORK / ".none.stage").exists(), f"{options} left something")
calibrated(TINY / "llama", "taken", "RTN", "--group-size", 32)
done = common.run("quantize", TINY / "llama", common.WORK / "taken", "AWQ", "--tokens", IDS, "--group-size", 32, expect=2)
common.check("--force" in done.err, done.err)
common.done()
