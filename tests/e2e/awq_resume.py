"""quantize AWQ and GPTQ in little memory and interrupted: the residual stream goes through temporary files, a run that was killed at
any point goes on after its last finished layer, and the bytes are those of one run in plenty; progress counts tokens and layers."""
import json
import random
import re
import shutil

import common

TINY = common.DATA / "models" / "tiny"
random.seed(5)
IDS = common.WORK / "ids.txt"
IDS.write_text("".join(" ".join(str(random.randrange(3, 60)) for _ in range(48)) + "\n" for _ in range(24)))
TOKENS = 24 * 48
CASES = (("mixtral", "awq", "--group-size", -1), ("mixtral", "gptq", "--group-size", -1, "--format", "compressed-tensors"),
         ("llama", "awq+gptq", "--group-size", 32))


def words(model, method, out, *options):
    return (TINY / model, common.WORK / out, "AWQ", "--method", method, "--tokens", IDS, *options, "-t", 1)


def contents(out):
    """All files, entries of the report sorted: they stand in the order of work, which depends on memory."""
    found = {k: v for k, v in common.tree(common.WORK / out).items() if "manifest" not in k and k != "calibration.json"}
    sort = lambda v: sorted(map(sort, v), key=str) if isinstance(v, list) else {k: sort(x) for k, x in v.items()} if isinstance(v, dict) else v
    return found, sort(json.loads((common.WORK / out / "calibration.json").read_text()))


def stage_of(out):
    folder = common.WORK / f".{out}.stage"
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.glob("*.safetensors")} if folder.exists() else {}


for model, method, *options in CASES:
    name = f"{model}-{method}"
    layers = json.loads((TINY / model / "config.json").read_text())["num_hidden_layers"]

    # ---- progress ----

    done = common.run("quantize", *words(model, method, name, *options), "--progress", "json")
    whole = contents(name)
    events = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    events = [e for e in events if e["event"] == "progress" and e["label"] == "calibrate"]
    passes = method.count("+") + 1
    common.check(events and all(e["total"] == TOKENS * layers * passes for e in events), f"{name}: {events}")
    counts = [e["done"] for e in events]
    common.check(counts == sorted(counts) and counts[-1] == events[-1]["total"] and all(n % TOKENS == 0 for n in counts), f"{name}: {events}")
    common.same(events[-1]["item"], f"{method.split('+')[-1]} layer {layers - 1}", f"{name}: the last item")

    # ---- little memory: the stream is spilled, which fails where no temporary file can be ----

    out = f"{name}-small"
    done = common.run("quantize", *words(model, method, out, *options), "--memory", "64KiB", "--progress", "none", expect=6)
    memory = f"{int(re.search(r'need ([0-9]+) KiB', done.err).group(1)) + 64}KiB"
    common.check(not stage_of(out) and not (common.WORK / out).exists(), f"{name}: a refusal left something")
    done = common.run("quantize", *words(model, method, out, *options), "--memory", memory, "--progress", "none", expect=5,
                      env={"TMPDIR": common.WORK / "nowhere"})
    common.check("nowhere" in done.err and not (common.WORK / out).exists(), done.err)
    temporary = common.fresh("temporary")
    common.run("quantize", *words(model, method, out, *options), "--memory", memory, "--progress", "none", env={"TMPDIR": temporary})
    common.same(contents(out), whole, f"{name}: bytes in {memory}")
    common.check(not list(temporary.iterdir()), f"{name}: temporary files stay behind")

    # ---- killed twice at random points ----

    out = f"{name}-killed"
    how = (*words(model, method, out, *options), "--progress", "none", "-q")
    points = common.count_crash_points("quantize", *how)
    common.same(contents(out), whole, f"{name}: bytes of another run")
    for first in sorted(random.sample(range(1, points), min(6, points - 1))):
        shutil.rmtree(common.WORK / out)
        common.run("quantize", *how, expect=None, env={"MOEGRAFT_CRASH_AT": first})
        kept = stage_of(out)
        common.check(not (common.WORK / out / "model.safetensors").exists() or not kept or len(kept) == layers * passes, f"{name}: {kept}")
        common.run("quantize", *how, expect=None, env={"MOEGRAFT_CRASH_AT": random.randrange(1, 8)})
        now = stage_of(out)
        common.check(not now or all(now.get(k) == v for k, v in kept.items()), f"{name}: finished layers were made again: {kept}, {now}")
        common.run("quantize", *how)
        common.same(contents(out), whole, f"{name}: after a kill at {first} of {points}")
        common.check(not stage_of(out), f"{name}: the work folder stays behind")
    shutil.rmtree(common.WORK / out)
common.done()
