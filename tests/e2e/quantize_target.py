"""quantize --target-bpw and --target-size: smaller divergence than the preset of the same size on text that was not measured
on, the figure it promises measured again by moegraft-verify, the recipe, and what is refused."""
import os
import re

import common
from common import DATA, SAMPLES, WORK, check, fresh, leftovers, read_gguf, run, same, sha256
import moe4

everything = bool(os.environ.get("MOEGRAFT_SHARED"))
source = WORK / "moe4-bf16.gguf"
run("convert", moe4.build(WORK / "moe4"), source, "--outtype", "bf16")
text = WORK / "text.txt"
text.write_text("".join((SAMPLES / f"text/calibration_{d}.txt").read_text()[:700] for d in ("prose", "code", "math", "json")))
other = WORK / "other.txt"
other.write_text("".join((SAMPLES / f"text/{d}.txt").read_text()[:600] for d in ("prose", "code", "math", "json")))
IM = ["--imatrix", DATA / "golden/gguf/imatrix.gguf"]
MEASURE = ["--text", text, "--ctx", "64", "--samples", "4"]
FEW = ["--target-types", "Q3_K,q6_k"]


def divergence(path, *args):
    return run("verify", source, path, "--json", "-q", *args).json()["candidates"][0]["kl"]["mean"]


def bpw(path):
    tensors = read_gguf(path)[1].values()
    elements = 0
    for t in tensors:
        n = 1
        for d in t.shape:
            n *= d
        elements += n
    return 8 * sum(len(t.data) for t in tensors) / elements


# Within the size of the preset and closer to the original, on text it never saw.
PRESETS = ("Q4_K_M", "Q3_K_M", "Q2_K") if everything else ("Q3_K_M",)
for preset in PRESETS:
    types = [] if everything else FEW
    run("quantize", "-q", *IM, source, f"{preset}.gguf", preset)
    limit = bpw(WORK / f"{preset}.gguf")
    run("quantize", "-q", *IM, *MEASURE, *types, "--target-bpw", limit, source, f"solved-{preset}.gguf", preset)
    solved = bpw(WORK / f"solved-{preset}.gguf")
    check(0.98 * limit < solved <= limit, f"{preset}: {limit} bits per weight wanted, {solved} made")
    a, b = (divergence(WORK / f"{p}{preset}.gguf", "--text", other, "--ctx", "256") for p in ("", "solved-"))
    check(b < a, f"{preset}: divergence {a} of the preset, {b} of the solution")
first = "solved-Q3_K_M.gguf"

# The recipe alone makes the same file. Keys say what the matrix is called, so the same words are used.
run("quantize", "-q", *IM, "--tensor-type-file", f"{first}.types.txt", source, "again.gguf", "Q3_K_M")
same(sha256(WORK / "again.gguf"), sha256(WORK / first), "sha256 of the file made from the recipe")

# Threads and memory do not matter: here two batches of windows instead of one.
if not everything:
    run("quantize", "-q", *IM, *MEASURE, *FEW, "-t", "1", "--memory", "1MiB", "--target-bpw", limit, source, "one.gguf", "Q3_K_M")
    same(sha256(WORK / "one.gguf"), sha256(WORK / first), "sha256 with one thread")
    same((WORK / "one.gguf.types.txt").read_text(), (WORK / f"{first}.types.txt").read_text(), "recipe")

# A file size; the divergence it promises is what verify finds on the same text. Rules of the user's stay.
SIZE = 4000000
short = WORK / "short.txt"
short.write_text("".join((SAMPLES / f"text/calibration_{d}.txt").read_text()[:250] for d in ("prose", "code", "math", "json")))
result = run("quantize", *IM, "--text", short, "--ctx", "128", "--samples", "1000", "--target-types", "Q3_K,Q6_K", "--tensor-type",
             "attn_v=q8_0", "--output-tensor-type", "q5_0", "--target-size", SIZE, source, "sized.gguf", "Q4_K_M")
size = (WORK / "sized.gguf").stat().st_size
check(0.97 * SIZE < size <= SIZE, f"{size} bytes, {SIZE} wanted")
types = {n: t.dtype for n, t in read_gguf(WORK / "sized.gguf")[1].items()}
same({t for n, t in types.items() if "attn_v" in n}, {"Q8_0"}, "types named by a rule")
same(types["output.weight"], "Q5_0", "type named by an option")
same({t for n, t in types.items() if "_exps" in n or "attn_q" in n} - {"Q3_K", "Q6_K"}, set(), "other types than the candidates")
promised = float(re.search(r"expected divergence ([0-9.]+) nats", result.err)[1])
found = divergence(WORK / "sized.gguf", "--text", short, "--ctx", "128")
check(abs(promised - found) <= 1e-6, f"divergence {promised} promised, {found} found")  # printed with six digits

# A dry run measures and writes nothing.
before = sorted(p.name for p in WORK.iterdir())
plan = run("quantize", *MEASURE[:4], "--samples", "1", "--target-types", "Q4_0,Q8_0", "--target-bpw", "6", "--dry-run", "--json", source, "d.gguf", "Q4_0").json()
check(plan["bpw"] <= 6, f"{plan['bpw']} bits per weight in a dry run")
same(sorted(p.name for p in WORK.iterdir()), before, "files after a dry run")

# Refused, before anything is measured.
for words, said in ((["--target-bpw", "4", "o.gguf", "Q4_K_M"], "--text"),
                    ([*MEASURE, "o.gguf", "Q4_K_M"], "--target-bpw"),
                    ([*MEASURE, "--target-bpw", "4", "--target-size", "1M", "o.gguf", "Q4_K_M"], "together"),
                    ([*MEASURE, "--target-bpw", "-1", "o.gguf", "Q4_K_M"], "above 0"),
                    ([*MEASURE, "--target-bpw", "4", "o.gguf", "F16"], "quantized TYPE"),
                    ([*MEASURE, "--target-bpw", "4", "-o", "a.gguf=Q4_0", "-o", "b.gguf=Q8_0"], "one output"),
                    ([*MEASURE, "--target-bpw", "4", "--target-types", "Q9_K", "o.gguf", "Q4_K_M"], "Q9_K"),
                    ([*MEASURE, "--target-bpw", "4", "--prune-layers", "1", "o.gguf", "Q4_K_M"], "pruned"),
                    ([*MEASURE, "--target-size", "1000", "o.gguf", "Q4_K_M"], "metadata"),
                    ([*MEASURE, "--target-bpw", "4", first, "Q4_K_M"], "exists")):
    result = run("quantize", source, *words, expect=2)
    check(said in result.err, f"{words}: {result.err}")
result = run("quantize", source, *MEASURE, *FEW, "--target-bpw", "2", "o.gguf", "Q4_K_M", expect=2)
check("smallest types" in result.err, result.err)
(WORK / "o.gguf.types.txt").write_text("")
result = run("quantize", source, *MEASURE, "--target-bpw", "4", "o.gguf", "Q4_K_M", expect=2)
check("o.gguf.types.txt" in result.err, result.err)
check(not (WORK / "o.gguf").exists() and not leftovers(WORK), "a refused run leaves nothing")
common.done()
