"""moegraft-perplexity: its definition computed here from the logits of moegraft-forward, the base file read here, and the
published figures when the shared data is at hand."""
import json
import math
import os
import pathlib
import struct
import common
from common import check, run, same

BASE, PROSE = common.SAMPLES / "donors/base", common.SAMPLES / "donors/prose"
CTX, VOCAB, BOS = 32, 1024, 1


def nlls(model, windows, first):
    """-log p of every scored token of equally long windows, from the logits moegraft-forward writes."""
    lines = common.WORK / "windows.txt"
    lines.write_text("\n".join(" ".join(map(str, w)) for w in windows) + "\n")
    out = common.WORK / "logits.safetensors"
    run("forward", model, "--tokens", lines, "-o", out, "--capture", "logits", "--force")
    flat = common.read_safetensors(out)[1]["logits"].floats()
    n, found, rows = len(windows[0]), [], []
    for i, w in enumerate(windows):
        for p in range(first, n - 1):
            row = flat[(i * n + p) * VOCAB:(i * n + p + 1) * VOCAB]
            top = max(row)
            lse = top + math.log(sum(math.exp(v - top) for v in row))
            rows.append([v - lse for v in row])
            found.append(lse - row[w[p + 1]])
    return found, rows


def ppl(values):
    n, mean = len(values), sum(values) / len(values)
    var = sum(v * v for v in values) / n - mean * mean
    return math.exp(mean), math.sqrt(var / (n - 1)) * math.exp(mean)


def near(found, expected, tolerance, what):
    check(abs(found - expected) <= tolerance * abs(expected), f"{what}: {found}, expected {expected}")


text = common.WORK / "text.txt"
text.write_text((common.SAMPLES / "text/prose.txt").read_text()[:600])
ids = run("tokenize", BASE, "--file", text, "--json").json()["ids"]
same(ids[0], BOS, "first token")
windows = [[BOS] + ids[i + 1:i + CTX] for i in range(0, len(ids) - CTX + 1, CTX)]
check(len(windows) >= 4, "text too short for the test")

# Text: BOS first, second half scored.
values, logp_base = nlls(BASE, windows, CTX // 2)
expected, error = ppl(values)
result = run("perplexity", BASE, "--text", text, "--ctx", CTX, "--json").json()
same(result["schema"], 1, "schema")
same([r["path"] for r in result["results"]], [str(BASE)], "paths")
r = result["results"][0]
same(r["tokens"], len(windows) * (CTX - 1 - CTX // 2), "scored tokens")
near(r["ppl"], expected, 1e-6, "perplexity of text")  # f32 exponentials on one side, doubles on the other
near(r["stderr"], error, 1e-5, "standard error")

# Token files: every position; threads and memory change nothing, text and JSON say the same.
rows = common.WORK / "rows.txt"
rows.write_text("\n".join(" ".join(map(str, w)) for w in windows) + "\n")
expected = ppl(nlls(PROSE, windows, 0)[0])[0]
one = run("perplexity", PROSE, "--tokens", rows, "--json")
near(one.json()["results"][0]["ppl"], expected, 1e-6, "perplexity of tokens")
same(one.json()["results"][0]["tokens"], len(windows) * (CTX - 1), "scored tokens of rows")
for extra, env in [(["-t", 1], {"MOEGRAFT_ISA": "scalar"}), (["-t", 3, "--memory", "300KB"], {}), (["--memory", 1], {})]:
    same(run("perplexity", PROSE, "--tokens", rows, "--json", *extra, env=env).out, one.out, f"{extra} {env}")
plain = run("perplexity", PROSE, BASE, "--tokens", rows).out.splitlines()
check(f"{expected:.4f}"[:6] in plain[0] and plain[1].startswith(f"{BASE}: "), f"lines of two models: {plain[:2]}")

# Several: a table by size, the front of size and perplexity marked, the same in JSON.
small = common.WORK / "prose-Q4_0.gguf"
run("quantize", PROSE, small, "Q4_0", "-q")
several = run("perplexity", PROSE, BASE, small, "--tokens", rows, "--json").json()["results"]
same(several[0]["ppl"], one.json()["results"][0]["ppl"], "perplexity beside others")
sizes = {str(PROSE): sum(len(t.data) for t in common.read_hf_dir(PROSE).values()), str(small): sum(len(t.data) for t in common.read_gguf(small)[1].values())}
for r in several:
    check(r["bytes"] == sizes.get(r["path"], r["bytes"]) and 0 < r["bpw"] <= 32, f"size of {r['path']}")


# Packed weights count as they are stored, not as they are decoded.
run("quantize", PROSE, common.WORK / "packed", "RTN", "--group-size", 64, "-q")
packed = run("perplexity", common.WORK / "packed", "--tokens", rows, "--json").json()["results"][0]
same(packed["bytes"], sum(len(t.data) for t in common.read_hf_dir(common.WORK / "packed").values()), "bytes of a packed model")
check(packed["bpw"] < 9, f"bits of a packed model: {packed['bpw']}")  # the embeddings stay in 16 bits


def front(results, figure):
    order, marks, best = sorted(results, key=lambda r: (r["bytes"], figure(r))), [], math.inf
    for r in order:
        marks.append(figure(r) < best)
        best = min(best, figure(r))
    same([r["pareto"] for r in order], marks, "front")
    return [(r["path"], m) for r, m in zip(order, marks)]


def table(out):
    lines = out[out.index("bytes"):].splitlines()[1:]
    return [(line.split()[-1], line.startswith("*")) for line in lines]


same(table(run("perplexity", PROSE, BASE, small, "--tokens", rows).out), front(several, lambda r: r["ppl"]), "table")

# The base file, read here.
base = common.WORK / "base.kld"
run("perplexity", BASE, "--text", text, "--ctx", CTX, "--kl-divergence-base", base)
raw = base.read_bytes()
same(raw[:8], b"_logits_", "magic")
same(struct.unpack_from("<3i", raw, 8), (CTX, VOCAB, len(windows)), "header")
tokens = struct.unpack_from(f"<{CTX * len(windows)}i", raw, 20)
same(list(tokens), ids[:CTX * len(windows)], "tokens of the base file")
at, size = 20 + 4 * len(tokens), 2 * (VOCAB + 4)
same(len(raw), at + size * len(logp_base), "size of the base file")
read = []
for i, exact in enumerate(logp_base):
    scale, low = struct.unpack_from("<2f", raw, at + i * size)
    codes = struct.unpack_from(f"<{VOCAB}H", raw, at + i * size + 8)
    read.append([low + scale * q for q in codes])
    top = max(exact)
    for v, e in zip(read[-1], exact):  # half a step, or cut off 16 below the maximum
        check(abs(v - max(e, top - 16)) <= 0.51 * scale + 1e-5, f"log-probability {v}, exact {e}")

# Divergence of another model from it.
_, logp = nlls(PROSE, windows, CTX // 2)
kl = [sum(math.exp(b) * (b - q) for b, q in zip(br, qr) if b > -16) for br, qr in zip(read, logp)]
top = sum(br.index(max(br)) == qr.index(max(qr)) for br, qr in zip(read, logp)) / len(kl)
targets = [w[p + 1] for w in windows for p in range(CTX // 2, CTX - 1)]
dp = [math.exp(qr[t]) - math.exp(br[t]) for br, qr, t in zip(read, logp, targets)]
r = run("perplexity", PROSE, "--kl-divergence-base", base, "--kl-divergence", "--json").json()["results"][0]
near(r["kl"]["mean"], sum(kl) / len(kl), 1e-5, "mean divergence")
near(r["kl"]["max"], max(kl), 1e-5, "largest divergence")
kl.sort()
p = 0.99 * (len(kl) - 1)
near(r["kl"]["p99"], kl[int(p)] + (p - int(p)) * (kl[int(p) + 1] - kl[int(p)]), 1e-5, "99th percentile")
near(r["top1_agreement"], top, 1e-9, "top-1 agreement")
near(r["delta_p"]["mean"], sum(dp) / len(dp), 1e-4, "mean delta p")
near(r["delta_p"]["rms"], math.sqrt(sum(d * d for d in dp) / len(dp)), 1e-4, "RMS delta p")
near(r["delta_p"]["min"], min(dp), 1e-4, "smallest delta p")
near(r["delta_p"]["max"], max(dp), 1e-4, "largest delta p")
same([r["delta_p"][k] for k in ("min", "p001", "p01", "p05", "p10", "p25", "median", "p75", "p90", "p95", "p99", "p999", "max")],
     sorted(v for k, v in r["delta_p"].items() if "mean" not in k and "rms" not in k), "percentiles ascend")
near(r["difference"], r["ppl"] - r["base_ppl"], 1e-12, "difference of the perplexities")
near(r["ratio"], math.exp(r["ln_ratio"]), 1e-9, "ratio of the perplexities")
near(r["ratio_stderr"], r["ratio"] * r["ln_ratio_stderr"], 1e-9, "its error")
check(0.5 < r["correlation"] < 1 and 0 < r["difference_stderr"] < r["stderr"] + 1, f"paired figures: {r}")
near(r["base_ppl"], math.exp(sum(-br[t] for br, t in zip(read, targets)) / len(targets)), 1e-6, "base perplexity")
check("same top token" in run("perplexity", PROSE, "--kl-divergence-base", base, "--kl-divergence").out, "plain text")
several = [PROSE, BASE, small, "--kl-divergence-base", base, "--kl-divergence"]
same(table(run("perplexity", *several).out), front(run("perplexity", *several, "--json").json()["results"], lambda r: r["kl"]["mean"]), "table by divergence")

# Refusals.
tiny = common.DATA / "models/tiny/llama"
broken = common.WORK / "broken.kld"
broken.write_bytes(raw[:-2])
for code, args in [(2, [BASE]), (2, [BASE, "--text", text, "--kl-divergence"]), (2, ["--text", text]),
                   (2, [BASE, "--text", text, "--ctx", 4096]), (2, [BASE, "--text", text, "--ctx", 1]),
                   (2, [BASE, "--tokens", rows, "--kl-divergence-base", common.WORK / "x.kld"]),
                   (2, [BASE, "--text", text, "--ctx", CTX, "--kl-divergence-base", base]),
                   (4, [tiny, "--text", text]), (8, [tiny, "--kl-divergence-base", base, "--kl-divergence"]),
                   (3, [BASE, "--kl-divergence-base", broken, "--kl-divergence"]),
                   (3, [tiny, "--tokens", rows]), (5, [BASE, "--text", common.WORK / "absent.txt"])]:
    run("perplexity", *args, expect=code)
same(common.leftovers(common.WORK), [], "partial files")
alone = common.WORK / "alone.txt"
alone.write_text("5\n1 5 9\n7\n")
NOTE = "2 of 3 sequences have one token, which nothing predicts: not scored"
for tool, models in (("perplexity", [BASE]), ("verify", [BASE, BASE]), ("verify", ["--peer", BASE, BASE])):
    check(NOTE in run(tool, *models, "--tokens", alone).err and NOTE not in run(tool, *models, "--tokens", alone, "-q").err, f"{tool}: sequences of one token")
    check("windows of 2 tokens score nothing" in run(tool, *models, "--text", text, "--ctx", 2, expect=2).err, f"{tool}: --ctx 2")
alone.write_text("5\n")
check("no sequence has two tokens" in run("perplexity", BASE, "--tokens", alone, expect=2).err, "one token alone")

shared = os.environ.get("MOEGRAFT_SHARED")
if shared:
    shared = pathlib.Path(shared)
    golden = json.loads((common.DATA / "golden/verify/kld.json").read_text())
    r = run("perplexity", shared / "models/moe4", "--text", shared / "models/text/eval.txt", "--json").json()["results"][0]
    near(r["ppl"], golden["base_exact"][0], 1e-4, "perplexity of moe4")
    near(r["stderr"], golden["base_exact"][1], 1e-3, "its standard error")
    means = [math.log(run("perplexity", shared / "models/donors/base", "--tokens", shared / f"models/text/eval_ids_{d}.safetensors",
                          "--json").json()["results"][0]["ppl"]) for d in ["code", "json", "math", "prose"]]
    near(math.exp(sum(means) / 4), 10.08, 5e-4, "mixed perplexity of the base")  # stated with four figures
common.done()
