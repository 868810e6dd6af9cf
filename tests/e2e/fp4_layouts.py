"""4-bit floats that change their container and nothing else: gpt-oss as it is released (X_blocks, X_scales) and compressed-tensors
MXFP4 become GGUF blocks, and come back, without rounding; parts that do not fit together are refused."""
import json
import random
import shutil
import struct

import common

rng = random.Random(4)
E, HIDDEN, INNER = 4, 64, 96
TINY = common.DATA / "models" / "tiny" / "gpt_oss"
QUANT = {"modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
         "quant_method": "mxfp4"}


def u8(shape, data):
    return common.Tensor("U8", list(shape), bytes(data))


def release():
    """The tiny model with experts in MXFP4: every code, scales of both signs of the exponent."""
    config = json.loads((TINY / "config.json").read_text()) | {"intermediate_size": INNER, "quantization_config": QUANT}
    tensors = common.read_hf_dir(TINY)
    for name in [n for n in tensors if ".experts." in n]:
        rows, cols = (2 * INNER, HIDDEN) if "gate_up" in name else (HIDDEN, INNER)
        if name.endswith("_bias"):
            tensors[name] = common.Tensor("BF16", [E, rows], struct.pack(f"<{E * rows}H", *[rng.choice((0x3f80, 0xbe00, 0)) for _ in range(E * rows)]))
            continue
        del tensors[name]
        n = E * rows * cols // 32
        tensors[name + "_blocks"] = u8((E, rows, cols // 32, 16), rng.randbytes(16 * n))
        tensors[name + "_scales"] = u8((E, rows, cols // 32), [rng.randrange(118, 124) for _ in range(n)])
    return config, tensors


def write(name, config, tensors):
    folder = common.fresh(name)
    (folder / "config.json").write_text(json.dumps(config))
    common.write_safetensors(folder / "model.safetensors", tensors)
    return folder


def ggml_blocks(codes, scales):
    """Blocks of 17 bytes: the scale, then weight j with weight j + 16."""
    out = bytearray()
    for i, scale in enumerate(scales):
        line = [c for byte in codes[16 * i:16 * i + 16] for c in (byte & 15, byte >> 4)]
        out.append(scale)
        out += bytes(line[j] | line[j + 16] << 4 for j in range(16))
    return bytes(out)


def rows_of(blocks, per_row, first, step):
    """Every step-th row of a stream of blocks, of all matrices below each other."""
    size = 17 * per_row
    return b"".join(blocks[r * size:(r + 1) * size] for r in range(first, len(blocks) // size, step))


config, stored = release()
model = write("gptoss", config, stored)
gguf = common.WORK / "gptoss.gguf"
common.run("convert", model, gguf, "-q", "-t", 3)
keys, found = common.read_gguf(gguf)
common.same(keys["general.file_type"], 38, "file type")
for layer in range(config["num_hidden_layers"]):
    p = f"model.layers.{layer}.mlp.experts."
    fused = ggml_blocks(stored[p + "gate_up_proj_blocks"].data, stored[p + "gate_up_proj_scales"].data)
    for nth, name in enumerate(("gate", "up")):
        t = found[f"blk.{layer}.ffn_{name}_exps.weight"]
        common.same((t.dtype, t.shape), ("MXFP4", [E, INNER, HIDDEN]), f"{name}: type and shape")
        common.same(t.data, rows_of(fused, HIDDEN // 32, nth, 2), f"{name} of layer {layer}")
    down = ggml_blocks(stored[p + "down_proj_blocks"].data, stored[p + "down_proj_scales"].data)
    common.same(found[f"blk.{layer}.ffn_down_exps.weight"].data, down, f"down of layer {layer}")

# Back, and from one directory to another in shards: the stored tensors again. Vectors that GGUF widened become BF16 again.
common.run("convert", gguf, common.WORK / "back", "-q")
common.run("convert", model, common.WORK / "shards", "--out-shard-size", "40K", "-q")
for name in ("back", "shards"):
    again = common.read_hf_dir(common.WORK / name)
    common.same({k: (t.dtype, t.shape, t.sha256()) for k, t in again.items()},
                {k: (t.dtype, t.shape, t.sha256()) for k, t in stored.items()}, name)
    common.same(json.loads((common.WORK / name / "config.json").read_text())["quantization_config"], QUANT, f"{name}: config")

# Everywhere else the model is its decoded weights, in the family's dense form.
common.run("convert", model, common.WORK / "dense", "--outtype", "f32", "-q")
for name in ("gptoss", "gptoss.gguf", "dense"):
    common.run("forward", common.WORK / name, "--ids", "1,5,9,200", "-o", common.WORK / f"{name}.st", "-q")
for name in ("gptoss.gguf", "dense"):
    common.same(common.sha256(common.WORK / f"{name}.st"), common.sha256(common.WORK / "gptoss.st"), f"logits of {name}")
report = common.run("inspect", model, "--json").json()
common.same((report["family"], any("MXFP4" in n for n in report["notes"])), ("gpt_oss", True), "inspect")
common.run("check", model)
common.run("quantize", model, common.WORK / "q4.gguf", "Q4_0", "-q")
common.run("quantize", common.WORK / "dense", common.WORK / "q4-dense.gguf", "Q4_0", "-q")
common.same(common.read_gguf(common.WORK / "q4.gguf")[1]["blk.0.ffn_up_exps.weight"].data,
            common.read_gguf(common.WORK / "q4-dense.gguf")[1]["blk.0.ffn_up_exps.weight"].data, "quantize")
common.run("convert", model, common.WORK / "f16.gguf", "--outtype", "f16", "-q")
common.same(common.read_gguf(common.WORK / "f16.gguf")[1]["blk.0.ffn_up_exps.weight"].dtype, "F16", "a type that was asked for")

# ---- compressed-tensors ----

LLAMA = common.DATA / "models" / "tiny" / "llama"
DOWN = "model.layers.1.mlp.down_proj.weight"
dense = common.read_hf_dir(LLAMA)
rows, cols = dense[DOWN].shape
codes, scales = rng.randbytes(rows * cols // 2), [rng.randrange(110, 125) for _ in range(rows * cols // 32)]
tensors = {k: t for k, t in dense.items() if k != DOWN} | {DOWN + "_packed": u8((rows, cols // 2), codes), DOWN + "_scale": u8((rows, cols // 32), scales)}
ct = {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized", "quantization_status": "compressed", "config_groups": {
    "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "group", "group_size": 32}}}}
packed = write("ct", json.loads((LLAMA / "config.json").read_text()) | {"quantization_config": ct}, tensors)
common.run("convert", packed, common.WORK / "ct.gguf", "-q")
t = common.read_gguf(common.WORK / "ct.gguf")[1]["blk.1.ffn_down.weight"]
common.same((t.dtype, t.data), ("MXFP4", ggml_blocks(codes, scales)), "compressed-tensors")
common.run("convert", packed, common.WORK / "ct-dense", "-q")
common.same(common.read_hf_dir(common.WORK / "ct-dense")[DOWN].dtype, "F32", "a directory of a family without such a form")

# Back: the packed weights bit for bit, the others as floats; the same from the directory itself. Weights that are MXFP4 already are not rounded
# again by quantize either.
for source, name, words in ((common.WORK / "ct.gguf", "ct-back", ("convert", "--outtype", "mxfp4")),
                            (packed, "ct-again", ("convert", "--outtype", "mxfp4"))):
    common.run(words[0], source, common.WORK / name, *words[1:], "-q")
    again = common.read_hf_dir(common.WORK / name)
    common.same({k: (t.dtype, t.shape, t.sha256()) for k, t in again.items()},
                {k: (t.dtype, t.shape, t.sha256()) for k, t in tensors.items()}, name)
    group = json.loads((common.WORK / name / "config.json").read_text())["quantization_config"]
    common.same((group["format"], "model.layers.1.mlp.down_proj" in group["ignore"], "model.layers.0.mlp.down_proj" in group["ignore"]),
                ("mxfp4-pack-quantized", False, True), f"{name}: config")
    common.run("forward", common.WORK / name, "--ids", "1,5,9,200", "-o", common.WORK / f"{name}.st", "-q")
    common.run("forward", packed, "--ids", "1,5,9,200", "-o", common.WORK / f"{name}.want.st", "-q")
    common.same(common.sha256(common.WORK / f"{name}.st"), common.sha256(common.WORK / f"{name}.want.st"), f"{name}: logits")
common.run("quantize", common.WORK / "ct.gguf", common.WORK / "ct-rounded", "MXFP4A16", "-q")
rounded = common.read_hf_dir(common.WORK / "ct-rounded")
common.same((rounded[DOWN + "_packed"].data, rounded[DOWN + "_scale"].data), (codes, bytes(scales)), "not rounded again")
common.refused(2, ("mxfp4", "directories"), "a GGUF", "convert", packed, common.WORK / "never.gguf", "--outtype", "mxfp4")
common.refused(4, ("no weight is MXFP4",), "floats", "convert", LLAMA, common.WORK / "never", "--outtype", "mxfp4")

# ---- refusals ----

BLOCKS = "model.layers.0.mlp.experts.down_proj_blocks"
SCALES = "model.layers.0.mlp.experts.down_proj_scales"
for name, change, code, says in (
        ("no-scales", {SCALES: None}, 3, (BLOCKS, SCALES, "missing")),
        ("scales-short", {SCALES: u8((E, HIDDEN, 2), bytes(E * HIDDEN * 2))}, 3, (SCALES, "[4, 64, 2]", "[4, 64, 3]")),
        ("scales-float", {SCALES: common.Tensor("F32", [E, HIDDEN, 3], bytes(4 * E * HIDDEN * 3))}, 3, (SCALES, "F32", "U8")),
        ("blocks-flat", {BLOCKS: u8((E, HIDDEN, 48), bytes(E * HIDDEN * 48))}, 3, (BLOCKS, "4 dimensions")),
        ("blocks-narrow", {BLOCKS: u8((E, HIDDEN, 6, 8), bytes(E * HIDDEN * 48))}, 3, (BLOCKS, "dimension 3 is 8", "16")),
        ("experts-missing", {BLOCKS: u8((3, HIDDEN, 3, 16), bytes(3 * HIDDEN * 48)), SCALES: u8((3, HIDDEN, 3), bytes(3 * HIDDEN * 3))}, 8,
         (BLOCKS, "[3, 64, 96]")),
        ("twice", {BLOCKS[:-7]: common.Tensor("BF16", [E, INNER, HIDDEN], bytes(2 * E * INNER * HIDDEN))}, 3, (BLOCKS,))):
    broken = {k: t for k, t in {**stored, **change}.items() if t}
    for target in ("never", "never.gguf"):
        common.refused(code, says, name, "convert", write(name, config, broken), common.WORK / target, "-q")
bare = write("no-config", {k: v for k, v in config.items() if k != "quantization_config"}, stored)
common.refused(3, ("_blocks", "quantization_config"), "no config", "convert", bare, common.WORK / "never", "-q")
shutil.rmtree(bare)
common.done()
