/* group_pack.c - see group_pack.h. */
#include "quant/group_pack.h"

#include "formats/base/checked.h"
#include "quant/small_float.h"

#include <inttypes.h>
#include <string.h>
#include <strings.h>

/* ---- formats ---- */

static const struct format_info {
    const char *name;
    const char *codes, *zeros, *scales;
    bool by_group;
    mg_group_rule rule;
    uint32_t zero_min;
    uint32_t bits; /* bit b set: b bits are written */
    uint32_t row_multiple, col_multiple;
} formats[MG_FORMAT_COUNT] = {
    [MG_FORMAT_AWQ] = {"awq", ".qweight", ".qzeros", ".scales", true, MG_GROUP_ABSMAX, 0, 0x1fc, 8, 1},
    [MG_FORMAT_GPTQ] = {"gptq", ".qweight", ".qzeros", ".scales", true, MG_GROUP_MINMAX, 1, 0x11c, 32, 32},
    [MG_FORMAT_GPTQ_V2] = {"gptq_v2", ".qweight", ".qzeros", ".scales", true, MG_GROUP_MINMAX, 0, 0x11c, 32, 32},
    [MG_FORMAT_CT] = {"compressed-tensors", ".weight_packed", ".weight_zero_point", ".weight_scale", false,
                      MG_GROUP_MINMAX, 0, 0x1fc, 1, 1},
    [MG_FORMAT_MLX] = {"mlx", ".weight", NULL, ".scales", false, MG_GROUP_EDGE, 0, 0x17c, 1, 32},
    [MG_FORMAT_FP8_DYNAMIC] = {"fp8_dynamic", ".weight", NULL, ".weight_scale", false, MG_GROUP_FLOAT, 0, 0x100, 1, 1},
    [MG_FORMAT_FP8_BLOCK] = {"fp8_block", ".weight", NULL, ".weight_scale", false, MG_GROUP_FLOAT, 0, 0x100, 1, 1},
    [MG_FORMAT_NVFP4A16] = {"nvfp4a16", ".weight_packed", NULL, ".weight_scale", false, MG_GROUP_FLOAT, 0, 0x10, 1, 16},
    [MG_FORMAT_MXFP4A16] = {"mxfp4a16", ".weight_packed", NULL, ".weight_scale", false, MG_GROUP_FLOAT, 0, 0x10, 1, 32},
    [MG_FORMAT_MXFP4] = {"mxfp4", ".weight_packed", NULL, ".weight_scale", false, MG_GROUP_FLOAT, 0, 0x10, 1, 32},
};

const char *mg_group_format_name(mg_group_format f) {
    return formats[f].name;
}

mg_group_format mg_group_format_find(const char *name) {
    for (mg_group_format f = 0; f < MG_FORMAT_COUNT; f++)
        if (strcasecmp(name, formats[f].name) == 0) return f;
    return MG_FORMAT_COUNT;
}

bool mg_group_format_is_float(mg_group_format f) {
    return formats[f].rule == MG_GROUP_FLOAT;
}

static mg_group_scheme float_scheme(mg_group_format f, mg_dtype model) {
    mg_group_scheme s = {.bits = 4,
                         .group_size = formats[f].col_multiple,
                         .symmetric = true,
                         .rule = MG_GROUP_FLOAT,
                         .scale_dtype = f == MG_FORMAT_NVFP4A16 ? MG_F8_E4M3 : MG_F8_E8M0,
                         .row_block = 1,
                         .model_dtype = model};
    if (f != MG_FORMAT_FP8_DYNAMIC && f != MG_FORMAT_FP8_BLOCK) return s;
    const bool blocks = f == MG_FORMAT_FP8_BLOCK;
    s.bits = 8;
    s.scale_dtype = model;
    s.group_size = blocks ? MG_FP8_BLOCK : 0;
    s.row_block = blocks ? MG_FP8_BLOCK : 1;
    return s;
}

mg_group_scheme mg_group_format_scheme(mg_group_format f, uint32_t bits, uint64_t group_size, bool symmetric,
                                       mg_dtype scale_dtype) {
    if (mg_group_format_is_float(f)) return float_scheme(f, scale_dtype);
    return (mg_group_scheme){.bits = bits,
                             .group_size = group_size,
                             .symmetric = symmetric,
                             .rule = formats[f].rule,
                             .scale_dtype = scale_dtype,
                             .zero_min = formats[f].zero_min};
}

/* ---- the parts of a weight ---- */

static void add_part(mg_group_form *f, mg_group_content what, const char *suffix, mg_dtype dtype, uint64_t a,
                     uint64_t b) {
    f->parts[f->n_parts++] =
        (mg_group_part){.what = what, .suffix = suffix, .dtype = dtype, .rank = 2, .shape = {a, b}};
}

static uint64_t words_for(uint64_t codes, uint32_t bits) {
    return (codes * bits + 31) / 32;
}

/* Codes of a byte or two to a byte; E8M0 is stored as U8. */
static void add_float_parts(mg_group_form *f) {
    const struct format_info *i = &formats[f->format];
    const mg_group_scheme *s = &f->scheme;
    const bool wide = s->bits == 8;
    add_part(f, MG_PART_CODES, i->codes, wide ? MG_F8_E4M3 : MG_U8, f->rows, wide ? f->cols : f->cols / 2);
    add_part(f, MG_PART_SCALES, i->scales, s->scale_dtype == MG_F8_E8M0 ? MG_U8 : s->scale_dtype,
             (f->rows - 1) / s->row_block + 1, f->groups);
}

static void add_parts(mg_group_form *f) {
    const struct format_info *i = &formats[f->format];
    const uint32_t b = f->scheme.bits;
    const uint64_t N = f->rows, K = f->cols, G = f->groups, packed_rows = words_for(N, b),
                   packed_cols = words_for(K, b);
    const mg_dtype scales = f->scheme.scale_dtype;
    if (f->scheme.rule == MG_GROUP_FLOAT) {
        add_float_parts(f);
        return;
    }
    if (f->format == MG_FORMAT_AWQ)
        add_part(f, MG_PART_CODES, i->codes, MG_I32, K, packed_rows);
    else if (i->by_group)
        add_part(f, MG_PART_CODES, i->codes, MG_I32, packed_cols, N);
    else
        add_part(f, MG_PART_CODES, i->codes, f->format == MG_FORMAT_MLX ? MG_U32 : MG_I32, N, packed_cols);
    if (i->by_group) {
        add_part(f, MG_PART_ZEROS, i->zeros, MG_I32, G, packed_rows);
        add_part(f, MG_PART_SCALES, i->scales, scales, G, N);
        return;
    }
    add_part(f, MG_PART_SCALES, i->scales, scales, N, G);
    if (f->format == MG_FORMAT_MLX) add_part(f, MG_PART_BIASES, ".biases", scales, N, G);
    if (i->zeros && !f->scheme.symmetric) add_part(f, MG_PART_ZEROS, i->zeros, MG_I32, packed_rows, G);
}

static mg_status check_shape(const mg_group_form *f, mg_error *err) {
    const struct format_info *i = &formats[f->format];
    const mg_group_scheme *s = &f->scheme;
    if (!(i->bits >> s->bits & 1))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "the format %s has no form with %" PRIu32 " bits", i->name, s->bits);
    if (s->group_size && f->cols % s->group_size && f->format != MG_FORMAT_FP8_BLOCK) /* edge blocks are cut */
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "%" PRIu64 " input features are not a multiple of the group size %" PRIu64, f->cols,
                       s->group_size);
    if (s->group_size ? s->group_size % i->col_multiple : f->format == MG_FORMAT_MLX)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "the format %s has no groups of %" PRIu64 " columns", i->name,
                       s->group_size ? s->group_size : f->cols);
    if (f->cols % i->col_multiple)
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "%" PRIu64 " input features are not a multiple of %" PRIu32 ", as %s needs", f->cols,
                       i->col_multiple, i->name);
    if (f->rows % i->row_multiple || (i->by_group && f->rows * s->bits % 32))
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "%" PRIu64 " output features are not a multiple of %" PRIu32 ", as %s with %" PRIu32
                       " bits needs",
                       f->rows, s->bits == 4 || i->row_multiple == 32 ? i->row_multiple : 32, i->name, s->bits);
    return MG_OK;
}

mg_status mg_group_form_init(mg_group_form *f, mg_group_format format, const mg_group_scheme *s, uint64_t rows,
                             uint64_t cols, mg_error *err) {
    const struct format_info *i = &formats[format];
    MG_TRY(mg_group_scheme_check(s, err));
    if (rows == 0 || cols == 0 || rows > UINT32_MAX || cols > UINT32_MAX)
        return mg_fail(err, MG_ERR_LIMIT, "a weight of %" PRIu64 " x %" PRIu64, rows, cols);
    *f = (mg_group_form){.format = format,
                         .scheme = *s,
                         .rows = rows,
                         .cols = cols,
                         .groups = mg_group_count(s, cols),
                         .matrices = 1,
                         .by_group = i->by_group};
    MG_TRY(check_shape(f, err));
    add_parts(f);
    const bool zeros = f->n_parts > 2 && f->parts[2].what == MG_PART_ZEROS;
    f->slab_cols = i->by_group && s->group_size ? s->group_size : cols;
    const uint64_t share = s->rule == MG_GROUP_FLOAT ? s->row_block : zeros ? 32 : 1;
    f->slab_rows = i->by_group || rows % share ? rows : share;
    f->slabs = i->by_group ? f->groups : rows / f->slab_rows;
    for (uint32_t p = 0; p < f->n_parts; p++) {
        mg_group_part *part = &f->parts[p];
        const uint64_t bytes = part->shape[0] * part->shape[1] * mg_dtype_get(part->dtype)->block_bytes;
        part->slab_bytes = bytes / f->slabs;
        part->slab_at = f->slab_bytes;
        f->slab_bytes += part->slab_bytes;
    }
    return MG_OK;
}

mg_status mg_group_form_stack(mg_group_form *f, uint64_t matrices, mg_error *err) {
    if (f->format != MG_FORMAT_MLX)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "the format %s has no stacks of matrices", formats[f->format].name);
    f->matrices = matrices;
    for (mg_group_part *p = f->parts; p < f->parts + f->n_parts; p++) { /* all have a line for each row */
        p->rank = 3;
        p->shape[2] = p->shape[1];
        p->shape[1] = p->shape[0] / matrices;
        p->shape[0] = matrices;
    }
    return MG_OK;
}

/* ---- bits ---- */

static const uint8_t natural[8] = {0, 1, 2, 3, 4, 5, 6, 7};

/* Which of eight rows come after each other: the eight nibbles of AWQ's words, lowest first, are 0, 2, 4, 6, 1, 3,
 * 5, 7. */
static const uint8_t *order_of(const mg_group_form *f) {
    static const uint8_t awq[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    return f->format == MG_FORMAT_AWQ && f->scheme.bits == 4 ? awq : natural;
}

/* A strip (up to 32 rows) of a column of bytes [n][ld] to words `next` bytes apart: zeros, packed along rows. */
static void pack_column(const mg_group_form *f, const uint8_t *from, uint64_t ld, uint32_t n, uint32_t minus,
                        uint8_t *dst, uint64_t next) {
    uint8_t line[32], words[32];
    const uint8_t *order = order_of(f), mask = (uint8_t)((1u << f->scheme.bits) - 1);
    for (uint32_t i = 0; i < n; i++) line[i] = (uint8_t)(from[(i - i % 8 + order[i % 8]) * ld] - minus) & mask;
    mg_group_kernels_get()->pack(line, n, f->scheme.bits, words);
    for (uint64_t w = 0; w < words_for(n, f->scheme.bits); w++) memcpy(dst + w * next, words + 4 * w, 4);
}

/* ---- parts ---- */

typedef struct job {
    const mg_group_form *f;
    const mg_group_codes *q;
    uint64_t row;
    uint8_t *dst;
} job;

static uint8_t *slab_of(const job *j, const mg_group_part *p, uint64_t slab) {
    return j->dst + slab * j->f->slab_bytes + p->slab_at;
}

/* Where slabs are rows: line `row` of a part that has a line of `bytes` for each `per` rows of the weight. */
static uint8_t *line_of(const job *j, const mg_group_part *p, uint64_t row, uint64_t per, uint64_t bytes) {
    return slab_of(j, p, row / j->f->slab_rows) + row % j->f->slab_rows / per * bytes;
}

static uint32_t strip(uint64_t i, uint64_t n) {
    return n - i < 32 ? (uint32_t)(n - i) : 32;
}

enum { TILE_ROWS = 256, TILE_COLS = 64, DOWN_ROWS = 16, DOWN_CODES = 512 };

/* Columns k .. k + cols of rows i .. i + rows (a multiple of 8), as lines [cols][TILE_ROWS]. */
static void turn_tile(const job *j, uint64_t i, uint64_t rows, uint64_t k, uint64_t cols, uint8_t *lines) {
    const uint8_t *order = order_of(j->f), *codes = j->q->codes + i * j->q->cols + k, *row[8];
    const uint64_t whole = cols - cols % 8;
    for (uint64_t r = 0; r < rows; r += 8) {
        for (uint64_t o = 0; o < 8; o++) row[o] = codes + (r + order[o]) * j->q->cols;
        mg_group_kernels_get()->turn(row, whole, natural, lines + r, TILE_ROWS);
        for (uint64_t c = whole; c < cols; c++)
            for (uint64_t o = 0; o < 8; o++) lines[c * TILE_ROWS + r + o] = row[o][c];
    }
}

/* AWQ: a line of words for each column. */
static void codes_across(const job *j, const mg_group_part *p) {
    const mg_group_form *f = j->f;
    const uint64_t per_line = p->shape[1] * 4, rows = j->q->rows, cols = j->q->cols;
    uint8_t lines[TILE_COLS * TILE_ROWS];
    for (uint64_t i = 0; i < rows; i += TILE_ROWS)
        for (uint64_t k = 0; k < cols; k += TILE_COLS) {
            const uint64_t n = rows - i < TILE_ROWS ? rows - i : TILE_ROWS;
            const uint64_t m = cols - k < TILE_COLS ? cols - k : TILE_COLS;
            turn_tile(j, i, n, k, m, lines);
            for (uint64_t c = 0; c < m; c++) {
                uint8_t *line = slab_of(j, p, (k + c) / f->slab_cols) + (k + c) % f->slab_cols * per_line;
                mg_group_kernels_get()->pack(lines + c * TILE_ROWS, n, f->scheme.bits,
                                             line + (j->row + i) * f->scheme.bits / 8);
            }
        }
}

/* GPTQ: the codes of a row become words one below the other. A few rows at a time: their words are neighbours. */
static void codes_down(const job *j, const mg_group_part *p) {
    const mg_group_form *f = j->f;
    const uint64_t per_line = p->shape[1] * 4, rows = j->q->rows, cols = j->q->cols;
    uint8_t words[DOWN_ROWS][DOWN_CODES];
    for (uint64_t k = 0, m; k < cols; k += m) {
        const uint64_t in_slab = f->slab_cols - k % f->slab_cols;
        m = in_slab < DOWN_CODES ? in_slab : DOWN_CODES;
        uint8_t *dst = slab_of(j, p, k / f->slab_cols) + k % f->slab_cols / 32 * f->scheme.bits * per_line + j->row * 4;
        for (uint64_t i = 0; i < rows; i += DOWN_ROWS) {
            const uint64_t n = rows - i < DOWN_ROWS ? rows - i : DOWN_ROWS;
            for (uint64_t r = 0; r < n; r++)
                mg_group_kernels_get()->pack(j->q->codes + (i + r) * cols + k, m, f->scheme.bits, words[r]);
            for (uint64_t w = 0; w < words_for(m, f->scheme.bits); w++)
                for (uint64_t r = 0; r < n; r++) memcpy(dst + w * per_line + (i + r) * 4, words[r] + 4 * w, 4);
        }
    }
}

static void codes_along(const job *j, const mg_group_part *p) {
    const uint64_t per_row = p->shape[p->rank - 1] * mg_dtype_get(p->dtype)->block_bytes, cols = j->q->cols;
    for (uint64_t i = 0; i < j->q->rows; i++) {
        const uint8_t *codes = j->q->codes + i * cols;
        uint8_t *line = line_of(j, p, j->row + i, 1, per_row);
        if (p->dtype == MG_F8_E4M3)
            memcpy(line, codes, cols);
        else
            mg_group_kernels_get()->pack(codes, cols, j->f->scheme.bits, line);
    }
}

static void put_codes(const job *j, const mg_group_part *p) {
    if (j->f->format == MG_FORMAT_AWQ)
        codes_across(j, p);
    else if (j->f->by_group)
        codes_down(j, p);
    else
        codes_along(j, p);
}

static void put_zeros(const job *j, const mg_group_part *p) {
    const mg_group_form *f = j->f;
    const uint32_t bits = f->scheme.bits, minus = f->format == MG_FORMAT_GPTQ;
    const uint64_t groups = j->q->groups;
    for (uint64_t i = 0; i < j->q->rows; i += 32)
        for (uint64_t g = 0; g < groups; g++) {
            const uint8_t *from = j->q->zeros + i * groups + g;
            if (f->by_group)
                pack_column(f, from, groups, strip(i, j->q->rows), minus, slab_of(j, p, g) + (j->row + i) * bits / 8,
                            4);
            else /* [rows * bits / 32, groups] */
                pack_column(f, from, groups, strip(i, j->q->rows), minus,
                            line_of(j, p, j->row + i, 32, bits * groups * 4) + g * 4, groups * 4);
        }
}

static void put_float(mg_dtype d, float x, uint8_t *dst) {
    if (d == MG_F8_E4M3) *dst = mg_f32_to_e4m3(x);
    if (d == MG_U8) *dst = mg_f32_to_e8m0(x);
    if (d == MG_F8_E4M3 || d == MG_U8) return;
    const uint16_t h = d == MG_F16 ? mg_f32_to_f16(x) : mg_f32_to_bf16(x);
    if (d == MG_F32)
        memcpy(dst, &x, 4);
    else
        memcpy(dst, &h, 2);
}

/* Scales or biases; exact, since they were rounded before codes were chosen. */
static void put_floats(const job *j, const mg_group_part *p, const float *from) {
    const mg_group_form *f = j->f;
    const uint64_t groups = j->q->groups, size = mg_dtype_get(p->dtype)->block_bytes;
    const uint64_t share = f->scheme.rule == MG_GROUP_FLOAT ? f->scheme.row_block : 1;
    for (uint64_t i = 0; i < j->q->rows; i += share)
        for (uint64_t g = 0; g < groups; g++) {
            uint8_t *dst = f->by_group ? slab_of(j, p, g) + (j->row + i) * size
                                       : line_of(j, p, j->row + i, share, groups * size) + g * size;
            put_float(p->dtype, from[i / share * groups + g], dst);
        }
}

void mg_group_form_pack(const mg_group_form *f, const mg_group_codes *q, uint64_t row, uint8_t *dst) {
    const job j = {f, q, row, dst};
    for (uint32_t p = 0; p < f->n_parts; p++) {
        const mg_group_part *part = &f->parts[p];
        if (part->what == MG_PART_CODES) put_codes(&j, part);
        if (part->what == MG_PART_ZEROS) put_zeros(&j, part);
        if (part->what == MG_PART_SCALES) put_floats(&j, part, q->scales);
        if (part->what == MG_PART_BIASES) put_floats(&j, part, q->biases);
    }
}
