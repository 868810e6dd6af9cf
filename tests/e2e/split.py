"""GGUF sets: written as gguf-split, convert_hf_to_gguf.py and llama-quantize write them, joined, and refused when broken."""
import json
import shutil
import struct

import common
from common import DATA, SAMPLES, WORK, check, run, same

BASE = SAMPLES / "donors/base"
GOLDEN = json.loads((DATA / "golden/gguf/split.json").read_text())["files"]


def parts(stem, n):
    return [WORK / f"{stem}-{i + 1:05}-of-{n:05}.gguf" for i in range(n)]


def equal(stem, what):
    expected = GOLDEN[what]
    same([common.sha256(p) for p in parts(stem, len(expected))], expected, what)


run("convert", BASE, "base.gguf", "-q")

# Written.
run("convert", "base.gguf", "size.gguf", "--split-max-size", "2M", "--no-manifest", "-q")
equal("size", "gguf-split --split-max-size 2M")
run("convert", "base.gguf", "count.gguf", "--split-max-tensors", "10", "-q")
equal("count", "gguf-split --split-max-tensors 10")
run("convert", BASE, "hf.gguf", "--split-max-size", "2M", "-q")
equal("hf", "convert_hf_to_gguf.py --split-max-size 2M")
done = run("quantize", "--keep-split", parts("size", 4)[0], "q4.gguf", "Q4_K_M")
equal("q4", "llama-quantize --keep-split Q4_K_M")
for p in parts("q4", 4):
    check(p.name in done.out, "every part is listed")
manifest = json.loads((WORK / "q4.gguf.manifest.json").read_text())
same([f["name"] for f in manifest["files"]], [p.name for p in parts("q4", 4)], "files of the manifest")
same([len(i["files"]) for i in manifest["inputs"]], [4], "files of the input")
run("check", parts("q4", 4)[0], "--manifest", "q4.gguf.manifest.json", "--deep")

# One part is an ordinary file; a tensor larger than the limit has a part of its own.
run("convert", "base.gguf", "whole.gguf", "--split-max-size", "1G", "-q")
same((WORK / "whole.gguf").read_bytes(), (WORK / "base.gguf").read_bytes(), "a set of one")
plan = run("convert", "base.gguf", "tiny.gguf", "--split-max-size", "1", "--dry-run", "--json").json()
same(len(plan["files"]), len(plan["tensors"]), "parts of one tensor")

# Joined, and read as one model.
first = parts("size", 4)[0]
run("convert", first, "joined.gguf", "-q")
same((WORK / "joined.gguf").read_bytes(), (WORK / "base.gguf").read_bytes(), "joined")
run("convert", first, "q8-a.gguf", "--outtype", "q8_0", "-q")
run("convert", "base.gguf", "q8-b.gguf", "--outtype", "q8_0", "-q")
same((WORK / "q8-a.gguf").read_bytes(), (WORK / "q8-b.gguf").read_bytes(), "q8_0 from the parts")
run("convert", first, "again.gguf", "--split-max-tensors", "10", "-q")
same([p.read_bytes() for p in parts("again", 4)], [p.read_bytes() for p in parts("count", 4)], "split anew")
run("quantize", first, "one-a.gguf", "Q4_K_M", "-q")
run("quantize", "base.gguf", "one-b.gguf", "Q4_K_M", "-q")
same((WORK / "one-a.gguf").read_bytes(), (WORK / "one-b.gguf").read_bytes(), "quantized into one file")
run("quantize", "--keep-split", "base.gguf", "one-c.gguf", "Q8_0", "-q")
check((WORK / "one-c.gguf").exists(), "--keep-split of one file is one file")
info = run("inspect", first, "--json", "--tensors").json()
same(len(info["tensors"]), len(plan["tensors"]), "tensors of the set")
text = run("tokenize", first, "--text", "the quick brown fox").out
same(run("tokenize", "base.gguf", "--text", "the quick brown fox").out, text, "tokenizer of the set")
same(run("forward", first, "--ids", "1,5,9", "-o", "f.safetensors").code, 0, "forward")

# An architecture nobody knows is joined and split all the same.
strange = bytearray((WORK / "base.gguf").read_bytes())
at = strange.index(b"general.architecture") + 20 + 4 + 8
strange[at:at + 5] = b"zzzzz"
(WORK / "strange.gguf").write_bytes(strange)
run("convert", "strange.gguf", "strange-set.gguf", "--split-max-size", "2M", "-q")
run("convert", parts("strange-set", 4)[0], "strange-one.gguf", "-q")
same((WORK / "strange-one.gguf").read_bytes(), bytes(strange), "an unknown architecture")


# Refusals: the tool's words name the file and the number.
def broken(name, code, *words, path=None, stem="size"):
    """Judges a copy of the set, changed by a function."""
    def judge(change):
        folder = common.fresh(name)
        for p in parts(stem, 4):
            shutil.copyfile(p, folder / p.name)
        change(folder)
        result = run("check", folder / (path or parts(stem, 4)[0].name), expect=code)
        for w in words:
            check(w in result.err + result.out, f"{name}: '{w}' is not in: {result.err}{result.out}")
    return judge


def set_key(path, key, fmt, value):
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key) + 4
    data[at:at + struct.calcsize(fmt)] = struct.pack(fmt, value)
    path.write_bytes(data)


N = [p.name for p in parts("size", 4)]
broken("missing", 3, N[2], "part 3 of 4 is missing")(lambda d: (d / N[2]).unlink())
broken("duplicate", 3, N[2], "split.no", "is 1, expected 2")(lambda d: shutil.copyfile(d / N[1], d / N[2]))
broken("number", 3, N[3], "split.no", "expected 3")(lambda d: set_key(d / N[3], "split.no", "<H", 7))
broken("count", 3, N[1], "split.count", "expected 4")(lambda d: set_key(d / N[1], "split.count", "<H", 5))
broken("total", 3, N[1], "split.tensors.count", "expected 39")(lambda d: set_key(d / N[1], "split.tensors.count", "<i", 40))


def totals(folder):
    for n in N:
        set_key(folder / n, "split.tensors.count", "<i", 40)


broken("totals", 3, "is 40", "hold 39")(totals)
broken("negative", 3, N[0], "split.tensors.count")(lambda d: set_key(d / N[0], "split.tensors.count", "<i", -1))
broken("first_number", 3, N[0], "split.no")(lambda d: set_key(d / N[0], "split.no", "<H", 1))
broken("later", 2, "part 3 of 4", "name the first part", N[0], path=N[2])(lambda d: None)
broken("renamed", 3, "not named so", path="model.gguf")(lambda d: (d / N[0]).rename(d / "model.gguf"))
broken("cut", 3, N[3], "truncated")(lambda d: (d / N[3]).write_bytes((d / N[3]).read_bytes()[:-5000]))
broken("unsplit", 3, N[1], "split.no", "missing")(lambda d: shutil.copyfile(WORK / "base.gguf", d / N[1]))


def twice(folder):
    """Part 2 as part 3, with the numbers of part 3: as many tensors as expected, but the same ones again."""
    shutil.copyfile(folder / parts("count", 4)[1].name, folder / parts("count", 4)[2].name)
    set_key(folder / parts("count", 4)[2].name, "split.no", "<H", 2)


def foreign(folder):
    shutil.copyfile(parts("count", 4)[1], folder / N[1])


def foreign_model(folder):
    """A part that tells its model, and tells another."""
    data = (folder / N[1]).read_bytes()
    key = b"general.architecture"
    item = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, 5) + b"gemma"
    keys = struct.unpack_from("<Q", data, 16)[0]
    (folder / N[1]).write_bytes(data[:16] + struct.pack("<Q", keys + 1) + item + data[24:] + bytes(64))


broken("twice", 3, "also stored in", stem="count")(twice)
broken("foreign_model", 3, N[1], "of another model", "gemma")(foreign_model)
broken("foreign", 3, "split.tensors.count", "is 39", "hold")(foreign)
# A file that was cut by bytes, as hubs with size limits needed it: the first piece stands for all.
whole = (WORK / "base.gguf").read_bytes()
cuts = [0, 1000, 1000, len(whole) // 2 + 3, len(whole)]  # in the header, an empty piece, inside a tensor
for i in range(4):
    (WORK / f"cut.gguf.part{i + 1}of4").write_bytes(whole[cuts[i]:cuts[i + 1]])
run("convert", "cut.gguf.part1of4", "glued.gguf", "-q")
same((WORK / "glued.gguf").read_bytes(), whole, "joined pieces")
run("check", "cut.gguf.part1of4", "--deep", "-q")
model = common.read_safetensors(SAMPLES / "donors/base/model.safetensors")[1]
data = (SAMPLES / "donors/base/model.safetensors").read_bytes()
for i in range(2):
    (WORK / f"m.safetensors.part{i + 1}of2").write_bytes(data[i * 999999:999999 if i == 0 else None])
found = run("inspect", "m.safetensors.part1of2", "--tensors", "--hash", "--json").json()["tensors"]
same({t["name"]: t["sha256"] for t in found}, {n: t.sha256() for n, t in model.items()}, "tensors in pieces")
for name, code, words in (("cut.gguf.part2of4", 3, "name the first"), ("gone.gguf.part1of2", 5, "gone.gguf.part2of2"),
                          ("m.bin.part1of1", 4, "m.bin")):
    (WORK / "gone.gguf.part1of2").write_bytes(whole[:100])
    (WORK / "m.bin.part1of1").write_bytes(b"x")
    err = run("inspect", name, expect=code).err
    check(words in err, err)

# Outputs that would be mixed up, or are being read.
run("convert", "base.gguf", "size.gguf", "--split-max-size", "2M", "-q", expect=2)
result = run("convert", "base.gguf", "size.gguf", "--split-max-size", "1M", "--force", "-q", expect=2)
check("part of another set" in result.err, result.err)
before = [p.read_bytes() for p in parts("count", 4)]
result = run("convert", parts("count", 4)[0], "count.gguf", "--split-max-tensors", "10", "--force", "-q", expect=2)
check("same file" in result.err, result.err)
result = run("quantize", "--keep-split", parts("count", 4)[0], "count.gguf", "COPY", "--force", "-q", expect=2)
check("same file" in result.err, result.err)
same([p.read_bytes() for p in parts("count", 4)], before, "the input after the refusals")
run("convert", "base.gguf", "dir", "--split-max-size", "1M", expect=2)
result = run("edit", parts("count", 4)[0], "--set", "general.name=x", expect=4)
check("join them first" in result.err, result.err)
common.done()
