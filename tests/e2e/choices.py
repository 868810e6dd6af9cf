"""moegraft-perplexity --choices: the three ways to choose computed here from the logits of moegraft-forward, flips between
models, refusals."""
import functools
import json
import math
import common
from common import DATA, SAMPLES, WORK, check, refused, run, same

BASE, PROSE, CODE = (SAMPLES / f"donors/{d}" for d in ("base", "prose", "code"))
V, BOS = 1024, 1
QUESTIONS = [
    {"context": "The old man sat down by the", "choices": ["fire", "fir", "river bank", "for x in range(3):"], "answer": 2},
    {"context": "def area(width, height):\n    return width", "delimiter": " * ", "choices": ["height", "width", "1"], "answer": 0},
    {"context": "She opened the door and ", "choices": ["went", "went home", "wenceslas"], "answer": 1},
    {"context": "import", "choices": ["os", "sys", "json", "the"], "answer": 0, "id": "an extra key"},
    {"context": "for i in range(10):", "delimiter": "\n    ", "choices": ["print(i)", "the old man", "return"], "answer": 0},
    {"context": "In the morning", "choices": ["the sun", "caf\u00e9 \u2192 na\u00efve", "{}"], "answer": 0},
    {"context": "class Point", "delimiter": "", "choices": [":", "(object):", " of view"], "answer": 1},
]
FILE = WORK / "questions.jsonl"
FILE.write_text("\n \t\r\n".join(json.dumps(q) for q in QUESTIONS) + "\n\n  ")  # blank lines say nothing


@functools.cache
def encode(text):  # the donors have one tokenizer
    return [BOS] + run("tokenize", PROSE, "--text", text, "--no-special", "--json").json()["ids"]


def logps(model, seqs):
    """ln p of every token but the first of sequences; filled up behind, which changes nothing before."""
    longest, rows, path = max(map(len, seqs)), WORK / "rows.txt", WORK / "x.safetensors"
    rows.write_text("\n".join(" ".join(map(str, s + [0] * (longest - len(s)))) for s in seqs) + "\n")
    run("forward", model, "--tokens", rows, "--capture", "logits", "-o", path, "--force", "-q")
    flat = common.read_safetensors(path)[1]["logits"].floats()
    for i, seq in enumerate(seqs):
        out = [None]
        for p in range(len(seq) - 1):
            x = flat[(i * longest + p) * V:(i * longest + p + 1) * V]
            top = max(x)
            out.append(x[seq[p + 1]] - top - math.log(sum(math.exp(v - top) for v in x)))
        yield out


def scores(model):
    """Per question a list of (sum, sum per character, mean behind the common tokens) per choice."""
    asked = []
    for q in QUESTIONS:
        context = q["context"].rstrip()
        whole = [encode(q["context"] + q.get("delimiter", " ") + c) for c in q["choices"]]
        shared = 0
        while shared + 1 < min(map(len, whole)) and len({s[shared] for s in whole}) == 1:
            shared += 1
        asked.append((len(encode(context)), shared, whole))
    found, out = logps(model, [s for _, _, whole in asked for s in whole]), []
    for q, (n, shared, whole) in zip(QUESTIONS, asked):
        row = []
        for seq, choice in zip(whole, q["choices"]):
            logp = next(found)
            raw = sum(logp[n:])
            row.append((raw, raw / len(choice), sum(logp[shared:]) / (len(seq) - shared)))
        out.append(row)
    return out


def first_best(values):
    return values.index(max(values))


WAYS = ("acc", "acc_norm", "acc_token")
chosen = {m: [[first_best([s[w] for s in row]) for row in scores(m)] for w in range(3)] for m in (PROSE, CODE)}
Q4 = WORK / "prose-Q4_0.gguf"
run("quantize", PROSE, Q4, "Q4_0", "-q")
args = [PROSE, CODE, Q4, "--choices", FILE]
r = run("perplexity", *args, "--json").json()
same((r["schema"], [x["path"] for x in r["results"]]), (1, [str(PROSE), str(CODE), str(Q4)]), "paths")
n = len(QUESTIONS)
for model, got in zip((PROSE, CODE), r["results"]):
    same(got["choices"]["questions"], n, "questions")
    for w, way in enumerate(WAYS):
        right = sum(c == q["answer"] for c, q in zip(chosen[model][w], QUESTIONS))
        check(abs(got["choices"][way] - right / n) < 1e-12, f"{model.name}: {way} {got['choices'][way]}, expected {right}/{n}")
        check(abs(got["choices"][f"{way}_stderr"] - math.sqrt(right / n * (1 - right / n) / (n - 1))) < 1e-12, f"{way}: error")
check(len({r["results"][0]["choices"][w] for w in WAYS} | {r["results"][1]["choices"][w] for w in WAYS}) > 1, "the questions tell nothing apart")
same(r["results"][0]["flips"], None, "flips of the first")
flips = r["results"][1]["flips"]
same(flips["against"], str(PROSE), "what flips are counted against")
for w, way in enumerate(WAYS):
    a, b, right = chosen[PROSE][w], chosen[CODE][w], [q["answer"] for q in QUESTIONS]
    lost = sum(x == z and y != z for x, y, z in zip(a, b, right))
    gained = sum(x != z and y == z for x, y, z in zip(a, b, right))
    changed = [{"question": i, "answer": z, "first": x, "this": y} for i, (x, y, z) in enumerate(zip(a, b, right)) if x != y]
    same((flips[way]["changed"], flips[way]["lost"], flips[way]["gained"], flips[way]["questions"]), (len(changed), lost, gained, changed), way)
    d = (gained - lost) / n
    check(abs(flips[way]["difference"] - d) < 1e-12, f"{way}: difference")
    check(abs(flips[way]["stderr"] - math.sqrt(max(0, (lost + gained) / n - d * d) / (n - 1))) < 1e-12, f"{way}: paired error")
    k = lost + gained
    p = min(1, 2 * sum(math.comb(k, i) for i in range(min(lost, gained) + 1)) / 2 ** k)
    check(abs(flips[way]["mcnemar_p"] - p) < 1e-12, f"{way}: p {flips[way]['mcnemar_p']}, expected {p}")
check(any(flips[w]["changed"] for w in WAYS), "the two models answer alike: nothing was tested")
twice = run("perplexity", PROSE, PROSE, "--choices", FILE, "--json").json()["results"][1]["flips"]
same([(twice[w]["changed"], twice[w]["stderr"], twice[w]["mcnemar_p"]) for w in WAYS], [(0, 0, 1)] * 3, "a model against itself")
order = sorted(r["results"], key=lambda x: (x["bytes"], -x["choices"]["acc_norm"]))
front, best = [], -1
for x in order:
    front.append(x["choices"]["acc_norm"] > best)
    best = max(best, x["choices"]["acc_norm"])
same([x["pareto"] for x in order], front, "front")
out = run("perplexity", *args).out
table = out[out.index("bytes"):].splitlines()[1:]
same([line.split()[-1] for line in table], [x["path"] for x in order], "table sorted by size")
same([line.startswith("*") for line in table], front, "stars of the table")
check(f"{flips['acc']['changed']} other answers, {flips['acc']['lost']} lost" in out, out)
same(run("perplexity", *args, "--json", "-t", 3, "--memory", 1, env={"MOEGRAFT_ISA": "avx2"}).json(), r, "threads, memory, instruction set")

# ---- refusals ----
good = QUESTIONS[0]
bad = WORK / "bad.jsonl"
for code, words, line in ((3, ["line 1"], "nonsense"), (3, ["holds no question"], ""), (3, ["context"], json.dumps({**good, "context": 3})),
                          (3, ["choices"], json.dumps({**good, "choices": ["one"]})), (3, ["choices"], json.dumps({**good, "choices": "abc"})),
                          (3, ["choices"], json.dumps({**good, "choices": ["x"] * 65})), (3, ["choice 1"], json.dumps({**good, "choices": ["a", ""]})),
                          (3, ["answer"], json.dumps({**good, "answer": 4})), (3, ["answer"], json.dumps({**good, "answer": -1})),
                          (3, ["answer"], json.dumps({**good, "answer": 10 ** 30})), (3, ["answer"], json.dumps({k: v for k, v in good.items() if k != "answer"})),
                          (3, ["delimiter"], json.dumps({**good, "delimiter": 1})), (3, ["line 2"], json.dumps(good) + "\n[]")):
    bad.write_text(line)
    refused(code, words, line[:60], "perplexity", PROSE, "--choices", bad)
for code, words, extra in ((2, ["--choices"], ["--text", FILE]), (5, ["gone"], ["--choices", WORK / "gone.jsonl"])):
    refused(code, words, f"{extra}", "perplexity", PROSE, "--choices", FILE, *extra)
refused(4, ["tokenizer"], "no tokenizer", "perplexity", DATA / "models/tiny/llama", "--choices", FILE)
common.done()
