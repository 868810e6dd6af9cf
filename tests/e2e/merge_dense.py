"""Dense merges: every method against its formula in plain Python (double precision), gradients, filters and slices, the same
bytes for threads, instruction sets and memory budgets, and what is refused."""
import json
import math
import struct

import common
from common import DATA, WORK, check, run, same

DONORS = DATA / "models/donors"
NAMES = ("base", "prose", "code", "math")
stored = {d: common.read_safetensors(DONORS / d / "model.safetensors")[1] for d in NAMES}
# a matrix in the middle, a vector outside the layers, a vector in the last layer; with their place in the gradient
PROBES = {"model.layers.1.self_attn.k_proj.weight": 1 / 3, "model.norm.weight": 0.0, "model.layers.3.input_layernorm.weight": 1.0}


def recipe(name, method, models, base=None, parameters=None, extra=""):
    """models: [(donor, {parameter: text})]"""
    text = f"merge_method: {method}\ndtype: float32\n" + extra
    if base:
        text += f"base_model: {DONORS / base}\n"
    text += "models:\n" + "".join(
        f"  - model: {DONORS / d}\n    parameters: {{{', '.join(f'{k}: {v}' for k, v in p.items())}}}\n" for d, p in models)
    if parameters:
        text += f"parameters: {{{', '.join(f'{k}: {v}' for k, v in parameters.items())}}}\n"
    path = WORK / f"{name}.yml"
    path.write_text(text)
    return path


def merged(path, *options, **more):
    out = WORK / path.stem
    run("merge", path, out, "-q", *options, **more)
    return common.read_safetensors(out / "model.safetensors")[1]


def values(donor, name):
    return stored[donor][name].floats()


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b))


def norm(a):
    return math.sqrt(dot(a, a))


def unit(a, eps=0.0):
    length = norm(a) + eps
    return [v / length for v in a]


def mix(factors, vectors):
    return [sum(f * x for f, x in zip(factors, xs)) for xs in zip(*vectors)]


def compare(what, found, formula, tolerance=3e-6):
    """Relative to the tensor's length: the tools compute in f32, a few roundings of 6e-8 per element, and the arc cosine of
    nearly parallel tensors in slerp and karcher multiplies the rounding of their angle."""
    for name, at in PROBES.items():
        f, w = found[name].floats(), formula(name, at)
        check(norm([a - b for a, b in zip(f, w)]) <= tolerance * norm(w), f"{what}: {name} differs from the formula")


# ---- by angles and means ----

def slerp(t, a, b):
    c = dot(a, b) / norm(a) / norm(b)
    if abs(c) > 0.9995:
        return mix((1 - t, t), (a, b))
    theta = math.acos(c)
    return mix((math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)), (a, b))


path = recipe("slerp", "slerp", [("base", {}), ("prose", {})], "base",
              {"t": "[{filter: self_attn, value: [0.1, 0.3, 0.5, 0.9]}, {filter: norm, value: 0.25}, {value: 0.6}]"})
compare("slerp", merged(path), lambda n, at: slerp(0.3 if "self_attn" in n else 0.25, values("base", n), values("prose", n)))

path = recipe("nuslerp", "nuslerp", [("prose", {"weight": 0.5}), ("code", {"weight": 0.8})], "base")


def nuslerp(n, at):
    base = values("base", n)
    a, b = ([x - y for x, y in zip(values(d, n), base)] for d in ("prose", "code"))
    theta = math.acos(dot(a, b) / norm(a) / norm(b))
    t = 0.8 / 1.3
    return mix((1, math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)), (base, a, b))


compare("nuslerp", merged(path), nuslerp)

three = [(d, {"weight": w}) for d, w in (("prose", 0.5), ("code", "[0.3, 0.7]"), ("math", 0.4))]


def weights(at):
    return [0.5, 0.3 + 0.4 * at, 0.4]


path = recipe("linear", "linear", three)
compare("linear", merged(path), lambda n, at: mix([w / sum(weights(at)) for w in weights(at)], [values(d, n) for d in NAMES[1:]]))


def multislerp(n, at):
    x = [values(d, n) for d in NAMES[1:]]
    w = [v / sum(weights(at)) for v in weights(at)]
    u = [unit(a, 1e-8) for a in x]
    mean = unit(mix(w, u))
    cosines = [dot(ui, mean) for ui in u]
    tangent = mix(w, [[a - c * m for a, m in zip(ui, mean)] for ui, c in zip(u, cosines)])
    tn = norm(tangent) + 1e-8
    length = sum(wi * norm(a) for wi, a in zip(w, x))
    return [length * v for v in mix((math.cos(tn), math.sin(tn) / tn), (mean, tangent))]


compare("multislerp", merged(recipe("multislerp", "multislerp", three)), multislerp)


def karcher(n, at):
    x = [values(d, n) for d in NAMES[1:]]
    u = [unit(a) for a in x]
    mean = unit(mix([1 / 3] * 3, u))
    for _ in range(10):
        tangent = [0.0] * len(mean)
        for ui in u:
            c = min(1.0, max(-1.0, dot(mean, ui)))
            theta = math.acos(c)
            if theta >= 1e-5:
                tangent = mix((1, theta / math.sin(theta) / 3), (tangent, [a - c * m for a, m in zip(ui, mean)]))
        tn = norm(tangent)
        if tn < 1e-5:
            break
        mean = unit(mix((math.cos(tn), math.sin(tn) / tn), (mean, tangent)))
    length = sum(norm(a) for a in x) / 3
    return [length * v for v in mean]


compare("karcher", merged(recipe("karcher", "karcher", [(d, {}) for d in NAMES[1:]])), karcher)


def model_stock(n, at):
    base = values("base", n)
    d = [[a - b for a, b in zip(values(k, n), base)] for k in NAMES[1:]]
    c = sum(dot(d[i], d[j]) / max(norm(d[i]) * norm(d[j]), 1e-6) for i in range(3) for j in range(i)) / 3
    t = 3 * c / (1 + 2 * c)
    return mix((1, t / 3, t / 3, t / 3), [base] + d)


compare("model_stock", merged(recipe("model_stock", "model_stock", [(d, {}) for d in NAMES[1:]], "base")), model_stock)


def nearswap(n, at):
    return [a + min(1, max(0, 0.001 / max(abs(a - b), 1e-6))) * (b - a) for a, b in zip(values("base", n), values("prose", n))]


compare("nearswap", merged(recipe("nearswap", "nearswap", [("prose", {})], "base", {"t": 0.001})), nearswap)


# ---- deltas ----

def largest(d, k):
    """The k largest by magnitude; the first of equal ones. Differences of bf16 values have many."""
    return set(sorted(range(len(d)), key=lambda i: (-abs(d[i]), i))[:k])


def deltas(n, at, thin):
    base = values("base", n)
    out = []
    for donor, density, gamma in (("prose", 0.6, 0.02), ("code", 0.4, 0.01), ("math", 0.5 + 0.2 * at, 0.01)):
        d = [a - b for a, b in zip(values(donor, n), base)]
        k = int(density * len(d))
        if thin == "largest":
            kept = largest(d, max(1, k))
        elif thin == "middle":
            top = min(int(gamma * len(d)), len(d) - k)
            kept = largest(d, k + top) - largest(d, top)
        else:
            kept = range(len(d))
        kept = set(kept)
        out.append([v if i in kept else 0.0 for i, v in enumerate(d)])
    return base, out


def arithmetic(thin, elect, normalize, scale):
    def formula(n, at):
        base, ds = deltas(n, at, thin)
        w, result = weights(at), []
        for i, b in enumerate(base):
            parts = [wi * d[i] for wi, d in zip(w, ds)]
            if elect:
                up = sum(parts) >= 0
                kept = [wi for wi, p in zip(w, parts) if (p > 0 if up else p < 0)]
                mixed, total = sum(p for p in parts if (p > 0 if up else p < 0)), sum(kept)
            else:
                mixed, total = sum(parts), sum(w)
            result.append(b + scale * (mixed / total if normalize and total else mixed))
        return result
    return formula


def thinned(method, normalize, scale, **more):
    models = [(d, {**p, "density": density, **({"gamma": 0.02} if "gamma" in more and d == "prose" else {})})
              for (d, p), density in zip(three, (0.6, 0.4, "[0.5, 0.7]"))]
    return recipe(method, method, models, "base", {"normalize": str(normalize).lower(), "lambda": scale})


compare("task_arithmetic", merged(recipe("task", "task_arithmetic", three, "base", {"lambda": 0.9})), arithmetic("all", False, False, 0.9))
compare("ties", merged(thinned("ties", True, 1.0)), arithmetic("largest", True, True, 1.0))
compare("breadcrumbs", merged(thinned("breadcrumbs", False, 0.9, gamma=1)), arithmetic("middle", False, False, 0.9))
compare("breadcrumbs_ties", merged(thinned("breadcrumbs_ties", True, 0.9, gamma=1)), arithmetic("middle", True, True, 0.9))


def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def variance(x):
    """In f32 as the tool computes it: equal variances are told apart by their rounding, so the cut depends on it."""
    mean = f32(f32(f32(x[0] + x[1]) + x[2]) / 3)
    total = 0.0
    for v in x:
        d = f32(v - mean)
        total = f32(total + f32(d * d))
    return f32(total / 3)


def sce(n, at):
    base = values("base", n)
    ds = [[f32(a - b) for a, b in zip(values(d, n), base)] for d in NAMES[1:]]
    var = [variance([d[i] for d in ds]) for i in range(len(base))]
    kept = largest(var, int(sum(v != 0 for v in var) * 0.3))
    ds = [[v if i in kept else 0.0 for i, v in enumerate(d)] for d in ds]
    share = [dot(d, d) / len(base) for d in ds]
    share = [s / sum(share) if sum(share) >= 1e-6 else 1 / 3 for s in share]
    result = []
    for i, b in enumerate(base):
        up = sum(d[i] for d in ds) >= 0
        on = [k for k in range(3) if (ds[k][i] > 0 if up else ds[k][i] < 0)]
        result.append(b + sum(ds[k][i] * share[k] for k in on) / max(sum(share[k] for k in on), 1e-6))
    return result


compare("sce", merged(recipe("sce", "sce", [(d, {}) for d in NAMES[1:]], "base", {"select_topk": 0.3})), sce)


# ---- random thinning: the right share survives, scaled so that its absolute sum is kept; the seed decides ----
def survivors(path, name, *options):
    found = merged(path, "--force", *options)[name].floats()
    return [a - b for a, b in zip(found, values("base", name))]


probe = "model.layers.1.self_attn.k_proj.weight"
full = [a - b for a, b in zip(values("code", probe), values("base", probe))]
changed = sum(v != 0 for v in full)
for method, more in (("dare_linear", {}), ("dare_ties", {}), ("della", {"epsilon": 0.2}), ("della_linear", {"epsilon": 0.2})):
    path = recipe(method, method, [("code", {"weight": 1.0, "density": 0.4, **more})], "base")
    kept = survivors(path, probe)
    share = sum(v != 0 for v in kept) / changed
    # 16384 coins of 0.4: standard deviation 0.004; della favours large elements, and the zeros among the deltas are small
    check(abs(share - 0.4) < (0.02 if not more else 0.06), f"{method}: {share} of the elements survive")
    check(abs(sum(map(abs, kept)) / sum(map(abs, full)) - 1) < 1e-3, f"{method}: the absolute sum is not kept")
    ratio = [k / f for k, f in zip(kept, full) if k != 0 and abs(f) > 1e-3]
    check(max(ratio) / min(ratio) < 1.01, f"{method}: survivors are scaled unevenly")
    if more:
        order = sorted(abs(v) for v in full)
        half = order[len(order) // 2]
        large = sum(k != 0 for k, f in zip(kept, full) if abs(f) > half)
        check(large > 1.5 * sum(k != 0 for k, f in zip(kept, full) if abs(f) <= half), f"{method} does not favour large elements")
first = survivors(WORK / "dare_linear.yml", probe)
same(survivors(WORK / "dare_linear.yml", probe), first, "the same seed")
check(survivors(WORK / "dare_linear.yml", probe, "--random-seed", 5) != first, "the seed changes nothing")

# ---- bytes depend on nothing but the recipe ----
for name in ("ties", "dare_ties", "karcher"):
    want = common.tree(WORK / name)
    for options, env in ((["-t", 1], {}), (["-t", 3], {"MOEGRAFT_ISA": "scalar"}), (["--memory", "1MiB"], {})):
        run("merge", WORK / f"{name}.yml", WORK / name, "-q", "--force", *options, env=env)
        same(common.tree(WORK / name), want, f"{name} with {options} {env}")
run("convert", WORK / "ties", WORK / "three-f16.gguf", "-q")
run("quantize", WORK / "three-f16.gguf", WORK / "three.gguf", "Q8_0", "-q")
run("merge", WORK / "ties.yml", WORK / "ties-Q8_0.gguf", "--to", "Q8_0", "-q")
same(common.sha256(WORK / "ties-Q8_0.gguf"), common.sha256(WORK / "three.gguf"), "ties straight to Q8_0")

# ---- layers stacked: rows as they are, a scaled matrix, the config's number of layers ----
(WORK / "stack.yml").write_text(f"""merge_method: passthrough
dtype: bfloat16
slices:
  - sources:
      - {{model: {DONORS}/prose, layer_range: [0, 3]}}
  - sources:
      - model: {DONORS}/code
        layer_range: [1, 4]
        parameters:
          scale:
            - {{filter: o_proj, value: 0.5}}
            - {{value: 1.0}}
""")
found = merged(WORK / "stack.yml")
same(len({n.split(".")[2] for n in found if n.startswith("model.layers.")}), 6, "layers of the stack")
same(json.loads((WORK / "stack/config.json").read_text())["num_hidden_layers"], 6, "num_hidden_layers")
for n, t in found.items():
    donor, source = ("prose", n) if "layers" not in n or int(n.split(".")[2]) < 3 else ("code", n)
    if donor == "code":
        source = n.replace(f"layers.{n.split('.')[2]}.", f"layers.{int(n.split('.')[2]) - 2}.")
    if n in ("model.norm.weight", "lm_head.weight"):
        donor = "code"  # what follows the layers is the last slice's
    if donor == "code" and "o_proj" in n:
        same(t.floats(), [v / 2 for v in stored[donor][source].floats()], f"scaled {n}")
    else:
        check(t.data == stored[donor][source].data, f"{n} is not {donor}'s {source}")
(WORK / "few.txt").write_text("1 20 30 40 50 60 70 80\n")
run("perplexity", WORK / "stack.yml", "--tokens", WORK / "few.txt", "-q")

# ---- slices with gradients over their own layers ----
(WORK / "slices.yml").write_text(f"""merge_method: task_arithmetic
base_model: {DONORS}/base
dtype: float32
slices:
  - sources:
      - {{model: {DONORS}/base, layer_range: [0, 3]}}
      - {{model: {DONORS}/code, layer_range: [1, 4], parameters: {{weight: [0.2, 0.8]}}}}
""")
found = merged(WORK / "slices.yml")
for layer, w in ((0, 0.2), (1, 0.5), (2, 0.8)):
    n = f"model.layers.{layer}.self_attn.k_proj.weight"
    want = mix((1 - w, w), (values("base", n), values("code", n.replace(f".{layer}.", f".{layer + 1}."))))
    check(norm([a - b for a, b in zip(found[n].floats(), want)]) <= 1e-6 * norm(want), f"{n} of the slice")

# ---- filters: those of a model see its own tensors' names, those of the recipe the result's (tests/oracle/merge_dense.py) ----
(WORK / "filters.yml").write_text(f"""merge_method: linear
dtype: float32
parameters: {{normalize: [{{filter: layers.0., value: false}}, {{value: true}}]}}
slices:
  - sources:
      - model: {DONORS}/code
        layer_range: [1, 4]
        parameters: {{weight: [{{filter: layers.2., value: 3}}, {{value: 2}}]}}
""")
found = merged(WORK / "filters.yml")
for layer, w in ((0, 2), (1, 1), (2, 1)):
    n = f"model.layers.{layer}.input_layernorm.weight"
    same(found[n].floats(), [w * v for v in values("code", n.replace(f".{layer}.", f".{layer + 1}."))], f"{n}: normalize by the result's name")
(WORK / "filters.yml").write_text((WORK / "filters.yml").read_text().replace("[{filter: layers.0., value: false}, {value: true}]", "false"))
run("merge", WORK / "filters.yml", WORK / "filters", "-q", "--force")
found = common.read_safetensors(WORK / "filters/model.safetensors")[1]
for layer, w in ((0, 2), (1, 3), (2, 2)):
    n = f"model.layers.{layer}.input_layernorm.weight"
    same(found[n].floats(), [w * v for v in values("code", n.replace(f".{layer}.", f".{layer + 1}."))], f"{n}: weight by the model's name")


# ---- refusals ----
def refuse(code, words, text):
    (WORK / "bad.yml").write_text(text)
    common.refused(code, words, text[:80], "merge", WORK / "bad.yml", WORK / "never")


model = f"models:\n  - model: {DONORS}/code\n    parameters: {{weight: 1}}\n"
base = f"base_model: {DONORS}/base\n"
refuse(8, ["slerp", "base_model"], f"merge_method: slerp\nmodels:\n  - model: {DONORS}/code\n")
refuse(8, ["parameter t"], f"merge_method: slerp\n{base}models:\n  - model: {DONORS}/code\n")
refuse(3, ["density", "unknown key"], "merge_method: linear\n" + model.replace("weight: 1", "weight: 1, density: 1"))
refuse(4, ["ties2", "ties"], "merge_method: ties2\n" + base + model)
refuse(8, ["weight", "code"], "merge_method: ties\n" + base + model.replace("weight: 1", "density: 1"))
refuse(8, ["density 1.5"], "merge_method: ties\n" + base + model.replace("weight: 1", "weight: 1, density: 1.5"))
refuse(8, ["epsilon"], "merge_method: della\n" + base + model.replace("weight: 1", "weight: 1, density: 0.1"))
refuse(3, ["line 4", "weight"], "merge_method: linear\n" + model.replace("weight: 1", "weight: [1, x]"))
refuse(4, ["modules"], "merge_method: linear\nmodules: {}\n")
refuse(3, ["sources"], "merge_method: linear\ntokenizer: {sources: union}\n" + model)
refuse(3, ["either"], "merge_method: linear\n" + model + "slices: []\n")
one = "merge_method: passthrough\nslices:\n  - sources:\n      - model: " + str(DONORS / "code")
refuse(3, ["layer_range"], one + "\n")
refuse(3, ["layer_range"], one + "\n        layer_range: [3, 1]\n")
refuse(8, ["ends at 5", "4 layers"], one + "\n        layer_range: [1, 5]\n")
refuse(8, ["different numbers"], one.replace("passthrough", "linear") + "\n        layer_range: [1, 3]\n"
       + f"      - model: {DONORS}/prose\n        layer_range: [1, 2]\n")
common.done()
