/* group_encode.h - rounding weights to codes that share scales in groups: the neutral form that every group format is
 * packed from (quant/group_pack.h), and plain rounding ("RTN") into it.
 *
 *     W[n][k] = (code[n][k] - zero[n][g]) * scale[n][g]          zero points, g = k / group_size or g_idx[k]
 *     W[n][k] =  code[n][k] * scale[n][g] + bias[n][g]           MG_GROUP_EDGE (MLX affine)
 *
 * Scales and biases are already rounded to the type they will be stored in, zeros are whole numbers, and codes are
 * chosen for these stored values: decoding what was written gives exactly mg_group_codes_decode.
 *
 * A stage that rounds by itself (AWQ limits, GPTQ) leaves per linear `codes` U8 [out, in], `scales` F32 [out, groups]
 * (rounded to the stored type with mg_group_choose) and `zeros` U8 [out, groups]: mg_expr_group_pack (convert/plan.h).
 *
 * Formulas: compressed-tensors calculate_qparams, GPTQ find_params, AutoAWQ pseudo_quantize_tensor, MLX
 * affine_quantize; docs/format_groups.md states them. All arithmetic is f32, one rounding per operation; rounding to
 * whole numbers is to nearest even. The result does not depend on threads or instruction set. */
#ifndef MG_QUANT_GROUP_ENCODE_H
#define MG_QUANT_GROUP_ENCODE_H

#include "formats/dtype.h"
#include "quant/group_kernels.h"

/* How the range of a group becomes scale and zero; b = bits, top = 2^b - 1. */
typedef enum mg_group_rule {
    /* With zero points: lo = min(W, 0), hi = max(W, 0), scale = (hi - lo) / top, zero = rint(-lo / scale).
     * Symmetric: scale = 2 max|W| / top, zero = 2^(b-1); the largest positive value may be clipped by half a step. */
    MG_GROUP_MINMAX,
    /* The same with zero points. Symmetric: scale = max|W| / (2^(b-1) - 1), as AutoAWQ without zero points. */
    MG_GROUP_ABSMAX,
    /* No zeros: bias is the end of the range with the larger magnitude and exact, scale has its sign. */
    MG_GROUP_EDGE,
    /* Codes are small floats, E4M3 with 8 bits and E2M1 with 4; no zeros. quant/group_floats.h rounds them: no function
     * below but init, release and get is for them. */
    MG_GROUP_FLOAT,
} mg_group_rule;

typedef struct mg_group_scheme {
    uint32_t bits;       /* 2 to 8 */
    uint64_t group_size; /* columns that share a scale; 0: the whole row */
    bool symmetric;      /* every zero is 2^(bits-1); not with MG_GROUP_EDGE */
    mg_group_rule rule;
    mg_dtype scale_dtype; /* F16, BF16 or F32: scales and biases are rounded to it before codes are chosen.
                             MG_GROUP_FLOAT also F8_E8M0 (MXFP4) and F8_E4M3 (NVFP4) */
    uint32_t zero_min;    /* the smallest zero that can be stored: 0, or 1 (GPTQ v1 stores zero - 1) */
    uint64_t row_block;   /* MG_GROUP_FLOAT: rows that share a scale, at least 1 */
    mg_dtype model_dtype; /* F8_E4M3 scales: the type of the model's floats */
} mg_group_scheme;

/* Scale and zero (or bias) of one group. */
typedef struct mg_group_params {
    float scale, bias;
    uint8_t zero;
} mg_group_params;

/* Some rows of one quantized weight. */
typedef struct mg_group_codes {
    mg_group_scheme scheme;
    uint64_t rows, cols, groups;
    uint8_t *codes;        /* [rows][cols] */
    float *scales;         /* [rows][groups]; MG_GROUP_FLOAT [row blocks][groups] */
    uint8_t *zeros;        /* [rows][groups], NULL with MG_GROUP_EDGE and MG_GROUP_FLOAT */
    float *biases;         /* [rows][groups] with MG_GROUP_EDGE, else NULL */
    const uint32_t *g_idx; /* [cols] group of each column, borrowed; NULL: column / group_size */
    float global;          /* F8_E4M3 scales: what divides them */
} mg_group_codes;

/* MG_ERR_USAGE for bits, group size or scale type outside what is said above. */
mg_status mg_group_scheme_check(const mg_group_scheme *s, mg_error *err) MG_MUST_CHECK;
/* Groups of a row; a last short group counts. */
uint64_t mg_group_count(const mg_group_scheme *s, uint64_t cols);

/* A scale as `type` stores it; sign and magnitude never vanish, because codes are divided by it. MG_ERR_UNSUPPORTED
 * when it is too large. */
mg_status mg_group_store_scale(mg_dtype type, float scale, float *out, mg_error *err) MG_MUST_CHECK;
/* Smallest and largest of n values. MG_ERR_FORMAT names the first that is not finite. */
mg_status mg_group_range(const float *w, uint64_t n, float *lo, float *hi, mg_error *err) MG_MUST_CHECK;
/* Scale and zero (or bias) of a group whose values lie in lo..hi. A group of zeros only gets a scale that decodes it
 * exactly. A scale too small for scale_dtype becomes its smallest number; MG_ERR_UNSUPPORTED when it is too large. */
mg_status mg_group_choose(const mg_group_scheme *s, float lo, float hi, mg_group_params *p,
                          mg_error *err) MG_MUST_CHECK;
/* Codes of n values under p: clamp(rint(w / scale) + zero, 0, top). */
void mg_group_round(const mg_group_scheme *s, const mg_group_params *p, const float *w, uint64_t n, uint8_t *codes);
/* Values of n codes. */
void mg_group_unround(const mg_group_scheme *s, const mg_group_params *p, const uint8_t *codes, uint64_t n, float *w);
/* p as the kernels take it (quant/group_kernels.h), for the inner loops of searches. */
mg_group_step mg_group_step_of(const mg_group_scheme *s, const mg_group_params *p);

/* q with room for rows x cols under s; freed by mg_group_codes_release. */
mg_status mg_group_codes_init(mg_group_codes *q, const mg_group_scheme *s, uint64_t rows, uint64_t cols,
                              mg_error *err) MG_MUST_CHECK;
void mg_group_codes_release(mg_group_codes *q);
/* Round one row of W [cols] to nearest into row `row` of q. Refuses what is not finite. */
mg_status mg_group_codes_set(mg_group_codes *q, uint64_t row, const float *w, mg_error *err) MG_MUST_CHECK;
/* Row `row` of q as f32 [cols]. */
void mg_group_codes_get(const mg_group_codes *q, uint64_t row, float *w);

#endif
