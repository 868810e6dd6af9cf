"""What verify --attribute found feeds quantize --target-bpw and --target-size: closer than the preset of the same size on text that
was not measured on, without text of its own; the recipe, threads, and what is refused."""
import json
import re

import common
from common import DATA, SAMPLES, WORK, check, leftovers, read_gguf, run, same, sha256
import moe4

source = WORK / "moe4-bf16.gguf"
run("convert", moe4.build(WORK / "moe4"), source, "--outtype", "bf16")
text, other = WORK / "text.txt", WORK / "other.txt"
text.write_text("".join((SAMPLES / f"text/calibration_{d}.txt").read_text()[:500] for d in ("prose", "code", "math", "json")))
other.write_text("".join((SAMPLES / f"text/{d}.txt").read_text()[:600] for d in ("prose", "code", "math", "json")))
IM = ["--imatrix", DATA / "golden/gguf/imatrix.gguf"]
FEW = ["--target-types", "Q2_K,Q3_K,Q4_K,Q6_K"]


def bytes_of(path):
    return sum(len(t.data) for t in read_gguf(path)[1].values())


run("quantize", source, "-o", "q4.gguf=Q4_0", "-o", "same.gguf=BF16", "-q")
found = WORK / "found.json"
found.write_text(run("verify", source, "q4.gguf", "--text", text, "--ctx", 128, "--attribute", 16, "--json", "-q").out)
parts = json.loads(found.read_text())["candidates"][0]["attribution"]["parts"]
check(any(p["role"] == "layer" for p in parts) and any(p["role"].startswith("attn") for p in parts), "layers and tensors were measured")

run("quantize", "-q", *IM, source, "preset.gguf", "Q3_K_M")
preset = bytes_of(WORK / "preset.gguf")
elements = 8 * bytes_of(source) // 16
args = ["-q", *IM, *FEW, "--attribution", found, "--target-bpw", f"{8 * preset / elements:.4f}"]
run("quantize", *args, source, "solved.gguf", "Q3_K_M")
solved = bytes_of(WORK / "solved.gguf")
check(0.97 * preset < solved <= preset, f"{preset} bytes of the preset, {solved} of the solution")
a, b = (c["kl"]["mean"] for c in run("verify", source, "preset.gguf", "solved.gguf", "--text", other, "--ctx", "256", "--json", "-q").json()["candidates"])
check(b < 0.5 * a, f"divergence {a} of the preset, {b} of the solution")
check(len({t.dtype for n, t in read_gguf(WORK / "solved.gguf")[1].items() if "attn_k" in n or "_exps" in n}) > 1, "one type for all")

# The recipe alone makes the same file, and threads do not matter.
run("quantize", "-q", *IM, "--tensor-type-file", "solved.gguf.types.txt", source, "again.gguf", "Q3_K_M")
same(sha256(WORK / "again.gguf"), sha256(WORK / "solved.gguf"), "file of the recipe")
run("quantize", *args, "-t", 1, source, "one.gguf", "Q3_K_M")
same(sha256(WORK / "one.gguf"), sha256(WORK / "solved.gguf"), "file of one thread")

# Without text the estimate is said; with text what comes out is measured too, and the two agree to the second digit or so.
said = run("quantize", *IM, *FEW, "--attribution", found, "--target-size", preset + 40000, source, "a.gguf", "Q3_K_M").err
check(re.search(r"expected divergence [0-9.]+ nats per token, the sum of \d+ tensors estimated alone", said), said)
said = run("quantize", *IM, *FEW, "--attribution", found, "--text", text, "--ctx", 128, "--target-size", preset + 40000, source, "b.gguf", "Q3_K_M").err
measured, estimated = map(float, re.search(r"expected divergence ([0-9.]+) nats.*\(([0-9.]+) as the sum", said).groups())
check(0.5 < measured / estimated < 2, f"divergence {estimated} estimated, {measured} measured")
same(sha256(WORK / "a.gguf"), sha256(WORK / "b.gguf"), "text changes nothing but what is said")

# Refused.
short = json.loads(found.read_text())
short["candidates"][0]["attribution"]["parts"] = [p for p in parts if p["layer"] != 2]
two = json.loads(found.read_text())
two["candidates"] *= 2
lacking = json.loads(found.read_text())
del lacking["candidates"][0]["attribution"]["parts"][0]["error"]
(WORK / "same.json").write_text(run("verify", source, "same.gguf", "--text", text, "--ctx", 128, "--attribute", 4, "--json", "-q").out)
(WORK / "plain.json").write_text(run("verify", source, "q4.gguf", "--text", text, "--ctx", 128, "--json", "-q").out)
for name, value in (("short", short), ("two", two), ("lacking", lacking), ("no_result", {"schema": 1})):
    (WORK / f"{name}.json").write_text(json.dumps(value))
(WORK / "cut.json").write_text(found.read_text()[:1000])
for name, code, words in (("short", 2, "blk.2."), ("two", 2, "more than one"), ("lacking", 3, "lacks"), ("no_result", 3, "no result"),
                          ("same", 2, "the same in both"), ("plain", 2, "--attribute"), ("cut", 3, "cut.json"), ("gone", 5, "gone.json")):
    result = run("quantize", source, *FEW, "--attribution", f"{name}.json", "--target-bpw", "4", "never.gguf", "Q4_K_M", expect=code)
    check(words in result.err and f"{name}.json" in result.err, f"{name}: {result.err}")
result = run("quantize", source, "--attribution", found, "never.gguf", "Q4_K_M", expect=2)
check("--target-bpw" in result.err, result.err)
check(not (WORK / "never.gguf").exists() and not leftovers(WORK), "a refused run leaves nothing")
common.done()
