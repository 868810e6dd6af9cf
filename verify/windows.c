/* windows.c - see windows.h. */
#include "verify/windows.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/checkpoint.h"

#define TEXT_CAP (256u << 20) /* bytes of a token file in text form */

void mg_windows_init(mg_windows *w) {
    *w = (mg_windows){0};
}

void mg_windows_release(mg_windows *w) {
    free(w->items);
    free(w->ids);
    *w = (mg_windows){0};
}

static mg_status grow(void **p, uint64_t *cap, uint64_t need, size_t size, mg_error *err) {
    if (need <= *cap) return MG_OK;
    uint64_t n = *cap ? *cap : 64;
    while (n < need) n *= 2;
    void *q = n <= SIZE_MAX / size ? realloc(*p, n * size) : NULL;
    if (!q) return mg_fail_nomem(err, need * size);
    *p = q;
    *cap = n;
    return MG_OK;
}

static mg_status add(mg_windows *w, const int32_t *ids, uint64_t n, uint64_t first, mg_error *err) {
    if (n > UINT32_MAX / 2) return mg_fail(err, MG_ERR_LIMIT, "a sequence of %llu tokens", (unsigned long long)n);
    MG_TRY(grow((void **)&w->items, &w->cap, w->n + 1, sizeof *w->items, err));
    MG_TRY(grow((void **)&w->ids, &w->cap_ids, w->n_ids + n, sizeof *w->ids, err));
    mg_window *o = &w->items[w->n++];
    *o = (mg_window){.at = w->n_ids, .len = (uint32_t)n, .first = (uint32_t)first, .source = w->sources};
    if (n) o->original = ids[0];
    memcpy(w->ids + w->n_ids, ids, n * sizeof *ids);
    w->n_ids += n;
    w->scored += mg_window_scored(o);
    return MG_OK;
}

mg_status mg_windows_add_text(mg_windows *w, const int32_t *ids, uint64_t n, uint64_t ctx, int64_t bos, mg_error *err) {
    if (ctx < 2) return mg_fail(err, MG_ERR_USAGE, "a window of %llu tokens scores nothing", (unsigned long long)ctx);
    if (n < ctx)
        return mg_fail(err, MG_ERR_USAGE, "the text has %llu tokens, less than one window of %llu (use --ctx)",
                       (unsigned long long)n, (unsigned long long)ctx);
    for (uint64_t at = 0; at + ctx <= n; at += ctx) {
        MG_TRY(add(w, ids + at, ctx, ctx / 2, err));
        if (bos >= 0) w->ids[w->items[w->n - 1].at] = (int32_t)bos;
    }
    w->sources++;
    return MG_OK;
}

mg_status mg_windows_add_scored(mg_windows *w, const int32_t *ids, uint64_t n, uint64_t first, mg_error *err) {
    MG_TRY(add(w, ids, n, first, err));
    w->sources++;
    return MG_OK;
}

mg_status mg_windows_add_row(mg_windows *w, const int32_t *ids, uint64_t n, mg_error *err) {
    return mg_windows_add_scored(w, ids, n, 0, err);
}

/* Ids of one line into w as a row; empty lines are skipped. */
static mg_status add_line(mg_windows *w, const char *p, const char *end, mg_status bad, mg_error *err) {
    int32_t *ids = NULL;
    uint64_t n = 0, cap = 0;
    mg_status st = MG_OK;
    bool want = true;
    while (st == MG_OK && p < end) {
        if (*p == ' ' || *p == '\t' || *p == '\r' || *p == '[' || *p == ']') {
            p++;
        } else if (*p == ',' && !want) {
            want = true;
            p++;
        } else if (*p >= '0' && *p <= '9') {
            uint64_t v = 0;
            for (; p < end && *p >= '0' && *p <= '9' && v <= INT32_MAX; p++) v = v * 10 + (uint64_t)(*p - '0');
            if (v > INT32_MAX) st = mg_fail(err, bad, "a token id is too large");
            if (st == MG_OK) st = grow((void **)&ids, &cap, n + 1, sizeof *ids, err);
            if (st == MG_OK) ids[n++] = (int32_t)v;
            want = false;
        } else {
            st = mg_fail(err, bad, "'%c' in a list of token ids", *p);
        }
    }
    if (st == MG_OK && n) st = add(w, ids, n, 0, err);
    free(ids);
    return st;
}

mg_status mg_windows_add_list(mg_windows *w, const char *text, mg_error *err) {
    const uint64_t before = w->n;
    MG_TRY(add_line(w, text, text + strlen(text), MG_ERR_USAGE, err));
    if (w->n == before) return mg_fail(err, MG_ERR_USAGE, "no token ids given");
    w->sources++;
    return MG_OK;
}

static mg_status add_lines(mg_windows *w, const char *path, mg_error *err) {
    char *text;
    size_t n;
    MG_TRY(mg_file_slurp(path, TEXT_CAP, &text, &n, err));
    mg_status st = MG_OK;
    uint64_t line = 1;
    for (const char *p = text, *end = text + n; st == MG_OK && p < end; line++) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        if (!eol) eol = end;
        mg_error why = {0};
        st = add_line(w, p, eol, MG_ERR_FORMAT, &why);
        if (st != MG_OK) mg_fail(err, st, "line %llu: %s", (unsigned long long)line, why.message);
        p = eol + 1;
    }
    free(text);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    return st;
}

/* Row r of the tensor as int32; wider values that do not fit are refused. */
static mg_status read_row(mg_checkpoint *c, uint32_t t, uint64_t r, uint64_t n, int32_t *out, mg_error *err) {
    const mg_tensor *d = &c->tensors[t];
    const size_t size = d->dtype == MG_I64 ? 8 : 4;
    char *raw = malloc(n * size);
    if (!raw) return mg_fail_nomem(err, n * size);
    mg_status st = mg_checkpoint_read(c, t, r * n * size, raw, n * size, err);
    for (uint64_t i = 0; st == MG_OK && i < n; i++) {
        int64_t v = 0;
        int32_t s = 0;
        if (size == 8)
            memcpy(&v, raw + i * 8, 8);
        else {
            memcpy(&s, raw + i * 4, 4);
            v = s;
        }
        if (v < 0 || v > INT32_MAX)
            st = mg_fail(err, MG_ERR_FORMAT, "token id %lld in row %llu", (long long)v, (unsigned long long)r);
        out[i] = (int32_t)v;
    }
    free(raw);
    return st;
}

static mg_status add_safetensors(mg_windows *w, const char *path, mg_error *err) {
    mg_checkpoint *c;
    MG_TRY(mg_checkpoint_open(&c, path, err));
    const uint32_t t = mg_checkpoint_find(c, "input_ids");
    mg_status st = MG_OK;
    const mg_tensor *d = t == MG_STRMAP_NONE ? NULL : &c->tensors[t];
    if (!d || (d->dtype != MG_I64 && d->dtype != MG_I32) || d->rank < 1 || d->rank > 2)
        st = mg_fail(err, MG_ERR_FORMAT, "no tensor 'input_ids' [batch, n] of int64");
    const uint64_t n = st == MG_OK ? mg_tensor_cols(d) : 0, rows = n ? mg_tensor_rows(d) : 0;
    int32_t *ids = n <= UINT32_MAX ? malloc((n ? n : 1) * sizeof *ids) : NULL;
    if (st == MG_OK && !ids) st = mg_fail_nomem(err, n * sizeof *ids);
    for (uint64_t r = 0; st == MG_OK && r < rows; r++) {
        st = read_row(c, t, r, n, ids, err);
        if (st == MG_OK) st = add(w, ids, n, 0, err);
    }
    free(ids);
    mg_checkpoint_free(c);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    return st;
}

mg_status mg_windows_check_scored(const mg_windows *w, mg_error *err) {
    if (w->scored) return MG_OK;
    if (w->n && w->items[0].first)
        return mg_fail(err, MG_ERR_USAGE,
                       "windows of %u tokens score nothing: scored are those behind the middle, each by the one before "
                       "it, so --ctx 3 is the least",
                       w->items[0].len);
    return mg_fail(err, MG_ERR_USAGE, "no sequence has two tokens: each is scored by the one before it");
}

int64_t mg_windows_last_id(const mg_windows *w) {
    int64_t last = -1;
    for (uint64_t i = 0; i < w->n_ids; i++)
        if (w->ids[i] > last) last = w->ids[i];
    return last;
}

mg_status mg_windows_add_token_file(mg_windows *w, const char *path, mg_error *err) {
    const size_t len = strlen(path);
    const char *suffix = ".safetensors";
    const bool st = len > strlen(suffix) && !strcmp(path + len - strlen(suffix), suffix);
    MG_TRY(st ? add_safetensors(w, path, err) : add_lines(w, path, err));
    w->sources++;
    return MG_OK;
}
