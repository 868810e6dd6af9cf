"""moegraft-verify --attribute: the parts it names are the damaged ones, its figures those of a file in which that one weight
was exchanged, and its budget holds."""
import shutil
import struct
from common import WORK, Tensor, check, read_gguf, read_safetensors, run, same, write_safetensors
import common
import moe4

REF = moe4.build(WORK / "moe4")
Q4 = WORK / "q4.gguf"
run("quantize", REF, Q4, "Q4_0", "-q")
ROWS = WORK / "rows.txt"
ROWS.write_text("1 20 30 40 50 60 70 80 90\n1 300 301 302 303\n")
TENSORS = read_safetensors(REF / "model.safetensors")[1]


def verify(*args, **kw):
    return run("verify", *args, "--tokens", ROWS, "--json", "-q", **kw).json()["candidates"][0]


def with_tensors(name, changed):
    (WORK / name).mkdir()
    for f in REF.iterdir():
        if f.name != "model.safetensors":
            shutil.copy(f, WORK / name / f.name)
    write_safetensors(WORK / name / "model.safetensors", {**TENSORS, **changed}, {"format": "pt"})
    return WORK / name


def parts(result, role):
    return [p for p in result["attribution"]["parts"] if p["role"] == role]


# One layer differs: it alone has drift, all of it.
swap = {}
for w in (1, 2, 3):
    a, b = (f"model.layers.1.block_sparse_moe.experts.{e}.w{w}.weight" for e in (0, 2))
    swap[a], swap[b] = TENSORS[b], TENSORS[a]
swapped = with_tensors("swapped", swap)
r = verify(REF, swapped, "--attribute", 100)
top = r["attribution"]["parts"][0]
same((top["name"], top["layer"], top["kl"]["mean"]), ("layer 1", 1, r["kl"]["mean"]), "the layer with swapped experts")
same({p["name"] for p in r["attribution"]["parts"] if p["expert"] is not None and p["kl"]["mean"] > 0}, set(swap), "swapped experts")
same({p["kl"]["mean"] for p in parts(r, "layer")[1:]}, {0}, "layers that are equal")
same(r["attribution"]["not_measured"], 0, "everything was measured")
values = [p["kl"]["mean"] for p in r["attribution"]["parts"]]
same(values, sorted(values, reverse=True), "order")

# Every weight of a quantization on its own: the same figure as a file with that one weight from the other.
r = verify(REF, Q4, "--attribute", 1000)
same(r["attribution"]["not_measured"], 0, "everything was measured")
same(len(r["attribution"]["parts"]), 3 + 4 * (1 + 10) + 4 * 3 * 4, "parts")
raw = read_gguf(Q4)[1]["blk.2.attn_v.weight"].data
y = []
for i in range(0, len(raw), 18):
    d, = struct.unpack("<e", raw[i:i + 2])
    y += [d * ((q & 15) - 8) for q in raw[i + 2:i + 18]] + [d * ((q >> 4) - 8) for q in raw[i + 2:i + 18]]
name = "model.layers.2.self_attn.v_proj.weight"
one = verify(REF, with_tensors("one", {name: Tensor("F32", TENSORS[name].shape, struct.pack(f"<{len(y)}f", *y))}))
found, = (p for p in r["attribution"]["parts"] if p["name"] == "blk.2.attn_v.weight")
same((found["kl"]["mean"], found["kl"]["stderr"], found["ppl"]), (one["kl"]["mean"], one["kl"]["stderr"], one["ppl"]["candidate"]),
     "one weight exchanged by hand")
x = TENSORS[name].floats()
want = (sum((p - q) ** 2 for p, q in zip(x, y)) / sum(p * p for p in x)) ** 0.5
check(abs(found["error"] - want) < 1e-12, f"relative error {found['error']}, expected {want}")
same((found["role"], found["layer"], found["expert"], found["bytes"]), ("attn_v", 2, None, len(raw)), "what it is")

# The budget, and the same result whatever runs it.
for budget in (1, 3, 9):
    short = verify(REF, Q4, "--attribute", budget)["attribution"]
    same((short["measured"], len(short["parts"])), (budget, budget), f"budget {budget}")
    check(short["not_measured"] > 0 or budget > 7, "the rest is counted")
same(verify(REF, Q4, "--attribute", 9, "-t", 3), verify(REF, Q4, "--attribute", 9, "--memory", 1, "-t", 1), "threads and memory")
text = run("verify", REF, swapped, "--tokens", ROWS, "--attribute", 12, "-q").out
check("attribution     12 parts exchanged" in text and "    layer 1 " in text, text)

# Equal models have nothing to open; other shapes cannot be exchanged.
same({p["kl"]["mean"] for p in verify(REF, REF, "--attribute", 50)["attribution"]["parts"]}, {0}, "equal models")
dense = common.DATA / "models/donors/base"
refused = run("verify", REF, dense, "--tokens", ROWS, "--attribute", 2, expect=8)
check("cannot be exchanged" in refused.err, refused.err)
common.done()
