/* sha256.c - SHA-256 (FIPS 180-4): padding, buffering and the portable compression function. Whole output files are
 * hashed, so the x86 SHA twin (sha256_x86.c) is chosen at run time; both give the same digest by definition. */
#include "formats/base/sha256.h"

#include <pthread.h>
#include <string.h>

#include "formats/base/cpu.h"
#include "formats/base/hash.h"

const uint32_t mg_sha256_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t load_be32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void store_be32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static uint32_t rotr(uint32_t v, unsigned n) {
    return v >> n | v << (32 - n);
}

/* One block; v holds a..h, rotated by renaming instead of moving: round i writes slots (7-i)&7 and (3-i)&7. */
static void block_portable(uint32_t h[8], const uint8_t *p) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++) w[i] = load_be32(p + 4 * i);
    for (int i = 16; i < 64; i++) {
        uint32_t s0 = rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    memcpy(v, h, sizeof v);
    for (unsigned i = 0; i < 64; i++) {
        uint32_t a = v[(0 - i) & 7], b = v[(1 - i) & 7], c = v[(2 - i) & 7], *d = &v[(3 - i) & 7];
        uint32_t e = v[(4 - i) & 7], f = v[(5 - i) & 7], g = v[(6 - i) & 7], *hh = &v[(7 - i) & 7];
        uint32_t t1 = *hh + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + mg_sha256_k[i] + w[i];
        uint32_t t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        *d += t1;
        *hh = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += v[i];
}

void mg_sha256_blocks_ref(uint32_t h[8], const uint8_t *data, size_t n_blocks) {
    for (size_t i = 0; i < n_blocks; i++) block_portable(h, data + 64 * i);
}

static mg_sha256_blocks_fn blocks = mg_sha256_blocks_ref;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void choose(void) {
    mg_sha256_blocks_fn twin = mg_cpu_isa() == MG_ISA_SCALAR ? NULL : mg_sha256_x86();
    if (twin) blocks = twin;
}

void mg_sha256_init(mg_sha256 *s) {
    /* first 32 bits of the fractional parts of the square roots of the first 8 primes */
    static const uint32_t h0[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                   0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    pthread_once(&once, choose);
    *s = (mg_sha256){0};
    memcpy(s->h, h0, sizeof h0);
}

void mg_sha256_update(mg_sha256 *s, const void *data, size_t n) {
    const uint8_t *p = data;
    size_t have = (size_t)(s->n % 64);
    s->n += n;
    if (have) {
        size_t take = n < 64 - have ? n : 64 - have;
        if (take) memcpy(s->block + have, p, take);
        p += take;
        n -= take;
        if (have + take < 64) return;
        blocks(s->h, s->block, 1);
    }
    if (n / 64) blocks(s->h, p, n / 64);
    if (n % 64) memcpy(s->block, p + n / 64 * 64, n % 64);
}

void mg_sha256_final(mg_sha256 *s, uint8_t out[32]) {
    static const uint8_t pad[64] = {0x80};
    uint64_t bits = s->n * 8;
    uint8_t length[8];
    store_be32(length, (uint32_t)(bits >> 32));
    store_be32(length + 4, (uint32_t)bits);
    /* 0x80, zeros up to 8 bytes before a block boundary, then the length in bits */
    mg_sha256_update(s, pad, 1 + (size_t)((119 - s->n % 64) % 64));
    mg_sha256_update(s, length, sizeof length);
    for (int i = 0; i < 8; i++) store_be32(out + 4 * i, s->h[i]);
}
