"""quantize --feedback: closer to the original than the plain file and than one made with an importance matrix, in the same types and
of the same size; the same bytes for all threads, instruction sets and budgets, from a directory and from its GGUF; an interrupted run
goes on; what has no grid or no statistics is encoded as ever; what is refused."""
import json
import os
import random
import re

import common
from common import DATA, SAMPLES, WORK, check, leftovers, read_gguf, run, same, sha256
import moe4

PROSE, TINY = SAMPLES / "donors" / "prose", DATA / "models" / "tiny"
everything = bool(os.environ.get("MOEGRAFT_SHARED"))
TEXT = ("--text", SAMPLES / "text" / "calibration_prose.txt", "--samples", 8, "--ctx", 128)
EVAL = WORK / "eval.txt"
EVAL.write_text((SAMPLES / "text" / "prose.txt").read_text()[:2500])
Q8_ENDS = ("--token-embedding-type", "q8_0", "--output-tensor-type", "q8_0")  # so that layers are what differs


def divergence(path, reference=PROSE, text=("--text", EVAL, "--ctx", 128)):
    return run("verify", reference, path, *text, "--json", "-q").json()["candidates"][0]["kl"]["mean"]


def types_of(path):
    return {n: t.dtype for n, t in read_gguf(WORK / path)[1].items()}


def recipes(path):
    return {t["name"]: t["recipe"] for t in json.loads((WORK / f"{path}.manifest.json").read_text())["tensors"]}


# ---- better, in the same types ----

run("calibrate", PROSE, *TEXT[:2], "--ctx", 128, "--chunks", 8, "-o", "im.gguf", "-q")
for kind in ("Q4_K_S", "Q3_K_S", "Q2_K", "IQ4_XS") if everything else ("Q4_K_S", "Q2_K"):
    run("quantize", "-q", *Q8_ENDS, PROSE, "plain.gguf", kind, "--force")
    run("quantize", "-q", *Q8_ENDS, "--imatrix", "im.gguf", PROSE, "matrix.gguf", kind, "--force")
    made = run("quantize", *Q8_ENDS, "--feedback", *TEXT, PROSE, f"{kind}.gguf", kind, "--progress", "none")
    check("28 of 30 encoded tensors with error feedback" in made.err, made.err)
    same(types_of(f"{kind}.gguf"), types_of("plain.gguf"), f"types of {kind}")
    same((WORK / f"{kind}.gguf").stat().st_size, (WORK / "plain.gguf").stat().st_size, f"size of {kind}")
    kl = [divergence(f) for f in ("plain.gguf", "matrix.gguf", f"{kind}.gguf")]
    check(kl[2] < 0.6 * min(kl[:2]), f"{kind}: plain, matrix, feedback: {kl}")
same({r[0] for n, r in recipes("Q4_K_S.gguf").items() if ".attn_" in n or ".ffn_" in n} - {"feedback", "cast", "source"}, set(), "recipes")
same(recipes("Q4_K_S.gguf")["blk.0.ffn_up.weight"][:2], ["feedback", "Q4_K"], "recipe")
run("inspect", "Q4_K_S.gguf")

# ---- the same bytes ----

WORDS = (*Q8_ENDS, "--feedback", *TEXT[:2], "--samples", 3, "--ctx", 128, "--progress", "none", "-q")
run("convert", PROSE, "prose.gguf", "-q")
run("quantize", *WORDS, PROSE, "one.gguf", "Q4_K_S", "-t", 1)
for source, options, env in ((PROSE, ("-t", 3, "--memory", "6MiB"), {"MOEGRAFT_ISA": "avx2"}), ("prose.gguf", ("-t", 2), None)):
    run("quantize", *WORDS, *options, source, "other.gguf", "Q4_K_S", "--force", env=env)
    same(sha256(WORK / "other.gguf"), sha256(WORK / "one.gguf"), f"bytes with {source} {options} {env}")

# ---- an interrupted run goes on, with the same file and the same manifest ----

stage, killed = WORK / ".other.gguf.stage", 0
(WORK / "other.gguf").unlink()
for wait in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
    killed += common.run_killed("quantize", *WORDS, PROSE, WORK / "other.gguf", "Q4_K_S", after=wait)
    if stage.exists() and list(stage.glob("feedback-*.safetensors")):
        break
check(killed > 0, "the run was over before it could be killed")
finished = {p.name: p.stat().st_ino for p in stage.glob("*.safetensors")} if stage.exists() else {}
common.run_killed("quantize", *WORDS, PROSE, WORK / "other.gguf", "Q4_K_S", after=0.1)
if stage.exists():
    check(finished.items() <= {p.name: p.stat().st_ino for p in stage.glob("*.safetensors")}.items(), "a finished layer was done again")
run("quantize", *WORDS, PROSE, "other.gguf", "Q4_K_S", "--force")
same(sha256(WORK / "other.gguf"), sha256(WORK / "one.gguf"), f"bytes after a kill with {len(finished)} layers done")
same((WORK / "other.gguf.manifest.json").read_text().replace("other.gguf", "one.gguf"), (WORK / "one.gguf.manifest.json").read_text(), "manifest")
check(not stage.exists() and leftovers(WORK) == [], "the work folder stays behind")

# ---- a mixture: experts are stacked in the file, each has its own statistics ----

model = moe4.build(WORK / "moe4")
mixed = WORK / "mixed.txt"
mixed.write_text("".join((SAMPLES / f"text/calibration_{d}.txt").read_text()[:1000] for d in moe4.DONORS))
run("quantize", "-q", *Q8_ENDS, model, "moe-plain.gguf", "Q3_K_M")
run("quantize", "-q", *Q8_ENDS, "--feedback", "--text", mixed, "--ctx", 128, model, "moe.gguf", "Q3_K_M")
same(types_of("moe.gguf"), types_of("moe-plain.gguf"), "types of the mixture")
same({recipes("moe.gguf")[f"blk.{i}.ffn_{w}_exps.weight"][0] for i in range(4) for w in ("gate", "up", "down")}, {"feedback"}, "experts")
other = WORK / "other.txt"
other.write_text("".join((SAMPLES / f"text/{d}.txt").read_text()[:700] for d in moe4.DONORS))
kl = [divergence(f, model, ("--text", other, "--ctx", 128)) for f in ("moe-plain.gguf", "moe.gguf")]
check(kl[1] < 0.7 * kl[0], f"mixture: plain, feedback: {kl}")

# ---- rows that do not fit super-blocks, tensors that several roles share, few tokens, types without a grid ----

random.seed(3)
IDS = WORK / "ids.txt"
IDS.write_text("".join(" ".join(str(random.randrange(3, 60)) for _ in range(48)) + "\n" for _ in range(8)))
run("quantize", TINY / "mixtral", "tiny.gguf", "Q4_1", "--feedback", "--tokens", IDS, "-q")
run("quantize", TINY / "mixtral", "scalar.gguf", "Q4_1", "--feedback", "--tokens", IDS, "-q", "-t", 1, env={"MOEGRAFT_ISA": "scalar"})
same(sha256(WORK / "tiny.gguf"), sha256(WORK / "scalar.gguf"), "bytes without SIMD")
few = run("quantize", TINY / "mixtral", "few.gguf", "Q4_1", "--feedback", "--tokens", IDS, "--samples", 1, "--progress", "none")
run("quantize", TINY / "mixtral", "plain.gguf", "Q4_1", "--force", "-q")
few_tensors, plain_tensors = (read_gguf(WORK / f)[1] for f in ("few.gguf", "plain.gguf"))
check("fewer than" in few.err, f"48 tokens for all experts, and no warning: {few.err}")
for what, alike in (("down", True), ("gate", False), ("up", False)):
    name = f"blk.0.ffn_{what}_exps.weight"
    same(few_tensors[name].data == plain_tensors[name].data, alike, f"{name}, experts with few tokens: bytes of the plain file")
for name, kind in (("phi3", "Q4_0"), ("qwen2_moe", "Q5_1"), ("gemma2", "Q4_K_M"), ("deepseek_v2", "IQ4_NL"), ("gpt_oss", "Q4_1"), ("mesh_k2", "Q5_0")):
    done = run("quantize", TINY / name, "tiny.gguf", kind, "--feedback", "--tokens", IDS, "--force", "--progress", "none", "-v")
    run("quantize", TINY / name, "tiny-plain.gguf", kind, "--force", "-q")
    same(types_of("tiny.gguf"), types_of("tiny-plain.gguf"), f"types of {name}")
    fed = {n for n, r in recipes("tiny.gguf").items() if r[0] == "feedback"}
    check(fed and f"{len(fed)} of " in done.err, f"{name}: {sorted(fed)} {done.err}")
    kl = [divergence(f, TINY / name, ("--tokens", IDS)) for f in ("tiny-plain.gguf", "tiny.gguf")]
    check(kl[1] < kl[0], f"{name}: plain, feedback: {kl}")
    for n in fed:
        check(not re.search(rf"^.*{n}: \S+ without", done.err, re.M), f"{n} is listed as without feedback")

# Types by measurement, then feedback within them; what is promised is measured with it.
done = run("quantize", PROSE, "solved.gguf", "Q4_K_M", "--feedback", *TEXT[:2], "--samples", 2, "--ctx", 128, "--target-bpw", 4.5, "--target-types",
           "Q3_K,Q6_K", "--progress", "none")
promised, alone = (float(x) for x in re.search(r"divergence ([0-9.]+) nats.*\(([0-9.]+) as the sum", done.err).groups())
check(promised < 0.8 * alone and "28 of 30" in done.err, done.err)

# A quantized source, with leave; the importance matrix chooses types and serves what is not fed back.
run("quantize", "Q4_K_S.gguf", "again.gguf", "Q3_K_S", "--feedback", *TEXT, "-q", expect=2)
run("quantize", "Q4_K_S.gguf", "again.gguf", "Q3_K_S", *WORDS, "--allow-requantize")
run("quantize", "-q", "--imatrix", "im.gguf", PROSE, "iq.gguf", "IQ3_M", "--feedback", *WORDS[5:])
ops = {r[0] for n, r in recipes("iq.gguf").items() if n.startswith("blk.") and "norm" not in n}
same(ops, {"feedback", "cast"}, "IQ3_M has tensors of both kinds")
run("quantize", "--dry-run", PROSE, "never", "Q4_K_M", "--feedback", *TEXT)

# ---- refused, before anything is calculated ----

for words, said in ((("Q4_K_M", "--feedback"), "--text"), (("F16", "--feedback", *TEXT), "quantized TYPE"),
                    (("-o", "a.gguf=Q4_0", "-o", "b.gguf=Q4_1", "--feedback", *TEXT), "one output"),
                    (("never", "Q4_K_M", "--feedback", *TEXT, "--prune-layers", "1"), "--prune-layers"),
                    (("never", "Q4_K_M", "--feedback", *TEXT, "--fold-only"), "--feedback"),
                    (("never", "GPTQ", "--feedback", *TEXT), "--feedback"),
                    (("prose.gguf", "Q4_K_M", "--feedback", *TEXT), "exists"),
                    (("never", "Q2_K_S", "--feedback", *TEXT), "importance matrix")):
    common.refused(2, [said], words, "quantize", PROSE, *words)
common.refused(4, ["--feedback"], "a type without a grid", "quantize", PROSE, "never", "Q8_0", "--feedback", *TEXT)
common.refused(4, ["--feedback"], "codebooks", "quantize", PROSE, "never", "IQ3_S", "--pure", "--feedback", *TEXT)
check(not list(WORK.glob(".*.stage")), "a refused run leaves a work folder")
common.done()
