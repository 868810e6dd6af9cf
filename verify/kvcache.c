/* kvcache.c - see kvcache.h. */
#include "verify/kvcache.h"

#include <stdlib.h>

#include "formats/base/checked.h"
#include "quant/math/mathops.h"

#define W MG_GEMM_NR

static uint64_t panels(uint64_t n) {
    return (n + W - 1) / W;
}

bool mg_kv_floats(const mg_kv_dims *d, uint64_t cap, uint64_t *out) {
    uint64_t per;
    return mg_add_u64(d->dim, panels(d->v_dim) * W, &per) && mg_mul_u64(per, d->heads, &per) &&
           mg_mul_u64(per, cap, out) && *out <= SIZE_MAX / sizeof(float);
}

mg_kv_slab mg_kv_slab_at(const mg_kv_dims *d, uint64_t cap, float *mem) {
    return (mg_kv_slab){.cap = cap, .k = mem, .v = mem + d->heads * cap * d->dim};
}

void mg_kv_store(const mg_kv_dims *d, const mg_kv_slab *s, uint64_t pos, const float *k, const float *v) {
    const uint64_t vp = panels(d->v_dim);
    for (uint64_t h = 0; h < d->heads; h++) {
        float *kp = s->k + h * s->cap * d->dim + pos / W * d->dim * W + pos % W;
        for (uint64_t i = 0; i < d->dim; i++) kp[i * W] = k[h * d->dim + i];
        for (uint64_t p = 0; p < vp; p++) {
            float *to = s->v + ((h * vp + p) * s->cap + pos) * W;
            for (uint64_t i = 0; i < W; i++) to[i] = p * W + i < d->v_dim ? v[h * d->v_dim + p * W + i] : 0.0f;
        }
    }
}

mg_kv_dims mg_kv_dims_of(const mg_model *m) {
    return (mg_kv_dims){.heads = (uint64_t)mg_hp_i(m, MG_K_KV_HEADS),
                        .dim = (uint64_t)mg_hp_i(m, MG_K_HEAD_DIM),
                        .v_dim = (uint64_t)mg_hp_i(m, MG_K_V_HEAD_DIM)};
}

mg_status mg_kvcache_new(mg_kvcache **out, const mg_model *m, uint32_t n_seqs, uint64_t capacity, mg_error *err) {
    mg_kvcache *c = calloc(1, sizeof *c);
    if (!c) return mg_fail_nomem(err, sizeof *c);
    c->dims = mg_kv_dims_of(m);
    c->n_layers = (uint32_t)mg_hp_i(m, MG_K_LAYERS);
    c->n_seqs = n_seqs;
    uint64_t total;
    if (!mg_align_u64(capacity, W, &c->cap) || !mg_kv_floats(&c->dims, c->cap, &c->slab_floats) ||
        !mg_mul_u64(c->slab_floats, (uint64_t)c->n_layers * n_seqs, &total) || total > SIZE_MAX / sizeof(float)) {
        free(c);
        return mg_fail(err, MG_ERR_LIMIT, "a cache of %llu positions is too large", (unsigned long long)capacity);
    }
    c->past = calloc(n_seqs ? n_seqs : 1, sizeof *c->past);
    c->mem = calloc(total ? total : 1, sizeof(float)); /* pages appear when written */
    if (!c->past || !c->mem) {
        mg_kvcache_free(c);
        return mg_fail_nomem(err, total * sizeof(float));
    }
    *out = c;
    return MG_OK;
}

void mg_kvcache_free(mg_kvcache *c) {
    if (!c) return;
    free(c->past);
    free(c->mem);
    free(c);
}

mg_kv_slab mg_kvcache_slab(const mg_kvcache *c, uint32_t layer, uint32_t seq) {
    return mg_kv_slab_at(&c->dims, c->cap, c->mem + ((uint64_t)layer * c->n_seqs + seq) * c->slab_floats);
}
