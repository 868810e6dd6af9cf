"""quantize IN OUT RTN: every part of every format against an independent rounding and packing in Python, what config.json
and the side files say, names, refusals before work starts, the dry run from a configuration alone, resuming, and the same
bytes for every thread count, budget and instruction set."""
import json
import re
import shutil
import struct

import common
import group_layouts as gl
from group_layouts import f32

LLAMA, MOE = common.DATA / "models" / "tiny" / "llama", common.DATA / "models" / "tiny" / "mixtral"


def half(x, dtype):
    """x rounded to F16, BF16 or F32."""
    if dtype == "F16":
        return struct.unpack("<e", struct.pack("<e", x))[0]
    if dtype == "F32":
        return x
    u = struct.unpack("<I", struct.pack("<f", x))[0]
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000
    return struct.unpack("<f", struct.pack("<I", u))[0]


def floats(t):
    """Values of a float tensor."""
    n = len(t.data)
    if t.dtype == "F32":
        return list(struct.unpack(f"<{n // 4}f", t.data))
    if t.dtype == "F16":
        return list(struct.unpack(f"<{n // 2}e", t.data))
    return [struct.unpack("<f", b"\0\0" + t.data[i:i + 2])[0] for i in range(0, n, 2)]


# ---- rounding, one operation at a time in f32 ----

def group(values, bits, dtype, symmetric, awq, zero_min):
    """scale, zero, codes of one group."""
    top, half_range = (1 << bits) - 1, 1 << (bits - 1)
    lo, hi = min(0.0, *values), max(0.0, *values)
    most = max(-lo, hi)
    if symmetric:
        scale, zero = half(f32(most / (half_range - 1 if awq else top / 2)), dtype), half_range
    else:
        scale = half(f32(f32(hi - lo) / top), dtype)
        zero = round(f32(-lo / scale))
        if zero < zero_min:
            scale, zero = half(f32(hi / (top - zero_min)), dtype), zero_min
        zero = min(zero, top)
    return scale, zero, [max(0, min(top, round(f32(v / scale)) + zero)) for v in values]


def edge(values, bits, dtype):
    """scale, bias, codes of an MLX group."""
    top, lo, hi = (1 << bits) - 1, min(values), max(values)
    low = abs(lo) > abs(hi)
    end, scale = (lo, 1) if low else (hi, -1)
    scale *= max(f32(f32(hi - lo) / top), f32(1e-7))
    steps = round(f32(end / scale))
    scale = half(f32(end / steps) if steps else scale, dtype)
    bias = half(end, dtype) if steps else 0.0
    return scale, bias, [max(0, min(top, round(f32(f32(v - bias) / scale)))) for v in values]


def rounded(w, rows, cols, bits, size, dtype, fmt, symmetric):
    size = size or cols
    scales, zeros, codes = [], [], []
    for n in range(rows):
        line = [edge(w[n * cols + k:n * cols + k + size], bits, dtype) if fmt == "mlx" else
                group(w[n * cols + k:n * cols + k + size], bits, dtype, symmetric, fmt == "awq", fmt == "gptq")
                for k in range(0, cols, size)]
        scales.append([g[0] for g in line])
        zeros.append([g[1] for g in line])
        codes.append([c for g in line for c in g[2]])
    return scales, zeros, codes


def parts_of(fmt, base, scales, zeros, codes, bits, size, dtype, symmetric):
    """The stored tensors, packed by the writer of the reading tests."""
    cols = len(codes[0])
    if fmt == "awq":
        return {f"{base}.qweight": gl.words([gl.awq_words(line, bits) for line in gl.transpose(codes)]),
                f"{base}.qzeros": gl.words([gl.awq_words(line, bits) for line in gl.transpose(zeros)]),
                f"{base}.scales": gl.halves(gl.transpose(scales), dtype)}
    if fmt in ("gptq", "gptq_v2"):
        stored = [[(z - (fmt == "gptq")) % (1 << bits) for z in row] for row in zeros]
        return {f"{base}.qweight": gl.words(gl.transpose([gl.dense_words(row, bits) for row in codes])),
                f"{base}.qzeros": gl.words([gl.dense_words(line, bits) for line in gl.transpose(stored)]),
                f"{base}.scales": gl.halves(gl.transpose(scales), dtype),
                f"{base}.g_idx": common.Tensor("I32", [cols], struct.pack(f"<{cols}i", *[k // (size or cols) for k in range(cols)]))}
    if fmt == "mlx":
        packed = gl.words([gl.dense_words(row, bits) for row in codes])
        packed.dtype = "U32"
        return {f"{base}.weight": packed, f"{base}.scales": gl.halves(scales, dtype), f"{base}.biases": gl.halves(zeros, dtype)}
    out = {f"{base}.weight_packed": gl.words([gl.dense_words(row, bits) for row in codes]),
           f"{base}.weight_scale": gl.halves(scales, dtype), f"{base}.weight_shape": common.i64([len(codes), cols])}
    if not symmetric:
        out[f"{base}.weight_zero_point"] = gl.words(gl.transpose([gl.dense_words(line, bits) for line in gl.transpose(zeros)]))
    return out


def bits_of(t):
    return (t.dtype, list(t.shape), bytes(t.data))


# ---- every format ----

SOURCE = common.read_hf_dir(LLAMA)
LINEAR = [n[:-7] for n, t in SOURCE.items() if ".layers." in n and n.endswith("proj.weight")]
CASES = [("awq", 4, 32, False), ("awq", 4, 32, True), ("awq", 3, 64, False), ("awq", 4, 0, False), ("gptq", 4, 32, False), ("gptq", 4, 32, True),
         ("gptq", 3, 64, False), ("gptq", 8, 0, False), ("gptq_v2", 2, 32, False), ("compressed-tensors", 4, 32, True),
         ("compressed-tensors", 3, 64, False), ("compressed-tensors", 8, 0, True), ("mlx", 4, 32, False), ("mlx", 3, 64, False)]
for number, (fmt, bits, size, symmetric) in enumerate(CASES):
    name = f"{fmt}-{bits}-{size}-{symmetric}"
    out, options = common.WORK / name, ["--symmetric"] if symmetric else []
    common.run("quantize", LLAMA, out, "RTN", "--format", fmt, "--bits", bits, "--group-size", size or -1, *options, "-q",
               "-t", (1, 3)[number % 2], env={"MOEGRAFT_ISA": ("scalar", "avx2")[number // 2 % 2]})
    found, dtype = common.read_hf_dir(out), "F16" if fmt in ("awq", "gptq", "gptq_v2") else SOURCE[LINEAR[0] + ".weight"].dtype
    want = {}
    for base in LINEAR:
        w = SOURCE[f"{base}.weight"]
        rows, cols = w.shape
        want.update(parts_of(fmt, base, *rounded(floats(w), rows, cols, bits, size, dtype, fmt, symmetric), bits, size, dtype, symmetric))
    kept = [n for n in SOURCE if n[:-7] not in LINEAR]
    common.same(sorted(found), sorted([*want, *kept]), f"{name}: names")
    for key, t in want.items():
        common.check(bits_of(found[key]) == bits_of(t), f"{name}: {key} is not what it should be")
    for key in kept:
        common.same((found[key].dtype, [half(v, dtype) for v in floats(SOURCE[key])]), (dtype, floats(found[key])), f"{name}: {key}")
    common.same(json.loads((out / "config.json").read_text())["torch_dtype"], {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}[dtype],
                f"{name}: torch_dtype")
    common.run("check", out)
    common.run("forward", out, "--ids", "1,5,9,200", "-o", common.WORK / f"{name}.st", "-q")

awq = json.loads((common.WORK / "awq-4-32-False" / "config.json").read_text())["quantization_config"]
common.same(awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm", "modules_to_not_convert": None}, "awq config")
common.same(json.loads((common.WORK / "awq-4-0-False" / "quant_config.json").read_text()),
            {"zero_point": True, "q_group_size": -1, "w_bit": 4, "version": "GEMM", "modules_to_not_convert": None}, "quant_config.json")
gptq = json.loads((common.WORK / "gptq_v2-2-32-False" / "config.json").read_text())["quantization_config"]
common.same((gptq["checkpoint_format"], gptq["bits"], gptq["sym"], gptq["desc_act"]), ("gptq_v2", 2, False, False), "gptq config")
common.same(json.loads((common.WORK / "gptq_v2-2-32-False" / "quantize_config.json").read_text()), gptq, "quantize_config.json")
ct = json.loads((common.WORK / "compressed-tensors-8-0-True" / "config.json").read_text())["quantization_config"]
common.same((ct["format"], ct["ignore"], ct["config_groups"]["group_0"]["weights"]["strategy"]), ("pack-quantized", ["lm_head"], "channel"), "ct config")

# ---- mixtures: names, and lists that select exactly the routers under every loader's rule ----


def modules(folder, suffix):
    return [n[:-len(suffix)] for n in common.read_hf_dir(folder) if n.endswith(suffix)]


for layout, router, expert in (("legacy", "block_sparse_moe.gate", "block_sparse_moe.experts.3.w2"), ("v5", "mlp.gate", "mlp.experts.3.down_proj")):
    routers = [f"model.layers.{i}.{router}" for i in range(3)]
    out = common.WORK / f"moe.{layout}"
    common.run("quantize", MOE, out, "RTN", "--group-size", -1, "--layout", layout, "-q")
    quantized = modules(out, ".qweight")
    common.same(len(quantized), 3 * (4 + 4 * 3), f"{layout}: linear layers")
    common.check(f"model.layers.2.{expert}" in quantized and not set(routers) & set(quantized), f"{layout}: names")
    skip = json.loads((out / "config.json").read_text())["quantization_config"]["modules_to_not_convert"]
    everything = quantized + routers
    common.same([m for m in everything if any(s in m for s in skip)], routers, f"{layout}: substrings {skip}")
    common.same([m for m in everything if any(re.match(s, m) or m.endswith("." + s) for s in skip)], routers, f"{layout}: suffixes {skip}")
    common.same(json.loads((out / "config.json").read_text())["rope_theta"], 1000000.0, f"{layout}: rope_theta for transformers 4")
    out = common.WORK / f"moe.ct.{layout}"
    common.run("quantize", MOE, out, "RTN", "--group-size", -1, "--layout", layout, "--format", "compressed-tensors", "--symmetric", "-q")
    ignore = json.loads((out / "config.json").read_text())["quantization_config"]["ignore"]
    common.same(sorted(ignore), sorted(routers + ["lm_head"]), f"{layout}: ignore")
a, b = (common.run("forward", common.WORK / f"moe.{x}", "--ids", "1,5,9,200", "-o", common.WORK / f"{x}.st", "-q") for x in ("legacy", "v5"))
common.same(common.sha256(common.WORK / "legacy.st"), common.sha256(common.WORK / "v5.st"), "both names are one model")

# A rotary scaling in the spelling of transformers 4 as well, whose absence would be read as none.
scaled = common.DATA / "models" / "tiny" / "llama_rope_llama3"
common.run("quantize", scaled, common.WORK / "scaled", "RTN", "--group-size", 32, "--format", "mlx", "-q")
about = json.loads((common.WORK / "scaled" / "config.json").read_text())
common.same((about["rope_scaling"], about["rope_scaling"]["rope_type"]), (about["rope_parameters"], "llama3"), "rope_scaling")
common.check("rope_scaling" not in json.loads((common.WORK / "awq-4-32-False" / "config.json").read_text()), "a scaling of none")
common.run("check", common.WORK / "scaled", "--deep")

# From other containers: a GGUF gives the same weights as the directory it was made from.
common.run("convert", LLAMA, common.WORK / "l.gguf", "--outtype", "f32", "-q")
common.run("quantize", common.WORK / "l.gguf", common.WORK / "from-gguf", "RTN", "--group-size", 32, "-q")
common.same({n: bits_of(t) for n, t in common.read_hf_dir(common.WORK / "from-gguf").items()},
            {n: bits_of(t) for n, t in common.read_hf_dir(common.WORK / "awq-4-32-False").items()}, "from a GGUF")
# A quantized input is decoded; a GGUF of blocks only when asked.
common.run("quantize", common.WORK / "awq-4-32-False", common.WORK / "again", "RTN", "--group-size", 32, "-q")
common.run("quantize", LLAMA, common.WORK / "q8.gguf", "Q8_0", "-q")
common.run("quantize", common.WORK / "q8.gguf", common.WORK / "no", "RTN", "--group-size", 32, "-q", expect=2)
common.run("quantize", common.WORK / "q8.gguf", common.WORK / "yes", "RTN", "--group-size", 32, "--allow-requantize", "-q")

# ---- refusals, nothing is written ----


N = common.WORK / "none"


def refused(code, says, *args, streaming=False):
    result = common.run("quantize", *args, expect=code)
    common.check(says in result.err, f"{args}: message lacks {says!r}: {result.err}")
    seen = [p.name for p in N.iterdir() if not p.name.startswith(".")] if N.exists() else []
    common.check(not seen and (streaming or not N.exists()), f"{args}: something was written: {seen}")
    shutil.rmtree(N, ignore_errors=True)


refused(4, "48 input features", MOE, N, "RTN", "--group-size", "32")
refused(4, "48 output features", MOE, N, "RTN", "--group-size", "-1", "--format", "gptq")
refused(4, "no form with 5 bits", LLAMA, N, "RTN", "--bits", "5", "--format", "gptq", "--group-size", "32")
refused(2, "cannot be symmetric", LLAMA, N, "RTN", "--format", "mlx", "--group-size", "32", "--symmetric")
refused(4, "mlx has no groups", LLAMA, N, "RTN", "--format", "mlx", "--group-size", "-1")
refused(2, "--bits 9", LLAMA, N, "RTN", "--bits", "9")
refused(2, "--group-size 48", LLAMA, N, "RTN", "--group-size", "48")
refused(2, "--format 'x'", LLAMA, N, "RTN", "--format", "x")
refused(2, "--layout 'x'", LLAMA, N, "RTN", "--layout", "x")
refused(2, "--pure", LLAMA, N, "RTN", "--pure")
refused(2, "--bits is for group formats", LLAMA, N, "Q8_0", "--bits", "4")
refused(2, "name the directory", LLAMA, "RTN")
refused(4, "no loader reads", common.DATA / "models" / "tiny" / "gpt_oss", N, "RTN", "--group-size", "-1")
refused(2, "only --dry-run", MOE / "config.json", N, "RTN")

# A weight whose scale no F16 can hold, and one that is not finite: the row is named, nothing appears.
for value, code, says in ((b"\x00\x00\x80\x50", 4, "does not fit F16"), (b"\x00\x00\x80\x7f", 3, "expected a finite value")):
    bad = common.fresh("bad")
    shutil.copy(LLAMA / "config.json", bad)
    tensors = dict(SOURCE)
    w = tensors["model.layers.1.mlp.up_proj.weight"]
    data = bytearray(struct.pack(f"<{w.shape[0] * w.shape[1]}f", *floats(w)))
    data[4 * (5 * w.shape[1] + 7):][:4] = value
    data[4 * (5 * w.shape[1] + 7):4 * (5 * w.shape[1] + 7) + 4] = value
    tensors["model.layers.1.mlp.up_proj.weight"] = common.Tensor("F32", w.shape, data)
    common.write_safetensors(bad / "model.safetensors", tensors)
    refused(code, says, bad, N, "RTN", "--group-size", "32", "-q", streaming=True)
    refused(code, "row 5", bad, N, "RTN", "--group-size", "32", "-q", streaming=True)

# ---- the dry run needs a configuration and nothing else: a 2 x 7B mixture has the published number of elements ----

config = json.loads((MOE / "config.json").read_text())
config.update(num_local_experts=2, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
              num_key_value_heads=8, vocab_size=32000)
(common.WORK / "big.json").write_text(json.dumps(config))
result = common.run("quantize", "--dry-run", common.WORK / "big.json", N, "RTN")
common.check("1950617600 stored elements (1.9506e9" in result.out, result.out[-300:])
common.check(not N.exists(), "a dry run writes nothing")
plan = common.run("quantize", "--dry-run", common.WORK / "big.json", N, "RTN", "--json").json()
common.check(plan["peak_memory_bytes"] < 1 << 30 and 4.39 < plan["bpw"] < 4.41, f"{plan['bpw']} bits, {plan['peak_memory_bytes']} bytes")

# ---- interrupted anywhere, the next run goes on and makes the same bytes ----

def files(folder):
    """All but the manifest, which names the folder."""
    return {name: digest for name, digest in common.tree(folder).items() if name != "model.manifest.json"}


whole = files(common.WORK / "gptq-4-32-False")
how = (LLAMA, common.WORK / "again2", "RTN", "--format", "gptq", "--group-size", "32", "-q")
points = common.count_crash_points("quantize", *how)
common.same(files(common.WORK / "again2"), whole, "bytes of another run")
for at in range(1, points, max(1, points // 6)):
    shutil.rmtree(common.WORK / "again2", ignore_errors=True)
    common.run("quantize", *how, expect=None, env={"MOEGRAFT_CRASH_AT": at})
    common.run("quantize", *how)
    common.same(files(common.WORK / "again2"), whole, f"after a crash at {at}")
common.run("quantize", *how[:1], common.WORK / "small", *how[2:], "--memory", "1MiB", "-t", 4)
common.same(files(common.WORK / "small"), whole, "bytes under a small budget")
common.done()
