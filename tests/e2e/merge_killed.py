"""merge and quantize killed with -9: at every numbered point, and at random moments. The rerun gives the bytes of an
undisturbed run, and nothing under a final name is ever partial."""
import random

import common
from common import DATA, WORK, check, run, same

# Journal often: small jobs would otherwise only ever start anew.
SYNC = {"MOEGRAFT_SYNC_BYTES": 1 << 16, "MOEGRAFT_SETTLE_BLOCK": 1 << 14}

# A merge of the small model: few bytes, the same steps. Its donors are one model, which only `random` gates accept.
tiny = DATA / "models/tiny/mistral"
small = WORK / "small.yml"
small.write_text(f"base_model: {tiny}\ngate_mode: random\nexperts:\n" + f"  - source_model: {tiny}\n" * 3)
big = DATA / "golden/merge/moe4_hidden.yml"
run("merge", big, WORK / "whole", "-q")
run("convert", WORK / "whole", WORK / "whole.gguf", "-q")


def complete(out, reference):
    """Whatever lies under a final name is whole: equal to the undisturbed run's file."""
    found = common.tree(out) if out.is_dir() else {"": common.sha256(out)} if out.exists() else {}
    for name, digest in found.items():
        if not name.startswith("."):
            same(digest, reference.get(name), f"{name} under its final name")


def result(out):
    return common.tree(out) if out.is_dir() else {"": common.sha256(out)}


def every_point(tool, arguments, name):
    folder = common.fresh("points")
    out = folder / name
    points = common.count_crash_points(tool, *arguments(out), env=SYNC)
    reference = result(out)
    check(points > 10, f"{tool}: only {points} crash points")
    for at in range(1, points + 1):
        out = common.fresh("points") / name
        run(tool, *arguments(out), env=SYNC | {"MOEGRAFT_CRASH_AT": at}, expect=137)
        complete(out, reference)
        again = run(tool, *arguments(out), expect=(0, 2))
        # 2: killed after the last rename, when the output is finished and the rerun refuses to replace it
        check(again.code == 0 or "exists" in again.err, f"{tool} at point {at}: {again.err}")
        same(result(out), reference, f"{tool} killed at point {at} of {points}")
        same(common.leftovers(out.parent), [], f"{tool} at point {at}: leftovers")


# one thread: with more, how many units one flush of the journal takes varies, and so does the number of points
every_point("merge", lambda out: [small, out, "-q", "-t", 1], "moe")
every_point("merge", lambda out: [small, out, "--to", "Q8_0", "-q", "-t", 1], "moe.gguf")
run("convert", tiny, WORK / "small.gguf", "-q")
every_point("quantize", lambda out: [WORK / "small.gguf", out, "Q8_0", "-q", "-t", 1], "q.gguf")


def random_moments(tool, arguments, name, times, seed):
    """Kill at moments spread over the whole run; restart without cleaning until it ends by itself."""
    import time
    rng = random.Random(seed)
    out = common.fresh("moments") / name
    start = time.monotonic()
    run(tool, *arguments(out))
    length, reference = time.monotonic() - start, result(out)
    killed = 0
    for _ in range(times):
        out = common.fresh("moments") / name
        killed += common.run_killed(tool, *arguments(out), after=rng.uniform(0, length), env=SYNC)
        complete(out, reference)
        again = run(tool, *arguments(out), expect=(0, 2))
        check(again.code == 0 or "exists" in again.err, again.err)
        same(result(out), reference, f"{tool} killed at a random moment")
    check(killed > times // 4, f"{tool}: only {killed} of {times} runs were killed before their end")


random_moments("merge", lambda out: [big, out, "-q"], "moe", 25, 1)
random_moments("quantize", lambda out: [WORK / "whole.gguf", out, "Q4_K_M", "-q"], "q.gguf", 25, 2)
common.done()
