/* exchange.c - see exchange.h. Three streams go through the layers: the model being built with the maps fitted so far,
 * every donor on its own prompts, and, on the held-out prompts, the model without maps. The maps of a layer act on what
 * its experts gave, so they are added here, after the layer has run without. */
#include "convert/exchange.h"

#include "convert/exchange_bond.h"
#include "convert/gates_tokens.h"
#include "convert/stage_id.h"
#include "formats/arch/arch.h"
#include "quant/math/f64.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 1024, /* tokens a layer is run on at a time */
    HELD = 4,     /* one prompt of so many is held out */
    HEAD = 64,    /* tokens whose logits are looked at at a time */
};

/* Below this share of the donors' streams' squares there is nothing to learn but rounding. */
#define NOTHING 1e-9

typedef struct work {
    const mg_exchange *r;
    const mg_hparams *hp;
    uint32_t layers, k, edges;
    uint64_t hidden, n;
    mg_prompt_batch p;
    uint32_t *first;  /* [experts + 1] first sequence of each expert's prompts */
    uint8_t *use;     /* [n] mg_exchange_use */
    double *share;    /* [n] weight of a token */
    float *x, *own;   /* [n, hidden] streams of the model and of the donors */
    float *y;         /* [n, k, hidden] what a token's experts give in this layer */
    float *w;         /* [n, k] and their weights */
    uint32_t *expert; /* [n, k] */
    uint32_t *slots;  /* [n] filled */
    uint64_t start;   /* token the chunk begins with */
    float *lack;      /* [n, hidden] own - x */
    uint64_t *token;  /* [n] of the bond */
    uint8_t *bond_use;
    double *bond_share;
    float *f, *r_bond; /* [n, 2 hidden] and [n, hidden] of the bond */
    mg_exchange_bond bond;
    float *map; /* [hidden, hidden] on its way to the file */
    mg_batch held;
    uint32_t *held_len;
    int32_t *held_ids;
    float *plain; /* [held.n_tokens, hidden] stream without maps */
    mg_stage_layout layout;
    mg_outset *set;
} work;

static void note(const work *w, const char *fmt, ...) MG_PRINTF(2, 3);
static void note(const work *w, const char *fmt, ...) {
    char text[256];
    va_list ap;
    if (!w->r->note) return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    w->r->note(w->r->note_ctx, text);
}

static void tensor_name(char *buf, size_t size, uint32_t layer, uint32_t edge) {
    snprintf(buf, size, "exchange.%u.%u", layer, edge);
}

uint32_t mg_exchange_find(const mg_checkpoint *c, uint32_t layer, uint32_t edge) {
    char name[48];
    tensor_name(name, sizeof name, layer, edge);
    return mg_checkpoint_find(c, name);
}

/* ---- prompts ---- */

static mg_status add_prompts(work *w, mg_error *err) {
    const mg_merge_spec *s = w->r->spec;
    if (!(w->first = calloc(s->n_experts + 1, sizeof *w->first))) return mg_fail_nomem(err, s->n_experts * 4);
    for (uint32_t e = 0; e < s->n_experts; e++) {
        MG_TRY(mg_prompt_batch_add_joined(&w->p, &s->experts[e].positive, e, false, w->r->moe, w->r->tok, err));
        w->first[e + 1] = w->p.batch.n_seqs;
        if (w->first[e + 1] - w->first[e] < 2)
            return mg_fail(err, MG_ERR_CONFLICT,
                           "exchange: fit needs more than a window of prompts (%d tokens) for '%s', to hold some out",
                           (int)MG_PROMPT_WINDOW, s->experts[e].source);
    }
    w->n = w->p.batch.n_tokens;
    return MG_OK;
}

/* Every fourth prompt of an expert is held out; of fewer, the last. */
static bool is_held(const work *w, uint32_t q) {
    const uint32_t e = w->p.label[q], i = q - w->first[e], n = w->first[e + 1] - w->first[e];
    return n < HELD ? i + 1 == n : i % HELD == HELD - 1;
}

/* What each token is for, the sequences that are held out, and weights: the tokens of an expert that are used the same
 * way weigh 1 together. The beginning-of-sequence position, equal for all, teaches nothing. */
static mg_status use_tokens(work *w, mg_error *err) {
    uint64_t *count = calloc(2 * (size_t)w->r->spec->n_experts, sizeof *count);
    if (!count) return mg_fail_nomem(err, w->r->spec->n_experts * sizeof *count);
    uint64_t t = 0, held = 0;
    for (uint32_t q = 0; q < w->p.batch.n_seqs; q++) {
        const bool out = is_held(w, q);
        if (out) {
            memcpy(w->held_ids + held, w->p.ids + t, w->p.lens[q] * sizeof *w->held_ids);
            w->held_len[w->held.n_seqs++] = w->p.lens[q];
            held += w->p.lens[q];
        }
        for (uint32_t i = 0; i < w->p.lens[q]; i++, t++) {
            w->use[t] = i == 0 ? MG_EXCHANGE_SKIP : out ? MG_EXCHANGE_HELD : MG_EXCHANGE_TRAIN;
            if (i) count[2 * w->p.label[q] + out]++;
        }
    }
    w->held.len = w->held_len;
    w->held.n_tokens = held;
    t = 0;
    for (uint32_t q = 0; q < w->p.batch.n_seqs; q++)
        for (uint32_t i = 0; i < w->p.lens[q]; i++, t++) {
            const uint64_t n = count[2 * w->p.label[q] + (w->use[t] == MG_EXCHANGE_HELD)];
            w->share[t] = n ? 1.0 / (double)n : 0;
        }
    free(count);
    return MG_OK;
}

/* ---- streams ---- */

/* Run a layer on sequences, a chunk at a time: the bits do not depend on how they are cut. */
static mg_status run_layer(work *w, mg_model *m, uint32_t layer, const mg_batch *b, float *x, mg_tap_fn tap,
                           mg_error *err) {
    const mg_evaluator *ev = w->r->eval;
    w->start = 0;
    mg_batch c;
    for (uint32_t q = 0; q < b->n_seqs; q += c.n_seqs, w->start += c.n_tokens) {
        c = mg_batch_chunk(b, q, CHUNK);
        MG_TRY(ev->run_layer(ev->self, m, layer, MG_PART_ALL, &c, x + w->start * w->hidden, tap, w, err));
    }
    return MG_OK;
}

/* Every donor on its own prompts. The model has their feed-forward blocks, but not their streams: those differ by all
 * that the layers before have got wrong, and by the attention where that was trained too. */
static mg_status embed_own(work *w, mg_error *err) {
    const mg_evaluator *ev = w->r->eval;
    uint64_t t = 0;
    for (uint32_t e = 0; e < w->r->spec->n_experts; e++) {
        uint64_t n = 0;
        for (uint32_t q = w->first[e]; q < w->first[e + 1]; q++) n += w->p.lens[q];
        MG_TRY(ev->embed(ev->self, w->r->donors[e].model, w->p.ids + t, n, w->own + t * w->hidden, err));
        t += n;
    }
    return MG_OK;
}

static mg_status run_own(work *w, uint32_t layer, mg_error *err) {
    uint64_t t = 0;
    for (uint32_t e = 0; e < w->r->spec->n_experts; e++) {
        mg_batch b = {w->first[e + 1] - w->first[e], w->p.lens + w->first[e], 0};
        for (uint32_t q = 0; q < b.n_seqs; q++) b.n_tokens += b.len[q];
        MG_TRY(run_layer(w, w->r->donors[e].model, layer, &b, w->own + t * w->hidden, NULL, err));
        t += b.n_tokens;
    }
    return MG_OK;
}

/* Experts come in ascending order, so a token's slots are filled in that order. */
static mg_status keep_outputs(void *ctx, const mg_tap *tap, mg_error *err) {
    work *w = ctx;
    if (tap->point != MG_TAP_EXPERT_OUT) return MG_OK;
    for (uint64_t i = 0; i < tap->rows; i++) {
        const uint64_t t = w->start + tap->token[i];
        if (w->slots[t] == w->k) return mg_fail(err, MG_ERR_INTERNAL, "a token has more experts than its model says");
        const uint64_t at = t * w->k + w->slots[t]++;
        w->expert[at] = tap->expert;
        w->w[at] = tap->weight[i];
        memcpy(w->y + at * w->hidden, tap->data + i * w->hidden, w->hidden * sizeof *w->y);
    }
    return MG_OK;
}

/* ---- the bonds of a layer ---- */

static uint32_t slot_of(const work *w, uint64_t t, uint32_t expert) {
    for (uint32_t s = 0; s < w->slots[t]; s++)
        if (w->expert[t * w->k + s] == expert) return s;
    return UINT32_MAX;
}

/* Tokens that chose both ends, what their maps read, and what is lacking. */
static void gather(work *w, uint32_t a, uint32_t b) {
    const uint64_t h = w->hidden;
    const float scale = (float)mg_hp_f(w->r->moe, MG_K_EXCHANGE_SCALE);
    uint64_t n = 0;
    for (uint64_t t = 0; t < w->n; t++) {
        const uint32_t sa = slot_of(w, t, a), sb = slot_of(w, t, b);
        if (sa == UINT32_MAX || sb == UINT32_MAX) continue;
        const uint64_t pa = t * w->k + sa, pb = t * w->k + sb;
        for (uint64_t j = 0; j < h; j++) {
            w->f[n * 2 * h + j] = scale * w->w[pb] * w->y[pa * h + j];
            w->f[n * 2 * h + h + j] = scale * w->w[pa] * w->y[pb * h + j];
        }
        memcpy(w->r_bond + n * h, w->lack + t * h, h * sizeof *w->lack);
        w->bond_use[n] = w->use[t];
        w->bond_share[n] = w->share[t];
        w->token[n++] = t;
    }
    w->bond.n = n;
}

static mg_status write_map(work *w, uint32_t layer, uint32_t edge, const double *x, mg_error *err) {
    const uint64_t h = w->hidden;
    for (uint64_t o = 0; o < h; o++)
        for (uint64_t j = 0; j < h; j++) w->map[o * h + j] = x ? (float)x[o * 2 * h + j] : 0.0f;
    const uint64_t at = w->layout.offsets[(uint64_t)layer * w->edges + edge];
    return mg_outset_write(w->set, 0, at, w->map, h * h * sizeof *w->map, err);
}

static uint32_t edge_from(const work *w, uint32_t from, uint32_t to) {
    uint32_t s, d, e = 0;
    for (; e < w->edges; e++) {
        mg_edge_at(w->hp, e, &s, &d);
        if (s == from && d == to) break;
    }
    return e;
}

static mg_status fit_bond(work *w, uint32_t layer, uint32_t edge, bool *fitted, mg_error *err) {
    uint32_t a, b;
    mg_exchange_error e;
    mg_edge_at(w->hp, edge, &a, &b);
    gather(w, a, b);
    MG_TRY(mg_exchange_solve(&w->bond, &e, fitted, err));
    MG_TRY(write_map(w, layer, edge, *fitted ? w->bond.x : NULL, err));
    MG_TRY(write_map(w, layer, edge_from(w, b, a), *fitted ? w->bond.x + w->hidden : NULL, err));
    for (uint64_t i = 0; *fitted && i < w->bond.n; i++)
        for (uint64_t j = 0; j < w->hidden; j++) {
            const uint64_t at = w->token[i] * w->hidden + j;
            w->x[at] += w->bond.given[i * w->hidden + j];
            w->lack[at] = w->own[at] - w->x[at];
        }
    return MG_OK;
}

/* Sum of weighted squares of what is lacking, and of the donors' streams, of tokens used so. */
static double squares(const work *w, const float *x, mg_exchange_use use) {
    double sum = 0;
    for (uint64_t t = 0; t < w->n; t++) {
        double s = 0;
        if (w->use[t] != use) continue;
        for (uint64_t j = 0; j < w->hidden; j++) s += (double)x[t * w->hidden + j] * (double)x[t * w->hidden + j];
        sum += w->share[t] * s;
    }
    return sum;
}

static mg_status fit_layer(work *w, uint32_t layer, uint32_t *n_fitted, mg_error *err) {
    for (uint64_t i = 0; i < w->n * w->hidden; i++) w->lack[i] = w->own[i] - w->x[i];
    const double before = squares(w, w->lack, MG_EXCHANGE_HELD);
    const bool any = squares(w, w->lack, MG_EXCHANGE_TRAIN) > NOTHING * squares(w, w->own, MG_EXCHANGE_TRAIN);
    uint32_t here = 0, bonds = 0;
    for (uint32_t e = 0, a, b; e < w->edges; e++) {
        bool fitted = false;
        mg_edge_at(w->hp, e, &a, &b);
        if (b < a) continue; /* with the other direction */
        bonds++;
        if (any)
            MG_TRY(fit_bond(w, layer, e, &fitted, err));
        else
            for (int k = 0; k < 2; k++) MG_TRY(write_map(w, layer, k ? edge_from(w, b, a) : e, NULL, err));
        here += fitted;
    }
    *n_fitted += here;
    if (any)
        note(w, "exchange maps, layer %u: %u of %u bonds, held-out distance from the donors %.4f of what it was", layer,
             here, bonds, sqrt(squares(w, w->lack, MG_EXCHANGE_HELD) / before));
    return MG_OK;
}

static mg_status run_moe_layer(work *w, uint32_t layer, uint32_t *n_fitted, mg_error *err) {
    mg_model *m = w->r->moe;
    memset(w->slots, 0, w->n * sizeof *w->slots);
    MG_TRY(run_own(w, layer, err));
    MG_TRY(run_layer(w, m, layer, &w->held, w->plain, NULL, err));
    MG_TRY(run_layer(w, m, layer, &w->p.batch, w->x, m->layers[layer].moe ? keep_outputs : NULL, err));
    return m->layers[layer].moe ? fit_layer(w, layer, n_fitted, err) : MG_OK;
}

/* ---- what it is worth ---- */

/* Cross entropy of the token that follows each of rows [n, hidden], added with the weights of the tokens they are. */
static mg_status add_loss(const work *w, const float *x, const int32_t *next, const double *share, uint64_t n,
                          float *logits, double *loss, mg_error *err) {
    const mg_evaluator *ev = w->r->eval;
    const uint64_t vocab = (uint64_t)mg_hp_i(w->r->moe, MG_K_VOCAB);
    for (uint64_t i = 0; i < n; i += HEAD) {
        const uint64_t k = n - i < HEAD ? n - i : HEAD;
        MG_TRY(ev->logits(ev->self, w->r->moe, x + i * w->hidden, k, logits, err));
        for (uint64_t t = 0; t < k; t++) {
            const float *z = logits + t * vocab;
            double top = (double)z[0], sum = 0;
            for (uint64_t v = 1; v < vocab; v++) top = (double)z[v] > top ? (double)z[v] : top;
            for (uint64_t v = 0; v < vocab; v++) sum += mg_f64_exp((double)z[v] - top);
            *loss += share[i + t] * (mg_f64_log(sum) + top - (double)z[next[i + t]]);
        }
    }
    return MG_OK;
}

/* Mean next-token loss of the held-out prompts, experts weighing the same, with the maps and without. */
static mg_status losses(work *w, double *with, double *without, mg_error *err) {
    const uint64_t vocab = (uint64_t)mg_hp_i(w->r->moe, MG_K_VOCAB);
    float *logits = malloc((size_t)(HEAD * vocab) * sizeof *logits);
    if (!logits) return mg_fail_nomem(err, HEAD * vocab * sizeof *logits);
    mg_status st = MG_OK;
    *with = *without = 0;
    uint64_t t = 0, held = 0;
    for (uint32_t q = 0; st == MG_OK && q < w->p.batch.n_seqs; t += w->p.lens[q++]) {
        const uint64_t n = w->p.lens[q] - 1;
        if (!is_held(w, q)) continue;
        /* the weight of the token that is foretold */
        st = add_loss(w, w->x + t * w->hidden, w->p.ids + t + 1, w->share + t + 1, n, logits, with, err);
        if (st == MG_OK)
            st = add_loss(w, w->plain + held * w->hidden, w->p.ids + t + 1, w->share + t + 1, n, logits, without, err);
        held += w->p.lens[q];
    }
    *with /= w->r->spec->n_experts;
    *without /= w->r->spec->n_experts;
    free(logits);
    return st;
}

static mg_status judge(work *w, mg_error *err) {
    double with, without;
    MG_TRY(losses(w, &with, &without, err));
    const bool keep = with < without;
    note(w, "exchange maps: held-out loss %.5f with them, %.5f without%s", with, without,
         keep ? "" : ": all of them stay zero");
    for (uint32_t l = 0; !keep && l < w->layers; l++)
        for (uint32_t e = 0; w->r->moe->layers[l].moe && e < w->edges; e++) MG_TRY(write_map(w, l, e, NULL, err));
    return MG_OK;
}

/* ---- the whole ---- */

static mg_status alloc(work *w, mg_error *err) {
    const uint64_t n = w->n, h = w->hidden, d = 2 * h, f = sizeof(float);
    const struct {
        void *p;
        uint64_t size;
    } all[] = {{&w->use, n},
               {&w->share, n * 8},
               {&w->x, n * h * f},
               {&w->own, n * h * f},
               {&w->lack, n * h * f},
               {&w->y, n * w->k * h * f},
               {&w->w, n * w->k * f},
               {&w->expert, n * w->k * 4},
               {&w->slots, n * 4},
               {&w->token, n * 8},
               {&w->bond_use, n},
               {&w->bond_share, n * 8},
               {&w->f, n * d * f},
               {&w->r_bond, n * h * f},
               {&w->bond.given, n * h * f},
               {&w->bond.scaled, n * d * f},
               {&w->bond.wanted, n * h * f},
               {&w->bond.x, h * d * 8},
               {&w->bond.side, h * d * 8},
               {&w->bond.gram, d * d * 8},
               {&w->bond.factor, d * d * 8},
               {&w->map, h * h * f},
               {&w->held_len, w->p.batch.n_seqs * sizeof(uint32_t)},
               {&w->held_ids, n * 4},
               {&w->plain, n * h * f}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        void *p = malloc(all[i].size);
        if (!p) return mg_fail_nomem(err, all[i].size);
        memcpy(all[i].p, &p, sizeof p);
    }
    return MG_OK;
}

static void release(work *w) {
    void *const all[] = {w->use,       w->share,     w->x,           w->own,         w->lack,        w->y,
                         w->w,         w->expert,    w->slots,       w->token,       w->bond_use,    w->bond_share,
                         w->f,         w->r_bond,    w->bond.given,  w->bond.scaled, w->bond.wanted, w->bond.x,
                         w->bond.side, w->bond.gram, w->bond.factor, w->map,         w->held_len,    w->held_ids,
                         w->plain,     w->first};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    mg_prompt_batch_release(&w->p);
    mg_stage_layout_release(&w->layout);
    mg_outset_free(w->set);
}

static mg_status lay_out(work *w, mg_xxh128 id, mg_error *err) {
    const uint64_t shape[2] = {w->hidden, w->hidden};
    MG_TRY(mg_stage_layout_begin(&w->layout, w->layers * w->edges, err));
    for (uint32_t i = 0; i < w->layout.n; i++) {
        char name[48];
        tensor_name(name, sizeof name, i / w->edges, i % w->edges);
        MG_TRY(mg_stage_layout_tensor(&w->layout, i, name, MG_F32, 2, shape, err));
    }
    return mg_stage_layout_end(&w->layout, id, NULL, err);
}

static mg_status fit_all(work *w, mg_error *err) {
    const mg_evaluator *ev = w->r->eval;
    uint32_t n_fitted = 0;
    MG_TRY(use_tokens(w, err));
    MG_TRY(ev->embed(ev->self, w->r->moe, w->p.ids, w->n, w->x, err));
    MG_TRY(ev->embed(ev->self, w->r->moe, w->held_ids, w->held.n_tokens, w->plain, err));
    MG_TRY(embed_own(w, err));
    for (uint32_t l = 0; l < w->layers; l++) MG_TRY(run_moe_layer(w, l, &n_fitted, err));
    if (n_fitted) return judge(w, err);
    note(w, "exchange maps: none makes the held-out prompts' error smaller, they stay zero");
    return MG_OK;
}

static mg_status run_all(work *w, const char *path, mg_xxh128 id, mg_error *err) {
    MG_TRY(add_prompts(w, err));
    MG_TRY(alloc(w, err));
    w->bond.hidden = w->hidden;
    w->bond.f = w->f;
    w->bond.r = w->r_bond;
    w->bond.c = w->bond_share;
    w->bond.use = w->bond_use;
    w->bond.pool = w->r->pool;
    MG_TRY(lay_out(w, id, err));
    MG_TRY(mg_stage_set_begin(&w->set, path, id, &w->layout, err));
    MG_TRY(fit_all(w, err));
    return mg_stage_set_end(w->set, &w->layout, err);
}

mg_status mg_exchange_run(const mg_exchange *r, const char *path, mg_xxh128 id, mg_error *err) {
    if (mg_stage_id_at(path, id)) return MG_OK;
    const int64_t used = mg_hp_i(r->moe, MG_K_EXPERTS_USED), experts = mg_hp_i(r->moe, MG_K_EXPERTS);
    work w = {.r = r,
              .hp = &r->moe->hp,
              .layers = (uint32_t)mg_hp_i(r->moe, MG_K_LAYERS),
              .k = (uint32_t)(used > 0 && used < experts ? used : experts),
              .edges = mg_edge_count(&r->moe->hp),
              .hidden = (uint64_t)mg_hp_i(r->moe, MG_K_HIDDEN)};
    mg_status st = run_all(&w, path, id, err);
    release(&w);
    return st;
}
