#!/usr/bin/env python3
"""Run the checks against real peers (README.md). usage: run.py [NAME...]"""
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
names = sys.argv[1:] or sorted(p.stem for p in HERE.glob("*.py") if p.stem not in ("run", "peers", "reference_converter", "mixed_text", "vllm_rank"))
failed = []
for name in names:
    with tempfile.TemporaryDirectory() as work:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, HERE / f"{name}.py", work], cwd=HERE).returncode:
            failed.append(name)
print(f"{len(names) - len(failed)} passed, {len(failed)} failed")
sys.exit(bool(failed))
