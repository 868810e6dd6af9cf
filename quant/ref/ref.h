/* ref.h - the scalar reference codecs, declared from codecs.inc, and the argument check they share.
 *
 * All of them have the signatures and the contract of mg_codec (quant/codec.h). They are the definition of our bytes:
 * a SIMD twin is right when it equals them on every input. */
#ifndef MG_QUANT_REF_H
#define MG_QUANT_REF_H

#include "quant/codec.h"

#define MG_CODEC(type, stem, use)                                                                                      \
    mg_status mg_ref_##stem##_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err);      \
    void mg_ref_##stem##_decode(const void *in, uint64_t n, float *out);
#include "quant/codecs.inc"
#undef MG_CODEC

/* What every encoder refuses, in this order: n not a whole number of blocks (MG_ERR_USAGE), missing weights where the
 * type requires them (MG_ERR_USAGE), x not finite, weights not finite or negative (MG_ERR_FORMAT, naming the element).
 * weights are looked at only when the type uses them. */
mg_status mg_ref_check(mg_dtype t, const float *x, const float *weights, uint64_t n, mg_error *err) MG_MUST_CHECK;

#endif
