"""mergekit-moe 0.1.5's output for all four architectures, from every donor family it accepts: every tensor that is no router is ours
too, byte for byte, after its fused experts are taken apart; and the fields of config.json that say what the mixture is."""
import json
import os
import shutil
import subprocess
import sys

import torch
from safetensors.torch import load_file, save_file

from peers import DATA, WORK, run

MERGEKIT = os.path.join(os.path.dirname(sys.executable), "mergekit-moe")
TINY = DATA / "models/tiny"
TARGETS = {"mixtral": ["llama", "mistral"], "deepseek": ["llama", "mistral"], "qwen moe": ["llama", "mistral", "qwen2"], "qwen3 moe": ["qwen3"]}
FIELDS = ("model_type", "architectures", "num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts", "num_experts_per_tok",
          "norm_topk_prob", "moe_intermediate_size", "shared_expert_intermediate_size", "first_k_dense_replace", "moe_layer_freq",
          "scoring_func", "decoder_sparse_step", "mlp_only_layers", "qkv_bias", "rms_norm_eps", "hidden_size", "num_hidden_layers", "auto_map")


def donor(family, number):
    """The family's tiny checkpoint with other feed-forward blocks."""
    out = WORK / f"{family}-{number}"
    if not out.exists():
        shutil.copytree(TINY / family, out)
        tensors = load_file(out / "model.safetensors")
        generator = torch.Generator().manual_seed(number)
        for name in sorted(tensors):
            if ".mlp." in name and number:
                tensors[name] = (torch.randn(tensors[name].shape, generator=generator) * 0.05).bfloat16()
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(DATA / "models/donors/base" / name, out / name)
    return out


def apart(tensors):
    """Per-expert names of what 0.1.5 writes fused; everything under the names of ours."""
    out = {}
    for name, t in tensors.items():
        for e in range(t.shape[0] if ".mlp.experts." in name and t.dim() == 3 else 0):
            at = name.split("experts.")[0] + f"experts.{e}."
            if name.endswith("gate_up_proj"):
                out[at + "gate_proj.weight"], out[at + "up_proj.weight"] = t[e].chunk(2)
            else:
                out[at + "down_proj.weight"] = t[e]
        if not (".mlp.experts." in name and t.dim() == 3):
            out[name] = t
    return out


def plain(name):
    for ours, theirs in ((".block_sparse_moe.", ".mlp."), (".w1.", ".gate_proj."), (".w2.", ".down_proj."), (".w3.", ".up_proj.")):
        name = name.replace(ours, theirs)
    return name


cases = 0
for target, families in TARGETS.items():
    for family in families:
        for shared in ([True] if target == "qwen moe" else [False, True] if target == "deepseek" else [False]):
            base, *donors = [donor(family, n) for n in range(4)]
            text = f"base_model: {base}\ngate_mode: random\ndtype: bfloat16\narchitecture: {target}\nexperts_per_token: 2\nexperts:\n"
            text += "".join(f"  - source_model: {d}\n    residual_scale: {1 + i / 4}\n" for i, d in enumerate(donors))
            if shared:
                text += f"shared_experts:\n  - source_model: {base}\n    residual_scale: 0.5\n"
            name = f"{target.replace(' ', '_')}-{family}-{shared}"
            (WORK / f"{name}.yml").write_text(text)
            done = subprocess.run([MERGEKIT, WORK / f"{name}.yml", WORK / f"{name}-theirs", "--device", "cpu", "--random-seed", "7"],
                                  capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
            assert done.returncode == 0, done.stderr[-2000:]
            run("merge", WORK / f"{name}.yml", WORK / f"{name}-ours", "-q")
            theirs = apart(load_file(WORK / f"{name}-theirs/model.safetensors"))
            ours = {plain(k): v for k, v in load_file(WORK / f"{name}-ours/model.safetensors").items()}
            assert sorted(ours) == sorted(theirs), (name, sorted(set(ours) ^ set(theirs))[:8])
            for key, t in theirs.items():
                if key.endswith(("mlp.gate.weight", "shared_expert_gate.weight")):
                    assert ours[key].shape == t.shape, key
                else:
                    assert ours[key].dtype == t.dtype and torch.equal(ours[key].view(torch.int16), t.view(torch.int16)), (name, key)
            a, b = (json.loads((WORK / f"{name}-{who}/config.json").read_text()) for who in ("ours", "theirs"))
            differ = {f: (a.get(f), b.get(f)) for f in FIELDS if a.get(f) != b.get(f)}
            if target == "qwen3 moe":  # transformers 5 writes the count under another name, which ours has too where it had
                differ.pop("num_experts", None), differ.pop("num_local_experts", None)
            print(f"{name}: {len(theirs)} tensors equal" + (f", config differs: {differ}" if differ else ""))
            cases += 1
assert cases == 10, cases
