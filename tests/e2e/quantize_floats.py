"""quantize IN OUT FP8_DYNAMIC|FP8_BLOCK|NVFP4A16|MXFP4A16|MXFP4: every stored part against an independent rounding in Python,
whole blocks and cut ones, zeros, tiny values, the shared global scale, what is read back, config.json, options that make no
sense, and the same bytes for every thread count and budget."""
import bisect
import json
import math
import shutil
import struct

import common
import group_layouts as gl
from group_layouts import f32

TINY = common.DATA / "models" / "tiny"
E4M3 = [gl.e4m3(c) for c in range(127)]
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
HALFWAY = {id(v): [(a + b) / 2 for a, b in zip(v, v[1:])] for v in (E4M3, E2M1)}


def nearest(x, values):
    """Code of the nearest value to |x|, ties to the even code; beyond the largest: the largest."""
    x, halfway = abs(x), HALFWAY[id(values)]
    at = bisect.bisect_left(halfway, x)
    return at + (at & 1) if at < len(halfway) and halfway[at] == x else at


def e4m3(x):
    return nearest(x, E4M3) | (0x80 if math.copysign(1, x) < 0 else 0)


def e2m1(x):
    return nearest(x, E2M1) | (8 if x < 0 else 0)


def stored(x, dtype):
    """x rounded to F16, BF16 or F32."""
    if dtype == "F16":
        return struct.unpack("<e", struct.pack("<e", x))[0]
    if dtype == "F32":
        return f32(x)
    u = struct.unpack("<I", struct.pack("<f", x))[0]
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000
    return struct.unpack("<f", struct.pack("<I", u))[0]


def peak(w, rows, columns):
    return max(abs(w[r][c]) for r in rows for c in columns)


def fp8(base, w, block, dtype):
    """Parts of a weight in E4M3, a scale for block = (rows, columns) of it; values that are read back."""
    n, k = len(w), len(w[0])
    br, bc = block or (1, k)
    scales = [[stored(f32(peak(w, range(r, min(r + br, n)), range(c, min(c + bc, k))) / 448), dtype) for c in range(0, k, bc)]
              for r in range(0, n, br)]
    scales = [[s or {"F16": 2.0 ** -10, "BF16": 2.0 ** -7, "F32": 2.0 ** -23}[dtype] for s in row] for row in scales]
    codes = [[e4m3(f32(x / scales[i // br][j // bc])) for j, x in enumerate(row)] for i, row in enumerate(w)]
    back = [math.copysign(1, .5 - (c >> 7)) * gl.e4m3(c & 127) * scales[i // br][j // bc] for i, row in enumerate(codes) for j, c in enumerate(row)]
    return {f"{base}.weight": common.Tensor("F8_E4M3", [n, k], bytes(c for row in codes for c in row)),
            f"{base}.weight_scale": gl.halves(scales, dtype)}, [f32(x) for x in back]


def fp4(base, w, size, steps, stored_scales, kind):
    n, k = len(w), len(w[0])
    codes = [[e2m1(f32(x / steps[i][j // size])) for j, x in enumerate(row)] for i, row in enumerate(w)]
    back = [f32((-1 if c & 8 else 1) * E2M1[c & 7] * steps[i][j // size]) for i, row in enumerate(codes) for j, c in enumerate(row)]
    return {f"{base}.weight_packed": common.Tensor("U8", [n, k // 2], bytes(a | b << 4 for row in codes for a, b in zip(row[::2], row[1::2]))),
            f"{base}.weight_scale": common.Tensor(kind, [n, k // size], bytes(c for row in stored_scales for c in row))}, back


def mxfp4(base, w):
    exponents = []
    for row in w:
        peaks = [max(map(abs, row[g:g + 32])) for g in range(0, len(row), 32)]
        exponents.append([0 if p == 0 else max(0, 127 + math.frexp(p)[1] - 1 - 2 + (math.frexp(p)[0] >= 0.875)) for p in peaks])
    return fp4(base, w, 32, [[2.0 ** (e - 127) for e in row] for row in exponents], exponents, "U8")


def nvfp4(base, w, together, dtype):
    """together: the weights whose global scale it shares."""
    inner = (lambda x: stored(x, "BF16")) if dtype == "BF16" else f32
    most = max(peak(m, range(len(m)), range(len(m[0]))) for m in together)
    whole = inner(inner(f32(1 / most)) * 2688) if most else 1.0
    codes = []
    for row in w:
        peaks = [max(map(abs, row[g:g + 16])) for g in range(0, len(row), 16)]
        codes.append([e4m3(f32(inner(f32(p / 6)) * whole)) or 1 if p else e4m3(0.125) for p in peaks])
    parts, back = fp4(base, w, 16, [[f32(gl.e4m3(c) / whole) for c in row] for row in codes], codes, "F8_E4M3")
    parts[f"{base}.weight_global_scale"] = common.f32([whole])
    return parts, back


# ---- a model with rows of zeros, groups of zeros, tiny groups and outliers; 80 rows are no whole blocks ----

def model(name, source, dtype):
    out = common.fresh(name)
    for f in (TINY / source).glob("*.json"):
        shutil.copy(f, out)
    tensors = common.read_hf_dir(TINY / source)
    for key, t in tensors.items():
        values = t.floats()
        if key.endswith(("up_proj.weight", "v_proj.weight")):
            cols = t.shape[1]
            values[2 * cols:3 * cols] = [0.0] * cols
            values[5 * cols:5 * cols + 32] = [0.0] * 32
            values[6 * cols:6 * cols + 32] = [v * 2.0 ** -40 for v in values[6 * cols:6 * cols + 32]]
            values[7 * cols] = 3.0 if "up" in key else 0.0
            values[8 * cols:8 * cols + 2] = [-0.0, -1e-30]
        if dtype == "F32":
            tensors[key] = common.Tensor("F32", t.shape, struct.pack(f"<{len(values)}f", *values))
        else:
            tensors[key] = common.Tensor("BF16", t.shape, b"".join(struct.pack("<f", stored(v, "BF16"))[2:] for v in values))
    common.write_safetensors(out / "model.safetensors", tensors)
    config = json.loads((out / "config.json").read_text())
    config["dtype"] = config["torch_dtype"] = {"F32": "float32", "BF16": "bfloat16"}[dtype]
    (out / "config.json").write_text(json.dumps(config))
    return out


def matrix(t):
    v = t.floats()
    return [v[i:i + t.shape[1]] for i in range(0, len(v), t.shape[1])]


def joined(base):
    for group in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3")):
        if base.rpartition(".")[2] in group:
            return [f"{base.rpartition('.')[0]}.{g}" for g in group]
    return [base]


def run_case(source, kind, dtype, folder, name, *options, **env):
    out = common.WORK / name
    common.run("quantize", folder, out, kind, *options, "-q", env=env)
    weights, found = common.read_hf_dir(folder), common.read_hf_dir(out)
    linear = [n[:-7] for n, t in weights.items() if ".layers." in n and len(t.shape) == 2 and not n.endswith("gate.weight")]
    want, values = {n: (t.dtype, t.shape, t.data) for n, t in weights.items() if n[:-7] not in linear}, {}
    for base in linear:
        w = matrix(weights[f"{base}.weight"])
        if kind == "NVFP4A16":
            parts, back = nvfp4(base, w, [matrix(weights[f"{b}.weight"]) for b in joined(base)], dtype)
        elif kind.startswith("MXFP4"):
            parts, back = mxfp4(base, w)
        else:
            parts, back = fp8(base, w, (128, 128) if kind == "FP8_BLOCK" else None, dtype)
        want.update({n: (t.dtype, t.shape, t.data) for n, t in parts.items()})
        values[f"{base}.weight"] = back
    common.same(sorted(found), sorted(want), f"{name}: names")
    for key, (kind_of, shape, data) in want.items():
        common.check((found[key].dtype, found[key].shape) == (kind_of, list(shape)), f"{name}: {key} is {found[key].dtype} {found[key].shape}")
        common.check(found[key].data == data, f"{name}: {key} is not what it should be")
    common.run("convert", out, common.WORK / f"{name}.dense", "--outtype", "f32", "-q")
    dense = common.read_hf_dir(common.WORK / f"{name}.dense")
    for key, back in values.items():
        common.check(dense[key].data == struct.pack(f"<{len(back)}f", *back), f"{name}: {key} is not read as it was written")
    common.run("check", out)
    shutil.rmtree(common.WORK / f"{name}.dense")
    return json.loads((out / "config.json").read_text())["quantization_config"]


FORMATS = {"FP8_DYNAMIC": "float-quantized", "FP8_BLOCK": "float-quantized", "NVFP4A16": "nvfp4-pack-quantized",
           "MXFP4A16": "mxfp4-pack-quantized"}
wide = model("wide", "llama", "F32")
half = model("half", "llama", "BF16")
for number, (kind, form) in enumerate(FORMATS.items()):
    for dtype, folder in (("F32", wide), ("BF16", half)):
        said = run_case("llama", kind, dtype, folder, f"{kind}-{dtype}", "-t", (1, 3)[number % 2], MOEGRAFT_ISA=("scalar", "avx2")[number // 2])
        group = said["config_groups"]["group_0"]
        common.same((said["format"], group["format"], said["ignore"], said["quantization_status"]), (form, form, ["lm_head"], "compressed"), kind)
        common.same({k: group["weights"].get(k) for k in ("num_bits", "type", "strategy", "group_size", "block_structure", "scale_dtype")},
                    {"num_bits": 8 if "FP8" in kind else 4, "type": "float", "block_structure": [128, 128] if kind == "FP8_BLOCK" else None,
                     "strategy": {"FP8_DYNAMIC": "channel", "FP8_BLOCK": "block", "NVFP4A16": "tensor_group", "MXFP4A16": "group"}[kind],
                     "group_size": {"NVFP4A16": 16, "MXFP4A16": 32}.get(kind),
                     "scale_dtype": {"NVFP4A16": "torch.float8_e4m3fn", "MXFP4A16": "torch.uint8"}.get(kind)}, f"{kind}: weights")
        common.same((group["input_activations"] or {}).get("strategy"), {"FP8_DYNAMIC": "token", "FP8_BLOCK": "group"}.get(kind), f"{kind}: inputs")

# MXFP4 is a GGUF type; --format makes it the scheme that rounds inputs as well. Weights are those of MXFP4A16.
said = run_case("llama", "MXFP4", "F32", wide, "mxfp4", "--format", "compressed-tensors")
common.same(said["config_groups"]["group_0"]["input_activations"]["group_size"], 32, "MXFP4: inputs")
common.run("quantize", wide, common.WORK / "mxfp4.gguf", "MXFP4", "-q")
common.check((common.WORK / "mxfp4.gguf").read_bytes()[:4] == b"GGUF", "MXFP4 without --format is a GGUF type")

# Mixtures: every expert's w1 and w3 share a global scale; routers stay. 48 columns are no groups of 32.
moe = model("moe", "mixtral", "BF16")
for kind in ("FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16"):
    said = run_case("mixtral", kind, "BF16", moe, f"moe.{kind}")
    common.same(said["ignore"], [f"model.layers.{i}.block_sparse_moe.gate" for i in range(3)] + ["lm_head"], f"{kind}: ignore")
common.run("quantize", moe, common.WORK / "moe.v5", "FP8_DYNAMIC", "--layout", "v5", "-q")
common.check("model.layers.2.mlp.experts.3.down_proj.weight_scale" in common.read_hf_dir(common.WORK / "moe.v5"), "v5 names")

# ---- engines ----

for name, engine, wrong in (("FP8_DYNAMIC-BF16", "vllm:tp=2", None), ("FP8_BLOCK-BF16", "vllm", "blocks x tp"), ("moe.FP8_DYNAMIC", "vllm", None),
                            ("FP8_BLOCK-BF16", "transformers5", None), ("moe.FP8_BLOCK", "transformers5", "experts"),
                            ("moe.NVFP4A16", "transformers5", "experts"), ("moe.FP8_DYNAMIC", "transformers5", None),
                            ("NVFP4A16-BF16", "vllm", None), ("MXFP4A16-F32", "gptqmodel", "format")):
    found = common.run("check", common.WORK / name, "--for", engine, "--json", expect=1 if wrong else 0).json()["results"][0]["findings"]
    common.same([f["rule"] for f in found if f["fatal"]], [wrong] if wrong else [], f"{name} for {engine}")

# ---- refusals ----

NEVER = common.WORK / "never"
for code, says, *args in ((4, "48 input features", moe, NEVER, "MXFP4A16"), (2, "--bits", wide, NEVER, "FP8_BLOCK", "--bits", "4"),
                          (2, "--group-size", wide, NEVER, "NVFP4A16", "--group-size", "32"), (2, "--symmetric", wide, NEVER, "FP8_DYNAMIC", "--symmetric"),
                          (2, "--method", wide, NEVER, "FP8_DYNAMIC", "--method", "awq"), (2, "not of 'awq'", wide, NEVER, "FP8_DYNAMIC", "--format", "awq"),
                          (2, "--format 'fp8_block'", wide, NEVER, "RTN", "--format", "fp8_block"), (4, "FP8_DYNAMIC", wide, NEVER, "FP8"),
                          (4, "NVFP4A16", wide, NEVER, "NVFP4", "--format", "compressed-tensors"), (2, "name the directory", wide, "FP8_DYNAMIC"),
                          (4, "3 dimensions", TINY / "gpt_oss", NEVER, "FP8_DYNAMIC")):
    common.refused(code, [says], args[2:], "quantize", *args)
bad = common.fresh("bad")
for value, says in (("inf", "finite"), ("nan", "finite")):
    shutil.copy(wide / "config.json", bad)
    tensors = common.read_hf_dir(wide)
    key = "model.layers.1.mlp.up_proj.weight"
    values = tensors[key].floats()
    values[9 * tensors[key].shape[1] + 3] = float(value)
    tensors[key] = common.Tensor("F32", tensors[key].shape, struct.pack(f"<{len(values)}f", *values))
    common.write_safetensors(bad / "model.safetensors", tensors)
    for kind in FORMATS:
        result = common.run("quantize", bad, NEVER, kind, "-q", expect=3)
        common.check(says in result.err and "row 9" in result.err and key in result.err, f"{kind}: {result.err}")
        common.check(not NEVER.exists() or not any(p.name == "model.safetensors" for p in NEVER.iterdir()), "something was written")
        shutil.rmtree(NEVER, ignore_errors=True)

# ---- threads, memory, a dry run ----

for kind in ("FP8_BLOCK", "NVFP4A16"):
    for number, how in enumerate((("-t", 1), ("-t", 4, "--memory", "1MiB"))):
        out = common.WORK / f"again{number}"
        common.run("quantize", half, out, kind, *how, "-q")
        common.same(common.sha256(out / "model.safetensors"), common.sha256(common.WORK / f"{kind}-BF16" / "model.safetensors"), f"{kind} {how}")
        shutil.rmtree(out)
common.run("quantize", "--dry-run", half / "config.json", NEVER, "NVFP4A16")
common.check(not NEVER.exists(), "a dry run writes nothing")
common.done()
