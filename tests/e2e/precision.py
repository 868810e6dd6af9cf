"""--precision of forward, perplexity and verify: float64 output and figures, what 16-bit engines store, the noise floor
computed here again from the logits that forward writes."""
import math
import shutil
import common
from common import SAMPLES, WORK, check, run, same

MODEL = SAMPLES / "donors/prose"
Q8 = WORK / "q8.gguf"
run("quantize", MODEL, Q8, "Q8_0", "-q")
ids = run("tokenize", MODEL, "--text", (SAMPLES / "text/prose.txt").read_text()[:300], "--json").json()["ids"]
ROWS = WORK / "rows.txt"
ROWS.write_text("\n".join("1 " + " ".join(map(str, ids[i:i + 23])) for i in (1, 24, 47)) + "\n")
tokens = [list(map(int, line.split())) for line in ROWS.read_text().splitlines()]
N, V = len(tokens[0]), 1024


def log_softmax(row):
    top = max(row)
    total = top + math.log(sum(math.exp(v - top) for v in row))
    return [v - total for v in row]


# ---- forward ----
logits = {}
for precision, dtype in (("f32", "F32"), ("f64", "F64"), ("bf16", "F32"), ("f16", "F32")):
    out = WORK / f"{precision}.safetensors"
    run("forward", MODEL, "--tokens", ROWS, "-o", out, "--precision", precision)
    tensors = common.read_safetensors(out)[1]
    same(tensors.pop("input_ids").dtype, "I64", "ids")
    same({t.dtype for t in tensors.values()}, {dtype}, f"types of {precision}")
    if precision == "bf16":  # an F32 whose lower half is 0 is a BF16
        check(not any(t.data[i] for t in tensors.values() for i in (*range(0, len(t.data), 4), *range(1, len(t.data), 4))),
              "a value that bf16 does not hold")
    flat = tensors["logits"].floats()
    if precision == "f16":
        check(all(v == f for v, f in zip(flat, common.decode("F16", common.struct.pack(f"<{len(flat)}e", *flat)))),
              "a value that f16 does not hold")
    logits[precision] = [log_softmax(flat[i:i + V]) for i in range(0, len(flat), V)]
    one = WORK / "other.safetensors"
    run("forward", MODEL, "--tokens", ROWS, "-o", one, "--precision", precision, "--memory", 1, "-t", 3, "--force")
    same(common.sha256(one), common.sha256(out), f"{precision} in pieces")
wide = common.read_safetensors(WORK / "f64.safetensors")[1]["logits"].floats()
check(any(v != common.struct.unpack("<f", common.struct.pack("<f", v))[0] for v in wide), "F64 of f32 values")


# ---- verify: the floor ----
def floor_of(a, b):
    keep = [i for i in range(len(a)) if i % N != N - 1]
    kl = [sum(math.exp(p) * (p - q) for p, q in zip(a[i], b[i])) for i in keep]
    nll = -sum(b[i][tokens[i // N][i % N + 1]] for i in keep) / len(keep)
    return sum(kl) / len(kl), max(kl), math.exp(nll)


def verify(precision, *more):
    return run("verify", MODEL, Q8, "--tokens", ROWS, "--precision", precision, *more)


plain = run("verify", MODEL, Q8, "--tokens", ROWS, "--json", "-q").json()
same((plain["precision"], "floor" in plain), ("f32", False), "without --precision")
for precision in ("bf16", "f16"):
    found = verify(precision, "--json", "-q").json()
    mean, most, ppl = floor_of(logits["f32"], logits[precision])
    floor = found["floor"]
    same((found["precision"], floor["precision"]), ("f32", precision), "names")
    # Python's sums and ours differ in the last digits of exponentials in f32: 1e-7 absolute is 0.2 % of the smallest here.
    check(abs(floor["kl"]["mean"] - mean) < 2e-3 * mean + 1e-8, f"{precision}: {floor['kl']['mean']}, expected {mean}")
    check(abs(floor["kl"]["max"] - most) < 2e-3 * most + 1e-7, f"{precision}: {floor['kl']['max']}, expected {most}")
    check(abs(floor["ppl"]["candidate"] / ppl - 1) < 1e-6, f"{precision}: perplexity")
    same(found["candidates"], plain["candidates"], f"candidates beside the floor of {precision}")
    check(mean > 1e-8, "no rounding at all")
found = verify("f64", "--json", "-q").json()
same((found["precision"], found["floor"]["precision"]), ("f64", "f32"), "names")
check(abs(found["floor"]["kl"]["mean"]) < 1e-9, f"f32 against f64: {found['floor']['kl']['mean']}")
kl = [c["candidates"][0]["kl"]["mean"] for c in (found, plain)]
check(kl[0] != kl[1] and abs(kl[0] / kl[1] - 1) < 1e-3, f"mean KL in f64 and f32: {kl}")

# ---- verify: where it is shown ----
said = verify("bf16", "--html", WORK / "r.html", "--markdown", WORK / "r.md", "-q").out
floor = verify("bf16", "--json", "-q").json()["floor"]["kl"]["mean"]
check(f"noise floor     mean KL {floor:.6g} " in said, said)
check(f"| noise floor (bf16) | – | – | {floor:.4g} |" in (WORK / "r.md").read_text(), "Markdown")
check("<td>noise floor (bf16)</td>" in (WORK / "r.html").read_text() and f"<td>{floor:.4g}</td>" in (WORK / "r.html").read_text(), "page")

# ---- perplexity ----
ppl = {p: run("perplexity", MODEL, "--tokens", ROWS, "--precision", p, "--json").json()["results"][0]["ppl"]
       for p in ("f32", "f64", "bf16")}
check(ppl["f64"] != ppl["f32"] and abs(ppl["f64"] / ppl["f32"] - 1) < 1e-6, f"perplexity in f64: {ppl}")
check(abs(ppl["bf16"] / floor_of(logits["f32"], logits["bf16"])[2] - 1) < 1e-6, f"perplexity in bf16: {ppl}")

# ---- a model that f16 cannot hold: said, not averaged ----
wide = WORK / "wide"
shutil.copytree(common.DATA / "models/tiny/llama", wide)
tensors = common.read_safetensors(wide / "model.safetensors")[1]
t = tensors["model.layers.1.mlp.down_proj.weight"]
tensors["model.layers.1.mlp.down_proj.weight"] = common.Tensor("BF16", t.shape, b"\x80\x4f" * (len(t.data) // 2))  # 2^32
common.write_safetensors(wide / "model.safetensors", tensors, {"format": "pt"})
(WORK / "few.txt").write_text("1 20 30 40 50 60\n")
r = run("verify", wide, wide, "--tokens", WORK / "few.txt", "--precision", "f16", "-q", expect=3)
check("noise floor (f16)" in r.err and "finite" in r.err, f"an overflow in f16: {r.err}")
run("verify", wide, wide, "--tokens", WORK / "few.txt", "--precision", "bf16", "-q")

for tool, args in (("forward", [MODEL, "--ids", 1, "-o", WORK / "never"]), ("verify", [MODEL, Q8, "--tokens", ROWS]),
                   ("perplexity", [MODEL, "--tokens", ROWS])):
    common.refused(2, ["f8", "f32, f64, bf16 or f16"], tool, tool, *args, "--precision", "f8")
common.done()
