"""verify --provenance: outputs of every tool that writes a manifest derived again; what was tampered with is found and named."""
import json
import shutil

import common
from common import DATA, WORK, check, run, same

DONORS = DATA / "models/donors"
FOUR = ("prose", "code", "math", "json")
MOE = WORK / "moe.yml"
MOE.write_text(f"base_model: {DONORS / 'base'}\ngate_mode: hidden\ndtype: bfloat16\nexperts:\n" + "".join(
    f"  - source_model: {DONORS / d}\n    positive_prompts: ['{d} of it', 'another {d}']\n" for d in FOUR))
run("merge", MOE, WORK / "moe", "-q", "--manifest")


def prove(manifest, *args, expect=0):
    return run("verify", "--provenance", manifest, *args, "-q", expect=expect)


def counts(manifest, *args):
    found = prove(manifest, *args, "--json").json()
    return {k: v for k, v in found["counts"].items() if v}, found


def proven(manifest, *args, count=None):
    n = len(json.loads(manifest.read_text())["tensors"])
    expected = {"same": count or n, "skipped": n - (count or n)}
    same(counts(manifest, *args)[0], {k: v for k, v in expected.items() if v}, f"proof of {manifest}")


# ---- every tool ----
def copy(folder):
    to = WORK / f"{folder.name}-damaged"
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    return to


def old(manifest):
    """The manifest as versions wrote it that did not record options."""
    m = json.loads(manifest.read_text())
    del m["made"]
    for i in m["inputs"]:
        i.pop("sides", None)
    to = manifest.with_name("old.manifest.json")
    to.write_text(json.dumps(m))
    return to


moe = WORK / "moe/model.manifest.json"
routers = sum("gate.weight" in t["name"] for t in json.loads(moe.read_text())["tensors"])
n_moe = len(json.loads(moe.read_text())["tensors"])
proven(moe, DONORS)  # a copy of the recipe is part of the output
found, result = counts(old(moe), DONORS)
same(found, {"same": n_moe - routers, "not derived": routers}, "a mixture without its recipe")
check(all("give the merge recipe" in t["note"] and ".gate.weight" in t["name"] for t in result["tensors"]), "routers")
same([i["name"] for i in result["inputs"]], ["base", *FOUR], "inputs")
proven(moe, DONORS, MOE)
proven(old(moe), DONORS, MOE)
run("merge", MOE, "-o", f"{WORK / 'two-q4.gguf'}=Q4_K_M", "-o", f"{WORK / 'two-q8.gguf'}=Q8_0", "--manifest", "-q")
proven(WORK / "two-q4.gguf.manifest.json", MOE, *(DONORS / d for d in ("base", *FOUR)))
proven(WORK / "two-q8.gguf.manifest.json", MOE, DONORS)
for method, base, parameters in (("linear", None, ""), ("slerp", None, "t: 0.3"), ("dare_ties", "base", "density: 0.6"),
                                 ("della", "base", "density: 0.5, epsilon: 0.1"), ("sce", "base", "select_topk: 0.3")):
    text = f"merge_method: {method}\ndtype: bfloat16\nparameters: {{{parameters}}}\n" + (f"base_model: {DONORS / base}\n" if base else "")
    text += f"base_model: {DONORS / 'prose'}\n" if method == "slerp" else ""
    weight = ("parameters: {weight: 0.3}", "parameters: {weight: 0.8}") if method not in ("slerp", "sce") else ("", "")
    text += "models:\n" + "".join(f"  - model: {DONORS / d}\n    {w}\n" for d, w in zip(("prose", "code"), weight))
    (WORK / "dense.yml").write_text(text)
    run("merge", WORK / "dense.yml", WORK / method, "-q", "--manifest")
    proven(WORK / method / "model.manifest.json", DONORS)

run("convert", WORK / "moe", WORK / "moe.gguf", "-q")
run("convert", WORK / "moe.gguf", WORK / "back", "-q")
run("convert", WORK / "moe", WORK / "set.gguf", "--split-max-tensors", 20, "-q")
run("extract", WORK / "moe", WORK / "one", "--expert", 2, "--manifest", "-q")
run("graft", WORK / "moe", WORK / "three", "--drop", 1, "--manifest", "-q")
run("graft", next(WORK.glob("set-00001*.gguf")), WORK / "whole.gguf", "--drop", 1, "--manifest", "-q")  # a set of files becomes one
proven(WORK / "whole.gguf.manifest.json")
for extra in ([], ["--fixed"]):
    run("quantize", WORK / "moe.gguf", WORK / "q.gguf", "Q3_K_M", "-q", "--force", *extra)
    proven(WORK / "q.gguf.manifest.json")
for out in ("back/model.manifest.json", "moe.gguf.manifest.json", "one/model.manifest.json", "three/model.manifest.json"):
    proven(WORK / out)
proven(next(WORK.glob("set*.manifest.json")))
for form in (["RTN", "--format", "awq"], ["RTN", "--format", "gptq"], ["RTN", "--format", "mlx"], ["FP8_BLOCK"], ["NVFP4A16"]):
    run("quantize", DONORS / "prose", WORK / "groups", *form, "-q", "--force")
    proven(WORK / "groups/model.manifest.json", DONORS / "prose")
imatrix = WORK / "imatrix.gguf"
(WORK / "text.txt").write_text("And the miller said unto his servant, Go thou to the bridge. 12+7=19\n" * 40)
SMALL = DATA / "models/tiny/mistral"
(WORK / "ids.txt").write_text(" ".join(str(7 * i * i % 317 + 3) for i in range(256)) + "\n")
for form, out in (("AWQ", "groups"), ("GPTQ", "groups"), ("Q4_0", "feedback.gguf")):  # what a text decided is not in the donors
    options = ["--feedback"] if out.endswith("gguf") else ["--group-size", 32]
    run("quantize", "-q", "--force", *options, "--tokens", WORK / "ids.txt", SMALL, WORK / out, form)
    made = WORK / ("groups/model.manifest.json" if out == "groups" else "feedback.gguf.manifest.json")
    proven(made, SMALL, WORK)
    found, result = counts(old(made), SMALL)
    same(set(found), {"same", "not derived"}, f"results of {form}")
    check(all("a stage" in t["note"] for t in result["tensors"]), f"{result['tensors']}")
    same(counts(old(made), SMALL, "--tensors", "embed_tokens|lm_head|norm")[0].get("same", 0) >= 2, True, f"what {form} leaves alone")
run("calibrate", WORK / "moe.gguf", "--text", WORK / "text.txt", "-o", imatrix, "-q")
run("quantize", "--imatrix", imatrix, WORK / "moe.gguf", WORK / "iq.gguf", "IQ3_S", "-q")
proven(WORK / "iq.gguf.manifest.json")  # the matrix is found in the working directory
found, result = counts(old(WORK / "iq.gguf.manifest.json"))
check(found["same"] and found["not derived"] and all("--imatrix" in t["note"] for t in result["tensors"]), f"{found}")
proven(WORK / "iq.gguf.manifest.json", "--imatrix", imatrix)

# ---- some of them ----
same(counts(moe, DONORS, "--tensors", r"layers\.1\..*w2")[0], {"same": 4, "skipped": n_moe - 4}, "by name")
same(counts(moe, DONORS, MOE, "--sample", 7)[0], {"same": 7, "skipped": n_moe - 7}, "a sample")
same(counts(moe, DONORS, "--tensors", "w2", "--sample", 3)[0], {"same": 3, "skipped": n_moe - 3}, "a sample by name")
check(f"{n_moe} tensors derived again and equal" in prove(moe, DONORS).out, "text")


# ---- damage ----
def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


manifest = json.loads(moe.read_text())
victim = manifest["tensors"][20]
bad = copy(WORK / "moe")
flip(bad / victim["file"], victim["offset"] + 100)
r = prove(bad / "model.manifest.json", DONORS, expect=1)
check(f"output differs   {victim['name']}: stored" in r.out and "1 of the output differ" in r.out, r.out)
cut = (bad / victim["file"]).read_bytes()
(bad / victim["file"]).write_bytes(cut[:len(cut) // 2])
check(prove(bad / "model.manifest.json", DONORS, expect=3).err.count(victim["file"]), "a file that ends early")
(bad / victim["file"]).unlink()
check(victim["file"] in prove(bad / "model.manifest.json", DONORS, expect=5).err, "an output that is gone")

# A header that leads to another expert's bytes: every byte of data is where the manifest says, and readers find others.
swapped = copy(WORK / "moe")
path = swapped / "model.safetensors"
data = path.read_bytes()
a, b = (f"model.layers.2.block_sparse_moe.experts.{e}.w1.weight".encode() for e in (0, 1))
header = 8 + int.from_bytes(data[:8], "little")
path.write_bytes(data[:header].replace(a, b"\0" * len(a)).replace(b, a).replace(b"\0" * len(a), b) + data[header:])
r = prove(swapped / "model.manifest.json", DONORS, expect=1)
check("2 of the output differ" in r.out and f"output differs   {a.decode()}: stored" in r.out, r.out)
check("file differs     model.safetensors: found" in r.out, r.out)
# Keys and other files edited: tensors are where the new header says, the file is not the one that was written.
edited = WORK / "edited.gguf"
shutil.copy(WORK / "q.gguf", edited)
(WORK / "edited.gguf.manifest.json").write_text((WORK / "q.gguf.manifest.json").read_text().replace("q.gguf", "edited.gguf"))
proven(WORK / "edited.gguf.manifest.json")
run("edit", edited, "--set", "general.name=" + "long name " * 40, "-q")
found, result = counts(WORK / "edited.gguf.manifest.json", "--tensors", ".")
same(found, {"same": n_moe - 4 * 4 * 3 + 4 * 3}, "tensors of an edited file")
r = prove(WORK / "edited.gguf.manifest.json", expect=1)
check("0 of the output differ" in r.out and "file differs     edited.gguf" in r.out, r.out)
other_config = copy(WORK / "moe")
(other_config / "config.json").write_bytes((other_config / "config.json").read_bytes() + b" ")
r = prove(other_config / "model.manifest.json", DONORS, "--json", expect=1)
same([f["name"] for f in r.json()["files"]], ["config.json"], "files that differ")

donors = WORK / "donors"
shutil.copytree(DONORS, donors)
header, tensors = 8 + int.from_bytes((donors / "math/model.safetensors").read_bytes()[:8], "little"), None
spans = json.loads((donors / "math/model.safetensors").read_bytes()[8:header])
name = "model.layers.1.mlp.up_proj.weight"
flip(donors / "math/model.safetensors", header + spans[name]["data_offsets"][0] + 1000)  # far from both ends of the file
r = prove(moe, donors, expect=7)
check("model.layers.1.block_sparse_moe.experts.2.w3.weight" in r.err and f"'{name}' of 'math' has changed" in r.err, r.err)
check("1 of changed inputs" in r.out, r.out)
flip(donors / "math/model.safetensors", -10)
r = prove(moe, donors, expect=7)
check("input 'math' has changed" in r.err and "model.safetensors" in r.err, r.err)
(donors / "math").rename(WORK / "elsewhere")
check("input 'math' is not found" in prove(moe, donors, expect=5).err, "a donor that is gone")
proven(moe, donors, DONORS / "math", MOE)
(donors / "code").rename(donors / "renamed")  # known by its files, not by its name
proven(moe, donors, donors / "renamed", DONORS / "math", MOE)
proven(moe, donors, "--tensors", r"experts\.0\.", count=12)  # what is not read need not be there

other = WORK / "other.yml"
other.write_text(MOE.read_text().replace("another math", "a different sum"))
check("computes other values" in prove(old(moe), DONORS, other, expect=7).err, "another recipe")
iq = WORK / "iq.gguf.manifest.json"
check("no weights with the hash" in prove(old(iq), "--imatrix", DATA / "golden/gguf/imatrix.gguf", expect=7).err, "another matrix")

changed = copy(WORK / "moe") / "model.manifest.json"
changed.write_text(moe.read_text().replace(victim["xxh3"], "0" * 32))
check(f"manifest differs {victim['name']}" in prove(changed, DONORS, expect=1).out, "a changed manifest")

# ---- what is no manifest, and what does not go together ----
deep = ["source", 0, "lm_head.weight"]
for _ in range(40):
    deep = ["transpose", deep]
for code, words, edit in (
        (3, "no manifest of ours", lambda m: m.update(tool="x")), (4, "schema 2", lambda m: m.update(schema=2)),
        (3, "unknown operation", lambda m: m["tensors"][0].update(recipe=["conjure", 1])),
        (3, "recipe", lambda m: m["tensors"][0].update(recipe=[])), (3, "recipe", lambda m: m["tensors"][0].update(recipe=7)),
        (3, "not listed", lambda m: m["tensors"][0].update(recipe=["source", 99, "x"])),
        (7, "no tensor 'x'", lambda m: m["tensors"][0].update(recipe=["source", 0, "x"])),
        (3, "recipe", lambda m: m["tensors"][0].update(recipe=["cast", "Q9", ["source", 0, "lm_head.weight"]])),
        (6, "nested too deeply", lambda m: m["tensors"][0].update(recipe=deep)),
        (3, "rows", lambda m: m["tensors"][0].update(recipe=["rows", 0, 1, 1 << 60, ["source", 0, "lm_head.weight"]])),
        (3, "the manifest says", lambda m: m["tensors"][0].update(bytes=2)),
        (3, "plain name", lambda m: m["tensors"][0].update(file="../x")),
        (3, "lacks", lambda m: m["tensors"][0].pop("xxh3"))):
    m = json.loads(moe.read_text())
    edit(m)
    changed.write_text(json.dumps(m))
    r = prove(changed, DONORS, expect=code)
    check(words in r.err, f"{words}: {r.err}")
check("nothing could be derived" in prove(old(moe), DONORS, "--tensors", "moe.gate", expect=4).err, "routers alone, without the recipe")
routers_of = ("--tensors", "moe.gate")
for code, words, edit in (
        (4, "version 2", lambda m: m.update(version=2)), (4, "cannot be done again", lambda m: m.update(tool="inspect")),
        (3, "what made it", lambda m: m.pop("tool")), (3, "neither text nor a file", lambda m: m.update(words=[[{"file": 9}]])),
        (3, "plain name", lambda m: m["words"].append([{"output": "../x"}])), (3, "plain name", lambda m: m["words"].append(["/x"])),
        (3, "changes nothing", lambda m: m["options"].append(["--force"])), (3, "of 5", lambda m: m["words"].append([{"input": 5}])),
        (3, "changes nothing", lambda m: m["options"].append(["-o", "x=Q8_0"])), (3, "is none", lambda m: m["options"].append(["--output", "x=Q8_0"])),
        (3, "name, size or sha256", lambda m: m["files"][0].pop("size")), (3, "plain name", lambda m: m["files"][0].update(name="../x")),
        (2, "unknown option", lambda m: m["options"].append(["--conjure"])), (2, "expected CONFIG OUT", lambda m: m.update(words=[]))):
    m = json.loads(moe.read_text())
    edit(m["made"])
    changed.write_text(json.dumps(m))
    r = prove(changed, DONORS, *routers_of, expect=code)
    check(words in r.err, f"{words}: {r.err}")
same([p.name for p in (WORK / "moe-damaged").iterdir() if p.name.endswith(".replay")], [], "folders left")
for args in (["--weights"], ["--peer"], ["--text", MOE], ["--html", WORK / "x.html"], ["--precision", "f64"], ["--tensors", "nothing"],
             [MOE, MOE]):
    prove(moe, DONORS, *args, expect=2)
run("verify", WORK / "moe", WORK / "back", "--sample", 3, expect=2)
common.done()
