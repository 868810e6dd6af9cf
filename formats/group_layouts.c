/* group_layouts.c - see group_layouts.h. One function per layout turns a tensor of codes and its neighbours into a
 * description, and checks every size against every other before anything is read. */
#include "formats/group_layouts.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* What a layout function works on. */
typedef struct finder {
    mg_group_layout *l;
    mg_checkpoint *c;
    mg_group_matrix *m; /* being described */
    const char *base;   /* name of the tensor of codes, its suffix removed */
    uint32_t at;        /* tensor of codes */
} finder;

/* ---- errors that name the place ---- */

static const char *file_of(const mg_checkpoint *c, uint32_t t) {
    return c->n_files ? c->files[c->tensors[t].file] : c->path;
}

static mg_status at_tensor(const finder *f, uint32_t t, mg_status st, mg_error *err) {
    if (st != MG_OK) mg_error_at(err, file_of(f->c, t), f->c->tensors[t].name);
    return st;
}

static mg_status expect_dtype(const finder *f, uint32_t t, mg_dtype want, mg_error *err) {
    mg_dtype got = f->c->tensors[t].dtype;
    if (got == want) return MG_OK;
    return at_tensor(f, t,
                     mg_fail(err, MG_ERR_FORMAT, "element type is %s, expected %s", mg_dtype_get(got)->name,
                             mg_dtype_get(want)->name),
                     err);
}

static mg_status expect_shape2(const finder *f, uint32_t t, uint64_t a, uint64_t b, mg_error *err) {
    const uint64_t shape[2] = {a, b};
    return at_tensor(f, t, mg_tensor_expect_shape(&f->c->tensors[t], 2, shape, err), err);
}

/* ---- neighbours ---- */

/* Tensor base + suffix, hidden from now on. Absent: MG_STRMAP_NONE, or MG_ERR_FORMAT when it is required. */
static mg_status part(finder *f, const char *suffix, bool required, uint32_t *out, mg_error *err) {
    const char *name = mg_arena_printf(&f->l->arena, "%s%s", f->base, suffix);
    if (!name) return mg_fail_nomem(err, strlen(f->base));
    *out = mg_checkpoint_find(f->c, name);
    if (*out != MG_STRMAP_NONE) {
        f->l->use[*out] = MG_USE_HIDE;
        return MG_OK;
    }
    if (!required) return MG_OK;
    return at_tensor(f, f->at, mg_fail(err, MG_ERR_FORMAT, "its companion '%s' is missing", name), err);
}

static mg_status hide(finder *f, const char *const *suffixes, mg_error *err) {
    for (uint32_t t; *suffixes; suffixes++) MG_TRY(part(f, *suffixes, false, &t, err));
    return MG_OK;
}

/* Scales of quantized activations belong to the run, not to the weight. base ends in ".weight". */
static mg_status hide_activations(finder *f, mg_error *err) {
    static const char *const activations[] = {".input_scale",  ".input_zero_point",  ".input_global_scale",
                                              ".output_scale", ".output_zero_point", NULL};
    size_t n = strlen(f->base);
    if (n <= 7 || strcmp(f->base + n - 7, ".weight") != 0) return MG_OK;
    f->base = mg_arena_strndup(&f->l->arena, f->base, n - 7);
    return f->base ? hide(f, activations, err) : mg_fail_nomem(err, n);
}

static mg_status matrix_name(finder *f, const char *suffix, mg_error *err) {
    f->m->name = mg_arena_printf(&f->l->arena, "%s%s", f->base, suffix);
    return f->m->name ? MG_OK : mg_fail_nomem(err, strlen(f->base));
}

/* ---- sizes ---- */

/* words * 32 / bits, which must come out whole. */
static mg_status unpacked(const finder *f, unsigned dim, uint32_t bits, uint64_t *out, mg_error *err) {
    uint64_t n = f->c->tensors[f->at].shape[dim], all;
    if (n && mg_mul_u64(n, 32, &all) && all % bits == 0) {
        *out = all / bits;
        return MG_OK;
    }
    return at_tensor(f, f->at,
                     mg_fail(err, MG_ERR_FORMAT,
                             "dimension %u is %" PRIu64 ", expected whole groups of %" PRIu32
                             "-bit codes in 32-bit words",
                             dim, n, bits),
                     err);
}

static mg_status expect_rank(const finder *f, uint32_t t, uint32_t rank, mg_error *err) {
    uint32_t got = f->c->tensors[t].rank;
    if (got == rank && f->c->tensors[t].n_elements) return MG_OK;
    char shape[128];
    return at_tensor(f, t,
                     mg_fail(err, MG_ERR_FORMAT, "shape is %s, expected %" PRIu32 " dimensions that are not empty",
                             mg_tensor_shape_text(&f->c->tensors[t], shape, sizeof shape), rank),
                     err);
}

static void set_shape2(mg_group_matrix *m, uint64_t rows, uint64_t cols) {
    m->rank = 2;
    m->shape[0] = m->rows = m->slab_rows = rows;
    m->shape[1] = m->cols = cols;
    m->codes.js = cols;
}

/* Groups of `size` columns (0: all of them). whole: no smaller last group. */
static mg_status set_groups(finder *f, uint64_t size, bool whole, mg_error *err) {
    mg_group_matrix *m = f->m;
    m->group_size = size ? size : m->cols;
    m->groups = (m->cols - 1) / m->group_size + 1;
    if (!whole || m->cols % m->group_size == 0) return MG_OK;
    return at_tensor(f, f->at,
                     mg_fail(err, MG_ERR_FORMAT,
                             "%" PRIu64 " input columns, expected a multiple of the group size %" PRIu64, m->cols,
                             m->group_size),
                     err);
}

static mg_status set_scales(finder *f, uint32_t t, uint64_t rows, bool rows_last, mg_error *err) {
    mg_group_matrix *m = f->m;
    mg_dtype d = f->c->tensors[t].dtype;
    m->scales = t;
    m->scale_dtype = d == MG_U8 ? MG_F8_E8M0 : d; /* exponents, as writers without the type store them */
    m->scale_rows = rows;
    m->scales_rows_last = rows_last;
    if (d == MG_F32 || d == MG_F16 || d == MG_BF16 || d == MG_F8_E8M0 || d == MG_U8 || d == MG_F8_E4M3) return MG_OK;
    return at_tensor(
        f, t,
        mg_fail(err, MG_ERR_FORMAT, "element type is %s, expected a float type for scales", mg_dtype_get(d)->name),
        err);
}

/* ---- AWQ and GPTQ: codes, zeros and scales of [group][row] ---- */

static mg_status group_major(finder *f, uint32_t bits, mg_error *err) {
    mg_group_matrix *m = f->m;
    uint32_t zeros = MG_STRMAP_NONE, scales = MG_STRMAP_NONE;
    MG_TRY(part(f, ".scales", true, &scales, err));
    MG_TRY(expect_shape2(f, scales, m->groups, m->rows, err));
    MG_TRY(set_scales(f, scales, m->rows, true, err));
    MG_TRY(part(f, ".qzeros", !f->l->config.symmetric, &zeros, err));
    m->zeros.tensor = zeros;
    m->zero_fixed = 1u << (bits - 1);
    if (zeros == MG_STRMAP_NONE) return MG_OK;
    MG_TRY(expect_dtype(f, zeros, MG_I32, err));
    if (m->rows * bits % 32 != 0) /* rows * bits fits: m->rows words of 4 bytes, or more, are in the file */
        return at_tensor(f, zeros,
                         mg_fail(err, MG_ERR_FORMAT,
                                 "%" PRIu64 " rows of %" PRIu32 "-bit zeros do not fill 32-bit words", m->rows, bits),
                         err);
    MG_TRY(expect_shape2(f, zeros, m->groups, m->rows * bits / 32, err));
    m->zeros = (mg_code_array){.tensor = zeros,
                               .bits = bits,
                               .word_bytes = 4,
                               .rows_last = true,
                               .packed_last = true,
                               .awq_order = m->codes.awq_order,
                               .words = {m->groups, m->rows * bits / 32},
                               .js = m->groups};
    m->zero_mask = (1u << bits) - 1;
    m->zero_add = f->l->config.zero_minus_one ? 1 : 0;
    return MG_OK;
}

static mg_status find_awq(finder *f, mg_error *err) {
    const mg_group_config *cfg = &f->l->config;
    const mg_tensor *t = &f->c->tensors[f->at];
    uint64_t rows = 0;
    MG_TRY(expect_dtype(f, f->at, MG_I32, err));
    MG_TRY(expect_rank(f, f->at, 2, err));
    MG_TRY(unpacked(f, 1, cfg->bits, &rows, err));
    MG_TRY(matrix_name(f, ".weight", err));
    f->m->codes = (mg_code_array){.tensor = f->at,
                                  .bits = cfg->bits,
                                  .word_bytes = 4,
                                  .rows_last = true,
                                  .packed_last = true,
                                  .awq_order = cfg->bits == 4,
                                  .words = {t->shape[0], t->shape[1]}};
    set_shape2(f->m, rows, t->shape[0]);
    MG_TRY(set_groups(f, cfg->group_size, true, err));
    return group_major(f, cfg->bits, err);
}

/* Where bits and groups differ by module ("dynamic"), the shapes say what they are: g_idx has one entry per column. */
static mg_status gptq_mixed(finder *f, uint32_t g_idx, uint32_t *bits, uint64_t *group, mg_error *err) {
    const mg_tensor *t = &f->c->tensors[f->at], *g = &f->c->tensors[g_idx];
    uint32_t scales = MG_STRMAP_NONE, b = 0;
    for (uint32_t i = 2; i <= 8; i++)
        if (i != 5 && i != 6 && i != 7 && g->shape[0] * i / 32 == t->shape[0] && g->shape[0] * i % 32 == 0) b = i;
    if (!b)
        return at_tensor(f, f->at,
                         mg_fail(err, MG_ERR_FORMAT,
                                 "dimension 0 is %" PRIu64 ", expected 2, 3, 4 or 8 bits for each of %" PRIu64
                                 " entries of g_idx",
                                 t->shape[0], g->shape[0]),
                         err);
    MG_TRY(part(f, ".scales", true, &scales, err));
    MG_TRY(expect_rank(f, scales, 2, err));
    *bits = b;
    *group = (g->shape[0] - 1) / f->c->tensors[scales].shape[0] + 1;
    return MG_OK;
}

static mg_status find_gptq(finder *f, mg_error *err) {
    const mg_group_config *cfg = &f->l->config;
    const mg_tensor *t = &f->c->tensors[f->at];
    uint32_t bits = cfg->bits, g_idx;
    uint64_t cols = 0, group = cfg->group_size;
    MG_TRY(expect_dtype(f, f->at, MG_I32, err));
    MG_TRY(expect_rank(f, f->at, 2, err));
    MG_TRY(part(f, ".g_idx", cfg->act_order || cfg->mixed, &g_idx, err));
    if (g_idx != MG_STRMAP_NONE) {
        MG_TRY(expect_dtype(f, g_idx, MG_I32, err));
        MG_TRY(expect_rank(f, g_idx, 1, err));
        if (cfg->mixed) MG_TRY(gptq_mixed(f, g_idx, &bits, &group, err));
    }
    MG_TRY(unpacked(f, 0, bits, &cols, err));
    if (g_idx != MG_STRMAP_NONE)
        MG_TRY(at_tensor(f, g_idx, mg_tensor_expect_shape(&f->c->tensors[g_idx], 1, &cols, err), err));
    MG_TRY(matrix_name(f, ".weight", err));
    f->m->codes = (mg_code_array){
        .tensor = f->at, .bits = bits, .word_bytes = 4, .rows_last = true, .words = {t->shape[0], t->shape[1]}};
    f->m->g_idx = g_idx;
    set_shape2(f->m, t->shape[1], cols);
    MG_TRY(set_groups(f, group, false, err));
    return group_major(f, bits, err);
}

/* ---- scales of [row][group], one of several forms ---- */

static mg_status expect_blocks(const finder *f, uint32_t t, uint64_t slab_blocks, mg_error *err) {
    const mg_group_matrix *m = f->m;
    uint64_t shape[MG_MAX_RANK];
    for (uint32_t i = 0; i + 2 < m->rank; i++) shape[i] = m->shape[i];
    shape[m->rank - 2] = slab_blocks;
    shape[m->rank - 1] = m->groups;
    return at_tensor(f, t, mg_tensor_expect_shape(&f->c->tensors[t], m->rank, shape, err), err);
}

/* row_block 0: one scale for the tensor. A whole-row scale may drop its last dimension. */
static mg_status row_major_scales(finder *f, uint32_t t, uint64_t row_block, mg_error *err) {
    mg_group_matrix *m = f->m;
    const mg_tensor *s = &f->c->tensors[t];
    if (row_block == 0 && s->n_elements == 1) {
        m->row_block = m->slab_rows = m->rows;
        return set_scales(f, t, 1, false, err);
    }
    m->row_block = row_block ? row_block : 1;
    uint64_t slab_blocks = (m->slab_rows - 1) / m->row_block + 1;
    if (row_block == 0 && s->n_elements != m->rows) {
        char shape[128];
        return at_tensor(f, t,
                         mg_fail(err, MG_ERR_FORMAT,
                                 "shape is %s, expected one scale, or one for each of %" PRIu64 " rows",
                                 mg_tensor_shape_text(s, shape, sizeof shape), m->rows),
                         err);
    }
    bool flat = m->groups == 1 && m->row_block == 1 && s->rank + 1 == m->rank && s->n_elements == m->rows;
    if (!flat) MG_TRY(expect_blocks(f, t, slab_blocks, err));
    return set_scales(f, t, m->rows / m->slab_rows * slab_blocks, false, err);
}

/* ---- one byte per weight: FP8 and int8 ---- */

static mg_status byte_codes(finder *f, mg_error *err) {
    const mg_tensor *t = &f->c->tensors[f->at];
    mg_group_matrix *m = f->m;
    if (t->rank < 2) return expect_rank(f, f->at, 2, err);
    MG_TRY(expect_rank(f, f->at, t->rank, err));
    MG_TRY(matrix_name(f, "", err));
    set_shape2(m, t->n_elements / t->shape[t->rank - 1], t->shape[t->rank - 1]);
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

static mg_status find_fp8(finder *f, mg_error *err) {
    const mg_group_config *cfg = &f->l->config;
    static const char *const unused[] = {"_scale", NULL};
    uint32_t scales = MG_STRMAP_NONE;
    MG_TRY(byte_codes(f, err));
    MG_TRY(part(f, "_scale_inv", false, &scales, err));
    if (scales == MG_STRMAP_NONE) MG_TRY(part(f, "_scale", false, &scales, err));
    if (scales == MG_STRMAP_NONE)
        return at_tensor(f, f->at,
                         mg_fail(err, MG_ERR_FORMAT,
                                 "FP8 weight without its scale: expected '%s_scale_inv' or '%s_scale'", f->base,
                                 f->base),
                         err);
    MG_TRY(set_groups(f, cfg->block[1], false, err));
    MG_TRY(row_major_scales(f, scales, cfg->block[0], err));
    MG_TRY(hide(f, unused, err));
    return hide_activations(f, err);
}

/* ---- compressed-tensors ---- */

static mg_status ct_zeros(finder *f, const mg_ct_group *g, mg_error *err) {
    mg_group_matrix *m = f->m;
    uint32_t t = MG_STRMAP_NONE;
    m->zero_fixed = 1u << (g->bits - 1);
    MG_TRY(part(f, "_zero_point", !g->symmetric, &t, err));
    m->zeros.tensor = MG_STRMAP_NONE;
    if (g->symmetric) return MG_OK;        /* a zero point that is there all the same is zero */
    if (f->c->tensors[t].dtype == MG_I8) { /* signed, one byte each */
        MG_TRY(expect_shape2(f, t, m->rows, m->groups, err));
        m->zeros = (mg_code_array){.tensor = t,
                                   .bits = 8,
                                   .word_bytes = 1,
                                   .packed_last = true,
                                   .words = {m->rows, m->groups},
                                   .js = m->groups};
        m->zero_add = m->zero_fixed;
        m->zero_mask = 0xff;
        return MG_OK;
    }
    MG_TRY(expect_dtype(f, t, MG_I32, err));
    uint64_t per = m->codes.per_word, words = per ? (m->rows - 1) / per + 1 : (m->rows * g->bits - 1) / 32 + 1;
    MG_TRY(expect_shape2(f, t, words, m->groups, err));
    m->zeros = (mg_code_array){.tensor = t,
                               .bits = g->bits,
                               .word_bytes = 4,
                               .per_word = m->codes.per_word,
                               .words = {words, m->groups},
                               .js = m->groups};
    m->zero_mask = (1u << g->bits) - 1;
    return MG_OK;
}

/* What follows the codes: scales, zeros and the order of columns. base ends in ".weight" here. */
static mg_status ct_rest(finder *f, const mg_ct_group *g, mg_error *err) {
    mg_group_matrix *m = f->m;
    uint32_t scales = MG_STRMAP_NONE;
    MG_TRY(set_groups(f, g->group_size, false, err));
    MG_TRY(part(f, "_scale", true, &scales, err));
    MG_TRY(row_major_scales(f, scales, g->one_scale ? 0 : g->row_block, err));
    if (m->value == MG_CODE_INT) MG_TRY(ct_zeros(f, g, err));
    if (!g->act_order) return MG_OK;
    MG_TRY(part(f, "_g_idx", true, &m->g_idx, err));
    MG_TRY(expect_dtype(f, m->g_idx, MG_I32, err));
    return at_tensor(f, m->g_idx, mg_tensor_expect_shape(&f->c->tensors[m->g_idx], 1, &m->cols, err), err);
}

/* rows and cols from weight_shape, the only place that has them. */
static mg_status ct_weight_shape(finder *f, uint64_t *cols, mg_error *err) {
    const mg_tensor *t = &f->c->tensors[f->at];
    const uint64_t two = 2;
    uint32_t at = MG_STRMAP_NONE;
    int64_t n[2];
    MG_TRY(part(f, "_shape", true, &at, err));
    MG_TRY(at_tensor(f, at, mg_tensor_expect_shape(&f->c->tensors[at], 1, &two, err), err));
    MG_TRY(expect_dtype(f, at, MG_I64, err));
    MG_TRY(mg_checkpoint_read(f->c, at, 0, n, sizeof n, err));
    if (n[0] <= 0 || (uint64_t)n[0] != t->shape[0] || n[1] <= 0 || n[1] > (int64_t)1 << 48)
        return at_tensor(f, at,
                         mg_fail(err, MG_ERR_FORMAT,
                                 "holds [%" PRId64 ", %" PRId64 "], expected [%" PRIu64 ", columns]", n[0], n[1],
                                 t->shape[0]),
                         err);
    *cols = (uint64_t)n[1];
    return MG_OK;
}

/* Dense, or the older form that leaves the upper bits of a word empty; widths tell which. */
static bool ct_width(uint64_t cols, uint32_t bits, uint64_t words, uint32_t *per_word) {
    *per_word = 0;
    if ((cols * bits - 1) / 32 + 1 == words) return true;
    *per_word = 32 / bits;
    return (cols - 1) / *per_word + 1 == words;
}

static mg_status ct_packed(finder *f, const mg_ct_group *g, mg_error *err) {
    const mg_tensor *t = &f->c->tensors[f->at];
    uint64_t cols = 0;
    uint32_t per_word;
    MG_TRY(expect_dtype(f, f->at, MG_I32, err));
    MG_TRY(expect_rank(f, f->at, 2, err));
    MG_TRY(ct_weight_shape(f, &cols, err));
    if (!ct_width(cols, g->bits, t->shape[1], &per_word))
        return at_tensor(f, f->at,
                         mg_fail(err, MG_ERR_FORMAT,
                                 "dimension 1 is %" PRIu64 ", expected %" PRIu64 " for %" PRIu64 " columns of %" PRIu32
                                 " bits",
                                 t->shape[1], (cols * g->bits - 1) / 32 + 1, cols, g->bits),
                         err);
    f->m->codes = (mg_code_array){.tensor = f->at,
                                  .bits = g->bits,
                                  .word_bytes = 4,
                                  .per_word = per_word,
                                  .packed_last = true,
                                  .words = {t->shape[0], t->shape[1]}};
    set_shape2(f->m, t->shape[0], cols);
    return ct_rest(f, g, err);
}

static mg_status ct_fp4(finder *f, const mg_ct_group *g, mg_error *err) {
    const mg_tensor *t = &f->c->tensors[f->at];
    const bool nv = g->format == MG_CT_NVFP4;
    MG_TRY(expect_dtype(f, f->at, MG_U8, err));
    MG_TRY(expect_rank(f, f->at, 2, err));
    f->m->value = MG_CODE_E2M1;
    f->m->codes = (mg_code_array){
        .tensor = f->at, .bits = 4, .word_bytes = 1, .packed_last = true, .words = {t->shape[0], t->shape[1]}};
    set_shape2(f->m, t->shape[0], t->shape[1] * 2);
    MG_TRY(ct_rest(f, g, err));
    if (!nv) return f->m->scale_dtype == MG_F8_E8M0 ? MG_OK : expect_dtype(f, f->m->scales, MG_F8_E8M0, err);
    MG_TRY(expect_dtype(f, f->m->scales, MG_F8_E4M3, err));
    MG_TRY(part(f, "_global_scale", true, &f->m->divisor, err));
    MG_TRY(expect_dtype(f, f->m->divisor, MG_F32, err));
    if (f->c->tensors[f->m->divisor].n_elements == 1) return MG_OK;
    return expect_shape2(f, f->m->divisor, 1, 1, err);
}

static mg_status ct_try(finder *f, const mg_ct_group *g, bool packed, mg_error *err) {
    *f->m = (mg_group_matrix){.g_idx = MG_STRMAP_NONE, .divisor = MG_STRMAP_NONE, .row_block = 1};
    f->m->zeros.tensor = MG_STRMAP_NONE;
    if (!packed) {
        MG_TRY(expect_dtype(f, f->at, g->format == MG_CT_INT8 ? MG_I8 : MG_F8_E4M3, err));
        MG_TRY(byte_codes(f, err));
        return ct_rest(f, g, err);
    }
    MG_TRY(matrix_name(f, "", err));
    return g->format == MG_CT_PACKED ? ct_packed(f, g, err) : ct_fp4(f, g, err);
}

/* The config group of a tensor: the first whose format and sizes fit it. Names (targets) need not be matched for that,
 * since groups that both fit have the same bits, the same groups and the same parts. */
static mg_status find_ct(finder *f, bool packed, mg_error *err) {
    static const char *const unused[] = {"_shape", "_zero_point", "_g_idx", NULL};
    const mg_group_config *cfg = &f->l->config;
    mg_status st = MG_ERR_FORMAT;
    mg_error first = {0};
    for (uint32_t i = 0; i < cfg->n_ct && st != MG_OK; i++) {
        const bool is_packed = cfg->ct[i].format != MG_CT_INT8 && cfg->ct[i].format != MG_CT_FP8;
        mg_error why = {0};
        if (is_packed != packed) continue;
        st = ct_try(f, &cfg->ct[i], packed, &why);
        if (st != MG_OK && first.code == MG_OK) first = why;
    }
    if (st != MG_OK && first.code == MG_OK)
        at_tensor(f, f->at, mg_fail(&first, MG_ERR_FORMAT, "no entry of config_groups stores weights this way"),
                  &first);
    if (st != MG_OK) {
        if (err && err->code == MG_OK) *err = first;
        return first.code;
    }
    MG_TRY(hide(f, unused, err));
    return hide_activations(f, err);
}

/* ---- which tensors ---- */

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), m = strlen(tail);
    return n > m && strcmp(s + n - m, tail) == 0;
}

static bool is_f8(mg_dtype d) {
    return d == MG_F8_E4M3 || d == MG_F8_E5M2;
}

/* Is t a tensor of codes under this method? cut: characters of its name that belong to the suffix. */
static bool holds_codes(const mg_group_layout *l, const mg_tensor *t, size_t *cut) {
    *cut = 0;
    switch (l->config.method) {
    case MG_GROUPS_AWQ:
    case MG_GROUPS_GPTQ:
        *cut = sizeof ".qweight" - 1;
        return ends_with(t->name, ".qweight");
    case MG_GROUPS_CT:
        *cut = ends_with(t->name, ".weight_packed") ? sizeof "_packed" - 1 : 0;
        return *cut || (ends_with(t->name, ".weight") && (is_f8(t->dtype) || t->dtype == MG_I8));
    case MG_GROUPS_FP8:
        return is_f8(t->dtype) && !ends_with(t->name, "_scale") && !ends_with(t->name, "_scale_inv");
    default:
        return false;
    }
}

static mg_status find(mg_group_layout *l, mg_checkpoint *c, uint32_t t, size_t cut, mg_error *err) {
    finder f = {.l = l, .c = c, .m = &l->matrices[l->n_matrices], .at = t};
    const char *name = c->tensors[t].name;
    f.base = mg_arena_strndup(&l->arena, name, strlen(name) - cut);
    if (!f.base) return mg_fail_nomem(err, strlen(name));
    *f.m = (mg_group_matrix){.g_idx = MG_STRMAP_NONE, .divisor = MG_STRMAP_NONE, .row_block = 1};
    f.m->zeros.tensor = MG_STRMAP_NONE;
    switch (l->config.method) {
    case MG_GROUPS_AWQ:
        MG_TRY(find_awq(&f, err));
        break;
    case MG_GROUPS_GPTQ:
        MG_TRY(find_gptq(&f, err));
        break;
    case MG_GROUPS_CT:
        MG_TRY(find_ct(&f, cut != 0, err));
        break;
    default:
        MG_TRY(find_fp8(&f, err));
        break;
    }
    if (mg_checkpoint_find(c, f.m->name) != MG_STRMAP_NONE && cut)
        return at_tensor(&f, t, mg_fail(err, MG_ERR_FORMAT, "the same weight is also stored as '%s'", f.m->name), err);
    l->use[t] = MG_USE_MATRIX;
    l->matrix_of[t] = l->n_matrices++;
    return MG_OK;
}

/* Scales of a quantized cache say nothing about weights. */
static bool of_the_cache(const mg_group_layout *l, const char *name) {
    return (l->config.method == MG_GROUPS_CT || l->config.method == MG_GROUPS_FP8) &&
           (ends_with(name, ".k_scale") || ends_with(name, ".v_scale"));
}

/* Tensors that only a quantizer writes, in a model that does not say which. */
static mg_status refuse_strangers(const mg_group_layout *l, const mg_checkpoint *c, mg_error *err) {
    static const struct {
        const char *suffix, *what;
    } known[] = {
        {".SCB", "bitsandbytes"},
        {".weight.absmax", "bitsandbytes"},
        {".weight.quant_map", "bitsandbytes"},
        {".W_q", "HQQ"},
        {".trellis", "EXL3"},
        {".q_weight", "EXL2"},
        {".q_scale_max", "EXL2"},
        {".B_24", "Marlin 2:4"},
        {".q_invperm", "EXL2"},
        {".codebooks", "AQLM"},
        {".scaled_zeros", "AWQ gemv_fast"},
        {".Qidxs", "QuIP#"},
    };
    for (uint32_t i = 0; i < c->n_tensors; i++) {
        const mg_tensor *t = &c->tensors[i];
        mg_status st = MG_OK;
        if (l->use[i] != MG_USE_PASS) continue;
        if (is_f8(t->dtype))
            st = mg_fail(err, MG_ERR_FORMAT,
                         "FP8 weight without its scale: expected '%s_scale_inv' or '%s_scale' and a "
                         "quantization_config that says how it is used",
                         t->name, t->name);
        else if (ends_with(t->name, ".qweight") || ends_with(t->name, ".weight_packed"))
            st = mg_fail(err, MG_ERR_FORMAT,
                         "holds quantized weights, but no quantization_config says which layout it has");
        for (size_t k = 0; st == MG_OK && k < sizeof known / sizeof *known; k++)
            if (ends_with(t->name, known[k].suffix))
                st =
                    mg_fail(err, MG_ERR_UNSUPPORTED,
                            "weights quantized by '%s' are not read; convert from the float checkpoint", known[k].what);
        if (st == MG_OK) continue;
        mg_error_at(err, file_of(c, i), t->name);
        return st;
    }
    return MG_OK;
}

mg_status mg_group_layout_init(mg_group_layout *out, mg_checkpoint *c, mg_error *err) {
    size_t cut, n = 1;
    *out = (mg_group_layout){0};
    mg_arena_init(&out->arena, 0);
    MG_TRY(mg_group_config_read(&out->config, c, err));
    for (uint32_t i = 0; i < c->n_tensors; i++) n += holds_codes(out, &c->tensors[i], &cut);
    MG_TRY(MG_ARENA_NEW(&out->arena, &out->use, c->n_tensors + (size_t)1, err));
    MG_TRY(MG_ARENA_NEW(&out->arena, &out->matrix_of, c->n_tensors + (size_t)1, err));
    MG_TRY(MG_ARENA_NEW(&out->arena, &out->matrices, n, err));
    for (uint32_t i = 0; i < c->n_tensors; i++)
        if (holds_codes(out, &c->tensors[i], &cut)) MG_TRY(find(out, c, i, cut, err));
    for (uint32_t i = 0; i < c->n_tensors; i++)
        if (of_the_cache(out, c->tensors[i].name)) out->use[i] = MG_USE_HIDE;
    return refuse_strangers(out, c, err);
}

void mg_group_layout_release(mg_group_layout *l) {
    mg_arena_release(&l->arena);
}
