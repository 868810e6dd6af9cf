/* test_zfile.c - zstd files (bounds, damage) and temporary captures. The samples below were made with the zstd command
 * line tool, version 1.5.4; how is said above each. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/zfile.h"

static char path[] = "/tmp/mg_test_zfile.XXXXXX";

static void begin(void) {
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
}

static void end(void) {
    unlink(path);
}

TestSuite(zfile, .init = begin, .fini = end, .timeout = 60);

static mg_status try(const void *bytes, size_t n, uint64_t cap, uint8_t **out, size_t *got, mg_error *err) {
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f);
    cr_assert_eq(fwrite(bytes, 1, n, f), n);
    fclose(f);
    return mg_zfile_read(path, cap, out, got, err);
}

/* printf 'moegraft moegraft moegraft\n' | zstd --check */
static const uint8_t three_words[] = {
    0x28, 0xB5, 0x2F, 0xFD, 0x04, 0x58, 0x85, 0x00, 0x00, 0x50, 0x6D, 0x6F, 0x65, 0x67, 0x72,
    0x61, 0x66, 0x74, 0x20, 0x0A, 0x01, 0x00, 0x9C, 0xCB, 0x11, 0xCB, 0xC1, 0x1A, 0x0F,
};
static const char three_text[] = "moegraft moegraft moegraft\n";

Test(zfile, reads_a_frame_up_to_the_cap) {
    uint8_t *out;
    size_t n;
    mg_error err = {0};
    cr_assert_eq(try(three_words, sizeof three_words, 27, &out, &n, &err), MG_OK, "%s", err.message);
    cr_assert(n == 27 && memcmp(out, three_text, 27) == 0);
    free(out);
    cr_assert_eq(try(three_words, sizeof three_words, 26, &out, &n, &err), MG_ERR_LIMIT);
    cr_assert_null(out);
    cr_assert(strstr(err.file, "mg_test_zfile"));
}

Test(zfile, frames_follow_each_other) {
    uint8_t two[2 * sizeof three_words], *out;
    size_t n;
    memcpy(two, three_words, sizeof three_words);
    memcpy(two + sizeof three_words, three_words, sizeof three_words);
    cr_assert_eq(try(two, sizeof two, 1000, &out, &n, NULL), MG_OK);
    cr_assert(n == 54 && memcmp(out + 27, three_text, 27) == 0);
    free(out);
    cr_assert_eq(try(two, sizeof two, 30, &out, &n, NULL), MG_ERR_LIMIT);
}

Test(zfile, damage) {
    uint8_t bytes[sizeof three_words + 1], *out;
    size_t n;
    for (size_t size = 0; size < sizeof three_words; size++)
        cr_assert_eq(try(three_words, size, 1000, &out, &n, NULL), MG_ERR_FORMAT, "truncated to %zu", size);
    for (size_t at = 0; at < sizeof three_words; at++) {
        memcpy(bytes, three_words, sizeof three_words);
        bytes[at] ^= 0x04;
        mg_status st = try(bytes, sizeof three_words, 1000, &out, &n, NULL);
        /* a few header bits say nothing about the content */
        if (st == MG_OK)
            cr_assert(n == 27 && memcmp(out, three_text, 27) == 0, "flip at %zu", at);
        else
            cr_assert(st == MG_ERR_FORMAT || st == MG_ERR_INTEGRITY || st == MG_ERR_LIMIT, "flip at %zu: %d", at, st);
        free(out);
    }
    memcpy(bytes, three_words, sizeof three_words);
    bytes[sizeof three_words - 1] ^= 1;
    cr_assert_eq(try(bytes, sizeof three_words, 1000, &out, &n, NULL), MG_ERR_INTEGRITY, "checksum");
    bytes[sizeof three_words - 1] ^= 1;
    bytes[sizeof three_words] = 'x';
    cr_assert_eq(try(bytes, sizeof bytes, 1000, &out, &n, NULL), MG_ERR_FORMAT, "something after the frame");
}

/* head -c 4294967296 /dev/zero | zstd --stream-size=4294967296 | head -c 64: announces 4 GiB */
static const uint8_t bomb[] = {
    0x28, 0xB5, 0x2F, 0xFD, 0xC4, 0x48, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x54, 0x00,
    0x00, 0x10, 0x00, 0x00, 0x01, 0x00, 0xFB, 0xFF, 0x39, 0xC0, 0x02, 0x02, 0x00, 0x10, 0x00, 0x02,
    0x00, 0x10, 0x00, 0x02, 0x00, 0x10, 0x00, 0x02, 0x00, 0x10, 0x00, 0x02, 0x00, 0x10, 0x00, 0x02,
    0x00, 0x10, 0x00, 0x02, 0x00, 0x10, 0x00, 0x02, 0x00, 0x10, 0x00, 0x02, 0x00, 0x10, 0x00, 0x02,
};
/* A frame header with window descriptor exponent 21 (2 GiB), then one empty last block (RFC 8878, 3.1.1). */
static const uint8_t wide[] = {0x28, 0xB5, 0x2F, 0xFD, 0x00, 0xA8, 0x01, 0x00, 0x00};

Test(zfile, bombs_are_refused_at_once) {
    uint8_t *out;
    size_t n;
    mg_error err = {0};
    cr_assert_eq(try(bomb, sizeof bomb, 1 << 20, &out, &n, &err), MG_ERR_LIMIT);
    cr_assert_str_eq(err.message, "decompresses to 4294967296 bytes, at most 1048576 are read");
    cr_assert_eq(try(wide, sizeof wide, 1 << 20, &out, &n, &(mg_error){0}), MG_ERR_LIMIT);
}

/* printf '' | zstd --no-check */
static const uint8_t nothing[] = {0x28, 0xB5, 0x2F, 0xFD, 0x20, 0x00, 0x01, 0x00, 0x00};

Test(zfile, empty_content) {
    uint8_t *out;
    size_t n = 9;
    cr_assert_eq(try(nothing, sizeof nothing, 0, &out, &n, NULL), MG_OK);
    cr_assert(out && n == 0);
    free(out);
}

static float value(size_t i) {
    return (float)(i * 2654435761u % 1000003) * 0.001f - 300.0f;
}

Test(zfile, capture_is_read_back_in_other_pieces_and_again) {
    enum { N = 300000 };
    mg_zcapture *c;
    static float row[N];
    for (size_t i = 0; i < N; i++) row[i] = value(i);
    cr_assert_eq(mg_zcapture_new(&c, NULL, NULL), MG_OK);
    cr_assert_eq(mg_zcapture_read(c, row, 4, NULL), MG_ERR_INTERNAL);
    for (size_t at = 0; at < N; at += 7001)
        cr_assert_eq(mg_zcapture_write(c, row + at, (N - at < 7001 ? N - at : 7001) * sizeof *row, NULL), MG_OK);
    for (int pass = 0; pass < 2; pass++) {
        memset(row, 0, sizeof row);
        cr_assert_eq(mg_zcapture_rewind(c, NULL), MG_OK);
        size_t upto = pass ? N : N / 3; /* the first pass stops early */
        for (size_t at = 0; at < upto; at += 999)
            cr_assert_eq(mg_zcapture_read(c, row + at, (upto - at < 999 ? upto - at : 999) * sizeof *row, NULL), MG_OK);
        for (size_t i = 0; i < upto; i++) cr_assert_eq(row[i], value(i), "value %zu", i);
    }
    cr_assert_eq(mg_zcapture_write(c, row, 4, NULL), MG_ERR_INTERNAL);
    cr_assert_eq(mg_zcapture_read(c, row, 1, NULL), MG_ERR_INTERNAL, "past the end");
    mg_zcapture_free(c);
}

Test(zfile, empty_capture_and_bad_directory) {
    mg_zcapture *c;
    char byte;
    cr_assert_eq(mg_zcapture_new(&c, "/tmp", NULL), MG_OK);
    cr_assert_eq(mg_zcapture_rewind(c, NULL), MG_OK);
    cr_assert_eq(mg_zcapture_read(c, &byte, 0, NULL), MG_OK);
    cr_assert_eq(mg_zcapture_read(c, &byte, 1, NULL), MG_ERR_INTERNAL);
    mg_zcapture_free(c);
    cr_assert_eq(mg_zcapture_new(&c, "/no/such/folder", NULL), MG_ERR_IO);
    cr_assert_null(c);
}
