#!/usr/bin/env python3
"""Copy a GGUF file of type Q4_K_M with two kinds of damage that leave it loadable, and say which, as JSON.

usage: damage.py IN.gguf OUT.gguf
1. Experts 1 and 3 of one layer's up projection change places: what a converter that stacks experts in the wrong order
   does. Every shape and every sum over the tensor stays as it was.
2. The scales of one block of 256 weights are doubled: one flipped bit of an exponent, as bad memory leaves it."""
import json
import math
import struct
import sys

Q4_K = (12, 256, 144)  # ggml id, weights per block, bytes per block: f16 scale, f16 minimum scale, 140 bytes of codes
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of GGUF's fixed-size values


class Reader:
    def __init__(self, raw):
        self.raw, self.at = raw, 0

    def number(self, fmt):
        (value,) = struct.unpack_from("<" + fmt, self.raw, self.at)
        self.at += struct.calcsize(fmt)
        return value

    def string(self):
        n = self.number("Q")
        self.at += n
        return self.raw[self.at - n:self.at].decode()

    def skip_value(self, kind):
        if kind == 8:
            self.string()
        elif kind == 9:
            element, n = self.number("I"), self.number("Q")
            for _ in range(n):
                self.skip_value(element)
        else:
            self.at += SCALARS[kind]


def tensors(raw):
    """{name: (dims fastest first, ggml type, offset in the file)}; the alignment is GGUF's default."""
    r = Reader(raw)
    if raw[:4] != b"GGUF":
        sys.exit("damage.py: no GGUF file")
    r.at = 8
    n_tensors, n_keys = r.number("Q"), r.number("Q")
    for _ in range(n_keys):
        r.string()
        r.skip_value(r.number("I"))
    found = []
    for _ in range(n_tensors):
        name = r.string()
        dims = [r.number("Q") for _ in range(r.number("I"))]
        found.append((name, dims, r.number("I"), r.number("Q")))
    base = r.at + -r.at % 32
    return {name: (dims, kind, base + offset) for name, dims, kind, offset in found}


def expert(found, name, e):
    """(first byte, bytes, bytes of a row) of expert e of a stacked Q4_K tensor."""
    dims, kind, offset = found[name]
    if kind != Q4_K[0]:
        sys.exit(f"damage.py: {name} is not of type Q4_K")
    row = dims[0] // Q4_K[1] * Q4_K[2]
    size = math.prod(dims[1:-1]) * row
    return offset + e * size, size, row


def main(source, target):
    with open(source, "rb") as f:
        raw = bytearray(f.read())
    found = tensors(bytes(raw))
    swapped, scaled = "blk.1.ffn_up_exps.weight", "blk.3.ffn_gate_exps.weight"
    (a, size, _), (b, _, _) = expert(found, swapped, 1), expert(found, swapped, 3)
    raw[a:a + size], raw[b:b + size] = raw[b:b + size], raw[a:a + size]
    at, _, row = expert(found, scaled, 2)
    at += 100 * row
    struct.pack_into("<2e", raw, at, *(2 * v for v in struct.unpack_from("<2e", raw, at)))
    with open(target, "wb") as f:
        f.write(raw)
    print(json.dumps({"swapped": [f"{swapped}[1]", f"{swapped}[3]"],
                      "scaled": {"name": f"{scaled}[2]", "row": 100, "column": 0}}))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
