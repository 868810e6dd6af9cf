/* tool_perplexity.c - moegraft-perplexity: perplexity as llama-perplexity defines it, and its base files. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "formats/arch/arch_file.h"
#include "formats/base/json.h"
#include "verify/common_vocab.h"
#include "verify/kldbase.h"
#include "verify/klstats.h"
#include "verify/pareto.h"
#include "verify/tool_choices.h"

static const mg_tool_info tool = {
    .name = "perplexity",
    .summary = "perplexity of models on text or token ids, and divergence from a base",
    .synopsis = "PATH... --text FILE [--ctx N]\nPATH... --tokens FILE\nPATH --text FILE --kl-divergence-base BASE\n"
                "PATH... --kl-divergence-base BASE --kl-divergence\nPATH... --choices FILE",
    .examples = "  moegraft-perplexity model/ model-Q4_K_M.gguf --text eval.txt\n"
                "  moegraft-perplexity model/ --text eval.txt --kl-divergence-base base.kld\n"
                "  moegraft-perplexity model-Q4_K_M.gguf --kl-divergence-base base.kld --kl-divergence\n"
                "  moegraft-perplexity model/ model-Q4_K_M.gguf --choices arc.jsonl\n",
    .next = "moegraft perplexity --help",
};

typedef struct args {
    mg_common common;
    mg_opt_list pos;
    const char *base, *choices, *precision_word;
    mg_precision precision;
    bool kl, done;
} args;

static mg_status parse(args *a, int argc, char **argv, mg_error *err) {
    const mg_opt opts[] = {
        MG_COMMON_TEXT_OPTS(a->common),
        {NULL, MG_OPT_GROUP, NULL, NULL, "Base model"},
        {"--kl-divergence-base", MG_OPT_STR, &a->base, "FILE",
         "write the log-probabilities of PATH to FILE; with --kl-divergence, read them from it"},
        {"--kl-divergence", MG_OPT_FLAG, &a->kl, NULL, "compare PATH with the base file (its tokens are used)"},
        {"--precision", MG_OPT_STR, &a->precision_word, "f32|f64|bf16|f16",
         "arithmetic: our f32 rules (default), double, or every operation rounded to 16 bits"},
        {"--force", MG_OPT_FLAG, &a->common.force, NULL, "replace an existing base file (it is refused otherwise)"},
        {NULL, MG_OPT_GROUP, NULL, NULL, "Multiple choice"},
        {"--choices", MG_OPT_STR, &a->choices, "FILE",
         "accuracy on JSON lines {context, choices, answer}, and the answers that differ from the first PATH's"},
        MG_COMMON_MODEL_OPTS(a->common),
        MG_ARCH_OPT,
        MG_COMMON_EXEC_OPTS(a->common),
        MG_COMMON_JSON_OPT(a->common),
        {0}};
    mg_common_init(&a->common);
    MG_TRY(mg_options_parse(&tool, opts, argc, argv, &a->pos, &a->done, err));
    if (a->done) return MG_OK;
    MG_TRY(mg_common_finish(&a->common, err));
    MG_TRY(mg_precision_parse(a->precision_word, &a->precision, err));
    const bool input = a->common.text.n || a->common.tokens.n;
    if (a->pos.n == 0) return mg_fail(err, MG_ERR_USAGE, "no model given");
    if (a->choices && (input || a->base || a->kl))
        return mg_fail(err, MG_ERR_USAGE, "--choices brings its own text: no --text, --tokens or base file");
    if (a->choices) return MG_OK;
    if (a->kl && !a->base) return mg_fail(err, MG_ERR_USAGE, "--kl-divergence needs --kl-divergence-base");
    if (a->kl && input) return mg_fail(err, MG_ERR_USAGE, "the tokens come from the base file: no --text or --tokens");
    if (!a->kl && !input) return mg_fail(err, MG_ERR_USAGE, "--text or --tokens is needed");
    if (a->base && !a->kl && a->pos.n != 1)
        return mg_fail(err, MG_ERR_USAGE, "a base file is written from one model, %zu given", a->pos.n);
    return MG_OK;
}

/* One model under way: what its rows are fed to. */
typedef struct job {
    const mg_windows *w;
    mg_ppl ppl;
    mg_kldbase *base;          /* compared with; NULL */
    uint64_t ids;              /* compared with the base of the vocabulary */
    mg_kldbase_writer *writer; /* written to; NULL */
    mg_kl_stats kl;
    uint64_t row;
    mg_progress *progress;
} job;

static mg_status on_rows(void *ctx, const mg_score_rows *r, mg_error *err) {
    job *j = ctx;
    for (uint32_t i = 0; i < r->n; i++, j->row++) {
        const float *x = r->logits + i * r->vocab;
        const mg_lse lse = mg_row_lse(x, j->base ? j->ids : r->vocab);
        const double nll = mg_row_nll(&lse, x, (uint64_t)r->targets[i]);
        mg_ppl_add(&j->ppl, nll);
        if (j->writer) MG_TRY(mg_kldbase_put(j->writer, x, &lse, err));
        if (!j->base) continue;
        uint64_t top;
        double kept;
        MG_TRY(mg_kldbase_row(j->base, j->row, err));
        MG_TRY(mg_kldbase_kept(&kept, j->base->logp, j->ids, j->base->vocab, err));
        const double kl = mg_kldbase_kl(j->base->logp, j->ids, kept, x, &lse, &top);
        const double nll_base = kept - (double)j->base->logp[r->targets[i]];
        MG_TRY(mg_kl_stats_add(&j->kl, kl, nll, nll_base, top == lse.argmax, err));
    }
    mg_progress_add(j->progress, r->n, NULL);
    return MG_OK;
}

/* What is said of one model. */
typedef struct outcome {
    const char *path;
    double ppl, stderr_, base_ppl;
    uint64_t tokens, bytes, n_weights;
    uint64_t rows, ids; /* of the vocabulary: logits per position, and those that count */
    mg_kl_summary kl;   /* with a base file */
    uint64_t base_rows; /* with one */
    bool pareto;
} outcome;

static void print_spread(const mg_spread *s, double scale, const char *unit) {
    printf("                   min %.6f, 1%% %.6f, 5%% %.6f, 10%% %.6f, 25%% %.6f, median %.6f,\n", scale * s->min,
           scale * s->p01, scale * s->p05, scale * s->p10, scale * s->p25, scale * s->median);
    printf("                   75%% %.6f, 90%% %.6f, 95%% %.6f, 99%% %.6f, 99.9%% %.6f, max %.6f%s\n", scale * s->p75,
           scale * s->p90, scale * s->p95, scale * s->p99, scale * s->p999, scale * s->max, unit);
}

static void print_kl(const outcome *o) {
    const mg_kl_summary *s = &o->kl;
    const double ratio = o->ppl / o->base_ppl;
    if (o->rows != o->base_rows)
        printf("  vocabulary       ids 0 to %llu compared, the base has %llu, this one %llu\n",
               (unsigned long long)o->ids - 1, (unsigned long long)o->base_rows, (unsigned long long)o->rows);
    printf("  against the base perplexity %.6f, ratio %.6f +/- %.6f, difference %.6f +/- %.6f", o->base_ppl, ratio,
           ratio * s->ln_ratio_stderr, s->difference, s->difference_stderr);
    if (!isnan(s->correlation)) printf(", correlation %.2f %%", 100 * s->correlation); /* of a constant there is none */
    putchar('\n');
    printf("  KL divergence    mean %.6f +/- %.6f\n", s->mean, s->stderr_);
    print_spread(&s->kl, 1, "");
    printf("  delta p          mean %.3f +/- %.3f %%, RMS %.3f +/- %.3f %%\n", 100 * s->dp_mean,
           100 * s->dp_mean_stderr, 100 * s->dp_rms, 100 * s->dp_rms_stderr);
    print_spread(&s->dp, 100, " %");
    printf("  same top token   %.3f +/- %.3f %%\n", 100 * s->same_top, 100 * s->same_top_stderr);
}

static mg_json *result_json(const outcome *r, bool with_kl) {
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "path", r->path);
    mg_json_set_f64(o, "ppl", r->ppl);
    mg_json_set_f64(o, "stderr", r->stderr_);
    mg_json_set_u64(o, "tokens", r->tokens);
    mg_json_set_u64(o, "bytes", r->bytes);
    mg_json_set_f64(o, "bpw", r->n_weights ? 8 * (double)r->bytes / (double)r->n_weights : 0);
    mg_json_set_bool(o, "pareto", r->pareto);
    mg_json *v = mg_json_new_object();
    mg_json_set_u64(v, "compared", r->ids);
    mg_json_set_u64(v, "model", r->rows);
    if (with_kl) mg_json_set_u64(v, "base", r->base_rows);
    mg_json_set(o, "vocabulary", v);
    if (!with_kl) return o;
    const mg_kl_summary *s = &r->kl;
    mg_json *k = mg_json_new_object(), *d = mg_json_new_object();
    mg_json_set_f64(o, "base_ppl", r->base_ppl);
    mg_json_set_f64(o, "ratio", r->ppl / r->base_ppl);
    mg_json_set_f64(o, "ratio_stderr", r->ppl / r->base_ppl * s->ln_ratio_stderr);
    mg_json_set_f64(o, "ln_ratio", s->ln_ratio);
    mg_json_set_f64(o, "ln_ratio_stderr", s->ln_ratio_stderr);
    mg_json_set_f64(o, "difference", s->difference);
    mg_json_set_f64(o, "difference_stderr", s->difference_stderr);
    mg_json_set_f64(o, "correlation", s->correlation);
    mg_json_set_f64(k, "mean", s->mean);
    mg_json_set_f64(k, "stderr", s->stderr_);
    mg_spread_json(k, &s->kl);
    mg_json_set(o, "kl", k);
    mg_json_set_f64(o, "top1_agreement", s->same_top);
    mg_json_set_f64(o, "top1_stderr", s->same_top_stderr);
    mg_json_set_f64(d, "mean", s->dp_mean);
    mg_json_set_f64(d, "mean_stderr", s->dp_mean_stderr);
    mg_json_set_f64(d, "rms", s->dp_rms);
    mg_json_set_f64(d, "rms_stderr", s->dp_rms_stderr);
    mg_spread_json(d, &s->dp);
    mg_json_set(o, "delta_p", d);
    return o;
}

/* Smallest first, and which no other one beats in both size and divergence (perplexity without a base). */
static mg_status rank(mg_ranked **ranked, outcome *o, uint32_t n, bool with_kl, mg_error *err) {
    mg_ranked *r = calloc(n, sizeof *r);
    if (!r) return mg_fail_nomem(err, n * sizeof *r);
    for (uint32_t i = 0; i < n; i++)
        r[i] = (mg_ranked){.bytes = o[i].bytes, .figure = with_kl ? o[i].kl.mean : o[i].ppl, .index = i};
    mg_rank(r, n);
    for (uint32_t i = 0; i < n; i++) o[r[i].index].pareto = r[i].pareto;
    *ranked = r;
    return MG_OK;
}

static void print_table(const outcome *all, const mg_ranked *ranked, uint32_t n, bool with_kl) {
    printf("\n  %12s %7s %14s %s %s\n", "bytes", "bits", "perplexity", with_kl ? "      mean KL  same top " : "",
           with_kl ? "(* no other is both smaller and closer)"
                   : "(* no other is both smaller and lower in perplexity)");
    bool differ = false;
    for (uint32_t i = 0; i < n; i++) {
        const outcome *o = &all[ranked[i].index];
        differ = differ || o->rows != all[0].rows;
        printf("%c %12llu %7.3f %14.6f ", o->pareto ? '*' : ' ', (unsigned long long)o->bytes,
               o->n_weights ? 8 * (double)o->bytes / (double)o->n_weights : 0, o->ppl);
        if (with_kl) printf("%13.6f %7.3f %% ", o->kl.mean, 100 * o->kl.same_top);
        printf(" %s\n", o->path);
    }
    for (uint32_t i = 0; differ && !with_kl && i < n; i++)
        printf("%s%llu%s",
               i ? ", " : "  each over its own vocabulary, as llama-perplexity does: ", (unsigned long long)all[i].rows,
               i + 1 < n ? "" : " ids (verify --peer compares what is common)\n");
}

/* The tokens of the base file behind the model's BOS, and the ids over which both are compared. */
static mg_status windows_of_base(mg_windows *w, uint64_t *ids, const mg_tool_model *t, const char *path, const args *a,
                                 const mg_kldbase *base, mg_error *err) {
    mg_tokenizer *tok;
    int64_t bos = mg_hp_i(t->m, MG_K_BOS);
    MG_TRY(mg_tokenizer_open_model(&tok, t->ckpt, err));
    if (tok) bos = mg_tokenizer_adds_bos(tok) ? mg_tokenizer_bos(tok) : -1;
    const mg_vocab_side sides[] = {{.path = a->base, .rows = base->vocab},
                                   {.path = path, .rows = mg_forward_vocab(t->m), .known = mg_vocab_known(tok)}};
    mg_tokenizer_free(tok);
    MG_TRY(mg_windows_add_text(w, base->tokens, base->ctx * base->chunks, base->ctx, bos, err));
    return mg_common_vocab(ids, sides, 2, mg_windows_last_id(w), err);
}

static mg_status run_job(job *j, const mg_tool_model *t, const args *a, const mg_tool_pass *pass, mg_error *err) {
    const mg_score_options opt = {.memory = a->common.memory, .precision = a->precision};
    mg_kldbase_writer writer = {0};
    mg_status st = MG_OK;
    MG_TRY(mg_tool_windows_check(j->w, &tool, &a->common, err));
    if (a->base && !a->kl) {
        st = mg_kldbase_create(&writer, a->base, a->common.force, j->w, mg_forward_vocab(t->m), err);
        j->writer = &writer;
    }
    if (st == MG_OK) st = mg_progress_new(&j->progress, a->common.progress, "perplexity", j->w->scored, err);
    mg_progress_unit(j->progress, "tokens");
    if (st == MG_OK) st = mg_score_run(pass->f, t->m, j->w, &opt, on_rows, j, err);
    mg_progress_free(j->progress);
    if (j->writer && st == MG_OK) st = mg_kldbase_commit(&writer, err);
    if (j->writer) mg_kldbase_close(&writer);
    j->writer = NULL;
    return st;
}

static mg_status run_model(outcome *o, const char *path, const args *a, const mg_tool_pass *pass, mg_kldbase *base,
                           mg_error *err) {
    mg_tool_model t;
    mg_windows w;
    job j = {.w = &w, .base = base};
    mg_windows_init(&w);
    MG_TRY(mg_tool_model_open(&t, path, err));
    mg_status st =
        base ? windows_of_base(&w, &j.ids, &t, path, a, base, err) : mg_tool_model_windows(&w, &t, &a->common, err);
    if (st == MG_OK) {
        st = run_job(&j, &t, a, pass, err);
        if (st != MG_OK) mg_error_at(err, path, NULL);
    }
    *o = (outcome){.path = path, .ppl = mg_ppl_value(&j.ppl), .stderr_ = mg_ppl_stderr(&j.ppl), .tokens = j.ppl.n};
    o->rows = mg_forward_vocab(t.m);
    o->ids = base ? j.ids : o->rows;
    o->base_rows = base ? base->vocab : 0;
    mg_tool_model_size(&t, &o->bytes, &o->n_weights);
    if (base) o->kl = mg_kl_stats_summary(&j.kl);
    o->base_ppl = mg_ppl_value(&j.kl.base);
    if (st == MG_OK && !a->common.json) {
        printf("%s: perplexity %.6f +/- %.6f over %llu tokens\n", path, o->ppl, o->stderr_,
               (unsigned long long)o->tokens);
        if (base) print_kl(o);
        fflush(stdout);
    }
    mg_kl_stats_release(&j.kl);
    mg_windows_release(&w);
    mg_tool_model_close(&t);
    return st;
}

static mg_status print_json(const outcome *all, uint32_t n, bool with_kl, mg_error *err) {
    mg_json *root = mg_json_new_object(), *results = mg_json_new_array();
    mg_json_set_i64(root, "schema", 1);
    for (uint32_t i = 0; i < n; i++) mg_json_push(results, result_json(&all[i], with_kl));
    mg_json_set(root, "results", results);
    mg_status st = mg_tool_print_json(root, err);
    mg_json_free(root);
    return st;
}

static mg_status run(const args *a, mg_error *err) {
    mg_tool_pass pass;
    mg_kldbase base;
    mg_ranked *ranked = NULL;
    const uint32_t n = (uint32_t)a->pos.n;
    MG_TRY(mg_tool_pass_new(&pass, &a->common, err));
    outcome *all = calloc(n, sizeof *all);
    mg_status st = all ? MG_OK : mg_fail_nomem(err, n * sizeof *all);
    if (st == MG_OK && a->kl) st = mg_kldbase_open(&base, a->base, err);
    const bool open = a->kl && st == MG_OK;
    for (uint32_t i = 0; st == MG_OK && i < n; i++)
        st = run_model(&all[i], a->pos.items[i], a, &pass, open ? &base : NULL, err);
    if (st == MG_OK) st = rank(&ranked, all, n, open, err);
    if (st == MG_OK && a->common.json)
        st = print_json(all, n, open, err);
    else if (st == MG_OK && n > 1)
        print_table(all, ranked, n, open);
    if (open) mg_kldbase_release(&base);
    free(ranked);
    free(all);
    mg_tool_pass_free(&pass);
    return st;
}

int main(int argc, char **argv) {
    args a = {0};
    mg_error err = {0};
    mg_interrupt_install();
    mg_status st = parse(&a, argc, argv, &err);
    if (st == MG_OK && !a.done)
        st = a.choices ? mg_tool_choices_run(a.choices, &a.pos, &a.common, a.precision, &err) : run(&a, &err);
    mg_opt_list_release(&a.pos);
    mg_common_release(&a.common);
    return st == MG_OK ? 0 : mg_tool_fail(&tool, &err);
}
