/* wide_impl.h - private: what the files of the double pass (forward64.h) share. */
#ifndef MG_VERIFY_WIDE_IMPL_H
#define MG_VERIFY_WIDE_IMPL_H

#include "formats/arch/arch.h"
#include "quant/read_f32.h"
#include "verify/forward64.h"
#include "verify/forward_impl.h"

/* Buffers that are reused from layer to layer. */
enum {
    MG_WIDE_NORM,
    MG_WIDE_Q,
    MG_WIDE_K,
    MG_WIDE_V,
    MG_WIDE_ATTN,
    MG_WIDE_OUT,
    MG_WIDE_ROUTER,
    MG_WIDE_LATENT,
    MG_WIDE_KEY,
    MG_WIDE_BUFFERS
};

struct mg_forward64 {
    mg_pool *pool;
    uint32_t experts_per_token;
    mg_precision precision;
    double *buf[MG_WIDE_BUFFERS];
    uint64_t cap[MG_WIDE_BUFFERS];
};

/* What an engine of 16 bits stores between two operations; through f32, because that is what such engines add up in. */
static inline double mg_wide_rounded(const mg_forward64 *f, double x) {
    switch (f->precision) {
    case MG_PRECISION_BF16:
        return (double)mg_bf16_to_f32(mg_f32_to_bf16((float)x));
    case MG_PRECISION_F16:
        return (double)mg_f16_to_f32(mg_f32_to_f16((float)x));
    default:
        return x;
    }
}

/* Room for a * b doubles in a buffer; what it held is lost when it grows. */
mg_status mg_wide_need(mg_forward64 *f, int which, uint64_t a, uint64_t b, double **out, mg_error *err) MG_MUST_CHECK;
/* n rows of a weight, in the engine's type. */
mg_status mg_wide_read(const mg_forward64 *f, mg_model *m, const mg_bound *b, uint64_t row, uint64_t n, float *to,
                       mg_error *err) MG_MUST_CHECK;
/* y [n][out] = W x + b of the rows of x that are named (NULL: all n); the bias when the model has one. */
mg_status mg_wide_linear(mg_forward64 *f, mg_model *m, mg_role role, mg_role bias, uint32_t layer, uint32_t expert,
                         const double *x, const uint32_t *rows, uint64_t n, uint64_t in, double *y, uint64_t out,
                         mg_error *err) MG_MUST_CHECK;
/* One row under a norm; y may be x. */
void mg_wide_norm_row(const mg_forward64 *f, const double *x, const float *w, const float *bias, uint64_t n,
                      mg_norm kind, double eps, double *y);

/* y [n][hidden] of the normed input x. */
mg_status mg_wide_attention(mg_forward64 *f, mg_model *m, uint32_t layer, const mg_batch *b, const double *x, double *y,
                            mg_error *err) MG_MUST_CHECK;
mg_status mg_wide_dense(mg_forward64 *f, mg_model *m, uint32_t layer, const double *x, uint64_t n, double *y,
                        mg_error *err) MG_MUST_CHECK;
/* router (may be NULL): logits [n][experts], valid until the next call. */
mg_status mg_wide_moe(mg_forward64 *f, mg_model *m, uint32_t layer, const double *x, uint64_t n, double *y,
                      const double **router, mg_error *err) MG_MUST_CHECK;

#endif
