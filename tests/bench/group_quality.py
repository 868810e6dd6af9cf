#!/usr/bin/env python3
"""What quantizing in groups costs: mean KL divergence from the unquantized model over all positions of golden/awq/eval_ids, with
golden/awq/calib_ids for calibration, and the share of tokens that keep their experts. Beside each line the figure to beat.

    MOEGRAFT_SHARED=... tests/bench/group_quality.py [--threads N] [build/release/bin]
"""
import argparse
import json
import os
import pathlib
import resource
import subprocess
import tempfile
import time

G64, G128S = ("--bits", "4", "--group-size", "64"), ("--bits", "4", "--group-size", "128", "--symmetric")
THREE = ("--bits", "3", "--group-size", "64")
CASES = [  # model, label, words, bar, who
    ("moe4", "4 bit g64 rtn", ("RTN", *G64), None, "AutoAWQ 0.00100, its router repaired 0.00075"),
    ("moe4", "4 bit g64 awq", ("AWQ", *G64), 0.00070, ""),
    ("moe4", "4 bit g64 gptq", ("AWQ", "--method", "gptq", *G64), None, ""),
    ("moe4", "4 bit g64 awq+gptq", ("AWQ", "--method", "awq+gptq", *G64), None, ""),
    ("moe4", "3 bit g64 rtn", ("RTN", *THREE), None, ""),
    ("moe4", "3 bit g64 awq", ("AWQ", *THREE), None, ""),
    ("moe4", "3 bit g64 awq+gptq", ("AWQ", "--method", "awq+gptq", *THREE), 0.0020, ""),
    ("donors/prose", "4 bit g64 rtn", ("RTN", *G64), None, "AutoAWQ 0.00177"),
    ("donors/prose", "4 bit g64 awq", ("AWQ", *G64), 0.00160, ""),
    ("donors/prose", "4 bit g64 gptq", ("AWQ", "--method", "gptq", *G64), None, ""),
    ("donors/prose", "4 bit g64 awq+gptq", ("AWQ", "--method", "awq+gptq", *G64), None, ""),
    ("donors/prose", "4 bit g128 sym rtn", ("RTN", "--format", "gptq", *G128S), None, ""),
    ("donors/prose", "4 bit g128 sym gptq", ("GPTQ", *G128S), 0.00050, "GPTQModel 0.00050"),
    ("donors/prose", "3 bit g64 rtn", ("RTN", *THREE), None, ""),
    ("donors/prose", "3 bit g64 awq", ("AWQ", *THREE), None, ""),
    ("donors/prose", "3 bit g64 awq+gptq", ("AWQ", "--method", "awq+gptq", *THREE), 0.0043, ""),
]


def run(*command):
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, time.monotonic() - start, after.ru_utime - before.ru_utime


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bin", nargs="?", type=pathlib.Path, default=pathlib.Path("build/release/bin"))
    parser.add_argument("--threads", default=2)
    args = parser.parse_args()
    shared, missed = pathlib.Path(os.environ["MOEGRAFT_SHARED"]), 0
    ids = shared / "golden" / "awq"
    print(f"{'model':13} {'weights':20} {'mean KL':>9} {'bar':>8} {'top-1':>7} {'routing':>8} {'wall s':>7} {'cpu s':>6}")
    for model, label, words, bar, who in CASES:
        with tempfile.TemporaryDirectory() as folder:
            text = () if words[0] == "RTN" else ("--tokens", ids / "calib_ids.safetensors")
            _, wall, cpu = run(args.bin / "moegraft-quantize", shared / "models" / model, f"{folder}/out", *words, *text, "-q", "-t",
                               args.threads, "--progress", "none")
            out, _, _ = run(args.bin / "moegraft-verify", shared / "models" / model, f"{folder}/out", "--tokens", ids / "eval_ids.safetensors", "--json")
            found = json.loads(out)["candidates"][0]
            routes = [x["set_agreement"] for x in found.get("routing") or []]
            miss = bar is not None and found["kl"]["mean"] > bar
            missed += miss
            print(f"{model:13} {label:20} {found['kl']['mean']:9.6f} {'' if bar is None else f'{bar:.5f}':>8} {found['top1_agreement']:7.4f} "
                  f"{f'{sum(routes) / len(routes):.4f}' if routes else '':>8} {wall:7.2f} {cpu:6.2f} {'MISSED' if miss else ''} {who}", flush=True)
    raise SystemExit(missed != 0)


main()
