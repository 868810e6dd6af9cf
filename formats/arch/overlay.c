/* overlay.c - see overlay.h. The overlay's checkpoint is the tensors of both, one list behind the other; a role taken
 * from the other model is its bound with the tensor's index moved behind the base's. */
#include "formats/arch/overlay.h"

#include <stdlib.h>
#include <string.h>

#include "formats/arch/bind.h"
#include "formats/base/checked.h"

typedef struct both_ckpt {
    mg_checkpoint c; /* first */
    mg_checkpoint *a, *b;
} both_ckpt;

struct mg_overlay {
    both_ckpt ckpt;
    mg_model model; /* base's numbers, bounds of its own */
    mg_model *base, *other;
};

static mg_status both_read(mg_checkpoint *c, uint32_t t, uint64_t at, void *dst, uint64_t n, mg_error *err) {
    const both_ckpt *k = (const both_ckpt *)c;
    if (t < k->a->n_tensors) return mg_checkpoint_read(k->a, t, at, dst, n, err);
    return mg_checkpoint_read(k->b, t - k->a->n_tensors, at, dst, n, err);
}

static const mg_checkpoint_ops both_ops = {.read = both_read};

static mg_status check_shape(const mg_model *a, const mg_model *b, mg_error *err) {
    static const mg_key keys[] = {MG_K_LAYERS, MG_K_HIDDEN, MG_K_VOCAB, MG_K_EXPERTS};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (mg_hp_i(a, keys[i]) != mg_hp_i(b, keys[i]))
            return mg_fail(err, MG_ERR_CONFLICT, "%s is %lld here and %lld in the other: weights cannot be exchanged",
                           mg_key_name(keys[i]), (long long)mg_hp_i(a, keys[i]), (long long)mg_hp_i(b, keys[i]));
    for (int64_t l = 0; l < mg_hp_i(a, MG_K_LAYERS); l++)
        if (a->layers[l].moe != b->layers[l].moe)
            return mg_fail(err, MG_ERR_CONFLICT, "layer %lld has experts in one of the two only", (long long)l);
    return MG_OK;
}

static mg_status join(mg_overlay *o, mg_error *err) {
    mg_checkpoint *a = o->base->ckpt, *b = o->other->ckpt;
    uint64_t n = (uint64_t)a->n_tensors + b->n_tensors;
    if (n >= MG_STRMAP_NONE) return mg_fail(err, MG_ERR_LIMIT, "too many tensors");
    o->ckpt.c = *a; /* side files, config and metadata are the base's */
    o->ckpt.c.ops = &both_ops;
    o->ckpt.a = a;
    o->ckpt.b = b;
    o->ckpt.c.n_tensors = (uint32_t)n;
    o->ckpt.c.tensors = malloc((n ? n : 1) * sizeof *o->ckpt.c.tensors);
    if (!o->ckpt.c.tensors) return mg_fail_nomem(err, n * sizeof *o->ckpt.c.tensors);
    if (a->n_tensors) memcpy(o->ckpt.c.tensors, a->tensors, a->n_tensors * sizeof *a->tensors);
    if (b->n_tensors) memcpy(o->ckpt.c.tensors + a->n_tensors, b->tensors, b->n_tensors * sizeof *b->tensors);
    return MG_OK;
}

mg_status mg_overlay_new(mg_overlay **out, mg_model *base, mg_model *other, mg_error *err) {
    *out = NULL;
    MG_TRY(check_shape(base, other, err));
    mg_overlay *o = calloc(1, sizeof *o);
    if (!o) return mg_fail_nomem(err, sizeof *o);
    o->base = base;
    o->other = other;
    mg_status st = join(o, err);
    o->model = *base;
    o->model.ckpt = &o->ckpt.c;
    o->model.claims = NULL; /* of the base's checkpoint alone: mg_model_role_of answers nothing here */
    o->model.bounds = malloc((base->n_bounds ? base->n_bounds : 1) * sizeof *base->bounds);
    if (st == MG_OK && !o->model.bounds) st = mg_fail_nomem(err, base->n_bounds * sizeof *base->bounds);
    if (st != MG_OK) {
        mg_overlay_free(o);
        return st;
    }
    mg_overlay_reset(o);
    *out = o;
    return MG_OK;
}

void mg_overlay_free(mg_overlay *o) {
    if (!o) return;
    free(o->ckpt.c.tensors);
    free(o->model.bounds);
    free(o);
}

mg_model *mg_overlay_model(mg_overlay *o) {
    return &o->model;
}

void mg_overlay_reset(mg_overlay *o) {
    if (o->base->n_bounds) memcpy(o->model.bounds, o->base->bounds, o->base->n_bounds * sizeof *o->model.bounds);
}

/* The base's own shape of a weight, whether stored there or (an output head) tied. */
static const mg_bound *weight_of(const mg_model *m, mg_role role, uint32_t layer, uint32_t expert) {
    const mg_bound *b = mg_model_find(m, role, layer, expert);
    return b || role != MG_R_OUTPUT ? b : mg_model_find(m, MG_R_TOKEN_EMBD, 0, 0);
}

mg_status mg_overlay_take(mg_overlay *o, mg_role role, uint32_t layer, uint32_t expert, mg_error *err) {
    const mg_bound *mine = weight_of(o->base, role, layer, expert), *theirs = weight_of(o->other, role, layer, expert);
    mg_bound *slot = mg_bind_slot(&o->model, role, layer, expert);
    if (!slot && !theirs) return MG_OK;
    bool same =
        slot &&
        (!mine || !theirs ||
         (mine->rank == theirs->rank && memcmp(mine->shape, theirs->shape, mine->rank * sizeof *mine->shape) == 0));
    if (!same)
        return mg_fail(err, MG_ERR_CONFLICT, "%s of layer %u cannot be exchanged: its shape differs",
                       mg_role_name(role), layer);
    if (theirs) {
        *slot = *theirs;
        slot->tensor += o->base->ckpt->n_tensors;
    } else {
        slot->tensor = MG_STRMAP_NONE;
    }
    return MG_OK;
}
