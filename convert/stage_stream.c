/* stage_stream.c - see stage_stream.h. */
#include "convert/stage_stream.h"

#include <stdlib.h>
#include <string.h>

/* Whole sequences until a batch would pass `tokens`. */
static mg_status cut(mg_stage_stream *s, uint64_t tokens, mg_error *err) {
    const mg_stage_text *t = s->text;
    s->batches = calloc((size_t)t->n_seqs + 1, sizeof *s->batches);
    if (!s->batches) return mg_fail_nomem(err, t->n_seqs * sizeof *s->batches);
    uint64_t at = 0;
    for (uint32_t i = 0; i < t->n_seqs; i++) {
        struct mg_stage_batch *b = s->n_batches ? &s->batches[s->n_batches - 1] : NULL;
        if (!b || (b->batch.n_tokens && b->batch.n_tokens + t->len[i] > tokens)) {
            b = &s->batches[s->n_batches++];
            b->batch.len = t->len + i;
            b->token = at;
        }
        b->batch.n_seqs++;
        b->batch.n_tokens += t->len[i];
        at += t->len[i];
        if (b->batch.n_tokens > s->largest) s->largest = b->batch.n_tokens;
    }
    return at == t->n_tokens ? MG_OK : mg_fail(err, MG_ERR_INTERNAL, "sequences do not add up");
}

static mg_status store(mg_stage_stream *s, const struct mg_stage_batch *b, mg_error *err) {
    const size_t floats = (size_t)(b->batch.n_tokens * s->hidden);
    if (s->out) return mg_zcapture_write(s->out, s->buf, floats * sizeof(float), err);
    memcpy(s->x + b->token * s->hidden, s->buf, floats * sizeof(float));
    return MG_OK;
}

static mg_status load(mg_stage_stream *s, const struct mg_stage_batch *b, mg_error *err) {
    const size_t floats = (size_t)(b->batch.n_tokens * s->hidden);
    if (s->in) return mg_zcapture_read(s->in, s->buf, floats * sizeof(float), err);
    memcpy(s->buf, s->x + b->token * s->hidden, floats * sizeof(float));
    return MG_OK;
}

/* What was written becomes what is read. */
static void turn(mg_stage_stream *s) {
    if (!s->out) return;
    mg_zcapture_free(s->in);
    s->in = s->out;
    s->out = NULL;
}

mg_status mg_stage_stream_init(mg_stage_stream *s, const mg_evaluator *eval, mg_model *m, const mg_stage_text *text,
                               uint64_t memory, mg_error *err) {
    *s = (mg_stage_stream){.eval = eval, .text = text, .hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN)};
    const uint64_t each = text->token_bytes + 4 * s->hidden;
    MG_TRY(cut(s, memory / 2 / each, err));
    const bool fits = text->n_tokens <= memory / 2 / (4 * s->hidden);
    s->buf = malloc((size_t)(s->largest * s->hidden + 1) * sizeof *s->buf);
    if (fits) s->x = malloc((size_t)(text->n_tokens * s->hidden + 1) * sizeof *s->x);
    if (!s->buf || (fits && !s->x)) return mg_fail_nomem(err, text->n_tokens * s->hidden * sizeof *s->x);
    if (!fits) MG_TRY(mg_zcapture_new(&s->out, NULL, err));
    for (uint32_t i = 0; i < s->n_batches; i++) {
        const struct mg_stage_batch *b = &s->batches[i];
        MG_TRY(eval->embed(eval->self, m, text->ids + b->token, b->batch.n_tokens, s->buf, err));
        MG_TRY(store(s, b, err));
    }
    turn(s);
    return MG_OK;
}

void mg_stage_stream_release(mg_stage_stream *s) {
    free(s->batches);
    free(s->x);
    free(s->buf);
    mg_zcapture_free(s->in);
    mg_zcapture_free(s->out);
    *s = (mg_stage_stream){0};
}

mg_status mg_stage_stream_run(mg_stage_stream *s, mg_model *m, uint32_t layer, unsigned parts, bool keep, mg_tap_fn tap,
                              void *ctx, mg_error *err) {
    if (s->in) MG_TRY(mg_zcapture_rewind(s->in, err));
    if (s->in && keep) MG_TRY(mg_zcapture_new(&s->out, NULL, err));
    for (uint32_t i = 0; i < s->n_batches; i++) {
        const struct mg_stage_batch *b = &s->batches[i];
        MG_TRY(load(s, b, err));
        MG_TRY(s->eval->run_layer(s->eval->self, m, layer, parts, &b->batch, s->buf, tap, ctx, err));
        if (keep) MG_TRY(store(s, b, err));
    }
    turn(s);
    return MG_OK;
}

mg_status mg_stage_stream_first(mg_stage_stream *s, uint64_t n, float *x, mg_error *err) {
    const size_t bytes = (size_t)(n * s->hidden) * sizeof *x;
    if (!s->in) {
        memcpy(x, s->x, bytes);
        return MG_OK;
    }
    MG_TRY(mg_zcapture_rewind(s->in, err));
    return mg_zcapture_read(s->in, x, bytes, err);
}
