/* donors.c - opening and comparing donors. */
#include "convert/donors.h"

#include "convert/convert_common.h"
#include "convert/hf_vocab.h"
#include "convert/lora.h"
#include "convert/same_tokenizer.h"
#include "formats/arch/arch.h"
#include "formats/group_config.h"
#include "quant/group_checkpoint.h"
#include "quant/read_f32.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static mg_status open_files(mg_donor *d, mg_error *err) {
    char model[4096], adapter[4096];
    MG_TRY(mg_lora_split(d->path, model, adapter, sizeof model, err));
    MG_TRY(mg_group_checkpoint_open(&d->files, model, err));
    d->ckpt = d->files;
    if (!adapter[0]) return MG_OK;
    MG_TRY(mg_lora_open(&d->lora, d->files, adapter, err));
    d->ckpt = mg_lora_checkpoint(d->lora);
    return MG_OK;
}

static mg_status find_config(mg_donor *d, mg_error *err) {
    mg_hparams hp = d->model->hp;
    d->config = d->ckpt->config;
    if (d->config) return MG_OK;
    MG_TRY(mg_convert_recover_rope(d->model, &hp, err));
    const mg_bound *b = mg_model_find(d->model, MG_R_TOKEN_EMBD, 0, 0);
    mg_dtype dtype = b ? mg_model_tensor(d->model, b)->dtype : MG_BF16;
    MG_TRY(mg_arch_new_config(&d->made, d->model->arch, &hp, mg_dtype_is_float(dtype) ? dtype : MG_BF16, err));
    d->config = d->made;
    return MG_OK;
}

mg_status mg_donor_copy_sides(const mg_donor *base, mg_plan *p, uint32_t out, mg_error *err) {
    bool had;
    if (!base->ckpt->kv) return mg_convert_copy_sides(p, out, base->ckpt->dir, NULL, err);
    return mg_hf_vocab_add(p, out, base->ckpt->kv, &had, err);
}

static bool is_awq(const mg_checkpoint *c) {
    const mg_group_config *g = mg_group_checkpoint_config(c);
    return g && g->method == MG_GROUPS_AWQ;
}

mg_status mg_donor_fit_norm(mg_plan *p, mg_model *m, const mg_donor *d, uint32_t layer, const mg_expr **e,
                            mg_error *err) {
    const mg_bound *a = mg_model_find(m, MG_R_FFN_NORM, layer, 0),
                   *b = mg_model_find(d->model, MG_R_FFN_NORM, layer, 0);
    if (!a || !b || a->shape[0] != b->shape[0] || (!is_awq(m->ckpt) && !is_awq(d->files))) return MG_OK;
    const uint64_t n = a->shape[0];
    float *have = malloc((size_t)(2 * n) * sizeof *have);
    if (!have) return mg_fail_nomem(err, 2 * n * sizeof *have);
    float *want = have + n;
    bool same = true;
    mg_status st = mg_read_f32(m, a, 0, 1, have, err);
    if (st == MG_OK) st = mg_read_f32(d->model, b, 0, 1, want, err);
    for (uint64_t k = 0; st == MG_OK && k < n; k++) {
        same = same && have[k] == want[k];
        want[k] = have[k] == want[k] ? 1 : want[k] / have[k];
        if (!isfinite(want[k]))
            st = mg_fail(err, MG_ERR_UNSUPPORTED,
                         "channel %llu of the norm of layer %u is %g: '%s' cannot be fitted to it",
                         (unsigned long long)k, layer, (double)have[k], d->name);
    }
    const mg_expr *v;
    if (st == MG_OK && !same) st = mg_expr_const(p, MG_F32, 1, &n, want, &v, err);
    if (st == MG_OK && !same) st = mg_expr_columns(p, *e, v, e, err);
    free(have);
    return st;
}

mg_status mg_donors_open(mg_donor *d, uint32_t n, mg_error *err) {
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < i && !d[i].shared; k++) {
            if (strcmp(d[k].path, d[i].path) != 0) continue;
            d[i].ckpt = d[k].ckpt;
            d[i].files = d[k].files;
            d[i].config = d[k].config;
            d[i].model = d[k].model;
            d[i].shared = true;
        }
        if (d[i].shared) continue;
        MG_TRY(open_files(&d[i], err));
        MG_TRY(mg_model_open(&d[i].model, d[i].ckpt, err));
        MG_TRY(find_config(&d[i], err));
    }
    return MG_OK;
}

void mg_donors_close(mg_donor *d, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (d[i].shared) continue;
        mg_json_free(d[i].made);
        mg_vocab_map_release(&d[i].vocab);
        mg_model_free(d[i].model);
        mg_lora_free(d[i].lora);
        mg_checkpoint_free(d[i].files);
    }
}

static bool may_differ(mg_key k) {
    switch (k) {
    case MG_K_CONTEXT:
    case MG_K_BOS:
    case MG_K_EOS:
    case MG_K_PAD:
    case MG_K_WINDOW:
    case MG_K_TIED:
        return true;
    default:
        return false;
    }
}

/* What a mixture says of its experts and their routers; biases of projections are told by the tensors. */
static bool of_experts(mg_key k) {
    switch (k) {
    case MG_K_EXPERTS:
    case MG_K_EXPERTS_USED:
    case MG_K_EXPERT_FFN:
    case MG_K_FFN: /* of a mixture: of its dense layers, if any */
    case MG_K_SHARED_FFN:
    case MG_K_SHARED_COUNT:
    case MG_K_DENSE_LAYERS:
    case MG_K_MOE_STEP:
    case MG_K_MOE_LAST:
    case MG_K_NORM_TOPK:
    case MG_K_SCORE_FUNC:
    case MG_K_GROUPS:
    case MG_K_GROUPS_USED:
    case MG_K_ROUTED_SCALE:
    case MG_K_ATTN_BIAS:
        return true;
    default:
        return false;
    }
}

/* A number that a GGUF of one of the two could not have stated. */
static bool is_lost(const mg_donor *base, const mg_donor *d, mg_key key) {
    const mg_arch *a = (base->ckpt->kv ? d : base)->model->arch;
    for (uint32_t i = 0; i < a->n_config; i++)
        if (a->config[i].key == key) return a->config[i].lost_in_gguf;
    return true; /* the other family knows no such number */
}

/* Append the differences of donor d to list, as far as there is room; returns how many there are. */
static unsigned list_differences(const mg_donor *base, const mg_donor *d, unsigned flags, char *list, size_t size) {
    mg_key keys[MG_KEY_COUNT];
    uint32_t all = mg_hparams_diff(&base->model->hp, &d->model->hp, keys);
    unsigned n = 0;
    bool mixture =
        (flags & MG_DONORS_MIXTURES) && (mg_hp_i(base->model, MG_K_EXPERTS) || mg_hp_i(d->model, MG_K_EXPERTS));
    for (uint32_t i = 0; i < all; i++) {
        if (mixture && of_experts(keys[i])) continue;
        if (may_differ(keys[i]) || ((flags & MG_DONORS_ANY_DEPTH) && keys[i] == MG_K_LAYERS)) continue;
        if ((flags & (MG_DONORS_ANY_VOCAB | MG_DONORS_NEW_VOCAB)) && keys[i] == MG_K_VOCAB) continue;
        if ((base->ckpt->kv || d->ckpt->kv) && is_lost(base, d, keys[i])) continue;
        char b[96], v[96];
        size_t at = strlen(list);
        snprintf(list + at, size - at, "%s'%s' has %s, '%s' has %s", at ? "; " : "", base->name,
                 mg_model_key_text(base->model, keys[i], b, sizeof b), d->name,
                 mg_model_key_text(d->model, keys[i], v, sizeof v));
        n++;
    }
    return n;
}

/* A GGUF names a llama-like family by what it computes: such files may be of any family of that name. */
static bool same_family(const mg_donor *base, const mg_donor *d, unsigned flags) {
    const mg_arch *a = base->model->arch, *b = d->model->arch;
    if (a == b || ((flags & MG_DONORS_MIXTURES) && mg_arch_kin(a, b))) return true;
    const bool alike = (a->block.router == MG_ROUTER_NONE) == (b->block.router == MG_ROUTER_NONE);
    return alike && (base->ckpt->kv || d->ckpt->kv) && strcmp(a->gguf_arch, b->gguf_arch) == 0;
}

/* The map of vocabularies of a donor; one that was opened before has it already. */
static mg_status map_vocab(mg_donor *d, uint32_t i, mg_error *err) {
    for (uint32_t k = 0; d[i].shared && k < i; k++)
        if (d[k].ckpt == d[i].ckpt) {
            d[i].vocab = d[k].vocab;
            return MG_OK;
        }
    MG_TRY(mg_vocab_map_make(&d[i].vocab, d[0].model, d[i].model, err));
    if (d[i].vocab.row && (mg_model_has(d[0].model, MG_R_OUTPUT_BIAS, 0, 0)))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "an output head with a bias and other tokens ('%s')", d[i].name);
    return MG_OK;
}

mg_status mg_donors_compare(mg_donor *d, uint32_t n, unsigned flags, mg_error *err) {
    char list[900] = "";
    unsigned differences = 0;
    for (uint32_t i = 1; i < n; i++) {
        if (d[i].shared) continue;
        if (!same_family(&d[0], &d[i], flags))
            return mg_fail(err, MG_ERR_CONFLICT, "'%s' is a %s model and '%s' a %s model", d[0].name,
                           d[0].model->arch->name, d[i].name, d[i].model->arch->name);
        differences += list_differences(&d[0], &d[i], flags, list, sizeof list);
    }
    bool cut = strlen(list) + 1 >= sizeof list;
    if (differences)
        return mg_fail(err, MG_ERR_CONFLICT, "donors do not fit together (%u differences): %s%s", differences, list,
                       cut ? " ..." : "");
    for (uint32_t i = 1; i < n && !(flags & MG_DONORS_NEW_VOCAB); i++) {
        if (flags & MG_DONORS_ANY_VOCAB)
            MG_TRY(map_vocab(d, i, err));
        else if (!d[i].shared)
            MG_TRY(mg_same_tokenizer(d[0].ckpt, d[i].ckpt, err));
    }
    return MG_OK;
}
