"""Tokenizer files made of a GGUF's keys: the six published vocabularies of golden/tokenizer (MOEGRAFT_SHARED), in transformers.

Expected ids are those of llama.cpp (*.out). Besides, sample texts and code: ids equal to `moegraft tokenize` on the GGUF."""
import json
import os
import pathlib
import subprocess

import gguf
import numpy as np
import transformers

from peers import SAMPLES, WORK, run

GOLDEN = pathlib.Path(os.environ["MOEGRAFT_SHARED"]) / "golden/tokenizer"
SEPARATOR = "\n__ggml_vocab_test__\n"


def model(name):
    """The vocabulary with a model of one layer and width 32 around it."""
    raw = WORK / f"{name}-vocab.gguf"
    raw.write_bytes(subprocess.run(["zstd", "-dc", GOLDEN / f"{name}.gguf.zst"], check=True, capture_output=True).stdout)
    reader, path = gguf.GGUFReader(raw), WORK / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    rows = 0
    for field in reader.fields.values():
        if not field.name.startswith("tokenizer."):
            continue
        value = field.contents()
        if field.name == "tokenizer.ggml.tokens":
            rows = len(value)
        kind = field.types[0]
        writer.add_key_value(field.name, value, kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    writer.add_block_count(1), writer.add_context_length(64), writer.add_embedding_length(32), writer.add_feed_forward_length(32)
    writer.add_head_count(1), writer.add_layer_norm_rms_eps(1e-5), writer.add_vocab_size(rows), writer.add_rope_dimension_count(32)
    shapes = {"token_embd": (rows, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        shapes[f"blk.0.{part}"] = (32, 32)
    for tensor, shape in shapes.items():
        writer.add_tensor(f"{tensor}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    return path


texts = [p.read_text() for p in sorted((SAMPLES / "text").glob("*.txt"))] + [(SAMPLES / "make_text.py").read_text()]
print("transformers", transformers.__version__)
texts.append("".join(" " * n + "x" + "\n" * n for n in range(200)))
for inputs in sorted(GOLDEN.glob("*.inp")):
    name = inputs.stem
    source, out = model(name), WORK / name
    run("convert", source, out, "-q")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    cases = inputs.read_text(encoding="utf-8").split(SEPARATOR)
    wanted = [[int(i) for i in line.split()] for line in (GOLDEN / f"{name}.out").read_text().splitlines()]
    wrong = [c for c, ids in zip(cases, wanted) if tokenizer(c, add_special_tokens=False)["input_ids"] != ids]
    assert not wrong, f"{name}: {len(wrong)} of {len(cases)}: {wrong[:3]!r}"
    for text in texts:
        (WORK / "text").write_text(text)
        ours = json.loads(run("tokenize", source, "--file", WORK / "text", "--json"))["ids"]
        assert tokenizer(text)["input_ids"] == ours == json.loads(
            run("tokenize", out, "--file", WORK / "text", "--json"))["ids"], name
    print(f"{name}: {len(cases)} cases and {sum(map(len, texts))} characters give the same ids")
