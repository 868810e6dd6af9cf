"""moegraft-route --report against captured router logits: every figure computed again here, from its definition."""
import json
import math

import common
from common import check, run, same
from page import Page, alone

MODEL = common.WORK / "moe4"
run("merge", common.SAMPLES / "moe4.yml", MODEL, "--gate", "random")
LINES = {"prose.txt": ["And the king said", "Once upon a time there was an old man"],
         "code.txt": ["def f(x):", "return x + 1", 'for (int i = 0; i < n; i++) printf("%d", i);']}
for name, lines in LINES.items():
    (common.WORK / name).write_text("\n".join(lines) + "\n\n")


def near(a, b, what, limit=1e-6):  # f32 weights there, f64 here
    check(a is not None and abs(a - b) <= limit * max(1, abs(b)), f"{what}: {a} instead of {b}")


def logits_of(prompts, k):
    """[layer][token] -> (is BOS, logits) with k experts per token, the prompts as one text in windows of 256 tokens, each behind BOS."""
    layers, text = None, run("tokenize", MODEL, "--text", "\n".join(prompts), "--no-special", "--json").json()["ids"]
    for at in range(0, len(text), 255):
        ids = [1] + text[at:at + 255]
        out = common.fresh("capture") / "x.safetensors"
        run("forward", MODEL, "--ids", ",".join(map(str, ids)), "-o", out, "--capture", "router", "--experts-per-token", k)
        tensors = common.read_safetensors(out)[1]
        names = sorted(tensors, key=lambda n: int(n.split(".")[1]))
        layers = layers or [[] for _ in names]
        for layer, name in zip(layers, names):
            flat = tensors[name].floats()
            layer += [(at == 0, flat[at:at + 4]) for at in range(0, len(flat), 4)]
    return layers


def softmax(x):
    e = [math.exp(v - max(x)) for v in x]
    return [v / sum(e) for v in e]


def chosen(x, k):
    """experts by falling logit, and their weights"""
    order = sorted(range(len(x)), key=lambda e: (-x[e], e))[:k]
    return order, softmax([x[e] for e in order])


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def compare(found, tokens, k, intended, what):
    """One share: tokens without BOS."""
    text = [x for bos, x in tokens if not bos]
    picks = [chosen(x, k) for x in text]
    same(found["tokens"], len(text), f"{what}: tokens")
    for e in range(4):
        near(found["load"][e], mean(e in o for o, _ in picks) / k, f"{what}: load of {e}")
        near(found["first"][e], mean(o[0] == e for o, _ in picks), f"{what}: first {e}")
        near(found["weight"][e], mean(sum(w for i, w in zip(*p) if i == e) for p in picks), f"{what}: weight of {e}")
        near(found["probability"][e], mean(softmax(x)[e] for x in text), f"{what}: probability of {e}")
    near(found["entropy"], mean(-sum(p * math.log(p) for p in softmax(x)) for x in text) / math.log(4), f"{what}: entropy")
    if intended is None:
        same((found["chosen"], found["best"]), (None, None), f"{what}: agreement")
    else:
        near(found["chosen"], mean(intended in o for o, _ in picks), f"{what}: chosen")
        near(found["best"], mean(o[0] == intended for o, _ in picks), f"{what}: best")


def balance(layers, k):
    tokens = [x for layer in layers for _, x in layer]
    picks = [chosen(x, k)[0] for x in tokens]
    return 4 * sum(mean(e in o for o in picks) * mean(softmax(x)[e] for x in tokens) for e in range(4))


args = ("--report", "--set", f"0={common.WORK / 'prose.txt'}", "--set", common.WORK / "code.txt", "--json")
for k in (2, 3):
    sets = [logits_of(lines, k) for lines in LINES.values()]
    everything = [a + b for a, b in zip(*sets)]
    report = run("route", MODEL, *args, "--experts-per-token", k).json()["models"][0]
    same((report["experts"], report["experts_per_token"], report["tokens"]), (4, k, len(everything[0])), "sizes")
    near(report["balance_loss"], balance(everything, k), "balance loss of all layers")
    for i, layer in enumerate(report["layers"]):
        compare(layer["sets"][0], sets[0][i], k, 0, f"k {k}, layer {i}, prose")
        compare(layer["sets"][1], sets[1][i], k, None, f"k {k}, layer {i}, code")
        compare(layer["all"], everything[i], k, None, f"k {k}, layer {i}")
        near(layer["balance_loss"], balance([everything[i]], k), f"balance loss of layer {i}")
        near(layer["z_loss"], mean(math.log(sum(map(math.exp, x))) ** 2 for _, x in everything[i]), f"z loss of layer {i}")
        n = len(everything[i])
        picks = [chosen(x, k)[0] for _, x in everything[i]]
        counts = [sum(e in p for p in picks) for e in range(4)]
        for d, capacity in zip(layer["dropped"], (1, 1.25, 2)):
            same(d["capacity"], capacity, "capacity")
            near(d["share"], sum(max(0, c - math.floor(capacity * n * k / 4)) for c in counts) / (n * k), "dropped")
        flat = common.read_hf_dir(MODEL)[f"model.layers.{i}.block_sparse_moe.gate.weight"].floats()
        rows = [flat[j:j + len(flat) // 4] for j in range(0, len(flat), len(flat) // 4)]
        for a in range(4):
            for b in range(4):
                dot = lambda p, q: sum(x * y for x, y in zip(p, q))
                near(layer["cosines"][a][b], dot(rows[a], rows[b]) / math.sqrt(dot(rows[a], rows[a]) * dot(rows[b], rows[b])), "cosine")
        check(1 <= layer["condition"] < 10, "the condition of four random rows")
    same([s["name"] for s in report["sets"]], ["prose.txt", "code.txt"], "names")
    near(report["sets"][0]["chosen"], mean(y["sets"][0]["chosen"] for y in report["layers"]), "mean over layers")

# Beyond 256 tokens a set goes on in another window, behind a BOS of its own.
(common.WORK / "long.txt").write_text("\n".join(f"total_{i} = width * {i}" for i in range(40)) + "\n")
n = len(run("tokenize", MODEL, "--file", common.WORK / "long.txt", "--no-special", "--json").json()["ids"]) - 1  # no line end at the end
long = run("route", MODEL, "--report", "--set", common.WORK / "long.txt", "--json").json()["models"][0]
same((long["tokens"], long["sets"][0]["tokens"]), (n + math.ceil(n / 255), n), "windows")

# A recipe stands for its prompts, also the negative ones, and for the model it describes.
own = run("route", common.SAMPLES / "moe4.yml", "--report", "--json").json()["models"][0]
check(all(s["chosen"] > 0.9 and s["intended"] == i for i, s in enumerate(own["sets"])), "a fitted router finds its experts")
negative = common.WORK / "negative.yml"
text = (common.SAMPLES / "moe4.yml").read_text()
negative.write_text(text.replace("positive_prompts", "negative_prompts", 1))
first = run("route", MODEL, "--report", "--sets", negative, "--json").json()["models"][0]["sets"][0]
check(first["negative"] and first["name"].startswith("not ") and first["intended"] == 0, f"a negative set: {first}")

# Warnings: a router of equal rows chooses by chance and always the same experts; all experts per token.
data = bytearray((MODEL / "model.safetensors").read_bytes())
head = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
begin, end = (8 + int.from_bytes(data[:8], "little") + x for x in head["model.layers.1.block_sparse_moe.gate.weight"]["data_offsets"])
data[begin:end] = bytes(end - begin)
(MODEL / "model.safetensors").write_bytes(data)
broken = run("route", MODEL, *args).json()["models"][0]
check(any("layer 1: expert 3 is dead" in w for w in broken["warnings"]), f"no dead expert in {broken['warnings']}")
check(any("layer 1: the router's row of expert 2 is zero" in w for w in broken["warnings"]), "no row of zeros")
check(any("layer 1: the router hardly prefers anyone" in w for w in broken["warnings"]), "no chance")
same(broken["layers"][1]["condition"], None, "dependent rows")
everyone = run("route", MODEL, *args, "--experts-per-token", "all").json()["models"][0]
check(any("every token takes all 4 experts" in w for w in everyone["warnings"]), "k = all")

# The page says what the JSON says, for several models.
q8 = common.WORK / "q8.gguf"
run("quantize", MODEL, q8, "Q8_0")
page = common.WORK / "r.html"
text = run("route", MODEL, q8, *args[:-1], "--html", page).out
alone(page.read_text(), Page(page.read_text()))
check("expert 3 is dead" in page.read_text() and text.count("mean weight") == 2, "page and text")
check(f"{broken['balance_loss']:.4f}" in page.read_text() and f"{broken['balance_loss']:.4f}" in text, "balance loss")
same(run("route", MODEL, q8, *args).json()["models"][0], broken, "the first of two models")

for bad, code in ((("--set", "4=" + str(common.WORK / "prose.txt")), 2), (("--prompt", "x"), 2), ((), 2), (("--layer", "0"), 2),
                    (("--set", "0=missing.txt"), 5), (("--sets", "missing.yml"), 5)):
    run("route", MODEL, "--report", *bad, expect=code)
common.done()
run("route", MODEL, "--set", "x", "--prompt", "y", expect=2)
run("route", common.SAMPLES / "donors/base", *args, expect=4)
