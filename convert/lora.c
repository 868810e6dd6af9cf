/* lora.c - see lora.h. The adapter becomes a plan over two checkpoints. */
#include "convert/lora.h"

#include "convert/plan.h"
#include "formats/base/file.h"
#include "formats/base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mg_lora {
    mg_checkpoint *adapter, *merged;
    mg_json *config;
    mg_plan *plan;
    double alpha;
    bool rslora;
    uint32_t *a, *b, *whole; /* [base tensors] tensor of the adapter, MG_STRMAP_NONE without */
};

mg_status mg_lora_split(const char *name, char *model, char *adapter, size_t size, mg_error *err) {
    adapter[0] = 0;
    const size_t length = strlen(name);
    if (length >= size) return mg_fail(err, MG_ERR_LIMIT, "'%s' is too long a name", name);
    memcpy(model, name, length + 1);
    const char *first = strchr(name, '+');
    if (!first || mg_path_exists(name)) return MG_OK;
    const char *at = first;
    for (const char *plus = first; plus; plus = strchr(plus + 1, '+')) {
        snprintf(model, size, "%.*s", (int)(plus - name), name);
        if (!mg_path_exists(model)) continue;
        at = plus;
        break;
    }
    snprintf(model, size, "%.*s", (int)(at - name), name);
    snprintf(adapter, size, "%s", at + 1);
    return MG_OK;
}

/* ---- adapter_config.json ---- */

static bool is_plain(const mg_json *v) {
    bool on;
    if (!v || mg_json_type(v) == MG_JSON_NULL) return true;
    if (mg_json_bool(v, &on)) return !on;
    const char *text = mg_json_str(v);
    if (text) return strcmp(text, "none") == 0;
    return (mg_json_type(v) == MG_JSON_OBJECT || mg_json_type(v) == MG_JSON_ARRAY) && mg_json_len(v) == 0;
}

static mg_status read_config(mg_lora *l, const char *dir, mg_error *err) {
    static const char *const unsupported[] = {"use_dora", "fan_in_fan_out", "bias", "alpha_pattern", "lora_bias", NULL};
    char path[4096];
    MG_TRY(mg_path_join(path, sizeof path, dir, "adapter_config.json", err));
    MG_TRY(mg_json_load(&l->config, path, 1u << 20, err));
    mg_error_at(err, path, NULL);
    const char *type = mg_json_str(mg_json_get(l->config, "peft_type"));
    if (type && strcmp(type, "LORA") != 0)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "adapters of type %s are not built, only LORA", type);
    for (const char *const *k = unsupported; *k; k++)
        if (!is_plain(mg_json_get(l->config, *k)))
            return mg_fail(err, MG_ERR_UNSUPPORTED, "LoRA adapters with '%s' are not built", *k);
    if (!mg_json_f64(mg_json_get(l->config, "lora_alpha"), &l->alpha) || !isfinite(l->alpha))
        return mg_fail(err, MG_ERR_FORMAT, "'lora_alpha' must be a number");
    const mg_json *rs = mg_json_get(l->config, "use_rslora");
    if (rs && mg_json_type(rs) != MG_JSON_NULL && !mg_json_bool(rs, &l->rslora))
        return mg_fail(err, MG_ERR_FORMAT, "'use_rslora' must be true or false");
    if (err) err->file[0] = 0;
    return MG_OK;
}

/* ---- names ---- */

/* "base_model.model.NAME.lora_A[.default].weight" is A of the base's NAME.weight; a plain "base_model.model.NAME"
 * replaces the weight. */
static mg_status claim(mg_lora *l, const mg_checkpoint *base, uint32_t t, mg_error *err) {
    static const char prefix[] = "base_model.model.";
    const char *name = l->adapter->tensors[t].name, *rest = name;
    char target[512];
    if (strncmp(name, prefix, sizeof prefix - 1) == 0) rest = name + sizeof prefix - 1;
    const char *a = strstr(rest, ".lora_A."), *b = strstr(rest, ".lora_B."), *mark = a ? a : b;
    int used = mark ? snprintf(target, sizeof target, "%.*s.weight", (int)(mark - rest), rest)
                    : snprintf(target, sizeof target, "%s", rest);
    uint32_t w = used > 0 && (size_t)used < sizeof target ? mg_checkpoint_find(base, target) : MG_STRMAP_NONE;
    if (w == MG_STRMAP_NONE || strstr(rest, "lora_embedding") || strstr(rest, "lora_magnitude")) {
        mg_error_at(err, l->adapter->path, name);
        return mg_fail(err, MG_ERR_CONFLICT, "the adapter changes a weight that '%s' does not have", base->path);
    }
    uint32_t *slot = a ? &l->a[w] : b ? &l->b[w] : &l->whole[w];
    if (*slot != MG_STRMAP_NONE) {
        mg_error_at(err, l->adapter->path, name);
        return mg_fail(err, MG_ERR_FORMAT, "the adapter changes '%s' twice", target);
    }
    *slot = t;
    return MG_OK;
}

static mg_status claim_all(mg_lora *l, const mg_checkpoint *base, mg_error *err) {
    size_t n = (size_t)base->n_tensors + 1;
    l->a = malloc(3 * n * sizeof *l->a);
    if (!l->a) return mg_fail_nomem(err, 3 * n * sizeof *l->a);
    l->b = l->a + n;
    l->whole = l->b + n;
    for (size_t i = 0; i < 3 * n; i++) l->a[i] = MG_STRMAP_NONE;
    for (uint32_t t = 0; t < l->adapter->n_tensors; t++) MG_TRY(claim(l, base, t, err));
    for (uint32_t w = 0; w < base->n_tensors; w++)
        if ((l->a[w] == MG_STRMAP_NONE) != (l->b[w] == MG_STRMAP_NONE)) {
            mg_error_at(err, l->adapter->path, base->tensors[w].name);
            return mg_fail(err, MG_ERR_FORMAT, "the adapter has only one of the two factors of this weight");
        }
    return MG_OK;
}

/* ---- the plan ---- */

static mg_status weight_expr(mg_lora *l, mg_checkpoint *base, uint32_t w, const mg_expr **out, mg_error *err) {
    if (l->whole[w] != MG_STRMAP_NONE) return mg_expr_source(l->plan, l->adapter, l->whole[w], out, err);
    MG_TRY(mg_expr_source(l->plan, base, w, out, err));
    if (l->a[w] == MG_STRMAP_NONE) return MG_OK;
    const mg_expr *a, *b;
    uint64_t shape[MG_MAX_RANK];
    mg_dtype dtype = mg_expr_dtype(*out);
    MG_TRY(mg_expr_source(l->plan, l->adapter, l->a[w], &a, err));
    MG_TRY(mg_expr_source(l->plan, l->adapter, l->b[w], &b, err));
    if (mg_expr_shape(a, shape) != 2 || shape[0] == 0) return mg_fail(err, MG_ERR_FORMAT, "a factor that is no matrix");
    double rank = (double)shape[0];
    MG_TRY(mg_expr_lowrank(l->plan, *out, b, a, l->alpha / (l->rslora ? sqrt(rank) : rank), out, err));
    return mg_expr_cast(l->plan, *out, dtype, NULL, 0, out, err);
}

static mg_status make_plan(mg_lora *l, mg_checkpoint *base, mg_error *err) {
    uint32_t out;
    MG_TRY(mg_plan_new(&l->plan, err));
    MG_TRY(mg_plan_add_output(l->plan, MG_OUT_HF_DIR, "adapted", &out, err)); /* never written */
    if (base->config) MG_TRY(mg_plan_set_config(l->plan, out, base->config, err));
    for (uint32_t w = 0; w < base->n_tensors; w++) {
        const mg_expr *e;
        mg_status st = weight_expr(l, base, w, &e, err);
        if (st == MG_OK) st = mg_plan_add_tensor(l->plan, out, base->tensors[w].name, e, err);
        if (st != MG_OK) {
            mg_error_at(err, l->adapter->path, base->tensors[w].name);
            return st;
        }
    }
    MG_TRY(mg_plan_checkpoint(l->plan, out, &l->merged, err));
    l->merged->dir = base->dir;
    return MG_OK;
}

mg_status mg_lora_open_weights(mg_checkpoint **out, const char *dir, mg_error *err) {
    char path[4096];
    MG_TRY(mg_path_join(path, sizeof path, dir, MG_LORA_FILE, err));
    MG_TRY(mg_checkpoint_open(out, path, err));
    (*out)->path = (*out)->dir; /* its file is called like that of any other adapter */
    return MG_OK;
}

mg_status mg_lora_open(mg_lora **out, mg_checkpoint *base, const char *dir, mg_error *err) {
    mg_lora *l = calloc(1, sizeof *l);
    if (!l) return mg_fail_nomem(err, sizeof *l);
    mg_status st = read_config(l, dir, err);
    if (st == MG_OK) st = mg_lora_open_weights(&l->adapter, dir, err);
    if (st == MG_OK) st = claim_all(l, base, err);
    if (st == MG_OK) st = make_plan(l, base, err);
    if (st != MG_OK) {
        mg_lora_free(l);
        return st;
    }
    *out = l;
    return MG_OK;
}

mg_checkpoint *mg_lora_checkpoint(const mg_lora *l) {
    return l->merged;
}

void mg_lora_free(mg_lora *l) {
    if (!l) return;
    mg_checkpoint_free(l->merged);
    mg_plan_free(l->plan);
    mg_checkpoint_free(l->adapter);
    mg_json_free(l->config);
    free(l->a);
    free(l);
}
