"""Experts told by what they must not get alone ("zero positive prompting"): `fit` reads a token of a negative prompt as anyone's but
this expert's; every pair of gates is compared in what a merge says."""
import re

import common
from common import SAMPLES, WORK, check, run, same

KINDS = ("prose", "code", "math", "json")
LINES = {k: [t for t in (SAMPLES / f"text/{k}.txt").read_text().splitlines() if len(t) > 20] for k in KINDS}


def recipe(name, positive=None, mode="fit", negative=True):
    text = f"base_model: {SAMPLES}/donors/base\ngate_mode: {mode}\nexperts:\n"
    for k in KINDS:
        others = [t for other in KINDS if other != k for t in LINES[other][:6]]
        text += f"  - source_model: {SAMPLES}/donors/{k}\n"
        text += f"    positive_prompts: {common.json.dumps(positive)}\n" if positive is not None else ""
        text += f"    negative_prompts: {common.json.dumps(others)}\n" if negative else ""
    (WORK / f"{name}.yml").write_text(text)
    return WORK / f"{name}.yml"


sets = []
for e, k in enumerate(KINDS):
    (WORK / f"{k}.txt").write_text("\n".join(LINES[k][20:30]) + "\n")
    sets += ["--set", f"{e}={WORK / k}.txt"]


def agreement(model):
    report = run("route", model, "--report", *sets, "--json").json()["models"][0]
    return [s["best"] for s in report["sets"]]


# Lines that no expert was told of: with no positive prompt anywhere every kind finds the one expert that nothing excludes it from.
said = run("merge", recipe("alone"), WORK / "alone").err
found = agreement(WORK / "alone")
check(min(found) > 0.5, f"negative prompts alone: the best expert is the intended one for {found}")  # of text not seen, from six lines each
accuracy = [float(x) for x in re.findall(r"layer \d: ([\d.]+) %", said)]
check(len(accuracy) == 4 and min(accuracy) > 90, f"tokens that avoid the expert that excludes them: {accuracy}")

# The beginning of sequence alone says nothing more: the same routers.
run("merge", recipe("empty", [""]), WORK / "empty", "-q")
for name in common.read_hf_dir(WORK / "alone"):
    same(common.read_hf_dir(WORK / "empty")[name].sha256(), common.read_hf_dir(WORK / "alone")[name].sha256(), name)

# Cosines of every pair, as they are in the file.
rows = [[float(x) for x in t.split()[3:]] for t in said.splitlines() if re.match(r"moegraft-merge: +expert \d", t)]
same([len(r) for r in rows], [1, 2, 3], f"pairs: {said}")
gates = [t.floats() for n, t in sorted(common.read_hf_dir(WORK / "alone").items()) if n.endswith("gate.weight")]
for i, row in enumerate(rows, 1):
    for j, value in enumerate(row):
        want = 0
        for g in gates:
            a, b = g[i * 256:(i + 1) * 256], g[j * 256:(j + 1) * 256]
            dot = lambda x, y: sum(p * q for p, q in zip(x, y))
            want += dot(a, b) / (dot(a, a) * dot(b, b)) ** 0.5 / len(gates)
        check(abs(want - value) < 2e-3, f"cosine of {i} and {j}: {value}, in the file {want}")  # three digits of rows before bfloat16

# Nothing at all is still refused; modes that average prompts need some, and say what stands for none.
common.refused(8, ["no positive prompts", "fit"], "no prompts", "merge", recipe("none", negative=False), WORK / "never")
common.refused(8, ["no positive prompts", "hidden", '[""]'], "hidden", "merge", recipe("hidden", mode="hidden"), WORK / "never")
common.done()
