"""Recordings as reference and candidate of moegraft-verify: base-logits files, safetensors of logits, JSON lines of the best
tokens in every documented form; figures and bounds computed here again; other tokens and malformed files refused."""
import json
import math
import struct
import common
from common import DATA, SAMPLES, WORK, check, refused, run, same

BASE, PROSE, CODE = (SAMPLES / f"donors/{d}" for d in ("base", "prose", "code"))
V, N, K, CTX = 1024, 24, 12, 32
text = WORK / "text.txt"
text.write_text((SAMPLES / "text/prose.txt").read_text()[:700])
ids = run("tokenize", BASE, "--file", text, "--json").json()["ids"]
WINDOWS = [[1] + ids[1 + i * (N - 1):1 + (i + 1) * (N - 1)] for i in range(3)]
ROWS = WORK / "rows.txt"
ROWS.write_text("\n".join(" ".join(map(str, w)) for w in WINDOWS) + "\n")


def result(*args, **kw):
    r = run("verify", *args, "--json", "-q", **kw).json()
    return r, r["candidates"][0]


def near(found, expected, tolerance, what):
    check(abs(found - expected) <= tolerance * max(abs(expected), 1e-30), f"{what}: {found}, expected {expected}")


def log_softmax(row):
    top = max(row)
    total = top + math.log(sum(math.exp(v - top) for v in row))
    return [v - total for v in row]


def forward(model, name):
    out = WORK / f"{name}.safetensors"
    run("forward", model, "--tokens", ROWS, "-o", out, "--capture", "logits", "-q")
    flat = common.read_safetensors(out)[1]["logits"].floats()
    return out, [[log_softmax(flat[(i * N + p) * V:(i * N + p + 1) * V]) for p in range(N)] for i in range(3)]


prose_logits, P = forward(PROSE, "prose")
code_logits, Q = forward(CODE, "code")
POSITIONS = [(i, p) for i in range(3) for p in range(N - 1)]
mean = sum(sum(math.exp(a) * (a - b) for a, b in zip(P[i][p], Q[i][p])) for i, p in POSITIONS) / len(POSITIONS)

# ---- safetensors of logits: the same bits as running the model, both ways round ----
live_all, live = result(PROSE, CODE, "--tokens", ROWS)
for reference, candidate in ((PROSE, code_logits), (prose_logits, CODE), (prose_logits, code_logits)):
    whole, c = result(reference, candidate, "--tokens", ROWS)
    for key in ("kl", "ppl", "top1_agreement", "top5_agreement", "delta_p", "logits"):
        same(c[key], live[key], f"{reference.name} and {candidate.name}: {key}")
    recorded = candidate == code_logits
    same((c["recorded"], whole["reference_recorded"]), ("logits" if recorded else None, "logits" if reference == prose_logits else None), "kinds")
    same((c["bytes"] is None, c["bpw"] is None), (recorded, recorded), "a recording has no size")
    same((len(c["layers"]), c["kl"]["kind"], c["kl"]["mean_upper"]), (0, "exact", c["kl"]["mean"]), "nothing inside")
own, c = result(prose_logits, CODE)
same((c["kl"], own["tokens"]), (live["kl"], live_all["tokens"]), "without --tokens what was recorded is compared")
for extra, env in ((["-t", 1], {"MOEGRAFT_ISA": "scalar"}), (["-t", 3, "--memory", "300KB"], {})):
    same(result(PROSE, code_logits, CODE, "--tokens", ROWS, *extra, env=env)[1]["kl"], live["kl"], f"{extra}")
several = run("verify", PROSE, CODE, code_logits, BASE, "--tokens", ROWS, "-q").out
check(several.count("verdict         pass") == 3, several)
wide = common.read_safetensors(code_logits)[1]
doubles = common.Tensor("F64", wide["logits"].shape, struct.pack(f"<{3 * N * V}d", *wide["logits"].floats()))
common.write_safetensors(WORK / "doubles.safetensors", {"logits": doubles, "input_ids": wide["input_ids"]})
same(result(PROSE, WORK / "doubles.safetensors", "--tokens", ROWS)[1]["kl"], live["kl"], "logits in float64")

# ---- a base-logits file, as llama-perplexity compares with it ----
base_file = WORK / "prose.kld"
run("perplexity", PROSE, "--text", text, "--ctx", CTX, "--kl-divergence-base", base_file)
theirs = run("perplexity", CODE, "--kl-divergence-base", base_file, "--kl-divergence", "--json").json()["results"][0]
exact_all, exact = result(PROSE, CODE, "--text", text, "--ctx", CTX)
for args in ((base_file, CODE), (base_file, CODE, "--text", text, "--ctx", CTX)):
    whole, c = result(*args)
    same((c["kl"]["kind"], whole["reference_recorded"], whole["tokens"]), ("base_file", "base_file", exact_all["tokens"]), "kind")
    near(c["kl"]["mean"], theirs["kl"]["mean"], 1e-9, "mean divergence as perplexity states it")
    near(c["kl"]["max"], theirs["kl"]["max"], 1e-9, "largest divergence")
    near(c["ppl"]["candidate"], theirs["ppl"], 1e-9, "perplexity")
    near(c["ppl"]["reference"], theirs["base_ppl"], 1e-9, "perplexity of the base")
    near(c["delta_p"]["rms"], theirs["delta_p"]["rms"], 1e-6, "delta p")
    same(c["top1_agreement"], theirs["top1_agreement"], "same top token")
    same((c["logits"]["rms"], c["layers"], c["routing"]), (None, [], []), "what a recording cannot have")
    near(c["kl"]["mean"], exact["kl"]["mean"], 1e-2, "close to the exact one")
_, c = result(CODE, base_file, "--text", text, "--ctx", CTX)
_, back = result(CODE, PROSE, "--text", text, "--ctx", CTX)
near(c["kl"]["mean"], back["kl"]["mean"], 1e-2, "the base file as candidate")
near(c["ppl"]["candidate"], back["ppl"]["candidate"], 1e-4, "its perplexity")  # 16 bits


# ---- the best tokens of a server: every form, bounds computed here ----
def best(row, extra):
    listed = sorted(range(V), key=lambda t: (-row[t], t))[:K]
    return listed + ([extra] if extra not in listed else [])


def rounded(x):
    return float(f"{x:.7g}")  # what a server prints


def form_plain(rows, w):
    return {"tokens": w, "token_logprobs": [None] + [rounded(rows[p][w[p + 1]]) for p in range(N - 1)],
            "top_logprobs": [None] + [{str(t): rounded(rows[p][t]) for t in best(rows[p], w[p + 1])[:K]} for p in range(N - 1)]}


def form_openai(rows, w):
    plain = form_plain(rows, w)
    return {"id": "cmpl-1", "choices": [{"index": 0, "logprobs": {
        "tokens": [f"token_id:{t}" for t in w], "token_logprobs": plain["token_logprobs"],
        "top_logprobs": [x and {f"token_id:{t}": v for t, v in x.items()} for x in plain["top_logprobs"]]}}]}


def form_prompt(rows, w):
    lists = [None] + [{str(t): {"logprob": rounded(rows[p][t]), "rank": 1, "decoded_token": "x"} for t in best(rows[p], w[p + 1])}
                      for p in range(N - 1)]
    return {"choices": [{"prompt_logprobs": lists, "prompt_token_ids": w, "logprobs": None}]}


def form_generated(rows, w):
    written = [{"id": w[p + 1], "token": "x", "bytes": [120], "logprob": rounded(rows[p][w[p + 1]]),
                "top_logprobs": [{"id": t, "token": "y", "bytes": [], "logprob": rounded(rows[p][t])} for t in best(rows[p], w[p + 1])[:K]]}
               for p in range(N - 1)]
    return {"request": {"prompt": w[:1], "n_probs": K}, "response": {"completion_probabilities": written, "prompt": "text"}}


def write(name, form, rows):
    path = WORK / f"{name}.jsonl"
    path.write_text(" \r\n".join(json.dumps(form(r, w)) + "\n" for r, w in zip(rows, WINDOWS)) + "\t")
    return path


def lower(known, p_rest, q_rest):
    return sum(math.exp(a) * (a - b) for a, b in known) + p_rest * math.log(p_rest / q_rest)


def bound_candidate(i, p):  # q listed, p all
    listed = best(Q[i][p], WINDOWS[i][p + 1])
    known = [(P[i][p][t], Q[i][p][t]) for t in listed]
    return lower(known, 1 - sum(math.exp(a) for a, _ in known), 1 - sum(math.exp(b) for _, b in known))


def bounds_reference(i, p):  # p listed, q all
    target = WINDOWS[i][p + 1]
    listed = best(P[i][p], target)
    known = [(P[i][p][t], Q[i][p][t]) for t in listed]
    left = 1 - sum(math.exp(a) for a, _ in known)
    low = lower(known, left, 1 - sum(math.exp(b) for _, b in known))
    high, most = sum(math.exp(a) * (a - b) for a, b in known), math.exp(min(P[i][p][t] for t in listed if t != target))
    for b in sorted(Q[i][p][t] for t in range(V) if t not in listed):
        share = min(most, left)
        if share <= 0:
            break
        high += share * (math.log(share) - b)
        left -= share
    return low, high


lows = [bound_candidate(i, p) for i, p in POSITIONS]
both = [bounds_reference(i, p) for i, p in POSITIONS]
for form in (form_plain, form_openai, form_prompt, form_generated):
    name = form.__name__
    q_file, p_file = write(f"q_{name}", form, Q), write(f"p_{name}", form, P)
    whole, c = result(PROSE, q_file, "--tokens", ROWS)
    same((c["recorded"], c["kl"]["kind"], c["kl"]["mean_upper"]), ("top_logprobs", "lower_bound", None), f"{name}: kind")
    near(c["kl"]["mean"], sum(lows) / len(lows), 1e-4, f"{name}: lower bound of a candidate")
    check(0.25 * mean < c["kl"]["mean"] <= mean, f"{name}: {c['kl']['mean']} is no bound of {mean}")
    near(c["ppl"]["candidate"], live["ppl"]["candidate"], 1e-6, f"{name}: perplexity")
    near(c["ppl"]["ln_ratio_stderr"], live["ppl"]["ln_ratio_stderr"], 1e-4, f"{name}: paired error")
    near(c["delta_p"]["rms"], live["delta_p"]["rms"], 1e-4, f"{name}: delta p")
    same((c["top1_agreement"], c["top5_agreement"], c["logits"]["max_abs"]), (live["top1_agreement"], live["top5_agreement"], None), name)
    whole, c = result(p_file, CODE)
    near(c["kl"]["mean"], sum(b[0] for b in both) / len(both), 1e-4, f"{name}: lower bound with a recorded reference")
    near(c["kl"]["mean_upper"], sum(b[1] for b in both) / len(both), 1e-4, f"{name}: upper bound")
    check(c["kl"]["mean"] <= mean <= c["kl"]["mean_upper"], f"{name}: the divergence is not between its bounds")
    _, c = result(p_file, q_file)
    check(0 < c["kl"]["mean"] <= mean and c["kl"]["mean_upper"] is None, f"{name}: two recordings")
    near(c["ppl"]["ratio"], live["ppl"]["ratio"], 1e-6, f"{name}: ratio of two recordings")
# A probability that became 0 in the server is not listed: the bound stays one.
zeros = json.loads(json.dumps(form_plain(Q[0], WINDOWS[0])))
for lists in zeros["top_logprobs"][1:]:
    for t in list(lists)[-3:]:
        lists[t] = -3.4028234663852886e38 if int(t) % 2 else -9999.0
(WORK / "zeros.jsonl").write_text(json.dumps(zeros) + "\n")
(WORK / "first.jsonl").write_text(json.dumps(form_plain(Q[0], WINDOWS[0])) + "\n")
lost, kept = (result(PROSE, WORK / f"{n}.jsonl")[1] for n in ("zeros", "first"))
check(0 < lost["kl"]["mean"] < kept["kl"]["mean"] and lost["ppl"] == kept["ppl"], f"lost probabilities: {lost['kl']['mean']}, {kept['kl']['mean']}")
text_out = run("verify", p_file, CODE, "-q", "--markdown", WORK / "t.md", "--html", WORK / "t.html").out
check("at least: mean" in text_out and "mean at most" in text_out, text_out)
check("| ≥ " in (WORK / "t.md").read_text() and "<td>≥ " in (WORK / "t.html").read_text(), "a bound is shown as one")
run("verify", PROSE, q_file, "--tokens", ROWS, "-q", "--fail-on", f"kl.mean>{0.3 * mean}", expect=1)

# ---- refusals ----
never = WORK / "never"


def refuse(code, words, what, *args):
    refused(code, words, what, "verify", *args, "--html", never)


other = WORK / "other.txt"
changed = [list(w) for w in WINDOWS]
changed[1][7] = changed[1][7] ^ 1
other.write_text("\n".join(" ".join(map(str, w)) for w in changed) + "\n")
for rec in (code_logits, q_file):
    refuse(8, ["window 1, position 7", str(WINDOWS[1][7]), str(changed[1][7])], "another token", PROSE, rec, "--tokens", other)
other.write_text("\n".join(" ".join(map(str, w)) for w in WINDOWS[:2]) + "\n")
refuse(8, ["3 windows", "2"], "fewer windows", PROSE, code_logits, "--tokens", other)
other.write_text("\n".join(" ".join(map(str, w[:-1])) for w in WINDOWS) + "\n")
refuse(8, ["24 tokens", "23"], "shorter windows", PROSE, code_logits, "--tokens", other)
refuse(8, ["window 0, position 1"], "another text", PROSE, base_file, "--text", SAMPLES / "text/code.txt", "--ctx", CTX)
every = WORK / "every.txt"
every.write_text("\n".join(" ".join(map(str, ids[i:i + CTX])) for i in range(0, len(ids) - CTX + 1, CTX)) + "\n")
refuse(8, ["recorded from position 16"], "only second halves are recorded", PROSE, base_file, "--tokens", every)
tiny = DATA / "models/tiny/llama"
refuse(8, ["vocabularies differ"], "another vocabulary", tiny, code_logits, "--tokens", ROWS)
refuse(8, ["vocabularies differ"], "another vocabulary of a base file", base_file, tiny)
refuse(2, ["--weights"], "weights of a recording", PROSE, code_logits, "--weights")
refuse(2, ["--attribute"], "parts of a recording", code_logits, PROSE, "--attribute", 3)
refuse(2, ["tokenizer"], "text without a model", p_file, q_file, "--text", text)


def damaged_st(name, change):
    tensors = common.read_safetensors(code_logits)[1]
    change(tensors)
    common.write_safetensors(WORK / f"{name}.safetensors", tensors)
    return WORK / f"{name}.safetensors"


refuse(3, ["input_ids"], "logits of nobody knows what", PROSE, damaged_st("noids", lambda t: t.pop("input_ids")), "--tokens", ROWS)


def lines(t):
    t["logits"].shape = [3 * N, 1, V]


refuse(3, ["logits"], "another shape", PROSE, damaged_st("shape", lines), "--tokens", ROWS)


def infect(t):
    raw = bytearray(t["logits"].data)
    struct.pack_into("<f", raw, 4 * ((N + 5) * V + 9), math.nan)
    t["logits"].data = bytes(raw)


refuse(3, ["window 1, position 5", "not finite"], "NaN", damaged_st("nan", infect), PROSE, "--tokens", ROWS)
(WORK / "cut.safetensors").write_bytes(code_logits.read_bytes()[:-100])
refuse((3, 4), ["cut.safetensors"], "truncated logits", PROSE, WORK / "cut.safetensors", "--tokens", ROWS)
raw = base_file.read_bytes()
head = 20 + 4 * struct.unpack_from("<i", raw, 8)[0] * struct.unpack_from("<i", raw, 16)[0]
for name, words, change in (("cut", ["do not make"], lambda b: b[:-2]),
                            ("huge", ["do not make"], lambda b: b[:16] + struct.pack("<i", 2**31 - 1) + b[20:]),
                            ("negative", ["-5"], lambda b: b[:12] + struct.pack("<i", -5) + b[16:]),
                            ("nan", ["row 0"], lambda b: b[:head] + struct.pack("<f", math.nan) + b[head + 4:]),
                            ("sum", ["window 0, position 16", "add up"], lambda b: b[:head + 4] + struct.pack("<f", 3.0) + b[head + 8:])):
    path = WORK / f"{name}.kld"
    path.write_bytes(change(raw))
    refuse(3, words, f"base file: {name}", path, CODE)

good = form_prompt(Q[0], WINDOWS[0])
plain = form_plain(Q[0], WINDOWS[0])


def altered(form, *path_and_value):
    o = json.loads(json.dumps(form))
    at = o
    for key in path_and_value[:-2]:
        at = at[key]
    at[path_and_value[-2]] = path_and_value[-1]
    return json.dumps(o)


cases = [(3, ["line 1"], "{"), (3, ["line 1"], "[]"), (3, ["line 1", "none of"], "{}"), (3, ["nothing is recorded"], ""),
         (3, ["line 4"], "\n" + json.dumps(good) + "\n \n" + "nonsense"),
         (3, ["24 tokens"], altered(plain, "top_logprobs", [None])),
         (3, ["position 4", "add up"], altered(plain, "top_logprobs", 5, {"1": -0.1, "2": -0.2, "3": -3})),
         (3, ["position 4", "log-probability 2"], altered(plain, "top_logprobs", 5, {"1": 2.0})),
         (3, ["position 4", "no log-probability of the token that follows"], altered(json.loads(altered(plain, "token_logprobs", 5, None)), "top_logprobs", 5, {"1023": -9.0, "1022": -8})),
         (3, ["position 4", "that follows"], altered(json.loads(altered(plain, "token_logprobs", 5, -9999.0)), "top_logprobs", 5, {"1023": -9.0, "1022": -8})),
         (3, ["position 4"], altered(plain, "top_logprobs", 5, None)),
         (3, ["position 4", "no token is listed"], altered(plain, "top_logprobs", 5, {})),
         (4, ["position 4", "token as text"], altered(plain, "top_logprobs", 5, {" the": -1.0})),
         (4, ["token as text"], altered(plain, "tokens", 3, " the")), (3, ["token id"], altered(plain, "tokens", 3, -1)),
         (3, ["token id"], altered(plain, "tokens", 3, 2**31)), (3, ["token id"], altered(plain, "tokens", 3, 1.5)),
         (3, ["prompt_token_ids"], altered(good, "choices", 0, "prompt_token_ids", [])),
         (3, ["2 choices"], json.dumps({"choices": good["choices"] * 2})),
         (3, ["twice"], altered(good, "choices", 0, "prompt_logprobs", 5, {str(WINDOWS[0][5]): {"logprob": -1}, f"token_id:{WINDOWS[0][5]}": {"logprob": -1}})),
         (3, ["line 1"], '{"tokens":' + "[" * 100000)]
for n, (code, words, line) in enumerate(cases):
    path = WORK / f"bad{n}.jsonl"
    path.write_text(line + "\n" if line else "")
    refuse(code, words, f"line {n}", PROSE, path)
unknown = WORK / "unknown.jsonl"  # of a model without tokenizer nobody can say that an id beyond its rows is padding
unknown.write_text('{"tokens": [1, 2, 3], "token_logprobs": [null, -1.5, -1], "top_logprobs": [null, {"1023000": -1.0, "2": -1.5}, {"3": -1}]}')
refuse(8, ["window 0, position 0", "token 1023000"], "an id beyond the rows", tiny, unknown)
common.done()
