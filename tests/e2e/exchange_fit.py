"""exchange: fit, maps of a Mesh fitted on the experts' prompts: the same bytes however many threads and whatever instructions, better on
what was held out, zero where there is nothing to learn, resumed, refused."""
import re

import common
from common import SAMPLES, WORK, check, run, same

NAMES = ("prose", "code")
DONORS = SAMPLES / "donors"
TEXT = {d: [line for line in (SAMPLES / f"text/{d}.txt").read_text().splitlines() if len(line) > 20][:100] for d in NAMES}


def recipe(name, donors=NAMES, architecture="mesh", exchange="fit", lines=100, more=""):
    text = f"base_model: {DONORS / 'base'}\ndtype: float32\ngate_mode: hidden\narchitecture: {architecture}\nexchange: {exchange}\n{more}experts:\n"
    for d, prompts in zip(donors, NAMES):
        text += f"  - source_model: {DONORS / d}\n    positive_prompts: {common.json.dumps(TEXT[prompts][:lines])}\n"
    path = WORK / f"{name}.yml"
    path.write_text(text)
    return path


def maps(name):
    return {n: t for n, t in common.read_safetensors(WORK / name / "model.safetensors")[1].items() if ".exchange." in n}


# ---- better on what was held out ----
said = run("merge", recipe("fit"), WORK / "fit", "-t", 2).err
same([p.name for p in WORK.iterdir() if p.name.startswith(".")], [], "leftovers")
with_maps, without = map(float, re.search(r"held-out loss ([\d.]+) with them, ([\d.]+) without\n", said).groups())
check(with_maps < without, f"held-out loss {with_maps} with maps, {without} without")
for layer, share in re.findall(r"layer (\d+): \d of 1 bonds, held-out distance from the donors ([\d.]+)", said):
    check(float(share) < 1, f"layer {layer}: the distance grew to {share}")
fitted = maps("fit")
same(len(fitted), 2 * 4, "maps")
check(sum(any(t.data) for t in fitted.values()) >= 2, "hardly any map is not zero")

# ---- only the maps differ from the merge with maps of zeros ----
run("merge", recipe("zero", exchange="zero"), WORK / "zero", "-q")
zero = common.read_safetensors(WORK / "zero/model.safetensors")[1]
for n, t in common.read_safetensors(WORK / "fit/model.safetensors")[1].items():
    check(".exchange." in n or t.data == zero[n].data, f"{n} changed with the maps")
check(not any(any(t.data) for t in maps("zero").values()), "exchange: zero wrote something else")
(WORK / "ids.txt").write_text("1 20 30 40 50 60 70 80 90 100 7 8 9 10 11 12\n")
logits = {}
for name in ("fit", "zero"):
    run("forward", WORK / name, "--tokens", WORK / "ids.txt", "--capture", "logits", "-o", WORK / f"{name}.logits", "-q")
    logits[name] = common.read_safetensors(WORK / f"{name}.logits")[1]["logits"].data
check(logits["fit"] != logits["zero"], "maps without effect")

# ---- a recipe that is only tried is the model it writes; threads and instructions ----
run("forward", WORK / "fit.yml", "--tokens", WORK / "ids.txt", "--capture", "logits", "-o", WORK / "tried.logits", "-q")
same(common.read_safetensors(WORK / "tried.logits")[1]["logits"].data, logits["fit"], "tried and written")
want = common.tree(WORK / "fit")
# scalar code takes ten times as long: its kernels are held to the others' bytes by check_kernels, its forward pass by e2e_forward
run("merge", WORK / "fit.yml", WORK / "again", "-q", "-t", 3, env={"MOEGRAFT_ISA": "avx2"})
same(common.tree(WORK / "again"), want, "three threads, AVX2")

# ---- killed while the model is written: the maps are not fitted again ----
points = common.count_crash_points("merge", WORK / "fit.yml", WORK / "again", "-q", "--force", "-t", 1)
same(common.tree(WORK / "again"), want, "one thread")
run("merge", WORK / "fit.yml", WORK / "killed", "-q", "-t", 1, env={"MOEGRAFT_CRASH_AT": points - 8}, expect=137)
check((WORK / ".killed.exchange.safetensors").exists(), "the maps are not kept")
said = run("merge", WORK / "fit.yml", WORK / "killed", "-t", 1).err
check("held-out" not in said, "maps fitted again")
same(common.tree(WORK / "killed"), want, "killed and run again")

# ---- donors that are the base: nothing to learn ----
run("merge", recipe("equal", donors=("base",) * 2), WORK / "equal", "-q", "--i-understand-this-is-not-useful-without-training")
check(not any(any(t.data) for t in maps("equal").values()), "maps between equal experts")

# ---- refusals ----
for name, code, words, options in (("mixtral", 8, "means nothing for a mixtral", {"architecture": "mixtral"}),
                                   ("word", 3, "zero or fit", {"exchange": "solve"}),
                                   ("few", 8, "to hold some out", {"lines": 1}),
                                   ("lists", 4, "in every layer", {"more": "layer_experts: [{layer_range: [0, 4], experts: [1, 0]}]\n"})):
    said = run("merge", recipe(name, **options), WORK / name, expect=code).err
    check(words in said, f"{name}: {said}")
    check(not (WORK / name).exists(), f"{name}: something was written")
common.done()
