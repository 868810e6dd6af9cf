/* token_class.c - see token_class.h. */
#include "verify/token_class.h"

#include <ctype.h>
#include <stdlib.h>

const char *mg_token_class_name(mg_token_class c) {
    static const char *const names[] = {"word", "piece", "number", "punctuation", "space", "special"};
    return (unsigned)c < MG_CLASS_COUNT ? names[c] : "unknown";
}

/* Text of a token: decoded, since the stored form writes blanks and bytes in alphabets of its own. Characters beyond
 * ASCII count as letters. */
static mg_token_class class_of_text(const char *s, size_t n) {
    size_t at = 0;
    while (at < n && isspace((unsigned char)s[at])) at++;
    if (at == n) return n ? MG_CLASS_SPACE : MG_CLASS_SPECIAL;
    const unsigned char c = (unsigned char)s[at];
    if (isdigit(c)) return MG_CLASS_NUMBER;
    if (c < 0x80 && !isalpha(c)) return MG_CLASS_PUNCTUATION;
    return at ? MG_CLASS_WORD : MG_CLASS_PIECE;
}

static mg_status class_of(uint8_t *out, const mg_tokenizer *t, int32_t id, int32_t before, mg_error *err) {
    const mg_token *token = mg_tokenizer_token(t, id);
    *out = MG_CLASS_SPECIAL;
    if (!token || token->type == MG_TOKEN_CONTROL || token->type == MG_TOKEN_UNKNOWN || token->type == MG_TOKEN_UNUSED)
        return MG_OK;
    /* Decoding takes the first blank off: a token in front keeps it. */
    const int32_t both[2] = {before, id};
    char *head = NULL, *text = NULL;
    size_t n_head = 0, n = 0;
    mg_status st = mg_tokenizer_decode(t, both, 1, 0, &head, &n_head, err);
    if (st == MG_OK) st = mg_tokenizer_decode(t, both, 2, 0, &text, &n, err);
    if (st == MG_OK && n >= n_head) *out = (uint8_t)class_of_text(text + n_head, n - n_head);
    free(head);
    free(text);
    return st;
}

/* A token of one plain letter or sign to stand in front. */
static int32_t plain_token(const mg_tokenizer *t) {
    static const char *const tries[] = {"a", "e", "s", ".", "0"};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        const int32_t id = mg_tokenizer_find(t, tries[i]);
        if (id >= 0) return id;
    }
    return 0;
}

mg_status mg_token_classes(uint8_t **out, uint64_t n, const mg_tokenizer *t, mg_error *err) {
    const uint64_t known = mg_tokenizer_size(t);
    const int32_t before = plain_token(t);
    uint8_t *c = malloc(n ? n : 1);
    if (!c) return mg_fail_nomem(err, n);
    mg_status st = MG_OK;
    for (uint64_t i = 0; st == MG_OK && i < n; i++) {
        c[i] = MG_CLASS_SPECIAL;
        if (i < known) st = class_of(&c[i], t, (int32_t)i, before, err);
    }
    if (st == MG_OK)
        *out = c;
    else
        free(c);
    return st;
}
