/* score.c - see score.h. */
#include "verify/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/math/f64.h"
#include "quant/math/mathops.h"
#include "verify/fbuf.h"

#define DEFAULT_MEMORY (1ull << 30)

struct mg_scorer {
    mg_forward *f;
    mg_model *m;
    const mg_windows *w;
    mg_score_options opt;
    mg_forward64 *wide; /* NULL: the f32 pass */
    double *wide_logits;
    uint64_t hidden, vocab;
    uint64_t row; /* floats that a residual stream takes: hidden, twice that for doubles */
    uint64_t batch_tokens, slice_rows;
    uint64_t from, to;       /* windows of the current batch */
    mg_fbuf x, rows, logits; /* [tokens][row], [scored][row], [slice][vocab] */
    uint64_t n_rows, done;   /* scored rows of the batch; those handed out */
    uint64_t slice_at, slice_n;
    uint64_t window; /* of the next row */
    uint32_t pos;
};

mg_status mg_scorer_new(mg_scorer **out, mg_forward *f, mg_model *m, const mg_windows *w, const mg_score_options *opt,
                        mg_error *err) {
    mg_scorer *s = calloc(1, sizeof *s);
    if (!s) return mg_fail_nomem(err, sizeof *s);
    if (opt) s->opt = *opt;
    s->f = f;
    s->m = m;
    s->w = w;
    s->hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    s->row = s->opt.precision == MG_PRECISION_F32 ? s->hidden : 2 * s->hidden;
    s->vocab = mg_forward_vocab(m);
    const uint64_t mem = s->opt.memory ? s->opt.memory : DEFAULT_MEMORY;
    s->batch_tokens = s->opt.batch_tokens;
    const uint64_t size = s->row / s->hidden; /* doubles take twice the memory */
    if (!s->batch_tokens) s->batch_tokens = mem / 2 / size / (mg_forward_token_bytes(f, m) + 8 * s->hidden);
    s->slice_rows = s->opt.slice_rows;
    const uint64_t widest = s->opt.vocab > s->vocab ? s->opt.vocab : s->vocab;
    if (!s->slice_rows) s->slice_rows = mem / 2 / ((1 + 2 * (size - 1)) * widest * sizeof(float) + 8 * s->row + 1);
    if (!s->slice_rows) s->slice_rows = 1;
    if (s->opt.precision != MG_PRECISION_F32) {
        mg_status st = mg_forward64_new(&s->wide, mg_forward_pool(f), s->opt.precision, mg_forward_experts(f), err);
        if (st != MG_OK) {
            mg_scorer_free(s);
            return st;
        }
    }
    *out = s;
    return MG_OK;
}

void mg_scorer_free(mg_scorer *s) {
    if (!s) return;
    mg_fbuf_release(&s->x);
    mg_fbuf_release(&s->rows);
    mg_fbuf_release(&s->logits);
    mg_forward64_free(s->wide);
    free(s->wide_logits);
    free(s);
}

void mg_scorer_cuts(const mg_scorer *s, mg_score_options *opt) {
    opt->batch_tokens = s->batch_tokens ? s->batch_tokens : 1;
    opt->slice_rows = s->slice_rows;
}

/* Scored rows of x, one behind the other. */
static mg_status gather(mg_scorer *s, mg_error *err) {
    s->n_rows = 0;
    for (uint64_t i = s->from; i < s->to; i++) s->n_rows += mg_window_scored(&s->w->items[i]);
    MG_TRY(mg_fbuf_need(&s->rows, s->n_rows, s->row, err));
    uint64_t to = 0, base = s->w->items[s->from].at;
    for (uint64_t i = s->from; i < s->to; i++) {
        const mg_window *w = &s->w->items[i];
        const uint64_t n = mg_window_scored(w);
        if (n) memcpy(s->rows.p + to * s->row, s->x.p + (w->at - base + w->first) * s->row, n * s->row * sizeof(float));
        to += n;
    }
    return MG_OK;
}

static mg_status run_batch(mg_scorer *s, mg_error *err) {
    s->from = s->to;
    uint64_t tokens = 0;
    while (s->to < s->w->n && (s->to == s->from || tokens + s->w->items[s->to].len <= s->batch_tokens))
        tokens += s->w->items[s->to++].len;
    s->done = s->n_rows = s->slice_at = s->slice_n = 0;
    s->window = s->from;
    s->pos = s->from < s->w->n ? s->w->items[s->from].first : 0;
    if (tokens == 0) return MG_OK;
    const uint64_t n = s->to - s->from;
    if (n > UINT32_MAX) return mg_fail(err, MG_ERR_LIMIT, "too many sequences");
    uint32_t *len = malloc(n * sizeof *len);
    if (!len) return mg_fail_nomem(err, n * sizeof *len);
    for (uint64_t i = 0; i < n; i++) len[i] = s->w->items[s->from + i].len;
    const mg_batch batch = {.n_seqs = (uint32_t)n, .len = len, .n_tokens = tokens};
    const int32_t *ids = s->w->ids + s->w->items[s->from].at;
    mg_status st = mg_fbuf_need(&s->x, tokens, s->row, err);
    if (st == MG_OK)
        st = s->wide ? mg_forward64_run(s->wide, s->m, &batch, ids, (void *)s->x.p, s->opt.tap, s->opt.tap_ctx, err)
                     : mg_forward_run(s->f, s->m, NULL, &batch, ids, s->x.p, s->opt.tap, s->opt.tap_ctx, err);
    if (st == MG_OK) st = gather(s, err);
    free(len);
    return st;
}

/* Logits of n rows from s->slice_at on. */
static mg_status slice_logits(mg_scorer *s, uint64_t n, mg_error *err) {
    const float *x = s->rows.p + s->slice_at * s->row;
    MG_TRY(mg_fbuf_need(&s->logits, n, s->vocab, err));
    if (!s->wide) return mg_forward_logits(s->f, s->m, x, n, s->logits.p, err);
    free(s->wide_logits);
    s->wide_logits = malloc(n * s->vocab * sizeof(double));
    if (!s->wide_logits) return mg_fail_nomem(err, n * s->vocab * sizeof(double));
    MG_TRY(mg_forward64_logits(s->wide, s->m, (const void *)x, n, s->wide_logits, err));
    for (uint64_t i = 0; i < n * s->vocab; i++) s->logits.p[i] = (float)s->wide_logits[i];
    return MG_OK;
}

void mg_score_rows_scan(mg_score_rows *r) {
    r->finite = 0;
    while (r->finite < r->n && mg_row_not_finite(r->logits + r->finite * r->vocab, r->vocab) == r->vocab) r->finite++;
}

mg_status mg_score_rows_check(const mg_score_rows *r, mg_error *err) {
    if (r->finite == r->n) return MG_OK;
    return mg_fail(err, MG_ERR_FORMAT, "window %llu, position %llu: a logit is not finite",
                   (unsigned long long)r->window, (unsigned long long)(r->pos + r->finite));
}

mg_status mg_scorer_next(mg_scorer *s, mg_score_rows *rows, mg_error *err) {
    *rows = (mg_score_rows){.vocab = s->vocab};
    while (s->done == s->n_rows) {
        if (s->to == s->w->n) return MG_OK;
        MG_TRY(run_batch(s, err));
    }
    if (s->done == s->slice_at + s->slice_n) {
        s->slice_at = s->done;
        s->slice_n = s->n_rows - s->done < s->slice_rows ? s->n_rows - s->done : s->slice_rows;
        MG_TRY(slice_logits(s, s->slice_n, err));
    }
    const mg_window *w = &s->w->items[s->window];
    while (s->pos + 1u >= w->len) { /* the window is used up, or scores nothing */
        w = &s->w->items[++s->window];
        s->pos = w->first;
    }
    const uint64_t in_slice = s->slice_at + s->slice_n - s->done, in_window = w->len - 1u - s->pos;
    const uint64_t n = in_slice < in_window ? in_slice : in_window;
    rows->window = s->window;
    rows->pos = s->pos;
    rows->n = (uint32_t)n;
    rows->logits = s->logits.p + (s->done - s->slice_at) * s->vocab;
    rows->targets = s->w->ids + w->at + s->pos + 1;
    s->done += n;
    s->pos += (uint32_t)n;
    for (uint32_t i = 0; i < rows->n; i++)
        if (rows->targets[i] < 0 || (uint64_t)rows->targets[i] >= s->vocab)
            return mg_fail(err, MG_ERR_FORMAT, "token id %d, the output head has %llu rows", rows->targets[i],
                           (unsigned long long)s->vocab);
    mg_score_rows_scan(rows);
    return MG_OK;
}

mg_status mg_score_run(mg_forward *f, mg_model *m, const mg_windows *w, const mg_score_options *opt, mg_score_fn fn,
                       void *ctx, mg_error *err) {
    mg_scorer *s;
    MG_TRY(mg_scorer_new(&s, f, m, w, opt, err));
    mg_score_rows rows;
    mg_status st;
    do {
        st = mg_scorer_next(s, &rows, err);
        if (st == MG_OK) st = mg_score_rows_check(&rows, err);
        if (st == MG_OK && rows.n) st = fn(ctx, &rows, err);
    } while (st == MG_OK && rows.n);
    mg_scorer_free(s);
    return st;
}

/* --- rows --- */

enum { TILE = 1024 }; /* a multiple of 16 */

static double tree(double l[16]) {
    for (int h = 8; h >= 1; h /= 2)
        for (int j = 0; j < h; j++) l[j] += l[j + h];
    return l[0];
}

uint64_t mg_row_not_finite(const float *logits, uint64_t vocab) {
    uint64_t i = 0;
    while (i < vocab && isfinite(logits[i])) i++;
    return i;
}

mg_lse mg_row_lse(const float *logits, uint64_t vocab) {
    const mg_math *math = mg_math_get();
    mg_lse r = {.max = math->max(logits, vocab)};
    while (r.argmax + 1 < vocab && logits[r.argmax] != r.max) r.argmax++;
    double lane[16] = {0};
    float e[TILE];
    for (uint64_t i = 0; i < vocab; i += TILE) {
        const uint64_t n = vocab - i < TILE ? vocab - i : TILE;
        for (uint64_t j = 0; j < n; j++) e[j] = logits[i + j] - r.max;
        math->exp(e, e, n);
        for (uint64_t j = 0; j < n; j++) lane[j % 16] += (double)e[j];
    }
    r.log_sum = mg_f64_log(tree(lane));
    return r;
}

double mg_row_kl(const mg_lse *la, const float *a, const mg_lse *lb, const float *b, uint64_t vocab) {
    const mg_math *math = mg_math_get();
    double lane[16] = {0};
    float e[TILE];
    const double shift = lb->log_sum - la->log_sum;
    for (uint64_t i = 0; i < vocab; i += TILE) {
        const uint64_t n = vocab - i < TILE ? vocab - i : TILE;
        for (uint64_t j = 0; j < n; j++) e[j] = a[i + j] - la->max;
        math->exp(e, e, n);
        for (uint64_t j = 0; j < n; j++) {
            const double d = ((double)a[i + j] - (double)la->max) - ((double)b[i + j] - (double)lb->max) + shift;
            if (e[j] != 0.0f) lane[j % 16] += (double)e[j] * d;
        }
    }
    return tree(lane) * mg_f64_exp(-la->log_sum);
}

double mg_ppl_value(const mg_ppl *p) {
    return p->n ? mg_f64_exp(p->sum / (double)p->n) : (double)NAN;
}

double mg_ppl_stderr(const mg_ppl *p) {
    if (p->n < 2) return 0.0;
    const double n = (double)p->n, mean = p->sum / n, var = p->sum_sq / n - mean * mean;
    return var > 0 ? sqrt(var / (n - 1)) * mg_ppl_value(p) : 0.0;
}
