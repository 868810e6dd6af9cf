#!/usr/bin/env python3
"""AWQ of one model on the same tokens by moegraft-quantize and by AutoAWQ, in turns: medians of elapsed and CPU seconds, how many times
less ours takes, peak memory. Exit status 1 when elapsed time is not --times below AutoAWQ's or memory not below --peak.

usage: group_time.py MODEL --tokens IDS.safetensors [--python PYTHON --driver SCRIPT] [--runs 3] [--threads 2] [--group 64] [--bin DIR]

IDS: a tensor of equally long rows of ids, the first in the file. PYTHON: of an environment that has AutoAWQ. SCRIPT, a driver, is run as
    PYTHON SCRIPT quantize SRC DST --group GROUP
with SRC a copy of MODEL that holds the ids in calib.npy [rows][length] (int64), and DST where the result goes. Without the two only our
half is run. A peer's time has the start of Python and what it imports in it, which is measured alone as well. Standard library only."""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def ids_to_npy(source, target):
    """The first tensor of a safetensors file, rows of I32 or I64, as an .npy of int64; (rows, length)."""
    data = source.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    tensor = min((t for name, t in json.loads(data[8:8 + size]).items() if name != "__metadata__"), key=lambda t: t["data_offsets"])
    width = {"I32": "i", "I64": "q"}[tensor["dtype"]]
    first, end = (8 + size + at for at in tensor["data_offsets"])
    rows, length = tensor["shape"]
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({rows}, {length}), }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    values = struct.unpack(f"<{rows * length}{width}", data[first:end])
    target.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + struct.pack(f"<{rows * length}q", *values))
    return rows, length


def timed(command, **env):
    """(elapsed seconds, CPU seconds, bytes of memory at most) of a child."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([str(c) for c in command], stdout=said, stderr=said, env={**os.environ, **env})
        _, status, usage = os.wait4(process.pid, 0)
        elapsed = time.monotonic() - start
        if status:
            said.seek(0)
            sys.exit(f"{' '.join(map(str, command))}: status {status}\n{said.read().decode(errors='replace')[-2000:]}")
    return elapsed, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def row(name, runs):
    elapsed, cpu, peak = zip(*runs)
    print(f"| {name} | {statistics.median(elapsed):.2f} ({min(elapsed):.2f} to {max(elapsed):.2f}) | {statistics.median(cpu):.2f} | {max(peak) / 1e6:.0f} |",
          flush=True)
    return statistics.median(elapsed), statistics.median(cpu), max(peak)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    parser.add_argument("--tokens", type=pathlib.Path, required=True)
    parser.add_argument("--python", type=pathlib.Path)
    parser.add_argument("--driver", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--times", type=float, default=50)
    parser.add_argument("--peak", type=float, default=200, help="MB")
    args = parser.parse_args()
    if (args.python is None) != (args.driver is None):
        parser.error("--python and --driver go together")
    peer = args.python is not None
    ours, theirs, starts = [], [], []
    with tempfile.TemporaryDirectory() as work:
        source = pathlib.Path(work) / "source"
        shutil.copytree(args.model, source, copy_function=shutil.copyfile)
        rows, length = ids_to_npy(args.tokens, source / "calib.npy")
        print(f"{args.model.name}, {rows} x {length} tokens, groups of {args.group}, {args.threads} threads, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
        for _ in range(args.runs):
            out = pathlib.Path(work) / "out"
            ours.append(timed([args.bin / "moegraft-quantize", args.model, out, "AWQ", "--bits", 4, "--group-size", args.group, "--tokens", args.tokens, "-q",
                               "-t", args.threads, "--progress", "none"]))
            shutil.rmtree(out)
            if peer:
                limits = {"OMP_NUM_THREADS": str(args.threads), "CUDA_VISIBLE_DEVICES": ""}
                starts.append(timed([args.python, "-c", "import torch, awq"], **limits))
                theirs.append(timed([args.python, args.driver, "quantize", source, out, "--group", args.group], **limits))
                shutil.rmtree(out)
    print("| | elapsed s | CPU s | peak MB |\n|---|---|---|---|")
    mine = row("moegraft-quantize", ours)
    missed = mine[2] >= args.peak * 1e6
    if peer:
        its, start = row("AutoAWQ", theirs), row("its start alone", starts)
        missed |= its[0] < args.times * mine[0]
        print(f"\n{its[0] / mine[0]:.0f} times less elapsed time ({(its[0] - start[0]) / mine[0]:.0f} without its start), {its[1] / mine[1]:.0f} times less CPU time, "
              f"{its[2] / mine[2]:.1f} times less memory")
    sys.exit(missed)


if __name__ == "__main__":
    main()
