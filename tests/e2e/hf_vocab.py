"""GGUF -> Hugging Face with tokenizer files: the directory tokenizes and decodes as the GGUF and as the directory it came from, and
goes back to the same GGUF vocabulary."""
import json

import common
from common import DATA, SAMPLES, WORK, check, run, same

base = DATA / "models/donors/base"
run("convert", base, WORK / "a.gguf", "-q")
run("convert", WORK / "a.gguf", WORK / "back", "-q")
for name in ("tokenizer.json", "tokenizer_config.json"):
    json.loads((WORK / "back" / name).read_text())
texts = [(SAMPLES / f"text/{d}.txt").read_text()[:3000] for d in ("prose", "code", "math", "json")]
texts += ["", " ", "   a", "x  y   z\n\n\tq", "naïve façade — ünïcödé 中文 \U0001f600", "<s> </s> <unk>", "\u00a0\u200b end "]
for i, text in enumerate(texts):
    (WORK / "t.txt").write_text(text)
    for options in ([], ["--no-special"]):
        ids = [run("tokenize", m, "--file", WORK / "t.txt", "--json", *options).json()["ids"] for m in (base, WORK / "a.gguf", WORK / "back")]
        same(ids[1], ids[0], f"text {i}: the GGUF")
        same(ids[2], ids[0], f"text {i}: the directory made from it")
    if ids[0]:
        decoded = [run("tokenize", m, "--decode", ",".join(map(str, ids[0]))).out for m in (base, WORK / "back")]
        same(decoded[1], decoded[0], f"text {i}: decoded")
run("convert", WORK / "back", WORK / "b.gguf", "-q")
keys = [{k: v for k, v in run("inspect", f, "--kv", "--json").json()["metadata"].items() if k.startswith("tokenizer.ggml.")} for f in (WORK / "a.gguf", WORK / "b.gguf")]
check(len(keys[0]) > 5, "tokenizer keys")
for k in ("tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"):
    same(keys[1].get(k), keys[0].get(k), f"{k} after the way back")
common.done()
