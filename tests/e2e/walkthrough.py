"""The example of docs/adding_a_family.md, run: the family as a file and as a part of the program are the same table, and a checkpoint of
it gives what the same weights give under a family that is known."""
import json
import subprocess

import common

PAGE = common.BIN.parent / "walkthrough"
FILE = PAGE / "acorn.yaml"
TINY = common.DATA / "models" / "tiny" / "qwen3"

# One table, two forms.
built = subprocess.run([common.BIN / "walkthrough_inspect", "--print-arch", "acorn"], check=True, capture_output=True, text=True).stdout
loaded = common.run("inspect", "--arch", FILE, "--print-arch", "acorn").out
common.same(loaded, built, "the table of the file and that of the program")

# A checkpoint of the family, made of one that has a reference.
config = json.loads((TINY / "config.json").read_text())
config |= {"model_type": "acorn", "architectures": ["AcornForCausalLM"], "num_layers": config.pop("num_hidden_layers")}
tensors = common.read_hf_dir(TINY)
for layer in range(config["num_layers"]):
    p = f"model.layers.{layer}.mlp."
    gate, up, down = (tensors.pop(f"{p}{x}_proj.weight") for x in ("gate", "up", "down"))
    tensors[p + "wi.weight"] = common.Tensor(gate.dtype, [2 * gate.shape[0], gate.shape[1]], gate.data + up.data)
    tensors[p + "wo.weight"] = down
model = common.fresh("acorn")
(model / "config.json").write_text(json.dumps(config))
common.write_safetensors(model / "model.safetensors", tensors)

common.run("forward", TINY, "--ids", "1,5,9,200", "-o", common.WORK / "known.st", "-q")
common.run("forward", model, "--ids", "1,5,9,200", "--arch", FILE, "-o", common.WORK / "acorn.st", "-q")
common.same(common.sha256(common.WORK / "acorn.st"), common.sha256(common.WORK / "known.st"), "activations")
common.refused(4, ("acorn",), "without the file", "forward", model, "--ids", "1", "-o", common.WORK / "never")
seen = subprocess.run([common.BIN / "walkthrough_inspect", model, "--json"], check=True, capture_output=True, text=True).stdout
common.same(json.loads(seen)["family"], "acorn", "the program with the family in")

# To GGUF and back, quantized, checked.
result = common.run("convert", model, common.WORK / "acorn.gguf", "--arch", FILE)
common.check("acorn" in result.err, f"an architecture of our own is said: {result.err}")
common.run("convert", common.WORK / "acorn.gguf", common.WORK / "back", "--arch", FILE, "-q")
common.same({k: (t.shape, t.sha256()) for k, t in common.read_hf_dir(common.WORK / "back").items()},
            {k: (t.shape, t.sha256()) for k, t in tensors.items()}, "to GGUF and back")
common.run("quantize", model, common.WORK / "q8.gguf", "Q8_0", "--arch", FILE, "-q")
(common.WORK / "ids.txt").write_text("1 5 9 200 17 33\n")
common.run("verify", model, common.WORK / "q8.gguf", "--arch", FILE, "--tokens", common.WORK / "ids.txt")
common.run("check", model, common.WORK / "acorn.gguf", "--arch", FILE)
common.done()
