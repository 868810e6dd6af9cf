/* capture.c - see capture.h. */
#include "verify/capture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/safetensors.h"
#include "verify/fbuf.h"
#include "verify/onefile.h"

#define DEFAULT_MEMORY (1ull << 30)
#define NONE           UINT32_MAX

typedef struct capture {
    mg_forward *f;
    mg_forward64 *f64;
    mg_model *m;
    const mg_windows *w;
    const mg_capture_options *opt;
    mg_onefile out;
    mg_arena arena;
    uint32_t layers, n_tensors;
    mg_tensor *tensors;
    uint64_t *offsets; /* [n_tensors] in the file */
    uint32_t logits, input_ids;
    uint32_t *hidden, *router; /* tensors by layer, NONE when not captured; hidden has layers + 1 */
    uint64_t len, width, vocab, experts;
    uint64_t token;        /* first token of the current batch */
    mg_dtype dtype;        /* of the file */
    mg_fbuf narrow, slice; /* f32 copies of doubles; logits */
    double *slice64;
} capture;

mg_status mg_capture_parse(const char *text, unsigned *what, mg_error *err) {
    *what = 0;
    for (const char *p = text; *p;) {
        const size_t n = strcspn(p, ",");
        if (n == 6 && !strncmp(p, "logits", n))
            *what |= MG_CAPTURE_LOGITS;
        else if (n == 6 && !strncmp(p, "hidden", n))
            *what |= MG_CAPTURE_HIDDEN;
        else if (n == 6 && !strncmp(p, "router", n))
            *what |= MG_CAPTURE_ROUTER;
        else
            return mg_fail(err, MG_ERR_USAGE, "cannot capture '%.*s': logits, hidden or router", (int)n, p);
        p += n + (p[n] == ',');
    }
    return *what ? MG_OK : mg_fail(err, MG_ERR_USAGE, "nothing to capture: logits, hidden or router");
}

/* --- layout --- */

static mg_status add_tensor(capture *c, uint32_t *index, const char *name, uint32_t rank, const uint64_t *shape,
                            mg_error *err) {
    mg_tensor *t = &c->tensors[c->n_tensors];
    *t = (mg_tensor){.name = name, .dtype = index == &c->input_ids ? MG_I64 : c->dtype, .rank = rank};
    for (uint32_t i = 0; i < rank; i++) t->shape[i] = shape[i];
    if (!name) return mg_fail_nomem(err, 32);
    if (!mg_tensor_set_sizes(t)) return mg_fail(err, MG_ERR_LIMIT, "captured tensor '%s' is too large", name);
    *index = c->n_tensors++;
    return MG_OK;
}

static mg_status list_tensors(capture *c, mg_error *err) {
    const uint64_t batch = c->w->n;
    MG_TRY(MG_ARENA_NEW(&c->arena, &c->tensors, 2u * c->layers + 3u, err));
    MG_TRY(MG_ARENA_NEW(&c->arena, &c->offsets, 2u * c->layers + 3u, err));
    MG_TRY(MG_ARENA_NEW(&c->arena, &c->hidden, c->layers + 1u, err));
    MG_TRY(MG_ARENA_NEW(&c->arena, &c->router, c->layers + 1u, err));
    c->logits = c->input_ids = NONE;
    if (c->opt->what & MG_CAPTURE_LOGITS) { /* logits with the ids they are of are a recording that verify takes */
        MG_TRY(add_tensor(c, &c->logits, "logits", 3, (uint64_t[]){batch, c->len, c->vocab}, err));
        MG_TRY(add_tensor(c, &c->input_ids, "input_ids", 2, (uint64_t[]){batch, c->len}, err));
    }
    uint32_t routers = 0;
    for (uint32_t l = 0; l <= c->layers; l++) {
        c->hidden[l] = c->router[l] = NONE;
        if (c->opt->what & MG_CAPTURE_HIDDEN)
            MG_TRY(add_tensor(c, &c->hidden[l], mg_arena_printf(&c->arena, "hidden.%u", l), 3,
                              (uint64_t[]){batch, c->len, c->width}, err));
        if (l < c->layers && c->m->layers[l].moe && (c->opt->what & MG_CAPTURE_ROUTER))
            MG_TRY(add_tensor(c, &c->router[l], mg_arena_printf(&c->arena, "router.%u", routers++), 2,
                              (uint64_t[]){batch * c->len, c->experts}, err));
    }
    if (c->n_tensors) return MG_OK;
    return mg_fail(err, MG_ERR_USAGE, "the model has no router: nothing to capture");
}

static mg_status put_ids(capture *c, mg_error *err) {
    if (c->input_ids == NONE) return MG_OK;
    int64_t *row = malloc(c->len * sizeof *row);
    if (!row) return mg_fail_nomem(err, c->len * sizeof *row);
    mg_status st = MG_OK;
    for (uint64_t s = 0; st == MG_OK && s < c->w->n; s++) {
        for (uint64_t i = 0; i < c->len; i++) row[i] = c->w->ids[s * c->len + i];
        st = mg_onefile_write(&c->out, c->offsets[c->input_ids] + s * c->len * sizeof *row, row, c->len * sizeof *row,
                              err);
    }
    free(row);
    return st;
}

static mg_status create(capture *c, const char *path, mg_error *err) {
    uint8_t *header;
    uint64_t size, file_size;
    MG_TRY(mg_safetensors_layout(c->tensors, c->n_tensors, NULL, &header, &size, c->offsets, &file_size, err));
    mg_status st = mg_onefile_open(&c->out, path, file_size, c->opt->force, err);
    if (st == MG_OK) st = mg_onefile_write(&c->out, 0, header, size, err);
    free(header);
    return st == MG_OK ? put_ids(c, err) : st;
}

/* Rows of one width for the tokens from c->token + row on, in the type of the file. */
static mg_status put(capture *c, uint32_t tensor, uint64_t row, uint64_t rows, uint64_t cols, const void *data,
                     mg_error *err) {
    const uint64_t size = c->dtype == MG_F64 ? sizeof(double) : sizeof(float);
    if (tensor == NONE) return MG_OK;
    return mg_onefile_write(&c->out, c->offsets[tensor] + (c->token + row) * cols * size, data, rows * cols * size,
                            err);
}

static mg_status put64(capture *c, uint32_t tensor, uint64_t row, uint64_t rows, uint64_t cols, const double *data,
                       mg_error *err) {
    if (tensor == NONE || c->dtype == MG_F64) return put(c, tensor, row, rows, cols, data, err);
    MG_TRY(mg_fbuf_need(&c->narrow, rows, cols, err));
    for (uint64_t i = 0; i < rows * cols; i++) c->narrow.p[i] = (float)data[i];
    return put(c, tensor, row, rows, cols, c->narrow.p, err);
}

/* --- one batch --- */

static mg_status on_tap(void *ctx, const mg_tap *t, mg_error *err) {
    capture *c = ctx;
    if (t->point == MG_TAP_ROUTER_LOGITS) return put(c, c->router[t->layer], 0, t->rows, t->cols, t->data, err);
    if (t->point == MG_TAP_LAYER_OUT && t->layer + 1 < c->layers)
        return put(c, c->hidden[t->layer + 1], 0, t->rows, t->cols, t->data, err);
    return MG_OK;
}

static uint64_t slice_rows(const capture *c, uint64_t size) {
    const uint64_t mem = c->opt->memory ? c->opt->memory : DEFAULT_MEMORY, n = mem / 2 / (c->vocab * size + 1);
    return n ? n : 1;
}

static mg_status batch_f32(capture *c, const mg_batch *b, const int32_t *ids, float *x, mg_error *err) {
    MG_TRY(mg_forward_embed(c->f, c->m, ids, b->n_tokens, x, err));
    MG_TRY(put(c, c->hidden[0], 0, b->n_tokens, c->width, x, err));
    for (uint32_t l = 0; l < c->layers; l++)
        MG_TRY(mg_forward_layer(c->f, c->m, NULL, l, MG_PART_ALL, b, x, on_tap, c, err));
    const uint64_t step = slice_rows(c, sizeof(float));
    for (uint64_t i = 0; c->logits != NONE && i < b->n_tokens; i += step) {
        const uint64_t n = b->n_tokens - i < step ? b->n_tokens - i : step;
        MG_TRY(mg_fbuf_need(&c->slice, n, c->vocab, err));
        MG_TRY(mg_forward_logits(c->f, c->m, x + i * c->width, n, c->slice.p, err));
        MG_TRY(put(c, c->logits, i, n, c->vocab, c->slice.p, err));
    }
    if (c->hidden[c->layers] == NONE) return MG_OK;
    MG_TRY(mg_forward_final_norm(c->f, c->m, x, b->n_tokens, x, err));
    return put(c, c->hidden[c->layers], 0, b->n_tokens, c->width, x, err);
}

static mg_status batch_wide(capture *c, const mg_batch *b, const int32_t *ids, double *x, mg_error *err) {
    MG_TRY(mg_forward64_embed(c->f64, c->m, ids, b->n_tokens, x, err));
    MG_TRY(put64(c, c->hidden[0], 0, b->n_tokens, c->width, x, err));
    for (uint32_t l = 0; l < c->layers; l++) {
        const double *router;
        MG_TRY(mg_forward64_layer(c->f64, c->m, l, b, x, &router, err));
        if (router) MG_TRY(put64(c, c->router[l], 0, b->n_tokens, c->experts, router, err));
        if (l + 1 < c->layers) MG_TRY(put64(c, c->hidden[l + 1], 0, b->n_tokens, c->width, x, err));
    }
    const uint64_t step = slice_rows(c, sizeof(double)) < b->n_tokens ? slice_rows(c, sizeof(double)) : b->n_tokens;
    if (c->logits != NONE && !c->slice64 && !(c->slice64 = malloc(step * c->vocab * sizeof(double))))
        return mg_fail_nomem(err, step * c->vocab * sizeof(double));
    for (uint64_t i = 0; c->logits != NONE && i < b->n_tokens; i += step) {
        const uint64_t n = b->n_tokens - i < step ? b->n_tokens - i : step;
        MG_TRY(mg_forward64_logits(c->f64, c->m, x + i * c->width, n, c->slice64, err));
        MG_TRY(put64(c, c->logits, i, n, c->vocab, c->slice64, err));
    }
    if (c->hidden[c->layers] == NONE) return MG_OK;
    MG_TRY(mg_forward64_final_norm(c->f64, c->m, x, b->n_tokens, x, err));
    return put64(c, c->hidden[c->layers], 0, b->n_tokens, c->width, x, err);
}

/* Whole sequences, as many as memory allows, at least one. */
static uint64_t sequences_per_batch(const capture *c) {
    const uint64_t mem = c->opt->memory ? c->opt->memory : DEFAULT_MEMORY, scale = c->f64 ? 2 : 1;
    const uint64_t tokens = mem / 2 / (scale * (mg_forward_token_bytes(c->f, c->m) + 4 * c->width));
    const uint64_t n = tokens / c->len;
    return n < 1 ? 1 : n > c->w->n ? c->w->n : n;
}

static mg_status run_all(capture *c, mg_error *err) {
    const uint64_t per = sequences_per_batch(c);
    const size_t size = c->f64 ? sizeof(double) : sizeof(float);
    if (per > UINT32_MAX) return mg_fail(err, MG_ERR_LIMIT, "too many sequences");
    uint32_t *len = malloc(per * sizeof *len);
    void *x = malloc(per * c->len * c->width * size);
    mg_status st = len && x ? MG_OK : mg_fail_nomem(err, per * c->len * c->width * size);
    for (uint64_t i = 0; st == MG_OK && i < per; i++) len[i] = (uint32_t)c->len;
    for (uint64_t s = 0; st == MG_OK && s < c->w->n; s += per) {
        const uint64_t n = c->w->n - s < per ? c->w->n - s : per;
        const mg_batch b = {.n_seqs = (uint32_t)n, .len = len, .n_tokens = n * c->len};
        const int32_t *ids = c->w->ids + s * c->len;
        c->token = s * c->len;
        st = c->f64 ? batch_wide(c, &b, ids, x, err) : batch_f32(c, &b, ids, x, err);
        mg_progress_add(c->opt->progress, b.n_tokens, NULL);
    }
    free(len);
    free(x);
    return st;
}

static mg_status check_lengths(capture *c, mg_error *err) {
    c->len = c->w->n ? c->w->items[0].len : 0;
    if (c->len == 0) return mg_fail(err, MG_ERR_USAGE, "no tokens to run");
    for (uint64_t i = 1; i < c->w->n; i++)
        if (c->w->items[i].len != c->len)
            return mg_fail(err, MG_ERR_USAGE, "sequence %llu has %u tokens, the first has %llu: they must be equal",
                           (unsigned long long)i, c->w->items[i].len, (unsigned long long)c->len);
    return MG_OK;
}

mg_status mg_capture_run(mg_forward *f, mg_model *m, const mg_windows *w, const char *path,
                         const mg_capture_options *opt, mg_error *err) {
    capture c = {.f = f, .m = m, .w = w, .opt = opt};
    mg_arena_init(&c.arena, 0);
    c.layers = (uint32_t)mg_hp_i(m, MG_K_LAYERS);
    c.width = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    c.experts = (uint64_t)mg_hp_i(m, MG_K_EXPERTS);
    c.vocab = mg_forward_vocab(m);
    c.dtype = opt->precision == MG_PRECISION_F64 ? MG_F64 : MG_F32;
    mg_status st = check_lengths(&c, err);
    if (st == MG_OK && opt->precision != MG_PRECISION_F32)
        st = mg_forward64_new(&c.f64, mg_forward_pool(f), opt->precision, mg_forward_experts(f), err);
    if (st == MG_OK) st = list_tensors(&c, err);
    if (st == MG_OK) st = create(&c, path, err);
    if (st == MG_OK) st = run_all(&c, err);
    if (st == MG_OK) st = mg_onefile_commit(&c.out, err);
    mg_onefile_close(&c.out);
    mg_forward64_free(c.f64);
    mg_fbuf_release(&c.narrow);
    mg_fbuf_release(&c.slice);
    free(c.slice64);
    mg_arena_release(&c.arena);
    return st;
}
