/* tokenizer_unigram.c - Unigram: of all ways to cut a text into pieces of the vocabulary, the one whose scores have the
 * largest sum (Viterbi). A character that no piece covers alone may also be unknown, at ten below the lowest score.
 *
 * Sums and comparisons are the tokenizers library's, in the same order: doubles, from left to right; of equal sums the
 * first found stays. SentencePiece, for its own models, keeps every sum as a float. Pieces that begin at a place are
 * found shortest first, by narrowing a range of the sorted vocabulary byte by byte, so no piece, however long, costs
 * more than what it shares with the text. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/utf8.h"
#include "formats/tokenizer_impl.h"

#define UNKNOWN_PENALTY 10.0
#define RESET_AT        100000.0f

typedef struct mg_unigram_node { /* the best way to reach a place */
    double score;
    uint32_t from, next; /* next: where the piece that begins here ends, on the best path */
    int32_t id;          /* NONE: not reached */
} mg_unigram_node;

enum { NONE = -1 };

/* ---- the sorted vocabulary ---- */

typedef struct entry {
    const mg_token *token;
    uint32_t id;
} entry;

static int by_bytes(const void *a, const void *b) {
    const mg_token *x = ((const entry *)a)->token, *y = ((const entry *)b)->token;
    const int order = memcmp(x->text, y->text, x->len < y->len ? x->len : y->len);
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

/* User-defined pieces win over their parts: a tenth for each byte but the first, where others have logarithms of
 * probabilities. SentencePiece since 0.2.3; before, most of them won (bytes times the largest score, less a tenth). */
static void favour_user_defined(mg_tokenizer *t) {
    for (uint32_t i = 0; i < t->n_pieces; i++)
        if (t->tokens[i].type == MG_TOKEN_USER_DEFINED)
            t->scores[i] = (double)(float)(0.1 * ((double)t->tokens[i].len - 1));
}

mg_status mg_unigram_finish(mg_tokenizer *t, mg_error *err) {
    uint32_t n = 0;
    double lowest = HUGE_VAL;
    if (t->sentencepiece) favour_user_defined(t);
    entry *list = malloc(((size_t)t->n_pieces + 1) * sizeof *list);
    if (!list) return mg_fail_nomem(err, t->n_pieces * sizeof *list);
    for (uint32_t i = 0; i < t->n_pieces; i++) {
        const bool normal = t->tokens[i].type == MG_TOKEN_NORMAL || !t->sentencepiece;
        if (!normal && t->tokens[i].type != MG_TOKEN_USER_DEFINED) continue;
        if (normal && t->scores[i] < lowest) lowest = t->scores[i];
        if (t->tokens[i].len > t->longest) t->longest = t->tokens[i].len;
        if (t->tokens[i].len) list[n++] = (entry){&t->tokens[i], i};
    }
    if (n) qsort(list, n, sizeof *list, by_bytes);
    mg_status s = MG_ARENA_NEW(&t->arena, &t->sorted, n + 1, err);
    for (uint32_t i = 0; i < n && !s; i++) t->sorted[i] = list[i].id;
    for (uint32_t b = 0, i = 0; b <= 256 && !s; b++) {
        while (i < n && (uint8_t)list[i].token->text[0] < b) i++;
        t->sorted_from[b] = i;
    }
    t->unknown_score = (lowest < HUGE_VAL ? lowest : 0) - UNKNOWN_PENALTY;
    if (t->sentencepiece) t->unknown_score = (double)(float)t->unknown_score;
    free(list);
    return s;
}

/* Narrow [*lo, *hi), whose pieces share `depth` bytes, to those that have c next. */
static void narrow(const mg_tokenizer *t, uint32_t *lo, uint32_t *hi, uint32_t depth, uint8_t c) {
    uint32_t a = *lo, b = *hi;
    while (a < b) { /* the first that has c or more; one that ends here has less */
        const uint32_t mid = a + (b - a) / 2;
        const mg_token *k = &t->tokens[t->sorted[mid]];
        if (k->len <= depth || (uint8_t)k->text[depth] < c)
            a = mid + 1;
        else
            b = mid;
    }
    *lo = a;
    for (b = *hi; a < b;) {
        const uint32_t mid = a + (b - a) / 2;
        if ((uint8_t)t->tokens[t->sorted[mid]].text[depth] == c)
            a = mid + 1;
        else
            b = mid;
    }
    *hi = b;
}

/* ---- the best path ---- */

static void offer(const mg_tokenizer *t, mg_unigram_node *to, double score, size_t from, int32_t id) {
    if (t->sentencepiece) score = (double)(float)score; /* a sum of two floats */
    if (to->id == NONE || score > to->score) *to = (mg_unigram_node){score, (uint32_t)from, 0, id};
}

/* SentencePiece keeps its floats small: from here to the last place reached the sum so far is taken off. */
static void rebase(const mg_tokenizer *t, mg_unigram_node *nodes, size_t n, size_t at) {
    const float offset = (float)nodes[at].score;
    if (!t->sentencepiece || (offset >= -RESET_AT && offset <= RESET_AT)) return;
    for (size_t i = at; i <= n && i <= at + t->longest; i++)
        if (i == at || nodes[i].id != NONE) nodes[i].score = (double)((float)nodes[i].score - offset);
}

/* All pieces that begin at `at`; does one of them cover the character, which has len bytes? */
static bool offer_pieces(const mg_tokenizer *t, mg_unigram_node *nodes, const char *text, size_t n, size_t at,
                         size_t len) {
    uint32_t lo = t->sorted_from[(uint8_t)text[at]], hi = t->sorted_from[(uint8_t)text[at] + 1];
    bool covered = false;
    for (uint32_t depth = 1; lo < hi; depth++) {
        const uint32_t id = t->sorted[lo];
        if (t->tokens[id].len == depth) {
            offer(t, &nodes[at + depth], t->scores[id] + nodes[at].score, at, (int32_t)id);
            covered = covered || depth == len;
        }
        if (at + depth == n) break;
        narrow(t, &lo, &hi, depth, (uint8_t)text[at + depth]);
    }
    return covered;
}

static mg_status best_path(const mg_tokenizer *t, mg_unigram_node *nodes, const char *text, size_t n, mg_error *err) {
    for (size_t i = 0; i <= n; i++) nodes[i] = (mg_unigram_node){0, 0, 0, NONE};
    for (size_t at = 0; at < n;) {
        size_t len = mg_utf8_decode((const uint8_t *)text + at, n - at, NULL);
        if (len == 0) len = 1;
        rebase(t, nodes, n, at);
        if (!offer_pieces(t, nodes, text, n, at, len)) {
            if (t->unk == NONE)
                return mg_fail(err, MG_ERR_UNSUPPORTED,
                               "tokenizer without an unknown token: '%.*s' is not in its vocabulary", (int)len,
                               text + at);
            offer(t, &nodes[at + len], t->unknown_score + nodes[at].score, at, t->unk);
        }
        at += len;
    }
    return MG_OK;
}

/* ---- pieces to ids ---- */

/* A piece of the path, or a run of unknown characters joined into one: by its text, as the library looks it up. */
static mg_status emit(const mg_tokenizer *t, const char *text, size_t n, bool unknown, mg_ids *out, mg_error *err) {
    const uint32_t id = unknown && t->sentencepiece ? MG_STRMAP_NONE : mg_strmap_get(&t->pieces, text, n);
    if (id != MG_STRMAP_NONE) return mg_ids_push(out, (int32_t)id, err);
    bool bytes = t->byte_pieces;
    for (size_t i = 0; i < n && bytes; i++) bytes = t->byte_id[(uint8_t)text[i]] >= 0;
    if (!bytes) return mg_ids_push(out, t->unk, err);
    mg_status s = MG_OK;
    for (size_t i = 0; i < n && !s; i++) s = mg_ids_push(out, t->byte_id[(uint8_t)text[i]], err);
    return s;
}

mg_status mg_unigram_word(mg_unigram *u, const mg_tokenizer *t, const char *text, size_t n, mg_ids *out,
                          mg_error *err) {
    if (n + 1 > u->cap) {
        const size_t cap = n + n / 2 + 64;
        mg_unigram_node *nodes = realloc(u->nodes, cap * sizeof *nodes);
        if (!nodes) return mg_fail_nomem(err, cap * sizeof *nodes);
        u->nodes = nodes;
        u->cap = cap;
    }
    mg_unigram_node *nodes = u->nodes;
    mg_status s = best_path(t, nodes, text, n, err);
    for (uint32_t end = (uint32_t)n; end > 0 && !s; end = nodes[end].from) nodes[nodes[end].from].next = end;
    for (uint32_t at = 0; at < n && !s;) {
        uint32_t end = nodes[at].next;
        while (nodes[end].id == t->unk && end < n && nodes[nodes[end].next].id == t->unk) end = nodes[end].next;
        s = emit(t, text + at, end - at, nodes[end].id == t->unk, out, err);
        at = end;
    }
    return s;
}

void mg_unigram_release(mg_unigram *u) {
    free(u->nodes);
    *u = (mg_unigram){0};
}
