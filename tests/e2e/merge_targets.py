"""Mixtures that are no Mixtral: Qwen2-MoE, NekoMind-style stacks and Mesh grids from dense donors; shared experts, layers that stay
dense, noise, LoRA experts. Equal donors must give the dense model back, whatever the routers say."""
import json
import math
import shutil
import struct

import common
from common import DATA, WORK, check, run, same

DONORS, TINY = DATA / "models/donors", DATA / "models/tiny"
(WORK / "few.txt").write_text("1 20 30 40 50 60 70 80 90 100 7 8 9 10 11 12\n")


def tensors(path):
    return common.read_safetensors(path / "model.safetensors")[1]


def merge(name, text, *options, **more):
    (WORK / f"{name}.yml").write_text(text)
    run("merge", WORK / f"{name}.yml", WORK / name, "-q", "--force", *options, **more)
    return tensors(WORK / name), json.loads((WORK / name / "config.json").read_text())


def logits(model, *options):
    run("forward", model, "--tokens", WORK / "few.txt", "-o", WORK / "x.safetensors", "--capture", "logits", "--force", "-q", *options)
    return common.read_safetensors(WORK / "x.safetensors")[1]["logits"].floats()


def rms(x):
    return math.sqrt(sum(v * v for v in x) / len(x))


def equal_models(a, b, what, tolerance=2e-6):
    """A weighted mean of equal expert outputs is rounded a few times more than the one output: a few ulp of f32 per layer."""
    x, y = logits(a), logits(b)
    check(rms([p - q for p, q in zip(x, y)]) <= tolerance * rms(y), f"{what}: logits differ by {rms([p - q for p, q in zip(x, y)]) / rms(y)}")


def experts(models, extra=""):
    return "experts:\n" + "".join(f"  - source_model: {m}\n    positive_prompts: ['{i} {i}']\n{extra}" for i, m in enumerate(models))


FFN = ("gate_proj", "up_proj", "down_proj")

# ---- equal donors, every family they can become ----
BASES = {"mistral": DONORS / "base", "qwen2": TINY / "qwen2", "qwen3": TINY / "qwen3", "llama": TINY / "llama"}
for family, base in BASES.items():
    dense, head = tensors(base), f"base_model: {base}\ngate_mode: random\ndtype: float32\n"
    shared = f"shared_experts:\n  - source_model: {base}\nshared_scale: exact\n"
    if family == "qwen2":  # no other family carries its biases
        same(run("merge", WORK / "none.yml", WORK / "never", "-q", expect=5).code, 5, "no recipe")
    for target in {"mistral": ("qwen2_moe", "nekomind", "mesh", "deepseek"), "llama": ("qwen2_moe", "mesh", "deepseek"), "qwen2": ("qwen2_moe", "nekomind"),
                   "qwen3": ("nekomind",)}[family]:
        text = head + f"architecture: {target}\n" + experts([base] * 4) + ("" if target == "mesh" else shared)
        found, config = merge(f"{family}-{target}", text)
        same(config["model_type"], target, "model_type")
        equal_models(WORK / f"{family}-{target}", base, f"{family} donors as {target}")
        if target != "mesh":  # what mergekit does: the shared block counts a second time, through its own router
            plain, _ = merge("twice", text.replace("shared_scale: exact\n", ""))
            x, y = logits(WORK / "twice"), logits(base)
            check(rms([p - q for p, q in zip(x, y)]) > 1e-3 * rms(y), "without shared_scale the block counts twice")
            name = "model.layers.0.mlp.experts.1.down_proj.weight"
            same([v / 2 for v in plain[name].floats()], found[name].floats(), "exact halves the down projections")

# ---- Qwen2-MoE from donors that differ: every tensor its donor's, biases zero, the shared router from its prompts ----
donors = [DONORS / d for d in ("prose", "code", "math")]
text = (f"base_model: {DONORS}/base\ngate_mode: hidden\ndtype: bfloat16\narchitecture: qwen\n" + experts(donors) +
        f"shared_experts:\n  - source_model: {DONORS}/json\n    positive_prompts: ['[1, 2]']\n    residual_scale: 0.5\n")
found, config = merge("qwen2moe", text)
base, source = tensors(DONORS / "base"), [tensors(d) for d in donors + [DONORS / "json"]]
for layer in range(4):
    for p in FFN:
        name = f"model.layers.{layer}.mlp.{p}.weight"
        for e in range(3):
            check(found[name.replace("mlp.", f"mlp.experts.{e}.")].data == source[e][name].data, f"{name} of expert {e}")
        got, want = found[name.replace("mlp.", "mlp.shared_expert.")], source[3][name]
        same(got.floats(), [v / 2 for v in want.floats()] if p == "down_proj" else want.floats(), f"shared {name}")
    for p in "qkv":
        check(not any(found[f"model.layers.{layer}.self_attn.{p}_proj.bias"].data), f"bias of {p}")
    row = found[f"model.layers.{layer}.mlp.shared_expert_gate.weight"]
    same(row.shape, [1, 256], "shape of the shared router")
    check(abs(math.sqrt(sum(v * v for v in row.floats())) - 1) < 0.01, "the shared router's row is a direction")
check(all(found[n].data == base[n].data for n in base if ".mlp." not in n), "the trunk is the base's")
for key, value in {"num_experts": 3, "num_experts_per_tok": 2, "norm_topk_prob": True, "shared_expert_intermediate_size": 512,
                   "moe_intermediate_size": 512, "decoder_sparse_step": 1, "mlp_only_layers": []}.items():
    same(config[key], value, f"Qwen2-MoE: {key}")
run("convert", WORK / "qwen2moe", WORK / "qwen2moe.gguf", "-q")
run("perplexity", WORK / "qwen2moe.gguf", "--tokens", WORK / "few.txt", "-q")

# ---- DeepSeek-MoE: what a shared expert without prompts means, as in mergekit; with prompts it is Qwen's ----
text = f"base_model: {DONORS}/base\ngate_mode: hidden\ndtype: bfloat16\n" + experts(donors) + f"shared_experts:\n  - source_model: {DONORS}/json\n"
found, config = merge("deepseek", text + "    residual_scale: 0.5\n")
for layer in range(4):
    for p in FFN:
        name = f"model.layers.{layer}.mlp.{p}.weight"
        for e in range(3):
            check(found[name.replace("mlp.", f"mlp.experts.{e}.")].data == source[e][name].data, f"{name} of expert {e}")
        got, want = found[name.replace("mlp.", "mlp.shared_experts.")], source[3][name]
        same(got.floats(), [v / 2 for v in want.floats()] if p == "down_proj" else want.floats(), f"shared {name}")
same(len(found), len([n for n in base if ".mlp." not in n]) + 4 * (1 + 3 * 4), "tensors of the DeepSeek-MoE")
check(all(found[n].data == base[n].data for n in base if ".mlp." not in n), "its trunk is the base's")
for key, value in {"architectures": ["DeepseekForCausalLM"], "model_type": "deepseek", "n_routed_experts": 3, "n_shared_experts": 1,
                   "num_experts_per_tok": 2, "first_k_dense_replace": 0, "moe_layer_freq": 1, "scoring_func": "softmax", "norm_topk_prob": True,
                   "moe_intermediate_size": 512}.items():
    same(config[key], value, f"DeepSeek-MoE: {key}")
said = run("convert", WORK / "deepseek", WORK / "deepseek.gguf", "-q").err
check("norm_topk_prob" in said and "llama.cpp does not load" not in said, f"what its GGUF loses: {said}")
keys, _ = common.read_gguf(WORK / "deepseek.gguf")
same([(k, keys[f"deepseek.{k}"]) for k in ("rope.scaling.type", "expert_weights_scale", "expert_shared_count", "leading_dense_block_count")],
     [("rope.scaling.type", "none"), ("expert_weights_scale", 1.0), ("expert_shared_count", 1), ("leading_dense_block_count", 0)], "its GGUF keys")
few, config = merge("deepseek-dense", f"base_model: {DONORS}/base\ngate_mode: random\narchitecture: deepseek moe\ndense_layers: 2\n" + experts(donors))
same((config["first_k_dense_replace"], config["n_shared_experts"]), (2, None), "dense first layers, no shared expert")
check("model.layers.1.mlp.up_proj.weight" in few and "model.layers.2.mlp.up_proj.weight" not in few, "two layers stay dense")
check("llama.cpp does not load" in run("convert", WORK / "deepseek-dense", WORK / "x.gguf", "-q").err, "without a shared expert: no warning")

# ---- a NekoMind-style stack: dense first layers, norms of q and k from Qwen3 donors, shared expert from the base ----
q3 = TINY / "qwen3"
text = f"base_model: {q3}\narchitecture: nekomind\ngate_mode: orthogonal\ndense_layers: 1\n" + experts([q3] * 4) + f"shared_experts:\n  - source_model: {q3}\n"
found, config = merge("neko", text)
same((config["mlp_only_layers"], config["qk_norm"], config["attention_bias"]), ([0], True, False), "NekoMind config")
check("model.layers.0.mlp.gate_proj.weight" in found and "model.layers.0.mlp.gate.weight" not in found, "layer 0 stays dense")
check("model.layers.1.mlp.gate.weight" in found and "model.layers.1.mlp.gate_proj.weight" not in found, "layer 1 routes")
check(found["model.layers.1.self_attn.q_norm.weight"].data == tensors(q3)["model.layers.1.self_attn.q_norm.weight"].data, "q norm")
fitted, _ = merge("neko-fit", f"base_model: {DONORS}/base\narchitecture: nekomind\ndense_layers: [0, 2]\ndtype: bfloat16\n" + experts(donors) +
                  f"shared_experts:\n  - source_model: {DONORS}/base\nshared_scale: exact\n")
same(sorted(int(n.split(".")[2]) for n in fitted if n.endswith("mlp.gate.weight")), [1, 3], "routers of the fitted stack")
check(not any(fitted["model.layers.1.mlp.shared_expert_gate.weight"].data), "exact: the shared router is zero")

# ---- a Mesh grid: zero exchange maps, the Mixtral of the same donors ----
mixed = f"base_model: {DONORS}/base\ngate_mode: hidden\ndtype: bfloat16\nexperts_per_token: 2\n" + experts(donors + [DONORS / "json"])
merge("mixtral", mixed)
found, config = merge("mesh", mixed + "architecture: mesh\ngrid: [2, 2]\n")
same((config["mesh_grid_size"], config["routing_k"], config["neighbor_exchange"]), ([2, 2], 2, True), "Mesh config")
same(sum(".exchange." in n for n in found), 4 * 8, "exchange maps of a 2x2 grid in 4 layers")
check(not any(any(t.data) for n, t in found.items() if ".exchange." in n), "exchange maps are zero")
same(logits(WORK / "mesh"), logits(WORK / "mixtral"), "a mesh without exchange is the Mixtral")
same((config["auto_map"]["AutoModelForCausalLM"], sorted(p.name for p in (WORK / "mesh").glob("*.py"))),
     ("modeling_mesh.MeshForCausalLM", ["modeling_mesh.py", "moegraft_decoder.py"]), "a mesh carries its code")
found, config = merge("mesh6", f"base_model: {DONORS}/base\ngate_mode: random\narchitecture: mesh\n" + experts(donors * 2))
same(config["mesh_grid_size"], [3, 2], "the squarest grid of 6")

# ---- noise: standard normal times the scale, in the donor's type, before residual_scale; the seed decides ----
text = f"base_model: {DONORS}/base\ngate_mode: random\ndtype: float32\n" + experts(donors, "    noise_scale: 0.5\n    residual_scale: 2\n")
found, _ = merge("noise", text)
name = "model.layers.1.block_sparse_moe.experts.2.{}.weight"
for p, w in (("gate_proj", "w1"), ("down_proj", "w2")):
    f, s = found[name.format(w)].floats(), source[2][f"model.layers.1.mlp.{p}.weight"].floats()
    scale = 2 if w == "w2" else 1
    d = [a / scale - b for a, b in zip(f, s)]
    mean, deviation = sum(d) / len(d), rms(d)
    # 131072 draws: the mean has standard error 0.0014, the deviation 0.001
    check(abs(mean) < 0.007 and abs(deviation - 0.5) < 0.005, f"noise of {p}: mean {mean}, deviation {deviation}")
    check(all(v == common.to_bf16(v) for v in f[:1000]) if hasattr(common, "to_bf16") else True, "rounded to the donor's type")
digest = common.sha256(WORK / "noise/model.safetensors")
merge("noise", text, "-t", 1, env={"MOEGRAFT_ISA": "scalar"})
same(common.sha256(WORK / "noise/model.safetensors"), digest, "noise with one scalar thread")
merge("noise", text, "--random-seed", 3)
check(common.sha256(WORK / "noise/model.safetensors") != digest, "the seed changes nothing")


# ---- LoRA experts: W + s B A, for experts and nothing else of the adapter's base ----
def write_safetensors(path, items):
    header, data = {}, b""
    for n, (shape, values) in items.items():
        blob = struct.pack(f"<{len(values)}f", *values)
        header[n] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


lora = WORK / "lora"
lora.mkdir()
A = [((i * 37) % 19 - 9) / 64 for i in range(2 * 256)]
B = [((i * 53) % 23 - 11) / 64 for i in range(512 * 2)]
target = "model.layers.1.mlp.up_proj"
write_safetensors(lora / "adapter_model.safetensors", {f"base_model.model.{target}.lora_A.weight": ([2, 256], A),
                                                       f"base_model.model.{target}.lora_B.weight": ([512, 2], B)})
(lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": False, "bias": "none"}))
for i, form in enumerate((f"{DONORS}/code+{lora}", f"{{model: {DONORS}/code, lora: {lora}}}", f"{{model: {{path: {DONORS}/code}}, lora: {{path: lora}}}}")):
    found, _ = merge("adapted", f"base_model: {DONORS}/base\ngate_mode: random\ndtype: float32\nexperts:\n  - source_model: {form}\n  - source_model: {DONORS}/prose\n")
    w = source[1][f"{target}.weight"].floats()
    got = found["model.layers.1.block_sparse_moe.experts.0.w3.weight"].floats()
    for r in (0, 17, 511):
        for k in (0, 5, 255):
            want = w[r * 256 + k] + 2 * sum(B[r * 2 + j] * A[j * 256 + k] for j in range(2))
            check(abs(got[r * 256 + k] - want) <= 2**-8 * abs(want), f"adapted weight {r} {k}")  # rounded to the donor's bf16
    check(found["model.layers.1.block_sparse_moe.experts.0.w1.weight"].floats() == source[1]["model.layers.1.mlp.gate_proj.weight"].floats(), "gate untouched")
run("perplexity", WORK / "adapted.yml", "--tokens", WORK / "few.txt", "-q")


# ---- refusals ----
shutil.copytree(TINY / "llama", WORK / "narrow")  # heads that do not fill the width
config = json.loads((WORK / "narrow/config.json").read_text())
(WORK / "narrow/config.json").write_text(json.dumps(config | {"num_attention_heads": 2, "num_key_value_heads": 1}))
items = {n: (t.shape, t.floats()) for n, t in tensors(WORK / "narrow").items()}
for n, (shape, values) in items.items():
    if "self_attn" in n:
        half = [shape[0], shape[1] // 2] if "o_proj" in n else [shape[0] // 2, shape[1]]
        items[n] = (half, values[:len(values) // 2])
write_safetensors(WORK / "narrow/model.safetensors", items)


def refuse(code, words, text):
    (WORK / "bad.yml").write_text(text)
    common.refused(code, words, text[:90], "merge", WORK / "bad.yml", WORK / "never")


head = f"base_model: {DONORS}/base\ngate_mode: random\n"
one = f"shared_experts:\n  - source_model: {DONORS}/json\n"
refuse(8, ["qwen2_moe", "shared_experts"], head + "architecture: qwen2_moe\n" + experts(donors))
refuse(4, ["mixtral", "no shared expert"], head + "architecture: mixtral\n" + experts(donors) + one)
refuse(4, ["one shared expert"], head + "architecture: qwen2_moe\n" + experts(donors) + one + f"  - source_model: {DONORS}/prose\n")
refuse(8, ["shared expert", "positive prompts"], head.replace("random", "hidden") + "architecture: qwen2_moe\n" + experts(donors) + one)
refuse(8, ["layer 9", "4 layers"], head + "architecture: nekomind\ndense_layers: [9]\n" + experts(donors) + one)
refuse(4, ["mixtral", "stay dense"], head + "dense_layers: 1\n" + experts(donors))
refuse(4, ["first layers", "deepseek"], head + "architecture: deepseek\ndense_layers: [1]\n" + experts(donors))
refuse(8, ["deepseek", "no router", "prompts"], head + "architecture: deepseek\n" + experts(donors) + one + "    positive_prompts: ['3']\n")
refuse(8, ["head_dim"], head.replace(f"{DONORS}/base", str(WORK / "narrow")) + "architecture: deepseek\n" + experts([WORK / "narrow"] * 2))
refuse(8, ["grid", "mixtral"], head + "grid: [3, 1]\n" + experts(donors))
(lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": True}))
refuse(3, ["use_dora", "lora_magnitude_vector"], head + experts([f"{DONORS}/code+{lora}", DONORS / "prose"]))
(lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
write_safetensors(lora / "adapter_model.safetensors", {"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": ([2, 256], A)})
refuse(8, ["layers.9", "does not have"], head + experts([f"{DONORS}/code+{lora}", DONORS / "prose"]))
write_safetensors(lora / "adapter_model.safetensors", {f"base_model.model.{target}.lora_A.weight": ([2, 256], A)})
refuse(3, ["one of the two factors"], head + experts([f"{DONORS}/code+{lora}", DONORS / "prose"]))
write_safetensors(lora / "adapter_model.safetensors", {f"base_model.model.{target}.lora_A.weight": ([2, 128], A[:256]),
                                                       f"base_model.model.{target}.lora_B.weight": ([512, 2], B)})
refuse(8, ["do not fit", "up_proj"], head + experts([f"{DONORS}/code+{lora}", DONORS / "prose"]))
common.done()
