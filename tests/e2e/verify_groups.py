"""verify --weights of models quantized in groups: sound ones pass whatever was folded where, a router that AWQ left unscaled, a
doubled scale and a changed code are named, and so are the routers of a checkpoint by a writer that forgets them."""
import json
import os
import pathlib
import random
import re
import shutil
import struct

import common
from common import SAMPLES, WORK, Tensor, check, read_gguf, read_safetensors, run, same, write_safetensors
import moe4

REF, PROSE = moe4.build(WORK / "moe4"), SAMPLES / "donors/prose"
FEW = WORK / "few.txt"
FEW.write_text("1 20 30 40\n")
text = WORK / "text.txt"
text.write_text("".join((SAMPLES / f"text/calibration_{d}.txt").read_text()[:900] for d in ("prose", "code", "math", "json")))


def weights(reference, path, expect=0):
    return run("verify", reference, path, "--tokens", FEW, "--weights", "--json", "-q", expect=expect).json()["candidates"][0]


def copy(source, name, change):
    """A copy of a directory whose tensors went through change."""
    shutil.copytree(source, WORK / name)
    metadata, tensors = read_safetensors(WORK / name / "model.safetensors")
    change(tensors)
    write_safetensors(WORK / name / "model.safetensors", tensors, metadata)
    return WORK / name


# Sound ones.
TEXT = ("--text", text, "--ctx", 128, "--samples", 6)
for name, reference, args, kind, low, high in (("awq", REF, ("AWQ", *TEXT), "INT4", 4.2, 4.4), ("gptq", PROSE, ("GPTQ", "--bits", 3, *TEXT), "INT3", 3.1, 3.4),
                                               ("ct", PROSE, ("AWQ", "--format", "compressed-tensors", *TEXT), "INT4", 4.1, 4.6), ("eight", PROSE, ("RTN", "--bits", 8), "INT8", 8.1, 8.6),
                                               ("fp8", PROSE, ("FP8_DYNAMIC",), "FP8", 8, 8.2)):
    extra = ("--group-size", 64) if args[0] != "FP8_DYNAMIC" else ()
    fmt = ("--format", "gptq") if name == "eight" else ()
    run("quantize", reference, WORK / name, *args, *extra, *fmt, "-q")
    c = weights(reference, WORK / name)
    same((c["verdict"], c["damaged_tensors"]), ("pass", 0), name)
    found = {t["type"]: t for t in c["tensors"]}
    check(kind in found and low < found[kind]["bpw"] < high, f"{name}: {sorted((t, x['bpw']) for t, x in found.items())}")
    check(max(t["error"] for t in c["tensors"] if t["type"] == kind) < found[kind]["error_limit"] / 1.3, f"{name}: close to its limit")
folded = [t["name"] for t in weights(REF, WORK / "awq")["tensors"] if t["refolded"]]
check(len(folded) > 2 and all("norm" in n for n in folded), f"norms with scales taken out: {folded}")
same(weights(WORK / "awq", WORK / "awq")["verdict"], "pass", "twice the same")
check(weights(WORK / "awq", WORK / "awq")["tensors"][0]["error_limit"] == 0, "what is stored once may not differ")

# Damage. A router without the scales of its norm: AWQ's known defect in mixtures.
layer = next(n for n in folded if "post_attention" in n).removesuffix("post_attention_layernorm.weight")
gate = layer + "block_sparse_moe.gate.weight"
plain = read_safetensors(REF / "model.safetensors")[1][gate].floats()


def unscale(tensors):
    tensors[gate] = Tensor("F16", tensors[gate].shape, struct.pack(f"<{len(plain)}e", *plain))


c = weights(REF, copy(WORK / "awq", "unscaled", unscale), expect=1)
same(([t["name"] for t in c["tensors"] if t["damaged"]], c["tensors"][0]["name"]), ([gate], gate), "the router that was left")


# One scale of one group doubled.
def double(tensors):
    t = tensors["model.layers.2.self_attn.k_proj.scales"]
    raw = bytearray(t.data)
    scale, = struct.unpack_from("<H", raw, 2 * 37)
    struct.pack_into("<H", raw, 2 * 37, scale + 0x400)
    tensors["model.layers.2.self_attn.k_proj.scales"] = Tensor(t.dtype, t.shape, raw)


c = weights(REF, copy(WORK / "awq", "doubled", double), expect=1)
same([t["name"] for t in c["tensors"] if t["damaged"]], ["model.layers.2.self_attn.k_proj.weight"], "a doubled scale")
same((c["tensors"][0]["worst_row"], c["tensors"][0]["worst_column"] // 64), (37, 0), "its place")


# A copy must hold the same: one bit of one code.
def flip(tensors):
    t = tensors["model.layers.1.self_attn.o_proj.qweight"]
    raw = bytearray(t.data)
    raw[4001] ^= 1
    tensors["model.layers.1.self_attn.o_proj.qweight"] = Tensor(t.dtype, t.shape, raw)


c = weights(WORK / "awq", copy(WORK / "awq", "flipped", flip), expect=1)
same([t["name"] for t in c["tensors"] if t["damaged"]], ["model.layers.1.self_attn.o_proj.weight"], "a flipped bit")

# Experts that are nearly the same: one layer whose four experts are one donor's block with other low bits, 1.8 % apart. An exchange
# of two is far within what 4 bits lose, and is found by asking which expert of the reference each is nearest to.
NEAR = WORK / "near"
shutil.copytree(REF, NEAR)
metadata, tensors = read_safetensors(NEAR / "model.safetensors")
tensors = {n: t for n, t in tensors.items() if ".layers." not in n or ".layers.0." in n}
draw = random.Random(3)
for name, t in tensors.items():
    if ".experts." in name:
        low = draw.getrandbits(8 * len(t.data)) & int.from_bytes(b"\x07\x00" * (len(t.data) // 2), "little")
        like = tensors[re.sub(r"experts\.\d", "experts.0", name)].data
        tensors[name] = Tensor("BF16", t.shape, (int.from_bytes(like, "little") ^ low).to_bytes(len(like), "little"))
write_safetensors(NEAR / "model.safetensors", tensors, metadata)
(NEAR / "config.json").write_text(json.dumps(json.loads((NEAR / "config.json").read_text()) | {"num_hidden_layers": 1}))


def exchange(tensors):
    for name in [n for n in tensors if ".experts.2." in n]:
        other = name.replace("experts.2", "experts.3")
        tensors[name], tensors[other] = tensors[other], tensors[name]


def exchange_gguf(source, target):
    """Two slices of each stack of experts."""
    raw = source.read_bytes()
    for name, t in read_gguf(source)[1].items():
        if "_exps" in name:
            n = len(t.data) // 4
            raw = raw.replace(t.data, t.data[:2 * n] + t.data[3 * n:] + t.data[2 * n:3 * n])
    target.write_bytes(raw)


run("quantize", NEAR, WORK / "near-awq", "AWQ", "--group-size", 64, *TEXT, "-q")
run("quantize", NEAR, WORK / "near-gptq", "GPTQ", "--group-size", 64, *TEXT, "-q")
run("convert", NEAR, WORK / "near.gguf", "--outtype", "bf16", "-q")
for kind in ("Q4_K_S", "Q8_0"):
    run("quantize", WORK / "near.gguf", WORK / f"near-{kind}.gguf", kind, "-q")
    exchange_gguf(WORK / f"near-{kind}.gguf", WORK / f"near-{kind}-x.gguf")
for kind in ("awq", "gptq"):
    copy(WORK / f"near-{kind}", f"near-{kind}-x", exchange)
for name in ("near-awq", "near-gptq", "near-Q4_K_S.gguf", "near-Q8_0.gguf"):
    c = weights(NEAR, WORK / name)
    same((c["verdict"], [t["name"] for t in c["tensors"] if t["nearest_expert"] is not None]), ("pass", []), name)
    stem, dot, end = name.partition(".")
    c = weights(NEAR, WORK / (stem + "-x" + dot + end), expect=1)
    bad = [t for t in c["tensors"] if t["damaged"]]
    same((len(bad), bad), (6, c["tensors"][:6]), f"{name}: experts in the wrong place come first")
    for t in bad:
        own = int(re.search(r"(?:experts\.|\[)(\d)", t["name"])[1])
        same((own in (2, 3), t["nearest_expert"]), (True, 5 - own), f"{name}: {t['name']}")
        check(t["nearest_error"] < t["error"], f"{name}: {t}")
        check("Q8_0" in name or t["error"] < t["error_limit"], f"{name}: found by its own limit: {t['error']} {t['error_limit']}")
text = run("verify", NEAR, WORK / "near-Q4_K_S-x.gguf", "--tokens", FEW, "--weights", "-q", expect=1).out
check("expert 2 of the candidate is nearest to expert 3 of the reference: error 0.0" in text, text)

# Checkpoints of other writers. AutoAWQ leaves every router of a mixture unscaled.
shared = os.environ.get("MOEGRAFT_SHARED")
if shared:
    shared = pathlib.Path(shared)
    for name in sorted(p.name for p in (shared / "golden/awq").iterdir() if p.is_dir()):
        reference = shared / "models" / json.loads((shared / "golden/awq/index.json").read_text())["results"][name]["model"]
        bad = [t["name"] for t in weights(reference, shared / "golden/awq" / name, expect=(0, 1))["tensors"] if t["damaged"]]
        want = [f"model.layers.{l}.block_sparse_moe.gate.weight" for l in range(4)] if name == "moe4-awq-g64" else []
        same(sorted(bad), want, f"damage in {name}")
else:
    print("skipped: checkpoints of other writers (MOEGRAFT_SHARED is not set)")
common.done()
