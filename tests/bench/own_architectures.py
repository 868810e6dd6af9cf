#!/usr/bin/env python3
"""What quantization costs Mesh and NekoMind: mean KL against the unquantized model, by grid and experts per token.

usage: own_architectures.py [--work DIR] [--bin DIR] [--types Q8_0,Q4_K_M,Q2_K,AWQ] [--text F] [--calibration F]

The models are made from the sample donors: 2x2 is samples/recipes/mesh2x2.yml, larger grids repeat its donors with noise on their
blocks, nekomind is samples/recipes/nekomind.yml. A merge leaves exchange maps at zero, so these are filled with normal values
(standard deviation 0.01) that let neighbours take part. Prints a Markdown table. Standard library only."""
import argparse
import json
import pathlib
import random
import shutil
import struct
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
GRIDS = ((2, 2), (3, 2), (4, 4))


def call(a, tool, *args):
    return subprocess.run([a.bin / f"moegraft-{tool}", *map(str, args), "-q"], check=True, capture_output=True, text=True).stdout


def recipe_of(columns, rows):
    text = (ROOT / "samples/recipes/mesh2x2.yml").read_text().replace("[2, 2]", f"[{columns}, {rows}]")
    head, experts = text.split("experts:\n", 1)
    items = ["  - " + item for item in experts.split("  - ")[1:]]
    more = []
    for e in range(columns * rows):
        item = items[e % 4].replace("../donors", str(ROOT / "samples/donors"))
        more.append(item if e < 4 else item.rstrip("\n") + "\n    noise_scale: 0.002\n")
    return head.replace("../donors", str(ROOT / "samples/donors")) + "experts:\n" + "".join(more)


def fill_maps(folder):
    """Normal values into every exchange map of model.safetensors (BF16)."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    (n,) = struct.unpack_from("<Q", data)
    random.seed(1)
    for name, t in json.loads(data[8:8 + n]).items():
        if ".exchange." not in name:
            continue
        assert t["dtype"] == "BF16", t
        begin, end = (8 + n + x for x in t["data_offsets"])
        values = struct.pack(f"<{(end - begin) // 2}f", *(random.gauss(0, 0.01) for _ in range((end - begin) // 2)))
        data[begin:end:2], data[begin + 1:end:2] = values[2::4], values[3::4]
    path.write_bytes(data)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--work", type=pathlib.Path, default=ROOT / "build/bench/own")
    p.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    p.add_argument("--types", default="Q8_0,Q4_K_M,Q2_K,AWQ")
    p.add_argument("--text", type=pathlib.Path, default=ROOT / "samples/text/prose.txt")
    p.add_argument("--calibration", type=pathlib.Path, default=ROOT / "samples/text/calibration_code.txt")
    a = p.parse_args()
    types = a.types.split(",")
    shutil.rmtree(a.work, ignore_errors=True)
    a.work.mkdir(parents=True)
    print("| model | experts per token | perplexity | " + " | ".join(types) + " |\n|" + "---|" * (3 + len(types)), flush=True)
    models = [(f"mesh {c}x{r}", recipe_of(c, r), (1, 2, 3, "all")) for c, r in GRIDS] + [("nekomind", None, (1, 2, 3, "all"))]
    for name, recipe, counts in models:
        folder = a.work / name.replace(" ", "-")
        config = ROOT / "samples/recipes/nekomind.yml"
        if recipe:
            config = a.work / "recipe.yml"
            config.write_text(recipe)
        call(a, "merge", config, folder)
        if recipe:
            fill_maps(folder)
        outs = []
        for t in types:
            out = a.work / f"{folder.name}-{t}"
            if t == "AWQ":
                call(a, "quantize", folder, out, t, "--group-size", 64, "--text", a.calibration, "--text", ROOT / "samples/text/calibration_prose.txt", "--ctx", 256)
            else:
                out = out.with_suffix(".gguf")
                call(a, "quantize", folder, out, t)
            outs.append(out)
        for k in counts:
            result = json.loads(call(a, "verify", folder, *outs, "--text", a.text, "--ctx", 256, "--experts-per-token", k, "--json"))["candidates"]
            print(f"| {name} | {k} | {result[0]['ppl']['reference']:.3f} | " + " | ".join(f"{c['kl']['mean']:.2e}" for c in result) + " |", flush=True)


if __name__ == "__main__":
    main()
