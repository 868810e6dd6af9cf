/* loader_vllm.c - what vLLM does with a model on one or more tensor-parallel ranks. The sources are named in the table
 * of quant/loader_rules.c. All but cut words and heads were seen to be refused, or to be read wrong, by vLLM 0.32, and
 * what no rule names to load (tests/oracle/vllm_load.py). */
#include "quant/loader_view.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool splits_inputs(mg_role r) {
    return r == MG_R_ATTN_O || r == MG_R_FFN_DOWN || r == MG_R_EXPERT_DOWN || r == MG_R_SHARED_DOWN;
}

/* Output rows of a rank; false: they do not divide. Ranks beyond the number of key heads share them. */
static bool rows_of_rank(const mg_loader_view *v, const mg_group_matrix *m, mg_role r, uint64_t *rows) {
    const uint64_t kv = (uint64_t)v->m->hp.i[MG_K_KV_HEADS];
    const uint64_t parts = (r == MG_R_ATTN_K || r == MG_R_ATTN_V) && kv && kv < v->tp ? kv : v->tp;
    *rows = m->rows / parts;
    return m->rows % parts == 0;
}

/* One scale for a whole row, and said so: such scales are given to every rank. */
static bool has_row_scales(const mg_loader_view *v, const mg_group_matrix *m) {
    const mg_group_config *c = &v->layout.config;
    bool said = c->n_ct == 0 && c->group_size == 0;
    for (uint32_t i = 0; i < c->n_ct; i++) said |= c->ct[i].group_size == 0;
    return m->groups == 1 && said;
}

bool mg_vllm_groups_cut(const mg_loader_view *v, mg_loader_hit *h) {
    for (uint32_t i = 0; i < v->layout.n_matrices; i++) {
        const mg_group_matrix *m = &v->layout.matrices[i];
        const uint64_t share = m->cols / v->tp;
        if (!splits_inputs(mg_loader_role_of(v, m->name)) || (v->tp == 1 && m->row_block > 1))
            continue; /* an edge block may be cut */
        if (has_row_scales(v, m) && !mg_loader_is_method(v, MG_GROUPS_AWQ)) continue;
        if (m->cols % v->tp == 0 && share % m->group_size == 0) continue;
        h->tensor = m->name;
        snprintf(h->text, sizeof h->text,
                 "%" PRIu64 " input features over %" PRIu32 " ranks are not whole groups of %" PRIu64, m->cols, v->tp,
                 m->group_size);
        return true;
    }
    return false;
}

bool mg_vllm_words_cut(const mg_loader_view *v, mg_loader_hit *h) {
    for (uint32_t i = 0; i < v->layout.n_matrices; i++) {
        const mg_group_matrix *m = &v->layout.matrices[i];
        const mg_role r = mg_loader_role_of(v, m->name);
        const bool inputs = splits_inputs(r);
        /* codes lie in words along one axis, zeros along the rows */
        const bool along_rows = (m->codes.rows_last && m->codes.packed_last) ||
                                (m->zeros.tensor != MG_STRMAP_NONE && m->zeros.word_bytes == 4);
        uint64_t share = m->cols / v->tp;
        bool whole = m->cols % v->tp == 0;
        if (m->codes.word_bytes != 4 || (inputs ? m->codes.rows_last && m->codes.packed_last : !along_rows)) continue;
        if (!inputs) whole = rows_of_rank(v, m, r, &share);
        if (whole && share * m->codes.bits % 32 == 0) continue;
        h->tensor = m->name;
        snprintf(h->text, sizeof h->text, "%" PRIu64 " %s features over %" PRIu32 " ranks do not fill words",
                 inputs ? m->cols : m->rows, inputs ? "input" : "output", v->tp);
        return true;
    }
    return false;
}

/* Weights that share blocks with what they are joined to, or are cut at. q and k begin such a join, gate does. */
bool mg_vllm_blocks_cut(const mg_loader_view *v, mg_loader_hit *h) {
    for (uint32_t i = 0; i < v->layout.n_matrices; i++) {
        const mg_group_matrix *m = &v->layout.matrices[i];
        const mg_role r = mg_loader_role_of(v, m->name);
        const bool first = r == MG_R_ATTN_Q || r == MG_R_ATTN_K || r == MG_R_FFN_GATE || r == MG_R_SHARED_GATE ||
                           r == MG_R_EXPERT_GATE;
        uint64_t share;
        if (m->row_block <= 1 || splits_inputs(r) || (v->tp == 1 && !first)) continue;
        if (rows_of_rank(v, m, r, &share) && share % m->row_block == 0) continue;
        h->tensor = m->name;
        snprintf(h->text, sizeof h->text,
                 "%" PRIu64 " output features over %" PRIu32 " ranks are not whole blocks of %" PRIu64, m->rows, v->tp,
                 m->row_block);
        return true;
    }
    return false;
}

bool mg_vllm_heads_cut(const mg_loader_view *v, mg_loader_hit *h) {
    const int64_t heads = v->m->hp.i[MG_K_HEADS], kv = v->m->hp.i[MG_K_KV_HEADS], tp = v->tp;
    if (heads % tp == 0 && (kv % tp == 0 || tp % kv == 0)) return false;
    snprintf(h->text, sizeof h->text,
             "%" PRId64 " heads and %" PRId64 " key heads do not divide over %" PRId64 " ranks", heads, kv, tp);
    return true;
}

bool mg_vllm_row_groups(const mg_loader_view *v, mg_loader_hit *h) {
    if (!mg_loader_is_method(v, MG_GROUPS_AWQ) || v->layout.config.group_size != 0 || !mg_loader_has_experts(v))
        return false;
    snprintf(h->text, sizeof h->text, "groups of whole rows: it divides the sizes of experts by -1");
    return true;
}

bool mg_vllm_act_order(const mg_loader_view *v, mg_loader_hit *h) {
    const mg_group_config *c = &v->layout.config;
    bool found = mg_loader_is_method(v, MG_GROUPS_GPTQ) && c->act_order && c->group_size != 0;
    for (uint32_t i = 0; i < c->n_ct; i++) found |= c->ct[i].act_order;
    if (!found) return false;
    snprintf(h->text, sizeof h->text, "groups in another order than columns (%s) are no longer read",
             c->n_ct ? "actorder" : "desc_act");
    return true;
}

bool mg_vllm_byte_zeros(const mg_loader_view *v, mg_loader_hit *h) {
    for (uint32_t i = 0; mg_loader_has_experts(v) && i < v->layout.n_matrices; i++) {
        const mg_group_matrix *m = &v->layout.matrices[i];
        if (mg_loader_role_of(v, m->name) != MG_R_EXPERT_GATE || m->zeros.tensor == MG_STRMAP_NONE ||
            m->codes.bits != 8 || !mg_loader_is_method(v, MG_GROUPS_CT))
            continue;
        h->tensor = m->name;
        snprintf(h->text, sizeof h->text,
                 "no kernel for experts of 8 bits with zero points (write them with --symmetric)");
        return true;
    }
    return false;
}

bool mg_vllm_scales_rounded(const mg_loader_view *v, mg_loader_hit *h) {
    const mg_dtype d = v->c->config ? mg_config_dtype(v->c->config) : MG_DTYPE_COUNT;
    for (uint32_t i = 0; (d == MG_F16 || d == MG_BF16 || d == MG_F32) && i < v->layout.n_matrices; i++) {
        const mg_group_matrix *m = &v->layout.matrices[i];
        if (m->value != MG_CODE_INT || (m->scale_dtype == d && d != MG_F32)) continue;
        h->tensor = m->name;
        snprintf(h->text, sizeof h->text, "config.json names %s%s, to which scales of %s are rounded",
                 mg_dtype_get(d)->name, d == MG_F32 ? ", run in 16 bits" : "", mg_dtype_get(m->scale_dtype)->name);
        return true;
    }
    return false;
}

bool mg_vllm_unknown_family(const mg_loader_view *v, mg_loader_hit *h) {
    const mg_vllm has = v->m->arch->vllm;
    if (has == MG_VLLM_ALL || (has == MG_VLLM_NO_GPTQ && !mg_loader_is_method(v, MG_GROUPS_GPTQ))) return false;
    snprintf(h->text, sizeof h->text, "it has no model of this family%s",
             has == MG_VLLM_NO_GPTQ ? " that takes GPTQ (other formats load)" : "");
    return true;
}

bool mg_vllm_code_elsewhere(const mg_loader_view *v, mg_loader_hit *h) {
    const mg_json *map = v->c->config ? mg_json_get(v->c->config, "auto_map") : NULL;
    const char *where = mg_json_str(mg_json_get(map, "AutoConfig"));
    if (!where || !strstr(where, "--")) return false;
    snprintf(h->text, sizeof h->text,
             "the configuration is read by code from the hub, which wants --trust-remote-code");
    return true;
}
