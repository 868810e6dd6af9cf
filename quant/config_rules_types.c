/* config_rules_types.c - what config.json says about stored types, experts and quantization against the tensors. */
#include "quant/config_rules_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "formats/arch/arch.h"
#include "formats/arch/inputs.h"
#include "quant/loader_lists.h"

/* ---- types of the weights ---- */

/* Matrices that are meant by "the type of a model": not norms, routers or scales, which are often kept wider, nor what
 * is quantized. Of a family that is not known, all matrices. */
static bool is_weight(const mg_rules *v, uint32_t t) {
    const mg_tensor *x = &v->c->tensors[t];
    mg_role role;
    if (x->rank < 2 || !mg_dtype_is_float(x->dtype)) return false;
    if (v->layout && v->layout->use[t] != MG_USE_PASS) return false;
    if (!v->m) return true;
    const uint32_t d = mg_checkpoint_find(v->m->ckpt, x->name);
    if (d == MG_STRMAP_NONE || !mg_model_role_of(v->m, d, &role, NULL, NULL)) return false;
    return mg_role_is_linear(role) || role == MG_R_TOKEN_EMBD || role == MG_R_OUTPUT;
}

typedef struct counted {
    uint64_t elements[MG_DTYPE_COUNT];
    uint32_t n[MG_DTYPE_COUNT], first[MG_DTYPE_COUNT], all;
    mg_dtype most;
} counted;

static counted count(const mg_rules *v) {
    counted c = {.most = MG_DTYPE_COUNT};
    for (uint32_t t = 0; t < v->c->n_tensors; t++) {
        if (!is_weight(v, t)) continue;
        const mg_dtype d = v->c->tensors[t].dtype;
        if (c.n[d]++ == 0) c.first[d] = t;
        c.elements[d] += v->c->tensors[t].n_elements; /* each has been allotted bytes of a file: no overflow */
        c.all++;
        if (c.most == MG_DTYPE_COUNT || c.elements[d] > c.elements[c.most]) c.most = d;
    }
    return c;
}

static const char *torch_name(mg_dtype d) {
    return d == MG_F64 ? "float64" : d == MG_F32 ? "float32" : d == MG_F16 ? "float16" : "bfloat16";
}

/* Types that torch has besides those we read from configurations. */
static bool is_torch_type(const mg_json *v) {
    static const char *const names[] = {"float8_e4m3fn", "float8_e5m2", "int8", "uint8"};
    const char *s = mg_json_str(v);
    for (size_t i = 0; s && i < sizeof names / sizeof *names; i++)
        if (strcmp(s, names[i]) == 0) return true;
    return false;
}

void mg_rule_dtype(mg_rules *v) {
    const mg_json *a = mg_json_get(v->config, "dtype"), *b = mg_json_get(v->config, "torch_dtype");
    const bool has_a = a && mg_json_type(a) != MG_JSON_NULL, has_b = b && mg_json_type(b) != MG_JSON_NULL;
    const char *key = has_a ? "dtype" : "torch_dtype";
    char found[100];
    if (!has_a && !has_b) return;
    if (has_a && has_b && mg_json_str(a) && mg_json_str(b) && strcmp(mg_json_str(a), mg_json_str(b)) != 0)
        mg_rules_found(v, MG_SEVERITY_WARNING, "config.json", "torch_dtype", NULL,
                       mg_rules_show(b, found, sizeof found), "\"%.40s\" as dtype beside it", mg_json_str(a));
    const mg_dtype says = mg_config_dtype(v->config);
    const counted c = count(v);
    mg_rules_show(has_a ? a : b, found, sizeof found);
    if (says == MG_DTYPE_COUNT && !is_torch_type(has_a ? a : b))
        mg_rules_found(v, mg_json_str(has_a ? a : b) ? MG_SEVERITY_ERROR : MG_SEVERITY_WARNING, "config.json", key,
                       NULL, found, "float32, float16 or bfloat16");
    else if (says != MG_DTYPE_COUNT && c.all && c.most != says)
        mg_rules_found(v, MG_SEVERITY_WARNING, "config.json", key, NULL, found,
                       "%s: %" PRIu32 " of %" PRIu32 " weight matrices are stored so", torch_name(c.most), c.n[c.most],
                       c.all);
}

void mg_rule_stored_types(mg_rules *v) {
    if (!v->config) return;
    const counted c = count(v);
    for (int d = 0; c.all && d < MG_DTYPE_COUNT; d++) {
        if (!c.n[d] || d == (int)c.most) continue;
        const mg_tensor *t = &v->c->tensors[c.first[d]];
        char found[80];
        snprintf(found, sizeof found, "%s (%" PRIu32 " such)", mg_dtype_get((mg_dtype)d)->name, c.n[d]);
        mg_rules_found(v, MG_SEVERITY_WARNING, v->c->files[t->file], "dtype", t->name, found,
                       "%s as the other %" PRIu32 " weight matrices", mg_dtype_get(c.most)->name, c.n[c.most]);
    }
}

/* ---- experts ---- */

/* The first of these keys that is there. */
static const char *first_key(const mg_json *config, const char *const *keys, int64_t *n) {
    for (; *keys; keys++)
        if (mg_json_i64(mg_json_get(config, *keys), n)) return *keys;
    return NULL;
}

/* Families that are known are refused when they are opened. */
void mg_rule_experts(mg_rules *v) {
    static const char *const used_keys[] = {"num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k",
                                            "moe_top_k",           "experts_per_token",     NULL};
    static const char *const all_keys[] = {"num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts",
                                           NULL};
    int64_t used, all;
    char found[40];
    const char *key = v->m ? NULL : first_key(v->config, used_keys, &used), *of = first_key(v->config, all_keys, &all);
    if (!key || !of || all < 1 || (used >= 1 && used <= all)) return;
    snprintf(found, sizeof found, "%" PRId64, used);
    mg_rules_found(v, MG_SEVERITY_ERROR, "config.json", key, NULL, found, "1 to %s, %" PRId64, of, all);
}

/* ---- quantization ---- */

static const char *block_name(const mg_rules *v) {
    const mg_json *own = mg_json_get(v->config, "quantization");
    return own && mg_json_type(own) == MG_JSON_OBJECT ? "quantization" : "quantization_config";
}

void mg_rule_quantized(mg_rules *v) {
    if (!v->layout || v->layout->config.method == MG_GROUPS_NONE || v->layout->n_matrices) return;
    const char *method = mg_json_str(mg_json_path(v->config, "quantization_config.quant_method"));
    char found[80];
    snprintf(found, sizeof found, "an object of method \"%.40s\"", method ? method : "none");
    mg_rules_found(v, MG_SEVERITY_ERROR, "config.json", block_name(v), NULL, found,
                   "quantized tensors with it: %s holds none", v->data_file);
}

/* By the rule that the writers of the format share; programs that match otherwise: check --for. */
void mg_rule_skip_list(mg_rules *v) {
    if (!v->layout || !v->layout->n_matrices || !v->m || !v->dense) return;
    const mg_json *quant = mg_json_get(v->config, "quantization_config");
    const mg_group_method method = v->layout->config.method;
    const mg_list_view l = {v->layout, v->dense, v->m, quant, false};
    const char *tensor = NULL;
    bool quantized = false;
    const mg_list_match how = method == MG_GROUPS_AWQ ? MG_LIST_SUBSTRING : MG_LIST_RULES;
    if (!mg_loader_list_wrong(&l, how, &tensor, &quantized, NULL, 0)) return;
    const mg_json *only = mg_json_get(quant, "modules_in_block_to_quantize"); /* GPTQ's list of the others */
    if (!quantized && only && mg_json_type(only) != MG_JSON_NULL) return;
    mg_role role = MG_ROLE_COUNT; /* some programs never quantize routers, listed or not */
    mg_model_role_of(v->m, mg_checkpoint_find(v->dense, tensor), &role, NULL, NULL);
    const bool router = role == MG_R_ROUTER || role == MG_R_SHARED_ROUTER;
    const char *key = method == MG_GROUPS_AWQ  ? "quantization_config.modules_to_not_convert"
                      : method == MG_GROUPS_CT ? "quantization_config.ignore"
                                               : "quantization_config.dynamic";
    mg_rules_found(v, router ? MG_SEVERITY_WARNING : MG_SEVERITY_ERROR, "config.json", key, tensor,
                   quantized ? "a list that selects it" : "a list without it",
                   quantized ? "one that leaves it out: it is stored quantized"
                             : "one that selects it: it is stored unquantized");
}
