/* codes.h - weights as the codes they are stored as, in the order the kernels read them: for products of few rows,
 * where memory is what limits, and for panels of f32 without a row of f32 in between.
 *
 * A panel is 16 rows of a weight [n][k], side by side: float scales [groups][16], float biases [groups][16], then a
 * line of 16 bytes for each 8 / bits columns; a byte holds that many codes of its row, the first column in the lowest
 * bits. A weight is fma(code, scale, bias), rounded once. Whoever fills a panel sees to it that this is the value that
 * the weight decodes to (quant/code_source.h); of zeros either, which rule G (docs/numerics.md) does not see. Rows that
 * do not exist are zeros. */
#ifndef MG_MATH_CODES_H
#define MG_MATH_CODES_H

#include <stdint.h>

/* Columns of a panel. */
#define MG_CODES_NR 16

typedef struct mg_codes {
    uint32_t bits;         /* 2, 4 or 8 */
    uint64_t k;            /* columns */
    uint64_t groups;       /* of columns that share scale and bias */
    uint64_t group_size;   /* a multiple of 4, or at least k: column i is in group i / group_size */
    const uint32_t *g_idx; /* [k] or NULL: the group of each column instead */
} mg_codes;

/* Bytes before the codes, and of a whole panel: a multiple of 16. */
static inline uint64_t mg_codes_head(const mg_codes *w) {
    return 2 * w->groups * MG_CODES_NR * sizeof(float);
}
static inline uint64_t mg_codes_panel_bytes(const mg_codes *w) {
    return mg_codes_head(w) + (w->k * w->bits + 7) / 8 * MG_CODES_NR;
}

#endif
