"""moegraft-route against the router logits that moegraft-forward captures, softmax and choice done again here."""
import math
import os
import pty
import subprocess

import common
from common import check, run, same
from page import Page, alone

MODEL = common.WORK / "moe4"
TINY = common.DATA / "models/tiny/mixtral"
run("merge", common.SAMPLES / "moe4.yml", MODEL, "--gate", "random")  # quick to make, and no expert is idle


def expected(model, ids, k):
    """[(experts by falling weight, weights) of every token] of every layer, from captured logits."""
    out = common.fresh("capture") / "x.safetensors"
    run("forward", model, "--ids", ",".join(map(str, ids)), "-o", out, "--capture", "router")
    tensors, layers = common.read_safetensors(out)[1], []
    for name in sorted(tensors, key=lambda n: int(n.split(".")[1])):
        experts, flat, rows = tensors[name].shape[1], tensors[name].floats(), []
        for at in range(0, len(flat), experts):
            row = flat[at:at + experts]
            order = sorted(range(experts), key=lambda e: (-row[e], e))[:k]
            e = [math.exp(row[i] - row[order[0]]) for i in order]
            rows.append((order, [v / sum(e) for v in e]))
        layers.append(rows)
    return layers


def agree(found, layers, what):
    same([y["layer"] for y in found["layers"]], list(range(len(layers))), what)
    for y, rows in zip(found["layers"], layers):
        for t, (order, weights) in enumerate(rows):
            same(y["experts"][t], order, f"{what}: layer {y['layer']}, token {t}")
            # f32 softmax here, f64 there
            check(all(abs(a - b) < 1e-6 for a, b in zip(y["weights"][t], weights)),
                  f"{what}: {y['weights'][t]} instead of {weights}")


def shares(values, n):
    return [values.count(e) / len(values) for e in range(n)]


# ---- JSON ----
PROMPT = 'And he said, 12 + 30 = 42\n{"id": 7}'
r = run("route", MODEL, "--prompt", PROMPT, "--json").json()
tokens = run("tokenize", MODEL, "--text", PROMPT, "--json").json()
same([t["id"] for t in r["tokens"]], tokens["ids"], "ids")
same([t["piece"] for t in r["tokens"]], tokens["pieces"], "pieces")
same([t["special"] for t in r["tokens"]], [True] + [False] * (len(tokens["ids"]) - 1), "only BOS is special")
same((r["experts"], r["experts_per_token"], r["counted"]), (4, 2, len(tokens["ids"]) - 1), "sizes")
agree(r, expected(MODEL, tokens["ids"], 2), "two experts per token")
for y in r["layers"]:
    text = y["experts"][1:]
    for name, values in (("load", [e for row in text for e in row]), ("best", [row[0] for row in text])):
        check(all(abs(a - b) < 1e-12 for a, b in zip(y[name], shares(values, 4))), f"{name} of layer {y['layer']}")
for t, winner in enumerate(r["majority"]):
    votes = [y["experts"][t][0] for y in r["layers"]]
    same(votes.count(winner), max(map(votes.count, range(4))), f"majority of token {t}")
check(all(abs(a - b) < 1e-12 for a, b in zip(r["majority_share"], shares(r["majority"][1:], 4))), "majority_share")

for k in ("1", "all"):
    one = run("route", MODEL, "--prompt", PROMPT, "--json", "--experts-per-token", k).json()
    same(one["layers"][0]["experts"], [o for o, _ in expected(MODEL, tokens["ids"], 1 if k == "1" else 4)[0]], f"k = {k}")
only = run("route", MODEL, "--prompt", PROMPT, "--json", "--layer", 2).json()
same(only["layers"], [r["layers"][2]], "one layer alone")
same(run("route", MODEL, "--prompt", PROMPT, "--json", "-t", 3, env={"MOEGRAFT_ISA": "scalar"}).json(), r, "scalar")

# a long text runs in windows, each with a BOS of its own, and loses no token; batches change nothing
math_text = common.WORK / "sums.txt"
math_text.write_bytes((common.SAMPLES / "text/calibration_math.txt").read_bytes()[:600])
args = ["route", MODEL, "--text", math_text, "--ctx", 100, "--json"]
long = run(*args).json()
ids = run("tokenize", MODEL, "--file", math_text, "--json").json()["ids"][1:]
same([t["id"] for t in long["tokens"] if not t["special"]], ids, "the tokens of a file")
same(sum(t["special"] for t in long["tokens"]), -(-len(ids) // 99), "windows")
same(run(*args, "--memory", 1).json(), long, "one window at a time")
rows = common.WORK / "rows.txt"
all_ids = [t["id"] for t in long["tokens"]]
rows.write_text("\n".join(" ".join(map(str, all_ids[i:i + 100])) for i in range(0, len(all_ids), 100)) + "\n")
same(run("route", MODEL, "--tokens", rows, "--json").json()["layers"], long["layers"], "the same rows as token file")

# a model without tokenizer, from ids; transformers' router logits decide
ref = common.read_safetensors(TINY / "reference.safetensors")[1]
n = ref["input_ids"].shape[1]
batch = [ref["input_ids"].floats()[i:i + n] for i in range(0, len(ref["input_ids"].floats()), n)]
rows.write_text("".join(",".join(map(str, b)) + "\n" for b in batch))
tiny = run("route", TINY, "--tokens", rows, "--json").json()
for y in tiny["layers"]:
    flat, e = ref[f"router.{y['layer']}"].floats(), tiny["experts"]
    for t, chosen in enumerate(y["experts"]):
        logits = flat[t * e:t * e + e]
        same(chosen[0], logits.index(max(logits)), f"tiny/mixtral: layer {y['layer']}, token {t}")
same(tiny["tokens"][0], {"id": batch[0][0], "piece": None, "special": False}, "a token without tokenizer")
check(f" {batch[0][1]}" in run("route", TINY, "--tokens", rows).out, "ids are shown")

# ---- terminal ----
lines = run("route", MODEL, "--prompt", PROMPT).out.splitlines()
same(lines[0].strip(), "And he said, 12 + 30 = 42\\n", "the text, an escape for the line's end")
same([line.split()[0] for line in lines[1:6]], ["layer"] * 4 + ["majority"], "labels")
shown = r["tokens"].index(next(t for t in r["tokens"] if t["piece"] == "<0x0A>")) + 1
for i, line in enumerate(lines[1:5]):
    same(line[10:].replace(" ", ""), "".join("ABCD"[row[0]] for row in r["layers"][i]["experts"][1:shown]), f"letters of layer {i}")
same(lines[5][10:].replace(" ", ""), "".join("ABCD"[e] for e in r["majority"][1:shown]), "letters of the majority")
places, at = [], 10  # a letter stands under the first visible character of its token, or under the blank it is
for t in r["tokens"][1:shown]:
    piece = t["piece"].replace("\u2581", " ").replace("<0x0A>", "\\n")
    places.append(at + (len(piece) > 1 and piece[0] == " "))
    at += len(piece)
for line in lines[1:6]:
    same([i for i in range(10, len(line)) if line[i] != " "], places, "columns of the letters")
same(lines[7].strip(), '{"id": 7}', "the second line")
check(all(len(line) <= 100 for line in run("route", MODEL, "--text", math_text).out.splitlines()), "no line is longer than 100 columns")
single = run("route", MODEL, "--prompt", PROMPT, "--layer", 1).out
check("majority" not in single.split("\n\n")[0] and "layer 1" in single and "layer 0" not in single, "one layer has no majority")
hostile = run("route", MODEL, "--prompt", "a\x1b[2Jb\u202ec").out
check("\\x1B" in hostile and "\x1b" not in hostile and "\u202e" not in hostile, "nothing steers the terminal")


def on_terminal(**env):
    outer, inner = pty.openpty()
    subprocess.run([str(common.BIN / "moegraft-route"), str(MODEL), "--prompt", "12 + 30"], stdout=inner, check=True,
                   env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, **env})
    os.close(inner)
    text = os.read(outer, 1 << 16).decode()
    os.close(outer)
    return text


check("\x1b[" in on_terminal(), "colour on a terminal")
check("\x1b[" not in on_terminal(NO_COLOR="1"), "NO_COLOR")
check("\x1b[" not in single, "no colour in a pipe")

# ---- the page ----
page_file = common.WORK / "route.html"
run("route", MODEL, "--prompt", PROMPT + " <b>&\"", "--html", page_file)
text, whole = page_file.read_text(), run("route", MODEL, "--prompt", PROMPT + " <b>&\"", "--json").json()
page = Page(text)
alone(text, page)
for y in whole["layers"]:
    for x in y["load"]:
        check(f"{100 * x:.4g}" in page.cells, f"the page lacks the load {x}")
for x in whole["majority_share"]:
    check(f"</span> {100 * x:.4g}&nbsp;%" in text, f"the page lacks the share {x}")
marked = [(dict(attrs)["class"], dict(attrs)["title"]) for tag, attrs in page.seen if tag == "i"]
same(marked, [(f"e{whole['majority'][t]}", " ".join("ABCD"[y["experts"][t][0]] for y in whole["layers"]))
              for t in range(1, len(whole["tokens"]))], "colours and letters of the tokens")
check("<b>" not in text.split("<body>")[1] and "&lt;" in text, "text is not escaped")
run("route", MODEL, "--prompt", "x", "--layer", 1, "--html", page_file, "--force")
check(page_file.read_text() != text, "--force replaced nothing")

# ---- refusals ----
dense = run("route", common.SAMPLES / "donors/base", "--prompt", "x", expect=4)
check("no layer has a router" in dense.err, dense.err)
run("route", MODEL, "--prompt", "x", "--html", page_file, expect=2)
common.refused(4, ["router"], "a page of a dense model", "route", common.SAMPLES / "donors/base", "--prompt", "x", "--html", common.WORK / "never")
run("route", TINY, "--prompt", "x", expect=4)  # no tokenizer
run("route", MODEL, "--prompt", "x", "--layer", 4, expect=2)
for args in (("--prompt", "x"), ("--report", "--text", math_text, "--ctx", 64)):  # progress on stderr, and none of it with -q
    loud, quiet = (run("route", MODEL, *args, "--progress", "json", *q) for q in ((), ("-q",)))
    check('"label":"route"' in loud.err.replace(" ", "") and quiet.err == "" and quiet.out == loud.out, f"{args}: {loud.err}, {quiet.err}")
check(" threads, " in run("route", MODEL, "--prompt", "x", "-v").err and run("route", MODEL, "--prompt", "x", "-v", "-q").err == "", "-v")
run("route", MODEL, "--prompt", "x", "--layer", "first", expect=2)
run("route", MODEL, "--prompt", "x", "--experts-per-token", 5, expect=2)
run("route", MODEL, "--prompt", "x", "--text", math_text, expect=2)
run("route", MODEL, expect=2)
run("route", MODEL, "--prompt", "x", "--ctx", 1, expect=2)
run("route", MODEL, "--text", "absent.txt", expect=5)
run("route", common.WORK / "absent", "--prompt", "x", expect=5)
common.done()
