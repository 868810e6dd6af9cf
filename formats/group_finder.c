/* group_finder.c - see group_finder.h. */
#include "formats/group_finder.h"

#include <inttypes.h>
#include <string.h>

/* ---- errors that name the place ---- */

const char *mg_group_file_of(const mg_checkpoint *c, uint32_t t) {
    return c->n_files ? c->files[c->tensors[t].file] : c->path;
}

mg_status mg_group_at(const mg_group_finder *f, uint32_t t, mg_status st, mg_error *err) {
    if (st != MG_OK) mg_error_at(err, mg_group_file_of(f->c, t), f->c->tensors[t].name);
    return st;
}

mg_status mg_group_expect_dtype(const mg_group_finder *f, uint32_t t, mg_dtype want, mg_error *err) {
    mg_dtype got = f->c->tensors[t].dtype;
    if (got == want) return MG_OK;
    return mg_group_at(f, t,
                       mg_fail(err, MG_ERR_FORMAT, "element type is %s, expected %s", mg_dtype_get(got)->name,
                               mg_dtype_get(want)->name),
                       err);
}

mg_status mg_group_expect_shape2(const mg_group_finder *f, uint32_t t, uint64_t a, uint64_t b, mg_error *err) {
    const uint64_t shape[2] = {a, b};
    return mg_group_at(f, t, mg_tensor_expect_shape(&f->c->tensors[t], 2, shape, err), err);
}

/* ---- neighbours ---- */

/* Tensor base + suffix, hidden from now on. Absent: MG_STRMAP_NONE, or MG_ERR_FORMAT when it is required. */
mg_status mg_group_part(mg_group_finder *f, const char *suffix, bool required, uint32_t *out, mg_error *err) {
    const char *name = mg_arena_printf(&f->l->arena, "%s%s", f->base, suffix);
    if (!name) return mg_fail_nomem(err, strlen(f->base));
    *out = mg_checkpoint_find(f->c, name);
    if (*out != MG_STRMAP_NONE) {
        f->l->use[*out] = MG_USE_HIDE;
        return MG_OK;
    }
    if (!required) return MG_OK;
    return mg_group_at(f, f->at, mg_fail(err, MG_ERR_FORMAT, "its companion '%s' is missing", name), err);
}

mg_status mg_group_hide(mg_group_finder *f, const char *const *suffixes, mg_error *err) {
    for (uint32_t t; *suffixes; suffixes++) MG_TRY(mg_group_part(f, *suffixes, false, &t, err));
    return MG_OK;
}

/* Scales of quantized activations belong to the run, not to the weight. base ends in ".weight". */
mg_status mg_group_hide_activations(mg_group_finder *f, mg_error *err) {
    static const char *const activations[] = {".input_scale",  ".input_zero_point",  ".input_global_scale",
                                              ".output_scale", ".output_zero_point", NULL};
    size_t n = strlen(f->base);
    if (n <= 7 || strcmp(f->base + n - 7, ".weight") != 0) return MG_OK;
    f->base = mg_arena_strndup(&f->l->arena, f->base, n - 7);
    return f->base ? mg_group_hide(f, activations, err) : mg_fail_nomem(err, n);
}

mg_status mg_group_name(mg_group_finder *f, const char *suffix, mg_error *err) {
    f->m->name = mg_arena_printf(&f->l->arena, "%s%s", f->base, suffix);
    return f->m->name ? MG_OK : mg_fail_nomem(err, strlen(f->base));
}

/* ---- sizes ---- */

/* words * 32 / bits, which must come out whole. */
mg_status mg_group_unpacked(const mg_group_finder *f, unsigned dim, uint32_t bits, uint64_t *out, mg_error *err) {
    uint64_t n = f->c->tensors[f->at].shape[dim], all;
    if (n && mg_mul_u64(n, 32, &all) && all % bits == 0) {
        *out = all / bits;
        return MG_OK;
    }
    return mg_group_at(f, f->at,
                       mg_fail(err, MG_ERR_FORMAT,
                               "dimension %u is %" PRIu64 ", expected whole groups of %" PRIu32
                               "-bit codes in 32-bit words",
                               dim, n, bits),
                       err);
}

mg_status mg_group_expect_rank(const mg_group_finder *f, uint32_t t, uint32_t rank, mg_error *err) {
    uint32_t got = f->c->tensors[t].rank;
    if (got == rank && f->c->tensors[t].n_elements) return MG_OK;
    char shape[128];
    return mg_group_at(f, t,
                       mg_fail(err, MG_ERR_FORMAT, "shape is %s, expected %" PRIu32 " dimensions that are not empty",
                               mg_tensor_shape_text(&f->c->tensors[t], shape, sizeof shape), rank),
                       err);
}

void mg_group_set_shape2(mg_group_matrix *m, uint64_t rows, uint64_t cols) {
    m->rank = 2;
    m->shape[0] = m->rows = m->slab_rows = rows;
    m->shape[1] = m->cols = cols;
    m->codes.js = cols;
}

/* Groups of `size` columns (0: all of them). whole: no smaller last group. */
mg_status mg_group_set_groups(mg_group_finder *f, uint64_t size, bool whole, mg_error *err) {
    mg_group_matrix *m = f->m;
    m->group_size = size ? size : m->cols;
    m->groups = (m->cols - 1) / m->group_size + 1;
    if (!whole || m->cols % m->group_size == 0) return MG_OK;
    return mg_group_at(f, f->at,
                       mg_fail(err, MG_ERR_FORMAT,
                               "%" PRIu64 " input columns, expected a multiple of the group size %" PRIu64, m->cols,
                               m->group_size),
                       err);
}

mg_status mg_group_set_scales(mg_group_finder *f, uint32_t t, uint64_t rows, bool rows_last, mg_error *err) {
    mg_group_matrix *m = f->m;
    mg_dtype d = f->c->tensors[t].dtype;
    m->scales = t;
    m->scale_dtype = d == MG_U8 ? MG_F8_E8M0 : d; /* exponents, as writers without the type store them */
    m->scale_rows = rows;
    m->scales_rows_last = rows_last;
    if (d == MG_F32 || d == MG_F16 || d == MG_BF16 || d == MG_F8_E8M0 || d == MG_U8 || d == MG_F8_E4M3) return MG_OK;
    return mg_group_at(
        f, t,
        mg_fail(err, MG_ERR_FORMAT, "element type is %s, expected a float type for scales", mg_dtype_get(d)->name),
        err);
}

/* ---- scales of [row][group], one of several forms ---- */

static mg_status expect_blocks(const mg_group_finder *f, uint32_t t, uint64_t slab_blocks, mg_error *err) {
    const mg_group_matrix *m = f->m;
    uint64_t shape[MG_MAX_RANK];
    for (uint32_t i = 0; i + 2 < m->rank; i++) shape[i] = m->shape[i];
    shape[m->rank - 2] = slab_blocks;
    shape[m->rank - 1] = m->groups;
    return mg_group_at(f, t, mg_tensor_expect_shape(&f->c->tensors[t], m->rank, shape, err), err);
}

/* row_block 0: one scale for the tensor. A whole-row scale may drop its last dimension. */
mg_status mg_group_row_major_scales(mg_group_finder *f, uint32_t t, uint64_t row_block, mg_error *err) {
    mg_group_matrix *m = f->m;
    const mg_tensor *s = &f->c->tensors[t];
    if (row_block == 0 && s->n_elements == 1) {
        m->row_block = m->slab_rows = m->rows;
        return mg_group_set_scales(f, t, 1, false, err);
    }
    m->row_block = row_block ? row_block : 1;
    uint64_t slab_blocks = (m->slab_rows - 1) / m->row_block + 1;
    if (row_block == 0 && s->n_elements != m->rows) {
        char shape[128];
        return mg_group_at(f, t,
                           mg_fail(err, MG_ERR_FORMAT,
                                   "shape is %s, expected one scale, or one for each of %" PRIu64 " rows",
                                   mg_tensor_shape_text(s, shape, sizeof shape), m->rows),
                           err);
    }
    bool flat = m->groups == 1 && m->row_block == 1 && s->rank + 1 == m->rank && s->n_elements == m->rows;
    if (!flat) MG_TRY(expect_blocks(f, t, slab_blocks, err));
    return mg_group_set_scales(f, t, m->rows / m->slab_rows * slab_blocks, false, err);
}

/* ---- one byte per weight: FP8 and int8 ---- */

mg_status mg_group_byte_codes(mg_group_finder *f, mg_error *err) {
    const mg_tensor *t = &f->c->tensors[f->at];
    mg_group_matrix *m = f->m;
    if (t->rank < 2) return mg_group_expect_rank(f, f->at, 2, err);
    MG_TRY(mg_group_expect_rank(f, f->at, t->rank, err));
    MG_TRY(mg_group_name(f, "", err));
    mg_group_set_shape2(m, t->n_elements / t->shape[t->rank - 1], t->shape[t->rank - 1]);
    m->rank = t->rank;
    memcpy(m->shape, t->shape, sizeof m->shape);
    m->slab_rows = t->shape[t->rank - 2];
    m->value = t->dtype == MG_F8_E4M3 ? MG_CODE_E4M3 : t->dtype == MG_F8_E5M2 ? MG_CODE_E5M2 : MG_CODE_INT;
    m->codes = (mg_code_array){.tensor = f->at,
                               .bits = 8,
                               .word_bytes = 1,
                               .packed_last = true,
                               .flip = m->value == MG_CODE_INT ? 0x80 : 0,
                               .words = {m->rows, m->cols},
                               .js = m->cols};
    m->zero_fixed = 128;
    return MG_OK;
}
