/* blend.h - several tensors of one shape made into one: the merge methods of mergekit as formulas over f32 elements.
 *
 * x_i are the inputs, b the base, d_i = x_i - b. Everything is computed in f32 with inputs in the recipe's order; what
 * a formula needs of whole tensors (norms, angles, the size of the k-th largest element) is gathered first, in f64 sums
 * over ascending elements, by mg_blend_prepare. Formulas: docs/merge.md. Sources: the papers named there and mergekit
 * 0.1.5, which computes in the recipe's dtype (bfloat16 deltas are rounded there, not here). */
#ifndef MG_CONVERT_BLEND_H
#define MG_CONVERT_BLEND_H

#include "formats/base/status.h"

enum { MG_BLEND_MAX = 64 }; /* inputs, the base included */

typedef enum mg_blend_method {
    MG_BLEND_LINEAR,
    MG_BLEND_PASSTHROUGH,
    MG_BLEND_SLERP,
    MG_BLEND_NUSLERP,
    MG_BLEND_MULTISLERP,
    MG_BLEND_KARCHER,
    MG_BLEND_MODEL_STOCK,
    MG_BLEND_NEARSWAP,
    MG_BLEND_TASK_ARITHMETIC,
    MG_BLEND_TIES,
    MG_BLEND_DARE_LINEAR,
    MG_BLEND_DARE_TIES,
    MG_BLEND_DELLA_LINEAR,
    MG_BLEND_DELLA,
    MG_BLEND_BREADCRUMBS,
    MG_BLEND_BREADCRUMBS_TIES,
    MG_BLEND_SCE,
    MG_BLEND_METHOD_COUNT,
} mg_blend_method;

typedef enum mg_blend_base { MG_BLEND_BASE_NONE, MG_BLEND_BASE_OPTIONAL, MG_BLEND_BASE_REQUIRED } mg_blend_base;
typedef enum mg_blend_thin { /* which elements of a delta survive */
                             MG_THIN_NONE,
                             MG_THIN_LARGEST, /* the density * n largest */
                             MG_THIN_MIDDLE,  /* the same after the gamma * n largest are gone */
                             MG_THIN_RANDOM,  /* each with probability density */
                             MG_THIN_RANK,    /* each with a probability between density -+ epsilon that grows with its
                                                 rank in its row */
} mg_blend_thin;

typedef struct mg_blend_info {
    const char *name;
    mg_blend_base base;
    uint32_t min_inputs, max_inputs; /* the base not counted */
    mg_blend_thin thin;
    bool elect;                /* signs are elected by the weighted sum; elements of the other sign are left out */
    bool normalize, rescale;   /* defaults */
    const char *parameters[8]; /* that a recipe may give; NULL-terminated */
} mg_blend_info;

const mg_blend_info *mg_blend_info_of(mg_blend_method m);
/* MG_ERR_UNSUPPORTED with the nearest name. */
mg_status mg_blend_parse(const char *name, mg_blend_method *out, mg_error *err) MG_MUST_CHECK;

/* One blend of n inputs. Plain data, zeroed before it is filled: its bytes identify it. */
typedef struct mg_blend {
    mg_blend_method method;
    uint32_t n;    /* inputs, the base included */
    bool has_base; /* input 0 is the base */
    bool normalize, rescale;
    uint32_t max_iter; /* karcher */
    double t, lambda, eps, tol, select_topk;
    uint64_t seed; /* of this tensor's random choices */
    double weight[MG_BLEND_MAX], density[MG_BLEND_MAX], gamma[MG_BLEND_MAX], epsilon[MG_BLEND_MAX];
} mg_blend;

/* The k largest of a list, in words that a stream can test: bits above `bits`, and equal ones up to index `last`. */
typedef struct mg_cut {
    uint32_t bits;
    uint64_t last;
} mg_cut;

typedef struct mg_blend_stats {
    double factor[MG_BLEND_MAX]; /* of x_i, or of d_i when `relative` */
    bool relative;
    mg_cut keep[MG_BLEND_MAX], drop[MG_BLEND_MAX]; /* kept: within keep and not within drop */
    float scale[MG_BLEND_MAX];                     /* of the surviving elements */
} mg_blend_stats;

/* Where inputs are read: rows of f32, cols values each. */
typedef struct mg_blend_source {
    uint64_t rows, cols;
    mg_status (*read)(void *ctx, uint32_t input, uint64_t row, uint64_t n, float *dst, mg_error *err);
    void *ctx;
} mg_blend_source;

/* Values that do not fit the method: MG_ERR_CONFLICT in words. */
mg_status mg_blend_check(const mg_blend *b, mg_error *err) MG_MUST_CHECK;
/* Factors of the inputs (of their deltas, where the method has a base) of linear, passthrough and task_arithmetic:
 * weight * lambda, with `normalize` over the sum of weights. MG_ERR_CONFLICT when linear's sum is 0. */
mg_status mg_blend_weights(const mg_blend *b, double *factors, mg_error *err) MG_MUST_CHECK;
/* Read the inputs as often as the method needs (0 to 4 times). work: b->n * tile_rows * cols floats. MG_ERR_CONFLICT
 * when the formula has no result for these inputs (weights or directions that cancel). */
mg_status mg_blend_prepare(const mg_blend *b, const mg_blend_source *s, float *work, uint64_t tile_rows,
                           mg_blend_stats *out, mg_error *err) MG_MUST_CHECK;
/* n_rows rows from first_row on: x[i] are those rows of input i (their content is lost). scratch: mg_blend_scratch
 * bytes. */
void mg_blend_rows(const mg_blend *b, const mg_blend_stats *st, uint64_t first_row, uint64_t n_rows, uint64_t cols,
                   float *const *x, void *scratch, float *dst);
uint64_t mg_blend_scratch(const mg_blend *b, uint64_t cols);

/* ---- between the files of the blend ---- */
/* blend_thin.c: turn the deltas of input i into its surviving, rescaled elements; and the statistics that takes. */
void mg_blend_thin_rows(const mg_blend *b, const mg_blend_stats *st, uint32_t i, uint64_t first_row, uint64_t n_rows,
                        uint64_t cols, void *scratch, float *d);
/* The variance over the deltas of one element, as sce selects by it. */
float mg_blend_variance(const mg_blend *b, float *const *x, uint64_t k);
mg_status mg_blend_prepare_thin(const mg_blend *b, const mg_blend_source *s, float *work, uint64_t tile_rows,
                                mg_blend_stats *st, mg_error *err) MG_MUST_CHECK;

#endif
