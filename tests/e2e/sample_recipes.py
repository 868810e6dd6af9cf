"""Every recipe under samples/recipes: tried without writing, merged, equal both ways, its shape as its name says; the Mixtral ones go
on to GGUF at 2 to 8 bits."""
import json

import common
from common import SAMPLES, WORK, check, run, same

(WORK / "few.txt").write_text("1 20 30 40 50 60 70 80 90 100 7 8 9 10 11 12\n")
EXPECT = {"negative4": ("mixtral", 4, 2), "both2": ("mixtral", 2, 2), "mixtral8": ("mixtral", 8, 2), "mesh2x2": ("mesh", 4, 2),
          "nekomind": ("nekomind", 4, 2), "trunk4": ("mixtral", 4, 2), "ties": ("mistral", 0, 0), "stack6": ("mistral", 0, 0)}
PRESETS = {"negative4": ("Q2_K", "Q5_K_M"), "both2": ("Q3_K_M", "Q6_K", "Q8_0"), "mixtral8": ("Q4_K_M",), "trunk4": ("Q4_0",)}
recipes = sorted((SAMPLES / "recipes").glob("*.yml"))
same({r.stem for r in recipes}, set(EXPECT), "recipes")


def ppl(model):
    return run("perplexity", model, "--tokens", WORK / "few.txt", "--json", "-q").json()["results"][0]["ppl"]


for recipe in recipes:
    text = run("merge", recipe, WORK / recipe.stem).err
    family, experts, used = EXPECT[recipe.stem]
    config = json.loads((WORK / recipe.stem / "config.json").read_text())
    same(config["model_type"], family, f"{recipe.stem}: family")
    if experts:
        count = config.get("num_local_experts", config.get("num_experts", 0)) or config["mesh_grid_size"][0] * config["mesh_grid_size"][1]
        same((count, config.get("num_experts_per_tok", config.get("routing_k"))), (experts, used), f"{recipe.stem}: experts")
        check("most alike gates" in text, f"{recipe.stem}: gates are not compared: {text}")
    same(ppl(recipe), ppl(WORK / recipe.stem), f"{recipe.stem}: tried and written")
    if family == "mixtral":
        run("convert", WORK / recipe.stem, WORK / "x.gguf", "-q", "--force")
        for preset in PRESETS[recipe.stem]:
            run("merge", recipe, WORK / f"{recipe.stem}-{preset}.gguf", "--to", preset, "-q")
            run("quantize", WORK / "x.gguf", WORK / "y.gguf", preset, "-q", "--force")
            tensors = [[t["sha256"] for t in run("inspect", f, "--json", "--tensors", "--hash").json()["tensors"]]
                       for f in (WORK / f"{recipe.stem}-{preset}.gguf", WORK / "y.gguf")]
            same(tensors[0], tensors[1], f"{recipe.stem}: {preset} in one pass and in three")
check("hardly tell them apart" in run("merge", SAMPLES / "recipes/negative4.yml", WORK / "again").err, "negative prompting alone: no warning")
common.done()
