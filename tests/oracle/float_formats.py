"""FP8, NVFP4 and MXFP4 of compressed-tensors: the bytes of llm-compressor's data-free quantization of the same model, and what
transformers makes of them. Needs compressed-tensors and llmcompressor beside transformers 5."""
import json
import subprocess
import sys

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from peers import DATA, SAMPLES, WORK, run

# Their dequantized weights are rounded to the type of their scales, BF16; ours are not.
LIMIT = 1e-4
THEIRS = """
import sys, torch
torch.Tensor.pin_memory = lambda self, *x, **k: self  # pinned without asking for a GPU
from transformers import AutoModelForCausalLM
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
source, out, scheme, dtype = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype))
oneshot(model=model, recipe=[QuantizationModifier(targets="Linear", ignore=["lm_head", "re:.*gate$"], scheme=scheme)])
model.save_pretrained(out, save_compressed=True)
"""
dense, mixture = SAMPLES / "donors/prose", WORK / "mixture"
run("merge", DATA / "golden/merge/moe4_hidden.yml", mixture, "-q")
ids = torch.arange(1, 513).reshape(2, 256) * 7 % 1021 + 1
save_file({"input_ids": ids}, WORK / "ids.safetensors")
wide = WORK / "wide"
run("convert", dense, wide, "--outtype", "f32", "-q")


def quantized(source, scheme, name):
    options = ["--format", "compressed-tensors"] if scheme == "MXFP4" else []
    run("quantize", source, WORK / name, scheme, "-q", *options)
    return load_file(WORK / name / "model.safetensors")


def f32_codes(source, tensors, scheme):
    """On a GPU the library divides and rounds in f32; on a CPU in the type of the model, so BF16 quotients are rounded twice."""
    weights = load_file(source / "model.safetensors")
    for name in [n for n in tensors if n.endswith("_scale")]:
        scale, w = tensors[name].float(), weights[name[:-6]].float()
        if scheme == "FP8_BLOCK":
            scale = scale.repeat_interleave(128, 0)[:w.shape[0]].repeat_interleave(128, 1)[:, :w.shape[1]]
        tensors[name[:-6]] = (w / scale).clamp(-448, 448).to(torch.float8_e4m3fn)


for scheme in ("FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16", "MXFP4A16", "MXFP4"):
    for dtype, source in (("float32", wide), ("bfloat16", dense)):
        ours = quantized(source, scheme, f"{scheme}.{dtype}")
        out = WORK / f"theirs.{scheme}.{dtype}"
        subprocess.run([sys.executable, "-c", THEIRS, source, out, scheme, dtype], check=True, capture_output=True)
        theirs = load_file(out / "model.safetensors")
        if dtype == "bfloat16" and scheme.startswith("FP8"):
            f32_codes(source, theirs, scheme)
        assert sorted(ours) == sorted(theirs), set(ours) ^ set(theirs)
        for name, t in theirs.items():
            same = ours[name].dtype == t.dtype and ours[name].shape == t.shape and torch.equal(ours[name].view(torch.uint8), t.view(torch.uint8))
            assert same, f"{scheme} {dtype}: {name}"
        said, want = (json.loads((folder / "config.json").read_text())["quantization_config"] for folder in (WORK / f"{scheme}.{dtype}", out))
        both = [QuantizationConfig.model_validate({k: v for k, v in q.items() if k not in ("sparsity_config", "transform_config")}) for q in (said, want)]
        for q in both:
            q.config_groups["group_0"].weights.observer = None
        assert both[0].config_groups == both[1].config_groups and both[0].ignore == both[1].ignore, f"{scheme}: config {said} {want}"
        print(f"{scheme} of a {dtype} model: {len(theirs)} tensors and the scheme equal llm-compressor's", flush=True)


def divergence(reference, other):
    p, q = reference.double().log_softmax(-1), other.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


# check --for transformers5 names the two that its loader gets wrong
for source, kind, schemes in ((dense, "dense", ("FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16", "MXFP4A16")), (mixture, "mixture", ("FP8_DYNAMIC", "MXFP4A16"))):
    for scheme in schemes:
        name = f"{kind}.{scheme}"
        quantized(source, scheme, name)
        run("check", WORK / name, "--for", "transformers5")
        run("forward", WORK / name, "--tokens", WORK / "ids.safetensors", "--capture", "logits", "-o", WORK / f"{name}.safetensors", "-q")
        ours = load_file(WORK / f"{name}.safetensors")["logits"]
        model, info = AutoModelForCausalLM.from_pretrained(WORK / name, dtype=torch.float32, output_loading_info=True,
                                                           quantization_config=CompressedTensorsConfig(dequantize=True))
        assert not any(info.values()), f"{name}: {info}"
        with torch.no_grad():
            kl = divergence(model.eval()(ids).logits, ours)
        print(f"{name}: loads in transformers without a missing tensor, KL to our forward pass {kl:.1e}", flush=True)
        assert kl < LIMIT

# what transformers cannot load of mixtures, by the library's own decompressors
for scheme in ("FP8_BLOCK", "NVFP4A16"):
    tensors = quantized(mixture, scheme, f"mixture.{scheme}")
    config = QuantizationConfig.model_validate(json.loads((WORK / f"mixture.{scheme}" / "config.json").read_text())["quantization_config"])
    group = config.config_groups["group_0"]
    compressor = BaseCompressor.get_value_from_registry(group.format)
    run("convert", WORK / f"mixture.{scheme}", WORK / f"mixture.{scheme}.f32", "--outtype", "f32", "-q")
    ours = load_file(WORK / f"mixture.{scheme}.f32" / "model.safetensors")
    modules = sorted({n.rpartition(".")[0] for n in tensors if n.endswith("weight_scale")})
    for module in modules:
        parts = {n.rpartition(".")[2]: t for n, t in tensors.items() if n.rpartition(".")[0] == module}
        if scheme == "FP8_BLOCK":
            parts["weight_scale"] = parts["weight_scale"].float()
            want = compressor.decompress(parts, group)["weight"]
            assert torch.equal(want, ours[f"{module}.weight"]), module
        else:  # decoded in BF16 there
            want = compressor.decompress(parts, group)["weight"].float()
            assert (want - ours[f"{module}.weight"]).abs().max() <= want.abs().max() * 2.0 ** -7, module
    print(f"mixture.{scheme}: {len(modules)} weights as compressed-tensors decompresses them", flush=True)
