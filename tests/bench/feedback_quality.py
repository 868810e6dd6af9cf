#!/usr/bin/env python3
"""What error feedback gives: mean KL divergence from the unquantized model on models/text/eval.txt, plain, with an importance matrix
and with --feedback, both calibrated on models/text/calibration.txt.

    MOEGRAFT_SHARED=... tests/bench/feedback_quality.py [--threads N] [--models moe4,donors/prose] [--types Q4_K_M,Q2_K] [build/release/bin]
"""
import argparse
import json
import os
import pathlib
import resource
import subprocess
import tempfile


def run(*command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
    return done.stdout, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before.ru_utime


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bin", nargs="?", type=pathlib.Path, default=pathlib.Path("build/release/bin"))
    parser.add_argument("--threads", default=2)
    parser.add_argument("--models", default="donors/prose,moe4")
    parser.add_argument("--types", default="Q4_K_M,Q3_K_M,Q2_K,IQ4_XS")
    args = parser.parse_args()
    models = pathlib.Path(os.environ["MOEGRAFT_SHARED"]) / "models"
    text = ("--text", models / "text" / "calibration.txt")
    print(f"{'model':13} {'type':7} {'bits':>7} {'plain':>9} {'imatrix':>9} {'feedback':>9} {'cpu s':>6}")
    for model in args.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            run(args.bin / "moegraft-calibrate", models / model, *text, "-o", f"{folder}/im.gguf", "-t", args.threads, "-q")
            for kind in args.types.split(","):
                kl, cpu = [], 0
                for options in ((), ("--imatrix", f"{folder}/im.gguf"), ("--feedback", *text)):
                    _, cpu = run(args.bin / "moegraft-quantize", models / model, f"{folder}/out.gguf", kind, *options, "-t", args.threads, "--force",
                                 "-q")
                    found, _ = run(args.bin / "moegraft-verify", models / model, f"{folder}/out.gguf", "--text", models / "text" / "eval.txt", "-t",
                                   args.threads, "--json", "-q")
                    kl.append(json.loads(found)["candidates"][0]["kl"]["mean"])
                plan, _ = run(args.bin / "moegraft-quantize", models / model, f"{folder}/no.gguf", kind, "--dry-run", "--json", "-q")
                print(f"{model:13} {kind:7} {json.loads(plan)['bpw']:7.4f} {kl[0]:9.6f} {kl[1]:9.6f} {kl[2]:9.6f} {cpu:6.2f}", flush=True)


main()
