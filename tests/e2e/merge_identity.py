"""What must be the same for every family that merge writes: equal donors give the dense model, an expert that is chosen alone
with weight 1 gives its donor's feed-forward block to the bit, experts taken out and merged again give the mixture back."""
import math
import shutil

import common
from common import DATA, WORK, check, run, same

TINY = DATA / "models/tiny"
IDS = WORK / "ids.txt"
IDS.write_text("1 20 30 40 50 60 70 80 90 100 7 8 9 10 11 12\n1 99 98 97 96 95 3 4 5 6 7 8 9 250 251 252\n")
# output family, donors' family, is there a shared expert
FAMILIES = [("mixtral", "mistral", False), ("mixtral", "llama", False), ("qwen2_moe", "qwen2", True), ("qwen3_moe", "qwen3", False),
            ("qwen2_moe", "llama", True), ("nekomind", "qwen3", True), ("nekomind", "qwen2", True), ("nekomind", "llama", True), ("mesh", "mistral", False), ("deepseek", "llama", False), ("deepseek", "llama", True)]


def capture(model, *options):
    run("forward", model, "--tokens", IDS, "-o", WORK / "x.safetensors", "--force", *options)
    return common.read_safetensors(WORK / "x.safetensors")[1]


def donors_of(base):
    """Three models that are `base` but for their feed-forward blocks."""
    out = []
    for d in range(3):
        to = WORK / f"{base.name}-{d}"
        if not to.exists():
            shutil.copytree(base, to, ignore=shutil.ignore_patterns("reference.safetensors"))
            tensors = common.read_safetensors(base / "model.safetensors")[1]
            for name, t in tensors.items():
                if ".mlp." in name:  # other rows of the same weights
                    step = (d * 7 + 3) * len(t.data) // t.shape[0]
                    tensors[name] = common.Tensor(t.dtype, t.shape, t.data[step:] + t.data[:step])
            common.write_safetensors(to / "model.safetensors", tensors, {"format": "pt"})
        out.append(to)
    return out


def merge(name, base, target, donors, shared="", gate="random", used=2, dtype="float32"):
    text = f"base_model: {base}\narchitecture: {target}\ngate_mode: {gate}\ndtype: {dtype}\nexperts_per_token: {used}\nexperts:\n"
    text += "".join(f"  - source_model: {d}\n" for d in donors) + shared
    (WORK / f"{name}.yml").write_text(text)
    run("merge", WORK / f"{name}.yml", WORK / name, "-q", "--force", "--random-seed", 5)
    return WORK / name


for target, family, shared in FAMILIES:
    what, base = f"{family} as {target}", TINY / family
    one = f"shared_experts:\n  - source_model: {base}\n"

    # ---- equal donors, in double: what is left is the rounding of a weighted mean of equal numbers ----
    moe = merge("equal", base, target, [base] * 4, one + "shared_scale: exact\n" if shared else "")
    x, y = (capture(m, "--precision", "f64", "--capture", "logits")["logits"].floats() for m in (moe, base))
    rms = math.sqrt(sum(v * v for v in y) / len(y))
    worst = max(abs(a - b) for a, b in zip(x, y)) / rms
    check(worst < 1e-13, f"{what}: logits of equal donors differ by {worst:.1e} of their RMS")

    # ---- one expert per token: its donor's block, to the bit ----
    donors = donors_of(base)
    moe = merge("one", base, target, donors, one + "    residual_scale: 0\n" if shared else "", used=1)
    got = capture(moe, "--capture", "hidden,router")
    width = got["hidden.1"].shape[-1] * 4
    states = [capture(d, "--capture", "hidden")["hidden.1"].data for d in donors]
    router, chosen = got["router.0"].floats(), set()
    for t in range(len(router) // 3):
        scores = router[3 * t:3 * t + 3]
        e = scores.index(max(scores))
        chosen.add(e)
        span = slice(t * width, (t + 1) * width)
        check(got["hidden.1"].data[span] == states[e][span], f"{what}: token {t} is not what expert {e} alone gives")
        check(got["hidden.1"].data[span] != states[e - 1][span], f"{what}: the donors do not differ at token {t}")
    same(chosen, {0, 1, 2}, f"{what}: experts that are chosen")

    # ---- out and back: the same bytes; and what comes out are the donors ----
    dtype = {"BF16": "bfloat16", "F32": "float32"}[next(iter(common.read_hf_dir(base).values())).dtype]
    moe = merge("whole", base, target, donors, one if shared else "", dtype=dtype)
    shutil.rmtree(WORK / "out", ignore_errors=True)
    said = run("extract", moe, WORK / "out", "--all").err
    same("exchange maps are left out" in said, target == "mesh", f"{what}: what is said of exchange maps")
    same(sorted(p.name for p in (WORK / "out").iterdir()), [f"expert-{e}" for e in range(3)] + ["shared"] * shared, f"{what}: models")
    for d, e in [*zip(donors, range(3)), *[(base, "shared")] * shared]:
        out = WORK / "out" / (e if e == "shared" else f"expert-{e}")
        got, want = (common.read_hf_dir(p) for p in (out, d))
        same({n: t.sha256() for n, t in got.items()}, {n: t.sha256() for n, t in want.items()}, f"{what}: {e} as it was merged")
        # spelled anew, config.json means the same
        same(*(capture(m, "--capture", "logits")["logits"].sha256() for m in (out, d)), f"{what}: logits of {e}")
    again_shared = "shared_experts:\n  - source_model: " + str(WORK / "out/shared") + "\n"
    again = merge("again", WORK / "out/expert-0", target, [WORK / f"out/expert-{e}" for e in range(3)],
                  again_shared if shared else "", gate=moe / "model.safetensors", dtype=dtype)
    same(common.sha256(again / "model.safetensors"), common.sha256(moe / "model.safetensors"), f"{what}: experts merged again")
    same(*(capture(m, "--capture", "logits")["logits"].sha256() for m in (again, moe)), f"{what}: logits of experts merged again")

    # ---- with halves, times two ----
    if shared:
        moe = merge("halves", base, target, donors, one + "shared_scale: exact\n", dtype=dtype)
        run("extract", moe, WORK / "half", "--expert", 1, "--scale", 2, "-q", "--force")
        got, want = (common.read_hf_dir(p) for p in (WORK / "half", donors[1]))
        same({n: t.sha256() for n, t in got.items()}, {n: t.sha256() for n, t in want.items()}, f"{what}: twice a half")
        # half an expert beside half of the shared one: all that a mixture of one expert adds, in one block
        moe = merge("joined", base, target, donors[1:2], one + "shared_scale: exact\n", used=1, dtype=dtype)
        run("extract", moe, WORK / "wide", "--expert", 0, "--shared", "merge", "-q", "--force")
        x, y = (capture(m, "--precision", "f64", "--capture", "logits")["logits"].floats() for m in (WORK / "wide", moe))
        rms = math.sqrt(sum(v * v for v in y) / len(y))
        worst = max(abs(a - b) for a, b in zip(x, y)) / rms
        check(worst < 1e-13, f"{what}: joined block and mixture differ by {worst:.1e} of the RMS")
common.done()
