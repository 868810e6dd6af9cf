"""verify --weights of models quantized in groups: sound ones pass whatever was folded where, a router that AWQ left unscaled, a
doubled scale and a changed code are named, and so are the routers of a checkpoint by a writer that forgets them."""
import json
import os
import pathlib
import shutil
import struct

import common
from common import SAMPLES, WORK, Tensor, check, read_safetensors, run, same, write_safetensors
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
