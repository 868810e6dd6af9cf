"""moegraft-tokenize: ids and pieces from a directory and from one file, text from ids, and its exit codes."""
import json

import common
from common import check, run, same

BASE = common.SAMPLES / "donors" / "base"
cases = json.loads((common.DATA / "tokenizer" / "base.json").read_text())["cases"]
for case in cases[:60:7]:
    (common.WORK / "text").write_text(case["text"], newline="")
    for path in (BASE, BASE / "tokenizer.json", BASE / "tokenizer.model"):
        same(run("tokenize", path, "--file", "text", "--json").json()["ids"], case["ids"], repr(case["text"]))
        same(run("tokenize", path, "--file", "text", "--no-special").out.split(), [str(i) for i in case["plain"]], repr(case["text"]))

got = run("tokenize", BASE, "--text", "the end</s>", "--json").json()
same((got["pieces"][0], got["pieces"][-1]), ("<s>", "</s>"), "special tokens")
same(len(got["ids"]), len(got["pieces"]), "a piece per id")
check("</s>" not in run("tokenize", BASE, "--text", "the end</s>", "--json", "--no-special").json()["pieces"], "--no-special")
same(run("tokenize", BASE, "--file", "-", stdin=b"the end</s>").out.split(), [str(i) for i in got["ids"]], "standard input")

ids = ",".join(str(i) for i in got["ids"])
same(run("tokenize", BASE, "--decode", ids).out, "<s> the end</s>\n", "--decode")
same(run("tokenize", BASE, "--decode", ids, "--no-special").out, "the end\n", "--decode --no-special")
same(run("tokenize", BASE, "--decode", ids, "--json").json()["text"], "<s> the end</s>", "--decode --json")

for args, code, says in [
    ((BASE,), 2, "expected one PATH and one of"),
    ((BASE, "--text", "a", "--decode", "1"), 2, "expected one PATH and one of"),
    ((BASE, "--decode", "1,x"), 2, "'x' is not a whole number"),
    ((BASE, "--decode", "1024"), 2, "the vocabulary has 1024 tokens"),
    ((BASE, "--chat", "x.json"), 5, "x.json"),
    ((common.WORK, "--text", "a"), 4, "no tokenizer there"),
    ((common.WORK / "none.gguf", "--text", "a"), 5, "none.gguf"),
    ((BASE, "--file", "none"), 5, "none"),
    ((BASE, "--txt", "a"), 2, "nearest: '--text'"),
]:
    check(says in run("tokenize", *args, expect=code).err, f"{args}: {says}")

# K09, K14: what is wrong is named, with the file
broken = json.loads((BASE / "tokenizer.json").read_text())
broken["model"]["vocab"]["the"] = 5000
(common.WORK / "tokenizer.json").write_text(json.dumps(broken))
err = run("tokenize", common.WORK, "--text", "a", expect=3).err
check("tokenizer.json" in err and "5000" in err, err)
(common.WORK / "tokenizer.json").unlink()
(common.WORK / "tokenizer.model").write_bytes((BASE / "tokenizer.model").read_bytes()[:-20])
check("SentencePiece model" in run("tokenize", common.WORK, "--text", "a", expect=3).err, "a truncated model")
(common.WORK / "vocab.json").write_text("{}")
(common.WORK / "tokenizer.model").unlink()
check("vocab.json" in run("tokenize", common.WORK, "--text", "a", expect=4).err, "another kind")

base, text = common.SAMPLES / "donors/base", common.SAMPLES / "text/prose.txt"
said, quiet = run("tokenize", base, "--file", text), run("tokenize", base, "--file", text, "-q")
same((said.err.startswith(f"tokenize: {text.stat().st_size} bytes, {len(said.out.split())} tokens, "), quiet.err, quiet.out), (True, "", said.out), "how many, unless -q")

common.done()
