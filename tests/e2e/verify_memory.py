"""A model file four times larger than the memory the process may have verifies: weights and drift, under a limit that the
kernel enforces (RLIMIT_AS, which counts programs, libraries and stacks too)."""
import json
import random
import resource
import struct
import subprocess
from common import BIN, WORK, Tensor, check, done, same, write_safetensors

HIDDEN, FFN, LAYERS, VOCAB, HEADS = 1024, 3584, 8, 512, 16
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN,
          "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": VOCAB,
          "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
          "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
rng = random.Random(7)
noise = bytes(b for _ in range(1 << 16) for b in (rng.randrange(256), 0x3C | rng.randrange(2) << 7))  # bfloat16 near 0.01


def matrix(rows, cols):
    size, at = 2 * rows * cols, 2 * rng.randrange(1 << 14)
    return Tensor("BF16", [rows, cols], (noise[at:] * (size // (len(noise) - at) + 1))[:size])


def ones():
    return Tensor("BF16", [HIDDEN], struct.pack("<H", 0x3F80) * HIDDEN)


def build(folder, change=None):
    global rng
    rng = random.Random(8)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tensors = {"model.embed_tokens.weight": matrix(VOCAB, HIDDEN), "lm_head.weight": matrix(VOCAB, HIDDEN), "model.norm.weight": ones()}
    for l in range(LAYERS):
        p = f"model.layers.{l}."
        tensors |= {p + f"self_attn.{x}_proj.weight": matrix(HIDDEN, HIDDEN) for x in "qkvo"}
        tensors |= {p + "mlp.gate_proj.weight": matrix(FFN, HIDDEN), p + "mlp.up_proj.weight": matrix(FFN, HIDDEN),
                    p + "mlp.down_proj.weight": matrix(HIDDEN, FFN)}
        tensors |= {p + "input_layernorm.weight": ones(), p + "post_attention_layernorm.weight": ones()}
    if change:
        raw = bytearray(tensors[change].data)
        raw[2 * (HIDDEN * 700 + 5) + 1] ^= 0x02
        tensors[change] = Tensor("BF16", tensors[change].shape, raw)
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
    return (folder / "model.safetensors").stat().st_size


NAME = "model.layers.6.mlp.up_proj.weight"
size = build(WORK / "a")
build(WORK / "b", NAME)
(WORK / "rows.txt").write_text("1 20 30 40\n2 3 4\n")
limit = size // 4


def limited():
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


command = [str(BIN / "moegraft-verify"), str(WORK / "a"), str(WORK / "b"), "--tokens", str(WORK / "rows.txt"), "--weights", "--json", "-q",
           "-t", "1", "--memory", "16MB"]
r = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)
same((r.returncode, r.stderr), (1, ""), f"a file of {size >> 20} MiB under a limit of {limit >> 20} MiB")
c = json.loads(r.stdout)["candidates"][0]
same([t["name"] for t in c["tensors"] if t["damaged"]], [NAME], "the flipped bit")
same((c["tensors"][0]["worst_row"], c["damaged_tensors"]), (700, 1), "its place")
check(c["logits"]["max_abs"] > 0 and abs(c["kl"]["mean"]) < 1, f"drift {c['logits']} {c['kl']}")
(WORK / "a/model.safetensors").unlink()
(WORK / "b/model.safetensors").unlink()
done()
