/* donors.c - opening and comparing donors. */
#include "convert/donors.h"

#include "convert/lora.h"
#include "convert/same_tokenizer.h"
#include "formats/arch/arch.h"
#include "quant/group_checkpoint.h"

#include <stdio.h>
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

mg_status mg_donors_open(mg_donor *d, uint32_t n, mg_error *err) {
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < i && !d[i].shared; k++) {
            if (strcmp(d[k].path, d[i].path) != 0) continue;
            d[i].ckpt = d[k].ckpt;
            d[i].model = d[k].model;
            d[i].shared = true;
        }
        if (d[i].shared) continue;
        MG_TRY(open_files(&d[i], err));
        MG_TRY(mg_model_open(&d[i].model, d[i].ckpt, err));
        if (!d[i].ckpt->config) {
            mg_error_at(err, d[i].path, NULL);
            return mg_fail(err, MG_ERR_UNSUPPORTED, "only checkpoints with a config.json can be merged yet");
        }
    }
    return MG_OK;
}

void mg_donors_close(mg_donor *d, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (d[i].shared) continue;
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

/* Append the differences of donor d to list, as far as there is room; returns how many there are. */
static unsigned list_differences(const mg_donor *base, const mg_donor *d, bool any_depth, bool mixtures, char *list,
                                 size_t size) {
    mg_key keys[MG_KEY_COUNT];
    uint32_t all = mg_hparams_diff(&base->model->hp, &d->model->hp, keys);
    unsigned n = 0;
    bool mixture = mixtures && (mg_hp_i(base->model, MG_K_EXPERTS) || mg_hp_i(d->model, MG_K_EXPERTS));
    for (uint32_t i = 0; i < all; i++) {
        if (mixture && of_experts(keys[i])) continue;
        if (may_differ(keys[i]) || (any_depth && keys[i] == MG_K_LAYERS)) continue;
        char b[96], v[96];
        size_t at = strlen(list);
        snprintf(list + at, size - at, "%s'%s' has %s, '%s' has %s", at ? "; " : "", base->name,
                 mg_model_key_text(base->model, keys[i], b, sizeof b), d->name,
                 mg_model_key_text(d->model, keys[i], v, sizeof v));
        n++;
    }
    return n;
}

mg_status mg_donors_compare(const mg_donor *d, uint32_t n, bool any_depth, bool mixtures, mg_error *err) {
    char list[900] = "";
    unsigned differences = 0;
    for (uint32_t i = 1; i < n; i++) {
        if (d[i].shared) continue;
        const struct mg_arch *a = d[0].model->arch, *b = d[i].model->arch;
        if (a != b && !(mixtures && mg_arch_kin(a, b)))
            return mg_fail(err, MG_ERR_CONFLICT, "'%s' is a %s model and '%s' a %s model", d[0].name, a->name,
                           d[i].name, b->name);
        differences += list_differences(&d[0], &d[i], any_depth, mixtures, list, sizeof list);
    }
    bool cut = strlen(list) + 1 >= sizeof list;
    if (differences)
        return mg_fail(err, MG_ERR_CONFLICT, "donors do not fit together (%u differences): %s%s", differences, list,
                       cut ? " ..." : "");
    for (uint32_t i = 1; i < n; i++)
        if (!d[i].shared) MG_TRY(mg_same_tokenizer(d[0].ckpt, d[i].ckpt, err));
    return MG_OK;
}
