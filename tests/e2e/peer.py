"""moegraft-verify --peer: every pair is what verify says of it both ways; page, table, recordings, refusals."""
import common
from common import DATA, SAMPLES, WORK, check, refused, run, same
from page import Page, alone

BASE, PROSE, CODE = (SAMPLES / f"donors/{d}" for d in ("base", "prose", "code"))
SMALL = WORK / "code-Q4_0.gguf"
run("quantize", CODE, SMALL, "Q4_0", "-q")
text = WORK / "text.txt"
text.write_text((SAMPLES / "text/code.txt").read_text()[:420])
TEXT = ["--text", text, "--ctx", 40]
PATHS = [PROSE, CODE, SMALL]


def peers(*args, **kw):
    return run("verify", "--peer", *args, "-q", "--json", **kw).json()


html, markdown = WORK / "peer.html", WORK / "peer.md"
r = peers(*PATHS, *TEXT, "--html", html, "--markdown", markdown)
same([p["path"] for p in r["peers"]], [str(p) for p in PATHS], "paths")
same([(p["a"], p["b"]) for p in r["pairs"]], [(str(a), str(b)) for a, b in ((PROSE, CODE), (PROSE, SMALL), (CODE, SMALL))], "pairs")
for pair in r["pairs"]:
    for one, other, key in ((pair["a"], pair["b"], "kl_ab"), (pair["b"], pair["a"], "kl_ba")):
        whole = run("verify", one, other, *TEXT, "-q", "--json").json()
        c = whole["candidates"][0]
        same((r["text_sha256"], r["tokens"]), (whole["text_sha256"], whole["tokens"]), "text")
        for figure in pair[key]:
            same(pair[key][figure], c["kl"][figure], f"{key}: {figure}")
        same((pair["top1_agreement"], pair["top5_agreement"]), (c["top1_agreement"], c["top5_agreement"]), "agreement")
        if key == "kl_ab":
            same((pair["ppl"]["a"], pair["ppl"]["b"]), (c["ppl"]["reference"], c["ppl"]["candidate"]), "perplexities")
            same([pair["ppl"][k] for k in ("ratio", "ln_ratio", "ln_ratio_stderr")],
                 [c["ppl"][k] for k in ("ratio", "ln_ratio", "ln_ratio_stderr")], "paired difference")
by_path = {p["path"]: p for p in r["peers"]}
for path in PATHS:
    alone_ppl = run("perplexity", path, *TEXT, "--json").json()["results"][0]
    same((by_path[str(path)]["ppl"], by_path[str(path)]["ppl_stderr"]), (alone_ppl["ppl"], alone_ppl["stderr"]), f"{path.name}: perplexity")
sizes = sorted(r["peers"], key=lambda p: (p["bytes"], p["ppl"]))
front, lowest = [], float("inf")
for p in sizes:
    front.append(p["ppl"] < lowest)
    lowest = min(lowest, p["ppl"])
same([p["pareto"] for p in sizes], front, "front of size and perplexity")
check(any(front) and not all(front), "the front says nothing here")
same(peers(*PATHS, *TEXT, "-t", 3, "--memory", "300KB", env={"MOEGRAFT_ISA": "avx2"}), r, "threads, memory, instruction set")

# ---- page and table hold the numbers of the JSON ----
page = Page(html.read_text())
alone(html.read_text(), page)
for pair in r["pairs"]:
    for x, digits in ((pair["kl_ab"]["mean"], 4), (pair["kl_ba"]["mean"], 4), (pair["ppl"]["ratio"], 6), (pair["ppl"]["ln_ratio_stderr"], 2),
                      (pair["top1_agreement"], 5)):
        check(f"{x:.{digits}g}" in page.cells, f"the page lacks {x}")
rows = [[c.strip() for c in line.split("|")[1:-1]] for line in markdown.read_text().splitlines() if line.startswith("|")][2:]
same([row[:4] for row in rows], [[p["a"].split("/")[-1], p["b"].split("/")[-1], f"{p['kl_ab']['mean']:.4g}", f"{p['kl_ba']['mean']:.4g}"]
                                 for p in r["pairs"]], "table")
out = run("verify", "--peer", *PATHS, *TEXT, "-q").out
check(f"{r['pairs'][2]['ppl']['ln_ratio']:.6g}" in out and out.count("same top token") == 3, out)

# ---- a recording among them ----
ids = WORK / "ids.txt"
ids.write_text("1 20 30 40 50 60 70 80\n1 21 31 41 51 61 71 81\n")
run("forward", CODE, "--tokens", ids, "--capture", "logits", "-o", WORK / "code.safetensors", "-q")
live, recorded = peers(PROSE, CODE, "--tokens", ids), peers(PROSE, WORK / "code.safetensors")
same([recorded["pairs"][0][k] for k in ("kl_ab", "kl_ba", "ppl")], [live["pairs"][0][k] for k in ("kl_ab", "kl_ba", "ppl")], "a recording")
same((recorded["peers"][1]["recorded"], recorded["peers"][1]["bytes"], recorded["peers"][1]["pareto"]), ("logits", None, False), "its size")

# ---- refusals ----
for code, words, args in ((2, ["two models"], [PROSE]), (2, ["--weights"], [PROSE, CODE, "--weights"]),
                          (2, ["--fail-on"], [PROSE, CODE, "--fail-on", "kl.mean>1"]), (2, ["at most 16"], [PROSE] * 17),
                          (8, ["vocabularies differ"], [PROSE, DATA / "models/tiny/llama", "--tokens", ids]), (5, ["absent"], [PROSE, WORK / "absent"])):
    refused(code, words, f"{words}", "verify", "--peer", *args, "--html", WORK / "never")
run("verify", "--peer", PROSE, CODE, "--tokens", ids, "--html", html, expect=2)
common.done()
