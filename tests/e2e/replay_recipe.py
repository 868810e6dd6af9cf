"""verify --provenance of what was made straight from a merge recipe: the donors are inputs, the recipe a file, and a stage stands between them
and the tensors. A donor, the recipe, a bit of the output, the manifest changed; an interrupted run goes on."""
import json
import shutil

import common
from common import DATA, WORK, check, run, same
from replay_runs import AWAY, FILES, HOME, altered, flipped, leftovers, made, prove, replayed

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


def straight(name, recipe, *words, donors=("base", "one", "two"), text=("--tokens", IDS)):
    run("quantize", recipe, HOME / name, *words, *text, "-q", "-t", 1, cwd=SMALL)
    (HOME / f"{name}.types.txt").unlink(missing_ok=True)
    m = json.loads(made(name).read_text())
    same(sorted(i["name"] for i in m["inputs"] if i["files"] and "stage" not in i), sorted(donors), f"donors of {name}")
    check(recipe.name in [f["name"] for f in m["made"]["files"]], f"{m['made']}")
    replayed(made(name), *PLACES)


run("merge", MOE, HOME / "moe", "--manifest", "-q", cwd=SMALL)
replayed(made("moe"), *PLACES)
shutil.copy(HOME / "moe/model.safetensors", FILES / "small-gates.safetensors")
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

# ---- interrupted ----
WHERE = ("--work", WORK / "elsewhere")
points = common.run("verify", "--provenance", made("moe-gptq"), *PLACES, "-q", "-t", 1, *WHERE, cwd=AWAY / "x", env={
    "MOEGRAFT_CRASH_COUNT": WORK / "points"})
same((WORK / "elsewhere").exists(), False, "the work folder when all is done")
n = int((WORK / "points").read_text().split()[-1])
check(n > 8, f"{n} crash points")
common.run("verify", "--provenance", made("moe-gptq"), *PLACES, "-q", "-t", 1, *WHERE, cwd=AWAY / "x", expect=137, env={"MOEGRAFT_CRASH_AT": n // 2})
kept = sorted((WORK / "elsewhere").rglob("gptq-*.safetensors"))
check(0 < len(kept) < 3, f"layers kept by an interrupted run: {kept}")
r = prove(made("moe-gptq"), *PLACES, *WHERE)
same((WORK / "elsewhere").exists(), False, "the work folder after going on")
common.run("verify", "--provenance", made("moe-gptq"), *PLACES, "-q", "-t", 1, cwd=AWAY / "x", expect=137, env={"MOEGRAFT_CRASH_AT": n // 2})
check(len(leftovers()) >= 2 and (HOME / "moe-gptq/.moe-gptq.replay").is_dir(), f"kept: {leftovers()}")
run("clean", HOME / "moe-gptq", "--all")
same(leftovers(), [], "after clean")
blocked = WORK / "blocked"
blocked.write_text("a file")
r = prove(made("moe-gptq"), *PLACES, "--work", blocked, expect=5)
check("blocked" in r.err, r.err)
common.done()
