"""A merge recipe as PATH of every tool that runs a model: the same results as the directory merge writes from it, nothing left
beside it; recipes of mixtures and of dense merges; broken ones refused."""
import json
import shutil
import common
from common import SAMPLES, WORK, check, refused, run, same

DONORS = SAMPLES / "donors"
PLACE = common.fresh("recipes")  # nothing but recipes may ever be in it
MOE, DENSE = PLACE / "moe.yml", PLACE / "average.yaml"
MOE.write_text(f"base_model: {DONORS}/base\ndtype: bfloat16\ngate_mode: cheap_embed\nexperts_per_token: 2\nexperts:\n" + "".join(
    f"  - source_model: {DONORS}/{d}\n    positive_prompts: [\"{p}\"]\n" for d, p in (("prose", "the old man"), ("code", "def f(x):"), ("math", "12 + 30"))))
DENSE.write_text(f"merge_method: linear\nmodels:\n" + "".join(f"  - model: {DONORS}/{d}\n    parameters:\n      weight: 0.5\n" for d in ("prose", "code")) + "dtype: bfloat16\n")
WRITTEN = {MOE: WORK / "moe", DENSE: WORK / "average"}
for recipe, folder in WRITTEN.items():
    run("merge", recipe, folder, "-q")
ROWS = WORK / "rows.txt"
ROWS.write_text("1 20 30 40 50 60 70\n1 80 90 100 110 120 130\n")
QUESTIONS = WORK / "questions.jsonl"
QUESTIONS.write_text(json.dumps({"context": "The old", "choices": ["man", "def"], "answer": 0}) + "\n")
PROMPT = ["--prompt", "The old man", "-n", 8]


def without_paths(v):
    if isinstance(v, dict):
        return {k: without_paths(x) for k, x in v.items() if k not in ("path", "against", "a", "b", "reference")}
    return [without_paths(x) for x in v] if isinstance(v, list) else v


def alike(tool, recipe, *args):
    """A tool says of the recipe what it says of the directory."""
    found, want = (run(tool, *[x if x is not ... else p for x in args], "--json").json() for p in (recipe, WRITTEN[recipe]))
    same(without_paths(found), without_paths(want), f"{tool} {recipe.name}")
    same(sorted(p.name for p in PLACE.iterdir()), ["average.yaml", "moe.yml"], "files beside the recipes")
    return found


for recipe in WRITTEN:
    alike("perplexity", recipe, ..., "--tokens", ROWS)
    alike("perplexity", recipe, ..., DONORS / "base", "--choices", QUESTIONS)
    alike("generate", recipe, ..., *PROMPT)
    alike("generate", recipe, DONORS / "base", ..., *PROMPT)
    alike("verify", recipe, DONORS / "base", ..., "--tokens", ROWS, "-q")
    alike("verify", recipe, "--peer", DONORS / "base", ..., "--tokens", ROWS, "-q")
    for pair in ((recipe, WRITTEN[recipe]), (WRITTEN[recipe], recipe)):  # the proof that a merge wrote what the recipe says
        c = run("verify", *pair, "--tokens", ROWS, "--weights", "--json", "-q").json()["candidates"][0]
        same((c["kl"]["max"], c["logits"]["max_abs"], c["damaged_tensors"], c["verdict"]), (0, 0, 0, "pass"), f"{pair[0].name} and {pair[1].name}")
        check(len(c["tensors"]) > 30, "weights of a recipe are not compared")
small = WORK / "moe-Q4_0.gguf"
run("quantize", WRITTEN[MOE], small, "Q4_0", "-q")
# quantized straight from the recipe: the bytes that the written directory gives, in blocks and in groups
run("quantize", MOE, WORK / "straight.gguf", "Q4_0", "-q")
same(*[[(t["name"], t["sha256"]) for t in run("inspect", p, "--json", "--tensors", "--hash").json()["tensors"]] for p in (WORK / "straight.gguf", small)],
     "Q4_0 of a recipe")
for kind, more in (("RTN", []), ("AWQ", ["--tokens", ROWS])):
    for path, name in ((MOE, f"straight-{kind}"), (WRITTEN[MOE], f"written-{kind}")):
        run("quantize", path, WORK / name, kind, "--group-size", 64, *more, "-q")
    same(*[common.sha256(WORK / f"{name}-{kind}/model.safetensors") for name in ("straight", "written")], f"{kind} of a recipe")
same(sorted(p.name for p in PLACE.iterdir()), ["average.yaml", "moe.yml"], "files beside the recipes")
refused(2, ["group format", "quantize"], "merge --to AWQ", "merge", MOE, WORK / "never", "--to", "AWQ")
# what is in it, and whether it is sound, as of the written directory
for recipe in WRITTEN:
    found, want = (run("inspect", p, "--json", "--tensors", "--hash").json() for p in (recipe, WRITTEN[recipe]))
    same(found["format"], "plan", "inspect: format")
    for key in ("family", "parameters", "config", "layers", "experts"):
        same(found[key], want[key], f"inspect {recipe.name}: {key}")
    same(*[{t["name"]: (t["shape"], t["dtype"], t["sha256"]) for t in x["tensors"]} for x in (found, want)], f"inspect {recipe.name}: tensors")
    check("all values finite" in run("check", recipe, "--deep").out, f"check {recipe.name} --deep")
alike("verify", MOE, ..., small, "--tokens", ROWS, "-q", "--weights", "--attribute", 3)
base = WORK / "base.kld"
text = WORK / "text.txt"
text.write_text((SAMPLES / "text/prose.txt").read_text()[:300])
run("perplexity", MOE, "--text", text, "--ctx", 16, "--kl-divergence-base", base)
alike("perplexity", MOE, ..., "--kl-divergence-base", base, "--kl-divergence")
alike("route", MOE, ..., "--prompt", "12 + 30 = 42")
pages = [WORK / "recipe.html", WORK / "written.html"]
for path, page in zip((MOE, WRITTEN[MOE]), pages):
    run("route", path, "--prompt", "12 + 30 = 42", "--html", page)
same(pages[0].read_text().replace(str(MOE), "PATH"), pages[1].read_text().replace(str(WRITTEN[MOE]), "PATH"), "page of route")

# ---- damage shows: the directory is not what the recipe says ----
other = WORK / "other.yml"
other.write_text(MOE.read_text().replace(f"{DONORS}/code", f"{DONORS}/json"))
c = run("verify", other, WRITTEN[MOE], "--tokens", ROWS, "--weights", "--json", "-q", expect=1).json()["candidates"][0]
check(c["kl"]["mean"] > 0 and c["tensors"][0]["damaged"] and ".experts.1." in c["tensors"][0]["name"], f"another donor: {c['tensors'][0]}")

# ---- refusals, by every tool ----
gone = WORK / "gone.yml"
gone.write_text(MOE.read_text().replace(f"{DONORS}/math", "nowhere/model"))
broken = WORK / "broken.yml"
broken.write_text("experts: [")
calls = {"perplexity": ["--tokens", ROWS], "generate": PROMPT, "route": ["--prompt", "x"]}
for tool, args in calls.items():
    refused((3, 5), ["nowhere/model"], f"{tool}: a donor that is not there", tool, gone, *args)
    refused(3, ["broken.yml"], f"{tool}: no YAML", tool, broken, *args)
    refused(5, ["absent.yml"], f"{tool}: no file", tool, WORK / "absent.yml", *args)
refused((3, 5), ["nowhere/model"], "verify: a donor that is not there", "verify", WRITTEN[MOE], gone, "--tokens", ROWS)
refused(4, ["router"], "route: a dense recipe", "route", DENSE, "--prompt", "x")
# ---- what was quantized from a recipe is made again from its donors ----
for out, kind in ((common.WORK / "proven.gguf", "Q4_0"), (common.WORK / "proven", "RTN")):
    common.run("quantize", common.DATA / "golden/merge/moe4_cheap_embed.yml", out, kind, "-q")
    manifest = out / "model.manifest.json" if out.is_dir() else common.WORK / "proven.gguf.manifest.json"
    said = common.run("verify", "--provenance", manifest, common.DATA / "golden/merge", common.DATA / "models/donors").out
    common.check(" 0 not derived, 0 of the output differ" in said, said)

common.done()
