#!/usr/bin/env python3
"""Speed of every quantized type beside llama-quantize: the same file, the same run, one thread each, in turns.

usage: quantize_types.py [--model PATH] [--peer LLAMA_QUANTIZE] [--types A,B] [--runs 3] [--scaling A,B] [--layers 1] [--work DIR] [--bin DIR]

PATH is a GGUF or a Hugging Face folder; without one a model is made (weights from a normal distribution whose scale changes from
row to row, with outliers). The peer is a llama-quantize program; MG_BENCH_MODEL and LLAMA_QUANTIZE name both as well. Without a peer
only our columns are printed. Every weight goes into the type itself (--pure). Importance weights are made up: the columns of a tensor
get e^(2g), g normal. Figures are medians of user CPU time, the ratio is the median of the ratios of each round. "2 threads" is elapsed time
of one thread over that of two, which needs two idle cores. Standard library only."""
import argparse
import array
import hashlib
import json
import math
import os
import pathlib
import random
import re
import shutil
import statistics
import struct
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# preset, with importance weights: not, also, or only
TYPES = {"Q4_0": (0, 1), "Q4_1": (0, 1), "Q5_0": (0, 1), "Q5_1": (0, 1), "Q8_0": (0,), "Q2_K": (0, 1), "Q3_K_S": (0, 1), "Q4_K_S": (0, 1), "Q5_K_S": (0, 1),
         "Q6_K": (0, 1), "IQ4_NL": (0, 1), "IQ4_XS": (0, 1), "IQ3_XXS": (1,), "IQ3_S": (0, 1), "IQ2_XXS": (1,), "IQ2_XS": (1,), "IQ2_M": (1,), "IQ1_S": (1,),
         "IQ1_M": (1,), "TQ1_0": (0,), "TQ2_0": (0,), "F16": (0,)}
POOL = 1 << 20


def timed(command):
    """(user CPU seconds, elapsed seconds) of a child process."""
    start = time.monotonic()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, command))}: status {os.waitstatus_to_exitcode(status)}\n{message.decode(errors='replace')[-2000:]}")
    return usage.ru_utime, time.monotonic() - start


def make_model(folder, layers):
    """A dense model in BF16 with the vocabulary of the donors in tests/data."""
    donor = ROOT / "tests/data/models/donors/base"
    config = json.loads((donor / "config.json").read_text(encoding="utf-8"))
    hidden, inter, kv = 1024, 3584, 256
    config |= {"hidden_size": hidden, "intermediate_size": inter, "num_hidden_layers": layers, "num_attention_heads": 16, "num_key_value_heads": 4}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(donor / name, folder)
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "lm_head.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        p = f"model.layers.{layer}."
        shapes |= {p + "input_layernorm.weight": (hidden,), p + "post_attention_layernorm.weight": (hidden,)}
        for name, rows, columns in (("self_attn.q_proj", hidden, hidden), ("self_attn.k_proj", kv, hidden), ("self_attn.v_proj", kv, hidden),
                                    ("self_attn.o_proj", hidden, hidden), ("mlp.gate_proj", inter, hidden), ("mlp.up_proj", inter, hidden), ("mlp.down_proj", hidden, inter)):
            shapes[p + name + ".weight"] = (rows, columns)
    pool = bf16_pool()
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            left = 2 * math.prod(shape)
            while left:
                at = 2 * random.randrange(POOL)
                piece = pool[at:at + left]
                f.write(piece)
                left -= len(piece)


def bf16_pool():
    """POOL values: rows of 1024 with a scale each and four outliers."""
    values = array.array("f")
    for _ in range(POOL // 1024):
        scale = 0.02 * math.exp(0.3 * random.gauss(0, 1))
        row = [random.gauss(0, scale) for _ in range(1024)]
        for _ in range(4):
            row[random.randrange(1024)] *= 6
        values.extend(row)
    half = array.array("H", values.tobytes())[1::2]  # the upper halves: cut, not rounded
    return half.tobytes()


def make_imatrix(gguf, path, inspect):
    """Importance weights for every matrix of the file, in the older of the two formats."""
    tensors = json.loads(subprocess.run([inspect, gguf, "--tensors", "--json"], check=True, capture_output=True, text=True).stdout)["tensors"]
    matrices = [t for t in tensors if len(t["shape"]) > 1]
    with open(path, "wb") as f:
        f.write(struct.pack("<i", len(matrices)))
        for t in matrices:
            name, n = t["name"].encode(), t["shape"][-1]
            f.write(struct.pack(f"<i{len(name)}sii", len(name), name, 1, n))
            f.write(array.array("f", [math.exp(2 * random.gauss(0, 1)) for _ in range(n)]).tobytes())
        f.write(struct.pack("<ii4s", 1, 4, b"none"))
    return sum(math.prod(t["shape"]) for t in matrices)


def memcpy_speed(program):
    text = subprocess.run([program, "--bench", "--only", "F32.decode", "--set-kib", "65536"], check=True, capture_output=True, text=True).stdout
    return float(re.search(r"memcpy ([\d.]+) GB/s", text)[1])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", type=pathlib.Path, default=os.environ.get("MG_BENCH_MODEL"))
    p.add_argument("--peer", default=os.environ.get("LLAMA_QUANTIZE"))
    p.add_argument("--types", default=",".join(TYPES))
    p.add_argument("--scaling", default="Q4_K_S,Q6_K")
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--layers", type=int, default=1)
    p.add_argument("--work", type=pathlib.Path, default=ROOT / "build/bench")
    p.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    a = p.parse_args()
    random.seed(1)
    a.work.mkdir(parents=True, exist_ok=True)
    gguf, model = a.work / "model.gguf", a.model and pathlib.Path(a.model)
    if model is None:
        model = a.work / "model"
        make_model(model, a.layers)
    if model.is_file():
        gguf = model
    else:
        subprocess.run([a.bin / "moegraft-convert", model, gguf, "--force", "-q"], check=True)
    imatrix = a.work / "imatrix.dat"
    weights = make_imatrix(gguf, imatrix, a.bin / "moegraft-inspect")
    print(f"{gguf.stat().st_size / 1e6:.0f} MB, {weights / 1e6:.1f} M weights; memcpy {memcpy_speed(a.bin / 'check_kernels'):.1f} GB/s read + written; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if not a.peer:
        print("No peer: give --peer or LLAMA_QUANTIZE to compare with llama-quantize.")
    print("\n| type | ours s | M weights/s | GB/s |" + (" llama-quantize s | ratio | same bytes |" if a.peer else "") + " 2 threads |\n|---|---|---|---|" + ("---|---|---|" if a.peer else "") + "---|", flush=True)
    for kind in a.types.split(","):
        for weighted in TYPES.get(kind, (0,)):
            row(a, kind, weighted, gguf, imatrix, weights)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def row(a, kind, weighted, gguf, imatrix, weights):
    ours, theirs, two = [], [], []
    mine, other = a.work / "ours.gguf", a.work / "theirs.gguf"
    with_imatrix = ["--imatrix", imatrix] if weighted else []

    def command(threads):
        return [a.bin / "moegraft-quantize", *with_imatrix, "--pure", "--no-manifest", "--force", "-q", gguf, mine, kind, threads]
    for _ in range(a.runs):
        ours.append(timed(command(1)))
        if a.peer:
            other.unlink(missing_ok=True)
            theirs.append(timed([a.peer, *with_imatrix, "--pure", gguf, other, kind, 1]))
        if kind in a.scaling.split(","):
            two.append(ours[-1][1] / timed(command(2))[1])
    user = statistics.median(u for u, _ in ours)
    moved = gguf.stat().st_size + mine.stat().st_size
    text = f"| {kind}{' + imatrix' if weighted else ''} | {user:.2f} | {weights / user / 1e6:.0f} | {moved / user / 1e9:.2f} |"
    if a.peer:
        same = "yes" if digest(mine) == digest(other) else "no"
        text += f" {statistics.median(u for u, _ in theirs):.2f} | {statistics.median(t / o for (o, _), (t, _) in zip(ours, theirs)):.1f} | {same} |"
    print(text + (f" {statistics.median(two):.2f} |" if two else " |"), flush=True)


if __name__ == "__main__":
    main()
