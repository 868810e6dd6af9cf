"""check --for: what each loader would make of a directory, by the rules of quant/loader_rules.c, on models written to keep or
to break them."""
import json
import re
import shutil

import common
import group_layouts as gl

TINY = common.DATA / "models" / "tiny"
FIRED, SILENT = set(), set()  # sources of rules that were broken; loaders that had nothing to say


def made(name, model, *options, **config):
    """A quantized model; config: keys of quantization_config to change."""
    out = common.WORK / name
    common.run("quantize", TINY / model, out, "RTN", *options, "-q")
    if config:
        path = out / "config.json"
        whole = json.loads(path.read_text())
        whole["quantization_config"].update(config)
        path.write_text(json.dumps(whole))
    return out


def judged(path, engine, *broken, notes=()):
    """The rules that are broken, and those that are only noted; exit 1 exactly when one is broken."""
    result = common.run("check", path, "--for", engine, "--json", expect=1 if broken else 0).json()["results"][0]
    findings = result["findings"]
    common.same([f["rule"] for f in findings if f["fatal"]], list(broken), f"{path.name} for {engine}: {findings}")
    common.same([f["rule"] for f in findings if not f["fatal"]], list(notes), f"{path.name} for {engine}: {findings}")
    common.check(all(f["source"] and f["text"] for f in findings), f"{path.name} for {engine}: {findings}")
    FIRED.update(f["source"] for f in findings)
    if not findings:
        SILENT.add(engine.split(":")[0])
    return findings


awq = made("awq", "llama", "--group-size", "32")
for engine in ("vllm", "vllm:tp=2", "transformers5", "autoawq", "gptqmodel", "mlx"):
    judged(awq, engine)
judged(awq, "llama.cpp", "container", notes=["converter"])
found = judged(awq, "vllm:tp=32", "group x tp", "words x tp", "heads x tp")
common.check(found[0]["tensor"].endswith("down_proj.weight") and "128 input features over 32 ranks" in found[0]["text"], found[0])
judged(awq, "vllm:tp=8", "group x tp", "heads x tp")  # two key heads: each on four ranks, whole
judged(made("awq3", "llama", "--group-size", "32", "--bits", "3"), "autoawq", "bits")
judged(made("gptq", "llama", "--group-size", "32", "--format", "gptq"), "vllm", "bits")
judged(common.WORK / "gptq", "gptqmodel")
judged(common.WORK / "gptq", "autoawq", "format")
judged(made("gptq8", "llama", "--group-size", "-1", "--format", "gptq", "--bits", "8", "--symmetric"), "vllm")
judged(made("ct", "llama", "--group-size", "32", "--format", "compressed-tensors"), "transformers5", notes=["zero points"])
judged(common.WORK / "ct", "gptqmodel", "format")
judged(common.WORK / "ct", "mlx", "format")
judged(made("mlx", "llama", "--group-size", "32", "--format", "mlx"), "mlx")
judged(common.WORK / "mlx", "vllm", "format")
single, tensors = common.fresh("mlx-single"), common.read_hf_dir(TINY / "qwen3_moe")
name = "model.layers.1.mlp.experts.0.gate_proj"
rows, cols = tensors.pop(f"{name}.weight").shape
tensors.update(gl.mlx(gl.rng_for("mlx-single"), name, rows, cols)[0])
common.write_safetensors(single / "model.safetensors", tensors)
(single / "config.json").write_text(json.dumps(json.loads((TINY / "qwen3_moe/config.json").read_text()) | {"quantization": {"group_size": 32, "bits": 4}}))
judged(single, "mlx", "names", "stacks")

legacy, v5 = made("legacy", "mixtral", "--group-size", "-1"), made("v5", "mixtral", "--group-size", "-1", "--layout", "v5")
judged(legacy, "vllm", "group")
judged(legacy, "autoawq")
judged(legacy, "gptqmodel", "names")
judged(legacy, "transformers5", "experts")
judged(v5, "vllm", "group", "names")
judged(v5, "autoawq", "names")
judged(v5, "gptqmodel")
stacked = made("stacked", "granitemoe", "--group-size", "-1")  # the family's own files have all experts of a layer in one tensor
judged(stacked, "vllm", "group")
judged(TINY / "granitemoe", "vllm")
for engine, *others in (("transformers5", "experts"), ("autoawq",), ("gptqmodel",)):
    judged(stacked, engine, "stacks", *others)
for engine in ("autoawq", "gptqmodel", "transformers5", "mlx"):
    judged(TINY / "granitemoe", engine)
for what in (None, []):  # vLLM looks which weights are quantized, AutoAWQ does not
    none = made(f"none-{what}", "llama", "--group-size", "32", modules_to_not_convert=what)
    judged(none, "vllm")
lost = made("lost", "mixtral", "--group-size", "-1", modules_to_not_convert=None)
judged(lost, "autoawq", "skip list")
judged(lost, "vllm", "group")
judged(made("half", "mixtral", "--group-size", "-1", modules_to_not_convert=["lm_head"]), "vllm", "group", "skip list")
judged(made("wide", "mixtral", "--group-size", "-1", "--layout", "v5", modules_to_not_convert=["gate"]), "autoawq", "names", "skip list")
ignored = [f"model.layers.{i}.block_sparse_moe.gate" for i in range(3)]
CT = ("--group-size", "-1", "--format", "compressed-tensors", "--symmetric")
judged(made("ct-regex", "mixtral", *CT, ignore=["lm_head", "re:.*gate$"]), "vllm")
judged(made("ct-wide", "mixtral", *CT, ignore=["lm_head", *ignored, "re:.*o_proj"]), "transformers5", "skip list")
judged(made("ct-name", "mixtral", *CT, ignore=[*ignored, "model.layers.1.self_attn.q_proj"]), "vllm", "skip list")
judged(made("ct-odd", "mixtral", *CT, ignore=["re:(?<broken"]), "vllm")  # not understood: nothing is said
judged(made("gptq-dynamic", "llama", "--group-size", "32", "--format", "gptq", "--symmetric", dynamic={r"-:.*\.mlp\.up_proj$": {}}), "gptqmodel", "skip list")
judged(common.WORK / "gptq-dynamic", "vllm", "skip list")
judged(made("gptq-order", "llama", "--group-size", "32", "--format", "gptq", "--symmetric", dynamic={r"+:.*\.mlp": {}, r"-:.*up_proj$": {}}), "vllm")
judged(made("ct-moe", "mixtral", "--group-size", "-1", "--format", "compressed-tensors"), "transformers5", "experts")
for engine in ("vllm", "transformers5"):
    judged(made(f"ct-sym-{engine}", "mixtral", *CT), engine)
judged(made("ct-bytes", "mixtral", *CT[:-1], "--bits", "8"), "vllm", "experts")

config = json.loads((awq / "config.json").read_text())
shutil.copytree(awq, common.WORK / "bf16")
(common.WORK / "bf16" / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16", "dtype": "bfloat16"}))
for engine in ("vllm", "autoawq"):
    judged(common.WORK / "bf16", engine, notes=["type"])

shutil.copytree(awq, common.WORK / "hub")
(common.WORK / "hub" / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "org/name--configuration.Config"}}))
judged(common.WORK / "hub", "vllm", notes=["remote code"])

common.run("convert", TINY / "llama", common.WORK / "l.gguf", "-q")
judged(common.WORK / "l.gguf", "llama.cpp")
judged(common.WORK / "l.gguf", "vllm", "container")
judged(TINY / "llama", "autoawq")
# ---- the rest of the table ----

judged(made("mlx-wide", "llama", "--group-size", "-1"), "mlx", "group")
judged(made("gptq-act", "llama", "--group-size", "32", "--format", "gptq", "--symmetric", desc_act=True), "vllm", "act-order")
judged(TINY / "mesh_k1", "vllm", "architecture")
judged(TINY / "dots1", "vllm", "architecture")
judged(made("rows", "llama", "--group-size", "-1"), "vllm")
judged(common.WORK / "rows", "vllm:tp=2", "group x tp")  # AWQ cuts the one group
judged(made("rows-ct", "llama", *CT), "vllm:tp=2")       # scales of rows go to every rank
common.run("convert", TINY / "mesh_k1", common.WORK / "own.gguf", "-q")
judged(common.WORK / "own.gguf", "llama.cpp", "architecture")
judged(TINY / "mistral_swa", "llama.cpp", "container", notes=["metadata"])
wide = common.fresh("narrow")  # 48 x 64, which our writer refuses
shutil.copy(TINY / "mixtral" / "config.json", wide)
whole = json.loads((wide / "config.json").read_text())
whole["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False,
                                "dynamic": {r"-:(?!model\.layers\.0\.mlp\.experts\.0\.gate_proj$)": {}}}
(wide / "config.json").write_text(json.dumps(whole))
tensors = {n.replace("block_sparse_moe", "mlp").replace("w1", "gate_proj").replace("w2", "down_proj").replace("w3", "up_proj"): t
           for n, t in common.read_hf_dir(TINY / "mixtral").items()}
one = "model.layers.0.mlp.experts.0.gate_proj"
del tensors[f"{one}.weight"]
tensors.update(gl.gptq(gl.rng_for("narrow"), one, 48, 64)[0])
common.write_safetensors(wide / "model.safetensors", tensors)
judged(wide, "gptqmodel", "32")
floats = {}
for scheme in ("FP8_BLOCK", "NVFP4A16"):
    floats[scheme] = common.WORK / scheme
    common.run("quantize", TINY / "mixtral", floats[scheme], scheme, "-q")
    judged(floats[scheme], "transformers5", "experts")
judged(floats["FP8_BLOCK"], "vllm", "blocks x tp")

# The same list means other modules to each: "gate" is in gate_proj, and an ending of nothing.
listed = made("listed", "llama", "--group-size", "32", modules_to_not_convert=["gate"])
judged(listed, "vllm", "skip list")
judged(listed, "autoawq", "skip list")
judged(listed, "transformers5")
judged(made("listed-end", "llama", "--group-size", "32", modules_to_not_convert=["mlp.up_proj"]), "transformers5", "skip list")

# Every rule of the table was broken above, and every loader was content with something.
table = (common.SAMPLES.parent / "quant" / "loader_rules.c").read_text().split("} rules[] = {")[1].split("\n};")[0]
entries = [e for e in re.split(r"\n    \{", table) if "FOR(" in e]
sources = ["".join(re.findall(r'"([^"]*)"', e.split(",", 3)[3])) for e in entries]
common.check(len(sources) > 25 and all(sources), f"{len(sources)} rules read from the table")
common.same(sorted(set(sources) - FIRED), [], "rules that nothing here breaks")
common.same(SILENT, {"vllm", "transformers5", "autoawq", "gptqmodel", "llama.cpp", "mlx"}, "loaders that were content")

text = common.run("check", v5, "--for", "vllm", expect=1)
common.check("wrong for vllm: names: model.layers.0.mlp" in text.out and "2 rules of vllm are broken" in text.err, text.out + text.err)
for wrong in ("x", "vllm:tp=0", "vllm:tp=x", "mlx:tp=2", "vllm:"):
    common.run("check", awq, "--for", wrong, expect=2)
common.done()
