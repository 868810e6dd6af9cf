"""A copy of a donor whose embedding and head are padded with rows that no token has, beside models without them: verify, --peer,
perplexity and --weights give the very figures of the copy without padding, from HF, GGUF, recordings; refusals."""
import json
import math
import shutil
import struct
import common
from common import DATA, SAMPLES, WORK, Tensor, check, refused, run, same

PROSE, CODE = (SAMPLES / f"donors/{d}" for d in ("prose", "code"))
V, WIDE, N, CTX = 1024, 1088, 10, 32
EDGES = ("model.embed_tokens.weight", "lm_head.weight")


def resized(source, name, rows, change=lambda tensors: None):
    """A copy whose vocabulary has so many rows; those that are new are copies of some that tokens have, so that they take part in a softmax."""
    shutil.copytree(source, WORK / name)
    metadata, tensors = common.read_safetensors(source / "model.safetensors")
    for edge in EDGES:
        t = tensors.get(edge)
        if t is None:  # tied
            continue
        width = t.shape[1] * common.ST_SIZES[t.dtype]
        tensors[edge] = Tensor(t.dtype, [rows, t.shape[1]], (t.data + t.data[-100 * width:])[:rows * width])
    change(tensors)
    common.write_safetensors(WORK / name / "model.safetensors", tensors, metadata)
    config = json.loads((source / "config.json").read_text())
    (WORK / name / "config.json").write_text(json.dumps({**config, "vocab_size": rows}))
    return WORK / name


def put(edge, row, value):
    def change(tensors):
        t = tensors[edge]
        data = bytearray(t.data)
        data[2 * row * t.shape[1]:2 * row * t.shape[1] + 2] = struct.pack("<f", value)[2:]
        tensors[edge] = Tensor(t.dtype, t.shape, data)
    return change


wide = resized(PROSE, "wide", WIDE)
gguf = WORK / "wide.gguf"
run("convert", wide, gguf, "--outtype", "bf16", "-q")
text = WORK / "text.txt"
text.write_text((SAMPLES / "text/prose.txt").read_text()[:700])
TEXT = ("--text", text, "--ctx", CTX)
ids = run("tokenize", PROSE, "--file", text, "--json").json()["ids"]
WINDOWS = [[1] + ids[1 + i * (N - 1):1 + (i + 1) * (N - 1)] for i in range(2)]
ROWS = WORK / "rows.txt"
ROWS.write_text("\n".join(" ".join(map(str, w)) for w in WINDOWS) + "\n")
FIGURES = ("kl", "ppl", "top1_agreement", "top5_agreement", "delta_p", "logits", "classes", "worst", "layers")


def verify(*args, expect=0, **kw):
    return run("verify", *args, "--json", "-q", expect=expect, **kw).json()["candidates"]


def figures(c):
    return {k: c[k] for k in FIGURES}


def vocabulary(compared, reference, candidate, cut=0):
    return {"compared": compared, "reference": reference, "candidate": candidate, "positions_cut": cut}


# ---- verify: what the copy without padding gives, to the last bit ----
(narrow,), (back,), (own,) = verify(CODE, PROSE, *TEXT), verify(PROSE, CODE, *TEXT), verify(wide, gguf, *TEXT)
for padded in (wide, gguf):
    c, = verify(CODE, padded, *TEXT)
    same(figures(c), figures(narrow), f"{padded.name} as candidate")
    same(c["vocabulary"], vocabulary(V, V, WIDE), "which ids")
    c, = verify(padded, CODE, *TEXT)
    same(figures(c), figures(back), f"{padded.name} as reference")
    same((c["vocabulary"], c["verdict"]), (vocabulary(V, WIDE, V), "pass"), "which ids")
several = verify(wide, CODE, gguf, *TEXT, "-t", 3, "--memory", "300KB", env={"MOEGRAFT_ISA": "scalar"})
same([figures(c) for c in several], [figures(back), figures(own)], "several, in little memory")
same([c["vocabulary"]["compared"] for c in several], [V, WIDE], "equal heights are compared over all of them")
alone = [run("perplexity", m, *TEXT, "--json").json()["results"][0] for m in (PROSE, wide)]
check(alone[1]["ppl"] > 1.005 * alone[0]["ppl"], f"the padding has no probability: {alone}")
same(alone[1]["vocabulary"], {"compared": WIDE, "model": WIDE}, "a perplexity alone is over the whole output")
same(own["ppl"]["reference"], alone[1]["ppl"], "and so is that of equal heights")
html, markdown = WORK / "r.html", WORK / "r.md"
NOTE = f"ids 0 to {V - 1} compared, the reference has {WIDE}, this one {V}"
for where in (run("verify", wide, CODE, *TEXT, "-q", "--html", html, "--markdown", markdown).out, html.read_text(), markdown.read_text()):
    same(where.count(NOTE), 1, f"{where}: the note")
check("ids 0 to" not in run("verify", wide, gguf, *TEXT, "-q").out, "nothing to say of equal heights")

# against figures computed here, from logits of both
def logits(model, name):
    run("forward", model, "--tokens", ROWS, "-o", WORK / f"{name}.safetensors", "--capture", "logits", "-q")
    return WORK / f"{name}.safetensors", common.read_safetensors(WORK / f"{name}.safetensors")[1]["logits"]


def log_softmax(t, i, p, n=None):
    v = t.shape[2]
    row = floats[id(t)][(i * N + p) * v:(i * N + p) * v + (n or v)]
    top = max(row)
    total = top + math.log(sum(math.exp(x - top) for x in row))
    return [x - total for x in row]


wide_file, P = logits(wide, "wide_logits")
code_file, Q = logits(CODE, "code_logits")
floats = {id(t): t.floats() for t in (P, Q)}
POSITIONS = [(i, p) for i in range(2) for p in range(N - 1)]
kl = [sum(math.exp(a) * (a - b) for a, b in zip(log_softmax(P, i, p, V), log_softmax(Q, i, p))) for i, p in POSITIONS]
live, = verify(wide, CODE, "--tokens", ROWS)
check(abs(live["kl"]["mean"] - sum(kl) / len(kl)) < 1e-6, f"{live['kl']['mean']}, expected {sum(kl) / len(kl)}")

# ---- recordings ----
for reference, candidate in ((wide_file, CODE), (wide, code_file), (wide_file, code_file)):
    c, = verify(reference, candidate, "--tokens", ROWS)
    same((c["kl"], c["ppl"], c["vocabulary"]), (live["kl"], live["ppl"], vocabulary(V, WIDE, V)), f"{reference.name} and {candidate.name}")
bases = {}
for name, model in (("narrow", PROSE), ("wide", wide)):
    bases[name] = WORK / f"{name}.kld"
    run("perplexity", model, *TEXT, "--kl-divergence-base", bases[name])


def against(model, base):
    return run("perplexity", model, "--kl-divergence-base", bases[base], "--kl-divergence", "--json").json()["results"][0]


plain, padded = against(PROSE, "narrow"), against(wide, "narrow")
same([padded[k] for k in ("ppl", "kl", "delta_p", "top1_agreement")], [plain[k] for k in ("ppl", "kl", "delta_p", "top1_agreement")], "a padded model and a base file")
same(padded["vocabulary"], {"compared": V, "model": WIDE, "base": V}, "of which ids")
a, b = against(CODE, "wide"), against(CODE, "narrow")
for key in ("base_ppl", "ppl", "ln_ratio_stderr"):
    check(abs(a[key] / b[key] - 1) < 1e-4, f"{key} of a padded base file: {a[key]}, {b[key]}")  # 16 bits
check(abs(a["kl"]["mean"] - b["kl"]["mean"]) < 1e-5, f"divergence from a padded base file: {a['kl']['mean']}, {b['kl']['mean']}")
check(f"ids 0 to {V - 1} compared, the base has {WIDE}, this one {V}" in run("perplexity", CODE, "--kl-divergence-base", bases["wide"], "--kl-divergence").out, "a line")
c, = verify(bases["wide"], CODE)
check(abs(c["kl"]["mean"] - a["kl"]["mean"]) < 1e-9 and c["kl"]["kind"] == "base_file", f"{c['kl']['mean']}, perplexity says {a['kl']['mean']}")
c, = verify(CODE, bases["wide"])
check(abs(c["ppl"]["candidate"] / b["base_ppl"] - 1) < 1e-4, "as candidate")


def listed(n, names):
    """A server's record of the whole distribution over n ids."""
    out = WORK / f"{names}.jsonl"
    rows = [[{str(t): x for t, x in enumerate(log_softmax(P, i, p, n))} for p in range(N - 1)] for i in range(2)]
    out.write_text("".join(json.dumps({"tokens": w, "token_logprobs": [None] + [row[str(t)] for row, t in zip(rows[i], w[1:])], "top_logprobs": [None] + rows[i]}) + "\n"
                           for i, w in enumerate(WINDOWS)))
    return out


all_of_it, without = listed(WIDE, "all"), listed(V, "without")
for args, other in (((all_of_it, CODE), (without, CODE)), ((CODE, all_of_it), (CODE, without))):
    (x,), (y,) = verify(*args, "--tokens", ROWS), verify(*other, "--tokens", ROWS)
    for path in (("kl", "mean"), ("kl", "max"), ("ppl", "reference"), ("ppl", "candidate"), ("delta_p", "rms")):
        check(abs(x[path[0]][path[1]] - y[path[0]][path[1]]) <= 1e-9 * abs(y[path[0]][path[1]]), f"{path} of listed padding: {x[path[0]]}")
    same((x["vocabulary"]["positions_cut"], y["vocabulary"]["positions_cut"]), (len(POSITIONS), 0), "how often something was left out")
check(f"{len(POSITIONS)} positions ids from 1024 on are listed and left out" in run("verify", CODE, all_of_it, "--tokens", ROWS, "-q").out, "a line")

# ---- siblings ----
peers = run("verify", "--peer", gguf, CODE, PROSE, *TEXT, "--json", "-q", "--html", WORK / "p.html", "--markdown", WORK / "p.md").json()
same((peers["vocabulary_compared"], [p["vocabulary"] for p in peers["peers"]]), (V, [WIDE, V, V]), "peers")
same((peers["pairs"][0]["kl_ab"]["mean"], peers["pairs"][0]["kl_ba"]["mean"], peers["pairs"][1]["kl_ab"]["max"]), (back["kl"]["mean"], narrow["kl"]["mean"], 0), "pairs")
same([p["ppl"] for p in peers["peers"]], [alone[0]["ppl"], back["ppl"]["candidate"], alone[0]["ppl"]], "perplexities")
for where in (run("verify", "--peer", gguf, CODE, *TEXT, "-q").out, (WORK / "p.html").read_text(), (WORK / "p.md").read_text()):
    check(f"ids 0 to {V - 1} compared, the models have {V} to {WIDE}" in where, f"{where}: the note")
out = run("perplexity", gguf, CODE, *TEXT).out
check(f"each over its own vocabulary, as llama-perplexity does: {WIDE}, {V} ids" in out, out)

# ---- weights: the rows that count, and no others ----
for reference, candidate, padding in ((PROSE, gguf, (0, 64)), (wide, PROSE, (64, 0))):
    c, = verify(reference, candidate, *TEXT, "--weights")
    same((c["verdict"], c["damaged_tensors"], len(c["tensors"])), ("pass", 0, 39), "sound")
    rows = [(t["compared_rows"], t["padding_reference"], t["padding_candidate"], t["error"]) for t in c["tensors"] if t["compared_rows"]]
    same(rows, [(V, *padding, 0)] * 2, "embedding and head")
check(run("verify", PROSE, wide, *TEXT, "--weights", "-q").out.count(f"rows 0 to {V - 1} compared, padding left out: 0 of the reference's, 64 of this one's") == 2, "named")
other = resized(PROSE, "other_padding", WIDE + 32, put(EDGES[1], V + 3, 7.0))
same(verify(wide, other, *TEXT, "--weights")[0]["verdict"], "pass", "padding of its own")
c, = verify(PROSE, resized(PROSE, "damaged", WIDE, put(EDGES[1], V - 1, 7.0)), *TEXT, "--weights", expect=1)
same((c["failed"], [(t["name"], t["worst_row"]) for t in c["tensors"] if t["damaged"]]), (["weights"], [(EDGES[1], V - 1)]), "a row that counts")
bias = common.read_safetensors(DATA / "models/tiny/phimoe/model.safetensors")[1].get("lm_head.bias")
check(bias is not None, "a head with a bias")


def longer(tensors):
    tensors["lm_head.bias"] = Tensor(bias.dtype, [bias.shape[0] + 16], bias.data + b"\x01\x40" * (16 * len(bias.data) // bias.shape[0] // 2))


phimoe, few = DATA / "models/tiny/phimoe", WORK / "few.txt"
few.write_text("1 5 9 13 2\n")
c, = verify(phimoe, resized(phimoe, "phimoe", bias.shape[0] + 16, longer), "--tokens", few, "--weights")
same((c["verdict"], sorted(t["name"] for t in c["tensors"] if t["compared_rows"]), c["kl"]["max"]), ("pass", ["lm_head.bias", "lm_head.weight", "model.embed_tokens.weight"], 0), "a bias")

# ---- refusals ----
def refuse(words, what, *args, code=8):
    refused(code, words, what, "verify", *args, "--html", WORK / "never")


refuse(["this output has 1000 rows", "1024 ids"], "tokens without rows", PROSE, resized(PROSE, "short", 1000), *TEXT)
tokenizer = json.loads((wide / "tokenizer.json").read_text())
vocab = tokenizer["model"]["vocab"]
one, two = (next(t for t, n in vocab.items() if n == i) for i in (700, 701))
for name in ("swapped", "swapped_narrow"):
    resized(PROSE, name, WIDE if name == "swapped" else V)
    vocab[one], vocab[two] = 701, 700
    (WORK / name / "tokenizer.json").write_text(json.dumps(tokenizer))
    vocab[one], vocab[two] = 700, 701
refuse(["2 tokens mean something else", "first id 700"], "another tokenizer", PROSE, WORK / "swapped", *TEXT)
refuse(["2 tokens mean something else"], "another tokenizer among peers", "--peer", PROSE, CODE, WORK / "swapped", *TEXT)
same(verify(PROSE, WORK / "swapped_narrow", *TEXT)[0]["tokenizer"]["first"], 700, "of equal height it is only said")
tiny = DATA / "models/tiny/llama"
one = resized(tiny, "one", 1)
few.write_text("0 0 0\n")
r = run("verify", one, one, "--tokens", few, "-q")
check("nan" not in r.out and "perplexity      1 (reference 1, ratio 1.000000 +/- 0.000000)" in r.out, f"a vocabulary of one: {r.out}")
few.write_text("1 5 9 13 2\n")
rows = json.loads((tiny / "config.json").read_text())["vocab_size"]
taller = resized(tiny, "taller", rows + 8)
same(verify(tiny, taller, "--tokens", few)[0]["vocabulary"], vocabulary(rows, rows, rows + 8), "no tokenizer on either side")
few.write_text(f"1 5 {rows + 1} 13 2\n")
refuse(["this output has", f"the text id {rows + 1}"], "an id that one of them lacks", taller, tiny, "--tokens", few)
raw = bytearray(bases["wide"].read_bytes())
head = 20 + 4 * struct.unpack_from("<i", raw, 8)[0] * struct.unpack_from("<i", raw, 16)[0]
struct.pack_into("<ff", raw, head, 16 / 65535, -16.0)
struct.pack_into(f"<{WIDE}H", raw, head + 8, *([0] * V + [65535] + [0] * (WIDE - V - 1)))
bases["beyond"] = WORK / "beyond.kld"
bases["beyond"].write_bytes(raw)
refuse(["no probability is left below token 1024"], "all probability on padding", bases["beyond"], CODE, code=3)
run("perplexity", CODE, "--kl-divergence-base", bases["beyond"], "--kl-divergence", expect=3)
common.done()
