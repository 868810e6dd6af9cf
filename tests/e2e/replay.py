"""verify --provenance of what stages made: each kind of stage is done again and compared; one changed byte of the output, another
text, gate file, matrix, recipe or tokenizer is found and named; an interrupted run goes on; threads do not matter."""
import hashlib
import json
import shutil

import common
from common import DATA, WORK, check, run, same

DONORS = WORK / "donors"
for name in ("base", "prose", "code", "json"):
    shutil.copytree(DATA / "models/donors" / name, DONORS / name)
HOME = WORK / "home"  # what is made lies apart from what it was made of
HOME.mkdir()
FILES = WORK / "files"
FILES.mkdir()
AWAY = WORK / "away"  # the working directory of verify: nothing lies in or beside it
(AWAY / "x").mkdir(parents=True)
TEXT = FILES / "text.txt"
TEXT.write_text("And the miller said unto his servant, Go thou to the bridge. 12+7=19\n" * 30)
MORE = FILES / "more.txt"
MORE.write_text("int main(void)\nreturn 0;\n")
RECIPE = FILES / "moe.yml"
RECIPE.write_text("base_model: base\ngate_mode: fit\ndtype: bfloat16\nexperts:\n" + "".join(
    f"  - source_model: {d}\n    positive_prompts: ['{d} of it']\n" for d in ("prose", "code")))
TWO = ("--text", TEXT, "--ctx", 256, "--samples", 1)


def prove(manifest, *args, expect=0, threads=3):
    return run("verify", "--provenance", manifest, *args, "-q", "-t", threads, expect=expect, cwd=AWAY / "x")


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers():
    return sorted(str(p) for p in HOME.rglob(".*"))


def replayed(manifest, *places):
    """All equal on another number of threads, and nothing is left behind."""
    found = prove(manifest, *places, "--json").json()["counts"]
    n = len(json.loads(manifest.read_text())["tensors"])
    same({k: v for k, v in found.items() if v}, {"same": n}, f"counts of {manifest}")
    same(leftovers(), [], "left behind")


def flipped(manifest, wanted, *places):
    """One byte of one tensor: named first, exit 1; the byte is put back."""
    t = next(t for t in json.loads(manifest.read_text())["tensors"] if wanted in t["name"])
    path = manifest.parent / t["file"]
    data = bytearray(path.read_bytes())
    data[t["offset"] + t["bytes"] // 2] ^= 1
    path.write_bytes(data)
    r = prove(manifest, *places, "--tensors", wanted.replace(".", r"\."), expect=1)
    check(f"output differs   {t['name']}: stored" in r.out and "1 of the output differ" in r.out, r.out)
    data[t["offset"] + t["bytes"] // 2] ^= 1
    path.write_bytes(data)


def altered(manifest, path, *places):
    """Another content: exit 7 and both hashes; gone: exit 5; both by name, before anything is done."""
    before, content = sha(path), path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    r = prove(manifest, *places, expect=7)
    check(path.name in r.err and before in r.err and sha(path) in r.err, r.err)
    path.unlink()
    r = prove(manifest, *places, expect=5)
    check(path.name in r.err and before in r.err, r.err)
    path.write_bytes(content)
    same(leftovers(), [], "left behind by a refusal")


def made(name):
    return HOME / (f"{name}.manifest.json" if name.endswith(".gguf") else f"{name}/model.manifest.json")


# ---- merges ----
run("merge", RECIPE, HOME / "moe", "--text", f"code={MORE}", "--manifest", "-q", "-t", 1, cwd=DONORS)
replayed(made("moe"), DONORS, FILES)
(HOME / "moe/mergekit_moe_config.yml").rename(WORK / "kept.yml")  # it would do for the recipe
r = prove(made("moe"), DONORS, FILES, expect=1)
check("file differs     mergekit_moe_config.yml: found nothing" in r.out, r.out)
flipped(made("moe"), "layers.2.block_sparse_moe.gate", DONORS, FILES)
altered(made("moe"), MORE, DONORS, FILES)
altered(made("moe"), RECIPE, DONORS, FILES)
r = prove(made("moe"), DONORS, "--tensors", "w1", "-v")  # what recipes of tensors say needs no other file
check("8 tensors derived again and equal" in r.out, r.out)
tokenizer = DONORS / "base/tokenizer.json"
before = tokenizer.read_bytes()
tokenizer.write_bytes(before + b" ")
r = prove(made("moe"), DONORS, FILES, expect=7)
check("'tokenizer.json' of input 'base' has changed" in r.err, r.err)
tokenizer.write_bytes(before)
gates = FILES / "gates.safetensors"
shutil.copy(HOME / "moe/model.safetensors", gates)
RANDOM = ("--gate", "random", "--random-seed", 7)
for name, words in (("gated", ("--gate", gates)), ("random", RANDOM), ("hidden", ("--compat", "mergekit", "--experts-per-token", 1))):
    run("merge", RECIPE, HOME / name, *words, "--manifest", "-q", cwd=DONORS)
    replayed(made(name), DONORS, FILES)
altered(made("gated"), gates, DONORS, FILES)
inside = FILES / "inside.yml"
inside.write_text(RECIPE.read_text().replace("gate_mode: fit", "gate_mode: gates.safetensors"))
run("merge", inside, "-o", f"{HOME / 'in-q4.gguf'}=Q4_K_M", "-o", f"{HOME / 'in-q8.gguf'}=Q8_0", "--manifest", "-q", cwd=DONORS)
for name in ("in-q4.gguf", "in-q8.gguf"):
    replayed(made(name), DONORS, FILES)
altered(made("in-q4.gguf"), gates, DONORS, FILES)
mean = FILES / "mean.yml"
mean.write_text(RECIPE.read_text() + "trunk: regmean\n")
run("merge", mean, HOME / "mean", "--manifest", "-q", cwd=DONORS)
replayed(made("mean"), DONORS, FILES)
flipped(made("mean"), "layers.1.self_attn.k_proj", DONORS, FILES)

# ---- group formats and their relatives ----
PROSE = DONORS / "prose"
for name, words in (("awq", ("AWQ", "--group-size", 64)), ("gptq", ("GPTQ",)), ("both", ("AWQ", "--method", "awq+gptq", "--format", "compressed-tensors")),
                    ("fold", ("AWQ", "--fold-only"))):
    run("quantize", PROSE, HOME / name, *words, *TWO, "-q", "-t", 1)
    replayed(made(name), DONORS, FILES)
flipped(made("awq"), "layers.3.mlp.up_proj.qweight", DONORS, FILES)
flipped(made("both"), "layers.0.self_attn.o_proj.weight_packed", DONORS, FILES)
altered(made("gptq"), TEXT, DONORS, FILES)
for name, words in (("fold.gguf", ("Q4_K_M", "--fold-only")), ("feedback.gguf", ("Q4_K_M", "--feedback")), ("mix.gguf", ("Q4_K_M", "--target-bpw", 5, "--target-types", "Q3_K,Q6_K"))):
    run("quantize", PROSE, HOME / name, *words, *TWO, "-q", "-t", 1)
    (HOME / f"{name}.types.txt").unlink(missing_ok=True)
    replayed(made(name), DONORS, FILES)
flipped(made("fold.gguf"), "blk.2.ffn_gate.weight", DONORS, FILES)
flipped(made("feedback.gguf"), "blk.1.ffn_down.weight", DONORS, FILES)
altered(made("mix.gguf"), TEXT, DONORS, FILES)

# A manifest that claims another measure: the types that measuring gives are others, which names a tensor.
m = json.loads(made("mix.gguf").read_text())
for o in m["made"]["options"]:
    if o[0] == "--target-bpw":
        o[1] = "4"
lie = HOME / "lie.manifest.json"
lie.write_text(json.dumps(m))
r = prove(lie, DONORS, FILES, expect=7)
check("the work done again gives it the type Q3_K, not Q6_K" in r.err, r.err)
lie.unlink()

# ---- straight from a recipe: donors are inputs, the recipe a file, stages between them and the tensors ----
SMALL = WORK / "small"
for step, name in enumerate(("base", "one", "two")):
    shutil.copytree(DATA / "models/tiny/mistral", SMALL / name)
    path = SMALL / name / "model.safetensors"
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start::2] = bytes(b ^ 85 * step for b in data[start::2])  # the low bytes of BF16
    path.write_bytes(data)
IDS = FILES / "ids.txt"
IDS.write_text(" ".join(str(7 * i * i % 317 + 3) for i in range(256)) + "\n")
PLACES = (SMALL, FILES)
MOE = FILES / "small.yml"
MOE.write_text("base_model: base\ngate_mode: svd\ndtype: bfloat16\nexperts:\n  - source_model: one\n  - source_model: two\n")


def straight(name, recipe, *words, donors=("base", "one", "two"), text=("--tokens", IDS), cwd=SMALL, places=PLACES):
    run("quantize", recipe, HOME / name, *words, *text, "-q", "-t", 1, cwd=cwd)
    (HOME / f"{name}.types.txt").unlink(missing_ok=True)
    m = json.loads(made(name).read_text())
    same(sorted(i["name"] for i in m["inputs"] if i["files"] and "stage" not in i), sorted(donors), f"donors of {name}")
    check(recipe.name in [f["name"] for f in m["made"]["files"]], f"{m['made']}")
    replayed(made(name), *places)


run("merge", MOE, WORK / "gates-of-it", "-q", cwd=SMALL)
(FILES / "small-gates.safetensors").write_bytes((WORK / "gates-of-it/model.safetensors").read_bytes())
NAMES_A_FILE = FILES / "names_a_file.yml"
NAMES_A_FILE.write_text(MOE.read_text().replace("svd", "small-gates.safetensors"))
DENSE = FILES / "dense.yml"
DENSE.write_text("merge_method: dare_ties\nbase_model: base\ndtype: bfloat16\nparameters: {density: 0.6, weight: 0.5}\nmodels: [{model: one}, {model: two}]\n")
FORM = ("--group-size", 32)
straight("moe-awq", MOE, "AWQ", *FORM)
straight("moe-gptq", NAMES_A_FILE, "GPTQ", *FORM)
straight("moe-both", MOE, "AWQ", "--method", "awq+gptq", "--format", "compressed-tensors", *FORM)
straight("moe-fold", MOE, "AWQ", "--fold-only")
straight("moe-fold.gguf", MOE, "Q4_0", "--fold-only")
straight("moe-feedback.gguf", NAMES_A_FILE, "Q4_0", "--feedback")
straight("moe-mix.gguf", MOE, "Q4_0", "--target-bpw", 6, "--target-types", "Q4_0,Q8_0")
straight("dense-awq", DENSE, "AWQ", *FORM)
straight("dense-gptq", DENSE, "GPTQ", *FORM)
straight("moe-rtn", MOE, "RTN", "--format", "mlx", *FORM, text=())
straight("mean-gptq", mean, "GPTQ", donors=("base", "prose", "code"), text=TWO, cwd=DONORS, places=(DONORS, FILES))  # a stage before
run("calibrate", MOE, "--tokens", IDS, "-o", FILES / "small-im.gguf", "-q", cwd=SMALL)
straight("moe-iq.gguf", MOE, "Q4_0", "--imatrix", FILES / "small-im.gguf", text=())
for name, wanted in (("moe-both", "layers.2.block_sparse_moe.experts.1.w2.weight_packed"), ("moe-gptq", "layers.0.self_attn.o_proj.qweight"),
                     ("moe-feedback.gguf", "blk.1.ffn_down_exps.weight"), ("moe-fold.gguf", "blk.0.ffn_gate_exps.weight"),
                     ("moe-mix.gguf", "blk.2.attn_q.weight")):
    flipped(made(name), wanted, *PLACES)
altered(made("moe-fold"), MOE, *PLACES)
altered(made("moe-mix.gguf"), IDS, *PLACES)
altered(made("moe-gptq"), FILES / "small-gates.safetensors", *PLACES)
altered(made("moe-iq.gguf"), FILES / "small-im.gguf", *PLACES)

# One bit of the output, all tensors looked at: the right one is named, and no other.
target = json.loads(made("moe-awq").read_text())["tensors"][40]
stored = HOME / "moe-awq" / target["file"]
data = stored.read_bytes()
stored.write_bytes(data[:target["offset"]] + bytes([data[target["offset"]] ^ 16]) + data[target["offset"] + 1:])
r = prove(made("moe-awq"), *PLACES, expect=1)
lines = [line for line in r.out.splitlines() if not line.startswith("input ")]
check(lines[0].startswith(f"  output differs   {target['name']}: stored") and "1 of the output differ" in lines[-1], r.out)
stored.write_bytes(data)

# A donor: its ends, its middle, gone. A tensor of the base is asked for: the stage that folded it has read all donors.
ONE = SMALL / "two/model.safetensors"
SOME = ("--tensors", r"layers\.0\.self_attn\.q_proj")
content = ONE.read_bytes()
header = 8 + int.from_bytes(content[:8], "little")
middle = header + json.loads(content[8:header])["model.layers.1.mlp.up_proj.weight"]["data_offsets"][0] + 1001
check(65536 < middle < len(content) - 65536, "far from both ends")
for name in ("moe-awq", "moe-gptq"):
    ONE.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    r = prove(made(name), *PLACES, *SOME, expect=7)
    check("input 'two' has changed" in r.err and "the ends of model.safetensors" in r.err, r.err)
    ONE.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1:])
    r = prove(made(name), *PLACES, expect=7)
    check("is not what its inputs give now: the work done again gives" in r.err and "0 of the output differ" in r.out, r.err)
    (SMALL / "two").rename(WORK / "two-elsewhere")
    r = prove(made(name), *PLACES, *SOME, expect=5)
    check("input 'two' is not found" in r.err, r.err)
    (WORK / "two-elsewhere").rename(SMALL / "two")
    ONE.write_bytes(content)


def lied(edit, *words, expect):
    """A manifest that says something else."""
    m = json.loads(made("moe-awq").read_text())
    edit(m, next(i for i in m["inputs"] if i["name"] == "two"))
    lie = HOME / "moe-awq/lie.manifest.json"
    lie.write_text(json.dumps(m))
    r = prove(lie, *PLACES, *SOME, expect=expect)
    lie.unlink()
    same(leftovers(), [], "left behind by a refusal")
    for w in words:
        check(w in r.err, f"{w}: {r.err}")


lied(lambda m, two: two["files"][0].update(edges_xxh3="0" * 32), "input 'two' has changed", "0" * 32, expect=7)
lied(lambda m, two: two["sides"][0].update(xxh3="0" * 32), "'config.json' of input 'two' has changed", expect=7)
lied(lambda m, two: two.update(files=[]), "input 'two' has changed", expect=7)
lied(lambda m, two: two["files"][0].update(name="../model.safetensors"), "does not say what its files were", expect=7)
lied(lambda m, two: m["inputs"][0].pop("stage"), "small.yml", expect=7)
lied(lambda m, two: m["inputs"][0].update(stage="stored"), "small.yml", expect=7)
# The recipe has its donors, whatever the manifest says of them.
lied(lambda m, two: m["inputs"].remove(two), "donor 'two'", expect=5)
lied(lambda m, two: two.update(stage="file"), "donor 'two'", expect=5)
lied(lambda m, two: m.pop("made"), "nothing could be derived", "stage", expect=4)

# A LoRA adapter is an input under its folder's name.
LORA = SMALL / "lora"
LORA.mkdir()


def adapter(scale):
    common.write_safetensors(LORA / "adapter_model.safetensors", {
        f"base_model.model.model.layers.1.mlp.up_proj.lora_{n}.weight": common.f32([scale * (i * 37 % 19 - 9) for i in range(rows * cols)], [rows, cols])
        for n, rows, cols in (("A", 2, 64), ("B", 128, 2))})


adapter(1 / 64)
(LORA / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
ADAPTED = FILES / "adapted.yml"
ADAPTED.write_text(MOE.read_text().replace("source_model: two", "source_model: two+lora").replace("svd", "random"))
straight("adapted", ADAPTED, "AWQ", *FORM, donors=("base", "one", "two", "lora"))
for change, words in ((lambda: adapter(1 / 32), "input 'lora' has changed"),
                      (lambda: (LORA / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 8})), "'adapter_config.json' of input 'lora' has changed")):
    kept = {p: p.read_bytes() for p in LORA.iterdir()}
    change()
    r = prove(made("adapted"), *PLACES, *SOME, expect=7)
    check(words in r.err, r.err)
    for p, text in kept.items():
        p.write_bytes(text)

# ---- importance matrices ----
imatrix, rules = FILES / "im.gguf", FILES / "rules.txt"
run("calibrate", PROSE, "--text", TEXT, "--ctx", 256, "-o", imatrix, "-q")
rules.write_text("ffn_up=q5_k\n")
run("quantize", PROSE, HOME / "iq.gguf", "IQ3_S", "--imatrix", imatrix, "--exclude-weights", "attn_k", "--tensor-type-file", rules, "-q")
replayed(made("iq.gguf"), DONORS, FILES)
altered(made("iq.gguf"), imatrix, DONORS, FILES)
run("quantize", PROSE, HOME / "again.gguf", "IQ3_S", "--imatrix", imatrix, "--reuse", HOME / "iq.gguf", "-q")
run("quantize", PROSE, HOME / "third.gguf", "IQ3_S", "--imatrix", imatrix, "--reuse", HOME / "again.gguf", "-q")
taken = {t["name"]: t["recipe"] for t in json.loads(made("third.gguf").read_text())["tensors"]}
check(all(str(r).count("'source'") == 1 and r[1] for r in taken.values()), "recipes of reused tensors")
for name in ("iq.gguf", "again.gguf"):  # derived from the donor, not from where tensors were copied
    (HOME / name).unlink()
replayed(made("third.gguf"), DONORS, FILES)

# ---- grafts ----
run("graft", HOME / "moe", HOME / "added", "--add", f"{DONORS / 'json'}:{MORE}", "--text", TEXT, "--manifest", "-q")
run("graft", HOME / "moe", HOME / "gated-again", "--regate", RECIPE, "--manifest", "-q")
run("graft", HOME / "added", HOME / "dropped", "--drop", "auto:34%", *TWO[:4], "--manifest", "-q")
for name in ("added", "gated-again", "dropped"):
    replayed(made(name), DONORS, FILES)
altered(made("added"), MORE, DONORS, FILES)
altered(made("gated-again"), RECIPE, DONORS, FILES)
altered(made("dropped"), TEXT, DONORS, FILES)

# ---- interrupted ----
WHERE = ("--work", WORK / "elsewhere")
points = common.run("verify", "--provenance", made("gptq"), DONORS, FILES, "-q", "-t", 1, *WHERE, cwd=AWAY / "x", env={
    "MOEGRAFT_CRASH_COUNT": WORK / "points"})
same((WORK / "elsewhere").exists(), False, "the work folder when all is done")
n = int((WORK / "points").read_text().split()[-1])
check(n > 8, f"{n} crash points")
common.run("verify", "--provenance", made("gptq"), DONORS, FILES, "-q", "-t", 1, *WHERE, cwd=AWAY / "x", expect=137, env={"MOEGRAFT_CRASH_AT": n // 2})
kept = sorted((WORK / "elsewhere").rglob("gptq-*.safetensors"))
check(0 < len(kept) < 4, f"layers kept by an interrupted run: {kept}")
r = prove(made("gptq"), DONORS, FILES, *WHERE)
same((WORK / "elsewhere").exists(), False, "the work folder after going on")
common.run("verify", "--provenance", made("gptq"), DONORS, FILES, "-q", "-t", 1, cwd=AWAY / "x", expect=137, env={"MOEGRAFT_CRASH_AT": n // 2})
check(len(leftovers()) >= 2 and (HOME / "gptq/.gptq.replay").is_dir(), f"kept: {leftovers()}")
run("clean", HOME / "gptq", "--all")
same(leftovers(), [], "after clean")
blocked = WORK / "blocked"
blocked.write_text("a file")
r = prove(made("gptq"), DONORS, FILES, "--work", blocked, expect=5)
check("blocked" in r.err, r.err)
common.done()
