#!/usr/bin/env python3
"""AWQ and GPTQ of a mixture (or a dense model) of any size, from its first layer to the end: seconds, floating-point operations per
second, peak memory, as a Markdown table.

usage: group_large.py MODEL [--tokens 16384] [--method awq,gptq] [--memory 1GiB] [--threads 2] [--work DIR] [build/release/bin]

Text is random ids in windows of 256. The output is removed. Operations are counted from the shapes, one multiplication and one addition
as two, for what any implementation of these steps has to do (docs/awq_gptq.md):
    forward   2 x weights a token meets, and causal attention; twice for GPTQ, which sees what its rounding does
    Gram      half of rows x d^2 x 2, for every input and expert
    AWQ       rows d^2 for each of 4 last candidates, by one triangle of G, 2 rows d^2 for the start of 3 sweeps of ranges and for the 2.5 of
              them whose changes somebody reads; 48 ranges, rows d group each. What the last candidates do to the block's output (more
              forward passes over a part of the text) is not counted
    GPTQ      d^3 / 3 for each input's factor, rows d^2 for rounding"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

GROUP, WINDOW = 128, 256


def operations(cfg, tokens, method):
    h, f, layers = cfg["hidden_size"], cfg["intermediate_size"], cfg["num_hidden_layers"]
    kv = h // cfg["num_attention_heads"] * cfg.get("num_key_value_heads", cfg["num_attention_heads"])
    experts, used = cfg.get("num_local_experts", 1), cfg.get("num_experts_per_tok", 1)
    weights = 2 * h * h + 2 * h * kv + 3 * used * h * f + (experts * h if experts > 1 else 0)
    forward = tokens * (2 * weights + 2 * (WINDOW + 1) * h)
    gram = tokens * (2 * h * h + (1 + used if experts > 1 else 1) * h * h + used * f * f)
    rows = [(h + 2 * kv, h), (h, h), (2 * experts * f, h), (experts * h, f)]  # of all weights that read inputs of a width
    if method == "awq":
        return layers * (forward + gram + sum(2 * n * d * d * (4 / 2 + 1 + 2.5) + 48 * n * d * GROUP for n, d in rows))
    factors = [h, h] + (experts if experts > 1 else 1) * [h, f]
    return layers * (2 * forward + gram + sum(d ** 3 / 3 for d in factors) + sum(n * d * d for n, d in rows))


def measured(command):
    start = time.monotonic()
    process = subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE)
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command}: status {status}\n{message.decode()[-2000:]}")
    return time.monotonic() - start, usage.ru_utime, usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("bin", nargs="?", type=pathlib.Path, default=pathlib.Path("build/release/bin"))
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--method", default="awq,gptq")
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=pathlib.Path, help="where the output is written (default: the system's temporary folder)")
    args = parser.parse_args()
    cfg = json.loads((args.model / "config.json").read_text())
    some = random.Random(1)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        ids = pathlib.Path(folder) / "ids.txt"
        ids.write_text("".join(" ".join(str(some.randrange(3, cfg["vocab_size"])) for _ in range(WINDOW)) + "\n"
                               for _ in range(args.tokens // WINDOW)))
        print(f"| 4 bit g{GROUP}, {args.tokens} tokens, {args.threads} thread(s) | elapsed s | user s | operations | GFLOP/s of user time | peak memory |\n"
              "|---|---|---|---|---|---|", flush=True)
        for method in args.method.split(","):
            wall, user, peak = measured([args.bin / "moegraft-quantize", args.model, f"{folder}/{method}", method.upper(), "--tokens", ids, "-q", "-t",
                                         args.threads, "--memory", args.memory, "--progress", "none"])
            flops = operations(cfg, args.tokens // WINDOW * WINDOW, method)
            print(f"| {method} | {wall:.0f} | {user:.0f} | {flops:.2e} | {flops / user * 1e-9:.0f} | {peak / 1e6:.0f} MB |", flush=True)
    print(f"\nload {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
