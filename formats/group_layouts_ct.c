/* group_layouts_ct.c - the layouts of compressed-tensors. */
#include <inttypes.h>
#include <string.h>

#include "formats/group_finder.h"

static mg_status ct_zeros(mg_group_finder *f, const mg_ct_group *g, mg_error *err) {
    mg_group_matrix *m = f->m;
    uint32_t t = MG_STRMAP_NONE;
    m->zero_fixed = 1u << (g->bits - 1);
    MG_TRY(mg_group_part(f, "_zero_point", !g->symmetric, &t, err));
    m->zeros.tensor = MG_STRMAP_NONE;
    if (g->symmetric) return MG_OK;        /* a zero point that is there all the same is zero */
    if (f->c->tensors[t].dtype == MG_I8) { /* signed, one byte each */
        MG_TRY(mg_group_expect_shape2(f, t, m->rows, m->groups, err));
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
    MG_TRY(mg_group_expect_dtype(f, t, MG_I32, err));
    uint64_t per = m->codes.per_word, words = per ? (m->rows - 1) / per + 1 : (m->rows * g->bits - 1) / 32 + 1;
    MG_TRY(mg_group_expect_shape2(f, t, words, m->groups, err));
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
static mg_status ct_rest(mg_group_finder *f, const mg_ct_group *g, mg_error *err) {
    mg_group_matrix *m = f->m;
    uint32_t scales = MG_STRMAP_NONE;
    MG_TRY(mg_group_set_groups(f, g->group_size, false, err));
    MG_TRY(mg_group_part(f, "_scale", true, &scales, err));
    MG_TRY(mg_group_row_major_scales(f, scales, g->one_scale ? 0 : g->row_block, err));
    if (m->value == MG_CODE_INT) MG_TRY(ct_zeros(f, g, err));
    if (!g->act_order) return MG_OK;
    MG_TRY(mg_group_part(f, "_g_idx", true, &m->g_idx, err));
    MG_TRY(mg_group_expect_dtype(f, m->g_idx, MG_I32, err));
    return mg_group_at(f, m->g_idx, mg_tensor_expect_shape(&f->c->tensors[m->g_idx], 1, &m->cols, err), err);
}

/* rows and cols from weight_shape, the only place that has them. */
static mg_status ct_weight_shape(mg_group_finder *f, uint64_t *cols, mg_error *err) {
    const mg_tensor *t = &f->c->tensors[f->at];
    const uint64_t two = 2;
    uint32_t at = MG_STRMAP_NONE;
    int64_t n[2];
    MG_TRY(mg_group_part(f, "_shape", true, &at, err));
    MG_TRY(mg_group_at(f, at, mg_tensor_expect_shape(&f->c->tensors[at], 1, &two, err), err));
    MG_TRY(mg_group_expect_dtype(f, at, MG_I64, err));
    MG_TRY(mg_checkpoint_read(f->c, at, 0, n, sizeof n, err));
    if (n[0] <= 0 || (uint64_t)n[0] != t->shape[0] || n[1] <= 0 || n[1] > (int64_t)1 << 48)
        return mg_group_at(f, at,
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

static mg_status ct_packed(mg_group_finder *f, const mg_ct_group *g, mg_error *err) {
    const mg_tensor *t = &f->c->tensors[f->at];
    uint64_t cols = 0;
    uint32_t per_word;
    MG_TRY(mg_group_expect_dtype(f, f->at, MG_I32, err));
    MG_TRY(mg_group_expect_rank(f, f->at, 2, err));
    MG_TRY(ct_weight_shape(f, &cols, err));
    if (!ct_width(cols, g->bits, t->shape[1], &per_word))
        return mg_group_at(f, f->at,
                           mg_fail(err, MG_ERR_FORMAT,
                                   "dimension 1 is %" PRIu64 ", expected %" PRIu64 " for %" PRIu64
                                   " columns of %" PRIu32 " bits",
                                   t->shape[1], (cols * g->bits - 1) / 32 + 1, cols, g->bits),
                           err);
    f->m->codes = (mg_code_array){.tensor = f->at,
                                  .bits = g->bits,
                                  .word_bytes = 4,
                                  .per_word = per_word,
                                  .packed_last = true,
                                  .words = {t->shape[0], t->shape[1]}};
    mg_group_set_shape2(f->m, t->shape[0], cols);
    return ct_rest(f, g, err);
}

static mg_status ct_fp4(mg_group_finder *f, const mg_ct_group *g, mg_error *err) {
    const mg_tensor *t = &f->c->tensors[f->at];
    const bool nv = g->format == MG_CT_NVFP4;
    MG_TRY(mg_group_expect_dtype(f, f->at, MG_U8, err));
    MG_TRY(mg_group_expect_rank(f, f->at, 2, err));
    f->m->value = MG_CODE_E2M1;
    f->m->codes = (mg_code_array){
        .tensor = f->at, .bits = 4, .word_bytes = 1, .packed_last = true, .words = {t->shape[0], t->shape[1]}};
    mg_group_set_shape2(f->m, t->shape[0], t->shape[1] * 2);
    MG_TRY(ct_rest(f, g, err));
    if (!nv) return f->m->scale_dtype == MG_F8_E8M0 ? MG_OK : mg_group_expect_dtype(f, f->m->scales, MG_F8_E8M0, err);
    MG_TRY(mg_group_expect_dtype(f, f->m->scales, MG_F8_E4M3, err));
    MG_TRY(mg_group_part(f, "_global_scale", true, &f->m->divisor, err));
    MG_TRY(mg_group_expect_dtype(f, f->m->divisor, MG_F32, err));
    if (f->c->tensors[f->m->divisor].n_elements == 1) return MG_OK;
    return mg_group_expect_shape2(f, f->m->divisor, 1, 1, err);
}

static mg_status ct_try(mg_group_finder *f, const mg_ct_group *g, bool packed, mg_error *err) {
    *f->m =
        (mg_group_matrix){.biases = MG_STRMAP_NONE, .g_idx = MG_STRMAP_NONE, .divisor = MG_STRMAP_NONE, .row_block = 1};
    f->m->zeros.tensor = MG_STRMAP_NONE;
    if (!packed) {
        MG_TRY(mg_group_expect_dtype(f, f->at, g->format == MG_CT_INT8 ? MG_I8 : MG_F8_E4M3, err));
        MG_TRY(mg_group_byte_codes(f, err));
        return ct_rest(f, g, err);
    }
    MG_TRY(mg_group_name(f, "", err));
    return g->format == MG_CT_PACKED ? ct_packed(f, g, err) : ct_fp4(f, g, err);
}

/* The config group of a tensor: the first whose format and sizes fit it. Names (targets) need not be matched for that,
 * since groups that both fit have the same bits, the same groups and the same parts. */
mg_status mg_group_find_ct(mg_group_finder *f, bool packed, mg_error *err) {
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
        st = mg_group_at(f, f->at, mg_fail(&first, MG_ERR_FORMAT, "no entry of config_groups stores weights this way"),
                         &first);
    if (st != MG_OK) {
        if (err && err->code == MG_OK) *err = first;
        return first.code;
    }
    MG_TRY(mg_group_hide(f, unused, err));
    return mg_group_hide_activations(f, err);
}
