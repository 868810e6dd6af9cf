#!/usr/bin/env python3
"""The merging table: perplexity of the base, of dense merges, of every gate mode and of every trunk, on the evaluation windows of the
shared models (four kinds of text, all positions scored, exp of the mean of the four losses). "perfect" forces each text through its
own expert: the dense model that has the mixture's trunk and that expert.

    MOEGRAFT_SHARED=... tests/bench/merge_table.py [--donors donors|donors_ffn] [build/release/bin]
"""
import argparse
import json
import math
import os
import pathlib
import shutil
import subprocess
import tempfile

KINDS = ("prose", "code", "math", "json")


def run(bin_dir, tool, *args):
    done = subprocess.run([bin_dir / f"moegraft-{tool}", *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"moegraft-{tool} {' '.join(map(str, args))}: {done.stderr}")
    return done.stdout


def perplexity(bin_dir, shared, models):
    """models: one for all kinds, or one for each."""
    loss = 0
    for kind, model in zip(KINDS, models if isinstance(models, list) else [models] * len(KINDS)):
        text = run(bin_dir, "perplexity", model, "--tokens", shared / f"models/text/eval_ids_{kind}.safetensors", "--json", "-q")
        loss += math.log(json.loads(text)["results"][0]["ppl"]) / len(KINDS)
    return math.exp(loss)


def recipe(path, shared, donors, more):
    text = f"base_model: {shared}/models/donors/base\ndtype: float32\n{more}experts:\n"
    for kind in KINDS:
        prompts = json.loads((shared / f"models/text/prompts/{kind}.json").read_text())
        text += f"  - source_model: {donors / kind}\n    positive_prompts: {json.dumps(prompts)}\n"
    path.write_text(text)
    return path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--donors", default="donors")
    parser.add_argument("bin", nargs="?", type=pathlib.Path, default=pathlib.Path("build/release/bin"))
    args = parser.parse_args()
    shared = pathlib.Path(os.environ["MOEGRAFT_SHARED"])
    donors = shared / "models" / args.donors
    work = pathlib.Path(tempfile.mkdtemp())
    base = shared / "models/donors/base"
    row = lambda name, *figures: print(f"{name:34}" + "".join(f"{f:10.3f}" if isinstance(f, float) else f"{f:>10}" for f in figures), flush=True)
    row(args.donors, "mixture", "perfect")
    row("base", perplexity(args.bin, shared, base), "")
    row("own donor", "", perplexity(args.bin, shared, [donors / k for k in KINDS]))
    dense = work / "dense.yml"
    for method in ("linear", "task_arithmetic", "ties", "dare_ties", "model_stock", "karcher"):
        weight = {"linear": "{weight: 1}", "task_arithmetic": "{weight: 0.5}", "ties": "{weight: 1, density: 0.5}", "dare_ties": "{weight: 0.5, density: 0.5}"}
        models = "".join(f"  - model: {donors / k}\n" + (f"    parameters: {weight[method]}\n" if method in weight else "") for k in KINDS)
        dense.write_text(f"merge_method: {method}\nbase_model: {base}\ndtype: float32\nmodels:\n{models}")
        row(f"dense {method}", perplexity(args.bin, shared, dense), "")
    for name, more in (("hidden", "gate_mode: hidden\n"), ("cheap_embed", "gate_mode: cheap_embed\n"), ("fit", ""),
                       ("fit, trunk average", "trunk: average\n"), ("fit, trunk ties", "trunk: {merge_method: ties, parameters: {density: 0.5}}\n"),
                       ("fit, trunk regmean", "trunk: regmean\n"),
                       ("fit, 3/4 of the way to regmean", "trunk: {merge_method: regmean, strength: 0.75}\n"),
                       ("fit, half of the way to regmean", "trunk: {merge_method: regmean, strength: 0.5}\n")):
        run(args.bin, "merge", recipe(work / "moe.yml", shared, donors, more), work / "moe", "-q", "--force")
        run(args.bin, "extract", work / "moe", work / "experts", "--all", "-q", "--force")
        row(name, perplexity(args.bin, shared, work / "moe"), perplexity(args.bin, shared, [work / f"experts/expert-{e}" for e in range(4)]))
    shutil.rmtree(work)


main()
