"""moegraft-card: front matter, files and hashes, recipe, licences of donors (conflicts refused), drift and routing from other
tools' results, templates; nothing that stands in a file breaks out of the card."""
import json
import re
import shutil
import common
from common import SAMPLES, WORK, check, refused, run, same

DONORS = ("prose", "code")


def cached(hub, repo, source, readme):
    """A model in a Hugging Face cache."""
    snapshot = hub / f"models--{repo.replace('/', '--')}" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(source, snapshot)
    (snapshot / "README.md").write_text(readme)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text(snapshot.name)


def state(folder, licence, extra=""):
    (folder / "README.md").write_text(f"---\nlicense: {licence}\n{extra}---\n# A model\n")


place = common.fresh("place")
for d in ("base",) + DONORS:
    shutil.copytree(SAMPLES / "donors" / d, place / d)
    state(place / d, "apache-2.0")
hub = common.fresh("hub")
cached(hub, "someone/base-model", SAMPLES / "donors/base", "---\nlicense: apache-2.0\n---\n")
ENV = {"HF_HUB_CACHE": hub}
recipe = place / "recipe.yml"
recipe.write_text("base_model: someone/base-model\ngate_mode: random\ndtype: bfloat16\nexperts:\n" + "".join(
    f"  - source_model: {d}\n    positive_prompts: [\"a ``` in {d}\"]\n" for d in DONORS))
MOE, Q4 = WORK / "twins-2x3M", WORK / "twins-2x3M-Q4_0.gguf"
run("merge", recipe, MOE, "--manifest", "-q", env=ENV)
run("quantize", MOE, Q4, "Q4_0", "-q")
(WORK / "ids.txt").write_text("1 20 30 40 50 60 70 80\n")


def card(*args, **kw):
    return run("card", *args, env=ENV, **kw)


def front(text):
    """(scalars, lists) of the front matter; strict: anything else is an error."""
    check(text.startswith("---\n"), "no front matter")
    single, lists, at = {}, {}, None
    for line in text[4:text.index("\n---\n", 4)].split("\n"):
        if line.startswith("- "):
            lists[at].append(line[2:])
        elif line.endswith(":"):
            at = line[:-1]
            lists[at] = []
        else:
            key, value = line.split(": ", 1)
            single[key] = json.loads(value) if value.startswith('"') else value
    return single, lists


def table(text, heading):
    body = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [[c.strip() for c in line.split("|")[1:-1]] for line in body.splitlines() if line.startswith("|")][2:]


# ---- a merge: recipe, donors and licences ----
text = card(MOE, Q4, "--recipe", recipe).out
single, lists = front(text)
same(single, {"license": "apache-2.0", "base_model_relation": "merge", "library_name": "transformers", "pipeline_tag": "text-generation"}, "front matter")
same(lists, {"base_model": ["someone/base-model"], "tags": ["moe", "frankenmoe", "merge", "moegraft"]}, "lists of the front matter")
check("\n# twins-2x3M\n" in text and "a mixture of 2 experts, 2 per token (`mixtral`)" in text, text[:800])
counts = run("inspect", MOE, "--json").json()["parameters"]
check(f"{counts['total'] / 1e6:.3g} million parameters" in text, "parameters")
weights = MOE / "model.safetensors"
same(table(text, "Files"), [["model.safetensors", "BF16", str(weights.stat().st_size), "16.00", f"`{common.sha256(weights)}`"],
                            [Q4.name, "Q4_0", str(Q4.stat().st_size), table(text, "Files")[1][3], f"`{common.sha256(Q4)}`"]], "files")
check(4 < float(table(text, "Files")[1][3]) < 6, "bits of the quantized file")
same(table(text, "Made of"), [["[someone/base-model](https://huggingface.co/someone/base-model)", "base", "apache-2.0"]] +
     [[d, "expert", "apache-2.0"] for d in DONORS], "donors")
check(f"````yaml\n{recipe.read_text()}````\n" in text, "the recipe is not verbatim, in a fence of its own")
inputs = json.loads((MOE / "model.manifest.json").read_text())["inputs"]
for i in inputs:
    for f in i["files"]:
        check([MOE.name, "moegraft " + json.loads((MOE / "model.manifest.json").read_text())["version"], i["name"], f["name"], str(f["size"]),
               f"`{f['edges_xxh3']}`"] in table(text, "Provenance"), f"provenance lacks {i['name']}")
check(str(WORK) not in text.replace(recipe.read_text(), ""), "a path of this machine is in the card")
same(card(recipe).out.count("## Files"), 0, "a recipe has no files")
check("a mixture of 2 experts" in card(recipe).out and front(card(recipe).out)[0]["license"] == "apache-2.0", "a recipe as PATH")
copied = card(MOE)  # its copy of the recipe; the donors are not beside it
check(table(copied.out, "Made of")[1] == ["prose", "expert", "not read"] and "license" not in front(copied.out)[0], copied.out)
check("2 of 3 models state no licence" in copied.err, copied.err)

# ---- licences that differ ----
state(place / "code", "cc-by-nc-4.0")
for args in ([MOE, "--recipe", recipe], [recipe]):
    r = card(*args, "-o", WORK / "never", expect=8)
    check("'code' cc-by-nc-4.0" in r.err and "'prose' apache-2.0" in r.err and "--license" in r.err, r.err)
    check(not (WORK / "never").exists(), "a card in spite of the conflict")
same(front(card(MOE, "--recipe", recipe, "--license", "cc-by-nc-4.0").out)[0]["license"], "cc-by-nc-4.0", "the licence given")
check(["code", "expert", "cc-by-nc-4.0"] in table(card(MOE, "--recipe", recipe, "--license", "mit").out, "Made of"), "the table keeps what donors state")
for d in DONORS:
    state(place / d, "other", "license_name: terms\nlicense_link: https://example.org/terms\n")
recipe.write_text(recipe.read_text().replace("someone/base-model", "base"))
state(place / "base", "OTHER", "license_name: Terms\n")
single, lists = front(card(MOE, "--recipe", recipe).out)
same((single["license"], single["license_name"].lower(), "base_model" in lists), ("OTHER", "terms", False), "a licence with a name")
state(place / "base", "other", "license_name: different terms\n")
card(MOE, "--recipe", recipe, expect=8)
(place / "base/README.md").write_text("---\nlicense: [apache-2.0\n---\n")  # no YAML
for d in DONORS:
    state(place / d, "apache-2.0")
r = card(MOE, "--recipe", recipe)
check("license" not in front(r.out)[0] and "1 of 3 models state no licence" in r.err, "one that states none is no agreement")
shutil.copy(Q4, WORK / "stated.gguf")
run("edit", WORK / "stated.gguf", "--set", "general.license=mit")
same(front(card(WORK / "stated.gguf").out)[0]["license"], "mit", "the licence of a GGUF")

# ---- a quantized file alone ----
single, lists = front(card(Q4, "--base-model", "someone/twins", "--base-model", "someone/twins", "--name", "true").out)
same((single["library_name"], single["base_model_relation"], lists["base_model"]), ("gguf", "quantized", ["someone/twins"]), "a quantization")
run("quantize", SAMPLES / "donors/prose", WORK / "packed", "RTN", "--group-size", 64, "-q")
row = table(card(WORK / "packed").out, "Files")[0]
check("4 bits" in row[1] and float(row[3]) < 9, f"a packed model: {row}")

# ---- results of other tools ----
drift, peers, routing = WORK / "drift.json", WORK / "peers.json", WORK / "routing.json"
drift.write_text(run("verify", MOE, Q4, "--tokens", WORK / "ids.txt", "--json", "-q").out)
peers.write_text(run("verify", "--peer", MOE, Q4, "--tokens", WORK / "ids.txt", "--json", "-q").out)
routing.write_text(run("route", MOE, "--tokens", WORK / "ids.txt", "--json").out)
text = card(MOE, "--license", "mit", "--verify", drift, "--verify", peers, "--routing", routing).out
c, load = json.loads(drift.read_text())["candidates"][0], json.loads(routing.read_text())["layers"]
rows = table(text, "Drift")
same((rows[0][0], rows[0][3], rows[0][6]), (Q4.name, f"{c['kl']['mean']:.4g}", f"{c['ppl']['candidate']:.6g}"), "drift")
check(any(row[:2] == [MOE.name, Q4.name] for row in rows), f"peers: {rows}")
check(f"Against {MOE.name}, 7 positions of ids.txt" in text, "what was measured")
same(table(text, "Routing"), [[str(y["layer"])] + [f"{100 * x:.3g}" for x in y["load"]] for y in load], "routing")

report = WORK / "report.json"
report.write_text(run("route", MOE, Q4, "--report", "--sets", recipe, "--json").out)
text = card(MOE, "--license", "mit", "--routing", report).out
for m in json.loads(report.read_text())["models"]:
    part = text.split(f"**{m['path'].split('/')[-1]}**", 1)[1].split("\n## ")[0]
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in part.split("\n**")[0].splitlines() if line.startswith("|")]
    for y, row in zip(m["layers"], rows[2:]):
        same(row, [str(y["layer"])] + [f"{100 * x:.3g}" for x in y["all"]["load"]] + [f"{y['all']['entropy']:.3g}", f"{y['balance_loss']:.3g}",
                                                                                        f"{y['z_loss']:.3g}"], "routers by layer")
    sets = rows[2 + len(m["layers"]) + 2:]
    same([row[:3] for row in sets], [[s["name"], str(s["tokens"]), str(s["intended"])] for s in m["sets"]], "sets of text")
    same([row[3] for row in sets], [f"{100 * s['chosen']:.1f}" for s in m["sets"]], "sets that reach their expert")
    check(all(f"- Warning: {w}" in part for w in m["warnings"]), f"warnings: {m['warnings']}")

# ---- templates ----
template = WORK / "template.md"
template.write_text("{{front_matter}}# About {{name}} ({{license}})\n{{files}}by moegraft {{version}}.\n")
out = card(MOE, "--license", "mit", "--template", template, "-o", WORK / "card.md").out
text = (WORK / "card.md").read_text()
same(out, "", "nothing is printed when a file is written")
check(text.split("\n---\n")[1].startswith("# About twins-2x3M (mit)\n## Files") and re.search(r"by moegraft \d[^\n]*\.\n$", text), text)
card(MOE, "--license", "mit", "-o", WORK / "card.md", expect=2)
card(MOE, "--license", "mit", "-o", WORK / "card.md", "--force")
check((WORK / "card.md").read_text() != text, "--force replaced nothing")

# ---- hostile words stay words ----
odd = "a|b]\n---\n<b>`\"x"
text = card(MOE, "--license", odd, "--license-name", "no", "--name", "| x |").out
single, _ = front(text)
same((single["license"], single["license_name"]), (odd, "no"), "quoted values of the front matter")
check("\n# \\| x \\|\n" in text, "a bar in a name")
state(place / "code", '"apache-2.0\\n---\\n| x |"')
text = card(MOE, "--recipe", recipe, "--license", "mit").out
same([len(row) for row in table(text.replace("\\|", "!"), "Made of")], [3, 3, 3], "a licence with bars and ends of line")

# ---- refusals ----
never, bad = WORK / "never", WORK / "bad.json"
for code, words, args in ((2, ["no model"], []), (2, ["--license"], [MOE, "--license-name", "x"]), (5, ["absent"], [WORK / "absent"]),
                          (5, ["gone.yml"], [MOE, "--recipe", WORK / "gone.yml"]), (3, ["names no model"], [MOE, "--recipe", WORK / "ids.txt"]), (3, ["template.md"], [MOE, "--recipe", template])):
    refused(code, words, f"{args}", "card", *args, "-o", never)
for content, option in (("{}", "--verify"), (routing.read_text(), "--verify"), (drift.read_text(), "--routing"), (drift.read_text(), "--manifest"),
                        (json.dumps({**json.loads(drift.read_text()), "candidates": [{"path": 3}]}), "--verify"),
                        (json.dumps({**json.loads(routing.read_text()), "experts": 10 ** 18}), "--routing"),
                        (json.dumps({"schema": 1, "models": [{"path": "x"}]}), "--routing"), ("[" * 1000, "--verify")):
    bad.write_text(content)
    refused(3, ["bad.json"], f"{option} {content[:30]}", "card", MOE, "--license", "mit", option, bad, "-o", never)
for content, words in (("{{fils}}", ["fils", "files"]), ("{{", ["{{"]), ("x {{" + "y" * 100 + "}}", ["{{"])):
    template.write_text(content)
    refused(2, words, f"template {content[:20]}", "card", MOE, "--license", "mit", "--template", template, "-o", never)
said, quiet = (run("card", MOE, "--license", "mit", *q) for q in ((), ("-q",)))
check("note: nothing is said of drift (--verify" in said.err and quiet.err == "" and quiet.out == said.out, f"{said.err}, {quiet.err}")
with open(Q4, "ab") as f:
    f.write(b"\0")
refused(7, [Q4.name, "manifest"], "a file that is not its manifest's", "card", Q4, "-o", never)
common.done()
