"""mergekit 0.1.5's `tokenizer: {source: union | base | a model, tokens, pad_to_multiple_of}` on donors with different vocabularies: the same
tokens, rows of embeddings and heads equal by token (its numbers of new words come from a hash table, ours are in order), padding rows, and
the same ids from both results' tokenizers for texts without new words. In float32, where means differ by rounding only."""
import json
import os
import shutil
import subprocess
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from peers import DATA, WORK, run

MERGEKIT = os.path.join(os.path.dirname(sys.executable), "mergekit-yaml")
DONORS = DATA / "models/donors"
ROWS = ("model.embed_tokens.weight", "lm_head.weight")


def donor(name, source, order=None, words=(), special=(), padding=0, files=("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")):
    """A donor whose tokens from 300 on are rotated by `order`, whose words are renamed, with tokens added and rows of padding."""
    out = WORK / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for f in ("config.json", *files):
        shutil.copy(DONORS / source / f, out / f)
    tensors = load_file(DONORS / source / "model.safetensors")
    tokens = json.loads((out / "tokenizer.json").read_text())
    vocab = tokens["model"]["vocab"]
    n = len(vocab)
    moved = {i: i if i < 300 else 300 + (i - 300 + (order or 0)) % (n - 300) for i in range(n)}
    renamed = {next(t for t, i in vocab.items() if i == old): new for old, new in words}
    tokens["model"]["vocab"] = {renamed.get(t, t): moved[i] for t, i in vocab.items()}
    gone = set(renamed)
    pair = lambda m: m if isinstance(m, list) else m.split(" ")
    tokens["model"]["merges"] = [m for m in tokens["model"]["merges"] if not gone & set(pair(m)) and "".join(pair(m)) not in gone]
    for i, text in enumerate(special):
        tokens["added_tokens"].append({"id": n + i, "content": text, "single_word": False, "lstrip": False, "rstrip": True, "normalized": False, "special": True})
    (out / "tokenizer.json").write_text(json.dumps(tokens))
    generator = torch.Generator().manual_seed(len(name))
    for r in ROWS:
        t = tensors[r].clone()
        for i, j in moved.items():
            t[j] = tensors[r][i]
        more = torch.randn((len(special) + padding, t.shape[1]), generator=generator).to(t.dtype)
        tensors[r] = torch.cat([t, more])
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "config.json").read_text()) | {"vocab_size": n + len(special) + padding}
    (out / "config.json").write_text(json.dumps(config))
    return out


base = donor("base", "base")
chat = donor("chat", "prose", special=("<|im_start|>", "<|im_end|>"), padding=14)
alien = donor("alien", "code", order=7, words=((700, "\u2603\u2603"), (650, "qqzz")), special=("<|im_end|>", "<|tool|>"))
third = donor("third", "math", words=((700, "\u2603\u2603"), (640, "zzyy")), special=("<|tool|>",))
same_words = [t for t in (DATA / "../../samples/text").resolve().glob("*.txt")]
CASES = {
    "union": "tokenizer_source: union",
    "padded": "tokenizer:\n  source: union\n  pad_to_multiple_of: 64",
    "base": "tokenizer:\n  source: base\n  pad_to_multiple_of: 32",
    "model": f"tokenizer:\n  source: {alien}",
    "tokens": f"""tokenizer:
  source: union
  tokens:
    <|im_start|>:
      source: {{kind: model_token, model: {chat}, token: <|im_end|>}}
    <|new|>:
      source: {{kind: model_token, model: {alien}, token_id: 321}}
    <|zero|>:
      source: {{kind: zero}}
    <|tool|>:
      source: {alien}
      force: true""",
}
worst = 0.0
for name, tokenizer in CASES.items():
    for method, more in (("linear", "parameters: {weight: 1}"), ("task_arithmetic", "parameters: {weight: 0.5}")):
        recipe = WORK / f"{name}.yml"
        models = [chat, alien, third] + [base] * (method == "linear")
        recipe.write_text(f"merge_method: {method}\nbase_model: {base}\ndtype: float32\nmodels:\n" + "".join(f"  - model: {m}\n" for m in models) + f"{more}\n{tokenizer}\n")
        theirs, ours = WORK / "theirs", WORK / "ours"
        for d in (theirs, ours):
            shutil.rmtree(d, ignore_errors=True)
        subprocess.run([MERGEKIT, recipe, theirs, "--quiet"], check=True, capture_output=True)
        run("merge", recipe, ours, "-q")
        a, b = AutoTokenizer.from_pretrained(theirs), AutoTokenizer.from_pretrained(ours)
        va, vb = a.get_vocab(), b.get_vocab()
        assert set(va) == set(vb), (name, set(va) ^ set(vb))
        for f in same_words:
            text = f.read_text()[:4000]
            new = [t for t in va if va[t] >= 1024 and t in text]
            assert a(text)["input_ids"] == b(text)["input_ids"] or new, (name, f)
        for text in ("<|im_start|>user hello<|im_end|>", "a <|tool|> b", "\u2603\u2603 qqzz"):
            assert a.convert_ids_to_tokens(a(text)["input_ids"]) == b.convert_ids_to_tokens(b(text)["input_ids"]), (name, text)
        ta, tb = (load_file(d / "model.safetensors") if (d / "model.safetensors").exists() else
                  {k: v for s in sorted(d.glob("*.safetensors")) for k, v in load_file(s).items()} for d in (theirs, ours))
        assert {n: t.shape for n, t in ta.items()} == {n: t.shape for n, t in tb.items()}, name
        order = torch.tensor([va[t] for t in sorted(va)]), torch.tensor([vb[t] for t in sorted(vb)])
        for r in ROWS:
            pairs = [(ta[r][order[0]], tb[r][order[1]]), (ta[r][len(va):], tb[r][len(vb):])]
            for x, y in pairs:
                if x.numel():
                    worst = max(worst, ((x - y).abs().max() / x.square().mean().sqrt()).item())
        config = [json.loads((d / "config.json").read_text()) for d in (theirs, ours)]
        assert config[0]["vocab_size"] == config[1]["vocab_size"] == ta[ROWS[0]].shape[0], name
        print(f"{name} {method}: {len(va)} tokens, {ta[ROWS[0]].shape[0]} rows, rows differ by {worst:.1e} of their RMS at most")
# single precision: a few ulp of the largest element of a row, eight times the RMS
assert worst < 2e-6, worst
