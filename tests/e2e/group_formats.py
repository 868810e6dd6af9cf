"""Checkpoints quantized in groups read as dense models: every layout against the reference reader of group_layouts.py, the
tools on top of them, refusals by name, parts that do not fit together; and, where the larger golden data is at hand
(MOEGRAFT_SHARED), checkpoints written by AutoAWQ, GPTQModel and llm-compressor."""
import hashlib
import json
import os
import pathlib
import shutil
import struct

import common
import group_layouts as gl

TINY = common.DATA / "models" / "tiny" / "llama"
CHOSEN = {"model.layers.0.self_attn.k_proj": (32, 64), "model.layers.1.mlp.down_proj": (64, 128)}
CONFIG = json.loads((TINY / "config.json").read_text())
DENSE = common.read_hf_dir(TINY)


def awq_config(**more):
    return {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True, **more}


def gptq_config(**more):
    return {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False, **more}


def ct_config(format="pack-quantized", more=None, **weights):
    w = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, **weights}
    return {"quant_method": "compressed-tensors", "format": format, "quantization_status": "compressed", "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": w}}, **(more or {})}


def fp8_config(**more):
    return {"quant_method": "fp8", "activation_scheme": "dynamic", **more}


def write(name, config, tensors):
    folder = common.fresh(name)
    key = "quantization" if name.startswith("mlx") else "quantization_config"
    (folder / "config.json").write_text(json.dumps({**CONFIG, **({key: config} if config else {})}))
    common.write_safetensors(folder / "model.safetensors", tensors)
    return folder


def fixture(name, config, make, **how):
    """The tiny model with two weights quantized: (folder, {weight: f32 values})."""
    rng, tensors, values = gl.rng_for(name), dict(DENSE), {}
    for base, (rows, cols) in CHOSEN.items():
        del tensors[f"{base}.weight"]
        parts, values[f"{base}.weight"] = make(rng, base, rows, cols, **how)
        tensors.update(parts)
    return write(name, config, tensors), values


gl.check_examples()

# ---- every layout ----

CT_FLOAT = {"num_bits": 8, "type": "float"}
LAYOUTS = {
    "awq4": (awq_config(), gl.awq, {}),
    "awq4-whole-column": (awq_config(group_size=-1), gl.awq, {"group": -1}),
    "awq4-old-keys": ({"w_bit": 4, "q_group_size": 32, "version": "GEMM", "zero_point": True}, gl.awq, {}),
    "awq4-symmetric": (awq_config(zero_point=False), gl.awq, {"zeros_stored": False}),
    "awq2": (awq_config(bits=2), gl.awq, {"bits": 2}),
    "awq3": (awq_config(bits=3), gl.awq, {"bits": 3}),
    "awq8": (awq_config(bits=8), gl.awq, {"bits": 8}),
    "gptq4": (gptq_config(), gl.gptq, {}),
    "gptq2": (gptq_config(bits=2, checkpoint_format="gptq"), gl.gptq, {"bits": 2}),
    "gptq3": (gptq_config(bits=3), gl.gptq, {"bits": 3}),
    "gptq8": (gptq_config(bits=8), gl.gptq, {"bits": 8, "dtype": "BF16"}),
    "gptq4-v2": (gptq_config(checkpoint_format="gptq_v2"), gl.gptq, {"version": 2}),
    "gptq3-v2": (gptq_config(bits=3, format="gptq_v2"), gl.gptq, {"bits": 3, "version": 2}),
    "gptq4-order": (gptq_config(desc_act=True), gl.gptq, {"order": True}),
    "gptq4-whole-column": (gptq_config(group_size=-1), gl.gptq, {"group": -1}),
    "gptq-dynamic": (gptq_config(dynamic={"+:.*": {"bits": 8, "group_size": 16}}), gl.gptq, {"bits": 8, "group": 16}),
    "ct4": (ct_config(), gl.packed, {}),
    "ct4-f32-scales": (ct_config(), gl.packed, {"dtype": "F32"}),
    "ct8-rows": (ct_config(num_bits=8, strategy="channel", group_size=None), gl.packed, {"bits": 8, "group": 0}),
    "ct4-zeros": (ct_config(symmetric=False), gl.packed, {"zeros": "packed"}),
    "ct4-byte-zeros": (ct_config(symmetric=False), gl.packed, {"zeros": "bytes"}),
    "ct4-order": (ct_config(actorder="group"), gl.packed, {"order": True}),
    "ct3": (ct_config(num_bits=3, symmetric=False), gl.packed, {"bits": 3, "zeros": "packed"}),
    "ct3-old": (ct_config(num_bits=3, symmetric=False), gl.packed, {"bits": 3, "zeros": "packed", "pack": gl.sparse_words}),
    "ct5": (ct_config(num_bits=5), gl.packed, {"bits": 5}),
    "ct4-odd-group": (ct_config(group_size=48), gl.packed, {"group": 48}),
    "ct-int8": (ct_config("int-quantized", num_bits=8, strategy="channel", group_size=None), gl.int8, {}),
    "ct-int8-zeros": (ct_config("int-quantized", num_bits=8, symmetric=False), gl.int8, {"zeros": True, "group": 32}),
    "ct-fp8": (ct_config("float-quantized", **CT_FLOAT, strategy="tensor", group_size=None), gl.fp8, {"suffix": "_scale"}),
    "ct-fp8-rows": (ct_config("float-quantized", **CT_FLOAT, strategy="channel", group_size=None), gl.fp8,
                    {"suffix": "_scale", "per_row": True, "dtype": "BF16"}),
    "ct-fp8-block": (ct_config("float-quantized", **CT_FLOAT, strategy="block", group_size=None, block_structure=[24, 48]), gl.fp8,
                     {"suffix": "_scale", "block": (24, 48)}),
    "ct-nvfp4": (ct_config("nvfp4-pack-quantized", type="float", strategy="tensor_group", group_size=16), gl.fp4, {"nv": True}),
    "ct-mxfp4": (ct_config("mxfp4-pack-quantized", type="float"), gl.fp4, {"nv": False}),
    "fp8-block": (fp8_config(weight_block_size=[16, 48]), gl.fp8, {"block": (16, 48)}),
    "fp8-tensor": (fp8_config(), gl.fp8, {"suffix": "_scale"}),
    "mlx4": ({"group_size": 32, "bits": 4}, gl.mlx, {}),
    "mlx3-bf16": ({"group_size": 64, "bits": 3, "mode": "affine"}, gl.mlx, {"bits": 3, "group": 64, "dtype": "BF16"}),
    "mlx-own": ({"group_size": 64, "bits": 4, **{name: {"group_size": 32, "bits": 6} for name in CHOSEN}}, gl.mlx, {"bits": 6}),
    "mlx-mxfp4": ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, gl.mlx_floats, {"mode": "mxfp4"}),
    "mlx-mxfp8": ({"group_size": 32, "bits": 8, "mode": "mxfp8"}, gl.mlx_floats, {"mode": "mxfp8"}),
    "mlx-nvfp4": ({"group_size": 64, "bits": 4, **{name: {"group_size": 16, "bits": 4, "mode": "nvfp4"} for name in CHOSEN}}, gl.mlx_floats,
                  {"mode": "nvfp4"}),
    "fp8-e5m2": (fp8_config(), gl.fp8, {"wide": True}),
}
for number, (name, (config, make, how)) in enumerate(LAYOUTS.items()):
    model, values = fixture(name, config, make, **how)
    out = common.WORK / f"{name}.dense"
    common.run("convert", model, out, "--outtype", "f32", "-q", "-t", (1, 3)[number % 2])
    found = common.read_hf_dir(out)
    common.same(sorted(found), sorted(DENSE), f"{name}: names")
    for weight, want in values.items():
        common.same(found[weight].shape, list(DENSE[weight].shape), f"{name}: shape of {weight}")
        common.same(found[weight].sha256(), hashlib.sha256(struct.pack(f"<{len(want)}f", *want)).hexdigest(), f"{name}: {weight}")
    common.check(not {"quantization_config", "quantization"} & set(json.loads((out / "config.json").read_text())), f"{name}: config is dense")

# ---- the tools on top: a quantized model is its dense form, whatever reads it ----


def weights(path):
    return {k: (t.dtype, t.sha256()) for k, t in common.read_gguf(path)[1].items()}


for name in ("awq4", "gptq3", "ct4-order", "fp8-block"):
    model, dense = common.WORK / name, common.WORK / f"{name}.dense"
    for suffix, source in (("", model), (".dense", dense)):
        common.run("convert", source, common.WORK / f"{name}{suffix}.f32.gguf", "--outtype", "f32", "-q")
        common.run("convert", source, common.WORK / f"{name}{suffix}.q8.gguf", "--outtype", "q8_0", "-q")
        common.run("forward", source, "--ids", "1,5,9,200", "-o", common.WORK / f"{name}{suffix}.st", "-q")
    for ending in ("f32.gguf", "q8.gguf"):
        common.same(weights(common.WORK / f"{name}.{ending}"), weights(common.WORK / f"{name}.dense.{ending}"), f"{name}: {ending}")
    common.same(common.sha256(common.WORK / f"{name}.st"), common.sha256(common.WORK / f"{name}.dense.st"), f"{name}: forward")
    # Quantizing takes the decoded weights as they are, not rounded to the type of the tensors beside them.
    common.run("quantize", model, common.WORK / f"{name}.q4.gguf", "Q4_0", "-q")
    common.run("quantize", common.WORK / f"{name}.f32.gguf", common.WORK / f"{name}.dense.q4.gguf", "Q4_0", "-q")
    common.same(weights(common.WORK / f"{name}.q4.gguf"), weights(common.WORK / f"{name}.dense.q4.gguf"), f"{name}: quantize")
    report = common.run("inspect", model, "--json").json()
    common.same(report["family"], "llama", f"{name}: family")
    common.check(any("2 weights are quantized" in note for note in report["notes"]), f"{name}: {report['notes']}")
    stored = sum(len(t.data) for t in common.read_hf_dir(model).values())
    common.same(round(report["bpw"], 6), round(8 * stored / sum(len(t.data) // 4 for t in common.read_hf_dir(dense).values()), 6), f"{name}: bpw")
    common.same(common.run("inspect", model / "config.json", "--json").json()["family"], "llama", f"{name}: family of the config")
    common.same(common.run("check", model, "--json").json()["results"][0]["family"], "llama", f"{name}: check")

# Merging: donors of different formats.
for suffix in ("", ".dense"):
    recipe = common.WORK / f"merge{suffix}.yml"
    donors = [common.WORK / f"{name}{suffix}" for name in ("awq4", "gptq4")]
    recipe.write_text(f"base_model: {donors[0]}\ngate_mode: random\ndtype: float32\nexperts:\n" +
                      "".join(f"  - source_model: {d}\n" for d in donors))
    common.run("merge", recipe, common.WORK / f"merged{suffix}", "-q")
common.same(common.sha256(common.WORK / "merged" / "model.safetensors"), common.sha256(common.WORK / "merged.dense" / "model.safetensors"),
            "merge of quantized donors")

# The side files of older writers count when config.json is silent.
old = common.fresh("old")
for part in ("config.json", "model.safetensors"):
    shutil.copy(common.WORK / "awq4" / part, old)
(old / "config.json").write_text(json.dumps(CONFIG))
(old / "quant_config.json").write_text(json.dumps({"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}))
common.run("convert", old, common.WORK / "old.dense", "--outtype", "f32", "-q")
common.same(common.tree(common.WORK / "old.dense")["model.safetensors"], common.tree(common.WORK / "awq4.dense")["model.safetensors"],
            "quant_config.json")

# ---- refusals by name ----


def refused(name, folder, code, *says):
    result = common.run("convert", folder, common.WORK / f"{name}.out", "-q", expect=code)
    for part in says:
        common.check(part in result.err, f"{name}: message lacks {part!r}: {result.err}")


AWQ = common.read_safetensors(common.WORK / "awq4" / "model.safetensors")[1]
for name, config, says in (
        ("gemv", awq_config(version="gemv"), "gemv"), ("gemv-fast", awq_config(version="gemv_fast"), "gemv_fast"),
        ("awq-marlin", awq_config(version="marlin"), "marlin"), ("gptq-marlin", gptq_config(is_marlin_format=True), "marlin"),
        ("gptq-planar", gptq_config(format="gptq_p"), "gptq_p"), ("gptq5", gptq_config(bits=5), "5 to 7"),
        ("gptq-int16", gptq_config(pack_dtype="int16"), "int16"), ("hqq", {"quant_method": "hqq"}, "hqq"),
        ("bitsandbytes", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ("exl2", {"quant_method": "exl2", "bits": 4.0}, "exl2"), ("exl3", {"quant_method": "exl3", "bits": 3}, "exl3"),
        ("marlin", {"quant_method": "marlin", "group_size": 128}, "marlin"), ("aqlm", {"quant_method": "aqlm"}, "aqlm"),
        ("llm-awq", awq_config(version="llm-awq"), "llm-awq"), ("gptq-bitblas", gptq_config(checkpoint_format="bitblas"), "bitblas"),
        ("quip", {"quant_method": "quip"}, "quip"), ("eetq", {"quant_method": "eetq"}, "eetq"),
        ("ct-24", ct_config("marlin-24"), "marlin-24"),
        ("ct-rotated", ct_config(more={"transform_config": {"config_groups": {"u": {}}}}), "rotations"),
        ("ct-frozen", ct_config(more={"quantization_status": "frozen"}), "frozen"),
        ("ct-sparse", ct_config(more={"sparsity_config": {"format": "sparse-24-bitmask"}}), "sparse-24-bitmask")):
    refused(name, write(name, config, AWQ), 4, says)
for name, tensor, says in (("no-config-bnb", "weight.absmax", "bitsandbytes"), ("no-config-bnb8", "SCB", "bitsandbytes"),
                           ("no-config-bnb-map", "weight.quant_map", "bitsandbytes"), ("no-config-hqq", "W_q", "HQQ"),
                           ("no-config-exl2", "q_weight", "EXL2"), ("no-config-exl3", "trellis", "EXL3"), ("no-config-marlin", "B", "Marlin"),
                           ("no-config-marlin24", "B_24", "Marlin 2:4"), ("no-config-fast", "scaled_zeros", "AWQ gemv_fast"),
                           ("no-config-aqlm", "codebooks", "AQLM"), ("no-config-quip", "Qidxs", "QuIP#")):
    extra = {f"model.layers.0.mlp.up_proj.{tensor}": common.Tensor("I32", [1], bytes(4))}
    refused(name, write(name, None, {**DENSE, **extra}), 4, says, tensor)
hqq = common.fresh("hqq-folder")  # what HQQ saves by itself, and safetensors of no kind
shutil.copy(TINY / "config.json", hqq)
(hqq / "qmodel.pt").write_bytes(b"never opened")
refused("hqq-folder", hqq, 4, "HQQ", "qmodel.pt")
refused("mlx", write("mlx", {"group_size": 32, "bits": 4, "mode": "other"}, AWQ), 4, "MLX", "other")
refused("mlx-size", write("mlx-size", {"group_size": 64, "bits": 4, "mode": "mxfp4"}, AWQ), 3, "mode mxfp4", "groups of 32")
whole = common.read_safetensors(common.WORK / "mlx-nvfp4" / "model.safetensors")[1]
whole["model.layers.1.mlp.down_proj.global_scale"] = common.f32([1.0])
refused("mlx-global", write("mlx-global", LAYOUTS["mlx-nvfp4"][0], whole), 4, "global scale", "down_proj.global_scale")

# ---- parts that do not fit together: exit 3, the tensor, what was found and what was expected ----

K = "model.layers.0.self_attn.k_proj"  # 32 x 64


def broken(name, of, change, *says, code=3):
    """The fixture `of` with tensors replaced (None: removed)."""
    folder = common.WORK / of
    tensors = common.read_safetensors(folder / "model.safetensors")[1]
    for key, value in change.items():
        tensors.pop(key, None)
        if value:
            tensors[key] = value
    config = json.loads((folder / "config.json").read_text()).get("quantization_config")
    refused(name, write(name, config, tensors), code, *says)


def ints(*shape):
    n = 4
    for d in shape:
        n *= d
    return common.Tensor("I32", shape, bytes(n))


broken("scales-short", "awq4", {f"{K}.scales": common.Tensor("F16", [1, 32], bytes(64))}, f"{K}.scales", "1", "2")
broken("scales-int", "awq4", {f"{K}.scales": ints(2, 32)}, f"{K}.scales", "I32", "float")
broken("zeros-wide", "awq4", {f"{K}.qzeros": ints(2, 8)}, f"{K}.qzeros", "8", "4")
broken("qweight-wide", "awq4", {f"{K}.qweight": ints(64, 5)}, f"{K}.scales", "32", "40")
broken("qweight-float", "awq4", {f"{K}.qweight": common.Tensor("F32", [64, 4], bytes(1024))}, f"{K}.qweight", "F32", "I32")
broken("qweight-flat", "awq4", {f"{K}.qweight": ints(256)}, f"{K}.qweight", "[256]", "2 dimensions")
broken("qweight-empty", "awq4", {f"{K}.qweight": ints(0, 4)}, f"{K}.qweight", "not empty")
broken("group-ragged", "awq4", {f"{K}.qweight": ints(60, 4)}, f"{K}.qweight", "60", "group size 32")
broken("no-scales", "awq4", {f"{K}.scales": None}, f"{K}.qweight", f"{K}.scales", "missing")
broken("no-zeros", "gptq4", {f"{K}.qzeros": None}, f"{K}.qweight", f"{K}.qzeros", "missing")
broken("twice", "awq4", {f"{K}.weight": DENSE[f"{K}.weight"]}, f"{K}.weight", "also stored")
broken("gptq-bits", "gptq3", {f"{K}.qweight": ints(7, 32)}, f"{K}.qweight", "7", "3-bit")
broken("g-idx-short", "gptq4-order", {f"{K}.g_idx": ints(63)}, f"{K}.g_idx", "63", "64")
broken("g-idx-none", "gptq4-order", {f"{K}.g_idx": None}, f"{K}.g_idx", "missing")
for far in (2, -1):
    entries = [0] * 63 + [far]
    broken(f"g-idx{far}", "gptq4-order", {f"{K}.g_idx": common.Tensor("I32", [64], struct.pack("<64i", *entries))}, f"{K}.g_idx",
           "column 63", str(far), "0 to 1")
broken("ct-shape-lies", "ct4", {f"{K}.weight_shape": common.i64([32, 96])}, f"{K}.weight_packed", "8", "12")
broken("ct-shape-rows", "ct4", {f"{K}.weight_shape": common.i64([31, 64])}, f"{K}.weight_shape", "31", "32")
broken("ct-shape-huge", "ct4", {f"{K}.weight_shape": common.i64([32, 2 ** 62])}, f"{K}.weight_shape")
broken("ct-scales", "ct4", {f"{K}.weight_scale": common.Tensor("BF16", [32, 3], bytes(192))}, f"{K}.weight_scale", "3", "2")
broken("ct-zeros", "ct4-zeros", {f"{K}.weight_zero_point": ints(3, 2)}, f"{K}.weight_zero_point", "3", "4")
broken("ct-other", "ct4", {f"{K}.weight_packed": None, f"{K}.weight": common.Tensor("I8", [32, 64], bytes(2048))}, f"{K}.weight",
       "config_groups")
broken("fp8-no-scale", "fp8-block", {f"{K}.weight_scale_inv": None}, f"{K}.weight", "without its scale")
broken("fp8-blocks", "fp8-block", {f"{K}.weight_scale_inv": common.Tensor("F32", [2, 1], bytes(8))}, f"{K}.weight_scale_inv", "1", "2")
plain = common.read_safetensors(common.WORK / "fp8-tensor" / "model.safetensors")[1]
del plain[f"{K}.weight_scale"]
refused("fp8-plain", write("fp8-plain", None, plain), 3, f"{K}.weight", "without its scale")
refused("awq-no-config", write("awq-no-config", None, AWQ), 3, ".qweight", "quantization_config")
for name, config, says in (("bits-text", awq_config(bits="4"), "'bits'"), ("bits-9", awq_config(bits=9), "'bits'"),
                           ("group-0", awq_config(group_size=0), "'group_size'"), ("zero-text", awq_config(zero_point=3), "'zero_point'"),
                           ("block-odd", fp8_config(weight_block_size=[16]), "'weight_block_size'"),
                           ("method-none", {"bits": 4}, "'quant_method'"), ("no-groups", ct_config(more={"config_groups": 7}), "'config_groups'")):
    refused(name, write(name, config, AWQ), 3, says)

# ---- checkpoints written by the tools themselves ----

golden = pathlib.Path(os.environ.get("MOEGRAFT_SHARED", "/nonexistent")) / "golden" / "awq"
for folder in sorted(p for p in golden.glob("*") if p.is_dir()):
    out, logits = common.WORK / f"golden.{folder.name}", common.WORK / f"golden.{folder.name}.st"
    common.run("convert", folder, out, "--outtype", "f32", "-q")
    want = json.loads((folder / "dequantized_f32_sha256.json").read_text())
    common.same({k: [t.shape, t.sha256()] for k, t in common.read_hf_dir(out).items()}, want, f"{folder.name}: weights")
    common.run("forward", folder, "--tokens", folder / "reference.safetensors", "--capture", "logits", "-o", logits, "-q")
    a, b = (common.read_safetensors(p)[1]["logits"].floats() for p in (folder / "reference.safetensors", logits))
    rms = (sum(x * x for x in a) / len(a)) ** 0.5
    worst = max(abs(x - y) for x, y in zip(a, b))
    # Two f32 implementations that add in other orders; measured 3e-6.
    common.check(worst <= 1e-4 * rms, f"{folder.name}: logits differ by {worst} of rms {rms}")
    common.run("quantize", folder, common.WORK / "golden.gguf", "Q4_0", "-q", "--force")
common.done()
