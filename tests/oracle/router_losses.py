"""moegraft-route --report: balance loss by transformers' load_balancing_loss_func, z loss and condition by torch."""
import json

import torch
import transformers
from safetensors.torch import load_file
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from peers import SAMPLES, WORK, run

# Router logits of two f32 forward passes; a token whose choice is a tie within rounding would show as 1 / tokens.
LIMIT = 1e-4
torch.manual_seed(1)
ids = torch.cat([torch.ones(4, 1, dtype=torch.long), torch.randint(3, 1000, (4, 255))], 1)
(WORK / "ids.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in ids.tolist()))
run("merge", SAMPLES / "moe4.yml", WORK / "moe4", "-q")
model = transformers.AutoModelForCausalLM.from_pretrained(WORK / "moe4", dtype=torch.float32).eval()
for k in (1, 2, 3):
    out = run("route", WORK / "moe4", "--report", "--tokens", WORK / "ids.txt", "--experts-per-token", k, "--json")
    ours = json.loads(out)["models"][0]
    for layer in model.model.layers:
        layer.mlp.gate.top_k = k
    model.config.num_experts_per_tok = k
    with torch.no_grad():
        logits = model(ids, output_router_logits=True).router_logits
    weights = load_file(WORK / "moe4/model.safetensors")
    pairs = [("balance loss", ours["balance_loss"], load_balancing_loss_func(logits, 4, k))]
    for i, layer in enumerate(ours["layers"]):
        pairs.append((f"balance loss {i}", layer["balance_loss"], load_balancing_loss_func((logits[i],), 4, k)))
        pairs.append((f"z loss {i}", layer["z_loss"], logits[i].double().logsumexp(-1).square().mean()))
        rows = weights[f"model.layers.{i}.block_sparse_moe.gate.weight"].double()
        s = torch.linalg.svdvals(rows - rows.mean(0))
        pairs.append((f"condition {i}", layer["condition"], s[0] / s[-2]))
    worst = max(abs(a / float(b) - 1) for _, a, b in pairs)
    print(f"k = {k}: balance loss {ours['balance_loss']:.5f}, transformers {float(pairs[0][2]):.5f}; largest relative difference of {len(pairs)} figures {worst:.1e}")
    assert worst < LIMIT, pairs
