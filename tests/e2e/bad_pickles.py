"""Pickles and zip archives that lie or want to run something: each is refused with its exit code and a message that names the
cause, in bounded memory and time, and nothing is executed. Views, shared storages and odd but honest files are read."""
import hashlib
import io
import os
import struct
import time
import zipfile

from common import WORK, check, done, run, same

CANARY = WORK / "canary"  # what the hostile pickles try to make


# ---- a tiny assembler for pickles ----

def s(text):
    b = text.encode()
    return b"X" + struct.pack("<I", len(b)) + b


def i(n):
    return b"\x8a\x09" + n.to_bytes(9, "little", signed=True) if not -2**31 <= n < 2**31 else b"J" + struct.pack("<i", n)


def big(n):  # fits 8 bytes: an INT for us, whatever its size
    return b"\x8a\x08" + n.to_bytes(8, "little", signed=True)


def tup(*items):
    return b"(" + b"".join(items) + b"t"


def g(module, name):
    return f"c{module}\n{name}\n".encode()


def storage(key="0", numel=12, kind="FloatStorage", *more):
    return tup(s("storage"), g("torch", kind), s(key), s("cpu"), big(numel), *more) + b"Q"


ORDERED = g("collections", "OrderedDict") + b")R"


def tensor(shape, stride, offset=0, store=None, hooks=ORDERED):
    return g("torch._utils", "_rebuild_tensor_v2") + tup(store or storage(), big(offset), tup(*map(big, shape)),
                                                         tup(*map(big, stride)), b"\x89", hooks) + b"R"


def pickle(*entries, proto=2):
    return b"\x80" + bytes([proto]) + b"}(" + b"".join(s(k) + v for k, v in entries) + b"u."


T = tensor((3, 4), (4, 1))
DATA = struct.pack("<12f", *range(12))


def archive(pkl, entries=None, folder="m", **kw):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, **kw) as z:
        z.writestr(f"{folder}/data.pkl", pkl)
        for name, data in ({"data/0": DATA} if entries is None else entries).items():
            z.writestr(name if name.startswith("!") else f"{folder}/{name}", data)
    return out.getvalue()


def judge(case, content, code, *says, suffix=".pth"):
    path = WORK / (case.split()[0] + suffix)
    path.write_bytes(content)
    begun = time.monotonic()
    result = run("check", path, "-t", "1", expect=code)
    for part in says:
        check(part in result.err + result.out, f"{case}: message lacks {part!r}: {result.err}{result.out}")
    if code:
        check(path.name in result.err, f"{case}: message lacks the file: {result.err}")
        check(all(32 <= ord(c) or c == "\n" for c in result.err), f"{case}: control bytes in the message: {result.err!r}")
    check(time.monotonic() - begun < 20, f"{case}: took {time.monotonic() - begun:.1f} s")
    check(not CANARY.exists(), f"{case}: something was executed")
    os.unlink(path)


def judge_pickle(case, pkl, code, *says):
    judge(case, archive(pkl), code, *says)


# ---- what runs in Python and must not here ----

shell = s(f"touch {CANARY}")
judge_pickle("P01 os.system", b"\x80\x02" + g("os", "system") + tup(shell) + b"R.", 4, "'os.system'", "nothing of it was executed")
judge_pickle("P02 eval", b"\x80\x04" + s("builtins") + s("eval") + b"\x93" + tup(shell) + b"R.", 4, "'builtins.eval'")
judge_pickle("P03 in a value", pickle(("w", T), ("x", g("posix", "system") + tup(shell) + b"R")), 4, "'posix.system'")
judge_pickle("P04 INST", b"\x80\x02(" + shell + b"ios\nsystem\n.", 4, "INST")
judge_pickle("P05 OBJ", b"\x80\x02(N" + shell + b"o.", 4, "OBJ")
judge_pickle("P06 NEWOBJ", b"\x80\x02" + g("collections", "OrderedDict") + b")\x81.", 4, "NEWOBJ")
judge_pickle("P07 EXT1", b"\x80\x02\x82\x01.", 4, "EXT1")
judge_pickle("P08 PERSID", b"\x80\x02Pfile:///etc/passwd\n.", 4, "PERSID")
judge_pickle("P09 getattr on an allowed module", b"\x80\x02" + g("torch", "load") + tup(shell) + b"R.", 4, "'torch.load'")
judge_pickle("P10 dotted name", b"\x80\x04" + s("torch._utils") + s("sys.modules") + b"\x93.", 4, "'torch._utils.sys.modules'")
judge_pickle("P11 control bytes in a name", b"\x80\x02cos\x1b[31m\nsystem\n.", 4)
judge_pickle("P12 BUILD", pickle(("w", T), ("x", b"}}b")), 4, "state of an object")
judge_pickle("P13 hooks", pickle(("w", tensor((3, 4), (4, 1), hooks=b"}(" + s("a") + s("b") + b"u"))), 4, "hooks")
judge_pickle("P14 call of a tuple", b"\x80\x02))R.", 3, "calls what is no function")
judge_pickle("P15 storage by value", b"\x80\x02" + g("torch", "FloatStorage") + b")R.", 4, "storage by value")
judge_pickle("P16 complex numbers", pickle(("w", tensor((3, 4), (4, 1), store=storage("0", 12, "ComplexFloatStorage")))), 4,
             "torch.ComplexFloatStorage")
judge_pickle("P17 bytearray", b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b".", 4, "BYTEARRAY8")

# ---- machines that break ----

for n, (name, pkl, code, says) in enumerate((
        ("unknown opcode", b"\x80\x02\xff.", 3, "unknown pickle opcode 0xff"),
        ("protocol 0", b"(dp0\nS'a'\np1\nI1\ns.", 4, "opcode"),
        ("protocol 9", b"\x80\x09}.", 4, "protocol"),
        ("no STOP", b"\x80\x02}", 3, "truncated"),
        ("empty", b"", 3, "truncated"),
        ("huge memo index", b"\x80\x02}r\xff\xff\xff\xff.", 3, "memo index"),
        ("memo never made", b"\x80\x02h\x07.", 3, "never made"),
        ("memo of nothing", b"\x80\x02q\x00.", 3, "empty stack"),
        ("pop of nothing", b"\x80\x020.", 3, "more from the stack"),
        ("tuple of nothing", b"\x80\x02\x87.", 3, "more from the stack"),
        ("tuple across a mark", b"\x80\x02NN(N\x87.", 3, "more from the stack"),
        ("close of nothing", b"\x80\x02t.", 3, "did not open"),
        ("items of a list", b"\x80\x02]NNs.", 3, "no dict"),
        ("append to a dict", b"\x80\x02}Na.", 3, "no list"),
        ("odd dict", b"\x80\x02(Nd.", 3, "without a value"),
        ("two values left", b"\x80\x02NN.", 3, "one value"),
        ("mark left", b"\x80\x02(N.", 3, "one value"),
        ("bytes after STOP", b"\x80\x02}.N", 3, "after its end"),
        ("string of 2^63", b"\x80\x02\x8d" + struct.pack("<Q", 1 << 63) + b".", 3, "truncated"),
        ("string of 4 GiB", b"\x80\x02X\xff\xff\xff\xff.", 3, "truncated"),
        ("not UTF-8", b"\x80\x02U\x02\xc3\x28.", 3, "UTF-8"),
        ("integer of 2 GiB", b"\x80\x02\x8b\xff\xff\xff\x7f.", 6, "256 bytes"),
        ("frame too long", b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"}.", 3, "frame"),
        ("name without end", b"\x80\x02c" + b"a" * 5000 + b"\n.", 3, "too long"),
        ("no dict", b"\x80\x02].", 4, "no dict of tensors"),
        ("dict without tensors", pickle(("a", i(1))), 4, "no dict of tensors"),
        ("list in itself", b"\x80\x02]q\x00h\x00a.", 4, "no dict of tensors"),
        ("dict in itself", b"\x80\x02}q\x00" + s("model") + b"h\x00s.", 4, "no dict of tensors"))):
    judge_pickle(f"M{n:02} {name}", pkl, code, says)
judge_pickle("M90 deep stack", b"\x80\x02" + b"]" * (3 << 20) + b".", 6, "deeper stack")
judge_pickle("M91 many marks", b"\x80\x02" + b"(" * (3 << 20) + b".", 6, "deeper stack")
judge_pickle("M92 copies", b"\x80\x02}" + b"2" * (3 << 20) + b".", 6, "deeper stack")
judge_pickle("M93 long but honest", b"\x80\x02}" + b"]0" * (1 << 20) + b"(" + s("w") + T + b"u.", 0)

# ---- tensors that lie ----

for n, (name, t, code, says) in enumerate((
        ("beyond the storage", tensor((3, 5), (5, 1)), 3, "beyond its storage"),
        ("offset beyond", tensor((3, 4), (4, 1), 1), 3, "beyond its storage"),
        ("stride beyond", tensor((3, 4), (5, 1)), 3, "beyond its storage"),
        ("negative size", tensor((-3, 4), (4, 1)), 3, "describe none"),
        ("negative stride", tensor((3, 4), (-4, 1)), 3, "describe none"),
        ("negative offset", tensor((3, 4), (4, 1), -1), 3, "describe none"),
        ("ranks differ", tensor((3, 4), (1,)), 3, "describe none"),
        ("nine dimensions", tensor((1,) * 9, (1,) * 9), 3, "describe none"),
        ("product overflows", tensor((1 << 40, 1 << 40), (0, 0)), 3, "63 bits"),
        ("span overflows", tensor((2, 3), (1 << 62, 1 << 62)), 3, "beyond its storage"),
        ("strides of neither kind", tensor((2, 2), (4, 2)), 4, "[2, 2] with strides [4, 2]"),
        ("storage missing", tensor((3, 4), (4, 1), store=storage("1")), 3, "storage '1'"),
        ("storage too small", tensor((3, 4), (4, 1), store=storage("0", 13)), 3, "48 bytes"),
        ("storage of other type", tensor((3, 4), (4, 1), store=storage("0", 12, "HalfStorage")), 3, "48 bytes"),
        ("storage of 2^62", tensor((3, 4), (4, 1), store=storage("0", 1 << 62)), 3, "48 bytes"),
        ("storage is a path", tensor((3, 4), (4, 1), store=storage("../../../etc/passwd")), 3, "does not hold"),
        ("view of a storage", tensor((3, 4), (4, 1), store=storage("0", 12, "FloatStorage", tup(s("v"), i(0), i(4)))), 4, "view"),
        ("no storage", tensor((3, 4), (4, 1), store=b"N"), 3, "describe none"))):
    judge_pickle(f"T{n:02} {name}", pickle(("weight", t)), code, says)
judge_pickle("T90 one storage, two types", pickle(("a", T), ("b", tensor((3, 4), (4, 1), store=storage("0", 12, "IntStorage")))), 3, "two ways")
judge_pickle("T91 twice the same name", pickle(("a", T), ("a", T)), 3, "also stored")
judge_pickle("T92 zero byte in a name", pickle(("a\0b", T)), 3, "proper name")
judge_pickle("T93 number as a name", b"\x80\x02}" + i(7) + T + b"s.", 3, "proper name")

# ---- archives ----

good = archive(pickle(("w", T)))
judge("Z00 as it should be", good, 0, "1 tensors")
for cut in (1, 10, len(good) // 2, len(good) - 30, len(good) - 1):
    judge(f"Z01_{cut} cut", good[:cut], 3)
judge("Z02 bytes behind", good + b"\0", 3, "end record")
judge("Z03 comment", good[:-2] + b"\5\0hello", 0)
judge("Z04 bytes before", b"PK\3\4" + good, 3)


def packed(names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, data in (("m/data.pkl", pickle(("w", T))), ("m/data/0", DATA)):
            z.writestr(name, data, zipfile.ZIP_DEFLATED if name in names else zipfile.ZIP_STORED)
    return out.getvalue()


judge("Z05 compressed pickle", packed({"m/data.pkl"}), 4, "'m/data.pkl' is compressed")
judge("Z06 compressed storage", packed({"m/data/0"}), 4, "'m/data/0' is compressed")


def patched(content, name, at, fmt, value, signature=b"PK\1\2", name_at=46):
    """The record of entry `name` with a field changed."""
    b = bytearray(content)
    where = b.index(name) if signature == b"PK\3\4" else b.rindex(name)
    struct.pack_into(fmt, b, where - name_at + at, value)
    return bytes(b)


judge("Z07 encrypted", patched(good, b"m/data/0", 8, "<H", 1), 4, "encrypted")
judge("Z08 overlapping", patched(good, b"m/data/0", 42, "<I", 0), 3, "m/data/0", "differs from the directory")
judge("Z09 sizes differ", patched(good, b"m/data/0", 24, "<I", 44), 3, "two sizes differ")
longer = patched(patched(good, b"m/data/0", 24, "<I", 4000), b"m/data/0", 20, "<I", 4000)
judge("Z10 longer than the file", longer, 3, "ends outside")
longer = patched(patched(good, b"m/data.pkl", 24, "<I", len(pickle(("w", T))) + 10), b"m/data.pkl", 20, "<I", len(pickle(("w", T))) + 10)
judge("Z11 into the next", longer, 3, "overlap")
judge("Z12 begins outside", patched(good, b"m/data/0", 42, "<I", 0xFFFFFFF0), 3, "begins outside")
judge("Z13 zip64 without field", patched(good, b"m/data/0", 42, "<I", 0xFFFFFFFF), 3, "zip64")
judge("Z14 local header of another method", patched(good, b"m/data/0", 8, "<H", 8, b"PK\3\4", 30), 3, "differs from the directory")
judge("Z15 split archive", patched(good, b"m/data/0", 34, "<H", 1), 4, "split")
end = good.rindex(b"PK\5\6")
for n, (at, fmt, value, says) in enumerate(((8, "<HH", (9999, 9999), "number of entries"), (8, "<HH", (1, 1), "after its last"),
                                            (12, "<I", (1 << 20,), "outside the file"), (16, "<I", (1 << 20,), "outside the file"),
                                            (16, "<I", (0xFFFFFFFF,), "zip64"), (16, "<I", (0,), "damaged"))):
    b = bytearray(good)
    struct.pack_into(fmt, b, end + at, *value)
    judge(f"Z16_{n} end record", bytes(b), 3, says)
for n, name in enumerate(("../evil", "/etc/passwd", "m/../../evil", "m\\evil", "..")):
    b = archive(pickle(("w", T)), {"data/0": DATA, "!" + "x" * (len(name) - 1): b"x"}).replace(b"!" + b"x" * (len(name) - 1), name.encode())
    judge(f"Z17_{n} {name}", b, 3, "path out of the archive")
judge("Z18 twice", archive(pickle(("w", T)), {"data/0": DATA, "data/1": DATA}).replace(b"m/data/1", b"m/data/0"), 3, "twice")
judge("Z19 TorchScript", archive(pickle(("w", T)), {"data/0": DATA, "code/x.py": b""}), 4, "TorchScript")
judge("Z20 big endian", archive(pickle(("w", T)), {"data/0": DATA, "byteorder": b"big"}), 4, "big-endian")
judge("Z21 two pickles", archive(pickle(("w", T)), {"data/0": DATA, "!/data.pkl": b"}."}).replace(b"!/data.pkl", b"n/data.pkl"), 3, "several pickles")
judge("Z22 no pickle", good.replace(b"data.pkl", b"data.xyz"), 3, "without a data.pkl")
judge("Z23 no archive", b"hello, world", 3, "neither a zip archive nor a pickle")
judge("Z24 empty file", b"", 3)
judge("Z25 LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", 3, "git lfs pull", suffix=".bin")
many = io.BytesIO()
with zipfile.ZipFile(many, "w") as z:
    z.writestr("m/data.pkl", pickle(("w", T)))
    z.writestr("m/data/0", DATA)
    for n in range(70000):  # more than 65535 entries need zip64
        z.writestr(f"m/x{n}", b"")
judge("Z26 zip64 by count", many.getvalue(), 0, "1 tensors")
big64 = io.BytesIO()
with zipfile.ZipFile(big64, "w") as z:
    for name, data in (("m/data.pkl", pickle(("w", T))), ("m/data/0", DATA)):
        with z.open(name, "w", force_zip64=True) as f:
            f.write(data)
judge("Z27 zip64 local headers", big64.getvalue(), 0, "1 tensors")

# ---- the legacy stream ----

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
PROTOCOL = b"\x80\x02M\xe9\x03."


def stream(obj=None, magic=MAGIC, protocol=PROTOCOL, little=b"\x88", keys=b"\x80\x02](" + s("0") + b"e.", count=12, data=DATA):
    facts = b"\x80\x02}(" + s("protocol_version") + b"M\xe9\x03" + s("little_endian") + little + b"u."
    return magic + protocol + facts + (obj or pickle(("w", tensor((3, 4), (4, 1), store=storage("0", 12, "FloatStorage", b"N"))))) + keys + struct.pack("<q", count) + data


judge("L00 as it should be", stream(), 0, "1 tensors", suffix=".bin")
for n, (name, content, code, says) in enumerate((
        ("another pickle", pickle(("w", i(1))), 4, "not one that torch.save wrote"),
        ("os.system first", b"\x80\x02" + g("os", "system") + tup(shell) + b"R.", 4, "'os.system'"),
        ("os.system inside", stream(b"\x80\x02" + g("os", "system") + tup(shell) + b"R."), 4, "'os.system'"),
        ("version", stream(protocol=b"\x80\x02M\xea\x03."), 4, "version"),
        ("big endian", stream(little=b"\x89"), 4, "big-endian"),
        ("count too large", stream(count=13), 3, "13 elements"),
        ("count negative", stream(count=-1), 3, "elements"),
        ("cut", stream()[:-1], 3, "the file ends"),
        ("no count", stream()[:-50], 3, ""),
        ("bytes behind", stream() + b"xy", 3, "2 bytes follow"),
        ("no storages", stream(keys=b"\x80\x02]."), 3, "lists 0 storages"),
        ("another storage", stream(keys=b"\x80\x02](" + s("7") + b"e."), 3, "no tensor uses"),
        ("storages no list", stream(keys=b"\x80\x02}."), 3, "no list of storages"),
        ("cut in the pickle", stream()[:100], 3, "truncated"))):
    judge(f"L{n + 1:02} {name}", content, code, says, suffix=".pt")
padding = pickle(("w", tensor((3, 4), (4, 1), store=storage("0", 12, "FloatStorage", b"N"))), ("note", s("x" * (3 << 20))))
judge("L90 pickle of 3 MiB", stream(padding), 0, "1 tensors", "no tensors and were not read", suffix=".bin")

# ---- odd but honest: what torch.save really writes ----

def f32(values):
    return hashlib.sha256(struct.pack(f"<{len(values)}f", *values)).hexdigest()


m = [[float(4 * r + c) for c in range(4)] for r in range(3)]
flat = [x for row in m for x in row]
big_rows, big_cols = 700, 300  # a transposed matrix of more than one scratch
big_values = [float(n % 9973) for n in range(big_rows * big_cols)]
large = storage("1", big_rows * big_cols)
views = {
    "plain": (T, flat),
    "shared": (T, flat),
    "transposed": (tensor((4, 3), (1, 4)), [m[r][c] for c in range(4) for r in range(3)]),
    "tail": (tensor((2, 4), (4, 1), 4), flat[4:]),
    "columns": (tensor((3, 2), (4, 1), 1), [m[r][c] for r in range(3) for c in (1, 2)]),
    "expanded": (tensor((2, 4), (0, 1)), m[0] + m[0]),
    "stack": (tensor((3, 2, 2), (4, 2, 1)), flat),
    "stack_t": (tensor((3, 2, 2), (4, 1, 2)), [x for r in m for x in (r[0], r[2], r[1], r[3])]),
    "scalar": (tensor((), (), 5), [5.0]),
    "column": (tensor((3, 1), (4, 99)), [r[0] for r in m]),
    "empty": (tensor((0, 4), (4, 1)), []),
    "big_t": (tensor((big_cols, big_rows), (1, big_cols), store=large), [big_values[r * big_cols + c] for c in range(big_cols) for r in range(big_rows)]),
    "parameter": (g("torch._utils", "_rebuild_parameter") + tup(T, b"\x88", ORDERED) + b"R", flat),
    "old_tensor": (g("torch._utils", "_rebuild_tensor") + tup(storage(), big(0), tup(big(3), big(4)), tup(big(4), big(1))) + b"R", flat),
    "sized": (g("torch._utils", "_rebuild_tensor_v2") + tup(storage(), big(0), g("torch", "Size") + tup(tup(big(12))) + b"R", tup(big(1)),
                                                            b"\x89", ORDERED) + b"R", flat),
}
body = b"".join(s(k) + v for k, (v, _) in views.items())
metadata = b"}(" + s("_metadata") + ORDERED + b"ub"
forms = {
    "dict": b"\x80\x02}(" + body + b"u.",
    "ordered": b"\x80\x02" + ORDERED + b"(" + body + b"u" + metadata + b".",
    "nested": b"\x80\x02}(" + s("epoch") + i(3) + s("state_dict") + b"}(" + body + b"u" + b"u.",
    "memo": b"\x80\x04\x95" + struct.pack("<Q", 3) + b"}\x94]\x940h\x000(" + body + b"u.",
}
for name, pkl in forms.items():
    path = WORK / f"honest_{name}.pth"
    path.write_bytes(archive(pkl, {"data/0": DATA, "data/1": struct.pack(f"<{len(big_values)}f", *big_values)}))
    found = {t["name"]: t for t in run("inspect", path, "--json", "--hash").json()["tensors"]}
    same(sorted(found), sorted(views), f"{name}: tensors")
    for tensor_name, (_, values) in views.items():
        same(found[tensor_name]["sha256"], f32(values), f"{name}: values of {tensor_name}")
check(not CANARY.exists(), "something was executed")
done()
