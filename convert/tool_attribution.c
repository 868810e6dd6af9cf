/* tool_attribution.c - see tool_attribution.h. */
#include "convert/tool_attribution.h"

#include "formats/base/json.h"
#include "quant/weight_error.h"

#include <math.h>
#include <string.h>

#define MAX_BYTES (256u << 20)

/* ---- the result ---- */

static mg_status find_parts(const mg_json **parts, const mg_json *result, mg_error *err) {
    int64_t schema = 0;
    *parts = NULL;
    if (!mg_json_i64(mg_json_get(result, "schema"), &schema) || schema != 1 || !mg_json_get(result, "candidates"))
        return mg_fail(err, MG_ERR_FORMAT, "is no result of verify --json (schema 1)");
    for (const mg_json *c = mg_json_first(mg_json_get(result, "candidates")); c; c = mg_json_next(c)) {
        const mg_json *found = mg_json_path(c, "attribution.parts");
        if (found && *parts) return mg_fail(err, MG_ERR_USAGE, "has the attribution of more than one candidate");
        if (found) *parts = found;
    }
    if (!*parts) return mg_fail(err, MG_ERR_USAGE, "has no attribution: it comes from verify --attribute N --json");
    return MG_OK;
}

/* Nats per relative squared error; false where the part differs in nothing, which says nothing. */
static mg_status slope_of(const mg_json *part, double *slope, bool *says, mg_error *err) {
    double kl, error;
    if (!mg_json_f64(mg_json_path(part, "kl.mean"), &kl) || !mg_json_f64(mg_json_get(part, "error"), &error) ||
        !isfinite(kl) || !(error >= 0))
        return mg_fail(err, MG_ERR_FORMAT, "a part of the attribution lacks kl.mean or error");
    *says = error > 0;
    *slope = error > 0 ? fmax(kl, 0) / (error * error) : 0; /* rounding may leave a divergence of nothing below 0 */
    return MG_OK;
}

/* Is this part the weight of a role, of all its experts, or with whole the layer? */
static bool part_is(const mg_json *part, const char *role, int64_t layer) {
    const char *name = mg_json_str(mg_json_get(part, "role"));
    int64_t l = -1, expert;
    if (!name || strcmp(name, role) != 0 || mg_json_i64(mg_json_get(part, "expert"), &expert)) return false;
    return layer < 0 ? !mg_json_i64(mg_json_get(part, "layer"), &l)
                     : mg_json_i64(mg_json_get(part, "layer"), &l) && l == layer;
}

static const mg_json *find_part(const mg_json *parts, const char *role, int64_t layer) {
    for (const mg_json *p = mg_json_first(parts); p; p = mg_json_next(p))
        if (part_is(p, role, layer)) return p;
    return NULL;
}

/* ---- items ---- */

/* Role of an item's tensor, and its layer, -1 outside of layers. */
static bool place_of(mg_model *m, const mg_quantize_item *item, mg_role *role, int64_t *layer) {
    uint32_t l = 0;
    if (!mg_model_role_of(m, item->tensor, role, &l, NULL)) return false;
    *layer = mg_role_scope(*role) == MG_SCOPE_MODEL ? -1 : (int64_t)l;
    return true;
}

/* Tensors among which a layer's divergence is shared: those that can be quantized. */
static uint32_t in_layer(mg_model *m, const mg_quantize_item *items, uint32_t n, int64_t layer) {
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i++) {
        mg_role role;
        int64_t l;
        found += items[i].open && place_of(m, &items[i], &role, &l) && l == layer;
    }
    return found;
}

static mg_status item_slope(double *slope, const mg_json *parts, mg_model *m, const mg_quantize_item *items, uint32_t n,
                            uint32_t i, mg_error *err) {
    mg_role role;
    int64_t layer;
    bool says = false;
    if (place_of(m, &items[i], &role, &layer)) {
        const mg_json *part = find_part(parts, mg_role_name(role), layer);
        if (part) MG_TRY(slope_of(part, slope, &says, err));
        if (says) return MG_OK;
        part = layer >= 0 ? find_part(parts, "layer", layer) : NULL;
        if (part) MG_TRY(slope_of(part, slope, &says, err));
        if (says) *slope /= in_layer(m, items, n, layer);
    }
    if (says) return MG_OK;
    return mg_fail(err, MG_ERR_USAGE,
                   "says nothing of '%s': neither it nor its layer was measured, or it is the same in both models "
                   "(a larger --attribute, another candidate)",
                   items[i].name);
}

mg_status mg_tool_attribution_load(double *slope, const char *path, mg_model *gguf, const mg_quantize_item *items,
                                   uint32_t n, mg_error *err) {
    mg_json *result;
    const mg_json *parts;
    MG_TRY(mg_json_load(&result, path, MAX_BYTES, err));
    mg_status st = find_parts(&parts, result, err);
    for (uint32_t i = 0; st == MG_OK && i < n; i++)
        if (items[i].open) st = item_slope(&slope[i], parts, gguf, items, n, i, err);
    mg_json_free(result);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    return st;
}

/* ---- errors of types ---- */

/* A stored tensor as it lies, without the views of its role. */
static mg_bound whole(const mg_model *m, uint32_t tensor) {
    const mg_tensor *t = &m->ckpt->tensors[tensor];
    mg_bound b = {.tensor = tensor, .rank = t->rank};
    memcpy(b.shape, t->shape, t->rank * sizeof *b.shape);
    return b;
}

mg_status mg_tool_attribution_error(double *out, mg_model *gguf, const mg_quantize_item *item, mg_model *variant,
                                    mg_pool *pool, mg_error *err) {
    const uint32_t other = mg_checkpoint_find(variant->ckpt, item->name);
    mg_weight_error e = {0};
    if (other == MG_STRMAP_NONE) return mg_fail(err, MG_ERR_INTERNAL, "the variant lacks '%s'", item->name);
    const mg_bound a = whole(gguf, item->tensor), b = whole(variant, other);
    MG_TRY(mg_weight_error_add(&e, gguf, &a, variant, &b, pool, err));
    *out = mg_weight_error_relative(&e);
    return MG_OK;
}
