"""quantize against llama-quantize: whole files by sha256 for several thread counts, options, refusals; directories in one
pass; what the command line promises; crashes. MOEGRAFT_SHARED set: every entry of golden/gguf/quantize.json."""
import json
import os
import pathlib
import random
import shutil

import moe4
from common import DATA, WORK, Tensor, check, count_crash_points, done, fresh, leftovers, read_gguf, read_safetensors, run, run_killed, same, sha256, write_safetensors

golden = json.loads((DATA / "golden/gguf/quantize.json").read_text())
everything = bool(os.environ.get("MOEGRAFT_SHARED"))
converted = json.loads((DATA / "golden/gguf/convert.json").read_text())


def remove(path):
    os.remove(path)
    pathlib.Path(f"{path}.manifest.json").unlink(missing_ok=True)


def expect(path, entry):
    same(sha256(path), golden[entry]["file_sha256"], f"sha256 of {entry}")
    remove(path)


# The source: our own conversion of the reference MoE, which must be the reference's own file.
model = moe4.build(WORK / "moe4")
source = WORK / "moe4-bf16.gguf"
run("convert", model, source, "--outtype", "bf16")
same(sha256(source), converted["moe4-bf16"]["file_sha256"], "sha256 of moe4-bf16.gguf")
before = sha256(source)
for name in ("imatrix.gguf", "imatrix.dat"):
    shutil.copy(DATA / "golden/gguf" / name, WORK / name)

# Several types from one read, for several thread counts: the same files. (The slow ones once, unless all is asked for.)
FILES = ("Q4_0", "Q8_0", "F16", "BF16", "COPY", "Q6_K", "Q4_K_S", "Q4_K_M")
for threads in (1, 2, 3, 16):
    out = fresh(f"threads{threads}")
    types = FILES if everything or threads == 2 else FILES[:5]
    run("quantize", "-q", source, f"{out}/", *types, threads)
    names = [f"moe4-{t}.gguf" for t in types]
    same(sorted(p.name for p in out.iterdir()), sorted(names + [f"{n}.manifest.json" for n in names]), "file names")
    for t in types:
        expect(out / f"moe4-{t}.gguf", t)

# Options of llama-quantize. Paths are relative because the path of the importance matrix is stored.
IM = ["--imatrix", "imatrix.gguf"]
OPTIONS = {
    "Q4_K_M+imatrix": [*IM, "Q4_K_M"],
    "Q4_0+imatrix": [*IM, "Q4_0"],
    "COPY+imatrix": [*IM, "COPY"],
    "MXFP4_MOE": ["MXFP4_MOE"],
    "pure Q4_K": ["--pure", "Q4_K"],
    "pure Q6_K": ["--pure", "18"],
    "leave-output Q4_K_M": ["--leave-output-tensor", "Q4_K_M"],
    "output f16 embd q8_0 Q3_K_M": ["--output-tensor-type", "f16", "--token-embedding-type", "q8_0", "Q3_K_M"],
    "tensor-type Q4_K_M": ["--tensor-type", "blk\\.[01]\\.ATTN_Q=q8_0", "--tensor-type", "ffn_down=q6_k", "Q4_K_M"],
    "include imatrix Q4_K_M": [*IM, "--include-weights", "ffn_down", "Q4_K_M"],
    "exclude imatrix Q4_K_M": [*IM, "--exclude-weights", "attn", "Q4_K_M"],
    "override-kv Q8_0": ["--override-kv", "general.name=str:renamed", "--override-kv", "llama.context_length=int:4096", "Q8_0"],
    "prune-layers 1 Q4_K_M": ["--prune-layers", "1", "Q4_K_M"],
}
for entry, words in OPTIONS.items():
    *options, kind = words
    run("quantize", "-q", *options, "moe4-bf16.gguf", "o.gguf", kind)
    expect(WORK / "o.gguf", entry)
(WORK / "rules.txt").write_text("blk\\.[01]\\.attn_q=q8_0\n  ffn_down=q6_k")
run("quantize", "-q", "--tensor-type-file", "rules.txt", source, "o.gguf", "Q4_K_M")
expect(WORK / "o.gguf", "tensor-type Q4_K_M")

# A .dat matrix holds the same numbers one rounding away: the same types and keys, nearly always the same bytes.
run("quantize", "-q", "--imatrix", "imatrix.dat", source, "o.gguf", "Q4_K_M")
kv, tensors = read_gguf(WORK / "o.gguf")
same(kv["quantize.imatrix.dataset"], "calibration.txt", "dataset of imatrix.dat")
same({n: t.dtype for n, t in tensors.items()}, {n: t[0] for n, t in golden["Q4_K_M"]["tensors"].items()}, "types with imatrix.dat")
remove(WORK / "o.gguf")

# Refused as there, before anything is written.
for entry, value in golden.items():
    if "refused" in value:
        result = run("quantize", source, "r.gguf", entry, expect=2)
        check("--imatrix" in result.err, f"{entry}: {result.err}")
check(not (WORK / "r.gguf").exists() and not leftovers(WORK), "a refused run leaves nothing")

# A directory in one pass gives the files of the two steps.
run("quantize", "-q", model, "-o", "direct.gguf=Q4_K_M", "-o", "copy.gguf=COPY")
expect(WORK / "direct.gguf", "Q4_K_M")
expect(WORK / "copy.gguf", "COPY")

# Words.
run("quantize", "-q", source, "q8_0", "2")
expect(WORK / "ggml-model-Q8_0.gguf", "Q8_0")
run("quantize", "-q", source, "o.gguf", "7")
run("quantize", "-q", source, "o.gguf", "Q8_0", expect=2)
run("quantize", "-q", "--force", source, "o.gguf", "Q8_0")
expect(WORK / "o.gguf", "Q8_0")
run("quantize", source, source, "Q8_0", "--force", expect=2)
os.symlink(source, WORK / "link.gguf")
run("quantize", source, "link.gguf", "Q8_0", "--force", expect=2)
same(sha256(source), before, "the input")
for words, code in ((["o.gguf"], 2), (["o.gguf", "Q9_X"], 2), (["o.gguf", "AWQ"], 2),
                    (["--frobnicate", "Q8_0"], 2),
                    (["-t", "2", "o.gguf", "Q8_0", "2"], 2), (["--imatrix", "absent.gguf", "o.gguf", "Q8_0"], 5),
                    (["--imatrix", source, "o.gguf", "Q8_0"], 3), (["--prune-layers", "9", "o.gguf", "Q8_0"], 2),
                    (["--include-weights", "a", "o.gguf", "Q8_0"], 2), (["--output-tensor-type", "q9", "o.gguf", "Q8_0"], 2)):
    run("quantize", source, *words, expect=code)
run("quantize", "absent.gguf", "o.gguf", "Q8_0", expect=5)
check(not (WORK / "o.gguf").exists(), "a refused run writes nothing")

# Without the reference's defects: the same file where none strikes, closer to the original where one does (columns that
# a pruned head left at zero, in IQ3_S).
run("quantize", "-q", "--fixed", *IM, "moe4-bf16.gguf", "o.gguf", "Q4_K_M")
expect(WORK / "o.gguf", "Q4_K_M+imatrix")
meta, tensors = read_safetensors(model / "model.safetensors")
name = "model.layers.0.self_attn.o_proj.weight"
o = tensors[name]
rows = [o.data[i:i + 512] for i in range(0, len(o.data), 512)]
tensors[name] = Tensor(o.dtype, o.shape, b"".join(r[:64] + bytes(64) + r[128:] for r in rows))
pruned = shutil.copytree(model, WORK / "pruned")
write_safetensors(pruned / "model.safetensors", tensors, {"format": "pt"})
rmse = []
for options in ([], ["--fixed"]):
    run("quantize", "-q", *options, "--tensor-type", "blk.0.attn_output=iq3_s", pruned, "o.gguf", "Q8_0")
    result = run("verify", pruned, "o.gguf", "--weights", "--json", "-q", expect=(0, 1)).json()["candidates"][0]["tensors"]
    rmse += [t["rmse"] for t in result if t["name"] == "blk.0.attn_output.weight" or t["name"] == name]
    remove(WORK / "o.gguf")
same(len(rmse), 2, "figures of the pruned tensor")
check(rmse[1] < 0.7 * rmse[0], f"rmse {rmse[0]} as the reference, {rmse[1]} fixed")

# Quantized sources.
run("quantize", "-q", source, "q8.gguf", "Q8_0")
result = run("quantize", "q8.gguf", "o.gguf", "Q4_0", expect=2)
check("--allow-requantize" in result.err, result.err)
run("quantize", "-q", "--allow-requantize", "q8.gguf", "o.gguf", "Q4_0")
types = {n: t.dtype for n, t in read_gguf(WORK / "o.gguf")[1].items()}
same(types, {n: t[0] for n, t in golden["Q4_0"]["tensors"].items()}, "types of a requantized file")
remove(WORK / "o.gguf")

# A dry run says what would be written, and writes nothing.
present = sorted(p.name for p in WORK.iterdir())
plan = run("quantize", "--dry-run", "--json", source, "o.gguf", "Q4_K_M").json()
same({t["name"]: t["to"] for t in plan["tensors"]}, {n: t[0] for n, t in golden["Q4_K_M"]["tensors"].items()}, "dry run")
check(4.5 < plan["bpw"] < 6 and plan["peak_memory_bytes"] > 0, f"dry run figures {plan['bpw']}")
result = run("quantize", "--dry-run", source, "o.gguf", "IQ2_XXS")
check("imatrix" in result.err, "a dry run warns that an importance matrix is needed")
same(sorted(p.name for p in WORK.iterdir()), present, "files after dry runs")

# Killed at numbered points, then rerun: the file of an undisturbed run, and nothing partial under its name.
tiny = WORK / "tiny.gguf"
run("convert", DATA / "models/tiny/mixtral", tiny, "--outtype", "bf16")
run("quantize", "-q", tiny, "whole.gguf", "Q8_0")
whole = sha256(WORK / "whole.gguf")
points = count_crash_points("quantize", "-q", tiny, "count.gguf", "Q8_0")
check(points > 5, f"{points} crash points")
step = 1 if everything else max(1, points // 20)
for at in range(1, points + 1, step):
    out = fresh("crash") / "o.gguf"
    run("quantize", "-q", tiny, out, "Q8_0", expect=(0, 137), env={"MOEGRAFT_CRASH_AT": at})
    if out.exists():
        same(sha256(out), whole, f"file present after a crash at point {at}")
    run("quantize", "-q", "--force", tiny, out, "Q8_0")
    same(sha256(out), whole, f"file after a crash at point {at}")
    same(leftovers(out.parent), [], f"leftovers after point {at}")

# Killed with -9 at random moments of a longer run.
moments = random.Random(4)
killed = 0
whole = run("quantize", "-q", "--json", source, fresh("kill") / "o.gguf", "Q4_K_M").json()
manifest = (WORK / "kill/o.gguf.manifest.json").read_bytes()
same(whole["bytes_read"], sum(len(t.data) for t in read_gguf(source)[1].values()), "bytes read: every tensor once, its digest included")
for _ in range(50 if everything else 5):
    out = fresh("kill") / "o.gguf"
    killed += run_killed("quantize", "-q", source, out, "Q4_K_M", after=moments.uniform(0.005, 0.3))
    if out.exists():
        same(sha256(out), golden["Q4_K_M"]["file_sha256"], "a file present after kill -9")
    run("quantize", "-q", "--force", source, out, "Q4_K_M")
    same(sha256(out), golden["Q4_K_M"]["file_sha256"], "file after kill -9 and a second run")
    check((WORK / "kill/o.gguf.manifest.json").read_bytes() == manifest, "another manifest after kill -9")
    same(leftovers(out.parent), [], "leftovers after kill -9")
print(f"{killed} runs were killed before they ended")

if everything:
    for entry, value in golden.items():
        if "refused" in value or " " in entry:
            continue
        kind, *with_matrix = entry.split("+")
        run("quantize", "-q", *(IM if with_matrix else []), "moe4-bf16.gguf", "o.gguf", kind)
        expect(WORK / "o.gguf", entry)
done()
