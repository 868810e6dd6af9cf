"""Vocabularies made of several donors' (tokenizer_source: union, tokenizer: {source, tokens, pad_to_multiple_of}): which tokens there are and in
what order, where their rows come from, tokenizer files, GGUF, dense merges and mixtures; what is refused. mergekit's own output: the
oracle mergekit_union."""
import fcntl
import json
import os
import shutil

import common
from common import DATA, SAMPLES, WORK, Tensor, check, read_safetensors, run, same, write_safetensors

DONORS = DATA / "models/donors"
ROWS = ("model.embed_tokens.weight", "lm_head.weight")
TMP = common.fresh("tmp")
ENV = {"TMPDIR": TMP}


def rows_of(t):
    size = len(t.data) // t.shape[0]
    return [t.data[i * size:(i + 1) * size] for i in range(t.shape[0])]


def donor(name, source, turn=0, words=(), special=(), padding=0, spm=False):
    """A donor whose tokens from 300 on are rotated, some words renamed, tokens added, rows of padding at the end."""
    out = common.fresh(name)
    for f in ["config.json", "tokenizer_config.json", "special_tokens_map.json"] + (["tokenizer.model"] if spm else ["tokenizer.json"]):
        shutil.copy(DONORS / source / f, out / f)
    tokens = json.loads((DONORS / source / "tokenizer.json").read_text())
    vocab = tokens["model"]["vocab"]
    n = len(vocab)
    moved = [i if i < 300 else 300 + (i - 300 + turn) % (n - 300) for i in range(n)]
    renamed = {next(t for t, i in vocab.items() if i == old): new for old, new in words}
    tokens["model"]["vocab"] = {renamed.get(t, t): moved[i] for t, i in vocab.items()}
    pair = lambda m: m if isinstance(m, list) else m.split(" ")
    tokens["model"]["merges"] = [m for m in tokens["model"]["merges"] if not set(renamed) & set(pair(m)) and "".join(pair(m)) not in renamed]
    for i, text in enumerate(special):
        tokens["added_tokens"].append({"id": n + i, "content": text, "single_word": False, "lstrip": False, "rstrip": True, "normalized": False, "special": True})
    if not spm:
        (out / "tokenizer.json").write_text(json.dumps(tokens))
    tensors = read_safetensors(DONORS / source / "model.safetensors")[1]
    for r in ROWS:
        old = rows_of(tensors[r])
        new = list(old)
        for i, j in enumerate(moved):
            new[j] = old[i]
        new += [bytes([17 * i % 251, 0x3C + (len(name) + i) % 3]) * 256 for i in range(len(special) + padding)]
        tensors[r] = Tensor("BF16", [len(new), 256], b"".join(new))
    write_safetensors(out / "model.safetensors", tensors, {"format": "pt"})
    (out / "config.json").write_text(json.dumps(json.loads((out / "config.json").read_text()) | {"vocab_size": n + len(special) + padding}))
    ids = {t: i for t, i in tokens["model"]["vocab"].items()} | {t["content"]: t["id"] for t in tokens["added_tokens"]}
    return out, ids, {r: rows_of(tensors[r]) for r in ROWS}


base, base_ids, base_rows = donor("base", "base")
chat, chat_ids, chat_rows = donor("chat", "prose", special=("<|im_start|>", "<|im_end|>"), padding=14)
alien, alien_ids, alien_rows = donor("alien", "code", turn=7, words=((700, "\u2603\u2603"), (650, "qqzz")), special=("<|im_end|>", "<|tool|>"))
gone = {t for t in base_ids if t not in alien_ids}
same(len(gone), 2, "words that alien lacks")
NEW = sorted(("\u2603\u2603", "qqzz"), key=alien_ids.get) + ["<|im_start|>", "<|im_end|>", "<|tool|>"]


def merge(name, text, *options, **more):
    (WORK / f"{name}.yml").write_text(text)
    return run("merge", WORK / f"{name}.yml", WORK / name, "--force", *options, env=ENV, **more).err


def dense(models, tokenizer, dtype="bfloat16"):
    return f"merge_method: linear\nbase_model: {base}\ndtype: {dtype}\nparameters: {{weight: 1}}\nmodels:\n" + "".join(f"  - model: {m}\n" for m in models) + tokenizer + "\n"


def ids_of(model):
    tokens = json.loads((WORK / model / "tokenizer.json").read_text())
    return tokens["model"]["vocab"] | {t["content"]: t["id"] for t in tokens["added_tokens"]}


def tokenize(model, text):
    return run("tokenize", WORK / model, "--text", text, "--json").json()["ids"]


# ---- one model and the base's tokens: rows of the model where it has them, of the base where it has not, of the only other one ----
merge("one", dense([alien], "tokenizer_source: union"))  # chat is not among them
ids = ids_of("one")
same([t for t, i in sorted(ids.items(), key=lambda x: x[1]) if i >= 1024], [t for t in NEW if t != "<|im_start|>"], "new tokens in order")
same({t: i for t, i in ids.items() if i < 1024}, base_ids, "the base's tokens")
found = read_safetensors(WORK / "one/model.safetensors")[1]
for r in ROWS:
    same(found[r].shape, [1028, 256], r)
    got = rows_of(found[r])
    for t, i in ids.items():
        same(got[i], alien_rows[r][alien_ids[t]] if t in alien_ids else base_rows[r][base_ids[t]], f"{r}: {t!r}")
same(json.loads((WORK / "one/config.json").read_text())["vocab_size"], 1028, "vocab_size")
added = {t["content"]: t for t in json.loads((WORK / "one/tokenizer.json").read_text())["added_tokens"]}
same((added["<|tool|>"]["special"], added["<|tool|>"]["rstrip"], added["qqzz"]["special"], added["qqzz"]["normalized"]), (True, True, False, True), "flags")
decoder = json.loads((WORK / "one/tokenizer_config.json").read_text())["added_tokens_decoder"]
same({v["content"]: int(k) for k, v in decoder.items()}, {t: a["id"] for t, a in added.items()}, "tokenizer_config.json lists them too")
same([i for i in tokenize("one", "a <|tool|>b") if i >= 1024], [ids["<|tool|>"]], "a new token in text")
for d in ("prose", "code"):
    text = SAMPLES / f"text/{d}.txt"
    a, b = (run("tokenize", m, "--file", text, "--json").json()["ids"] for m in (WORK / "one", base))
    same(a, b, f"{d} without new tokens")
same(list(TMP.iterdir()), [], "folders of tokenizer files")

# ---- means, padding, rules ----
rules = f"""tokenizer:
  source: union
  pad_to_multiple_of: 64
  tokens:
    <|im_start|>:
      source: {{kind: model_token, model: {chat}, token: <|im_end|>}}
      force: true
    <|new|>:
      source: {{kind: model_token, model: {alien}, token_id: 321}}
    <|zero|>:
      source: {{kind: zero}}"""
merge("many", dense([base, chat, alien], rules, "float32"))
ids = ids_of("many")
same([t for t, i in sorted(ids.items(), key=lambda x: x[1]) if i >= 1024], NEW + ["<|new|>", "<|zero|>"], "new tokens and those of rules")
found = read_safetensors(WORK / "many/model.safetensors")[1]
wide = lambda b: Tensor("BF16", [256], b).floats()
for r in ROWS:
    same(found[r].shape, [1088, 256], r)
    values = found[r].floats()
    row = lambda i: values[256 * i:256 * i + 256]
    b, c, a = base_rows[r], chat_rows[r], alien_rows[r]
    models = ((base_ids, b), (chat_ids, c), (alien_ids, a))
    both = [(x + y) / 2 for x, y in zip(wide(c[chat_ids["<|im_end|>"]]), wide(a[alien_ids["<|im_end|>"]]))]
    want = {"<|im_start|>": [c[chat_ids["<|im_end|>"]]] * 3, "<|new|>": [a[321]] * 3, "<|zero|>": [bytes(512)] * 3, "<|tool|>": [a[alien_ids["<|tool|>"]]] * 3,
            "qqzz": [a[alien_ids["qqzz"]]] * 3}
    for t in gone:
        want[t] = [b[base_ids[t]], c[chat_ids[t]], b[base_ids[t]]]
    want = {t: [wide(x) for x in w] for t, w in want.items()} | {"<|im_end|>": [both, wide(c[chat_ids["<|im_end|>"]]), wide(a[alien_ids["<|im_end|>"]])]}
    for t in [*want, "\u2581", "er"]:
        parts = want.get(t) or [wide(m[i[t]]) for i, m in models]
        mean = [sum(x) / 3 for x in zip(*parts)]
        check(all(abs(x - y) <= abs(y) * 1e-6 + 1e-9 for x, y in zip(row(ids[t]), mean)), f"{r}: row of {t!r}")  # sums of three floats
    mean = [sum(values[k:256 * len(ids):256]) / len(ids) for k in range(256)]
    size = max(map(abs, mean))
    for i in (len(ids), 1087):
        check(all(abs(x - y) <= 2e-6 * size + 1e-8 for x, y in zip(row(i), mean)), f"{r}: row {i} of padding")

# ---- base and a model as source ----
merge("of_base", dense([base, chat, alien], "tokenizer: {source: base, pad_to_multiple_of: 100}"))
same((ids_of("of_base"), json.loads((WORK / "of_base/config.json").read_text())["vocab_size"]), (base_ids, 1100), "source: base")
merge("of_alien", dense([chat], f"tokenizer_source: {alien}").replace("models:\n", f"models:\n  - model: {alien}\n"))
same((ids_of("of_alien"), common.sha256(WORK / "of_alien/tokenizer.json")), (alien_ids, common.sha256(alien / "tokenizer.json")), "source: a model, its file as it is")
got = rows_of(read_safetensors(WORK / "of_alien/model.safetensors")[1]["lm_head.weight"])
same(got[alien_ids["<|tool|>"]], alien_rows["lm_head.weight"][alien_ids["<|tool|>"]], "a row of both models' mean that only one has")

# ---- a mixture: the base's rows, and new ones; through the result its prompts are read ----
moe = f"""base_model: {base}
dtype: bfloat16
tokenizer_source: union
experts:
  - source_model: {chat}
    positive_prompts: ["<|im_start|>and it came to pass"]
  - source_model: {alien}
    positive_prompts: ["<|tool|> def main"]
"""
said = merge("moe", moe)
check("1024 tokens of" in said and "5 more (2 are words" in said, said)
ids = ids_of("moe")
found = read_safetensors(WORK / "moe/model.safetensors")[1]
for r in ROWS:
    got = rows_of(found[r])
    same(got[:1024], base_rows[r], f"{r}: rows of the base")
    same(got[ids["<|im_start|>"]], chat_rows[r][chat_ids["<|im_start|>"]], f"{r}: a token of one donor")
    same(got[ids["qqzz"]], alien_rows[r][alien_ids["qqzz"]], f"{r}: a word of one donor")
run("check", WORK / "moe")
(WORK / "text.txt").write_text("<|im_start|>It came to pass<|im_end|> that <|tool|> " * 6)
ppl = [run("perplexity", m, "--text", WORK / "text.txt", "--ctx", 32, "--json", "-q", env=ENV).json()["results"][0]["ppl"] for m in (WORK / "moe.yml", WORK / "moe")]
same(ppl[0], ppl[1], "a recipe with another vocabulary reads text")
run("merge", WORK / "moe.yml", WORK / "direct.gguf", "--to", "Q8_0", "-q", env=ENV)
run("convert", WORK / "moe", WORK / "by.gguf", "--outtype", "bf16", "-q")
run("quantize", WORK / "by.gguf", WORK / "way.gguf", "Q8_0", "-q")
(a, ta), (b, tb) = (common.read_gguf(WORK / f) for f in ("direct.gguf", "way.gguf"))
same({n: t.sha256() for n, t in ta.items()}, {n: t.sha256() for n, t in tb.items()}, "straight to GGUF")
same({k: v for k, v in a.items() if k.startswith("tokenizer.")}, {k: v for k, v in b.items() if k.startswith("tokenizer.")}, "tokenizer keys")
same(a["tokenizer.ggml.tokens"][1024:], NEW, "tokens of the GGUF")
same(tokenize("direct.gguf", "<|im_start|>It came<|tool|>"), tokenize("moe", "<|im_start|>It came<|tool|>"), "ids of GGUF and directory")
for trunk in ("average", "{merge_method: slerp, parameters: {t: 0.3}, models: [{model: " + str(alien) + "}]}"):
    merge("trunk", moe + f"trunk: {trunk}\ngate_mode: random\n", "-q")
    same(read_safetensors(WORK / "trunk/model.safetensors")[1]["lm_head.weight"].shape, [1029, 256], trunk)

# ---- bases that are a GGUF, or have SentencePiece's file only ----
run("convert", base, WORK / "base.gguf", "-q")
merge("gguf_base", moe.replace(str(base), str(WORK / "base.gguf")) + "gate_mode: random\n", "-q")
same(ids_of("gguf_base"), ids, "tokens beside a GGUF's")
spm, _, _ = donor("spm", "base", spm=True)
merge("spm_base", moe.replace(str(base), str(spm)) + "gate_mode: random\n", "-q")
same(ids_of("spm_base"), ids, "tokens beside SentencePiece's")
run("convert", WORK / "spm_base", WORK / "spm.gguf", "-q")
same(common.read_gguf(WORK / "spm.gguf")[0]["tokenizer.ggml.tokens"][1024:], NEW, "and in a GGUF")
for m in ("gguf_base", "spm_base", "spm.gguf"):
    same(tokenize(m, "<|im_start|>It came to pass\n  in<|tool|>"), tokenize("moe", "<|im_start|>It came to pass\n  in<|tool|>"), f"ids of {m}")

# ---- equal vocabularies: nothing changes ----
for t in ("", "tokenizer_source: union"):
    merge(f"equal{len(t)}", dense([DONORS / "code", DONORS / "prose"], t).replace(str(base), str(DONORS / "base")), "-q")
a, b = (common.tree(WORK / m) for m in ("equal0", "equal23"))
same({f: h for f, h in a.items() if "mergekit" not in f}, {f: h for f, h in b.items() if "mergekit" not in f}, "union of equal vocabularies")

# ---- refusals; nothing is left behind ----
bare = common.fresh("bare")
for f in ("config.json", "model.safetensors"):
    shutil.copy(alien / f, bare / f)


def refuse(code, words, text):
    (WORK / "never.yml").write_text(text)
    result = run("merge", WORK / "never.yml", WORK / "never", expect=code, env=ENV)
    for word in words:
        check(word in result.err, f"'{word}' is not in: {result.err}")
    check(not (WORK / "never").exists(), f"{words}: something was written")


refuse(8, ["has no tokenizer", "1026"], dense([bare], "tokenizer_source: union"))
refuse(8, ["none of the models"], dense([alien], f"tokenizer_source: {chat}"))
refuse(8, ["none of the models", "line 9"], dense([alien], f"tokenizer:\n  tokens:\n    x: {{source: {chat}}}"))
refuse(8, ["has no token 'xxyyxx'"], dense([alien], f"tokenizer: {{tokens: {{xxyyxx: {{source: {alien}}}}}}}"))
refuse(8, ["of that number"], dense([alien], f"tokenizer: {{tokens: {{x: {{source: {{kind: model_token, model: {alien}, token_id: 1026}}}}}}}}"))
refuse(3, ["one of them"], dense([alien], "tokenizer_source: union\ntokenizer: {source: union}"))
refuse(3, ["pad_to_multiple_of"], dense([alien], "tokenizer: {pad_to_multiple_of: 0}"))
refuse(3, ["zero or model_token"], dense([alien], "tokenizer: {tokens: {x: {source: {kind: mean}}}}"))
refuse(3, ["one of token and token_id"], dense([alien], f"tokenizer: {{tokens: {{x: {{source: {{kind: model_token, model: {alien}}}}}}}}}"))
refuse(3, ["pad_to"], dense([alien], "tokenizer: {pad_to: 8}"))
refuse(4, ["regmean"], moe + "trunk: regmean\n")
refuse(8, ["vocab_size"], moe.replace("tokenizer_source: union\n", ""))
same(list(TMP.iterdir()), [], "folders of tokenizer files")

# ---- a killed run leaves its folder, and the next one removes it; one in use, and what only looks like one, stay ----
JOB = ("merge", WORK / "one.yml", WORK / "killed", "-q", "--force")
last = common.count_crash_points(*JOB, env=ENV)


def killed():
    run(*JOB, env=ENV | {"MOEGRAFT_CRASH_AT": last}, expect=137)
    return [p for p in TMP.iterdir() if p.name.startswith("moegraft-tmp-")]


left = killed()
check(len(left) == 1 and (left[0] / "tokenizer.json").exists(), f"{left}")
r = run("clean", TMP, "--dry-run", "--json").json()
same(([x["path"] for x in r["removed"]], r["bytes"] > 1000), ([str(left[0])], True), "clean --dry-run")
check(left[0].exists(), "removed by a dry run")
run("clean", TMP)
same(list(TMP.iterdir()), [], "after clean")
killed()
ours = TMP / "moegraft-tmp-in-use"
ours.mkdir()
(ours / "file").write_text("x")
(TMP / "moegraft-tmp-link").symlink_to(ours)
(TMP / "moegraft-tmp-deep/below").mkdir(parents=True)
(TMP / "other").mkdir()
held = os.open(ours, os.O_RDONLY)
fcntl.flock(held, fcntl.LOCK_EX)
run(*JOB, env=ENV)
same(sorted(p.name for p in TMP.iterdir()), ["moegraft-tmp-deep", "moegraft-tmp-in-use", "moegraft-tmp-link", "other"], "what stays")
same(((ours / "file").exists(), (TMP / "moegraft-tmp-deep/below").exists()), (True, True), "what is in them")
os.close(held)
run("clean", TMP)
same(ours.exists(), False, "a folder that is not held any more")
check("cannot make a folder" in run(*JOB, env={"TMPDIR": WORK / "absent"}, expect=5).err, "no TMPDIR")
common.done()
