"""Token ids against the tokenizers library: twenty-three tokenizer.json of different construction, trained here, on a megabyte of mixed
text (60 blocks of Unicode, emoji, code, combining marks in disorder, long runs). The library takes no bytes that are not UTF-8; between
them it gets the pieces, and each run of them must give byte tokens or the unknown token."""
import base64
import json
import random
import sys

import sentencepiece

from tokenizers import AddedToken, Regex, Tokenizer, decoders as D, models, normalizers as N
from tokenizers import pre_tokenizers as P, processors, trainers

from mixed_text import text
from peers import WORK, run as run_tool


CON="(?i:'s|'t|'re|'ve|'m|'ll|'d)"
L3=CON+r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
Q2=L3.replace(r"\p{N}{1,3}",r"\p{N}")
UP=r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]";LO=r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]";PRE=r"[^\r\n\p{L}\p{N}]?"
O2=PRE+UP+"*"+LO+"+"+CON+"?|"+PRE+UP+"+"+LO+"*"+CON+r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPH=UP[:-1]+r"&&[^\p{Han}]]";LOH=LO[:-1]+r"&&[^\p{Han}]]"
K2=r"[\p{Han}]+|"+PRE+UPH+"*"+LOH+"+"+CON+"?|"+PRE+UPH+"+"+LOH+"*"+CON+r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DS3=[r"\p{N}{1,3}","[一-龥぀-ゟ゠-ヿ]+","[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]
iso=lambda r:P.Split(Regex(r),"isolated")
BL=lambda pre=False,rx=False:P.ByteLevel(add_prefix_space=pre,use_regex=rx)
seq=P.Sequence
DSL=[r"[\r\n]",r"\s?\p{L}+",r"\s?\p{P}+","[一-龥ࠀ-一가-퟿]+"]
specs={
 "gpt2":dict(pre=BL(False,True)),
 "gpt2_prefix":dict(pre=BL(True,True)),
 "llama3":dict(pre=seq([iso(L3),BL()]),ignore=True,bos=True),
 "qwen2":dict(norm=N.NFC(),pre=seq([iso(Q2),BL()])),
 "o200k":dict(pre=seq([iso(O2),BL()])),
 "kimi":dict(pre=seq([iso(K2),BL()])),
 "deepseek":dict(norm=N.Sequence([]),pre=seq([iso(r) for r in DSL]+[P.Digits(True),BL()]),bos=True),
 "deepseek3":dict(pre=seq([iso(r) for r in DS3]+[BL()])),
 "falcon":dict(pre=seq([P.Punctuation("contiguous"),BL(False,True),P.Digits(False),P.Split(Regex("[0-9][0-9][0-9]"),"isolated")])),
 "starcoder":dict(pre=seq([P.Digits(True),BL(False,True)])),
 "metaspace":dict(pre=P.Metaspace(prepend_scheme="first",split=True),dec=D.Metaspace(prepend_scheme="first"),bytefb=True,chars=True),
 "nfkc_lower":dict(norm=N.Sequence([N.NFKC(),N.Lowercase(),N.Strip()]),pre=seq([P.WhitespaceSplit(),P.Punctuation(),BL(False,False)])),
 "whitespace":dict(norm=N.Sequence([N.NFD(),N.Replace(Regex(r" {2,}")," "),N.Replace("ab","ba")]),pre=seq([P.Whitespace(),BL(False,False)])),
 "merged_prev":dict(norm=N.NFKD(),pre=seq([P.Split(" ","merged_with_previous"),P.Split(Regex(r"[.,!?]"),"merged_with_next"),P.Split(Regex(r"\d|x*"),"contiguous"),BL(False,False)])),
 "meta_digits":dict(pre=seq([P.Metaspace(prepend_scheme="always",split=True),P.Digits(True)]),dec=D.Metaspace(),bytefb=True,chars=True),
 "bloom":dict(pre=seq([P.Split(Regex(r" ?[^(\s|[.,!?…。，、।۔،])]+"),"isolated"),BL()])),
}



def charsmap():
    """SentencePiece's own table (nmt_nfkc), out of a model trained here: fields 3.2 of its protobuf."""
    prefix = WORK / "spm"
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(body[:20000].split("\n")), model_prefix=str(prefix), vocab_size=300,
                                             model_type="unigram", hard_vocab_limit=False, minloglevel=2)

    def fields(b):
        at = 0

        def varint():
            nonlocal at
            v = shift = 0
            while True:
                c = b[at]
                at += 1
                v |= (c & 127) << shift
                shift += 7
                if c < 128:
                    return v
        while at < len(b):
            key = varint()
            if key & 7 == 2:
                n = varint()
                yield key >> 3, b[at:at + n]
                at += n
            elif key & 7 == 0:
                varint()
            else:
                at += {1: 8, 5: 4}[key & 7]

    normalizer = dict(fields((WORK / "spm.model").read_bytes()))[3]
    return dict(fields(normalizer))[2]


def unigrams():
    table = N.Precompiled(charsmap())
    meta = P.Metaspace(prepend_scheme="always", split=True)
    dec = D.Metaspace(prepend_scheme="always")
    return {
        "t5": dict(norm=table, pre=seq([P.WhitespaceSplit(), meta]), dec=dec, eos=True),
        "xlmr": dict(norm=N.Sequence([table, N.Replace(Regex(" {2,}"), " ")]), pre=meta, dec=dec, bos=True, eos=True),
        "roberta_ends": dict(norm=N.Sequence([N.Replace("``", '"'), N.Replace("''", '"'), N.NFKD(), N.Lowercase(), table]), pre=meta, dec=dec, roberta=True),
        "unigram_bytes": dict(pre=P.Metaspace(prepend_scheme="first", split=False), dec=D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse()]),
                              bytefb=True),
        "nmt": dict(norm=N.Sequence([N.Nmt(), N.NFKC(), N.Replace(Regex(" {2,}"), " ")]), pre=meta, dec=dec),
        "unigram_byte_level": dict(pre=seq([P.Punctuation(), BL(False, False)]), dec=D.ByteLevel()),
        "unigram_words": dict(norm=N.Strip(), pre=seq([P.Digits(True), meta]), dec=dec),
    }


def build_unigram(sp, chunks):
    fallback = bool(sp.get("bytefb"))
    t = Tokenizer(models.Unigram())
    if "norm" in sp:
        t.normalizer = sp["norm"]
    t.pre_tokenizer = sp["pre"]
    t.decoder = sp["dec"]
    special = ["<pad>", "</s>", "<unk>", "<s>"] + (["<0x%02X>" % i for i in range(256)] if fallback else [])
    t.train_from_iterator(chunks, trainers.UnigramTrainer(vocab_size=2000, special_tokens=special, unk_token="<unk>", show_progress=False))
    t.add_tokens([AddedToken("<tool>", normalized=False, special=False), AddedToken("foo", single_word=True, normalized=True),
                  AddedToken("<l>", lstrip=True, normalized=False), AddedToken("<r>", rstrip=True, normalized=False)])
    if sp.get("roberta"):
        t.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 3))
    elif sp.get("bos") or sp.get("eos"):
        t.post_processor = processors.TemplateProcessing(single=("<s> " if sp.get("bos") else "") + "$A" + (" </s>" if sp.get("eos") else ""),
                                                         pair=None, special_tokens=[("<s>", 3), ("</s>", 1)])
    j = json.loads(t.to_str())
    j["model"]["byte_fallback"] = fallback
    j["added_tokens"] = [a for a in j["added_tokens"] if not a["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(j))


EXTRA = "foo food foo, 'foo' xfoo foo_ fooé é<l> a  <l>b <r>  c<r>\n\nd<tool><|bos|> ²foo foo²\u200dfoo    "


def build(sp, chunks):
    chars, fallback = bool(sp.get("chars")), bool(sp.get("bytefb"))
    t = Tokenizer(models.BPE(byte_fallback=fallback, ignore_merges=bool(sp.get("ignore")), fuse_unk=fallback,
                             unk_token="<unk>" if fallback else None))
    if "norm" in sp:
        t.normalizer = sp["norm"]
    t.pre_tokenizer = sp["pre"]
    t.decoder = sp.get("dec") or D.ByteLevel()
    special = ["<|bos|>", "<|eos|>"] + (["<unk>"] + ["<0x%02X>" % i for i in range(256)] if fallback else [])
    t.train_from_iterator(chunks, trainers.BpeTrainer(
        vocab_size=1500, special_tokens=special, initial_alphabet=[] if chars else P.ByteLevel.alphabet(),
        show_progress=False, limit_alphabet=600))
    t.add_tokens([AddedToken("<tool>", normalized=False, special=False),
                  AddedToken("foo", single_word=True, normalized=True),
                  AddedToken("<l>", lstrip=True, normalized=False), AddedToken("<r>", rstrip=True, normalized=False),
                  AddedToken("   ", normalized=False)])
    if sp.get("bos"):
        t.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<|bos|> $A", pair="<|bos|> $A <|bos|> $B",
                                          special_tokens=[("<|bos|>", 0)])])
    if fallback:  # byte tokens belong to the vocabulary, not to what is looked for in the text
        j = json.loads(t.to_str())
        j["added_tokens"] = [a for a in j["added_tokens"] if not a["content"].startswith("<0x")]
        t = Tokenizer.from_str(json.dumps(j))
    return t


# Bytes that are not UTF-8, between pieces of text: each run is one word that goes past all steps.
BROKEN = [b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\x80\xbf\xfe", b"\xed\xa0\x80", b"\xc0\xaf"]
ALPHABET = {b: c for b, c in zip(range(256), [chr(b) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174 else None for b in range(256)])}
ALPHABET |= {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if ALPHABET[b] is None)}


def run_ids(tokenizer, run):
    j = json.loads(tokenizer.to_str())
    if "ByteLevel" in json.dumps(j["pre_tokenizer"]):
        return [k.id for k in tokenizer.model.tokenize("".join(ALPHABET[b] for b in run))]
    if j["model"].get("byte_fallback"):
        return [tokenizer.token_to_id(f"<0x{b:02X}>") for b in run]
    return [tokenizer.token_to_id("<unk>")]


def with_broken_bytes(name, tokenizer, path):
    if name in ("metaspace", "unigram_bytes"):  # "first" means something else in a text of pieces
        return 0
    r, raw, want = random.Random(9), b"", []
    for i in range(0, len(body), 4000):
        piece, run = body[i:i + 400], r.choice(BROKEN)
        raw += piece.encode() + run
        want += tokenizer.encode(piece, add_special_tokens=False).ids + run_ids(tokenizer, run)
    ends = tokenizer.encode("", add_special_tokens=True)
    (WORK / "broken.txt").write_bytes(raw)
    found = json.loads(run_tool("tokenize", path, "--file", WORK / "broken.txt", "--json"))["ids"]
    ends = [k for k in ends.ids if k not in tokenizer.encode("", add_special_tokens=False).ids]
    bos = ends[:1] if found[:1] == ends[:1] else []
    eos = ends[-1:] if len(ends) > len(bos) else []
    want = bos + want + eos
    if found != want:
        at = next(i for i, (a, b) in enumerate(zip(found + [None], want + [None])) if a != b)
        raise AssertionError(f"{name}, broken bytes: first difference at {at}: {found[at - 3:at + 5]} {want[at - 3:at + 5]}")
    return len(body) // 4000 + 1


body = text()
mixed = WORK / "mixed.txt"
mixed.write_bytes((EXTRA + body).encode())
chunks = [body[i:i + 2000] for i in range(0, len(body), 6000)]
tokenizers = {name: build(spec, chunks) for name, spec in specs.items()}
tokenizers |= {name: build_unigram(spec, [body[i:i + 2000] for i in range(0, 100000, 1000)]) for name, spec in unigrams().items()}
only = sys.argv[2:]
for name, tokenizer in tokenizers.items():
    if only and name not in only:
        continue
    path = WORK / f"{name}.json"
    tokenizer.save(str(path), pretty=False)
    want = tokenizer.encode(EXTRA + body).ids
    found = json.loads(run_tool("tokenize", path, "--file", mixed, "--json"))["ids"]
    if found != want:
        at = next(i for i, (a, b) in enumerate(zip(found + [None], want + [None])) if a != b)
        pieces = [[tokenizer.id_to_token(k) for k in ids[max(0, at - 5):at + 6]] for ids in (found, want)]
        raise AssertionError(f"{name}: first difference at {at} of {len(want)}: ours {pieces[0]}, theirs {pieces[1]}")
    runs = with_broken_bytes(name, tokenizer, path)
    print(f"{name}: {len(want)} ids equal, and {runs} runs of bytes that are no UTF-8", flush=True)
