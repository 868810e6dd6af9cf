"""Malformed safetensors files, indexes and GGUF files: each must give its exact exit code and a message that names the
file, in bounded memory and time, without a crash and without waiting. Numbers (S01, I01, G01 ...) are ours; each case says what it is.
"""
import json
import os
import resource
import shutil
import socket
import struct
import subprocess
import time

from common import BIN, WORK, check, done, fresh, same

CHECK = BIN / "moegraft-check"
SANITIZED = "ASAN_OPTIONS" in os.environ or "TSAN_OPTIONS" in os.environ  # memory is not ours to judge then


def judge(case, path, code, *says, args=(), growth=64):
    """Run check on path. says: parts the message must hold. growth: MiB of memory over an idle run that are allowed."""
    begun = time.monotonic()
    p = subprocess.Popen([str(CHECK), "-t", "1", *args, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = p.stdout.read(), p.stderr.read()
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    p.stdout.close()
    p.stderr.close()
    text = err.decode("utf-8", "strict")
    same(p.returncode, code, f"{case}: exit code ({text.strip()[:400]})")
    if code != 0:
        for part in (os.path.basename(str(path)), *says):
            check(part in text, f"{case}: message lacks {part!r}: {text}")
        check(all(32 <= ord(c) or c == "\n" for c in text), f"{case}: control bytes in the message: {text!r}")
    else:
        for part in says:
            check(part in out.decode(), f"{case}: output lacks {part!r}: {out.decode()}")
    if not SANITIZED:
        # A child is charged with the memory of the process that forked it, so our own size is where counting begins.
        ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        check(usage.ru_maxrss < max(ours, 32 * 1024) + growth * 1024, f"{case}: {usage.ru_maxrss / 1024:.0f} MiB resident")
        check(time.monotonic() - begun < 20, f"{case}: took {time.monotonic() - begun:.1f} s")


# ---- safetensors ----

def st_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def st_file(case, content):
    path = WORK / f"{case}.safetensors"
    path.write_bytes(content)
    return path


def entry(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def st(case, header, code, *says, data=b"\0\0\0\0", growth=64):
    judge(case, st_file(case, st_bytes(header, data)), code, *says, growth=growth)


def safetensors_cases():
    good = json.dumps({"a": entry()}).encode()
    for n in range(8):
        judge("S01", st_file(f"S01_{n}", bytes(n)), 3, "too small")
    judge("S02 length past the end", st_file("S02", struct.pack("<Q", 100) + good), 3, "does not fit")
    judge("S03 length over the limit", st_file("S03", struct.pack("<Q", 100_000_001) + good), 3, "over the limit")
    judge("S04 length that wraps", st_file("S04", struct.pack("<Q", 2**64 - 1) + good), 3, "over the limit")
    st("S05_utf8", b'{"\xff":' + json.dumps(entry()).encode() + b"}", 3)
    st("S06_cut", good[:-1], 3)
    st("S07_space", b" \n\t" + good + b"\r\n  ", 0)
    for name, junk in (("bom", b"\xef\xbb\xbf"), ("soh", b"\x01"), ("nul", b"\0")):
        st(f"S08_{name}", junk + good, 3)
    st("S09_after", good + b"x", 3)
    st("S10_dup", b'{"a":%s,"a":%s}' % (json.dumps(entry()).encode(), json.dumps(entry(shape=[0], offsets=[4, 4])).encode()), 3,
       "'a'", "duplicate")
    st("S11_dup_escaped", b'{"a":%s,"\\u0061":%s}' % (json.dumps(entry()).encode(), json.dumps(entry(shape=[0], offsets=[4, 4])).encode()),
       3, "'a'", "duplicate")
    st("S11_dup_field", b'{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}', 3, "duplicate")
    st("S12_nul", b'{"a\\u0000b":%s}' % json.dumps(entry()).encode(), 3)
    st("S13_overlap", {f"t{i}": entry(shape=[16], offsets=[0, 16]) for i in range(10)}, 3, "overlap", data=bytes(16))
    st("S14_hole", {"a": entry(), "b": entry(offsets=[6, 10])}, 3, "'b'", "hole", data=bytes(10))
    st("S14_first", {"a": entry(offsets=[2, 6])}, 3, "'a'", "hole", data=bytes(6))
    st("S15_trailing", {"a": entry()}, 3, "4 bytes after the last tensor", data=b"\0\0\0\0PK\3\4")
    st("S16_short", {"a": entry()}, 3, "'a'", "truncated", data=b"\0\0")
    st("S17_wrap", {"a": entry(shape=[2, 2**64 - 2])}, 3, "'a'", "overflows")
    st("S17_wrap63", {"a": entry(shape=[2, 2**63 - 1])}, 3, "'a'", "overflows")
    st("S17_bytes", {"a": entry("F64", [2**61])}, 3, "'a'", "overflows")
    st("S17_over_u64", {"a": entry(shape=[2**64])}, 3)
    st("S18_size", {"a": entry(shape=[5])}, 3, "'a'", "needs 5 bytes, data_offsets hold 4")
    st("S19_reversed", {"a": entry(offsets=[4, 0])}, 3, "'a'")
    for i, number in enumerate((b"-1", b"1.5", b"1e3", b"01", b"+1", b"\"4\"", b"null")):
        st(f"S19_{i}", b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,%s]}}' % number, 3)
        st(f"S19_shape_{i}", b'{"a":{"dtype":"U8","shape":[%s],"data_offsets":[0,4]}}' % number, 3)
    st("S20_exact", {"a": entry(shape=[2**53 + 1], offsets=[0, 2**53 + 1])}, 3, "needs 9007199254740993 bytes", "truncated")
    st("S20_off_by_one", {"a": entry(shape=[2**53], offsets=[0, 2**53 + 1])}, 3, "data_offsets hold 9007199254740993")
    st("S21_f4_odd", {"a": entry("F4", [7])}, 3, "'a'", "whole bytes")
    st("S21_f4_even", {"a": entry("F4", [8])}, 4, "'a'", "F4")
    st("S22_empty", {"a": entry(shape=[2, 0], offsets=[0, 0]), "b": entry("F32", [], [0, 4])}, 0, "2 tensors")
    st("S22_none", {}, 0, "0 tensors", data=b"")
    st("S23_case", {"a": entry("bf16", [2])}, 4, "'a'", "bf16")
    st("S23_block", {"a": entry("Q4")}, 4, "'a'", "Q4")
    st("S24_rank", {"a": entry(shape=[1] * 1_000_000)}, 6, "'a'")
    st("S25_nesting", b'{"__metadata__":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", 3, data=b"")
    st("S25_nesting_entry", b'{"a":{"x":' + b'{"x":' * 1000 + b"0" + b"}" * 1000 + b"}}", 3, data=b"")
    st("S26_metadata_number", {"__metadata__": {"a": 1}}, 3, "metadata", data=b"")
    st("S26_metadata_list", {"__metadata__": []}, 3, "metadata", data=b"")
    st("S26_metadata_dup", b'{"__metadata__":{"a":"","a":""}}', 3, "duplicate", data=b"")
    path = WORK / "S27_many_objects.safetensors"
    with open(path, "wb") as f:  # 12 million entries in 96 MB, written in pieces to stay small ourselves
        f.write(struct.pack("<Q", 96_000_002) + b"{")
        for _ in range(1200):
            f.write(b'"aa":{},' * 10_000)
        f.seek(-1, os.SEEK_CUR)
        f.write(b" }")
    judge("S27", path, 3, "lack dtype", growth=128)
    path.unlink()
    st("S27_many_tensors", b"{" + b",".join(b'"%x":{"dtype":"U8","shape":[],"data_offsets":[%d,%d]}' % (i, i, i + 1)
                                            for i in range(200_000)) + b"}", 0, "200000 tensors", data=bytes(200_000), growth=256)
    st("S28_unaligned", b" " + good, 0)
    # S29: a header length whose bytes look like a zlib stream (78 20)
    st("S29_zlib", good + b" " * (0x2078 - len(good)), 0)
    for case, header in (("array", b"[]"), ("null", b"null"), ("string", b'"x"'), ("entry", b'{"a":1}'), ("lacks", b'{"a":{"dtype":"U8"}}')):
        st(f"S30_{case}", header, 3)
    judge("S31 LFS pointer", st_file("S31", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"), 3, "git lfs pull")
    judge("S32 name with control bytes", st_file("S32", st_bytes(b'{"a\\n\\u001b[31m":{"dtype":"U8","shape":[5],"data_offsets":[0,4]}}', bytes(4))),
          3, "\\x0a\\x1b[31m")
    os.mkfifo(WORK / "S33.safetensors")
    judge("S33 pipe", WORK / "S33.safetensors", 3, "pipe")


# ---- directories ----

CONFIG = '{"model_type":"no-such-family","architectures":["NoSuchForCausalLM"]}'


def folder(case, index=None, shards=(), config=CONFIG):
    path = fresh(case)
    if config is not None:
        (path / "config.json").write_text(config)
    if index is not None:
        (path / "model.safetensors.index.json").write_text(index if isinstance(index, str) else json.dumps(index))
    for name, names in dict(shards).items():
        (path / name).write_bytes(st_bytes({n: entry(offsets=(4 * i, 4 * i + 4)) for i, n in enumerate(names)}, bytes(4 * len(names))))
    return path


A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SHARDS = {A: ["a", "b"], B: ["c"]}
MAP = {"a": A, "b": A, "c": B}


def index_cases():
    index = {"metadata": {"total_size": 12}, "weight_map": MAP}
    judge("I00 good", folder("I00", index, SHARDS), 0, "3 tensors")
    for i, name in enumerate(("../x.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "", "..", "config.json")):
        judge(f"I01 {name!r}", folder(f"I01_{i}", {"weight_map": {"a": name}}), 3, "index.json")
    outside = fresh("outside")
    (outside / "w.safetensors").write_bytes(st_bytes({"c": entry()}, bytes(4)))
    path = folder("I02", index, {A: ["a", "b"]})
    (path / B).symlink_to(outside / "w.safetensors")
    judge("I02 link out of the model", path, 3, "leaves the model directory")
    path = folder("I02_single")
    (path / "model.safetensors").symlink_to(outside / "w.safetensors")
    judge("I02 single file", path, 3, "leaves the model directory")
    path = folder("I02_inside", index, {A: ["a", "b"]})
    (path / "real.safetensors").write_bytes(st_bytes({"c": entry()}, bytes(4)))
    (path / B).symlink_to("real.safetensors")
    judge("I02 link inside the model", path, 0, "3 tensors")
    judge("I03 missing shards", folder("I03", index), 3, "2 of 2 shards", A, B)
    judge("I03 missing tensor", folder("I03b", {"weight_map": {**MAP, "d": B, "e": B}}, SHARDS), 3, "2 tensors", "'d', 'e'")
    judge("I04 in two shards", folder("I04", index, {A: ["a", "b"], B: ["c", "a"]}), 3, "'a'")
    judge("I04 not in the index", folder("I04b", index, {A: ["a", "b", "x"], B: ["c"]}), 3, "'x'", "not in the index")
    judge("I04 in the other shard", folder("I04c", {"weight_map": {**MAP, "b": B}}, SHARDS), 3, "'b'", B)
    for i, text in enumerate(('{"weight_map":[]}', '{"weight_map":{"a":1}}', '{"weight_map":{"a":null}}', "{}", "[]", "", "null", '{"weight_map":{}}x',
                              '{"weight_map":{"a":"x.safetensors","a":"x.safetensors"}}', '{"weight_map":{},"weight_map":{}}')):
        judge(f"I05 {text}", folder(f"I05_{i}", text, SHARDS), 3, "index.json")
    judge("I06 total_size", folder("I06", {**index, "metadata": {"total_size": 13}}, SHARDS), 0, "total_size is 13")
    judge("I06 float total_size", folder("I06b", {**index, "metadata": {"total_size": 12.0}}, SHARDS), 0, "3 tensors")
    path = folder("I07_fifo", index, {A: ["a", "b"]})
    os.mkfifo(path / B)
    judge("I07 pipe", path, 3, "pipe")
    path = folder("I07_dir", index, {A: ["a", "b"]})
    (path / B).mkdir()
    judge("I07 directory", path, 3, "directory")
    path = folder("I07_socket", index, {A: ["a", "b"]})
    here = os.getcwd()
    os.chdir(path)  # a socket's path is limited to 107 bytes
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(B)
    os.chdir(here)
    judge("I07 socket", path, 3)
    path = folder("I07_device", index, {A: ["a", "b"]})
    (path / B).symlink_to("/dev/zero")
    judge("I07 device", path, 3)
    for i, name in enumerate(("pytorch_model.bin", "consolidated.00.pth", "model.pt")):
        path = folder(f"I08_{i}")
        (path / name).write_bytes(b"PK\3\4")
        judge(f"I08 {name}", path, 3, "end record" if i == 0 else "neither pytorch_model.bin nor")
        judge(f"I08 {name} itself", path / name, 3, "end record")
    path = folder("I09")
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    judge("I09", path, 3, "model.safetensors", "git lfs pull")
    stray = folder("I12", index, {**SHARDS, "model-00003-of-00003.safetensors": ["z"]})
    judge("I12 stray shard", stray, 0, "model-00003-of-00003.safetensors' is not named by the index")
    judge("I13 shards without an index", folder("I13", None, SHARDS), 3, "without an index only model.safetensors counts")
    judge("I14 two answers", folder("I14", index, {**SHARDS, "model.safetensors": ["a"]}), 8, "both")
    judge("I15 nothing", folder("I15"), 3, "no weights")
    judge("I16 no config", folder("I16", index, SHARDS, config=None), 3, "no config.json")
    for i, text in enumerate(("", "null", "[1]", '{"a":1,"a":2}', '{"a":1}x', "\ufeff{}")):
        judge(f"K18 {text!r}", folder(f"K18_{i}", index, SHARDS, config=text), 3, "config.json")
    native = folder("I17", None, {"consolidated.safetensors": ["a"]}, config=None)
    (native / "params.json").write_text("{}")
    judge("I17 params.json of no family", native, 0, "none of the fields")
    judge("I18 not there", WORK / "no_such.safetensors", 5, "No such file")
    judge("I19 cut into pieces", touch("y.gguf.part1of2"), 5, "y.gguf.part2of2")


def touch(name):
    (WORK / name).write_bytes(b"GGUF")
    return WORK / name


def cache_cases():
    """models--org--name: snapshots/REV/FILE -> ../../blobs/HASH."""
    repo = fresh("models--org--name")
    snap, blobs = repo / "snapshots" / ("0" * 40), repo / "blobs"
    snap.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "aa").write_text(CONFIG)
    (blobs / "bb").write_bytes(st_bytes({"a": entry()}, bytes(4)))
    (snap / "config.json").symlink_to("../../blobs/aa")
    (snap / "model.safetensors").symlink_to("../../blobs/bb")
    judge("I20 cache", snap, 0, "1 tensors")
    alias = WORK / "alias"
    alias.symlink_to(snap)
    judge("I20 cache through a link", alias, 0, "1 tensors")
    (blobs / "bb").rename(blobs / "bb.incomplete")
    judge("I10 dangling blob", snap, 3, "model.safetensors", "download was interrupted")
    (snap / "model.safetensors").unlink()
    (snap / "model.safetensors").symlink_to("../../blobs/bb.incomplete")
    judge("I10 unfinished blob", snap, 3, "model.safetensors", "download was interrupted")
    (blobs / "bb.incomplete").rename(blobs / "bb")
    (snap / "model.safetensors").unlink()
    (snap / "model.safetensors").symlink_to("../../../outside/w.safetensors")
    judge("I02 out of the cache", snap, 3, "leaves the model directory")
    (snap / "model.safetensors").unlink()
    (snap / "model.safetensors").symlink_to("../../blobs/bb")
    (snap / "config.json").unlink()
    (snap / "config.json").symlink_to("../../blobs/cc")
    judge("I10 dangling config", snap, 3, "config.json", "download was interrupted")


# ---- GGUF ----

def s(text):
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def kv(key, kind, value):
    return s(key) + struct.pack("<I", kind) + value


def text_kv(key, value):
    return kv(key, 8, s(value))


def arr_kv(key, kind, n, raw):
    return kv(key, 9, struct.pack("<IQ", kind, n) + raw)


def info(name, dims, kind, offset, n_dims=None):
    return s(name) + struct.pack("<I", len(dims) if n_dims is None else n_dims) + b"".join(struct.pack("<Q", d % 2**64) for d in dims) \
        + struct.pack("<IQ", kind % 2**32, offset)


def gguf_bytes(kvs=(), infos=(), data=b"", version=3, n_tensors=None, n_kv=None, align=32, magic=b"GGUF"):
    head = magic + struct.pack("<IQQ", version, len(infos) if n_tensors is None else n_tensors, len(kvs) if n_kv is None else n_kv)
    head += b"".join(kvs) + b"".join(infos)
    return head + bytes(-len(head) % align) + data


def gg(case, code, *says, growth=64, raw=None, **parts):
    path = WORK / f"{case}.gguf"
    path.write_bytes(gguf_bytes(**parts) if raw is None else raw)
    judge(case, path, code, *says, growth=growth)


def gguf_cases():
    x = info("x", [32], 0, 0)
    gg("G00_good", 0, "1 tensors", infos=[x], data=bytes(128))
    gg("G00_no_last_pad", 0, "1 tensors", infos=[info("x", [1], 0, 0)], data=bytes(4))
    gg("G00_nothing", 0, "0 tensors")
    gg("G00_v2", 0, "1 tensors", infos=[x], data=bytes(128), version=2)
    gg("G01_magic", 3, "does not start with GGUF", raw=gguf_bytes(magic=b"FUGG"))
    gg("G01_empty", 3, "empty", raw=b"")
    gg("G01_zeros", 3, "incomplete write", raw=bytes(4096))
    gg("G01_lfs", 3, "git lfs pull", raw=b"version https://git-lfs.github.com/spec/v1\n")
    for n in (1, 3, 4, 7, 8, 15, 23):
        gg(f"G01_cut_{n}", 3, raw=gguf_bytes(infos=[x], data=bytes(128))[:n])
    for v in (0, 1, 4):
        gg(f"G02_version_{v}", 4, "version", version=v)
    gg("G02_big_endian", 4, "big-endian", raw=b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
    for name, n in (("max", 2**64 - 1), ("high", 2**63), ("large", 2**40), ("one_more", 2)):
        gg(f"G03_tensors_{name}", 3, n_tensors=n, infos=[x], data=bytes(128) if n > 2 else b"")
        gg(f"G03_kv_{name}", 3, n_kv=n, kvs=[text_kv("a", "b")])
    for name, n in (("max", 2**64 - 1), ("high", 2**63), ("one_more", 100)):
        gg(f"G04_key_{name}", 3, kvs=[struct.pack("<Q", n) + b"a" * 20])
        gg(f"G04_str_{name}", 3, "'k'", kvs=[kv("k", 8, struct.pack("<Q", n) + b"a" * 20)])
        gg(f"G04_arr_str_{name}", 3, "'k'", kvs=[arr_kv("k", 8, 1, struct.pack("<Q", n) + b"a" * 20)])
    gg("G05_empty", 3, kvs=[text_kv("", "v")])
    gg("G05_long", 3, kvs=[text_kv("a" * 65536, "v")])
    gg("G05_longest", 0, kvs=[text_kv("a" * 65535, "v")])
    gg("G05_ascii", 3, kvs=[text_kv("ä", "v")])
    gg("G05_nul", 3, kvs=[text_kv("a\0b", "v")])
    gg("G06_duplicate", 3, "duplicate key 'a'", kvs=[text_kv("a", "v"), text_kv("b", "v"), text_kv("a", "w")])
    gg("G06_many", 0, "0 tensors", kvs=[text_kv(f"k{i}", "") for i in range(300_000)], growth=256)
    for t in (13, 0x7FFFFFFF, 0xFFFFFFFF):
        gg(f"G07_type_{t}", 3, "'k'", "unknown value type", kvs=[kv("k", t, bytes(8))])
        gg(f"G07_elem_{t}", 3, "'k'", "unknown value type", kvs=[arr_kv("k", t, 1, bytes(8))])
    for name, n in (("wrap", 2**62), ("max", 2**64 - 1), ("more", 1000)):
        gg(f"G08_u32_{name}", 3, "'k'", kvs=[arr_kv("k", 4, n, bytes(16))])
        gg(f"G08_str_{name}", 3, "'k'", kvs=[arr_kv("k", 8, n, bytes(16))])
    gg("G08_nested", 3, "'k'", "arrays of arrays", kvs=[arr_kv("k", 9, 1, struct.pack("<IQ", 9, 1) * 100_000)])
    gg("G09_bool", 3, "'k'", "bool", kvs=[kv("k", 7, b"\2")])
    gg("G09_bool_array", 3, "'k'", "bool", kvs=[arr_kv("k", 7, 3, b"\0\1\xff")])
    al = "general.alignment"
    gg("G10_typed", 3, al, kvs=[kv(al, 5, struct.pack("<i", 32))])
    for a in (0, 13, 131072, 2**31):
        gg(f"G10_{a}", 3, al, str(a), kvs=[kv(al, 4, struct.pack("<I", a))])
    for a in (1, 8, 64):
        gg(f"G10_ok_{a}", 0, kvs=[kv(al, 4, struct.pack("<I", a))], infos=[x], data=bytes(128), align=a)
    gg("G11_empty", 3, infos=[info("", [1], 0, 0)], data=bytes(32))
    gg("G11_long", 3, infos=[info("n" * 64, [1], 0, 0)], data=bytes(32))
    gg("G11_longest", 0, infos=[info("n" * 63, [1], 0, 0)], data=bytes(32))
    gg("G11_nul", 3, infos=[info("a\0b", [1], 0, 0)], data=bytes(32))
    gg("G11_dup", 3, "'x'", "duplicate", infos=[x, info("x", [32], 0, 128)], data=bytes(256))
    gg("G12_dims_5", 3, "'x'", infos=[info("x", [1] * 5, 0, 0)], data=bytes(32))
    gg("G12_dims_max", 3, "'x'", infos=[info("x", [1], 0, 0, n_dims=2**32 - 1)], data=bytes(32))
    gg("G12_scalar", 0, infos=[info("x", [], 0, 0)], data=bytes(32))
    gg("G12_zero", 0, infos=[info("x", [0, 5], 0, 0)])
    gg("G13_ne_negative", 3, "'x'", infos=[info("x", [-1], 0, 0)], data=bytes(32))
    gg("G13_ne_wraps", 3, "'x'", infos=[info("x", [2**32, 2**32, 2], 0, 0)], data=bytes(32))
    gg("G13_nbytes_wraps", 3, "'x'", infos=[info("x", [2**62, 1], 0, 0)], data=bytes(32))
    gg("G13_blocks_wrap", 3, "'x'", infos=[info("x", [32, 2**58 - 1], 8, 0)], data=bytes(32))
    gg("G13_pad_wraps", 3, "'x'", infos=[info("x", [2**63 - 3], 24, 0)], data=bytes(32))
    gg("G13_sum_wraps", 3, infos=[info("x", [2**62], 24, 0), info("y", [2**62], 24, 2**62), info("z", [2**62], 24, 2**63)],
       data=bytes(32))
    gg("G14_block", 3, "'x'", "block", infos=[info("x", [33], 8, 0)], data=bytes(64))
    gg("G14_kblock", 3, "'x'", "block", infos=[info("x", [128, 2], 12, 0)], data=bytes(160))
    for t in (4, 5, 9, 15, 31, 32, 33, 36, 37, 38, 43, 1000, -1):
        gg(f"G15_type_{t}", 4, "'x'", "tensor type", infos=[info("x", [256], t, 0)], data=bytes(1024))
    y = lambda offset: [x, info("y", [32], 0, offset)]
    gg("G16_unaligned", 3, "'y'", "offset", infos=y(129), data=bytes(512))
    gg("G16_overlap", 3, "'y'", "offset", infos=y(96), data=bytes(512))
    gg("G16_gap", 3, "'y'", "offset", infos=y(160), data=bytes(512))
    gg("G16_first", 3, "'x'", "offset", infos=[info("x", [32], 0, 32)], data=bytes(512))
    gg("G16_far", 3, "'y'", infos=y(2**63), data=bytes(512))
    gg("G17_short", 3, "'x'", "truncated", infos=[x], data=bytes(127))
    gg("G17_nothing", 3, "'x'", infos=[x])
    tokens = arr_kv("tokenizer.ggml.tokens", 8, 2, s("a") + s("b"))
    gg("G18_tokens", 3, "tokens", kvs=[arr_kv("tokenizer.ggml.tokens", 4, 2, bytes(8))])
    gg("G18_tokens_scalar", 3, "tokens", kvs=[text_kv("tokenizer.ggml.tokens", "a")])
    gg("G18_scores", 3, "scores", kvs=[tokens, arr_kv("tokenizer.ggml.scores", 1, 2, bytes(2))])
    gg("G18_count", 3, "scores", kvs=[tokens, arr_kv("tokenizer.ggml.scores", 6, 3, bytes(12))])
    gg("G18_types", 3, "token_type", kvs=[tokens, arr_kv("tokenizer.ggml.token_type", 5, 1, bytes(4))])
    gg("G18_good", 0, kvs=[tokens, arr_kv("tokenizer.ggml.scores", 6, 2, bytes(8)), arr_kv("tokenizer.ggml.token_type", 5, 2, bytes(8))])
    gg("G20_split", 3, "a part of a set of 3 files", "not named so", kvs=[kv("split.count", 2, struct.pack("<H", 3))])
    gg("G20_merged", 0, kvs=[kv("split.count", 2, struct.pack("<H", 0))])
    gg("G23_trailing", 0, "bytes after the last tensor", infos=[x], data=bytes(500))
    # every cut of a small file is refused or, past the data, accepted; never a crash
    whole = gguf_bytes([text_kv("a", "b"), tokens], [x], bytes(128))
    for n in range(0, len(whole), 7):
        gg("G24_cut", 3, raw=whole[:n])
    # 5 GiB hole: extents past 2^31 and 2^32 elements are plain numbers
    path = WORK / "G25_large.gguf"
    head = gguf_bytes(infos=[info("big", [2**20, 5 * 2**10], 24, 0), info("x", [32], 0, 5 * 2**30)])
    with open(path, "wb") as f:
        f.write(head)
        f.truncate(len(head) + 5 * 2**30 + 128)
    judge("G25 sparse 5 GiB", path, 0, "2 tensors")
    with open(path, "r+b") as f:
        f.truncate(len(head) + 5 * 2**30 + 127)
    judge("G25 sparse, one byte short", path, 3, "'x'", "truncated")
    path.unlink()


safetensors_cases()
index_cases()
cache_cases()
gguf_cases()
shutil.rmtree(WORK / "outside")
done()
