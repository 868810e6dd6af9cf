/* compare_donors.c - see compare_donors.h. */
#include "convert/compare_donors.h"

#include "convert/merge_dense.h"
#include "quant/read_f32.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TILE ((uint64_t)1 << 18) /* elements read of each donor at a time */

/* Is the role one that becomes an expert's in a mixture made from such donors? */
static bool is_ffn(const mg_arch *dense, mg_role role) {
    for (uint32_t i = 0; i < mg_arch_count(); i++)
        if (mg_arch_made_from(mg_arch_at(i), dense) && mg_arch_expert_role(mg_arch_at(i), role) != MG_ROLE_COUNT)
            return true;
    return false;
}

static bool is_attention(mg_role role) {
    return role >= MG_R_ATTN_Q && role <= MG_R_ATTN_SINKS;
}

typedef struct sums {
    uint32_t n;
    double base[3];      /* squares by kind: ffn, attention, other */
    double (*change)[3]; /* [n] */
    double *dot;         /* [n][n] of ffn changes */
    float *x;            /* [n][TILE or one row] */
    uint64_t stride;
} sums;

static mg_status reserve(sums *s, uint64_t elements, mg_error *err) {
    if (elements <= s->stride) return MG_OK;
    free(s->x);
    s->stride = 0;
    s->x = malloc((size_t)(s->n * elements) * sizeof *s->x);
    if (!s->x) return mg_fail_nomem(err, s->n * elements * sizeof *s->x);
    s->stride = elements;
    return MG_OK;
}

static void add_tile(sums *s, int kind, uint64_t n) {
    for (uint64_t k = 0; k < n; k++) s->base[kind] += (double)s->x[k] * (double)s->x[k];
    for (uint32_t i = 1; i < s->n; i++) {
        float *x = s->x + i * s->stride;
        for (uint64_t k = 0; k < n; k++) {
            x[k] -= s->x[k];
            s->change[i][kind] += (double)x[k] * (double)x[k];
        }
        for (uint32_t j = 1; kind == 0 && j < i; j++) {
            const float *y = s->x + j * s->stride;
            for (uint64_t k = 0; k < n; k++) s->dot[i * s->n + j] += (double)x[k] * (double)y[k];
        }
    }
}

static mg_status add_weight(sums *s, mg_donor *d, mg_role role, uint32_t layer, mg_error *err) {
    const mg_bound *b = mg_model_find(d[0].model, role, layer, 0);
    if (!b) return MG_OK;
    uint64_t rows = mg_bound_rows(b), cols = b->shape[b->rank - 1], step = cols < TILE ? TILE / cols : 1;
    int kind = is_ffn(d[0].model->arch, role) ? 0 : is_attention(role) ? 1 : 2;
    MG_TRY(reserve(s, step * cols, err));
    for (uint64_t r = 0; r < rows; r += step) {
        uint64_t k = rows - r < step ? rows - r : step;
        for (uint32_t i = 0; i < s->n; i++) {
            const mg_bound *own = mg_model_find(d[i].model, role, layer, 0);
            if (!own && role == MG_R_OUTPUT) own = mg_model_find(d[i].model, MG_R_TOKEN_EMBD, 0, 0); /* a tied head */
            if (!own)
                return mg_fail(err, MG_ERR_CONFLICT, "'%s' has no %s in layer %u", d[i].name, mg_role_name(role),
                               layer);
            MG_TRY(mg_read_f32(d[i].model, own, r, k, s->x + i * s->stride, err));
        }
        add_tile(s, kind, k * cols);
    }
    return MG_OK;
}

static mg_status add_all(sums *s, mg_donor *d, mg_error *err) {
    uint32_t layers = (uint32_t)mg_hp_i(d[0].model, MG_K_LAYERS);
    for (int role = 0; role < MG_ROLE_COUNT; role++)
        for (uint32_t l = 0; l < (mg_role_scope((mg_role)role) == MG_SCOPE_MODEL ? 1 : layers); l++)
            MG_TRY(add_weight(s, d, (mg_role)role, l, err));
    return MG_OK;
}

static double ratio(double change, double base) {
    return base > 0 ? sqrt(change / base) : 0;
}

mg_status mg_donors_drift(mg_donor *d, uint32_t n, mg_donor_drift *drift, double *cosine, mg_error *err) {
    sums s = {.n = n, .change = calloc(n, sizeof *s.change), .dot = calloc((size_t)n * n, sizeof *s.dot)};
    mg_status st = s.change && s.dot ? add_all(&s, d, err) : mg_fail_nomem(err, (uint64_t)n * n * sizeof *s.dot);
    for (uint32_t i = 0; st == MG_OK && i < n; i++) {
        drift[i] = (mg_donor_drift){ratio(s.change[i][0], s.base[0]), ratio(s.change[i][1], s.base[1]),
                                    ratio(s.change[i][2], s.base[2])};
        for (uint32_t j = 0; j < n; j++) {
            double dot = i > j ? s.dot[i * n + j] : s.dot[j * n + i], lengths = sqrt(s.change[i][0] * s.change[j][0]);
            cosine[i * n + j] = i == j ? 1 : lengths > 0 ? dot / lengths : 0;
        }
    }
    free(s.change);
    free(s.dot);
    free(s.x);
    return st;
}

static mg_status add_forced(mg_plan *p, uint32_t out, mg_donor *base, mg_donor *donor, mg_error *err) {
    const mg_model *m = base->model;
    mg_targets t;
    mg_status st = mg_arch_targets(&t, m->arch, &m->hp, m->layers, MG_LAYOUT_HF, mg_model_has, m, err);
    for (size_t i = 0; st == MG_OK && i < t.n; i++) {
        const mg_expr *e = NULL;
        mg_donor *from = is_ffn(m->arch, t.items[i].parts[0].role) ? donor : base;
        st = mg_dense_donor_expr(p, from, &t.items[i], UINT32_MAX, &e, err);
        if (st == MG_OK) st = mg_plan_add_tensor(p, out, t.items[i].name, e, err);
    }
    mg_targets_release(&t);
    return st;
}

mg_status mg_donor_forced(mg_plan *p, mg_donor *base, mg_donor *donor, mg_checkpoint **out, mg_error *err) {
    uint32_t o;
    MG_TRY(mg_plan_add_output(p, MG_OUT_HF_DIR, "forced", &o, err)); /* never written */
    MG_TRY(mg_plan_set_config(p, o, base->config, err));
    MG_TRY(add_forced(p, o, base, donor, err));
    MG_TRY(mg_plan_checkpoint(p, o, out, err));
    (*out)->dir = base->ckpt->dir;
    return MG_OK;
}
