/* layer_latent.c - queries, keys and values of latent attention (MLA).
 *
 * Keys and values of a token come from a latent of KV_LORA values and one rotated key of ROPE_DIM values that all heads
 * share; queries from a latent too where Q_LORA is not 0. Latents are normed. Heads are expanded here, NOPE_DIM plain
 * elements first, then the rotated ones, so that attention and cache are those of any model. */
#include <string.h>

#include "formats/arch/arch.h"
#include "verify/forward_impl.h"

/* y [tokens][width] = W x with x [tokens][ld >= k]; y has to be large enough. */
static mg_status project(const mg_layer_run *r, mg_role role, const float *x, uint64_t ld, uint64_t k, mg_fbuf *y,
                         uint64_t width, mg_error *err) {
    mg_forward *f = r->f;
    mg_linear_job job = {.ldy = width};
    MG_TRY(mg_need(&job.w, r->m, role, r->layer, 0, err));
    if (mg_bound_rows(job.w) != width)
        return mg_fail(err, MG_ERR_FORMAT, "%s has %llu rows, expected %llu", mg_role_name(role),
                       (unsigned long long)mg_bound_rows(job.w), (unsigned long long)width);
    MG_TRY(mg_fbuf_need(y, r->n, width, err));
    job.y = y->p;
    MG_TRY(mg_linear_pack_buf(&f->lin, &job.x, &f->packed, x, ld, r->n, k, err));
    return mg_linear_run(&f->lin, r->m, &job, 1, err);
}

/* Norm of the first n values of every row of x, in place. */
static mg_status norm(const mg_layer_run *r, mg_role role, float *x, uint64_t ld, uint64_t n, mg_error *err) {
    mg_forward *f = r->f;
    const mg_bound *b;
    MG_TRY(mg_need(&b, r->m, role, r->layer, 0, err));
    if (b->rank != 1 || b->shape[0] != n)
        return mg_fail(err, MG_ERR_FORMAT, "%s of layer %u: expected %llu values", mg_role_name(role), r->layer,
                       (unsigned long long)n);
    MG_TRY(mg_fbuf_need(&f->norm_w, n, 1, err));
    MG_TRY(mg_read_f32(r->m, b, 0, 1, f->norm_w.p, err));
    for (uint64_t t = 0; t < r->n; t++)
        f->lin.math->rmsnorm(x + t * ld, x + t * ld, f->norm_w.p, n, (float)r->m->arch->block.latent_eps);
    return MG_OK;
}

static mg_status queries(const mg_layer_run *r, uint64_t width, mg_error *err) {
    mg_forward *f = r->f;
    const uint64_t lora = (uint64_t)mg_hp_i(r->m, MG_K_Q_LORA);
    if (lora == 0) return project(r, MG_R_ATTN_Q, f->normed.p, r->hidden, r->hidden, &f->q, width, err);
    MG_TRY(project(r, MG_R_ATTN_Q_A, f->normed.p, r->hidden, r->hidden, &f->attn, lora, err));
    MG_TRY(norm(r, MG_R_ATTN_Q_A_NORM, f->attn.p, lora, lora, err));
    return project(r, MG_R_ATTN_Q_B, f->attn.p, lora, lora, &f->q, width, err);
}

mg_status mg_layer_latent(const mg_layer_run *r, const mg_kv_dims *kv, mg_error *err) {
    mg_forward *f = r->f;
    const uint64_t heads = (uint64_t)mg_hp_i(r->m, MG_K_HEADS), lora = (uint64_t)mg_hp_i(r->m, MG_K_KV_LORA);
    const uint64_t plain = (uint64_t)mg_hp_i(r->m, MG_K_NOPE_DIM), turned = kv->dim - plain, ld = lora + turned;
    MG_TRY(queries(r, heads * kv->dim, err));
    MG_TRY(project(r, MG_R_ATTN_KV_A, f->normed.p, r->hidden, r->hidden, &f->attn, ld, err));
    MG_TRY(norm(r, MG_R_ATTN_KV_A_NORM, f->attn.p, ld, lora, err));
    MG_TRY(project(r, MG_R_ATTN_V_B, f->attn.p, ld, lora, &f->v, heads * kv->v_dim, err));
    MG_TRY(project(r, MG_R_ATTN_K_B, f->attn.p, ld, lora, &f->shared, heads * plain, err));
    MG_TRY(mg_fbuf_need(&f->k, r->n, heads * kv->dim, err));
    for (uint64_t t = 0; t < r->n; t++)
        for (uint64_t h = 0; h < heads; h++) {
            float *k = f->k.p + (t * heads + h) * kv->dim;
            memcpy(k, f->shared.p + (t * heads + h) * plain, plain * sizeof *k);
            memcpy(k + plain, f->attn.p + t * ld + lora, turned * sizeof *k);
        }
    return MG_OK;
}
