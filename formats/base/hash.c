/* hash.c - XXH3-128 through libxxhash, SHA-256 of files, hex text. SHA-256 itself is in sha256.c. */
#include "formats/base/hash.h"

#include <stdlib.h>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include "formats/base/file.h"

static mg_xxh128 canonical(XXH128_hash_t h) {
    XXH128_canonical_t c;
    mg_xxh128 out;
    XXH128_canonicalFromHash(&c, h);
    for (size_t i = 0; i < sizeof out.bytes; i++) out.bytes[i] = c.digest[i];
    return out;
}

mg_xxh128 mg_xxh128_of(const void *data, size_t n) {
    return canonical(XXH3_128bits(data, n));
}

uint64_t mg_xxh64_of(const void *data, size_t n) {
    return XXH3_64bits(data, n);
}

struct mg_xxh128_state {
    XXH3_state_t *xxh;
};

mg_status mg_xxh128_new(mg_xxh128_state **out, mg_error *err) {
    mg_xxh128_state *s = malloc(sizeof *s);
    *out = NULL;
    if (!s) return mg_fail_nomem(err, sizeof *s);
    s->xxh = XXH3_createState(); /* 64-byte aligned, which malloc would not promise */
    if (!s->xxh) {
        free(s);
        return mg_fail_nomem(err, sizeof *s->xxh);
    }
    XXH3_128bits_reset(s->xxh);
    *out = s;
    return MG_OK;
}

void mg_xxh128_update(mg_xxh128_state *s, const void *data, size_t n) {
    if (n) XXH3_128bits_update(s->xxh, data, n);
}

mg_xxh128 mg_xxh128_final(const mg_xxh128_state *s) {
    return canonical(XXH3_128bits_digest(s->xxh));
}

void mg_xxh128_free(mg_xxh128_state *s) {
    if (!s) return;
    XXH3_freeState(s->xxh);
    free(s);
}

void mg_hex(const uint8_t *bytes, size_t n, char *out) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = 0;
}

mg_status mg_sha256_file(const char *path, char hex[65], mg_error *err) {
    enum { CHUNK = 1 << 20 };
    mg_file f;
    hex[0] = 0;
    MG_TRY(mg_file_open(&f, path, err));
    mg_status st = MG_OK;
    uint8_t digest[32], *buf = malloc(CHUNK);
    mg_sha256 s;
    mg_sha256_init(&s);
    if (!buf) st = mg_fail_nomem(err, CHUNK);
    for (uint64_t at = 0; st == MG_OK && at < f.size;) {
        uint64_t n = f.size - at < CHUNK ? f.size - at : CHUNK;
        st = mg_file_read(&f, at, buf, n, err);
        if (st == MG_OK) mg_sha256_update(&s, buf, (size_t)n);
        at += n;
    }
    if (st == MG_OK) {
        mg_sha256_final(&s, digest);
        mg_hex(digest, sizeof digest, hex);
    }
    free(buf);
    mg_file_close(&f);
    return st;
}
