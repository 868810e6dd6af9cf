"""Outputs written by several processes: shares in any order, at once, killed, run again; completed by finalize, by the last rank or by
a run alone. The bytes are those of a plain run; what does not fit together is refused."""
import fcntl
import json
import os
import random
import resource
import subprocess

import common
from common import BIN, DATA, SAMPLES, WORK, check, run, same

SYNC = {"MOEGRAFT_SYNC_BYTES": 1 << 16}
tiny = DATA / "models/tiny/mistral"
recipe = WORK / "small.yml"
recipe.write_text(f"base_model: {tiny}\ngate_mode: random\nexperts:\n" + f"  - source_model: {tiny}\n" * 3)
SAME = "--i-understand-this-is-not-useful-without-training"
moe4 = SAMPLES / "moe4.yml"
TEXT = ["--text", SAMPLES / "text/prose.txt", "--ctx", "64", "--samples", "2", "-q"]
LAUNCHERS = ("OMPI_", "PMI", "MV2_", "SLURM_")
for name in [n for n in os.environ if n.startswith(LAUNCHERS)]:
    del os.environ[name]


def hidden(folder):
    return sorted(p.name for p in folder.rglob(".*"))


def rank(tool, arguments, out, r, n, **more):
    return run(tool, *arguments(out), "--rank", r, "--world", n, **more)


def at_once(tool, arguments, out, n, *more):
    """All ranks at the same time."""
    runs = [subprocess.Popen([str(BIN / f"moegraft-{tool}")] + [str(a) for a in [*arguments(out), "--rank", r, "--world", n, *more]],
                             cwd=WORK, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for r in range(n)]
    found = [(p.communicate(), p.returncode) for p in runs]
    for (text, error), code in found:
        same(code, 0, f"{tool}: a rank of {n}: {error.decode()}")
    return [text.decode() for (text, _), _ in found]


# ---- the bytes of a plain run, in every order and at once ----
run("convert", tiny, WORK / "tiny.gguf", "-q")
run("merge", moe4, WORK / "moe4", "--gate", "random", "-q")
run("convert", WORK / "moe4", WORK / "moe4.gguf", "-q")
jobs = [
    ("merge", lambda out: [moe4, out, "--to", "Q4_K_M", "--gate", "hidden", "--manifest", "-q"], "m.gguf"),
    ("merge", lambda out: [recipe, out, SAME, "--out-shard-size", "60K", "--manifest", "-q"], "moe"),
    ("merge", lambda out: [moe4, "-o", f"{out}=Q8_0", "-o", f"{out.parent}/b.gguf=F16", "--gate", "random", "-q"], "a.gguf"),
    ("convert", lambda out: [WORK / "moe4", out, "--outtype", "f16", "-q"], "c.gguf"),
    ("convert", lambda out: [WORK / "moe4.gguf", out, "-q"], "hf"),
    ("convert", lambda out: [WORK / "moe4.gguf", out, "--split-max-size", "2M", "-q"], "parts.gguf"),
    ("quantize", lambda out: [WORK / "moe4.gguf", out, "Q6_K", "-q"], "q.gguf"),
    ("quantize", lambda out: [WORK / "moe4", out, "RTN", "--group-size", "32", "-q"], "rtn"),
    ("quantize", lambda out: [SAMPLES / "donors/prose", out, "AWQ", "--group-size", "64", *TEXT], "awq"),
    ("quantize", lambda out: [SAMPLES / "donors/prose", out, "GPTQ", "--group-size", "64", *TEXT], "gptq"),
    ("quantize", lambda out: [SAMPLES / "donors/prose", out, "Q4_K", "--feedback", *TEXT], "f.gguf"),
    ("extract", lambda out: [WORK / "moe4", out, "--expert", "1", "--manifest", "-q"], "one"),
    ("graft", lambda out: [WORK / "moe4", out, "--drop", "2", "-q"], "three"),
]
rng = random.Random(1)
for number, (tool, arguments, name) in enumerate(jobs):
    plain = common.fresh("plain") / name
    run(tool, *arguments(plain))
    expected = common.tree(plain.parent)
    for n in (2, 3, 5) if number < 2 else (rng.choice((2, 3, 5)),):
        out = common.fresh("ranks") / name
        order = list(range(n))
        rng.shuffle(order)
        for r in order:
            found = rank(tool, arguments, out, r, n)
            check(f"rank {r} of {n}" in found.out, f"{tool}: {found.out}")
            same([p for p in common.tree(out.parent) if not any(x.startswith(".") for x in p.split("/"))], [],
                 f"{tool}: a final name before finalize")
        last = run("finalize", out)
        same(common.tree(out.parent), expected, f"{tool} to {name}, ranks {order} one by one")
        for path, digest in expected.items():
            if path.endswith((".gguf", ".safetensors")):
                check(digest in last.out, f"finalize names {path} and its sha256: {last.out}")
        out = common.fresh("once") / name
        at_once(tool, arguments, out, n)
        run("finalize", out, "-q")
        same(common.tree(out.parent), expected, f"{tool} to {name}, {n} ranks at once")

# the last rank completes it itself: exactly one does
tool, arguments, name = jobs[1]
run(tool, *arguments(common.fresh("plain") / name))
expected = common.tree(WORK / "plain")
for n in (2, 5):
    out = common.fresh("last") / name
    texts = at_once(tool, arguments, out, n, "--finalize")
    same(common.tree(out.parent), expected, f"{n} ranks with --finalize")
    same(sum("model-00001" in t for t in texts), 1, "ranks that completed the output")
check("no ranks have left" in run("finalize", out).err, "nothing left to complete")

# one rank of one is an ordinary run
out = common.fresh("one") / name
rank(tool, arguments, out, 0, 1)
same(common.tree(out.parent), expected, "one rank of one")
run("finalize", out)

# ---- what launchers say ----
launched = [
    ({"OMPI_COMM_WORLD_RANK": 1, "OMPI_COMM_WORLD_SIZE": 3}, 1, 3),
    ({"PMI_RANK": 2, "PMI_SIZE": 3}, 2, 3),
    ({"PMIX_RANK": 0, "SLURM_NTASKS": 3, "SLURM_PROCID": 0}, 0, 3),
    ({"SLURM_PROCID": 2, "SLURM_NTASKS": 4}, 2, 4),
    ({"SLURM_PROCID": 2, "SLURM_NTASKS": 4, "SLURM_JOB_ID": 7, "SLURM_STEP_ID": 0}, 2, 4),
    ({"SLURM_ARRAY_TASK_ID": 5, "SLURM_ARRAY_TASK_COUNT": 4, "SLURM_ARRAY_TASK_MIN": 3, "SLURM_PROCID": 0, "SLURM_NTASKS": 1}, 2, 4),
    ({"SLURM_ARRAY_TASK_ID": 7, "SLURM_ARRAY_TASK_COUNT": 4, "SLURM_ARRAY_TASK_MIN": 3, "SLURM_ARRAY_TASK_STEP": 2}, 2, 4),
]
for env, r, n in launched:
    found = run(tool, *arguments(WORK / "never"), "--dry-run", "--json", env=env)
    same((found.json()["rank"], found.json()["world"]), (r, n), f"{env}")
    check(f"rank {r} of {n} (from {next(iter(env))})" in found.err or "SLURM_PROCID" in found.err, found.err)
    found = run(tool, *arguments(WORK / "never"), "--dry-run", "--json", "--rank", 1, "--world", 2, env=env).json()
    same((found["rank"], found["world"]), (1, 2), "options win")
for env in ({"OMPI_COMM_WORLD_RANK": 0, "OMPI_COMM_WORLD_SIZE": 1}, {"SLURM_PROCID": 0, "SLURM_NTASKS": 4, "SLURM_JOB_ID": 7},
            {"OMPI_COMM_WORLD_RANK": 0}):
    check("rank" not in run(tool, *arguments(WORK / "never"), "--dry-run", "--json", env=env).json(), f"alone: {env}")
for env in ({"PMI_RANK": 3, "PMI_SIZE": 3}, {"PMI_RANK": "x", "PMI_SIZE": 3}, {"PMI_RANK": 0, "PMI_SIZE": 0},
            {"SLURM_ARRAY_TASK_ID": 9, "SLURM_ARRAY_TASK_COUNT": 4, "SLURM_ARRAY_TASK_MIN": 3}):
    run(tool, *arguments(WORK / "never"), env=env, expect=2)
same([p.name for p in WORK.glob("*never*")], [], "something was written")
for bad in (["--rank", 1], ["--world", 2], ["--rank", 2, "--world", 2], ["--rank", 0, "--world", 0], ["--rank", 0, "--world", 1 << 20],
            ["--finalize"]):
    common.refused(2, [], f"{bad}", tool, *arguments(WORK / "never"), *bad)

# ---- shares ----
plan = run("merge", moe4, WORK / "never", "--gate", "random", "--dry-run", "--json", "--rank", 0, "--world", 3).json()
shares = plan["shares"]
same([s["rank"] for s in shares], [0, 1, 2], "shares")
same(sum(s["bytes"] for s in shares), plan["bytes"], "bytes of all shares")
same([s["first_unit"] for s in shares], [0, shares[0]["units"], shares[0]["units"] + shares[1]["units"]], "shares follow each other")
check(all(0.2 < s["cost"] < 0.5 for s in shares), f"shares are even: {shares}")
check("* rank 1 of 3" in run("merge", moe4, WORK / "never", "--gate", "random", "--dry-run", "--rank", 1, "--world", 3).out, "table")

# ---- what is missing, and what does not fit together ----
out = common.fresh("parts") / name
rank(tool, arguments, out, 1, 3)
found = run("finalize", out, expect=7)
check("the ranks (units missing) 0 (" in found.err and ", 2 (" in found.err and "--world 3" in found.err, found.err)
same(hidden(out), hidden(out), "files")
for more, words in ((["--rank", 0, "--world", 2], "ranks of 3 have begun"), (["--rank", 0, "--world", 3, "--random-seed", 5], "other inputs or options"),
                    (["--random-seed", 5], "other inputs or options")):
    found = run(tool, *arguments(out), *more, expect=8)
    check(words in found.err, found.err)
# rank 1 at work: neither finalize, nor a run alone, nor the same rank again
journal = out / ".moe.1-of-3.journal"
with open(journal) as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    for attempt in (lambda: run("finalize", out, expect=5), lambda: run(tool, *arguments(out), expect=5),
                    lambda: rank(tool, arguments, out, 1, 3, expect=5)):
        check("is at work" in (text := attempt().err) or "holds the lock" in text, text)
    rank(tool, arguments, out, 0, 3)
rank(tool, arguments, out, 2, 3)
# a byte that is not what rank 0 claimed: named with its rank, which does it again
part = next(p for p in sorted(out.glob(".model-00001*.part")))
data = bytearray(part.read_bytes())
data[-1] ^= 1
part.write_bytes(data)
found = run("finalize", out, expect=7)
check("what rank 0 has claimed" in found.err and "--rank 0 --world 3" in found.err, found.err)
rank(tool, arguments, out, 0, 3)
run("finalize", out, "-q")
same(common.tree(out.parent), expected, "after a damaged share")
# what ranks agreed on, damaged or cut short
for change in (lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:], lambda b: b[:-1], lambda b: b + b"x", lambda b: b"junk" * 20):
    out = common.fresh("parts") / name
    rank(tool, arguments, out, 0, 2)
    agreed = out / ".moe.ranks"
    agreed.write_bytes(change(agreed.read_bytes()))
    run("finalize", out, expect=7)
    rank(tool, arguments, out, 1, 2, expect=7)
for r in (0, 1):
    run(tool, *arguments(out), "--rank", r, "--world", 2, "--restart")
run("finalize", out, "-q")
same(common.tree(out.parent), expected, "--restart of all ranks")
run("finalize", WORK / "nowhere", expect=2)
# an existing output
rank(tool, arguments, out, 0, 2, expect=2)
for r in (0, 1):
    run(tool, *arguments(out), "--rank", r, "--world", 2, "--force")
check("exists already" in run("finalize", out, expect=2).err, "finalize without --force")
run("finalize", out, "--force", "-q")
same(common.tree(out.parent), expected, "--force")
run("merge", recipe, "-o", f"{common.fresh('x')}/a.gguf=F16", "-o", f"{common.fresh('y')}/a.gguf=F32", SAME, "--rank", 0, "--world", 2, expect=4)

# ---- ranks, interrupted runs and runs alone compose ----
out = common.fresh("mixed") / name
points = common.count_crash_points(tool, *arguments(common.fresh("points") / name), "-t", 1, env=SYNC)
run(tool, *arguments(out), "-t", 1, env=SYNC | {"MOEGRAFT_CRASH_AT": points // 2}, expect=137)  # a run alone, killed
first = rank(tool, arguments, out, 0, 2)  # finds some of its share done
rank(tool, arguments, out, 1, 2)
run("finalize", out, "-q")
same(common.tree(out.parent), expected, "ranks go on where a run alone was killed")
out = common.fresh("mixed") / name
rank(tool, arguments, out, 1, 2)
run(tool, *arguments(out))
same(common.tree(out.parent), expected, "a run alone takes over what a rank did")

# ---- killed at every point: the rank, then finalize ----
def killed(tool, arguments, name, every):
    plain = common.fresh("plain") / name
    run(tool, *arguments(plain), "-t", 1)
    expected = common.tree(plain.parent)
    share = ["--rank", 0, "--world", 2, "-t", 1]
    points = common.count_crash_points(tool, *arguments(common.fresh("points") / name), *share, env=SYNC)
    for at in range(1, points + 1, every):
        out = common.fresh("points") / name
        run(tool, *arguments(out), *share, env=SYNC | {"MOEGRAFT_CRASH_AT": at}, expect=137)
        run("finalize", out, expect=(2, 7)) if out.exists() else None
        run(tool, *arguments(out), "--rank", 1, "--world", 2, "-t", 1)
        run(tool, *arguments(out), *share)
        run("finalize", out, "-q")
        same(common.tree(out.parent), expected, f"{tool}: rank 0 killed at point {at} of {points}")
    def both(out):
        for r in (0, 1):
            run(tool, *arguments(out), "--rank", r, "--world", 2, "-t", 1)
        return out
    points = common.count_crash_points("finalize", both(common.fresh("points") / name), "-t", 1, "-q", env=SYNC)
    for at in range(1, points + 1, every):
        out = both(common.fresh("points") / name)
        run("finalize", out, "-t", 1, "-q", env=SYNC | {"MOEGRAFT_CRASH_AT": at}, expect=137)
        for path, digest in common.tree(out.parent).items():
            if not path.split("/")[-1].startswith("."):
                same(digest, expected.get(path), f"{path} under its final name, finalize killed at {at}")
        run("finalize", out, "-q")
        same(common.tree(out.parent), expected, f"{tool}: finalize killed at point {at} of {points}")


killed("quantize", lambda out: [WORK / "tiny.gguf", out, "Q8_0", "-q"], "q.gguf", 2)
killed(tool, arguments, name, 9)

# ---- clean ----
out = common.fresh("clean") / name
rank(tool, arguments, out, 0, 2)
with open(out / ".moe.0-of-2.journal") as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    before = hidden(out)
    check(run("clean", out, "--json").json()["files"] == 0, "a rank is at work")
    same(hidden(out), before, "a rank is at work")
run("clean", out)
same(hidden(out), [], "clean after ranks")
for r in (0, 1):
    rank(tool, arguments, out, r, 2)
check("moegraft finalize" in run("clean", out).out, "all ranks are done")
run("finalize", out, "-q")
same(common.tree(out.parent)["moe/config.json"], expected["moe/config.json"], "finalized after clean")

# ---- a file system that takes no more ----
def limited(arguments, limit):
    def set_limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return subprocess.run([str(a) for a in arguments], cwd=WORK, capture_output=True, text=True, preexec_fn=set_limit)


out = common.fresh("full") / name
command = [BIN / f"moegraft-{tool}", *arguments(out), "--rank", 0, "--world", 2]
found = limited(command, 50000)
same(found.returncode, 5, found.stderr)
same([n for n in hidden(out) if not n.endswith("stage-lock")], [], "a rank that could not begin leaves nothing")
rank(tool, arguments, out, 1, 2)
same(limited(command, 50000).returncode, 5, "beside another rank's work")
rank(tool, arguments, out, 0, 2)
run("finalize", out, "-q")
same(common.tree(out.parent), expected, "after the limit is gone")

common.done()
