"""Golden blocks of every type, encoded and decoded by every instruction set that check_kernels can run here.

golden_kernels.py ROOT [EMULATOR] CHECK_KERNELS: encoding is compared by the program, the digests of what decoding gives
with index.json here. Every type of the index must appear for every level."""
import collections
import json
import subprocess
import sys

import tree

FOLDER = tree.ROOT / "tests/data/golden/quant"
types = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))["types"]
run = subprocess.run([*sys.argv[2:], "--golden", FOLDER], capture_output=True, text=True)
if run.returncode:
    sys.exit(run.stdout + run.stderr + f"status {run.returncode}")

levels = collections.defaultdict(set)
for line in run.stdout.splitlines():
    kind, variant, level, digest = line.split()
    levels[level].add((kind, variant))
    if digest != types[kind][variant]["dequantized_sha256"]:
        tree.problem(f"{kind} {variant}: decoded by {level} it has sha256 {digest}, expected {types[kind][variant]['dequantized_sha256']}")
want = {(kind, variant) for kind in types for variant in ("plain", "imatrix") if variant in types[kind]}
for level, seen in levels.items():
    if seen != want:
        tree.problem(f"{level}: {len(seen)} of {len(want)} golden files, without {sorted(want - seen)}")
if "scalar" not in levels:
    tree.problem("the scalar level was not run")
tree.finish(f"{len(want)} golden files of {len(types)} types encode and decode alike: {', '.join(levels)}")
