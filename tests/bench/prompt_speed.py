#!/usr/bin/env python3
"""Prompt throughput beside llama-bench: the same GGUF files, 512 tokens, in turns.

usage: prompt_speed.py MODEL.gguf... [--peer LLAMA_BENCH] [--threads 2] [--runs 3] [--bin DIR]

Ours is moegraft-perplexity over 512 random ids: embedding, all layers, and the output head at every position, reading the
file included; llama-bench computes the head for the last position only and has read the file before. Figures are medians
of tokens per second of elapsed time; beside them tokens per second of CPU time (of all threads together), which means
something on a busy machine too. llama-bench warms up with one untimed run: its CPU time is halved for that. The peer comes
from --peer or LLAMA_BENCH. GFLOP/s: multiplications and additions of our matrices over our elapsed time. Standard
library only."""
import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENS = 512


def timed(command):
    """(stdout, elapsed seconds, CPU seconds) of a child process."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        elapsed = time.monotonic() - start
        assert status == 0, command
        out.seek(0)
        return out.read(), elapsed, usage.ru_utime + usage.ru_stime


def main():
    p = argparse.ArgumentParser()
    p.add_argument("models", nargs="+", type=pathlib.Path)
    p.add_argument("--peer", default=os.environ.get("LLAMA_BENCH"))
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    a = p.parse_args()
    random.seed(1)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as ids:
        ids.write(" ".join(str(random.randrange(3, 1000)) for _ in range(TOKENS)) + "\n")
        ids.flush()
        print(f"{TOKENS} tokens, {a.threads} threads, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
        print("| model | tokens/s | GFLOP/s | tokens/s of CPU | llama-bench tokens/s | of CPU | ratio | ratio of CPU |\n|---|---|---|---|---|---|---|---|", flush=True)
        for model in a.models:
            flop = json.loads(subprocess.run([a.bin / "moegraft-inspect", model, "--json"], check=True, capture_output=True).stdout)["flop_per_token"]
            ours, theirs = [], []
            for _ in range(a.runs):
                _, elapsed, cpu = timed([a.bin / "moegraft-perplexity", model, "--tokens", ids.name, "-t", a.threads, "-q"])
                ours.append((TOKENS / elapsed, TOKENS / cpu))
                if a.peer:
                    out, _, cpu = timed([a.peer, "-m", model, "-p", TOKENS, "-n", 0, "-t", a.threads, "-r", 1, "-o", "json"])
                    theirs.append((json.loads(out)[0]["avg_ts"], 2 * TOKENS / cpu))
            speed, cpu = (statistics.median(x) for x in zip(*ours))
            row = f"| {model.name} | {speed:.0f} | {speed * flop * 1e-9:.0f} | {cpu:.0f} |"
            if a.peer:
                peer, peer_cpu = (statistics.median(x) for x in zip(*theirs))
                ratios = [statistics.median(o[i] / t[i] for o, t in zip(ours, theirs)) for i in (0, 1)]
                row += f" {peer:.0f} | {peer_cpu:.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
