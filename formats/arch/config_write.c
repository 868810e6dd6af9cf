/* config_write.c - config.json of a model that is made: the base's own file with fields changed, or one from canonical
 * keys alone. */
#include "formats/arch/arch_internal.h"
#include "formats/base/number.h"

#include <stdio.h>
#include <string.h>

/* Are the keys of an object in ascending byte order? (transformers writes them so.) */
static bool keys_sorted(const mg_json *obj) {
    const char *last = NULL;
    for (const mg_json *c = mg_json_first(obj); c; c = mg_json_next(c)) {
        if (last && strcmp(last, mg_json_key(c)) >= 0) return false;
        last = mg_json_key(c);
    }
    return true;
}

/* Rebuild obj with its keys in order. Objects here have tens of fields. */
static mg_status sort_keys(mg_json **obj, mg_error *err) {
    mg_json *sorted = mg_json_new_object();
    const char *last = "";
    for (size_t k = 0; k < mg_json_len(*obj); k++) {
        const mg_json *next = NULL;
        for (const mg_json *c = mg_json_first(*obj); c; c = mg_json_next(c))
            if (strcmp(mg_json_key(c), last) > 0 && (!next || strcmp(mg_json_key(c), mg_json_key(next)) < 0)) next = c;
        if (!next) break;
        mg_json *copy = NULL;
        mg_status st = mg_json_dup(&copy, next, err);
        if (st != MG_OK) {
            mg_json_free(sorted);
            return st;
        }
        mg_json_set(sorted, mg_json_key(next), copy);
        last = mg_json_key(next);
    }
    mg_json_free(*obj);
    *obj = sorted;
    return MG_OK;
}

/* Does a dense model of this family have such weights? */
static bool has_role(const mg_arch *arch, const mg_hparams *hp, mg_role role) {
    static const mg_layer dense = {0};
    const mg_tensor_row *r = mg_arch_row(arch, role);
    return r && mg_cond_holds(r->when, hp, &dense);
}

static void append_to(mg_json *config, const char *field, mg_json *v) {
    if (!mg_json_get(config, field)) mg_json_set(config, field, mg_json_new_array());
    mg_json_push((mg_json *)mg_json_get(config, field), v);
}

static mg_json *number_of(const mg_arch *arch, mg_key key, const mg_hparams *hp) {
    const mg_config_row *r = mg_arch_config_row(arch, key);
    if (mg_key_kind(key) == 'F') return mg_json_new_f64(hp->f[key]);
    if (mg_key_kind(key) == 'B') return mg_json_new_bool(hp->i[key] != 0);
    bool null = r && r->null.kind == MG_FB_VALUE && (double)hp->i[key] == r->null.value;
    return null ? mg_json_new_null() : mg_json_new_i64(hp->i[key]);
}

/* hp: the base's numbers, with those of the routing set. */
static mg_status apply_edit(mg_json *config, const mg_config_edit *e, const mg_arch *arch, const mg_arch *from,
                            const mg_hparams *hp, mg_error *err) {
    mg_json *v = NULL;
    if (e->keep && mg_json_get(config, e->field)) return MG_OK;
    if (e->remove) {
        mg_json_remove(config, e->field);
        return MG_OK;
    }
    if (e->as_role)
        v = mg_json_new_bool(has_role(from, hp, e->role));
    else if (e->json)
        MG_TRY(mg_json_parse(&v, (mg_span){(const uint8_t *)e->json, strlen(e->json)}, "family table", err));
    else
        v = number_of(arch, e->key, hp);
    if (!v) return mg_fail_nomem(err, 64);
    if (e->append)
        append_to(config, e->field, v);
    else
        mg_json_set(config, e->field, v);
    return MG_OK;
}

static mg_status edited(mg_json **config, const mg_arch *arch, const mg_arch *from, const mg_hparams *hp,
                        const mg_moe_shape *shape, mg_error *err) {
    bool sorted = keys_sorted(*config);
    for (const mg_config_edit *e = arch->edits; e && e->field; e++) MG_TRY(apply_edit(*config, e, arch, from, hp, err));
    for (uint32_t i = 0; arch->dense_list && i < shape->n_dense; i++)
        append_to(*config, arch->dense_list, mg_json_new_i64(shape->dense[i]));
    return sorted ? sort_keys(config, err) : MG_OK;
}

static mg_status check_shape(const mg_arch *arch, const mg_moe_shape *s, int64_t layers, mg_error *err) {
    if (s->experts < 1 || s->used < 1 || s->used > s->experts)
        return mg_fail(err, MG_ERR_CONFLICT, "%u experts per token of %u experts", s->used, s->experts);
    bool counted = arch->block.moe == MG_MOE_AFTER_DENSE || arch->block.moe == MG_MOE_MULTIPLES;
    if (s->n_dense && !arch->dense_list && !counted)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "a %s model has experts in every layer, none can stay dense",
                       arch->name);
    for (uint32_t i = 0; !arch->dense_list && i < s->n_dense; i++)
        if (s->dense[i] != i)
            return mg_fail(err, MG_ERR_UNSUPPORTED, "only the first layers of a %s model can stay dense", arch->name);
    for (uint32_t i = 0; i < s->n_dense; i++)
        if (s->dense[i] >= layers)
            return mg_fail(err, MG_ERR_CONFLICT, "layer %u is to stay dense, the model has %lld layers", s->dense[i],
                           (long long)layers);
    if (s->shared > (arch->made_from->n_shared_roles ? 1u : 0u))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "a %s model has %s shared expert%s", arch->name,
                       arch->made_from->n_shared_roles ? "one" : "no",
                       arch->made_from->n_shared_roles ? ", not more" : "");
    if (s->shared == 0 && arch->made_from->needs_shared)
        return mg_fail(err, MG_ERR_CONFLICT, "a %s model needs a shared expert: name one under shared_experts",
                       arch->name);
    return MG_OK;
}

mg_status mg_arch_make_config(mg_json **out, const mg_arch *arch, const mg_json *base, const mg_moe_shape *shape,
                              mg_error *err) {
    const mg_arch *from;
    mg_json *config;
    MG_TRY(mg_arch_of_config(&from, base, err));
    if (from == arch) return mg_json_dup(out, base, err);
    if (!mg_arch_made_from(arch, from))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "family '%s' is not made from '%s'", arch->name, from->name);
    mg_model *numbers;
    MG_TRY(mg_model_from_config(&numbers, base, err));
    mg_hparams hp = numbers->hp;
    mg_model_free(numbers);
    MG_TRY(check_shape(arch, shape, hp.i[MG_K_LAYERS], err));
    hp.i[MG_K_EXPERTS] = shape->experts;
    hp.i[MG_K_EXPERTS_USED] = shape->used;
    hp.i[MG_K_EXPERT_FFN] = shape->ffn ? (int64_t)shape->ffn : hp.i[MG_K_FFN];
    hp.i[MG_K_SHARED_COUNT] = shape->shared * (hp.i[MG_K_FFN] / hp.i[MG_K_EXPERT_FFN]);
    hp.i[MG_K_DENSE_LAYERS] = shape->n_dense;
    hp.i[MG_K_SHARED_FFN] = shape->shared * hp.i[MG_K_FFN];
    hp.i[MG_K_GRID_X] = shape->grid_x;
    hp.i[MG_K_GRID_Y] = shape->grid_y;
    MG_TRY(mg_json_dup(&config, base, err));
    mg_status st = edited(&config, arch, from, &hp, shape, err);
    if (st == MG_OK)
        *out = config;
    else
        mg_json_free(config);
    return st;
}

static const mg_json *entry_of(const mg_json *list, uint32_t i) {
    const mg_json *c = mg_json_first(list);
    while (i-- && c) c = mg_json_next(c);
    return c;
}

static mg_status restack(mg_json *config, const char *path, const uint32_t *from, uint32_t n, mg_error *err) {
    const mg_json *old = mg_json_get(config, path);
    if (!old || mg_json_type(old) != MG_JSON_ARRAY) return MG_OK;
    mg_json *list = mg_json_new_array();
    for (uint32_t l = 0; l < n; l++) {
        mg_json *copy = NULL;
        const mg_json *entry = entry_of(old, from[l]);
        mg_status st = entry ? mg_json_dup(&copy, entry, err)
                             : mg_fail(err, MG_ERR_FORMAT, "'%s' has no entry for layer %u", path, from[l]);
        if (st != MG_OK) {
            mg_json_free(list);
            return st;
        }
        mg_json_push(list, copy);
    }
    mg_json_set(config, path, list);
    return MG_OK;
}

void mg_config_set_number(mg_json *config, const mg_arch *arch, mg_key key, int64_t value) {
    for (uint32_t i = 0; i < arch->n_config; i++)
        for (int s = 0; arch->config[i].key == key && s < MG_MAX_SPELLINGS && arch->config[i].hf[s]; s++)
            if (mg_json_get(config, arch->config[i].hf[s])) mg_json_set_i64(config, arch->config[i].hf[s], value);
}

mg_status mg_config_set_layers(mg_json *config, const mg_arch *arch, const uint32_t *from, uint32_t n, mg_error *err) {
    mg_config_set_number(config, arch, MG_K_LAYERS, n);
    for (const mg_layer_list *row = arch->lists; row && row->path; row++)
        MG_TRY(restack(config, row->path, from, n, err));
    return MG_OK;
}

/* ---- from canonical keys ---- */

static const char *enum_name(const mg_config_row *r, int64_t v) {
    for (const mg_enum_name *n = r->names; n && n->name; n++)
        if (n->value == v) return n->name;
    return NULL;
}

/* A number that came through a float32 key is written as the shortest decimal of that float: 1e-05, not
 * 9.999999747378752e-06. Readers that use it in float32 see the same value. */
double mg_shortest_f32(double v) {
    float f = (float)v;
    if ((double)f != v) return v;
    for (int digits = 1; digits < 9; digits++) {
        char text[32];
        double back;
        snprintf(text, sizeof text, "%.*e", digits - 1, v);
        if (mg_number_parse(text, strlen(text), &back) && (float)back == f) return back;
    }
    return v;
}

static mg_json *value_of(const mg_config_row *r, const mg_hparams *hp) {
    const double v = mg_key_kind(r->key) == 'F' ? hp->f[r->key] : (double)hp->i[r->key];
    if (r->null.kind == MG_FB_VALUE && v == r->null.value) return mg_json_new_null();
    switch (mg_key_kind(r->key)) {
    case 'F':
        return mg_json_new_f64(mg_shortest_f32(hp->f[r->key]));
    case 'B':
        return mg_json_new_bool(hp->i[r->key] != 0);
    case 'E':
        return mg_json_new_str(enum_name(r, hp->i[r->key]));
    default:
        break;
    }
    bool none = r->key == MG_K_WINDOW ? hp->i[r->key] == 0 : hp->i[r->key] < 0;
    return none ? mg_json_new_null() : mg_json_new_i64(hp->i[r->key]);
}

/* A value of a rope object that differs from its fallback is said; the others are left out, as their absence means
 * them. */
static bool rope_said(const mg_config_row *r, const mg_hparams *hp) {
    int64_t type = hp->i[MG_K_ROPE_TYPE];
    bool needs_context = type == MG_ROPE_YARN || type == MG_ROPE_LLAMA3;
    if (r->key == MG_K_ROPE_ORIG_CONTEXT) return needs_context;
    if (r->absent.kind != MG_FB_VALUE) return true;
    if (mg_key_kind(r->key) == 'F') return hp->f[r->key] != r->absent.value;
    return (double)hp->i[r->key] != r->absent.value;
}

/* Those of the rope object that transformers 4 reads beside it: the object is there only with a scaling. */
static bool at_top(mg_key key) {
    return key == MG_K_ROPE_THETA || key == MG_K_ROPE_THETA_LOCAL || key == MG_K_ROTARY_PART;
}

/* The lists per layer, from the keys that say the same. */
static mg_status say_lists(mg_json *config, const mg_arch *arch, const mg_hparams *hp, mg_error *err) {
    for (const mg_layer_list *row = arch->lists; row && row->path; row++) {
        const bool rope = row->trait == MG_TRAIT_ROPE;
        if (hp->i[rope ? MG_K_NOPE_PERIOD : MG_K_WINDOW_PERIOD] < 0)
            return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' follows no rule and cannot be made from numbers", row->path);
        mg_json *list = mg_json_new_array();
        for (uint64_t l = 0; l < (uint64_t)hp->i[MG_K_LAYERS]; l++) {
            const bool yes = mg_trait_by_keys(hp, row->trait, l) && (rope || hp->i[MG_K_WINDOW] > 0);
            mg_json_push(list, row->yes ? mg_json_new_str(yes ? row->yes : row->no) : mg_json_new_i64(yes));
        }
        mg_json_set(config, row->path, list);
    }
    return MG_OK;
}

/* "name.0", "name.1": entries of a list, in the order of the rows. */
static void append(mg_json *config, const char *path, mg_json *value) {
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strlen(path) - 2, path);
    if (!mg_json_get(config, name)) mg_json_set(config, name, mg_json_new_array());
    mg_json_push((mg_json *)mg_json_get(config, name), value);
}

static void fill_config(mg_json *config, mg_json *rope, const mg_arch *arch, const mg_hparams *hp) {
    static const char in[] = "rope_parameters.";
    for (uint32_t i = 0; i < arch->n_config; i++) {
        const mg_config_row *r = &arch->config[i];
        if (r->gguf_when == MG_GGUF_FILE_TYPE || !r->hf[0]) continue;
        const char *in_rope = NULL, *top = NULL;
        for (int s = 0; s < MG_MAX_SPELLINGS && r->hf[s]; s++) {
            bool at = strncmp(r->hf[s], in, sizeof in - 1) == 0;
            if (at && !in_rope) in_rope = r->hf[s] + sizeof in - 1;
            if (!at && !top) top = r->hf[s];
        }
        if (in_rope && !at_top(r->key)) {
            if (rope_said(r, hp)) mg_json_set(rope, in_rope, value_of(r, hp));
        } else if (top && strlen(top) > 2 && top[strlen(top) - 2] == '.') {
            append(config, top, value_of(r, hp));
        } else if (top && !mg_json_get(config, top)) {
            mg_json_set(config, top, value_of(r, hp));
        }
    }
}

/* The list of dense layers; MG_ERR_UNSUPPORTED when there are some beyond the family's rule and no field for them. */
static mg_status say_dense(mg_json *config, const mg_arch *arch, const mg_hparams *hp, mg_error *err) {
    mg_json *list = mg_json_new_array();
    size_t n = 0;
    for (uint32_t l = 0; l < MG_MAX_LAYERS && (int64_t)l < hp->i[MG_K_LAYERS]; l++) {
        if (!mg_hp_dense(hp, l)) continue;
        if (arch->dense_list) mg_json_push(list, mg_json_new_i64(l));
        n++;
    }
    if (arch->dense_list) {
        mg_json_set(config, arch->dense_list, list);
        return MG_OK;
    }
    mg_json_free(list);
    return n ? mg_fail(err, MG_ERR_UNSUPPORTED, "%zu layers without routed experts, which no field of '%s' can say", n,
                       arch->name)
             : MG_OK;
}

static void say_factors(mg_json *rope, const mg_hparams *hp) {
    static const char *const names[2] = {"short_factor", "long_factor"};
    for (int k = 0; hp->i[MG_K_ROPE_TYPE] == MG_ROPE_LONGROPE && k < 2; k++) {
        mg_json *list = mg_json_new_array();
        for (uint32_t i = 0; i < hp->n_rope_factors[k]; i++)
            mg_json_push(list, mg_json_new_f64(mg_shortest_f32((double)hp->rope_factors[k][i])));
        mg_json_set(rope, names[k], list);
    }
}

static const char *const dtype_names[] = {
    [MG_F32] = "float32", [MG_F16] = "float16", [MG_BF16] = "bfloat16", [MG_F64] = "float64"};

mg_status mg_arch_new_config(mg_json **out, const mg_arch *arch, const mg_hparams *hp, mg_dtype dtype, mg_error *err) {
    if (!mg_dtype_is_float(dtype))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "config.json has no name for type %s", mg_dtype_get(dtype)->name);
    mg_json *config = mg_json_new_object(), *rope = mg_json_new_object(), *classes = mg_json_new_array();
    mg_json_push(classes, mg_json_new_str(arch->hf_classes[0]));
    mg_json_set(config, "architectures", classes);
    mg_json_set_str(config, "model_type", arch->name);
    mg_config_set_dtype(config, dtype);
    fill_config(config, rope, arch, hp);
    say_factors(rope, hp);
    if (rope && hp->i[MG_K_ROPE_TYPE] != MG_ROPE_NONE)
        mg_json_set(config, "rope_scaling", rope);
    else
        mg_json_free(rope);
    if (!config) return mg_fail_nomem(err, 64);
    mg_status st = say_dense(config, arch, hp, err);
    if (st == MG_OK) st = say_lists(config, arch, hp, err);
    if (st == MG_OK) st = sort_keys(&config, err);
    if (st == MG_OK)
        *out = config;
    else
        mg_json_free(config);
    return st;
}

void mg_config_set_dtype(mg_json *config, mg_dtype dtype) {
    mg_json_set_str(config, mg_json_get(config, "dtype") ? "dtype" : "torch_dtype", dtype_names[dtype]);
}
