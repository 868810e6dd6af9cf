"""Donors stored in every way, and with other tokens: what counts are their weights. Sharded, tied and untied, FP8, a GGUF of blocks,
a base that is a GGUF; vocabularies that differ in order, size and padding. Names in the Hugging Face cache: hf_cache."""
import json
import shutil
import struct
from pathlib import Path

import common
from common import DATA, WORK, Tensor, check, read_safetensors, run, same, sha256, write_safetensors

DONORS = DATA / "models/donors"
BASE = DONORS / "base"
base, code = (read_safetensors(d / "model.safetensors")[1] for d in (BASE, DONORS / "code"))


def recipe(name, donor, base=BASE, extra="", gate="random"):
    text = (f"base_model: {base}\ngate_mode: {gate}\ndtype: bfloat16\n{extra}experts:\n"
            f"  - source_model: {DONORS}/prose\n    positive_prompts: [and it came to pass]\n"
            f"  - source_model: {donor}\n    positive_prompts: ['int main']\n")
    (WORK / f"{name}.yml").write_text(text)
    return WORK / f"{name}.yml"


def merge(name, *args, **more):
    said = run("merge", recipe(name, *args, **more), WORK / name, "--force").err
    return read_safetensors(WORK / name / "model.safetensors")[1], said


def variant(name, tensors, config=(), source=DONORS / "code", tokenizer=True):
    """A copy of a donor with these tensors."""
    out = common.fresh(name)
    for p in source.iterdir():
        if p.name != "model.safetensors" and (tokenizer or not p.name.startswith("tokenizer")):
            shutil.copy(p, out / p.name)
    write_safetensors(out / "model.safetensors", dict(sorted(tensors.items())), {"format": "pt"})
    (out / "config.json").write_text(json.dumps(json.loads((source / "config.json").read_text()) | dict(config), indent=2))
    return out


def hashes(tensors):
    return {n: t.sha256() for n, t in tensors.items()}


plain, _ = merge("plain", DONORS / "code")
W = [f"model.layers.2.block_sparse_moe.experts.1.w{i}.weight" for i in (1, 2, 3)]

# ---- sharded otherwise ----
shards = variant("shards", {})
(shards / "model.safetensors").unlink()
names = sorted(code)
parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
for part, members in parts.items():
    write_safetensors(shards / part, {n: code[n] for n in members}, {"format": "pt"})
(shards / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {n: p for p, ns in parts.items() for n in ns}}))
same(hashes(merge("from_shards", shards)[0]), hashes(plain), "a donor in two files")

# ---- tied and untied ----
def without_head(tensors):
    return {n: t for n, t in tensors.items() if n != "lm_head.weight"}


tied = {"tie_word_embeddings": True}
same(hashes(merge("tied_donor", variant("tied", without_head(code), tied))[0]), hashes(plain), "an untied base and a tied donor")
found, _ = merge("tied_base", DONORS / "code", base=variant("tied0", without_head(base), tied, BASE))
same(hashes(found), hashes(without_head(plain)), "a tied base and untied donors")
same(json.loads((WORK / "tied_base/config.json").read_text())["tie_word_embeddings"], True, "the result is tied")

# ---- FP8: codes times scales, not codes ----
def e4m3(code):
    sign, e, m = -1 if code & 128 else 1, (code >> 3) & 15, code & 7
    return sign * (m * 2.0**-9 if e == 0 else (8 + m) * 2.0**(e - 10))


eight, exact = {}, {}
for n, t in code.items():
    eight[n] = t
    if ".mlp." in n or ".self_attn." in n:
        codes = bytes((i * 37 + len(n)) % 120 + 128 * (i % 3 == 0) for i in range(t.shape[0] * t.shape[1]))
        eight[n] = Tensor("F8_E4M3", t.shape, codes)
        eight[n + "_scale_inv"] = Tensor("F32", [-(-t.shape[0] // 128), -(-t.shape[1] // 128)],
                                         struct.pack("<f", 2.0**-7) * (-(-t.shape[0] // 128) * -(-t.shape[1] // 128)))
        exact[n] = [e4m3(c) * 2.0**-7 for c in codes]
quant = {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}}
found, _ = merge("from_fp8", variant("fp8", eight, quant))
for w, p in zip(W, ("gate", "down", "up")):
    same(found[w].floats(), exact[f"model.layers.2.mlp.{p}_proj.weight"], f"FP8 {p}")  # four bits of mantissa fit in bfloat16
found, _ = merge("fp8_base", DONORS / "code", base=variant("fp80", eight, quant, BASE))
same(found["model.layers.1.self_attn.q_proj.weight"].floats(), exact["model.layers.1.self_attn.q_proj.weight"], "an FP8 base")
check("quantization_config" not in json.loads((WORK / "fp8_base/config.json").read_text()), "the result is no FP8 model")

# ---- a GGUF of blocks as donor, a GGUF as base ----
run("convert", DONORS / "code", WORK / "code.gguf", "-q")
run("quantize", WORK / "code.gguf", WORK / "code-q8.gguf", "Q8_0", "-q")
run("convert", WORK / "code-q8.gguf", WORK / "code-q8", "--outtype", "f32", "-q")
decoded = variant("decoded", read_safetensors(WORK / "code-q8/model.safetensors")[1])  # GGUF calls it a Llama
same(hashes(merge("from_q8", WORK / "code-q8.gguf")[0]), hashes(merge("from_q8_dir", decoded)[0]), "a donor in Q8_0 and its decoded weights")
run("convert", BASE, WORK / "base.gguf", "-q")
for gate in ("random", "hidden", "fit"):
    found, _ = merge("gguf_base", DONORS / "code", base=WORK / "base.gguf", gate=gate)
    want, _ = merge("dir_base", DONORS / "code", gate=gate)
    same(hashes(found), hashes(want), f"a base that is a GGUF, gates {gate}")
check((WORK / "gguf_base/tokenizer.json").exists(), "the tokenizer comes out of the GGUF")
ids = [run("tokenize", WORK / d, "--file", common.SAMPLES / "text/code.txt", "--json").json()["ids"] for d in ("gguf_base", "dir_base")]
same(ids[0], ids[1], "tokens of both results")

(WORK / "chat.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}")
run("edit", WORK / "base.gguf", WORK / "chatty.gguf", "--set-file", f"tokenizer.chat_template={WORK}/chat.jinja", "--set", "general.license=apache-2.0", "-q")
yml = recipe("gguf_gguf", DONORS / "code", base=WORK / "chatty.gguf", gate="fit")
run("merge", yml, WORK / "moe.gguf", "--to", "BF16", "-q")
run("merge", yml, WORK / "moe_dir", "-q")
run("convert", WORK / "dir_base", WORK / "dir_base.gguf", "--outtype", "bf16", "-q")
(kv, tensors), (base_kv, _), (want_kv, want) = (common.read_gguf(WORK / f) for f in ("moe.gguf", "chatty.gguf", "dir_base.gguf"))
vocabulary = {k: v for k, v in base_kv.items() if k.startswith("tokenizer.")}
same({k: v for k, v in kv.items() if k.startswith("tokenizer.")}, vocabulary, "tokenizer keys of a GGUF base in a GGUF")
same((vocabulary["tokenizer.chat_template"], kv["general.license"]), ((WORK / "chat.jinja").read_text(), "apache-2.0"), "template and licence")
same(sorted(kv.keys() ^ want_kv.keys()), ["general.license", "tokenizer.chat_template"], "keys beside those of a directory base")
same({n: t.sha256() for n, t in tensors.items()}, {n: t.sha256() for n, t in want.items()}, "tensors of both")
found = json.loads((WORK / "moe_dir/tokenizer_config.json").read_text())
same(found["chat_template"], (WORK / "chat.jinja").read_text(), "the template in a directory")
(WORK / "few.txt").write_text((common.SAMPLES / "text/code.txt").read_text()[:600])
ppl = [run("perplexity", m, "--text", WORK / "few.txt", "--ctx", 64, "--json", "-q").json()["results"][0]["ppl"] for m in (yml, WORK / "moe_dir", WORK / "moe.gguf")]
same(ppl[0], ppl[1], "a recipe with a GGUF base reads text")
same(ppl[1], ppl[2], "directory and GGUF")
(WORK / "mean.yml").write_text(f"merge_method: linear\nbase_model: {WORK}/chatty.gguf\nmodels:\n  - model: {DONORS}/prose\n  - model: {DONORS}/code\nparameters: {{weight: 1}}\ndtype: bfloat16\n")
run("merge", WORK / "mean.yml", WORK / "mean.gguf", "--to", "Q8_0", "-q")
same({k: v for k, v in common.read_gguf(WORK / "mean.gguf")[0].items() if k.startswith("tokenizer.")}, vocabulary, "tokenizer keys of a dense merge")

# ---- group formats; of AWQ the scales that are folded into norms are taken out of the block again ----
for form in (["RTN", "--format", "gptq", "--group-size", 64], ["RTN", "--format", "mlx"], ["RTN", "--format", "compressed-tensors"], ["FP8_BLOCK"], ["MXFP4A16"]):
    run("quantize", DONORS / "code", WORK / "codes", *form, "-q", "--force")
    run("convert", WORK / "codes", WORK / "decoded", "--outtype", "f32", "-q", "--force")
    same(*(hashes({n: t for n, t in merge("from_codes", WORK / d)[0].items() if n in W}) for d in ("codes", "decoded")), f"{form}: decoded as they are read")
(WORK / "calibration.txt").write_text((common.SAMPLES / "text/code.txt").read_text()[:3000])
run("quantize", DONORS / "code", WORK / "awq", "AWQ", "--group-size", 64, "--text", WORK / "calibration.txt", "--ctx", 128, "-q")
folded, found = common.read_hf_dir(WORK / "awq"), merge("from_awq", WORK / "awq")[0]
n_awq, n_base = (t["model.layers.2.post_attention_layernorm.weight"].floats() for t in (folded, base))
check(max(b / a for a, b in zip(n_awq, n_base)) > 1.1, "AWQ folds nothing here")
run("convert", WORK / "awq", WORK / "decoded", "--outtype", "f32", "-q", "--force")
gate = read_safetensors(WORK / "decoded/model.safetensors")[1]["model.layers.2.mlp.gate_proj.weight"].floats()
want = [g * a / b for g, a, b in zip(gate, n_awq * 512, n_base * 512)]
worst = max(abs(g - w) - abs(w) * 2**-8 for g, w in zip(found[W[0]].floats(), want))
check(worst <= 1e-7, f"gate of an AWQ donor behind the base's norm: {worst}")  # bfloat16 of it

# ---- tied quantized donors, quantized shards ----
run("convert", WORK / "tied", WORK / "tied.gguf", "-q")
run("quantize", WORK / "tied.gguf", WORK / "tied-q8.gguf", "Q8_0", "-q")
same(*({n: h for n, h in hashes(merge(f"from_{Path(d).stem}", WORK / d)[0]).items() if n in W} for d in ("tied-q8.gguf", "code-q8.gguf")), "a tied GGUF of blocks")
run("convert", WORK / "code-q8.gguf", WORK / "cut.gguf", "--split-max-size", "1M", "-q")
same(hashes(merge("from_cut", WORK / "cut-00001-of-00004.gguf")[0]), hashes(merge("from_q8", WORK / "code-q8.gguf")[0]), "a GGUF in four files")
run("quantize", DONORS / "code", WORK / "codes", "RTN", "-q", "--force")
before = hashes(merge("from_codes1", WORK / "codes")[0])
whole = read_safetensors(WORK / "codes/model.safetensors")[1]
names = sorted(whole)
for part, members in (parts := {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}).items():
    write_safetensors(WORK / "codes" / part, {n: whole[n] for n in members}, {"format": "pt"})
(WORK / "codes/model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {n: p for p, ns in parts.items() for n in ns}}))
(WORK / "codes/model.safetensors").unlink()
same(hashes(merge("from_codes2", WORK / "codes")[0]), before, "AWQ in two files, codes and scales apart")

# ---- other tokens ----
alien = variant("alien", code)
(alien / "tokenizer.model").unlink()
tokens = json.loads((alien / "tokenizer.json").read_text())
vocab, merges = tokens["model"]["vocab"], tokens["model"]["merges"]
special = {t["id"] for t in tokens["added_tokens"]}
plain_ids = sorted(i for i in vocab.values() if i not in special)
moved = dict(zip(plain_ids, plain_ids[7:] + plain_ids[:7])) | {i: i for i in special}
gone = next(t for t, i in vocab.items() if i == plain_ids[-20])
tokens["model"]["vocab"] = {(t if t != gone else "\u2603\u2603"): moved[i] for t, i in vocab.items()}
tokens["model"]["merges"] = [m for m in merges if gone not in (m if isinstance(m, list) else m.split(" ")) and
                             gone != "".join(m if isinstance(m, list) else m.split(" "))]
(alien / "tokenizer.json").write_text(json.dumps(tokens))


def rows(t):
    size = len(t.data) // t.shape[0]
    return [t.data[i * size:(i + 1) * size] for i in range(t.shape[0])]


shuffled = dict(code)
for n in ("model.embed_tokens.weight", "lm_head.weight"):
    r = rows(code[n])
    new = list(r)
    for i, j in moved.items():
        new[j] = r[i]
    shuffled[n] = Tensor("BF16", [1040, 256], b"".join(new) + bytes(16 * 512))  # and sixteen rows of padding
write_safetensors(alien / "model.safetensors", dict(sorted(shuffled.items())), {"format": "pt"})
(alien / "config.json").write_text(json.dumps(json.loads((DONORS / "code/config.json").read_text()) | {"vocab_size": 1040}))
source = "tokenizer_source: base\n"
found, said = merge("alien_expert", alien, extra=source)
same(hashes(found), hashes(plain), "an expert with other tokens")
check("1023 of the base's 1024 rows" in said, f"nothing said of other tokens: {said}")
common.refused(8, ["vocab_size", "1040", "1024"], "no word about tokens", "merge", recipe("never", alien), WORK / "never")
for trunk in ("average", "regmean"):
    found, _ = merge("alien_trunk", alien, extra=source + f"trunk: {trunk}\n", gate="fit")
    want, _ = merge("plain_trunk", DONORS / "code", extra=f"trunk: {trunk}\n", gate="fit")
    if trunk == "average":  # the row of the token that is not there is the mean of prose's and the base's
        prose = read_safetensors(DONORS / "prose/model.safetensors")[1]
        for n in ("model.embed_tokens.weight", "lm_head.weight"):
            a, b = rows(found[n]), rows(want[n])
            same([i for i in range(1024) if a[i] != b[i]], [vocab[gone]], f"rows of {n} that differ")
            at, size = vocab[gone], 512
            mean = [(x + y) / 2 for x, y in zip(*(Tensor("BF16", [256], rows(t[n])[at]).floats() for t in (prose, base)))]
            got = Tensor("BF16", [256], a[at]).floats()
            check(all(abs(g - m) <= abs(m) * 2**-8 for g, m in zip(got, mean)), f"{n}: row of a token only the base has")
    same(found["model.layers.0.self_attn.q_proj.weight"].shape, want["model.layers.0.self_attn.q_proj.weight"].shape, trunk)
dense = f"merge_method: linear\nbase_model: {BASE}\nmodels:\n  - model: {{}}\n  - model: {DONORS}/prose\nparameters: {{{{weight: 1}}}}\ndtype: bfloat16\n"
for name, donor, more in (("dense_alien", alien, source), ("dense_code", DONORS / "code", "")):
    (WORK / f"{name}.yml").write_text(dense.format(donor) + more)
    run("merge", WORK / f"{name}.yml", WORK / name, "-q")
a, b = (read_safetensors(WORK / d / "model.safetensors")[1] for d in ("dense_alien", "dense_code"))
same([n for n in a if a[n].data != b[n].data], ["lm_head.weight", "model.embed_tokens.weight"], "tensors that differ")
same([i for i, (x, y) in enumerate(zip(rows(a["lm_head.weight"]), rows(b["lm_head.weight"]))) if x != y], [vocab[gone]], "rows that differ")

# ---- a padded base keeps its padding ----
padded = dict(base)
for n in ("model.embed_tokens.weight", "lm_head.weight"):
    padded[n] = Tensor("BF16", [1040, 256], base[n].data + bytes([0x80, 0x3F]) * (16 * 256))
(WORK / "pad.yml").write_text(dense.format(DONORS / "code").replace(f"base_model: {BASE}", f"base_model: {variant('pad', padded, {'vocab_size': 1040}, BASE)}") + source)
run("merge", WORK / "pad.yml", WORK / "padded", "-q")
head = read_safetensors(WORK / "padded/model.safetensors")[1]["lm_head.weight"]
same((head.shape, head.data[1024 * 512:]), ([1040, 256], bytes([0x80, 0x3F]) * (16 * 256)), "padding of the base")
same(head.data[:1024 * 512], b["lm_head.weight"].data, "rows before it")
common.done()
