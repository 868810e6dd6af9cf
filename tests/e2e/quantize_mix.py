"""Types of every tensor of eight large models under 32 presets, as llama-quantize chose them (golden/typemix), from
`quantize --dry-run --json` on headers whose data is a hole in the file."""
import json
import os
import struct

from common import DATA, WORK, check, done, run, same

golden = json.loads((DATA / "golden/typemix/mix.json").read_text())


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def key(name, value):
    if isinstance(value, str):
        return text(name) + struct.pack("<I", 8) + text(value)
    return text(name) + struct.pack("<II", 4, value)


def header_only(path, model):
    """The model in BF16 (1-D tensors and routers F32), its data a hole."""
    arch, kv = model["arch"], model["kv"]
    keys = [key("general.architecture", arch)]
    for name, value in kv.items():
        where = {"head_count": "attention.head_count", "head_count_kv": "attention.head_count_kv",
                 "key_length": "attention.key_length", "rope_dim": "rope.dimension_count"}.get(name, name)
        keys.append(key(f"{arch}.{where}", value))
    infos, at = [], 0
    for name, shape in model["tensors"]:
        wide = len(shape) == 1 or "ffn_gate_inp" in name
        infos.append(text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), 0 if wide else 30, at))
        n = 4 if wide else 2
        for d in shape:
            n *= d
        at += n + -n % 32
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(infos), len(keys)) + b"".join(keys) + b"".join(infos)
    head += bytes(-len(head) % 32)
    with open(path, "wb") as f:
        f.write(head)
        f.truncate(len(head) + at)


decisions = 0
for name, model in golden.items():
    path = WORK / f"{name}.gguf"
    header_only(path, model)
    presets = {p: v for p, v in model["presets"].items() if "refused" not in v}
    outputs = [word for p in presets for word in ("-o", f"{WORK}/{p}.gguf={p}")]
    plans = run("quantize", "--dry-run", "--json", "-q", path, *outputs).json()["outputs"]
    same(len(plans), len(presets), f"plans of {name}")
    wide = {t for t, shape in model["tensors"] if len(shape) == 1 or "ffn_gate_inp" in t}
    for (preset, expected), plan in zip(presets.items(), plans):
        same(len(plan["tensors"]), expected["n"], f"tensors of {name} {preset}")
        found = {t["name"]: t["to"].lower() for t in plan["tensors"]}
        default = expected["default"].lower()
        want = {t: "f32" if t in wide else expected["others"].get(t, default).lower() for t, _ in model["tensors"]}
        same({t: v for t, v in found.items() if want[t] != v}, {}, f"types of {name} {preset}")
        decisions += len(want)
        same(plan["bytes"], sum(t["bytes"] for t in plan["tensors"]), f"bytes of {name} {preset}")
    for preset in model["presets"].keys() - presets.keys():
        result = run("quantize", "--dry-run", path, WORK / "x.gguf", preset, expect=4)
        check("fallback" in result.err, f"{name} {preset}: {result.err}")
    same(sorted(p.name for p in WORK.iterdir()), [path.name], "a dry run touches nothing")
    os.remove(path)
check(decisions > 60000, f"only {decisions} decisions were compared")
done()
