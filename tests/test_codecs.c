/* test_codecs.c - every codec against the golden bytes of the reference (tests/data/golden/quant).
 *
 * rows.f32 holds 59 rows of 1024: gaussians, heavy tails, ties, zero runs, constants and magnitudes from 1e-41 up;
 * imatrix.f32 one row of importance weights. <TYPE>.plain.bin and <TYPE>.imatrix.bin are the reference's blocks. */
#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "quant/block_layout.h"
#include "quant/codec.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ROWS = 59, COLS = 1024 };

static void *slurp(const char *name, size_t *size) {
    char path[512];
    snprintf(path, sizeof path, MG_TEST_DATA "/golden/quant/%s", name);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    void *p = malloc(*size + 1);
    cr_assert(fread(p, 1, *size, f) == *size);
    ((char *)p)[*size] = 0;
    fclose(f);
    return p;
}

static float *slurp_floats(const char *name, size_t count) {
    size_t size;
    float *p = slurp(name, &size);
    cr_assert(p && size == count * sizeof *p, "%s is missing or has the wrong size", name);
    return p;
}

static uint64_t row_bytes(mg_dtype t, uint64_t n) {
    uint64_t b;
    cr_assert(mg_dtype_row_bytes(t, n, &b));
    return b;
}

/* Encode all golden rows and compare with the file; returns false when there is no such file. */
static bool compare_golden(const mg_codec *c, const float *rows, const float *weights, const char *variant) {
    const char *type = mg_dtype_get(c->dtype)->name;
    char name[64];
    size_t size;
    snprintf(name, sizeof name, "%s.%s.bin", type, variant);
    uint8_t *want = slurp(name, &size);
    if (!want) return false;
    uint64_t rb = row_bytes(c->dtype, COLS), bb = mg_dtype_get(c->dtype)->block_bytes;
    cr_assert(size == rb * ROWS);
    uint8_t *got = malloc(rb);
    for (uint64_t r = 0; r < ROWS; r++) {
        mg_error err = {0};
        memset(got, 0xA5, rb);
        mg_status st = c->encode(rows + r * COLS, weights, COLS, got, &err);
        cr_expect(st == MG_OK, "%s row %d: %s", name, (int)r, err.message);
        for (uint64_t i = 0; st == MG_OK && i < rb; i++)
            if (got[i] != want[r * rb + i]) {
                cr_expect(false, "%s row %d block %d byte %d: expected %02x, found %02x", name, (int)r, (int)(i / bb),
                          (int)(i % bb), want[r * rb + i], got[i]);
                break;
            }
    }
    free(got);
    free(want);
    return true;
}

Test(codecs, golden_bytes) {
    float *rows = slurp_floats("rows.f32", ROWS * COLS), *weights = slurp_floats("imatrix.f32", COLS);
    for (int t = 0; t < MG_DTYPE_COUNT; t++) {
        const mg_codec *c = mg_codec_get((mg_dtype)t);
        if (!c || t == MG_F32 || t == MG_F64) continue;
        bool plain = compare_golden(c, rows, NULL, "plain"), weighted = compare_golden(c, rows, weights, "imatrix");
        cr_expect(weighted && plain == (c->imatrix != MG_IMATRIX_REQUIRED), "%s: golden files missing",
                  mg_dtype_get((mg_dtype)t)->name);
    }
    free(rows);
    free(weights);
}

/* ---- decoding: sha256 of the f32 of all rows, and the distortion of row 0, as index.json has them ---- */

static double rmse(const float *a, const float *b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sqrt(sum / n);
}

static void decode_golden(const mg_codec *c, const float *rows, const mg_json *entry, const char *variant) {
    char name[64], hex[65];
    size_t size;
    double want_rmse;
    const mg_json *v = mg_json_get(entry, variant);
    if (!v) return;
    snprintf(name, sizeof name, "%s.%s.bin", mg_dtype_get(c->dtype)->name, variant);
    uint8_t *blocks = slurp(name, &size), digest[32];
    cr_assert(blocks);
    float *out = malloc(ROWS * COLS * sizeof *out);
    c->decode(blocks, ROWS * COLS, out);
    mg_sha256 s;
    mg_sha256_init(&s);
    mg_sha256_update(&s, out, ROWS * COLS * sizeof *out);
    mg_sha256_final(&s, digest);
    mg_hex(digest, 32, hex);
    cr_expect_str_eq(hex, mg_json_str(mg_json_get(v, "dequantized_sha256")), "%s", name);
    /* The index was computed in binary32; 1e-6 relative covers its rounding. */
    cr_assert(mg_json_f64(mg_json_get(v, "rmse_row0"), &want_rmse));
    double got = rmse(rows, out, COLS);
    cr_expect(fabs(got - want_rmse) <= 1e-6 * want_rmse, "%s: rmse %.9g, expected %.9g", name, got, want_rmse);
    free(blocks);
    free(out);
}

Test(codecs, golden_decoded) {
    mg_json *index;
    mg_error err = {0};
    float *rows = slurp_floats("rows.f32", ROWS * COLS);
    cr_assert(mg_json_load(&index, MG_TEST_DATA "/golden/quant/index.json", 1 << 20, &err) == MG_OK, "%s", err.message);
    const mg_json *types = mg_json_get(index, "types");
    size_t seen = 0;
    for (int t = 0; t < MG_DTYPE_COUNT; t++) {
        const mg_codec *c = mg_codec_get((mg_dtype)t);
        const mg_json *entry = mg_json_get(types, mg_dtype_get((mg_dtype)t)->name);
        if (!entry) continue;
        cr_assert(c, "%s has no codec", mg_dtype_get((mg_dtype)t)->name);
        decode_golden(c, rows, entry, "plain");
        decode_golden(c, rows, entry, "imatrix");
        seen++;
    }
    cr_expect(seen == mg_json_len(types) && seen >= 25);
    mg_json_free(index);
    free(rows);
}

/* ---- constant rows: bytes of the first block, written "aa*k" for k copies ---- */

static size_t expand(const char *text, uint8_t *out) {
    size_t n = 0;
    for (const char *p = text; *p;) {
        char *end;
        uint8_t byte = (uint8_t)strtoul(p, &end, 16);
        unsigned long k = *end == '*' ? strtoul(end + 1, &end, 10) : 1;
        memset(out + n, byte, k);
        n += k;
        p = end + strspn(end, " ");
    }
    return n;
}

typedef struct edge {
    mg_dtype type;
    float x, weight; /* the constant; weight < 0: without importance weights */
    const char *bytes;
} edge;

static const edge edges[] = {
    {MG_Q4_0, 0.0f, -1, "00 80 88*16"},
    {MG_Q4_0, 1.0f, -1, "00 b0 00*16"},
    {MG_Q4_0, -1.0f, -1, "00 30 00*16"},
    {MG_Q4_0, 0.0f, 1, "00*18"}, /* d = +0 with weights, -0 without */
    {MG_Q4_1, 0.0f, -1, "00*20"},
    {MG_Q4_1, 1.0f, -1, "00*3 3c 00*16"},
    {MG_Q4_1, -1.0f, -1, "00*3 bc 00*16"},
    {MG_Q4_1, -0.0f, -1, "00*3 80 00*16"},
    {MG_Q5_0, 0.0f, -1, "00 80 ff*4 00*16"}, /* code 16: fifth bit set */
    {MG_Q5_0, 1.0f, -1, "00 ac 00*20"},
    {MG_Q5_0, -1.0f, -1, "00 2c 00*20"},
    {MG_Q5_1, -0.0f, -1, "00*3 80 00*20"},
    {MG_Q8_0, 0.0f, -1, "00*34"},
    {MG_Q8_0, 1.0f, -1, "08 20 7f*32"},
    {MG_Q8_0, -1.0f, -1, "08 20 81*32"},
    {MG_MXFP4, 0.0f, -1, "00*17"},
    {MG_MXFP4, 1.0f, -1, "7d 66*16"},
    {MG_MXFP4, -1.0f, -1, "7d ee*16"},
    {MG_NVFP4, 0.0f, -1, "00*36"},
    {MG_NVFP4, 1.0f, -1, "23*4 77*32"},
    {MG_NVFP4, -1.0f, -1, "23*4 ff*32"},
    {MG_TQ2_0, 0.0f, -1, "55*64 00*2"},
    {MG_TQ2_0, 1.0f, -1, "aa*64 00 3c"},
    {MG_TQ2_0, -1.0f, -1, "00*65 3c"},
    {MG_TQ1_0, 0.0f, -1, "80*48 7f*4 00*2"},
    {MG_TQ1_0, 1.0f, -1, "ff*48 fd*4 00 3c"},
    {MG_TQ1_0, -1.0f, -1, "00*53 3c"},
    {MG_Q2_K, 0.0f, -1, "00*84"},
    {MG_Q2_K, 1.0f, -1, "0f*16 ff*64 b0 25 00*2"},
    {MG_Q2_K, -1.0f, -1, "f0*16 00*66 44 2c"},
    {MG_Q3_K, 0.0f, -1, "00*110"},
    {MG_Q3_K, 1.0f, -1, "00*109 20"},
    {MG_Q3_K, -1.0f, -1, "00*109 a0"},
    {MG_Q3_K, 1.0f, 1, "00*32 55*64 11*8 00*4 81 21"},
    {MG_Q3_K, -1.0f, 1, "00*32 55*64 11*8 00*4 81 a1"},
    {MG_Q4_K, 0.0f, -1, "00*144"},
    {MG_Q4_K, 1.0f, -1, "56 14 00*2 ff*4 00*4 0f*4 ff*128"},
    {MG_Q4_K, -1.0f, -1, "00*2 10 24 00*4 ff*4 f0*4 00*128"},
    {MG_Q5_K, 0.0f, -1, "00*176"},
    {MG_Q5_K, 1.0f, -1, "32 10 00*2 ff*4 00*4 0f*4 ff*160"},
    {MG_Q5_K, -1.0f, -1, "00*2 10 24 00*4 ff*4 f0*4 00*160"},
    {MG_Q6_K, 0.0f, -1, "00*210"},
    {MG_Q6_K, 1.0f, -1, "00*192 80*16 00 0c"},
    {MG_Q6_K, -1.0f, -1, "00*192 80*16 00 8c"},
    {MG_IQ4_NL, 0.0f, -1, "00*2 88*16"},
    {MG_IQ4_NL, 1.0f, -1, "88 20 ff*16"},
    {MG_IQ4_NL, -1.0f, -1, "88 a0 ff*16"},
    {MG_IQ4_XS, 0.0f, -1, "00 80 aa*2 00*4 88*128"},
    {MG_IQ4_XS, 1.0f, -1, "88 8c 00*6 ff*128"},
    {MG_IQ4_XS, -1.0f, -1, "88 0c 00*6 ff*128"},
    {MG_IQ3_S, 0.0f, -1, "00*110"},
    {MG_IQ3_S, 1.0f, -1, "57 1a b5*64 ff*8 00*32 ff*4"},
    {MG_IQ3_S, -1.0f, -1, "57 1a b5*64 ff*44"},
    {MG_IQ2_S, 0.0f, -1, "00*82"},
    {MG_IQ2_S, 1.0f, -1, "86 1e ff*32 00*32 ff*16"},
    {MG_IQ2_S, -1.0f, -1, "86 1e ff*80"},
    {MG_IQ1_S, 0.0f, 1, "00*50"},
    {MG_IQ1_S, 1.0f, 1, "44 2c ff*33 7f ff 7f ff 7f ff 7f ff 7f ff 7f ff 7f ff 7f"},
    {MG_IQ1_S, -1.0f, 1, "44 2c 00*33 f0 00 f0 00 f0 00 f0 00 f0 00 f0 00 f0 00 f0"},
    {MG_IQ1_M, 0.0f, -1, "00*56"},
    {MG_IQ1_M, 1.0f, -1, "ff*32 77*16 ff 8f ff 3f ff cf ff 2f"},
    {MG_IQ1_M, -1.0f, -1, "00*32 88*16 ff 8f ff 3f ff cf ff 2f"},
};

static void constant_row(float *x, float value) {
    for (int i = 0; i < MG_SUPER; i++) x[i] = value;
}

Test(codecs, constant_rows) {
    float x[MG_SUPER], w[MG_SUPER];
    uint8_t got[MG_SUPER * 8], want[MG_SUPER * 8];
    for (size_t e = 0; e < sizeof edges / sizeof *edges; e++) {
        const mg_dtype_info *d = mg_dtype_get(edges[e].type);
        constant_row(x, edges[e].x);
        constant_row(w, edges[e].weight);
        cr_assert(expand(edges[e].bytes, want) == d->block_bytes, "%s: the test's own vector", d->name);
        mg_error err = {0};
        mg_status st = mg_codec_get(edges[e].type)->encode(x, edges[e].weight < 0 ? NULL : w, MG_SUPER, got, &err);
        cr_assert(st == MG_OK, "%s", err.message);
        cr_expect(memcmp(got, want, d->block_bytes) == 0, "%s of %g, weights %g", d->name, (double)edges[e].x,
                  (double)edges[e].weight);
    }
}

/* All importance weights 0 over a row of +1: what survives and what is lost is part of the format's behaviour. */
Test(codecs, zero_weights) {
    static const mg_dtype lost[] = {MG_Q4_0,    MG_Q5_0,  MG_Q6_K,  MG_Q3_K, MG_IQ4_NL, MG_IQ4_XS,
                                    MG_IQ2_XXS, MG_IQ1_S, MG_IQ1_M, MG_Q2_K, MG_Q4_K,   MG_Q5_K};
    static const mg_dtype kept[] = {MG_Q4_1, MG_Q5_1, MG_IQ3_XXS, MG_IQ3_S, MG_IQ2_S, MG_IQ2_XS};
    float x[MG_SUPER], w[MG_SUPER], y[MG_SUPER];
    uint8_t blocks[MG_SUPER * 8];
    constant_row(x, 1.0f);
    constant_row(w, 0.0f);
    for (size_t k = 0; k < sizeof lost / sizeof *lost; k++) {
        const mg_codec *c = mg_codec_get(lost[k]);
        cr_assert(c->encode(x, w, MG_SUPER, blocks, NULL) == MG_OK);
        c->decode(blocks, MG_SUPER, y);
        for (int i = 0; i < MG_SUPER; i++)
            cr_assert(y[i] == 0.0f, "%s element %d: %g", mg_dtype_get(lost[k])->name, i, (double)y[i]);
    }
    /* Kept, but not well: IQ3_XXS starts from max/15 and finds no better scale. */
    for (size_t k = 0; k < sizeof kept / sizeof *kept; k++) {
        const mg_codec *c = mg_codec_get(kept[k]);
        cr_assert(c->encode(x, w, MG_SUPER, blocks, NULL) == MG_OK);
        c->decode(blocks, MG_SUPER, y);
        cr_assert(y[0] > 0.05f, "%s: %g", mg_dtype_get(kept[k])->name, (double)y[0]);
    }
}

/* ---- refusals ---- */

#define FOR_EACH_CODEC(c)                                                                                              \
    for (int t_ = 0; t_ < MG_DTYPE_COUNT; t_++)                                                                        \
        for (const mg_codec *c = mg_codec_get((mg_dtype)t_); c; c = NULL)

Test(codecs, refusals) {
    float x[MG_SUPER], w[MG_SUPER];
    uint8_t blocks[MG_SUPER * 8];
    constant_row(w, 1.0f);
    FOR_EACH_CODEC(c) {
        const mg_dtype_info *d = mg_dtype_get(c->dtype);
        const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
        for (int k = 0; k < 4; k++) {
            mg_error err = {0};
            constant_row(x, 1.0f);
            x[37 + k] = bad[k];
            cr_expect(c->encode(x, w, MG_SUPER, blocks, &err) == MG_ERR_FORMAT, "%s", d->name);
            char want[32];
            snprintf(want, sizeof want, "element %d ", 37 + k);
            cr_expect(strstr(err.message, want), "%s: '%s'", d->name, err.message);
        }
        constant_row(x, 1.0f);
        mg_error err = {0};
        if (c->imatrix == MG_IMATRIX_REQUIRED)
            cr_expect(c->encode(x, NULL, MG_SUPER, blocks, &err) == MG_ERR_USAGE && strstr(err.message, d->name));
        if (d->block > 1) {
            mg_error err2 = {0};
            cr_expect(c->encode(x, w, d->block - 1, blocks, &err2) == MG_ERR_USAGE && strstr(err2.message, d->name));
        }
        w[200] = -1.0f;
        mg_status st = c->encode(x, w, MG_SUPER, blocks, NULL);
        cr_expect(st == (c->imatrix == MG_IMATRIX_IGNORED ? MG_OK : MG_ERR_FORMAT), "%s", d->name);
        w[200] = 1.0f;
    }
    cr_expect(!mg_codec_get(MG_I32) && !mg_codec_get(MG_BOOL) && !mg_codec_get(MG_DTYPE_COUNT) &&
              !mg_codec_get((mg_dtype)-1));
}

/* Where the reference would abort because no codebook point has a finite error, we say so. */
Test(codecs, codebook_overflow) {
    static const mg_dtype types[] = {MG_IQ3_XXS, MG_IQ3_S, MG_IQ2_S};
    float x[MG_SUPER];
    uint8_t blocks[MG_SUPER * 8];
    for (int i = 0; i < MG_SUPER; i++) x[i] = ldexpf((float)((i * 37) % 101 - 50), 60);
    for (int k = 0; k < 3; k++) {
        mg_error err = {0};
        cr_expect(mg_codec_get(types[k])->encode(x, NULL, MG_SUPER, blocks, &err) == MG_ERR_FORMAT, "%s",
                  mg_dtype_get(types[k])->name);
        cr_expect(strstr(err.message, "too large"), "'%s'", err.message);
    }
}

/* ---- memory: exact-size buffers that end at a page which faults ---- */

typedef struct guarded {
    uint8_t *map, *data;
    size_t len;
} guarded;

static guarded guarded_new(size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), len = (size + page - 1) / page * page + page;
    uint8_t *map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(map != MAP_FAILED && mprotect(map + len - page, page, PROT_NONE) == 0);
    return (guarded){map, map + len - page - size, len};
}

static uint64_t rng_state = 0x9E3779B97F4A7C15u;
static uint64_t rng(void) {
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    return rng_state ^= rng_state << 17;
}
/* Sum of twelve uniforms: near enough to a standard normal, and exact on every machine. */
static float gaussian(void) {
    double sum = -6.0;
    for (int i = 0; i < 12; i++) sum += (double)(rng() >> 11) * 0x1p-53;
    return (float)sum;
}

Test(codecs, stays_inside_its_buffers) {
    FOR_EACH_CODEC(c) {
        for (uint64_t n = mg_dtype_get(c->dtype)->block; n <= 512; n *= 2) {
            uint64_t rb = row_bytes(c->dtype, n);
            guarded x = guarded_new(n * 4), w = guarded_new(n * 4), b = guarded_new(rb), y = guarded_new(n * 4);
            float *xf = (float *)(void *)x.data, *wf = (float *)(void *)w.data;
            for (uint64_t i = 0; i < n; i++) {
                xf[i] = gaussian();
                wf[i] = fabsf(gaussian());
            }
            cr_assert(c->encode(xf, wf, n, b.data, NULL) == MG_OK);
            c->decode(b.data, n, (float *)(void *)y.data);
            for (int round = 0; round < 64; round++) { /* blocks nobody encoded */
                for (uint64_t i = 0; i < rb; i++) b.data[i] = round == 0 ? 0xFF : (uint8_t)rng();
                c->decode(b.data, n, (float *)(void *)y.data);
            }
            munmap(x.map, x.len);
            munmap(w.map, w.len);
            munmap(b.map, b.len);
            munmap(y.map, y.len);
        }
    }
}

/* ---- properties on random rows ---- */

/* Distortion of fresh normal rows against that of golden row 0, which is normal too: same expectation, and over 16 rows
 * the measured ratio stays within a few percent (rmse of 1024 elements scatters by about 1/sqrt(2 * 1024) = 2 %, 16
 * rows by less; block maxima add to it). 10 % is beyond that and below the distance to the next worse type of every
 * family. */
Test(codecs, distortion_of_normal_rows) {
    float *rows = slurp_floats("rows.f32", ROWS * COLS), x[COLS], w[COLS], y[COLS];
    uint8_t blocks[COLS * 8];
    double norm0 = 0;
    for (int i = 0; i < COLS; i++) {
        norm0 += (double)rows[i] * rows[i] / COLS;
        w[i] = 1.0f;
    }
    FOR_EACH_CODEC(c) {
        double sum = 0, norm = 0;
        const float *weights = c->imatrix == MG_IMATRIX_REQUIRED ? w : NULL;
        cr_assert(c->encode(rows, weights, COLS, blocks, NULL) == MG_OK);
        c->decode(blocks, COLS, y);
        double want = rmse(rows, y, COLS) / sqrt(norm0);
        for (int r = 0; r < 16; r++) {
            for (int i = 0; i < COLS; i++) x[i] = gaussian();
            cr_assert(c->encode(x, weights, COLS, blocks, NULL) == MG_OK);
            c->decode(blocks, COLS, y);
            for (int i = 0; i < COLS; i++) {
                sum += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
                norm += (double)x[i] * x[i];
            }
        }
        double got = sqrt(sum / norm);
        cr_expect(fabs(got - want) <= 0.1 * want, "%s: relative rmse %.5f, expected about %.5f",
                  mg_dtype_get(c->dtype)->name, got, want);
    }
    free(rows);
}

/* Q8_0 has a bound for every element: half a step of the unrounded scale, and up to 127 times the rounding of the scale
 * to f16 (2^-11 relative for a normal f16). */
Test(codecs, q8_0_error_bound) {
    const mg_codec *c = mg_codec_get(MG_Q8_0);
    float x[32], y[32];
    uint8_t block[34];
    for (int round = 0; round < 2000; round++) {
        float amax = 0;
        for (int i = 0; i < 32; i++) amax = fmaxf(amax, fabsf(x[i] = gaussian() * (1 + round)));
        cr_assert(c->encode(x, NULL, 32, block, NULL) == MG_OK);
        c->decode(block, 32, y);
        for (int i = 0; i < 32; i++)
            cr_assert(fabs((double)x[i] - y[i]) <= amax / 127.0 * (0.5 + 127.0 * 0x1p-11) * (1 + 1e-6));
    }
}

/* A block does not know its neighbours, except where sigma2 of the whole row enters (Q4_0 ... Q5_1 with weights). */
Test(codecs, blocks_are_independent) {
    float x[1024], w[1024];
    uint8_t whole[1024 * 8], part[1024 * 8];
    for (int i = 0; i < 1024; i++) {
        x[i] = gaussian() * (i < 512 ? 1.0f : 8.0f);
        w[i] = fabsf(gaussian());
    }
    FOR_EACH_CODEC(c) {
        bool by_row = c->dtype == MG_Q4_0 || c->dtype == MG_Q4_1 || c->dtype == MG_Q5_0 || c->dtype == MG_Q5_1;
        for (int weighted = 0; weighted < 2; weighted++) {
            if (!weighted && c->imatrix == MG_IMATRIX_REQUIRED) continue;
            cr_assert(c->encode(x, weighted ? w : NULL, 1024, whole, NULL) == MG_OK);
            for (uint64_t i = 0; i < 1024; i += 256)
                cr_assert(c->encode(x + i, weighted ? w + i : NULL, 256, part + row_bytes(c->dtype, i), NULL) == MG_OK);
            bool same = memcmp(whole, part, row_bytes(c->dtype, 1024)) == 0;
            cr_expect(same == !(by_row && weighted), "%s, weights %d", mg_dtype_get(c->dtype)->name, weighted);
        }
    }
}

/* IQ3_S: a zero sub-block that is not the last shifts what follows it (docs/quants.md); one at the end does no harm. */
Test(codecs, iq3_s_zero_sub_block) {
    const mg_codec *c = mg_codec_get(MG_IQ3_S);
    float x[MG_SUPER], y[MG_SUPER];
    mg_blk_iq3_s clean, shifted;
    for (int i = 0; i < MG_SUPER; i++) x[i] = i >= 224 ? 0.0f : gaussian();
    cr_assert(c->encode(x, NULL, MG_SUPER, &clean, NULL) == MG_OK);
    c->decode(&clean, MG_SUPER, y);
    double good = rmse(x, y, 224);
    memmove(x + 32, x, 224 * sizeof *x);
    memset(x, 0, 32 * sizeof *x);
    cr_assert(c->encode(x, NULL, MG_SUPER, &shifted, NULL) == MG_OK);
    c->decode(&shifted, MG_SUPER, y);
    cr_expect(good < 0.25 && rmse(x, y, MG_SUPER) > 0.5, "%g %g", good, rmse(x, y, MG_SUPER));
    cr_expect(memcmp(clean.qs, shifted.qs, sizeof clean.qs) == 0 &&
              memcmp(clean.signs, shifted.signs, sizeof clean.signs) == 0);
    cr_expect(memcmp(clean.qh, shifted.qh + 1, 7) == 0);
}

/* Sizes are stated in the dtype table and again by the structs of block_layout.h. */
Test(codecs, struct_sizes) {
#define SIZE(type, stem) cr_expect(sizeof(mg_blk_##stem) == mg_dtype_get(MG_##type)->block_bytes, #type)
    SIZE(Q1_0, q1_0);
    SIZE(Q2_0, q2_0);
    SIZE(Q4_0, q4_0);
    SIZE(Q4_1, q4_1);
    SIZE(Q5_0, q5_0);
    SIZE(Q5_1, q5_1);
    SIZE(Q8_0, q8_0);
    SIZE(MXFP4, mxfp4);
    SIZE(NVFP4, nvfp4);
    SIZE(Q2_K, q2_k);
    SIZE(Q3_K, q3_k);
    SIZE(Q4_K, q4_k);
    SIZE(Q5_K, q5_k);
    SIZE(Q6_K, q6_k);
    SIZE(IQ1_S, iq1_s);
    SIZE(IQ1_M, iq1_m);
    SIZE(IQ2_XXS, iq2_xxs);
    SIZE(IQ2_XS, iq2_xs);
    SIZE(IQ2_S, iq2_s);
    SIZE(IQ3_XXS, iq3_xxs);
    SIZE(IQ3_S, iq3_s);
    SIZE(IQ4_NL, iq4_nl);
    SIZE(IQ4_XS, iq4_xs);
    SIZE(TQ1_0, tq1_0);
    SIZE(TQ2_0, tq2_0);
#undef SIZE
    FOR_EACH_CODEC(c) cr_expect(c->dtype == (mg_dtype)t_ && c->decode);
}
