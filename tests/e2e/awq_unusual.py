"""quantize AWQ and GPTQ of models and texts of the unusual kind: experts that no token reaches, experts in stacks, groups of zeros,
activations beyond F16 and beyond F32, tied embeddings, values that no F16 holds: a right file and a line in the report, or a
refusal before work starts."""
import shutil
import struct

import common
from awq_runs import IDS, TINY, calibrated, divergence, report

# ---- experts that no token reaches ----


def changed(name, source, change):
    """A copy of a model with tensors changed: change(name, values) gives new values or None."""
    folder = common.fresh(name)
    shutil.copy(source / "config.json", folder)
    tensors = common.read_hf_dir(source)
    for key, t in tensors.items():
        new = change(key, t)
        if new is not None:
            tensors[key] = common.Tensor("F32", t.shape, struct.pack(f"<{len(new)}f", *new))
    common.write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
    return folder


# Equal logits: ties go to the lower index, so experts 0 and 1 take every token.
silent = changed("silent", TINY / "mixtral", lambda k, t: [0.0] * len(t.floats()) if k.endswith("block_sparse_moe.gate.weight") else None)
for kind in ("AWQ", "GPTQ"):
    done = calibrated(silent, "out", kind, "--format", "awq", "--tokens", IDS, "--group-size", -1)
    layer = report("out")[kind.lower()][0]
    common.check(layer["few"] > 0 and 0 in layer["tokens"], f"silent experts are not reported: {layer['tokens']}")
    common.check("saw fewer than" in done.err, f"no warning: {done.err}")
    common.check(divergence(silent, "out", "--tokens", IDS) < 0.05, f"{kind} with silent experts")

# ---- a family that stacks its experts: in group formats each is a matrix of its own, which reading finds again ----

for kind, form in (("AWQ", "awq"), ("GPTQ", "compressed-tensors")):
    source = TINY / "granitemoe"
    calibrated(source, "out", kind, "--format", form, "--tokens", IDS, "--group-size", -1)
    names = [n for n in common.read_hf_dir(common.WORK / "out") if ".experts." in n]
    common.check(len({n.split(".experts.")[1].split(".")[0] for n in names}) > 1 and not any("_linear" in n for n in names), f"experts: {names[:3]}")
    common.check(divergence(source, "out", "--tokens", IDS) < 0.05, f"{kind} of stacked experts as {form}")
    common.run("convert", common.WORK / "out", common.WORK / f"{form}-stacks", "--outtype", "f32")
    common.same({n: t.shape for n, t in common.read_hf_dir(common.WORK / f"{form}-stacks").items()}, {n: t.shape for n, t in common.read_hf_dir(source).items()},
                "decoded, the stacks are back")

# ---- weights of zeros, activations beyond F16 ----

zeros = changed("zeros", TINY / "llama", lambda k, t: [0.0] * (len(t.floats()) // 2) + t.floats()[len(t.floats()) // 2:] if k.endswith("up_proj.weight") else None)
large = changed("large", TINY / "llama", lambda k, t: [1e6 * v for v in t.floats()] if k.endswith("up_proj.weight") else
                [1e-6 * v for v in t.floats()] if k.endswith("down_proj.weight") else None)
EMPTY = sum(len(t.floats()) // 2 // 32 for k, t in common.read_hf_dir(TINY / "llama").items() if k.endswith("up_proj.weight"))
for model in (zeros, large):
    for method in ("awq", "gptq", "awq+gptq"):
        done = calibrated(model, "out", "AWQ", "--method", method, "--tokens", IDS, "--group-size", 32)
        common.check(divergence(model, "out", "--tokens", IDS) < 0.05, f"{model.name} by {method}")
        found = report("out")
        largest = max(layer["largest_input"] for layer in found["gptq" if "gptq" in method else "awq"])
        common.same(found["zero_groups"], EMPTY if model is zeros else 0, f"{model.name}: groups of zeros")
        common.same((largest > 65504, "beyond F16" in done.err), (model is large,) * 2, f"{model.name} by {method}: {largest}, {done.err}")
infinite = changed("infinite", TINY / "llama", lambda k, t: [1e38 * v for v in t.floats()] if k.endswith("up_proj.weight") else None)
done = calibrated(infinite, "out", "AWQ", "--tokens", IDS, "--group-size", 32, "--format", "compressed-tensors", expect=3)
common.check("not finite" in done.err and "layer 0" in done.err, done.err)

# ---- tied embeddings: one tensor, which stays as it is ----

tied = TINY / "gemma"
for method in ("awq", "gptq"):
    calibrated(tied, "out", "AWQ", "--method", method, "--tokens", IDS, "--group-size", 32, "--format", "compressed-tensors")
    found, source = (common.read_hf_dir(folder) for folder in (common.WORK / "out", tied))
    common.check(report("out")["tied_embeddings"] and "lm_head.weight" not in found, "a tied head is no tensor of its own")
    common.same(found["model.embed_tokens.weight"].data, source["model.embed_tokens.weight"].data, "tied embeddings")
    common.check(divergence(tied, "out", "--tokens", IDS) < 0.05, f"{method} with tied embeddings")
calibrated(TINY / "llama", "out", "AWQ", "--tokens", IDS, "--group-size", 32)
common.check(not report("out")["tied_embeddings"], "untied embeddings")

# ---- refused before work starts: shapes, and values that no F16 holds ----

for key, value in (("embed_tokens", 1e5), ("input_layernorm", 1e5), ("up_proj", 1e7)):
    model = changed("beyond", TINY / "llama", lambda k, t: [value] + t.floats()[1:] if key in k else None)
    for method in ("rtn", "awq", "gptq"):
        text = () if method == "rtn" else ("--tokens", IDS)
        done = calibrated(model, "none", "RTN" if method == "rtn" else "AWQ", "--method", method, *text, "--group-size", 32, expect=4)
        common.check("does not fit F16" in done.err and "row 0" in done.err and key in done.err, done.err)
        common.check(not (common.WORK / "none" / "model.safetensors").exists() and not (common.WORK / ".none.stage").exists(), f"{method} left something")
    calibrated(model, "none", "RTN", "--group-size", 32, "--format", "compressed-tensors")  # the model's own type holds it

common.done()
