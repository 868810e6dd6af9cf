/* rope.h - rotary position tables: cosines and sines per position, from double arithmetic of our own.
 *
 * Rules (docs/numerics.md): p = (float)pow(theta, (float)(2i)/d), inv = 1/p, then the family's scaling in f32 in the
 * order of the published formulas, angle = (float)position * inv, one rounding; sine and cosine in double, rounded to
 * f32, times the attention factor. */
#ifndef MG_VERIFY_ROPE_H
#define MG_VERIFY_ROPE_H

#include "formats/arch/model.h"
#include "verify/fbuf.h"

typedef struct mg_rope {
    uint64_t half;           /* pairs rotated; 0: this layer has no rotation */
    float *inv;              /* [half] */
    float factor;            /* multiplies cosine and sine */
    uint64_t positions;      /* rows of the tables */
    mg_fbuf inv_buf, cs, sn; /* tables [positions][half] */
} mg_rope;

void mg_rope_release(mg_rope *r);

/* Tables for a layer of m, valid for positions 0..positions-1. Kept from the last call when nothing changed. Dynamic
 * scaling beyond the trained context and longrope are MG_ERR_UNSUPPORTED. */
mg_status mg_rope_prepare(mg_rope *r, mg_model *m, uint32_t layer, uint64_t positions, mg_error *err) MG_MUST_CHECK;

/* inv [half] and the attention factor alone (for tests and for the double pass). half: ROPE_DIM / 2. */
mg_status mg_rope_frequencies(mg_model *m, uint32_t layer, uint64_t half, uint64_t positions, float *inv, float *factor,
                              mg_error *err) MG_MUST_CHECK;

/* What latent attention multiplies its scores by besides one over the root of the head: the square of yarn's mscale for
 * ROPE_MSCALE_ALL; 1 without. */
double mg_rope_stretch(const mg_model *m);

#endif
