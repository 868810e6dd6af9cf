/* tool_donors.c - see tool_donors.h. */
#include "convert/tool_donors.h"

#include "convert/compare_donors.h"
#include "verify/licence.h"
#include "verify/score.h"
#include "verify/tool_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct run {
    const mg_common *c;
    mg_donor *d;
    uint32_t n;
    mg_tool_pass pass;
} run;

/* ---- distances ---- */

static void print_drift(const run *r, const mg_donor_drift *drift, const double *cosine) {
    printf("distance from %s, relative to its weights\n%-28s %10s %10s %10s   cosines between changes of feed-forward "
           "blocks\n",
           r->d[0].name, "donor", "ffn", "attention", "other");
    for (uint32_t i = 1; i < r->n; i++) {
        printf("%-28s %10.4f %10.4f %10.4f  ", r->d[i].name, drift[i].ffn, drift[i].attention, drift[i].other);
        for (uint32_t j = 1; j < r->n; j++) printf(" %6.3f", cosine[i * r->n + j]);
        putchar('\n');
    }
}

static void report_drift(const run *r, const mg_donor_drift *drift, const double *cosine, mg_json *report) {
    mg_json *donors = mg_json_new_array();
    for (uint32_t i = 1; i < r->n; i++) {
        mg_json *o = mg_json_new_object(), *row = mg_json_new_array();
        mg_json_set_str(o, "path", r->d[i].name);
        mg_json_set_f64(o, "ffn", drift[i].ffn);
        mg_json_set_f64(o, "attention", drift[i].attention);
        mg_json_set_f64(o, "other", drift[i].other);
        for (uint32_t j = 1; j < r->n; j++) mg_json_push(row, mg_json_new_f64(cosine[i * r->n + j]));
        mg_json_set(o, "ffn_cosines", row);
        mg_json_push(donors, o);
    }
    mg_json_set(report, "donors", donors);
}

static mg_status compare(const run *r, mg_json *report, mg_error *err) {
    mg_donor_drift *drift = calloc(r->n, sizeof *drift);
    double *cosine = calloc((size_t)r->n * r->n, sizeof *cosine);
    mg_status st = drift && cosine ? mg_donors_drift(r->d, r->n, drift, cosine, err)
                                   : mg_fail_nomem(err, (uint64_t)r->n * r->n * sizeof *cosine);
    if (st == MG_OK) report_drift(r, drift, cosine, report);
    if (st == MG_OK && !r->c->json) print_drift(r, drift, cosine);
    free(drift);
    free(cosine);
    return st;
}

/* ---- licences ---- */

/* What each states, and whether those that state one agree; a card needs --license where they do not. */
static mg_status licences(const run *r, mg_json *report, mg_error *err) {
    mg_json *list = mg_json_new_array();
    mg_licence *all = calloc(r->n, sizeof *all);
    const mg_licence *first = NULL;
    bool agree = true;
    mg_status st = all ? MG_OK : mg_fail_nomem(err, r->n * sizeof *all);
    for (uint32_t i = 0; st == MG_OK && i < r->n; i++) {
        st = mg_licence_of(&all[i], r->d[i].ckpt, err);
        if (st != MG_OK || !all[i].id[0]) continue;
        if (!first) first = &all[i];
        agree = agree && mg_licence_same(first, &all[i]);
    }
    for (uint32_t i = 0; st == MG_OK && i < r->n; i++) {
        const char *id = all[i].id[0] ? all[i].id : NULL;
        mg_json *o = mg_json_new_object();
        mg_json_set_str(o, "path", r->d[i].name);
        mg_json_set(o, "license", id ? mg_json_new_str(id) : mg_json_new_null());
        mg_json_push(list, o);
        if (!r->c->json)
            printf("%s%-28s %s%s%s\n", i ? "" : "\nlicences\n", r->d[i].name, id ? id : "not stated",
                   all[i].name[0] ? ", " : "", all[i].name);
    }
    if (st == MG_OK && !agree && !r->c->json) puts("they differ: a card of the merge needs --license");
    mg_json_set(report, "licenses", list);
    mg_json_set_bool(report, "licenses_agree", agree);
    free(all);
    return st;
}

/* ---- the ceiling ---- */

static mg_status on_rows(void *ctx, const mg_score_rows *rows, mg_error *err) {
    double *nll = ctx;
    (void)err;
    for (uint32_t i = 0; i < rows->n; i++) {
        const float *x = rows->logits + (uint64_t)i * rows->vocab;
        mg_lse l = mg_row_lse(x, rows->vocab);
        *nll += mg_row_nll(&l, x, (uint64_t)rows->targets[i]);
    }
    return MG_OK;
}

static mg_status loss_of(const run *r, mg_model *m, const mg_windows *w, double *loss, mg_error *err) {
    const mg_score_options opt = {.memory = r->c->memory};
    double sum = 0;
    MG_TRY(mg_score_run(r->pass.f, m, w, &opt, on_rows, &sum, err));
    *loss = sum / (double)w->scored;
    return MG_OK;
}

static mg_status forced_loss(const run *r, uint32_t i, const mg_windows *w, double *loss, mg_error *err) {
    mg_plan *p = NULL;
    mg_checkpoint *ckpt = NULL;
    mg_model *m = NULL;
    mg_status st = mg_plan_new(&p, err);
    if (st == MG_OK) st = mg_donor_forced(p, &r->d[0], &r->d[i], &ckpt, err);
    if (st == MG_OK) st = mg_model_open(&m, ckpt, err);
    if (st == MG_OK) st = loss_of(r, m, w, loss, err);
    mg_model_free(m);
    mg_checkpoint_free(ckpt);
    mg_plan_free(p);
    return st;
}

/* The text of donor i, cut as the base's tokenizer cuts it. */
static mg_status windows_of(const run *r, uint32_t i, mg_windows *w, mg_error *err) {
    mg_common one = *r->c;
    const mg_opt_list *all = r->c->text.n ? &r->c->text : &r->c->tokens;
    mg_opt_list single = *all;
    single.items = all->items + (i - 1);
    single.n = 1;
    one.text = r->c->text.n ? single : (mg_opt_list){0};
    one.tokens = r->c->text.n ? (mg_opt_list){0} : single;
    mg_tool_model t = {.ckpt = r->d[0].ckpt, .m = r->d[0].model};
    MG_TRY(mg_tool_model_windows(w, &t, &one, err));
    return w->scored ? MG_OK : mg_fail(err, MG_ERR_USAGE, "no position of '%s' can be scored", single.items[0]);
}

static mg_status measure_one(const run *r, uint32_t i, double loss[3], mg_error *err) {
    mg_windows w;
    mg_windows_init(&w);
    mg_status st = windows_of(r, i, &w, err);
    if (st == MG_OK) st = loss_of(r, r->d[0].model, &w, &loss[0], err);
    if (st == MG_OK) st = loss_of(r, r->d[i].model, &w, &loss[1], err);
    if (st == MG_OK) st = forced_loss(r, i, &w, &loss[2], err);
    mg_windows_release(&w);
    return st;
}

/* Perplexity of the base, of each donor on its own text, and of the base with that donor's feed-forward blocks; their
 * mean is what a mixture with the base's trunk cannot pass by routing alone. */
static mg_status ceiling(const run *r, mg_json *report, mg_error *err) {
    static const char *const names[3] = {"base", "donor", "forced"};
    mg_json *texts = mg_json_new_array();
    double mean[3] = {0};
    mg_status st = MG_OK;
    if (!r->c->json) printf("\n%-28s %10s %10s %14s\n", "perplexity on its own text", "base", "donor", "forced expert");
    for (uint32_t i = 1; st == MG_OK && i < r->n; i++) {
        double loss[3];
        st = measure_one(r, i, loss, err);
        if (st != MG_OK) break;
        mg_json *o = mg_json_new_object();
        mg_json_set_str(o, "path", r->d[i].name);
        for (int k = 0; k < 3; k++) {
            mean[k] += loss[k] / (r->n - 1);
            mg_json_set_f64(o, names[k], exp(loss[k]));
        }
        mg_json_push(texts, o);
        if (!r->c->json) printf("%-28s %10.3f %10.3f %14.3f\n", r->d[i].name, exp(loss[0]), exp(loss[1]), exp(loss[2]));
    }
    mg_json_set(report, "texts", texts);
    for (int k = 0; k < 3 && st == MG_OK; k++) mg_json_set_f64(report, k == 2 ? "ceiling" : names[k], exp(mean[k]));
    if (st == MG_OK && !r->c->json)
        printf("%-28s %10.3f %10.3f %14.3f   the ceiling of routing on the base's trunk\n", "exp of the mean loss",
               exp(mean[0]), exp(mean[1]), exp(mean[2]));
    return st;
}

/* ---- */

static mg_status work(run *r, const mg_opt_list *paths, mg_json *report, mg_error *err) {
    const mg_common *c = r->c;
    size_t texts = c->text.n + c->tokens.n;
    if (paths->n < 2) return mg_fail(err, MG_ERR_USAGE, "--merge compares a base with donors: expected BASE DONOR...");
    if (texts && (texts != paths->n - 1 || (c->text.n && c->tokens.n)))
        return mg_fail(err, MG_ERR_USAGE,
                       "--merge takes one --text (or one --tokens) per donor, in their order: %zu for %zu", texts,
                       paths->n - 1);
    r->n = (uint32_t)paths->n;
    if (!(r->d = calloc(r->n, sizeof *r->d))) return mg_fail_nomem(err, r->n * sizeof *r->d);
    for (uint32_t i = 0; i < r->n; i++) r->d[i].name = r->d[i].path = paths->items[i];
    MG_TRY(mg_donors_open(r->d, r->n, err));
    MG_TRY(mg_donors_compare(r->d, r->n, 0, err));
    MG_TRY(compare(r, report, err));
    MG_TRY(licences(r, report, err));
    if (!texts) return MG_OK;
    MG_TRY(mg_tool_pass_new(&r->pass, c, err));
    return ceiling(r, report, err);
}

mg_status mg_tool_donors(const mg_opt_list *paths, const mg_common *c, mg_json *report, mg_error *err) {
    run r = {.c = c};
    mg_status st = work(&r, paths, report, err);
    mg_tool_pass_free(&r.pass);
    if (r.d) mg_donors_close(r.d, r.n);
    free(r.d);
    return st;
}
