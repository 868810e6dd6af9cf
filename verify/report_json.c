/* report_json.c - the result of verify as JSON. */
#include "verify/report.h"

#include <math.h>

static mg_json *ppl_json(const mg_drift_summary *s) {
    mg_json *o = mg_json_new_object();
    mg_json_set_f64(o, "reference", s->ppl_reference);
    mg_json_set_f64(o, "candidate", s->ppl_candidate);
    mg_json_set_f64(o, "reference_stderr", s->ppl_reference_stderr);
    mg_json_set_f64(o, "candidate_stderr", s->ppl_candidate_stderr);
    mg_json_set_f64(o, "ratio", s->ppl_candidate / s->ppl_reference);
    return o;
}

static mg_json *kl_json(const mg_drift *d, const mg_drift_summary *s) {
    mg_json *o = mg_json_new_object(), *bins = mg_json_new_array();
    mg_json_set_f64(o, "mean", s->kl.mean);
    mg_json_set_f64(o, "stderr", s->kl.stderr_);
    mg_json_set_f64(o, "median", s->kl.median);
    mg_json_set_f64(o, "p90", s->kl.p90);
    mg_json_set_f64(o, "p95", s->kl.p95);
    mg_json_set_f64(o, "p99", s->kl.p99);
    mg_json_set_f64(o, "p999", s->kl.p999);
    mg_json_set_f64(o, "max", s->kl.max);
    for (uint32_t b = 0; b < MG_DRIFT_BINS; b++)
        mg_json_push(bins, d->bin_n[b] ? mg_json_new_f64(d->bin_kl[b] / (double)d->bin_n[b]) : mg_json_new_null());
    mg_json_set(o, "by_position", bins);
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

static mg_json *routing_json(const mg_act_drift *a) {
    mg_json *list = mg_json_new_array();
    for (uint32_t l = 0; a->experts && l < a->n_layers; l++) {
        const mg_routing_stat *s = &a->routing[l];
        if (!s->tokens) continue;
        double n = (double)s->tokens;
        mg_json *o = mg_json_new_object();
        mg_json_set_i64(o, "layer", l);
        mg_json_set_f64(o, "set_agreement", (double)s->same_set / n);
        mg_json_set_f64(o, "top1_agreement", (double)s->same_first / n);
        mg_json_set_f64(o, "weight_kl", s->weight_kl_sum / n);
        mg_json_set(o, "load_reference", load_json(s->load_ref, a->experts));
        mg_json_set(o, "load_candidate", load_json(s->load_cand, a->experts));
        mg_json_push(list, o);
    }
    return list;
}

static mg_json *weight_json(const mg_weight_stat *s) {
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "name", s->name);
    mg_json_set_str(o, "type", s->candidate < MG_DTYPE_COUNT ? mg_dtype_get(s->candidate)->name : "missing");
    mg_json_set_str(o, "reference_type", s->reference < MG_DTYPE_COUNT ? mg_dtype_get(s->reference)->name : "missing");
    mg_json_set_f64(o, "bpw", s->bpw);
    mg_json_set_f64(o, "rmse", s->rmse);
    mg_json_set_f64(o, "snr_db", s->snr_db);
    mg_json_set_f64(o, "max_abs", s->max_abs);
    mg_json_set_f64(o, "worst_block", s->worst_block);
    mg_json_set_u64(o, "worst_row", s->worst_row);
    mg_json_set_u64(o, "worst_column", s->worst_col);
    mg_json_set_f64(o, "limit", s->limits.block);
    mg_json_set_f64(o, "error", s->error);
    mg_json_set_f64(o, "error_limit", s->limits.total);
    mg_json_set_bool(o, "missing", s->missing);
    mg_json_set_bool(o, "damaged", mg_weight_damaged(s));
    return o;
}

static mg_json *candidate_json(const mg_candidate *c) {
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "path", c->path);
    if (c->has_drift) {
        const mg_drift_summary *s = &c->summary;
        mg_json *dp = mg_json_new_object(), *logits = mg_json_new_object();
        mg_json_set(o, "ppl", ppl_json(s));
        mg_json_set(o, "kl", kl_json(&c->drift, s));
        mg_json_set_f64(o, "top1_agreement", s->kl.same_top);
        mg_json_set_f64(dp, "mean", s->kl.dp_mean);
        mg_json_set_f64(dp, "rms", s->kl.dp_rms);
        mg_json_set(o, "delta_p", dp);
        mg_json_set_f64(logits, "max_abs", s->logit_max_abs);
        mg_json_set_f64(logits, "rms", s->logit_rms);
        mg_json_set_f64(logits, "cosine", s->logit_cosine);
        mg_json_set(o, "logits", logits);
        mg_json_set(o, "layers", layers_json(&c->act));
        mg_json_set(o, "routing", routing_json(&c->act));
    }
    mg_json *tensors = mg_json_new_array();
    for (uint32_t i = 0; c->has_weights && i < c->weights.n; i++)
        mg_json_push(tensors, weight_json(&c->weights.items[i]));
    mg_json_set(o, "tensors", tensors);
    if (c->has_weights) mg_json_set_i64(o, "damaged_tensors", c->weights.n_bad);
    mg_json *attribution;
    if (c->attribution && mg_json_dup(&attribution, c->attribution, NULL) == MG_OK)
        mg_json_set(o, "attribution", attribution);
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
    mg_json_set_str(o, "text", r->text_name);
    mg_json_set_str(o, "text_sha256", r->text_sha256);
    mg_json_set_u64(o, "tokens", r->tokens);
    for (uint32_t i = 0; i < r->n; i++) mg_json_push(list, candidate_json(&r->cand[i]));
    mg_json_set(o, "candidates", list);
    *out = o;
    return MG_OK;
}

mg_status mg_report_example(mg_json **out, mg_error *err) {
    uint64_t load = 1;
    mg_layer_stat layer = {.tokens = 1};
    mg_routing_stat routing = {.tokens = 1, .load_ref = &load, .load_cand = &load};
    mg_weight_stat weight = {.name = "weight"};
    mg_candidate c = {.path = "candidate", .has_drift = true, .has_weights = true};
    c.act = (mg_act_drift){.n_layers = 1, .experts = 1, .layer = &layer, .routing = &routing};
    c.weights.items = &weight;
    c.weights.n = 1;
    *out = candidate_json(&c);
    return *out ? MG_OK : mg_fail_nomem(err, sizeof(void *));
}
