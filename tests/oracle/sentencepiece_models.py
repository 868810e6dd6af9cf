"""Token ids of SentencePiece unigram models (tokenizer.model) against the sentencepiece library: five models of different settings, trained
here, on a megabyte of mixed text, as one text and line by line."""
import json

import sentencepiece

from mixed_text import text
from peers import WORK, run

body = text()
lines = body[:100000].split("\n")
kinds = {
    "default": {},
    "identity": dict(normalization_rule_name="identity", remove_extra_whitespaces=False),
    "casefold": dict(normalization_rule_name="nfkc_cf", add_dummy_prefix=False),
    "bytes": dict(byte_fallback=True, normalization_rule_name="nmt_nfkc_cf"),
    "nfkc": dict(normalization_rule_name="nfkc", split_by_whitespace=False, split_digits=True),
}
(WORK / "mixed.txt").write_bytes(body.encode())
for name, settings in kinds.items():
    folder = WORK / name
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_prefix=str(folder / "tokenizer"), vocab_size=1500,
                                             model_type="unigram", hard_vocab_limit=False, minloglevel=2, **settings)
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    total = 0
    for piece in (body, *[l for l in body.split("\n")[:3000:60]]):
        (WORK / "piece.txt").write_bytes(piece.encode())
        want = model.encode(piece)
        found = json.loads(run("tokenize", folder / "tokenizer.model", "--file", WORK / "piece.txt", "--no-special", "--json"))["ids"]
        if found != want:
            at = next(i for i, (a, b) in enumerate(zip(found + [None], want + [None])) if a != b)
            raise AssertionError(f"{name}: at {at} of {len(want)}: ours {[model.id_to_piece(k) for k in found[max(0, at - 6):at + 6]]}, "
                                 f"theirs {[model.id_to_piece(k) for k in want[max(0, at - 6):at + 6]]}")
        total += len(want)
    print(f"{name}: {total} ids equal", flush=True)
