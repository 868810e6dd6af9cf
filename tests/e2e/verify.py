"""moegraft-verify: every figure computed here again from the logits, hidden states and router logits that moegraft-forward
writes; thresholds and exit codes; deliberate damage found and named; the same bytes whatever runs it; the page."""
import html
import json
import math
import os
import pathlib
import re
import shutil
import struct
import xml.etree.ElementTree
import common
from common import DATA, SAMPLES, WORK, check, run, same
import moe4
from page import Page, alone

MARGINS = (0, 0.05, 0.1, 0.25, 0.5, 1, math.inf)
V, LAYERS, EXPERTS, HIDDEN = 1024, 4, 4, 256
REF = moe4.build(WORK / "moe4")
Q8, Q4 = WORK / "moe4-Q8_0.gguf", WORK / "moe4-Q4_0.gguf"
run("quantize", REF, "-o", f"{Q8}=Q8_0", "-o", f"{Q4}=Q4_0", "-q")
PLAIN = (SAMPLES / "text/prose.txt").read_text()
ROWS = WORK / "rows.txt"
_ids = run("tokenize", REF, "--text", PLAIN[:400], "--json").json()["ids"]
ROWS.write_text("\n".join("1 " + " ".join(map(str, _ids[i:i + 23])) for i in range(1, 70, 23)) + "\n")


FEW = WORK / "few.txt"  # enough where only the weights are of interest
FEW.write_text("1 20 30 40\n")


def verify(*args, **kw):
    return run("verify", *args, **kw)


def result(*args, **kw):
    return verify(*args, "--json", "-q", **kw).json()


def near(found, expected, tolerance, what):
    check(abs(found - expected) <= tolerance * max(abs(expected), 1e-30), f"{what}: {found}, expected {expected}")


# ---- the figures ----
def capture(model, name):
    out = WORK / f"{name}.safetensors"
    run("forward", model, "--tokens", ROWS, "-o", out, "--capture", "logits,hidden,router", "-q")
    return {k: t.floats() for k, t in common.read_safetensors(out)[1].items()}


def table(flat, width):
    return [flat[i:i + width] for i in range(0, len(flat), width)]


def log_softmax(row):
    top = max(row)
    total = top + math.log(sum(math.exp(v - top) for v in row))
    return [v - total for v in row]


def softmax_kl(a, b):
    return sum(math.exp(p) * (p - q) for p, q in zip(a, b))


def first(row):
    return row.index(max(row))


def best_two(row):
    return sorted(range(len(row)), key=lambda e: -row[e])[:2]


def top(row, n):
    return sorted(range(len(row)), key=lambda i: (-row[i], i))[:n]


def percentile(values, fraction):
    values, p = sorted(values), fraction * (len(values) - 1)
    i = int(p)
    return values[i] + (p - i) * (values[min(i + 1, len(values) - 1)] - values[i])


SPREAD = {"p001": 0.001, "p01": 0.01, "p05": 0.05, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99,
          "p999": 0.999}


def covariance(x, y):
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y)) / len(x)


def figures(a, b):
    """What verify should say of captures a (reference) and b. Token rows score every position but the last."""
    tokens = [list(map(int, line.split())) for line in ROWS.read_text().splitlines()]
    n = len(tokens[0])
    keep = [i for i in range(len(tokens) * n) if i % n != n - 1]
    la, lb = table(a["logits"], V), table(b["logits"], V)
    pa, pb = {i: log_softmax(la[i]) for i in keep}, {i: log_softmax(lb[i]) for i in keep}
    target = {i: tokens[i // n][i % n + 1] for i in keep}
    kl = [softmax_kl(pa[i], pb[i]) for i in keep]
    dp = [math.exp(pb[i][target[i]]) - math.exp(pa[i][target[i]]) for i in keep]
    dn = [pa[i][target[i]] - pb[i][target[i]] for i in keep]
    ln_ratio = sum(dn) / len(dn)
    flat_a, flat_b = [v for i in keep for v in la[i]], [v for i in keep for v in lb[i]]
    diff = [y - x for x, y in zip(flat_a, flat_b)]
    mean = sum(kl) / len(kl)
    na, nb = [-pa[i][target[i]] for i in keep], [-pb[i][target[i]] for i in keep]
    va, vb, cov = covariance(na, na), covariance(nb, nb), covariance(na, nb)
    qa, qb = math.exp(sum(na) / len(na)), math.exp(sum(nb) / len(nb))
    out = {
        "ppl.reference": math.exp(-sum(pa[i][target[i]] for i in keep) / len(keep)),
        "ppl.candidate": math.exp(-sum(pb[i][target[i]] for i in keep) / len(keep)),
        "ppl.ln_ratio": ln_ratio,
        "ppl.ln_ratio_stderr": math.sqrt((sum(d * d for d in dn) / len(dn) - ln_ratio ** 2) / (len(dn) - 1)),
        "worst[0].kl": max(kl), "kl.mean": mean, "kl.max": max(kl), "kl.median": percentile(kl, 0.5), "kl.p99": percentile(kl, 0.99),
        "kl.p999": percentile(kl, 0.999),
        "kl.stderr": math.sqrt((sum(k * k for k in kl) / len(kl) - mean * mean) / (len(kl) - 1)),
        "kl.p90": percentile(kl, 0.9), "kl.p95": percentile(kl, 0.95), "kl.min": min(kl), "kl.p10": percentile(kl, 0.1),
        "delta_p.min": min(dp), "delta_p.max": max(dp), **{f"delta_p.{k}": percentile(dp, f) for k, f in SPREAD.items()},
        "ppl.correlation": cov / math.sqrt(va * vb), "ppl.difference": qb - qa,
        "ppl.difference_stderr": math.sqrt((qa * qa * va + qb * qb * vb - 2 * qa * qb * cov) / (len(kl) - 1)),
        "ppl.ratio_stderr": qb / qa * math.sqrt((va + vb - 2 * cov) / (len(kl) - 1)),
        "top5_agreement": sum(len(set(top(la[i], 5)) & set(top(lb[i], 5))) for i in keep) / (5 * len(keep)),
        "top1_agreement": sum(first(la[i]) == first(lb[i]) for i in keep) / len(keep),
        "delta_p.mean": sum(dp) / len(dp), "delta_p.rms": math.sqrt(sum(d * d for d in dp) / len(dp)),
        "logits.max_abs": max(map(abs, diff)), "logits.rms": math.sqrt(sum(d * d for d in diff) / len(diff)),
        "logits.cosine": cosine(flat_a, flat_b),
    }
    for l in range(LAYERS - 1):  # the last state that forward writes is normed, as transformers' is
        x, y = a[f"hidden.{l + 1}"], b[f"hidden.{l + 1}"]
        out[f"layers[{l}].relative_l2"] = math.sqrt(sum((p - q) ** 2 for p, q in zip(x, y)) / sum(p * p for p in x))
        out[f"layers[{l}].cosine"] = sum(map(cosine, table(x, HIDDEN), table(y, HIDDEN))) / (len(x) // HIDDEN)
    for l in range(LAYERS):
        x, y = table(a[f"router.{l}"], EXPERTS), table(b[f"router.{l}"], EXPERTS)
        tops = [(best_two(p), best_two(q)) for p, q in zip(x, y)]
        out[f"routing[{l}].set_agreement"] = sum(set(p) == set(q) for p, q in tops) / len(x)
        out[f"routing[{l}].top1_agreement"] = sum(p[0] == q[0] for p, q in tops) / len(x)
        out[f"routing[{l}].order_agreement"] = sum(p == q for p, q in tops) / len(x)
        for k, (low, high) in enumerate(zip(MARGINS, MARGINS[1:])):
            inside = [set(p) != set(q) for (p, q), row in zip(tops, x) if low <= row[p[1]] - sorted(row)[-3] < high]
            out[f"routing[{l}].flips[{k}].tokens"], out[f"routing[{l}].flips[{k}].flips"] = len(inside), sum(inside)
        out[f"routing[{l}].weight_kl"] = sum(softmax_kl(log_softmax(p), log_softmax(q)) for p, q in zip(x, y)) / len(x)
        for e in range(EXPERTS):
            out[f"routing[{l}].load_reference[{e}]"] = sum(e in p for p, _ in tops) / (2 * len(x))
            out[f"routing[{l}].load_candidate[{e}]"] = sum(e in q for _, q in tops) / (2 * len(x))
    return out


def cosine(x, y):
    return sum(p * q for p, q in zip(x, y)) / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y))


def follow(value, path):
    for part in re.findall(r"[a-z0-9_]+|\[\d+\]", path):
        value = value[int(part[1:-1])] if part[0] == "[" else value[part]
    return value


captures = {name: capture(path, name) for name, path in (("ref", REF), ("q8", Q8), ("q4", Q4))}
both = result(REF, Q8, Q4, "--tokens", ROWS)
same(both["schema"], 1, "schema")
same(both["text_sha256"], common.sha256(ROWS), "hash of the token file")
same(both["tokens"], 3 * 23, "scored positions")
same([c["path"] for c in both["candidates"]], [str(Q8), str(Q4)], "paths")
for c, name in zip(both["candidates"], ("q8", "q4")):
    for path, want in figures(captures["ref"], captures[name]).items():
        # f32 exponentials on one side, doubles on the other; differences of nearly equal numbers keep fewer digits
        tolerance = 2e-3 if path.startswith(("kl", "worst", "ppl.ln", "ppl.d", "ppl.ratio_", "delta_p", "routing")) else 1e-6
        near(follow(c, path), want, tolerance, f"{name}: {path}")
    same(sum(c["kl"]["histogram"]["counts"]), both["tokens"], "positions of the histogram")
    same(sum(k["tokens"] for k in c["classes"]), both["tokens"], "positions of the classes")
    near(sum(k["tokens"] * k["kl"] for k in c["classes"]), c["kl"]["mean"] * both["tokens"], 1e-9, "divergence of the classes")
    worst = [w["kl"] for w in c["worst"]]
    same((len(worst), worst), (20, sorted(worst, reverse=True)), "the worst positions")
    at = [list(map(int, line.split())) for line in ROWS.read_text().splitlines()]
    for w in c["worst"]:
        same(at[w["window"]][w["position"] + 1], w["token"], "token of a worst position")
        check(w["context"].endswith(run("tokenize", REF, "--decode", at[w["window"]][w["position"]]).out.strip()), f"context: {w}")
    same(c["bytes"], sum(len(t.data) for t in common.read_gguf(Q8 if name == "q8" else Q4)[1].values()), "bytes of all tensors")
    check(c["pareto"], "both are on the front")
check(both["candidates"][0]["kl"]["mean"] < both["candidates"][1]["kl"]["mean"] / 5, "8 bits are not closer than 4")
third = result(REF, Q8, Q8, REF, "--tokens", ROWS)["candidates"]
same([c["pareto"] for c in third], [True, False, True], "an equal candidate adds nothing to the front")
lines = [l for l in verify(REF, Q8, Q4, "--tokens", ROWS, "-q").out.splitlines() if l.endswith(".gguf")][:2]
check(lines[0].startswith("* ") and lines[0].endswith(Q4.name) and lines[1].endswith(Q8.name), f"table: {lines}")

# Kinds of tokens, by their text.
kinds = {k["class"]: k["tokens"] for k in result(REF, REF, "--text", SAMPLES / "text/prose.txt", "--ctx", 64)["candidates"][0]["classes"]}
check({"word", "piece", "punctuation"} <= set(kinds) and kinds["word"] > 50, f"kinds of tokens: {kinds}")
(WORK / "kinds.txt").write_text("1 " + " ".join(str(run("tokenize", REF, "--text", s, "--no-special", "--json").json()["ids"][-1])
                                                for s in ("7", ".", "\n", "at a")) + " 2\n")
kinds = {k["class"]: k["tokens"] for k in result(REF, REF, "--tokens", WORK / "kinds.txt")["candidates"][0]["classes"]}
same(kinds, {"number": 1, "punctuation": 1, "space": 1, "word": 1, "special": 1}, "kinds of single tokens")

# ---- keys that scripts rely on; a model without experts has no routing ----
whole = result(REF, Q4, "--weights")
KEYS = {"": {"schema", "text_sha256", "tokens", "candidates"},
        "candidates[0]": {"path", "ppl", "kl", "top1_agreement", "delta_p", "logits", "layers", "routing", "tensors", "verdict",
                          "failed"},
        "candidates[0].ppl": {"reference", "candidate"},
        "candidates[0].kl": {"mean", "stderr", "median", "p99", "p999", "max"},
        "candidates[0].delta_p": {"mean", "rms"}, "candidates[0].logits": {"max_abs", "rms", "cosine"},
        "candidates[0].layers[3]": {"layer", "cosine", "relative_l2"},
        "candidates[0].routing[3]": {"layer", "set_agreement", "top1_agreement", "weight_kl", "load_reference", "load_candidate"},
        "candidates[0].tensors[0]": {"name", "type", "bpw", "rmse", "snr_db", "max_abs"}}
for path, keys in KEYS.items():
    check(keys <= set(follow(whole, path)), f"keys of '{path}': {sorted(follow(whole, path))}")
same(whole["text"], "built-in text", "name of the built-in text")
same(whole["tokens"], 510, "positions of the built-in text")
source = (pathlib.Path(__file__).parents[2] / "verify/builtin_text.c").read_text()
lines = re.findall(r'^    "(.*)"[;]?$', source, re.M)
(WORK / "builtin.txt").write_bytes("".join(lines).encode().decode("unicode_escape").encode())
given = result(REF, Q4, "--text", WORK / "builtin.txt")
same(given["text_sha256"], whole["text_sha256"], "hash of the built-in text")
same(given["candidates"][0]["kl"], whole["candidates"][0]["kl"], "the built-in text given as a file")
n = len(run("tokenize", REF, "--file", WORK / "builtin.txt", "--json").json()["ids"])
same(result(REF, Q4, "--ctx", 4096)["tokens"], n - 1 - n // 2, "a built-in text shorter than the window")
same(len(whole["candidates"][0]["tensors"]), 79, "weights compared")
check(both["candidates"][0]["tensors"] == [], "weights without --weights")

# One weight again: rmse, snr, largest difference, and where the worst block is.
w = next(t for t in whole["candidates"][0]["tensors"] if t["name"] == "blk.2.attn_v.weight")
x = common.read_safetensors(REF / "model.safetensors")[1]["model.layers.2.self_attn.v_proj.weight"].floats()
y = []
for d, qs in ((struct.unpack("<e", raw[:2])[0], raw[2:]) for raw in table(common.read_gguf(Q4)[1]["blk.2.attn_v.weight"].data, 18)):
    y += [d * ((q & 15) - 8) for q in qs] + [d * ((q >> 4) - 8) for q in qs]
d2 = [(p - q) ** 2 for p, q in zip(x, y)]
rms = math.sqrt(sum(v * v for v in x) / len(x))
near(w["rmse"], math.sqrt(sum(d2) / len(d2)), 1e-9, "rmse")
near(w["max_abs"], math.sqrt(max(d2)), 1e-9, "max_abs")
near(w["snr_db"], 20 * math.log10(rms / w["rmse"]), 1e-9, "snr_db")
worst = max((math.sqrt(sum(d2[i:i + 32]) / 32) / max(math.sqrt(sum(v * v for v in x[i:i + 32]) / 32), 0.1 * rms), i)
            for i in range(0, len(x), 32))
near(w["worst_block"], worst[0], 1e-9, "worst block")
same((w["worst_row"], w["worst_column"]), divmod(worst[1], HIDDEN), "its place")
same((w["type"], w["bpw"], w["damaged"]), ("Q4_0", 4.5, False), "type")

# ---- the same text for every thread count and instruction set ----
args = (REF, Q4, "--tokens", ROWS, "--weights", "--json", "-q")
one = verify(*args, "-t", 1).out
for options, env in ((["-t", 3], {}), (["-t", 2], {"MOEGRAFT_ISA": "scalar"}), (["--memory", "1"], {})):
    same(verify(*args, *options, env=env).out, one, f"result with {options} {env}")

# ---- thresholds ----
c = both["candidates"][1]
mean = c["kl"]["mean"]
for code, failed, rules in ((0, [], [f"kl.mean>{mean * 1.01}"]), (1, [f"kl.mean>{mean * 0.99}"], [f"kl.mean>{mean * 0.99}"]),
                            (1, ["top1_agreement<=1", "layers[3].cosine < 1"], ["top1_agreement<=1", "kl.p99<0", "layers[3].cosine < 1"])):
    rules = [part for rule in rules for part in ("--fail-on", rule)]
    r = verify(REF, Q4, "--tokens", ROWS, "--json", "-q", *rules, expect=code).json()["candidates"][0]
    same((r["verdict"], r["failed"]), ("fail" if code else "pass", failed), f"verdict of {rules}")
    if code == 1 and len(failed) == 1:
        continue
    text = verify(REF, Q4, "--tokens", ROWS, "-q", *rules, expect=code).out.splitlines()
    check(text[-1].split()[:2] == ["verdict", "fail" if code else "pass"], f"last line: {text[-1]}")
    check(all(f"[{f}]" in text[-1] for f in failed), f"last line: {text[-1]}")
two = verify(REF, Q8, Q4, "--tokens", ROWS, "--json", "-q", "--fail-on", f"kl.mean>{mean * 0.5}", expect=1).json()
same([c["verdict"] for c in two["candidates"]], ["pass", "fail"], "verdicts of two")
for rule in ("kl.meen>0", "layers[0].cosin<1", "kl>0", "kl.mean=0", "kl.mean>x", "tensors[0].rmse>0", "layers[4].cosine<1"):
    r = verify(REF, Q4, "--tokens", ROWS, "--fail-on", rule, expect=2)
    check(rule in r.err and r.out == "", f"{rule}: {r.err}")

# ---- equal models: exactly nothing ----
for path in (REF, WORK / "again"):
    if path != REF:
        shutil.copytree(REF, path)
    c = result(REF, path, "--weights", "--tokens", ROWS)["candidates"][0]
    same((c["kl"]["mean"], c["kl"]["max"], c["logits"]["max_abs"], c["top1_agreement"], c["delta_p"]["rms"]), (0, 0, 0, 1, 0), "no drift")
    same({l["relative_l2"] for l in c["layers"]} | {r["weight_kl"] for r in c["routing"]} | {t["rmse"] for t in c["tensors"]}, {0}, "no error")
    same((c["verdict"], c["damaged_tensors"]), ("pass", 0), "verdict")
run("convert", REF, WORK / "bf16.gguf", "--outtype", "bf16", "-q")
c = result(REF, WORK / "bf16.gguf", "--weights", "--tokens", ROWS)["candidates"][0]
same((c["kl"]["max"], c["damaged_tensors"], c["verdict"]), (0, 0, "pass"), "another layout, the same numbers")

# ---- a recipe is a model ----
recipe = DATA / "golden/merge/moe4_cheap_embed.yml"
run("merge", recipe, WORK / "merged", "-q")
for pair in ((recipe, WORK / "merged"), (WORK / "merged", recipe)):
    c = result(*pair, "--tokens", ROWS, "--weights")["candidates"][0]
    same((c["kl"]["max"], c["damaged_tensors"], c["verdict"]), (0, 0, "pass"), f"{pair[0].name} and {pair[1].name}")


# ---- a mixture and the dense model it was made of: attention, norms and edges are compared, blocks that have no counterpart are said to be left out ----
DENSE = DATA / "models/donors/base"
for pair in ((DENSE, REF), (REF, DENSE)):
    r = verify(*pair, "--tokens", FEW, "--weights", "--json", "-q", "--html", WORK / "apart.html", "--force").json()["candidates"][0]
    apart = [t for t in r["tensors"] if t["apart"]]
    same((r["verdict"], r["damaged_tensors"], r["tensors_apart"]), ("pass", 0, len(apart)), "a mixture and its base")
    check(apart and all(".mlp." in t["name"] or ".block_sparse_moe." in t["name"] for t in apart), "feed-forward blocks alone are left out")
    check(all(t["error"] == 0 for t in r["tensors"] if not t["apart"]) and len(r["tensors"]) - len(apart) == 3 + 6 * LAYERS, "the rest is the base's")
    line = f"{len(apart)} weights of feed-forward blocks are not compared"
    check(line in verify(*pair, "--tokens", FEW, "--weights", "-q").out and line in (WORK / "apart.html").read_text(), "said")


for e, donor in list(enumerate(moe4.DONORS))[1:3]:  # a donor's blocks are its expert's; its attention is its own, as the mixture has the base's
    path = DATA / f"models/donors/{donor}"
    for pair in ((path, REF), (Q8, path)):
        r = verify(*pair, "--tokens", FEW, "--weights", "--json", "-q", expect=1).json()["candidates"][0]
        same((r["compared_expert"], r["tensors_apart"]), (e, LAYERS * (3 * 3 + 1)), f"{donor}: its expert")
        blocks = [t for t in r["tensors"] if not t["apart"] and any(x in t["name"] for x in (".mlp.", "experts", "_exps", "ffn_gate", "ffn_up", "ffn_down"))]
        same((len(blocks), [t["name"] for t in blocks if t["damaged"] or pair[0] == path and t["error"]]), (3 * LAYERS, []), f"{donor}: its blocks")
        check(any(t["damaged"] and "attn" in t["name"].replace("self_", "") for t in r["tensors"]), f"{donor}: its attention")
check("blocks are compared with expert 2 of the mixture, which is nearest" in verify(DATA / "models/donors/math", REF, "--tokens", FEW, "--weights", "-q", expect=1).out, "said")


# ---- damage: found, named first, exit 1 ----
def damaged(path, names, reference=REF):
    r = verify(reference, path, "--tokens", FEW, "--weights", "--json", "-q", expect=1).json()["candidates"][0]
    check(r["verdict"] == "fail" and r["failed"] == ["weights"], f"{path.name}: {r['verdict']} {r['failed']}")
    bad = [t["name"] for t in r["tensors"] if t["damaged"]]
    same(sorted(bad), sorted(names), f"{path.name}: damaged")
    same(sorted(t["name"] for t in r["tensors"][:len(names)]), sorted(names), f"{path.name}: named first")
    return r["tensors"]


def patched(name, source, tensor, change):
    """A copy of a GGUF with the bytes of one tensor changed."""
    raw, old = bytearray(source.read_bytes()), common.read_gguf(source)[1][tensor].data
    at = raw.index(old)
    same(raw.count(old), 1, f"places of {tensor}")
    new = bytearray(old)
    change(new)
    raw[at:at + len(old)] = new
    (WORK / name).write_bytes(raw)
    return WORK / name


# Two experts swapped, in a directory and through a quantization of it.
tensors = common.read_safetensors(REF / "model.safetensors")[1]
names = [f"model.layers.1.block_sparse_moe.experts.{e}.w{w}.weight" for e in (0, 2) for w in (1, 2, 3)]
swapped = dict(tensors)
for i in range(3):
    swapped[names[i]], swapped[names[i + 3]] = tensors[names[i + 3]], tensors[names[i]]
(WORK / "swapped").mkdir()
for f in REF.iterdir():
    if f.name != "model.safetensors":
        shutil.copy(f, WORK / "swapped" / f.name)
common.write_safetensors(WORK / "swapped/model.safetensors", swapped, {"format": "pt"})
first_named = damaged(WORK / "swapped", names)[0]["name"]
text = verify(REF, WORK / "swapped", "--tokens", ROWS, "--weights", "-q", expect=1).out
check(re.search(rf"damaged\n +{re.escape(first_named)} .*DAMAGED", text), f"plain text: {text}")
stacked = [f"blk.1.ffn_{part}_exps.weight[{e}]" for e in (0, 2) for part in ("gate", "down", "up")]
for kind in ("Q8_0", "Q4_K_M"):
    run("quantize", WORK / "swapped", WORK / f"swapped-{kind}.gguf", kind, "-q")
    damaged(WORK / f"swapped-{kind}.gguf", stacked)


# Rows of q and k as Hugging Face orders them (halves), where GGUF has pairs.
def unpermute(data, heads):
    n = len(data) // (heads * 64)
    rows = table(bytes(data), n)
    for h in range(heads):
        for i in range(64):  # pair order (i / 2, half i % 2) -> half i % 2, place i / 2
            at = (h * 64 + i % 2 * 32 + i // 2) * n
            data[at:at + n] = rows[h * 64 + i]


for source in (Q8, Q4):
    for tensor, heads in (("blk.3.attn_q.weight", 4), ("blk.0.attn_k.weight", 2)):
        damaged(patched("unpermuted.gguf", source, tensor, lambda d: unpermute(d, heads)), [tensor])


# One scale doubled (the exponent of its f16 one higher), in the middle of a tensor.
def double(data, block, size):
    scale, = struct.unpack_from("<H", data, block * size)
    struct.pack_into("<H", data, block * size, scale + 0x400)


for source, size in ((Q8, 34), (Q4, 18)):
    t = damaged(patched("doubled.gguf", source, "blk.2.attn_v.weight", lambda d: double(d, 100 * 8 + 3, size)), ["blk.2.attn_v.weight"])[0]
    same((t["worst_row"], t["worst_column"]), (100, 96), "place of the doubled block")
    check(0.8 < t["worst_block"] < 1.2, f"a doubled block is off by {t['worst_block']}")


# One high bit: of a weight's code, of a weight.
def flip(data, at, bit):
    data[at] ^= 1 << bit


t = damaged(patched("flipped.gguf", Q8, "token_embd.weight", lambda d: flip(d, 500 * 8 * 34 + 34 + 2 + 17, 7)), ["token_embd.weight"])[0]
same((t["worst_row"], t["worst_column"]), (500, 32), "place of the flipped bit")
flipped = dict(tensors)
raw = bytearray(tensors["lm_head.weight"].data)
flip(raw, 2 * (700 * HIDDEN + 70) + 1, 6)
flipped["lm_head.weight"] = common.Tensor("BF16", [V, HIDDEN], raw)
shutil.copytree(REF, WORK / "flipped")
common.write_safetensors(WORK / "flipped/model.safetensors", flipped, {"format": "pt"})
t = damaged(WORK / "flipped", ["lm_head.weight"])[0]
same((t["worst_row"], t["worst_column"]), (700, 64), "place of the flipped bit")
# A copy of a file must hold the same: the lowest bit of one weight is enough.
damaged(patched("low.gguf", Q4, "output.weight", lambda d: flip(d, 18 * 77 + 9, 0)), ["output.weight"], reference=Q4)


# Types that round in one way are held to the very values: the lowest bit of one weight is enough, in any of them and in a tensor of
# a megabyte, and its place is said. A detour through F16 is no change.
for kind in ("F32", "F16"):
    run("convert", REF, WORK / f"wide-{kind}.gguf", "--outtype", kind.lower(), "-q")
run("convert", WORK / "wide-F16.gguf", WORK / "wide-F16F32.gguf", "--outtype", "f32", "-q")
run("quantize", WORK / "wide-F16.gguf", WORK / "wide-F16Q8_0.gguf", "Q8_0", "-q")
for name in ("F32", "F16", "F16F32", "F16Q8_0"):
    c = result(REF, WORK / f"wide-{name}.gguf", "--weights", "--tokens", FEW)["candidates"][0]
    same((c["verdict"], {t["changed"] for t in c["tensors"]}), ("pass", {0}), f"{name}: nothing changed")
for source, tensor, row_bytes, at, place in ((WORK / "wide-F32.gguf", "output.weight", 1024, 4 * 70, (700, 70)),
                                             (WORK / "wide-F16.gguf", "blk.2.attn_output.weight", 512, 2 * 9, (77, 9)),
                                             (WORK / "wide-F32.gguf", "blk.1.attn_norm.weight", 0, 4 * 33, (0, 33)),
                                             (Q8, "token_embd.weight", 272, 34 * 2 + 2 + 5, (500, 64))):
    r = damaged(patched("low.gguf", source, tensor, lambda d: flip(d, place[0] * row_bytes + at, 0)), [tensor])[0]
    same((r["changed"], r["changed_row"], r["changed_column"]), (1, *place), f"lowest bit in {tensor} of {source.name}")
check("1 of 8192 blocks are not what storing the reference gives, the first at row 500, column 64" in
      verify(REF, WORK / "low.gguf", "--tokens", FEW, "--weights", "-q", expect=1).out, "plain text")

# An offset of norms forgotten: the file holds w where it should hold 1 + w.
gemma = DATA / "models/tiny/gemma2"
run("convert", gemma, WORK / "gemma.gguf", "--outtype", "f32", "-q")


def minus_one(data):
    n = len(data) // 4
    data[:] = struct.pack(f"<{n}f", *(v - 1 for v in struct.unpack(f"<{n}f", data)))


same(result(gemma, WORK / "gemma.gguf", "--weights", "--tokens", FEW)["candidates"][0]["verdict"], "pass", "norms with their offset")
damaged(patched("offset.gguf", WORK / "gemma.gguf", "blk.1.ffn_norm.weight", minus_one), ["blk.1.ffn_norm.weight"], reference=gemma)


# Scales moved from a norm into what reads it, as AWQ does: the same model; with the router left out it is not.
def folded(name, router):
    factor = [2.0 ** (i % 3 - 1) for i in range(HIDDEN)]  # powers of two: exact in bfloat16
    changed = dict(tensors)
    readers = [f"model.layers.2.block_sparse_moe.experts.{e}.w{w}.weight" for e in range(4) for w in (1, 3)]
    readers += ["model.layers.2.block_sparse_moe.gate.weight"] if router else []
    for key, power in [("model.layers.2.post_attention_layernorm.weight", -1)] + [(r, 1) for r in readers]:
        v = tensors[key].floats()
        words = struct.unpack(f"<{len(v)}I", struct.pack(f"<{len(v)}f", *(x * factor[i % HIDDEN] ** power for i, x in enumerate(v))))
        changed[key] = common.Tensor("BF16", tensors[key].shape, struct.pack(f"<{len(v)}H", *(w >> 16 for w in words)))
    shutil.copytree(REF, WORK / name)
    common.write_safetensors(WORK / name / "model.safetensors", changed, {"format": "pt"})
    return WORK / name


c = result(REF, folded("folded", True), "--weights", "--tokens", ROWS)["candidates"][0]
check(c["verdict"] == "pass" and c["kl"]["max"] < 1e-6, f"a folded model: {c['failed']} {c['kl']}")
same([t["name"] for t in c["tensors"] if t["refolded"]], ["model.layers.2.post_attention_layernorm.weight"], "the norm that was divided")
damaged(folded("unscaled", False), ["model.layers.2.block_sparse_moe.gate.weight"])

# The tokenizer of another model, of the same size: two tokens have changed places.
shutil.copytree(REF, WORK / "foreign")
vocabulary = json.loads((REF / "tokenizer.json").read_text())
vocab = vocabulary["model"]["vocab"]
a, b = [k for k, v in vocab.items() if v in (500, 700)]
vocab[a], vocab[b] = vocab[b], vocab[a]
(WORK / "foreign/tokenizer.json").write_text(json.dumps(vocabulary))
for path in (WORK / "foreign",):
    r = verify(REF, path, "--tokens", FEW, "--weights", "--json", "-q", expect=1).json()["candidates"][0]
    same((r["failed"], r["damaged_tensors"]), (["tokenizer"], 0), "a foreign tokenizer")
    same((r["tokenizer"]["different_tokens"], r["tokenizer"]["first"]), (2, 500), "tokens that mean something else")
check("2 tokens mean something else, first id 500" in verify(REF, WORK / "foreign", "--tokens", FEW, "--weights", "-q", expect=1).out, "text")


# ---- refusals ----
tiny = DATA / "models/tiny/llama"
for code, words, args in ((8, "vocabularies differ", (REF, tiny, "--tokens", ROWS)), (2, "at least one candidate", (REF,)),
                          (5, "absent", (REF, WORK / "absent")), (5, "none.txt", (REF, Q4, "--text", WORK / "none.txt")),
                          (4, "tokenizer", (tiny, tiny)), (5, "gone.json", (REF, Q4, "--baseline", WORK / "gone.json")),
                          (4, "name tells no model kind", (REF, ROWS))):
    r = verify(*args, expect=code)
    check(words in r.err, f"{args}: {r.err}")


# ---- the page: numbers of the JSON, well-formed, alone ----
report, short = WORK / "report.html", WORK / "short.txt"
short.write_text(PLAIN[:500])
data = result(REF, Q8, Q4, "--weights", "--html", report, "--ctx", 64, "--text", short)
text = report.read_text()
page = Page(text)
alone(text, page)
for c in data["candidates"]:
    for path, digits in {"kl.mean": 4, "kl.stderr": 2, "kl.p99": 4, "kl.max": 4, "top1_agreement": 5, "delta_p.rms": 7,
                         "ppl.candidate": 6, "ppl.ratio": 6}.items():
        check(f"{follow(c, path):.{digits}g}" in page.cells, f"the page lacks {path} {follow(c, path)}")
    for r in c["routing"]:
        check(f"{r['set_agreement']:.5g}" in page.cells, "the page lacks a routing figure")
    for t in c["tensors"][:5]:
        check(f"{t['worst_block']:.4g}" in page.cells and t["name"] in page.cells, f"the page lacks {t['name']}")
    check(text.count("<svg") >= 2 * (2 + LAYERS), "plots are missing")
text_of_page = text
c4 = both["candidates"][1]
verify(REF, Q4, "--tokens", ROWS, "--html", report, expect=2)
verify(REF, Q4, "--tokens", FEW, "--html", report, "--force", "-q")
check(report.read_text() != text, "--force replaced nothing")
odd = WORK / "a<b>&\"c.gguf"
shutil.copy(Q4, odd)
verify(REF, odd, "--tokens", FEW, "--html", report, "--force", "-q")
check("a&lt;b&gt;&amp;&quot;c.gguf" in report.read_text(), "a name is not escaped")
Page(report.read_text())

for name, text in (("histogram", "Positions by KL"), ("kinds", "By kind of token"), ("worst", "Where they differ most"),
                   ("flips", "Changed choices of experts"), ("error against bits", "Error of every weight against its bits")):
    check(text in text_of_page, f"the page lacks {name}")
check(data["candidates"][1]["worst"][0]["context"].strip()[:8] in html.unescape(text_of_page), "context of the worst token")

# ---- JUnit, Markdown, and an earlier result as the limit ----
junit, table_file = WORK / "junit.xml", WORK / "table.md"
verify(REF, Q8, Q4, "--tokens", ROWS, "--weights", "--junit", junit, "--markdown", table_file, "-q", "--fail-on", f"kl.mean>{mean * 0.5}", expect=1)
suite = xml.etree.ElementTree.parse(junit).getroot().find("testsuite")
cases = [(t.get("classname"), t.get("name"), t.find("failure") is not None) for t in suite.findall("testcase")]
rule = f"kl.mean>{mean * 0.5}"
same(cases, [(str(Q8), "compared", False), (str(Q8), rule, False), (str(Q8), "weights", False), (str(Q8), "tokenizer", False),
             (str(Q4), "compared", False), (str(Q4), rule, True), (str(Q4), "weights", False), (str(Q4), "tokenizer", False)], "cases")
same((suite.get("tests"), suite.get("failures")), ("8", "1"), "counts")
verify(REF, WORK / "doubled.gguf", "--tokens", FEW, "--weights", "--junit", junit, "--force", "-q", expect=1)
check("weights: blk.2.attn_v.weight" in xml.etree.ElementTree.parse(junit).getroot().find(".//failure").get("message"), "the damaged weight")
rows = [line.split(" | ") for line in table_file.read_text().splitlines()]
check(rows[2][0] == f"| {Q8.name}" and rows[3][0] == f"| {Q4.name}", f"table: {rows}")
same((rows[3][3], rows[3][6], rows[3][9]), (f"{mean:.4g}", f"{c4['ppl']['candidate']:.6g}", "fail |"), "figures of the table")
verify(REF, Q4, "--tokens", ROWS, "--junit", junit, expect=2)
verify(REF, Q4, "--tokens", ROWS, "--markdown", table_file, expect=2)
old = WORK / "old.json"
old.write_text(json.dumps(both))
verify(REF, Q8, Q4, "--tokens", ROWS, "-q", "--baseline", old)
(WORK / "new").mkdir()
shutil.copy(Q4, WORK / "new" / Q8.name)  # the release of this name has got worse
r = verify(REF, WORK / "new" / Q8.name, "--tokens", ROWS, "-q", "--json", "--baseline", old, expect=1).json()["candidates"][0]
same((r["failed"], r["worse_than_baseline"]), (["baseline"], "kl.mean"), "worse than before")
shutil.copy(Q8, WORK / "new" / Q4.name)
verify(REF, WORK / "new" / Q4.name, "--tokens", ROWS, "-q", "--baseline", old)
check("another text" in verify(REF, Q8, "--tokens", FEW, "--baseline", old, expect=2).err, "another text")
check("no candidate" in verify(REF, REF, "--tokens", ROWS, "--baseline", old, expect=2).err, "another candidate")
old.write_text("{}")
verify(REF, Q8, "--tokens", ROWS, "--baseline", old, expect=3)

# ---- against llama.cpp's figures, when the shared data is at hand ----
shared = os.environ.get("MOEGRAFT_SHARED")
if not shared:
    print("skipped: comparison with llama-perplexity (MOEGRAFT_SHARED is not set)")
else:
    shared = pathlib.Path(shared)
    golden = json.loads((DATA / "golden/verify/kld.json").read_text())
    kinds = [k for k, v in golden["types"].items() if "dequantized" in v]
    for options, suffix in (([], ""), (["--imatrix", shared / "golden/gguf/imatrix.gguf"], "+imatrix")):
        names = [k.removesuffix("+imatrix") for k in kinds if k.endswith("+imatrix") == bool(suffix)]
        run("quantize", REF, *(o for k in names for o in ("-o", f"{WORK}/s-{k}{suffix}.gguf={k}")), *options, "-q")
    r = result(REF, *(WORK / f"s-{k}.gguf" for k in kinds), "--text", shared / "models/text/eval.txt")
    for kind, c in zip(kinds, r["candidates"]):
        want = golden["types"][kind]["dequantized"]
        kld = want["Mean    KLD"]
        check(abs(c["kl"]["mean"] - kld) <= max(0.01 * kld, 1e-6), f"{kind}: mean KLD {c['kl']['mean']}, expected {kld}")
        check(abs(100 * c["top1_agreement"] - want["Same top p"]) <= 0.05, f"{kind}: same top {100 * c['top1_agreement']}")
        near(c["ppl"]["candidate"], want["Mean PPL(Q)"], 1e-4, f"{kind}: perplexity")
        near(c["ppl"]["reference"], golden["base_exact"][0], 1e-4, f"{kind}: perplexity of the reference")
common.done()
