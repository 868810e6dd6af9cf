"""Models whose logits are no numbers: every tool that judges or samples refuses, naming the model that has them and not the one beside it; check --deep
names an output head that is stored and never used."""
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
    for judged in (("verify", bad, GOOD), ("verify", GOOD, bad), ("verify", GOOD, GOOD, bad), ("verify", "--peer", bad, GOOD), ("verify", "--peer", GOOD, bad),
                   ("perplexity", bad)):
        r = run(*judged, "--tokens", ROWS, "-q", expect=3)
        check(f"'{bad}': window 0, position 0: a logit is not finite" in r.err, f"{judged}: {r.err}")
    for temp in ("0", "1"):
        r = run("generate", bad, "--prompt", "x", "-n", 2, "--temp", temp, expect=3)
        check("the logit of token 700 is not finite" in r.err, r.err)

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
