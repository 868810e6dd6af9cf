"""A writer of torch.save's zip form for tests: a dictionary of tensors, each with a storage of its own."""
import struct
import zipfile

STORAGE = {"F32": ("FloatStorage", 4), "F16": ("HalfStorage", 2), "BF16": ("BFloat16Storage", 2)}


def _text(value):
    b = value.encode()
    return b"X" + struct.pack("<I", len(b)) + b


def _tuple(*items):
    return b"(" + b"".join(items) + b"t"


def _int(n):
    return b"J" + struct.pack("<i", n)


def _tensor(key, t):
    kind, size = STORAGE[t.dtype]
    strides, n = [], 1
    for d in reversed(t.shape):
        strides.insert(0, n)
        n *= d
    storage = _tuple(_text("storage"), f"ctorch\n{kind}\n".encode(), _text(key), _text("cpu"), _int(len(t.data) // size)) + b"Q"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + _tuple(
        storage, _int(0), _tuple(*map(_int, t.shape)), _tuple(*map(_int, strides)), b"\x89", b"ccollections\nOrderedDict\n)R") + b"R"


def write(path, tensors):
    """tensors: {name: common.Tensor}"""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        z.writestr("archive/data.pkl", b"\x80\x02}(" + b"".join(_text(n) + _tensor(str(i), t) for i, (n, t) in enumerate(tensors.items())) + b"u.")
        for i, t in enumerate(tensors.values()):
            z.writestr(f"archive/data/{i}", t.data)
