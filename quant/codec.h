/* codec.h - from f32 rows to stored rows and back, for every dtype a weight can have.
 *
 * Encoders are byte-exact against ggml's reference quantizers compiled for x86-64 without ISA flags (docs/numerics.md);
 * the result is a pure function of (row, weights, dtype). Decoders give the codec's exact f32. Both work on whole rows.
 * The calling thread rounds to nearest and keeps subnormals, as in every ticket of an mg_pool (mg_cpu_fp_env).
 */
#ifndef MG_QUANT_CODEC_H
#define MG_QUANT_CODEC_H

#include "formats/base/cpu.h"
#include "formats/dtype.h"

/* How an importance matrix enters. */
typedef enum mg_imatrix_use {
    MG_IMATRIX_IGNORED, /* same bytes with and without */
    MG_IMATRIX_OPTIONAL,
    MG_IMATRIX_REQUIRED, /* the encoder refuses without one */
} mg_imatrix_use;

typedef struct mg_codec {
    mg_dtype dtype;
    mg_imatrix_use imatrix;
    /* n (a multiple of the block) values of x to n/block blocks at out. weights: n importance weights or NULL.
     * MG_ERR_FORMAT for values that the format cannot hold (non-finite input; overflow that makes the reference abort).
     */
    mg_status (*encode)(const float *x, const float *weights, uint64_t n, void *out, mg_error *err);
    /* n values from n/block blocks. */
    void (*decode)(const void *in, uint64_t n, float *out);
} mg_codec;

/* NULL when the dtype has no codec (integers). F32, F16, BF16 and F64 have one. */
const mg_codec *mg_codec_get(mg_dtype t);

/* The codec as one instruction set has it: same bytes, other speed. mg_codec_get is the one of mg_cpu_isa(). The caller
 * knows that the processor has the instructions. */
const mg_codec *mg_codec_for(mg_dtype t, mg_isa isa);

#endif
