"""moegraft-calibrate: sums and counts computed here from what moegraft-forward captures, statistics computed here from
the file, both file forms, merging; the published matrix of the reference MoE when the shared data is at hand."""
import math
import os
import pathlib
import shutil
import struct

import common
from common import check, read_gguf, run, same, sha256

MIXTRAL, PROSE, BASE = common.DATA / "models/tiny/mixtral", common.SAMPLES / "donors/prose", common.SAMPLES / "donors/base"
GOLDEN = common.DATA / "golden/gguf"
work = common.WORK


def near(found, expected, tolerance, what):
    check(abs(found - expected) <= tolerance * abs(expected), f"{what}: {found}, expected {expected}")


def matrix(path):
    """(keys, {weight: ([sums of each expert], [counts])}) of a GGUF matrix."""
    kv, tensors = read_gguf(path)
    entries = {}
    for name, t in tensors.items():
        if not name.endswith(".in_sum2"):
            continue
        stem = name.removesuffix(".in_sum2")
        counts, sums = tensors[stem + ".counts"], t.floats()
        n = len(counts.floats())
        same(counts.shape, [n, 1] if n > 1 else [1], f"shape of {stem}.counts")
        same(t.shape, [n, len(sums) // n] if n > 1 else [len(sums)], f"shape of {name}")
        cols = len(sums) // n
        entries[stem] = ([sums[i * cols:(i + 1) * cols] for i in range(n)], counts.floats())
    same(len(entries) * 2, len(tensors), "tensors of the matrix")
    return kv, entries


def squares(flat, cols):
    return [math.fsum(v * v for v in flat[c::cols]) for c in range(cols)]


# A mixture of experts on rows of ids: which experts a token reached is told by the router's logits.
rows = [[1] + [(i * i * 7 + 13 * i + r * 31) % 200 + 3 for i in range(20 + 3 * r)] for r in range(4)]
tokens = work / "rows.txt"
tokens.write_text("\n".join(" ".join(map(str, r)) for r in rows) + "\n")
n_tokens = sum(map(len, rows))
made = run("calibrate", MIXTRAL, "--tokens", tokens, "-o", work / "moe.gguf", "--process-output", "--json")
kv, moe = matrix(work / "moe.gguf")
same(kv, {"general.type": "imatrix", "imatrix.datasets": ["rows.txt"], "imatrix.chunk_count": len(rows),
          "imatrix.chunk_size": max(map(len, rows))}, "keys")
names = list(read_gguf(work / "moe.gguf")[1])
same(names[::2], sorted(names[::2]), "order of names")
experts, hidden, layers = None, None, 0
captured = {}
for r, row in enumerate(rows):
    run("forward", MIXTRAL, "--ids", ",".join(map(str, row)), "-o", work / "x.safetensors", "--force", "--capture", "hidden,router")
    for name, t in common.read_safetensors(work / "x.safetensors")[1].items():
        captured.setdefault(name, []).extend(t.floats())
        experts = t.shape[-1] if name.startswith("router") else experts
        hidden = t.shape[-1] if name.startswith("hidden") else hidden
weights = common.read_hf_dir(MIXTRAL)
while f"router.{layers}" in captured:
    logits = captured[f"router.{layers}"]
    counts = [0] * experts
    for t in range(n_tokens):
        row = logits[t * experts:(t + 1) * experts]
        for e in sorted(range(experts), key=lambda e: -row[e])[:2]:
            counts[e] += 1
    for part in ("gate", "up", "down"):
        same(moe[f"blk.{layers}.ffn_{part}_exps.weight"][1], counts, f"tokens per expert of layer {layers} {part}")
    same(made.json()["layers"][layers], {"layer": layers, "counts": counts}, "coverage")
    same(moe[f"blk.{layers}.ffn_gate_exps.weight"], moe[f"blk.{layers}.ffn_up_exps.weight"], "gate and up share their input")
    # every token reaches two experts: their sums are twice the router's
    router = moe[f"blk.{layers}.ffn_gate_inp.weight"]
    same(router[1], [n_tokens], "rows of the router")
    for c, column in enumerate(zip(*moe[f"blk.{layers}.ffn_up_exps.weight"][0])):
        near(math.fsum(column), 2 * router[0][0][c], 1e-6, f"layer {layers} channel {c}")  # sums were rounded to f32
    layers += 1
check(layers >= 2, "layers with a router")
same(made.json()["experts"], layers * experts, "experts")
same(sorted(moe), sorted([f"blk.{l}.{w}.weight" for l in range(layers) for w in
                          ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps",
                           "ffn_down_exps")] + ["output.weight"]), "names")
norm, state = weights["model.layers.0.input_layernorm.weight"].floats(), captured["hidden.0"]
normed = []
for t in range(n_tokens):
    x = state[t * hidden:(t + 1) * hidden]
    scale = 1 / math.sqrt(math.fsum(v * v for v in x) / hidden + 1e-5)
    normed += [v * scale * w for v, w in zip(x, norm)]
for what, flat in [("blk.0.attn_q.weight", normed), ("output.weight", captured[f"hidden.{layers}"])]:
    same(moe[what][1], [n_tokens], f"rows of {what}")
    for c, expected in enumerate(squares(flat, hidden)):
        near(moe[what][0][0][c], expected, 1e-5, f"{what} channel {c}")  # f32 norm on one side

# Threads, instruction sets and batches change nothing; a matrix is not replaced unless asked; the head is left out.
whole = sha256(work / "moe.gguf")
for args, env in [(["-t", 1], {"MOEGRAFT_ISA": "scalar"}), (["-t", 3, "--memory", 1], {}), (["-t", 16], {"MOEGRAFT_ISA": "avx2"})]:
    run("calibrate", MIXTRAL, "--tokens", tokens, "-o", work / "moe.gguf", "--process-output", "--force", *args, env=env)
    same(sha256(work / "moe.gguf"), whole, f"matrix with {args} {env}")
run("calibrate", MIXTRAL, "--tokens", tokens, "-o", work / "plain.gguf")
same(matrix(work / "plain.gguf")[1], {k: v for k, v in moe.items() if k != "output.weight"}, "without the head")

# Experts without tokens: counted, said, written, and used by quantize.
one = work / "one.txt"
one.write_text("1 7\n")
few = run("calibrate", MIXTRAL, "--tokens", one, "-o", work / "few.gguf", "--json")
unseen = sum(c == 0 for l in few.json()["layers"] for c in l["counts"])
check(unseen > 0, "two tokens reach every expert")
same((few.json()["experts_without_tokens"], few.json()["experts_with_few_tokens"]), (unseen, layers * experts - unseen), "coverage")
check(f"{unseen} experts saw no token" in few.err, few.err)
check(f"without tokens {unseen}" in run("calibrate", MIXTRAL, "--tokens", one, "-o", work / "few.gguf", "--force").out, "coverage in words")

# Merging: two parts are the whole; one file alone is converted, here the published ones into each other.
for name, part in [("a", rows[:1]), ("b", rows[1:])]:
    (work / f"{name}.txt").write_text("\n".join(" ".join(map(str, r)) for r in part) + "\n")
    run("calibrate", MIXTRAL, "--tokens", work / f"{name}.txt", "-o", work / f"{name}.gguf")
run("calibrate", "--merge", work / "a.gguf", work / "b.gguf", "-o", work / "ab.gguf")
kv, merged = matrix(work / "ab.gguf")
same((kv["imatrix.datasets"], kv["imatrix.chunk_count"]), (["a.txt", "b.txt"], len(rows)), "what was merged")
for name, (sums, counts) in merged.items():
    same(counts, moe[name][1], f"merged counts of {name}")
    for e, column in enumerate(sums):
        for c, v in enumerate(column):  # three roundings to f32 instead of one
            near(v, moe[name][0][e][c], 2e-7, f"merged {name} {e} {c}")
for name in ("imatrix.gguf", "imatrix.dat"):
    run("calibrate", "--merge", GOLDEN / "imatrix.gguf", "-o", work / name)
    same(sha256(work / name), sha256(GOLDEN / name), f"{name} made from imatrix.gguf")
run("calibrate", "--merge", GOLDEN / "imatrix.dat", GOLDEN / "imatrix.dat", "-o", work / "twice.dat")
raw, once = (work / "twice.dat").read_bytes(), (GOLDEN / "imatrix.dat").read_bytes()
same((len(raw), raw[-23:-19]), (len(once), struct.pack("<i", 122)), "two .dat files: size and chunks")

# Statistics, computed here.
stats = run("calibrate", "--show-statistics", work / "moe.gguf", "--json").json()
same((stats["chunk_count"], stats["datasets"], len(stats["entries"])), (len(rows), ["rows.txt"], len(moe)), "about the file")
for entry in stats["entries"]:
    name = entry["name"]
    sums, counts = moe[name]
    a = [v / n for col, n in zip(sums, counts) if n for v in col]
    mean = math.fsum(a) / len(a)
    dev = math.sqrt(math.fsum(v * v for v in a) / len(a) - mean * mean)
    entropy = -math.fsum(v / sum(a) * math.log2(v / sum(a)) for v in a if v > 0)
    same((entry["n"], entry["counts"], entry["min"], entry["max"]), (len(a), counts, min(a), max(a)), name)
    for key, v in [("sum", sum(a)), ("mean", mean), ("stddev", dev), ("entropy", entropy), ("entropy_normalized", entropy / math.log2(len(a))),
                   ("active", sum(v > 1e-5 for v in a) / len(a)), ("zd", sum((v - mean) / dev > 1 for v in a) / len(a))]:
        near(entry[key], v, 1e-9, f"{key} of {name}")
    before = name.replace("blk.1.", "blk.0.") if name.startswith("blk.1.") else None
    if name.startswith("blk.0.") or not name.startswith("blk."):
        same(entry["cosine"], None, f"cosine of {name}")
    elif before:
        x, y = sum(sums, []), sum(moe[before][0], [])
        near(entry["cosine"], math.fsum(p * q for p, q in zip(x, y)) / math.hypot(*x) / math.hypot(*y), 1e-9, f"cosine of {name}")
same(run("calibrate", "--show-statistics", GOLDEN / "imatrix.dat", "--json").json()["format"], "dat", "form")
lines = run("calibrate", "--show-statistics", GOLDEN / "imatrix.gguf").out.splitlines()
same(len(lines), 2 + 32, "lines of the table")

# A dense model on text, as a directory and as GGUF; quantize takes the matrix for every weight that wants one.
text = work / "text.txt"
text.write_text((common.SAMPLES / "text/calibration_prose.txt").read_text()[:700])
run("calibrate", PROSE, "--text", text, "--ctx", 32, "--chunks", 5, "-o", work / "dense.gguf")
kv, dense = matrix(work / "dense.gguf")
same((kv["imatrix.datasets"], kv["imatrix.chunk_count"], kv["imatrix.chunk_size"]), (["text.txt"], 5, 32), "about the text")
same({c for _, (_, counts) in dense.items() for c in counts}, {5 * 32.0}, "rows")
check("blk.0.ffn_down.weight" in dense and "blk.0.ffn_gate_exps.weight" not in dense, "names of a dense model")
gguf = work / "prose-bf16.gguf"
run("convert", PROSE, gguf, "--outtype", "bf16")
run("calibrate", gguf, "--text", text, "--ctx", 32, "--chunks", 5, "-o", work / "dense2.gguf")
same(sha256(work / "dense2.gguf"), sha256(work / "dense.gguf"), "matrix from the GGUF form")
for form in ("gguf", "dat"):
    run("calibrate", "--merge", work / "dense.gguf", "-o", work / f"form.{form}")
    done = run("quantize", "-v", gguf, work / f"q-{form}.gguf", "Q4_K_M", "--imatrix", work / f"form.{form}")
    missing = [line for line in done.err.splitlines() if "not in the importance matrix" in line and ": blk." in line]
    same(missing, [], f"block weights without importance ({form})")
    same(read_gguf(work / f"q-{form}.gguf")[0]["quantize.imatrix.entries_count"], len(dense), "entries that quantize saw")
run("quantize", gguf, work / "plain-q.gguf", "Q4_K_M")
check(read_gguf(work / "plain-q.gguf")[1]["blk.0.attn_q.weight"].data != read_gguf(work / "q-gguf.gguf")[1]["blk.0.attn_q.weight"].data,
      "the matrix changes nothing")

# A recipe is a model too.
shutil.copytree(common.SAMPLES / "donors", work / "donors")
(work / "two.yml").write_text("merge_method: linear\nmodels:\n  - model: donors/base\n    parameters: {weight: 0.5}\n"
                              "  - model: donors/prose\n    parameters: {weight: 0.5}\n")
run("calibrate", work / "two.yml", "--text", text, "--ctx", 32, "--chunks", 2, "-o", work / "recipe.gguf")
same(sorted(matrix(work / "recipe.gguf")[1]), sorted(dense), "names of a recipe's weights")

# Refusals: before any work, and nothing is left behind.
cut = work / "cut.gguf"
cut.write_bytes((work / "a.gguf").read_bytes()[:-200])
broken = common.fresh("broken")
for p in PROSE.iterdir():
    shutil.copy(p, broken / p.name)
tensors = common.read_safetensors(PROSE / "model.safetensors")[1]
t = tensors["model.layers.1.input_layernorm.weight"]
inf = {"F32": b"\0\0\x80\x7f", "BF16": b"\x80\x7f", "F16": b"\0\x7c"}[t.dtype]
t.data = inf + t.data[len(inf):]
common.write_safetensors(broken / "model.safetensors", tensors, {"format": "pt"})
for code, args in [(2, [MIXTRAL, "--tokens", tokens]), (2, [MIXTRAL, "-o", work / "x.gguf"]), (2, ["--tokens", tokens, "-o", work / "x.gguf"]),
                   (2, [MIXTRAL, "--tokens", tokens, "-o", work / "moe.gguf"]), (2, ["--merge", "-o", work / "x.gguf"]),
                   (2, ["--merge", work / "a.gguf", "--text", text, "-o", work / "x.gguf"]),
                   (2, ["--show-statistics", work / "a.gguf", "-o", work / "x.gguf"]),
                   (2, [PROSE, "--text", text, "--ctx", 4096, "-o", work / "x.gguf"]),
                   (5, [MIXTRAL, "--tokens", tokens, "-o", work / "absent/x.gguf"]),
                   (8, ["--merge", work / "a.gguf", GOLDEN / "imatrix.gguf", "-o", work / "x.gguf"]),
                   (3, ["--merge", cut, "-o", work / "x.gguf"]), (3, ["--merge", gguf, "-o", work / "x.gguf"]),
                   (3, ["--show-statistics", text]), (3, [broken, "--text", text, "--ctx", 32, "-o", work / "x.gguf"])]:
    run("calibrate", *args, expect=code)
check(not (work / "x.gguf").exists(), "a refused run wrote its output")
same(common.leftovers(work), [], "partial files")

# The published matrix of the reference MoE, made with an f32 cache: equal counts, sums within 1e-3 (llama.cpp computes in
# other orders and with its own activation functions).
shared = os.environ.get("MOEGRAFT_SHARED")
if shared:
    shared = pathlib.Path(shared)
    for model in (shared / "models/moe4", shared / "golden/gguf/moe4-bf16.gguf"):
        run("calibrate", model, "--text", shared / "models/text/calibration.txt", "-o", work / "moe4.gguf", "--force")
        expected, found = matrix(shared / "golden/gguf/imatrix-f32kv.gguf"), matrix(work / "moe4.gguf")
        same(found[0] | {"imatrix.datasets": 0}, expected[0] | {"imatrix.datasets": 0}, "keys")
        same(sorted(found[1]), sorted(expected[1]), "names")
        for name, (sums, counts) in expected[1].items():
            same(found[1][name][1], counts, f"counts of {name}")
            for x, y in zip(sum(found[1][name][0], []), sum(sums, [])):
                near(x, y, 1e-3, name)
common.done()
