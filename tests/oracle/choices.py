"""perplexity --choices: the accuracies of lm-evaluation-harness's way to score, done here with transformers, and those of
llama-perplexity --multiple-choice when LLAMA_PERPLEXITY names that program."""
import json
import os
import random
import re
import struct
import subprocess

import torch
import transformers

from peers import SAMPLES, WORK, run

QUESTIONS = 60
torch.set_num_threads(1)
random.seed(1)
lines = {d: [s.strip() for s in (SAMPLES / f"text/{d}.txt").read_text().splitlines() if len(s.split()) > 5] for d in ("prose", "code", "math", "json")}
words = [w for d in lines for s in lines[d] for w in s.split()]
questions = []
while len(questions) < QUESTIONS:
    w = random.choice(lines[random.choice(sorted(lines))]).split()
    k = len(w) // 2
    choices = [" ".join(w[k:k + 3])] + [" ".join(random.choices(words, k=random.randint(1, 4))) for _ in range(3)]
    right = choices[0]
    random.shuffle(choices)
    if len(set(choices)) == 4:
        questions.append({"context": " ".join(w[:k]), "choices": choices, "answer": choices.index(right)})
(WORK / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))


def harness(folder):
    """(acc, acc_norm): context and continuation tokenized together, what is behind the context's own tokens scored."""
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    right = [0, 0]
    for q in questions:
        context = q["context"].rstrip()
        blanks = q["context"][len(context):]
        sums = []
        for c in q["choices"]:
            whole, n = tok(context + blanks + " " + c)["input_ids"], len(tok(context)["input_ids"])
            with torch.no_grad():
                logp = torch.log_softmax(model(torch.tensor([whole])).logits[0].double(), -1)
            sums.append(sum(logp[i - 1, whole[i]].item() for i in range(n, len(whole))))
        norm = [s / len(c) for s, c in zip(sums, q["choices"])]
        for k, scores in enumerate((sums, norm)):
            right[k] += scores.index(max(scores)) == q["answer"]
    return [r / len(questions) for r in right]


def string(s):
    return struct.pack("<I", len(s.encode())) + s.encode()


def llama(program, folder):
    """Accuracy that llama-perplexity prints; its questions are binary."""
    tasks = [string(q["context"]) + struct.pack("<I", 4) + b"".join(map(string, q["choices"])) +
             struct.pack("<4i", *(i == q["answer"] for i in range(4))) + struct.pack("<I", 0) for q in questions]
    starts = [sum(map(len, tasks[:i])) for i in range(len(tasks))]
    (WORK / "questions.bin").write_bytes(struct.pack(f"<{len(tasks) + 1}I", len(tasks), *starts) + b"".join(tasks))
    run("convert", folder, WORK / "model.gguf", "--outtype", "f32", "--force", "-q")
    out = subprocess.run([program, "-m", WORK / "model.gguf", "--multiple-choice", "--binary-file", WORK / "questions.bin", "-c", "512", "-np", "8",
                          "-t", "1", "-ctk", "f32", "-ctv", "f32"], check=True, capture_output=True, text=True)
    return float(re.search(r"Final result: ([0-9.]+)", out.stdout + out.stderr)[1]) / 100


for donor in ("prose", "code"):
    folder = SAMPLES / "donors" / donor
    ours = json.loads(run("perplexity", folder, "--choices", WORK / "questions.jsonl", "--json", "-q"))["results"][0]["choices"]
    theirs = harness(folder)
    print(f"{donor}: acc {ours['acc']:.4f}, harness {theirs[0]:.4f}; acc_norm {ours['acc_norm']:.4f}, harness {theirs[1]:.4f}")
    assert abs(ours["acc"] - theirs[0]) < 1e-9 and abs(ours["acc_norm"] - theirs[1]) < 1e-9
    if "LLAMA_PERPLEXITY" in os.environ:
        other = llama(os.environ["LLAMA_PERPLEXITY"], folder)
        print(f"{donor}: acc_token {ours['acc_token']:.4f}, llama-perplexity {other:.4f}")
        assert abs(ours["acc_token"] - other) < 1e-4  # it prints two decimals of a percent
