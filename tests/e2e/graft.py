"""moegraft-graft: experts dropped (listed, or those that do least), added, routers fitted anew, also in quantized files whose other
blocks stay; what is refused."""
import json

import common
from common import DATA, SAMPLES, WORK, check, run, same
import moe4

DONORS = DATA / "models/donors"
NAMES = ("prose", "code", "math", "json")
PROMPTS = {d: [line for line in (SAMPLES / f"text/{d}.txt").read_text().splitlines() if len(line) > 20][:4] for d in NAMES}
(WORK / "few.txt").write_text("1 20 30 40 50 60 70 80 90 100 7 8 9 10 11 12\n")
reference = moe4.build(WORK / "moe4")
before = common.read_safetensors(reference / "model.safetensors")[1]
run("convert", reference, WORK / "bf16.gguf", "-q")
run("quantize", WORK / "bf16.gguf", WORK / "q4.gguf", "Q4_K_S", "-q")


def recipe(name, donors):
    text = "base_model: nowhere/base\nexperts:\n" + "".join(
        f"  - source_model: nowhere/{d}\n    positive_prompts: {json.dumps(PROMPTS[d])}\n" for d in donors)
    (WORK / f"{name}.yml").write_text(text)
    return WORK / f"{name}.yml"


def ppl(model, *options):
    return run("perplexity", model, "--tokens", WORK / "few.txt", "--json", "-q", *options).json()["results"][0]["ppl"]


def rows(t, n):
    size = len(t.data) // n
    return [t.data[i * size:(i + 1) * size] for i in range(n)]


# ---- dropped experts: the others' bytes, the routers' rows, the numbers ----
run("graft", reference, WORK / "three", "--drop", "1", "-q")
after = common.read_safetensors(WORK / "three/model.safetensors")[1]
kept = (0, 2, 3)
for name, t in after.items():
    if ".experts." in name:
        e = int(name.split(".experts.")[1].split(".")[0])
        check(t.data == before[name.replace(f".experts.{e}.", f".experts.{kept[e]}.")].data, f"{name} is not expert {kept[e]}'s")
    elif name.endswith("gate.weight"):
        check(rows(t, 3) == [rows(before[name], 4)[e] for e in kept], f"rows of {name}")
    else:
        check(t.data == before[name].data, f"{name} changed")
same(len(before) - len(after), 4 * 3, "tensors of the dropped expert")
config = json.loads((WORK / "three/config.json").read_text())
same((config["num_local_experts"], config["num_experts_per_tok"]), (3, 2), "numbers of experts")
check((WORK / "three/tokenizer.model").exists(), "tokenizer files come along")

# ---- the same in a quantized file: blocks as they are; equal to quantizing the pruned model ----
run("graft", WORK / "q4.gguf", WORK / "q4three.gguf", "--drop", "1", "-q")
run("convert", WORK / "three", WORK / "three.gguf", "-q")
run("quantize", WORK / "three.gguf", WORK / "three-q4.gguf", "Q4_K_S", "-q")
hashes = [{t["name"]: (t["dtype"], t["sha256"]) for t in run("inspect", WORK / f, "--json", "--tensors", "--hash").json()["tensors"]}
          for f in ("q4three.gguf", "three-q4.gguf")]
same(hashes[0], hashes[1], "pruned blocks and blocks of the pruned model")
same(ppl(WORK / "q4three.gguf"), ppl(WORK / "three-q4.gguf"), "perplexity of both")

# ---- nothing dropped, another number of experts per token: only the number changes ----
run("graft", reference, WORK / "one", "--experts-per-token", 1, "-q")
same(common.sha256(WORK / "one/model.safetensors"), common.sha256(reference / "model.safetensors"), "weights with --experts-per-token")
same(ppl(WORK / "one"), ppl(reference, "--experts-per-token", 1), "one expert per token")
run("graft", WORK / "q4.gguf", WORK / "all.gguf", "--experts-per-token", "all", "-q")
same(ppl(WORK / "all.gguf"), ppl(WORK / "q4.gguf", "--experts-per-token", 4), "all experts")

# ---- routers fitted anew: nothing else changes; the same rows as merging with fit gives ----
four = recipe("four", NAMES)
run("graft", reference, WORK / "refit", "--regate", four, "-q")
after = common.read_safetensors(WORK / "refit/model.safetensors")[1]
changed = [n for n in after if after[n].data != before[n].data]
same(changed, sorted(n for n in before if n.endswith("gate.weight")), "what --regate changes")
(WORK / "merge.yml").write_text(four.read_text().replace("nowhere", str(DONORS)) + "dtype: bfloat16\n")
run("merge", WORK / "merge.yml", WORK / "merged", "-q")
same(common.sha256(WORK / "refit/model.safetensors"), common.sha256(WORK / "merged/model.safetensors"), "regate and merge with fit")
run("graft", WORK / "q4.gguf", WORK / "refit.gguf", "--regate", four, "-q")
tensors = [{t["name"]: t["sha256"] for t in run("inspect", f, "--json", "--tensors", "--hash").json()["tensors"]} for f in (WORK / "q4.gguf", WORK / "refit.gguf")]
same(sorted(n for n in tensors[0] if tensors[0][n] != tensors[1][n]), [f"blk.{l}.ffn_gate_inp.weight" for l in range(4)], "quantized: what --regate changes")
run("graft", WORK / "q4.gguf", WORK / "refit1.gguf", "--regate", four, "-q", "-t", 1, env={"MOEGRAFT_ISA": "scalar"})
same(common.sha256(WORK / "refit.gguf"), common.sha256(WORK / "refit1.gguf"), "regate with one scalar thread")

# ---- an expert dropped and added again is where the others left it ----
run("graft", reference, WORK / "last", "--drop", "3", "-q")
run("graft", WORK / "last", WORK / "again", "--add", DONORS / "json", "--regate", four, "-q")
same(common.sha256(WORK / "again/model.safetensors"), common.sha256(WORK / "merged/model.safetensors"), "json dropped, added and refitted")
same(json.loads((WORK / "again/config.json").read_text())["num_local_experts"], 4, "experts after --add")
run("graft", WORK / "q4.gguf", WORK / "last.gguf", "--drop", "3", "-q")
run("graft", WORK / "last.gguf", WORK / "again.gguf", "--add", DONORS / "json", "--regate", four, "-q")
tensors = [{t["name"]: t["sha256"] for t in run("inspect", f, "--json", "--tensors", "--hash").json()["tensors"] if "gate_inp" not in t["name"]}
           for f in (WORK / "q4.gguf", WORK / "again.gguf")]
same(tensors[1], tensors[0], "an expert added to a quantized file gets its type, the others keep their blocks")

# ---- an added expert whose router row is fitted to its own prompts: the rows of the others stay, its kind of text gains ----
(WORK / "its.txt").write_text("\n".join(PROMPTS["json"]) + "\n")
(WORK / "its.json").write_text(json.dumps(PROMPTS["json"]))
run("graft", WORK / "merged", WORK / "m3", "--drop", "3", "-q")
(WORK / "others.txt").write_text("\n".join(line[:80] for d in NAMES[:3] for line in PROMPTS[d][:2]))
said = run("graft", WORK / "m3", WORK / "m4", "--add", f"{DONORS}/json:its.txt", "--text", WORK / "others.txt").err
accuracy = [float(line.split(":")[2].split("%")[0]) for line in said.splitlines() if "prompt tokens find" in line]
same(len(accuracy), 4, "layers with a new row")
check(min(accuracy) > 70, f"tokens told apart from other texts: {accuracy}")
run("graft", WORK / "m3", WORK / "m4j", "--add", f"{DONORS}/json:its.json", "--text", WORK / "others.txt", "-q", "-t", 1, env={"MOEGRAFT_ISA": "scalar"})
same(common.tree(WORK / "m4j"), common.tree(WORK / "m4"), "the same prompts as a JSON list, with one scalar thread")
m3, m4, donor = (common.read_safetensors(d / "model.safetensors")[1] for d in (WORK / "m3", WORK / "m4", DONORS / "json"))
for name, t in m4.items():
    if name.endswith("gate.weight"):
        same(rows(t, 4)[:3], rows(m3[name], 3), f"rows of {name} that stay")
    elif ".experts.3." in name:
        layer, w = name.split(".block_sparse_moe.")[0], {"w1": "gate", "w2": "down", "w3": "up"}[name.split(".")[-2]]
        same(t.data, donor[f"{layer}.mlp.{w}_proj.weight"].data, name)
    else:
        same(t.data, m3[name].data, name)
own = (SAMPLES / "text/json.txt").read_text()
(WORK / "eval.txt").write_text(own[len(own) // 2:len(own) // 2 + 1200])
losses = [run("perplexity", m, "--text", WORK / "eval.txt", "--ctx", 128, "--json", "-q").json()["results"][0]["ppl"] for m in (WORK / "m4", WORK / "m3")]
check(losses[0] < losses[1], f"JSON with its specialist and without: {losses}")
run("graft", WORK / "last.gguf", WORK / "added.gguf", "--add", f"{DONORS}/json:{WORK}/its.txt", "--text", WORK / "its.json", "-q")
tensors = [{t["name"]: t["sha256"] for t in run("inspect", f, "--json", "--tensors", "--hash").json()["tensors"] if "gate_inp" not in t["name"]}
           for f in (WORK / "q4.gguf", WORK / "added.gguf")]
same(tensors[1], tensors[0], "blocks of a quantized file and of its new expert")
gates = [common.read_gguf(f)[1]["blk.2.ffn_gate_inp.weight"] for f in (WORK / "last.gguf", WORK / "added.gguf")]
same(rows(gates[1], 4)[:3], rows(gates[0], 3), "rows of a quantized file that stay")
run("graft", WORK / "last.gguf", WORK / "two.gguf", "--add", f"{DONORS}/json:its.txt", "--add", f"{DONORS}/code:its.json", "-q")
same(common.read_gguf(WORK / "two.gguf")[0]["llama.expert_count"], 5, "two experts added at once")
refuse_add = {"either every": ["--add", f"{DONORS}/json:its.txt", "--add", DONORS / "code"],
              "--regate fits": ["--add", f"{DONORS}/json:its.txt", "--regate", four]}
for words, options in refuse_add.items():
    common.refused(2, [words], words, "graft", WORK / "m3", WORK / "never", *options)
(WORK / "bad.json").write_text("[1]")
common.refused(3, ["no text", "bad.json"], "numbers as prompts", "graft", WORK / "m3", WORK / "never", "--add", f"{DONORS}/json:bad.json")

# ---- the expert that does least for a text of one kind goes ----
(WORK / "text.txt").write_text((SAMPLES / "text/math.txt").read_text()[:1500])
text = run("graft", WORK / "merged", WORK / "auto", "--drop", "auto:25%", "--text", WORK / "text.txt", "--ctx", 64).err
lines = [line for line in text.splitlines() if " drops " in line]
same(len(lines), 4, "one line per layer")
check(all(" drops 2 " not in line for line in lines), f"the specialist of the text is kept: {lines}")
same(json.loads((WORK / "auto/config.json").read_text())["num_local_experts"], 3, "experts after auto:25%")
gone = [int(line.split(" drops ")[1].split()[0]) for line in lines]
after, before = (common.read_safetensors(WORK / d / "model.safetensors")[1] for d in ("auto", "merged"))
for layer, e in enumerate(gone):
    name = f"model.layers.{layer}.block_sparse_moe.experts.{{}}.w2.weight"
    check([after[name.format(i)].data for i in range(3)] == [before[name.format(i)].data for i in range(4) if i != e], f"experts of layer {layer}")


# ---- refusals ----
def refuse(code, words, *args):
    common.refused(code, words, args, "graft", *args)


refuse(2, ["nothing to do"], reference, WORK / "never")
refuse(2, ["0 to 3"], reference, WORK / "never", "--drop", "4")
refuse(8, ["no expert"], reference, WORK / "never", "--drop", "0,1,2,3")
refuse(8, ["2 experts per token of 1"], reference, WORK / "never", "--drop", "0,1,2")
refuse(2, ["--text"], reference, WORK / "never", "--drop", "auto:25%")
refuse(2, ["percentage"], reference, WORK / "never", "--drop", "auto:25", "--text", WORK / "text.txt")
refuse(2, ["--regate"], reference, WORK / "never", "--add", DONORS / "json")
refuse(8, ["prompts for 4", "has 3"], reference, WORK / "never", "--drop", "0", "--regate", four)
refuse(8, ["hidden size 64", "256"], reference, WORK / "never", "--add", DATA / "models/tiny/mistral", "--regate", recipe("five", NAMES + ("json",)))
refuse(4, ["no experts"], DONORS / "base", WORK / "never", "--drop", "0")
refuse(4, ["hidden", "fit"], reference, WORK / "never", "--regate", four, "--gate", "hidden")
refuse(4, ["grid"], DATA / "models/tiny/mesh_k2", WORK / "never", "--drop", "0")
common.done()
