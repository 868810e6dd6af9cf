/* group_decode.c - see group_decode.h. */
#include "quant/group_decode.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "quant/group_kernels.h"
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

/* Lines of codes in a rectangle of words. */
typedef struct lines {
    const mg_code_array *a;
    const uint8_t *raw;
    uint64_t next_word, next_line; /* bytes */
    uint64_t words;                /* of a line */
    uint32_t skip;                 /* codes left out at the beginning of each */
    uint64_t codes;                /* taken of each */
} lines;

enum { TOGETHER = 16 }; /* lines whose words are brought together: neighbours share cache lines */

/* Words of lines k .. k + n <= TOGETHER, one line after the other; in dst unless they lie so already. */
static const uint8_t *gather_words(const lines *l, uint64_t k, uint64_t n, uint8_t *dst, uint64_t *step) {
    const uint64_t size = l->a->word_bytes;
    *step = l->next_word == size ? l->next_line : l->words * size;
    if (l->next_word == size) return l->raw + k * l->next_line;
    for (uint64_t w = 0; w < l->words; w++)
        for (uint64_t i = 0; i < n; i++)
            memcpy(dst + (i * l->words + w) * size, l->raw + w * l->next_word + (k + i) * l->next_line, size);
    return dst;
}

static void unpack_line(const lines *l, const uint8_t *words, uint8_t *out) {
    const mg_code_array *a = l->a;
    const uint32_t mask = (1u << a->bits) - 1;
    if (!a->per_word) mg_group_kernels_get()->unpack(words, l->codes, a->bits, out);
    for (uint64_t i = 0; a->per_word && i < l->codes; i++) {
        const uint64_t at = l->skip + i;
        uint32_t word = 0;
        memcpy(&word, words + at / a->per_word * a->word_bytes, a->word_bytes);
        out[i] = (uint8_t)(word >> at % a->per_word * a->bits & mask);
    }
    for (uint64_t i = 0; a->flip && i < l->codes; i++) out[i] ^= a->flip;
}

/* A line is a row of out. */
static void unpack_rows(const lines *l, uint64_t n, uint8_t *scratch, uint8_t *out, uint64_t ld) {
    for (uint64_t i = 0; i < n; i += TOGETHER) {
        const uint64_t m = n - i < TOGETHER ? n - i : TOGETHER;
        uint64_t step;
        const uint8_t *words = gather_words(l, i, m, scratch, &step);
        for (uint64_t j = 0; j < m; j++) unpack_line(l, words + j * step, out + (i + j) * ld);
    }
}

/* A line is a column of out: eight of them are turned at a time. */
static void unpack_columns(const lines *l, uint64_t n, uint8_t *scratch, uint8_t *out, uint64_t ld) {
    static const uint8_t natural[8] = {0, 1, 2, 3, 4, 5, 6, 7}, awq[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    const uint8_t *place = l->a->awq_order ? awq : natural;
    const uint64_t whole = l->codes - l->codes % 8;
    uint8_t *column = scratch + TOGETHER * l->words * l->a->word_bytes;
    for (uint64_t k = 0; k < n; k += 8) {
        const uint64_t m = n - k < 8 ? n - k : 8;
        const uint8_t *columns[8];
        uint64_t step;
        const uint8_t *words = gather_words(l, k, m, scratch, &step);
        for (uint64_t j = 0; j < m; j++) {
            columns[j] = column + j * l->codes;
            unpack_line(l, words + j * step, column + j * l->codes);
        }
        if (m == 8) mg_group_kernels_get()->turn(columns, whole, place, out + k, ld);
        for (uint64_t i = m == 8 ? whole : 0; i < l->codes; i++)
            for (uint64_t j = 0; j < m; j++) out[(i - i % 8 + place[i % 8]) * ld + k + j] = columns[j][i];
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
    lines l = {.a = a, .raw = raw, .skip = skip, .codes = rows_packed ? n : a->js};
    l.next_word = a->packed_last ? a->word_bytes : line;
    l.next_line = a->packed_last ? line : a->word_bytes;
    l.words = a->packed_last ? r.cols : r.rows;
    const uint64_t scratch = TOGETHER * l.words * a->word_bytes + (rows_packed ? 8 * n : 0);
    uint8_t *own = st == MG_OK ? malloc(scratch + 1) : NULL;
    if (st == MG_OK && !own) st = mg_fail_nomem(err, scratch);
    if (st == MG_OK && rows_packed) unpack_columns(&l, a->js, own, out, ld);
    if (st == MG_OK && !rows_packed) unpack_rows(&l, n, own, out, ld);
    free(own);
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
    bool plain = true; /* groups follow one another: what most files say at length */
    for (uint64_t k = 0; k < m->cols; k++) {
        plain = plain && b->g_idx[k] == k / m->group_size;
        if (b->g_idx[k] < m->groups) continue;
        mg_fail(err, MG_ERR_FORMAT, "column %" PRIu64 " is in group %" PRId32 ", expected 0 to %" PRIu64, k,
                (int32_t)b->g_idx[k], m->groups - 1);
        mg_error_at(err, c->n_files ? c->files[c->tensors[m->g_idx].file] : c->path, c->tensors[m->g_idx].name);
        return MG_ERR_FORMAT;
    }
    if (plain) {
        free(b->g_idx);
        b->g_idx = NULL;
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

/* Columns from col on that are in one group. */
static uint64_t run_length(const mg_group_band *b, uint64_t col, uint64_t most) {
    if (!b->g_idx) return (col / b->m->group_size + 1) * b->m->group_size - col;
    uint64_t n = 1;
    while (n < most && b->g_idx[col + n] == b->g_idx[col]) n++;
    return n;
}

void mg_group_band_decode(const mg_group_band *b, uint64_t row, uint64_t col, uint64_t n, float *out) {
    const mg_group_matrix *m = b->m;
    const uint64_t i = row - b->row;
    const uint8_t *codes = b->codes + i * b->ld, *zeros = b->zeros + i * m->groups;
    const float *scales = b->scales + i * m->groups;
    const mg_group_kernels *kernels = mg_group_kernels_get();
    for (uint64_t end = col + n; col < end;) {
        const uint64_t g = b->g_idx ? b->g_idx[col] : col / m->group_size;
        uint64_t run = run_length(b, col, end - col);
        if (run > end - col) run = end - col;
        const float *bias = b->biases ? b->biases + i * m->groups + g : NULL;
        if (m->value != MG_CODE_INT)
            kernels->floats(codes + col, run, m->value, scales[g], out);
        else if (run == 1 && !bias) /* columns with an order of their own */
            *out = ((float)codes[col] - (float)zeros[g]) * scales[g];
        else if (bias) /* no zeros then */
            kernels->affine(codes + col, run, scales[g], *bias, out);
        else
            kernels->values(codes + col, run, (float)zeros[g], scales[g], out);
        col += run;
        out += run;
    }
}
