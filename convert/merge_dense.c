/* merge_dense.c - planning a dense merge: for every tensor of the result the same tensor of every source, blended. */
#include "convert/merge_dense.h"

#include "convert/convert_common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the layers of the result come from. */
typedef struct stack {
    uint32_t layers;
    uint32_t *slice, *place; /* [layers] slice, and layer within it */
} stack;

typedef struct job {
    mg_dense_run *run;
    const mg_dense_spec *spec;
    uint32_t *first_donor; /* [n_slices] donors of a slice stand together */
    stack stack;
    mg_model *result; /* numbers of the result */
    mg_dtype dtype;
} job;

mg_status mg_dense_donor_expr(mg_plan *p, mg_donor *d, const mg_target *t, uint32_t layer, const mg_expr **out,
                              mg_error *err) {
    mg_target moved = *t;
    mg_part *parts = calloc(t->n_parts ? t->n_parts : 1, sizeof *parts);
    if (!parts) return mg_fail_nomem(err, t->n_parts * sizeof *parts);
    for (uint32_t i = 0; i < t->n_parts; i++) {
        parts[i] = t->parts[i];
        if (layer != UINT32_MAX) parts[i].layer = layer;
        if (parts[i].role == MG_R_OUTPUT && !mg_model_has(d->model, MG_R_OUTPUT, 0, 0)) parts[i].role = MG_R_TOKEN_EMBD;
    }
    moved.parts = parts;
    mg_status st = mg_convert_target_expr(p, d->model, &moved, out, err);
    free(parts);
    return st;
}

/* ---- the stack of layers ---- */

static uint32_t n_layers(const mg_model *m) {
    return (uint32_t)mg_hp_i(m, MG_K_LAYERS);
}

static mg_status check_range(const mg_donor *d, const mg_dense_source *s, mg_error *err) {
    if (!s->whole && s->end > n_layers(d->model))
        return mg_fail(err, MG_ERR_CONFLICT, "layer_range ends at %u, '%s' has %u layers", s->end, d->name,
                       n_layers(d->model));
    return MG_OK;
}

static mg_status stack_layers(job *j, mg_error *err) {
    const mg_dense_spec *s = j->spec;
    uint32_t total = 0;
    for (uint32_t i = 0; i < s->n_slices; i++) {
        const mg_dense_source *src = s->slices[i].sources;
        for (uint32_t k = 0; k < s->slices[i].n_sources; k++)
            MG_TRY(check_range(&j->run->donors[j->first_donor[i] + k], &src[k], err));
        total += src->whole ? n_layers(j->run->donors[0].model) : src->end - src->first;
        if (total > MG_MAX_LAYERS) return mg_fail(err, MG_ERR_LIMIT, "more than %d layers", MG_MAX_LAYERS);
    }
    MG_TRY(MG_ARENA_NEW(&j->run->arena, &j->stack.slice, total, err));
    MG_TRY(MG_ARENA_NEW(&j->run->arena, &j->stack.place, total, err));
    for (uint32_t i = 0; i < s->n_slices; i++) {
        const mg_dense_source *src = s->slices[i].sources;
        uint32_t n = src->whole ? n_layers(j->run->donors[0].model) : src->end - src->first;
        for (uint32_t l = 0; l < n; l++, j->stack.layers++) {
            j->stack.slice[j->stack.layers] = i;
            j->stack.place[j->stack.layers] = l;
        }
    }
    return MG_OK;
}

static uint32_t source_layer(const job *j, uint32_t source, uint32_t layer) {
    const mg_dense_source *s = &j->spec->slices[j->stack.slice[layer]].sources[source];
    return s->first + j->stack.place[layer];
}

/* A layer keeps its kind: windows, rotation and routing of a stacked layer are its sources'. */
static mg_status check_layers(const job *j, mg_error *err) {
    for (uint32_t l = 0; l < j->stack.layers; l++) {
        uint32_t slice = j->stack.slice[l];
        for (uint32_t k = 0; k < j->spec->slices[slice].n_sources; k++) {
            const mg_donor *d = &j->run->donors[j->first_donor[slice] + k];
            const mg_layer *have = &d->model->layers[source_layer(j, k, l)], *want = &j->result->layers[l];
            if (have->moe != want->moe || have->window != want->window || have->rope != want->rope ||
                have->rope_theta != want->rope_theta || have->rope_plain != want->rope_plain)
                return mg_fail(
                    err, MG_ERR_CONFLICT,
                    "layer %u of the result would be layer %u of '%s', whose window, rotation or routing differs", l,
                    source_layer(j, k, l), d->name);
        }
    }
    return MG_OK;
}

/* The base's config with the stack's number of layers and, in lists per layer, the entries of the layers stacked. */
static mg_status plan_config(job *j, mg_error *err) {
    mg_dense_run *r = j->run;
    mg_json *config = NULL;
    uint32_t *from = calloc(j->stack.layers, sizeof *from);
    if (!from) return mg_fail_nomem(err, j->stack.layers * sizeof *from);
    for (uint32_t l = 0; l < j->stack.layers; l++) from[l] = source_layer(j, 0, l);
    mg_status st = mg_json_dup(&config, r->donors[0].config, err);
    if (st == MG_OK && j->stack.layers != n_layers(r->donors[0].model))
        st = mg_config_set_layers(config, r->donors[0].model->arch, from, j->stack.layers, err);
    if (st == MG_OK && j->dtype != MG_DTYPE_COUNT) mg_config_set_dtype(config, j->dtype);
    if (st == MG_OK && r->vocab) mg_vocab_union_config(r->vocab, config, r->donors[0].model->arch);
    if (st == MG_OK) st = mg_convert_set_config(r->plan, r->out, r->donors[0].model->arch, config, err);
    if (st == MG_OK) st = mg_model_from_config(&j->result, config, err);
    mg_json_free(config);
    free(from);
    return st;
}

/* ---- tensors ---- */

/* What comes before the layers is the first slice's, what comes after them the last's (mergekit's rule). */
static void place_of(const job *j, const mg_target *t, uint32_t *slice, uint32_t *layer, double *at) {
    mg_role role = t->parts[0].role;
    *at = 0;
    *layer = UINT32_MAX;
    *slice = role == MG_R_TOKEN_EMBD ? 0 : j->spec->n_slices - 1;
    if (mg_role_scope(role) == MG_SCOPE_MODEL) return;
    *layer = t->parts[0].layer;
    *slice = j->stack.slice[*layer];
    uint32_t n = 0;
    for (uint32_t l = 0; l < j->stack.layers; l++) n += j->stack.slice[l] == *slice;
    *at = n > 1 ? (double)j->stack.place[*layer] / (n - 1) : 1;
}

/* Rows of another vocabulary in the base's order. */
static mg_status other_tokens(const job *j, mg_donor *d, const mg_target *t, const mg_expr **out, mg_error *err) {
    const mg_role role = t->parts[0].role;
    const mg_expr *base, *own;
    const mg_bound *b = mg_model_find(d->model, role, 0, 0);
    if (!b) b = mg_model_find(d->model, MG_R_TOKEN_EMBD, 0, 0); /* a tied head */
    if (!b || t->n_parts != 1 || t->views[0].kind != MG_VIEW_END)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "rows of '%s' cannot be found by their tokens", t->name);
    MG_TRY(mg_dense_donor_expr(j->run->plan, &j->run->donors[0], t, UINT32_MAX, &base, err));
    MG_TRY(mg_expr_role(j->run->plan, d->model, b, &own, err));
    return mg_vocab_map_rows(j->run->plan, &d->vocab, base, own, out, err);
}

/* A donor's own rows per token. */
typedef struct own_rows {
    const job *j;
    const mg_target *t;
} own_rows;
static mg_status rows_of(void *ctx, mg_donor *d, const mg_expr **out, mg_error *err) {
    const own_rows *o = ctx;
    const mg_bound *b = mg_model_find(d->model, o->t->parts[0].role, 0, 0);
    if (!b) b = mg_model_find(d->model, MG_R_TOKEN_EMBD, 0, 0); /* a tied head */
    if (!b || o->t->n_parts != 1 || o->t->views[0].kind != MG_VIEW_END)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "rows of '%s' cannot be found by their tokens", o->t->name);
    return mg_expr_role(o->j->run->plan, d->model, b, out, err);
}

static mg_status source_expr(const job *j, mg_donor *d, const mg_target *t, uint32_t layer, const mg_expr **out,
                             mg_error *err) {
    own_rows own = {j, t};
    if (j->run->vocab && mg_role_is_vocab(t->parts[0].role))
        return mg_vocab_union_rows(j->run->plan, j->run->vocab, d, rows_of, &own, out, err);
    if (d->vocab.row && mg_role_is_vocab(t->parts[0].role)) return other_tokens(j, d, t, out, err);
    return mg_dense_donor_expr(j->run->plan, d, t, layer, out, err);
}

/* The target's name with another layer's number, the first component that is `layer`. */
static mg_status name_in_layer(job *j, const char *name, uint32_t layer, uint32_t other, const char **out,
                               mg_error *err) {
    char number[16];
    int n = snprintf(number, sizeof number, ".%u.", layer);
    const char *at = strstr(name, number);
    *out = at ? mg_arena_printf(&j->run->arena, "%.*s.%u.%s", (int)(at - name), name, other, at + n) : name;
    return *out ? MG_OK : mg_fail_nomem(err, strlen(name));
}

static mg_status blended(job *j, const mg_target *t, const mg_expr **out, mg_error *err) {
    const mg_expr *inputs[MG_BLEND_MAX];
    const char *names[MG_BLEND_MAX];
    uint32_t slice, layer;
    double at;
    mg_blend b;
    place_of(j, t, &slice, &layer, &at);
    for (uint32_t i = 0; i < j->spec->slices[slice].n_sources; i++) {
        names[i] = t->name;
        if (layer != UINT32_MAX) MG_TRY(name_in_layer(j, t->name, layer, source_layer(j, i, layer), &names[i], err));
    }
    MG_TRY(mg_dense_blend(j->spec, slice, t->name, names, at, &b, err));
    for (uint32_t i = 0; i < b.n; i++)
        MG_TRY(source_expr(j, &j->run->donors[j->first_donor[slice] + i], t,
                           layer == UINT32_MAX ? layer : source_layer(j, i, layer), &inputs[i], err));
    mg_dtype dtype = j->dtype == MG_DTYPE_COUNT ? mg_expr_dtype(inputs[0]) : j->dtype;
    if (j->dtype == MG_DTYPE_COUNT && j->run->vocab && mg_role_is_vocab(t->parts[0].role)) { /* not of means */
        const mg_bound *embd = mg_model_find(j->run->donors[0].model, MG_R_TOKEN_EMBD, 0, 0);
        if (embd) dtype = mg_model_tensor(j->run->donors[0].model, embd)->dtype;
    }
    MG_TRY(mg_expr_blend(j->run->plan, inputs, &b, out, err));
    return mg_expr_cast(j->run->plan, *out, dtype, NULL, 0, out, err);
}

static bool result_has(const void *ctx, mg_role role, uint32_t layer, uint32_t expert) {
    const job *j = ctx;
    bool in_layer = mg_role_scope(role) != MG_SCOPE_MODEL;
    const mg_model *m =
        in_layer ? j->run->donors[j->first_donor[j->stack.slice[layer]]].model : j->run->donors[0].model;
    return mg_model_has(m, role, in_layer ? source_layer(j, 0, layer) : layer, expert);
}

static mg_status add_tensors(job *j, mg_error *err) {
    mg_dense_run *r = j->run;
    mg_targets targets;
    mg_status st = mg_arch_targets(&targets, r->donors[0].model->arch, &j->result->hp, j->result->layers, MG_LAYOUT_HF,
                                   result_has, j, err);
    for (size_t i = 0; st == MG_OK && i < targets.n; i++) {
        const mg_expr *e = NULL;
        st = blended(j, &targets.items[i], &e, err);
        if (st == MG_OK) st = mg_plan_add_tensor(r->plan, r->out, targets.items[i].name, e, err);
        if (st != MG_OK) mg_error_at(err, NULL, targets.items[i].name);
    }
    mg_targets_release(&targets);
    return st;
}

/* ---- the run ---- */

static mg_status open_donors(job *j, mg_error *err) {
    mg_dense_run *r = j->run;
    const mg_dense_spec *s = j->spec;
    uint32_t n = 1;
    for (uint32_t i = 0; i < s->n_slices; i++) n += s->slices[i].n_sources;
    MG_TRY(MG_ARENA_NEW(&r->arena, &r->donors, n, err));
    MG_TRY(MG_ARENA_NEW(&r->arena, &j->first_donor, s->n_slices, err));
    r->donors[0].name = r->donors[0].path = s->base_path;
    r->n_donors = 1;
    for (uint32_t i = 0; i < s->n_slices; i++) {
        j->first_donor[i] = r->n_donors;
        for (uint32_t k = 0; k < s->slices[i].n_sources; k++, r->n_donors++)
            r->donors[r->n_donors].name = r->donors[r->n_donors].path = s->slices[i].sources[k].path;
    }
    MG_TRY(mg_donors_open(r->donors, r->n_donors, err));
    unsigned flags =
        (s->slices[0].sources[0].whole ? 0 : MG_DONORS_ANY_DEPTH) | (s->vocab.rebuild     ? MG_DONORS_NEW_VOCAB
                                                                     : s->vocab.any_vocab ? MG_DONORS_ANY_VOCAB
                                                                                          : 0);
    MG_TRY(mg_donors_compare(r->donors, r->n_donors, flags, err));
    return s->vocab.rebuild ? mg_vocab_union_make(&r->vocab, &s->vocab, r->donors, r->n_donors, err) : MG_OK;
}

static mg_status run_init(job *j, const char *dir, uint64_t shard_size, mg_error *err) {
    mg_dense_run *r = j->run;
    MG_TRY(open_donors(j, err));
    MG_TRY(mg_plan_new(&r->plan, err));
    MG_TRY(mg_plan_add_output(r->plan, MG_OUT_HF_DIR, dir, &r->out, err));
    if (shard_size) MG_TRY(mg_plan_set_shard_size(r->plan, r->out, shard_size, err));
    j->dtype = j->spec->dtype != MG_DTYPE_COUNT ? j->spec->dtype : mg_config_dtype(r->donors[0].config);
    MG_TRY(stack_layers(j, err));
    MG_TRY(plan_config(j, err));
    MG_TRY(check_layers(j, err));
    MG_TRY(add_tensors(j, err));
    MG_TRY(r->vocab ? mg_vocab_union_add_files(r->plan, r->out, r->vocab, err)
                    : mg_donor_copy_sides(&r->donors[0], r->plan, r->out, err));
    MG_TRY(mg_plan_add_side_file(r->plan, r->out, "mergekit_config.yml", j->spec->text, j->spec->text_size, err));
    MG_TRY(mg_plan_checkpoint(r->plan, r->out, &r->ckpt, err));
    if (r->vocab) return mg_vocab_union_dir(r->vocab, &r->ckpt->dir, err);
    r->ckpt->vocab = r->donors[0].ckpt->kv;
    if (!r->ckpt->vocab) r->ckpt->dir = r->donors[0].ckpt->dir; /* the tokenizer files are the base's */
    return MG_OK;
}

mg_status mg_dense_run_new(mg_dense_run **out, const mg_dense_spec *spec, const char *dir, uint64_t shard_size,
                           mg_error *err) {
    mg_dense_run *r = calloc(1, sizeof *r);
    if (!r) return mg_fail_nomem(err, sizeof *r);
    mg_arena_init(&r->arena, 0);
    job j = {.run = r, .spec = spec};
    mg_status st = run_init(&j, dir, shard_size, err);
    mg_model_free(j.result);
    if (st != MG_OK) {
        mg_dense_run_free(r);
        return st;
    }
    *out = r;
    return MG_OK;
}

void mg_dense_run_free(mg_dense_run *r) {
    if (!r) return;
    mg_checkpoint_free(r->ckpt);
    mg_plan_free(r->plan);
    mg_vocab_union_free(r->vocab);
    mg_donors_close(r->donors, r->n_donors);
    mg_arena_release(&r->arena);
    free(r);
}
