/* tokenizer_bytes.c - the byte alphabet of byte-level BPE (GPT-2): every byte has a printable character that stands for
 * it. The bytes of "!".."~", U+00A1..U+00AC and U+00AE..U+00FF stand for themselves as characters, the other 68 are, in
 * order, the characters from U+0100. */
#include "formats/base/utf8.h"
#include "formats/tokenizer_impl.h"

const char mg_tok_gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static uint32_t char_of(uint8_t b) {
    if (b <= 0x20) return 0x100u + b;
    if (b < 0x7F) return b;
    if (b <= 0xA0) return 0x121u + (b - 0x7Fu);
    return b == 0xAD ? 0x143u : b;
}

size_t mg_tok_byte_char(uint8_t byte, char out[4]) {
    return mg_utf8_encode(char_of(byte), out);
}

int mg_tok_char_byte(uint32_t c) {
    if (c > 0x20 && c < 0x7F) return (int)c;
    if (c > 0xA0 && c <= 0xFF && c != 0xAD) return (int)c;
    if (c >= 0x100 && c <= 0x120) return (int)c - 0x100;
    if (c > 0x120 && c <= 0x142) return (int)c - 0x121 + 0x7F;
    return c == 0x143 ? 0xAD : -1;
}
