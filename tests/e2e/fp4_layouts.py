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

# mlx-lm's form of the same: gate and up apart, the nibbles in words, biases of other names. The blocks are the same bits.
apart = {}
for name, t in stored.items():
    if "experts.gate_up_proj" in name:
        size = len(t.data) // (E * 2 * INNER)
        lines = [t.data[i:i + size] for i in range(0, len(t.data), size)]
        shape = {"U8": [E, INNER, HIDDEN // 8] if name.endswith("_blocks") else [E, INNER, HIDDEN // 32], "BF16": [E, INNER]}[t.dtype]
        for nth, proj in enumerate(("gate_proj", "up_proj")):
            to = name.replace("gate_up_proj_bias", f"{proj}.bias").replace("gate_up_proj_blocks", f"{proj}.weight").replace(
                "gate_up_proj_scales", f"{proj}.scales")
            apart[to] = common.Tensor("U32" if to.endswith(".weight") else t.dtype, shape, b"".join(lines[nth::2]))
    elif "experts.down_proj" in name:
        to = name.replace("_bias", ".bias").replace("_blocks", ".weight").replace("_scales", ".scales")
        apart[to] = common.Tensor("U32", [E, HIDDEN, INNER // 8], t.data) if to.endswith(".weight") else t
    else:
        apart[name] = t
mlx = write("mlx", {k: v for k, v in config.items() if k != "quantization_config"} | {"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}, apart)
common.run("convert", mlx, common.WORK / "mlx.gguf", "-q")
common.same({n: (t.dtype, t.sha256()) for n, t in common.read_gguf(common.WORK / "mlx.gguf")[1].items()},
            {n: (t.dtype, t.sha256()) for n, t in found.items()}, "mlx-lm's form as GGUF")
common.run("convert", mlx, common.WORK / "mlx-back", "-q")
again = common.read_hf_dir(common.WORK / "mlx-back")
common.same({k: (t.dtype, t.shape, t.sha256()) for k, t in again.items()}, {k: (t.dtype, t.shape, t.sha256()) for k, t in stored.items()}, "mlx-lm's form as released")
common.run("forward", mlx, "--ids", "1,5,9,200", "-o", common.WORK / "mlx.st", "-q")
common.same(common.sha256(common.WORK / "mlx.st"), common.sha256(common.WORK / "gptoss.st"), "logits of mlx-lm's form")

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

# ---- NVFP4: blocks of four sixteens, and the global scale as a factor beside them ----


def nvfp4_blocks(codes, scales):
    """36 bytes for 64 weights: four scales, then each sixteen with weight j below and weight j + 8 above."""
    out = bytearray()
    for i in range(0, len(scales), 4):
        out += scales[i:i + 4]
        for k in range(i, i + 4):
            line = [c for byte in codes[8 * k:8 * k + 8] for c in (byte & 15, byte >> 4)]
            out += bytes(line[j] | line[j + 8] << 4 for j in range(8))
    return bytes(out)


QWEN = common.DATA / "models" / "tiny" / "qwen3_moe"
nv_tensors, want, scale = common.read_hf_dir(QWEN), {}, {}
dense_config = json.loads((QWEN / "config.json").read_text())
names = [n for n in nv_tensors if n.endswith((".up_proj.weight", "layers.0.self_attn.o_proj.weight")) or n.endswith("experts.gate_up_proj")]
names = [n for n in names if nv_tensors[n].shape[-1] % 64 == 0]
for name in names:
    rows, cols = nv_tensors.pop(name).shape
    nv_codes, nv_scales = rng.randbytes(rows * cols // 2), bytes(rng.randrange(0x20, 0x60) for _ in range(rows * cols // 16))
    scale[name] = rng.choice((512.0, 1000.0, 1536.0))
    nv_tensors[name + "_packed"] = u8((rows, cols // 2), nv_codes)
    nv_tensors[name + "_scale"] = common.Tensor("F8_E4M3", [rows, cols // 16], nv_scales)
    nv_tensors[name + "_global_scale"] = common.f32([scale[name]])
    nv_tensors[name[:-7] + ".input_global_scale"] = common.f32([256.0])
    want[name] = nvfp4_blocks(nv_codes, nv_scales)
nv_ct = json.loads(json.dumps(ct).replace("mxfp4", "nvfp4").replace('"group_size": 32', '"group_size": 16').replace('"strategy": "group"', '"strategy": "tensor_group"'))
nv = write("nv-ct", dense_config | {"quantization_config": nv_ct}, nv_tensors)
common.run("convert", nv, common.WORK / "nv-ct.gguf", "-q")
keys, found = common.read_gguf(common.WORK / "nv-ct.gguf")
common.same(keys["general.file_type"], 39, "file type of NVFP4")
as_f32 = lambda x: struct.unpack("<f", struct.pack("<f", x))[0]
common.check("model.layers.0.self_attn.o_proj.weight" in names and len(names) > 2, f"weights of the test: {names}")
common.same(found["blk.0.attn_output.weight"].data, want["model.layers.0.self_attn.o_proj.weight"], "NVFP4 blocks")
common.same(found["blk.0.attn_output.scale"].floats(), [as_f32(1 / scale["model.layers.0.self_attn.o_proj.weight"])], "its factor")
common.same(found["blk.0.attn_output.input_scale"].floats(), [1 / 256], "factor of its inputs")
ups = [f"model.layers.1.mlp.experts.{e}.up_proj.weight" for e in range(dense_config["num_local_experts"])]
common.same(found["blk.1.ffn_up_exps.weight"].data, b"".join(want[n] for n in ups), "stacked")
common.same(found["blk.1.ffn_up_exps.scale"].floats(), [as_f32(1 / scale[n]) for n in ups], "a factor for each expert")
# Read back, the values are those of the directory but for a rounding: (code * scale) * (1 / global) against code * (scale / global).
for source in ("nv-ct", "nv-ct.gguf"):
    common.run("forward", common.WORK / source, "--ids", "1,5,9,200", "--capture", "logits", "-o", common.WORK / f"{source}.st", "-q")
a, b = (common.read_safetensors(common.WORK / f"{s}.st")[1]["logits"].floats() for s in ("nv-ct", "nv-ct.gguf"))
rms = (sum(x * x for x in a) / len(a)) ** 0.5
common.check(max(abs(x - y) for x, y in zip(a, b)) <= 1e-4 * rms, "logits of the NVFP4 GGUF")
zero = {**nv_tensors, names[0] + "_global_scale": common.f32([0.0])}
common.refused(3, (names[0] + "_global_scale", "global scale of 0"), "a scale of 0", "convert",
               write("nv-zero", dense_config | {"quantization_config": nv_ct}, zero), common.WORK / "never.gguf", "-q")

# ---- GGUF: factors beside the weights, as NVFP4 is converted by others ----


def with_factors(source, target, factors):
    """The same file with F32 tensors {name: values} added at its end."""
    raw = source.read_bytes()
    c = common._Cursor(raw)
    c.at = 8
    n_tensors, n_kv = c.take("<Q"), c.take("<Q")
    for _ in range(n_kv):
        c.string()
        c.value(c.take("<I"))
    kv_end, infos, end = c.at, b"", 0
    for _ in range(n_tensors):
        c.string()
        rank = c.take("<I")
        c.at += 8 * rank + 12
    infos, data = raw[kv_end:c.at], raw[c.at + -c.at % 32:]
    for name, values in factors.items():
        infos += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<IQIQ", 1, len(values), 0, len(data))
        data += struct.pack(f"<{len(values)}f", *values)
        data += bytes(-len(data) % 32)
    head = raw[:8] + struct.pack("<QQ", n_tensors + len(factors), n_kv) + raw[24:kv_end] + infos
    target.write_bytes(head + bytes(-len(head) % 32) + data)


MOE = common.DATA / "models" / "tiny" / "qwen3_moe"
common.run("quantize", MOE, common.WORK / "nv.gguf", "Q8_0", "--tensor-type", "ffn_gate_exps=nvfp4", "--tensor-type", "attn_q=nvfp4", "-q")
common.run("convert", common.WORK / "nv.gguf", common.WORK / "nv-plain", "--outtype", "f32", "-q")
experts = json.loads((MOE / "config.json").read_text())["num_local_experts"]
down = [0.5 + 0.125 * e for e in range(experts)]
factors = {"blk.1.ffn_gate_exps.scale": down, "blk.0.attn_q.scale": [0.375], "blk.0.attn_q.input_scale": [3.0]}
types = {k: t.dtype for k, t in common.read_gguf(common.WORK / "nv.gguf")[1].items()}
common.same((types["blk.1.ffn_gate_exps.weight"], types["blk.0.attn_q.weight"]), ("NVFP4", "NVFP4"), "types")
scaled = common.WORK / "nv-scaled.gguf"
with_factors(common.WORK / "nv.gguf", scaled, factors)
common.run("convert", scaled, common.WORK / "nv-dense", "--outtype", "f32", "-q")
plain, seen = (common.read_hf_dir(common.WORK / name) for name in ("nv-plain", "nv-dense"))
common.same(sorted(seen), sorted(plain), "names")
for name, t in plain.items():
    factor = 0.375 if name == "model.layers.0.self_attn.q_proj.weight" else 1.0
    if ".layers.1." in name and ".gate_proj." in name:
        factor = down[int(name.split(".experts.")[1].split(".")[0])]
    common.same(seen[name].data, struct.pack(f"<{len(t.data) // 4}f", *(x * factor for x in t.floats())), name)  # exact: short numbers
common.run("forward", scaled, "--ids", "1,5,9,200", "-o", common.WORK / "nv-scaled.st", "-q")
common.run("forward", common.WORK / "nv-dense", "--ids", "1,5,9,200", "-o", common.WORK / "nv-dense.st", "-q")
common.same(common.sha256(common.WORK / "nv-scaled.st"), common.sha256(common.WORK / "nv-dense.st"), "logits")
common.check(any("factors" in n for n in common.run("inspect", scaled, "--json").json()["notes"]), "inspect says so")
common.run("check", scaled)
common.run("convert", scaled, common.WORK / "nv-copy.gguf", "-q")
common.same({k: (t.dtype, t.sha256()) for k, t in common.read_gguf(common.WORK / "nv-copy.gguf")[1].items()},
            {k: (t.dtype, t.sha256()) for k, t in common.read_gguf(scaled)[1].items()}, "a copy keeps what is stored")
for what, bad, says in (("three factors", {"blk.1.ffn_gate_exps.scale": [1.0] * 3}, ("blk.1.ffn_gate_exps.scale", "3 factors")),
                        ("not finite", {"blk.0.attn_q.scale": [float("inf")]}, ("blk.0.attn_q.scale", "finite")),
                        ("no weight", {"blk.0.attn_x.scale": [1.0]}, ("blk.0.attn_x.scale", "not a tensor of family"))):
    with_factors(common.WORK / "nv.gguf", common.WORK / "nv-bad.gguf", bad)
    common.refused(3, says, what, "convert", common.WORK / "nv-bad.gguf", common.WORK / "never", "-q")

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
