"""Helpers of the end-to-end tests. Python standard library only.

A test is a script: it imports this module (which empties its work folder), runs tools, and compares. Failing = an
exception; the last line of a script is `common.done()`. Registered with mg_e2e(name) in tests/CMakeLists.txt.
"""
import array
import hashlib
import json
import math
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys

BIN = pathlib.Path(os.environ["MG_BIN"])          # the built tools
DATA = pathlib.Path(os.environ["MG_DATA"])        # tests/data
SAMPLES = pathlib.Path(os.environ["MG_SAMPLES"])  # samples/
WORK = pathlib.Path(os.environ["MG_WORK"])        # ours, empty at the start

shutil.rmtree(WORK, ignore_errors=True)
WORK.mkdir(parents=True)
_checks = 0


# ---- judging ----

def check(condition, message):
    """Count one comparison; raise with message when it does not hold."""
    global _checks
    _checks += 1
    if not condition:
        raise AssertionError(message)


def same(found, expected, what):
    check(found == expected, f"{what}: expected {expected!r}, found {found!r}")


def done():
    """Last line of every script. A test that compared nothing is a failure."""
    if _checks == 0:
        sys.exit("no comparison was made")
    print(f"{_checks} comparisons passed")


# ---- running tools ----

class Result:
    """What a run left: code, out, err (text)."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def json(self):
        return json.loads(self.out)


def run(tool, *args, expect=0, env=None, cwd=None, stdin=None, timeout=1100):
    """Run moegraft-<tool>; raise unless it exits with `expect` (a number, a tuple of numbers, or None for any).

    env: extra variables. A negative exit code is a signal, as subprocess reports it.
    """
    command = [str(BIN / f"moegraft-{tool}")] + [str(a) for a in args]
    done_run = subprocess.run(command, capture_output=True, cwd=cwd or WORK, input=stdin, timeout=timeout,
                              env={**os.environ, **{k: str(v) for k, v in (env or {}).items()}})
    result = Result(done_run.returncode, done_run.stdout.decode("utf-8", "replace"), done_run.stderr.decode("utf-8", "replace"))
    if expect is not None:
        allowed = expect if isinstance(expect, tuple) else (expect,)
        if result.code not in allowed:
            raise AssertionError(f"{' '.join(command)}\n  exit code {result.code}, expected {expect}\n"
                                 f"  stdout: {result.out[-2000:]}\n  stderr: {result.err[-4000:]}")
    global _checks
    _checks += expect is not None
    return result


def refused(code, words, what, tool, *args):
    """The tool ends with this code, names these words, and has written nothing: neither WORK/never nor a part of it."""
    result = run(tool, *args, expect=code)
    for word in words:
        check(word in result.err, f"{what}: message lacks {word!r}: {result.err}")
    check(not (WORK / "never").exists() and leftovers(WORK) == [], f"{what}: something was written")


def count_crash_points(tool, *args, env=None):
    """Run to the end and say how many crash points (crash.h) were passed."""
    counter = WORK / "crash_points.txt"
    run(tool, *args, env={**(env or {}), "MOEGRAFT_CRASH_COUNT": counter})
    return int(counter.read_text())


def run_killed(tool, *args, after, env=None):
    """Start a tool and kill -9 it after `after` seconds. True when it was killed before it ended by itself."""
    process = subprocess.Popen([str(BIN / f"moegraft-{tool}")] + [str(a) for a in args], cwd=WORK,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, **{k: str(v) for k, v in (env or {}).items()}})
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait() == -signal.SIGKILL


# ---- files ----

def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def tree(folder):
    """{relative path: sha256} of every file below a folder: two outputs are equal when their trees are."""
    folder = pathlib.Path(folder)
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def leftovers(folder):
    """Names of our partial files and journals in a folder."""
    return sorted(p.name for p in pathlib.Path(folder).iterdir() if p.name.startswith(".") and p.suffix in (".part", ".journal"))


def fresh(name):
    """An empty folder of this name in WORK."""
    path = WORK / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


# ---- safetensors (format: 8-byte little-endian header length, JSON header, data) ----

ST_SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
            "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}


class Tensor:
    """dtype as the file spells it, shape (slowest first; for GGUF reversed from the file's dims), raw bytes."""

    def __init__(self, dtype, shape, data):
        self.dtype, self.shape, self.data = dtype, list(shape), bytes(data)

    def sha256(self):
        return hashlib.sha256(self.data).hexdigest()

    def floats(self):
        """Values as a flat list of Python floats (F32, F16, BF16, F64) or ints (integer types)."""
        return decode(self.dtype, self.data)


def decode(dtype, data):
    if dtype == "BF16":
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[0::2], data[1::2]
        return array.array("f", bytes(wide)).tolist()
    if dtype == "F16":
        return [v for (v,) in struct.iter_unpack("<e", data)]
    codes = {"F32": "f", "F64": "d", "I64": "q", "U64": "Q", "I32": "i", "U32": "I", "I16": "h", "U16": "H",
             "I8": "b", "U8": "B", "BOOL": "B"}
    return array.array(codes[dtype], data).tolist()


def read_safetensors(path):
    """(metadata, {name: Tensor}) in the order of the data. Strict enough to notice holes and overlaps."""
    with open(path, "rb") as f:
        raw = f.read()
    (n,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8:8 + n])
    metadata = header.pop("__metadata__", {})
    data, at, tensors = raw[8 + n:], 0, {}
    for name, t in sorted(header.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        begin, end = t["data_offsets"]
        if begin != at or end < begin or end > len(data):
            raise AssertionError(f"{path}: tensor {name} at [{begin}, {end}), expected to begin at {at}")
        if math.prod(t["shape"]) * ST_SIZES[t["dtype"]] != end - begin:
            raise AssertionError(f"{path}: tensor {name} of shape {t['shape']} has {end - begin} bytes")
        tensors[name] = Tensor(t["dtype"], t["shape"], data[begin:end])
        at = end
    if at != len(data):
        raise AssertionError(f"{path}: {len(data) - at} bytes after the last tensor")
    return metadata, tensors


def write_safetensors(path, tensors, metadata=None):
    """tensors: {name: Tensor}; written in the order given."""
    header, at = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name, t in tensors.items():
        header[name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": [at, at + len(t.data)]}
        at += len(t.data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for t in tensors.values():
            f.write(t.data)


def f32(values, shape=None):
    values = list(values)
    return Tensor("F32", shape or [len(values)], struct.pack(f"<{len(values)}f", *values))


def i64(values, shape=None):
    values = list(values)
    return Tensor("I64", shape or [len(values)], struct.pack(f"<{len(values)}q", *values))


def read_hf_dir(folder):
    """{name: Tensor} of a directory: model.safetensors, or the shards its index names (each tensor where it says)."""
    folder = pathlib.Path(folder)
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(folder / "model.safetensors")[1]
    where = json.loads(index.read_text())["weight_map"]
    found = {}
    for shard in sorted(set(where.values())):
        for name, tensor in read_safetensors(folder / shard)[1].items():
            same(where.get(name), shard, f"index entry of {name}")
            found[name] = tensor
    same(sorted(found), sorted(where), "tensors of the shards and of the index")
    return found


# ---- GGUF v2/v3 (little endian) ----

# id: (name, elements per block, bytes per block)
GGML_TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
              7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
              12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
              16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
              20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
              24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
              29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
              39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36)}
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


class _Cursor:
    def __init__(self, raw):
        self.raw, self.at = raw, 0

    def take(self, fmt):
        (value,) = struct.unpack_from(fmt, self.raw, self.at)
        self.at += struct.calcsize(fmt)
        return value

    def string(self):
        n = self.take("<Q")
        self.at += n
        return self.raw[self.at - n:self.at].decode("utf-8", "surrogateescape")

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind != 9:
            return self.take(_SCALARS[kind])
        element, n = self.take("<I"), self.take("<Q")
        return [self.value(element) for _ in range(n)]


def read_gguf(path):
    """({key: value}, {name: Tensor}); tensor shapes slowest first, dtype names as ggml spells them."""
    raw = pathlib.Path(path).read_bytes()
    c = _Cursor(raw)
    if c.take("<I") != 0x46554747:
        raise AssertionError(f"{path}: no GGUF magic")
    version, n_tensors, n_kv = c.take("<I"), c.take("<Q"), c.take("<Q")
    if version not in (2, 3):
        raise AssertionError(f"{path}: GGUF version {version}")
    kv = {}
    for _ in range(n_kv):
        key, kind = c.string(), c.take("<I")
        kv[key] = c.value(kind)
    infos = []
    for _ in range(n_tensors):
        name, rank = c.string(), c.take("<I")
        dims = [c.take("<Q") for _ in range(rank)]
        infos.append((name, dims, c.take("<I"), c.take("<Q")))
    align = kv.get("general.alignment", 32)
    base = c.at + -c.at % align
    tensors = {}
    for name, dims, kind, offset in infos:
        label, block, size = GGML_TYPES[kind]
        n = math.prod(dims) // block * size
        if base + offset + n > len(raw):
            raise AssertionError(f"{path}: tensor {name} ends past the file")
        tensors[name] = Tensor(label, dims[::-1], raw[base + offset:base + offset + n])
    return kv, tensors
