"""gpt-oss as it is released, experts in MXFP4: the GGUF is the reference converter's byte for byte, the decoded weights are
transformers', and the way back gives the stored tensors again. Needs $LLAMA_CPP, a source checkout."""
import json

import reference_converter
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from peers import DATA, WORK, run

E, H, I = 4, 64, 96
tiny = DATA / "models/tiny/gpt_oss"
config = json.loads((tiny / "config.json").read_text())
config |= {"intermediate_size": I, "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": [
    "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}}
torch.manual_seed(1)
tensors = load_file(tiny / "model.safetensors")
for name in [n for n in tensors if ".experts." in n]:
    bias = name.endswith("_bias")
    rows = 2 * I if "gate_up" in name else H
    columns = H if "gate_up" in name else I
    if bias:
        tensors[name] = torch.randn(E, rows).bfloat16()
        continue
    del tensors[name]
    tensors[name + "_blocks"] = torch.randint(0, 256, (E, rows, columns // 32, 16), dtype=torch.uint8)
    tensors[name + "_scales"] = torch.randint(118, 124, (E, rows, columns // 32), dtype=torch.uint8)
model = WORK / "model"
model.mkdir()
(model / "config.json").write_text(json.dumps(config))
save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})

run("convert", model, WORK / "ours.gguf", "-q")
reference_converter.convert(model, WORK / "theirs.gguf", "bf16")
ours, theirs = (GGUFReader(WORK / f"{who}.gguf") for who in ("ours", "theirs"))
assert [(t.name, t.tensor_type, list(t.shape), t.data.tobytes()) for t in ours.tensors] == \
       [(t.name, t.tensor_type, list(t.shape), t.data.tobytes()) for t in theirs.tensors], "tensors, or their order, differ"
keys = [k for k in theirs.fields if not k.startswith(("tokenizer.", "GGUF."))]
assert {k: ours.fields[k].contents() for k in keys} == {k: theirs.fields[k].contents() for k in keys}
print(f"{len(ours.tensors)} tensors and {len(keys)} keys equal to the reference converter's")

run("convert", model, WORK / "dense", "--outtype", "f32", "-q")
dense = load_file(WORK / "dense" / "model.safetensors")
for name in [n[:-7] for n in tensors if n.endswith("_blocks")]:
    want = convert_moe_packed_tensors(tensors[name + "_blocks"], tensors[name + "_scales"], dtype=torch.float32)
    assert torch.equal(dense[name], want), name
print("decoded weights equal transformers'")

for source in ("ours.gguf", "model"):
    folder = WORK / f"back-{source[:4]}"
    run("convert", WORK / source, folder, "-q")
    back = load_file(folder / "model.safetensors")
    assert sorted(back) == sorted(tensors)
    for name, t in back.items():  # what GGUF has as f32 comes back as the type of the rest
        same = torch.equal(t, tensors[name]) if t.dtype == tensors[name].dtype else torch.equal(t.float(), tensors[name].float())
        assert same and (t.dtype == torch.uint8) == (tensors[name].dtype == torch.uint8), name
    again = json.loads((folder / "config.json").read_text())
    assert again["quantization_config"] == config["quantization_config"]
print("and back: the stored blocks and scales, bit for bit")

ids = ",".join(map(str, range(1, 40)))
logits = []
for source in ("model", "ours.gguf", "dense", "back-ours"):
    run("forward", WORK / source, "--ids", ids, "-o", WORK / f"{source}.st", "--capture", "logits", "-q")
    logits.append(load_file(WORK / f"{source}.st")["logits"])
assert all(torch.equal(x, logits[0]) for x in logits), "logits differ"
print("logits equal from all four")

# compressed-tensors NVFP4: blocks, and the global scales as factors beside them.
tiny = DATA / "models/tiny/qwen3_moe"
config = json.loads((tiny / "config.json").read_text()) | {"quantization_config": {
    "quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "quantization_status": "compressed", "config_groups": {"group_0": {
        "targets": ["Linear"], "format": "nvfp4-pack-quantized", "weights": {
            "num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16}}}}}
tensors = load_file(tiny / "model.safetensors")
config["moe_intermediate_size"] = 64  # the reference wants all experts quantized, and rows of whole blocks
for name in [n for n in tensors if n.endswith(("_proj.weight"))]:
    rows, columns = (64, 64) if ".experts." in name else tensors[name].shape
    del tensors[name]
    tensors[name + "_packed"] = torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8)
    tensors[name + "_scale"] = torch.randint(0x20, 0x60, (rows, columns // 16), dtype=torch.uint8).view(torch.float8_e4m3fn)
    tensors[name + "_global_scale"] = torch.rand(1) * 1000 + 100
    tensors[name[:-7] + ".input_global_scale"] = torch.rand(1) * 1000 + 100
model = WORK / "nvfp4"
model.mkdir()
(model / "config.json").write_text(json.dumps(config))
save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
run("convert", model, WORK / "nv-ours.gguf", "-q")
reference_converter.convert(model, WORK / "nv-theirs.gguf", "bf16")
ours, theirs = ({t.name: (t.tensor_type, list(t.shape), t.data.tobytes()) for t in GGUFReader(WORK / f"nv-{who}.gguf").tensors} for who in ("ours", "theirs"))
different = [n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n)]
assert not different, different
print(f"NVFP4: {len(ours)} tensors equal to the reference converter's, {sum(t[0].name == 'NVFP4' for t in ours.values())} of them blocks")
