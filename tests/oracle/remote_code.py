"""Mesh and NekoMind as transformers runs them, by the modules that convert and merge write: logits, cache, padding, chat."""
import torch
import transformers
from safetensors.torch import load_file

from peers import DATA, SAMPLES, WORK, run

TINY = DATA / "models/tiny"
# Both sides sum in float32 in other orders; relative to the RMS of the logits. 3e-6 is usual.
LIMIT = 2e-5
CHAT = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"


def load(path):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        path, trust_remote_code=True, torch_dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    return model.eval()


def greedy(model, ids, **more):
    return model.generate(ids, max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=None, **more)


def compare_logits(name, path, model, ids):
    (WORK / "ids.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in ids.tolist()))
    run("forward", path, "--tokens", WORK / "ids.txt", "--capture", "logits", "-o", WORK / f"{name}.safetensors")
    ours = load_file(WORK / f"{name}.safetensors")["logits"]
    with torch.no_grad():
        theirs = model(ids).logits
    worst = (ours - theirs).abs().max().item() / ours.pow(2).mean().sqrt().item()
    print(f"{name}: largest difference of logits {worst:.1e} of RMS")
    assert worst < LIMIT, worst


def compare_generation(model, ids):
    alone = greedy(model, ids[:1], attention_mask=torch.ones_like(ids[:1]))
    assert alone.equal(greedy(model, ids[:1], attention_mask=torch.ones_like(ids[:1]), use_cache=False)), "cache"
    short, pad = ids[:1, -7:], ids.shape[1] - 7
    mask = torch.ones_like(ids[:2])
    mask[1, :pad] = 0
    batch = torch.cat([ids[:1], torch.cat([torch.zeros(1, pad, dtype=torch.long), short], 1)])
    both = greedy(model, batch, attention_mask=mask)
    assert both[0].equal(alone[0]), "first of a batch"
    assert both[1, pad:].equal(greedy(model, short, attention_mask=torch.ones_like(short))[0]), "padded on the left"


print("transformers", transformers.__version__)
for tiny in ("mesh_k1", "mesh_k2", "mesh_dense", "mesh_no_exchange", "nekomind", "nekomind_untied"):
    run("convert", TINY / tiny, WORK / f"{tiny}.gguf", "--outtype", "f32", "-q")
    run("convert", WORK / f"{tiny}.gguf", WORK / tiny, "-q")  # config and weights from GGUF, code from the library
    model = load(WORK / tiny)
    ids = torch.randint(3, 300, (2, 24), generator=torch.Generator().manual_seed(0))
    compare_logits(tiny, WORK / tiny, model, ids)
    compare_generation(model, ids)

donors = [SAMPLES / "donors" / d for d in ("prose", "code", "math", "json")]
for target in ("mesh", "nekomind"):
    recipe = f"base_model: {donors[0]}\ngate_mode: random\narchitecture: {target}\nexperts:\n"
    recipe += "".join(f"  - source_model: {d}\n    positive_prompts: [x]\n" for d in donors)
    if target == "nekomind":
        recipe += f"shared_experts:\n  - source_model: {donors[0]}\n    positive_prompts: [x]\n    residual_scale: 0.1\n"
    (WORK / "recipe.yml").write_text(recipe)
    out = WORK / f"{target}-moe"
    run("merge", WORK / "recipe.yml", out, "-q")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    tokenizer.chat_template = tokenizer.chat_template or CHAT
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "def add(a, b):"}], tokenize=False)
    ids = torch.tensor([tokenizer(asked)["input_ids"]])
    model = load(out)
    compare_logits(f"{target}-moe", out, model, ids)
    print(repr(tokenizer.decode(greedy(model, ids, attention_mask=torch.ones_like(ids))[0])))
