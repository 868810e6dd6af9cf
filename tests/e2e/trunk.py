"""The trunk of a mixture of experts: the base's, averaged, merged by a dense method, by regression on the donors' inputs, or part of
the way to that; identities, determinism, refusals."""
import common
from common import DATA, SAMPLES, WORK, check, run, same

DONORS = DATA / "models/donors"
NAMES = ("prose", "code", "math", "json")
PROMPTS = {d: [line for line in (SAMPLES / f"text/{d}.txt").read_text().splitlines() if len(line) > 20][:6] for d in NAMES}
stored = {d: common.read_safetensors(DONORS / d / "model.safetensors")[1] for d in ("base",) + NAMES}


def recipe(name, trunk, donors=NAMES, extra="dtype: float32\ngate_mode: random\n"):
    text = f"base_model: {DONORS}/base\n{extra}" + (f"trunk: {trunk}\n" if trunk else "") + "experts:\n"
    for d in donors:
        text += f"  - source_model: {DONORS}/{d}\n    positive_prompts: {common.json.dumps(PROMPTS.get(d, ['x']))}\n"
    path = WORK / f"{name}.yml"
    path.write_text(text)
    return path


def merged(name, trunk, *options, env=None, **more):
    run("merge", recipe(name, trunk, **more), WORK / name, "-q", "--force", *options, env=env)
    same(common.leftovers(WORK) + [p.name for p in WORK.iterdir() if p.name.startswith(".")], [], f"{name}: leftovers")
    return common.read_safetensors(WORK / name / "model.safetensors")[1]


def close(a, b, tolerance, what):
    scale = max(abs(x) for x in b)
    check(max(abs(x - y) for x, y in zip(a, b)) <= tolerance * scale, what)


trunk_names = [n for n in stored["base"] if ".mlp." not in n]
probe = ("model.layers.2.self_attn.q_proj.weight", "model.layers.0.input_layernorm.weight", "model.embed_tokens.weight")

# ---- the base's trunk: nothing said, `base`, and zero of the way ----
plain = merged("plain", None)
for name, trunk in (("base", "base"), ("zero", "{merge_method: average, strength: 0}")):
    found = merged(name, trunk)
    for n in trunk_names:
        check(found[n].data == plain[n].data, f"{name}: {n} is not the base's")

# ---- the mean, and half of the way to it; experts stay the donors' ----
mean, half = merged("mean", "average"), merged("half", "{merge_method: average, strength: 0.5}")
for n in probe:
    want = [sum(v) / 4 for v in zip(*(stored[d][n].floats() for d in NAMES))]
    close(mean[n].floats(), want, 1e-6, f"mean of {n}")  # sums of four f32 products
    close(half[n].floats(), [(a + b) / 2 for a, b in zip(want, stored["base"][n].floats())], 1e-6, f"half way to the mean of {n}")
for e, d in enumerate(NAMES):
    w = plain[f"model.layers.1.block_sparse_moe.experts.{e}.w1.weight"].data
    check(mean[f"model.layers.1.block_sparse_moe.experts.{e}.w1.weight"].data == w, f"expert {d} changed with the trunk")

# ---- a dense method over chosen models, with a filter by tensor name ----
ties = merged("ties", f"{{merge_method: task_arithmetic, models: [{{model: {DONORS}/code}}], parameters: {{weight: [{{filter: q_proj, value: 0.5}}, "
              "{value: 1.0}]}}")
for n, w in ((probe[0], 0.5), (probe[1], 1.0)):
    want = [b + w * (c - b) for b, c in zip(stored["base"][n].floats(), stored["code"][n].floats())]
    close(ties[n].floats(), want, 1e-6, f"task arithmetic of {n}")

# ---- regression: equal donors give themselves; the same bytes for threads, instruction sets and the tried recipe ----
same_donor = merged("equal", "regmean", donors=("math", "math"))
for n in trunk_names:
    # solved in f64 from f32 Gram matrices of condition up to 1e6: about 1e-10 relative, then rounded to f32
    close(same_donor[n].floats(), stored["math"][n].floats(), 1e-6, f"regmean of equal models: {n}")
regmean = merged("regmean", "regmean")
close(regmean[probe[1]].floats(), mean[probe[1]].floats(), 0, "norms are averaged")
check(regmean[probe[0]].data != mean[probe[0]].data and regmean["lm_head.weight"].data != mean["lm_head.weight"].data, "regmean changes nothing")
digest = common.sha256(WORK / "regmean/model.safetensors")
for options, env in ((["-t", 1], {"MOEGRAFT_ISA": "scalar"}), (["-t", 3], {})):
    merged("regmean", "regmean", *options, env=env)
    same(common.sha256(WORK / "regmean/model.safetensors"), digest, f"regmean with {options}")
(WORK / "few.txt").write_text("1 20 30 40 50 60 70 80\n")
ppl = [run("perplexity", m, "--tokens", WORK / "few.txt", "--json", "-q").json()["results"][0]["ppl"]
       for m in (WORK / "regmean", WORK / "regmean.yml")]
same(ppl[0], ppl[1], "the tried recipe and the written model")

# ---- what regression is for: each donor's projections are kept better on its own inputs than by the mean ----
def drift(model, donor):
    """How far the model's attention is from the donor's on the donor's own text: KL of the dense model with this trunk."""
    run("extract", model, WORK / "dense", "--expert", NAMES.index(donor), "-q", "--force")
    (WORK / "text.txt").write_text("\n".join(PROMPTS[donor]))
    return run("verify", DONORS / donor, WORK / "dense", "--text", WORK / "text.txt", "--ctx", 32, "--json", "-q").json()["candidates"][0]["kl"]["mean"]


gain = [drift(WORK / "regmean", d) < drift(WORK / "mean", d) for d in ("prose", "code")]
same(gain, [True] * 2, "regmean is closer to the donors than the mean on their own text")


# ---- refusals ----
def refuse(code, words, trunk, **more):
    common.refused(code, words, trunk, "merge", recipe("bad", trunk, **more), WORK / "never")


refuse(4, ["regmeen", "regmean"][:1], "regmeen")
refuse(3, ["strength"], "{merge_method: average, strength: much}")
refuse(3, ["stregth", "strength"], "{merge_method: average, stregth: 1}")
refuse(8, ["prompts", "base"], f"{{merge_method: regmean, models: [{{model: {DONORS}/base}}]}}")
refuse(4, ["regmean", "weight"], "{merge_method: regmean, parameters: {weight: 0.5}}")
refuse(4, ["regmean", "weight"], f"{{merge_method: regmean, models: [{{model: {DONORS}/prose}}, {{model: {DONORS}/code, parameters: {{weight: 2}}}}]}}")
refuse(3, ["density"], "{merge_method: average, parameters: {density: 1}}")

# ---- what a recipe without gate_mode means, and --compat mergekit ----
text = run("merge", recipe("default", None, extra="dtype: float32\n"), WORK / "default").err
check("gate mode 'fit'" in text, f"without gate_mode: {text}")
text = run("merge", WORK / "default.yml", WORK / "compat", "--compat", "mergekit").err
check("gate mode 'hidden'" in text, f"--compat mergekit: {text}")
run("merge", WORK / "default.yml", WORK / "never", "--compat", "other", expect=2)
common.done()
