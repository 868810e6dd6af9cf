/* iq_fit.h - the search shared by IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S (private to quant/ref).
 *
 * A sub-block of magnitudes xval = |x| is approximated by scale * (2 l + 1) with the codes of every group of dims
 * elements forming a codebook point. For each candidate id (inverse scale): l = clamp(R((id xval - 1)/2), 0, levels -
 * 1); a group whose pattern is no point takes, of the pattern's neighbours, the one with the smallest sum of (waux
 * diff) diff, diff = q/id - xval, waux = sqrt(w), first of equals. Then A = sum (w xval) q, B = sum (w q) q; the
 * candidate wins when B > 0 and A^2 > best B (best starts at 0). */
#ifndef MG_QUANT_IQ_FIT_H
#define MG_QUANT_IQ_FIT_H

#include "quant/ref/iq_grids.h"

enum { MG_FIT_MAX = 32, MG_FIT_GROUPS = 8 }; /* elements and groups of a sub-block */
enum { MG_IQ_STARTS = 32 };                  /* sub-blocks whose start scales are searched in one call */

/* After the candidates, which groups are coded once more at 1/scale, with a refit of the scale. */
typedef enum mg_fit_second {
    MG_SECOND_ALWAYS,     /* all groups (IQ2_XXS) */
    MG_SECOND_OFF_GRID,   /* only groups the winner had off the codebook */
    MG_SECOND_ALL_IF_ANY, /* all groups, when any was off the codebook (IQ3_S) */
} mg_fit_second;

/* Candidates: id = (base + step i)/top for i = -reach..reach. */
typedef struct mg_fit_params {
    int n; /* elements of the sub-block */
    float base, step;
    int reach;
    mg_fit_second second;
} mg_fit_params;

/* top and *scale (the start value) come from the caller. On MG_OK index[] holds the codebook index of each group and
 * *scale the fitted scale; without any winner the indices are 0 and the scale is the start value, unless the second
 * pass changes them. MG_ERR_FORMAT when every neighbour's error overflows (|x| above about 1e13): the reference aborts
 * there. */
mg_status mg_iq_fit(const mg_fit_params *p, const mg_iq_grid *g, const float *xval, const float *w, float top,
                    float *scale, uint16_t *index, mg_error *err) MG_MUST_CHECK;

/* xval = |x|; bit i of the result is set where x[i] < 0; n = 8. With even, an odd number of signs is made even by
 * flipping the sign of the element with the smallest (w x) x, the first of equals, whose xval becomes -|x|. */
uint8_t mg_iq_signs(const float *x, const float *w, bool even, float *xval);

/* Bits 0..6 with bit 7 = their parity: the eighth sign of the types that store seven. */
static inline uint8_t mg_iq_sign8(uint32_t seven) {
    return (uint8_t)((seven & 127u) | (uint32_t)__builtin_parity(seven & 127u) << 7);
}

/* w = qw sqrt(sigma2 + x^2), or x^2 without importance weights. */
void mg_iq_weights(const float *x, const float *qw, int n, float sigma2, float *w);

/* The parts of an encoder that take its time, scalar or of an instruction set; the functions above are the scalar ones
 * and the definition. n is a multiple of 16 for weights. */
typedef struct mg_iq_ops {
    void (*weights)(const float *x, const float *qw, int n, float sigma2, float *w);
    uint8_t (*signs)(const float *x, const float *w, bool even, float *xval);
    /* start[j] = QP(32, 4) of sub-block j of up to MG_IQ_STARTS sub-blocks of 32 (mg_ref_qp) */
    void (*starts)(const float *xval, const float *w, int subs, float *start);
    mg_status (*fit)(const mg_fit_params *p, const mg_iq_grid *g, const float *xval, const float *w, float top,
                     float *scale, uint16_t *index, mg_error *err);
} mg_iq_ops;

extern const mg_iq_ops mg_iq_scalar_ops;

/* The encoders with the contract of mg_codec, over either set of parts. */
typedef mg_status mg_iq_rows(const mg_iq_ops *ops, const float *x, const float *qw, uint64_t n, void *out,
                             mg_error *err);
mg_iq_rows mg_iq2_xxs_rows, mg_iq2_xs_rows, mg_iq2_s_rows, mg_iq3_xxs_rows, mg_iq3_s_rows;

/* 4-bit scales of a super-block: d = max(scales)/31 and l = clamp(R((scale/d - 1)/2), 0, 15), with the unrounded d
 * through its reciprocal. Returns d; 0 (and l untouched) when no scale is above 0. */
float mg_iq_scale_codes(const float *scales, int n, uint8_t *l);

#endif
