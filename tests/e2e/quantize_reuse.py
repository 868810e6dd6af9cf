"""quantize --reuse: the file is that of a run from scratch, whatever changed; what cannot be proved is encoded again. And values
that no encoder looks at: a NaN in a tensor that is only copied is refused."""
import json
import re
import shutil

import common
from common import DATA, WORK, Tensor, check, read_gguf, read_safetensors, run, same, sha256, write_safetensors
import moe4

model = moe4.build(WORK / "moe4")
source = WORK / "moe4-bf16.gguf"
run("convert", model, source, "--outtype", "bf16")
shutil.copy(DATA / "golden/gguf/imatrix.gguf", WORK / "imatrix.gguf")
IM = ["--imatrix", "imatrix.gguf"]
run("quantize", "-q", *IM, source, "old.gguf", "Q4_K_S")
encoded = sum(t["recipe"][0] == "cast" for t in json.loads((WORK / "old.gguf.manifest.json").read_text())["tensors"])
check(encoded >= 30, f"{encoded} encoded tensors")


def again(taken, *words, old="old.gguf", model=source):
    """The same command with and without --reuse: the same file, `taken` tensors of the old one in it."""
    run("quantize", "-q", "--force", *words[:-1], model, "fresh.gguf", words[-1])
    result = run("quantize", "--force", "--reuse", old, *words[:-1], model, "new.gguf", words[-1])
    same(sha256(WORK / "new.gguf"), sha256(WORK / "fresh.gguf"), f"sha256 of {words}")
    same(int(re.search(r"(\d+) encoded tensors, .* are copied", result.err)[1]), taken, f"tensors taken by {words}")


again(encoded, *IM, "Q4_K_S")
again(encoded - 4, *IM, "--tensor-type", "attn_v=q6_k", "Q4_K_S")
again(encoded, *IM, "--override-kv", "general.name=str:other", "Q4_K_S")
plain = read_gguf(WORK / "old.gguf")[1]
without = sum(n.startswith(("token_embd", "output.")) for n, t in plain.items() if t.dtype != "F32")
again(without, "Q4_K_S")  # only what no importance values reached is the same without them
again(encoded, *IM, "Q4_K_S", model=model)  # the same values from a directory

# One value in the middle of one tensor is another one: sizes, names and both ends of the file are what they were.
other = shutil.copytree(model, WORK / "other")
meta, tensors = read_safetensors(model / "model.safetensors")
name = "model.layers.2.self_attn.q_proj.weight"
t = tensors[name]
data = bytearray(t.data)
data[len(data) // 2] ^= 0x40
tensors[name] = Tensor(t.dtype, t.shape, bytes(data))
write_safetensors(other / "model.safetensors", tensors, {"format": "pt"})
again(encoded - 1, *IM, "Q4_K_S", model=other)

# A corrected encoder is another one, and a manifest of another version proves nothing.
IQ3 = ["--tensor-type", "attn_q=iq3_s", "--tensor-type", "attn=q8_0", "--tensor-type", "ffn=q4_0"]
run("quantize", "-q", *IQ3, source, "iq3.gguf", "Q8_0")
again(encoded - 4, "--fixed", *IQ3, "Q8_0", old="iq3.gguf")
text = (WORK / "old.gguf.manifest.json").read_text()
manifest = json.loads(text)
(WORK / "old.gguf.manifest.json").write_text(json.dumps(manifest | {"version": "0.0.0"}))
again(0, *IM, "Q4_K_S")
(WORK / "old.gguf.manifest.json").write_text(text.replace('"source_xxh3"', '"source_xxh4"'))
again(0, *IM, "Q4_K_S")

# A damaged old file is not copied from; a manifest is needed; the result is not written over what it is taken from.
(WORK / "old.gguf.manifest.json").write_text(text)
raw = bytearray((WORK / "old.gguf").read_bytes())
raw[-100000] ^= 1
(WORK / "bad.gguf").write_bytes(raw)
shutil.copy(WORK / "old.gguf.manifest.json", WORK / "bad.gguf.manifest.json")
before = sorted(p.name for p in WORK.iterdir())
result = run("quantize", *IM, "--reuse", "bad.gguf", source, "x.gguf", "Q4_K_S", expect=7)
check("blk.3" in result.err, result.err)
(WORK / "bad.gguf.manifest.json").write_text("{}")
run("quantize", *IM, "--reuse", "bad.gguf", source, "x.gguf", "Q4_K_S", expect=3)
(WORK / "bad.gguf.manifest.json").unlink()
run("quantize", *IM, "--reuse", "bad.gguf", source, "x.gguf", "Q4_K_S", expect=5)
run("quantize", *IM, "--reuse", "old.gguf", source, "old.gguf", "Q4_K_S", "--force", expect=2)
same(sorted(p.name for p in WORK.iterdir()), sorted(set(before) - {"bad.gguf.manifest.json"}), "files after refusals")

# Copied tensors are looked at.
for dtype, bits in (("BF16", b"\x80\x7f"), ("F32", b"\0\0\xc0\x7f")):
    t = tensors["model.norm.weight"] if dtype == "BF16" else tensors["model.layers.1.input_layernorm.weight"]
    size = len(bits)
    values = t.data if dtype == "BF16" else b"".join(b"\0\0" + t.data[i:i + 2] for i in range(0, len(t.data), 2))
    broken = dict(tensors)
    key = "model.norm.weight" if dtype == "BF16" else "model.layers.1.input_layernorm.weight"
    broken[key] = Tensor(dtype, t.shape, values[:7 * size] + bits + values[8 * size:])
    write_safetensors(other / "model.safetensors", broken, {"format": "pt"})
    for kind in ("Q8_0", "COPY"):
        result = run("quantize", other, "x.gguf", kind, "--restart", expect=3)
        check("element 7" in result.err and "norm" in result.err, result.err)
check(not (WORK / "x.gguf").exists(), "a refused run gives nothing its name")
common.done()
