/* test_base.c - the small modules of formats/base: arena, strmap, file, hash, cpu, checked arithmetic, status. */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/arena.h"
#include "formats/base/checked.h"
#include "formats/base/cpu.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/strmap.h"

static char dir[64];

static void make_dir(void) {
    snprintf(dir, sizeof dir, "/tmp/mg_test_base.XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
}

static void remove_dir(void) {
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    cr_assert_eq(system(cmd), 0);
}

static const char *in_dir(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f);
    cr_assert_eq(fwrite(data, 1, n, f), n);
    fclose(f);
}

Test(arena, objects_are_zero_aligned_and_disjoint) {
    mg_arena a;
    mg_arena_init(&a, 0);
    uint8_t *objects[500];
    size_t sizes[500], at = 1;
    for (size_t i = 0; i < 500; i++) {
        at = at * 1103515245u + 12345u;
        sizes[i] = i == 250 ? 3u << 20 : (at >> 8) % 700;
        objects[i] = mg_arena_alloc(&a, sizes[i], 1);
        cr_assert_not_null(objects[i]);
        cr_assert_eq((uintptr_t)objects[i] % 16, 0);
        for (size_t k = 0; k < sizes[i]; k++) cr_assert_eq(objects[i][k], 0);
        memset(objects[i], (int)(i & 255), sizes[i]);
    }
    for (size_t i = 0; i < 500; i++)
        for (size_t k = 0; k < sizes[i]; k++) cr_assert_eq(objects[i][k], (uint8_t)i);
    mg_arena_release(&a);
}

Test(arena, cap_and_overflow_are_refused) {
    mg_arena a;
    mg_error err = {0};
    uint64_t *p;
    mg_arena_init(&a, 1000);
    cr_assert_not_null(mg_arena_alloc(&a, 62, 16));
    cr_assert_null(mg_arena_alloc(&a, 9, 1));
    cr_assert_null(mg_arena_alloc(&a, SIZE_MAX / 2, 3));
    cr_assert_null(mg_arena_alloc(&a, SIZE_MAX, 1));
    cr_assert_eq(MG_ARENA_NEW(&a, &p, 1000, &err), MG_ERR_LIMIT);
    cr_assert_str_eq(err.message, "8000 more bytes would pass the limit of 1000 (992 in use)");
    cr_assert_null(p);
    mg_arena_release(&a);
}

Test(arena, strings) {
    mg_arena a;
    mg_arena_init(&a, 0);
    cr_assert_str_eq(mg_arena_strndup(&a, "abcdef", 3), "abc");
    cr_assert_str_eq(mg_arena_strdup(&a, ""), "");
    char *long_one = mg_arena_printf(&a, "%0300d|%s", 7, "x");
    cr_assert_eq(strlen(long_one), 302);
    cr_assert_str_eq(long_one + 299, "7|x");
    mg_arena_release(&a);
}

Test(strmap, many_keys) {
    enum { N = 20000 };
    mg_strmap m;
    mg_error err = {0};
    static char keys[N][16];
    uint32_t before;
    mg_strmap_init(&m);
    cr_assert_eq(mg_strmap_get(&m, "x", 1), MG_STRMAP_NONE);
    for (uint32_t i = 0; i < N; i++) {
        int len = snprintf(keys[i], sizeof keys[i], "k%u", i * 7919u);
        cr_assert_eq(mg_strmap_put(&m, keys[i], (size_t)len, i, &before, &err), MG_OK);
        cr_assert_eq(before, MG_STRMAP_NONE);
    }
    for (uint32_t i = 0; i < N; i++) cr_assert_eq(mg_strmap_get(&m, keys[i], strlen(keys[i])), i);
    cr_assert_eq(mg_strmap_get(&m, "k1", 2), MG_STRMAP_NONE);
    cr_assert_eq(mg_strmap_put(&m, keys[5], strlen(keys[5]), 99, &before, &err), MG_OK);
    cr_assert_eq(before, 5);
    cr_assert_eq(mg_strmap_get(&m, keys[5], strlen(keys[5])), 5, "an existing value is kept");
    cr_assert_eq(mg_strmap_put(&m, NULL, 0, 77, NULL, &err), MG_OK);
    cr_assert_eq(mg_strmap_get(&m, "", 0), 77);
    cr_assert_eq(mg_strmap_put(&m, "a\0b", 3, 1, NULL, &err), MG_OK);
    cr_assert_eq(mg_strmap_get(&m, "a\0c", 3), MG_STRMAP_NONE, "NUL is an ordinary byte");
    cr_assert_eq(mg_strmap_put(&m, "none", 4, MG_STRMAP_NONE, NULL, &err), MG_ERR_LIMIT);
    mg_strmap_release(&m);
}

Test(file, read_and_bounds, .init = make_dir, .fini = remove_dir) {
    mg_file f;
    mg_error err = {0};
    char buf[8] = {0};
    put(in_dir("a"), "0123456789", 10);
    cr_assert_eq(mg_file_open(&f, in_dir("a"), &err), MG_OK);
    cr_assert_eq(f.size, 10);
    cr_assert_eq(mg_file_read(&f, 3, buf, 4, &err), MG_OK);
    cr_assert_str_eq(buf, "3456");
    cr_assert_eq(mg_file_read(&f, 10, buf, 0, &err), MG_OK);
    cr_assert_eq(mg_file_read(&f, 7, buf, 4, &err), MG_ERR_FORMAT);
    cr_assert(err.has_offset && err.offset == 7);
    cr_assert_str_eq(err.message, "truncated: needs 4 bytes, file ends at 10");
    cr_assert_eq(mg_file_read(&f, UINT64_MAX, buf, 4, NULL), MG_ERR_FORMAT);
    cr_assert_eq(mg_file_read(&f, 4, buf, UINT64_MAX, NULL), MG_ERR_FORMAT);
    cr_assert_eq(mg_file_recheck(&f, &(mg_error){0}), MG_OK);
    mg_file_close(&f);
    mg_file_close(&f);
}

Test(file, changes_are_noticed, .init = make_dir, .fini = remove_dir) {
    mg_file f;
    char buf[10], other[128];
    put(in_dir("a"), "0123456789", 10);
    cr_assert_eq(mg_file_open(&f, in_dir("a"), NULL), MG_OK);
    snprintf(other, sizeof other, "%s", in_dir("b"));
    put(other, "0123456789", 10);
    cr_assert_eq(rename(other, in_dir("a")), 0);
    cr_assert_eq(mg_file_recheck(&f, NULL), MG_ERR_INTEGRITY, "replaced");
    mg_file_close(&f);
    cr_assert_eq(mg_file_open(&f, in_dir("a"), NULL), MG_OK);
    cr_assert_eq(truncate(in_dir("a"), 4), 0);
    cr_assert_eq(mg_file_recheck(&f, NULL), MG_ERR_INTEGRITY, "truncated");
    cr_assert_eq(mg_file_read(&f, 0, buf, 10, NULL), MG_ERR_INTEGRITY, "truncated under a read");
    mg_file_close(&f);
}

Test(file, what_is_no_file_is_refused_at_once, .init = make_dir, .fini = remove_dir, .timeout = 10) {
    mg_file f;
    mg_error err = {0};
    cr_assert_eq(mkfifo(in_dir("fifo"), 0600), 0);
    cr_assert_eq(mg_file_open(&f, in_dir("fifo"), &err), MG_ERR_FORMAT);
    cr_assert_str_eq(err.message, "expected a regular file, found a pipe");
    cr_assert_eq(mg_file_open(&f, dir, NULL), MG_ERR_FORMAT);
    cr_assert_eq(mg_file_open(&f, "/dev/zero", NULL), MG_ERR_FORMAT);
    cr_assert_eq(mg_file_open(&f, in_dir("absent"), &(mg_error){0}), MG_ERR_IO);
    cr_assert_lt(f.fd, 0);
}

Test(file, slurp, .init = make_dir, .fini = remove_dir) {
    char *text;
    size_t n;
    mg_error err = {0};
    put(in_dir("a"), "ab\0cd", 5);
    cr_assert_eq(mg_file_slurp(in_dir("a"), 5, &text, &n, &err), MG_OK);
    cr_assert(n == 5 && memcmp(text, "ab\0cd", 6) == 0);
    free(text);
    cr_assert_eq(mg_file_slurp(in_dir("a"), 4, &text, &n, &err), MG_ERR_LIMIT);
    cr_assert_null(text);
    put(in_dir("empty"), "", 0);
    cr_assert_eq(mg_file_slurp(in_dir("empty"), 0, &text, &n, NULL), MG_OK);
    cr_assert(n == 0 && text[0] == 0);
    free(text);
}

Test(file, paths, .init = make_dir, .fini = remove_dir) {
    char buf[12];
    cr_assert_eq(mg_path_join(buf, sizeof buf, "dir", "name", NULL), MG_OK);
    cr_assert_str_eq(buf, "dir/name");
    cr_assert_eq(mg_path_join(buf, sizeof buf, "dir/", "name", NULL), MG_OK);
    cr_assert_str_eq(buf, "dir/name");
    cr_assert_eq(mg_path_join(buf, sizeof buf, "", "name", NULL), MG_OK);
    cr_assert_str_eq(buf, "name");
    cr_assert_eq(mg_path_join(buf, sizeof buf, "dir", "1234567", NULL), MG_OK);
    cr_assert_eq(mg_path_join(buf, sizeof buf, "dir", "12345678", NULL), MG_ERR_LIMIT);
    const char *bad[] = {"", ".", "..", "../x", "/etc/passwd", "a/b", "..\\x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert_eq(mg_path_check_plain(bad[i], NULL), MG_ERR_FORMAT);
    cr_assert_eq(mg_path_check_plain("model-00001-of-00002.safetensors", NULL), MG_OK);
    cr_assert_eq(mg_path_check_plain("..a", NULL), MG_OK);
    cr_assert_eq(mg_path_mkdir(in_dir("new"), NULL), MG_OK);
    cr_assert_eq(mg_path_mkdir(in_dir("new"), NULL), MG_OK);
    cr_assert(mg_path_is_dir(in_dir("new")) && mg_path_exists(in_dir("new")));
    put(in_dir("plain"), "", 0);
    cr_assert(mg_path_exists(in_dir("plain")) && !mg_path_is_dir(in_dir("plain")));
    cr_assert_eq(mg_path_mkdir(in_dir("plain"), NULL), MG_ERR_IO);
    cr_assert_eq(mg_path_mkdir(in_dir("no/such"), NULL), MG_ERR_IO);
}

static void expect_sha(const char *isa, const void *data, size_t n, size_t step, const char *want) {
    uint8_t digest[32];
    char hex[65];
    mg_sha256 s;
    setenv("MOEGRAFT_ISA", isa, 1); /* read once per process; Criterion gives every test its own */
    mg_sha256_init(&s);
    for (size_t at = 0; at < n; at += step)
        mg_sha256_update(&s, (const uint8_t *)data + at, n - at < step ? n - at : step);
    mg_sha256_final(&s, digest);
    mg_hex(digest, 32, hex);
    cr_assert_str_eq(hex, want, "%s, %zu bytes in steps of %zu: %s", isa, n, step, hex);
}

/* The examples of FIPS 180-4's companion document (csrc.nist.gov, SHA256.pdf), and one million 'a'. */
static void check_sha(const char *isa) {
    static char million[1000000];
    memset(million, 'a', sizeof million);
    expect_sha(isa, "", 0, 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    expect_sha(isa, "abc", 3, 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    const char *two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    for (size_t step = 1; step <= 57; step += 7)
        expect_sha(isa, two, 56, step, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    for (size_t step = 61; step < 1000000; step = step * 9 + 1)
        expect_sha(isa, million, sizeof million, step,
                   "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

Test(hash, sha256_portable) {
    check_sha("scalar");
}
Test(hash, sha256_native) {
    check_sha("");
}

Test(hash, xxh3_and_hex) {
    /* empty input, seed 0: XXH3_128bits gives 99aa06d3014798d86001c324468d497f (xxhash's own sanity table) */
    char hex[33];
    mg_xxh128_state *s;
    mg_hex(mg_xxh128_of("", 0).bytes, 16, hex);
    cr_assert_str_eq(hex, "99aa06d3014798d86001c324468d497f");
    cr_assert_eq(mg_xxh64_of("", 0), UINT64_C(0x2d06800538d394c2));
    static uint8_t data[5000];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * i >> 3);
    mg_xxh128 whole = mg_xxh128_of(data, sizeof data);
    cr_assert_eq(mg_xxh128_new(&s, NULL), MG_OK);
    for (size_t at = 0; at < sizeof data; at += 333)
        mg_xxh128_update(s, data + at, sizeof data - at < 333 ? sizeof data - at : 333);
    mg_xxh128 parts = mg_xxh128_final(s);
    cr_assert_arr_eq(whole.bytes, parts.bytes, 16);
    mg_xxh128_free(s);
}

Test(hash, sha256_of_a_file, .init = make_dir, .fini = remove_dir) {
    char hex[65];
    put(in_dir("abc"), "abc", 3);
    cr_assert_eq(mg_sha256_file(in_dir("abc"), hex, NULL), MG_OK);
    cr_assert_str_eq(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    cr_assert_eq(mg_sha256_file(in_dir("absent"), hex, NULL), MG_ERR_IO);
}

Test(cpu, isa_is_capped) {
    setenv("MOEGRAFT_ISA", "scalar", 1);
    cr_assert_eq(mg_cpu_isa(), MG_ISA_SCALAR);
    cr_assert_eq(mg_cpu_check(NULL), MG_OK);
    setenv("MOEGRAFT_ISA", "sse9", 1);
    mg_error err = {0};
    cr_assert_eq(mg_cpu_check(&err), MG_ERR_USAGE);
    cr_assert_str_eq(err.message, "MOEGRAFT_ISA is 'sse9', expected scalar, avx2, avx512 or neon");
}

Test(cpu, avx2_caps_avx512) {
    setenv("MOEGRAFT_ISA", "avx2", 1);
    cr_assert(mg_cpu_isa() == MG_ISA_AVX2 || mg_cpu_isa() == MG_ISA_SCALAR);
    cr_assert_str_eq(mg_isa_name(MG_ISA_AVX2), "avx2");
}

Test(cpu, count_and_fp_env) {
    cr_assert_geq(mg_cpu_count(), 1);
    fesetround(FE_UPWARD);
    mg_cpu_fp_env();
    cr_assert_eq(fegetround(), FE_TONEAREST);
    volatile float tiny = 1e-38f, tenth = 0.1f;
    cr_assert_gt(tiny * tenth, 0.0f, "subnormals are kept");
}

Test(checked, edges) {
    uint64_t v;
    cr_assert(!mg_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &v));
    cr_assert(mg_mul_u64(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &v));
    cr_assert(!mg_add_u64(UINT64_MAX, 1, &v));
    cr_assert(mg_align_u64(33, 32, &v) && v == 64);
    cr_assert(!mg_align_u64(UINT64_MAX - 3, 32, &v));
    cr_assert(mg_range_fits(10, 0, 10) && !mg_range_fits(10, 1, 10) && !mg_range_fits(UINT64_MAX, 2, 10));
}

Test(status, first_cause_stays) {
    mg_error err = {0};
    char text[256];
    cr_assert_eq(mg_fail(&err, MG_ERR_FORMAT, "needs %d", 8), MG_ERR_FORMAT);
    mg_fail(&err, MG_ERR_IO, "later");
    mg_error_at(&err, "a.safetensors", "w\x1b[31m");
    mg_error_at(&err, "b", "c");
    mg_error_offset(&err, 81920);
    cr_assert_str_eq(mg_error_text(&err, text, sizeof text),
                     "tensor 'w\\x1b[31m' in 'a.safetensors' at 81920: needs 8");
    for (size_t n = 1; n < 60; n++) cr_assert_lt(strlen(mg_error_text(&err, text, n)), n, "always terminated");
}
