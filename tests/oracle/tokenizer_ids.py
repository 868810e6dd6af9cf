"""Token ids against the tokenizers library on the sample texts, from tokenizer.json and from a GGUF."""
import json

import tokenizers

from peers import SAMPLES, WORK, run

base = SAMPLES / "donors/base"
reference = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
run("convert", base, WORK / "base.gguf", "-q")
for path in sorted((SAMPLES / "text").glob("*.txt")):
    want = reference.encode(path.read_text(), add_special_tokens=False).ids
    for source in (base, WORK / "base.gguf"):
        found = json.loads(run("tokenize", source, "--file", path, "--no-special", "--json"))["ids"]
        assert found == want, f"{path.name} from {source.name}"
    print(f"{path.name}: {len(want)} ids equal")
