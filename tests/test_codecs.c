/* test_codecs.c - every codec against the golden bytes of the reference (tests/data/golden/quant).
 *
 * rows.f32 holds 59 rows of 1024: gaussians, heavy tails, ties, zero runs, constants and magnitudes from 1e-41 up;
 * imatrix.f32 one row of importance weights. <TYPE>.plain.bin and <TYPE>.imatrix.bin are the reference's blocks. */
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
