/* stage_gptq.c - GPTQ on one layer, in the order in which activations are made: q, k, v; o; gate and up; down. Each
 * step sees what the weights rounded before it really give. */
#include <stdlib.h>
#include <string.h>

#include "convert/stage_layer.h"

/* Codes of one weight into w->out, and into v. q's arrays become the pieces' own. */
static mg_status take(mg_stage_work *w, mg_variant *v, mg_role role, uint32_t expert, mg_group_codes *q,
                      mg_error *err) {
    mg_stage_piece p = {.role = role,
                        .expert = expert,
                        .what = MG_STAGE_CODES,
                        .rank = 2,
                        .shape = {q->rows, q->cols},
                        .data = q->codes};
    mg_patch patch = MG_PATCH_INIT(role, w->layer, expert);
    patch.group = w->opt->scheme.group_size;
    patch.codes = q->codes;
    patch.scales = q->scales;
    patch.zeros = q->zeros;
    patch.biases = q->biases;
    q->codes = NULL;
    MG_TRY(mg_stage_layer_add(&w->out, &p, err));
    p.shape[1] = q->groups;
    p.what = MG_STAGE_SCALES;
    p.data = q->scales;
    q->scales = NULL;
    MG_TRY(mg_stage_layer_add(&w->out, &p, err));
    p.what = q->biases ? MG_STAGE_BIASES : MG_STAGE_ZEROS;
    p.data = q->biases ? (void *)q->biases : q->zeros;
    q->biases = NULL;
    q->zeros = NULL;
    MG_TRY(mg_stage_layer_add(&w->out, &p, err));
    return mg_variant_set(v, &patch, err);
}

void mg_stage_note(mg_stage_work *w, mg_role role, uint32_t expert, const mg_gptq *h, double loss) {
    mg_json *j = mg_json_new_object();
    mg_json_set_str(j, "weight", mg_role_name(role));
    mg_json_set_i64(j, "expert", expert);
    mg_json_set_str(j, "method", h->plain ? "rounding" : "gptq");
    mg_json_set_f64(j, "damping", h->damping);
    mg_json_set_f64(j, "loss", loss);
    mg_json_push((mg_json *)mg_json_get(w->note, "gptq"), j);
}

static mg_status round_weight(mg_stage_work *w, mg_variant *v, const mg_gptq *h, mg_role role, uint32_t expert,
                              const mg_bound *b, mg_error *err) {
    mg_group_codes q;
    double loss;
    MG_TRY(mg_group_codes_init(&q, &w->opt->scheme, mg_bound_rows(b), b->shape[b->rank - 1], err));
    mg_status st = mg_gptq_round(h, w->model, b, &q, w->opt->pool, &loss, err);
    if (st == MG_OK) mg_stage_note(w, role, expert, h, loss);
    if (st == MG_OK) st = take(w, v, role, expert, &q, err);
    mg_group_codes_release(&q);
    return st;
}

/* All weights that read input x, which was gathered. */
static mg_status round_readers(mg_stage_work *w, mg_variant *v, const mg_stage_input *x, mg_error *err) {
    mg_gptq h;
    const mg_gram *gram = NULL;
    bool ready = false;
    mg_status st = MG_OK;
    for (mg_role role = 0; st == MG_OK && role < MG_ROLE_COUNT; role++) {
        if (!mg_stage_rounds(role)) continue;
        const mg_bound *b = mg_model_find(w->model, role, w->layer, x->expert);
        if (!b || mg_stage_input_of(&w->in, role, x->expert) != x) continue;
        gram = mg_stage_gram(w, role, x->expert);
        if (!ready) st = mg_gptq_init(&h, gram, x->gram.d, w->opt->damping, w->opt->pool, err);
        ready = ready || st == MG_OK;
        if (st == MG_OK)
            st = w->opt->types ? mg_stage_feedback(w, &h, role, x->expert, err)
                               : round_weight(w, v, &h, role, x->expert, b, err);
    }
    if (ready) mg_gptq_release(&h);
    return st;
}

static mg_status step(mg_stage_work *w, mg_variant *v, unsigned mask, unsigned parts, mg_error *err) {
    bool *done = calloc((size_t)w->in.n + 1, sizeof *done);
    if (!done) return mg_fail_nomem(err, w->in.n);
    mg_status st = MG_OK;
    while (st == MG_OK && mg_stage_want(w, mask, done)) {
        st = mg_stage_inputs_gather(&w->in, w->stream, mg_variant_model(v), w->layer, parts, false, err);
        for (uint32_t i = 0; st == MG_OK && i < w->in.n; i++)
            if (w->in.items[i].wanted) st = round_readers(w, v, &w->in.items[i], err);
        mg_stage_inputs_clear(&w->in);
    }
    free(done);
    if (st == MG_OK && w->opt->types) st = mg_stage_store(NULL, &w->out, w->layer, w->opt->types, v, err);
    return st;
}

mg_status mg_stage_gptq(mg_stage_work *w, mg_variant *v, mg_error *err) {
    enum { DOWN = 1 << MG_TAP_FFN_DOWN_IN | 1 << MG_TAP_EXPERT_DOWN_IN | 1 << MG_TAP_SHARED_DOWN_IN };
    MG_TRY(step(w, v, 1 << MG_TAP_ATTN_IN, MG_PART_ATTN_IN, err));
    MG_TRY(step(w, v, 1 << MG_TAP_ATTN_O_IN, MG_PART_ATTN, err));
    MG_TRY(mg_stage_inputs_gather(&w->in, w->stream, mg_variant_model(v), w->layer, MG_PART_ATTN, true, err));
    MG_TRY(step(w, v, 1 << MG_TAP_FFN_IN | 1 << MG_TAP_EXPERT_IN, MG_PART_FFN_IN | MG_PART_EXPERT_IN, err));
    MG_TRY(step(w, v, DOWN, MG_PART_DOWN_IN, err));
    if (w->last) return MG_OK;
    return mg_stage_inputs_gather(&w->in, w->stream, mg_variant_model(v), w->layer, MG_PART_FFN, true, err);
}
