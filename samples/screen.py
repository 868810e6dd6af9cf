#!/usr/bin/env python3
"""The last screen of samples/run: everything on it is read from what the tools printed.

usage: screen.py FOLDER      (FOLDER/results holds the output of every step)
Exit status 1 when a result is not what the sample is there to show."""
import json
import math
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = ("Q8_0", "Q6_K", "Q4_K_M", "Q4_0")


class Results:
    def __init__(self, folder):
        self.folder = folder
        with open(f"{HERE}/moe4.yml", encoding="utf-8") as f:
            self.domains = re.findall(r"source_model: donors/(\w+)", f.read())

    def text(self, name):
        with open(f"{self.folder}/results/{name}", encoding="utf-8") as f:
            return f.read()

    def json(self, name):
        return json.loads(self.text(f"{name}.json"))

    def perplexities(self):
        """{model: [perplexity on each domain's text]}, and the tokens scored."""
        table, tokens = {}, 0
        for d in self.domains:
            results = self.json(f"ppl_{d}")["results"]
            tokens += results[0]["tokens"]
            for r in results:
                table.setdefault(os.path.basename(r["path"]), []).append(r["ppl"])
        return table, tokens

    def costs(self):
        """{step: (seconds, CPU seconds)}"""
        rows = [line.split() for line in self.text("costs.txt").splitlines()]
        return {r[0]: (float(r[1]), float(r[2]) + float(r[3])) for r in rows}


def mixed(row):
    return math.exp(sum(map(math.log, row)) / len(row))


def percent(x, digits=1):
    return f"{100 * x:.{digits}f} %"


def perplexity_lines(r, table, limit):
    names = [("base", "base")] + [(d, f"specialist: {d}") for d in r.domains]
    names += [("average", "plain average of the four"), ("moe4-hidden", "MoE, hidden gates (mergekit's default)"),
              ("moe4", "MoE, fit gates")]
    yield f"{'Perplexity (lower is better) on':42}" + "".join(f"{d:>9}" for d in r.domains) + f"{'mixed':>10}"
    for key, label in names:
        yield f"  {label:40}" + "".join(f"{v:9.3f}" for v in table[key]) + f"{mixed(table[key]):10.3f}"
    yield f"  {'limit: every token to its own expert':40}" + "".join(f"{v:9.3f}" for v in limit) + f"{mixed(limit):10.3f}"


def routed_lines(r):
    lines = r.text("routed_line.json").splitlines()
    majority = next(line for line in lines if line.startswith("majority"))
    key = ", ".join(f"{'ABCDEFGH'[i]} {d}" for i, d in enumerate(r.domains))
    yield f"One line, routed ({key}: the expert that is first choice in most layers)"
    yield "  " + lines[0][10:]
    yield "  " + majority[10:]


def file_lines(r, table, verify):
    yield f"{'Files':20}{'MB':>8}{'bits/weight':>13}{'KL':>11}{'same top-1':>13}{'same experts':>14}{'ppl, mixed':>12}"
    for name in ("moe4",) + tuple(f"moe4-{t}.gguf" for t in FILES):
        info = r.json(f"inspect_{name}")
        path = f"{r.folder}/{name}"
        size = os.path.getsize(f"{path}/model.safetensors" if os.path.isdir(path) else path)
        bits = 8 * sum(t["bytes"] for t in info["tensors"]) / info["parameters"]["total"]
        line = f"  {name + ('/' if os.path.isdir(path) else ''):18}{size / 1e6:8.2f}{bits:13.2f}"
        c = verify.get(name)
        if c:
            same = min(y["set_agreement"] for y in c["routing"])
            line += f"{c['kl']['mean']:11.5f}{percent(c['top1_agreement'], 2):>13}{'>= ' + percent(same):>14}"
        else:
            line += f"{'the reference':>19}{'':19}"
        yield line + f"{mixed(table[name]):12.3f}"


def damage_lines(r, problems):
    done, found = r.json("damage_done"), r.json("damage")["candidates"][0]
    bad = {t["name"]: t for t in found["tensors"] if t["damaged"]}
    scaled = done["scaled"]
    expected = set(done["swapped"]) | {scaled["name"]}
    place = bad.get(scaled["name"], {})
    if set(bad) != expected or (place["worst_row"], place["worst_column"] // 256) != (scaled["row"], scaled["column"] // 256):
        problems.append(f"the damage done was {sorted(expected)}, verify found {sorted(bad)}")
    yield "Damage: two experts of a tensor swapped and one block's scale doubled in a copy; verify --weights:"
    for name in sorted(bad):
        t = bad[name]
        yield f"  {name} DAMAGED: row {t['worst_row']}, column {t['worst_column']}, signal to noise {t['snr_db']:.1f} dB"


def cost_lines(r):
    costs, merge = r.costs(), r.json("merge_ggufs")
    made = [n for n in costs if n.startswith("merge")]
    yield (f"Cost: {sum(c[0] for c in costs.values()):.1f} s ({sum(c[1] for c in costs.values()):.1f} s of CPU), of it "
           f"the four merges {sum(costs[n][0] for n in made):.1f} s ({sum(costs[n][1] for n in made):.1f})")
    yield (f"  donors to four GGUF files in one pass: {costs['merge_ggufs'][0]:.1f} s, read {merge['bytes_read'] / 1e6:.1f} MB, "
           f"wrote {merge['bytes_written'] / 1e6:.1f} MB, peak memory {merge['peak_memory_bytes'] / 1e6:.0f} MB")


def weak_lines(r, table, limit, verify, tokens):
    fit, low, base = mixed(table["moe4"]), mixed(limit), table["base"]
    own = [[y["best"][i] for y in r.json(f"route_{d}")["layers"]] for i, d in enumerate(r.domains)]
    by_layer = [sum(o[y] for o in own) / len(own) for y in range(len(own[0]))]
    yield "Not good:"
    yield (f"  fit is {percent(fit / low - 1)} above the limit on mixed text: it has "
           f"{percent((mixed(base) - fit) / (mixed(base) - low), 0)} of the gain of perfect routing")
    worst = min(range(len(own)), key=lambda i: own[i][0])
    yield (f"  own expert comes first, by layer: {', '.join(percent(v) for v in by_layer)}; "
           f"worst in layer 0: {r.domains[worst]}, {percent(own[worst][0])}")
    name, layer, same = min(((n, y["layer"], y["set_agreement"]) for n, c in verify.items() for y in c["routing"]),
                            key=lambda x: x[2])
    yield f"  {name} picks other experts than the bf16 model for {percent(1 - same)} of the tokens in layer {layer}"
    worse = [(table[d][j] / base[j], d, e) for d in r.domains for j, e in enumerate(r.domains) if table[d][j] > base[j]]
    if worse:
        ratio, d, e = max(worse)
        yield (f"  specialists worse than the base in {len(worse)} of {len(r.domains) ** 2} cells; most: "
               f"{d} on {e}, {percent(ratio - 1)}")
    lost = [f"{d} {percent(table['moe4'][j] / base[j] - 1)}" for j, d in enumerate(r.domains) if table["moe4"][j] > base[j]]
    yield f"  the MoE is worse than the base on: {', '.join(lost) if lost else 'nothing'}; all of it on only {tokens} tokens"


def judge(table, limit, verify, problems):
    values = [v for row in table.values() for v in row]
    if not all(math.isfinite(v) and v >= 1 for v in values):
        problems.append("a perplexity is not a number of at least 1")
    fit = mixed(table["moe4"])
    for other in ("base", "average", "moe4-hidden"):
        if fit >= mixed(table[other]):
            problems.append(f"the MoE with fit gates is not better than {other}")
    for name, c in verify.items():
        if c["verdict"] != "pass":
            problems.append(f"{name}: verify failed {c['failed']}")


def main(folder):
    r, problems = Results(folder), []
    table, tokens = r.perplexities()
    limit = [table[d][i] for i, d in enumerate(r.domains)]  # attention and embeddings are shared: this is exact
    verify = {os.path.basename(c["path"]): c for c in r.json("verify")["candidates"]}
    judge(table, limit, verify, problems)
    parts = [perplexity_lines(r, table, limit), routed_lines(r), file_lines(r, table, verify), damage_lines(r, problems),
             cost_lines(r), weak_lines(r, table, limit, verify, tokens)]
    for part in parts:
        print("\n".join(part))
        print()
    print(f"Report: {folder}/report.html      everything measured: {folder}/results/")
    for p in problems:
        print(f"FAILED: {p}")
    return 1 if problems else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1].rstrip("/")))
