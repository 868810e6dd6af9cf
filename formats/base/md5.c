/* md5.c - RFC 1321. The sine table is written out: libm must not decide what a checksum is. */
#include "formats/base/md5.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/hash.h"

/* floor(2^32 * |sin(i + 1)|) */
static const uint32_t sines[64] = {
    0xD76AA478, 0xE8C7B756, 0x242070DB, 0xC1BDCEEE, 0xF57C0FAF, 0x4787C62A, 0xA8304613, 0xFD469501,
    0x698098D8, 0x8B44F7AF, 0xFFFF5BB1, 0x895CD7BE, 0x6B901122, 0xFD987193, 0xA679438E, 0x49B40821,
    0xF61E2562, 0xC040B340, 0x265E5A51, 0xE9B6C7AA, 0xD62F105D, 0x02441453, 0xD8A1E681, 0xE7D3FBC8,
    0x21E1CDE6, 0xC33707D6, 0xF4D50D87, 0x455A14ED, 0xA9E3E905, 0xFCEFA3F8, 0x676F02D9, 0x8D2A4C8A,
    0xFFFA3942, 0x8771F681, 0x6D9D6122, 0xFDE5380C, 0xA4BEEA44, 0x4BDECFA9, 0xF6BB4B60, 0xBEBFBC70,
    0x289B7EC6, 0xEAA127FA, 0xD4EF3085, 0x04881D05, 0xD9D4D039, 0xE6DB99E5, 0x1FA27CF8, 0xC4AC5665,
    0xF4292244, 0x432AFF97, 0xAB9423A7, 0xFC93A039, 0x655B59C3, 0x8F0CCC92, 0xFFEFF47D, 0x85845DD1,
    0x6FA87E4F, 0xFE2CE6E0, 0xA3014314, 0x4E0811A1, 0xF7537E82, 0xBD3AF235, 0x2AD7D2BB, 0xEB86D391,
};
static const uint8_t shifts[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};

static uint32_t rotl(uint32_t x, unsigned n) {
    return x << n | x >> (32 - n);
}

/* Round r of step i: the word it takes and the function of b, c, d (RFC 1321, 3.4). */
static uint32_t mix(unsigned r, uint32_t b, uint32_t c, uint32_t d) {
    return r == 0 ? (b & c) | (~b & d) : r == 1 ? (b & d) | (c & ~d) : r == 2 ? b ^ c ^ d : c ^ (b | ~d);
}

static void block(mg_md5 *s, const uint8_t *p) {
    static const uint8_t step[4] = {1, 5, 3, 7}, start[4] = {0, 1, 5, 0};
    uint32_t w[16], a = s->h[0], b = s->h[1], c = s->h[2], d = s->h[3];
    memcpy(w, p, sizeof w); /* little-endian hosts only */
    for (unsigned i = 0; i < 64; i++) {
        unsigned r = i / 16;
        uint32_t f = a + mix(r, b, c, d) + sines[i] + w[(step[r] * i + start[r]) % 16];
        a = d;
        d = c;
        c = b;
        b += rotl(f, shifts[r][i % 4]);
    }
    s->h[0] += a;
    s->h[1] += b;
    s->h[2] += c;
    s->h[3] += d;
}

void mg_md5_init(mg_md5 *s) {
    *s = (mg_md5){.h = {0x67452301u, 0xEFCDAB89u, 0x98BADCFEu, 0x10325476u}};
}

void mg_md5_update(mg_md5 *s, const void *data, size_t n) {
    const uint8_t *p = data;
    while (n) {
        size_t at = s->n % 64, k = 64 - at < n ? 64 - at : n;
        memcpy(s->block + at, p, k);
        s->n += k;
        p += k;
        n -= k;
        if (s->n % 64 == 0) block(s, s->block);
    }
}

void mg_md5_final(mg_md5 *s, uint8_t out[16]) {
    static const uint8_t pad[64] = {0x80};
    uint64_t bits = s->n * 8;
    mg_md5_update(s, pad, (s->n % 64 < 56 ? 56 : 120) - s->n % 64);
    mg_md5_update(s, &bits, sizeof bits);
    memcpy(out, s->h, 16);
}

mg_status mg_md5_file(const char *path, char hex[33], mg_error *err) {
    enum { TILE = 1 << 20 };
    mg_file f;
    mg_md5 s;
    uint8_t out[16];
    MG_TRY(mg_file_open(&f, path, err));
    uint8_t *buf = malloc(TILE);
    mg_status st = buf ? MG_OK : mg_fail_nomem(err, TILE);
    mg_md5_init(&s);
    for (uint64_t at = 0; st == MG_OK && at < f.size; at += TILE) {
        uint64_t n = f.size - at < TILE ? f.size - at : TILE;
        st = mg_file_read(&f, at, buf, n, err);
        if (st == MG_OK) mg_md5_update(&s, buf, n);
    }
    free(buf);
    mg_file_close(&f);
    mg_md5_final(&s, out);
    mg_hex(out, sizeof out, hex);
    return st;
}
