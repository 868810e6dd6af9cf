"""moegraft-inspect and moegraft-check on good and on subtly wrong models: facts against our own reading of the files."""
import hashlib
import json
import math
import shutil
import struct

from common import DATA, WORK, Tensor, check, done, f32, fresh, i64, read_hf_dir, run, same, read_safetensors, write_safetensors
import moe4

BASE = DATA / "models/donors/base"


def inspect(path, *args, expect=0):
    return run("inspect", path, "--json", *args, expect=expect).json()


# ---- inspect: a donor ----
tensors = read_hf_dir(BASE)
report = inspect(BASE, "--hash", "--stats")
same(report["schema"], 1, "schema")
same(report["format"], "hf", "format")
same(report["family"], "mistral", "family")
same(report["config"], json.loads((BASE / "config.json").read_text()), "config as it is written")
same(report["metadata"], {"format": "pt"}, "__metadata__")
same(report["parameters"]["total"], sum(math.prod(t.shape) for t in tensors.values()), "stored parameters")
same(report["parameters"]["active"], report["parameters"]["total"], "a dense model uses all")
same([t["name"] for t in report["tensors"]], list(tensors), "tensors in the order of the data")
for t in report["tensors"]:
    mine = tensors[t["name"]]
    same((t["dtype"], t["shape"], t["bytes"]), (mine.dtype, mine.shape, len(mine.data)), t["name"])
    same(t["sha256"], mine.sha256(), t["name"])
    check(len(t["xxh3"]) == 32, "xxh3 has 128 bits")
for name in ("model.norm.weight", "model.layers.3.mlp.down_proj.weight"):
    values = tensors[name].floats()
    got = next(t["stats"] for t in report["tensors"] if t["name"] == name)
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
    same((got["min"], got["max"], got["zeros"], got["nan"], got["inf"]), (min(values), max(values), values.count(0), 0, 0), name)
    # double sums of < 1e6 terms: 1e-12 of the scale of the values is a thousand times their rounding error
    check(abs(got["mean"] - mean) < 1e-12 * max(abs(got["max"]), abs(got["min"])), f"{name}: mean {got['mean']} {mean}")
    check(abs(got["std"] / std - 1) < 1e-12, f"{name}: std {got['std']} {std}")
same(inspect(BASE, "--hash", "--stats", "-t", "7"), report, "seven threads")
same(inspect(BASE, "--hash", "--stats", "--memory", "1MiB"), report, "a small memory budget")
text = run("inspect", BASE, "--tensors").out
for part in ("mistral, 4 layers", "BF16", "tokenizer.json", "model.embed_tokens.weight", "[1024, 256]"):
    check(part in text, f"report lacks {part!r}")

# ---- inspect: bare configurations, equal to the published sizes ----
for name, k, total, active in (("mistral-7b", None, 7241732096, 7241732096), ("mixtral-8x7b", None, 46702792704, 12879925248),
                               ("2x7b", None, 12879138816, 12879138816), ("4x7b", None, 24153690112, 12879400960),
                               ("nekomind1.5", None, 1354563072, 297598464), ("mesh-2x2", None, 419791360, 242106880),
                               ("mesh-2x2", 1, 419791360, 172925440), ("mesh-2x2", "all", 419791360, 419791360)):
    report = inspect(DATA / f"models/configs/{name}.json", *(["--experts-per-token", k] if k else []))
    same((report["parameters"]["total"], report["parameters"]["active"]), (total, active), f"{name}, {k}")
    same((report["format"], report["tensors"]), ("config", []), name)
# All experts of the grid are active with its four bonds; the published "302M" counts one of them. Both, labelled.
every = run("inspect", DATA / "models/configs/mesh-2x2.json", "--experts-per-token", "all").out
check("4 of 4 per token" in every and "419791360 active" in every, every)
check("301826560" in every and "active when one bond of the grid of experts is counted" in every, every)
run("inspect", DATA / "models/configs/mesh-2x2.json", "--experts-per-token", 5, expect=2)
run("inspect", DATA / "models/configs/mistral-7b.json", "--experts-per-token", 1, expect=2)
folder = fresh("config_only")
shutil.copy(DATA / "models/configs/mixtral-8x7b.json", folder / "config.json")
same(inspect(folder)["parameters"]["total"], 46702792704, "a directory that has a config.json only")

# ---- inspect: every scalar type, from bytes made here ----
plain = {
    "f32": f32([1.5, -2.0, 0.0, math.inf]), "f64": Tensor("F64", [2], struct.pack("<2d", 1e300, -1e-300)),
    "i64": i64([-(2**53), 5, 0]), "u8": Tensor("U8", [3], bytes([0, 7, 255])), "i8": Tensor("I8", [2], struct.pack("<2b", -128, 127)),
    "f16": Tensor("F16", [4], struct.pack("<3e", 0.5, -65504, 2**-24) + b"\0\x7e"), "bool": Tensor("BOOL", [2], b"\1\0"),
    "bf16": Tensor("BF16", [2], bytes([0x80, 0x3F, 0x80, 0x7F])), "e4m3": Tensor("F8_E4M3", [4], bytes([0x7E, 0x01, 0xFF, 0x38])),
    "e5m2": Tensor("F8_E5M2", [4], bytes([0x7B, 0x01, 0x7C, 0x7D])), "none": Tensor("F32", [0, 4], b""),
}
write_safetensors(WORK / "plain.safetensors", plain)
stats = {t["name"]: t["stats"] for t in inspect(WORK / "plain.safetensors", "--stats")["tensors"]}
expected = {  # min, max, zeros, nan, inf
    "f32": (-2.0, 1.5, 1, 0, 1), "f64": (-1e-300, 1e300, 0, 0, 0), "i64": (-(2**53), 5, 1, 0, 0), "u8": (0, 255, 1, 0, 0),
    "i8": (-128, 127, 0, 0, 0), "f16": (-65504, 0.5, 0, 1, 0), "bool": (0, 1, 1, 0, 0), "bf16": (1, 1, 0, 0, 1),
    "e4m3": (2**-9, 448, 0, 1, 0), "e5m2": (2**-16, 57344, 0, 1, 1), "none": (0, 0, 0, 0, 0),
}
for name, want in expected.items():
    same(tuple(stats[name][k] for k in ("min", "max", "zeros", "nan", "inf")), want, name)


# ---- inspect: GGUF ----
def gguf(path, kvs, infos, data):
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(kvs)) + b"".join(kvs) + b"".join(infos)
    path.write_bytes(head + bytes(-len(head) % 32) + data)


def s(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


kvs = [s("general.type") + struct.pack("<I", 8) + s("imatrix"), s("n") + struct.pack("<IQ", 10, 2**64 - 1),
       s("list") + struct.pack("<IIQ", 9, 5, 100) + struct.pack("<100i", *range(100)),
       s("words") + struct.pack("<IIQ", 9, 8, 2) + s("a\n\"") + s("")]
block = struct.pack("<e32b", 0.5, *range(-16, 16))
gguf(WORK / "q.gguf", kvs, [s("q") + struct.pack("<IQQIQ", 2, 32, 2, 8, 0)], block * 2 + bytes(28))
report = inspect(WORK / "q.gguf", "--stats")
same(report["format"], "gguf", "format")
same(report["family"], None, "an importance matrix has no family")
same(report["metadata"], {"general.type": "imatrix", "n": 2**64 - 1, "list": {"elem": "i32", "count": 100}, "words": ["a\n\"", ""]}, "metadata")
same(inspect(WORK / "q.gguf", "--kv")["metadata"]["list"], list(range(100)), "--kv gives long arrays in full")
t = report["tensors"][0]
same((t["dtype"], t["shape"], t["bytes"]), ("Q8_0", [2, 32], 68), "dimensions are reversed")
same((t["stats"]["min"], t["stats"]["max"], t["stats"]["zeros"]), (-8, 7.5, 2), "decoded values")
same(report["bpw"], 8.5, "bits per weight")
check("list" in run("inspect", WORK / "q.gguf", "--kv").out, "--kv lists keys")

# ---- inspect: contradictions are shown and fail ----
folder = fresh("contradiction")
for f in BASE.iterdir():
    shutil.copy(f, folder / f.name)
config = json.loads((BASE / "config.json").read_text())
for key, value in (("num_hidden_layers", -1), ("num_attention_heads", 7), ("num_hidden_layers", 10**9)):
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    result = run("inspect", folder, expect=8)
    check(str(folder) in result.err and "BF16" in result.out, f"{key}: {result.err}")
    run("check", folder, expect=8)
(folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
check("layers.4" in run("check", folder, expect=3).err, "a missing layer is named")
(folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard_of", "architectures": ["UnheardOfForCausalLM"]}))
check("unheard_of" in run("check", folder).out, "an unknown family is a note")

# ---- check --deep ----
same(run("check", BASE, "--deep", "--json").json()["results"],
     [{"path": str(BASE), "tensors": 39, "bytes": sum(len(t.data) for t in tensors.values()), "family": "mistral", "non_finite": [], "notes": [],
       "findings": [{"kind": "template", "severity": "warning", "rule": "chat template", "file": "tokenizer_config.json", "key": "chat_template", "found": "absent",
                     "expected": "a chat template: chat programs will guess one",
                     "text": "'chat_template' in tokenizer_config.json is absent, expected a chat template: chat programs will guess one",
                     "source": "transformers apply_chat_template: no template is an error"}], "ok": True, "status": 0}], "check --json")
rows = [0.0] * 4000
for at in (9, 8 * 10 + 3, 8 * 10 + 7, 8 * 499):
    rows[at] = math.nan if at % 2 else -math.inf
write_safetensors(WORK / "nan.safetensors", {"a": f32([1.0]), "w": f32(rows, [500, 8]), "v": f32([math.inf] * 20, [10, 2])})
run("check", WORK / "nan.safetensors")
result = run("check", WORK / "nan.safetensors", "--deep", "--json", expect=3)
same(result.json()["results"][0]["non_finite"],
     [{"tensor": "w", "nan": 3, "inf": 1, "bad_rows": 3, "rows": [1, 10, 499]},
      {"tensor": "v", "nan": 0, "inf": 20, "bad_rows": 10, "rows": list(range(8))}], "rows with bad values")
check("'w'" in result.err and "row 1 " in result.err and "2 tensors" in result.err, result.err)
# oddities: named, no failure
moe = moe4.build(WORK / "moe4")
inside = read_safetensors(moe / "model.safetensors")[1]
expert = "model.layers.1.block_sparse_moe.experts.{}.w{}.weight"
gate = inside["model.layers.3.block_sparse_moe.gate.weight"]
cut = 2 * gate.shape[1]
odd = {**inside, expert.format(1, 1): inside[expert.format(3, 1)],
       expert.format(2, 2): Tensor("BF16", inside[expert.format(2, 2)].shape, bytes(len(inside[expert.format(2, 2)].data))),
       "model.layers.3.block_sparse_moe.gate.weight": Tensor("BF16", gate.shape, gate.data[:cut] + bytes(cut) + gate.data[2 * cut:])}
same([f["kind"] for f in run("check", moe, "--deep", "--json").json()["results"][0]["findings"]], ["template"], "a sound model")
write_safetensors(moe / "model.safetensors", odd, {"format": "pt"})
found = {(f["kind"], f.get("tensor"), f.get("of")) for f in run("check", moe, "--deep", "--json").json()["results"][0]["findings"]}
same(found, {("all_zero", expert.format(2, 2), None), ("duplicate", expert.format(3, 1), expert.format(1, 1)),
             ("dead_expert", expert.format(2, 2), None), ("dead_expert", "model.layers.3.block_sparse_moe.gate.weight", None),
             ("zero_blocks", "model.layers.3.block_sparse_moe.gate.weight", None),
             ("template", None, None)}, "oddities")
text = run("check", moe, "--deep").out
check("layer 3: the router's row of expert 1 is 0" in text and "layer 1: expert 2 adds nothing" in text and ", 6 findings" in text, text)
(moe / "chat_template.jinja").write_text("{{ messages }}")
vocabulary = json.loads((moe / "tokenizer.json").read_text())
vocabulary["added_tokens"].append({**vocabulary["added_tokens"][0], "id": 1024, "content": "<extra>"})
(moe / "tokenizer.json").write_text(json.dumps(vocabulary))
kinds = {f["kind"]: f["text"] for f in run("check", moe, "--deep", "--json", expect=8).json()["results"][0]["findings"]}
check("template" not in kinds and kinds["vocabulary"] == "'vocabulary' in tokenizer.json is 1025 tokens, expected at most 1024, the rows of the embedding", f"side files: {kinds}")
# lost blocks, values that no F16 holds, ids beyond the embedding; the sound ones beside them are not named
lost, large = (bytearray(inside[f"model.layers.{l}.self_attn.v_proj.weight"].data) for l in (0, 2))
lost[2 * (256 * 70 + 64):2 * (256 * 70 + 96)] = bytes(64)
struct.pack_into("<H", large, 2 * 777, 0xC780)  # -65536
write_safetensors(moe / "model.safetensors", {**inside, "model.layers.0.self_attn.v_proj.weight": Tensor("BF16", inside["model.layers.0.self_attn.v_proj.weight"].shape, lost),
                                              "model.layers.2.self_attn.v_proj.weight": Tensor("BF16", inside["model.layers.2.self_attn.v_proj.weight"].shape, large)}, {"format": "pt"})
contradictory = json.loads((moe / "config.json").read_text())
(moe / "config.json").write_text(json.dumps({**contradictory, "eos_token_id": 1024, "bos_token_id": 1023}))
found = {f["kind"]: (f.get("tensor"), f["text"]) for f in run("check", moe, "--deep", "--json", expect=8).json()["results"][0]["findings"] if f.get("rule") != "tokenizer ids"}
same(found.pop("zero_blocks"), ("model.layers.0.self_attn.v_proj.weight", "1 of 1024 runs of 32 values are 0, the first in row 70"), "a lost block")
same(found.pop("overflow")[0], "model.layers.2.self_attn.v_proj.weight", "a value that does not fit")
same(found.pop("config"), (None, "'eos_token_id' in config.json is 1024, expected 0 to 1023: the embedding has 1024 rows"), "an id beyond the embedding")
same(set(found), {"vocabulary"}, "findings besides")
# in a tensor larger than one tile, past the tile's end, 64-bit values beyond f32 are finite
big = [0.0] * 300_000
big[299_999] = math.nan
write_safetensors(WORK / "big.safetensors", {"w": f32(big, [1000, 300]), "d": Tensor("F64", [1], struct.pack("<d", 1e300))})
check("row 999 " in run("check", WORK / "big.safetensors", "--deep", expect=3).err, "second tile")
# a NaN scale in a quantized block
gguf(WORK / "qnan.gguf", kvs[:1], [s("q") + struct.pack("<IQQIQ", 2, 32, 2, 8, 0)], block + b"\0\x7e" + block[2:] + bytes(28))
check("row 1 " in run("check", WORK / "qnan.gguf", "--deep", expect=3).err, "block types")

# ---- check --manifest ----
model = fresh("manifest")
for name in ("config.json", "model.safetensors", "tokenizer.json"):
    shutil.copy(BASE / name, model / name)


def digest(kind, name):
    return hashlib.new(kind, (model / name).read_bytes()).hexdigest()


lists = {
    "sha256": f"{digest('sha256', 'config.json')}  config.json\n{digest('sha256', 'model.safetensors')} *./model.safetensors\n",
    "md5": f"# comment\r\n\r\n{digest('md5', 'config.json').upper()}  config.json\r\n{digest('md5', 'model.safetensors')}  model.safetensors",
}
for kind, text in lists.items():
    (WORK / f"{kind}.txt").write_bytes(text.encode())
    check("2 files as the manifest says" in run("check", model, "--manifest", WORK / f"{kind}.txt").out, kind)
    check("1 files" in run("check", model / "model.safetensors", "--manifest", WORK / f"{kind}.txt").out, kind)
for name, text, code in (("garbage", "hello\n", 3), ("short", "abcd  config.json\n", 3), ("empty", "", 3), ("newer", '{"schema":2}', 4),
                         ("missing", "0" * 64 + "  no_such_file\n", 5), ("wrong", "0" * 64 + "  config.json\n", 7),
                         ("wrong_md5", "0" * 32 + "  config.json\n", 7), ("escape", '{"schema":1,"files":[{"name":"../x","sha256":"%064d"}]}' % 0, 3)):
    (WORK / "m.txt").write_text(text)
    run("check", model, "--manifest", WORK / "m.txt", expect=code)
hashes = {t["name"]: t["xxh3"] for t in inspect(model, "--hash")["tensors"]}
ours = {"schema": 1, "files": [{"name": n, "size": (model / n).stat().st_size, "sha256": digest("sha256", n)} for n in ("model.safetensors", "config.json")],
        "tensors": [{"name": n, "xxh3": h} for n, h in hashes.items()]}
(WORK / "ours.json").write_text(json.dumps(ours))
run("check", model, "--manifest", WORK / "ours.json")
raw = bytearray((model / "model.safetensors").read_bytes())
raw[-1] ^= 1  # one bit of the last tensor
(model / "model.safetensors").write_bytes(raw)
result = run("check", model, "--manifest", WORK / "ours.json", expect=7)
check(f"'{list(hashes)[-1]}'" in result.err and "1 tensors" in result.err and "model.safetensors" in result.err, result.err)

# the manifest that our own writers leave beside their files
run("convert", BASE, WORK / "base.gguf", "--outtype", "q8_0")
ours = [WORK / "base.gguf", "--manifest", WORK / "base.gguf.manifest.json"]
check("1 files as the manifest says" in run("check", *ours, "--deep").out, "manifest of convert")
with open(WORK / "base.gguf", "r+b") as f:
    f.seek(inspect(WORK / "base.gguf")["tensors"][7]["offset"] + 5)
    byte = f.read(1)[0]
    f.seek(-1, 1)
    f.write(bytes([byte ^ 4]))
result = run("check", *ours, expect=7)
check(f"'{inspect(WORK / 'base.gguf')['tensors'][7]['name']}'" in result.err and "1 tensors" in result.err, result.err)

# ---- usage ----
run("check", expect=2)
run("check", BASE, "--no-such", expect=2)
check("--deep" in run("check", BASE, "--depe", expect=2).err, "nearest option")
run("check", BASE, "--merge", expect=2)
run("inspect", expect=2)
run("inspect", BASE, BASE, expect=2)
result = run("check", WORK / "q.gguf", WORK / "no_such.gguf", WORK / "nan.safetensors", "--deep", expect=5)
check("q.gguf: ok" in result.out and "no_such.gguf" in result.err and "nan.safetensors" in result.err, "all paths are checked, the first failure counts")
for tool in ("inspect", "check"):
    check("--json" in run(tool, "--help").out, "--help")
done()
