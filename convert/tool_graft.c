/* tool_graft.c - moegraft-graft: an existing mixture edited. Experts are dropped by number or by how little they do,
 * dense donors added, routers fitted anew, or the number of experts per token changed; all other bytes stay. */
#include "convert/gates.h"
#include "convert/graft.h"
#include "convert/tool_runs.h"
#include "formats/arch/arch.h"
#include "formats/arch/arch_file.h"
#include "formats/base/file.h"
#include "quant/group_checkpoint.h"
#include "quant/read_f32.h"
#include "verify/builtin_text.h"
#include "verify/tool_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const mg_tool_info mg_tool_graft_info = {
    .name = "graft",
    .summary = "add, drop or re-gate experts of an existing mixture",
    .synopsis = "IN OUT [--drop N,M | --drop auto:P% --text F] [--add DONOR[:PROMPTS]... [--regate CONFIG]] "
                "[--experts-per-token K]",
    .examples =
        "  moegraft-graft moe4 moe3 --drop 2                        a directory without its third expert\n"
        "  moegraft-graft moe4-Q4_K_M.gguf new.gguf --regate moe.yml    new routers, all other blocks as they are\n"
        "  moegraft-graft moe8 moe6 --drop auto:25% --text notes.txt    those that do least for this text\n"
        "  moegraft-graft moe4 moe5 --add donor:its.txt     a fifth expert, its router row fitted to its prompts\n"
        "  moegraft-graft moe4-AWQ moe3-AWQ --drop 2        codes as they are (GPTQ, compressed-tensors, MLX ... "
        "too)\n",
    .next = "moegraft graft --help",
};

typedef struct args {
    mg_common c;
    mg_opt_list words, add;
    const char *drop, *regate, *gate;
    uint64_t seed;
    bool manifest, done;
    mg_record *record;
    const mg_tool_sink *sink;
} args;

typedef struct run {
    const args *a;
    mg_tool_model t;
    mg_tool_pass pass;
    mg_graft g;
    uint32_t layers, experts;
    mg_merge_spec *spec;
    mg_merge_spec added; /* prompts of what the new routers leave alone, then of each added expert */
    char **donor_paths;  /* [n_add] without their prompts */
    mg_plan *plan;
    uint32_t out;
    mg_checkpoint *ckpt;
    mg_model *result;
} run;

static mg_status parse(args *a, int argc, char **argv, mg_error *err) {
    const mg_opt opts[] = {
        {NULL, MG_OPT_GROUP, NULL, NULL, "Experts"},
        {"--drop", MG_OPT_STR, &a->drop, "N,M|auto:P%",
         "experts to leave out, counted from 0; auto: in every layer the P percent whose weighted output on --text is "
         "smallest"},
        {"--add", MG_OPT_LIST, &a->add, "DONOR[:PROMPTS]",
         "a dense model appended as an expert, in the type of the others (rounded to nearest unless it is stored in "
         "it); repeatable. PROMPTS, a file of one text per line or a JSON list: its "
         "router row is fitted to them against --text (or a page of our own), the other rows stay; without: --regate"},
        {"--regate", MG_OPT_STR, &a->regate, "CONFIG",
         "fit all routers anew to the prompts of a merge recipe, one list per expert of the result"},
        {"--gate", MG_OPT_STR, &a->gate, "MODE",
         "with --regate: fit (default), random, uniform_random, orthogonal, or a safetensors file"},
        {"--random-seed", MG_OPT_U64, &a->seed, "N", "seed of random routers (default 0)"},
        MG_COMMON_TEXT_OPTS(a->c),
        MG_COMMON_MODEL_OPTS(a->c),
        {"--manifest", MG_OPT_FLAG, &a->manifest, NULL, "write model.manifest.json: inputs, recipes and hashes"},
        MG_COMMON_WRITE_OPTS(a->c),
        MG_ARCH_OPT,
        MG_COMMON_JSON_OPT(a->c),
        MG_COMMON_EXEC_OPTS(a->c),
        MG_COMMON_RANK_OPTS(a->c),
        MG_COMMON_VERIFY_OPT(a->c),
        {0},
    };
    MG_TRY(mg_options_parse(&mg_tool_graft_info, opts, argc, argv, &a->words, &a->done, err));
    if (a->done) return MG_OK;
    MG_TRY(mg_common_finish(&a->c, err));
    if (!a->sink) MG_TRY(mg_common_ranks(&a->c, &mg_tool_graft_info, err));
    if (a->words.n != 2) return mg_fail(err, MG_ERR_USAGE, "expected IN OUT");
    if (!a->drop && !a->add.n && !a->regate && !a->c.experts_per_token)
        return mg_fail(err, MG_ERR_USAGE, "nothing to do: --drop, --add, --regate or --experts-per-token");
    if (a->gate && !a->regate) return mg_fail(err, MG_ERR_USAGE, "--gate needs --regate");
    return mg_record_options(a->record, opts, err);
}

/* ---- which experts stay ---- */

/* The same experts in all layers. */
static mg_status drop_listed(run *r, const char *text, mg_error *err) {
    bool *gone = calloc(r->experts, sizeof *gone);
    if (!gone) return mg_fail_nomem(err, r->experts);
    mg_status st = MG_OK;
    for (const char *at = text; st == MG_OK && at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        char number[24];
        uint64_t n = 0;
        snprintf(number, sizeof number, "%.*s", (int)strcspn(at, ","), at);
        st = mg_parse_u64(number, &n, err);
        if (st == MG_OK && n >= r->experts)
            st = mg_fail(err, MG_ERR_USAGE, "--drop %s: the model has experts 0 to %u", text, r->experts - 1);
        if (st == MG_OK) gone[n] = true;
    }
    r->g.n_keep = 0;
    for (uint32_t e = 0; e < r->experts; e++)
        if (!gone[e]) r->g.keep[r->g.n_keep++] = e;
    for (uint32_t l = 1; l < r->layers; l++)
        memcpy(r->g.keep + l * r->g.n_keep, r->g.keep, r->g.n_keep * sizeof *r->g.keep);
    free(gone);
    return st;
}

/* What an expert does in a layer: the mean, over the tokens that chose it, of weight times length of its output. */
typedef struct saliency {
    double *sum; /* [layers][experts] */
    uint64_t *tokens;
    uint32_t experts;
} saliency;

static mg_status on_tap(void *ctx, const mg_tap *tap, mg_error *err) {
    saliency *s = ctx;
    (void)err;
    if (tap->point != MG_TAP_EXPERT_OUT) return MG_OK;
    uint64_t at = (uint64_t)tap->layer * s->experts + tap->expert;
    for (uint64_t i = 0; i < tap->rows; i++) {
        double square = 0;
        for (uint64_t k = 0; k < tap->cols; k++)
            square += (double)tap->data[i * tap->cols + k] * (double)tap->data[i * tap->cols + k];
        s->sum[at] += (double)tap->weight[i] * sqrt(square);
    }
    s->tokens[at] += tap->rows;
    return MG_OK;
}

static mg_status measure(run *r, saliency *s, mg_error *err) {
    mg_windows w;
    mg_windows_init(&w);
    mg_status st = mg_tool_model_windows(&w, &r->t, &r->a->c, err);
    for (uint64_t i = 0; st == MG_OK && i < w.n; i++) {
        mg_batch b = {1, &w.items[i].len, w.items[i].len};
        uint64_t bytes = b.n_tokens * (uint64_t)mg_hp_i(r->t.m, MG_K_HIDDEN) * sizeof(float);
        float *x = malloc((size_t)bytes);
        st = x ? mg_forward_run(r->pass.f, r->t.m, NULL, &b, w.ids + w.items[i].at, x, on_tap, s, err)
               : mg_fail_nomem(err, bytes);
        free(x);
    }
    mg_windows_release(&w);
    return st;
}

static double value_of(const saliency *s, uint64_t at) {
    return s->tokens[at] ? s->sum[at] / (double)s->tokens[at] : 0;
}

/* The n experts of a layer that do most, in ascending order; of equal ones the first. */
static void keep_best(const saliency *s, uint32_t layer, uint32_t n, uint32_t *keep) {
    uint32_t kept = 0;
    for (uint32_t e = 0; e < s->experts; e++) {
        uint32_t better = 0;
        double v = value_of(s, (uint64_t)layer * s->experts + e);
        for (uint32_t o = 0; o < s->experts; o++) {
            double u = value_of(s, (uint64_t)layer * s->experts + o);
            better += u > v || (u == v && o < e);
        }
        if (better < n) keep[kept++] = e;
    }
}

static void say_dropped(const run *r, const saliency *s) {
    for (uint32_t l = 0; l < r->layers && !r->a->c.quiet; l++) {
        if (!mg_model_has(r->t.m, MG_R_ROUTER, l, 0)) continue;
        fprintf(stderr, "moegraft-graft: layer %u drops", l);
        for (uint32_t e = 0, k = 0; e < r->experts; e++) {
            if (k < r->g.n_keep && r->g.keep[l * r->g.n_keep + k] == e)
                k++;
            else
                fprintf(stderr, " %u (%llu tokens, saliency %.3g)", e,
                        (unsigned long long)s->tokens[l * r->experts + e], value_of(s, (uint64_t)l * r->experts + e));
        }
        fputc('\n', stderr);
    }
}

static mg_status drop_least(run *r, const char *percent, mg_error *err) {
    char *end;
    double p = strtod(percent, &end);
    if (end == percent || strcmp(end, "%") != 0 || !(p >= 0 && p < 100))
        return mg_fail(err, MG_ERR_USAGE, "--drop auto:%s: expected a percentage below 100, as in auto:25%%", percent);
    if (!r->a->c.text.n && !r->a->c.tokens.n) return mg_fail(err, MG_ERR_USAGE, "--drop auto needs --text or --tokens");
    uint32_t gone = (uint32_t)(p / 100 * r->experts + 0.5);
    uint64_t n = (uint64_t)r->layers * r->experts;
    saliency s = {calloc(n, sizeof *s.sum), calloc(n, sizeof *s.tokens), r->experts};
    mg_status st = s.sum && s.tokens ? measure(r, &s, err) : mg_fail_nomem(err, n * sizeof *s.sum);
    if (st == MG_OK) {
        r->g.n_keep = r->experts - gone;
        for (uint32_t l = 0; l < r->layers; l++) keep_best(&s, l, r->g.n_keep, r->g.keep + l * r->g.n_keep);
        say_dropped(r, &s);
    }
    free(s.sum);
    free(s.tokens);
    return st;
}

static mg_status choose(run *r, mg_error *err) {
    const char *drop = r->a->drop;
    r->g.keep = malloc((size_t)r->layers * r->experts * sizeof *r->g.keep);
    if (!r->g.keep) return mg_fail_nomem(err, (uint64_t)r->layers * r->experts * sizeof *r->g.keep);
    for (uint64_t i = 0; i < (uint64_t)r->layers * r->experts; i++) r->g.keep[i] = (uint32_t)(i % r->experts);
    r->g.n_keep = r->experts;
    if (!drop) return MG_OK;
    if (strncmp(drop, "auto:", 5) == 0) return drop_least(r, drop + 5, err);
    MG_TRY(drop_listed(r, drop, err));
    return r->g.n_keep ? MG_OK : mg_fail(err, MG_ERR_CONFLICT, "--drop %s leaves no expert", drop);
}

/* ---- routers ---- */

static mg_status supply(void *ctx, uint32_t layer, const float *rows, mg_error *err) {
    run *r = ctx;
    return r->g.routers[layer] ? mg_expr_supply(r->plan, r->g.routers[layer], rows, err) : MG_OK;
}

static mg_status open_spec(run *r, mg_error *err) {
    MG_TRY(mg_merge_spec_load_prompts(&r->spec, r->a->regate, err));
    if (r->a->gate) MG_TRY(mg_merge_spec_set_gate(r->spec, r->a->gate, err));
    uint32_t want = r->g.n_keep + r->g.n_add;
    if (r->spec->n_experts != want)
        return mg_fail(err, MG_ERR_CONFLICT, "'%s' has prompts for %u experts, the result has %u", r->a->regate,
                       r->spec->n_experts, want);
    mg_gate_mode m = r->spec->gate_mode;
    if (m == MG_GATE_HIDDEN || m == MG_GATE_HIDDEN_AVG || m == MG_GATE_CHEAP_EMBED || m == MG_GATE_SVD ||
        m == MG_GATE_KEEP)
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "gate mode '%s' looks at the models merged, which are not here: use fit", mg_gate_mode_name(m));
    return mg_merge_spec_check(r->spec, true, err);
}

static mg_status fit(run *r, const mg_merge_spec *spec, const mg_gate_map *map, mg_error *err) {
    mg_tokenizer *tok = NULL;
    mg_evaluator eval = mg_forward_evaluator(r->pass.f);
    mg_fit_report *reports = calloc(r->layers, sizeof *reports);
    mg_status st =
        reports ? mg_tool_model_tokenizer(&tok, &r->t, err) : mg_fail_nomem(err, r->layers * sizeof *reports);
    if (st == MG_OK) st = mg_gates_fit(spec, map, r->result, tok, &eval, r->pass.pool, supply, r, reports, err);
    for (uint32_t l = 0; st == MG_OK && l < r->layers && !r->a->c.quiet; l++)
        if (reports[l].tokens)
            fprintf(stderr, "moegraft-graft: layer %u: %.1f %% of %llu prompt tokens find their expert\n", l,
                    100 * reports[l].accuracy, (unsigned long long)reports[l].tokens);
    mg_tokenizer_free(tok);
    free(reports);
    return st;
}

/* Rows of the experts that stay. */
static mg_status stored_rows(void *ctx, uint32_t layer, float *rows, mg_error *err) {
    run *r = ctx;
    const mg_bound *b = mg_model_find(r->t.m, MG_R_ROUTER, layer, 0);
    if (!b) return mg_fail(err, MG_ERR_FORMAT, "layer %u has no router", layer);
    for (uint32_t i = 0; i < r->g.n_keep; i++)
        MG_TRY(mg_read_f32(r->t.m, b, r->g.keep[layer * r->g.n_keep + i], 1, rows + i * b->shape[1], err));
    return MG_OK;
}

static mg_status fit_added(run *r, mg_error *err) {
    mg_gate_fixed fixed = {
        .n = r->g.n_keep, .alone = r->t.m->arch->block.router == MG_ROUTER_SIGMOID, .rows = stored_rows, .ctx = r};
    mg_gate_map map = {.rows = r->added.n_experts, .fixed = &fixed};
    return fit(r, &r->added, &map, err);
}

/* The result as a model; its weights may be in groups, which must still be what config.json says of them. */
static mg_status open_result(run *r, mg_error *err) {
    MG_TRY(mg_plan_checkpoint(r->plan, r->out, &r->ckpt, err));
    r->ckpt->dir = r->t.ckpt->dir;
    if (mg_group_checkpoint_is_view(r->t.ckpt)) MG_TRY(mg_group_checkpoint_wrap(&r->ckpt, r->ckpt, err));
    return mg_model_open(&r->result, r->ckpt, err);
}

static mg_status regate(run *r, mg_error *err) {
    if (r->added.n_experts) return fit_added(r, err);
    if (r->spec->gate_mode == MG_GATE_FIT) return fit(r, r->spec, NULL, err);
    uint64_t n = (uint64_t)r->spec->n_experts * (uint64_t)mg_hp_i(r->t.m, MG_K_HIDDEN);
    float *rows = calloc(r->layers * n, sizeof *rows);
    if (!rows) return mg_fail_nomem(err, r->layers * n * sizeof *rows);
    mg_status st = r->spec->gate_mode == MG_GATE_FILE
                       ? mg_gates_from_file(r->spec->gate_file, r->result, MG_R_ROUTER, r->spec->n_experts, rows, err)
                       : mg_gates_random(r->spec->gate_mode, r->a->seed, r->layers, r->spec->n_experts,
                                         (uint64_t)mg_hp_i(r->t.m, MG_K_HIDDEN), rows, err);
    for (uint32_t l = 0; st == MG_OK && l < r->layers; l++) st = supply(r, l, rows + l * n, err);
    free(rows);
    return st;
}

/* ---- the run ---- */

static mg_status open_donors(run *r, mg_error *err) {
    r->g.n_add = (uint32_t)r->a->add.n;
    if (!r->g.n_add) return MG_OK;
    r->g.donors = calloc(r->g.n_add, sizeof *r->g.donors);
    r->donor_paths = calloc(r->g.n_add, sizeof *r->donor_paths);
    if (!r->g.donors || !r->donor_paths) return mg_fail_nomem(err, r->g.n_add * sizeof *r->g.donors);
    for (uint32_t i = 0; i < r->g.n_add; i++) {
        const char *word = r->a->add.items[i], *prompts = mg_record_prompts_of(word);
        size_t n = prompts ? (size_t)(prompts - word) - 1 : strlen(word);
        if (!(r->donor_paths[i] = strndup(word, n))) return mg_fail_nomem(err, n);
        r->g.donors[i].name = r->g.donors[i].path = r->donor_paths[i];
    }
    return mg_donors_open(r->g.donors, r->g.n_add, err);
}

/* What tokens new rows must leave alone: those of --text, or of a page of prose, code, arithmetic and JSON. */
static mg_status add_others(run *r, mg_error *err) {
    mg_merge_expert *others = &r->added.experts[0];
    *others = (mg_merge_expert){.source = "the other texts"};
    for (size_t i = 0; i < r->a->c.text.n; i++)
        MG_TRY(mg_prompts_load(&others->positive, &r->added.arena, r->a->c.text.items[i], err));
    if (others->positive.n) return MG_OK;
    return mg_prompts_add_lines(&others->positive, &r->added.arena, mg_builtin_text, mg_builtin_text_size, err);
}

static mg_status open_prompts(run *r, mg_error *err) {
    uint32_t with = 0;
    for (uint32_t i = 0; i < r->g.n_add; i++) with += mg_record_prompts_of(r->a->add.items[i]) != NULL;
    if (!with) return MG_OK;
    if (with < r->g.n_add || r->a->regate)
        return mg_fail(err, MG_ERR_USAGE, "%s",
                       r->a->regate ? "--regate fits all rows: --add needs no prompts beside it"
                                    : "either every --add names its prompts or none");
    mg_arena_init(&r->added.arena, 256u << 20);
    MG_TRY(MG_ARENA_NEW(&r->added.arena, &r->added.experts, with + 1, err));
    MG_TRY(add_others(r, err));
    for (uint32_t i = 0; i < with; i++) {
        mg_merge_expert *x = &r->added.experts[i + 1];
        *x = (mg_merge_expert){.source = r->donor_paths[i]};
        MG_TRY(mg_prompts_load(&x->positive, &r->added.arena, mg_record_prompts_of(r->a->add.items[i]), err));
    }
    r->added.n_experts = with + 1;
    return MG_OK;
}

static mg_status make_plan(run *r, mg_error *err) {
    r->g.m = r->t.m;
    r->g.regate = r->a->regate || r->added.n_experts;
    r->g.used = r->a->c.experts_per_token == MG_EXPERTS_ALL ? r->g.n_keep + r->g.n_add : r->a->c.experts_per_token;
    r->g.routers = calloc(r->layers, sizeof *r->g.routers);
    if (!r->g.routers) return mg_fail_nomem(err, r->layers * sizeof *r->g.routers);
    MG_TRY(mg_plan_new(&r->plan, err));
    MG_TRY(mg_graft_plan(r->plan, &r->g, r->a->words.items[1], &r->out, err));
    if (r->g.n_add && !r->a->c.quiet)
        fprintf(stderr,
                "moegraft-graft: of the matrices added %u are copied as they are stored, %u rounded to nearest\n",
                r->g.n_copied, r->g.n_rounded);
    if (r->g.regate || mg_group_checkpoint_is_view(r->t.ckpt)) MG_TRY(open_result(r, err));
    return r->g.regate ? regate(r, err) : MG_OK;
}

/* The words, and what took part. */
static mg_status record(const run *r, mg_error *err) {
    const args *a = r->a;
    MG_TRY(mg_record_word(a->record, MG_RECORD_MODEL, r->t.ckpt->path, err));
    MG_TRY(mg_record_word(a->record, MG_RECORD_OUTPUT, a->words.items[1], err));
    if (r->spec && r->spec->gate_file && !a->gate) MG_TRY(mg_record_named(a->record, r->spec->gate_file, err));
    if (a->drop && strncmp(a->drop, "auto:", 5) == 0) MG_TRY(mg_record_stage(a->record, "experts", true, err));
    return r->g.regate ? mg_record_stage(a->record, "routers", false, err) : MG_OK;
}

static mg_status work(run *r, mg_error *err) {
    const args *a = r->a;
    MG_TRY(mg_tool_model_open(&r->t, a->words.items[0], err));
    r->layers = (uint32_t)mg_hp_i(r->t.m, MG_K_LAYERS);
    r->experts = (uint32_t)mg_hp_i(r->t.m, MG_K_EXPERTS);
    if (!r->experts) return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' has no experts", a->words.items[0]);
    MG_TRY(mg_tool_pass_new(&r->pass, &a->c, err));
    MG_TRY(choose(r, err));
    MG_TRY(open_donors(r, err));
    MG_TRY(open_prompts(r, err));
    if (a->regate) MG_TRY(open_spec(r, err));
    MG_TRY(make_plan(r, err));
    mg_exec_options opt = mg_tool_exec_options(&a->c, "graft");
    opt.manifest = a->manifest;
    mg_tool_plan_style style = {.json = a->c.json, .quiet = a->c.quiet};
    MG_TRY(record(r, err));
    return a->c.dry_run ? mg_tool_plan_show(r->plan, &r->out, 1, &opt, style, err)
                        : mg_tool_plan_execute(r->plan, &opt, style, (mg_tool_job){a->record, a->sink}, err);
}

static void release(run *r) {
    mg_model_free(r->result);
    mg_checkpoint_free(r->ckpt);
    mg_plan_free(r->plan);
    mg_merge_spec_free(r->spec);
    if (r->g.donors) mg_donors_close(r->g.donors, r->g.n_add);
    free(r->g.donors);
    for (uint32_t i = 0; r->donor_paths && i < r->g.n_add; i++) free(r->donor_paths[i]);
    free(r->donor_paths);
    mg_arena_release(&r->added.arena);
    free(r->g.keep);
    free(r->g.routers);
    mg_tool_pass_free(&r->pass);
    mg_tool_model_close(&r->t);
}

mg_status mg_tool_graft_run(int argc, char **argv, const mg_tool_sink *sink, mg_error *err) {
    args a = {.sink = sink};
    run r = {.a = &a};
    mg_common_init(&a.c);
    mg_status st = mg_record_new(&a.record, mg_tool_graft_info.name, err);
    if (st == MG_OK) st = parse(&a, argc, argv, err);
    if (st == MG_OK && !a.done) st = work(&r, err);
    release(&r);
    mg_opt_list_release(&a.words);
    mg_opt_list_release(&a.add);
    mg_common_release(&a.c);
    mg_record_free(a.record);
    return st;
}
