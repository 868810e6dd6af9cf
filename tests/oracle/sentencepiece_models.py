"""Token ids of SentencePiece models (tokenizer.model), unigram and BPE, against the sentencepiece library: models of different settings, trained
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
    "user": dict(user_defined_symbols=["(", ")", "\uff21", "<sep>", "in "]),
    "user-identity": dict(normalization_rule_name="identity", remove_extra_whitespaces=False, user_defined_symbols=["\n", "the", "\u2581\u2581"]),
}
(WORK / "mixed.txt").write_bytes(body.encode())
EXTRA = ["", " ", "   ", "  (a) \uff21 b<sep>  c ", "\uff21\uff22\ufb01\u3000x", "a (b )", "\u2581x\u2581", "in in  in", "\u00a0\u200b\t.", "e\u0301\u0300 \u1100\u1161"]
for name, kind, settings in [(f"{kind}-{name}", kind, settings) for kind in ("unigram", "bpe") for name, settings in kinds.items()]:
    folder = WORK / name
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_prefix=str(folder / "tokenizer"), vocab_size=1500,
                                             model_type=kind, hard_vocab_limit=kind == "bpe", minloglevel=2, **settings)
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    total = 0
    for piece in (body, *EXTRA, *[l for l in body.split("\n")[:3000:60]]):
        (WORK / "piece.txt").write_bytes(piece.encode())
        want = model.encode(piece)
        found = json.loads(run("tokenize", folder / "tokenizer.model", "--file", WORK / "piece.txt", "--no-special", "--json"))["ids"]
        if found != want:
            at = next(i for i, (a, b) in enumerate(zip(found + [None], want + [None])) if a != b)
            raise AssertionError(f"{name}: at {at} of {len(want)}: ours {[model.id_to_piece(k) for k in found[max(0, at - 6):at + 6]]}, "
                                 f"theirs {[model.id_to_piece(k) for k in want[max(0, at - 6):at + 6]]}")
        total += len(want)
    print(f"{name}: {total} ids equal", flush=True)
