/* group_decode.c - see group_decode.h. */
#include "quant/group_decode.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "quant/small_float.h"

/* ---- small floats ---- */

static float from_bits(uint32_t u) {
    union {
        uint32_t u;
        float f;
    } v = {.u = u};
    return v.f;
}

static float scale_at(mg_dtype d, const uint8_t *p) {
    uint32_t u;
    uint16_t h;
    switch (d) {
    case MG_F32:
        memcpy(&u, p, 4);
        return from_bits(u);
    case MG_F16:
        memcpy(&h, p, 2);
        return mg_f16_to_f32(h);
    case MG_BF16:
        memcpy(&h, p, 2);
        return mg_bf16_to_f32(h);
    case MG_F8_E4M3:
        return mg_e4m3_to_f32(*p);
    default: /* E8M0: formats/group_layouts.c lets nothing else through */
        return mg_e8m0_to_f32(*p);
    }
}

static void fill_values(mg_group_band *b) {
    for (uint32_t c = 0; c < 256; c++) {
        if (b->m->value == MG_CODE_E4M3) b->value[c] = mg_e4m3_to_f32((uint8_t)c);
        if (b->m->value == MG_CODE_E5M2) b->value[c] = mg_f16_to_f32((uint16_t)(c << 8));
        if (b->m->value == MG_CODE_E2M1) b->value[c] = mg_e2m1_to_f32(c & 15);
    }
}

/* ---- reading a rectangle of a two-dimensional array ---- */

typedef struct rect {
    uint64_t row, rows, col, cols;
} rect;

static mg_status read_rect(mg_checkpoint *c, uint32_t t, uint64_t elem, uint64_t width, rect r, uint8_t **out,
                           mg_error *err) {
    uint64_t line = r.cols * elem, bytes; /* a part of the tensor's own bytes: no overflow */
    mg_status st = MG_OK;
    *out = mg_mul_u64(r.rows, line, &bytes) ? malloc(bytes ? bytes : 1) : NULL;
    if (!*out) return mg_fail_nomem(err, r.rows * line);
    if (r.cols == width) return mg_checkpoint_read(c, t, r.row * line, *out, bytes, err);
    for (uint64_t i = 0; i < r.rows && st == MG_OK; i++)
        st = mg_checkpoint_read(c, t, ((r.row + i) * width + r.col) * elem, *out + i * line, line, err);
    return st;
}

/* ---- unpacking ---- */

/* count codes of a line whose words lie `stride` bytes apart, the first `skip` of them left out. */
static void unpack(const mg_code_array *a, const uint8_t *p, uint64_t stride, uint32_t skip, uint64_t count,
                   uint8_t *out, uint64_t out_stride) {
    static const uint8_t place[8] = {0, 4, 1, 5, 2, 6, 3, 7}; /* nibble of a word that holds its code i */
    const uint32_t mask = (1u << a->bits) - 1;
    uint64_t acc = 0;
    uint32_t have = 0, left = 0; /* bits in acc; codes that may still be taken from this word (per_word) */
    for (uint64_t i = 0; i < skip + count; i++) {
        if (have < a->bits || (a->per_word && left == 0)) {
            uint32_t word = 0;
            memcpy(&word, p, a->word_bytes);
            p += stride;
            if (a->per_word) acc = have = 0;
            if (a->awq_order) {
                uint32_t sorted = 0;
                for (uint32_t k = 0; k < 8; k++) sorted |= (word >> (4 * place[k]) & 15u) << (4 * k);
                word = sorted;
            }
            acc |= (uint64_t)word << have;
            have += 8 * a->word_bytes;
            left = a->per_word;
        }
        if (i >= skip) out[(i - skip) * out_stride] = (uint8_t)((acc & mask) ^ a->flip);
        acc >>= a->bits;
        have -= a->bits;
        left -= left != 0;
    }
}

/* Words that hold codes from..from+n of a line, and the codes to leave out of the first. */
static void word_range(const mg_code_array *a, uint64_t from, uint64_t n, uint64_t *word, uint64_t *words,
                       uint32_t *skip) {
    const uint64_t width = 8u * a->word_bytes;
    if (a->per_word) {
        *word = from / a->per_word;
        *words = (from + n - 1) / a->per_word + 1 - *word;
        *skip = (uint32_t)(from % a->per_word);
        return;
    }
    *word = from * a->bits / width; /* bands begin at multiples of 32: a word begins there */
    *words = ((from + n) * a->bits - 1) / width + 1 - *word;
    *skip = 0;
}

/* Codes (row..row+n, 0..js) of a into out [n][ld]. */
static mg_status load_codes(const mg_code_array *a, mg_checkpoint *c, uint64_t row, uint64_t n, uint8_t *out,
                            uint64_t ld, mg_error *err) {
    const bool rows_packed = a->rows_last == a->packed_last;
    rect r = {0, a->words[0], 0, a->words[1]};
    uint32_t skip = 0;
    uint64_t first = row, many = n;
    uint8_t *raw = NULL;
    if (rows_packed) word_range(a, row, n, &first, &many, &skip);
    if (a->rows_last)
        r.col = first, r.cols = many;
    else
        r.row = first, r.rows = many;
    mg_status st = read_rect(c, a->tensor, a->word_bytes, a->words[1], r, &raw, err);
    /* Along a line the words are neighbours when packed along the last axis, else one line of the rectangle apart. */
    const uint64_t line = r.cols * a->word_bytes;
    const uint64_t next_word = a->packed_last ? a->word_bytes : line, next_line = a->packed_last ? line : a->word_bytes;
    if (st == MG_OK && rows_packed)
        for (uint64_t j = 0; j < a->js; j++) unpack(a, raw + j * next_line, next_word, skip, n, out + j, ld);
    else if (st == MG_OK)
        for (uint64_t i = 0; i < n; i++) unpack(a, raw + i * next_line, next_word, 0, a->js, out + i * ld, 1);
    free(raw);
    return st;
}

/* ---- scales, zeros, order ---- */

/* Row of the scale array for a row of the weight. */
static uint64_t scale_row(const mg_group_matrix *m, uint64_t row) {
    uint64_t per_slab = (m->slab_rows - 1) / m->row_block + 1;
    return row / m->slab_rows * per_slab + row % m->slab_rows / m->row_block;
}

static mg_status load_divisor(const mg_group_matrix *m, mg_checkpoint *c, float *out, mg_error *err) {
    uint8_t raw[4];
    *out = 1.0f;
    if (m->divisor == MG_STRMAP_NONE) return MG_OK;
    MG_TRY(mg_checkpoint_read(c, m->divisor, 0, raw, sizeof raw, err));
    *out = scale_at(MG_F32, raw);
    return MG_OK;
}

/* Scales, or what is stored as they are, of tensor t. */
static mg_status load_floats(mg_group_band *b, mg_checkpoint *c, uint32_t t, float *out, mg_error *err) {
    const mg_group_matrix *m = b->m;
    const uint64_t elem = mg_dtype_get(m->scale_dtype)->block_bytes, first = scale_row(m, b->row);
    const uint64_t many = scale_row(m, b->row + b->n_rows - 1) + 1 - first;
    const rect r = m->scales_rows_last ? (rect){0, m->groups, first, many} : (rect){first, many, 0, m->groups};
    uint8_t *raw = NULL;
    float divisor;
    MG_TRY(load_divisor(m, c, &divisor, err));
    mg_status st = read_rect(c, t, elem, m->scales_rows_last ? m->scale_rows : m->groups, r, &raw, err);
    for (uint64_t i = 0; i < b->n_rows && st == MG_OK; i++) {
        const uint64_t at = scale_row(m, b->row + i) - first;
        for (uint64_t g = 0; g < m->groups; g++) {
            const uint64_t e = m->scales_rows_last ? g * many + at : at * m->groups + g;
            const float s = scale_at(m->scale_dtype, raw + e * elem);
            out[i * m->groups + g] = m->divisor == MG_STRMAP_NONE ? s : s / divisor;
        }
    }
    free(raw);
    return st;
}

static mg_status load_zeros(mg_group_band *b, mg_checkpoint *c, mg_error *err) {
    const mg_group_matrix *m = b->m;
    if (m->zeros.tensor == MG_STRMAP_NONE) {
        memset(b->zeros, (int)m->zero_fixed, b->n_rows * m->groups);
        return MG_OK;
    }
    MG_TRY(load_codes(&m->zeros, c, b->row, b->n_rows, b->zeros, m->groups, err));
    for (uint64_t i = 0; i < b->n_rows * m->groups; i++)
        b->zeros[i] = (uint8_t)((b->zeros[i] + m->zero_add) & m->zero_mask);
    return MG_OK;
}

static mg_status load_order(mg_group_band *b, mg_checkpoint *c, mg_error *err) {
    const mg_group_matrix *m = b->m;
    if (m->g_idx == MG_STRMAP_NONE) return MG_OK;
    b->g_idx = malloc(m->cols * sizeof *b->g_idx);
    if (!b->g_idx) return mg_fail_nomem(err, m->cols * sizeof *b->g_idx);
    MG_TRY(mg_checkpoint_read(c, m->g_idx, 0, b->g_idx, m->cols * sizeof *b->g_idx, err));
    for (uint64_t k = 0; k < m->cols; k++) {
        if (b->g_idx[k] < m->groups) continue;
        mg_fail(err, MG_ERR_FORMAT, "column %" PRIu64 " is in group %" PRId32 ", expected 0 to %" PRIu64, k,
                (int32_t)b->g_idx[k], m->groups - 1);
        mg_error_at(err, c->n_files ? c->files[c->tensors[m->g_idx].file] : c->path, c->tensors[m->g_idx].name);
        return MG_ERR_FORMAT;
    }
    return MG_OK;
}

/* ---- bands ---- */

/* Not a multiple of 4096: unpacking down a column must not meet one cache set only. */
static uint64_t line_bytes(const mg_group_matrix *m) {
    return (m->cols + 63) / 64 * 64 + 64;
}

uint64_t mg_group_band_rows(const mg_group_matrix *m, uint64_t bytes) {
    uint64_t rows = bytes / (line_bytes(m) + m->groups * 5) / 32 * 32, all = (m->rows + 31) / 32 * 32;
    if (rows == 0) rows = 32;
    return rows < all ? rows : all;
}

mg_status mg_group_band_load(mg_group_band *b, mg_checkpoint *c, const mg_group_matrix *m, uint64_t row, uint64_t n,
                             mg_error *err) {
    *b = (mg_group_band){.m = m, .row = row, .n_rows = n, .ld = line_bytes(m)};
    uint64_t codes, places;
    if (!mg_mul_u64(n, b->ld, &codes) || !mg_mul_u64(n * sizeof *b->scales, m->groups, &places))
        return mg_fail_nomem(err, UINT64_MAX);
    b->codes = malloc(codes);
    b->zeros = malloc(places / sizeof *b->scales);
    b->scales = malloc(places);
    b->biases = m->biases == MG_STRMAP_NONE ? NULL : malloc(places);
    if (!b->codes || !b->zeros || !b->scales || (m->biases != MG_STRMAP_NONE && !b->biases))
        return mg_fail_nomem(err, codes + places);
    fill_values(b);
    MG_TRY(load_order(b, c, err));
    MG_TRY(load_floats(b, c, m->scales, b->scales, err));
    if (b->biases) MG_TRY(load_floats(b, c, m->biases, b->biases, err));
    MG_TRY(load_zeros(b, c, err));
    return load_codes(&m->codes, c, row, n, b->codes, b->ld, err);
}

void mg_group_band_release(mg_group_band *b) {
    free(b->codes);
    free(b->zeros);
    free(b->scales);
    free(b->biases);
    free(b->g_idx);
    *b = (mg_group_band){0};
}

static void decode_run(const mg_group_band *b, const uint8_t *codes, uint64_t n, uint32_t zero, float scale,
                       float *out) {
    if (b->m->value == MG_CODE_INT)
        for (uint64_t i = 0; i < n; i++) out[i] = (float)((int)codes[i] - (int)zero) * scale;
    else
        for (uint64_t i = 0; i < n; i++) out[i] = b->value[codes[i]] * scale;
}

void mg_group_band_decode(const mg_group_band *b, uint64_t row, uint64_t col, uint64_t n, float *out) {
    const mg_group_matrix *m = b->m;
    const uint64_t i = row - b->row;
    const uint8_t *codes = b->codes + i * b->ld, *zeros = b->zeros + i * m->groups;
    const float *scales = b->scales + i * m->groups;
    for (uint64_t end = col + n; col < end;) {
        const uint64_t g = b->g_idx ? b->g_idx[col] : col / m->group_size;
        uint64_t run = b->g_idx ? 1 : (g + 1) * m->group_size - col;
        if (run > end - col) run = end - col;
        decode_run(b, codes + col, run, zeros[g], scales[g], out);
        for (uint64_t k = 0; b->biases && k < run; k++) out[k] += b->biases[i * m->groups + g];
        col += run;
        out += run;
    }
}
