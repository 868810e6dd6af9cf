/* recorded.c - see recorded.h. */
#include "verify/recorded.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/checkpoint.h"
#include "quant/codec.h"
#include "verify/fbuf.h"
#include "verify/kldbase.h"
#include "verify/recorded_top.h"

struct mg_recorded {
    mg_rows_kind kind;
    mg_windows own; /* what it was recorded on; first: the first position that is there */
    uint64_t vocab;
    mg_kldbase base;     /* of MG_ROWS_BASE */
    mg_checkpoint *ckpt; /* of MG_ROWS_LOGITS */
    uint32_t logits;
    mg_recorded_top *top; /* of MG_ROWS_TOP */
    mg_fbuf rows;
    uint8_t *raw; /* one stored row of logits that are not float32 */
};

static bool ends_with(const char *path, const char *suffix) {
    const size_t n = strlen(path), k = strlen(suffix);
    return n > k && !strcmp(path + n - k, suffix);
}

static bool has_logits(const char *path) {
    mg_checkpoint *c;
    mg_error unused = {0};
    if (mg_checkpoint_open(&c, path, &unused) != MG_OK) return false;
    const bool found = mg_checkpoint_find(c, "logits") != MG_STRMAP_NONE;
    mg_checkpoint_free(c);
    return found;
}

bool mg_path_is_recorded(const char *path) {
    mg_file f;
    mg_error unused = {0};
    char magic[8] = {0};
    if (mg_path_is_dir(path) || mg_file_open(&f, path, &unused) != MG_OK) return false;
    if (f.size >= sizeof magic && mg_file_read(&f, 0, magic, sizeof magic, &unused) != MG_OK) magic[0] = 0;
    mg_file_close(&f);
    if (!memcmp(magic, "_logits_", sizeof magic) || ends_with(path, ".jsonl")) return true;
    return ends_with(path, ".safetensors") && has_logits(path);
}

/* ---- opening ---- */

static mg_status open_base(mg_recorded *r, const char *path, mg_error *err) {
    MG_TRY(mg_kldbase_open(&r->base, path, err));
    r->vocab = r->base.vocab;
    return mg_windows_add_text(&r->own, r->base.tokens, r->base.ctx * r->base.chunks, r->base.ctx, -1, err);
}

static mg_status open_logits(mg_recorded *r, const char *path, mg_error *err) {
    MG_TRY(mg_checkpoint_open(&r->ckpt, path, err));
    r->logits = mg_checkpoint_find(r->ckpt, "logits");
    if (mg_checkpoint_find(r->ckpt, "input_ids") == MG_STRMAP_NONE)
        return mg_fail(err, MG_ERR_FORMAT,
                       "no tensor 'input_ids' [batch, n] beside 'logits': of which tokens is unknown");
    MG_TRY(mg_windows_add_token_file(&r->own, path, err));
    const mg_tensor *t = &r->ckpt->tensors[r->logits];
    const bool real = t->dtype == MG_F32 || t->dtype == MG_F64 || t->dtype == MG_F16 || t->dtype == MG_BF16;
    const uint64_t n = r->own.n ? r->own.items[0].len : 0;
    if (!real || t->rank != 3 || t->shape[0] != r->own.n || t->shape[1] != n || !t->shape[2] || !n)
        return mg_fail(err, MG_ERR_FORMAT, "'logits' is not [%llu, %llu, vocab] of a float type, as 'input_ids' asks",
                       (unsigned long long)r->own.n, (unsigned long long)n);
    r->vocab = t->shape[2];
    r->raw = t->dtype == MG_F32 ? NULL : malloc(t->n_bytes / (r->own.n * n));
    return t->dtype == MG_F32 || r->raw ? MG_OK : mg_fail_nomem(err, t->n_bytes / (r->own.n * n));
}

static mg_status check_ids(const mg_recorded *r, mg_error *err) {
    for (uint64_t i = 0; r->vocab && i < r->own.n_ids; i++)
        if (r->own.ids[i] < 0 || (uint64_t)r->own.ids[i] >= r->vocab)
            return mg_fail(err, MG_ERR_FORMAT, "token id %d, its rows have %llu", r->own.ids[i],
                           (unsigned long long)r->vocab);
    return MG_OK;
}

static mg_status open_kind(mg_recorded *r, const char *path, mg_error *err) {
    if (ends_with(path, ".jsonl")) {
        r->kind = MG_ROWS_TOP;
        return mg_recorded_top_open(&r->top, path, &r->own, err);
    }
    if (ends_with(path, ".safetensors")) {
        r->kind = MG_ROWS_LOGITS;
        return open_logits(r, path, err);
    }
    r->kind = MG_ROWS_BASE;
    return open_base(r, path, err);
}

mg_status mg_recorded_open(mg_recorded **out, const char *path, mg_error *err) {
    mg_recorded *r = calloc(1, sizeof *r);
    if (!r) return mg_fail_nomem(err, sizeof *r);
    mg_windows_init(&r->own);
    mg_status st = open_kind(r, path, err);
    if (st == MG_OK) st = check_ids(r, err);
    if (st == MG_OK) {
        *out = r;
        return MG_OK;
    }
    mg_error_at(err, path, NULL);
    mg_recorded_free(r);
    return st;
}

void mg_recorded_free(mg_recorded *r) {
    if (!r) return;
    mg_kldbase_release(&r->base);
    mg_checkpoint_free(r->ckpt);
    mg_recorded_top_free(r->top);
    mg_windows_release(&r->own);
    mg_fbuf_release(&r->rows);
    free(r->raw);
    free(r);
}

/* ---- what it is of ---- */

mg_rows_kind mg_recorded_kind(const mg_recorded *r) {
    return r->kind;
}

const char *mg_recorded_kind_name(mg_rows_kind kind) {
    return kind == MG_ROWS_BASE ? "base_file" : kind == MG_ROWS_TOP ? "top_logprobs" : "logits";
}

uint64_t mg_recorded_vocab(const mg_recorded *r) {
    return r->vocab;
}

mg_status mg_recorded_windows(const mg_recorded *r, int64_t bos, mg_windows *w, mg_error *err) {
    if (r->kind == MG_ROWS_BASE) return mg_windows_add_text(w, r->own.ids, r->own.n_ids, r->base.ctx, bos, err);
    for (uint64_t i = 0; i < r->own.n; i++) {
        const mg_window *o = &r->own.items[i];
        MG_TRY(mg_windows_add_scored(w, r->own.ids + o->at, o->len, o->first, err));
    }
    return MG_OK;
}

static mg_status check_window(const mg_recorded *r, const mg_windows *w, uint64_t i, mg_error *err) {
    const mg_window *a = &r->own.items[i], *b = &w->items[i];
    if (a->len != b->len)
        return mg_fail(err, MG_ERR_CONFLICT, "window %llu: recorded are %u tokens, to be scored %u",
                       (unsigned long long)i, a->len, b->len);
    for (uint32_t p = 0; p < a->len; p++) {
        /* a base file keeps what BOS took the place of */
        const int32_t want = p == 0 && r->kind == MG_ROWS_BASE ? b->original : w->ids[b->at + p];
        if (r->own.ids[a->at + p] != want)
            return mg_fail(err, MG_ERR_CONFLICT, "window %llu, position %u: recorded is token %d, to be scored %d",
                           (unsigned long long)i, p, r->own.ids[a->at + p], want);
    }
    if (a->first > b->first && mg_window_scored(b))
        return mg_fail(err, MG_ERR_CONFLICT, "window %llu: recorded from position %u on, to be scored from %u on",
                       (unsigned long long)i, a->first, b->first);
    return MG_OK;
}

mg_status mg_recorded_check(const mg_recorded *r, const mg_windows *w, mg_error *err) {
    for (uint64_t i = 0; i < r->own.n && i < w->n; i++) MG_TRY(check_window(r, w, i, err));
    if (r->own.n == w->n) return MG_OK;
    return mg_fail(err, MG_ERR_CONFLICT,
                   "recorded are %llu windows, to be scored %llu (without --text and --tokens: what was recorded)",
                   (unsigned long long)r->own.n, (unsigned long long)w->n);
}

/* ---- rows ---- */

/* Log-probabilities add up to 1, but for what is cut off and rounded: a file of something else does not. */
static mg_status base_rows(mg_recorded *r, const mg_score_rows *cut, mg_error *err) {
    const uint64_t per = r->base.ctx - 1 - r->base.ctx / 2;
    for (uint32_t i = 0; i < cut->n; i++) {
        const uint64_t row = cut->window * per + cut->pos + i - r->base.ctx / 2;
        MG_TRY(mg_kldbase_row(&r->base, row, err));
        memcpy(r->rows.p + i * r->vocab, r->base.logp, r->vocab * sizeof(float));
        const mg_lse l = mg_row_lse(r->base.logp, r->vocab);
        const double total = (double)l.max + l.log_sum;
        if (!(fabs(total) < 0.1))
            return mg_fail(err, MG_ERR_FORMAT, "window %llu, position %u: probabilities add up to exp(%g)",
                           (unsigned long long)cut->window, cut->pos + i, total);
    }
    return MG_OK;
}

static mg_status logit_rows(mg_recorded *r, const mg_score_rows *cut, mg_error *err) {
    const mg_tensor *t = &r->ckpt->tensors[r->logits];
    const uint64_t row = cut->window * t->shape[1] + cut->pos, bytes = t->n_bytes / (t->shape[0] * t->shape[1]);
    if (!r->raw) return mg_checkpoint_read(r->ckpt, r->logits, row * bytes, r->rows.p, cut->n * bytes, err);
    for (uint32_t i = 0; i < cut->n; i++) {
        MG_TRY(mg_checkpoint_read(r->ckpt, r->logits, (row + i) * bytes, r->raw, bytes, err));
        mg_codec_get(t->dtype)->decode(r->raw, r->vocab, r->rows.p + i * r->vocab);
    }
    return MG_OK;
}

mg_status mg_recorded_rows(mg_recorded *r, const mg_score_rows *cut, mg_score_rows *rows, mg_error *err) {
    *rows = *cut;
    rows->kind = r->kind;
    rows->vocab = r->vocab;
    rows->finite = cut->n;
    rows->logits = NULL;
    if (r->kind == MG_ROWS_TOP) return mg_recorded_top_rows(r->top, cut->window, cut->pos, cut->n, &rows->top, err);
    MG_TRY(mg_fbuf_need(&r->rows, cut->n, r->vocab, err));
    rows->logits = r->rows.p;
    if (r->kind == MG_ROWS_BASE) return base_rows(r, cut, err);
    MG_TRY(logit_rows(r, cut, err));
    mg_score_rows_scan(rows);
    return MG_OK;
}
