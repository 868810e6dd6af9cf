/* act_drift.c - see act_drift.h. */
#include "verify/act_drift.h"

#include "quant/math/f64.h"
#include "quant/math/topk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_ROWS 64u /* rows read back at a time */
#define MAX_TOP_K  64u /* more experts per token than this are compared over their best 64 */

/* ---- the reference ---- */

void mg_act_ref_init(mg_act_ref *r, const mg_model *m) {
    memset(r, 0, sizeof *r);
    r->want_routers = mg_hp_i(m, MG_K_EXPERTS) > 0;
}

static void drop(mg_act_ref *r) {
    mg_zcapture_free(r->layers);
    mg_zcapture_free(r->routers);
    r->layers = r->routers = NULL;
}

void mg_act_ref_release(mg_act_ref *r) {
    drop(r);
}

static mg_status begin(mg_act_ref *r, mg_error *err) {
    drop(r);
    MG_TRY(mg_zcapture_new(&r->layers, r->tmp_dir, err));
    if (r->want_routers) MG_TRY(mg_zcapture_new(&r->routers, r->tmp_dir, err));
    r->writing = true;
    return MG_OK;
}

mg_status mg_act_ref_tap(void *ctx, const mg_tap *tap, mg_error *err) {
    mg_act_ref *r = ctx;
    bool router = tap->point == MG_TAP_ROUTER_LOGITS && r->want_routers;
    if (tap->point != MG_TAP_LAYER_OUT && !router) return MG_OK;
    if (!r->writing) MG_TRY(begin(r, err));
    return mg_zcapture_write(router ? r->routers : r->layers, tap->data, tap->rows * tap->cols * sizeof(float), err);
}

mg_status mg_act_ref_rewind(mg_act_ref *r, mg_error *err) {
    r->writing = false;
    if (r->layers) MG_TRY(mg_zcapture_rewind(r->layers, err));
    return r->routers ? mg_zcapture_rewind(r->routers, err) : MG_OK;
}

/* ---- a candidate ---- */

mg_status mg_act_drift_init(mg_act_drift *d, mg_act_ref *ref, const mg_model *a, const mg_model *b, uint32_t top_k,
                            mg_error *err) {
    memset(d, 0, sizeof *d);
    d->ref = ref;
    if (mg_hp_i(a, MG_K_LAYERS) != mg_hp_i(b, MG_K_LAYERS) || mg_hp_i(a, MG_K_HIDDEN) != mg_hp_i(b, MG_K_HIDDEN))
        return MG_OK;
    d->n_layers = (uint32_t)mg_hp_i(a, MG_K_LAYERS);
    bool routers = mg_hp_i(a, MG_K_EXPERTS) > 0 && mg_hp_i(a, MG_K_EXPERTS) == mg_hp_i(b, MG_K_EXPERTS);
    for (uint32_t l = 0; routers && l < d->n_layers; l++) routers = a->layers[l].moe == b->layers[l].moe;
    d->experts = routers ? (uint32_t)mg_hp_i(a, MG_K_EXPERTS) : 0;
    d->top_k_ref = top_k ? top_k : (uint32_t)mg_hp_i(a, MG_K_EXPERTS_USED);
    d->top_k_cand = top_k ? top_k : (uint32_t)mg_hp_i(b, MG_K_EXPERTS_USED);
    uint32_t most = d->experts < MAX_TOP_K ? d->experts : MAX_TOP_K;
    if (d->top_k_ref > most) d->top_k_ref = most;
    if (d->top_k_cand > most) d->top_k_cand = most;
    uint64_t width = (uint64_t)mg_hp_i(a, MG_K_HIDDEN) > d->experts ? (uint64_t)mg_hp_i(a, MG_K_HIDDEN) : d->experts;
    d->buf_floats = CHUNK_ROWS * width;
    d->layer = calloc(d->n_layers, sizeof *d->layer);
    d->routing = calloc(d->n_layers, sizeof *d->routing);
    d->loads = calloc((uint64_t)2 * d->n_layers * d->experts + 1, sizeof *d->loads);
    d->buf = malloc(d->buf_floats * sizeof *d->buf);
    if (!d->layer || !d->routing || !d->loads || !d->buf) return mg_fail_nomem(err, d->buf_floats * sizeof *d->buf);
    for (uint32_t l = 0; l < d->n_layers; l++) {
        d->routing[l].load_ref = d->loads + (uint64_t)2 * l * d->experts;
        d->routing[l].load_cand = d->routing[l].load_ref + d->experts;
    }
    return MG_OK;
}

void mg_act_drift_release(mg_act_drift *d) {
    free(d->layer);
    free(d->routing);
    free(d->loads);
    free(d->buf);
    memset(d, 0, sizeof *d);
}

static void compare_rows(mg_layer_stat *s, const float *ref, const float *cand, uint64_t rows, uint64_t cols) {
    for (uint64_t r = 0; r < rows; r++, ref += cols, cand += cols) {
        double dot = 0, rr = 0, cc = 0, dd = 0;
        for (uint64_t k = 0; k < cols; k++) {
            double x = (double)ref[k], y = (double)cand[k];
            dot += x * y;
            rr += x * x;
            cc += y * y;
            dd += (x - y) * (x - y);
        }
        s->cosine_sum += rr > 0 && cc > 0 ? dot / sqrt(rr * cc) : rr == cc;
        s->diff_sq += dd;
        s->ref_sq += rr;
    }
    s->tokens += rows;
}

/* KL of the softmaxes of two short rows. */
static double softmax_kl(const float *a, const float *b, uint32_t n) {
    double ma = (double)a[0], mb = (double)b[0], sa = 0, sb = 0, kl = 0;
    for (uint32_t i = 1; i < n; i++) {
        ma = (double)a[i] > ma ? (double)a[i] : ma;
        mb = (double)b[i] > mb ? (double)b[i] : mb;
    }
    for (uint32_t i = 0; i < n; i++) {
        sa += mg_f64_exp((double)a[i] - ma);
        sb += mg_f64_exp((double)b[i] - mb);
    }
    double la = mg_f64_log(sa), lb = mg_f64_log(sb);
    for (uint32_t i = 0; i < n; i++) {
        double pa = (double)a[i] - ma - la, pb = (double)b[i] - mb - lb;
        kl += mg_f64_exp(pa) * (pa - pb);
    }
    return kl;
}

const double mg_margin_ends[MG_MARGINS - 1] = {0.05, 0.1, 0.25, 0.5, 1};

static void add_margin(mg_routing_stat *s, double margin, bool flip) {
    unsigned i = 0;
    while (i < MG_MARGINS - 1 && margin >= mg_margin_ends[i]) i++;
    s->margin[i].tokens++;
    s->margin[i].flips += flip;
}

static void compare_routing(mg_routing_stat *s, const mg_act_drift *d, const float *ref, const float *cand,
                            uint64_t rows) {
    uint32_t a[MAX_TOP_K + 1], b[MAX_TOP_K], n = d->experts, ka = d->top_k_ref, kb = d->top_k_cand;
    const uint32_t next = ka < n ? ka + 1 : ka; /* and the first that was not chosen */
    for (uint64_t r = 0; r < rows; r++, ref += n, cand += n) {
        mg_topk(ref, n, next, a);
        mg_topk(cand, n, kb, b);
        uint32_t shared = 0, ordered = 0;
        for (uint32_t i = 0; i < ka; i++)
            for (uint32_t j = 0; j < kb; j++) shared += a[i] == b[j];
        for (uint32_t i = 0; i < ka && i < kb; i++) ordered += a[i] == b[i];
        const bool same = ka == kb && shared == ka;
        s->same_set += same;
        s->same_order += ka == kb && ordered == ka;
        if (next > ka) add_margin(s, (double)ref[a[ka - 1]] - (double)ref[a[ka]], !same);
        s->same_first += a[0] == b[0];
        s->weight_kl_sum += softmax_kl(ref, cand, n);
        for (uint32_t i = 0; i < ka; i++) s->load_ref[a[i]]++;
        for (uint32_t i = 0; i < kb; i++) s->load_cand[b[i]]++;
    }
    s->tokens += rows;
}

mg_status mg_act_drift_tap(void *ctx, const mg_tap *tap, mg_error *err) {
    mg_act_drift *d = ctx;
    bool router = tap->point == MG_TAP_ROUTER_LOGITS && d->experts;
    if ((tap->point != MG_TAP_LAYER_OUT && !router) || d->n_layers == 0) return MG_OK;
    mg_zcapture *from = router ? d->ref->routers : d->ref->layers;
    uint64_t chunk = d->buf_floats / tap->cols;
    for (uint64_t at = 0; at < tap->rows; at += chunk) {
        uint64_t n = tap->rows - at < chunk ? tap->rows - at : chunk;
        MG_TRY(mg_zcapture_read(from, d->buf, n * tap->cols * sizeof *d->buf, err));
        const float *cand = tap->data + at * tap->cols;
        if (router)
            compare_routing(&d->routing[tap->layer], d, d->buf, cand, n);
        else
            compare_rows(&d->layer[tap->layer], d->buf, cand, n, tap->cols);
    }
    return MG_OK;
}
