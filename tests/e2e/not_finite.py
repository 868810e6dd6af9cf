"""Models whose logits are no numbers: a candidate of verify fails and the others are judged as without it; everywhere else they are refused, naming the
model that has them and not the one beside it; check --deep names an output head that is stored and never used."""
import json
import shutil
import common
from common import SAMPLES, WORK, check, run, same

GOOD = SAMPLES / "donors/base"
ROWS = WORK / "rows.txt"
ROWS.write_text("1 15 27 300 40 41\n")


def with_head(name, value):
    """GOOD with one weight of the output head replaced by a BF16 value: one logit of every position follows it."""
    shutil.copytree(GOOD, WORK / name)
    metadata, tensors = common.read_safetensors(GOOD / "model.safetensors")
    head = bytearray(tensors["lm_head.weight"].data)
    head[2 * 256 * 700:2 * 256 * 700 + 2] = value.to_bytes(2, "little")
    tensors["lm_head.weight"] = common.Tensor("BF16", [1024, 256], head)
    common.write_safetensors(WORK / name / "model.safetensors", tensors, metadata)
    return WORK / name


for bad in (with_head("nan", 0x7FC0), with_head("infinite", 0x7F80)):
    r = run("verify", GOOD, bad, "--tokens", ROWS, "-q", expect=1)
    check(f"{bad}\n  not finite      window 0, position 0: a logit is not finite" in r.out, r.out)
    for judged in (("verify", bad, GOOD), ("verify", "--peer", bad, GOOD), ("verify", "--peer", GOOD, bad), ("perplexity", bad), ("perplexity", GOOD, bad)):
        r = run(*judged, "--tokens", ROWS, "-q", expect=3)
        check(f"'{bad}': window 0, position 0: a logit is not finite" in r.err, f"{judged}: {r.err}")
    for temp in ("0", "1"):
        r = run("generate", bad, "--prompt", "x", "-n", 2, "--temp", temp, expect=3)
        check("the logit of token 700 is not finite" in r.err, r.err)

# ---- a candidate among others ----
CODE = SAMPLES / "donors/code"
ROWS.write_text("1 15 27 300 40 41\n50 20 30 40 60 70\n1 21 31 41 51 61\n")


def verify(*args, **kw):
    return run("verify", *args, "--tokens", ROWS, "-q", "--json", **kw).json()["candidates"]


# a token of its own that is NaN in the embedding: the windows before it are sound
later = WORK / "later"
shutil.copytree(GOOD, later)
metadata, tensors = common.read_safetensors(GOOD / "model.safetensors")
embedding = bytearray(tensors["model.embed_tokens.weight"].data)
embedding[2 * 256 * 50:2 * 256 * 50 + 2] = (0x7FC0).to_bytes(2, "little")
tensors["model.embed_tokens.weight"] = common.Tensor("BF16", [1024, 256], embedding)
common.write_safetensors(later / "model.safetensors", tensors, metadata)
AT = {"window": 1, "position": 0}
sound = verify(GOOD, CODE)
for memory in ("200KB", "1GB"):
    for order in ((later, CODE), (CODE, later), (CODE, WORK / "nan", later)):
        found = verify(GOOD, *order, "--memory", memory, "--fail-on", "kl.mean>100", expect=1)
        for path, c in zip(order, found):
            if path == CODE:
                same({**c, "pareto": None}, {**sound[0], "pareto": None}, "a sound one beside it")
                continue
            same((c["verdict"], c["failed"], c["not_finite"]), ("fail", ["not_finite"], AT if path == later else {"window": 0, "position": 0}), f"{path.name}")
            check("kl" not in c and not c["pareto"] and c["tensors"] == [], f"figures of {path.name}: {c}")
JUNIT, HTML, MARKDOWN = (WORK / f"r.{x}" for x in ("xml", "html", "md"))
r = run("verify", GOOD, later, CODE, "--tokens", ROWS, "--weights", "--attribute", 2, "-q", "--junit", JUNIT, "--html", HTML, "--markdown", MARKDOWN, expect=1)
WHERE = "window 1, position 0: a logit is not finite"
for text, times in ((r.out, 1), (HTML.read_text(), 1), (MARKDOWN.read_text(), 1), (JUNIT.read_text(), 2)):
    same(text.count(WHERE), times, f"where, in {text}")
check("verdict         fail  [not_finite]  [weights]" in r.out and "model.embed_tokens.weight" in r.out and r.out.count("attribution") == 1, r.out)
check('name="compared"><failure message="compared: window 1' in JUNIT.read_text() and 'failures="3"' in JUNIT.read_text(), JUNIT.read_text())
check("not finite" in r.out.split("later\n")[0], f"the table: {r.out}")
same(verify(GOOD, later, expect=1)[0]["not_finite"], AT, "alone")
# recordings, as candidate and as reference; then the candidate that is run first leads all others to the end
run("forward", later, "--tokens", ROWS, "-o", WORK / "later.safetensors", "--capture", "logits", "-q")
run("forward", GOOD, "--tokens", ROWS, "-o", WORK / "good.safetensors", "--capture", "logits", "-q")
found = verify(GOOD, WORK / "later.safetensors", CODE, expect=1)
same((found[0]["not_finite"], found[1]["kl"]), (AT, sound[0]["kl"]), "a recording")
found = verify(WORK / "good.safetensors", later, CODE, WORK / "later.safetensors", expect=1)
same(([c["not_finite"] for c in found], found[1]["kl"]), ([AT, None, AT], sound[0]["kl"]), "a recorded reference")
r = run("verify", WORK / "later.safetensors", GOOD, "--tokens", ROWS, "-q", expect=3)
check(f"later.safetensors': {WHERE}" in r.err, r.err)
baseline = WORK / "old.json"
baseline.write_text(run("verify", GOOD, CODE, later, "--tokens", ROWS, "-q", "--json", expect=1).out)
same([c["failed"] for c in verify(GOOD, CODE, later, "--baseline", baseline, expect=1)], [[], ["not_finite"]], "nothing to hold against a baseline")

# a head that the config ties to the embedding: nothing to say of an equal one but that it is a duplicate
tied = with_head("tied", 0)
config = json.loads((tied / "config.json").read_text())
(tied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))


def of_config():
    findings = run("check", tied, "--deep", "--json").json()["results"][0]["findings"]
    return [(f["tensor"], f["text"]) for f in findings if f["kind"] == "config"]


same(of_config(), [("lm_head.weight", "never used: the config ties it to 'model.embed_tokens.weight', which has other values")], "a head of its own")
metadata, tensors = common.read_safetensors(tied / "model.safetensors")
tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
common.write_safetensors(tied / "model.safetensors", tensors, metadata)
same(of_config(), [], "the embedding again")

common.done()
