#!/usr/bin/env python3
"""What quantizing in groups costs: mean KL divergence from the unquantized model over all positions of golden/awq/eval_ids, with
golden/awq/calib_ids for calibration, and the share of tokens that keep their experts. Prints a Markdown table: beside each figure its
bar, whether it passes, and what the mean's standard error is. Bars are numbers, "half" of rounding at the same bits, or "both": below
AWQ and GPTQ alone. Tokens must not lose their experts more often than by rounding. Exit status 1 when a bar is missed.

    MOEGRAFT_SHARED=... tests/bench/group_quality.py [--threads N] [--only WORDS] [build/release/bin]
"""
import argparse
import json
import os
import pathlib
import resource
import subprocess
import tempfile
import time

MODELS = ("moe4", "donors/prose")
SETTINGS = {
    "4 bit g64": ("--bits", "4", "--group-size", "64"),
    "3 bit g64": ("--bits", "3", "--group-size", "64"),
    "4 bit g128 symmetric": ("--bits", "4", "--group-size", "128", "--symmetric"),
}
WORDS = {"rounding": ("RTN", "--format", "awq"), "awq": ("AWQ",), "gptq": ("AWQ", "--method", "gptq"), "awq+gptq": ("AWQ", "--method", "awq+gptq")}
GPTQ_FORMAT = {"rounding": ("RTN", "--format", "gptq"), "gptq": ("GPTQ",)}  # the symmetric case, as GPTQModel's figure was made
BARS = {  # setting, method: bar for (mixture, dense), and who else was measured
    ("4 bit g64", "rounding"): (None, None),
    ("4 bit g64", "awq"): (0.00070, 0.00160, "AutoAWQ 0.00100, its router repaired 0.00075", "AutoAWQ 0.00177"),
    ("4 bit g64", "gptq"): (None, None),
    ("4 bit g64", "awq+gptq"): ("both", "both"),
    ("4 bit g128 symmetric", "rounding"): (False, None),
    ("4 bit g128 symmetric", "gptq"): (False, 0.00050, "", "GPTQModel 0.00050"),
    ("3 bit g64", "rounding"): (None, None),
    ("3 bit g64", "awq"): ("half", "half"),
    ("3 bit g64", "gptq"): ("half", "half"),
    ("3 bit g64", "awq+gptq"): ("half", "half"),
}


def run(*command):
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, time.monotonic() - start, after.ru_utime - before.ru_utime


def measure(args, model, setting, method):
    """KL and its standard error, share of equal top tokens, of equal expert sets (None: dense), wall and CPU seconds of quantizing."""
    shared = pathlib.Path(os.environ["MOEGRAFT_SHARED"])
    ids = shared / "golden" / "awq"
    words = (GPTQ_FORMAT if "symmetric" in setting else WORDS)[method]
    text = () if method == "rounding" else ("--tokens", ids / "calib_ids.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        _, wall, cpu = run(args.bin / "moegraft-quantize", shared / "models" / model, f"{folder}/out", *words, *SETTINGS[setting], *text, "-q",
                           "-t", args.threads, "--progress", "none")
        out, _, _ = run(args.bin / "moegraft-verify", shared / "models" / model, f"{folder}/out", "--tokens", ids / "eval_ids.safetensors", "-t",
                        args.threads, "--json")
    found = json.loads(out)["candidates"][0]
    routes = [x["set_agreement"] for x in found.get("routing") or []]
    return found["kl"]["mean"], found["kl"]["stderr"], found["top1_agreement"], sum(routes) / len(routes) if routes else None, wall, cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin", nargs="?", type=pathlib.Path, default=pathlib.Path("build/release/bin"))
    parser.add_argument("--threads", default=2)
    parser.add_argument("--only", default="", help="lines that contain this")
    args = parser.parse_args()
    missed, seen = 0, {}
    print("| model | weights | mean KL | +- | bar | | top-1 | routing | wall s | CPU s | others |\n|---|---|---|---|---|---|---|---|---|---|---|")
    for at, model in enumerate(MODELS):
        for (setting, method), bars in BARS.items():
            if bars[at] is False or args.only not in f"{model} {setting} {method}":
                continue
            kl, error, top1, routing, wall, cpu = measure(args, model, setting, method)
            seen[setting, method] = kl, routing
            bar, plain = bars[at], seen.get((setting, "rounding"))
            if bar == "half":
                bar = plain and plain[0] / 2
            if bar == "both":
                bar = min(seen[setting, m][0] for m in ("awq", "gptq")) if (setting, "awq") in seen and (setting, "gptq") in seen else None
            verdict = "" if bar is None else "pass" if kl <= bar else "MISSED"
            if routing is not None and method != "rounding" and plain and routing < plain[1]:
                verdict = "ROUTING"
            missed += verdict in ("MISSED", "ROUTING")
            print(f"| {model} | {setting} {method} | {kl:.6f} | {error:.6f} | {'' if bar is None else f'{bar:.6f}'} | {verdict} | {top1:.4f} | "
                  f"{'' if routing is None else f'{routing:.4f}'} | {wall:.2f} | {cpu:.2f} | {bars[2 + at] if len(bars) > 2 else ''} |", flush=True)
        seen = {}
    raise SystemExit(missed != 0)


main()
