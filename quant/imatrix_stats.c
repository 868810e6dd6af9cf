/* imatrix_stats.c - see imatrix_stats.h. */
#include "quant/imatrix_stats.h"

#include "quant/math/f64.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ACTIVE 1e-5

static double log2_of(double x) {
    return mg_f64_log(x) / 0x1.62e42fefa39efp-1; /* ln 2 */
}

/* Mean square of value k; false for an expert without tokens. */
static bool mean_square(const mg_imatrix_entry *e, uint64_t k, double *a) {
    const int64_t n = e->counts[k / e->cols];
    if (n <= 0) return false;
    *a = (double)e->values[k] / (double)n;
    return true;
}

static void first_pass(const mg_imatrix_entry *e, mg_imatrix_stats *s) {
    double a, squares = 0;
    uint64_t active = 0;
    for (uint64_t k = 0; k < e->n_mat * e->cols; k++) {
        if (!mean_square(e, k, &a)) continue;
        if (s->n == 0 || a < s->min) s->min = a;
        if (s->n == 0 || a > s->max) s->max = a;
        s->n++;
        s->total += a;
        squares += a * a;
        active += a > ACTIVE;
    }
    if (s->n == 0) return;
    const double n = (double)s->n;
    s->mean = s->total / n;
    const double var = squares / n - s->mean * s->mean;
    s->stddev = var > 0 ? sqrt(var) : 0;
    s->active = (double)active / n;
}

static void second_pass(const mg_imatrix_entry *e, mg_imatrix_stats *s) {
    double a;
    uint64_t high = 0;
    for (uint64_t k = 0; k < e->n_mat * e->cols; k++) {
        if (!mean_square(e, k, &a)) continue;
        if (s->total > 0 && a > 0) s->entropy -= a / s->total * log2_of(a / s->total);
        high += s->stddev > 0 && (a - s->mean) / s->stddev > 1;
    }
    if (s->n > 1) s->entropy_norm = s->entropy / log2_of((double)s->n);
    if (s->n) s->zd = (double)high / (double)s->n;
}

/* The entry of the same name in the block before; NULL when there is none. */
static const mg_imatrix_entry *previous(const mg_imatrix *m, const mg_imatrix_entry *e) {
    char name[512], *end;
    const char *p = strstr(e->name, "blk.");
    if (!p || p[4] < '0' || p[4] > '9') return NULL;
    const unsigned long block = strtoul(p + 4, &end, 10);
    if (block == 0 || *end != '.') return NULL;
    const int n = snprintf(name, sizeof name, "%.*s%lu%s", (int)(p + 4 - e->name), e->name, block - 1, end);
    return n > 0 && (size_t)n < sizeof name ? mg_imatrix_find(m, name) : NULL;
}

static void compare(const mg_imatrix_entry *e, const mg_imatrix_entry *before, mg_imatrix_stats *s) {
    double dot = 0, a = 0, b = 0;
    if (!before || before->n_mat * before->cols != e->n_mat * e->cols) return;
    for (uint64_t k = 0; k < e->n_mat * e->cols; k++) {
        dot += (double)e->values[k] * (double)before->values[k];
        a += (double)e->values[k] * (double)e->values[k];
        b += (double)before->values[k] * (double)before->values[k];
    }
    s->has_cosine = a > 0 && b > 0;
    if (s->has_cosine) s->cosine = dot / (sqrt(a) * sqrt(b));
}

mg_imatrix_stats mg_imatrix_stats_of(const mg_imatrix *m, const mg_imatrix_entry *e) {
    mg_imatrix_stats s = {0};
    first_pass(e, &s);
    second_pass(e, &s);
    compare(e, previous(m, e), &s);
    return s;
}
