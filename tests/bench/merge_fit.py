#!/usr/bin/env python3
"""Routers fitted at their true input beside mergekit-moe's `hidden` gates: the same recipe, in turns, to a directory each.

usage: merge_fit.py RECIPE WORKDIR [--runs 3] [--threads 1]

Run with a Python that has mergekit 0.1.5, in the directory that RECIPE's donors are named from. Printed as a Markdown table: elapsed and
CPU seconds (medians) and peak memory; below it ratios taken round by round, and the load of the machine."""
import argparse
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def measured(command, env=None):
    """(elapsed seconds, CPU seconds, peak resident bytes) of a child process."""
    start = time.monotonic()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **(env or {})})
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command}: status {status}\n{message.decode()[-2000:]}")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    recipe = args.work / "hidden.yml"
    recipe.write_text(re.sub(r"(?m)^gate_mode:.*$", "gate_mode: hidden", args.recipe.read_text()))
    threads = {"OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    ours, theirs = [], []
    for _ in range(args.runs):
        for name in ("ours", "theirs"):
            shutil.rmtree(args.work / name, ignore_errors=True)
        ours.append(measured([ROOT / "build/release/bin/moegraft-merge", recipe, args.work / "ours", "--gate", "fit", "-q", "-t", args.threads]))
        theirs.append(measured([pathlib.Path(sys.executable).parent / "mergekit-moe", recipe, args.work / "theirs", "--device", "cpu"], threads))
    print(f"| {args.threads} thread(s) | elapsed | CPU | peak memory |\n|---|---|---|---|")
    for name, runs in (("moegraft merge --gate fit", ours), ("mergekit-moe, hidden", theirs)):
        print(f"| {name} | {statistics.median(r[0] for r in runs):.1f} s | {statistics.median(r[1] for r in runs):.1f} s | {max(r[2] for r in runs) / 1e6:.0f} MB |")
    for what, i in (("elapsed", 0), ("CPU", 1)):
        ratios = [t[i] / o[i] for o, t in zip(ours, theirs)]
        print(f"\n{what}: {statistics.median(ratios):.1f} times less, {min(ratios):.1f} in the worst round", end="")
    print(f"\nload {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
