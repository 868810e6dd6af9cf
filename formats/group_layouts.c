/* group_layouts.c - see group_layouts.h. One function per layout turns a tensor of codes and its neighbours into a
 * description, and checks every size against every other before anything is read. */
#include "formats/group_finder.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- AWQ and GPTQ: codes, zeros and scales of [group][row] ---- */

static mg_status group_major(mg_group_finder *f, uint32_t bits, mg_error *err) {
    mg_group_matrix *m = f->m;
    uint32_t zeros = MG_STRMAP_NONE, scales = MG_STRMAP_NONE;
    MG_TRY(mg_group_part(f, ".scales", true, &scales, err));
    MG_TRY(mg_group_expect_shape2(f, scales, m->groups, m->rows, err));
    MG_TRY(mg_group_set_scales(f, scales, m->rows, true, err));
    MG_TRY(mg_group_part(f, ".qzeros", !f->l->config.symmetric, &zeros, err));
    m->zeros.tensor = zeros;
    m->zero_fixed = 1u << (bits - 1);
    if (zeros == MG_STRMAP_NONE) return MG_OK;
    MG_TRY(mg_group_expect_dtype(f, zeros, MG_I32, err));
    if (m->rows * bits % 32 != 0) /* rows * bits fits: m->rows words of 4 bytes, or more, are in the file */
        return mg_group_at(f, zeros,
                           mg_fail(err, MG_ERR_FORMAT,
                                   "%" PRIu64 " rows of %" PRIu32 "-bit zeros do not fill 32-bit words", m->rows, bits),
                           err);
    MG_TRY(mg_group_expect_shape2(f, zeros, m->groups, m->rows * bits / 32, err));
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

static mg_status find_awq(mg_group_finder *f, mg_error *err) {
    const mg_group_config *cfg = &f->l->config;
    const mg_tensor *t = &f->c->tensors[f->at];
    uint64_t rows = 0;
    MG_TRY(mg_group_expect_dtype(f, f->at, MG_I32, err));
    MG_TRY(mg_group_expect_rank(f, f->at, 2, err));
    MG_TRY(mg_group_unpacked(f, 1, cfg->bits, &rows, err));
    MG_TRY(mg_group_name(f, ".weight", err));
    f->m->codes = (mg_code_array){.tensor = f->at,
                                  .bits = cfg->bits,
                                  .word_bytes = 4,
                                  .rows_last = true,
                                  .packed_last = true,
                                  .awq_order = cfg->bits == 4,
                                  .words = {t->shape[0], t->shape[1]}};
    mg_group_set_shape2(f->m, rows, t->shape[0]);
    MG_TRY(mg_group_set_groups(f, cfg->group_size, true, err));
    return group_major(f, cfg->bits, err);
}

/* Where bits and groups differ by module ("dynamic"), the shapes say what they are: g_idx has one entry per column. */
static mg_status gptq_mixed(mg_group_finder *f, uint32_t g_idx, uint32_t *bits, uint64_t *group, mg_error *err) {
    const mg_tensor *t = &f->c->tensors[f->at], *g = &f->c->tensors[g_idx];
    uint32_t scales = MG_STRMAP_NONE, b = 0;
    for (uint32_t i = 2; i <= 8; i++)
        if (i != 5 && i != 6 && i != 7 && g->shape[0] * i / 32 == t->shape[0] && g->shape[0] * i % 32 == 0) b = i;
    if (!b)
        return mg_group_at(f, f->at,
                           mg_fail(err, MG_ERR_FORMAT,
                                   "dimension 0 is %" PRIu64 ", expected 2, 3, 4 or 8 bits for each of %" PRIu64
                                   " entries of g_idx",
                                   t->shape[0], g->shape[0]),
                           err);
    MG_TRY(mg_group_part(f, ".scales", true, &scales, err));
    MG_TRY(mg_group_expect_rank(f, scales, 2, err));
    *bits = b;
    *group = (g->shape[0] - 1) / f->c->tensors[scales].shape[0] + 1;
    return MG_OK;
}

static mg_status find_gptq(mg_group_finder *f, mg_error *err) {
    const mg_group_config *cfg = &f->l->config;
    const mg_tensor *t = &f->c->tensors[f->at];
    uint32_t bits = cfg->bits, g_idx;
    uint64_t cols = 0, group = cfg->group_size;
    MG_TRY(mg_group_expect_dtype(f, f->at, MG_I32, err));
    MG_TRY(mg_group_expect_rank(f, f->at, 2, err));
    MG_TRY(mg_group_part(f, ".g_idx", cfg->act_order || cfg->mixed, &g_idx, err));
    if (g_idx != MG_STRMAP_NONE) {
        MG_TRY(mg_group_expect_dtype(f, g_idx, MG_I32, err));
        MG_TRY(mg_group_expect_rank(f, g_idx, 1, err));
        if (cfg->mixed) MG_TRY(gptq_mixed(f, g_idx, &bits, &group, err));
    }
    MG_TRY(mg_group_unpacked(f, 0, bits, &cols, err));
    if (g_idx != MG_STRMAP_NONE)
        MG_TRY(mg_group_at(f, g_idx, mg_tensor_expect_shape(&f->c->tensors[g_idx], 1, &cols, err), err));
    MG_TRY(mg_group_name(f, ".weight", err));
    f->m->codes = (mg_code_array){
        .tensor = f->at, .bits = bits, .word_bytes = 4, .rows_last = true, .words = {t->shape[0], t->shape[1]}};
    f->m->g_idx = g_idx;
    mg_group_set_shape2(f->m, t->shape[1], cols);
    MG_TRY(mg_group_set_groups(f, group, false, err));
    return group_major(f, bits, err);
}

/* ---- FP8 ---- */

static mg_status find_fp8(mg_group_finder *f, mg_error *err) {
    const mg_group_config *cfg = &f->l->config;
    static const char *const unused[] = {"_scale", NULL};
    uint32_t scales = MG_STRMAP_NONE;
    MG_TRY(mg_group_byte_codes(f, err));
    MG_TRY(mg_group_part(f, "_scale_inv", false, &scales, err));
    if (scales == MG_STRMAP_NONE) MG_TRY(mg_group_part(f, "_scale", false, &scales, err));
    if (scales == MG_STRMAP_NONE)
        return mg_group_at(f, f->at,
                           mg_fail(err, MG_ERR_FORMAT,
                                   "FP8 weight without its scale: expected '%s_scale_inv' or '%s_scale'", f->base,
                                   f->base),
                           err);
    MG_TRY(mg_group_set_groups(f, cfg->block[1], false, err));
    MG_TRY(mg_group_row_major_scales(f, scales, cfg->block[0], err));
    MG_TRY(mg_group_hide(f, unused, err));
    return mg_group_hide_activations(f, err);
}

/* ---- MLX ---- */

/* Small floats: no biases; scales are bytes without a type of their own. */
static mg_status mlx_floats(mg_group_finder *f, mg_mlx_mode mode, uint32_t scales, mg_error *err) {
    uint32_t global;
    f->m->value = mode == MG_MLX_MXFP8 ? MG_CODE_E4M3 : MG_CODE_E2M1;
    MG_TRY(mg_group_expect_dtype(f, scales, MG_U8, err));
    if (mode == MG_MLX_NVFP4) f->m->scale_dtype = MG_F8_E4M3;
    MG_TRY(mg_group_part(f, ".global_scale", false, &global, err));
    if (global == MG_STRMAP_NONE) return MG_OK;
    return mg_group_at(
        f, global, mg_fail(err, MG_ERR_UNSUPPORTED, "MLX weights with a global scale beside their scales are not read"),
        err);
}

/* X.weight [rows, words], or [experts, rows, words] of experts below each other. */
static mg_status find_mlx(mg_group_finder *f, mg_error *err) {
    const mg_tensor *t = &f->c->tensors[f->at];
    mg_group_matrix *m = f->m;
    mg_mlx_scheme s;
    uint32_t scales = MG_STRMAP_NONE;
    uint64_t cols = 0;
    MG_TRY(mg_group_config_mlx(&f->l->config, f->base, &s, err));
    MG_TRY(mg_group_expect_rank(f, f->at, t->rank == 3 ? 3 : 2, err));
    const uint64_t words = t->shape[t->rank - 1], rows = t->n_elements / words;
    MG_TRY(mg_group_unpacked(f, t->rank - 1, s.bits, &cols, err));
    MG_TRY(mg_group_name(f, ".weight", err));
    m->codes =
        (mg_code_array){.tensor = f->at, .bits = s.bits, .word_bytes = 4, .packed_last = true, .words = {rows, words}};
    mg_group_set_shape2(m, rows, cols);
    m->rank = t->rank;
    memcpy(m->shape, t->shape, sizeof m->shape);
    m->shape[t->rank - 1] = cols;
    m->slab_rows = t->shape[t->rank - 2];
    MG_TRY(mg_group_set_groups(f, s.group_size, true, err));
    MG_TRY(mg_group_part(f, ".scales", true, &scales, err));
    MG_TRY(mg_group_row_major_scales(f, scales, 1, err));
    if (s.mode != MG_MLX_AFFINE) return mlx_floats(f, s.mode, scales, err);
    MG_TRY(mg_group_part(f, ".biases", true, &m->biases, err));
    MG_TRY(mg_group_expect_dtype(f, m->biases, f->c->tensors[scales].dtype, err));
    const mg_tensor *like = &f->c->tensors[scales];
    return mg_group_at(f, m->biases, mg_tensor_expect_shape(&f->c->tensors[m->biases], like->rank, like->shape, err),
                       err);
}

/* ---- MXFP4 as gpt-oss stores it ---- */

/* X_blocks [matrices, rows, groups, 16], X_scales [matrices, rows, groups]. The weight keeps the name of its blocks:
 * X is that of the dense form, whose matrices are transposed. */
static mg_status find_mxfp4(mg_group_finder *f, mg_error *err) {
    const mg_tensor *t = &f->c->tensors[f->at];
    mg_group_matrix *m = f->m;
    uint32_t scales = MG_STRMAP_NONE;
    MG_TRY(mg_group_expect_dtype(f, f->at, MG_U8, err));
    MG_TRY(mg_group_expect_rank(f, f->at, 4, err));
    if (t->shape[3] != 16)
        return mg_group_at(
            f, f->at,
            mg_fail(err, MG_ERR_FORMAT, "dimension 3 is %" PRIu64 ", expected 16 bytes of 32 codes", t->shape[3]), err);
    MG_TRY(mg_group_name(f, "_blocks", err));
    mg_group_set_shape2(m, t->shape[0] * t->shape[1], t->shape[2] * 32); /* fits: the file has half as many bytes */
    m->rank = 3;
    m->shape[0] = t->shape[0];
    m->shape[1] = m->slab_rows = t->shape[1];
    m->shape[2] = m->cols;
    m->value = MG_CODE_E2M1;
    m->codes = (mg_code_array){.tensor = f->at,
                               .bits = 4,
                               .word_bytes = 1,
                               .packed_last = true,
                               .words = {m->rows, m->cols / 2},
                               .js = m->cols};
    MG_TRY(mg_group_set_groups(f, 32, true, err));
    MG_TRY(mg_group_part(f, "_scales", true, &scales, err));
    if (f->c->tensors[scales].dtype != MG_F8_E8M0) MG_TRY(mg_group_expect_dtype(f, scales, MG_U8, err));
    return mg_group_row_major_scales(f, scales, 1, err);
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
    case MG_GROUPS_MLX:
        *cut = sizeof ".weight" - 1;
        return ends_with(t->name, ".weight") && t->dtype == MG_U32;
    case MG_GROUPS_MXFP4:
        *cut = sizeof "_blocks" - 1;
        return ends_with(t->name, "_blocks");
    case MG_GROUPS_FP8:
        return is_f8(t->dtype) && !ends_with(t->name, "_scale") && !ends_with(t->name, "_scale_inv");
    default:
        return false;
    }
}

static mg_status find(mg_group_layout *l, mg_checkpoint *c, uint32_t t, size_t cut, mg_error *err) {
    mg_group_finder f = {.l = l, .c = c, .m = &l->matrices[l->n_matrices], .at = t};
    const char *name = c->tensors[t].name;
    f.base = mg_arena_strndup(&l->arena, name, strlen(name) - cut);
    if (!f.base) return mg_fail_nomem(err, strlen(name));
    *f.m =
        (mg_group_matrix){.biases = MG_STRMAP_NONE, .g_idx = MG_STRMAP_NONE, .divisor = MG_STRMAP_NONE, .row_block = 1};
    f.m->zeros.tensor = MG_STRMAP_NONE;
    switch (l->config.method) {
    case MG_GROUPS_AWQ:
        MG_TRY(find_awq(&f, err));
        break;
    case MG_GROUPS_GPTQ:
        MG_TRY(find_gptq(&f, err));
        break;
    case MG_GROUPS_CT:
        MG_TRY(mg_group_find_ct(&f, cut != 0, err));
        break;
    case MG_GROUPS_MLX:
        MG_TRY(find_mlx(&f, err));
        break;
    case MG_GROUPS_MXFP4:
        MG_TRY(find_mxfp4(&f, err));
        break;
    default:
        MG_TRY(find_fp8(&f, err));
        break;
    }
    const uint32_t twin = mg_checkpoint_find(c, f.m->name);
    if (twin != MG_STRMAP_NONE && twin != t && cut)
        return mg_group_at(&f, t, mg_fail(err, MG_ERR_FORMAT, "the same weight is also stored as '%s'", f.m->name),
                           err);
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
        {".B", "Marlin"}, /* so short a name only as I32 */
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
        else if (ends_with(t->name, ".qweight") || ends_with(t->name, ".weight_packed") ||
                 (ends_with(t->name, "_proj_blocks") && t->dtype == MG_U8))
            st = mg_fail(err, MG_ERR_FORMAT,
                         "holds quantized weights, but no quantization_config says which layout it has");
        for (size_t k = 0; st == MG_OK && k < sizeof known / sizeof *known; k++)
            if (ends_with(t->name, known[k].suffix) && (known[k].suffix[2] || t->dtype == MG_I32))
                st =
                    mg_fail(err, MG_ERR_UNSUPPORTED,
                            "weights quantized by '%s' are not read; convert from the float checkpoint", known[k].what);
        if (st == MG_OK) continue;
        mg_error_at(err, mg_group_file_of(c, i), t->name);
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
