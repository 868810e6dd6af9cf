"""moegraft-convert against convert_hf_to_gguf.py: every tensor, every key and the whole file, for a Mixtral and a Mistral in
four types. Expected values: tests/data/golden/gguf/convert.json, made by the reference converter."""
import json

import common
import moe4

golden = json.loads((common.DATA / "golden" / "gguf" / "convert.json").read_text())
models = {"moe4": moe4.build(common.WORK / "moe4"), "prose": common.DATA / "models" / "donors" / "prose"}
common.same(common.sha256(models["moe4"] / "model.safetensors"),
            "106f878fe5f615bd6a481503e85745ca82803957db5642d5447ef1467b44be7c", "weights of moe4")
common.same(len(golden), 8, "entries of convert.json")

for number, (name, want) in enumerate(sorted(golden.items())):
    model, outtype = name.split("-")
    out = common.WORK / f"{name}.gguf"
    result = common.run("convert", models[model], out, "--outtype", outtype, "--json", "-q", "-t", (1, 2, 3, 16)[number % 4]).json()
    kv, tensors = common.read_gguf(out)
    common.same([(n, t.dtype, t.shape[::-1], t.sha256()) for n, t in tensors.items()],
                [(n, *t) for n, t in want["tensors"].items()], f"{name}: tensors")
    common.same(list(kv), [key for key, _, _ in want["kv"]], f"{name}: keys in order")
    for key, kind, value in want["kv"]:
        found = {"length": len(kv[key])} if kind.startswith("ARRAY") else kv[key]
        common.same(found, {"length": value["length"]} if kind.startswith("ARRAY") else value, f"{name}: {key}")
    common.same(common.sha256(out), want["file_sha256"], f"{name}: file")
    common.same(result["files"][0]["sha256"], want["file_sha256"], f"{name}: sha256 in the result")

# auto keeps bf16; "." is named after the real directory.
common.run("convert", ".", common.WORK / "here.gguf", "-q", cwd=models["moe4"])
common.same(common.sha256(common.WORK / "here.gguf"), golden["moe4-bf16"]["file_sha256"], "from inside the directory")
common.done()
