/* tool_choices.c - see tool_choices.h. */
#include "verify/tool_choices.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "verify/choices.h"
#include "verify/pareto.h"

typedef struct answered {
    const char *path;
    uint64_t bytes, n_weights;
    mg_choice_result result;
    bool pareto;
} answered;

typedef struct run {
    mg_tool_pass pass;
    mg_questions q;
    answered *models;
    mg_ranked *ranked;
    uint32_t n;
    mg_precision precision;
} run;

/* One model under way. */
typedef struct job {
    mg_choice_row *rows;
    mg_progress *progress;
} job;

static mg_status on_rows(void *ctx, const mg_score_rows *r, mg_error *err) {
    job *j = ctx;
    mg_choice_row *row = &j->rows[r->window];
    (void)err;
    for (uint32_t i = 0; i < r->n; i++) {
        const float *x = r->logits + i * r->vocab;
        const mg_lse lse = mg_row_lse(x, r->vocab);
        const double nll = mg_row_nll(&lse, x, (uint64_t)r->targets[i]);
        const uint32_t token = r->pos + i + 1; /* its place in the sequence */
        if (token >= row->context) row->raw -= nll;
        if (token >= row->shared) row->mean -= nll;
    }
    mg_progress_add(j->progress, r->n, NULL);
    return MG_OK;
}

static mg_status answer(run *r, answered *o, const mg_tool_model *t, const mg_common *c, mg_error *err) {
    const mg_score_options opt = {.memory = c->memory, .precision = r->precision};
    mg_tokenizer *tok = NULL;
    mg_windows w;
    job j = {0};
    mg_windows_init(&w);
    mg_status st = mg_tool_model_tokenizer(&tok, t, err);
    if (st == MG_OK) st = mg_choice_windows(&w, &j.rows, &r->q, tok, err);
    if (st == MG_OK) st = mg_progress_new(&j.progress, c->progress, "choices", w.scored, err);
    mg_progress_unit(j.progress, "tokens");
    if (st == MG_OK) st = mg_score_run(r->pass.f, t->m, &w, &opt, on_rows, &j, err);
    mg_progress_free(j.progress);
    if (st == MG_OK) st = mg_choices_decide(&o->result, &r->q, j.rows, &w, err);
    mg_tool_model_size(t, &o->bytes, &o->n_weights);
    free(j.rows);
    mg_windows_release(&w);
    mg_tokenizer_free(tok);
    return st;
}

static mg_status ask(run *r, const char *path, const mg_common *c, mg_error *err) {
    mg_tool_model t;
    answered *o = &r->models[r->n++];
    o->path = path;
    MG_TRY(mg_tool_model_open(&t, path, err));
    mg_status st = answer(r, o, &t, c, err);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    mg_tool_model_close(&t);
    return st;
}

/* ---- results ---- */

static double accuracy(const run *r, const answered *o, unsigned way) {
    return (double)o->result.right[way] / (double)r->q.n;
}

static double accuracy_error(const run *r, const answered *o, unsigned way) {
    const double p = accuracy(r, o, way), n = (double)r->q.n;
    return n > 1 ? sqrt(p * (1 - p) / (n - 1)) : 0;
}

static void rank(run *r) {
    for (uint32_t i = 0; i < r->n; i++)
        r->ranked[i] =
            (mg_ranked){.bytes = r->models[i].bytes, .figure = -accuracy(r, &r->models[i], MG_CHOICE_NORM), .index = i};
    mg_rank(r->ranked, r->n);
    for (uint32_t i = 0; i < r->n; i++) r->models[r->ranked[i].index].pareto = r->ranked[i].pareto;
}

static mg_json *changed_json(const run *r, const answered *o, unsigned way) {
    mg_json *list = mg_json_new_array();
    const uint8_t *was = r->models[0].result.chosen[way], *is = o->result.chosen[way];
    for (uint64_t i = 0; i < r->q.n; i++) {
        if (was[i] == is[i]) continue;
        mg_json *v = mg_json_new_object();
        mg_json_set_u64(v, "question", i);
        mg_json_set_u64(v, "answer", r->q.items[i].answer);
        mg_json_set_u64(v, "first", was[i]);
        mg_json_set_u64(v, "this", is[i]);
        mg_json_push(list, v);
    }
    return list;
}

static mg_json *flips_json(const run *r, const answered *o, unsigned way) {
    const mg_flips f = mg_choice_flips(&r->q, &r->models[0].result, &o->result, (mg_choice_way)way);
    mg_json *v = mg_json_new_object();
    mg_json_set_u64(v, "changed", f.changed);
    mg_json_set_u64(v, "lost", f.lost);
    mg_json_set_u64(v, "gained", f.gained);
    mg_json_set_f64(v, "difference", f.difference);
    mg_json_set_f64(v, "stderr", f.stderr_);
    mg_json_set_f64(v, "mcnemar_p", f.mcnemar_p);
    mg_json_set(v, "questions", changed_json(r, o, way));
    return v;
}

static mg_json *model_json(const run *r, const answered *o) {
    mg_json *v = mg_json_new_object(), *c = mg_json_new_object(), *flips = mg_json_new_object();
    mg_json_set_str(v, "path", o->path);
    mg_json_set_u64(v, "bytes", o->bytes);
    mg_json_set_f64(v, "bpw", o->n_weights ? 8 * (double)o->bytes / (double)o->n_weights : 0);
    mg_json_set_bool(v, "pareto", o->pareto);
    mg_json_set_u64(c, "questions", r->q.n);
    for (unsigned way = 0; way < MG_CHOICE_WAYS; way++) {
        char key[32];
        mg_json_set_f64(c, mg_choice_way_name((mg_choice_way)way), accuracy(r, o, way));
        snprintf(key, sizeof key, "%s_stderr", mg_choice_way_name((mg_choice_way)way));
        mg_json_set_f64(c, key, accuracy_error(r, o, way));
        if (o != r->models) mg_json_set(flips, mg_choice_way_name((mg_choice_way)way), flips_json(r, o, way));
    }
    if (o != r->models) mg_json_set_str(flips, "against", r->models[0].path);
    mg_json_set(v, "choices", c);
    mg_json_set(v, "flips", o == r->models ? mg_json_new_null() : flips);
    if (o == r->models) mg_json_free(flips);
    return v;
}

static mg_status print_json(const run *r, mg_error *err) {
    mg_json *root = mg_json_new_object(), *list = mg_json_new_array();
    mg_json_set_i64(root, "schema", 1);
    for (uint32_t i = 0; i < r->n; i++) mg_json_push(list, model_json(r, &r->models[i]));
    mg_json_set(root, "results", list);
    mg_status st = mg_tool_print_json(root, err);
    mg_json_free(root);
    return st;
}

static void print_text(const run *r) {
    for (uint32_t i = 0; i < r->n; i++) {
        const answered *o = &r->models[i];
        printf("%s: %llu questions\n", o->path, (unsigned long long)r->q.n);
        for (unsigned way = 0; way < MG_CHOICE_WAYS; way++) {
            printf("  %-9s  %.3f +/- %.3f %%", mg_choice_way_name((mg_choice_way)way), 100 * accuracy(r, o, way),
                   100 * accuracy_error(r, o, way));
            const mg_flips f = mg_choice_flips(&r->q, &r->models[0].result, &o->result, (mg_choice_way)way);
            if (i > 0)
                printf(", difference %.3f +/- %.3f %%: %llu other answers, %llu lost, %llu gained (p = %.3g)",
                       100 * f.difference, 100 * f.stderr_, (unsigned long long)f.changed, (unsigned long long)f.lost,
                       (unsigned long long)f.gained, f.mcnemar_p);
            putchar('\n');
        }
    }
    if (r->n < 2) return;
    printf("\n  %12s %7s %10s  (* no other is both smaller and better)\n", "bytes", "bits", "acc_norm");
    for (uint32_t i = 0; i < r->n; i++) {
        const answered *o = &r->models[r->ranked[i].index];
        printf("%c %12llu %7.3f %8.3f %%  %s\n", o->pareto ? '*' : ' ', (unsigned long long)o->bytes,
               o->n_weights ? 8 * (double)o->bytes / (double)o->n_weights : 0, 100 * accuracy(r, o, MG_CHOICE_NORM),
               o->path);
    }
}

static mg_status work(run *r, const char *file, const mg_opt_list *paths, const mg_common *c, mg_error *err) {
    MG_TRY(mg_questions_load(&r->q, file, err));
    MG_TRY(mg_tool_pass_new(&r->pass, c, err));
    r->models = calloc(paths->n, sizeof *r->models);
    r->ranked = calloc(paths->n, sizeof *r->ranked);
    if (!r->models || !r->ranked) return mg_fail_nomem(err, paths->n * sizeof *r->models);
    for (size_t i = 0; i < paths->n; i++) MG_TRY(ask(r, paths->items[i], c, err));
    rank(r);
    if (c->json) return print_json(r, err);
    print_text(r);
    return MG_OK;
}

mg_status mg_tool_choices_run(const char *file, const mg_opt_list *paths, const mg_common *c, mg_precision precision,
                              mg_error *err) {
    run r = {.precision = precision};
    mg_status st = work(&r, file, paths, c, err);
    for (uint32_t i = 0; i < r.n; i++) mg_choice_result_release(&r.models[i].result);
    free(r.models);
    free(r.ranked);
    mg_questions_release(&r.q);
    mg_tool_pass_free(&r.pass);
    return st;
}
