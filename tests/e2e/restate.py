"""moegraft-convert --as: models said in another family's words compute the same bits, and what cannot be said is refused."""
import json
import shutil
import struct

import common
from common import DATA, SAMPLES, WORK, check, run, same

IDS = "1,20,300,40,5,60,7,80,9,100,11,12,13,14"


def logits(model, *args):
    out = common.fresh("logits") / "x.safetensors"
    run("forward", model, "--ids", IDS, "-o", out, *args)
    return common.read_safetensors(out)[1]["logits"].data


def equal(a, b, *args):
    check(logits(a, *args) == logits(b, *args), f"{b} does not compute what {a} does {args}")


def refused(model, family, words, code=4):
    before = common.tree(WORK)
    err = run("convert", model, WORK / "refused", "--as", family, expect=code).err
    check(words in err, f"{words!r} is not in {err!r}")
    same(common.tree(WORK), before, "a refusal wrote something")


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


# Mesh as Mixtral: maps of zeros vanish, any other value is named.
mesh = WORK / "mesh"
run("merge", SAMPLES / "recipes/mesh2x2.yml", mesh, "--gate", "random", "-q")
run("convert", mesh, WORK / "mixtral", "--as", "mixtral", "-q")
equal(mesh, WORK / "mixtral")
equal(mesh, WORK / "mixtral", "--experts-per-token", "3")
config = json.loads((WORK / "mixtral/config.json").read_text())
same((config["architectures"], config["model_type"], config["num_local_experts"]), (["MixtralForCausalLM"], "mixtral", 4), "config")
check("auto_map" not in config and not list((WORK / "mixtral").glob("*.py")), "Mixtral carries no modules")
same(common.sha256(WORK / "mixtral/tokenizer.json"), common.sha256(mesh / "tokenizer.json"), "tokenizer")
parents = {n: t.data for n, t in common.read_hf_dir(mesh).items() if ".exchange." not in n}
same(sorted(t.data for t in common.read_hf_dir(WORK / "mixtral").values()), sorted(parents.values()), "the tensors themselves")
data = bytearray((mesh / "model.safetensors").read_bytes())
(n,) = struct.unpack_from("<Q", data)
begin = json.loads(data[8:8 + n])["model.layers.2.mlp.exchange.0_1.weight"]["data_offsets"][0] + 8 + n
data[begin + 2 * 261:begin + 2 * 261 + 2] = b"\x80\x3f"  # 1.0 in row 1, column 5 of [256, 256]
(mesh / "model.safetensors").write_bytes(data)
refused(mesh, "mixtral", "'model.layers.2.mlp.exchange.0_1.weight' is not zero (row 1, column 5: 1)")
edit(mesh, lambda c: c.update(norm_topk_prob=False))
refused(mesh, "mixtral", "by their sum")
refused(mesh, "qwen3_next", "a mesh model cannot be said as qwen3_next exactly (as mixtral: yes)")
refused(mesh, "mixtrl", "did you mean 'mixtral'", 2)
refused(SAMPLES / "donors/base", "mixtral", "a mistral model cannot be said")
run("convert", mesh, WORK / "x.gguf", "--as", "mixtral", expect=2)
for kind in ("q8_0", "mxfp4"):
    check("--as writes floats" in run("convert", mesh, WORK / "x", "--as", "mixtral", "--outtype", kind, expect=4).err, kind)

# NekoMind as Qwen3-Next: gates of zero, outputs doubled, norms less one.
neko = WORK / "neko"
shutil.copytree(DATA / "models/tiny/nekomind", neko)
run("convert", neko, WORK / "qwen", "--as", "qwen3_next", "-q")
equal(neko, WORK / "qwen")
equal(neko, WORK / "qwen", "--experts-per-token", "2")
equal(neko, WORK / "qwen", "--precision", "f64")
config = json.loads((WORK / "qwen/config.json").read_text())
same(config["layer_types"], ["full_attention"] * config["num_hidden_layers"], "layer_types")
same((config["partial_rotary_factor"], config["mlp_only_layers"]), (1, json.loads((neko / "config.json").read_text())["mlp_only_layers"]), "config")
old, new = common.read_hf_dir(neko), common.read_hf_dir(WORK / "qwen")
q, both = old["model.layers.1.self_attn.q_proj.weight"], new["model.layers.1.self_attn.q_proj.weight"]
dim, width = config["head_dim"], 2 * q.shape[1]
for head in range(config["num_attention_heads"]):
    at = both.data[2 * head * dim * width:2 * (head + 1) * dim * width]
    same(at, q.data[head * dim * width:(head + 1) * dim * width] + bytes(dim * width), f"query and gate of head {head}")
for layer in range(config["num_hidden_layers"]):
    name = f"model.layers.{layer}.self_attn.o_proj.weight"
    same(new[name].floats(), [2 * x for x in old[name].floats()], name)
    name = f"model.layers.{layer}.input_layernorm.weight"
    same([1 + x for x in new[name].floats()], old[name].floats(), name)
run("convert", WORK / "qwen", WORK / "x.gguf", expect=4)

# Query and gate are one tensor of two weights: its codes are those of both, each row where it belongs.
(WORK / "text.txt").write_text("".join(" ".join(str((37 * i + 11 * j) % 300 + 3) for j in range(40)) + "\n" for i in range(3)))
run("quantize", WORK / "qwen", WORK / "gptq", "GPTQ", "--format", "compressed-tensors", "--group-size", -1, "--tokens", WORK / "text.txt", "-q")
found = run("verify", WORK / "qwen", WORK / "gptq", "--tokens", WORK / "text.txt", "--weights", "--json").json()["candidates"][0]["tensors"]
snr = [t["snr_db"] for t in found if "q_proj" in t["name"]]
# 4 bits of a row of normal values: some 20 dB; of another row's codes less than 0
check(len(snr) == config["num_hidden_layers"] * 2 and all(x is None or x > 10 for x in snr), f"q_proj: {snr}")
edit(WORK / "qwen", lambda c: c["layer_types"].__setitem__(0, "linear_attention"))
check("linear_attention" in run("forward", WORK / "qwen", "--ids", IDS, "-o", WORK / "x.safetensors", expect=4).err, "linear attention")
edit(neko, lambda c: c.update(attention_bias=True))
run("convert", neko, WORK / "refused", "--as", "qwen3_next", expect=3)  # no such biases in the file
run("merge", SAMPLES / "recipes/nekomind.yml", WORK / "plain", "--gate", "random", "-q")
refused(WORK / "plain", "qwen3_next", "q_norm.weight' and 7 more are missing")  # its donors norm neither q nor k

common.done()
