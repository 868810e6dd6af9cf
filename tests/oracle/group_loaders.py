"""AWQ, GPTQ and compressed-tensors directories of ours in the programs that they are for: no tensor missing, logits within a KL of
1e-4 of our own forward pass on the same files. Needs gptqmodel, optimum and compressed-tensors beside transformers 5; AutoAWQ, which wants transformers 4.51, is asked
when AUTOAWQ_PYTHON names an interpreter that has it, and mlx-lm (mlx has a CPU build) when MLX_PYTHON does. All on a CPU."""
import os
import subprocess
import sys

import torch
from safetensors.torch import load_file, save_file

from peers import DATA, SAMPLES, WORK, run

# They compute in F16, we in F32. mlx-lm is run in F32.
LIMIT, MLX_LIMIT = 1e-4, 1e-9
ENV = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "GPTQMODEL_CPU_WORKERS": "2"}

# AutoAWQ refuses to load without a GPU; its layers work on a CPU when the model is put together here, as it does itself.
AUTOAWQ = """
import glob, sys, torch
import awq.modules.linear.gemm as gemm
from awq.modules.linear import WQLinear_GEMM
from awq.utils.module import exclude_layers_to_not_quantize, get_named_linears, set_op_by_name
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
folder, ids, out = sys.argv[1:]
gemm.TRITON_AVAILABLE = False
config = AutoConfig.from_pretrained(folder)
how = config.quantization_config
del config.quantization_config
model = AutoModelForCausalLM.from_config(config, torch_dtype=torch.float16)
for layer in model.model.layers:
    for name, linear in exclude_layers_to_not_quantize(get_named_linears(layer), how.get("modules_to_not_convert")).items():
        set_op_by_name(layer, name, WQLinear_GEMM.from_linear(linear, how["bits"], how["group_size"], True))
tensors = {}
for file in glob.glob(folder + "/*.safetensors"):
    tensors.update(load_file(file))
missing, unexpected = model.load_state_dict(tensors, strict=False)
assert not missing and not unexpected, (missing, unexpected)
with torch.no_grad():
    save_file({"logits": model.half().eval()(load_file(ids)["input_ids"]).logits.float()}, out)
"""
GPTQMODEL = """
import sys, torch
from gptqmodel import BACKEND, GPTQModel
from safetensors.torch import load_file, save_file
folder, ids, out, backend = sys.argv[1:]
model = GPTQModel.load(folder, device="cpu", dtype=torch.float16, backend=BACKEND(backend)).model.eval()
kinds = {type(m).__name__ for m in model.modules() if "Linear" in type(m).__name__}
assert any(backend.split("_")[0] in k.lower() or "Torch" in k for k in kinds), kinds
with torch.no_grad():
    save_file({"logits": model(load_file(ids)["input_ids"]).logits.float()}, out)
"""
TRANSFORMERS = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPTQConfig
folder, ids, out = sys.argv[1:]
how = GPTQConfig(bits=4, backend="gptq_torch")  # the backend alone is taken: any other compiles for minutes first
model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16, device_map="cpu", output_loading_info=True,
                                                   quantization_config=how)
assert not any(info.values()), info
kinds = {type(m).__name__ for m in model.modules() if "Linear" in type(m).__name__}
assert len(kinds) > 1, f"no quantized layer: {kinds}"
with torch.no_grad():
    save_file({"logits": model.eval()(load_file(ids)["input_ids"]).logits.float()}, out)
"""
COMPRESSED = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig
folder, ids, out = sys.argv[1:]
model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", output_loading_info=True,
                                                   quantization_config=CompressedTensorsConfig(dequantize=True))
assert not any(info.values()), info
with torch.no_grad():
    save_file({"logits": model.eval()(load_file(ids)["input_ids"]).logits.float()}, out)
"""
MLX = """
import pathlib, sys
import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.utils import load_model
folder, ids, out = sys.argv[1:]
model, _ = load_model(pathlib.Path(folder), strict=True)
assert any("Quantized" in type(m).__name__ for _, m in model.named_modules())
model.update(tree_map(lambda a: a.astype(mx.float32) if mx.issubdtype(a.dtype, mx.floating) else a, model.parameters()))
mx.save_safetensors(out, {"logits": model(mx.load(ids)["input_ids"].astype(mx.int32))})
"""
# Quantized by mlx-lm itself, routers and embeddings too.
MLX_WRITES = """
import pathlib, sys
import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.utils import load_model, quantize_model, save_config, save_model
source, folder, ids, out, group, bits, mode = sys.argv[1:]
model, config = load_model(pathlib.Path(source), strict=True)
model, config = quantize_model(model, config, int(group), int(bits), mode=mode)
save_model(folder, model)
save_config(config, folder + "/config.json")
model.update(tree_map(lambda a: a.astype(mx.float32) if mx.issubdtype(a.dtype, mx.floating) else a, model.parameters()))
mx.save_safetensors(out, {"logits": model(mx.load(ids)["input_ids"].astype(mx.int32))})
"""
dense, mixture = SAMPLES / "donors/prose", WORK / "mixture"
run("merge", DATA / "golden/merge/moe4_hidden.yml", mixture, "-q")
save_file({"input_ids": torch.arange(1, 1025).reshape(4, 256) * 7 % 1021 + 1}, WORK / "ids.safetensors")
TEXT = ["--text", SAMPLES / "text/calibration_prose.txt", "--samples", "8", "--ctx", "256"]


def divergence(reference, other):
    p, q = reference.double().log_softmax(-1), other.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


def check(loader, python, script, source, *options, engine, extra=(), limit=LIMIT):
    name = f"{loader}.{source.name}." + "".join(str(o) for o in options if o not in TEXT).replace("/", "").strip("-")
    run("quantize", source, WORK / name, *options, "-q", "--progress", "none")
    run("check", WORK / name, "--for", engine)
    run("forward", WORK / name, "--tokens", WORK / "ids.safetensors", "--capture", "logits", "-o", WORK / f"{name}.ours.safetensors", "-q")
    done = subprocess.run([python, "-c", script, WORK / name, WORK / "ids.safetensors", WORK / f"{name}.theirs.safetensors", *extra], env=ENV,
                          capture_output=True, text=True)
    assert done.returncode == 0, f"{name}: {done.stderr[-3000:]}"
    assert "MISSING" not in done.stderr + done.stdout, f"{name}: {done.stderr[-3000:]}"
    kl = divergence(load_file(WORK / f"{name}.theirs.safetensors")["logits"], load_file(WORK / f"{name}.ours.safetensors")["logits"])
    print(f"{loader}: {source.name}, {' '.join(str(o) for o in options if o not in TEXT)}: KL {kl:.1e}", flush=True)
    assert kl < limit


autoawq, mlx = os.environ.get("AUTOAWQ_PYTHON"), os.environ.get("MLX_PYTHON")
for name in ("AUTOAWQ_PYTHON", "MLX_PYTHON"):
    if name not in os.environ:
        print(f"{name} is not set: not asked")
for source in (dense, mixture) if mlx else ():
    check("mlx-lm", mlx, MLX, source, "AWQ", *TEXT, "--group-size", "64", "--format", "mlx", engine="mlx", limit=MLX_LIMIT)
    check("mlx-lm", mlx, MLX, source, "GPTQ", *TEXT, "--group-size", "64", "--format", "mlx", engine="mlx", limit=MLX_LIMIT)
    check("mlx-lm", mlx, MLX, source, "RTN", "--bits", "3", "--group-size", "64", "--format", "mlx", engine="mlx", limit=MLX_LIMIT)
for source in (dense, mixture) if mlx else ():
    for group, bits, mode in ((64, 4, "affine"), (32, 5, "affine"), (32, 4, "mxfp4"), (32, 8, "mxfp8"), (16, 4, "nvfp4")):
        name = f"by-mlx.{source.name}.{mode}{bits}"
        (WORK / name).mkdir()
        subprocess.run([mlx, "-c", MLX_WRITES, source, WORK / name, WORK / "ids.safetensors", WORK / f"{name}.theirs.safetensors", str(group), str(bits), mode],
                       env=ENV, check=True, capture_output=True)
        run("forward", WORK / name, "--tokens", WORK / "ids.safetensors", "--capture", "logits", "-o", WORK / f"{name}.ours.safetensors", "-q")
        kl = divergence(load_file(WORK / f"{name}.theirs.safetensors")["logits"], load_file(WORK / f"{name}.ours.safetensors")["logits"])
        print(f"by mlx-lm: {source.name}, {bits} bits {mode}: KL {kl:.1e}", flush=True)
        assert kl < MLX_LIMIT
for source in (dense, mixture) if autoawq else ():
    check("AutoAWQ", autoawq, AUTOAWQ, source, "AWQ", *TEXT, "--group-size", "64", engine="autoawq")
    check("AutoAWQ", autoawq, AUTOAWQ, source, "RTN", "--group-size", "-1", engine="autoawq")
for source in (dense, mixture):
    check("GPTQModel", sys.executable, GPTQMODEL, source, "AWQ", *TEXT, "--group-size", "64", "--layout", "v5", engine="gptqmodel", extra=["awq_torch"])
    check("GPTQModel", sys.executable, GPTQMODEL, source, "GPTQ", *TEXT, "--symmetric", "--layout", "v5", engine="gptqmodel", extra=["gptq_torch"])
check("GPTQModel", sys.executable, GPTQMODEL, dense, "GPTQ", *TEXT, "--group-size", "64", engine="gptqmodel", extra=["gptq_torch"])
check("GPTQModel", sys.executable, GPTQMODEL, dense, "GPTQ", *TEXT, "--bits", "3", "--format", "gptq_v2", engine="gptqmodel", extra=["gptq_torch"])
for options in (["--symmetric"], ["--bits", "8", "--symmetric", "--group-size", "-1"], ["--group-size", "64"]):
    check("transformers + optimum", sys.executable, TRANSFORMERS, dense, "GPTQ", *TEXT, *options, engine="transformers5")
CT = ["--format", "compressed-tensors"]
for source in (dense, mixture):
    check("transformers, decoded", sys.executable, COMPRESSED, source, "AWQ", *TEXT, "--group-size", "64", "--symmetric", *CT, engine="transformers5")
    check("transformers, decoded", sys.executable, COMPRESSED, source, "GPTQ", *TEXT, "--bits", "8", "--symmetric", *CT, engine="transformers5")
check("transformers, decoded", sys.executable, COMPRESSED, dense, "AWQ", *TEXT, "--group-size", "64", *CT, engine="transformers5")
