"""Quantized files in llama.cpp, with error feedback too: they load and generate. Its 8-bit activations make its tokens differ from ours now and then, so
agreement of greedy tokens is printed, and only asked of Q8_0's first token."""
from pathlib import Path

import llama_cpp

from peers import SAMPLES, WORK, run

prompt = "And it came to pass in the days of"
types = ["Q4_0", "Q8_0", "Q4_K_S", "Q4_K_M", "Q6_K", "F16", "BF16"]
run("merge", SAMPLES / "moe4.yml", *[a for t in types for a in ("-o", f"{WORK}/m-{t}.gguf={t}")], "-q")
feedback = ["Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_XS"]
text = Path(WORK / "text.txt")
text.write_text("".join((SAMPLES / f"text/calibration_{d}.txt").read_text()[:4000] for d in ("prose", "code", "math", "json")))
run("merge", SAMPLES / "moe4.yml", WORK / "m", "-q")
for t in feedback:
    run("quantize", WORK / "m", WORK / f"m-{t}.feedback.gguf", t, "--feedback", "--text", text, "-q")
for t in types + [f"{t}.feedback" for t in feedback]:
    model = llama_cpp.Llama(str(WORK / f"m-{t}.gguf"), n_ctx=256, verbose=False)
    theirs = model.create_completion(prompt, max_tokens=16, temperature=0)["choices"][0]["text"]
    ours = run("generate", WORK / f"m-{t}.gguf", "--prompt", prompt, "-n", "16")
    print(f"{t:15} llama.cpp {theirs!r}\n                ours      {ours!r}")
    assert theirs.strip(), f"{t}: nothing generated"
    if t == "Q8_0":
        assert theirs.split()[0] in ours, "the first word differs"
