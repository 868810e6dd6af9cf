"""check BASE DONOR... --merge: distances against plain Python, the ceiling against the models a perfect router amounts to, refusals."""
import math

import shutil

import common
from common import DATA, SAMPLES, WORK, check, run, same

BASE = SAMPLES / "donors/base"
donors = [SAMPLES / "donors/prose", DATA / "models/donors/code"]  # the second moved in its attention, too
for i, text in enumerate(("prose", "code")):
    (WORK / f"{text}.txt").write_text((SAMPLES / f"text/{text}.txt").read_text()[:2000])
texts = [WORK / "prose.txt", WORK / "code.txt"]
report = run("check", BASE, *donors, "--merge", "--text", texts[0], "--text", texts[1], "--ctx", 64, "--json", "-q").json()["results"][0]

base = common.read_safetensors(BASE / "model.safetensors")[1]
sums = []
for d, entry in zip(donors, report["donors"]):
    found = common.read_safetensors(d / "model.safetensors")[1]
    parts = {"ffn": [0, 0], "attention": [0, 0], "other": [0, 0]}
    for name, t in base.items():
        kind = "ffn" if ".mlp." in name else "attention" if ".self_attn." in name else "other"
        for a, b in zip(t.floats(), found[name].floats()):
            parts[kind][0] += a * a
            parts[kind][1] += (a - b) ** 2
    for kind, (whole, change) in parts.items():
        check(abs(entry[kind] - math.sqrt(change / whole)) < 1e-6, f"{d.name}: {kind} {entry[kind]}")
same(report["donors"][0]["attention"], 0.0, "a donor whose feed-forward blocks alone were trained")
check(0 < report["donors"][1]["attention"] < 1 and report["donors"][0]["ffn_cosines"][0] == 1, "distances")
same(report["donors"][0]["ffn_cosines"][1], report["donors"][1]["ffn_cosines"][0], "cosines are symmetric")


def ppl(model, text):
    return run("perplexity", model, "--text", text, "--ctx", 64, "--json", "-q").json()["results"][0]["ppl"]


# a mixture whose router is irrelevant: both experts the donor's block, taken apart again
for d, text, entry in zip(donors, texts, report["texts"]):
    (WORK / "m.yml").write_text(f"base_model: {BASE}\ngate_mode: random\nexperts:\n  - source_model: {d}\n  - source_model: {BASE}\n")
    run("merge", WORK / "m.yml", WORK / "m", "-q", "--force")
    run("extract", WORK / "m", WORK / "x", "--expert", 0, "-q", "--force")
    for key, model in (("base", BASE), ("donor", d), ("forced", WORK / "x")):
        check(abs(entry[key] / ppl(model, text) - 1) < 1e-9, f"{d.name}: perplexity of {key}")
mean = math.exp(sum(math.log(t["forced"]) for t in report["texts"]) / 2)
check(abs(report["ceiling"] / mean - 1) < 1e-12, "the ceiling is exp of the mean loss")
shown = run("check", BASE, *donors, "--merge").out
check("cosines" in shown and "ceiling" not in shown, "without texts no perplexities")

# Licences: of a directory its model card says, of a GGUF its metadata.
shutil.copytree(BASE, WORK / "licensed")
(WORK / "licensed/README.md").write_text("---\nlicense: Apache-2.0\n---\nA donor.\n")
same((report["licenses"][0]["license"], report["licenses_agree"]), (None, True), "no licence stated")
for other, agree in (("apache-2.0", True), ("other\nlicense_name: of-ours", False)):
    shutil.rmtree(WORK / "other", ignore_errors=True)
    shutil.copytree(donors[0], WORK / "other")
    (WORK / "other/README.md").write_text(f"---\nlicense: {other}\n---\n")
    found = run("check", WORK / "licensed", WORK / "other", donors[1], "--merge", "--json").json()["results"][0]
    same([x["license"] for x in found["licenses"]], ["Apache-2.0", other.split()[0], None], "licences")
    same(found["licenses_agree"], agree, other)
    check(("they differ" in run("check", WORK / "licensed", WORK / "other", "--merge").out) != agree, "text")

for code, words, args in ((8, ["vocab_size 320"], [BASE, DATA / "models/tiny/mistral", "--merge"]), (2, ["BASE DONOR"], [BASE, "--merge"]),
                          (2, ["one --text"], [BASE, *donors, "--merge", "--text", texts[0]]),
                          (2, ["--merge only"], [BASE, "--text", texts[0]])):
    result = run("check", *args, expect=code)
    for word in words:
        check(word in result.err, f"{args}: {result.err}")
common.done()
