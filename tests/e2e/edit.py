"""moegraft-edit: keys read back by a parser of our own, types and order kept, tensor bytes compared, killed at every
point; config and template of a directory."""
import json
import os
import shutil
import struct

import common
from common import check, read_gguf, run, same, sha256

TINY = common.DATA / "models/tiny/llama"
work = common.WORK
gguf = work / "tiny.gguf"
run("convert", TINY, gguf)
original = gguf.read_bytes()
old_kv, old_tensors = read_gguf(gguf)
old_bytes = [(n, t.dtype, t.shape, t.data) for n, t in old_tensors.items()]


def types(path):
    """{key: type} in file order, read here."""
    c = common._Cursor(path.read_bytes())
    c.at = 16
    found = {}
    for _ in range(c.take("<Q")):
        key, kind = c.string(), c.take("<I")
        at = c.at
        found[key] = (9, struct.unpack_from("<I", c.raw, at)[0]) if kind == 9 else kind
        c.value(kind)
    return found


def tensors(path):
    return [(n, t.dtype, t.shape, t.data) for n, t in read_gguf(path)[1].items()]


# Into another file: existing keys keep type and place, new ones follow with the type stated or seen.
template = work / "template.jinja"
template.write_text("{% for m in messages %}\n{{ m['content'] }} \u00e4\n{% endfor %}\n")
NEW = {"a.u8": ("u8:200", 0, 200), "a.i8": ("i8:-128", 1, -128), "a.u16": ("u16:65535", 2, 65535), "a.i16": ("i16:-2", 3, -2),
       "a.u32": ("u32:7", 4, 7), "a.i32": ("i32:-7", 5, -7), "a.f32": ("f32:0.5", 6, 0.5), "a.bool": ("bool:true", 7, True),
       "a.str": ("str:12", 8, "12"), "a.u64": (f"u64:{2**64 - 1}", 10, 2**64 - 1), "a.i64": (f"i64:{-2**63}", 11, -2**63),
       "a.f64": ("f64:0.1", 12, 0.1), "a.list": ("u32[]:[1,2,3]", (9, 4), [1, 2, 3]), "a.words": ('str[]:["x","\u00e4"]', (9, 8), ["x", "\u00e4"]),
       "a.none": ("f32[]:[]", (9, 6), []), "b.int": ("12", 4, 12), "b.negative": ("-12", 5, -12), "b.large": (str(2**40), 10, 2**40),
       "b.real": ("1.5", 6, 1.5), "b.flag": ("false", 7, False), "b.text": ("http://x:1", 8, "http://x:1"), "b.empty": ("", 8, ""),
       "b.int2": ("int:5", 4, 5), "b.float": ("float:2", 6, 2.0), "b.array": ('["p","q"]', (9, 8), ["p", "q"]),
       "b.ints": ("[1,-2]", (9, 5), [1, -2]), "b.reals": ("[1,0.5]", (9, 6), [1.0, 0.5])}
edits = ["--set", "general.name=New=name", "--set", "llama.context_length=77", "--set", "llama.rope.freq_base=2e4",
         "--remove", "general.size_label", "--set-file", f"tokenizer.chat_template={template}"]
for key, (text, _, _) in NEW.items():
    edits += ["--set", f"{key}={text}"]
out = work / "out.gguf"
done = run("edit", gguf, out, *edits, "--json").json()
kv, kinds, old_kinds = read_gguf(out)[0], types(out), types(gguf)
expected = {k: v for k, v in old_kv.items() if k != "general.size_label"}
expected |= {"general.name": "New=name", "llama.context_length": 77, "llama.rope.freq_base": 2e4}
expected |= {k: v for k, (_, _, v) in NEW.items()} | {"tokenizer.chat_template": template.read_text()}
same(kv, expected, "keys")
same(list(kv), list(expected), "order of keys")
same({k: kinds[k] for k in old_kinds if k != "general.size_label"}, {k: v for k, v in old_kinds.items() if k != "general.size_label"}, "types kept")
same({k: kinds[k] for k in NEW}, {k: t for k, (_, t, _) in NEW.items()}, "types of new keys")
same(tensors(out), old_bytes, "tensors")
same(gguf.read_bytes(), original, "the input")
same((done["tensors"]["count"], done["tensors"]["bytes"], done["changed"]), (len(old_bytes), sum(len(t[3]) for t in old_bytes), True), "report")
same(done["tensors"]["xxh3_before"], done["tensors"]["xxh3_after"], "hash before and after")
same(done["files"], [{"path": str(out), "size": out.stat().st_size, "sha256": sha256(out)}], "files")
same({"key": "llama.context_length", "type": "u32", "before": old_kv["llama.context_length"], "after": 77} in done["changes"], True, "changes")
run("check", out, "--deep")

# Back again, in place, is the first file; another type needs --remove and --set; nothing to do writes nothing.
back = ["--set", f"general.name={old_kv['general.name']}", "--set", f"llama.context_length={old_kv['llama.context_length']}"]
two = work / "two.gguf"
run("edit", gguf, two, "--set", "general.name=x", "--set", "llama.context_length=5")
os.chmod(two, 0o600)
said = run("edit", two, *back).out
same(two.read_bytes(), original, "edited there and back in place")
same(two.stat().st_mode & 0o777, 0o600, "permissions")
check(f"{len(old_bytes)} tensors" in said and " before, " in said, said)
stamp = two.stat().st_mtime_ns
check("nothing to change" in run("edit", two, *back).out, "no change is said")
check("->" in run("edit", two, "--set", "general.name=y", "--dry-run").out, "dry run says what would change")
same((two.stat().st_mtime_ns, two.read_bytes()), (stamp, original), "file after no change and a dry run")
run("edit", two, "--remove", "llama.context_length", "--set", "llama.context_length=u64:9")
same((list(types(two))[-1], types(two)["llama.context_length"]), ("llama.context_length", 10), "removed and set: a new key")
scores = ",".join(["0.25"] * len(old_kv["tokenizer.ggml.tokens"])) if "tokenizer.ggml.tokens" in old_kv else None
if scores:
    run("edit", two, "--set", f"tokenizer.ggml.scores=[{scores}]")
    same(set(read_gguf(two)[0]["tokenizer.ggml.scores"]), {0.25}, "an array replaced")
check("no model" in run("edit", gguf, out, "--set", "llama.block_count=99", "--force").err, "a model made unreadable is said")
(work / "two.gguf.manifest.json").write_text("{}")
check("before the edit" in run("edit", two, "--set", "general.name=z").err, "a stale manifest is said")


# Another alignment than 32 is kept, and so are bytes of types that nothing here can decode.
def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def made(align):
    kv = text("general.architecture") + struct.pack("<I", 8) + text("odd") + text("general.alignment") + struct.pack("<II", 4, align)
    info = text("a") + struct.pack("<IQIQ", 1, 3, 0, 0) + text("b") + struct.pack("<IQQIQ", 2, 256, 2, 12, 12 + -12 % align)
    head = b"GGUF" + struct.pack("<IQQ", 3, 2, 2) + kv + info
    body = struct.pack("<3f", 1, float("nan"), -0.0)
    data = body + bytes(-len(body) % align) + bytes(range(144)) * 2
    return head + bytes(-len(head) % align) + data + bytes(-len(data) % align)


odd = work / "odd.gguf"
for align in (8, 256):
    odd.write_bytes(made(align))
    before = tensors(odd)
    run("edit", odd, "--set", "new.key=1")
    same(tensors(odd), before, f"tensors at alignment {align}")
    run("edit", odd, "--remove", "new.key")
    same(odd.read_bytes(), made(align), f"there and back at alignment {align}")

# Killed at every point, in place: the file is the old one or the new one, and the rerun ends with the new one.
SYNC = {"MOEGRAFT_SYNC_BYTES": 1 << 18}
command = ["--set", "general.name=killed", "-q", "-t", 1]
target = work / "k/m.gguf"
common.fresh("k")
target.write_bytes(original)
points = common.count_crash_points("edit", target, *command, env=SYNC)
check(points > 20, f"only {points} crash points")
new = target.read_bytes()
for at in range(1, points + 1):
    common.fresh("k")
    target.write_bytes(original)
    run("edit", target, *command, env=SYNC | {"MOEGRAFT_CRASH_AT": at}, expect=137)
    check(target.read_bytes() in (original, new), f"killed at point {at}: neither old nor new")
    run("edit", target, *command)
    same(target.read_bytes(), new, f"rerun after point {at}")
    same(common.leftovers(target.parent), [], f"leftovers after point {at}")

# A directory: types kept, members in order, other files and weights left alone.
model = common.fresh("model")
for p in (common.DATA / "models/donors/prose").iterdir():
    shutil.copyfile(p, model / p.name)
before = common.tree(model)
config = json.loads((model / "config.json").read_text())
run("edit", model, "--set", "max_position_embeddings=4096", "--set", "rms_norm_eps=1e-6", "--set", "note=hello", "--set", "config.flag=true",
    "--set", 'extra={"a":[1,2]}', "--set", "tokenizer_config.model_max_length=99", "--set-file", f"chat_template={template}")
edited = json.loads((model / "config.json").read_text())
same(edited, config | {"max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "note": "hello", "flag": True, "extra": {"a": [1, 2]}}, "config.json")
same(list(edited), list(config) + ["note", "flag", "extra"], "order of members")
tokenizer = json.loads((model / "tokenizer_config.json").read_text())
same((tokenizer["model_max_length"], tokenizer["chat_template"]), (99, template.read_text()), "tokenizer_config.json")
changed = {k for k, v in common.tree(model).items() if v != before.get(k)}
same(changed, {"config.json", "tokenizer_config.json"}, "files that changed")
run("edit", model, "--set", "extra.a=[3]", "--remove", "note", "--remove", "flag")
same(json.loads((model / "config.json").read_text())["extra"], {"a": [3]}, "a nested member")
run("edit", model, "--remove", "extra", "--set", f"rms_norm_eps={config['rms_norm_eps']}",
    "--set", f"max_position_embeddings={config['max_position_embeddings']}")
same(json.loads((model / "config.json").read_text()), config, "config.json there and back")
(model / "chat_template.jinja").write_text("old")
run("edit", model, "--set-file", f"chat_template={template}")
same((model / "chat_template.jinja").read_bytes(), template.read_bytes(), "chat_template.jinja")
run("edit", model, "--remove", "chat_template")
check(not (model / "chat_template.jinja").exists(), "chat_template.jinja is gone")
check("no model" in run("edit", model, "--set", "model_type=nonsense").err, "a config made unreadable is said")
points = common.count_crash_points("edit", model, "--set", "model_type=llama")
for at in range(1, points + 1):
    value = ("nonsense", "llama")[at % 2]
    run("edit", model, "--set", f"model_type={value}", env={"MOEGRAFT_CRASH_AT": at}, expect=(0, 137))
    check(json.loads((model / "config.json").read_text())["model_type"] in ("nonsense", "llama"), f"config.json after point {at}")
    run("edit", model, "--set", f"model_type={value}")
    same(json.loads((model / "config.json").read_text()), config | {"model_type": value}, f"config.json after point {at} and a rerun")
same(common.leftovers(model), [], "leftovers of a directory")

# Refusals; nothing changes.
os.symlink(gguf, work / "link.gguf")
state, files = gguf.read_bytes(), common.tree(model)
binary = work / "binary"
binary.write_bytes(b"\xff\xfe")
for code, args in [(2, [gguf]), (2, ["--set", "a=1"]), (2, [gguf, "--set", "a"]), (2, [gguf, "--set", "=1"]), (2, [gguf, "--remove", "absent"]),
                   (2, [gguf, "--set", "llama.context_length=-1"]), (2, [gguf, "--set", "llama.context_length=4294967296"]),
                   (2, [gguf, "--set", "llama.context_length=1.5"]), (2, [gguf, "--set", "llama.rope.freq_base=inf"]),
                   (2, [gguf, "--set", "llama.rope.freq_base=1e39"]), (2, [gguf, "--set", "a=u8:256"]), (2, [gguf, "--set", "a=i8:-129"]),
                   (2, [gguf, "--set", "a=bool:yes"]), (2, [gguf, "--set", "a=u32[]:[1,-1]"]), (2, [gguf, "--set", 'a=[1,"b"]']),
                   (2, [gguf, "--set", "a=[]"]), (2, [gguf, "--set", "a=u32[]:{}"]), (2, [gguf, "--set", "general.alignment=64"]),
                   (2, [gguf, "--set", "a b=1"]), (2, [gguf, "--set", "a=1", "--set", "a=2"]), (2, [gguf, "--set-file", f"a={binary}"]),
                   (5, [gguf, "--set-file", "a=absent"]), (2, [gguf, out, "--set", "a=1"]), (2, [gguf, model, "--set", "a=1"]),
                   (2, [work / "link.gguf", "--set", "a=1"]), (3, [odd, "--set", "tokenizer.ggml.tokens=[1]"]),
                   (4, [TINY / "model.safetensors", "--set", "a=1"]), (4, [model, out, "--set", "a=1"]),
                   (2, [model, "--set", "hidden_size=big"]), (2, [model, "--set", "absent.member=1"]), (2, [model, "--remove", "absent"]),
                   (2, [work, "--set", "a=1"]), (4, [binary, "--set", "a=1"]), (5, [work / "absent.gguf", "--set", "a=1"])]:
    run("edit", *args, expect=code)
same((gguf.read_bytes(), common.tree(model)), (state, files), "files after refusals")
same(common.leftovers(work), [], "partial files")
common.done()
