/* lora.c - see lora.h. The adapter becomes a plan over two checkpoints. */
#include "convert/lora.h"

#include "convert/plan.h"
#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/base/regex.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What an adapter does to one tensor of the base: tensors of the adapter, MG_STRMAP_NONE without. */
typedef enum mg_lora_part {
    PART_WHOLE, /* stands in its place */
    PART_A,
    PART_B, /* the factors; of an embedding both turned */
    PART_EMB_A,
    PART_EMB_B,
    PART_NORMS, /* DoRA: norms of the rows */
    PART_BIAS,  /* added to a bias, scaled like the weight */
    PART_COUNT,
} mg_lora_part;
typedef struct change {
    uint32_t part[PART_COUNT];
    double alpha;
} change;

/* Alpha of modules whose names match. */
typedef struct alpha_rule {
    mg_regex *name;
    double alpha;
} alpha_rule;

struct mg_lora {
    mg_checkpoint *adapter, *merged;
    mg_json *config;
    mg_plan *plan;
    mg_regex_run *run;
    alpha_rule *rules;
    size_t n_rules;
    double alpha;
    bool rslora, dora;
    change *changes; /* [base tensors] */
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

/* Starting values that are taken out of the base's weights, so that the adapter fits no longer what is stored: PEFT's
 * pissa, corda, olora, loftq, lora_ga, and what we do not know. */
static mg_status check_start(const mg_json *init, mg_error *err) {
    static const char *const plain[] = {"gaussian", "eva", "orthogonal", NULL};
    const char *text = mg_json_str(init);
    size_t i = 0;
    if (!text) return MG_OK;
    while (plain[i] && strcmp(text, plain[i]) != 0) i++;
    return plain[i] ? MG_OK
                    : mg_fail(err, MG_ERR_UNSUPPORTED,
                              "'init_lora_weights' is '%s': the adapter goes with a base whose weights it changed at "
                              "the start; save it with PEFT's path_initial_model_for_weight_conversion",
                              text);
}

/* alpha_pattern: an expression that ends a module's name, as PEFT's get_pattern_key matches it. */
static mg_status read_alphas(mg_lora *l, mg_error *err) {
    const mg_json *pattern = mg_json_get(l->config, "alpha_pattern");
    if (is_plain(pattern)) return MG_OK;
    if (mg_json_type(pattern) != MG_JSON_OBJECT) return mg_fail(err, MG_ERR_FORMAT, "'alpha_pattern' is not an object");
    l->rules = calloc(mg_json_len(pattern), sizeof *l->rules);
    if (!l->rules) return mg_fail_nomem(err, mg_json_len(pattern) * sizeof *l->rules);
    MG_TRY(mg_regex_run_new(&l->run, err));
    for (const mg_json *v = mg_json_first(pattern); v; v = mg_json_next(v)) {
        char whole[1024];
        alpha_rule *rule = &l->rules[l->n_rules];
        if (snprintf(whole, sizeof whole, "\\A(?:.*\\.)?(?:%s)\\z", mg_json_key(v)) >= (int)sizeof whole)
            return mg_fail(err, MG_ERR_LIMIT, "'alpha_pattern': an expression of %zu characters",
                           strlen(mg_json_key(v)));
        if (!mg_json_f64(v, &rule->alpha) || !isfinite(rule->alpha))
            return mg_fail(err, MG_ERR_FORMAT, "'alpha_pattern': '%.100s' must be a number", mg_json_key(v));
        MG_TRY(mg_regex_new(&rule->name, whole, err));
        l->n_rules++;
    }
    return MG_OK;
}

static mg_status read_flag(const mg_json *config, const char *key, bool *out, mg_error *err) {
    const mg_json *v = mg_json_get(config, key);
    if (!v || mg_json_type(v) == MG_JSON_NULL || mg_json_bool(v, out)) return MG_OK;
    return mg_fail(err, MG_ERR_FORMAT, "'%s' must be true or false", key);
}

/* fan_in_fan_out is for layers stored input-major, which no family here has: PEFT sets it back for all others. bias
 * and rank_pattern say what the tensors show. */
static mg_status read_config(mg_lora *l, const char *dir, mg_error *err) {
    static const char *const unsupported[] = {"trainable_token_indices",
                                              "target_parameters",
                                              "layer_replication",
                                              "alora_invocation_tokens",
                                              "use_qalora",
                                              "use_bdlora",
                                              "arrow_config",
                                              "kasa_config",
                                              "monteclora_config",
                                              NULL};
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
    MG_TRY(check_start(mg_json_get(l->config, "init_lora_weights"), err));
    if (!mg_json_f64(mg_json_get(l->config, "lora_alpha"), &l->alpha) || !isfinite(l->alpha))
        return mg_fail(err, MG_ERR_FORMAT, "'lora_alpha' must be a number");
    MG_TRY(read_flag(l->config, "use_rslora", &l->rslora, err));
    MG_TRY(read_flag(l->config, "use_dora", &l->dora, err));
    MG_TRY(read_alphas(l, err));
    if (err) err->file[0] = 0;
    return MG_OK;
}

/* ---- names ---- */

enum { NAME_CAP = 512 };

/* Take a component out of a dotted name, where it is. */
static void drop(char *name, const char *component) {
    const size_t n = strlen(component);
    for (char *p = strstr(name, component); p; p = strstr(p + 1, component)) {
        if (p == name || p[-1] != '.' || (p[n] != '.' && p[n])) continue;
        memmove(p - 1, p + n, strlen(p + n) + 1);
        return;
    }
}

/* What a tensor of the adapter is, and the tensor of the base that it is for: its name begins with
 * "base_model.model.", may name the adapter ("default") and wrappers around the base's module, and ends in one of
 * these. Anything else stands in the place of the base's tensor. */
static mg_status place_of(const char *stored, char name[NAME_CAP], mg_lora_part *part, mg_error *err) {
    static const struct {
        const char *tail, *target;
        mg_lora_part part;
    } tails[] = {{".lora_A.weight", ".weight", PART_A},
                 {".lora_B.weight", ".weight", PART_B},
                 {".lora_B.bias", ".bias", PART_BIAS},
                 {".lora_embedding_A", ".weight", PART_EMB_A},
                 {".lora_embedding_B", ".weight", PART_EMB_B},
                 {".lora_magnitude_vector", ".weight", PART_NORMS},
                 {".lora_magnitude_vector.weight", ".weight", PART_NORMS}};
    static const char prefix[] = "base_model.model.";
    if (strncmp(stored, prefix, sizeof prefix - 1) == 0) stored += sizeof prefix - 1;
    const size_t n = strlen(stored);
    if (n + sizeof ".weight" > NAME_CAP) return mg_fail(err, MG_ERR_LIMIT, "a name of %zu characters", n);
    memcpy(name, stored, n + 1);
    drop(name, "default");
    *part = PART_WHOLE;
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        const size_t len = strlen(name), tail = strlen(tails[i].tail);
        if (len <= tail || strcmp(name + len - tail, tails[i].tail) != 0) continue;
        *part = tails[i].part;
        memcpy(name + len - tail, tails[i].target, strlen(tails[i].target) + 1); /* not longer than the tail */
        return MG_OK;
    }
    drop(name, "base_layer");
    drop(name, "modules_to_save");
    return MG_OK;
}

static mg_status claim(mg_lora *l, const mg_checkpoint *base, uint32_t t, mg_error *err) {
    char target[NAME_CAP];
    mg_lora_part part = PART_WHOLE;
    MG_TRY(place_of(l->adapter->tensors[t].name, target, &part, err));
    const uint32_t w = mg_checkpoint_find(base, target);
    if (w == MG_STRMAP_NONE)
        return mg_fail(err, MG_ERR_CONFLICT, "the adapter changes a weight that '%s' does not have", base->path);
    uint32_t *slot = &l->changes[w].part[part];
    if (*slot != MG_STRMAP_NONE) return mg_fail(err, MG_ERR_FORMAT, "the adapter changes '%s' twice", target);
    *slot = t;
    return MG_OK;
}

/* Parts that have to come together. */
static mg_status check_parts(const mg_lora *l, const change *c, mg_error *err) {
    const uint32_t none = MG_STRMAP_NONE, *p = c->part;
    const bool linear = p[PART_A] != none, embedding = p[PART_EMB_A] != none;
    if (linear != (p[PART_B] != none) || embedding != (p[PART_EMB_B] != none))
        return mg_fail(err, MG_ERR_FORMAT, "the adapter has only one of the two factors of this weight");
    if (linear && embedding) return mg_fail(err, MG_ERR_FORMAT, "the adapter changes this weight twice");
    if ((linear || embedding) && l->dora != (p[PART_NORMS] != none))
        return mg_fail(err, MG_ERR_FORMAT, "'use_dora' is %s, but the adapter has %s 'lora_magnitude_vector' here",
                       l->dora ? "true" : "false", l->dora ? "no" : "a");
    if (p[PART_NORMS] == none || linear) return MG_OK;
    return embedding ? mg_fail(err, MG_ERR_UNSUPPORTED,
                               "DoRA of an embedding, which takes the norms of whole columns, is not built")
                     : mg_fail(err, MG_ERR_FORMAT, "the adapter has norms, but no factors of this weight");
}

static mg_status alpha_of(mg_lora *l, const char *weight, double *alpha, mg_error *err) {
    const char *dot = strrchr(weight, '.');
    *alpha = l->alpha;
    if (!l->n_rules || !dot) return MG_OK;
    MG_TRY(mg_regex_run_text(l->run, weight, (size_t)(dot - weight), err));
    for (size_t i = 0; i < l->n_rules; i++) {
        bool found;
        size_t begin, end;
        MG_TRY(mg_regex_search(l->rules[i].name, l->run, 0, &found, &begin, &end, err));
        if (!found) continue;
        *alpha = l->rules[i].alpha;
        return MG_OK;
    }
    return MG_OK;
}

static mg_status claim_all(mg_lora *l, const mg_checkpoint *base, mg_error *err) {
    mg_status st = MG_OK;
    l->changes = calloc((size_t)base->n_tensors + 1, sizeof *l->changes);
    if (!l->changes) return mg_fail_nomem(err, base->n_tensors * sizeof *l->changes);
    for (uint32_t w = 0; w < base->n_tensors; w++)
        for (int i = 0; i < PART_COUNT; i++) l->changes[w].part[i] = MG_STRMAP_NONE;
    for (uint32_t t = 0; st == MG_OK && t < l->adapter->n_tensors; t++) {
        st = claim(l, base, t, err);
        if (st != MG_OK) mg_error_at(err, l->adapter->path, l->adapter->tensors[t].name);
    }
    for (uint32_t w = 0; st == MG_OK && w < base->n_tensors; w++) {
        st = check_parts(l, &l->changes[w], err);
        if (st == MG_OK) st = alpha_of(l, base->tensors[w].name, &l->changes[w].alpha, err);
        if (st != MG_OK) mg_error_at(err, l->adapter->path, base->tensors[w].name);
    }
    return st;
}

/* ---- the plan ---- */

static double scale_of(const mg_lora *l, double alpha, uint64_t rank) {
    return alpha / (l->rslora ? sqrt((double)rank) : (double)rank);
}

/* A [r, in] and B [out, r]; those of an embedding are A [r, tokens] and B [width, r], and what is added is (B A)^T. */
static mg_status factors(mg_lora *l, const change *c, const mg_expr **a, const mg_expr **b, mg_error *err) {
    const mg_view turned = {.kind = MG_VIEW_TRANSPOSE};
    const bool embedding = c->part[PART_EMB_A] != MG_STRMAP_NONE;
    const uint32_t first = c->part[embedding ? PART_EMB_B : PART_A], second = c->part[embedding ? PART_EMB_A : PART_B];
    uint64_t shape[MG_MAX_RANK];
    MG_TRY(mg_expr_source(l->plan, l->adapter, first, a, err));
    MG_TRY(mg_expr_source(l->plan, l->adapter, second, b, err));
    if (mg_expr_shape(*a, shape) != 2 || mg_expr_shape(*b, shape) != 2)
        return mg_fail(err, MG_ERR_FORMAT, "a factor that is no matrix");
    if (embedding) {
        MG_TRY(mg_expr_view(l->plan, *a, &turned, a, err));
        MG_TRY(mg_expr_view(l->plan, *b, &turned, b, err));
    }
    (void)mg_expr_shape(*a, shape);
    return shape[0] ? MG_OK : mg_fail(err, MG_ERR_FORMAT, "factors of rank 0");
}

static mg_status weight_expr(mg_lora *l, mg_checkpoint *base, uint32_t w, const mg_expr **out, mg_error *err) {
    const change *c = &l->changes[w];
    const uint32_t none = MG_STRMAP_NONE;
    const mg_expr *a, *b, *norms;
    uint64_t shape[MG_MAX_RANK];
    if (c->part[PART_WHOLE] != none)
        MG_TRY(mg_expr_source(l->plan, l->adapter, c->part[PART_WHOLE], out, err));
    else
        MG_TRY(mg_expr_source(l->plan, base, w, out, err));
    if (c->part[PART_A] == none && c->part[PART_EMB_A] == none) return MG_OK;
    const mg_dtype dtype = mg_expr_dtype(*out);
    MG_TRY(factors(l, c, &a, &b, err));
    (void)mg_expr_shape(a, shape);
    MG_TRY(mg_expr_lowrank(l->plan, *out, b, a, scale_of(l, c->alpha, shape[0]), out, err));
    if (c->part[PART_NORMS] != none) {
        MG_TRY(mg_expr_source(l->plan, l->adapter, c->part[PART_NORMS], &norms, err));
        MG_TRY(mg_expr_norms(l->plan, *out, norms, out, err));
    }
    return mg_expr_cast(l->plan, *out, dtype, NULL, 0, out, err);
}

/* A bias with the one that B has: scaled as its weight's factors are, whose rank is B's columns. */
static mg_status bias_expr(mg_lora *l, mg_checkpoint *base, uint32_t w, const mg_expr **out, mg_error *err) {
    const change *c = &l->changes[w];
    if (c->part[PART_BIAS] == MG_STRMAP_NONE) return MG_OK;
    char name[NAME_CAP];
    const char *bias = base->tensors[w].name; /* ends in ".bias", as place_of made it */
    snprintf(name, sizeof name, "%.*s.weight", (int)(strlen(bias) - strlen(".bias")), bias);
    const uint32_t weight = mg_checkpoint_find(base, name);
    const uint32_t b = weight == MG_STRMAP_NONE ? weight : l->changes[weight].part[PART_B];
    if (b == MG_STRMAP_NONE || l->adapter->tensors[b].rank != 2 || !l->adapter->tensors[b].shape[1])
        return mg_fail(err, MG_ERR_FORMAT, "the adapter adds a bias, but no factors to its weight");
    const mg_dtype dtype = mg_expr_dtype(*out);
    const mg_expr *both[2] = {*out, NULL};
    const double each[2] = {1, scale_of(l, c->alpha, l->adapter->tensors[b].shape[1])};
    MG_TRY(mg_expr_source(l->plan, l->adapter, c->part[PART_BIAS], &both[1], err));
    MG_TRY(mg_expr_linear(l->plan, both, each, 2, out, err));
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
        if (st == MG_OK) st = bias_expr(l, base, w, &e, err);
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

static const char safe_file[] = "adapter_model.safetensors", pickle_file[] = "adapter_model.bin";

bool mg_lora_is_file(const char *name) {
    return strcmp(name, safe_file) == 0 || strcmp(name, pickle_file) == 0;
}

/* The safe form first, as PEFT does. */
mg_status mg_lora_open_weights(mg_checkpoint **out, const char *dir, mg_error *err) {
    char path[4096], pickle[4096];
    MG_TRY(mg_path_join(path, sizeof path, dir, safe_file, err));
    MG_TRY(mg_path_join(pickle, sizeof pickle, dir, pickle_file, err));
    MG_TRY(mg_checkpoint_open(out, !mg_path_exists(path) && mg_path_exists(pickle) ? pickle : path, err));
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
    for (size_t i = 0; i < l->n_rules; i++) mg_regex_free(l->rules[i].name);
    free(l->rules);
    mg_regex_run_free(l->run);
    free(l->changes);
    free(l);
}
