"""Models by name from a Hugging Face cache that is built here: where it is looked for, revisions, what is missing."""
import json
import os
import shutil

import common
from common import SAMPLES, WORK, check, run, same

BASE = SAMPLES / "donors/base"
COMMITS = ("0123456789abcdef0123456789abcdef01234567", "f" * 40)
NOTHING = {"HF_HUB_CACHE": "", "HUGGINGFACE_HUB_CACHE": "", "HF_HOME": "", "XDG_CACHE_HOME": "", "HOME": WORK / "nobody"}


def cache(hub, repo, source, commit=COMMITS[0], refs=("main",), leave_out=()):
    """A snapshot as huggingface_hub keeps it: links into blobs."""
    folder = hub / ("models--" + repo.replace("/", "--"))
    snapshot, blobs = folder / "snapshots" / commit, folder / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir(exist_ok=True)
    for f in sorted(source.iterdir()):
        if f.is_file() and f.name not in leave_out:
            blob = blobs / common.sha256(f)
            shutil.copyfile(f, blob)
            (snapshot / f.name).symlink_to(f"../../blobs/{blob.name}")
    for r in refs:
        (folder / "refs" / r).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / r).write_text(commit)
    return snapshot


def tool(name, *args, expect=0, **env):
    return run(name, *args, expect=expect, env={**NOTHING, **env})


hub = WORK / "hub"
cache(hub, "org/base", BASE, refs=("main", "refs/pr/1", "v1.0"))
cache(hub, "org/prose", SAMPLES / "donors/prose", COMMITS[1])
HUB = {"HF_HUB_CACHE": hub}

# Every tool that takes a PATH; the name is what messages and files call the model.
direct = run("inspect", BASE, "--json").json()
named = tool("inspect", "org/base", "--json", **HUB).json()
same(named["parameters"], direct["parameters"], "parameters")
tool("check", "org/base", "--deep", **HUB)
same(tool("tokenize", "org/base", "--text", "the fox", **HUB).out, run("tokenize", BASE, "--text", "the fox").out, "ids")
tool("forward", "org/base", "--ids", "1,5,9", "-o", "a.safetensors", **HUB)
run("forward", BASE, "--ids", "1,5,9", "-o", "b.safetensors")
same((WORK / "a.safetensors").read_bytes(), (WORK / "b.safetensors").read_bytes(), "activations")
tool("convert", "org/base", "named.gguf", "-q", **HUB)
run("convert", BASE, "direct.gguf", "-q")
same((WORK / "named.gguf").read_bytes(), (WORK / "direct.gguf").read_bytes(), "GGUF: the folder and the name end in 'base'")
same(json.loads((WORK / "named.gguf.manifest.json").read_text())["inputs"][0]["name"], "base", "name in the manifest")

# Where the cache is looked for, first to last.
empty = WORK / "empty"
empty.mkdir()
for env in ({"HF_HUB_CACHE": hub, "HF_HOME": empty}, {"HUGGINGFACE_HUB_CACHE": hub, "HF_HOME": empty}, {"HF_HOME": WORK, "XDG_CACHE_HOME": empty}):
    tool("tokenize", "org/base", "--text", "a", **env)
(WORK / "xdg").mkdir()
(WORK / "xdg/huggingface").symlink_to(WORK)
tool("tokenize", "org/base", "--text", "a", XDG_CACHE_HOME=WORK / "xdg")
(WORK / "home/.cache").mkdir(parents=True)
(WORK / "home/.cache/huggingface").symlink_to(WORK)
tool("tokenize", "org/base", "--text", "a", HOME=WORK / "home")
tool("tokenize", "org/base", "--text", "a", HF_HUB_CACHE="~/.cache/huggingface/hub", HOME=WORK / "home")
tool("tokenize", "org/base", "--text", "a", HF_HUB_CACHE=empty, HF_HOME=WORK, expect=5)
missing = tool("tokenize", "org/base", "--text", "a", expect=5).err
check("nobody/.cache/huggingface/hub/models--org--base" in missing, missing)

# Revisions: names, names with slashes, commits.
for revision in ("main", "v1.0", "refs/pr/1", COMMITS[0]):
    tool("inspect", f"org/base@{revision}", **HUB)
err = tool("inspect", "org/base@v2", expect=5, **HUB).err
check("revision 'v2'" in err and "v1.0" in err, err)
check("no snapshot" in tool("inspect", f"org/base@{'a' * 40}", expect=5, **HUB).err, "a commit that is not there")
folder = hub / "models--org--base"
(folder / "refs/bad").write_text("main")
check("no commit" in tool("inspect", "org/base@bad", expect=3, **HUB).err, "a ref without a commit")
(folder / "refs/gone").write_text("b" * 40)
check("no snapshot" in tool("inspect", "org/base@gone", expect=5, **HUB).err, "a ref without a snapshot")

# A folder of that name wins; hf: means the cache.
(WORK / "org/base").mkdir(parents=True)
tool("inspect", "org/base", expect=3, **HUB)
tool("inspect", "hf:org/base", **HUB)
tool("inspect", "hf:org/base@v1.0", **HUB)
tool("inspect", "hf:", expect=2, **HUB)
for hostile in ("hf:../base", "hf:org/../base", "hf:org/base@../main", "hf:org/base/../../x", "hf:org/base@"):
    tool("inspect", hostile, expect=2, **HUB)
shutil.rmtree(WORK / "org")
cache(hub, "single", BASE)
tool("inspect", "hf:single", **HUB)
tool("inspect", "single", expect=5, **HUB)

# A GGUF among a repository's files, and a set of them.
ggufs = common.fresh("ggufs")
shutil.copyfile(WORK / "direct.gguf", ggufs / "m-F16.gguf")
run("convert", WORK / "direct.gguf", ggufs / "set.gguf", "--split-max-size", "2M", "--no-manifest", "-q")
cache(hub, "org/m-GGUF", ggufs)
tool("inspect", "hf:org/m-GGUF/m-F16.gguf", **HUB)
tool("check", "hf:org/m-GGUF@main/set-00001-of-00004.gguf", **HUB)
tool("edit", "hf:org/m-GGUF/m-F16.gguf", "--set", "general.name=x", expect=4, **HUB)
err = tool("inspect", "hf:org/m-GGUF/m-Q4_0.gguf", expect=5, **HUB).err
check("m-F16.gguf" in err, err)

# Incomplete: what is missing is named.
cache(hub, "org/cut", BASE, leave_out=("config.json",))
check("config.json" in tool("check", "org/cut", expect=3, **HUB).err, "no config")
snapshot = cache(hub, "org/broken", BASE)
blob = (snapshot / "model.safetensors").resolve()
blob.rename(blob.with_suffix(".incomplete"))
err = tool("check", "org/broken", expect=3, **HUB).err
check("model.safetensors" in err and "interrupted" in err, err)

# Donors of a recipe.
recipe = WORK / "two.yml"
recipe.write_text("""base_model: org/base
gate_mode: random
dtype: bfloat16
experts:
  - source_model: org/base
    positive_prompts: ["a"]
  - source_model: hf:org/prose@main
    positive_prompts: ["b"]
""")
tool("merge", recipe, "two", "-q", **HUB)
recipe.write_text(recipe.read_text().replace("hf:org/prose@main", str(SAMPLES / "donors/prose")).replace("org/base", str(BASE)))
tool("merge", recipe, "same", "-q")
same(common.sha256(WORK / "two/model.safetensors"), common.sha256(WORK / "same/model.safetensors"), "the merge")
recipe.write_text(recipe.read_text().replace(str(BASE), "org/other"))
err = tool("merge", recipe, "no", "-q", expect=5, **HUB).err
check("neither beside the recipe" in err and "models--org--other" in err, err)
common.done()
