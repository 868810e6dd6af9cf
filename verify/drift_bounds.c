/* drift_bounds.c - see drift_bounds.h. */
#include "verify/drift_bounds.h"

#include <math.h>
#include <stdlib.h>

#include "quant/math/f64.h"
#include "quant/math/topk.h"
#include "verify/kldbase.h"

#define FIVE 5u
/* Least mass that is not listed of q: printed log-probabilities are rounded, so 1 - sum is not known better. More of it
 * makes the bound lower. */
#define LEAST_REST 1e-6

/* One side at one position. */
typedef struct side {
    const float *x; /* all tokens, or */
    const mg_top_row *t;
    uint32_t n; /* entries of t that count */
    mg_lse lse;
    uint64_t vocab; /* 0: not known */
    double kept;    /* logarithm of the share of stated probabilities that is not left out: they are divided by it */
} side;

const char *mg_kl_kind_name(mg_kl_kind k) {
    return k == MG_KL_EXACT ? "exact" : k == MG_KL_BASE ? "base_file" : "lower_bound";
}

static mg_status side_of(side *s, const mg_score_rows *r, uint32_t i, uint64_t ids, mg_error *err) {
    *s = (side){0};
    if (r->kind == MG_ROWS_TOP) {
        double left = 1;
        s->t = &r->top[i];
        s->n = s->t->n;
        while (ids && s->n && (uint64_t)s->t->ids[s->n - 1] >= ids) left -= mg_f64_exp(s->t->logp[--s->n]);
        if (!(left > 0))
            return mg_fail(err, MG_ERR_FORMAT, "no probability is left below token %llu", (unsigned long long)ids);
        s->kept = s->n < s->t->n ? mg_f64_log(left) : 0;
        return MG_OK;
    }
    s->x = r->logits + i * r->vocab;
    s->vocab = ids ? ids : r->vocab;
    s->lse = mg_row_lse(s->x, s->vocab);
    if (r->kind != MG_ROWS_BASE) return MG_OK;
    MG_TRY(mg_kldbase_kept(&s->kept, s->x, s->vocab, r->vocab, err));
    s->lse.log_sum = s->kept - (double)s->lse.max; /* they are log-probabilities already */
    return MG_OK;
}

static bool find(const side *s, int64_t id, double *logp) {
    const mg_top_row *t = s->t;
    uint32_t lo = 0, hi = s->n;
    while (lo < hi) {
        const uint32_t mid = lo + (hi - lo) / 2;
        if (t->ids[mid] < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == s->n || t->ids[lo] != id) return false;
    *logp = t->logp[lo] - s->kept;
    return true;
}

static bool logp_of(const side *s, int64_t id, double *logp) {
    if (s->t) return find(s, id, logp);
    *logp = (double)(s->x[id] - s->lse.max) - s->lse.log_sum;
    return true;
}

/* The five most likely, the first of them first; equal ones by id. */
static void best_five(const side *s, uint32_t *best) {
    if (!s->t) {
        mg_topk(s->x, (uint32_t)s->vocab, s->vocab < FIVE ? (uint32_t)s->vocab : FIVE, best);
        return;
    }
    uint32_t n = 0;
    uint32_t at[FIVE];
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t k = n;
        while (k > 0 && s->t->logp[at[k - 1]] < s->t->logp[i]) k--;
        if (k == FIVE) continue;
        for (uint32_t j = n < FIVE ? n : FIVE - 1; j > k; j--) at[j] = at[j - 1];
        at[k] = i;
        if (n < FIVE) n++;
    }
    for (uint32_t k = 0; k < n; k++) best[k] = (uint32_t)s->t->ids[at[k]];
}

/* The target, which is always listed, and five others. */
static bool knows_five(const side *s) {
    return s->t ? s->t->five && s->n > FIVE : s->vocab >= FIVE;
}

static void compare_best(mg_bounded_row *r, const side *a, const side *b) {
    uint32_t x[FIVE] = {0}, y[FIVE] = {0};
    best_five(a, x);
    best_five(b, y);
    r->top_ref = x[0];
    r->top_cand = y[0];
    r->knows_five = knows_five(a) && knows_five(b);
    for (uint32_t i = 0; r->knows_five && i < FIVE; i++)
        for (uint32_t j = 0; j < FIVE; j++) r->shared += x[i] == y[j];
}

/* ---- bounds ---- */

/* Sums over the tokens that both sides list. */
typedef struct common {
    double kl, p, q;
    uint64_t n;
} common;

static common sum_common(const side *a, const side *b) {
    const side *lists = a->t ? a : b, *other = a->t ? b : a;
    common c = {0};
    for (uint32_t i = 0; i < lists->n; i++) {
        double theirs;
        if (!logp_of(other, lists->t->ids[i], &theirs)) continue;
        const double own = lists->t->logp[i] - lists->kept;
        const double lp = a->t ? own : theirs, lq = a->t ? theirs : own, p = mg_f64_exp(lp);
        c.kl += p * (lp - lq);
        c.p += p;
        c.q += mg_f64_exp(lq);
        c.n++;
    }
    return c;
}

static double lower_bound(const common *c, uint64_t vocab) {
    double kl = c->kl;
    const double p = 1 - c->p, q = fmax(1 - c->q, LEAST_REST);
    if (p > 0 && c->n != vocab) kl += p * mg_f64_log(p / q);
    return kl > 0 ? kl : 0;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The rest of p, in portions of at most exp(most), on the tokens that q gives least. */
static mg_status upper_bound(double *kl, const common *c, const side *a, const side *b, mg_error *err) {
    double left = 1 - c->p;
    const double most = mg_f64_exp(a->t->most - a->kept);
    uint64_t n = 0;
    *kl = c->kl;
    if (!(left > 0) || b->vocab <= a->n) return MG_OK;
    double *q = malloc((b->vocab - a->n) * sizeof *q);
    if (!q) return mg_fail_nomem(err, b->vocab * sizeof *q);
    for (uint64_t i = 0, listed = 0; i < b->vocab; i++) {
        if (listed < a->n && (uint64_t)a->t->ids[listed] == i)
            listed++;
        else if (logp_of(b, (int64_t)i, &q[n]))
            n++;
    }
    qsort(q, n, sizeof *q, ascending);
    for (uint64_t i = 0; i < n && left > 0; i++) {
        const double p = i + 1 < n && most < left ? most : left;
        *kl += p * (mg_f64_log(p) - q[i]);
        left -= p;
    }
    free(q);
    return MG_OK;
}

static mg_status check_ids(const side *a, uint64_t vocab, mg_error *err) {
    const int32_t last = a->t && a->n ? a->t->ids[a->n - 1] : 0;
    if (!a->t || !vocab || (uint64_t)last < vocab) return MG_OK;
    return mg_fail(err, MG_ERR_CONFLICT, "recorded is token %d, the other model has %llu", last,
                   (unsigned long long)vocab);
}

static mg_status bound(mg_bounded_row *r, const side *a, const side *b, mg_error *err) {
    MG_TRY(check_ids(a, b->vocab, err));
    MG_TRY(check_ids(b, a->vocab, err));
    const common c = sum_common(a, b);
    r->kind = MG_KL_LOWER;
    r->kl = lower_bound(&c, a->vocab ? a->vocab : b->vocab);
    r->kl_upper = (double)INFINITY;
    return b->t ? MG_OK : upper_bound(&r->kl_upper, &c, a, b, err);
}

mg_status mg_drift_bounded(mg_bounded_row *out, const mg_score_rows *ref, const mg_score_rows *cand, uint32_t i,
                           uint64_t ids, mg_error *err) {
    side a, b;
    MG_TRY(side_of(&a, ref, i, ids, err));
    MG_TRY(side_of(&b, cand, i, ids, err));
    *out = (mg_bounded_row){.kind = MG_KL_BASE};
    out->cut = (a.t && a.n < a.t->n) || (b.t && b.n < b.t->n);
    if (a.t || b.t) {
        MG_TRY(bound(out, &a, &b, err));
    } else {
        uint64_t unused;
        out->kl = ref->kind == MG_ROWS_BASE ? mg_kldbase_kl(a.x, a.vocab, a.kept, b.x, &b.lse, &unused)
                                            : mg_row_kl(&a.lse, a.x, &b.lse, b.x, a.vocab);
        out->kl_upper = out->kl;
    }
    double la = (double)NAN, lb = (double)NAN;
    if (!logp_of(&a, ref->targets[i], &la) || !logp_of(&b, ref->targets[i], &lb))
        return mg_fail(err, MG_ERR_FORMAT, "no log-probability of the token that follows, %d", ref->targets[i]);
    out->nll_ref = -la;
    out->nll_cand = -lb;
    compare_best(out, &a, &b);
    return MG_OK;
}
