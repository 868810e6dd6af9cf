"""verify --provenance of what stages made: each kind of stage is done again and compared; one changed byte of the output, another
text, gate file, matrix, recipe or tokenizer is found and named; threads do not matter. From recipes and on small models, which is also what
ThreadSanitizer sees: replay_recipe.py."""
import json
import shutil

import common
from common import DATA, WORK, check, run
from replay_runs import FILES, HOME, altered, flipped, made, prove, replayed

DONORS = WORK / "donors"
for name in ("base", "prose", "code", "json"):
    shutil.copytree(DATA / "models/donors" / name, DONORS / name)
TEXT = FILES / "text.txt"
TEXT.write_text("And the miller said unto his servant, Go thou to the bridge. 12+7=19\n" * 30)
MORE = FILES / "more.txt"
MORE.write_text("int main(void)\nreturn 0;\n")
RECIPE = FILES / "moe.yml"
RECIPE.write_text("base_model: base\ngate_mode: fit\ndtype: bfloat16\nexperts:\n" + "".join(
    f"  - source_model: {d}\n    positive_prompts: ['{d} of it']\n" for d in ("prose", "code")))
TWO = ("--text", TEXT, "--ctx", 256, "--samples", 1)

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
run("quantize", mean, HOME / "mean-gptq", "GPTQ", *TWO, "-q", "-t", 1, cwd=DONORS)  # two stages, one after the other
replayed(made("mean-gptq"), DONORS, FILES)

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

common.done()
