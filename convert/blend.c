/* blend.c - the methods, their factors from the inputs' Gram matrix, and the sum of a tile. */
#include "convert/blend.h"

#include "formats/base/options.h"

#include <math.h>
#include <string.h>

#define NO_LIMIT MG_BLEND_MAX - 1
/* clang-format off */
static const mg_blend_info infos[MG_BLEND_METHOD_COUNT] = {
    [MG_BLEND_LINEAR] = {"linear", MG_BLEND_BASE_NONE, 1, NO_LIMIT, .normalize = true, .parameters = {"weight", "normalize"}},
    [MG_BLEND_PASSTHROUGH] = {"passthrough", MG_BLEND_BASE_NONE, 1, 1, .parameters = {"scale"}},
    [MG_BLEND_SLERP] = {"slerp", MG_BLEND_BASE_REQUIRED, 1, 1, .parameters = {"t"}},
    [MG_BLEND_NUSLERP] = {"nuslerp", MG_BLEND_BASE_OPTIONAL, 2, 2, .parameters = {"weight"}},
    [MG_BLEND_MULTISLERP] = {"multislerp", MG_BLEND_BASE_OPTIONAL, 1, NO_LIMIT, .normalize = true,
        .parameters = {"weight", "normalize_weights", "eps"}},
    [MG_BLEND_KARCHER] = {"karcher", MG_BLEND_BASE_NONE, 1, NO_LIMIT, .parameters = {"max_iter", "tol"}},
    [MG_BLEND_MODEL_STOCK] = {"model_stock", MG_BLEND_BASE_REQUIRED, 2, NO_LIMIT, .parameters = {NULL}},
    [MG_BLEND_NEARSWAP] = {"nearswap", MG_BLEND_BASE_REQUIRED, 1, 1, .parameters = {"t"}},
    [MG_BLEND_TASK_ARITHMETIC] = {"task_arithmetic", MG_BLEND_BASE_REQUIRED, 1, NO_LIMIT,
        .parameters = {"weight", "normalize", "lambda"}},
    [MG_BLEND_TIES] = {"ties", MG_BLEND_BASE_REQUIRED, 1, NO_LIMIT, MG_THIN_LARGEST, true, true, false,
        {"weight", "normalize", "lambda", "density", "rescale", "int8_mask"}},
    [MG_BLEND_DARE_LINEAR] = {"dare_linear", MG_BLEND_BASE_REQUIRED, 1, NO_LIMIT, MG_THIN_RANDOM, false, false, true,
        {"weight", "normalize", "lambda", "density", "rescale", "int8_mask"}},
    [MG_BLEND_DARE_TIES] = {"dare_ties", MG_BLEND_BASE_REQUIRED, 1, NO_LIMIT, MG_THIN_RANDOM, true, false, true,
        {"weight", "normalize", "lambda", "density", "rescale", "int8_mask"}},
    [MG_BLEND_DELLA_LINEAR] = {"della_linear", MG_BLEND_BASE_REQUIRED, 1, NO_LIMIT, MG_THIN_RANK, false, false, true,
        {"weight", "normalize", "lambda", "density", "rescale", "int8_mask", "epsilon"}},
    [MG_BLEND_DELLA] = {"della", MG_BLEND_BASE_REQUIRED, 1, NO_LIMIT, MG_THIN_RANK, true, true, true,
        {"weight", "normalize", "lambda", "density", "rescale", "int8_mask", "epsilon"}},
    [MG_BLEND_BREADCRUMBS] = {"breadcrumbs", MG_BLEND_BASE_REQUIRED, 1, NO_LIMIT, MG_THIN_MIDDLE, false, false, false,
        {"weight", "normalize", "lambda", "density", "rescale", "int8_mask", "gamma"}},
    [MG_BLEND_BREADCRUMBS_TIES] = {"breadcrumbs_ties", MG_BLEND_BASE_REQUIRED, 1, NO_LIMIT, MG_THIN_MIDDLE, true, false, false,
        {"weight", "normalize", "lambda", "density", "rescale", "int8_mask", "gamma"}},
    [MG_BLEND_SCE] = {"sce", MG_BLEND_BASE_REQUIRED, 1, NO_LIMIT, .parameters = {"select_topk", "int8_mask"}},
};
/* clang-format on */

const mg_blend_info *mg_blend_info_of(mg_blend_method m) {
    return &infos[m];
}

mg_status mg_blend_parse(const char *name, mg_blend_method *out, mg_error *err) {
    const char *names[MG_BLEND_METHOD_COUNT + 1] = {0};
    for (int m = 0; m < MG_BLEND_METHOD_COUNT; m++) {
        names[m] = infos[m].name;
        if (strcmp(name, names[m]) != 0) continue;
        *out = (mg_blend_method)m;
        return MG_OK;
    }
    const char *near = mg_nearest(name, names);
    return mg_fail(err, MG_ERR_UNSUPPORTED, "merge method '%s' is not built%s%s%s", name,
                   near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
}

mg_status mg_blend_check(const mg_blend *b, mg_error *err) {
    const mg_blend_info *info = &infos[b->method];
    uint32_t models = b->n - (b->has_base ? 1 : 0);
    if (info->base == MG_BLEND_BASE_REQUIRED && !b->has_base)
        return mg_fail(err, MG_ERR_CONFLICT, "merge method '%s' needs a base_model", info->name);
    if (b->n > MG_BLEND_MAX) return mg_fail(err, MG_ERR_LIMIT, "more than %d models", MG_BLEND_MAX);
    if (models < info->min_inputs || models > info->max_inputs)
        return mg_fail(err, MG_ERR_CONFLICT, "merge method '%s' takes %s%u models%s, there are %u", info->name,
                       info->min_inputs == info->max_inputs ? "" : "at least ", info->min_inputs,
                       b->has_base ? " beside the base" : "", models);
    for (uint32_t i = b->has_base ? 1 : 0; i < b->n && info->thin != MG_THIN_NONE; i++) {
        if (!(b->density[i] >= 0 && b->density[i] <= 1) || !(b->gamma[i] >= 0 && b->gamma[i] <= 1))
            return mg_fail(err, MG_ERR_CONFLICT, "density %g and gamma %g must be between 0 and 1", b->density[i],
                           b->gamma[i]);
        bool inside = b->density[i] + b->epsilon[i] < 1 && b->density[i] - b->epsilon[i] > 0;
        if (info->thin == MG_THIN_RANK && b->density[i] > 0 && b->density[i] < 1 && !inside)
            return mg_fail(err, MG_ERR_CONFLICT, "density %g +- epsilon %g must stay between 0 and 1", b->density[i],
                           b->epsilon[i]);
    }
    return MG_OK;
}

/* ---- factors ---- */

typedef struct gram {
    double g[MG_BLEND_MAX][MG_BLEND_MAX];
} gram;

/* Inner products of all inputs, or of the deltas (then without row and column 0). */
static mg_status make_gram(const mg_blend *b, const mg_blend_source *s, bool relative, float *work, uint64_t tile,
                           gram *out, mg_error *err) {
    memset(out, 0, sizeof *out);
    for (uint64_t r = 0; r < s->rows; r += tile) {
        uint64_t rows = s->rows - r < tile ? s->rows - r : tile, n = rows * s->cols;
        for (uint32_t i = 0; i < b->n; i++) MG_TRY(s->read(s->ctx, i, r, rows, work + i * (tile * s->cols), err));
        for (uint32_t i = relative ? 1 : 0; i < b->n; i++) {
            float *x = work + i * (tile * s->cols);
            for (uint64_t k = 0; relative && k < n; k++) x[k] -= work[k];
            for (uint32_t j = relative ? 1 : 0; j <= i; j++) {
                const float *y = work + j * (tile * s->cols);
                double sum = 0;
                for (uint64_t k = 0; k < n; k++) sum += (double)x[k] * (double)y[k];
                out->g[i][j] += sum;
                out->g[j][i] = out->g[i][j];
            }
        }
    }
    return MG_OK;
}

static double norm_of(const gram *g, uint32_t i) {
    return sqrt(g->g[i][i]);
}

/* Factors of a great circle from x_a to x_b; a straight line when they (nearly) coincide or oppose. */
static void circle(double t, double cosine, double limit, double *fa, double *fb) {
    double theta = acos(fmin(1, fmax(-1, cosine))), sine = sin(theta);
    bool line = fabs(cosine) > limit;
    *fa = line ? 1 - t : sin((1 - t) * theta) / sine;
    *fb = line ? t : sin(t * theta) / sine;
}

static void factors_slerp(const mg_blend *b, const gram *g, double *f) {
    double na = norm_of(g, 0) > 1e-8 ? norm_of(g, 0) : 1, nb = norm_of(g, 1) > 1e-8 ? norm_of(g, 1) : 1;
    circle(b->t, g->g[0][1] / na / nb, 0.9995, &f[0], &f[1]);
}

static void factors_nuslerp(const mg_blend *b, const gram *g, double *f) {
    uint32_t i = b->has_base ? 1 : 0;
    double total = b->weight[i] + b->weight[i + 1], t = fabs(total) < 1e-6 ? 0.5 : b->weight[i + 1] / total;
    double c = g->g[i][i + 1] / fmax(norm_of(g, i), 1e-7) / fmax(norm_of(g, i + 1), 1e-7);
    circle(t, c, sqrt(1 - 1e-16), &f[i], &f[i + 1]);
}

/* v = sum_i c_i u_i with u_i = x_i * unit_i: vectors in the span of the inputs, by their coefficients. */
typedef struct span {
    const gram *g;
    uint32_t first, n; /* inputs first .. n - 1 */
    double unit[MG_BLEND_MAX];
} span;

static double span_dot(const span *s, const double *a, const double *b) {
    double sum = 0;
    for (uint32_t i = s->first; i < s->n; i++)
        for (uint32_t j = s->first; j < s->n; j++) sum += a[i] * b[j] * s->g->g[i][j] * s->unit[i] * s->unit[j];
    return sum;
}

static double span_norm(const span *s, const double *a) {
    return sqrt(fmax(0, span_dot(s, a, a)));
}

static void span_add(const span *s, double *a, double factor, const double *b) {
    for (uint32_t i = s->first; i < s->n; i++) a[i] += factor * b[i];
}

static void span_scale(const span *s, double *a, double factor) {
    for (uint32_t i = s->first; i < s->n; i++) a[i] *= factor;
}

/* The weighted mean of directions, by one step in the plane that touches the sphere there; length: the mean of the
 * inputs'. */
static mg_status factors_multislerp(const mg_blend *b, const gram *g, double *f, mg_error *err) {
    span s = {.g = g, .first = b->has_base ? 1 : 0, .n = b->n};
    double w[MG_BLEND_MAX] = {0}, mean[MG_BLEND_MAX] = {0}, tangent[MG_BLEND_MAX] = {0}, total = 0, length = 0;
    for (uint32_t i = s.first; i < s.n; i++) total += b->weight[i];
    if (b->normalize && total == 0)
        return mg_fail(err, MG_ERR_CONFLICT, "the weights sum to 0 and cannot be normalised");
    for (uint32_t i = s.first; i < s.n; i++) {
        w[i] = b->normalize ? b->weight[i] / total : b->weight[i];
        s.unit[i] = 1 / (norm_of(g, i) + b->eps);
        length += norm_of(g, i) * w[i];
        mean[i] = w[i];
    }
    double n = span_norm(&s, mean);
    if (s.n - s.first == 1 || (n < b->eps && s.n - s.first == 2)) {
        memcpy(f, s.n - s.first == 1 ? (double[MG_BLEND_MAX]){[0] = 1, [1] = 1} : w, sizeof w);
        return MG_OK;
    }
    if (n < b->eps) return mg_fail(err, MG_ERR_CONFLICT, "the weighted directions of the models cancel");
    span_scale(&s, mean, 1 / n);
    for (uint32_t i = s.first; i < s.n; i++) {
        double u[MG_BLEND_MAX] = {0};
        u[i] = 1;
        span_add(&s, tangent, w[i], u);
        span_add(&s, tangent, -w[i] * span_dot(&s, u, mean), mean);
    }
    double tn = span_norm(&s, tangent) + b->eps;
    span_scale(&s, mean, cos(tn));
    span_add(&s, mean, sin(tn) / tn, tangent);
    for (uint32_t i = s.first; i < s.n; i++) f[i] = mean[i] * s.unit[i] * length;
    return MG_OK;
}

/* The point on the sphere with the smallest sum of squared angles to all inputs, by iteration from their mean. */
static void factors_karcher(const mg_blend *b, const gram *g, double *f) {
    span s = {.g = g, .n = b->n};
    double alpha[MG_BLEND_MAX] = {0}, mean[MG_BLEND_MAX] = {0}, length = 0;
    uint32_t valid = 0, first = 0;
    for (uint32_t i = b->n; i-- > 0;) {
        length += norm_of(g, i) / b->n;
        if (norm_of(g, i) <= b->tol) continue;
        s.unit[i] = 1 / norm_of(g, i);
        first = i;
        valid++;
    }
    if (!valid) return; /* all zero: so is the mean */
    for (uint32_t i = 0; i < b->n; i++) mean[i] = alpha[i] = s.unit[i] > 0 ? 1.0 / valid : 0;
    double n = span_norm(&s, mean);
    if (n < b->tol) {
        memset(mean, 0, sizeof mean);
        mean[first] = 1;
    } else {
        span_scale(&s, mean, 1 / n);
    }
    for (uint32_t k = 0; k < b->max_iter; k++) {
        double tangent[MG_BLEND_MAX] = {0};
        for (uint32_t i = 0; i < b->n; i++) {
            if (alpha[i] == 0) continue;
            double u[MG_BLEND_MAX] = {0};
            u[i] = 1;
            double c = fmin(1, fmax(-1, span_dot(&s, mean, u))), theta = acos(c);
            if (theta < b->tol) continue;
            span_add(&s, tangent, alpha[i] * theta / sin(theta), u);
            span_add(&s, tangent, -alpha[i] * theta / sin(theta) * c, mean);
        }
        double tn = span_norm(&s, tangent);
        if (tn < b->tol) break;
        span_scale(&s, mean, cos(tn));
        span_add(&s, mean, sin(tn) / tn, tangent);
        double un = span_norm(&s, mean);
        if (un > b->tol) span_scale(&s, mean, 1 / un);
    }
    for (uint32_t i = 0; i < b->n; i++) f[i] = mean[i] * s.unit[i] * length;
}

static void factors_model_stock(const mg_blend *b, const gram *g, double *f) {
    double sum = 0;
    uint32_t n = b->n - 1, pairs = 0;
    for (uint32_t i = 1; i < b->n; i++)
        for (uint32_t j = i + 1; j < b->n; j++, pairs++)
            sum += fmin(1, fmax(-1, g->g[i][j] / fmax(norm_of(g, i) * norm_of(g, j), 1e-6)));
    double c = sum / pairs, below = 1 + (n - 1) * c, t = fabs(below) < 1e-6 ? 0 : n * c / below;
    for (uint32_t i = 1; i < b->n; i++) f[i] = t / n;
}

mg_status mg_blend_weights(const mg_blend *b, double *f, mg_error *err) {
    double total = 0;
    uint32_t first = b->has_base ? 1 : 0;
    for (uint32_t i = first; i < b->n; i++) total += b->weight[i];
    if (b->method == MG_BLEND_LINEAR && b->normalize && total == 0)
        return mg_fail(err, MG_ERR_CONFLICT, "the weights sum to 0 and cannot be normalised");
    double by = b->normalize && fabs(total) >= 1e-8 ? 1 / total : 1;
    for (uint32_t i = first; i < b->n; i++) f[i] = b->lambda * b->weight[i] * by;
    return MG_OK;
}

mg_status mg_blend_prepare(const mg_blend *b, const mg_blend_source *s, float *work, uint64_t tile, mg_blend_stats *out,
                           mg_error *err) {
    gram g;
    *out = (mg_blend_stats){.relative = b->has_base && b->method != MG_BLEND_SLERP};
    switch (b->method) {
    case MG_BLEND_TASK_ARITHMETIC:
        return mg_blend_weights(b, out->factor, err);
    case MG_BLEND_NEARSWAP:
        return MG_OK;
    case MG_BLEND_SLERP:
        MG_TRY(make_gram(b, s, false, work, tile, &g, err));
        factors_slerp(b, &g, out->factor);
        return MG_OK;
    case MG_BLEND_NUSLERP:
        MG_TRY(make_gram(b, s, out->relative, work, tile, &g, err));
        factors_nuslerp(b, &g, out->factor);
        return MG_OK;
    case MG_BLEND_MULTISLERP:
        MG_TRY(make_gram(b, s, out->relative, work, tile, &g, err));
        return factors_multislerp(b, &g, out->factor, err);
    case MG_BLEND_KARCHER:
        MG_TRY(make_gram(b, s, false, work, tile, &g, err));
        factors_karcher(b, &g, out->factor);
        return MG_OK;
    case MG_BLEND_MODEL_STOCK:
        MG_TRY(make_gram(b, s, true, work, tile, &g, err));
        factors_model_stock(b, &g, out->factor);
        return MG_OK;
    default:
        return mg_blend_prepare_thin(b, s, work, tile, out, err);
    }
}

/* ---- a tile ---- */

static void sum_rows(const mg_blend *b, const mg_blend_stats *st, uint64_t n, float *const *x, float *dst) {
    uint32_t first = st->relative ? 1 : 0;
    for (uint32_t i = first; i < b->n; i++) {
        float f = (float)st->factor[i];
        for (uint64_t k = 0; k < n; k++) {
            float v = st->relative ? x[i][k] - x[0][k] : x[i][k];
            dst[k] = i == first ? f * v : dst[k] + f * v;
        }
    }
    for (uint64_t k = 0; st->relative && k < n; k++) dst[k] = x[0][k] + dst[k];
}

static void nearswap_rows(const mg_blend *b, uint64_t n, float *const *x, float *dst) {
    for (uint64_t k = 0; k < n; k++) {
        float w = (float)b->t / fmaxf(fabsf(x[0][k] - x[1][k]), 1e-6f);
        w = fminf(1, fmaxf(0, w));
        dst[k] = w * x[1][k] + (1 - w) * x[0][k];
    }
}

/* Sum of one element's weighted deltas; with an election only of those that have the sign of that sum (positive when it
 * is 0), and the weights that took part. */
static float vote(const mg_blend *b, bool elect, float *const *x, uint64_t k, float *weights) {
    float sum = 0, part = 0, total = 0, kept = 0;
    for (uint32_t i = 1; i < b->n; i++) {
        sum += x[i][k] * (float)b->weight[i];
        total += (float)b->weight[i];
    }
    for (uint32_t i = 1; i < b->n && elect; i++) {
        float v = x[i][k] * (float)b->weight[i];
        if (sum >= 0 ? !(v > 0) : !(v < 0)) continue;
        part += v;
        kept += (float)b->weight[i];
    }
    *weights = elect ? kept : total;
    return elect ? part : sum;
}

static void thin_rows(const mg_blend *b, const mg_blend_stats *st, uint64_t first_row, uint64_t rows, uint64_t cols,
                      float *const *x, void *scratch, float *dst) {
    bool elect = infos[b->method].elect;
    uint64_t n = rows * cols;
    for (uint32_t i = 1; i < b->n; i++) {
        for (uint64_t k = 0; k < n; k++) x[i][k] -= x[0][k];
        mg_blend_thin_rows(b, st, i, first_row, rows, cols, scratch, x[i]);
    }
    for (uint64_t k = 0; k < n; k++) {
        float weights, v = vote(b, elect, x, k, &weights);
        if (b->normalize && (elect ? weights != 0 : fabsf(weights) >= 1e-8f)) v /= weights;
        dst[k] = x[0][k] + (b->lambda == 1 ? v : v * (float)b->lambda);
    }
}

/* factor[i]: the share of model i in the squared deltas. */
static void sce_rows(const mg_blend *b, const mg_blend_stats *st, uint64_t first, uint64_t n, float *const *x,
                     float *dst) {
    for (uint32_t i = 1; i < b->n; i++)
        for (uint64_t k = 0; k < n; k++) x[i][k] -= x[0][k];
    for (uint64_t k = 0; k < n; k++) {
        float variance = mg_blend_variance(b, x, k), sum = 0, part = 0, weights = 0;
        uint32_t bits;
        memcpy(&bits, &variance, sizeof bits);
        dst[k] = x[0][k];
        if (b->select_topk < 1 &&
            !(bits > st->keep[0].bits || (bits == st->keep[0].bits && first + k <= st->keep[0].last)))
            continue;
        for (uint32_t i = 1; i < b->n; i++) sum += x[i][k];
        for (uint32_t i = 1; i < b->n; i++) {
            if (sum >= 0 ? !(x[i][k] > 0) : !(x[i][k] < 0)) continue;
            part += x[i][k] * (float)st->factor[i];
            weights += (float)st->factor[i];
        }
        dst[k] += part / fmaxf(weights, 1e-6f);
    }
}

void mg_blend_rows(const mg_blend *b, const mg_blend_stats *st, uint64_t first_row, uint64_t n_rows, uint64_t cols,
                   float *const *x, void *scratch, float *dst) {
    if (b->method == MG_BLEND_NEARSWAP)
        nearswap_rows(b, n_rows * cols, x, dst);
    else if (b->method == MG_BLEND_SCE)
        sce_rows(b, st, first_row * cols, n_rows * cols, x, dst);
    else if (infos[b->method].thin != MG_THIN_NONE)
        thin_rows(b, st, first_row, n_rows, cols, x, scratch, dst);
    else
        sum_rows(b, st, n_rows * cols, x, dst);
}
