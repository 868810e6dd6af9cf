#!/usr/bin/env python3
"""Donors to a quantized MoE: one `moegraft merge --to TYPE` beside the chain people use today, on the same donors in the same run.

usage: merge_chain.py RECIPE.yml WORKDIR LLAMA_CPP [--runs 3] [--types Q8_0,Q4_K_M] [--threads N]

RECIPE names its donors by absolute paths; LLAMA_CPP is a llama.cpp source tree (its convert_hf_to_gguf.py and gguf-py are
used; llama-cpp-python's source distribution holds one). Run with a Python that has mergekit 0.1.5, torch, safetensors, gguf and
llama-cpp-python. The chain: mergekit-moe, convert_hf_to_gguf.py --outtype bf16, llama.cpp's quantizer. mergekit 0.1.5
writes fused experts, which the converter refuses; splitting them again happens between the steps and is not timed.
Runs alternate; medians and each step's peak memory are printed as a Markdown table."""
import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE_TYPES = {"Q4_0": 2, "Q8_0": 7, "Q2_K": 10, "Q4_K_M": 15, "Q6_K": 18}
QUANTIZE = """import sys, ctypes, llama_cpp
p = llama_cpp.llama_model_quantize_default_params()
p.ftype = int(sys.argv[3]); p.nthread = int(sys.argv[4])
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(p)))"""


def timed(command, env=None):
    """(seconds, peak resident bytes) of a child process."""
    start = time.monotonic()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **(env or {})})
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command}: status {status}\n{message.decode()[-2000:]}")
    return time.monotonic() - start, usage.ru_maxrss * 1024


def unfuse(source, target):
    """Split fused experts into the per-expert names that the converter reads."""
    from safetensors import safe_open
    from safetensors.torch import save_file
    target.mkdir()
    tensors = {}
    for path in sorted(source.iterdir()):
        if path.suffix != ".safetensors":
            if not path.name.endswith(".index.json"):
                shutil.copy(path, target)
            continue
        with safe_open(path, "pt") as f:
            for name in f.keys():
                t = f.get_tensor(name)
                stem = name.split("mlp.experts.")[0] + "block_sparse_moe.experts."
                if name.endswith("gate_up_proj"):
                    half = t.shape[1] // 2
                    for e in range(t.shape[0]):
                        tensors[f"{stem}{e}.w1.weight"] = t[e, :half].clone()
                        tensors[f"{stem}{e}.w3.weight"] = t[e, half:].clone()
                elif name.endswith("experts.down_proj"):
                    tensors.update({f"{stem}{e}.w2.weight": t[e].clone() for e in range(t.shape[0])})
                else:
                    tensors[name.replace(".mlp.gate.", ".block_sparse_moe.gate.")] = t
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def chain(args, work, kind):
    """One run of the peers: {step: (seconds, bytes)}."""
    steps = {}
    for name in ("mk", "mk2"):
        shutil.rmtree(work / name, ignore_errors=True)
    steps["mergekit-moe"] = timed([pathlib.Path(sys.executable).parent / "mergekit-moe", args.recipe, work / "mk", "--device", "cpu"],
                                  {"HF_HUB_OFFLINE": "1"})
    # in a process of its own: a child's peak memory starts at its parent's, and this one would hold the model
    subprocess.run([sys.executable, __file__, "--unfuse", work / "mk", work / "mk2"], check=True)
    steps["convert_hf_to_gguf"] = timed([sys.executable, args.llama_cpp / "convert_hf_to_gguf.py", work / "mk2", "--outtype", "bf16", "--outfile", work / "mk.gguf"],
                                        {"PYTHONPATH": str(args.llama_cpp / "gguf-py")})
    steps["quantizer"] = timed([sys.executable, "-c", QUANTIZE, work / "mk.gguf", work / "mk-q.gguf", FILE_TYPES[kind], args.threads])
    return steps


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("llama_cpp", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--types", default="Q8_0,Q4_K_M")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    print("| type | moegraft merge --to | peers together | ratio | " + "mergekit-moe, converter, quantizer | peak memory: ours | peers |\n|---|---|---|---|---|---|---|")
    for kind in args.types.split(","):
        ours, theirs = [], []
        for _ in range(args.runs):
            ours.append(timed([ROOT / "build/release/bin/moegraft-merge", args.recipe, args.work / "ours.gguf", "--to", kind, "--force", "-q", "-t", args.threads]))
            theirs.append(chain(args, args.work, kind))
        mine = statistics.median(s for s, _ in ours)
        steps = {k: statistics.median(t[k][0] for t in theirs) for k in theirs[0]}
        total = sum(steps.values())
        print(f"| {kind} | {mine:.1f} s | {total:.1f} s | {total / mine:.1f}x | {', '.join(f'{v:.1f} s' for v in steps.values())} | "
              f"{max(m for _, m in ours) / 1e6:.0f} MB | {max(m for t in theirs for _, m in t.values()) / 1e6:.0f} MB |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--unfuse"]:
        unfuse(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    else:
        main()
