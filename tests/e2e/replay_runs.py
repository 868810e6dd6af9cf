"""What the tests of verify --provenance with work done again have in common: folders, and manifests that hold, that find one byte, and that
miss a file."""
import hashlib
import json

from common import WORK, check, run, same

HOME = WORK / "home"  # what is made lies apart from what it was made of
HOME.mkdir()
FILES = WORK / "files"
FILES.mkdir()
AWAY = WORK / "away"  # the working directory of verify: nothing lies in or beside it
(AWAY / "x").mkdir(parents=True)


def prove(manifest, *args, expect=0, threads=3):
    return run("verify", "--provenance", manifest, *args, "-q", "-t", threads, expect=expect, cwd=AWAY / "x")


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers():
    return sorted(str(p) for p in HOME.rglob(".*"))


def replayed(manifest, *places):
    """All equal on another number of threads, and nothing is left behind."""
    found = prove(manifest, *places, "--json").json()["counts"]
    n = len(json.loads(manifest.read_text())["tensors"])
    same({k: v for k, v in found.items() if v}, {"same": n}, f"counts of {manifest}")
    same(leftovers(), [], "left behind")


def flipped(manifest, wanted, *places):
    """One byte of one tensor: named first, exit 1; the byte is put back."""
    t = next(t for t in json.loads(manifest.read_text())["tensors"] if wanted in t["name"])
    path = manifest.parent / t["file"]
    data = bytearray(path.read_bytes())
    data[t["offset"] + t["bytes"] // 2] ^= 1
    path.write_bytes(data)
    r = prove(manifest, *places, "--tensors", wanted.replace(".", r"\."), expect=1)
    check(f"output differs   {t['name']}: stored" in r.out and "1 of the output differ" in r.out, r.out)
    data[t["offset"] + t["bytes"] // 2] ^= 1
    path.write_bytes(data)


def altered(manifest, path, *places):
    """Another content: exit 7 and both hashes; gone: exit 5; both by name, before anything is done."""
    before, content = sha(path), path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    r = prove(manifest, *places, expect=7)
    check(path.name in r.err and before in r.err and sha(path) in r.err, r.err)
    path.unlink()
    r = prove(manifest, *places, expect=5)
    check(path.name in r.err and before in r.err, r.err)
    path.write_bytes(content)
    same(leftovers(), [], "left behind by a refusal")


def made(name):
    return HOME / (f"{name}.manifest.json" if name.endswith(".gguf") else f"{name}/model.manifest.json")
