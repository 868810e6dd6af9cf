/* blend_thin.c - which elements of a delta survive: the k largest of a tensor found in three streaming passes (upper
 * half of the bits, lower half, position of the last tie), a coin per element, or a coin weighted by the rank in its
 * row. */
#include "convert/blend.h"

#include "formats/base/mix64.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t magnitude(float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits & 0x7fffffffu;
}

static bool within(mg_cut c, uint32_t bits, uint64_t index) {
    return bits > c.bits || (bits == c.bits && index <= c.last);
}

/* A number in [0, 1) from the tensor's seed, the input and the element. */
static double uniform(uint64_t seed, uint32_t input, uint64_t index) {
    return mg_unit_from(mg_mix64(seed + (((uint64_t)input << 48) ^ index) * MG_MIX64_STEP));
}

typedef struct ranked {
    uint32_t bits, at;
} ranked;

static int by_bits(const void *pa, const void *pb) {
    const ranked *a = pa, *b = pb;
    if (a->bits != b->bits) return a->bits < b->bits ? -1 : 1;
    return a->at < b->at ? -1 : 1;
}

uint64_t mg_blend_scratch(const mg_blend *b, uint64_t cols) {
    return mg_blend_info_of(b->method)->thin == MG_THIN_RANK ? cols * sizeof(ranked) : 1;
}

/* Survival by rank within a row of `cols` elements. */
static void thin_by_rank(const mg_blend *b, uint32_t i, uint64_t first, uint64_t cols, ranked *r, float *d) {
    for (uint32_t k = 0; k < cols; k++) r[k] = (ranked){magnitude(d[k]), k};
    qsort(r, (size_t)cols, sizeof *r, by_bits);
    for (uint64_t rank = 0; rank < cols; rank++) {
        double place = cols > 1 ? (double)rank / (double)(cols - 1) : 0;
        double p = b->density[i] - b->epsilon[i] + place * 2 * b->epsilon[i];
        if (uniform(b->seed, i, first + r[rank].at) >= p) d[r[rank].at] = 0;
    }
}

static void thin_rows(const mg_blend *b, const mg_blend_stats *st, uint32_t i, uint64_t first_row, uint64_t n_rows,
                      uint64_t cols, void *scratch, float *d) {
    uint64_t first = first_row * cols, n = n_rows * cols;
    mg_blend_thin how = mg_blend_info_of(b->method)->thin;
    if (b->density[i] >= 1) return;
    if (b->density[i] <= 0) {
        memset(d, 0, (size_t)n * sizeof *d);
        return;
    }
    if (how == MG_THIN_RANK) {
        for (uint64_t r = 0; r < n_rows; r++) thin_by_rank(b, i, first + r * cols, cols, scratch, d + r * cols);
        return;
    }
    for (uint64_t k = 0; k < n; k++) {
        bool kept = how == MG_THIN_RANDOM ? uniform(b->seed, i, first + k) < b->density[i]
                                          : within(st->keep[i], magnitude(d[k]), first + k) &&
                                                !within(st->drop[i], magnitude(d[k]), first + k);
        if (!kept) d[k] = 0;
    }
}

void mg_blend_thin_rows(const mg_blend *b, const mg_blend_stats *st, uint32_t i, uint64_t first_row, uint64_t n_rows,
                        uint64_t cols, void *scratch, float *d) {
    thin_rows(b, st, i, first_row, n_rows, cols, scratch, d);
    if (st->scale[i] != 1)
        for (uint64_t k = 0; k < n_rows * cols; k++) d[k] *= st->scale[i];
}

float mg_blend_variance(const mg_blend *b, float *const *x, uint64_t k) {
    float mean = 0, sum = 0, n = (float)(b->n - 1);
    for (uint32_t i = 1; i < b->n; i++) mean += x[i][k];
    mean /= n;
    for (uint32_t i = 1; i < b->n; i++) sum += (x[i][k] - mean) * (x[i][k] - mean);
    return sum / n;
}

/* ---- streaming ---- */

typedef struct walk {
    const mg_blend *b;
    const mg_blend_source *s;
    float *x[MG_BLEND_MAX];
    uint64_t tile;
} walk;

/* Deltas of rows [r, r + n) of all inputs. */
static mg_status read_deltas(walk *w, uint64_t r, uint64_t n, mg_error *err) {
    for (uint32_t i = 0; i < w->b->n; i++) {
        MG_TRY(w->s->read(w->s->ctx, i, r, n, w->x[i], err));
        for (uint64_t k = 0; i && k < n * w->s->cols; k++) w->x[i][k] -= w->x[0][k];
    }
    return MG_OK;
}

/* The `want` largest of one list of values: the deltas of an input, or (input 0) the variances. */
typedef struct selection {
    uint32_t input;
    uint64_t want, left; /* left: to be taken from the bucket, then from the ties */
    mg_cut *out;
    uint64_t *count; /* [65536] */
    uint32_t bucket;
    bool open; /* ties must be counted */
} selection;

static uint32_t value_at(const walk *w, const selection *q, uint64_t k) {
    return q->input ? magnitude(w->x[q->input][k]) : magnitude(mg_blend_variance(w->b, w->x, k));
}

/* The bucket in which the running count from the top passes `left`; left becomes what is wanted of it. */
static uint32_t find_bucket(selection *q) {
    uint32_t at = 65535;
    while (at && q->count[at] < q->left) q->left -= q->count[at--];
    return at;
}

static void look(const walk *w, selection *q, int pass, uint64_t first, uint64_t n) {
    for (uint64_t k = 0; k < n; k++) {
        uint32_t bits = value_at(w, q, k);
        if (pass == 0)
            q->count[bits >> 16]++;
        else if (pass == 1 && bits >> 16 == q->bucket)
            q->count[bits & 65535]++;
        else if (pass == 2 && q->open && bits == q->out->bits && --q->left == 0) {
            q->out->last = first + k;
            q->open = false;
        }
    }
}

static void close_pass(selection *q, int pass) {
    if (pass == 0) {
        q->bucket = find_bucket(q);
        memset(q->count, 0, 65536 * sizeof *q->count);
    } else if (pass == 1) {
        uint32_t low = find_bucket(q);
        q->out->bits = q->bucket << 16 | low;
        q->out->last = UINT64_MAX;
        q->open = q->left < q->count[low];
    }
}

static mg_status select_all(walk *w, selection *q, uint32_t n_q, mg_error *err) {
    for (uint32_t i = 0; i < n_q; i++) {
        q[i].left = q[i].want;
        if (!(q[i].count = calloc(65536, sizeof *q[i].count))) return mg_fail_nomem(err, 65536 * sizeof *q[i].count);
    }
    for (int pass = 0; pass < 3; pass++) {
        bool any = pass < 2;
        for (uint32_t i = 0; i < n_q; i++) any = any || q[i].open;
        for (uint64_t r = 0; any && r < w->s->rows; r += w->tile) {
            uint64_t n = w->s->rows - r < w->tile ? w->s->rows - r : w->tile;
            MG_TRY(read_deltas(w, r, n, err));
            for (uint32_t i = 0; i < n_q; i++) look(w, &q[i], pass, r * w->s->cols, n * w->s->cols);
        }
        for (uint32_t i = 0; i < n_q; i++) close_pass(&q[i], pass);
    }
    return MG_OK;
}

/* All, none, or a selection to be made. */
static void want(selection *q, uint32_t *n_q, uint32_t input, uint64_t k, uint64_t all, mg_cut *out) {
    if (k == 0)
        *out = (mg_cut){UINT32_MAX, 0};
    else if (k >= all)
        *out = (mg_cut){0, UINT64_MAX};
    else
        q[(*n_q)++] = (selection){.input = input, .want = k, .out = out};
}

static void want_of_input(const mg_blend *b, mg_blend_thin how, uint32_t i, uint64_t all, mg_blend_stats *st,
                          selection *q, uint32_t *n_q) {
    uint64_t target = (uint64_t)(b->density[i] * (double)all), top = 0;
    if (how == MG_THIN_LARGEST && target == 0) target = 1;
    if (how == MG_THIN_MIDDLE) top = (uint64_t)(b->gamma[i] * (double)all);
    if (top > all - target) top = all - target; /* the density comes first */
    want(q, n_q, i, target + top, all, &st->keep[i]);
    want(q, n_q, i, top, all, &st->drop[i]);
}

/* What the surviving elements are multiplied by so that their absolute sum is the delta's. */
static mg_status sum_survivors(walk *w, void *scratch, mg_blend_stats *st, mg_error *err) {
    double before[MG_BLEND_MAX] = {0}, after[MG_BLEND_MAX] = {0};
    for (uint64_t r = 0; r < w->s->rows; r += w->tile) {
        uint64_t rows = w->s->rows - r < w->tile ? w->s->rows - r : w->tile;
        MG_TRY(read_deltas(w, r, rows, err));
        for (uint32_t i = 1; i < w->b->n; i++) {
            for (uint64_t k = 0; k < rows * w->s->cols; k++) before[i] += fabs((double)w->x[i][k]);
            thin_rows(w->b, st, i, r, rows, w->s->cols, scratch, w->x[i]);
            for (uint64_t k = 0; k < rows * w->s->cols; k++) after[i] += fabs((double)w->x[i][k]);
        }
    }
    for (uint32_t i = 1; i < w->b->n; i++)
        if (before[i] >= 1e-7 && after[i] >= 1e-7) st->scale[i] = (float)(before[i] / after[i]);
    return MG_OK;
}

static mg_status measure_scales(walk *w, mg_blend_stats *st, mg_error *err) {
    void *scratch = malloc((size_t)mg_blend_scratch(w->b, w->s->cols));
    if (!scratch) return mg_fail_nomem(err, mg_blend_scratch(w->b, w->s->cols));
    mg_status status = sum_survivors(w, scratch, st, err);
    free(scratch);
    return status;
}

/* sce: elements by variance, then each model's share of the squared deltas that are left. */
static mg_status prepare_sce(walk *w, mg_blend_stats *st, selection *q, mg_error *err) {
    const mg_blend *b = w->b;
    uint64_t cols = w->s->cols, nonzero = 0;
    uint32_t n_q = 0;
    for (uint64_t r = 0; b->select_topk < 1 && r < w->s->rows; r += w->tile) {
        uint64_t rows = w->s->rows - r < w->tile ? w->s->rows - r : w->tile;
        MG_TRY(read_deltas(w, r, rows, err));
        for (uint64_t k = 0; k < rows * cols; k++) nonzero += mg_blend_variance(b, w->x, k) != 0;
    }
    if (b->select_topk < 1) {
        want(q, &n_q, 0, (uint64_t)((double)nonzero * b->select_topk), w->s->rows * cols, &st->keep[0]);
        MG_TRY(select_all(w, q, n_q, err));
    }
    double square[MG_BLEND_MAX] = {0}, total = 0;
    for (uint64_t r = 0; r < w->s->rows; r += w->tile) {
        uint64_t rows = w->s->rows - r < w->tile ? w->s->rows - r : w->tile;
        MG_TRY(read_deltas(w, r, rows, err));
        for (uint64_t k = 0; k < rows * cols; k++) {
            if (b->select_topk < 1 && !within(st->keep[0], magnitude(mg_blend_variance(b, w->x, k)), r * cols + k))
                continue;
            for (uint32_t i = 1; i < b->n; i++) square[i] += (double)w->x[i][k] * (double)w->x[i][k];
        }
    }
    for (uint32_t i = 1; i < b->n; i++) total += square[i] /= (double)(w->s->rows * cols);
    for (uint32_t i = 1; i < b->n; i++) st->factor[i] = total < 1e-6 ? 1.0 / (b->n - 1) : square[i] / total;
    return MG_OK;
}

mg_status mg_blend_prepare_thin(const mg_blend *b, const mg_blend_source *s, float *work, uint64_t tile,
                                mg_blend_stats *st, mg_error *err) {
    walk w = {.b = b, .s = s, .tile = tile};
    selection q[2 * MG_BLEND_MAX] = {0};
    mg_blend_thin how = mg_blend_info_of(b->method)->thin;
    uint32_t n_q = 0;
    for (uint32_t i = 0; i < b->n; i++) {
        w.x[i] = work + i * (tile * s->cols);
        st->scale[i] = 1;
    }
    mg_status status = MG_OK;
    if (b->method == MG_BLEND_SCE) {
        status = prepare_sce(&w, st, q, err);
    } else {
        for (uint32_t i = 1; i < b->n && (how == MG_THIN_LARGEST || how == MG_THIN_MIDDLE); i++)
            if (b->density[i] < 1) want_of_input(b, how, i, s->rows * s->cols, st, q, &n_q);
        if (n_q) status = select_all(&w, q, n_q, err);
        if (status == MG_OK && b->rescale) status = measure_scales(&w, st, err);
    }
    for (uint32_t i = 0; i < 2 * MG_BLEND_MAX; i++) free(q[i].count);
    return status;
}
