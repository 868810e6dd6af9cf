"""moegraft-check --deep: files of a model that contradict each other. A sound model of each kind is broken in one way at a time;
the finding is named with its file, key and severity, and nothing else is."""
import json
import os
import shutil
import struct

from common import _SCALARS, DATA, WORK, Tensor, _Cursor, check, done, fresh, read_safetensors, run, same, write_safetensors

# A model of one layer of the base donor, with a chat template and everything that config files may state.
CLEAN = fresh("clean")
base = DATA / "models/donors/base"
tensors = {n: t for n, t in read_safetensors(base / "model.safetensors")[1].items() if ".layers." not in n or ".layers.0." in n}
write_safetensors(CLEAN / "model.safetensors", tensors, {"format": "pt"})
for name in ("tokenizer.json", "special_tokens_map.json"):
    shutil.copy(base / name, CLEAN / name)
TOKENIZER = json.loads((base / "tokenizer_config.json").read_text()) | {
    "chat_template": "{{ bos_token }}<|im_start|>{{ messages[0].content }}<|im_end|>", "pad_token": "</s>",
    "added_tokens_decoder": {str(i): {"content": t, "special": True} for i, t in enumerate(("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"))}}
CONFIG = json.loads((base / "config.json").read_text()) | {"num_hidden_layers": 1}
WORDS = json.loads((base / "tokenizer.json").read_text())
WORDS["added_tokens"] += [{**WORDS["added_tokens"][1], "id": i, "content": t} for i, t in ((1022, "<|im_start|>"), (1023, "<|im_end|>"))]
for word in [w for w, i in WORDS["model"]["vocab"].items() if i > 1021]:
    del WORDS["model"]["vocab"][word]
WORDS["model"]["merges"] = [m for m in WORDS["model"]["merges"] if "".join(m if isinstance(m, list) else m.split(" ")) in WORDS["model"]["vocab"]]
TOKENIZER["added_tokens_decoder"] = {str(t["id"]): {"content": t["content"], "special": True} for t in WORDS["added_tokens"]}
for name, value in (("config.json", CONFIG), ("tokenizer_config.json", TOKENIZER), ("tokenizer.json", WORDS),
                    ("generation_config.json", {"bos_token_id": 1, "eos_token_id": [2, 5]})):
    (CLEAN / name).write_text(json.dumps(value))


def findings(path, expect=0):
    return run("check", path, "--deep", "--json", "-t", 1, expect=expect).json()["results"][0]


def broken(source, changes, weights=None):
    """A copy of a directory with members of its JSON files replaced (REMOVE: gone) and other tensors."""
    folder = fresh("broken")
    for f in source.iterdir():
        os.link(f, folder / f.name)
    for name, members in changes.items():
        value = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        value = {k: v for k, v in {**value, **members}.items() if v is not REMOVE} if isinstance(members, dict) else members
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    if weights:
        (folder / "model.safetensors").unlink()
        write_safetensors(folder / "model.safetensors", weights, {"format": "pt"})
    return folder


REMOVE = object()
n_cases = 0


def case(what, path, expected, code=None):
    """expected: {(severity, rule, file, key)}; the exit code follows from it unless the model is refused besides."""
    global n_cases
    n_cases += 1
    if code is None:
        code = 8 if any(e[0] == "error" for e in expected) else 0
    result = findings(path, expect=code)
    found = {(f["severity"], f.get("rule"), f.get("file"), f.get("key")) for f in result["findings"]}
    same(found, expected, f"{what}: {[f['text'] for f in result['findings']]}")
    for f in result["findings"]:
        check(all(f[k] and f[k] in f["text"] for k in ("file", "key", "found", "expected")) and f["source"], f"{what}: {f}")
    return result


def config(what, members, *expected, code=None):
    return case(what, broken(CLEAN, {"config.json": members}), {(s, r, "config.json", k) for s, r, k in expected}, code)


same(findings(CLEAN)["findings"] + findings(CLEAN)["notes"], [], "the sound model")

# ---- token ids ----
NO_GENERATION = {"generation_config.json": {"eos_token_id": REMOVE, "bos_token_id": REMOVE}}


def ids(what, members, *expected, code=None):
    return case(what, broken(CLEAN, {"config.json": members, **NO_GENERATION}), {(s, r, "config.json", k) for s, r, k in expected}, code)


r = ids("an id behind the last row", {"eos_token_id": [2, 1024]}, ("warning", "token ids", "eos_token_id[1]"))
same(r["findings"][0]["text"], "'eos_token_id[1]' in config.json is 1024, expected 0 to 1023: the embedding has 1024 rows", "its text")
ids("minus one in a list", {"eos_token_id": [2, -1, -7]}, ("warning", "token ids", "eos_token_id[1]"))
ids("minus one as padding", {"pad_token_id": -1}, ("warning", "token ids", "pad_token_id"), ("warning", "tokenizer ids", "pad_token_id"))
ids("padding behind the last row", {"pad_token_id": 1024}, ("error", "token ids", "pad_token_id"), ("warning", "tokenizer ids", "pad_token_id"))
ids("a number beyond all integers", {"sep_token_id": 10**30}, ("warning", "token ids", "sep_token_id"))
ids("other types", {"sep_token_id": "2", "cls_token_id": 2.5, "mask_token_id": [[2]], "x_token_id": {"a": 1}, "y_token_id": None, "z_token_id": []},
    *(("warning", "token ids", k) for k in ("sep_token_id", "cls_token_id", "mask_token_id[0]", "x_token_id")))
ids("not the tokenizer's", {"eos_token_id": 7, "bos_token_id": 9}, ("warning", "tokenizer ids", "eos_token_id"), ("warning", "tokenizer ids", "bos_token_id"))


def generation(what, members, *expected):
    case(what, broken(CLEAN, {"generation_config.json": members}), {("warning", r, "generation_config.json", k) for r, k in expected})


generation("a list that does not stop where the config does", {"eos_token_id": [5, 6]}, ("generation", "eos_token_id"))
generation("another beginning", {"bos_token_id": 3}, ("generation", "bos_token_id"))
generation("ids beyond the vocabulary", {"eos_token_id": [2, 2000], "pad_token_id": 1024}, ("generation ids", "eos_token_id[1]"), ("generation ids", "pad_token_id"))

# ---- vocabulary and template ----
case("a token that does not exist", broken(CLEAN, {"tokenizer_config.json": {"pad_token": "<pad>", "additional_special_tokens": ["<s>", "<|tool|>"]}}),
     {("warning", "special tokens", "tokenizer_config.json", "pad_token"), ("warning", "special tokens", "tokenizer_config.json", "additional_special_tokens")})
case("the same in the older file", broken(CLEAN, {"special_tokens_map.json": {"sep_token": {"content": "[SEP]"}}}),
     {("warning", "special tokens", "special_tokens_map.json", "sep_token")})
case("an added token with another id", broken(CLEAN, {"tokenizer_config.json": {"added_tokens_decoder": {"1021": {"content": "<|im_end|>"}}}}),
     {("warning", "added tokens", "tokenizer_config.json", "added_tokens_decoder")})
case("added tokens beside the tokenizer", broken(CLEAN, {"added_tokens.json": {"<|im_end|>": 1023, "<new>": 1024}}),
     {("warning", "added tokens", "added_tokens.json", "<new>")})
case("added tokens of other types", broken(CLEAN, {"added_tokens.json": {"<|im_end|>": "x"}, "tokenizer_config.json": {"added_tokens_decoder": {"-5": {"content": "<s>"}, "7": 3}}}),
     {("warning", "added tokens", "added_tokens.json", "<|im_end|>"), ("warning", "added tokens", "tokenizer_config.json", "added_tokens_decoder")})
more = {**WORDS, "added_tokens": WORDS["added_tokens"] + [{**WORDS["added_tokens"][1], "id": 1024, "content": "<extra>"}]}
case("more tokens than rows", broken(CLEAN, {"tokenizer.json": json.dumps(more)}), {("error", "vocabulary", "tokenizer.json", "vocabulary")})
fewer = {**WORDS, "added_tokens": WORDS["added_tokens"][:-2]}
r = case("padding", broken(CLEAN, {"tokenizer.json": json.dumps(fewer), "tokenizer_config.json": {"chat_template": "{{ messages }}", "added_tokens_decoder": REMOVE}}), set())
same(r["notes"], ["the embedding has 1024 rows for the 1022 tokens of tokenizer.json: 2 rows of padding"], "padding is said")
case("no template", broken(CLEAN, {"tokenizer_config.json": {"chat_template": REMOVE}}), {("warning", "chat template", "tokenizer_config.json", "chat_template")})
r = case("marks that are no tokens", broken(CLEAN, {"chat_template.jinja": "<|im_start|>{{ x }}<|eot_id|><\uff5cUser\uff5c><|{{ role }}|><s> a < b <|eot_id|> <start_of_turn>"}),
         {("warning", "template tokens", "chat_template.jinja", "chat_template")})
same(r["findings"][0]["found"], "<|eot_id|>, <\uff5cUser\uff5c>, <start_of_turn>", "which")

# ---- rotary scaling ----
def rope(what, scaling, *expected, code=None, **others):
    return config(what, {"rope_scaling": scaling, **others}, *((s, r, f"rope_scaling.{k}") for s, r, k in expected), code=code)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32, "original_max_position_embeddings": 512}
ORIGINAL = "original_max_position_embeddings"
rope("yarn as it should be", YARN)
rope("llama3 as it should be", LLAMA3)
rope("scaling added by hand", {**YARN, ORIGINAL: 2048})
rope("yarn's factor", {**YARN, "factor": 8.0}, ("warning", "rope context", "factor"))
rope("a longer original", {**YARN, ORIGINAL: 4096}, ("warning", "rope context", ORIGINAL))
rope("llama3's original", {**LLAMA3, ORIGINAL: 2048}, ("warning", "rope context", ORIGINAL))
rope("an original of none", {**YARN, ORIGINAL: -3}, ("error", "rope context", ORIGINAL))
rope("beta", {**YARN, "beta_fast": 1, "beta_slow": 32}, ("warning", "rope frequencies", "beta_fast"))
rope("low and high reversed", {**LLAMA3, "low_freq_factor": 4.0, "high_freq_factor": 1.0}, ("error", "rope frequencies", "high_freq_factor"))
rope("an unknown type", {"rope_type": "yarm", "factor": 4.0}, ("error", "rope type", "rope_type"))
rope("two types", {**YARN, "type": "linear"}, ("warning", "rope type", "type"))
rope("no factor", {"type": "linear"}, ("error", "rope factor", "factor"))
rope("a factor below one", {"type": "linear", "factor": 0.5}, ("warning", "rope factor", "factor"))
rope("a factor of another type", {"type": "linear", "factor": "4"}, ("error", "rope factor", "factor"))
rope("lists of another length", {**LONG, "long_factor": [1.0] * 31}, ("error", "rope lists", "long_factor"))
rope("lists of none", {**LONG, "long_factor": 7, "short_factor": [1.0] * 31 + [None]}, ("error", "rope lists", "long_factor"), ("error", "rope lists", "short_factor"))
config("objects by kind of layer", {"rope_parameters": {"full_attention": {"rope_type": "yarm"}, "sliding_attention": {"rope_type": "default"}}},
       ("error", "rope type", "rope_parameters.full_attention.rope_type"))
config("two bases", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}, ("warning", "rope theta", "rope_theta"))
deep = "9"
for _ in range(3000):
    deep = "[" + deep + "]"
run("check", broken(CLEAN, {"config.json": json.dumps(CONFIG)[:-1] + ', "rope_scaling": ' + deep + "}"}), "--deep", expect=(3, 6))
config("scaling of another type", {"rope_scaling": [[1]], "max_position_embeddings": 2048, "torch_dtype": "bfloat16"})
config("lists where objects are expected", {"rope_parameters": [{"rope_type": "yarm"}]})
case("lists of added tokens", broken(CLEAN, {"tokenizer_config.json": {"added_tokens_decoder": [{"content": "<s>"}]}, "added_tokens.json": [["<s>"]]}),
     {("warning", "added tokens", "tokenizer_config.json", "added_tokens_decoder")})
for source in ([5, 6], "x", 7):
    broken(CLEAN, {"tokenizer_config.json": json.dumps(source), "special_tokens_map.json": json.dumps(source), "added_tokens.json": json.dumps(source)})
    run("check", WORK / "broken", "--deep", expect=(0, 3))

# ---- stored types ----
config("another type", {"torch_dtype": "float32"}, ("warning", "dtype", "torch_dtype"))
config("two names", {"dtype": "bfloat16", "torch_dtype": "float16"}, ("warning", "dtype", "torch_dtype"))
config("no type", {"torch_dtype": "half a float"}, ("error", "dtype", "torch_dtype"))
config("a type that is not read here", {"torch_dtype": "float8_e4m3fn"})
config("no name at all", {"torch_dtype": {"a": 1}}, ("warning", "dtype", "torch_dtype"))
one = "model.layers.0.mlp.up_proj.weight"
wide = Tensor("F32", tensors[one].shape, struct.pack(f"<{len(tensors[one].data) // 2}f", *tensors[one].floats()))
r = case("mixed types", broken(CLEAN, {}, {**tensors, one: wide}), {("warning", "stored types", "model.safetensors", "dtype")})
same(r["findings"][0]["tensor"], one, "which")
norm = "model.norm.weight"
wide = Tensor("F32", tensors[norm].shape, struct.pack(f"<{len(tensors[norm].data) // 2}f", *tensors[norm].floats()))
case("a norm may be wider", broken(CLEAN, {}, {**tensors, norm: wide}), set())

# ---- a family that is not known is held to what all share ----
UNKNOWN = {"model_type": "unheard_of", "architectures": ["UnheardOfForCausalLM"]}
config("an unknown family", UNKNOWN)
config("more experts per token than experts", {**UNKNOWN, "num_experts_per_tok": 9, "num_local_experts": 8}, ("error", "experts", "num_experts_per_tok"))

# ---- quantization ----
AWQ = WORK / "awq"
run("quantize", CLEAN, AWQ, "RTN", "--group-size", 64, "-q")
same(findings(AWQ)["findings"], [], "a sound quantized model")
quant = json.loads((AWQ / "config.json").read_text())["quantization_config"]


def quantized(what, members, *expected, code=None):
    return case(what, broken(AWQ, {"config.json": {"quantization_config": {**quant, **members}}}), {(s, r, "config.json", k) for s, r, k in expected}, code)


quantized("other bits", {"bits": 8}, code=3)
quantized("other groups", {"group_size": 128}, code=3)
r = quantized("a quantized module in the list", {"modules_to_not_convert": ["lm_head", "q_proj"]}, ("error", "skip list", "quantization_config.modules_to_not_convert"))
same((r["findings"][0]["tensor"], r["findings"][0]["kind"]), ("model.layers.0.self_attn.q_proj.weight", "quantization"), "which")
case("plain weights", broken(CLEAN, {"config.json": {"quantization_config": quant}}), {("error", "quantized", "config.json", "quantization_config")})
CT = WORK / "ct"
run("quantize", CLEAN, CT, "RTN", "--group-size", 64, "--format", "compressed-tensors", "-q")
same(findings(CT)["findings"], [], "compressed-tensors")
quant = json.loads((CT / "config.json").read_text())["quantization_config"]
case("a module in ignore", broken(CT, {"config.json": {"quantization_config": {**quant, "ignore": ["lm_head", "re:.*up_proj"]}}}),
     {("error", "skip list", "config.json", "quantization_config.ignore")})
# ---- GGUF ----
GGUF = WORK / "clean.gguf"
run("convert", CLEAN, GGUF, "--outtype", "q8_0", "-q")
same(findings(GGUF)["findings"], [], "a sound GGUF")


def kv(kind, value):
    """A value as the file has it; lists are of strings, floats or 32-bit integers."""
    if kind == 8:
        return struct.pack("<IQ", 8, len(value.encode())) + value.encode()
    if kind == 9:
        element = 8 if isinstance(value[0], str) else 6 if isinstance(value[0], float) else 5
        return struct.pack("<IIQ", 9, element, len(value)) + b"".join(kv(element, x)[4:] for x in value)
    return struct.pack("<I", kind) + struct.pack(_SCALARS[kind], value)


def rewrite(changes, name="broken.gguf"):
    """GGUF with keys replaced or added by (type, value), or REMOVEd."""
    raw = GGUF.read_bytes()
    c = _Cursor(raw)
    c.at = 8
    n_tensors, n_kv = c.take("<Q"), c.take("<Q")
    items = {}
    for _ in range(n_kv):
        key, at = c.string(), c.at
        c.value(c.take("<I"))
        items[key] = raw[at:c.at]
    start = c.at
    for _ in range(n_tensors):
        c.string()
        rank = c.take("<I")
        c.at += 8 * rank + 12
    infos, data = raw[start:c.at], raw[c.at + -c.at % 32:]
    items |= {k: None if v is REMOVE else kv(*v) for k, v in changes.items()}
    items = {k: v for k, v in items.items() if v is not None}
    head = b"GGUF" + struct.pack("<IQQ", 3, n_tensors, len(items)) + b"".join(kv(8, k)[4:] + v for k, v in items.items()) + infos
    (WORK / name).write_bytes(head + bytes(-len(head) % 32) + data)
    return WORK / name


U32, F32, STR, LIST = 4, 6, 8, 9


def gguf(what, changes, *expected, code=None, name="broken.gguf"):
    return case(what, rewrite(changes, name), {(s, r, name, k) for s, r, k in expected}, code)


gguf("nothing", {})
for key in ("bos", "eos", "unknown", "padding", "eot"):
    gguf(f"{key} beyond the tokens", {f"tokenizer.ggml.{key}_token_id": (U32, 1024)}, ("warning", "token ids", f"tokenizer.ggml.{key}_token_id"),
         code=3 if key in ("bos", "eos", "unknown") else 0)
gguf("an id of another type", {"tokenizer.ggml.eot_token_id": (5, -1)}, ("error", "token ids", "tokenizer.ggml.eot_token_id"))
for key, kind in (("tokens", "x"), ("scores", 0.0), ("token_type", 1)):
    gguf(f"another number of {key}", {f"tokenizer.ggml.{key}": (LIST, [kind] * 1023)}, code=3)
gguf("another vocabulary", {"llama.vocab_size": (U32, 1000)}, ("warning", "vocabulary", "llama.vocab_size"), code=8)
r = gguf("a file type that is not stored", {"general.file_type": (U32, 15)}, ("warning", "file type", "general.file_type"))
same(r["findings"][0]["found"], "15 (Q4_K_M)", "its name")
gguf("a float type", {"general.file_type": (U32, 1)}, ("warning", "file type", "general.file_type"))
gguf("a file type that does not exist", {"general.file_type": (U32, 999)}, ("warning", "file type", "general.file_type"))
gguf("a guessed file type", {"general.file_type": (U32, 1024 + 7)})
gguf("no version of the blocks", {"general.quantization_version": REMOVE}, ("warning", "quantization version", "general.quantization_version"))
gguf("an older version of the blocks", {"general.quantization_version": (U32, 1)}, ("warning", "quantization version", "general.quantization_version"))
gguf("no context", {"llama.context_length": REMOVE}, ("error", "sizes", "llama.context_length"))
gguf("half of each head rotated", {"llama.rope.dimension_count": (U32, 32)}, ("error", "sizes", "llama.rope.dimension_count"))
gguf("keys of other types", {"llama.rope.freq_base": (U32, 10000), "general.file_type": (10, 7), "tokenizer.ggml.add_bos_token": (U32, 1), "llama.block_count": (11, 1)},
     *(("error", "key types", k) for k in ("llama.rope.freq_base", "general.file_type", "tokenizer.ggml.add_bos_token", "llama.block_count")))
gguf("heads that the tensors do not have", {"llama.attention.head_count": (U32, 8)}, code=(3, 8))
gguf("experts that are not there", {"llama.expert_used_count": (U32, 2)}, ("error", "experts", "llama.expert_used_count"))
gguf("an unknown scaling", {"llama.rope.scaling.type": (STR, "llama3")}, ("error", "rope scaling", "llama.rope.scaling.type"))
YARN = {"llama.rope.scaling.type": (STR, "yarn"), "llama.rope.scaling.factor": (F32, 4.0), "llama.rope.scaling.original_context_length": (U32, 512)}
gguf("yarn as it should be", YARN)
gguf("yarn's factor", {**YARN, "llama.rope.scaling.factor": (F32, 3.0)}, ("warning", "rope scaling", "llama.rope.scaling.factor"))
gguf("a longer original", {**YARN, "llama.rope.scaling.original_context_length": (U32, 4096)}, ("warning", "rope scaling", "llama.rope.scaling.original_context_length"))
gguf("an original that is not used", {"llama.rope.scaling.original_context_length": (U32, 4096)})
gguf("a factor that is none", {**YARN, "llama.rope.scaling.factor": (F32, -1.0)}, ("error", "rope scaling", "llama.rope.scaling.factor"), ("warning", "rope scaling", "llama.rope.scaling.factor"))
gguf("a base that is none", {"llama.rope.freq_base": (F32, 0.0)}, ("error", "rope scaling", "llama.rope.freq_base"))
gguf("a part by its name alone", {}, ("warning", "set", "split.count"), name="x-00001-of-00003.gguf")
gguf("tensors of a set", {"split.count": (2, 1), "split.tensors.count": (5, 99)}, ("warning", "set", "split.tensors.count"))
gguf("a template of other tokens", {"tokenizer.chat_template": (STR, "<|eot_id|>")}, ("warning", "template tokens", "tokenizer.chat_template"))
gguf("an unknown architecture", {"general.architecture": (STR, "unheard"), "unheard.expert_count": (U32, 4), "unheard.expert_used_count": (U32, 5),
                                 "unheard.context_length": (U32, 1), "unheard.embedding_length": (U32, 1), "unheard.block_count": (U32, 1)},
     ("error", "experts", "unheard.expert_used_count"))
# names from files reach the terminal with their control bytes shown
text = run("check", rewrite({"tokenizer.chat_template": (STR, "<|\x1b[31m|>")}), "--deep").out
check("\\x1b[31m" in text and "\x1b" not in text, text)
print(f"{n_cases} cases")
done()
