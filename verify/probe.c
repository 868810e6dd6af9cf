/* probe.c - see probe.h. */
#include "verify/probe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "verify/fbuf.h"
#include "verify/score.h"

#define DEFAULT_MEMORY (UINT64_C(1) << 30)

typedef struct probing {
    mg_forward *f;
    mg_model *ref;
    const mg_windows *w;
    const mg_probe_options *opt;
    uint32_t layers;
    uint64_t hidden, vocab, slice;
    uint64_t from, to; /* windows of the batch */
    mg_batch batch;
    uint32_t *len;
    int32_t *ids;
    mg_fbuf base, x;          /* [tokens][hidden]: the reference before layer `at`, and a variant on its way */
    uint32_t at;              /* layers behind base */
    mg_fbuf want, got;        /* [scored][hidden]: residual streams after the last layer */
    uint64_t rows;            /* scored positions of the batch */
    mg_fbuf logits_p, logits; /* [slice][vocab] */
    double *kl;               /* [slice] */
} probing;

/* ---- batches ---- */

static uint64_t tokens_per_batch(const probing *p) {
    const uint64_t mem = p->opt->memory ? p->opt->memory : DEFAULT_MEMORY;
    return mem / 2 / (mg_forward_token_bytes(p->f, p->ref) + 16 * p->hidden);
}

/* The next windows: as many as the budget takes, at least one. */
static mg_status next_batch(probing *p, mg_error *err) {
    const uint64_t most = tokens_per_batch(p);
    p->from = p->to;
    uint64_t tokens = 0;
    p->rows = 0;
    while (p->to < p->w->n && (p->to == p->from || tokens + p->w->items[p->to].len <= most)) {
        tokens += p->w->items[p->to].len;
        p->rows += mg_window_scored(&p->w->items[p->to++]);
    }
    const uint64_t n = p->to - p->from;
    if (n > UINT32_MAX) return mg_fail(err, MG_ERR_LIMIT, "too many sequences");
    free(p->len);
    free(p->ids);
    p->len = malloc((n + 1) * sizeof *p->len);
    p->ids = malloc((tokens + 1) * sizeof *p->ids);
    if (!p->len || !p->ids) return mg_fail_nomem(err, tokens * sizeof *p->ids);
    uint64_t at = 0;
    for (uint64_t i = 0; i < n; i++) {
        const mg_window *w = &p->w->items[p->from + i];
        p->len[i] = w->len;
        memcpy(p->ids + at, p->w->ids + w->at, w->len * sizeof *p->ids);
        at += w->len;
    }
    p->batch = (mg_batch){.n_seqs = (uint32_t)n, .len = p->len, .n_tokens = tokens};
    MG_TRY(mg_fbuf_need(&p->base, tokens, p->hidden, err));
    MG_TRY(mg_fbuf_need(&p->x, tokens, p->hidden, err));
    MG_TRY(mg_fbuf_need(&p->want, p->rows, p->hidden, err));
    return mg_fbuf_need(&p->got, p->rows, p->hidden, err);
}

/* Scored rows of p->x, one behind the other. */
static void gather(const probing *p, float *to) {
    const float *x = p->x.p;
    for (uint64_t i = p->from; i < p->to; i++) {
        const mg_window *w = &p->w->items[i];
        const uint64_t n = mg_window_scored(w);
        if (n) memcpy(to, x + w->first * p->hidden, n * p->hidden * sizeof *to);
        to += n * p->hidden;
        x += w->len * p->hidden;
    }
}

static mg_status layers(probing *p, mg_model *m, float *x, uint32_t from, uint32_t to, mg_error *err) {
    for (uint32_t l = from; l < to; l++)
        MG_TRY(mg_forward_layer(p->f, m, NULL, l, MG_PART_ALL, &p->batch, x, NULL, NULL, err));
    return MG_OK;
}

/* What the reference says, and its residual stream before the first layer. */
static mg_status run_reference(probing *p, mg_error *err) {
    MG_TRY(mg_forward_embed(p->f, p->ref, p->ids, p->batch.n_tokens, p->base.p, err));
    p->at = 0;
    memcpy(p->x.p, p->base.p, p->batch.n_tokens * p->hidden * sizeof(float));
    MG_TRY(layers(p, p->ref, p->x.p, 0, p->layers, err));
    gather(p, p->want.p);
    return MG_OK;
}

/* ---- divergence ---- */

static mg_status row_kl(void *ctx, uint64_t i, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    probing *p = ctx;
    const float *a = p->logits_p.p + i * p->vocab, *b = p->logits.p + i * p->vocab;
    const mg_lse la = mg_row_lse(a, p->vocab), lb = mg_row_lse(b, p->vocab);
    p->kl[i] = mg_row_kl(&la, a, &lb, b, p->vocab);
    return MG_OK;
}

/* Adds the divergences of all scored rows, in order. */
static mg_status add_kl(probing *p, mg_model *m, double *sum, mg_error *err) {
    for (uint64_t r = 0; r < p->rows; r += p->slice) {
        const uint64_t n = p->rows - r < p->slice ? p->rows - r : p->slice;
        MG_TRY(mg_forward_logits(p->f, p->ref, p->want.p + r * p->hidden, n, p->logits_p.p, err));
        MG_TRY(mg_forward_logits(p->f, m, p->got.p + r * p->hidden, n, p->logits.p, err));
        MG_TRY(mg_pool_run(mg_forward_pool(p->f), n, row_kl, p, err));
        for (uint64_t i = 0; i < n; i++) *sum += p->kl[i];
    }
    if (!isfinite(*sum)) return mg_fail(err, MG_ERR_FORMAT, "the logits are not finite");
    return MG_OK;
}

static mg_status run_variant(probing *p, mg_model *m, mg_probe *probe, mg_error *err) {
    const uint32_t from = probe->from < 0 ? 0 : (uint32_t)probe->from;
    if (probe->from < 0)
        MG_TRY(mg_forward_embed(p->f, m, p->ids, p->batch.n_tokens, p->x.p, err));
    else
        memcpy(p->x.p, p->base.p, p->batch.n_tokens * p->hidden * sizeof(float));
    MG_TRY(layers(p, m, p->x.p, from, p->layers, err));
    gather(p, p->got.p);
    return add_kl(p, m, &probe->kl, err);
}

static mg_status one_probe(probing *p, mg_probe *probe, uint32_t i, mg_error *err) {
    const uint32_t from = probe->from < 0 ? 0 : (uint32_t)probe->from;
    if (from < p->at || from > p->layers) return mg_fail(err, MG_ERR_INTERNAL, "probes out of order");
    MG_TRY(layers(p, p->ref, p->base.p, p->at, from, err));
    p->at = from;
    mg_model *m;
    MG_TRY(p->opt->open(p->opt->ctx, i, &m, err));
    mg_status st = run_variant(p, m, probe, err);
    p->opt->close(p->opt->ctx, i, m);
    mg_progress_add(p->opt->progress, p->batch.n_seqs, NULL);
    return st;
}

static mg_status run_all(probing *p, mg_probe *probes, uint32_t n, mg_error *err) {
    const uint64_t mem = p->opt->memory ? p->opt->memory : DEFAULT_MEMORY;
    p->slice = mem / 4 / (p->vocab * sizeof(float) + 1) + 1;
    if (p->slice > p->w->scored + 1) p->slice = p->w->scored + 1;
    p->kl = malloc(p->slice * sizeof *p->kl);
    if (!p->kl) return mg_fail_nomem(err, p->slice * sizeof *p->kl);
    MG_TRY(mg_fbuf_need(&p->logits_p, p->slice, p->vocab, err));
    MG_TRY(mg_fbuf_need(&p->logits, p->slice, p->vocab, err));
    while (p->to < p->w->n) {
        MG_TRY(next_batch(p, err));
        MG_TRY(run_reference(p, err));
        for (uint32_t i = 0; i < n; i++) MG_TRY(one_probe(p, &probes[i], i, err));
    }
    return MG_OK;
}

mg_status mg_probe_run(mg_forward *f, mg_model *reference, const mg_windows *w, mg_probe *probes, uint32_t n,
                       const mg_probe_options *opt, mg_error *err) {
    probing p = {.f = f, .ref = reference, .w = w, .opt = opt};
    p.layers = (uint32_t)mg_hp_i(reference, MG_K_LAYERS);
    p.hidden = (uint64_t)mg_hp_i(reference, MG_K_HIDDEN);
    p.vocab = mg_forward_vocab(reference);
    uint64_t scored = 0;
    for (uint64_t i = 0; i < w->n; i++) scored += mg_window_scored(&w->items[i]);
    if (scored == 0) return mg_fail(err, MG_ERR_USAGE, "no position is scored: the text is too short");
    for (uint32_t i = 0; i < n; i++) probes[i].kl = 0;
    mg_status st = run_all(&p, probes, n, err);
    for (uint32_t i = 0; i < n; i++) probes[i].kl /= (double)scored;
    mg_fbuf *bufs[] = {&p.base, &p.x, &p.want, &p.got, &p.logits_p, &p.logits};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) mg_fbuf_release(bufs[i]);
    free(p.len);
    free(p.ids);
    free(p.kl);
    return st;
}
