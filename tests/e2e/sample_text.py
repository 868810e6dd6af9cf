"""The generated texts of samples/ come from samples/make_text.py, and the prompts of moe4.yml from seeds of their own."""
import importlib.util
import json
import random
import re
import subprocess
import sys

import common
from common import SAMPLES, WORK, check, same

sys.dont_write_bytecode = True
spec = importlib.util.spec_from_file_location("make_text", SAMPLES / "make_text.py")
make_text = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_text)

subprocess.run([sys.executable, str(SAMPLES / "make_text.py"), str(WORK)], check=True)
made = sorted(p.name for p in WORK.glob("*.txt"))
same(made, ["calibration_json.txt", "calibration_math.txt", "json.txt", "math.txt"], "files made")
for name in made:
    same((WORK / name).read_bytes(), (SAMPLES / "text" / name).read_bytes(), name)

prompts, expert = {}, None
for line in (SAMPLES / "moe4.yml").read_text().splitlines():
    source, prompt = re.fullmatch(r"  - source_model: donors/(\w+)", line), re.fullmatch(r'      - (".*")', line)
    if source:
        expert = prompts[source[1]] = []
    elif prompt:
        expert.append(json.loads(prompt[1]))
same(sorted(prompts), ["code", "json", "math", "prose"], "experts")
same(prompts["math"], list(make_text.sums(random.Random(90003), len(prompts["math"]))), "prompts of math")
same(prompts["json"], list(make_text.records(random.Random(90003), len(prompts["json"]), 0)), "prompts of json")

for name, texts in prompts.items():
    check(len(texts) >= 20, f"{name}: {len(texts)} prompts")
    same(len(set(texts)), len(texts), f"{name}: different prompts")
    # what is measured on is not among the prompts; only a small product may be drawn twice (6*5=30, 1 line in 100)
    lines = (SAMPLES / f"text/{name}.txt").read_text().splitlines()
    met = set(lines) & set(texts)
    check(not met or (name == "math" and len(met) * 100 <= len(lines) and all("*" in line for line in met)),
          f"{name}: prompts that are lines of the text: {met}")
common.done()
