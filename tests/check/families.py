"""Model families are named in formats/arch/ only: everything else asks the family table.

Looked at are identifiers and string literals, not comments. What may stand elsewhere is listed with its reason.
"""
import re

import tree

FAMILIES = re.compile(r"llama|mistral|mixtral|qwen|gemma|deepseek|gpt_?oss|phi3|phimoe|olmo|dbrx|jamba|arctic|cohere|falcon|granite|"
                      r"starcoder|smollm|stablelm|minicpm|internlm|baichuan|chatglm", re.I)

# Not families: programs, a layout on disk, a rotary scaling, and GGUF's word for a SentencePiece vocabulary.
ELSEWHERE = re.compile("|".join([
    r"llama\.cpp", r"llama[-_]cpp(?:[-_]python)?",
    r"llama-(?:quantize|perplexity|imatrix|cli|gguf-split|server|run)",
    r"Ollama", r"Mistral-native", r"mistral_native",
    r"(?:MG_ROPE_)?llama3\b",
]), re.I)

# file: (what may stand there, why)
ALLOWED = {
    "formats/chats.inc": (r".*", "chat formats are named after the models that brought them, templates after those that have them"),
    "formats/gguf_pre.inc": (r".*", "values of tokenizer.ggml.pre: GGUF names a text splitter after the model that brought it"),
    "convert/gguf_pre_hashes.inc": (r".*", "the same names, by the hash the converter tells them by"),
    "formats/tokenizer_spm.c": (r"""["']llama["']""", "value of tokenizer.ggml.model for SentencePiece vocabularies"),
    "convert/convert_gguf.c": (r"""["']llama["']""", "value of tokenizer.ggml.model for SentencePiece vocabularies"),
    "convert/gguf_vocab.c": (r"""["']llama["']""", "value of tokenizer.ggml.model for SentencePiece vocabularies"),
    "convert/tool_convert.c": (r"""\"mistral\"|--to mistral|gguf or mistral""", "the layout of that name"),
    "formats/tool_moegraft.c": (r"Mistral layouts", "help text: the layout --to mistral writes"),
}


def strip(path, line):
    line = ELSEWHERE.sub("", line)
    pattern, _ = ALLOWED.get(str(path), (None, None))
    return re.sub(pattern, "", line, flags=re.I) if pattern else line


count = 0
for path in tree.sources(".c", ".h", ".inc"):
    if str(path).startswith("formats/arch/"):
        continue
    for number, line in enumerate(tree.without_comments(tree.text(path)).splitlines(), 1):
        count += 1
        found = FAMILIES.search(strip(path, line))
        if found:
            tree.problem(f"{path}:{number}: '{found[0]}' in: {line.strip()}")
tree.finish(f"{count} lines name no model family")
