"""moegraft-convert between layouts: what goes through a GGUF comes back bit for bit, shards join, interrupted runs resume,
and refusals have the right exit code."""
import json
import shutil

import common
import moe4

TINY = common.DATA / "models" / "tiny" / "mixtral"
LLAMA3 = common.DATA / "models" / "tiny" / "llama_rope_llama3"
moe = moe4.build(common.WORK / "moe4")
prose = common.DATA / "models" / "donors" / "prose"


def content(tensors):
    return {name: (t.dtype, t.shape, t.sha256()) for name, t in tensors.items()}


# Hugging Face -> GGUF -> Hugging Face: the very file, for every family and rope scaling of the tiny models.
models = [moe, prose] + [m for m in sorted((common.DATA / "models" / "tiny").iterdir())]
for model in models:
    gguf, back = common.WORK / f"{model.name}.gguf", common.WORK / f"{model.name}.back"
    common.run("convert", model, gguf, "--outtype", "bf16", "-q")
    common.run("convert", gguf, back, "-q")
    common.same(content(common.read_hf_dir(back)), content(common.read_hf_dir(model)), f"tensors of {model.name}")
    common.same(common.sha256(back / "model.safetensors"), common.sha256(model / "model.safetensors"), model.name)
    # A GGUF says "llama" for Llama and Mistral alike; a sliding window cannot be said at all.
    here, there = json.loads((back / "config.json").read_text()), json.loads((model / "config.json").read_text())
    common.same(here["model_type"], {"mistral": "llama"}.get(there["model_type"], there["model_type"]), f"{model.name}: model_type")
    for keys in (["hidden_size"], ["num_hidden_layers"], ["num_attention_heads"], ["num_key_value_heads"], ["vocab_size"],
                 ["num_local_experts", "num_experts"], ["num_experts_per_tok"], ["layer_norm_eps", "rms_norm_eps"], ["mlp_only_layers"]):
        found, expected = (next((c[k] for k in keys if k in c), None) for c in (here, there))
        common.same(found, expected, f"{model.name}: {keys[0]}")
    if model == LLAMA3:  # the GGUF holds the factors; the four numbers behind them are found again
        scaling = there.get("rope_scaling") or there["rope_parameters"]
        for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"):
            common.same((here.get("rope_scaling") or here["rope_parameters"])[key], scaling[key], f"rope {key}")
    if model not in (moe, TINY):
        continue
    # GGUF -> GGUF leaves everything in place.
    again = common.WORK / f"{model.name}.again.gguf"
    common.run("convert", gguf, again, "-q", "--no-manifest")
    common.same(common.sha256(again), common.sha256(gguf), f"{model.name}: GGUF to GGUF")

# llama3 rope scaling becomes a tensor, first in the file and F32.
kv, tensors = common.read_gguf(common.WORK / "llama_rope_llama3.gguf")
common.same(next(iter(tensors)), "rope_freqs.weight", "first tensor")
common.same(tensors["rope_freqs.weight"].dtype, "F32", "type of rope_freqs")

# Types by way of another type: bf16 -> f32 is exact, so f32 -> q8_0 equals bf16 -> q8_0.
common.run("convert", moe, "moe4-f32.gguf", "--outtype", "f32", "-q")
common.run("convert", moe, "moe4-q8.gguf", "--outtype", "q8_0", "-q", "-t", "1")
common.run("convert", "moe4-f32.gguf", "two-steps.gguf", "--outtype", "q8_0", "-q", "-t", "3")
common.same(common.sha256(common.WORK / "two-steps.gguf"), common.sha256(common.WORK / "moe4-q8.gguf"), "q8_0 in two steps")

# Shards: split and joined again, side files untouched.
common.run("convert", moe, "shards", "--out-shard-size", "2M", "-q")
common.check((common.WORK / "shards" / "model.safetensors.index.json").exists(), "no index was written")
common.same(content(common.read_hf_dir(common.WORK / "shards")), content(common.read_hf_dir(moe)), "resharded tensors")
common.run("convert", "shards", "joined", "-q")
for name, digest in common.tree(moe).items():
    common.same(common.sha256(common.WORK / "joined" / name), digest, f"joined: {name}")

# The manifest: hashes of what is there, equal for every thread count.
manifest = json.loads((common.WORK / "moe4-q8.gguf.manifest.json").read_text())
common.same(manifest["files"][0]["sha256"], common.sha256(common.WORK / "moe4-q8.gguf"), "sha256 in the manifest")
for entry, (name, tensor) in zip(manifest["tensors"], common.read_gguf(common.WORK / "moe4-q8.gguf")[1].items()):
    common.same((entry["name"], entry["dtype"]), (name, tensor.dtype), "manifest entry")
read = common.run("inspect", "moe4-q8.gguf", "--tensors", "--hash", "--json").json()["tensors"]
common.same({e["name"]: e["xxh3"] for e in manifest["tensors"]}, {t["name"]: t["xxh3"] for t in read}, "hashes of tensors in the manifest")
sharded = json.loads((common.WORK / "shards" / "model.manifest.json").read_text())
common.check(len(sharded["files"]) > 3, "shards in the manifest")
for entry in sharded["files"]:
    common.same(entry["sha256"], common.sha256(common.WORK / "shards" / entry["name"]), entry["name"])
common.run("check", "shards", "--manifest", "shards/model.manifest.json", "-q")
first = common.tree(common.WORK)["moe4-q8.gguf.manifest.json"]
common.run("convert", moe, "moe4-q8.gguf", "--outtype", "q8_0", "-q", "-t", "5", "--memory", "1", "--force")
common.same(common.sha256(common.WORK / "moe4-q8.gguf.manifest.json"), first, "manifest of another thread count")

# A dry run touches nothing and foretells the sizes.
before = common.tree(common.WORK)
plan = common.run("convert", moe, "dry.gguf", "--outtype", "q8_0", "--dry-run", "--json").json()
common.same(common.tree(common.WORK), before, "files after a dry run")
common.same(plan["disk_bytes"], (common.WORK / "moe4-q8.gguf").stat().st_size, "foretold size")
common.check("bits per weight" in common.run("convert", moe, "dry", "--dry-run").out, "no totals in the table")

# Killed at numbered points, then rerun: the bytes of an undisturbed run. Once a file, once a directory of shards.


def crash(out, *options):
    folder = common.fresh("crash")
    arguments = ["convert", TINY, folder / out, "-q", *options]
    points = common.count_crash_points(*arguments)
    expected = common.tree(folder)
    for at in sorted({2, points // 2, points - 9, points - 6, points - 4, points - 2, points - 1, points}):
        folder = common.fresh("crash")
        common.run(*arguments, expect=137, env={"MOEGRAFT_CRASH_AT": at})
        found = {name: digest for name, digest in common.tree(folder).items() if not name.split("/")[-1].startswith(".")}
        for name, digest in found.items():
            common.same(digest, expected[name], f"{name} after a crash at point {at}")
        # Everything renamed and the journal gone: the run had ended, and the rerun refuses to replace its result.
        ended = found == expected and common.tree(folder) == expected
        common.run(*arguments, expect=2 if ended else 0)
        common.same(common.tree(folder), expected, f"files after a crash at point {at} and a rerun")


crash("tiny.gguf", "--outtype", "q8_0")
crash("shards", "--out-shard-size", "100K")

# Without tokenizer files: a warning, and no tokenizer keys.
bare = common.fresh("bare")
for name in ("config.json", "model.safetensors"):
    shutil.copyfile(prose / name, bare / name)
result = common.run("convert", bare, "bare.gguf", "-q")
common.check("no tokenizer" in result.err, "no warning about the tokenizer")
common.same([k for k in common.read_gguf(common.WORK / "bare.gguf")[0] if k.startswith("tokenizer")], [], "tokenizer keys")

# Names: from --model-name, and the parts of a directory's name.
common.run("convert", bare, "bare.gguf", "-q", "--force", "--model-name", "My Model")
common.same(common.read_gguf(common.WORK / "bare.gguf")[0]["general.name"], "My Model", "general.name")
named = common.WORK / "Tiny-Llama-3M-Instruct-v0.1"
shutil.copytree(bare, named)
common.run("convert", named, "named.gguf", "-q")
kv = common.read_gguf(common.WORK / "named.gguf")[0]
common.same({k: v for k, v in kv.items() if k.startswith("general.") and isinstance(v, str)},
            {"general.architecture": "llama", "general.type": "model", "general.name": "Tiny Llama 3M Instruct v0.1",
             "general.version": "v0.1", "general.finetune": "Instruct", "general.basename": "Tiny-Llama",
             "general.size_label": "3M"}, "keys from the name")

# What families know of their vocabularies and no file says.
gemma = common.fresh("gemma-vocabulary")
for name in ("config.json", "model.safetensors"):
    shutil.copy(common.DATA / "models" / "tiny" / "gemma" / name, gemma)
for name in ("tokenizer.model", "tokenizer_config.json"):
    shutil.copy(common.SAMPLES / "donors" / "base" / name, gemma)
common.run("convert", gemma, "vocabulary.gguf", "-q")
kv = common.read_gguf(common.WORK / "vocabulary.gguf")[0]
common.same((kv["tokenizer.ggml.eot_token_id"], kv["tokenizer.ggml.add_space_prefix"]), (107, False), "keys of a family's vocabularies")

# Refusals.
common.run("convert", moe, "moe4-q8.gguf", expect=2)                                    # exists
common.run("convert", moe, expect=2)
common.run("convert", moe, "x.gguf", "--outtype", "q9", expect=2)
common.run("convert", moe, "x.gguf", "--outtype", "q4_k", expect=4)
common.run("convert", moe, "x", "--outtype", "q8_0", expect=4)
common.run("convert", common.WORK / "missing", "x.gguf", expect=5)
common.run("convert", moe, "no/such/dir/x.gguf", expect=5)
broken = common.fresh("broken")
for name in ("config.json", "model.safetensors"):
    shutil.copyfile(prose / name, broken / name)
with open(broken / "model.safetensors", "r+b") as f:
    f.truncate(5000000)
common.run("convert", broken, "x.gguf", expect=3)
common.check(not (common.WORK / "x.gguf").exists() and not (common.WORK / "x").exists(), "a refused run left an output")
common.done()
