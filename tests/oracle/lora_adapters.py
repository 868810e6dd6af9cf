"""Adapters saved by PEFT (`pip install peft`) merged by it (merge_and_unload) and by us: every tensor within a step of bfloat16, taken at the
larger of weight and change (PEFT rounds the change of an embedding to the weight's type before it adds; we round once)."""
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from peers import DATA, WORK, run

warnings.filterwarnings("ignore")
CASES = {
    "plain": ("llama", {"target_modules": ["q_proj", "down_proj"]}),
    "patterns": ("llama", {"target_modules": ["q_proj", "down_proj", "up_proj"], "use_rslora": True, "rank_pattern": {"q_proj": 2},
                           "alpha_pattern": {"layers.1.mlp.down_proj": 3, "up_proj": 7}}),
    "DoRA": ("llama", {"target_modules": ["q_proj", "down_proj"], "use_dora": True}),
    "embedding and head": ("llama", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "modules_to_save": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm"]}),
    "all biases": ("qwen2", {"target_modules": ["q_proj", "down_proj"], "bias": "all"}),
    "biases of adapted layers": ("qwen2", {"target_modules": ["q_proj", "down_proj"], "bias": "lora_only"}),
    "bias of B": ("qwen2", {"target_modules": ["q_proj", "k_proj"], "lora_bias": True}),
    "fan_in_fan_out": ("llama", {"target_modules": ["q_proj"], "fan_in_fan_out": True}),
    "pickle": ("llama", {"target_modules": ["q_proj"]}),
    "bfloat16": ("llama", {"target_modules": ["q_proj"]}),
}


def base(family):
    return AutoModelForCausalLM.from_pretrained(DATA / "models/tiny" / family, dtype=torch.bfloat16)


for number, (name, (family, config)) in enumerate(CASES.items()):
    torch.manual_seed(number)
    model = get_peft_model(base(family), LoraConfig(r=4, lora_alpha=6, **config))
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.requires_grad:
                p.mul_(1 + 0.1 * torch.rand_like(p)) if "magnitude" in key else p.normal_(std=0.1) if "lora_" in key else p.add_(0.1 * torch.randn_like(p))
    if name == "bfloat16":
        model = model.to(torch.bfloat16)
    folder, recipe = WORK / f"adapter{number}", WORK / "recipe.yml"
    model.save_pretrained(folder, safe_serialization=name != "pickle")
    PeftModel.from_pretrained(base(family), folder).merge_and_unload().save_pretrained(WORK / f"peft{number}")
    recipe.write_text(f"models:\n  - model: {DATA / 'models/tiny' / family}+{folder}\n    parameters: {{weight: 1.0}}\nmerge_method: linear\n"
                      "dtype: bfloat16\n")
    run("merge", recipe, WORK / f"ours{number}", "-q")
    ours, theirs, before = (load_file(d / "model.safetensors") for d in (WORK / f"ours{number}", WORK / f"peft{number}", DATA / "models/tiny" / family))
    assert set(ours) == set(theirs), set(ours) ^ set(theirs)
    unequal = changed = 0
    for key, x in ours.items():
        a, b, w = x.float(), theirs[key].float(), before[key].float()
        size = torch.stack([a.abs(), b.abs(), w.abs(), (b - w).abs()]).amax(0).clamp(min=1e-30)
        worst = ((a - b).abs() / 2 ** (size.log2().floor() - 7)).max().item()
        assert worst <= 1, f"{name}: {key} is off by {worst} steps"
        unequal += (a != b).sum().item()
        changed += not torch.equal(b, w)
    assert changed, name
    print(f"{name}: {changed} tensors changed, {unequal} of {sum(x.numel() for x in ours.values())} elements a step apart")
