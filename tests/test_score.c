/* test_score.c - windows, token files, row statistics, sampling. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "verify/klstats.h"
#include "verify/sample.h"
#include "verify/score.h"

static const char *temp_file(const char *text) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/mg_score_XXXXXX");
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    return path;
}

Test(windows, of_a_text_drop_the_rest_and_begin_with_bos) {
    mg_windows w;
    mg_error err = {0};
    mg_windows_init(&w);
    int32_t ids[20];
    for (int i = 0; i < 20; i++) ids[i] = 100 + i;
    cr_assert(mg_windows_add_text(&w, ids, 20, 8, 1, &err) == MG_OK);
    cr_assert(mg_windows_add_text(&w, ids, 9, 9, -1, &err) == MG_OK);
    cr_assert_eq(w.n, 3);
    cr_assert_eq(w.scored, 3 + 3 + 4);
    cr_assert(w.items[1].at == 8 && w.items[1].len == 8 && w.items[1].first == 4 && w.items[1].source == 0);
    cr_assert(w.ids[8] == 1 && w.ids[9] == 109 && w.items[1].original == 108);
    cr_assert(w.items[2].first == 4 && w.items[2].source == 1 && w.ids[16] == 100);
    cr_assert_eq(mg_windows_add_text(&w, ids, 7, 8, 1, &err), MG_ERR_USAGE);
    cr_assert_eq(mg_windows_add_text(&w, ids, 7, 1, 1, NULL), MG_ERR_USAGE);
    mg_windows_release(&w);
}

Test(windows, from_lines) {
    mg_windows w;
    mg_error err = {0};
    mg_windows_init(&w);
    const char *path = temp_file("1 2,3\n\n[4, 5]\r\n2147483647");
    cr_assert(mg_windows_add_token_file(&w, path, &err) == MG_OK, "%s", err.message);
    cr_assert_eq(w.n, 3);
    cr_assert_eq(w.scored, 2 + 1);
    const int32_t want[] = {1, 2, 3, 4, 5, 2147483647};
    cr_assert_arr_eq(w.ids, want, sizeof want);
    unlink(path);
    const char *bad[] = {"1 2\n3 x\n", "1,,2", ",1", "2147483648", "99999999999999999999999", "-1", "1.5"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mg_error e = {0};
        path = temp_file(bad[i]);
        cr_assert_eq(mg_windows_add_token_file(&w, path, &e), MG_ERR_FORMAT, "'%s'", bad[i]);
        cr_assert(strstr(e.message, i ? "line 1" : "line 2") && !strcmp(e.file, path), "%s", e.message);
        unlink(path);
    }
    cr_assert_eq(mg_windows_add_list(&w, "", &err), MG_ERR_USAGE);
    cr_assert_eq(mg_windows_add_list(&w, "7,8", NULL), MG_OK);
    cr_assert_eq(w.items[w.n - 1].len, 2);
    mg_windows_release(&w);
}

enum { V = 3000 };

static void fill(float *x, unsigned seed) {
    for (int i = 0; i < V; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(int)(seed >> 16) * 0x1p-12f - 8.0f;
    }
}

/* f32 exponentials (1 ulp) against double ones: a relative 2e-7 of the sum. */
Test(score, rows_match_double_arithmetic) {
    static float a[V], b[V];
    fill(a, 1);
    fill(b, 2);
    for (int i = 0; i < V; i++) b[i] = a[i] + 0.01f * b[i];
    double la = 0, lb = 0, kl = 0;
    for (int i = 0; i < V; i++) {
        la += exp((double)a[i]);
        lb += exp((double)b[i]);
    }
    for (int i = 0; i < V; i++) kl += exp((double)a[i]) / la * (((double)a[i] - log(la)) - ((double)b[i] - log(lb)));
    const mg_lse ra = mg_row_lse(a, V), rb = mg_row_lse(b, V);
    cr_assert(a[ra.argmax] == ra.max);
    cr_assert(fabs(mg_row_nll(&ra, a, 17) - (log(la) - (double)a[17])) < 2e-6); /* x - max is rounded in f32 */
    /* Exponentials good to 6e-8 weigh log ratios of 0.05 that nearly cancel: 3e-9 absolute at worst. */
    cr_assert(fabs(mg_row_kl(&ra, a, &rb, b, V) - kl) < 4e-9, "%g, not %g", mg_row_kl(&ra, a, &rb, b, V), kl);
    cr_assert(fabs(mg_row_kl(&ra, a, &ra, a, V)) < 1e-15);
    float ties[] = {1, 3, 3, 2};
    cr_assert_eq(mg_row_lse(ties, 4).argmax, 1);
    float nan[] = {1, NAN, 3};
    const mg_lse rn = mg_row_lse(nan, 3);
    cr_assert(isnan(mg_row_nll(&rn, nan, 0)));
}

Test(score, perplexity_and_its_error) {
    mg_ppl p = {0};
    cr_assert(isnan(mg_ppl_value(&p)) && mg_ppl_stderr(&p) == 0);
    const double v[] = {1, 2, 4, 5};
    for (int i = 0; i < 4; i++) mg_ppl_add(&p, v[i]);
    cr_assert(fabs(mg_ppl_value(&p) - exp(3)) < 1e-12 * exp(3));
    cr_assert(fabs(mg_ppl_stderr(&p) - exp(3) * sqrt(2.5 / 3)) < 1e-12 * exp(3));
}

Test(score, divergence_summary) {
    mg_kl_stats s = {0};
    mg_error err = {0};
    for (int i = 100; i >= 0; i--) cr_assert(mg_kl_stats_add(&s, i * 0.01, 1.0, 1.0, i % 4 == 0, &err) == MG_OK);
    mg_kl_summary r = mg_kl_stats_summary(&s);
    cr_assert(fabs(r.mean - 0.5) < 1e-12 && fabs(r.kl.median - 0.5) < 1e-7 && fabs(r.kl.p99 - 0.99) < 1e-7 &&
              r.kl.max == 1.0 && r.kl.min == 0.0);
    cr_assert(fabs(r.kl.p999 - 0.999) < 1e-7 && r.dp_rms == 0 && fabs(r.same_top - 26.0 / 101) < 1e-12);
    mg_kl_stats_release(&s);
    cr_assert(isnan(mg_kl_stats_summary(&s).mean));
}

/* The figures that depend on both models at a position, against llama-perplexity's formulas, which go by the covariance
 * of both. */
Test(score, paired_figures) {
    const double q[] = {1.5, 0.25, 3, 2.125, 0.75}, p[] = {1.25, 0.5, 2.5, 2.25, 1};
    const double n = 5;
    double sq = 0, sp = 0, sqq = 0, spp = 0, sqp = 0;
    mg_kl_stats s = {0};
    mg_error err = {0};
    for (int i = 0; i < 5; i++) {
        cr_assert(mg_kl_stats_add(&s, 0, q[i], p[i], true, &err) == MG_OK);
        sq += q[i], sp += p[i], sqq += q[i] * q[i], spp += p[i] * p[i], sqp += q[i] * p[i];
    }
    const double vq = (sqq / n - sq * sq / n / n) / (n - 1), vp = (spp / n - sp * sp / n / n) / (n - 1),
                 cov = (sqp / n - sq * sp / n / n) / (n - 1), pq = exp(sq / n), pp = exp(sp / n);
    mg_kl_summary r = mg_kl_stats_summary(&s);
    cr_expect_float_eq(r.ln_ratio, (sq - sp) / n, 1e-14);
    cr_expect_float_eq(r.ln_ratio_stderr, sqrt(vq + vp - 2 * cov), 1e-14);
    cr_expect_float_eq(r.correlation, cov / sqrt(vq * vp), 1e-14);
    cr_expect_float_eq(r.difference, pq - pp, 1e-14);
    cr_expect_float_eq(r.difference_stderr, sqrt(pq * pq * vq + pp * pp * vp - 2 * pq * pp * cov), 1e-13);
    mg_kl_stats_release(&s);
    for (int i = 0; i < 5; i++) cr_assert(mg_kl_stats_add(&s, 0, p[i], p[i], true, &err) == MG_OK);
    r = mg_kl_stats_summary(&s);
    cr_expect(r.correlation == 1 && r.difference == 0 && r.difference_stderr == 0 && r.ln_ratio_stderr == 0);
    mg_kl_stats_release(&s);
}

Test(sample, follows_the_distribution_and_the_filters) {
    mg_sampler s;
    mg_error err = {0};
    float x[] = {logf(0.5f), logf(0.3f), logf(0.15f), logf(0.05f), -INFINITY};
    int count[5] = {0};
    cr_assert(mg_sampler_init(&s, 1, 0, 1, 42, &err) == MG_OK);
    for (int i = 0; i < 40000; i++) {
        int32_t id;
        cr_assert(mg_sampler_next(&s, x, 5, &id, &err) == MG_OK);
        count[id]++;
    }
    const double p[] = {0.5, 0.3, 0.15, 0.05, 0};
    for (int i = 0; i < 5; i++) /* five standard deviations */
        cr_assert(fabs(count[i] - 40000 * p[i]) <= 5 * sqrt(40000 * p[i] * (1 - p[i])), "%d: %d", i, count[i]);
    s.top_p = 0.79;
    s.top_k = 3;
    for (int i = 0; i < 1000; i++) {
        int32_t id;
        cr_assert(mg_sampler_next(&s, x, 5, &id, &err) == MG_OK && id < 2);
    }
    float nan[] = {NAN, NAN};
    int32_t id;
    cr_assert_eq(mg_sampler_next(&s, nan, 2, &id, &err), MG_ERR_FAILED);
    mg_sampler_release(&s);
    cr_assert_eq(mg_sampler_init(&s, -1, 0, 1, 0, NULL), MG_ERR_USAGE);
    cr_assert_eq(mg_sampler_init(&s, 1, 0, 0, 0, NULL), MG_ERR_USAGE);
    cr_assert_eq(mg_sampler_init(&s, NAN, 0, 1, 0, NULL), MG_ERR_USAGE);
}
