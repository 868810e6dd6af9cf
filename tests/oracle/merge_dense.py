"""Dense recipes made at random (methods, weights, gradients, filters, slices with layers of several depths) against mergekit-yaml 0.1.5
(`pip install mergekit==0.1.5`): names and values of every tensor, and the number of layers. SEED and CASES in the environment choose
other recipes. Methods with random masks are compared where nothing is random, at density 1."""
import json
import os
import random
import shutil

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file

from peers import DATA, WORK, run

SEED, CASES = int(os.environ.get("SEED", 1)), int(os.environ.get("CASES", 40))
TINY = DATA / "models/tiny/mistral"
LAYERS = json.loads((TINY / "config.json").read_text())["num_hidden_layers"]
FILTERS = ("q_proj", "mlp", "layernorm", "embed", "layers.1")
METHODS = sorted(("linear", "passthrough", "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della_linear",
                  "della", "sce", "nearswap", "model_stock", "slerp", "nuslerp", "multislerp", "karcher"))
LIMIT = 2e-6  # of a tensor's largest value: f32 sums of some elements in another order, and angles that are f32 there and f64 here
# Of thousands of f32 deltas a few are equally large by chance, and torch's sort leaves open which of them a density keeps.
EQUAL = {m: 1 / 4096 for m in ("ties", "breadcrumbs", "breadcrumbs_ties", "sce")}


def donor(number):
    """Values of the tiny model with differences of all sizes, so that no two deltas are equally large: torch's sort leaves the order
    of such open."""
    out = WORK / f"m{number}"
    shutil.copytree(TINY, out)
    generator = torch.Generator().manual_seed(number)
    tensors = {n: t.float() + (torch.randn(t.shape, generator=generator) * 0.05 * t.float().std().clamp(min=0.01) if number else 0)
               for n, t in sorted(load_file(out / "model.safetensors").items())}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(DATA / "models/donors/base" / name, out / name)
    (out / "config.json").write_text(json.dumps(json.loads((TINY / "config.json").read_text()) | {"torch_dtype": "float32"}))
    return str(out)


def number(rng, low, high):
    return round(rng.uniform(low, high), 3)


def parameter(rng, low, high):
    """A number, a gradient, or filters of which the last takes all."""
    def plain():
        return number(rng, low, high) if rng.random() < 0.5 else [number(rng, low, high) for _ in range(rng.randint(2, 5))]
    if rng.random() < 0.6:
        return plain()
    return [{"filter": f, "value": plain()} for f in rng.sample(FILTERS, rng.randint(1, 2))] + [{"value": plain()}]


def of_model(rng, method):
    p = {}
    if method in ("linear", "nuslerp", "multislerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "della_linear",
                  "breadcrumbs", "breadcrumbs_ties"):
        p["weight"] = parameter(rng, 0.1, 1)
    if method in ("ties", "breadcrumbs", "breadcrumbs_ties"):
        p["density"] = parameter(rng, 0.2, 0.95)
    if method.startswith(("dare", "della")):
        p["density"] = 1.0
    if method.startswith("breadcrumbs"):
        p["gamma"] = number(rng, 0, 0.04)
    return p


def of_all(rng, method):
    p = {}
    if method in ("slerp", "nearswap"):
        p["t"] = parameter(rng, 0, 1 if method == "slerp" else 0.01)
    if method in ("task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties") and rng.random() < 0.5:
        p["lambda"] = number(rng, 0.3, 1.5)
    if method in ("linear", "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", "dare_linear") and rng.random() < 0.5:
        p["normalize"] = rng.random() < 0.5
    if method == "multislerp" and rng.random() < 0.5:
        p["normalize_weights"] = rng.random() < 0.5
    if method == "sce":
        p["select_topk"] = number(rng, 0.2, 1)
    if method == "passthrough" and rng.random() < 0.6:
        p["scale"] = parameter(rng, 0.2, 1.5)
    return p


def recipe(rng, method, models):
    base = models[0] if method not in ("linear", "passthrough", "karcher") and not (method in ("nuslerp", "multislerp") and rng.random() < 0.5) else None
    count = {"passthrough": 1, "slerp": 1, "nearswap": 1, "nuslerp": 2}.get(method, rng.randint(2, 3))
    chosen = rng.sample(models[1:], count)
    config = {"merge_method": method, "dtype": "float32"}
    if base:
        config["base_model"] = base
    overall = of_all(rng, method)
    if overall:
        config["parameters"] = overall
    if method == "passthrough" or rng.random() < 0.4:
        config["slices"] = []
        for _ in range(rng.randint(1, 3)):
            depth = rng.randint(1, LAYERS)
            picked = [base] * bool(base) + (chosen if method != "passthrough" else [rng.choice(models)])
            sources = []
            for m in picked:
                first = rng.randint(0, LAYERS - depth)
                source = {"model": m, "layer_range": [first, first + depth]}
                if m != base and (p := of_model(rng, method)):
                    source["parameters"] = p
                sources.append(source)
            part = {"sources": sources}
            if "t" in overall and rng.random() < 0.5:
                part["parameters"] = {"t": parameter(rng, 0, 1 if method == "slerp" else 0.01)}
            config["slices"].append(part)
    else:
        named = [base] if base and (rng.random() < 0.5 or method in ("slerp", "nearswap")) else []
        config["models"] = [{"model": m} | ({"parameters": p} if m != base and (p := of_model(rng, method)) else {}) for m in named + chosen]
    return config


models = [donor(n) for n in range(5)]
rng = random.Random(SEED)
worst, chance = {}, {}
for case in range(CASES):
    method = METHODS[case % len(METHODS)]
    config = recipe(rng, method, models)
    text = yaml.safe_dump(config, sort_keys=False)
    (WORK / "case.yml").write_text(text)
    for who in ("ours", "theirs"):
        shutil.rmtree(WORK / who, ignore_errors=True)
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), str(WORK / "theirs"), MergeOptions(quiet=True, copy_tokenizer=False))
    run("merge", WORK / "case.yml", WORK / "ours", "-q")
    ours, theirs = (load_file(WORK / who / "model.safetensors") for who in ("ours", "theirs"))
    assert sorted(ours) == sorted(theirs), (text, sorted(set(ours) ^ set(theirs))[:8])
    depth = [json.loads((WORK / who / "config.json").read_text())["num_hidden_layers"] for who in ("ours", "theirs")]
    assert depth[0] == depth[1], (text, depth)
    for name, t in theirs.items():
        assert ours[name].dtype == t.dtype and ours[name].shape == t.shape, (text, name)
        off = (ours[name] - t).abs() / t.abs().max().clamp(min=1e-6)
        wrong = int((off > LIMIT).sum())
        worst[method] = max(worst.get(method, 0), off[off <= LIMIT].max().item())
        chance[method] = chance.get(method, 0) + wrong
        assert wrong <= t.numel() * EQUAL.get(method, 0), f"case {case}: {name} is off by {off.max():.2e} of its largest value, {wrong} elements\n{text}"
for method in METHODS:
    print(f"{method:18} largest difference {worst[method]:.1e} of the tensor's largest value, {chance[method]} elements kept otherwise")
print(f"{CASES} recipes")
