"""--verify-inputs: input files against hashes recorded beside them, in every form these come in; a file that differs ends with 7 and
nothing is written."""
import hashlib
import json
import re
import shutil

import common
from common import DATA, SAMPLES, WORK, check, run, same

source = DATA / "models/tiny/mistral"
run("convert", source, WORK / "hf", "--out-shard-size", "60K", "-q")
shards = sorted(p.name for p in (WORK / "hf").glob("*.safetensors"))
check(len(shards) > 2, "several shards")


def digest(path, kind):
    return hashlib.new(kind, path.read_bytes()).hexdigest()


def model(name, manifest=False):
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(WORK / "hf", folder)
    if not manifest:
        (folder / "model.manifest.json").unlink()
    return folder


def damage(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


def lines(kind, mark):
    return lambda folder: "".join(f"{digest(folder / s, kind)} {mark}{s}\n" for s in shards)


def put(name, text):
    def write(folder):
        (folder / name).write_text(text(folder))
    return write


def downloads(folder):
    place = folder / ".cache/huggingface/download"
    place.mkdir(parents=True)
    for s in shards:
        (place / f"{s}.metadata").write_text(f"{'0' * 40}\n{digest(folder / s, 'sha256')}\n1700000000.0\n")


def each(folder):
    for s in shards:
        (folder / f"{s}.sha256").write_text(digest(folder / s, "sha256").upper() + "\n")


records = {
    "manifest": (lambda folder: None, True),
    "sha256sum": (put("SHA256SUMS", lines("sha256", " ")), False),
    "md5sum": (put("md5sum.txt", lines("md5", "*")), False),
    "checklist": (put("checklist.chk", lambda f: "# a remark\n" + lines("md5", "*./")(f)), False),
    "release": (put("RELEASE", lines("md5", " ")), False),
    "one per file": (each, False),
    "download": (downloads, False),
}
for name, (record, manifest) in records.items():
    folder = model("m", manifest)
    record(folder)
    out = WORK / "out.gguf"
    found = run("convert", folder, out, "--verify-inputs", "--force")
    check(f"{len(shards)} input files" in found.err, f"{name}: {found.err}")
    check("no recorded hash" not in found.err, f"{name}: {found.err}")
    found = run("check", folder, "--verify-inputs")
    check(f"{len(shards)} files as recorded, 0 without" in found.out, found.out)
    victim = shards[1]
    damage(folder / victim)
    common.refused(7, [victim, "expected"], name, "convert", folder, WORK / "never", "--to", "hf", "--verify-inputs")
    run("check", folder, "--verify-inputs", expect=7)
    run("quantize", folder, WORK / "never.gguf", "Q8_0", "--verify-inputs", expect=7)
    run("merge", put("r.yml", lambda f: f"base_model: {folder}\ngate_mode: random\nexperts:\n" + f"  - source_model: {folder}\n" * 2)(WORK) or WORK / "r.yml",
        WORK / "never", "--verify-inputs", "--i-understand-this-is-not-useful-without-training", expect=7)
    run("convert", folder, out, "--force", "-q")  # not asked for: not looked at

# the Hugging Face cache
repository = WORK / "hub/models--org--name"
commit = "1" * 40
snapshot, blobs = repository / "snapshots" / commit, repository / "blobs"
for place in (snapshot, blobs, repository / "refs"):
    place.mkdir(parents=True)
(repository / "refs/main").write_text(commit)
for file in model("m").iterdir():
    if file.is_file() and not file.name.startswith("."):
        blob = blobs / digest(file, "sha256" if file.name in shards else "sha1")
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
HUB = {"HF_HUB_CACHE": WORK / "hub"}
found = run("convert", "org/name", WORK / "h.gguf", "--verify-inputs", env=HUB)
check(f"{len(shards)} input files" in found.err, found.err)
damage(next(b for b in blobs.iterdir() if b.name == digest(WORK / "hf" / shards[0], "sha256")))
found = run("convert", "org/name", WORK / "never", "--to", "hf", "--verify-inputs", env=HUB, expect=7)
check("in the cache" in found.err and not (WORK / "never").exists(), found.err)

# a GGUF, with the manifest of the run that made it
run("convert", source, WORK / "a.gguf", "-q")
check("1 input files" in run("quantize", WORK / "a.gguf", WORK / "q.gguf", "Q8_0", "--verify-inputs").err, "a GGUF")
damage(WORK / "a.gguf")
run("quantize", WORK / "a.gguf", WORK / "q2.gguf", "Q8_0", "--verify-inputs", expect=7)
check(not (WORK / "q2.gguf").exists(), "nothing under the final name")
# nothing is known: said, not refused
folder = model("plain")
found = run("convert", folder, WORK / "p.gguf", "--verify-inputs")
check("no recorded hash" in found.err and "0 input files" in found.err, found.err)
# the total of the index
index = folder / "model.safetensors.index.json"
text = json.loads(index.read_text())
text["metadata"]["total_size"] += 2
index.write_text(json.dumps(text))
common.refused(7, ["total_size"], "index total", "convert", folder, WORK / "never", "--to", "hf", "--verify-inputs")
# broken records: a manifest of ours that is no JSON is refused, lists of anything else are passed over
folder = model("broken")
(folder / "sha256.txt").write_bytes(b"\xff\x00 junk\n" + b"a" * 64 + b"\n" + b"f" * 63 + b" x\n")
run("convert", folder, WORK / "b.gguf", "--verify-inputs", "-q")
(folder / "model.manifest.json").write_text("{")
run("convert", folder, WORK / "b2.gguf", "--verify-inputs", expect=3)
# ranks share the files
folder = model("shared", True)
seen = []
pair = common.fresh("pair") / "s.gguf"
for r in (0, 1):
    found = run("convert", folder, pair, "--rank", r, "--world", 2, "--verify-inputs")
    seen.append(int(re.search(r"(\d+) input files", found.err).group(1)))
same(sum(seen), len(shards), f"files that ranks compare: {seen}")
run("check", folder, folder, "--merge", "--verify-inputs", expect=2)

# ---- convert --metadata: sha256 of what convert_hf_to_gguf.py (llama.cpp, 2026) writes for the same files ----
CASES = json.loads((DATA / "golden/metadata.json").read_text())
for case in CASES:
    (WORK / "meta.json").write_text(json.dumps(case["metadata"]))
    out = common.fresh("meta") / "m.gguf"
    run("convert", SAMPLES / "donors/prose", out, "--outtype", "bf16", "--metadata", WORK / "meta.json", "--no-manifest", "-q", *case["options"])
    same(common.sha256(out), case["sha256"], f"{case['metadata']} {case['options']}")


def key(path, name):
    return run("inspect", path, "--kv", "--json").json()["metadata"].get(name)


(WORK / "meta.json").write_text('{"general.author": "one", "general.license": "mit", "general.tags": ["x"]}')
run("convert", WORK / "b.gguf", WORK / "g.gguf", "--metadata", WORK / "meta.json", "-q")
same((key(WORK / "g.gguf", "general.author"), key(WORK / "g.gguf", "general.license")), ("one", "mit"), "a GGUF's keys")
for text, code, word in (('{"general.auther": "x"}', 2, "general.author"), ('{"general.name": 1}', 3, "string"), ("[]", 3, "object"),
                         ('{"general.tags": "x"}', 3, "list"), ('{"general.base_models": [{"nam": "x"}]}', 2, "name"),
                         ('{"general.sampling.top_k": 1.5}', 3, "whole"), ('{"general.base_models": ["x"]}', 3, "objects"), ("{", 3, "")):
    (WORK / "meta.json").write_text(text)
    common.refused(code, [word, "meta.json"], text, "convert", source, WORK / "never", "--to", "gguf", "--metadata", WORK / "meta.json")
run("convert", source, WORK / "never", "--metadata", WORK / "meta.json", expect=2)

common.done()
