/* findings.c - see findings.h. */
#include "quant/findings.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/group_layouts.h"
#include "quant/read_f32.h"

#define F16_MAX 65504.0

__attribute__((format(printf, 4, 5))) static mg_json *finding(mg_json *list, const char *kind, const char *tensor,
                                                              const char *format, ...) {
    char text[1200];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "kind", kind);
    mg_json_set_str(o, "severity", "warning");
    if (tensor) mg_json_set_str(o, "tensor", tensor);
    mg_json_set_str(o, "text", text);
    mg_json_push(list, o);
    return o;
}

/* ---- tensors ---- */

/* What was scanned. layout: of weights quantized in groups, NULL where it is not understood. */
typedef struct scanned {
    const mg_checkpoint *c;
    const mg_scan *scan;
    const mg_group_layout *layout;
} scanned;

/* Zero points and group numbers of quantized weights are none: those of symmetric weights are all alike. */
static bool is_matrix(const scanned *s, uint32_t i) {
    const mg_tensor *t = &s->c->tensors[i];
    return t->rank >= 2 && t->n_elements > 1 && !(s->layout && s->layout->use[i] == MG_USE_HIDE);
}

static void find_zeros(mg_json *list, const scanned *x) {
    for (uint32_t i = 0; i < x->c->n_tensors; i++) {
        const mg_tensor *t = &x->c->tensors[i];
        if (is_matrix(x, i) && x->scan[i].stats.zeros == t->n_elements)
            finding(list, "all_zero", t->name, "all %llu values are 0", (unsigned long long)t->n_elements);
    }
}

static void find_zero_blocks(mg_json *list, const scanned *x) {
    for (uint32_t i = 0; i < x->c->n_tensors; i++) {
        const mg_tensor *t = &x->c->tensors[i];
        const mg_scan_stats *s = &x->scan[i].stats;
        const uint64_t cols = is_matrix(x, i) ? mg_tensor_cols(t) : 0;
        if (!cols || cols % MG_SCAN_BLOCK || !mg_codec_get(t->dtype) || !s->zero_blocks) continue;
        if (s->zeros == t->n_elements) continue; /* named as such */
        finding(list, "zero_blocks", t->name, "%llu of %llu runs of 32 values are 0, the first in row %llu",
                (unsigned long long)s->zero_blocks, (unsigned long long)(t->n_elements / MG_SCAN_BLOCK),
                (unsigned long long)(s->zero_block / cols));
    }
}

static void find_overflow(mg_json *list, const scanned *x) {
    for (uint32_t i = 0; i < x->c->n_tensors; i++) {
        const mg_scan_stats *s = &x->scan[i].stats;
        const double most = fabs(s->min) > fabs(s->max) ? s->min : s->max;
        if (mg_codec_get(x->c->tensors[i].dtype) && fabs(most) > F16_MAX)
            finding(list, "overflow", x->c->tensors[i].name,
                    "%g does not fit F16, nor the F16 scale of a quantized block", most);
    }
}

typedef struct place {
    const mg_scan *scan;
    const mg_tensor *t;
    uint32_t index;
} place;

static int by_digest(const void *x, const void *y) {
    const place *a = x, *b = y;
    int order = memcmp(a->scan->sha256, b->scan->sha256, sizeof a->scan->sha256);
    return order ? order : (a->index > b->index) - (a->index < b->index);
}

static mg_status find_duplicates(mg_json *list, const scanned *x, mg_error *err) {
    const mg_checkpoint *c = x->c;
    const mg_scan *scan = x->scan;
    place *p = malloc((c->n_tensors + 1u) * sizeof *p);
    uint32_t n = 0;
    if (!p) return mg_fail_nomem(err, (c->n_tensors + 1u) * sizeof *p);
    for (uint32_t i = 0; i < c->n_tensors; i++) /* matrices of zeros are named as such */
        if (is_matrix(x, i) && scan[i].stats.zeros != c->tensors[i].n_elements)
            p[n++] = (place){&scan[i], &c->tensors[i], i};
    if (n) qsort(p, n, sizeof *p, by_digest);
    for (uint32_t i = 1, first = 0; i < n; i++) {
        const bool same = memcmp(p[i].scan->sha256, p[first].scan->sha256, sizeof p->scan->sha256) == 0;
        if (!same || p[i].t->n_bytes != p[first].t->n_bytes) {
            first = i;
            continue;
        }
        mg_json *o = finding(list, "duplicate", p[i].t->name, "the same bytes as '%s'", p[first].t->name);
        mg_json_set_str(o, "of", p[first].t->name);
    }
    free(p);
    return MG_OK;
}

/* ---- experts ---- */

static mg_status all_zero(mg_model *m, const mg_bound *b, uint64_t row, uint64_t rows, bool *zero, mg_error *err) {
    enum { ROWS = 64 };
    const uint64_t cols = b->shape[b->rank - 1];
    float *buf = malloc(ROWS * cols * sizeof *buf + 1);
    mg_status st = buf ? MG_OK : mg_fail_nomem(err, ROWS * cols * sizeof *buf);
    *zero = true;
    for (uint64_t at = 0; st == MG_OK && *zero && at < rows; at += ROWS) {
        const uint64_t n = rows - at < ROWS ? rows - at : ROWS;
        st = mg_read_f32(m, b, row + at, n, buf, err);
        for (uint64_t i = 0; st == MG_OK && *zero && i < n * cols; i++) *zero = buf[i] == 0;
    }
    free(buf);
    return st;
}

static mg_status find_dead_expert(mg_json *list, mg_model *m, uint32_t layer, uint32_t e, mg_error *err) {
    const mg_bound *router = mg_model_find(m, MG_R_ROUTER, layer, 0);
    const mg_bound *down = mg_model_find(m, MG_R_EXPERT_DOWN, layer, e);
    bool zero = false;
    if (router && router->rank == 2 && e < mg_bound_rows(router)) {
        MG_TRY(all_zero(m, router, e, 1, &zero, err));
        if (zero)
            finding(list, "dead_expert", mg_model_tensor(m, router)->name,
                    "layer %u: the router's row of expert %u is 0", layer, e);
    }
    if (!down) return MG_OK;
    MG_TRY(all_zero(m, down, 0, mg_bound_rows(down), &zero, err));
    if (zero)
        finding(list, "dead_expert", mg_model_tensor(m, down)->name, "layer %u: expert %u adds nothing", layer, e);
    return MG_OK;
}

static mg_status find_dead_experts(mg_json *list, mg_model *m, mg_error *err) {
    for (int64_t l = 0; l < mg_hp_i(m, MG_K_LAYERS); l++)
        for (int64_t e = 0; m->layers[l].moe && e < mg_hp_i(m, MG_K_EXPERTS); e++)
            MG_TRY(find_dead_expert(list, m, (uint32_t)l, (uint32_t)e, err));
    return MG_OK;
}

/* ---- a head that is never used ---- */

/* transformers takes the embedding then, and whoever trained the head gets another model than he saved. */
static void find_unused_head(mg_json *list, const mg_model *m, const mg_checkpoint *c, const mg_scan *scan) {
    const mg_bound *b = mg_model_find(m, MG_R_TOKEN_EMBD, 0, 0);
    const mg_tensor *embd = b ? mg_model_tensor(m, b) : NULL;
    const uint32_t e = embd ? mg_checkpoint_find(c, embd->name) : MG_STRMAP_NONE;
    if (e == MG_STRMAP_NONE || !mg_hp_i(m, MG_K_TIED)) return;
    for (uint32_t t = 0; t < m->ckpt->n_tensors; t++) {
        const mg_tensor *x = &m->ckpt->tensors[t];
        if (x->n_elements != embd->n_elements || mg_model_role_of(m, t, NULL, NULL, NULL)) continue;
        const uint32_t i = mg_checkpoint_find(c, x->name);
        if (i != MG_STRMAP_NONE && memcmp(scan[i].sha256, scan[e].sha256, sizeof scan[i].sha256) != 0)
            finding(list, "config", x->name, "never used: the config ties it to '%s', which has other values",
                    embd->name);
    }
}

mg_status mg_findings(mg_json *list, mg_model *m, mg_checkpoint *c, const mg_scan *scan, mg_error *err) {
    mg_group_layout layout = {0};
    mg_error broken = {0}; /* then it is an error of the structure */
    const scanned x = {c, scan, mg_group_layout_init(&layout, c, &broken) == MG_OK ? &layout : NULL};
    find_zeros(list, &x);
    find_zero_blocks(list, &x);
    find_overflow(list, &x);
    if (m) find_unused_head(list, m, c, scan);
    mg_status st = find_duplicates(list, &x, err);
    if (st == MG_OK && m) st = find_dead_experts(list, m, err);
    if (st == MG_OK && (!list || mg_json_is_broken(list))) st = mg_fail_nomem(err, sizeof(void *));
    mg_group_layout_release(&layout);
    return st;
}
