"""--arch FILE: every family of the program, printed and read back, is itself; what is wrong in a file is refused with its line."""
import re

import common

ARCHS = common.DATA.parent.parent / "formats" / "arch" / "archs.inc"
families = re.findall(r"^MG_ARCH\((\w+)\)", ARCHS.read_text(), re.M)
common.check(len(families) >= 28, "families")
for name in families:
    printed = common.run("inspect", "--print-arch", name).out
    path = common.WORK / f"{name}.yml"
    path.write_text(printed)
    common.same(common.run("inspect", "--arch", path, "--print-arch", name).out, printed, f"{name}: printed, read, printed")

# The printed family in the place of the built-in one: activations and GGUF are the same bytes.
for name in ("mixtral", "gpt_oss", "deepseek_v2", "gemma3_text", "phi3", "mesh_k2"):
    model, arch = common.DATA / "models" / "tiny" / name, common.WORK / f"{name.removesuffix('_k2')}.yml"
    for suffix, more in (("", ()), (".file", ("--arch", arch))):
        common.run("forward", model, "--ids", "1,5,9,200", "-o", common.WORK / f"{name}{suffix}.st", "-q", *more)
        common.run("convert", model, common.WORK / f"{name}{suffix}.gguf", "--model-name", name, "--no-manifest", "-q", *more)
    for ending in ("st", "gguf"):
        common.same(common.sha256(common.WORK / f"{name}.file.{ending}"), common.sha256(common.WORK / f"{name}.{ending}"), f"{name}: {ending}")

# ---- refusals ----

GOOD = (common.WORK / "qwen3.yml").read_text()
MOE = (common.WORK / "mixtral.yml").read_text()
MODEL = common.DATA / "models" / "tiny" / "qwen3"
like = "like: qwen3\nname: x\n"


def refused(what, text, *says, code=3):
    path = common.WORK / "bad.yml"
    path.write_text(text)
    common.refused(code, says, what, "forward", MODEL, "--arch", path, "--ids", "1", "-o", common.WORK / "never")


def changed(old, new, text=GOOD):
    common.check(old in text, f"the printed text lacks {old}")
    return text.replace(old, new, 1)


common.refused(5, ("nosuch.yml",), "no file", "forward", MODEL, "--arch", "nosuch.yml", "--ids", "1", "-o", common.WORK / "never")
refused("empty", "", "no document")
refused("a list", "[1, 2]", "map")
refused("no YAML", "{name: [", "bad.yml")
refused("unknown field", like + "colour: red\n", "line 3", "colour")
refused("unknown relative", "like: nosuch\nname: x\n", "nosuch", "family")
refused("without what", like + "without: [KEY]\n", "KEY")
refused("no name", "like: qwen3\n", "'name'")
refused("a name of blanks", 'like: qwen3\nname: "a b"\n', "name")
refused("a long name", f"like: qwen3\nname: {'x' * 60}\n", "name")
refused("control characters", 'like: qwen3\nname: "a\\nb"\n', "printable")
refused("a field missing", "name: x\n", "hf_classes")
refused("two rows for a key", changed("config:\n", 'config:\n  - {"key": "LAYERS", "absent": 3}\n'), "LAYERS")
refused("an unknown key", changed('"key": "FFN"', '"key": "FNF"'), "FNF", "keys.inc")
refused("an unknown role", changed('"role": "FFN_UP"', '"role": "FFN_OP"'), "FFN_OP", "roles.inc")
refused("a key missing", changed('"key": "HEAD_DIM"', '"key": "GRID_X"'), "HEAD_DIM")
refused("a role missing", like + "without: [FFN_UP]\n", "ffn_up")
refused("a condition of another role", changed('"role": "OUTPUT", "when": "untied"', '"role": "OUTPUT", "when": "moe"'), "condition", "output")
refused("a shape of another role", changed('"shape": ["HEADS*HEAD_DIM", "HIDDEN"]', '"shape": ["HIDDEN", "HIDDEN"]'), "shape", "attn_q")
refused("no shape", changed('"shape": ["HEADS*HEAD_DIM", "HIDDEN"]', '"shape": []'), "shape", "attn_q")
refused("a formula", changed('"shape": ["HEADS*HEAD_DIM", "HIDDEN"]', '"shape": ["HEADS**HEAD_DIM", "HIDDEN"]'), "HEADS**HEAD_DIM")
refused("division by 0", changed('"ROPE_DIM/2"', '"ROPE_DIM/0"'), "ROPE_DIM/0")
refused("no {l}", changed("model.layers.{l}.self_attn.q_proj.weight", "model.self_attn.q_proj.weight"), "{l}", "attn_q")
refused("which expert", changed(".experts.{e}.w1.weight", ".experts.w1.weight", MOE), "which expert")
refused("a long pattern", changed("model.norm.weight", "m" * 200), "150")
refused("a circle", changed('"absent": "HEADS"', '"absent": "KV_HEADS"', MOE.replace('"absent": 8, "null": "HEADS"', '"absent": "HEADS", "null": "HEADS"')), "KV_HEADS", "leads back")
refused("a longer circle", like + "config:\n  - {key: HIDDEN, hf: [h], absent: FFN, lo: 1, hi: 9}\n  - {key: FFN, hf: [f], absent: HIDDEN*LAYERS, lo: 1, hi: 9}\n", "leads back")
refused("no range", like + "config:\n  - {key: FFN, hf: [f], absent: 3}\n", "FFN", "range")
refused("a range of everything", like + "config:\n  - {key: FFN, hf: [f], absent: 3, lo: -9e99, hi: 9e99}\n", "FFN", "range")
refused("a broken number", like + "config:\n  - {key: FFN, hf: [f], absent: 3.5, lo: 1, hi: 9}\n", "FFN", "whole")
refused("not a number", like + "config:\n  - {key: FFN, hf: [f], absent: 3, lo: .nan, hi: 9}\n", "lo")
refused("too large", like + "config:\n  - {key: FFN, hf: [f], absent: 1e300, lo: 1, hi: 9}\n", "FFN")
refused("values without names", like + "config:\n  - {key: ACT, hf: [a], absent: silu}\n", "ACT", "names")
refused("an unknown enumerator", like + "block: {norm: median}\n", "median", "rms")
refused("one word of two", like + "lists: [{path: layer_types, trait: window, yes: a}]\n", "layer_types")
refused("edits that are no JSON", changed('"json": "null"', '"json": "nul"', MOE), "nul")
refused("too many spellings", like + "config:\n  - {key: FFN, hf: [a, b, c, d, e], absent: 3, lo: 1, hi: 9}\n", "hf", "4")
refused("routes without rows", like + "block: {router: softmax_topk}\n", "EXPERTS")
refused("too deep", like + "config: " + "[" * 80 + "]" * 80, "bad.yml", code=(3, 6))
refused("too large a file", like + "# " + "x" * (1 << 20), "bad.yml", code=6)

# What only shows with a model: numbers that do not fit the tensors, and views that do not.
refused("a view beyond the tensor", changed('{"role": "FFN_UP", "when": "dense", "shape": ["FFN", "HIDDEN"], "hf": ["model.layers.{l}.mlp.up_proj.weight"]',
        '{"role": "FFN_UP", "when": "dense", "shape": ["FFN", "HIDDEN"], "hf": {"pattern": "model.layers.{l}.mlp.up_proj.weight", '
        '"views": [{"kind": "rows", "a": 7, "b": "FFN"}], "stored": ["FFN", "HIDDEN"]}'), "ffn_up")
refused("one tensor for two roles", changed("mlp.up_proj.weight", "mlp.gate_proj.weight"), "twice")
refused("sizes out of a circle of products", like.replace("x", "qwen3") + "hf_classes: [Qwen3ForCausalLM]\nconfig:\n"
        "  - {key: CONTEXT, hf: [c], absent: GRID_X*GRID_X, lo: 1, hi: 1e12}\n  - {key: GRID_X, absent: GRID_Y*GRID_Y}\n  - {key: GRID_Y, absent: 1e12}\n",
        "comes out as", code=8)
twice = ["--arch", common.WORK / "qwen3.yml"] * 2
common.refused(8, ("qwen3",), "twice", "forward", MODEL, *twice, "--ids", "1", "-o", common.WORK / "never")
common.done()
