"""Mixtures as mlx-lm has them: the experts of a layer stacked in one tensor for each projection. Read as the weights of the experts
that they hold, in every family with the name mlx-lm has there; written where mlx-lm joins the weights of experts but not their scales."""
import json

import common
from common import WORK, check, run, same

TINY = common.DATA / "models" / "tiny"
INNER = 64  # the tiny models' 48 are no whole groups
QWEN = ("mlp.experts.{e}.{p}", "mlp.switch_mlp.{p}")
BLOCK = ("block_sparse_moe.experts.{e}.{w}", "block_sparse_moe.switch_mlp.{p}")
SWIGLU = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
FAMILIES = {  # a tensor of one expert, of all; families that are written as stacks
    "mixtral": BLOCK, "phimoe": BLOCK, "minimax_m2": BLOCK, "granitemoe": ("block_sparse_moe.experts.{e}.{p}", BLOCK[1]), "qwen2_moe": QWEN, "qwen3_moe": QWEN, "olmoe": QWEN,
    "hunyuan_v1_moe": QWEN, "glm4_moe": QWEN, "dots1": ("mlp.experts.{e}.{p}", "mlp.experts.{p}"), "deepseek": QWEN, "deepseek_v2": QWEN,
    "deepseek_v3": QWEN}
STACKED = {"minimax_m2", "granitemoe", "qwen3_moe"}


def write(name, config, tensors):
    folder = common.fresh(name)
    (folder / "config.json").write_text(json.dumps(config))
    common.write_safetensors(folder / "model.safetensors", tensors)
    return folder


def wider(t):
    """48 rows or columns of each matrix become 64, and 96 rows 128: the first ones again."""
    rows, cols = t.shape[-2:]
    out, new = bytearray(), {48: 64, 96: 128}
    for m in range(0, len(t.data), rows * cols * 2):
        lines = [t.data[i:i + cols * 2] for i in range(m, m + rows * cols * 2, cols * 2)]
        lines = [line + line[:2 * (new.get(cols, cols) - cols)] for line in lines]
        for half in range(0, rows, 48) if rows in new else ():
            out += b"".join(lines[half:half + 48] + lines[half:half + 16])
        out += b"" if rows in new else b"".join(lines)
    return common.Tensor(t.dtype, [*t.shape[:-2], new.get(rows, rows), new.get(cols, cols)], bytes(out))


def smaller(t, new):
    """Fewer rows or columns: the first ones."""
    *rows, cols = t.shape
    lines = [t.data[r * cols * 2:(r * cols + new.get(cols, cols)) * 2] for r in range(rows[0] if rows else 1)]
    if rows:
        lines, rows = lines[:new.get(rows[0], rows[0])], [new.get(rows[0], rows[0])]
    return common.Tensor(t.dtype, [*rows, new.get(cols, cols)], b"".join(lines))


def model(family):
    config = json.loads((TINY / family / "config.json").read_text())
    inner = "moe_intermediate_size" if "moe_intermediate_size" in config else "intermediate_size"
    tensors = common.read_hf_dir(TINY / family)
    for n, t in tensors.items() if config[inner] == 48 else ():
        if any(x in n for x in (".experts.", "_experts.", "_linear.")) or "shared_mlp" in n:
            tensors[n] = wider(t)
    config[inner] = max(config[inner], INNER) if config[inner] == 48 else config[inner]
    for key, of in (("shared_expert_intermediate_size", ".shared_expert."), ("q_lora_rank", ".q_")):  # 80; 40
        if config.get(key) and not config[key] % 32 == 0:
            config[key] = new = config[key] // 32 * 32
            for n in [n for n in tensors if of in n]:
                tensors[n] = smaller(tensors[n], {80: 64, 40: 32})
    return config, tensors


def layers_of(config):
    return range(config["num_hidden_layers"])


def experts_of(config):
    return config.get("num_local_experts") or config.get("num_experts") or config["n_routed_experts"]


def joined(family, config, tensors):
    """Tensors of single experts below each other, as mlx-lm's sanitize stacks them."""
    one, all_of_them = FAMILIES[family]
    out = dict(tensors)
    for layer in layers_of(config):
        for proj, name in SWIGLU.items():
            for part in ("weight", "scales", "biases"):
                names = [f"model.layers.{layer}." + one.format(e=e, w=proj, p=name) + f".{part}"
                         for e in range(experts_of(config))]
                if names[0] in out:
                    each = [out.pop(n) for n in names]
                    out[f"model.layers.{layer}." + all_of_them.format(p=name) + f".{part}"] = common.Tensor(
                        each[0].dtype, [len(each), *each[0].shape], b"".join(t.data for t in each))
    return out


def apart(family, config, tensors):
    """The reverse."""
    one, all_of_them = FAMILIES[family]
    out = dict(tensors)
    for layer in layers_of(config):
        for proj, name in SWIGLU.items():
            for part in ("weight", "scales", "biases"):
                stack = out.pop(f"model.layers.{layer}." + all_of_them.format(p=name) + f".{part}", None)
                for e in range(stack.shape[0] if stack else 0):
                    size = len(stack.data) // stack.shape[0]
                    out[f"model.layers.{layer}." + one.format(e=e, w=proj, p=name) + f".{part}"] = common.Tensor(
                        stack.dtype, stack.shape[1:], stack.data[e * size:(e + 1) * size])
    return out


def dense(folder):
    run("convert", folder, WORK / "dense", "--outtype", "f32", "-q", "--force")
    return {n: (t.dtype, t.shape, t.sha256()) for n, t in common.read_hf_dir(WORK / "dense").items()}


for family in FAMILIES:
    config, tensors = model(family)
    plain = write(f"{family}.plain", config, tensors)
    run("quantize", plain, WORK / f"{family}.q", "RTN", "--format", "mlx", "--group-size", 32, "-q")
    stored = common.read_hf_dir(WORK / f"{family}.q")
    about = json.loads((WORK / f"{family}.q/config.json").read_text())
    stacks = {n for n, t in stored.items() if n.endswith(".scales") and len(t.shape) == 3}
    same(bool(stacks), family in STACKED, f"{family}: are stacks written? {sorted(stored)}")
    other = (apart if stacks else joined)(family, config, stored)
    check(set(other) != set(stored), f"{family}: the test moves nothing")
    write(f"{family}.other", about, other)
    want = dense(WORK / f"{family}.q")
    same(dense(WORK / f"{family}.other"), want, f"{family}: stacks and single experts")
    same(sorted(want), sorted(dense(plain)), f"{family}: names")
    said = run("check", WORK / f"{family}.{'other' if stacks else 'q'}", "--for", "mlx", expect=1 if stacks else 0)
    check(not stacks or "stacks" in said.out + said.err, f"{family}: {said.out}{said.err}")
    run("check", WORK / f"{family}.{'q' if stacks else 'other'}", "--for", "mlx", "--deep")

# Logits, weights judged, GGUF: what is done with a model whose experts are stacked.
(WORK / "ids.txt").write_text("1 5 9 200 17 31 4 90\n")
for family in ("mixtral", "qwen3_moe"):
    for form in ("q", "other"):
        run("forward", WORK / f"{family}.{form}", "--ids", "1,5,9,200", "-o", WORK / f"{form}.st", "-q", "--force")
        run("convert", WORK / f"{family}.{form}", WORK / f"{form}.gguf", "-q", "--force")
    same(common.sha256(WORK / "q.st"), common.sha256(WORK / "other.st"), f"{family}: logits")
    same({n: t.sha256() for n, t in common.read_gguf(WORK / "q.gguf")[1].items()},
         {n: t.sha256() for n, t in common.read_gguf(WORK / "other.gguf")[1].items()}, f"{family}: GGUF")
    judged = [run("verify", WORK / f"{family}.plain", WORK / f"{family}.{form}", "--weights", "--tokens", WORK / "ids.txt", "--json", "-q").json()["candidates"][0]["tensors"]
              for form in ("q", "other")]
    same(*[sorted(t["rmse"] for t in tensors) for tensors in judged], f"{family}: --weights")
run("quantize", WORK / "qwen3_moe.plain", WORK / "again", "RTN", "--format", "mlx", "--group-size", 32, "-q", "-t", 3)
same(common.tree(WORK / "again")["model.safetensors"], common.tree(WORK / "qwen3_moe.q")["model.safetensors"], "threads")
run("verify", WORK / "qwen3_moe.plain", WORK / "again", "--provenance", WORK / "again/model.manifest.json", "-q")

# Latent attention: keys and values of a head in matrices of their own, the keys' turned.
config, tensors = model("deepseek_v3")
plain = write("latent.plain", config, tensors)
heads, nope, head, rank = config["num_attention_heads"], config["qk_nope_head_dim"], config["v_head_dim"], config["kv_lora_rank"]
for layer in layers_of(config):
    prefix = f"model.layers.{layer}.self_attn."
    rows = tensors.pop(prefix + "kv_b_proj.weight").data
    rows = [rows[i:i + 2 * rank] for i in range(0, len(rows), 2 * rank)]
    keys, values = b"", b""
    for h in range(heads):
        block = rows[h * (nope + head):(h + 1) * (nope + head)]
        keys += b"".join(r[2 * c:2 * c + 2] for c in range(rank) for r in block[:nope])
        values += b"".join(block[nope:])
    tensors[prefix + "embed_q.weight"] = common.Tensor("BF16", [heads, rank, nope], keys)
    tensors[prefix + "unembed_out.weight"] = common.Tensor("BF16", [heads, head, rank], values)
same(dense(write("latent.apart", config, tensors)), dense(plain), "latent attention")

# What does not fit together.
config, stored = json.loads((WORK / "qwen3_moe.q/config.json").read_text()), common.read_hf_dir(WORK / "qwen3_moe.q")
name = "model.layers.0.mlp.switch_mlp.up_proj"
for words, part, shape in (([f"{name}.scales", "64, 2", "8, 64, 2"], "scales", [512, 2]), ([f"{name}.biases", "8, 128, 1"], "biases", [8, 128, 1]),
                           ([f"{name}.weight", "dimensions"], "weight", [2, 4, 64, 8]), ([f"{name}.weight", "24 input columns", "group size"], "weight", [8, 128, 3])):
    t = stored[f"{name}.{part}"]
    size = {"weight": 4, "scales": 2, "biases": 2}[part]
    n = size
    for d in shape:
        n *= d
    write("bad", config, {**stored, f"{name}.{part}": common.Tensor(t.dtype, shape, bytes(n))})
    common.refused(3, words, f"{part} of {shape}", "convert", WORK / "bad", WORK / "never")
common.done()
