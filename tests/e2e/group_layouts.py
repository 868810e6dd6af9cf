"""Writer and reference reader of the group formats for tests: random codes, zeros and scales laid out as AWQ, GPTQ,
compressed-tensors and FP8 checkpoints have them, and the f32 weights that they mean. Python standard library only, written
from docs/format_groups.md without looking at the C code."""
import math
import random
import struct

import common

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of an AWQ word is code ORDER[i]


def f32(x):
    """x rounded once to f32. A product of two f32 is exact in a double, so this is the f32 product."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def dense_words(codes, bits):
    """Codes as a stream of bits, lowest first, in 32-bit words."""
    stream = 0
    for i, c in enumerate(codes):
        stream |= c << (i * bits)
    return [(stream >> (32 * i)) & 0xffffffff for i in range(-(-len(codes) * bits // 32))]


def sparse_words(codes, bits):
    """32 // bits codes in each word, its upper bits empty."""
    per = 32 // bits
    return [sum(c << (bits * k) for k, c in enumerate(codes[i:i + per])) for i in range(0, len(codes), per)]


def awq_words(codes, bits):
    if bits != 4:
        return dense_words(codes, bits)
    return [sum(codes[i + ORDER[k]] << (4 * k) for k in range(8)) for i in range(0, len(codes), 8)]


def transpose(m):
    return [list(column) for column in zip(*m)]


def words(m):
    """An I32 tensor of a matrix of words."""
    flat = [w for row in m for w in row]
    return common.Tensor("I32", [len(m), len(m[0])], struct.pack(f"<{len(flat)}I", *flat))


def halves(m, dtype):
    """Scales as F16, BF16 or F32; the values must fit the type."""
    flat = [v for row in m for v in row]
    if dtype == "BF16":
        data = b"".join(struct.pack("<f", v)[2:] for v in flat)
    else:
        data = struct.pack(f"<{len(flat)}{'e' if dtype == 'F16' else 'f'}", *flat)
    return common.Tensor(dtype, [len(m), len(m[0])], data)


def random_scales(rng, rows, groups, dtype):
    values = [[rng.uniform(-0.02, 0.05) for _ in range(groups)] for _ in range(rows)]
    if dtype == "F16":
        return [[struct.unpack("<e", struct.pack("<e", v))[0] for v in row] for row in values]
    if dtype == "BF16":
        return [[struct.unpack("<f", b"\0\0" + struct.pack("<f", v)[2:])[0] for v in row] for row in values]
    return [[f32(v) for v in row] for row in values]


def codes_of(rng, rows, cols, bits):
    return [[rng.randrange(1 << bits) for _ in range(cols)] for _ in range(rows)]


def integers(codes, zeros, scales, group_of):
    return [f32((c - zeros[n][group_of[k]]) * scales[n][group_of[k]]) for n, row in enumerate(codes) for k, c in enumerate(row)]


def awq(rng, base, rows, cols, bits=4, group=32, zeros_stored=True):
    groups = cols // group if group > 0 else 1
    group_of = [k // group if group > 0 else 0 for k in range(cols)]
    codes, scales = codes_of(rng, rows, cols, bits), random_scales(rng, rows, groups, "F16")
    zeros = codes_of(rng, rows, groups, bits) if zeros_stored else [[1 << (bits - 1)] * groups] * rows
    parts = {f"{base}.qweight": words([awq_words(line, bits) for line in transpose(codes)]),
             f"{base}.scales": halves(transpose(scales), "F16")}
    if zeros_stored:
        parts[f"{base}.qzeros"] = words([awq_words(line, bits) for line in transpose(zeros)])
    return parts, integers(codes, zeros, scales, group_of)


def gptq(rng, base, rows, cols, bits=4, group=32, version=1, order=False, dtype="F16"):
    groups = cols // group if group > 0 else 1
    group_of = [k // group if group > 0 else 0 for k in range(cols)]
    if order:
        rng.shuffle(group_of)
    codes, scales = codes_of(rng, rows, cols, bits), random_scales(rng, rows, groups, dtype)
    zeros = codes_of(rng, rows, groups, bits)
    stored = [[(z - 1) % (1 << bits) if version == 1 else z for z in row] for row in zeros]
    parts = {f"{base}.qweight": words(transpose([dense_words(row, bits) for row in codes])),
             f"{base}.qzeros": words([dense_words(line, bits) for line in transpose(stored)]),
             f"{base}.scales": halves(transpose(scales), dtype),
             f"{base}.g_idx": common.Tensor("I32", [cols], struct.pack(f"<{cols}i", *group_of))}
    return parts, integers(codes, zeros, scales, group_of)


def packed(rng, base, rows, cols, bits=4, group=32, zeros="none", order=False, dtype="BF16", pack=dense_words):
    """zeros: none (symmetric), packed (int32), bytes (int8)."""
    groups = -(-cols // group) if group else 1
    group_of = [k // group if group else 0 for k in range(cols)]
    if order:
        rng.shuffle(group_of)
    half = 1 << (bits - 1)
    codes, scales = codes_of(rng, rows, cols, bits), random_scales(rng, rows, groups, dtype)
    points = codes_of(rng, rows, groups, bits) if zeros != "none" else [[half] * groups] * rows
    parts = {f"{base}.weight_packed": words([pack(row, bits) for row in codes]),
             f"{base}.weight_scale": halves(scales, dtype),
             f"{base}.weight_shape": common.i64([rows, cols])}
    if zeros == "packed":
        parts[f"{base}.weight_zero_point"] = words(transpose([pack(line, bits) for line in transpose(points)]))
    if zeros == "bytes":
        flat = [z - half for row in points for z in row]
        parts[f"{base}.weight_zero_point"] = common.Tensor("I8", [rows, groups], struct.pack(f"<{len(flat)}b", *flat))
    if order:
        parts[f"{base}.weight_g_idx"] = common.Tensor("I32", [cols], struct.pack(f"<{cols}i", *group_of))
    return parts, integers(codes, points, scales, group_of)


def int8(rng, base, rows, cols, group=0, zeros=False):
    groups = cols // group if group else 1
    codes = [[rng.randrange(-128, 128) for _ in range(cols)] for _ in range(rows)]
    points = [[rng.randrange(-128, 128) if zeros else 0 for _ in range(groups)] for _ in range(rows)]
    scales = random_scales(rng, rows, groups, "F32")
    flat = [c for row in codes for c in row]
    parts = {f"{base}.weight": common.Tensor("I8", [rows, cols], struct.pack(f"<{len(flat)}b", *flat)),
             f"{base}.weight_scale": halves(scales, "F32")}
    if zeros:
        flat = [z for row in points for z in row]
        parts[f"{base}.weight_zero_point"] = common.Tensor("I8", [rows, groups], struct.pack(f"<{len(flat)}b", *flat))
    return parts, integers(codes, points, scales, [k // group if group else 0 for k in range(cols)])


def mlx(rng, base, rows, cols, bits=4, group=32, dtype="F16"):
    groups = cols // group
    codes, scales, biases = codes_of(rng, rows, cols, bits), random_scales(rng, rows, groups, dtype), random_scales(rng, rows, groups, dtype)
    packed_words = words([dense_words(row, bits) for row in codes])
    packed_words.dtype = "U32"
    parts = {f"{base}.weight": packed_words, f"{base}.scales": halves(scales, dtype), f"{base}.biases": halves(biases, dtype)}
    # Products of two short numbers are exact, their sum is rounded once.
    return parts, [f32(c * scales[n][k // group] + biases[n][k // group]) for n, row in enumerate(codes) for k, c in enumerate(row)]


# ---- small floats ----

def minifloat(code, exponent_bits, mantissa_bits, bias):
    sign = -1.0 if code >> (exponent_bits + mantissa_bits) else 1.0
    e, m = (code >> mantissa_bits) & ((1 << exponent_bits) - 1), code & ((1 << mantissa_bits) - 1)
    if e == 0:
        return sign * math.ldexp(m, 1 - bias - mantissa_bits)
    return sign * math.ldexp((1 << mantissa_bits) + m, e - bias - mantissa_bits)


def e4m3(code):
    return minifloat(code, 4, 3, 7)


def e5m2(code):
    return minifloat(code, 5, 2, 15)


def fp8(rng, base, rows, cols, block=None, suffix="_scale_inv", dtype="F32", per_row=False, wide=False):
    """block (rows, columns); None: one scale, or one per row. wide: E5M2."""
    value, codes_used = (e5m2, [c for c in range(256) if c & 0x7c != 0x7c]) if wide else (
        e4m3, [c for c in range(256) if c & 0x7f != 0x7f])
    codes = [[rng.choice(codes_used) for _ in range(cols)] for _ in range(rows)]
    br, bc = block or ((1, cols) if per_row else (rows, cols))
    scales = random_scales(rng, -(-rows // br), -(-cols // bc), dtype)
    stored = halves(scales, dtype)
    if not block and not per_row:
        stored.shape = [1]
    flat = bytes(c for row in codes for c in row)
    parts = {f"{base}.weight": common.Tensor("F8_E5M2" if wide else "F8_E4M3", [rows, cols], flat), f"{base}.weight{suffix}": stored}
    return parts, [f32(value(c) * scales[n // br][k // bc]) for n, row in enumerate(codes) for k, c in enumerate(row)]


def fp4(rng, base, rows, cols, nv):
    size = 16 if nv else 32
    codes = codes_of(rng, rows, cols, 4)
    flat = bytes(row[k] | row[k + 1] << 4 for row in codes for k in range(0, cols, 2))
    stored = bytes(rng.choice([c for c in range(128) if c != 0x7f]) if nv else rng.randrange(110, 125) for _ in range(rows * cols // size))
    parts = {f"{base}.weight_packed": common.Tensor("U8", [rows, cols // 2], flat),
             f"{base}.weight_scale": common.Tensor("F8_E4M3" if nv else "U8", [rows, cols // size], stored)}
    scales = [math.ldexp(1.0, c - 127) for c in stored]
    if nv:
        whole = f32(rng.uniform(1000, 3000))
        parts[f"{base}.weight_global_scale"] = common.f32([whole])
        scales = [f32(e4m3(c) / whole) for c in stored]  # the double quotient of such short numbers rounds as the f32 one
    value = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]  # floats: code 8 is -0
    return parts, [f32((-1.0 if c & 8 else 1.0) * value[c & 7] * scales[(n * cols + k) // size])
                   for n, row in enumerate(codes) for k, c in enumerate(row)]


def mlx_floats(rng, base, rows, cols, mode):
    """mxfp4, nvfp4: E2M1, low nibble first, with E8M0 or E4M3 scales; mxfp8: E4M3 with E8M0. Scales are bytes."""
    size = 16 if mode == "nvfp4" else 32
    parts, values = (fp4(rng, base, rows, cols, False) if mode == "mxfp4" else ({}, []))
    if mode == "mxfp4":
        codes, stored = parts[f"{base}.weight_packed"].data, parts[f"{base}.weight_scale"].data
    else:
        wide = [c for c in range(256) if c & 0x7f != 0x7f]
        each = [rng.choice(wide) if mode == "mxfp8" else rng.randrange(16) for _ in range(rows * cols)]
        stored = bytes(rng.randrange(110, 125) if mode == "mxfp8" else rng.randrange(0, 127) for _ in range(rows * cols // size))
        codes = bytes(each) if mode == "mxfp8" else bytes(a | b << 4 for a, b in zip(each[::2], each[1::2]))
        fp4_values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
        values = [f32(e4m3(c) * math.ldexp(1.0, stored[i // size] - 127)) if mode == "mxfp8" else
                  f32((-1.0 if c & 8 else 1.0) * fp4_values[c & 7] * e4m3(stored[i // size])) for i, c in enumerate(each)]
    return {f"{base}.weight": common.Tensor("U32", [rows, len(codes) // rows // 4], codes),
            f"{base}.scales": common.Tensor("U8", [rows, cols // size], stored)}, values


# ---- the published examples of the layouts ----

def check_examples():
    common.same([f"{w:08x}" for w in awq_words([n % 16 for n in range(16)], 4)], ["75316420", "fdb9eca8"], "AWQ words")
    common.same([f"{w:08x}" for w in dense_words([n % 16 for n in range(16)], 4)], ["76543210", "fedcba98"], "4-bit words")
    common.same([f"{w:08x}" for w in dense_words([n % 8 for n in range(32)], 3)], ["88fac688", "c688fac6", "fac688fa"], "3-bit words")
    common.same([e4m3(0x7e), e4m3(1), e4m3(0xb8), e5m2(0x7b)], [448.0, 2.0 ** -9, -1.0, 57344.0], "small floats")


def rng_for(name):
    return random.Random(name)  # seeded by text: the same on every machine
