/* kernel_golden.c - the golden blocks of the reference, encoded and decoded by every level of this machine.
 *
 * rows.f32 holds rows of 1024, imatrix.f32 one row of weights, TYPE.plain.bin and TYPE.imatrix.bin the blocks. The
 * caller knows the digests that decoding must give (tests/check/golden_kernels.py). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/hash.h"
#include "quant/codec.h"
#include "tests/kernels/kernel_test.h"

enum { COLUMNS = 1024 };

/* A whole file, NULL when there is none. */
static void *load(const char *folder, const char *name, uint64_t *size) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    *size = (uint64_t)ftell(f);
    rewind(f);
    void *p = malloc(*size + 1);
    if (!p || fread(p, 1, *size, f) != *size) {
        fprintf(stderr, "%s cannot be read\n", path);
        exit(1);
    }
    fclose(f);
    return p;
}

static void print_digest(const char *type, const char *variant, mg_isa isa, const float *x, uint64_t n) {
    uint8_t digest[32];
    mg_sha256 s;
    mg_sha256_init(&s);
    mg_sha256_update(&s, x, n * sizeof *x);
    mg_sha256_final(&s, digest);
    printf("%s %s %s ", type, variant, mg_isa_name(isa));
    for (int i = 0; i < 32; i++) printf("%02x", digest[i]);
    putchar('\n');
}

/* rows of x with weights w (or NULL) by one level, against the blocks of the reference. */
static void compare(mg_dtype t, const char *variant, mg_isa isa, const float *x, const float *w, uint64_t n_rows,
                    const uint8_t *want) {
    const mg_codec *c = mg_codec_for(t, isa);
    uint64_t bytes = 0;
    if (!mg_dtype_row_bytes(t, COLUMNS, &bytes)) return;
    uint8_t *got = malloc(bytes);
    float *back = malloc(n_rows * COLUMNS * sizeof *back);
    if (!got || !back) exit(1);
    kt_isa(isa);
    for (uint64_t r = 0; r < n_rows; r++) {
        mg_error err = {0};
        kt_case(mg_dtype_get(t)->name, r);
        memset(got, 0xA5, bytes);
        if (c->encode(x + r * COLUMNS, w, COLUMNS, got, &err) != MG_OK) kt_fail("%s: %s", variant, err.message);
        if (memcmp(got, want + r * bytes, bytes) != 0) kt_fail("%s: golden row %" PRIu64 " differs", variant, r);
    }
    c->decode(want, n_rows * COLUMNS, back);
    print_digest(mg_dtype_get(t)->name, variant, isa, back, n_rows * COLUMNS);
    free(got);
    free(back);
}

void kt_codecs_golden(const char *folder) {
    mg_isa level[1 + KT_LEVELS] = {MG_ISA_SCALAR};
    size_t levels = 1 + kt_levels(level + 1);
    uint64_t size, n_rows, rb;
    float *x = load(folder, "rows.f32", &size), *w = load(folder, "imatrix.f32", &rb);
    if (!x || !w || rb != COLUMNS * 4) {
        kt_fail("'%s' holds no rows.f32 or no imatrix.f32 of %d weights", folder, COLUMNS);
        return;
    }
    n_rows = size / (COLUMNS * 4);
    for (int k = 0; k < MG_DTYPE_COUNT; k++)
        for (int weighted = 0; weighted < 2; weighted++) {
            const char *variant = weighted ? "imatrix" : "plain";
            mg_dtype t = (mg_dtype)k;
            char name[64];
            snprintf(name, sizeof name, "%s.%s.bin", mg_dtype_get(t)->name, variant);
            uint8_t *want = load(folder, name, &size);
            if (!want) continue;
            if (!mg_dtype_row_bytes(t, COLUMNS, &rb) || size != rb * n_rows)
                kt_fail("%s has %" PRIu64 " bytes", name, size);
            else
                for (size_t i = 0; i < levels; i++)
                    if (kt_selected(mg_dtype_get(t)->name))
                        compare(t, variant, level[i], x, weighted ? w : NULL, n_rows, want);
            free(want);
        }
    free(x);
    free(w);
}
