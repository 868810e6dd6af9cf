"""moegraft-convert --as: the other family's stock class in transformers computes what our pass does of the original. And
Qwen3-Next of full attention with gates that are not zero, made by transformers, in our pass."""
import shutil

import torch
import transformers
from safetensors.torch import load_file

from peers import DATA, SAMPLES, WORK, run

LIMIT = 2e-5  # of the RMS of the logits: both sum in f32 in other orders
ids = [[1, 30, 17, 84, 9, 77, 51, 23, 64, 5, 90, 33, 71, 44, 18, 26]]
(WORK / "ids.txt").write_text(" ".join(map(str, ids[0])) + "\n")


def compare(original, stock):
    (WORK / "x.safetensors").unlink(missing_ok=True)
    run("forward", original, "--tokens", WORK / "ids.txt", "--capture", "logits", "-o", WORK / "x.safetensors")
    ours = load_file(WORK / "x.safetensors")["logits"]
    model, info = transformers.AutoModelForCausalLM.from_pretrained(stock, dtype=torch.float32, output_loading_info=True)
    wrong = {k: v for k, v in info.items() if v}
    assert not wrong, f"{stock}: {wrong}"
    with torch.no_grad():
        theirs = model.eval()(torch.tensor(ids)).logits
    error = ((ours - theirs).abs().max() / theirs.square().mean().sqrt()).item()
    print(f"{original.name} as {type(model).__name__}: largest difference {error:.1e} of the RMS of the logits")
    assert error < LIMIT, error


run("merge", SAMPLES / "recipes/mesh2x2.yml", WORK / "mesh", "-q")
for name, source, family in (("mesh", WORK / "mesh", "mixtral"), ("no_exchange", DATA / "models/tiny/mesh_no_exchange", "mixtral"),
                             ("nekomind", DATA / "models/tiny/nekomind", "qwen3_next"), ("untied", DATA / "models/tiny/nekomind_untied", "qwen3_next")):
    run("convert", source, WORK / f"{name}-stock", "--as", family, "-q")
    compare(source, WORK / f"{name}-stock")
torch.manual_seed(3)
config = transformers.Qwen3NextConfig(vocab_size=320, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                                      head_dim=32, layer_types=["full_attention"] * 3, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=48,
                                      shared_expert_intermediate_size=40, mlp_only_layers=[1], partial_rotary_factor=0.5)
model = transformers.Qwen3NextForCausalLM(config)
for name, p in model.named_parameters():
    torch.nn.init.normal_(p, std=0.3 if "norm" in name else 0.2)
shutil.rmtree(WORK / "gates", ignore_errors=True)
model.save_pretrained(WORK / "gates")
compare(WORK / "gates", WORK / "gates")
