/* kernel_bench.c - what every kernel costs: the levels in turns, medians of CPU time, beside memcpy.
 *
 * A call is one row; rows walk through --set-kib of f32 data, so a small set shows arithmetic and a large one memory.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/codec.h"
#include "quant/group_kernels.h"
#include "quant/math/mathops.h"
#include "tests/kernels/kernel_test.h"

enum { COLUMNS = 4096, MOST_ROW = 8 * COLUMNS, VARIANTS = 1 + KT_LEVELS };

/* Data shared by all variants of all kernels. */
static float *rows, *weights, *decoded;
static uint8_t *blocks;
static uint64_t n_rows;

static void *need(size_t bytes) {
    void *p = calloc(1, bytes);
    if (!p) {
        perror("bench");
        exit(1);
    }
    return p;
}

static void open_set(void) {
    n_rows = kt.set_bytes / (COLUMNS * 4);
    if (n_rows == 0) n_rows = 1;
    rows = need(n_rows * COLUMNS * 4);
    decoded = need(n_rows * COLUMNS * 4);
    blocks = need(n_rows * MOST_ROW);
    weights = need(COLUMNS * 4);
    kt_case("bench", 0);
    for (uint64_t r = 0; r < n_rows; r++) kt_fill(rows + r * COLUMNS, COLUMNS, KT_GAUSS);
    do kt_fill_weights(weights, COLUMNS);
    while (weights[0] == 0.0f || weights[1] == 0.0f || weights[0] == weights[1]); /* a plain one */
}

static void close_set(void) {
    free(rows);
    free(decoded);
    free(blocks);
    free(weights);
}

/* Above the first row of a table: what it shows. NULL once printed. */
static const char *title;

static void print_head(void) {
    mg_isa level[KT_LEVELS];
    size_t n = kt_levels(level);
    printf("\n%s, %" PRIu64 " KiB of f32, memcpy %.1f GB/s read + written\n\n| kernel | scalar ns |", title,
           n_rows * COLUMNS * 4 >> 10, kt_copy_speed(n_rows * COLUMNS * 4));
    for (size_t i = 0; i < n; i++) printf(" %s ns | ratio |", mg_isa_name(level[i]));
    printf(" best GB/s |\n|---|---|");
    for (size_t i = 0; i < n; i++) printf("---|---|");
    printf("---|\n");
    title = NULL;
}

/* v[0] is the scalar kernel; a level that has no function of its own has ns = 0. */
static void print_row(const char *name, const kt_timed *v, size_t levels, double elements, double bytes) {
    double best = v[0].ns;
    if (title) print_head();
    printf("| %s | %.3f |", name, v[0].ns / elements);
    for (size_t i = 1; i <= levels; i++) {
        if (v[i].ns > 0)
            printf(" %.3f | %.1f |", v[i].ns / elements, v[i].ratio);
        else
            printf(" | |");
        if (v[i].ns > 0 && v[i].ns < best) best = v[i].ns;
    }
    printf(" %.1f |\n", bytes / best);
    fflush(stdout);
}

/* Times the variants that differ from the level below; the others stay 0. */
static void time_and_print(const char *name, kt_timed *v, const bool *own, size_t levels, double elements,
                           double bytes) {
    kt_timed packed[VARIANTS];
    size_t n = 0;
    for (size_t i = 0; i <= levels; i++)
        if (own[i]) packed[n++] = v[i];
    kt_time(packed, n);
    n = 0;
    for (size_t i = 0; i <= levels; i++)
        if (own[i]) v[i] = packed[n++];
    print_row(name, v, levels, elements, bytes);
}

/* ---- codecs ---- */

typedef struct codec_bench {
    const mg_codec *codec;
    const float *weights;
    uint64_t bytes; /* of a row of blocks */
} codec_bench;

static void encode_row(void *ctx, uint64_t turn) {
    const codec_bench *c = ctx;
    uint64_t r = turn % n_rows;
    mg_error err = {0};
    if (c->codec->encode(rows + r * COLUMNS, c->weights, COLUMNS, blocks + r * c->bytes, &err) != MG_OK)
        kt_fail("%s", err.message);
}

static void decode_row(void *ctx, uint64_t turn) {
    const codec_bench *c = ctx;
    uint64_t r = turn % n_rows;
    c->codec->decode(blocks + r * c->bytes, COLUMNS, decoded + r * COLUMNS);
}

static void bench_codec(mg_dtype t, const char *mode, const float *w, bool decoding) {
    mg_isa level[KT_LEVELS];
    size_t levels = kt_levels(level);
    codec_bench ctx[VARIANTS];
    kt_timed v[VARIANTS] = {0};
    bool own[VARIANTS] = {true};
    char name[64];
    uint64_t bytes = 0;
    snprintf(name, sizeof name, "%s.%s", mg_dtype_get(t)->name, mode);
    if (!kt_selected(name) || !mg_dtype_row_bytes(t, COLUMNS, &bytes)) return;
    kt_case(name, 0);
    for (size_t i = 0; i <= levels; i++) {
        ctx[i] = (codec_bench){mg_codec_for(t, i ? level[i - 1] : MG_ISA_SCALAR), w, bytes};
        v[i] = (kt_timed){.call = decoding ? decode_row : encode_row, .ctx = &ctx[i]};
        if (i)
            own[i] = decoding ? ctx[i].codec->decode != ctx[i - 1].codec->decode
                              : ctx[i].codec->encode != ctx[i - 1].codec->encode;
    }
    if (decoding)
        for (uint64_t r = 0; r < n_rows && r < 8; r++)
            for (uint64_t k = r; k < n_rows; k += 8) {
                codec_bench one = {ctx[levels].codec, weights, bytes};
                if (k == r)
                    encode_row(&one, r);
                else
                    memcpy(blocks + k * bytes, blocks + r * bytes, bytes);
            }
    time_and_print(name, v, own, levels, COLUMNS, (double)(COLUMNS * 4 + bytes + (w && !decoding ? COLUMNS * 4 : 0)));
}

void kt_codecs_bench(void) {
    open_set();
    title = "Codecs, per weight";
    for (int k = 0; k < MG_DTYPE_COUNT; k++) {
        mg_dtype t = (mg_dtype)k;
        const mg_codec *c = mg_codec_for(t, MG_ISA_SCALAR);
        if (!c) continue;
        if (c->imatrix != MG_IMATRIX_REQUIRED) bench_codec(t, "encode", NULL, false);
        if (c->imatrix != MG_IMATRIX_IGNORED) bench_codec(t, "encode.imatrix", weights, false);
        bench_codec(t, "decode", NULL, true);
    }
    close_set();
}

/* ---- f32 kernels ---- */

typedef struct math_bench {
    const mg_math *table;
    size_t field;
} math_bench;

#define KERNEL(kind, b) (*(mg_kernel_##kind *const *)(const void *)((const char *)(b)->table + (b)->field))

/* One row by a kernel of a kind; x is read, y written. Values stay in range: what a call leaves is overwritten. */
enum { GEMM_K = COLUMNS / MG_GEMM_NR };
static volatile float kept; /* results that nobody reads must still be computed */

static void time_map(const math_bench *b, float *x, float *y) {
    KERNEL(map, b)(y, x, COLUMNS);
}
static void time_zip(const math_bench *b, float *x, float *y) {
    KERNEL(zip, b)(y, x, COLUMNS);
}
static void time_map_scalar(const math_bench *b, float *x, float *y) {
    KERNEL(map_scalar, b)(y, x, 3.0f, COLUMNS);
}
static void time_zip_scalar(const math_bench *b, float *x, float *y) {
    KERNEL(zip_scalar, b)(y, x, 0.5f, COLUMNS);
}
static void time_reduce(const math_bench *b, float *x, float *y) {
    (void)y, kept = KERNEL(reduce, b)(x, COLUMNS);
}
static void time_largest(const math_bench *b, float *x, float *y) {
    (void)y, kept = KERNEL(largest, b)(x, COLUMNS);
}
static void time_softmax(const math_bench *b, float *x, float *y) {
    (void)x, kept = KERNEL(softmax, b)(y, COLUMNS, 1);
}
static void time_rmsnorm(const math_bench *b, float *x, float *y) {
    KERNEL(rmsnorm, b)(y, x, x, COLUMNS, 1e-6f);
}
static void time_rope(const math_bench *b, float *x, float *y) {
    KERNEL(rope, b)(y, x, x, COLUMNS / 2);
}
static void time_pack(const math_bench *b, float *x, float *y) {
    KERNEL(pack, b)(y, x, GEMM_K, MG_GEMM_NR, GEMM_K);
}
static void time_pack_rows(const math_bench *b, float *x, float *y) { /* mr of sixteen rows */
    const float *row[MG_GEMM_MAX_MR];
    for (uint32_t r = 0; r < b->table->mr; r++) row[r] = x + r * GEMM_K;
    KERNEL(pack_rows, b)(y, row, b->table->mr, GEMM_K);
}
/* Twelve rows times a panel: as many products per element of x. */
static void time_gemm(const math_bench *b, float *x, float *y) {
    for (uint32_t r = 0; r < 12; r += b->table->mr)
        KERNEL(gemm, b)(b->table->mr, GEMM_K, weights, x, COLUMNS, 1, y, MG_GEMM_NR, MG_GEMM_NR, true);
}

/* One row times two panels of 4-bit codes, a group of 128 each; panels as f32. What x holds does as codes, too. */
static const mg_codes four_bits = {.bits = 4, .k = GEMM_K / 2, .groups = 1, .group_size = 128};
static void time_code_dot(const math_bench *b, float *x, float *y) {
    KERNEL(code_dot, b)(&four_bits, (const uint8_t *)x, 2, 1, weights, y, 2 * MG_GEMM_NR);
}
static void time_code_values(const math_bench *b, float *x, float *y) {
    const uint8_t *panel = (const uint8_t *)x;
    KERNEL(code_values, b)(&four_bits, panel, 0, four_bits.k, y);
    KERNEL(code_values, b)(&four_bits, panel + mg_codes_panel_bytes(&four_bits), 0, four_bits.k, y + COLUMNS / 2);
}

/* Elements are products of doubles: sixteen rows onto each of eight. */
static void time_update(const math_bench *b, float *x, float *y) {
    enum { ROWS = 8, K = 16, N = COLUMNS / ROWS / K };
    double *to = (double *)(void *)y, *from = (double *)(void *)x;
    KERNEL(update, b)(to, N, from, K, ROWS, from, N, K, N);
}

typedef struct math_row {
    const char *name;
    size_t field;
    void (*run)(const math_bench *b, float *x, float *y);
} math_row;

static const math_row math_rows[] = {
#define MG_KERNEL(field, kind) {"math." #field, offsetof(mg_math, field), time_##kind},
#include "quant/kernels.inc"
#undef MG_KERNEL
};
static const math_row *timed_row;

static void math_call(void *ctx, uint64_t turn) {
    uint64_t r = turn % n_rows;
    timed_row->run(ctx, rows + r * COLUMNS, decoded + r * COLUMNS);
}

void kt_math_bench(void) {
    mg_isa level[KT_LEVELS];
    size_t levels = kt_levels(level);
    open_set();
    title = "f32 kernels, per element";
    for (size_t k = 0; k < sizeof math_rows / sizeof *math_rows; k++) {
        math_bench ctx[VARIANTS];
        kt_timed v[VARIANTS] = {0};
        bool own[VARIANTS] = {true};
        if (!kt_selected(math_rows[k].name)) continue;
        timed_row = &math_rows[k];
        for (size_t i = 0; i <= levels; i++) {
            ctx[i] = (math_bench){mg_math_for(i ? level[i - 1] : MG_ISA_SCALAR), math_rows[k].field};
            v[i] = (kt_timed){.call = math_call, .ctx = &ctx[i]};
            if (i) own[i] = ctx[i].table && ctx[i].table != ctx[i - 1].table;
        }
        time_and_print(math_rows[k].name, v, own, levels, COLUMNS, 8.0 * COLUMNS);
    }
    close_set();
}

/* ---- kernels of the group formats ---- */

enum { GROUP = 128 }; /* weights that share a scale */
static const mg_group_step group_step = {.scale = 0.4f, .zero = 7.0f, .top = 15.0f};

/* One row of weights x, of values y, of codes c, of packed bits p (4 of them); in groups where there are scales. */
typedef struct group_line {
    float *x, *y;
    uint8_t *c, *p;
} group_line;

static void group_unpack(const mg_group_kernels *t, const group_line *r) {
    t->unpack(r->p, COLUMNS, 4, r->c);
}
static void group_pack(const mg_group_kernels *t, const group_line *r) {
    t->pack(r->c, COLUMNS, 4, r->p);
}
static void group_turn(const mg_group_kernels *t, const group_line *r) {
    static const uint8_t place[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    const uint8_t *rows_of[8];
    for (int i = 0; i < 8; i++) rows_of[i] = r->c + i * (COLUMNS / 8);
    t->turn(rows_of, COLUMNS / 8, place, r->p, 8);
}
static void group_range(const mg_group_kernels *t, const group_line *r) {
    float lo, hi;
    for (int g = 0; g < COLUMNS; g += GROUP) {
        t->range(r->x + g, GROUP, &lo, &hi);
        kept = lo;
    }
}
static void group_round(const mg_group_kernels *t, const group_line *r) {
    for (int g = 0; g < COLUMNS; g += GROUP) t->round(&group_step, r->x + g, GROUP, r->c + g);
}
static void group_error(const mg_group_kernels *t, const group_line *r) {
    for (int g = 0; g < COLUMNS; g += GROUP) t->error(&group_step, r->x + g, GROUP, r->y + g);
}
static void group_cost(const mg_group_kernels *t, const group_line *r) {
    for (int g = 0; g < COLUMNS; g += GROUP) kept = (float)t->cost(&group_step, r->x + g, weights + g, GROUP);
}
static void group_tries(const mg_group_kernels *t, const group_line *r) {
    static mg_group_tries s = {.top = 15.0f};
    for (int i = 0; i < MG_GROUP_TRIES; i++) s.scale[i] = 0.4f, s.zero[i] = 7.0f;
    t->tries(&s, r->x, weights, weights, COLUMNS / MG_GROUP_TRIES, r->y);
}
static void group_gains(const mg_group_kernels *t, const group_line *r) {
    float gain[MG_GROUP_TRIES];
    t->gains(r->x, r->y, weights, COLUMNS / MG_GROUP_TRIES, gain);
    kept = gain[0];
}
static void group_values(const mg_group_kernels *t, const group_line *r) {
    for (int g = 0; g < COLUMNS; g += GROUP) t->values(r->c + g, GROUP, 7.0f, 0.4f, r->y + g);
}
static void group_affine(const mg_group_kernels *t, const group_line *r) {
    for (int g = 0; g < COLUMNS; g += GROUP) t->affine(r->c + g, GROUP, 0.4f, 0.1f, r->y + g);
}

static void group_floats(const mg_group_kernels *t, const group_line *r) {
    for (int g = 0; g < COLUMNS; g += GROUP) t->floats(r->c + g, GROUP, MG_CODE_E4M3, 0.4f, r->y + g);
}
static void group_narrow(const mg_group_kernels *t, const group_line *r) {
    for (int g = 0; g < COLUMNS; g += GROUP) t->narrow(r->x + g, GROUP, MG_CODE_E4M3, 0.4f, r->c + g);
}

static const struct group_bench {
    const char *name;
    void (*run)(const mg_group_kernels *t, const group_line *r);
    double bytes; /* read and written for each weight */
} group_rows[] = {
    {"group.unpack", group_unpack, 1.5}, {"group.pack", group_pack, 1.5},   {"group.turn", group_turn, 2},
    {"group.range", group_range, 4},     {"group.round", group_round, 5},   {"group.error", group_error, 8},
    {"group.cost", group_cost, 8},       {"group.tries", group_tries, 5},   {"group.gains", group_gains, 8},
    {"group.values", group_values, 5},   {"group.affine", group_affine, 5}, {"group.floats", group_floats, 5},
    {"group.narrow", group_narrow, 5}};
static const struct group_bench *timed_group;

_Static_assert(sizeof group_rows / sizeof *group_rows == sizeof(mg_group_kernels) / sizeof(void *), "all are timed");

static void group_call(void *ctx, uint64_t turn) {
    const uint64_t r = turn % n_rows;
    const group_line row = {rows + r * COLUMNS, decoded + r * COLUMNS, blocks + r * MOST_ROW,
                            blocks + r * MOST_ROW + COLUMNS};
    timed_group->run(*(const mg_group_kernels **)ctx, &row);
}

void kt_groups_bench(void) {
    mg_isa level[KT_LEVELS];
    const size_t levels = kt_levels(level);
    open_set();
    title = "Kernels of the group formats (4 bits, groups of 128), per weight";
    for (size_t k = 0; k < sizeof group_rows / sizeof *group_rows; k++) {
        const mg_group_kernels *table[VARIANTS];
        kt_timed v[VARIANTS] = {0};
        bool own[VARIANTS];
        if (!kt_selected(group_rows[k].name)) continue;
        timed_group = &group_rows[k];
        for (size_t i = 0; i <= levels; i++) {
            table[i] = mg_group_kernels_for(i ? level[i - 1] : MG_ISA_SCALAR);
            v[i] = (kt_timed){.call = group_call, .ctx = &table[i]};
            own[i] = true;
        }
        for (uint64_t i = 0; i < n_rows * MOST_ROW; i++) blocks[i] &= 15;
        time_and_print(group_rows[k].name, v, own, levels, COLUMNS, group_rows[k].bytes * COLUMNS);
    }
    close_set();
}
