/* expr_groups.c - expressions of quantizing in groups: the rounded weight as slabs of all its stored parts (GROUPS),
 * and one part of it (PART).
 *
 * A form by group (AWQ, GPTQ) needs every row of the weight for each slab. Units therefore take many slabs, so that the
 * weight is read once, or as often as its packed form is larger than GROUP_UNIT. */
#include "convert/expr_tile.h"
#include "convert/plan_private.h"

#include "quant/codec.h"
#include "quant/group_floats.h"

#include <inttypes.h>
#include <string.h>

#define GROUP_UNIT ((uint64_t)32 << 20)
#define GROUP_BAND ((uint64_t)1 << 20) /* f32 bytes of weights that are rounded at a time, at least 32 rows */

/* ---- constructors ---- */

static mg_status check_values(const char *what, const mg_expr *e, mg_error *err) {
    if (mg_codec_get(e->t.dtype)) return MG_OK;
    return mg_fail(err, MG_ERR_UNSUPPORTED, "%s: no arithmetic on the type %s", what, mg_dtype_get(e->t.dtype)->name);
}

mg_status mg_expr_group_form(mg_group_form *f, mg_group_format format, const mg_group_scheme *s, const mg_expr *weight,
                             mg_error *err) {
    const mg_tensor *t = &weight->t;
    if (t->rank != 2 && t->rank != 3)
        return mg_fail(err, MG_ERR_FORMAT, "groups: a weight of %" PRIu32 " dimensions, expected 2 or 3", t->rank);
    MG_TRY(mg_group_form_init(f, format, s, weight->rows, t->shape[t->rank - 1], err));
    return t->rank == 3 ? mg_group_form_stack(f, t->shape[0], err) : MG_OK;
}

/* A row of `cols` for each row of the weight. */
static mg_status expect_shape(const mg_group_form *form, const mg_expr *e, uint64_t cols, mg_error *err) {
    const uint64_t shape[3] = {form->matrices, form->rows / form->matrices, cols};
    return form->matrices > 1 ? mg_tensor_expect_shape(&e->t, 3, shape, err)
                              : mg_tensor_expect_shape(&e->t, 2, shape + 1, err);
}

static mg_status add_parts(mg_plan *p, const mg_expr *const *children, uint32_t n, const mg_group_form *form,
                           const mg_expr **parts, mg_error *err) {
    MG_TRY(expect_shape(form, children[0], form->cols, err));
    void *own;
    MG_TRY(mg_arena_get(&p->arena, &own, sizeof *form, sizeof(uint64_t), err));
    memcpy(own, form, sizeof *form);
    mg_expr e = {.op = MG_EX_GROUPS, .n_children = n, .children = (const mg_expr **)children, .form = own};
    e.t = (mg_tensor){.dtype = MG_U8, .rank = 2, .shape = {form->slabs, form->slab_bytes}};
    const mg_expr *groups;
    MG_TRY(mg_expr_intern(p, &e, &groups, err));
    for (uint32_t i = 0; i < form->n_parts; i++) {
        const mg_group_part *part = &form->parts[i];
        mg_expr one = {.op = MG_EX_PART, .n_children = 1, .children = &groups, .arg = i};
        one.t = (mg_tensor){
            .dtype = part->dtype, .rank = part->rank, .shape = {part->shape[0], part->shape[1], part->shape[2]}};
        MG_TRY(mg_expr_intern(p, &one, &parts[i], err));
    }
    return MG_OK;
}

mg_status mg_expr_group_global(mg_plan *p, const mg_expr *const *weights, uint32_t n, mg_dtype model,
                               const mg_expr **out, mg_error *err) {
    mg_expr e = {.op = MG_EX_GLOBAL,
                 .t = {.dtype = MG_F32, .rank = 1, .shape = {1}},
                 .n_children = n,
                 .children = (const mg_expr **)weights,
                 .arg = (uint64_t)model};
    for (uint32_t i = 0; i < n; i++) MG_TRY(check_values("global", weights[i], err));
    MG_TRY(MG_ARENA_NEW(&p->arena, &e.global, 1, err));
    pthread_mutex_init(&e.global->lock, NULL); /* holds no resource on the systems we build for: never destroyed */
    return mg_expr_intern(p, &e, out, err);
}

mg_status mg_expr_group_encode(mg_plan *p, const mg_expr *weight, const mg_expr *global, const mg_group_form *form,
                               const mg_expr *parts[MG_GROUP_MAX_PARTS], mg_error *err) {
    const mg_expr *children[2] = {weight, global};
    MG_TRY(check_values("groups", weight, err));
    return add_parts(p, children, global ? 2 : 1, form, parts, err);
}

mg_status mg_expr_group_pack(mg_plan *p, const mg_expr *codes, const mg_expr *scales, const mg_expr *offsets,
                             const mg_group_form *form, const mg_expr *parts[MG_GROUP_MAX_PARTS], mg_error *err) {
    const mg_expr *children[3] = {codes, scales, offsets};
    const mg_dtype third = form->scheme.rule == MG_GROUP_EDGE ? MG_F32 : MG_U8;
    MG_TRY(expect_shape(form, scales, form->groups, err));
    MG_TRY(expect_shape(form, offsets, form->groups, err));
    if (codes->t.dtype != MG_U8 || scales->t.dtype != MG_F32 || offsets->t.dtype != third)
        return mg_fail(err, MG_ERR_FORMAT, "groups: codes, scales and %s are %s, %s, %s, expected U8, F32, %s",
                       third == MG_F32 ? "biases" : "zeros", mg_dtype_get(codes->t.dtype)->name,
                       mg_dtype_get(scales->t.dtype)->name, mg_dtype_get(offsets->t.dtype)->name,
                       mg_dtype_get(third)->name);
    return add_parts(p, children, 3, form, parts, err);
}

/* ---- slabs ---- */

/* Rows of the weight that are rounded at a time: whole strips of 32, whole blocks that share scales. */
static uint64_t band_rows(const mg_group_form *f) {
    const uint64_t least = f->scheme.row_block > 32 ? f->scheme.row_block : 32;
    uint64_t rows = GROUP_BAND / (f->cols * sizeof(float)) / least * least;
    if (rows == 0) rows = least;
    return rows < f->rows ? rows : f->rows;
}

uint64_t mg_expr_group_unit(const mg_expr *groups, uint64_t unit_bytes) {
    const mg_group_form *f = groups->form;
    if (!f->by_group) {
        const uint64_t rows = unit_bytes / (f->cols * sizeof(float)) / f->slab_rows;
        return rows ? rows : 1;
    }
    const uint64_t passes = (f->slabs * f->slab_bytes - 1) / GROUP_UNIT + 1;
    return (f->slabs - 1) / passes + 1;
}

uint64_t mg_expr_group_scratch(const mg_expr *groups) {
    const mg_group_form *f = groups->form;
    return band_rows(f) * (f->cols * (sizeof(float) + 1) + f->groups * (2 * sizeof(float) + 1));
}

typedef struct slabs {
    const mg_expr *e;
    mg_eval *ev;
    uint64_t col;     /* first column of the slabs */
    mg_group_codes q; /* of a band */
    void *tile;
} slabs;

static mg_status named(mg_status st, uint64_t row, mg_error *err) {
    if (st != MG_OK) mg_expr_name_row(err, row);
    return st;
}

/* Small floats: `peaks` [groups] is scratch. */
static mg_status round_floats(slabs *s, uint64_t row, uint64_t n, float *peaks, mg_error *err) {
    mg_group_codes *q = &s->q;
    const float *w = s->tile;
    for (uint64_t i = 0, end; i < n; i = end) {
        end = n - i < q->scheme.row_block ? n : i + q->scheme.row_block;
        memset(peaks, 0, q->groups * sizeof *peaks);
        for (uint64_t k = i; k < end; k++)
            MG_TRY(named(mg_group_float_peaks(q, w + k * q->cols, peaks, err), row + k, err));
        MG_TRY(named(mg_group_float_scales(q, i, peaks, err), row + i, err));
        for (uint64_t k = i; k < end; k++) mg_group_float_round(q, k, w + k * q->cols);
    }
    return MG_OK;
}

static mg_status round_float_band(slabs *s, uint64_t row, uint64_t n, mg_error *err) {
    void *peaks;
    if (s->e->n_children > 1) MG_TRY(mg_expr_eval_f32(s->e->children[1], s->ev, 0, 1, &s->q.global, err));
    MG_TRY(mg_eval_push(s->ev, s->q.groups * sizeof(float), &peaks, err));
    mg_status st = round_floats(s, row, n, peaks, err);
    mg_eval_pop(s->ev);
    return st;
}

/* Rounded here: rows of the band in w [n][all columns]. */
static mg_status round_band(slabs *s, uint64_t row, uint64_t n, mg_error *err) {
    const uint64_t cols = s->e->form->cols;
    MG_TRY(mg_expr_eval_f32(s->e->children[0], s->ev, row, n, s->tile, err));
    if (s->e->form->scheme.rule == MG_GROUP_FLOAT) return round_float_band(s, row, n, err);
    for (uint64_t i = 0; i < n; i++)
        MG_TRY(named(mg_group_codes_set(&s->q, i, (const float *)s->tile + i * cols + s->col, err), row + i, err));
    return MG_OK;
}

/* A code or a zero that needs more bits would spill into its neighbours. */
static mg_status check_bits(const uint8_t *x, uint64_t n, uint32_t bits, mg_error *err) {
    uint8_t all = 0;
    for (uint64_t i = 0; i < n; i++) all |= x[i];
    return all >> bits ? mg_fail(err, MG_ERR_FORMAT, "a code or zero needs more than %u bits", bits) : MG_OK;
}

/* Chosen elsewhere: columns of the slabs out of codes, groups of the slabs out of scales and zeros or biases. */
static mg_status take_band(slabs *s, uint64_t row, uint64_t n, mg_error *err) {
    const mg_group_form *f = s->e->form;
    const uint64_t group = f->by_group ? s->col / f->slab_cols : 0, groups = s->q.groups;
    MG_TRY(mg_expr_eval(s->e->children[0], s->ev, row, n, s->tile, err));
    for (uint64_t i = 0; i < n; i++)
        memcpy(s->q.codes + i * s->q.cols, (const uint8_t *)s->tile + i * f->cols + s->col, s->q.cols);
    MG_TRY(mg_expr_eval(s->e->children[1], s->ev, row, n, s->tile, err));
    for (uint64_t i = 0; i < n; i++)
        memcpy(s->q.scales + i * groups, (const float *)s->tile + i * f->groups + group, groups * sizeof(float));
    MG_TRY(check_bits(s->q.codes, n * s->q.cols, f->scheme.bits, err));
    MG_TRY(mg_expr_eval(s->e->children[2], s->ev, row, n, s->tile, err));
    for (uint64_t i = 0; s->q.biases && i < n; i++)
        memcpy(s->q.biases + i * groups, (const float *)s->tile + i * f->groups + group, groups * sizeof(float));
    if (s->q.biases) return MG_OK;
    for (uint64_t i = 0; i < n; i++)
        memcpy(s->q.zeros + i * groups, (const uint8_t *)s->tile + i * f->groups + group, groups);
    return check_bits(s->q.zeros, n * groups, f->scheme.bits, err);
}

static mg_status fill_slabs(slabs *s, uint64_t first, uint64_t rows, uint64_t band, uint8_t *dst, mg_error *err) {
    const mg_group_form *f = s->e->form;
    for (uint64_t at = 0; at < rows; at += band) {
        const uint64_t n = rows - at < band ? rows - at : band;
        s->q.rows = n;
        MG_TRY(s->e->n_children == 3 ? take_band(s, first + at, n, err) : round_band(s, first + at, n, err));
        mg_group_form_pack(f, &s->q, at, dst);
    }
    return MG_OK;
}

mg_status mg_expr_eval_groups(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, uint8_t *dst, mg_error *err) {
    const mg_group_form *f = e->form;
    const uint64_t first = f->by_group ? 0 : row * f->slab_rows, rows = f->by_group ? f->rows : n * f->slab_rows;
    uint64_t band = band_rows(f);
    if (band > rows) band = rows;
    slabs s = {.e = e, .ev = ev, .col = f->by_group ? row * f->slab_cols : 0};
    MG_TRY(mg_eval_push(ev, band * f->cols * sizeof(float), &s.tile, err));
    MG_TRY(mg_group_codes_init(&s.q, &f->scheme, band, f->by_group ? n * f->slab_cols : f->cols, err));
    mg_status st = fill_slabs(&s, first, rows, band, dst, err);
    mg_group_codes_release(&s.q);
    mg_eval_pop(ev);
    return st;
}

/* ---- the global scale ---- */

/* The weight is another than the one that is being written. */
static mg_status origin(mg_status st, const mg_expr *weight, uint64_t row, mg_error *err) {
    if (st != MG_OK) mg_error_at(err, NULL, mg_expr_origin(weight, NULL));
    return named(st, row, err);
}

static mg_status find_global(const mg_expr *e, mg_eval *ev, float *out, mg_error *err) {
    float most = 0.0f;
    for (uint32_t c = 0; c < e->n_children; c++) {
        const mg_expr *w = e->children[c];
        const uint64_t cols = mg_expr_cols(w), step = mg_expr_tile_rows(cols * sizeof(float), MG_EXPR_TILE, w->rows);
        void *tile;
        MG_TRY(mg_eval_push(ev, step * cols * sizeof(float), &tile, err));
        for (uint64_t row = 0; row < w->rows; row += step) {
            const uint64_t n = w->rows - row < step ? w->rows - row : step;
            MG_TRY(mg_expr_eval_f32(w, ev, row, n, tile, err));
            for (uint64_t i = 0; i < n; i++) {
                float lo, hi;
                MG_TRY(origin(mg_group_range((const float *)tile + i * cols, cols, &lo, &hi, err), w, row + i, err));
                most = hi > most ? hi : most;
                most = -lo > most ? -lo : most;
            }
        }
        mg_eval_pop(ev);
    }
    *out = mg_group_float_global(most, (mg_dtype)e->arg);
    return MG_OK;
}

/* The first reader finds it, others wait. */
mg_status mg_expr_eval_global(const mg_expr *e, mg_eval *ev, float *dst, mg_error *err) {
    mg_global_state *s = e->global;
    pthread_mutex_lock(&s->lock);
    mg_status st = s->ready ? MG_OK : find_global(e, ev, &s->value, err);
    s->ready = st == MG_OK;
    *dst = s->value;
    pthread_mutex_unlock(&s->lock);
    return st;
}

/* ---- one part ---- */

void mg_expr_part_rows(const mg_expr *part, const void *slabs_at, uint64_t n, void *dst) {
    const mg_group_form *f = part->children[0]->form;
    const mg_group_part *p = &f->parts[part->arg];
    for (uint64_t i = 0; i < n; i++)
        memcpy((uint8_t *)dst + i * p->slab_bytes, (const uint8_t *)slabs_at + i * f->slab_bytes + p->slab_at,
               p->slab_bytes);
}

mg_status mg_expr_eval_part(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, uint8_t *dst, mg_error *err) {
    const mg_expr *groups = e->children[0];
    const uint64_t step = mg_expr_group_unit(groups, MG_UNIT_BYTES);
    void *tile;
    MG_TRY(mg_eval_push(ev, (step < n ? step : n) * groups->row_bytes, &tile, err));
    for (uint64_t i = 0; i < n; i += step) {
        const uint64_t k = n - i < step ? n - i : step;
        MG_TRY(mg_expr_eval(groups, ev, row + i, k, tile, err));
        mg_expr_part_rows(e, tile, k, dst + i * e->row_bytes);
    }
    mg_eval_pop(ev);
    return MG_OK;
}
