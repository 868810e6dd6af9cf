/* sample.c - see sample.h. */
#include "verify/sample.h"

#include "formats/base/mix64.h"

#include <stdlib.h>

#include "quant/math/f64.h"
#include "quant/math/topk.h"

struct mg_candidate {
    double p;
    int32_t id;
};

mg_status mg_sampler_init(mg_sampler *s, double temp, uint64_t top_k, double top_p, uint64_t seed, mg_error *err) {
    *s = (mg_sampler){.temp = temp, .top_k = top_k, .top_p = top_p, .state = seed};
    if (!(temp >= 0)) return mg_fail(err, MG_ERR_USAGE, "temperature %g is negative", temp);
    if (!(top_p > 0 && top_p <= 1)) return mg_fail(err, MG_ERR_USAGE, "top-p %g is not in (0, 1]", top_p);
    return MG_OK;
}

void mg_sampler_release(mg_sampler *s) {
    free(s->scratch);
    *s = (mg_sampler){0};
}

static int by_probability(const void *a, const void *b) {
    const struct mg_candidate *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

mg_status mg_sampler_next(mg_sampler *s, const float *logits, uint64_t vocab, int32_t *id, mg_error *err) {
    const uint64_t best = mg_argmax(logits, vocab);
    if (logits[best] != logits[best]) return mg_fail(err, MG_ERR_FAILED, "the model's logits are not numbers");
    *id = (int32_t)best;
    if (s->temp == 0) return MG_OK;
    if (vocab > s->cap) {
        free(s->scratch);
        s->cap = 0;
        s->scratch = malloc(vocab * sizeof *s->scratch);
        if (!s->scratch) return mg_fail_nomem(err, vocab * sizeof *s->scratch);
        s->cap = vocab;
    }
    uint64_t n = 0;
    for (uint64_t i = 0; i < vocab; i++) {
        const double d = ((double)logits[i] - (double)logits[best]) / s->temp;
        if (d == d) s->scratch[n++] = (struct mg_candidate){mg_f64_exp(d), (int32_t)i};
    }
    qsort(s->scratch, n, sizeof *s->scratch, by_probability);
    if (s->top_k && n > s->top_k) n = s->top_k;
    double total = 0, kept = 0;
    for (uint64_t i = 0; i < n; i++) total += s->scratch[i].p;
    uint64_t m = 0;
    while (m < n && (m == 0 || kept < s->top_p * total)) kept += s->scratch[m++].p;
    double at = mg_unit_from(mg_mix64_next(&s->state)) * kept;
    for (uint64_t i = 0; i < m; i++) {
        *id = s->scratch[i].id;
        at -= s->scratch[i].p;
        if (at < 0) break;
    }
    return MG_OK;
}
