/* tool_verify_print.c - see tool_verify_print.h. */
#include "verify/tool_verify_print.h"

#include <math.h>
#include <stdio.h>

#include "verify/report_html.h"

static void print_table(mg_candidate *const *by_size, uint32_t n) {
    printf("\n  %12s %7s %12s %12s %9s  (* no other is both smaller and closer)\n", "bytes", "bits", "mean KL",
           "perplexity", "same top");
    for (uint32_t i = 0; i < n; i++) {
        const mg_candidate *c = by_size[i];
        if (c->recorded)
            printf("  %12s %7s ", "recorded", "");
        else
            printf("%c %12llu %7.3f ", c->pareto ? '*' : ' ', (unsigned long long)c->bytes,
                   c->n_weights ? 8 * (double)c->bytes / (double)c->n_weights : 0);
        if (c->not_finite)
            printf("%12s %12s %9s  %s\n", "not finite", "", "", c->path);
        else
            printf("%12.6g %12.6g %7.3f %%  %s\n", c->summary.kl.mean, c->summary.ppl_candidate,
                   100 * c->summary.kl.same_top, c->path);
    }
}

static void print_drift(const mg_candidate *c) {
    const mg_drift_summary *s = &c->summary;
    const mg_spread *kl = &s->kl.kl, *dp = &s->kl.dp;
    printf("  KL divergence   %smean %.6g +/- %.2g, median %.6g, p90 %.6g, p95 %.6g, p99 %.6g, p99.9 %.6g, max %.6g\n",
           s->kl_kind == MG_KL_LOWER ? "at least: " : "", s->kl.mean, s->kl.stderr_, kl->median, kl->p90, kl->p95,
           kl->p99, kl->p999, kl->max);
    if (s->kl_kind == MG_KL_LOWER && !isnan(s->kl_upper)) printf("                  mean at most %.6g\n", s->kl_upper);
    const double ratio = s->ppl_candidate / s->ppl_reference;
    printf("  perplexity      %.6g (reference %.6g, ratio %.6f +/- %.6f", s->ppl_candidate, s->ppl_reference, ratio,
           ratio * s->kl.ln_ratio_stderr);
    if (!isnan(s->kl.correlation)) printf(", correlation %.4f", s->kl.correlation); /* of a constant there is none */
    printf(")\n");
    printf("  same top token  %.3f +/- %.3f %%", 100 * s->kl.same_top, 100 * s->kl.same_top_stderr);
    if (!isnan(s->top5)) printf(", of the top five %.3f %%", 100 * s->top5);
    printf("\n  delta p         mean %.4f +/- %.4f %%, rms %.4f +/- %.4f %%, p1 %.3f %%, p5 %.3f %%, p95 %.3f %%, p99 "
           "%.3f %%\n",
           100 * s->kl.dp_mean, 100 * s->kl.dp_mean_stderr, 100 * s->kl.dp_rms, 100 * s->kl.dp_rms_stderr,
           100 * dp->p01, 100 * dp->p05, 100 * dp->p95, 100 * dp->p99);
    if (!isnan(s->logit_rms))
        printf("  logits          max |difference| %.6g, rms %.6g, cosine %.9f\n", s->logit_max_abs, s->logit_rms,
               s->logit_cosine);
    for (uint32_t l = 0; l < c->act.n_layers; l++) {
        const mg_layer_stat *y = &c->act.layer[l];
        const mg_routing_stat *g = &c->act.routing[l];
        if (y->tokens)
            printf("  layer %-3u       cosine %.9f, relative L2 %.6g", l, y->cosine_sum / (double)y->tokens,
                   y->ref_sq > 0 ? sqrt(y->diff_sq / y->ref_sq) : 0);
        if (y->tokens && g->tokens)
            printf(", same experts %.3f %%, same best %.3f %%", 100 * (double)g->same_set / (double)g->tokens,
                   100 * (double)g->same_first / (double)g->tokens);
        if (y->tokens) putchar('\n');
    }
}

static void print_weights(const mg_weight_diff *d, bool all) {
    printf("  weights         %u compared, %u damaged\n", d->n - d->n_apart, d->n_bad);
    if (d->expert >= 0)
        printf("    dense feed-forward blocks are compared with expert %lld of the mixture, which is nearest\n",
               (long long)d->expert);
    if (d->n_apart)
        printf("    %u weights of feed-forward blocks are not compared: dense in one model, a mixture in the other\n",
               d->n_apart);
    for (uint32_t i = 0; i < d->n; i++)
        if (d->items[i].ids)
            printf("    %-44s rows 0 to %llu compared, padding left out: %llu of the reference's, %llu of this one's\n",
                   d->items[i].name, (unsigned long long)d->items[i].ids - 1,
                   (unsigned long long)d->items[i].padding_reference,
                   (unsigned long long)d->items[i].padding_candidate);
    uint32_t shown = all ? d->n : d->n_bad < 3 ? 3 : d->n_bad < 20 ? d->n_bad : 20;
    for (uint32_t i = 0; i < shown && i < d->n; i++) {
        const mg_weight_stat *s = &d->items[i];
        if (s->apart || (!all && !s->missing && s->worst_block == 0)) break; /* equal from here on, or not compared */
        if (s->missing) {
            printf("    %-44s missing or of another shape  DAMAGED\n", s->name);
            continue;
        }
        printf("    %-44s %-7s snr %.2f dB, error %.4f of its rms (limit %.3f), worst block %.4f (limit %.2f) at row "
               "%llu, column %llu%s\n",
               s->name, s->candidate.name, s->snr_db, s->error, s->limits.total, s->worst_block, s->limits.block,
               (unsigned long long)s->worst_row, (unsigned long long)s->worst_col,
               mg_weight_damaged(s) ? "  DAMAGED" : "");
        if (s->exchanged)
            printf("      expert %u of the candidate is nearest to expert %u of the reference: error %.4f\n", s->expert,
                   s->nearest, s->nearest_error);
        if (mg_weight_exact_broken(&s->exact))
            printf(
                "      %llu of %llu %s are not what storing the reference gives, the first at row %llu, column %llu\n",
                (unsigned long long)s->exact.odd, (unsigned long long)s->exact.units,
                mg_dtype_is_block(s->candidate.dtype) ? "blocks" : "values", (unsigned long long)s->exact.row,
                (unsigned long long)s->exact.col);
    }
    if (shown < d->n_bad) printf("    and %u more\n", d->n_bad - shown);
}

/* The parts that cause the most drift, as they stand in the result. */
static void print_attribution(const mg_json *found, bool all) {
    unsigned n = 0;
    uint64_t measured = 0, left = 0;
    if (!mg_json_u64(mg_json_get(found, "measured"), &measured)) return;
    if (!mg_json_u64(mg_json_get(found, "not_measured"), &left)) return;
    printf("  attribution     %llu parts exchanged, %llu more not within --attribute\n", (unsigned long long)measured,
           (unsigned long long)left);
    for (const mg_json *p = mg_json_first(mg_json_get(found, "parts")); p && (all || n < 10);
         p = mg_json_next(p), n++) {
        double kl = 0, se = 0;
        if (!mg_json_f64(mg_json_path(p, "kl.mean"), &kl) || !mg_json_f64(mg_json_path(p, "kl.stderr"), &se)) continue;
        printf("    %-44s KL %.6g +/- %.2g\n", mg_json_str(mg_json_get(p, "name")), kl, se);
    }
}

static void print_tokenizer(const mg_tokenizer_diff *d) {
    if (!mg_tokenizer_differs(d)) return;
    if (d->tokens)
        printf("  tokenizer       %llu tokens mean something else, first id %lld\n", (unsigned long long)d->tokens,
               (long long)d->first);
    if (!d->same_ids) printf("  tokenizer       the same text gets other ids\n");
}

static void print_floor(const mg_candidate *c) {
    const mg_drift_summary *s = &c->summary;
    printf("  noise floor     mean KL %.6g +/- %.2g, max %.6g, same top token %.3f %%: the reference itself in %s\n",
           s->kl.mean, s->kl.stderr_, s->kl.kl.max, 100 * s->kl.same_top, mg_precision_name(c->precision));
}

void mg_tool_verify_print(const mg_report *r, mg_candidate *const *by_size, const mg_json *json, bool all) {
    printf("reference %s", r->reference);
    if (r->tokens) printf(", %llu scored positions of %s", (unsigned long long)r->tokens, r->text_name);
    putchar('\n');
    if (r->floor) print_floor(r->floor);
    if (r->n > 1) print_table(by_size, r->n);
    uint32_t i = 0;
    for (const mg_json *c = mg_json_first(mg_json_get(json, "candidates")); c; c = mg_json_next(c), i++) {
        printf("%s\n", r->cand[i].path);
        mg_not_finite_note(stdout, c, "  not finite      ", "\n");
        mg_vocabulary_note(stdout, c, "  vocabulary      ", "\n");
        if (r->cand[i].has_drift) print_drift(&r->cand[i]);
        print_tokenizer(&r->cand[i].tokenizer);
        if (r->cand[i].has_weights) print_weights(&r->cand[i].weights, all);
        print_attribution(mg_json_get(c, "attribution"), all);
        printf("  verdict         %s", mg_json_str(mg_json_get(c, "verdict")));
        for (const mg_json *t = mg_json_first(mg_json_get(c, "failed")); t; t = mg_json_next(t))
            printf("  [%s]", mg_json_str(t));
        putchar('\n');
    }
}
