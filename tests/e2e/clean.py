"""moegraft-clean: what killed runs leave goes, wherever they were killed; sets that only lack their names, files that a process holds
and files of others stay."""
import fcntl
import json
import os
import common
from common import DATA, SAMPLES, WORK, check, run, same

tiny = DATA / "models/tiny/mistral"
recipe = WORK / "small.yml"
recipe.write_text(f"base_model: {tiny}\ngate_mode: random\nexperts:\n" + f"  - source_model: {tiny}\n" * 3)
# One thread: with more, which of them flushes is a matter of chance, and so is the number of points.
ARGS = ["--i-understand-this-is-not-useful-without-training", "-q", "-t", "1"]
SYNC = {"MOEGRAFT_SYNC_BYTES": 1 << 16}
run("merge", recipe, WORK / "whole", *ARGS)
whole = common.tree(WORK / "whole")
points = common.count_crash_points("merge", recipe, common.fresh("points") / "out", *ARGS, env=SYNC)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def ours(folder):
    return [n for n in names(folder) if n.startswith(".")]


# ---- killed at every other point, and at every one near the end, where names are given: nothing of ours is left, whatever else
# is there stays ----
cleaned = waiting = 0
for at in [*range(1, points - 14, 2), *range(points - 14, points + 1)]:
    out = common.fresh("points") / "out"
    run("merge", recipe, out, *ARGS, env=SYNC | {"MOEGRAFT_CRASH_AT": at}, expect=137)
    if not out.exists():
        continue
    (out / "notes.txt").write_text("mine")
    before, final = common.tree(out), {n for n in names(out) if not n.startswith(".")}
    dry = run("clean", out, "--dry-run", "--json").json()
    same(common.tree(out), before, f"point {at}: a dry run touched something")
    r = run("clean", out, "--json").json()
    same([x["path"] for x in dry["removed"]], [x["path"] for x in r["removed"]], f"point {at}: dry run and run")
    same((r["files"], r["bytes"]), (len(r["removed"]), sum(x["bytes"] for x in r["removed"])), f"point {at}: sums")
    same(final - set(names(out)), set(), f"point {at}: a file under its final name is gone")
    if ours(out):  # complete but for its names: a rerun finishes it
        waiting += 1
        check(any("run its command again" in x["why"] for x in r["kept"]), f"point {at}: {r}")
        run("merge", recipe, out, *ARGS, env=SYNC)
        (out / "notes.txt").unlink()
        same(common.tree(out), whole, f"point {at}: finished after all")
    else:
        cleaned += bool(r["removed"])
        same(run("clean", out, "--json").json(), {"schema": 1, "files": 0, "bytes": 0, "removed": [], "kept": []}, f"point {at}: again")
check(cleaned > 5 and waiting > 1, f"{cleaned} runs cleaned, {waiting} waiting for their names, of {points} points")

# ---- what a process holds, and what is not ours ----
out = common.fresh("points") / "out"
at = next(at for at in range(points // 2, points + 1) if run("merge", recipe, common.fresh("points") / "out", *ARGS, env=SYNC | {"MOEGRAFT_CRASH_AT": at}, expect=137)
          and out.exists() and any(n.endswith(".part") for n in ours(out)) and any(n.endswith(".journal") for n in ours(out)))
journal = next(p for p in out.iterdir() if p.name.endswith(".journal"))
before = common.tree(out)
with open(journal, "r+b") as f:
    fcntl.flock(f, fcntl.LOCK_EX)
    r = run("clean", out, "--all", "--json").json()
same((common.tree(out), r["removed"]), (before, []), "a run at work")
check(any("another process" in k["why"] for k in r["kept"]), f"{r}")
text = run("clean", out).out
check("removed  " in text and text.splitlines()[-1].endswith("bytes removed"), text)
same(ours(out), [], "after the process has gone")

place = common.fresh("place")
(place / ".report.html.part").write_text("half a page")
(place / ".somebody.journal").write_text("dear diary, " * 20)
(place / "plain.part").write_text("x")
(place / ".dir.part").mkdir()
os.symlink(WORK / "whole/config.json", place / ".link.part")
os.symlink(WORK / "whole", place / ".link.stage")
other = common.read_safetensors(SAMPLES / "donors/base/model.safetensors")[1]
small = {"x": common.f32([1.0])}
common.write_safetensors(place / ".mine.safetensors", small)
common.write_safetensors(place / ".moe.router.safetensors", small, {"stage_id": "0" * 32})
stage = place / ".out.stage"
stage.mkdir()
common.write_safetensors(stage / "awq-00000.safetensors", small, {"stage_id": "0" * 32})
before = common.tree(place)
r = run("clean", place, "--json").json()
same((common.tree(place), r["removed"]), (before, []), "without --all nothing of this goes")
kept = {os.path.relpath(k["path"], place): k["why"] for k in r["kept"]}
same(sorted(kept), [".dir.part", ".link.part", ".moe.router.safetensors", ".out.stage/awq-00000.safetensors", ".report.html.part", ".somebody.journal"],
     "what is named")
check("--all" in kept[".out.stage/awq-00000.safetensors"] and "--all" in kept[".moe.router.safetensors"], f"{kept}")
(place / ".somebody.journal").rename(place / "diary")  # with it there nobody knows whose part files are
r = run("clean", place, "--all", "--json").json()
same(sorted(os.path.relpath(x["path"], place) for x in r["removed"]), [".moe.router.safetensors", ".out.stage/awq-00000.safetensors", ".report.html.part"],
     "--all")
same(names(place), [".dir.part", ".link.part", ".link.stage", ".mine.safetensors", "diary", "plain.part"], "what is left")
same(common.tree(WORK / "whole"), whole, "what links lead to")

# ---- refusals ----
run("clean", expect=2)
run("clean", recipe, expect=2)
check("absent" in run("clean", WORK / "absent", expect=5).err, "a directory that is not there")
common.done()
