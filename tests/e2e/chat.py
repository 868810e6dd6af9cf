"""Conversations through tokenize and generate: where templates are found, what is refused."""
import json
import shutil

import common
from common import DATA, SAMPLES, WORK, check, run, same

GOLDEN = json.loads((DATA / "chat/chats.json").read_text())
BASE = SAMPLES / "donors/base"
TALK = GOLDEN["conversations"][2]
(WORK / "talk.json").write_text(json.dumps(TALK))


def template(format):
    return next(t for t in GOLDEN["templates"] if t["format"] == format and "text" in t)


def model(name, **config):
    """The base donor with other members of tokenizer_config.json."""
    folder = WORK / name
    shutil.copytree(BASE, folder)
    path = folder / "tokenizer_config.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**old, **config}))
    return folder


def rendered(path, *args, talk="talk.json"):
    return run("tokenize", path, "--chat", talk, "--json", *args).json()


# tokenizer_config.json, as a text and as a list; chat_template.jinja before it; a GGUF's key.
chatml, llama2 = template("chatml"), template("llama2")
one = model("one", chat_template=chatml["text"])
result = rendered(one)
same((result["text"], result["chat_format"]), (chatml["expected"][5], "chatml"), "chatml")
same(rendered(one, "--no-reply")["text"], chatml["expected"][4], "without a reply")
same(rendered(one / "tokenizer.json")["text"], chatml["expected"][5], "beside tokenizer.json")
many = model("many", chat_template=[{"name": "tool_use", "template": "{{ x }}"}, {"name": "default", "template": llama2["text"]}])
result = rendered(many)
same(result["text"], llama2["expected"][5], "the default of several")
(many / "chat_template.jinja").write_text(chatml["text"])
same(rendered(many)["text"], chatml["expected"][5], "chat_template.jinja wins")
run("convert", one, "one.gguf", "--outtype", "f16", "-q")
same(rendered(WORK / "one.gguf")["text"], chatml["expected"][5], "from the GGUF")

# Ids: the template's own BOS and no other; special tokens of the text are special.
ids = result["ids"]
same(ids, run("tokenize", BASE, "--text", llama2["expected"][5].removeprefix("<s>"), "--json").json()["ids"], "ids with the template's BOS")
same(ids[0], 1, "BOS"); same(ids[1] != 1, True, "one BOS")
same(rendered(one)["ids"][0] != 1, True, "no BOS where the template has none")
same(run("tokenize", one, "--chat", "talk.json").out.split(), [str(i) for i in rendered(one)["ids"]], "ids as words")

# A format by name, for models without a template or with an unknown one.
run("tokenize", BASE, "--chat", "talk.json", expect=4)
same(rendered(BASE, "--chat-template", "llama3")["text"], template("llama3")["expected"][5], "by name")
strange = model("strange", chat_template="{# my own #}\n{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}")
err = run("tokenize", strange, "--chat", "talk.json", expect=4).err
check("{# my own #}" in err and "--chat-template chatml" in err, err)
err = run("tokenize", strange, "--chat", "talk.json", "--chat-template", "chatlm", expect=2).err
check("did you mean 'chatml'" in err, err)

# generate writes on after the reply's opening.
out = run("generate", one, "--chat", "talk.json", "-n", "4", "--json").json()
same(out["prompt"], chatml["expected"][5], "prompt")
same(out["prompt_ids"], rendered(one)["ids"], "ids of the prompt")
same(len(out["ids"]) <= 4, True, "tokens")
# A turn also ends with a token that generation_config.json lists.
check(len(out["ids"]) > 1, "something to stop")
stopping = model("stopping", chat_template=chatml["text"])
for ends in ([7, out["ids"][1]], out["ids"][1]):
    (stopping / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    found = run("generate", stopping, "--chat", "talk.json", "-n", "4", "--json").json()["ids"]
    same(found, out["ids"][:out["ids"].index(out["ids"][1])], "ids before the end of the turn")
run("generate", one, "--chat", "talk.json", "--prompt", "x", expect=2)
run("generate", one, "--prompt", "x", "--chat-template", "chatml", expect=2)
run("generate", strange, "--chat", "talk.json", expect=4)
run("tokenize", one, "--chat", "talk.json", "--text", "x", expect=2)
run("tokenize", one, "--text", "x", "--no-reply", expect=2)

# Conversations that are none, or that nobody here can write.
for text, code, words in (("{", 3, ""), ("[]", 3, "list of messages"), ("{}", 3, "list of messages"), ("3", 3, "list of messages"),
                          ("[1]", 3, "message 1"), ('[{"content": "x"}]', 3, "role"), ('[{"role": "user"}]', 3, "content"),
                          ('[{"role": "tool", "content": "x"}]', 4, "'tool'"), ('[{"role": "user", "content": [1]}]', 4, "no text"),
                          ('[{"role": "assistant", "content": "x", "tool_calls": []}]', 4, "tool_calls")):
    (WORK / "bad.json").write_text(text)
    err = run("tokenize", one, "--chat", "bad.json", expect=code).err
    check(words in err, err)
run("tokenize", one, "--chat", "absent.json", expect=5)
(WORK / "turns.json").write_text(json.dumps([{"role": "user", "content": "a"}] * 2))
check("in turn" in run("tokenize", many, "--chat", "turns.json", "--chat-template", "llama2", expect=3).err, "roles in turn")
(WORK / "wrapped.json").write_text(json.dumps({"messages": TALK}))
same(rendered(one, talk="wrapped.json")["text"], chatml["expected"][5], "an object with messages")
common.done()
