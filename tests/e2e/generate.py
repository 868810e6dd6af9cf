"""moegraft-generate: greedy tokens are the argmax of moegraft-forward's logits; seeds, filters, threads and chunked prompts."""
import json
import shutil
import common
from common import check, run, same

MODEL, VOCAB = common.SAMPLES / "donors/prose", 1024
PROMPT = "The old man"


def generate(*args, **kw):
    return run("generate", MODEL, "--prompt", PROMPT, "--json", *args, **kw).json()


r = generate("-n", 24)
same(r["prompt_ids"], run("tokenize", MODEL, "--text", PROMPT, "--json").json()["ids"], "ids of the prompt")
same(len(r["ids"]), 24, "number of tokens")
all_ids = r["prompt_ids"] + r["ids"]
out = common.WORK / "x.safetensors"
run("forward", MODEL, "--ids", ",".join(map(str, all_ids)), "-o", out, "--capture", "logits")
flat = common.read_safetensors(out)[1]["logits"].floats()
for i in range(len(r["prompt_ids"]), len(all_ids)):
    row = flat[(i - 1) * VOCAB:i * VOCAB]
    same(all_ids[i], row.index(max(row)), f"token {i}")
check(r["text"].startswith(PROMPT), r["text"])
same(run("generate", MODEL, "--prompt", PROMPT, "-n", 24).out, r["text"] + "\n", "plain text")
same(generate("-n", 24, "-t", 1, env={"MOEGRAFT_ISA": "scalar"})["ids"], r["ids"], "scalar, one thread")
for memory in [1, "2MB"]:  # nothing kept, some of it kept
    same(generate("-n", 24, "--memory", memory)["ids"], r["ids"], f"--memory {memory}")
same(generate("-n", 8)["ids"], r["ids"][:8], "fewer tokens")
same(generate("-n", 0)["ids"], [], "no tokens")

hot = ["-n", 24, "--temp", 1.5]
same(generate(*hot, "--seed", 5)["ids"], generate(*hot, "--seed", 5, "-t", 3)["ids"], "the same seed")
check(generate(*hot, "--seed", 5)["ids"] != generate(*hot, "--seed", 6)["ids"], "the seed is ignored")
same(generate(*hot, "--top-k", 1)["ids"], r["ids"], "top-k 1 is greedy")
same(generate(*hot, "--top-p", 1e-9)["ids"], r["ids"], "a tiny top-p is greedy")

# ---- several models: what each writes alone, and where it parts from the first ----
SMALL, CODE = common.WORK / "prose-Q4_0.gguf", common.SAMPLES / "donors/code"
run("quantize", MODEL, SMALL, "Q4_0", "-q")
paths = [MODEL, SMALL, CODE, MODEL]
many = run("generate", *paths, "--prompt", PROMPT, "-n", 24, "--json").json()
same((many["schema"], many["prompt"], many["prompt_ids"]), (1, PROMPT, r["prompt_ids"]), "the prompt")
same([m["path"] for m in many["results"]], [str(p) for p in paths], "paths")
for path, m in zip(paths, many["results"]):
    one = run("generate", path, "--prompt", PROMPT, "-n", 24, "--json").json()
    same((m["ids"], m["text"]), (one["ids"], one["text"]), f"{path.name} beside others")
    n = next((i for i, (a, b) in enumerate(zip(m["ids"], r["ids"])) if a != b), min(len(m["ids"]), len(r["ids"])))
    same((m["shared"], m["first_difference"]), (n, None if m["ids"] == r["ids"] else n), f"{path.name}: where they part")
    same(m["shared_text"], run("tokenize", MODEL, "--decode", ",".join(map(str, r["prompt_ids"] + m["ids"][:n]))).out.rstrip("\n").replace("<s>", "").lstrip(),
         f"{path.name}: shared text")
check(many["results"][2]["shared"] < 24 and many["results"][3]["first_difference"] is None, "nothing parts")
order = sorted(range(4), key=lambda i: (many["results"][i]["bytes"], -many["results"][i]["shared"], i))
marks, longest = [], -1
for i in order:
    marks.append(many["results"][i]["shared"] > longest)
    longest = max(longest, many["results"][i]["shared"])
same([many["results"][i]["pareto"] for i in order], marks, "front")
out = run("generate", *paths, "--prompt", PROMPT, "-n", 24).out
table = out[out.index("bytes"):].splitlines()[1:]
same([line.startswith("*") for line in table], marks, "table")
check(all(str(paths[i]) in line for i, line in zip(order, table)), f"table by size: {table}")
check(out.startswith(f"{MODEL}:\n{r['text']}\n\n{SMALL}:\n") and "is the first that differs" in out, out)

# Another tokenizer: the ids say nothing of each other.
foreign = common.WORK / "foreign"
shutil.copytree(MODEL, foreign)
vocabulary = json.loads((foreign / "tokenizer.json").read_text())
vocab = vocabulary["model"]["vocab"]
a, b = [k for k, v in vocab.items() if v in (r["prompt_ids"][1], 900)]
vocab[a], vocab[b] = vocab[b], vocab[a]
(foreign / "tokenizer.json").write_text(json.dumps(vocabulary))
check("other token ids" in run("generate", MODEL, foreign, "--prompt", PROMPT, "-n", 2, expect=8).err, "another tokenizer")

run("generate", MODEL, "--chat", "x.json", expect=5)
run("generate", MODEL, expect=2)
run("generate", MODEL, "--prompt", "x", "--temp", "-1", expect=2)
run("generate", MODEL, "--prompt", "x", "--top-p", "0", expect=2)
run("generate", common.DATA / "models/tiny/llama", "--prompt", "x", expect=4)
said = run("generate", MODEL, "--prompt", PROMPT, "-n", 3, "--progress", "json")
check("generate: 3 tokens behind" in said.err and '"tokens"' in said.err, said.err)
same(run("generate", MODEL, "--prompt", PROMPT, "-n", 3, "--progress", "json", "-q").err, "", "-q")
common.done()
