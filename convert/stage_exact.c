/* stage_exact.c - see stage_exact.h. */
#include "convert/stage_exact.h"

#include <stdlib.h>
#include <string.h>

uint64_t mg_stage_exact_bytes(uint64_t hidden) {
    return 4 * sizeof(float) * MG_STAGE_EXACT_TOKENS * hidden;
}

/* Run part over x in place, as many sequences at a time as the stream takes. Batches do not change results. */
static mg_status run(mg_stage_exact *e, mg_model *m, unsigned part, float *x, mg_error *err) {
    const mg_evaluator *ev = e->stream->eval;
    for (uint32_t q = 0; q < e->batch.n_seqs;) {
        const mg_batch b = mg_batch_chunk(&e->batch, q, e->stream->largest);
        MG_TRY(ev->run_layer(ev->self, m, e->layer, part, &b, x, NULL, NULL, err));
        x += b.n_tokens * e->stream->hidden;
        q += b.n_seqs;
    }
    return MG_OK;
}

static mg_status reference(mg_stage_exact *e, int i, unsigned part, mg_error *err) {
    memcpy(e->x[i], e->x[i - 1], (size_t)(e->batch.n_tokens * e->stream->hidden) * sizeof(float));
    return run(e, e->model, part, e->x[i], err);
}

mg_status mg_stage_exact_init(mg_stage_exact *e, mg_stage_stream *stream, mg_model *m, uint32_t layer, mg_error *err) {
    *e = (mg_stage_exact){.stream = stream, .model = m, .layer = layer};
    const mg_stage_text *t = stream->text;
    e->len = malloc(MG_STAGE_EXACT_TOKENS * sizeof *e->len); /* a sequence has a token at least */
    if (!e->len) return mg_fail_nomem(err, MG_STAGE_EXACT_TOKENS * sizeof *e->len);
    e->batch.len = e->len;
    for (uint32_t i = 0; i < t->n_seqs && e->batch.n_tokens < MG_STAGE_EXACT_TOKENS; i++) {
        const uint64_t left = MG_STAGE_EXACT_TOKENS - e->batch.n_tokens;
        if (t->len[i] == 0) continue;
        e->len[e->batch.n_seqs++] = t->len[i] < left ? t->len[i] : (uint32_t)left;
        e->batch.n_tokens += e->len[e->batch.n_seqs - 1];
    }
    const size_t bytes = (size_t)(e->batch.n_tokens * stream->hidden + 1) * sizeof(float);
    e->work = malloc(bytes);
    for (int i = 0; i < 3; i++) e->x[i] = malloc(bytes);
    if (!e->work || !e->x[0] || !e->x[1] || !e->x[2]) return mg_fail_nomem(err, 4 * bytes);
    MG_TRY(mg_variant_new(&e->variant, m, err));
    MG_TRY(mg_stage_stream_first(stream, e->batch.n_tokens, e->x[0], err));
    MG_TRY(reference(e, 1, MG_PART_ATTN, err));
    return reference(e, 2, MG_PART_FFN, err);
}

void mg_stage_exact_release(mg_stage_exact *e) {
    mg_variant_free(e->variant);
    for (int i = 0; i < 3; i++) free(e->x[i]);
    free(e->work);
    free(e->len);
    *e = (mg_stage_exact){0};
}

mg_status mg_stage_exact_loss(mg_stage_exact *e, unsigned part, double *loss, mg_error *err) {
    const int i = part == MG_PART_ATTN ? 0 : 1;
    const uint64_t n = e->batch.n_tokens * e->stream->hidden;
    memcpy(e->work, e->x[i], (size_t)n * sizeof *e->work);
    MG_TRY(run(e, mg_variant_model(e->variant), part, e->work, err));
    *loss = 0;
    for (uint64_t k = 0; k < n; k++) {
        const double d = (double)e->work[k] - (double)e->x[i + 1][k];
        *loss += d * d;
    }
    return MG_OK;
}
