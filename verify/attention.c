/* attention.c - see attention.h.
 *
 * A ticket is one kv head and up to mr (position, query head of its group) pairs of one sequence; all pairs of a tile
 * share the key and value panels. */
#include "verify/attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define W     MG_GEMM_NR
#define BLOCK MG_GEMM_BLOCK

typedef struct run {
    const mg_attention *a;
    uint64_t group;
    uint64_t *first; /* [n_seqs + 1] tickets before each sequence */
} run;

/* Where one tile's work lies in a worker's scratch. */
typedef struct tile {
    uint32_t m;      /* pairs */
    uint64_t lo, hi; /* keys computed: [lo, hi), lo a multiple of 256 */
    uint64_t ld;     /* floats of a score row */
    float *q;        /* [dim][mr] */
    float *score;    /* [mr][ld], index = key - lo */
    float *weight;   /* [hi - lo][mr] */
    float *out;      /* [mr][vp * 16] */
} tile;

static uint64_t round_up(uint64_t n, uint64_t to) {
    return (n + to - 1) / to * to;
}

static mg_status tile_init(tile *t, const mg_attention *a, const mg_attn_seq *s, uint64_t group, uint64_t r0,
                           mg_fbuf *mem, mg_error *err) {
    const uint32_t mr = a->math->mr;
    const uint64_t rows = s->n * group;
    t->m = (uint32_t)(rows - r0 < mr ? rows - r0 : mr);
    const uint64_t first = s->past + r0 / group, last = s->past + (r0 + t->m - 1) / group;
    t->lo = a->window && first + 1 > a->window ? (first + 1 - a->window) / BLOCK * BLOCK : 0;
    t->hi = last + 1;
    t->ld = round_up(t->hi - t->lo, W) + W; /* one panel more, so that rows do not alias in the cache */
    const uint64_t vw = round_up(a->kv.v_dim, W);
    MG_TRY(mg_fbuf_need(mem, (uint64_t)mr * (a->kv.dim + 2 * t->ld + vw), 1, err));
    t->q = mem->p;
    t->score = t->q + a->kv.dim * mr;
    t->weight = t->score + t->ld * mr;
    t->out = t->weight + t->ld * mr;
    return MG_OK;
}

static void pack_queries(const tile *t, const mg_attention *a, const mg_attn_seq *s, uint64_t group, uint64_t head,
                         uint64_t r0) {
    const uint32_t mr = a->math->mr;
    const uint64_t d = a->kv.dim;
    for (uint32_t r = 0; r < t->m; r++) {
        uint64_t pair = r0 + r;
        const float *q = a->q + ((s->row + pair / group) * a->heads + head * group + pair % group) * d;
        for (uint64_t i = 0; i < d; i++) t->q[i * mr + r] = q[i];
    }
    for (uint32_t r = t->m; r < mr; r++)
        for (uint64_t i = 0; i < d; i++) t->q[i * mr + r] = 0.0f;
}

void mg_softcap(const mg_math *math, float *x, float cap, uint64_t n) {
    math->div(x, x, cap, n);
    math->tanh(x, x, n);
    for (uint64_t i = 0; i < n; i++) x[i] = x[i] * cap;
}

/* One row of scores over keys [from, to) of the tile becomes weights; everything outside is +0. Lanes of T16 go by
 * absolute key position, which lo (a multiple of 256) preserves. Returns the divisor. */
static float weigh(const mg_attention *a, float *x, uint64_t from, uint64_t to, uint64_t n, const float *sink) {
    const uint64_t start = from / W * W;
    float scale = a->scale;
    if (a->softcap != 0) {
        for (uint64_t i = from; i < to; i++) x[i] = x[i] * scale;
        mg_softcap(a->math, x + from, a->softcap, to - from);
        scale = 1.0f;
    }
    if (sink && scale != 1.0f) {
        for (uint64_t i = from; i < to; i++) x[i] = x[i] * scale;
        scale = 1.0f;
    }
    for (uint64_t i = 0; i < start; i++) x[i] = 0.0f;
    for (uint64_t i = start; i < from; i++) x[i] = -INFINITY;
    if (sink) x[to] = *sink; /* rows have room behind the last key */
    float l = a->math->softmax(x + start, to - start + (sink != NULL), scale);
    for (uint64_t i = to; i < n + (sink != NULL); i++) x[i] = 0.0f;
    return l;
}

static mg_status attention_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    const run *r = ctx;
    const mg_attention *a = r->a;
    uint32_t si = 0;
    while (ticket >= r->first[si + 1]) si++;
    const mg_attn_seq *s = &a->seqs[si];
    const uint64_t tiles = (r->first[si + 1] - r->first[si]) / a->kv.heads;
    const uint64_t head = (ticket - r->first[si]) / tiles, mr = a->math->mr;
    /* Longest tiles first, so that the last ones to finish are short. */
    const uint64_t r0 = (tiles - 1 - (ticket - r->first[si]) % tiles) * mr;
    tile t;
    MG_TRY(tile_init(&t, a, s, r->group, r0, &a->scratch[worker], err));
    pack_queries(&t, a, s, r->group, head, r0);

    const uint64_t d = a->kv.dim, cap = s->kv.cap, keys = t.hi - t.lo;
    const float *k = s->kv.k + head * cap * d + t.lo * d;
    a->math->gemm(t.m, d, t.q, k, d * W, round_up(keys, W) / W, t.score, t.ld, W, true);

    float l[MG_GEMM_MAX_MR];
    for (uint32_t i = 0; i < t.m; i++) {
        uint64_t pos = s->past + (r0 + i) / r->group;
        uint64_t from = a->window && pos + 1 > a->window ? pos + 1 - a->window : 0;
        if (from < t.lo) from = t.lo;
        float *x = t.score + i * t.ld;
        l[i] = weigh(a, x, from - t.lo, pos + 1 - t.lo, keys,
                     a->sinks ? a->sinks + head * r->group + (r0 + i) % r->group : NULL);
        for (uint64_t j = 0; j < keys; j++) t.weight[j * mr + i] = x[j];
    }
    for (uint64_t i = t.m; i < mr; i++)
        for (uint64_t j = 0; j < keys; j++) t.weight[j * mr + i] = 0.0f;

    const uint64_t vp = round_up(a->kv.v_dim, W) / W;
    const float *v = s->kv.v + (head * vp * cap + t.lo) * W;
    a->math->gemm(t.m, keys, t.weight, v, cap * W, vp, t.out, vp * W, W, true);
    for (uint32_t i = 0; i < t.m; i++) {
        uint64_t pair = r0 + i;
        float *o = a->out + ((s->row + pair / r->group) * a->heads + head * r->group + pair % r->group) * a->kv.v_dim;
        a->math->div(o, t.out + i * vp * W, l[i], a->kv.v_dim);
    }
    return MG_OK;
}

mg_status mg_attention_run(const mg_attention *a, mg_error *err) {
    run r = {.a = a, .group = a->heads / a->kv.heads, .first = calloc(a->n_seqs + 1u, sizeof(uint64_t))};
    if (!r.first) return mg_fail_nomem(err, (a->n_seqs + 1u) * sizeof(uint64_t));
    for (uint32_t i = 0; i < a->n_seqs; i++) {
        uint64_t rows = a->seqs[i].n * r.group;
        r.first[i + 1] = r.first[i] + (rows + a->math->mr - 1) / a->math->mr * a->kv.heads;
    }
    mg_status st = mg_pool_run(a->pool, r.first[a->n_seqs], attention_ticket, &r, err);
    free(r.first);
    return st;
}
