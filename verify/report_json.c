/* report_json.c - the result of verify as JSON. */
#include "verify/report.h"

#include "quant/math/f64.h"

#include <math.h>
#include <stdlib.h>

#define CONTEXT 16u /* tokens shown before a position */

static mg_json *ppl_json(const mg_drift_summary *s) {
    mg_json *o = mg_json_new_object();
    mg_json_set_f64(o, "reference", s->ppl_reference);
    mg_json_set_f64(o, "candidate", s->ppl_candidate);
    mg_json_set_f64(o, "reference_stderr", s->ppl_reference_stderr);
    mg_json_set_f64(o, "candidate_stderr", s->ppl_candidate_stderr);
    const double ratio = s->ppl_candidate / s->ppl_reference;
    mg_json_set_f64(o, "ratio", ratio);
    mg_json_set_f64(o, "ratio_stderr", ratio * s->kl.ln_ratio_stderr);
    mg_json_set_f64(o, "ln_ratio", s->kl.ln_ratio);
    mg_json_set_f64(o, "ln_ratio_stderr", s->kl.ln_ratio_stderr);
    mg_json_set_f64(o, "difference", s->kl.difference);
    mg_json_set_f64(o, "difference_stderr", s->kl.difference_stderr);
    mg_json_set_f64(o, "correlation", s->kl.correlation);
    return o;
}

/* Positions by order of magnitude of their divergence: counts[0] below edges[0], counts[i] from edges[i - 1] to
 * edges[i], the last from the last edge on. */
static mg_json *histogram_json(const mg_kl_stats *s) {
    static const double edges[] = {1e-8, 1e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3,
                                   3e-3, 0.01, 0.03, 0.1,  0.3,  1,    3,    10};
    enum { N = sizeof edges / sizeof *edges };
    uint64_t counts[N + 1] = {0};
    mg_json *o = mg_json_new_object(), *e = mg_json_new_array(), *c = mg_json_new_array();
    for (uint64_t i = 0; i < s->n; i++) {
        unsigned k = 0;
        while (k < N && (double)s->kl[i] >= edges[k]) k++;
        counts[k]++;
    }
    for (unsigned k = 0; k < N; k++) mg_json_push(e, mg_json_new_f64(edges[k]));
    for (unsigned k = 0; k <= N; k++) mg_json_push(c, mg_json_new_u64(counts[k]));
    mg_json_set(o, "edges", e);
    mg_json_set(o, "counts", c);
    return o;
}

static mg_json *classes_json(const mg_drift *d) {
    mg_json *list = mg_json_new_array();
    for (unsigned k = 0; k < MG_CLASS_COUNT; k++) {
        const mg_drift_class *c = &d->by_class[k];
        const double n = (double)c->n;
        if (!c->n) continue;
        mg_json *o = mg_json_new_object();
        mg_json_set_str(o, "class", mg_token_class_name((mg_token_class)k));
        mg_json_set_u64(o, "tokens", c->n);
        mg_json_set_f64(o, "kl", c->kl / n);
        mg_json_set_f64(o, "top1_agreement", (double)c->same_top / n);
        mg_json_set_f64(o, "ppl_reference", mg_f64_exp(c->nll_ref / n));
        mg_json_set_f64(o, "ppl_candidate", mg_f64_exp(c->nll_cand / n));
        mg_json_push(list, o);
    }
    return list;
}

/* Ids as text; null when there is no tokenizer or it cannot say. */
static mg_json *text_of(const mg_report *r, const int32_t *ids, size_t n) {
    char *text = NULL;
    size_t len;
    if (!r || !r->tok || mg_tokenizer_decode(r->tok, ids, n, 0, &text, &len, NULL) != MG_OK) return mg_json_new_null();
    mg_json *v = mg_json_new_str(text);
    free(text);
    return v;
}

static mg_json *worst_json(const mg_drift *d, const mg_report *r) {
    mg_json *list = mg_json_new_array();
    for (uint32_t i = 0; i < d->n_worst; i++) {
        const mg_drift_position *p = &d->worst[i];
        mg_json *o = mg_json_new_object();
        mg_json_set_u64(o, "window", p->window);
        mg_json_set_u64(o, "position", p->pos);
        mg_json_set_f64(o, "kl", p->kl);
        mg_json_set_i64(o, "token", p->target);
        mg_json_set_f64(o, "p_reference", p->p_ref);
        mg_json_set_f64(o, "p_candidate", p->p_cand);
        mg_json_set_i64(o, "top_reference", p->top_ref);
        mg_json_set_i64(o, "top_candidate", p->top_cand);
        mg_json_set(o, "text", text_of(r, &p->target, 1));
        mg_json_set(o, "top_reference_text", text_of(r, &p->top_ref, 1));
        mg_json_set(o, "top_candidate_text", text_of(r, &p->top_cand, 1));
        const uint32_t n = p->pos + 1 < CONTEXT ? p->pos + 1 : CONTEXT;
        const int32_t *ids =
            r && r->windows ? r->windows->ids + r->windows->items[p->window].at + p->pos + 1 - n : NULL;
        mg_json_set(o, "context", ids ? text_of(r, ids, n) : mg_json_new_null());
        mg_json_push(list, o);
    }
    return list;
}

static mg_json *kl_json(const mg_drift *d, const mg_drift_summary *s) {
    mg_json *o = mg_json_new_object(), *bins = mg_json_new_array();
    mg_json_set_str(o, "kind", mg_kl_kind_name(s->kl_kind));
    mg_json_set_f64(o, "mean", s->kl.mean);
    mg_json_set_f64(o, "mean_upper", s->kl_upper);
    mg_json_set_f64(o, "stderr", s->kl.stderr_);
    mg_spread_json(o, &s->kl.kl);
    for (uint32_t b = 0; b < MG_DRIFT_BINS; b++)
        mg_json_push(bins, d->bin_n[b] ? mg_json_new_f64(d->bin_kl[b] / (double)d->bin_n[b]) : mg_json_new_null());
    mg_json_set(o, "by_position", bins);
    mg_json_set(o, "histogram", histogram_json(&d->stats));
    return o;
}

static mg_json *layers_json(const mg_act_drift *a) {
    mg_json *list = mg_json_new_array();
    for (uint32_t l = 0; l < a->n_layers; l++) {
        const mg_layer_stat *s = &a->layer[l];
        if (!s->tokens) continue;
        mg_json *o = mg_json_new_object();
        mg_json_set_i64(o, "layer", l);
        mg_json_set_f64(o, "cosine", s->cosine_sum / (double)s->tokens);
        mg_json_set_f64(o, "relative_l2", s->ref_sq > 0 ? sqrt(s->diff_sq / s->ref_sq) : s->diff_sq);
        mg_json_push(list, o);
    }
    return list;
}

static mg_json *load_json(const uint64_t *load, uint32_t n) {
    mg_json *list = mg_json_new_array();
    uint64_t total = 0;
    for (uint32_t e = 0; e < n; e++) total += load[e];
    for (uint32_t e = 0; e < n; e++) mg_json_push(list, mg_json_new_f64(total ? (double)load[e] / (double)total : 0));
    return list;
}

static mg_json *flips_json(const mg_routing_stat *s) {
    mg_json *list = mg_json_new_array();
    for (unsigned i = 0; i < MG_MARGINS; i++) {
        mg_json *o = mg_json_new_object();
        mg_json_set(o, "margin_below", i < MG_MARGINS - 1 ? mg_json_new_f64(mg_margin_ends[i]) : mg_json_new_null());
        mg_json_set_u64(o, "tokens", s->margin[i].tokens);
        mg_json_set_u64(o, "flips", s->margin[i].flips);
        mg_json_push(list, o);
    }
    return list;
}

static mg_json *routing_json(const mg_act_drift *a) {
    mg_json *list = mg_json_new_array();
    for (uint32_t l = 0; a->experts && l < a->n_layers; l++) {
        const mg_routing_stat *s = &a->routing[l];
        if (!s->tokens) continue;
        double n = (double)s->tokens;
        mg_json *o = mg_json_new_object();
        mg_json_set_i64(o, "layer", l);
        mg_json_set_f64(o, "set_agreement", (double)s->same_set / n);
        mg_json_set_f64(o, "order_agreement", (double)s->same_order / n);
        mg_json_set_f64(o, "top1_agreement", (double)s->same_first / n);
        mg_json_set_f64(o, "weight_kl", s->weight_kl_sum / n);
        mg_json_set(o, "flips", flips_json(s));
        mg_json_set(o, "load_reference", load_json(s->load_ref, a->experts));
        mg_json_set(o, "load_candidate", load_json(s->load_cand, a->experts));
        mg_json_push(list, o);
    }
    return list;
}

static mg_json *count_or_null(uint64_t n) {
    return n ? mg_json_new_u64(n) : mg_json_new_null();
}

static mg_json *weight_json(const mg_weight_stat *s) {
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "name", s->name);
    mg_json_set_str(o, "type", s->candidate.name);
    mg_json_set_str(o, "reference_type", s->reference.name);
    mg_json_set_f64(o, "bpw", s->candidate.bpw);
    mg_json_set_f64(o, "rmse", s->rmse);
    mg_json_set_f64(o, "snr_db", s->snr_db);
    mg_json_set_f64(o, "max_abs", s->max_abs);
    mg_json_set_f64(o, "worst_block", s->worst_block);
    mg_json_set_u64(o, "worst_row", s->worst_row);
    mg_json_set_u64(o, "worst_column", s->worst_col);
    mg_json_set_f64(o, "limit", s->limits.block);
    const bool changed = mg_weight_exact_broken(&s->exact);
    mg_json_set_u64(o, "changed", changed ? s->exact.odd : 0);
    mg_json_set(o, "changed_row", changed ? mg_json_new_u64(s->exact.row) : mg_json_new_null());
    mg_json_set(o, "changed_column", changed ? mg_json_new_u64(s->exact.col) : mg_json_new_null());
    mg_json_set_f64(o, "error", s->error);
    mg_json_set_f64(o, "error_limit", s->limits.total);
    mg_json_set(o, "nearest_expert", s->exchanged ? mg_json_new_u64(s->nearest) : mg_json_new_null());
    mg_json_set(o, "nearest_error", s->exchanged ? mg_json_new_f64(s->nearest_error) : mg_json_new_null());
    mg_json_set(o, "compared_rows", count_or_null(s->ids));
    mg_json_set_u64(o, "padding_reference", s->padding_reference);
    mg_json_set_u64(o, "padding_candidate", s->padding_candidate);
    mg_json_set_bool(o, "missing", s->missing);
    mg_json_set_bool(o, "apart", s->apart);
    mg_json_set_bool(o, "refolded", s->refolded);
    mg_json_set_bool(o, "damaged", mg_weight_damaged(s));
    return o;
}

static mg_json *tokenizer_json(const mg_tokenizer_diff *d) {
    if (!d->compared) return mg_json_new_null();
    mg_json *o = mg_json_new_object();
    mg_json_set_u64(o, "different_tokens", d->tokens);
    mg_json_set(o, "first", d->first < 0 ? mg_json_new_null() : mg_json_new_i64(d->first));
    mg_json_set_bool(o, "same_ids", d->same_ids);
    return o;
}

/* What kind of recording; null for a model that was run. */
static mg_json *recorded_json(const mg_recorded *r) {
    return r ? mg_json_new_str(mg_recorded_kind_name(mg_recorded_kind(r))) : mg_json_new_null();
}

static mg_json *position_json(uint64_t window, uint32_t pos) {
    mg_json *o = mg_json_new_object();
    mg_json_set_u64(o, "window", window);
    mg_json_set_u64(o, "position", pos);
    return o;
}

/* Ids compared, and how many each side has; null where a recording does not say. */
static mg_json *vocabulary_json(const mg_candidate *c, uint64_t reference) {
    mg_json *o = mg_json_new_object();
    mg_json_set(o, "compared", count_or_null(c->ids));
    mg_json_set(o, "reference", count_or_null(reference));
    mg_json_set(o, "candidate", count_or_null(c->rows));
    mg_json_set_u64(o, "positions_cut", c->drift.n_cut);
    return o;
}

static mg_json *candidate_json(const mg_candidate *c, const mg_report *r) {
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "path", c->path);
    mg_json_set(o, "recorded", recorded_json(c->recorded));
    mg_json_set(o, "bytes", c->recorded ? mg_json_new_null() : mg_json_new_u64(c->bytes));
    mg_json_set_bool(o, "pareto", c->pareto);
    mg_json_set(o, "tokenizer", tokenizer_json(&c->tokenizer));
    mg_json_set(o, "vocabulary", vocabulary_json(c, r ? r->rows : 0));
    mg_json_set(o, "not_finite", c->not_finite ? position_json(c->bad_window, c->bad_pos) : mg_json_new_null());
    mg_json_set_f64(o, "bpw",
                    c->recorded    ? (double)NAN
                    : c->n_weights ? 8 * (double)c->bytes / (double)c->n_weights
                                   : 0);
    if (c->has_drift) {
        const mg_drift_summary *s = &c->summary;
        mg_json *dp = mg_json_new_object(), *logits = mg_json_new_object();
        mg_json_set(o, "ppl", ppl_json(s));
        mg_json_set(o, "kl", kl_json(&c->drift, s));
        mg_json_set_f64(o, "top1_agreement", s->kl.same_top);
        mg_json_set_f64(o, "top1_stderr", s->kl.same_top_stderr);
        mg_json_set_f64(o, "top5_agreement", s->top5);
        mg_json_set_f64(dp, "mean", s->kl.dp_mean);
        mg_json_set_f64(dp, "rms", s->kl.dp_rms);
        mg_json_set_f64(dp, "mean_stderr", s->kl.dp_mean_stderr);
        mg_json_set_f64(dp, "rms_stderr", s->kl.dp_rms_stderr);
        mg_spread_json(dp, &s->kl.dp);
        mg_json_set(o, "delta_p", dp);
        mg_json_set_f64(logits, "max_abs", s->logit_max_abs);
        mg_json_set_f64(logits, "rms", s->logit_rms);
        mg_json_set_f64(logits, "cosine", s->logit_cosine);
        mg_json_set(o, "logits", logits);
        mg_json_set(o, "classes", classes_json(&c->drift));
        mg_json_set(o, "worst", worst_json(&c->drift, r));
        mg_json_set(o, "layers", layers_json(&c->act));
        mg_json_set(o, "routing", routing_json(&c->act));
    }
    mg_json *tensors = mg_json_new_array();
    for (uint32_t i = 0; c->has_weights && i < c->weights.n; i++)
        mg_json_push(tensors, weight_json(&c->weights.items[i]));
    mg_json_set(o, "tensors", tensors);
    if (c->has_weights) mg_json_set_i64(o, "damaged_tensors", c->weights.n_bad);
    if (c->has_weights) mg_json_set_i64(o, "tensors_apart", c->weights.n_apart);
    if (c->has_weights && c->weights.expert >= 0) mg_json_set_i64(o, "compared_expert", c->weights.expert);
    mg_json *attribution;
    if (c->attribution && mg_json_dup(&attribution, c->attribution, NULL) == MG_OK)
        mg_json_set(o, "attribution", attribution);
    return o;
}

/* What arithmetic alone does to the reference. */
static mg_json *floor_json(const mg_candidate *c) {
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "precision", mg_precision_name(c->precision));
    mg_json_set(o, "ppl", ppl_json(&c->summary));
    mg_json_set(o, "kl", kl_json(&c->drift, &c->summary));
    mg_json_set_f64(o, "top1_agreement", c->summary.kl.same_top);
    return o;
}

mg_status mg_report_json(mg_json **out, const mg_report *r, mg_error *err) {
    mg_json *o = mg_json_new_object(), *list = mg_json_new_array();
    if (!o || !list) {
        mg_json_free(o);
        mg_json_free(list);
        return mg_fail_nomem(err, sizeof(void *));
    }
    mg_json_set_i64(o, "schema", 1);
    mg_json_set_str(o, "reference", r->reference);
    mg_json_set(o, "reference_recorded", recorded_json(r->reference_recorded));
    mg_json_set_str(o, "text", r->text_name);
    mg_json_set_str(o, "text_sha256", r->text_sha256);
    mg_json_set_u64(o, "tokens", r->tokens);
    mg_json_set_str(o, "precision", mg_precision_name(r->precision));
    if (r->floor) mg_json_set(o, "floor", floor_json(r->floor));
    for (uint32_t i = 0; i < r->n; i++) mg_json_push(list, candidate_json(&r->cand[i], r));
    mg_json_set(o, "candidates", list);
    *out = o;
    return MG_OK;
}

mg_status mg_report_example(mg_json **out, mg_error *err) {
    uint64_t load = 1;
    mg_layer_stat layer = {.tokens = 1};
    mg_routing_stat routing = {.tokens = 1, .load_ref = &load, .load_cand = &load};
    mg_weight_stat weight = {.name = "weight", .reference.name = "type", .candidate.name = "type"};
    mg_candidate c = {.path = "candidate", .has_drift = true, .has_weights = true};
    c.act = (mg_act_drift){.n_layers = 1, .experts = 1, .layer = &layer, .routing = &routing};
    c.weights.items = &weight;
    c.weights.n = 1;
    c.drift.n_worst = 1;
    for (unsigned k = 0; k < MG_CLASS_COUNT; k++) c.drift.by_class[k].n = 1;
    c.tokenizer.compared = true;
    *out = candidate_json(&c, NULL);
    return *out ? MG_OK : mg_fail_nomem(err, sizeof(void *));
}
