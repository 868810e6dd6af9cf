"""The reference mixture of experts: the four donors of tests/data as a Mixtral with mergekit's `hidden` gates, built here
from its parts so that no test depends on our own merge. Import after common."""
import json
import shutil
import struct

from common import DATA, Tensor, check, read_safetensors, write_safetensors

DONORS = ("prose", "code", "math", "json")


def to_bf16(t):
    """F32 -> BF16. The golden gates were computed in bfloat16, so nothing is lost, and that is checked."""
    words = struct.unpack(f"<{len(t.data) // 4}I", t.data)
    check(all(w & 0xFFFF == 0 for w in words), "a gate is no bfloat16 number")
    return Tensor("BF16", t.shape, struct.pack(f"<{len(words)}H", *(w >> 16 for w in words)))


def build(folder):
    """Write the model into folder (its last component becomes general.name) and return folder."""
    folder.mkdir(parents=True)
    base = read_safetensors(DATA / "models/donors/base/model.safetensors")[1]
    gates = read_safetensors(DATA / "golden/merge/gates_hidden.safetensors")[1]
    experts = [read_safetensors(DATA / f"models/donors/{d}/model.safetensors")[1] for d in DONORS]
    tensors = {name: t for name, t in base.items() if ".mlp." not in name}
    for name in base:
        if ".mlp." not in name:
            continue
        layer, part = name.split(".mlp.")
        w = {"gate_proj.weight": "w1", "down_proj.weight": "w2", "up_proj.weight": "w3"}[part]
        for e, donor in enumerate(experts):
            tensors[f"{layer}.block_sparse_moe.experts.{e}.{w}.weight"] = donor[name]
    tensors.update({name: to_bf16(t) for name, t in gates.items()})
    write_safetensors(folder / "model.safetensors", dict(sorted(tensors.items())), {"format": "pt"})
    config = json.loads((DATA / "models/donors/base/config.json").read_text())
    config |= {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": len(DONORS),
               "num_experts_per_tok": 2, "output_router_logits": False, "router_aux_loss_coef": 0.001,
               "router_jitter_noise": 0.0}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for name in ("special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copy(DATA / "models/donors/base" / name, folder / name)
    return folder
