/* tool_calibrate_print.c - see tool_calibrate.h. */
#include "verify/tool_calibrate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/json.h"
#include "quant/imatrix_stats.h"

static mg_status print_json(mg_json *root, mg_error *err) {
    char *text;
    mg_status st = mg_json_print(&text, root, 0, err);
    if (st == MG_OK) {
        puts(text);
        free(text);
    }
    mg_json_free(root);
    return st;
}

/* ---- a run ---- */

static mg_json *counts_json(const int64_t *counts, uint64_t n) {
    mg_json *a = mg_json_new_array();
    for (uint64_t i = 0; i < n; i++) mg_json_push(a, mg_json_new_i64(counts[i]));
    return a;
}

static void print_load(uint32_t layer, const int64_t *counts, uint32_t n) {
    enum { LINE = 16 };
    int64_t sum = 0, low = counts[0], high = counts[0];
    printf("  layer %-3u tokens per expert", layer);
    for (uint32_t i = 0; i < n; i++) {
        sum += counts[i];
        if (counts[i] < low) low = counts[i];
        if (counts[i] > high) high = counts[i];
        if (n <= LINE) printf(" %lld", (long long)counts[i]);
    }
    if (n > LINE) printf(" %lld to %lld, mean %.1f", (long long)low, (long long)high, (double)sum / n);
    printf("\n");
    for (uint32_t i = 0, said = 0; i < n && n > LINE; i++) {
        if (counts[i] >= MG_FEW_TOKENS) continue;
        if (said++ == LINE) {
            printf("    ...\n");
            break;
        }
        printf("    expert %u: %lld\n", i, (long long)counts[i]);
    }
}

static mg_json *run_json(const mg_calibrate_run *r, mg_json *layers, uint64_t experts, uint64_t unseen, uint64_t few) {
    mg_json *o = mg_json_new_object();
    mg_json_set_i64(o, "schema", 1);
    mg_json_set_str(o, "path", r->model);
    mg_json_set_str(o, "output", r->output);
    mg_json_set_u64(o, "windows", r->windows);
    mg_json_set_u64(o, "tokens", r->tokens);
    mg_json_set_u64(o, "entries", r->entries);
    mg_json_set_u64(o, "bytes", r->size);
    mg_json_set_u64(o, "experts", experts);
    mg_json_set_u64(o, "experts_without_tokens", unseen);
    mg_json_set_u64(o, "experts_with_few_tokens", few);
    mg_json_set(o, "layers", layers);
    return o;
}

mg_status mg_tool_calibrate_result(const mg_calibrate_run *r, bool json, uint64_t *unseen, uint64_t *few,
                                   mg_error *err) {
    uint64_t experts = 0;
    mg_json *layers = json ? mg_json_new_array() : NULL;
    *unseen = *few = 0;
    if (!json)
        printf("%s: %u weights from %llu windows, %llu tokens\n", r->output, r->entries, (unsigned long long)r->windows,
               (unsigned long long)r->tokens);
    for (uint32_t l = 0; l < r->layers; l++) {
        uint32_t n;
        const int64_t *counts = mg_calibration_load(r->c, l, &n);
        experts += n;
        for (uint32_t i = 0; i < n; i++) {
            *unseen += counts[i] == 0;
            *few += counts[i] > 0 && counts[i] < MG_FEW_TOKENS;
        }
        if (json && n) {
            mg_json *o = mg_json_new_object();
            mg_json_set_u64(o, "layer", l);
            mg_json_set(o, "counts", counts_json(counts, n));
            mg_json_push(layers, o);
        } else if (n) {
            print_load(l, counts, n);
        }
    }
    if (json) return print_json(run_json(r, layers, experts, *unseen, *few), err);
    if (experts)
        printf("  experts  %llu, without tokens %llu, with fewer than %d tokens %llu\n", (unsigned long long)experts,
               (unsigned long long)*unseen, MG_FEW_TOKENS, (unsigned long long)*few);
    fflush(stdout);
    return MG_OK;
}

/* ---- statistics ---- */

static mg_json *entry_json(const mg_imatrix_entry *e, const mg_imatrix_stats *s) {
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "name", e->name);
    mg_json_set(o, "counts", counts_json(e->counts, e->n_mat));
    mg_json_set_u64(o, "n", s->n);
    const struct {
        const char *key;
        double v;
    } rows[] = {
        {"sum", s->total},     {"min", s->min},       {"max", s->max},         {"mean", s->mean},
        {"stddev", s->stddev}, {"active", s->active}, {"entropy", s->entropy}, {"entropy_normalized", s->entropy_norm},
        {"zd", s->zd}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) mg_json_set_f64(o, rows[i].key, rows[i].v);
    mg_json_set(o, "cosine", s->has_cosine ? mg_json_new_f64(s->cosine) : mg_json_new_null());
    return o;
}

static void entry_line(const mg_imatrix_entry *e, const mg_imatrix_stats *s) {
    char cosine[16] = "-";
    if (s->has_cosine) snprintf(cosine, sizeof cosine, "%.4f", s->cosine);
    printf("%-36s %12.4f %10.4g %10.4g %10.4g %10.4g %7.2f%% %8llu %8.4f %7.2f%% %6.2f%% %8s\n", e->name, s->total,
           s->min, s->max, s->mean, s->stddev, 100 * s->active, (unsigned long long)s->n, s->entropy,
           100 * s->entropy_norm, 100 * s->zd, cosine);
    if (e->n_empty)
        printf("    %llu of %llu experts without tokens\n", (unsigned long long)e->n_empty,
               (unsigned long long)e->n_mat);
}

/* Blocks in the order of their numbers, names within by bytes; what is no block comes last. */
static uint64_t block_of(const char *name) {
    const char *p = strstr(name, "blk.");
    return p && p[4] >= '0' && p[4] <= '9' ? strtoull(p + 4, NULL, 10) : UINT64_MAX;
}

static int by_block(const void *a, const void *b) {
    const char *x = (*(const mg_imatrix_entry *const *)a)->name, *y = (*(const mg_imatrix_entry *const *)b)->name;
    const uint64_t m = block_of(x), n = block_of(y);
    return m != n ? (m < n ? -1 : 1) : strcmp(x, y);
}

static mg_json *file_json(const char *path, const mg_imatrix *m) {
    mg_json *o = mg_json_new_object(), *sets = mg_json_new_array();
    for (uint32_t i = 0; i < m->n_datasets; i++) mg_json_push(sets, mg_json_new_str(m->datasets[i]));
    mg_json_set_i64(o, "schema", 1);
    mg_json_set_str(o, "path", path);
    mg_json_set_str(o, "format", m->legacy ? "dat" : "gguf");
    mg_json_set(o, "datasets", sets);
    mg_json_set_i64(o, "chunk_count", m->chunk_count);
    mg_json_set_u64(o, "chunk_size", m->chunk_size);
    return o;
}

static void file_head(const char *path, const mg_imatrix *m) {
    printf("%s: %u weights, %lld chunks", path, m->n, (long long)m->chunk_count);
    if (m->chunk_size) printf(" of %llu tokens", (unsigned long long)m->chunk_size);
    for (uint32_t i = 0; i < m->n_datasets; i++) printf("%s%s", i ? ", " : ", from ", m->datasets[i]);
    printf("\n%-36s %12s %10s %10s %10s %10s %8s %8s %8s %8s %7s %8s\n", "weight", "sum(a)", "min", "max", "mean",
           "stddev", "active", "N", "entropy", "E norm", "ZD", "cosine");
}

mg_status mg_tool_calibrate_statistics(const char *path, const mg_imatrix *m, bool json, mg_error *err) {
    const mg_imatrix_entry **order = calloc(m->n + 1u, sizeof *order);
    if (!order) return mg_fail_nomem(err, m->n * sizeof *order);
    for (uint32_t i = 0; i < m->n; i++) order[i] = &m->entries[i];
    qsort(order, m->n, sizeof *order, by_block);
    mg_json *root = json ? file_json(path, m) : NULL, *list = json ? mg_json_new_array() : NULL;
    if (!json) file_head(path, m);
    for (uint32_t i = 0; i < m->n; i++) {
        const mg_imatrix_stats s = mg_imatrix_stats_of(m, order[i]);
        if (json)
            mg_json_push(list, entry_json(order[i], &s));
        else
            entry_line(order[i], &s);
    }
    free(order);
    if (!json) return MG_OK;
    mg_json_set(root, "entries", list);
    return print_json(root, err);
}
