/* merge_run.c - running the gate stage of a merge and completing its plan. */
#include "convert/merge_run.h"

#include "convert/exchange.h"
#include "convert/gate_stage.h"
#include "convert/gates_donors.h"
#include "convert/regmean.h"
#include "formats/arch/arch.h"
#include "formats/base/file.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STAGE_VERSION 4u  /* part of the stage id: raise when a formula changes */
#define MAX_SHOWN     16u /* experts whose gates are compared pair by pair in what is said */

typedef struct gate_work {
    mg_merge_run *run;
    const mg_merge_spec *spec;
    const mg_merge_run_options *opt;
    mg_gate_shape shape;
    uint32_t routed; /* rows of the experts; a shared expert's comes behind them */
} gate_work;

static void note(const mg_merge_run_options *opt, const char *fmt, ...) MG_PRINTF(2, 3);
static void note(const mg_merge_run_options *opt, const char *fmt, ...) {
    char text[512];
    if (!opt->note) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    opt->note(opt->note_ctx, text);
}

/* ---- identity of the stage ---- */

static void hash_prompts(mg_xxh128_state *h, const mg_prompts *p) {
    mg_xxh128_update(h, &p->n, sizeof p->n);
    for (uint32_t i = 0; i < p->n; i++) mg_xxh128_update(h, p->text[i], strlen(p->text[i]) + 1);
}

static mg_status hash_checkpoint(mg_xxh128_state *h, mg_checkpoint *c, mg_error *err) {
    uint8_t id[16];
    MG_TRY(mg_checkpoint_identity(c, id, err));
    mg_xxh128_update(h, id, sizeof id);
    return MG_OK;
}

/* Everything the rows depend on: the recipe, mode, seed, prompts, expert count and scales, all donors. */
static mg_status stage_id(const gate_work *g, mg_xxh128 *id, mg_error *err) {
    mg_xxh128_state *h;
    MG_TRY(mg_xxh128_new(&h, err));
    uint64_t head[] = {STAGE_VERSION,      g->spec->gate_mode,         g->opt->seed,
                       g->spec->n_experts, g->spec->experts_per_token, (uint64_t)g->run->merge->dtype};
    mg_xxh128_update(h, head, sizeof head);
    mg_xxh128_update(h, g->spec->text, g->spec->text_size);
    mg_status st = hash_checkpoint(h, g->run->merge->donors[0].ckpt, err);
    for (uint32_t i = g->run->merge->first_trunk; st == MG_OK && i < g->run->merge->n_donors; i++)
        st = hash_checkpoint(h, g->run->merge->donors[i].ckpt, err);
    for (uint32_t e = 0; st == MG_OK && e < g->spec->n_experts + g->spec->n_shared; e++) {
        const mg_merge_expert *x = &g->spec->experts[e];
        hash_prompts(h, &x->positive);
        hash_prompts(h, &x->negative);
        mg_xxh128_update(h, &x->residual_scale, sizeof x->residual_scale);
        st = hash_checkpoint(h, g->run->merge->donors[e + 1].ckpt, err);
    }
    if (st == MG_OK && g->spec->gate_file) {
        char hex[65];
        st = mg_sha256_file(g->spec->gate_file, hex, err);
        if (st == MG_OK) mg_xxh128_update(h, hex, 64);
    }
    *id = mg_xxh128_final(h);
    mg_xxh128_free(h);
    return st;
}

/* ---- computing ---- */

/* Rows of one layer into its slots: the experts', then the shared expert's. */
static mg_status supply_layer(gate_work *g, uint32_t layer, mg_error *err) {
    const float *rows = g->run->rows + layer * (g->shape.experts * g->shape.hidden);
    if (!g->run->merge->routers[layer]) return MG_OK; /* stays dense */
    MG_TRY(mg_expr_supply(g->run->plan, g->run->merge->routers[layer], rows, err));
    if (g->shape.experts == g->routed) return MG_OK;
    return mg_expr_supply(g->run->plan, g->run->merge->shared_routers[layer], rows + g->routed * g->shape.hidden, err);
}

/* The shared expert's row of a fitted layer stays zero: it has no tokens of its own, and half of it is always there. */
static mg_status supply(void *ctx, uint32_t layer, const float *rows, mg_error *err) {
    gate_work *g = ctx;
    memcpy(g->run->rows + layer * (g->shape.experts * g->shape.hidden), rows,
           g->routed * g->shape.hidden * sizeof *rows);
    if (g->run->reports && g->run->reports[layer].tokens)
        note(g->opt, "layer %u: %.1f %% of %llu prompt tokens find their expert (loss %.4f, %u iterations)", layer,
             100 * g->run->reports[layer].accuracy, (unsigned long long)g->run->reports[layer].tokens,
             g->run->reports[layer].loss, g->run->reports[layer].iterations);
    return supply_layer(g, layer, err);
}

static mg_status open_tokenizer(mg_tokenizer **out, const mg_checkpoint *base, mg_error *err) {
    *out = NULL;
    MG_TRY(mg_tokenizer_open_model(out, base, err));
    return *out ? MG_OK
                : mg_fail(err, MG_ERR_FORMAT, "'%s' has no tokenizer files, and gates from prompts need a tokenizer",
                          base->path);
}

/* Which of the recipe's experts each row is for, [layers][routed], with the caller's memory. */
static void fill_entries(const gate_work *g, uint32_t *entry) {
    const mg_merge *m = g->run->merge;
    for (uint32_t l = 0; l < g->shape.layers; l++)
        for (uint32_t e = 0; m->routers[l] && e < g->routed; e++)
            entry[(uint64_t)l * g->routed + e] = mg_merge_unit_at(&m->units, l, e)->entry;
}

static mg_status fit_rows(gate_work *g, const uint32_t *entry, const mg_tokenizer *tok, mg_error *err) {
    mg_merge_run *r = g->run;
    mg_gates_donors donors = {r->merge, g->opt->eval};
    bool *sliced = calloc(g->spec->n_experts, sizeof *sliced);
    r->reports = calloc(g->shape.layers, sizeof *r->reports);
    mg_status st = sliced && r->reports ? MG_OK : mg_fail_nomem(err, g->shape.layers * sizeof *r->reports);
    for (uint32_t e = 0; st == MG_OK && e < g->spec->n_experts; e++) sliced[e] = g->spec->experts[e].split > 1;
    mg_gate_map map = {.rows = g->routed, .entry = entry, .sliced = sliced, .choose = mg_gates_choose, .ctx = &donors};
    if (st == MG_OK)
        st = mg_gates_fit(g->spec, &map, r->model, tok, g->opt->eval, g->opt->pool, supply, g, r->reports, err);
    free(sliced);
    return st;
}

/* One row per expert of the recipe, which must then stand for one each. */
static mg_status hidden_rows(gate_work *g, const uint32_t *entry, const mg_tokenizer *tok, mg_error *err) {
    const mg_gate_shape *s = &g->shape;
    const mg_merge_units *u = &g->run->merge->units;
    for (uint32_t k = 1; k < u->n; k++)
        if (u->unit[k].entry == u->unit[k - 1].entry)
            return mg_fail(err, MG_ERR_CONFLICT,
                           "'%s' stands for several experts, which gate mode '%s' would give the same row: use fit",
                           g->spec->experts[u->unit[k].entry].source, mg_gate_mode_name(g->spec->gate_mode));
    uint32_t shared = (uint32_t)s->experts - g->routed, n = g->spec->n_experts + shared;
    float *all = malloc(s->layers * (n * s->hidden) * sizeof *all);
    if (!all) return mg_fail_nomem(err, s->layers * (n * s->hidden) * sizeof *all);
    mg_status st = mg_gates_from_prompts(g->spec, n, g->run->merge->donors[0].model, tok, g->opt->eval, all, err);
    for (uint64_t l = 0; st == MG_OK && l < s->layers; l++)
        for (uint64_t e = 0; e < s->experts; e++) {
            uint64_t from = e < g->routed ? entry[l * g->routed + e] : g->spec->n_experts;
            memcpy(g->run->rows + (l * s->experts + e) * s->hidden, all + (l * n + from) * s->hidden,
                   s->hidden * sizeof *all);
        }
    free(all);
    return st;
}

static mg_status compute_from_prompts(gate_work *g, mg_error *err) {
    mg_tokenizer *tok = NULL;
    uint64_t n = (uint64_t)g->shape.layers * g->routed;
    uint32_t *entry = calloc(n, sizeof *entry);
    if (!entry) return mg_fail_nomem(err, n * sizeof *entry);
    fill_entries(g, entry);
    const bool fits = g->spec->gate_mode == MG_GATE_FIT; /* through the result, which may have other tokens */
    mg_status st = open_tokenizer(&tok, fits ? g->run->ckpt : g->run->merge->donors[0].ckpt, err);
    if (st == MG_OK) st = fits ? fit_rows(g, entry, tok, err) : hidden_rows(g, entry, tok, err);
    mg_tokenizer_free(tok);
    free(entry);
    return st;
}

static double gate_cosine(const gate_work *g, uint32_t layer, uint32_t a, uint32_t b) {
    const float *x = g->run->rows + ((uint64_t)layer * g->shape.experts + a) * g->shape.hidden;
    const float *y = g->run->rows + ((uint64_t)layer * g->shape.experts + b) * g->shape.hidden;
    double xy = 0, xx = 0, yy = 0;
    for (uint64_t k = 0; k < g->shape.hidden; k++) {
        xy += (double)x[k] * (double)y[k];
        xx += (double)x[k] * (double)x[k];
        yy += (double)y[k] * (double)y[k];
    }
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
}

static mg_status compute_rows(gate_work *g, mg_error *err) {
    const mg_gate_shape *s = &g->shape;
    mg_gate_mode mode = g->spec->gate_mode;
    switch (mode) {
    case MG_GATE_RANDOM:
    case MG_GATE_UNIFORM_RANDOM:
    case MG_GATE_ORTHOGONAL:
        return mg_gates_random(mode, g->opt->seed, s->layers, s->experts, s->hidden, g->run->rows, err);
    case MG_GATE_FILE:
        MG_TRY(mg_gates_from_file(g->spec->gate_file, g->run->model, MG_R_ROUTER, s->experts, g->run->rows, err));
        if (s->experts == g->routed) return MG_OK;
        return mg_gates_from_file(g->spec->gate_file, g->run->model, MG_R_SHARED_ROUTER, s->experts,
                                  g->run->rows + g->routed * s->hidden, err);
    case MG_GATE_KEEP:
        return mg_gates_keep(g->run->merge, s->experts, g->run->rows, err);
    case MG_GATE_SVD:
        return mg_gates_svd(g->run->merge, g->opt->pool, s->experts, g->run->rows, err);
    default:
        return compute_from_prompts(g, err);
    }
}

/* Cosines of every pair, the mean over the layers that route: a line for each expert with those before it. */
static void show_cosines(const gate_work *g) {
    char line[16 + 8 * MAX_SHOWN];
    note(g->opt, "cosines between gates, mean over layers:");
    for (uint32_t i = 1; i < g->routed; i++) {
        int n = snprintf(line, sizeof line, "  expert %-3u", i);
        for (uint32_t j = 0; j < i; j++) {
            double sum = 0;
            uint32_t layers = 0;
            for (uint32_t l = 0; l < g->shape.layers; l++) {
                if (!g->run->merge->routers[l]) continue;
                sum += gate_cosine(g, l, i, j);
                layers++;
            }
            n += snprintf(line + n, sizeof line - (size_t)n, " %6.3f", layers ? sum / layers : 0);
        }
        note(g->opt, "%s", line);
    }
}

/* Rows must be finite; two that nearly coincide are worth a word, since the router can then hardly tell the experts
 * apart. */
static mg_status inspect_rows(const gate_work *g, mg_error *err) {
    const mg_gate_shape *s = &g->shape;
    double worst = -1;
    uint32_t at = 0, a = 0, b = 0;
    for (uint64_t i = 0; i < s->layers * (s->experts * s->hidden); i++)
        if (!isfinite(g->run->rows[i])) return mg_fail(err, MG_ERR_FORMAT, "a router row is not finite");
    for (uint32_t l = 0; l < s->layers; l++)
        for (uint32_t i = 0; g->run->merge->routers[l] && i < g->routed; i++)
            for (uint32_t j = i + 1; j < g->routed; j++) {
                double c = gate_cosine(g, l, i, j);
                if (c <= worst) continue;
                worst = c;
                at = l;
                a = i;
                b = j;
            }
    if (g->routed > 1 && g->routed <= MAX_SHOWN) show_cosines(g);
    if (g->routed > 1)
        note(g->opt, "most alike gates: experts %u and %u in layer %u, cosine %.3f%s", a, b, at, worst,
             worst > 0.98 ? "; the router can hardly tell them apart" : "");
    return MG_OK;
}

/* sigmoid(0) = 1/2 of the shared expert beside half of the routed ones. */
static void zero_shared_rows(gate_work *g) {
    const mg_gate_shape *s = &g->shape;
    for (uint32_t l = 0; l < s->layers && s->experts > g->routed; l++)
        memset(g->run->rows + (l * s->experts + g->routed) * s->hidden, 0, s->hidden * sizeof(float));
}

static mg_status compute_gates(gate_work *g, mg_error *err) {
    mg_merge_run *r = g->run;
    mg_gate_mode mode = g->spec->gate_mode;
    const char *path = g->opt->stage_path;
    mg_xxh128 id;
    MG_TRY(stage_id(g, &id, err));
    bool again = path && mg_gate_stage_load(path, id, g->shape, r->rows);
    if (again) {
        note(g->opt, "routers of the interrupted run are used again");
    } else {
        note(g->opt, "gate mode '%s'%s", mode == MG_GATE_FILE ? g->spec->gate_file : mg_gate_mode_name(mode),
             g->spec->gate_mode_given ? "" : " (the recipe names none; mergekit would take 'hidden')");
        MG_TRY(compute_rows(g, err));
        if (g->spec->shared_exact) zero_shared_rows(g);
        if (path) MG_TRY(mg_gate_stage_save(path, id, g->shape, r->rows, err));
    }
    MG_TRY(inspect_rows(g, err));
    if (mode == MG_GATE_FIT && !again) return MG_OK; /* supplied layer by layer already */
    for (uint32_t l = 0; l < g->shape.layers; l++) MG_TRY(supply_layer(g, l, err));
    return MG_OK;
}

/* ---- the trunk ---- */

/* Prompts of the expert that is this model; NULL: none is. */
static const mg_prompts *prompts_of(const mg_merge_spec *s, const char *path) {
    for (uint32_t e = 0; e < s->n_experts; e++)
        if (strcmp(s->experts[e].path, path) == 0) return &s->experts[e].positive;
    return NULL;
}

static void note_stage(void *ctx, const char *text) {
    note(ctx, "%s", text);
}

/* Where a stage's file goes: `kept`, or a folder of the run's own, because what is only tried needs no place beside an
 * output. */
static mg_status place(mg_merge_run *r, const char *kept, const char *name, char *path, size_t size, mg_error *err) {
    if (kept) return mg_path_join(path, size, "", kept, err);
    if (!r->own.path[0]) MG_TRY(mg_tempdir_new(&r->own, err));
    return mg_path_join(path, size, r->own.path, name, err);
}

static mg_status compute_trunk(gate_work *g, mg_error *err) {
    mg_merge *m = g->run->merge;
    const mg_dense_slice *models = &g->spec->trunk->slices[0];
    char path[4096];
    mg_xxh128 id;
    const mg_prompts **text = calloc(models->n_sources, sizeof *text);
    if (!text) return mg_fail_nomem(err, models->n_sources * sizeof *text);
    mg_status st = stage_id(g, &id, err);
    for (uint32_t i = 0; st == MG_OK && i < models->n_sources; i++)
        if (!(text[i] = prompts_of(g->spec, models->sources[i].path)))
            st = mg_fail(err, MG_ERR_CONFLICT, "regmean needs prompts for '%s', which is no expert",
                         models->sources[i].path);
    if (st == MG_OK) st = place(g->run, g->opt->trunk_path, "trunk.safetensors", path, sizeof path, err);
    mg_regmean r = {
        &m->donors[m->first_trunk], text, models->n_sources, g->opt->eval, g->opt->pool, note_stage, (void *)g->opt};
    if (st == MG_OK) st = mg_regmean_run(&r, path, id, err);
    if (st == MG_OK) st = mg_checkpoint_open(&m->regmean, path, err);
    free(text);
    return st;
}

/* ---- plan and exchange maps ---- */

static mg_status make_plan(mg_merge_run *r, const mg_merge_run_options *opt, mg_error *err) {
    MG_TRY(mg_plan_new(&r->plan, err));
    r->merge->seed = opt->seed;
    MG_TRY(mg_merge_plan(r->merge, r->plan, opt->dir, opt->shard_size, &r->out, err));
    MG_TRY(mg_plan_checkpoint(r->plan, r->out, &r->ckpt, err));
    if (r->merge->vocab)
        MG_TRY(mg_vocab_union_dir(r->merge->vocab, &r->ckpt->dir, err));
    else
        r->ckpt->vocab = r->merge->donors[0].ckpt->kv;
    if (!r->merge->vocab && !r->ckpt->vocab)
        r->ckpt->dir = r->merge->donors[0].ckpt->dir; /* tokenizer files are the base's */
    return mg_model_open(&r->model, r->ckpt, err);
}

static void drop_plan(mg_merge_run *r) {
    mg_model_free(r->model);
    mg_checkpoint_free(r->ckpt);
    mg_plan_free(r->plan);
    r->model = NULL;
    r->ckpt = NULL;
    r->plan = NULL;
}

/* What the maps depend on: all that the routers do, and the routers. */
static mg_status exchange_id(const gate_work *g, mg_xxh128 *id, mg_error *err) {
    mg_xxh128_state *h;
    const char what[] = "exchange 1"; /* raise when a formula changes */
    MG_TRY(stage_id(g, id, err));
    MG_TRY(mg_xxh128_new(&h, err));
    mg_xxh128_update(h, what, sizeof what);
    mg_xxh128_update(h, id->bytes, sizeof id->bytes);
    mg_xxh128_update(h, g->run->rows, g->shape.layers * (g->shape.experts * g->shape.hidden) * sizeof(float));
    *id = mg_xxh128_final(h);
    mg_xxh128_free(h);
    return MG_OK;
}

/* Fitted through the model with maps of zeros, which is then planned anew with the fitted ones. */
static mg_status compute_exchange(gate_work *g, mg_error *err) {
    mg_merge_run *r = g->run;
    char path[4096];
    mg_xxh128 id;
    mg_tokenizer *tok = NULL;
    MG_TRY(exchange_id(g, &id, err));
    mg_status st = place(r, g->opt->exchange_path, "exchange.safetensors", path, sizeof path, err);
    if (st == MG_OK) st = open_tokenizer(&tok, r->merge->donors[0].ckpt, err);
    mg_exchange x = {g->spec,      &r->merge->donors[1], r->model,   tok,
                     g->opt->eval, g->opt->pool,         note_stage, (void *)g->opt};
    if (st == MG_OK) st = mg_exchange_run(&x, path, id, err);
    if (st == MG_OK) st = mg_checkpoint_open(&r->merge->exchange, path, err);
    mg_tokenizer_free(tok);
    if (st != MG_OK) return st;
    drop_plan(r);
    MG_TRY(make_plan(r, g->opt, err));
    for (uint32_t l = 0; l < g->shape.layers; l++) MG_TRY(supply_layer(g, l, err));
    return MG_OK;
}

/* ---- the run ---- */

static mg_status run_init(mg_merge_run *r, const mg_merge_spec *spec, const mg_merge_run_options *opt, mg_error *err) {
    gate_work g = {.run = r, .spec = spec, .opt = opt};
    MG_TRY(mg_merge_open(&r->merge, spec, err));
    for (uint32_t i = 1; i < r->merge->n_donors; i++) {
        const mg_donor *d = &r->merge->donors[i];
        if (d->vocab.row && !d->shared)
            note(opt, "'%s' has other tokens: %u of the base's %u rows found by their text", d->name, d->vocab.found,
                 d->vocab.n);
    }
    if (r->merge->vocab) {
        char text[400];
        mg_vocab_union_text(r->merge->vocab, text, sizeof text);
        note(opt, "tokenizer: %s", text);
    }
    if (spec->trunk_regmean) MG_TRY(compute_trunk(&g, err));
    if (spec->exchange_fit) MG_TRY(mg_merge_check_exchange(r->merge, err));
    MG_TRY(make_plan(r, opt, err));
    bool shared_router = false;
    for (uint32_t l = 0; l < (uint32_t)mg_hp_i(r->model, MG_K_LAYERS); l++)
        shared_router = shared_router || r->merge->shared_routers[l];
    g.routed = r->merge->units.per_layer;
    g.shape = (mg_gate_shape){(uint32_t)mg_hp_i(r->model, MG_K_LAYERS), g.routed + shared_router,
                              (uint64_t)mg_hp_i(r->model, MG_K_HIDDEN)};
    uint64_t n = g.shape.layers * (g.shape.experts * g.shape.hidden);
    if (!(r->rows = calloc(n, sizeof *r->rows))) return mg_fail_nomem(err, n * sizeof *r->rows);
    MG_TRY(compute_gates(&g, err));
    return spec->exchange_fit ? compute_exchange(&g, err) : MG_OK;
}

mg_status mg_merge_run_new(mg_merge_run **out, const mg_merge_spec *spec, const mg_merge_run_options *opt,
                           mg_error *err) {
    mg_merge_run *r = calloc(1, sizeof *r);
    if (!r) return mg_fail_nomem(err, sizeof *r);
    r->mode = spec->gate_mode;
    mg_status st = run_init(r, spec, opt, err);
    if (st != MG_OK) {
        mg_merge_run_free(r);
        return st;
    }
    *out = r;
    return MG_OK;
}

void mg_merge_run_free(mg_merge_run *r) {
    if (!r) return;
    drop_plan(r);
    mg_merge_free(r->merge);
    mg_tempdir_remove(&r->own);
    free(r->reports);
    free(r->rows);
    free(r);
}
