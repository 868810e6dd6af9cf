"""What the oracle scripts share: paths, and running our tools."""
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN, DATA, SAMPLES = ROOT / "build/release/bin", ROOT / "tests/data", ROOT / "samples"
WORK = pathlib.Path(sys.argv[1])


def run(tool, *args):
    return subprocess.run([BIN / f"moegraft-{tool}", *map(str, args)], check=True, capture_output=True, text=True).stdout
