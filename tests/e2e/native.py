"""Native releases and torch pickles as inputs: every form of tests/data/golden/native is the same model as its Hugging Face
twin, byte for byte, and gives the same logits. Forms that no release here has are made on the spot."""
import json
import pathlib
import shutil

import common
import torch_zip

NATIVE = common.DATA / "golden" / "native"
TINY = common.DATA / "models" / "tiny"
TWIN = {"llama_bin_zip": "llama", "llama_bin_legacy": "llama", "mistral_pth": "mistral", "mixtral_torrent": "mixtral",
        "mixtral_pt_union": "mixtral", "mixtral_consolidated_safetensors": "mixtral"}


def content(tensors):
    return {name: (t.dtype, t.shape, t.sha256()) for name, t in tensors.items()}


def logits(model, name):
    common.run("forward", model, "--ids", "1,5,9,77,200", "-o", name, "-q")
    return common.sha256(common.WORK / name)


def convert(model, name):
    common.run("convert", model, name, "-q")
    return common.WORK / name


expected = {twin: content(common.read_hf_dir(TINY / twin)) for twin in set(TWIN.values())}
expected_logits = {twin: logits(TINY / twin, f"{twin}.logits") for twin in expected}
common.same(sorted(p.name for p in NATIVE.iterdir()), sorted(TWIN), "forms in golden/native")
for form, twin in TWIN.items():
    out = convert(NATIVE / form, form)
    common.same(content(common.read_hf_dir(out)), expected[twin], f"tensors of {form}")
    common.same(common.sha256(out / "model.safetensors"), common.sha256(TINY / twin / "model.safetensors"), form)
    common.same(logits(NATIVE / form, f"{form}.logits"), expected_logits[twin], f"logits of {form}")
    common.same(logits(out, f"{form}.hf.logits"), expected_logits[twin], f"logits of {form}, converted")
    config, twins = (json.loads((d / "config.json").read_text()) for d in (out, TINY / twin))
    for key in ("model_type", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size",
                "num_hidden_layers", "rms_norm_eps", "num_local_experts", "num_experts_per_tok", "architectures"):
        common.same(config.get(key), twins.get(key), f"{form}: {key}")
    theta = [c.get("rope_theta", c.get("rope_parameters", {}).get("rope_theta")) for c in (config, twins)]
    common.same(theta[0], theta[1], f"{form}: rope_theta")
    # Straight to GGUF gives the GGUF of the twin's tensors.
    common.run("convert", NATIVE / form, f"{form}.gguf", "-q")
    common.run("convert", TINY / twin, f"{twin}.gguf", "-q", "--force")
    common.same(content(common.read_gguf(common.WORK / f"{form}.gguf")[1]), content(common.read_gguf(common.WORK / f"{twin}.gguf")[1]),
                f"GGUF of {form}")
    common.run("check", NATIVE / form, "--deep", "-q")

# The list of MD5 sums that came with the torrent.
torrent = common.WORK / "torrent"
shutil.copytree(NATIVE / "mixtral_torrent", torrent)
found = common.run("check", torrent, "--manifest", torrent / "RELEASE", "--json").json()["results"][0]
common.same((found["manifest_files"], found["family"]), (2, "mixtral"), "files of RELEASE")
data = bytearray((torrent / "consolidated.00.pth").read_bytes())
data[200000] ^= 1
(torrent / "consolidated.00.pth").write_bytes(data)
bad = common.run("check", torrent, "--manifest", torrent / "RELEASE", expect=7)
common.check("MD5" in bad.err and "consolidated.00.pth" in bad.err, bad.err)

# One file of a release is a model when it is all of it; what describes it stands beside it.
common.same(content(common.read_hf_dir(convert(NATIVE / "mistral_pth" / "consolidated.00.pth", "one_pth"))), expected["mistral"], "one .pth")
consolidated = NATIVE / "mixtral_consolidated_safetensors" / "consolidated.safetensors"
common.same(content(common.read_hf_dir(convert(consolidated, "one_safetensors"))), expected["mixtral"], "one consolidated.safetensors")
part = common.run("convert", NATIVE / "mixtral_pt_union" / "consolidated.00.pt", "part", expect=3)
common.check("missing" in part.err, part.err)

# A directory of the hub with both forms: config.json and its weights count.
both = common.WORK / "both"
shutil.copytree(TINY / "mistral", both)
shutil.copy(NATIVE / "mistral_pth" / "params.json", both)
(both / "consolidated.00.pth").write_bytes(b"never opened")
common.same(common.run("inspect", both, "--json").json()["format"], "hf", "format of a directory with both")


def variant(name, form, edit, files=()):
    """A copy of a form with params.json changed and files added."""
    folder = common.WORK / name
    shutil.copytree(NATIVE / form, folder, copy_function=shutil.copyfile)
    params = json.loads((folder / "params.json").read_text())
    edit(params)
    (folder / "params.json").write_text(json.dumps(params))
    for target, source in files:
        shutil.copyfile(folder / source, folder / target)
    return folder


# What params.json leaves unsaid has the native reader's meaning, and is said.
for form, edit, theta in (("mixtral_torrent", lambda p: p.pop("rope_theta"), 1e6), ("mistral_pth", lambda p: p.pop("rope_theta"), 1e6),
                          ("mistral_pth", lambda p: (p.pop("rope_theta"), p.update(sliding_window=4096)), 1e4)):
    folder = variant("no_theta", form, edit)
    config = json.loads((convert(folder, "no_theta_hf") / "config.json").read_text())
    common.same(config["rope_theta"], theta, f"base of {form} without one")
    common.same(config["sliding_window"], 4096 if theta == 1e4 else None, "window")
    common.check("rope_theta" in common.run("inspect", folder).out, "an assumed base is not shown")
    shutil.rmtree(folder)
    shutil.rmtree(common.WORK / "no_theta_hf")
# Meta's spelling: sizes computed by a rule, vocabulary -1.
meta = variant("meta", "mistral_pth", lambda p: (p.pop("hidden_dim"), p.pop("head_dim"), p.update(multiple_of=32, vocab_size=-1)))
config = json.loads((convert(meta, "meta_hf") / "config.json").read_text())
common.same((config["model_type"], config["intermediate_size"], config["vocab_size"]), ("llama", 128, 320), "Meta's params.json")

for name, form, edit, files, code, says in (
        ("p_quant", "mistral_pth", lambda p: p.update(quantization={"qformat_weight": "fp8_e4m3"}), (), 4, "'quantization'"),
        ("p_moe", "mixtral_torrent", lambda p: p["moe"].update(num_expert_groups=2), (), 4, "'moe.num_expert_groups'"),
        ("p_dim", "mistral_pth", lambda p: p.update(dim=96), (), 8, "'head_dim'|dim 96"),
        ("p_heads", "mistral_pth", lambda p: p.update(n_heads="4"), (), 8, "'n_heads'"),
        ("p_layers", "mistral_pth", lambda p: p.update(n_layers=4), (), 3, "layers.3.attention_norm.weight"),
        ("p_none", "mistral_pth", lambda p: p.pop("hidden_dim"), (), 4, "none of the fields"),
        ("p_slices", "mistral_pth", lambda p: None, [("consolidated.01.pth", "consolidated.00.pth")], 8, "dim 128|configuration"),
        ("p_forms", "mistral_pth", lambda p: None, [("consolidated.00.pt", "consolidated.00.pth")], 8, "remove one form")):
    result = common.run("convert", variant(name, form, edit, files), name + "_out", "-q", expect=code)
    common.check(any(s in result.err for s in says.split("|")), f"{name}: {result.err}")

# ---- releases cut into slices, as Meta's larger models are ----


def sliced(name, source, n, embedding_rows=False, meta=True, damage=None):
    """A written release in n files that each hold a slice of every matrix."""
    folder = common.fresh(name)
    params = json.loads((source / "params.json").read_text())
    dim = params["dim"]
    if meta:  # sizes by a rule, as there
        params.pop("hidden_dim")
        params.update(multiple_of=32)
    (folder / "params.json").write_text(json.dumps(params))
    files = [{} for _ in range(n)]
    for key, t in common.read_safetensors(source / "consolidated.safetensors")[1].items():
        kind = key.split(".")[-2]
        for i, f in enumerate(files):
            if len(t.shape) < 2:
                f[key] = t
            elif kind in ("wo", "w2") or (kind == "tok_embeddings" and not embedding_rows):
                rows, cols = t.shape
                row, part = len(t.data) // rows, len(t.data) // rows // n
                f[key] = common.Tensor(t.dtype, [rows, cols // n], b"".join(t.data[r * row + i * part:r * row + (i + 1) * part] for r in range(rows)))
            else:
                f[key] = common.Tensor(t.dtype, [t.shape[0] // n, t.shape[1]], t.data[i * len(t.data) // n:(i + 1) * len(t.data) // n])
    if damage:
        damage(files)
    for i, f in enumerate(files):
        torch_zip.write(folder / f"consolidated.{i:02}.pth", {"rope.freqs": common.f32([1.0] * 8)} | f if meta else f)
    return folder


whole = {}
for model in ("llama", "mistral", common.DATA / "models/donors/prose"):
    whole[model] = common.WORK / f"{pathlib.Path(model).name}_whole"
    common.run("convert", TINY / model, whole[model], "--to", "mistral", "-q")  # an absolute path stays what it is
    for n in (2, 4):
        folder = sliced(f"slices{n}", whole[model], n, embedding_rows=n == 4, meta=model == "llama")
        common.same(common.sha256(convert(folder, f"joined{n}") / "model.safetensors"), common.sha256(TINY / model / "model.safetensors"), f"{model} in {n}")
        common.run("check", folder, "--deep", "-q")
        if model == "llama":
            common.same(logits(folder, f"slices{n}.logits"), expected_logits["llama"], f"logits of {n} slices")
            common.check(any(f"{n} files each hold a slice" in note for note in common.run("inspect", folder, "--json").json()["notes"]), "a note")
        shutil.rmtree(common.WORK / f"joined{n}")


def without(key, i):
    return lambda files: files[i].pop(key)


def put(key, i, shape, dtype="BF16"):
    size = {"BF16": 2, "F32": 4}[dtype]
    n = size
    for d in shape:
        n *= d
    return lambda files: files[i].update({key: common.Tensor(dtype, shape, bytes(n))})


W2, NEW = "layers.1.feed_forward.w2.weight", "layers.0.adapter.weight"
for damage, code, words in ((without(W2, 1), 3, [W2, "not in 'consolidated.01.pth'"]), (without(W2, 0), 3, [W2, "not in 'consolidated.00.pth'"]),
                            (put(W2, 1, [64, 32]), 3, [W2, "64, 32", "64, 64"]), (put(W2, 1, [64, 64], "F32"), 3, [W2, "F32", "BF16"]),
                            (lambda files: [put(NEW, i, [4, 4])(files) for i in (0, 1)], 4, [NEW, "no rule says"]),
                            (lambda files: [put("tok_embeddings.weight", i, [320, 16])(files) for i in (0, 1)], 3, ["tok_embeddings", "a file missing"]),
                            (lambda files: [put(W2, i, [32, 64])(files) for i in (0, 1)], 3, [W2, "'dim' 64"])):
    common.refused(code, words, f"slices: {words}", "convert", sliced("bad_slices", whole["llama"], 2, damage=damage), common.WORK / "never")
folder = sliced("gap", whole["llama"], 4)
(folder / "consolidated.03.pth").rename(folder / "consolidated.04.pth")
common.refused(3, ["consolidated.04.pth", "slice 3 of 4"], "a gap", "convert", folder, common.WORK / "never")
(folder / "consolidated.04.pth").unlink()
common.refused(3, ["3 slices", "a file missing"], "the last one missing", "convert", folder, common.WORK / "never")

# Written: the tensors of the published form, and back to the bytes of the Hugging Face form.
for twin in ("mixtral", "mistral", "mistral_swa", "llama"):
    out = common.WORK / f"{twin}_written"
    common.run("convert", TINY / twin, out, "--to", "mistral", "-q")
    common.same(sorted(p.name for p in out.iterdir()), ["consolidated.safetensors", "model.manifest.json", "params.json"], "native files")
    common.same(common.sha256(convert(out, f"{twin}_back") / "model.safetensors"), common.sha256(TINY / twin / "model.safetensors"), twin)
    common.same(logits(out, f"{twin}.native.logits"), logits(TINY / twin, f"{twin}.hf.logits"), f"logits of {twin}")
    params = json.loads((out / "params.json").read_text())
    if twin == "mixtral":
        published = NATIVE / "mixtral_consolidated_safetensors"
        common.same(content(common.read_safetensors(out / "consolidated.safetensors")[1]),
                    content(common.read_safetensors(published / "consolidated.safetensors")[1]), "tensors as published")
        common.same({**json.loads((published / "params.json").read_text()), "max_seq_len": 256}, params, "params.json as published")
common.same(params.get("sliding_window"), None, "no window")
common.same(json.loads((common.WORK / "mistral_swa_written/params.json").read_text())["sliding_window"], 8, "window")
common.run("convert", TINY / "mixtral", "native.gguf", "--outtype", "bf16", "-q")
common.run("convert", "native.gguf", "from_gguf", "--to", "mistral", "--outtype", "bf16", "--out-shard-size", "100K", "-q")
common.check((common.WORK / "from_gguf/consolidated.safetensors.index.json").exists(), "an index")
common.same(common.sha256(convert(common.WORK / "from_gguf", "from_gguf_back") / "model.safetensors"),
            common.sha256(TINY / "mixtral/model.safetensors"), "GGUF, native in shards, Hugging Face")
for twin, says in (("llama_rope_llama3", "cannot state 'rope_parameters.rope_type llama3'"), ("qwen2", "has no releases in Mistral's form")):
    result = common.run("convert", TINY / twin, "no_native", "--to", "mistral", expect=4)
    common.check(says in result.err and not (common.WORK / "no_native").exists(), result.err)
common.done()
