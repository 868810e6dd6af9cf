"""The page of verify for a mixture of 32 layers with 8 experts: below 1 MB, complete without scripts or anything outside it, and
every number on it the JSON's."""
import html.parser
import json
import random

import common
from common import WORK, check, run, same

LAYERS, EXPERTS, HIDDEN, FFN, VOCAB = 32, 8, 64, 64, 96
MAGNITUDE = bytes(61 | (b & 0x80) for b in range(256))  # high byte of a bf16 between 2^-5 and 2^-4, either sign
MANTISSA = bytes(b & 0x7F for b in range(256))
dice = random.Random(7)


def weight(*shape):
    n = 1
    for d in shape:
        n *= d
    noise, data = dice.randbytes(2 * n), bytearray(2 * n)
    data[0::2], data[1::2] = noise[:n].translate(MANTISSA), noise[n:].translate(MAGNITUDE)
    return common.Tensor("BF16", shape, data)


def ones(n):
    return common.Tensor("BF16", [n], b"\x80\x3f" * n)


model = common.fresh("model")
tensors = {"model.embed_tokens.weight": weight(VOCAB, HIDDEN), "model.norm.weight": ones(HIDDEN), "lm_head.weight": weight(VOCAB, HIDDEN)}
for l in range(LAYERS):
    p = f"model.layers.{l}."
    tensors |= {p + "input_layernorm.weight": ones(HIDDEN), p + "post_attention_layernorm.weight": ones(HIDDEN),
                p + "block_sparse_moe.gate.weight": weight(EXPERTS, HIDDEN)}
    tensors |= {p + f"self_attn.{k}_proj.weight": weight(HIDDEN, HIDDEN) for k in "qkvo"}
    for e in range(EXPERTS):
        tensors |= {p + f"block_sparse_moe.experts.{e}.{w}.weight": weight(*((HIDDEN, FFN) if w == "w2" else (FFN, HIDDEN))) for w in ("w1", "w2", "w3")}
common.write_safetensors(model / "model.safetensors", tensors, {"format": "pt"})
(model / "config.json").write_text(json.dumps({
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": HIDDEN, "intermediate_size": FFN, "num_attention_heads": 2,
    "num_key_value_heads": 2, "num_hidden_layers": LAYERS, "num_local_experts": EXPERTS, "num_experts_per_tok": 2, "vocab_size": VOCAB,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "torch_dtype": "bfloat16", "hidden_act": "silu", "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}))
(WORK / "ids.txt").write_text("".join(" ".join(str(dice.randrange(3, VOCAB)) for _ in range(40)) + "\n" for _ in range(3)))
q8, q4 = WORK / "q8.gguf", WORK / "q4.gguf"
run("quantize", model, "-o", f"{q8}=Q8_0", "-o", f"{q4}=Q4_0", "-q", "--no-manifest")
page_file = WORK / "page.html"
data = run("verify", model, q8, q4, "--tokens", WORK / "ids.txt", "--weights", "--attribute", 9, "--precision", "bf16", "--html", page_file,
           "--json", "-q").json()
text = page_file.read_text()


class Page(html.parser.HTMLParser):
    """Tables as rows of cell texts, titles of what is drawn, and all text; what is open and what is asked for outside."""

    def __init__(self):
        super().__init__()
        self.tables, self.drawn, self.tags, self.asked, self.said = [], [], set(), [], ""
        self.cell = self.shape = None

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.asked += [(tag, k) for k, _ in attrs if k in ("src", "href", "xlink:href", "data", "action") or k.startswith("on")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = ""
        elif tag == "svg":
            self.drawn.append([])
        elif tag in ("rect", "circle"):
            self.shape = tag

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self.cell)
            self.cell = None
        elif tag in ("rect", "circle"):
            self.shape = None

    def handle_data(self, piece):
        self.said += piece
        if self.shape:
            self.drawn[-1].append(piece)
        elif self.cell is not None:
            self.cell += piece


page = Page()
page.feed(text)
page.close()

# ---- alone, small, and not a program ----
check(20000 < len(text.encode()) < 1000000, f"{len(text.encode())} bytes")
same(page.tags & {"script", "link", "iframe", "object", "embed", "img", "base", "form"}, set(), "what would load or run something")
same((page.asked, "url(" in text, "@import" in text), ([], False, False), "references to outside")
same(text.count("http"), 0, "addresses")


# ---- numbers ----
def follow(v, path):
    for key in path.split("."):
        v = v[key]
    return v


def cell(v, digits):
    return "–" if v is None else f"{v:.{digits}g}"


def rows_of(head, n):
    """The n tables that begin with these column titles, without their heads."""
    found = [t[1:] for t in page.tables if t[0][:len(head)] == head]
    same(len(found), n, f"tables with {head}")
    return found


SUMMARY = {"bits": ("bpw", 4), "mean KL": ("kl.mean", 4), "±": ("kl.stderr", 2),
           "p99": ("kl.p99", 4), "max": ("kl.max", 4), "top-1": ("top1_agreement", 5), "perplexity": ("ppl.candidate", 6), "ratio": ("ppl.ratio", 6)}
summary = next(t for t in page.tables if t[0][0] == "candidate")
for found in summary[1:]:
    if found[0] == "noise floor (bf16)":
        want = data["floor"]
    else:
        want = next(c for c in data["candidates"] if c["path"] == found[0])
        same(found[1], want["verdict"], f"verdict of {found[0]}")
    for title, value in zip(summary[0], found):
        if want is data["floor"] and title in ("bits", "MB", "front"):
            continue
        if title == "MB":
            same(value, cell(want["bytes"] * 1e-6, 5), f"size of {found[0]}")
        elif title == "front":
            same(value, "*" if want["pareto"] else "", f"front at {found[0]}")
        elif title in SUMMARY:
            path, digits = SUMMARY[title]
            same(value, cell(follow(want, path), digits), f"{title} of {found[0]}")
check({t for t in SUMMARY} <= set(summary[0]), f"columns {summary[0]}")
check(f", perplexity of the reference {data['candidates'][0]['ppl']['reference']:.6g}." in page.said, "perplexity of the reference")
same(len(summary), 4, "rows of the summary")
check("MB" in summary[0] and "front" in summary[0], "sizes and the front")
same([row[0] for row in summary[1:3]], [c["path"] for c in sorted(data["candidates"], key=lambda c: c["bytes"])], "smallest first")
same(sorted(page.drawn[0]), sorted(f"{c['path']}: {c['bytes'] * 1e-6:.5g} MB, {c['kl']['mean']:.4g}" for c in data["candidates"]), "KL against size")

POINTS = ("min", "p001", "p01", "p05", "p10", "p25", "median", "p75", "p90", "p95", "p99", "p999", "max")
PAIRED = {"perplexity": ("ppl.candidate", "ppl.candidate_stderr"), "ratio to the reference's": ("ppl.ratio", "ppl.ratio_stderr"),
          "difference from it": ("ppl.difference", "ppl.difference_stderr"), "rms of the difference": ("logits.rms", None),
          "largest difference": ("logits.max_abs", None),
          "correlation of ln p": ("ppl.correlation", None), "mean Δp": ("delta_p.mean", "delta_p.mean_stderr"),
          "rms Δp": ("delta_p.rms", "delta_p.rms_stderr"), "same top token": ("top1_agreement", "top1_stderr"),
          "of the top five": ("top5_agreement", None), "logits: cosine": ("logits.cosine", None)}
for c, spread, paired in zip(data["candidates"], rows_of(["percentile", "KL, nats"], 2), rows_of(["figure", "value"], 2)):
    same([row[1:] for row in spread], [[cell(c["kl"][p], 4), cell(c["delta_p"][p], 4)] for p in POINTS], "spread")
    same({row[0]: row[1:] for row in paired},
         {k: [cell(follow(c, p), 7), cell(follow(c, e), 2) if e else "–"] for k, (p, e) in PAIRED.items()}, "paired figures")
routing = rows_of(["layer", "same experts"], 2)
weights = rows_of(["tensor", "type"], 2)
flips = rows_of(["margin of the reference's router logits"], 2)
parts = rows_of(["part", "mean KL"], 2)
for i, c in enumerate(data["candidates"]):
    same(len(routing[i]), LAYERS, "layers of the routing table")
    for found, r in zip(routing[i], c["routing"]):
        same(found[:4], [str(r["layer"]), cell(r["set_agreement"], 5), cell(r["top1_agreement"], 5), cell(r["weight_kl"], 4)], "routing")
    for k, found in enumerate(flips[i]):
        n, flipped = (sum(r["flips"][k][key] for r in c["routing"]) for key in ("tokens", "flips"))
        same(found[1:], [cell(n, 12), cell(flipped, 12), cell(100 * flipped / n if n else None, 3)], "flips")
    by_name = {t["name"]: t for t in c["tensors"]}
    check(weights[i] and len(by_name) > 900, "tensors")
    for found in weights[i]:
        t = by_name[found[0]]
        same(found[1:9], [t["type"], *(cell(t[k], 4) for k in ("bpw", "rmse", "snr_db", "error", "error_limit", "worst_block", "limit"))], found[0])
    check(f"{len(by_name) - len(weights[i])} more in the JSON." in page.said, "how many are left out")
    for found, p in zip(parts[i], c["attribution"]["parts"]):
        same(found[:3], [p["name"], cell(p["kl"]["mean"], 4), cell(p["kl"]["stderr"], 2)], "attribution")
    # What is drawn, in words: a title on every bar and point.
    layers = [f"{l['layer']}: {l['relative_l2']:.6g}" for l in c["layers"]]
    points = sorted(f"{t['name']}: {t['error']:.4g}" for t in c["tensors"])
    counts = [f"{n}" for n in c["kl"]["histogram"]["counts"] if n]
    bins = [f"{b}: {v:.6g}" for b, v in enumerate(c["kl"]["by_position"]) if v]
    same((len(layers), len(points)), (LAYERS, len(by_name)), "what is drawn")
    for what, want in (("layers", layers), ("histogram", counts), ("positions", bins)):
        check(want in page.drawn, f"{what} of candidate {i} are not drawn as they are in the JSON")
    check(points in [sorted(d) for d in page.drawn], f"the weights of candidate {i} are not drawn as they are in the JSON")
    for r in c["routing"]:
        loads = [f"{e}: {v:.4f}" for e in range(EXPERTS) for v in (r["load_reference"][e], r["load_candidate"][e])]
        check(loads in page.drawn, f"loads of layer {r['layer']}")
common.done()
