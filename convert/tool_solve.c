/* tool_solve.c - see tool_solve.h. Every candidate type of every tensor is tried alone in a model that is otherwise the
 * original; the divergences add up well enough to choose by (docs/quantize.md has the figures). */
#include "convert/tool_solve.h"

#include "convert/quantize_variant.h"
#include "convert/tool_attribution.h"
#include "formats/arch/arch.h"
#include "quant/codec.h"
#include "quant/type_solver.h"
#include "verify/probe.h"
#include "verify/tool_model.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEFAULT_SAMPLES = 16, MAX_TYPES = 32 };

/* Candidates unless --target-types names others: one of each size in super-blocks, and for rows that do not fit those
 * the types in blocks of 32. IQ1 is for files so small that nothing else fits: --target-types. */
static const mg_dtype usual[] = {MG_IQ2_XXS, MG_IQ2_XS, MG_IQ2_S, MG_Q2_K, MG_IQ3_XXS, MG_IQ3_S,
                                 MG_Q3_K,    MG_IQ4_XS, MG_Q4_K,  MG_Q5_K, MG_Q6_K,    MG_Q8_0,
                                 MG_Q4_0,    MG_Q4_1,   MG_Q5_0,  MG_Q5_1, MG_IQ4_NL};

/* A tensor and a type to try. */
typedef struct trial {
    uint32_t item;
    mg_dtype dtype;
    int64_t from;
    uint32_t at; /* in the order of items and types */
} trial;

typedef struct solve {
    const mg_tool_solve_options *opt;
    mg_arena arena;
    mg_tool_pass pass;
    bool have_pass;
    mg_model *reference;
    mg_windows windows;
    mg_quantize_item *items;
    uint32_t n_items;
    mg_dtype types[MAX_TYPES];
    uint32_t n_types;
    bool named; /* types come from --target-types */
    trial *trials;
    mg_probe *probes;
    uint32_t n_trials;
    mg_quantize_variant variant;
    uint64_t beside; /* bytes of the file that are not tensor data, at most */
    uint64_t budget; /* bytes for the tensors that are chosen */
    double bpw;      /* wanted, all tensors */
} solve;

static mg_status at_name(mg_status st, const char *name, mg_error *err) {
    if (st != MG_OK) mg_error_at(err, NULL, name);
    return st;
}

/* ---- before anything is measured ---- */

static mg_status recipe_path(const mg_tool_solve_options *opt, char *buf, size_t size, mg_error *err) {
    const int n = snprintf(buf, size, "%s.types.txt", opt->out);
    if (n < 0 || (size_t)n >= size) return mg_fail(err, MG_ERR_LIMIT, "path of %zu bytes", strlen(opt->out));
    return MG_OK;
}

/* Hours of measuring must not end in a refusal. What an interrupted run left is ours. */
static mg_status check_outputs(const mg_tool_solve_options *opt, mg_error *err) {
    char path[4096], dir[4096];
    MG_TRY(recipe_path(opt, path, sizeof path, err));
    const char *slash = strrchr(opt->out, '/');
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - opt->out + 1) : 1, slash ? opt->out : ".");
    if (opt->common->force || mg_outset_pending(dir, slash ? slash + 1 : opt->out)) return MG_OK;
    const char *paths[] = {opt->out, path};
    for (size_t i = 0; i < 2; i++)
        if (access(paths[i], F_OK) == 0) {
            mg_status st = mg_fail(err, MG_ERR_USAGE, "exists already; --force replaces it");
            mg_error_at(err, paths[i], NULL);
            return st;
        }
    return MG_OK;
}

static mg_status parse_types(solve *s, mg_error *err) {
    s->named = s->opt->types != NULL;
    if (!s->named) {
        s->n_types = sizeof usual / sizeof *usual;
        memcpy(s->types, usual, sizeof usual);
        return MG_OK;
    }
    for (const char *p = s->opt->types; *p;) {
        char name[32];
        const size_t n = strcspn(p, ",");
        snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name), p);
        mg_dtype t = mg_dtype_from_name(name);
        if (n >= sizeof name || t == MG_DTYPE_COUNT || !mg_dtype_is_block(t) || mg_dtype_get(t)->gguf_id < 0 ||
            !mg_codec_get(t))
            return mg_fail(err, MG_ERR_USAGE, "--target-types: '%.*s' is no quantized ggml type", (int)n, p);
        if (s->n_types == MAX_TYPES) return mg_fail(err, MG_ERR_LIMIT, "--target-types: more than %d", MAX_TYPES);
        s->types[s->n_types++] = t;
        p += n + (p[n] == ',');
    }
    return s->n_types ? MG_OK : mg_fail(err, MG_ERR_USAGE, "--target-types names no type");
}

/* ---- text ---- */

/* Every k-th window, so that all of the text is represented. */
static mg_status take_windows(solve *s, mg_error *err) {
    mg_windows *w = &s->windows;
    const mg_tool_model t = {.ckpt = s->opt->in};
    MG_TRY(mg_tool_model_windows(w, &t, s->opt->common, err));
    const uint64_t want = s->opt->samples ? s->opt->samples : DEFAULT_SAMPLES;
    if (w->n <= want) return MG_OK;
    w->scored = 0;
    for (uint64_t i = 0; i < want; i++) {
        w->items[i] = w->items[i * w->n / want];
        w->scored += mg_window_scored(&w->items[i]);
    }
    w->n = want;
    return MG_OK;
}

/* ---- sizes ---- */

static uint64_t bytes_as(const solve *s, const mg_quantize_item *item, mg_dtype dtype) {
    const mg_tensor *t = &s->opt->gguf->tensors[item->tensor];
    uint64_t row = 0;
    if (!mg_dtype_row_bytes(dtype, mg_tensor_cols(t), &row)) return 0;
    return row * mg_tensor_rows(t);
}

/* The plan with the types of the mix: what it refuses is refused before anything is measured, and its files say what
 * there is beside tensor data. */
static mg_status plan_once(solve *s, mg_error *err) {
    mg_plan *p;
    mg_json *j = NULL;
    uint32_t o;
    mg_quantize_options q = *s->opt->quantize;
    q.note = NULL;
    q.estimate = true;
    MG_TRY(mg_plan_new(&p, err));
    mg_status st = mg_quantize_plan(p, s->opt->gguf, s->opt->out, &q, NULL, &o, err);
    if (st == MG_OK) st = mg_plan_json(p, o, &j, err);
    uint64_t total = 0, bytes = 0, size;
    const mg_json *files = mg_json_get(j, "files");
    for (const mg_json *f = files ? mg_json_first(files) : NULL; f; f = mg_json_next(f))
        if (mg_json_u64(mg_json_get(f, "size"), &size)) total += size;
    if (j && mg_json_u64(mg_json_get(j, "bytes"), &bytes)) s->beside = total - bytes;
    /* padding differs with the types */
    s->beside += s->n_items * (s->opt->gguf->alignment ? s->opt->gguf->alignment : 32);
    mg_json_free(j);
    mg_plan_free(p);
    return st;
}

static mg_status set_budget(solve *s, mg_error *err) {
    uint64_t fixed = 0, elements = 0, total;
    for (uint32_t i = 0; i < s->n_items; i++) {
        elements += s->opt->gguf->tensors[s->items[i].tensor].n_elements;
        if (!s->items[i].open) fixed += bytes_as(s, &s->items[i], s->items[i].target);
    }
    if (s->opt->size) {
        if (s->opt->size <= s->beside)
            return mg_fail(err, MG_ERR_USAGE, "--target-size: metadata alone takes %llu bytes",
                           (unsigned long long)s->beside);
        total = s->opt->size - s->beside;
    } else {
        total = (uint64_t)(s->opt->bpw * (double)elements / 8.0);
    }
    s->bpw = elements ? 8.0 * (double)total / (double)elements : 0;
    if (total <= fixed)
        return mg_fail(err, MG_ERR_USAGE, "tensors whose type is not chosen take %llu bytes, the target is %llu",
                       (unsigned long long)fixed, (unsigned long long)total);
    s->budget = total - fixed;
    return MG_OK;
}

/* ---- what is tried ---- */

/* First layer that a tensor changes; false: it changes nothing that is run. */
static bool first_layer(const solve *s, const char *name, int64_t *from) {
    const int64_t layers = mg_hp_i(s->reference, MG_K_LAYERS), block = mg_mix_block(name);
    *from = block >= 0 ? block : -1;
    if (strcmp(name, "output.weight") == 0) *from = layers;
    return *from <= layers && block < layers;
}

static bool fits(const solve *s, const mg_quantize_item *item, mg_dtype dtype) {
    const mg_dtype_info *d = mg_dtype_get(dtype);
    const uint64_t cols = mg_tensor_cols(&s->opt->gguf->tensors[item->tensor]);
    const double bits = 8.0 * d->block_bytes / d->block;
    if (cols % d->block) return false;
    if (mg_codec_get(dtype)->imatrix == MG_IMATRIX_REQUIRED && !item->weights) return false;
    if (s->named) return true;
    if (d->block == 32 && dtype != MG_Q8_0 && cols % 256 == 0) return false;
    if (!item->weights && bits < 3.2 && dtype != MG_Q2_K) return false; /* garbage, says the reference */
    return bits >= s->bpw / 2;
}

static int by_layer(const void *a, const void *b) {
    const trial *x = a, *y = b;
    if (x->from != y->from) return x->from < y->from ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

static mg_status list_trials(solve *s, mg_error *err) {
    MG_TRY(MG_ARENA_NEW(&s->arena, &s->trials, (uint64_t)s->n_items * s->n_types + 1, err));
    for (uint32_t i = 0; i < s->n_items; i++) {
        int64_t from;
        if (!s->items[i].open) continue;
        if (!first_layer(s, s->items[i].name, &from)) {
            s->items[i].open = false;
            continue;
        }
        const uint32_t before = s->n_trials;
        for (uint32_t k = 0; k < s->n_types; k++) {
            if (!fits(s, &s->items[i], s->types[k])) continue;
            s->trials[s->n_trials] = (trial){i, s->types[k], from, s->n_trials};
            s->n_trials++;
        }
        if (s->n_trials == before) /* no candidate fits its rows: as the mix has it */
            s->items[i].open = false;
    }
    if (s->n_trials == 0) return mg_fail(err, MG_ERR_USAGE, "no tensor's type is left to choose");
    qsort(s->trials, s->n_trials, sizeof *s->trials, by_layer);
    MG_TRY(MG_ARENA_NEW(&s->arena, &s->probes, s->n_trials, err));
    for (uint32_t i = 0; i < s->n_trials; i++) s->probes[i].from = s->trials[i].from;
    return MG_OK;
}

/* ---- measuring ---- */

static mg_status open_trial(void *ctx, uint32_t i, mg_model **m, mg_error *err) {
    solve *s = ctx;
    const mg_quantize_item *item = &s->items[s->trials[i].item];
    mg_status st =
        mg_quantize_variant_open(&s->variant, s->opt->gguf, item, s->trials[i].dtype, s->opt->quantize->fixed, err);
    if (st != MG_OK) mg_quantize_variant_close(&s->variant);
    *m = s->variant.model;
    return at_name(st, item->name, err);
}

static void close_trial(void *ctx, uint32_t i, mg_model *m) {
    solve *s = ctx;
    (void)i;
    (void)m;
    mg_quantize_variant_close(&s->variant);
}

/* What no choice can meet is refused before hours of measuring. */
static mg_status check_budget(const solve *s, mg_error *err) {
    uint64_t least = 0;
    for (uint32_t i = 0; i < s->n_items; i++) {
        uint64_t smallest = UINT64_MAX;
        for (uint32_t t = 0; s->items[i].open && t < s->n_trials; t++) {
            if (s->trials[t].item != i) continue;
            const uint64_t bytes = bytes_as(s, &s->items[i], s->trials[t].dtype);
            if (bytes < smallest) smallest = bytes;
        }
        if (smallest != UINT64_MAX) least += smallest;
    }
    if (least <= s->budget) return MG_OK;
    return mg_fail(err, MG_ERR_USAGE, "the smallest types need %llu bytes of tensor data, the target leaves %llu",
                   (unsigned long long)least, (unsigned long long)s->budget);
}

/* The same from what verify --attribute has measured of another quantization: only errors of weights are new. */
static mg_status estimate(solve *s, mg_error *err) {
    double *slope;
    mg_progress *progress;
    MG_TRY(MG_ARENA_NEW(&s->arena, &slope, s->n_items, err));
    MG_TRY(mg_tool_attribution_load(slope, s->opt->attribution, s->reference, s->items, s->n_items, err));
    MG_TRY(mg_progress_new(&progress, s->opt->common->progress, "encode", s->n_trials, err));
    mg_status st = MG_OK;
    for (uint32_t i = 0; st == MG_OK && i < s->n_trials; i++) {
        const mg_quantize_item *item = &s->items[s->trials[i].item];
        mg_model *m;
        double error = 0;
        st = open_trial(s, i, &m, err);
        if (st != MG_OK) break;
        st = at_name(mg_tool_attribution_error(&error, s->reference, item, m, s->pass.pool, err), item->name, err);
        close_trial(s, i, m);
        s->probes[i].kl = slope[s->trials[i].item] * error;
        mg_progress_add(progress, 1, NULL);
    }
    mg_progress_free(progress);
    return st;
}

static mg_status measure(solve *s, mg_error *err) {
    if (s->opt->attribution) return estimate(s, err);
    mg_progress *progress;
    MG_TRY(mg_progress_new(&progress, s->opt->common->progress, "measure", s->n_trials * s->windows.n, err));
    mg_progress_unit(progress, "windows");
    const mg_probe_options opt = {
        .memory = s->opt->common->memory, .open = open_trial, .close = close_trial, .ctx = s, .progress = progress};
    mg_status st = mg_probe_run(s->pass.f, s->reference, &s->windows, s->probes, s->n_trials, &opt, err);
    mg_progress_free(progress);
    return st;
}

static mg_status prepare(solve *s, mg_error *err) {
    const mg_tool_solve_options *o = s->opt;
    MG_TRY(mg_model_open(&s->reference, o->gguf, err));
    MG_TRY(mg_forward_check(s->reference, err));
    MG_TRY(mg_tool_pass_new(&s->pass, o->common, err));
    s->have_pass = true;
    return o->common->text.n || o->common->tokens.n ? take_windows(s, err) : MG_OK;
}

static void release(solve *s) {
    mg_windows_release(&s->windows);
    if (s->have_pass) mg_tool_pass_free(&s->pass);
    mg_model_free(s->reference);
    mg_arena_release(&s->arena);
}

/* ---- choosing ---- */

typedef struct text {
    char *p;
    size_t n, cap;
} text;

/* "^name$=TYPE" with everything escaped that a pattern could take for itself. */
static mg_status rule_of(const char *name, mg_dtype dtype, char *buf, size_t size, mg_error *err) {
    size_t n = 0;
    buf[n++] = '^';
    for (const char *c = name; *c; c++) {
        if (n + 24 > size || isspace((unsigned char)*c) || isupper((unsigned char)*c) || *c == '=')
            return mg_fail(err, MG_ERR_UNSUPPORTED, "a tensor of this name cannot be named in a recipe");
        if (!isalnum((unsigned char)*c) && *c != '_' && *c != '-') buf[n++] = '\\';
        buf[n++] = *c;
    }
    n += (size_t)snprintf(buf + n, size - n, "$=%s", mg_dtype_get(dtype)->name);
    return MG_OK;
}

static mg_status append(text *t, const char *line, mg_error *err) {
    const size_t n = strlen(line);
    if (t->n + n + 2 > t->cap) {
        const size_t cap = 2 * t->cap + n + 4096;
        char *p = realloc(t->p, cap);
        if (!p) return mg_fail_nomem(err, cap);
        t->p = p;
        t->cap = cap;
    }
    memcpy(t->p + t->n, line, n);
    t->n += n;
    t->p[t->n++] = '\n';
    t->p[t->n] = 0;
    return MG_OK;
}

static void say(const solve *s, const char *line) {
    s->opt->say(s->opt->say_ctx, line);
}

static void describe(const solve *s, uint32_t item, const mg_solver_item *x) {
    char line[512];
    const mg_solver_option *o = &x->options[x->chosen];
    if (!s->opt->common->verbose) return;
    snprintf(line, sizeof line, "%-28s %-8s %12llu bytes, divergence alone %.3e", s->items[item].name,
             mg_dtype_get(s->items[item].target)->name, (unsigned long long)o->bytes, o->cost);
    say(s, line);
}

/* Options of the open items, then the solver; its answers become the items' targets. */
static mg_status choose(solve *s, mg_tool_solution *sol, mg_error *err) {
    mg_solver_item *x;
    mg_solver_option *o;
    mg_dtype *dtype;
    uint32_t n = 0, *index;
    MG_TRY(MG_ARENA_NEW(&s->arena, &x, s->n_items, err));
    MG_TRY(MG_ARENA_NEW(&s->arena, &index, s->n_items, err));
    MG_TRY(MG_ARENA_NEW(&s->arena, &o, (uint64_t)s->n_items * s->n_types, err));
    MG_TRY(MG_ARENA_NEW(&s->arena, &dtype, (uint64_t)s->n_items * s->n_types, err));
    for (uint32_t i = 0; i < s->n_items; i++) {
        if (!s->items[i].open) continue;
        mg_solver_option *own = o + (size_t)i * s->n_types;
        x[n].options = own;
        for (uint32_t t = 0; t < s->n_trials; t++) {
            if (s->trials[t].item != i) continue;
            dtype[(size_t)i * s->n_types + x[n].n] = s->trials[t].dtype;
            own[x[n].n++] = (mg_solver_option){bytes_as(s, &s->items[i], s->trials[t].dtype), s->probes[t].kl};
        }
        index[n++] = i;
    }
    sol->n_tensors = n;
    MG_TRY(mg_solve_types(x, n, s->budget, &sol->sum, err));
    for (uint32_t k = 0; k < n; k++) {
        s->items[index[k]].target = dtype[(size_t)index[k] * s->n_types + x[k].chosen];
        describe(s, index[k], &x[k]);
    }
    return MG_OK;
}

/* The recipe names every quantized tensor, so that it stands without the preset it was made under. */
static mg_status write_rules(solve *s, mg_type_rules *rules, text *t, mg_error *err) {
    char rule[512];
    for (uint32_t i = 0; i < s->n_items; i++) {
        const mg_quantize_item *item = &s->items[i];
        if (item->target == s->opt->gguf->tensors[item->tensor].dtype || !mg_dtype_is_block(item->target)) continue;
        MG_TRY(at_name(rule_of(item->name, item->target, rule, sizeof rule, err), item->name, err));
        MG_TRY(append(t, rule, err));
        if (item->open) MG_TRY(mg_type_rules_add(rules, rule, err));
    }
    return MG_OK;
}

static mg_status run(solve *s, mg_type_rules *rules, mg_tool_solution *sol, mg_error *err) {
    text t = {0};
    const mg_tool_solve_options *o = s->opt;
    MG_TRY(check_outputs(o, err));
    MG_TRY(parse_types(s, err));
    MG_TRY(prepare(s, err));
    MG_TRY(mg_quantize_items(o->gguf, o->quantize, &s->arena, &s->items, &s->n_items, err));
    MG_TRY(plan_once(s, err));
    MG_TRY(set_budget(s, err));
    MG_TRY(list_trials(s, err));
    MG_TRY(set_budget(s, err)); /* tensors without a candidate count as fixed */
    MG_TRY(check_budget(s, err));
    MG_TRY(measure(s, err));
    MG_TRY(choose(s, sol, err));
    mg_status st = write_rules(s, rules, &t, err);
    sol->recipe = t.p;
    return st;
}

mg_status mg_tool_solve(const mg_tool_solve_options *opt, mg_type_rules *rules, mg_tool_solution *sol, mg_error *err) {
    solve s = {.opt = opt};
    *sol = (mg_tool_solution){0};
    mg_arena_init(&s.arena, 0);
    mg_windows_init(&s.windows);
    mg_status st = run(&s, rules, sol, err);
    release(&s);
    return st;
}

/* ---- the answer ---- */

typedef struct whole {
    mg_plan *plan;
    uint32_t out;
    mg_quantize_variant variant;
} whole;

static mg_status open_whole(void *ctx, uint32_t i, mg_model **m, mg_error *err) {
    whole *w = ctx;
    (void)i;
    mg_status st = mg_quantize_variant_of_plan(&w->variant, w->plan, w->out, err);
    if (st != MG_OK) mg_quantize_variant_close(&w->variant);
    *m = w->variant.model;
    return st;
}

static void close_whole(void *ctx, uint32_t i, mg_model *m) {
    whole *w = ctx;
    (void)i;
    (void)m;
    mg_quantize_variant_close(&w->variant);
}

mg_status mg_tool_solve_check(const mg_tool_solve_options *opt, mg_plan *p, uint32_t out, double *kl, mg_error *err) {
    solve s = {.opt = opt};
    whole w = {.plan = p, .out = out};
    mg_probe probe = {.from = -1};
    const mg_probe_options po = {.memory = opt->common->memory, .open = open_whole, .close = close_whole, .ctx = &w};
    mg_arena_init(&s.arena, 0);
    mg_windows_init(&s.windows);
    mg_status st = prepare(&s, err);
    if (st == MG_OK) st = mg_probe_run(s.pass.f, s.reference, &s.windows, &probe, 1, &po, err);
    *kl = probe.kl;
    release(&s);
    return st;
}

mg_status mg_tool_solve_write(const mg_tool_solve_options *opt, const mg_tool_solution *sol, mg_error *err) {
    char path[4096];
    MG_TRY(recipe_path(opt, path, sizeof path, err));
    return mg_outfile_write_all(path, sol->recipe, strlen(sol->recipe), true, err);
}
