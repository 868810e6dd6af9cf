"""Merged directories in transformers: every tensor found, float32 logits equal to ours."""
import torch
import transformers
from safetensors.torch import load_file

from peers import DATA, SAMPLES, WORK, run

# Largest |difference|: both sides sum in f32 in other orders; the logits themselves reach about 20.
LIMIT = 1e-4
ids = [[1, 300, 17, 842, 9, 77, 501, 23, 640, 5, 90, 33, 712, 440, 18, 260], [1, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54]]
(WORK / "ids.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in ids))
recipes = {"hidden": DATA / "golden/merge/moe4_hidden.yml", "cheap_embed": DATA / "golden/merge/moe4_cheap_embed.yml", "fit": SAMPLES / "moe4.yml"}
for name, recipe in recipes.items():
    out = WORK / name
    run("merge", recipe, out, "-q")
    run("forward", out, "--tokens", WORK / "ids.txt", "--capture", "logits", "-o", WORK / f"{name}.safetensors")
    ours = load_file(WORK / f"{name}.safetensors")["logits"]
    model, info = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    wrong = {k: v for k, v in info.items() if v}
    assert not wrong, f"{name}: {wrong}"
    with torch.no_grad():
        theirs = model.eval()(torch.tensor(ids)).logits
    worst = (ours - theirs).abs().max().item()
    print(f"{name}: largest difference of logits {worst:.2e} (largest logit {theirs.abs().max().item():.1f})")
    assert worst < LIMIT, worst
    text = transformers.AutoTokenizer.from_pretrained(out).decode(model.generate(torch.tensor([[1, 300, 17]]), max_new_tokens=8)[0])
    print(f"{name}: generates {text!r}")
