/* tokenizer_bpe.c - byte-pair merging with a heap: n log n in the length of a word, whatever the text.
 *
 * The text starts as a list of symbols, one per character. The best candidate pair is merged until none is left. Best
 * is the highest score of the merged piece (SentencePiece) or the lowest rank of the pair (tokenizer.json), then the
 * leftmost. Candidates that a merge made stale stay in the heap and are recognised by their size: the length of the
 * pair when it was entered. Symbols only grow, so an equal length means the same two symbols. */
#include <stdlib.h>
#include <string.h>

#include "formats/base/utf8.h"
#include "formats/tokenizer_impl.h"

enum { NONE = -1 };

typedef struct mg_bpe_symbol {
    uint32_t at, len;   /* bytes of the text; len 0: merged into its left neighbour */
    int32_t prev, next; /* NONE at the ends */
    int32_t id;         /* token, or NONE: not in the vocabulary */
} mg_bpe_symbol;

typedef struct mg_bpe_entry {
    uint64_t key;  /* order of preference << 32 | left symbol: least first */
    uint32_t size; /* bytes of the pair */
    int32_t id;    /* what it becomes */
} mg_bpe_entry;

void mg_bpe_release(mg_bpe *b) {
    free(b->symbols);
    free(b->heap);
    free(b->cache);
    mg_unigram_release(&b->unigram);
    *b = (mg_bpe){0};
}

static mg_status grow(void **data, size_t *cap, size_t need, size_t size, mg_error *err) {
    if (need <= *cap) return MG_OK;
    size_t to = need + need / 2 + 64;
    void *p = realloc(*data, to * size);
    if (!p) return mg_fail_nomem(err, to * size);
    *data = p;
    *cap = to;
    return MG_OK;
}

/* ---- heap ---- */

static mg_status heap_push(mg_bpe *b, mg_bpe_entry e, mg_error *err) {
    mg_status s = grow((void **)&b->heap, &b->cap_heap, b->n_heap + 1, sizeof *b->heap, err);
    if (s) return s;
    size_t i = b->n_heap++;
    while (i > 0 && b->heap[(i - 1) / 2].key > e.key) {
        b->heap[i] = b->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    b->heap[i] = e;
    return MG_OK;
}

static mg_bpe_entry heap_pop(mg_bpe *b) {
    mg_bpe_entry top = b->heap[0], last = b->heap[--b->n_heap];
    size_t i = 0, n = b->n_heap;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && b->heap[child + 1].key < b->heap[child].key) child++;
        if (b->heap[child].key >= last.key) break;
        b->heap[i] = b->heap[child];
    }
    b->heap[i] = last;
    return top;
}

/* ---- merging ---- */

/* Floats in reverse order as integers, so that the highest score comes first; -0 and +0 are equal. */
static uint32_t score_order(float score) {
    uint32_t u;
    score += 0.0f;
    memcpy(&u, &score, sizeof u);
    return u & 0x80000000u ? u : ~(u | 0x80000000u);
}

/* Enter the pair that begins with symbol i, if it may be merged. */
static mg_status consider(mg_bpe *b, const mg_tokenizer *t, const char *text, int32_t i, mg_error *err) {
    if (i == NONE || b->symbols[i].next == NONE) return MG_OK;
    const mg_bpe_symbol *l = &b->symbols[i], *r = &b->symbols[l->next];
    uint32_t size = l->len + r->len, order;
    int32_t id;
    if (t->by_rank) {
        if (l->id == NONE || r->id == NONE) return MG_OK;
        mg_tok_merge pair = {l->id, r->id};
        order = mg_strmap_get(&t->pair, (const char *)&pair, sizeof pair);
        if (order == MG_STRMAP_NONE) return MG_OK;
        id = t->merged[order];
    } else {
        uint32_t found = mg_strmap_get(&t->pieces, text + l->at, size);
        if (found == MG_STRMAP_NONE) return MG_OK;
        id = (int32_t)found;
        order = score_order(t->tokens[id].score);
    }
    return heap_push(b, (mg_bpe_entry){(uint64_t)order << 32 | (uint32_t)i, size, id}, err);
}

static mg_status merge_all(mg_bpe *b, const mg_tokenizer *t, const char *text, mg_error *err) {
    mg_status s = MG_OK;
    b->n_heap = 0;
    for (size_t i = 0; i + 1 < b->n_symbols && !s; i++) s = consider(b, t, text, (int32_t)i, err);
    while (b->n_heap > 0 && !s) {
        mg_bpe_entry e = heap_pop(b);
        int32_t i = (int32_t)(uint32_t)e.key;
        mg_bpe_symbol *l = &b->symbols[i];
        if (l->len == 0 || l->next == NONE) continue;
        mg_bpe_symbol *r = &b->symbols[l->next];
        if (l->len + r->len != e.size) continue;
        l->len = e.size;
        l->id = e.id;
        l->next = r->next;
        r->len = 0;
        if (l->next != NONE) b->symbols[l->next].prev = i;
        s = consider(b, t, text, l->prev, err);
        if (!s) s = consider(b, t, text, i, err);
    }
    return s;
}

/* ---- symbols in and out ---- */

static mg_status add_symbol(mg_bpe *b, uint32_t at, uint32_t len, int32_t id, mg_error *err) {
    mg_status s = grow((void **)&b->symbols, &b->cap_symbols, b->n_symbols + 1, sizeof *b->symbols, err);
    if (s) return s;
    int32_t i = (int32_t)b->n_symbols++;
    if (i > 0) b->symbols[i - 1].next = i;
    b->symbols[i] = (mg_bpe_symbol){at, len, i - 1, NONE, id};
    return MG_OK;
}

/* A character the vocabulary lacks. By score its bytes are looked up at the end; by rank they are symbols from the
 * start and may take part in merges. Without byte tokens it is unknown, a run of them one token where the model fuses.
 */
static mg_status add_unknown(mg_bpe *b, const mg_tokenizer *t, const char *text, uint32_t at, uint32_t len,
                             mg_error *err) {
    if (t->by_rank && t->byte_fallback) {
        mg_status s = MG_OK;
        for (uint32_t i = 0; i < len && !s; i++) s = add_symbol(b, at + i, 1, t->byte_id[(uint8_t)text[at + i]], err);
        return s;
    }
    if (t->by_rank && t->unk == NONE) return MG_OK; /* the library leaves it out; its neighbours may merge */
    mg_bpe_symbol *last = b->n_symbols ? &b->symbols[b->n_symbols - 1] : NULL;
    if (t->by_rank && t->fuse_unk && last && last->id == t->unk && t->unk != NONE) {
        last->len += len;
        return MG_OK;
    }
    return add_symbol(b, at, len, t->by_rank ? t->unk : NONE, err);
}

static mg_status load(mg_bpe *b, const mg_tokenizer *t, const char *text, size_t n, mg_error *err) {
    b->n_symbols = 0;
    mg_status s = MG_OK;
    for (size_t at = 0; at < n && !s;) {
        size_t len = mg_utf8_decode((const uint8_t *)text + at, n - at, NULL);
        if (len == 0) len = 1;
        uint32_t id = mg_strmap_get(&t->pieces, text + at, len);
        if (id != MG_STRMAP_NONE)
            s = add_symbol(b, (uint32_t)at, (uint32_t)len, (int32_t)id, err);
        else
            s = add_unknown(b, t, text, (uint32_t)at, (uint32_t)len, err);
        at += len;
    }
    return s;
}

static mg_status emit(const mg_bpe *b, const mg_tokenizer *t, const char *text, mg_ids *out, mg_error *err) {
    mg_status s = MG_OK;
    bool was_unknown = false;
    for (int32_t i = 0; i != NONE && !s; i = b->symbols[i].next) {
        const mg_bpe_symbol *y = &b->symbols[i];
        bool unknown = y->id == NONE && !t->byte_fallback;
        if (y->id != NONE) {
            s = mg_ids_push(out, y->id, err);
        } else if (!unknown) {
            for (uint32_t k = 0; k < y->len && !s; k++) s = mg_ids_push(out, t->byte_id[(uint8_t)text[y->at + k]], err);
        } else if (t->unk != NONE && !was_unknown) { /* SentencePiece joins a run of unknown characters */
            s = mg_ids_push(out, t->unk, err);
        }
        was_unknown = unknown;
    }
    return s;
}

/* ---- words seen before ----
 * Texts repeat their words. A table of fixed size, one place for each hash, so that neither its memory nor a search can
 * grow; a word that shares its place with another one takes it over. */

enum { CACHE_PLACES = 4096, CACHE_TEXT = 27, CACHE_IDS = 8 };

struct mg_bpe_known {
    uint8_t len, n_ids; /* len 0: free */
    char text[CACHE_TEXT];
    int32_t ids[CACHE_IDS];
};

static struct mg_bpe_known *place_of(mg_bpe *b, const char *text, size_t n) {
    uint32_t h = 2166136261u; /* FNV-1a: a collision costs time only, and no more than a cache less */
    if (n > CACHE_TEXT) return NULL;
    if (!b->cache) b->cache = calloc(CACHE_PLACES, sizeof *b->cache); /* without memory: without cache */
    if (!b->cache) return NULL;
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)text[i]) * 16777619u;
    return &b->cache[(h ^ h >> 15) % CACHE_PLACES];
}

static void remember(struct mg_bpe_known *k, const char *text, size_t n, const int32_t *ids, size_t n_ids) {
    if (n_ids > CACHE_IDS) return;
    k->len = (uint8_t)n;
    k->n_ids = (uint8_t)n_ids;
    memcpy(k->text, text, n);
    if (n_ids) memcpy(k->ids, ids, n_ids * sizeof *ids);
}

static mg_status merge_word(mg_bpe *b, const mg_tokenizer *t, const char *text, size_t n, mg_ids *out, mg_error *err) {
    if (t->unigram) return mg_unigram_word(&b->unigram, t, text, n, out, err);
    if (t->ignore_merges) {
        uint32_t id = mg_strmap_get(&t->pieces, text, n);
        if (id != MG_STRMAP_NONE) return mg_ids_push(out, (int32_t)id, err);
    }
    mg_status s = load(b, t, text, n, err);
    if (!s) s = merge_all(b, t, text, err);
    return s || b->n_symbols == 0 ? s : emit(b, t, text, out, err);
}

static mg_status one_word(mg_bpe *b, const mg_tokenizer *t, const char *text, size_t n, mg_ids *out, mg_error *err) {
    struct mg_bpe_known *k = place_of(b, text, n);
    if (!k) return merge_word(b, t, text, n, out, err);
    mg_status s = MG_OK;
    if (k->len == n && memcmp(k->text, text, n) == 0) {
        for (unsigned i = 0; i < k->n_ids && !s; i++) s = mg_ids_push(out, k->ids[i], err);
        return s;
    }
    size_t before = out->n;
    s = merge_word(b, t, text, n, out, err);
    if (!s) remember(k, text, n, out->ids + before, out->n - before);
    return s;
}

static bool mark_at(const char *text, size_t n, size_t at) {
    return n - at >= 3 && memcmp(text + at, MG_SPACE_MARK, 3) == 0;
}

mg_status mg_bpe_text(mg_bpe *b, const mg_tokenizer *t, const char *text, size_t n, mg_ids *out, mg_error *err) {
    if (n >= INT32_MAX)
        return mg_fail(err, MG_ERR_LIMIT, "text of %zu bytes after normalization", n); /* symbol indices */
    if (n > 0 && t->byte_level) return one_word(b, t, text, n, out, err);
    size_t begin = 0;
    if (t->words || t->split_marks)
        for (size_t at = 1; at < n; at++) {
            if (!mark_at(text, n, at)) continue;
            bool after_mark = at >= 3 && at - 3 >= begin && mark_at(text, n, at - 3);
            if (after_mark && !t->split_marks) continue;
            mg_status s = one_word(b, t, text + begin, at - begin, out, err);
            if (s) return s;
            begin = at;
        }
    return begin < n ? one_word(b, t, text + begin, n - begin, out, err) : MG_OK;
}
