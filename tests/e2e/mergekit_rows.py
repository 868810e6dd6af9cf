"""mergekit-moe 0.1.5, row by row: what each key and option of it means here, which of its outcomes are ours too, and where it leaves a
broken model behind what is said instead. Every row is a function named by the place it stands for; a failure says which.
(Bytes against mergekit itself: tests/oracle/mergekit_moe.py. Gates against its own: e2e_merge, test_gates. Layouts: e2e_merge_targets.)"""
import json
import math
import shutil

import common
from common import DATA, WORK, Tensor, check, read_safetensors, run, same, sha256, write_safetensors

DONORS, TINY = DATA / "models/donors", DATA / "models/tiny"
BASE = DONORS / "base"
ROWS = []


def row(name):
    def keep(function):
        ROWS.append((name, function))
        return function
    return keep


def expert(model, **keys):
    return f"  - source_model: {model}\n" + "".join(f"    {k}: {v}\n" for k, v in keys.items())


def recipe(*experts, base=BASE, **keys):
    keys = {"gate_mode": "random", "dtype": "bfloat16"} | keys
    return f"base_model: {base}\n" + "".join(f"{k}: {v}\n" for k, v in keys.items() if v is not None) + "experts:\n" + "".join(experts)


P, C = DONORS / "prose", DONORS / "code"
TWO = (expert(P), expert(C))
PROMPTED = (expert(P, positive_prompts="['and it came to pass']"), expert(C, positive_prompts="['int main']"))


def merge(text, *options, name="out"):
    """Tensors, config, what was said."""
    (WORK / "row.yml").write_text(text)
    said = run("merge", WORK / "row.yml", WORK / name, "--force", *options).err
    return read_safetensors(WORK / name / "model.safetensors")[1], json.loads((WORK / name / "config.json").read_text()), said


def refuse(code, words, text, *options):
    (WORK / "row.yml").write_text(text)
    common.refused(code, words, text[:60], "merge", WORK / "row.yml", WORK / "never", *options)


def changed(source, name, config=(), tensors=lambda t: t):
    out = common.fresh(name)
    for p in source.iterdir():
        if p.name not in ("reference.safetensors", "model.safetensors"):
            shutil.copy(p, out / p.name)
    write_safetensors(out / "model.safetensors", dict(sorted(tensors(read_safetensors(source / "model.safetensors")[1]).items())), {"format": "pt"})
    (out / "config.json").write_text(json.dumps(json.loads((source / "config.json").read_text()) | dict(config), indent=2))
    return out


def gate_rows(tensors, layer, size=256):
    values = tensors[f"model.layers.{layer}.block_sparse_moe.gate.weight"].floats()
    return [values[i:i + size] for i in range(0, len(values), size)]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


# ---- 1.1 keys ----
@row("1.1 base_model and experts are required")
def _():
    refuse(3, ["base_model"], recipe(*TWO).replace("base_model:", "# "))
    refuse(3, ["experts"], recipe().replace("experts:", "# "))


@row("1.1 unknown key (7), with the nearest known one")
def _():
    refuse(3, ["experts_per_tok", "experts_per_token"], recipe(*TWO, experts_per_tok=1))
    refuse(3, ["positive_prompt", "positive_prompts"], recipe(expert(P, positive_prompt="[x]"), expert(C)))


@row("1.1 gate_mode: hidden by default under --compat mergekit, fit otherwise; hidden_last is hidden")
def _():
    hidden = merge(recipe(*PROMPTED, gate_mode="hidden"))[0]
    for text, options in ((recipe(*PROMPTED, gate_mode=None), ["--compat", "mergekit"]), (recipe(*PROMPTED, gate_mode="hidden_last"), [])):
        same({n: t.sha256() for n, t in merge(text, *options)[0].items()}, {n: t.sha256() for n, t in hidden.items()}, "hidden")
    check("fit" in merge(recipe(*PROMPTED, gate_mode=None))[2], "our default is not said")


@row("1.1 gate_mode: an unknown one (7) is named with the nearest")
def _():
    refuse(2, ["hiden", "hidden"], recipe(*TWO, gate_mode="hiden"))


@row("1.1 dtype: its names and their short forms; others refused by name")
def _():
    for name, stored in (("bfloat16", "BF16"), ("float16", "F16"), ("fp16", "F16"), ("float32", "F32")):
        found, config, _ = merge(recipe(*TWO, dtype=name))
        same(({t.dtype for t in found.values()}, config["torch_dtype"]), ({stored}, {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[stored]), name)
    for name in ("float64", "int64", "int8"):
        refuse(3, ["dtype", "bfloat16, float16 or float32"], recipe(*TWO, dtype=name))


@row("1.1 dtype: the base config's when absent; when that is absent too every tensor keeps its own")
def _():
    same({t.dtype for t in merge(recipe(*TWO, dtype=None))[0].values()}, {"BF16"}, "the base's")
    half = changed(C, "half", tensors=lambda t: {n: Tensor("F32", x.shape, b"".join(b"\0\0" + x.data[i:i + 2] for i in range(0, len(x.data), 2)))
                                                   if ".mlp." in n else x for n, x in t.items()})
    base = changed(BASE, "nodtype")
    config = json.loads((base / "config.json").read_text())
    del config["torch_dtype"]
    (base / "config.json").write_text(json.dumps(config))
    found = merge(recipe(expert(P), expert(half), base=base, dtype=None))[0]
    same([found[f"model.layers.0.block_sparse_moe.experts.{e}.w1.weight"].dtype for e in range(2)], ["BF16", "F32"], "each its own")


@row("1.1 experts_per_token: 2 by default, at least 1, at most the experts")
def _():
    same(merge(recipe(*TWO))[1]["num_experts_per_tok"], 2, "default")
    refuse(8, ["experts_per_token"], recipe(*TWO, experts_per_token=0))
    refuse(8, ["experts_per_token", "3", "2"], recipe(*TWO, experts_per_token=3))
    refuse(3, ["experts_per_token"], recipe(*TWO, experts_per_token="two"))


@row("1.1 architecture: any case, the beginning of mergekit's name or ours")
def _():
    for name, family in (("d", "deepseek"), ("DeepSeek MoE", "deepseek"), ("MIX", "mixtral"), ("mixtral", "mixtral")):
        same(merge(recipe(*TWO, architecture=name))[1]["model_type"], family, name)
    q3 = TINY / "qwen3"
    for name in ("qwen", "Qwen3 MoE", "qwen3_moe"):
        same(merge(recipe(expert(q3), expert(q3), base=q3, architecture=name))[1]["model_type"], "qwen3_moe", name)
    refuse(4, ["dbrx"], recipe(*TWO, architecture="dbrx"))


@row("1.1 prompts: [] counts as absent, [''] is the beginning of sequence alone")
def _():
    refuse(8, ["no positive prompts", "code"], recipe(PROMPTED[0], expert(C, positive_prompts="[]"), gate_mode="hidden"))
    found = merge(recipe(expert(P, positive_prompts="['']", negative_prompts="[one]"), expert(C, positive_prompts="['']", negative_prompts="[two]"),
                         gate_mode="hidden"))[0]
    check(all(abs(sum(x * x for x in r) - 1) < 0.02 for r in gate_rows(found, 2)), "gates of negative prompting")


@row("1.1 noise_scale then residual_scale, of down_proj only, in the donor's type")
def _():
    found = merge(recipe(expert(P, residual_scale=0.5), expert(C, noise_scale=0.01), dtype="float32"))[0]
    prose, code = (read_safetensors(d / "model.safetensors")[1] for d in (P, C))
    name = "model.layers.1.block_sparse_moe.experts.{}.{}.weight"
    same(found[name.format(0, "w2")].floats(), [v / 2 for v in prose["model.layers.1.mlp.down_proj.weight"].floats()], "residual_scale")
    same(found[name.format(0, "w1")].floats(), prose["model.layers.1.mlp.gate_proj.weight"].floats(), "of down_proj only")
    d = [a - b for a, b in zip(found[name.format(1, "w3")].floats(), code["model.layers.1.mlp.up_proj.weight"].floats())]
    check(abs(math.sqrt(sum(v * v for v in d) / len(d)) - 0.01) < 2e-4, "noise of 0.01 over 131072 elements")


@row("1.1 references: path@revision, mappings; a path with + or @ in its name (7)")
def _():
    plain = {n: t.sha256() for n, t in merge(recipe(*TWO))[0].items()}
    for name in ("do+nor", "do@nor", "a+b@c"):
        shutil.copytree(C, WORK / name)
        same({n: t.sha256() for n, t in merge(recipe(expert(P), expert(WORK / name)))[0].items()}, plain, name)
    same({n: t.sha256() for n, t in merge(recipe(expert(P), expert(f"{{model: {{path: {C}}}}}")))[0].items()}, plain, "a mapping")
    refuse(5, ["main"], recipe(expert(P), expert(f"{{model: {{path: {C}, revision: main}}}}")))
    refuse(4, ["override_architecture"], recipe(expert(P), expert(f"{{model: {C}, override_architecture: x}}")))
    refuse(3, ["pth", "path"], recipe(expert(P), expert(f"{{model: {{pth: {C}}}}}")))
    refuse(5, ["nowhere"], recipe(expert(P), expert("nowhere")))


# ---- 1.2 validation ----
@row("1.2 a single expert (7): with and without prompts")
def _():
    for mode in ("random", "hidden", "fit"):
        found, config, _ = merge(recipe(PROMPTED[0], gate_mode=mode, experts_per_token=1))
        same((config["num_local_experts"], len(gate_rows(found, 0))), (1, 1), mode)


@row("1.2 experts all with the same prompts, or all the same model")
def _():
    refuse(8, ["same prompts"], recipe(expert(P, positive_prompts="[x]"), expert(C, positive_prompts="[x]"), gate_mode="hidden"))
    twice = recipe(expert(P, positive_prompts="[x]"), expert(P, positive_prompts="[y]"), gate_mode="hidden")
    refuse(8, ["same model"], twice)
    merge(twice, "--i-understand-this-is-not-useful-without-training")
    merge(recipe(expert(P), expert(P)))  # random gates are for training: mergekit does not ask there either


@row("1.2 uniform_random asks for no prompts (7)")
def _():
    found = merge(recipe(*TWO, gate_mode="uniform_random"))[0]
    values = [v for layer in range(4) for r in gate_rows(found, layer) for v in r]
    check(max(map(abs, values)) <= 1 / 16 and max(values) > 0.06 and min(values) < -0.06, "uniform in +-1/sqrt(256)")


# ---- 1.3, 1.4 prompts and gates ----
@row("1.3 a beginning-of-sequence token before every prompt, no other special tokens; prompts alone, not padded")
def _():
    one = merge(recipe(*PROMPTED, gate_mode="hidden_avg"))[0]
    more = merge(recipe(expert(P, positive_prompts="['and it came to pass', 'and it came to pass']"), PROMPTED[1], gate_mode="hidden_avg"))[0]
    for layer in range(4):
        check(cosine(gate_rows(one, layer)[0], gate_rows(more, layer)[0]) > 0.99999, "a prompt twice is the mean of itself")
    longer = merge(recipe(expert(P, positive_prompts="['and it came to pass', 'a']"), PROMPTED[1], gate_mode="hidden_avg"))[0]
    short = merge(recipe(expert(P, positive_prompts="[a]"), PROMPTED[1], gate_mode="hidden_avg"))[0]
    a, b, c = (gate_rows(t, 3)[0] for t in (one, short, longer))
    # the mean of two prompts lies in their plane, however long each of them is
    ab = cosine(a, b)
    x, y = (cosine(c, a) - ab * cosine(c, b)) / (1 - ab * ab), (cosine(c, b) - ab * cosine(c, a)) / (1 - ab * ab)
    plane = [x * p / math.sqrt(sum(v * v for v in a)) + y * q / math.sqrt(sum(v * v for v in b)) for p, q in zip(a, b)]
    check(cosine(plane, c) > 0.9999, f"padding took part: {cosine(plane, c)}")


@row("1.4 hidden: rows of length 1; negative prompts are subtracted")
def _():
    found = merge(recipe(expert(P, positive_prompts="[one]", negative_prompts="[two]"), PROMPTED[1], gate_mode="hidden"))[0]
    other = merge(recipe(expert(P, positive_prompts="[two]", negative_prompts="[one]"), PROMPTED[1], gate_mode="hidden"))[0]
    for layer in range(4):
        check(abs(sum(v * v for v in gate_rows(found, layer)[0]) - 1) < 0.02, "length")  # bfloat16
        check(cosine(gate_rows(found, layer)[0], gate_rows(other, layer)[0]) < -0.9999, "the other way round")


@row("1.4 prompts that share their last token (7): the same rows in layer 0, said")
def _():
    found, _, said = merge(recipe(expert(P, positive_prompts="['the sea.']"), expert(C, positive_prompts="['a lamp.']"), gate_mode="hidden"))
    check(cosine(*gate_rows(found, 0)) > 0.9999, "layer 0 sees the last token alone")
    check("hardly tell them apart" in said and "layer 0" in said, f"nothing said: {said}")


@row("1.4 --random-seed decides random gates, nothing else does")
def _():
    first = {n: t.sha256() for n, t in merge(recipe(*TWO))[0].items()}
    same({n: t.sha256() for n, t in merge(recipe(*TWO), "--random-seed", 0)[0].items()}, first, "0 is the default")
    second = {n: t.sha256() for n, t in merge(recipe(*TWO), "--random-seed", 7)[0].items()}
    same(sorted(n for n in first if first[n] != second[n]), [f"model.layers.{layer}.block_sparse_moe.gate.weight" for layer in range(4)], "what the seed changes")


# ---- 1.5 output ----
@row("1.5 donors: all of one family that the architecture is made of")
def _():
    refuse(8, ["mistral", "llama"], recipe(expert(P), expert(TINY / "llama")))
    refuse(8, ["mistral", "llama"], recipe(expert(P), expert(TINY / "llama")), "--allow-crimes")
    refuse(4, ["mistral donors", "Qwen3 MoE", "mixtral", "deepseek"], recipe(*TWO, architecture="Qwen3 MoE"))
    refuse(4, ["qwen2_moe", "shared_experts"], recipe(expert(TINY / "qwen2"), expert(TINY / "qwen2"), base=TINY / "qwen2"))
    refuse(4, ["gemma"], recipe(expert(TINY / "gemma"), expert(TINY / "gemma"), base=TINY / "gemma"))


@row("1.5 shared experts: none, none or one without prompts, exactly one with prompts")
def _():
    one = f"shared_experts:\n  - source_model: {DONORS}/json\n"
    refuse(4, ["no shared expert"], recipe(*TWO, architecture="mixtral") + one)
    refuse(8, ["deepseek", "prompts"], recipe(*TWO, architecture="deepseek") + one + "    positive_prompts: [x]\n")
    refuse(8, ["shared_experts"], recipe(*TWO, architecture="qwen moe"))
    refuse(8, ["shared expert", "positive prompts"], recipe(*PROMPTED, architecture="qwen moe", gate_mode="hidden") + one)
    refuse(4, ["one shared expert"], recipe(*TWO, architecture="qwen moe") + one + f"  - source_model: {P}\n")
    same(merge(recipe(*TWO) + one)[1]["model_type"], "deepseek", "which one it is")
    same(merge(recipe(*PROMPTED, gate_mode="hidden") + one + "    positive_prompts: [x]\n")[1]["model_type"], "qwen2_moe", "with prompts")


@row("1.5 a shared expert that is neither base nor expert (7)")
def _():
    for target, at in (("deepseek", "shared_experts"), ("qwen moe", "shared_expert")):
        found = merge(recipe(*TWO, architecture=target) + f"shared_experts:\n  - source_model: {DONORS}/json\n")[0]
        want = read_safetensors(DONORS / "json/model.safetensors")[1]
        same(found[f"model.layers.2.mlp.{at}.up_proj.weight"].sha256(), want["model.layers.2.mlp.up_proj.weight"].sha256(), target)


@row("1.5 a biased Llama (7): refused where the result has no place for biases, kept where it has")
def _():
    def biased(t):
        shapes = {"q": 64, "k": 32, "v": 32, "o": 64}
        return t | {f"model.layers.{layer}.self_attn.{p}_proj.bias": Tensor("BF16", [n], b"\x00\x3e" * n) for layer in range(3) for p, n in shapes.items()}

    llama = changed(TINY / "llama", "biased", {"attention_bias": True}, biased)
    two = (expert(llama), expert(llama))
    refuse(8, ["k_proj.bias", "mixtral"], recipe(*two, base=llama))
    refuse(8, ["o_proj.bias", "qwen2_moe"], recipe(*two, base=llama, architecture="qwen moe") + f"shared_experts:\n  - source_model: {llama}\n")
    found, config, _ = merge(recipe(*two, base=llama, architecture="deepseek"))
    same((found["model.layers.1.self_attn.o_proj.bias"].data, config["attention_bias"]), (b"\x00\x3e" * 64, True), "biases of a DeepSeek-MoE")
    mlp = changed(TINY / "llama", "mlp_bias", {"mlp_bias": True}, lambda t: t | {
        f"model.layers.{layer}.mlp.{p}_proj.bias": Tensor("BF16", [64 if p == "down" else 128], bytes(2 * (64 if p == "down" else 128)))
        for layer in range(3) for p in ("gate", "up", "down")})
    for target in ("mixtral", "deepseek"):
        refuse(8, ["proj.bias", target], recipe(expert(mlp), expert(mlp), base=mlp, architecture=target))


@row("1.5 zero biases of a Qwen2-MoE have the sizes of the projections, whatever head_dim is")
def _():
    def wide(t):
        out = dict(t)
        for layer in range(3):
            for p, n in (("q", 128), ("k", 64), ("v", 64)):
                out[f"model.layers.{layer}.self_attn.{p}_proj.weight"] = Tensor("BF16", [n, 64], bytes(n * 128))
            out[f"model.layers.{layer}.self_attn.o_proj.weight"] = Tensor("BF16", [64, 128], bytes(64 * 256))
        return out

    donor = changed(TINY / "mistral", "wide", {"head_dim": 32}, wide)
    found = merge(recipe(expert(donor), expert(donor), base=donor, architecture="qwen moe") + f"shared_experts:\n  - source_model: {donor}\n")[0]
    same([found[f"model.layers.0.self_attn.{p}_proj.bias"].shape for p in "qkv"], [[128], [64], [64]], "shapes")


@row("1.5 config.json: rotary scaling, head_dim and tied heads are kept")
def _():
    scaled = TINY / "llama_rope_llama3"
    config = merge(recipe(expert(scaled), expert(scaled), base=scaled))[1]
    source = json.loads((scaled / "config.json").read_text())
    for key in ("rope_parameters", "rope_scaling", "head_dim", "hidden_size", "vocab_size"):
        same(config.get(key), source.get(key), key)
    same((config["sliding_window"], config["num_local_experts"], config["architectures"]), (None, 2, ["MixtralForCausalLM"]), "what is new")


@row("1.5 files: config, weights, the recipe verbatim, the base's tokenizer files byte for byte")
def _():
    merge(recipe(*TWO))
    same((WORK / "out/mergekit_moe_config.yml").read_bytes(), (WORK / "row.yml").read_bytes(), "the recipe")
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        same((WORK / "out" / name).read_bytes(), (BASE / name).read_bytes(), name)


@row("1.5 shards: --out-shard-size in bytes, a larger tensor alone, names in order, an index of all")
def _():
    (WORK / "row.yml").write_text(recipe(*TWO))
    run("merge", WORK / "row.yml", WORK / "sharded", "--out-shard-size", "300K", "-q")
    parts = sorted((WORK / "sharded").glob("model-*.safetensors"))
    index = json.loads((WORK / "sharded/model.safetensors.index.json").read_text())["weight_map"]
    same(sorted({*index.values()}), [p.name for p in parts], "files of the index")
    for p in parts:
        tensors = read_safetensors(p)[1]
        same(list(tensors), sorted(tensors), "order in a shard")
        check(len(tensors) == 1 or sum(len(t.data) for t in tensors.values()) <= 300000, f"{p.name} is too large")
    whole = merge(recipe(*TWO))[0]
    same({n: sha for p in parts for n, sha in ((n, t.sha256()) for n, t in read_safetensors(p)[1].items())}, {n: t.sha256() for n, t in whole.items()}, "all shards")


@row("1.5 a used output directory (7): refused; with --force replaced, unless old shards would be left beside new ones")
def _():
    (WORK / "row.yml").write_text(recipe(*TWO))
    run("merge", WORK / "row.yml", WORK / "sharded", "-q", expect=2)
    before = common.tree(WORK / "sharded")
    said = run("merge", WORK / "row.yml", WORK / "sharded", "-q", "--force", expect=2).err
    check("model-000" in said and "mixed up" in said, f"shards that another layout leaves behind: {said}")
    same(common.tree(WORK / "sharded"), before, "a refused output")
    run("merge", WORK / "row.yml", WORK / "sharded", "-q", "--force", "--out-shard-size", "300K")
    same(common.tree(WORK / "sharded"), before, "the same again")


@row("1.5 a DeepSeek-MoE without a shared expert to GGUF (7): said, and read back")
def _():
    merge(recipe(*TWO, architecture="deepseek"), name="unshared")
    said = run("convert", WORK / "unshared", WORK / "unshared.gguf", "-q").err
    check("n_shared_experts" in said and "llama.cpp does not load" in said, said)
    (WORK / "few.txt").write_text("1 20 30 40\n")
    run("perplexity", WORK / "unshared.gguf", "--tokens", WORK / "few.txt", "-q")


# ---- 1.6 mismatches ----
@row("1.6 a deeper or a shallower expert (7)")
def _():
    deeper = changed(C, "deeper", {"num_hidden_layers": 5}, lambda t: t | {n.replace(".3.", ".4."): x for n, x in t.items() if ".layers.3." in n})
    shallow = changed(C, "shallow", {"num_hidden_layers": 3}, lambda t: {n: x for n, x in t.items() if ".layers.3." not in n})
    for d, n in ((deeper, "5"), (shallow, "3")):
        refuse(8, ["num_hidden_layers", n, "4"], recipe(expert(P), expert(d)))


def narrow(t):
    cut = {}
    for n, x in t.items():
        if ".mlp." in n and "down" in n:
            x = Tensor("BF16", [256, 256], b"".join(x.data[i * 1024:i * 1024 + 512] for i in range(256)))
        elif ".mlp." in n:
            x = Tensor("BF16", [256, 256], x.data[:256 * 512])
        cut[n] = x
    return cut


@row("1.6 an expert of another inner size; all experts of another than the base (7); another hidden size")
def _():
    thin = changed(C, "thin", {"intermediate_size": 256}, narrow)
    refuse(8, ["intermediate_size", "256", "512"], recipe(expert(P), expert(thin)))
    refuse(8, ["intermediate_size", "256", "512"], recipe(expert(thin), expert(thin)))
    refuse(8, ["hidden_size"], recipe(expert(P), expert(TINY / "mistral")))


@row("1.6 another vocabulary (7), rope_theta, eps or activation: every difference named")
def _():
    more = changed(C, "more", {"vocab_size": 1032}, lambda t: {n: Tensor("BF16", [1032, 256], x.data + bytes(8 * 512)) if x.shape[0] == 1024 else x for n, x in t.items()})
    refuse(8, ["vocab_size", "1032", "1024"], recipe(expert(P), expert(more)))
    odd = changed(C, "odd", {"rope_theta": 5e5, "rms_norm_eps": 1e-6, "hidden_act": "gelu"})
    refuse(8, ["3 differences", "rope_theta", "rms_norm_eps", "hidden_act", "odd"], recipe(expert(P), expert(odd)))


@row("1.6 donors of other types are cast to the result's")
def _():
    def widened(t):
        return {n: Tensor("F32", x.shape, b"".join(b"\0\0" + x.data[i:i + 2] for i in range(0, len(x.data), 2))) for n, x in t.items()}

    found = merge(recipe(expert(P), expert(changed(C, "f32", {"torch_dtype": "float32"}, widened))))[0]
    same({n: t.sha256() for n, t in found.items()}, {n: t.sha256() for n, t in merge(recipe(*TWO))[0].items()}, "a float32 copy of a donor")


@row("1.6 FP8 donors (7): codes times scales; a scale that is missing is named")
def _():
    codes = bytes(0x38 + i % 8 for i in range(512 * 256))

    def eight(t, scale=True):
        n = "model.layers.0.mlp.gate_proj.weight"
        out = t | {n: Tensor("F8_E4M3", [512, 256], codes)}
        return out | {n + "_scale_inv": Tensor("F32", [4, 2], b"\0\0\0\x3f" * 8)} if scale else out

    quant = {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}}
    found = merge(recipe(expert(P), expert(changed(C, "eight", quant, eight))))[0]
    same(found["model.layers.0.block_sparse_moe.experts.1.w1.weight"].floats(), [(1 + i % 8 / 8) / 2 for i in range(512 * 256)], "decoded")
    refuse(3, ["gate_proj.weight", "without its scale"], recipe(expert(P), expert(changed(C, "no_scale", quant, lambda t: eight(t, False)))))


@row("1.6 LoRA experts (7)")
def _():
    lora = common.fresh("lora")
    a, b = [0.5 if i == 3 else 0.0 for i in range(256)], [0.25 if i == 7 else 0.0 for i in range(512)]
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_{}.weight"
    write_safetensors(lora / "adapter_model.safetensors", {name.format("A"): common.f32(a, [1, 256]), name.format("B"): common.f32(b, [512, 1])})
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 2}))
    found = merge(recipe(expert(P), expert(f"{C}+{lora}"), dtype="float32"))[0]
    got = found["model.layers.1.block_sparse_moe.experts.1.w3.weight"].floats()
    want = read_safetensors(C / "model.safetensors")[1]["model.layers.1.mlp.up_proj.weight"].floats()
    diff = [i for i, (x, y) in enumerate(zip(got, want)) if x != y]
    same(diff, [7 * 256 + 3], "the one element that the adapter changes")
    check(abs(got[diff[0]] - want[diff[0]] - 0.25) < 2e-3, "by lora_alpha / r B A, rounded to bfloat16")


# ---- 1.7 options ----
@row("1.7 its switches without effect are accepted, in one line each")
def _():
    said = merge(recipe(*TWO), "--lazy-unpickle", "--low-cpu-memory", "--clone-tensors", "--copy-tokenizer", "--cuda", "--trust-remote-code")[2]
    for option in ("--lazy-unpickle", "--cuda", "--trust-remote-code"):
        same(sum(option in line for line in said.splitlines()), 1, f"lines about {option}")


@row("1.7 -j is the number of threads; -v says more")
def _():
    first = {n: t.sha256() for n, t in merge(recipe(*TWO))[0].items()}
    same({n: t.sha256() for n, t in merge(recipe(*TWO), "-j", 1, "-v")[0].items()}, first, "one thread")


for name, function in ROWS:
    try:
        function()
    except AssertionError as e:
        raise AssertionError(f"mergekit {name}: {e}") from e
same(len(ROWS), len({n for n, _ in ROWS}), "names of rows")
common.done()
