/* code_source.c - see code_source.h. */
#include "quant/code_source.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/block_steps.h"
#include "quant/group_checkpoint.h"
#include "quant/group_decode.h"
#include "quant/group_kernels.h"

#define NR    MG_CODES_NR
#define CHUNK 512 /* columns at a time: a multiple of every block */

/* ---- which weights ---- */

static uint32_t stored_bits(uint32_t bits) {
    return bits <= 2 ? 2 : bits <= 4 ? 4 : 8;
}

/* Groups whose products are exact, when scales are what quantizers write. */
static bool fits(const mg_group_matrix *m) {
    const bool fixed = m->zeros.tensor == MG_STRMAP_NONE && m->biases == MG_STRMAP_NONE;
    const bool short_scale = m->scale_dtype != MG_F32 || (fixed && (m->zero_fixed & (m->zero_fixed - 1)) == 0);
    return m->value == MG_CODE_INT && short_scale && m->divisor == MG_STRMAP_NONE && m->rows && m->cols &&
           (m->group_size % 4 == 0 || m->group_size >= m->cols);
}

static mg_status take_order(mg_code_source *s, mg_error *err) {
    const mg_group_band *band;
    void *pin;
    if (s->matrix->g_idx == MG_STRMAP_NONE) return MG_OK;
    MG_TRY(mg_group_checkpoint_pin(s->w.model->ckpt, s->w.bound.tensor, 0, &band, &pin, err));
    const uint64_t bytes = s->form.k * sizeof *s->g_idx;
    const bool plain = !band->g_idx; /* groups follow one another */
    if (!plain && (s->g_idx = malloc(bytes))) memcpy(s->g_idx, band->g_idx, bytes);
    mg_group_checkpoint_unpin(s->w.model->ckpt, pin);
    s->form.g_idx = s->g_idx;
    return plain || s->g_idx ? MG_OK : mg_fail_nomem(err, bytes);
}

mg_status mg_code_source_init(mg_code_source *s, const mg_f32_source *w, mg_error *err) {
    const mg_block_steps *steps = mg_block_steps_of(w->dtype);
    uint64_t first;
    *s = (mg_code_source){.w = *w, .form = {.k = w->cols}};
    if (w->add != 0.0f || !w->cols) return MG_OK;
    if (steps) {
        s->form.bits = steps->bits;
        s->form.group_size = steps->group_size;
        s->form.groups = w->cols / steps->group_size;
        return MG_OK;
    }
    s->matrix = mg_group_checkpoint_matrix(w->model->ckpt, w->bound.tensor);
    if (!s->matrix || w->dtype != MG_F32 || !fits(s->matrix) || !mg_model_stored_row(w->model, &w->bound, 0, &first))
        return MG_OK;
    s->form.bits = stored_bits(s->matrix->codes.bits);
    s->form.group_size = s->matrix->group_size;
    s->form.groups = s->matrix->groups;
    return take_order(s, err);
}

void mg_code_source_release(mg_code_source *s) {
    free(s->g_idx);
    *s = (mg_code_source){0};
}

/* ---- codes of sixteen rows to a panel ---- */

/* Columns from..from + n, from a multiple of 8; lines [16][ld]. */
static void pack_lines(const mg_codes *w, const uint8_t *lines, uint64_t ld, uint64_t from, uint64_t n,
                       uint8_t *panel) {
    static const uint8_t natural[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    const uint64_t per = 8 / w->bits, whole = n - n % 8;
    uint8_t *to = panel + mg_codes_head(w) + from / per * NR, columns[CHUNK + 8][NR] = {0};
    const uint8_t *row[NR];
    for (uint64_t r = 0; r < NR; r++) row[r] = lines + r * ld;
    for (uint64_t r = 0; r < NR; r += 8) mg_group_kernels_get()->turn(row + r, whole, natural, &columns[0][r], NR);
    for (uint64_t k = whole; k < n; k++)
        for (uint64_t r = 0; r < NR; r++) columns[k][r] = row[r][k];
    for (uint64_t k = 0; k < n; k += per, to += NR) {
        uint64_t part[2], sum[2] = {0}; /* bytes side by side: no code leaves its own */
        for (uint64_t i = 0; i < per; i++) {
            memcpy(part, columns[k + i], sizeof part);
            for (int h = 0; h < 2; h++) sum[h] |= part[h] << i * w->bits;
        }
        memcpy(to, sum, sizeof sum);
    }
}

/* ---- groups ---- */

/* Scale and bias of each group of row i of the band, into column r of the panel; false: not exact. */
static bool group_steps(const mg_group_band *b, uint64_t i, float *scale, float *bias, uint64_t r) {
    const uint64_t groups = b->m->groups;
    const float top = (float)((1u << b->m->codes.bits) - 1);
    bool exact = true;
    for (uint64_t g = 0; g < groups; g++) {
        const float s = b->scales[i * groups + g], by = b->biases ? top : (float)b->zeros[i * groups + g];
        const float product = by * s;
        exact = exact && isfinite(product) && (double)product == (double)by * (double)s;
        scale[g * NR + r] = s;
        bias[g * NR + r] = b->biases ? b->biases[i * groups + g] : -product;
    }
    return exact;
}

static mg_status group_panel(const mg_code_source *s, uint64_t row, uint64_t n, uint8_t *lines, uint64_t ld,
                             uint8_t *panel, bool *exact, mg_error *err) {
    float *scale = (float *)(void *)panel, *bias = scale + s->form.groups * NR;
    const mg_group_band *band = NULL;
    void *pin = NULL;
    for (uint64_t r = 0; r < n; r++) {
        uint64_t at = 0;
        mg_model_stored_row(s->w.model, &s->w.bound, row + r, &at); /* as row 0 */
        if (!band || at < band->row || at - band->row >= band->n_rows) {
            if (band) mg_group_checkpoint_unpin(s->w.model->ckpt, pin);
            MG_TRY(mg_group_checkpoint_pin(s->w.model->ckpt, s->w.bound.tensor, at, &band, &pin, err));
        }
        memcpy(lines + r * ld, band->codes + (at - band->row) * band->ld, s->form.k);
        *exact = group_steps(band, at - band->row, scale, bias, r) && *exact;
    }
    if (band) mg_group_checkpoint_unpin(s->w.model->ckpt, pin);
    for (uint64_t k = 0; k < s->form.k; k += CHUNK)
        pack_lines(&s->form, lines + k, ld, k, s->form.k - k < CHUNK ? s->form.k - k : CHUNK, panel);
    return MG_OK;
}

/* ---- blocks ---- */

/* Codes of columns from..from + n of a stored row, steps into column r of the panel; false: not exact. */
static bool block_codes(const mg_code_source *s, const uint8_t *raw, uint64_t from, uint64_t n, uint8_t *codes,
                        float *scale, float *bias, uint64_t r) {
    const mg_block_steps *steps = mg_block_steps_of(s->w.dtype);
    const mg_dtype_info *d = mg_dtype_get(s->w.dtype);
    const mg_group_kernels *kernels = mg_group_kernels_get();
    const uint64_t size = steps->group_size;
    float x[CHUNK], y[CHUNK], one[2][MG_STEPS_MAX];
    bool exact = true;
    mg_f32_source_decode(&s->w, raw, 1, from, n, x, CHUNK);
    for (uint64_t k = 0; k < n; k += d->block) {
        steps->read(raw + (from + k) / d->block * d->block_bytes, one[0], one[1]);
        for (uint64_t i = 0; i < d->block; i += size) {
            const mg_group_step step = {
                .scale = one[0][i / size], .bias = one[1][i / size], .top = (float)((1u << steps->bits) - 1)};
            kernels->round(&step, x + k + i, size, codes + k + i);
            kernels->affine(codes + k + i, size, step.scale, step.bias, y + k + i);
            scale[(from + k + i) / size * NR + r] = step.scale;
            bias[(from + k + i) / size * NR + r] = step.bias;
        }
    }
    for (uint64_t k = 0; k < n; k++) exact = exact && x[k] == y[k];
    return exact;
}

static void block_panel(const mg_code_source *s, const uint8_t *raw, uint64_t n, uint8_t *lines, uint8_t *panel,
                        bool *exact) {
    float *scale = (float *)(void *)panel, *bias = scale + s->form.groups * NR;
    for (uint64_t k = 0; k < s->form.k; k += CHUNK) {
        const uint64_t kc = s->form.k - k < CHUNK ? s->form.k - k : CHUNK;
        for (uint64_t r = 0; r < n; r++)
            *exact = block_codes(s, raw + r * s->w.row_bytes, k, kc, lines + r * CHUNK, scale, bias, r) && *exact;
        pack_lines(&s->form, lines, CHUNK, k, kc, panel);
    }
}

mg_status mg_code_source_read(const mg_code_source *s, uint64_t row, uint64_t n, uint8_t *dst, bool *exact,
                              mg_error *err) {
    const uint64_t ld = s->matrix ? s->form.k + 64 : CHUNK, raw_bytes = s->matrix ? 0 : n * s->w.row_bytes;
    uint8_t *lines = malloc(NR * ld), *raw = malloc(raw_bytes + 1);
    mg_status st = lines && raw ? MG_OK : mg_fail_nomem(err, NR * ld + raw_bytes);
    *exact = true;
    if (st == MG_OK && !s->matrix) st = mg_f32_source_read(&s->w, row, n, raw, err);
    for (uint64_t r = 0; r < n && st == MG_OK; r += NR, dst += mg_codes_panel_bytes(&s->form)) {
        const uint64_t take = n - r < NR ? n - r : NR;
        if (take < NR) {
            memset(lines, 0, NR * ld);
            memset(dst, 0, mg_codes_head(&s->form));
        }
        if (s->matrix)
            st = group_panel(s, row + r, take, lines, ld, dst, exact, err);
        else
            block_panel(s, raw + r * s->w.row_bytes, take, lines, dst, exact);
    }
    free(lines);
    free(raw);
    return st;
}
