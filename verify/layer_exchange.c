/* layer_exchange.c - what experts of a token that are neighbours in the grid send each other.
 *
 * One edge at a time in the order of mg_edge_at, so what arrives at an expert is added in ascending source: z = z +
 * (scale * message). The rows of an edge are the tokens that chose both ends; grouping cannot change bits. */
#include <stdlib.h>
#include <string.h>

#include "formats/arch/arch.h"
#include "verify/forward_impl.h"

/* Pairs of tokens that chose both experts: from [i] of src, to [i] of dst. */
static uint64_t both(const mg_routing *t, uint32_t src, uint32_t dst, uint32_t *from, uint64_t *to) {
    uint64_t n = 0, a = t->first[src], b = t->first[dst];
    while (a < t->first[src + 1] && b < t->first[dst + 1]) {
        if (t->token[a] < t->token[b]) {
            a++;
        } else if (t->token[a] > t->token[b]) {
            b++;
        } else {
            from[n] = (uint32_t)a++;
            to[n++] = b++;
        }
    }
    return n;
}

static mg_status send(const mg_layer_run *r, uint32_t edge, const uint32_t *from, const uint64_t *to, uint64_t n,
                      const float *y, float *z, mg_error *err) {
    mg_forward *f = r->f;
    const float scale = (float)mg_hp_f(r->m, MG_K_EXCHANGE_SCALE);
    mg_linear_job job = {.ldy = r->hidden};
    uint64_t floats;
    MG_TRY(mg_need(&job.w, r->m, MG_R_EXCHANGE, r->layer, edge, err));
    if (mg_bound_rows(job.w) != r->hidden)
        return mg_fail(err, MG_ERR_FORMAT, "an exchange map of layer %u has %llu rows, expected %llu", r->layer,
                       (unsigned long long)mg_bound_rows(job.w), (unsigned long long)r->hidden);
    if (!mg_linear_pack_floats(&f->lin, n, r->hidden, &floats))
        return mg_fail(err, MG_ERR_LIMIT, "too many tokens for one batch");
    MG_TRY(mg_fbuf_need(&f->packed, floats, 1, err));
    MG_TRY(mg_fbuf_need(&f->v, n, r->hidden, err));
    job.y = f->v.p;
    MG_TRY(mg_linear_pack(&f->lin, &job.x, f->packed.p, y, r->hidden, from, n, r->hidden, err));
    MG_TRY(mg_linear_run(&f->lin, r->m, &job, 1, err));
    for (uint64_t i = 0; i < n; i++)
        f->lin.math->add_scaled(z + to[i] * r->hidden, f->v.p + i * r->hidden, scale, r->hidden);
    return MG_OK;
}

mg_status mg_layer_exchange(const mg_layer_run *r, const mg_routing *route, const float *y, float *z, mg_error *err) {
    const uint64_t pairs = route->n * route->k;
    uint32_t *from = malloc((route->n + 1) * sizeof *from);
    uint64_t *to = malloc((route->n + 1) * sizeof *to);
    mg_status st = from && to ? MG_OK : mg_fail_nomem(err, route->n * 12);
    if (st == MG_OK && pairs > UINT32_MAX) st = mg_fail(err, MG_ERR_LIMIT, "too many tokens for one batch");
    memcpy(z, y, pairs * r->hidden * sizeof *z);
    for (uint32_t e = 0, edges = mg_edge_count(&r->m->hp), src, dst; st == MG_OK && e < edges; e++) {
        mg_edge_at(&r->m->hp, e, &src, &dst);
        const uint64_t n = both(route, src, dst, from, to);
        if (n) st = send(r, e, from, to, n, y, z, err);
    }
    free(from);
    free(to);
    return st;
}
