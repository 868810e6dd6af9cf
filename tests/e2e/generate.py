"""moegraft-generate: greedy tokens are the argmax of moegraft-forward's logits; seeds, filters, threads and chunked prompts."""
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

run("generate", MODEL, "--chat", "x.json", expect=5)
run("generate", MODEL, expect=2)
run("generate", MODEL, "--prompt", "x", "--temp", "-1", expect=2)
run("generate", MODEL, "--prompt", "x", "--top-p", "0", expect=2)
run("generate", common.DATA / "models/tiny/llama", "--prompt", "x", expect=4)
common.done()
