/* kernel_codecs.c - every encoder and decoder of every level against the scalar one: same bytes, same refusals.
 *
 * What is tried is taken from mg_codec_for, so a twin that can be reached is tested. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "quant/codec.h"
#include "tests/kernels/kernel_test.h"

/* A codec holds two kernels. One more would not be tried here: extend this file first. */
_Static_assert(sizeof(mg_codec) == 8 + 2 * sizeof(void *), "every kernel of mg_codec is tested");

enum { MOST = 8192, MOST_BYTES = 8 * MOST };

typedef mg_status encode_fn(const float *x, const float *weights, uint64_t n, void *out, mg_error *err);
typedef void decode_fn(const void *in, uint64_t n, float *out);

typedef struct buffers {
    kt_buffer x, w, want, got;
} buffers;

static buffers buffers_new(void) {
    return (buffers){kt_buffer_new(MOST_BYTES), kt_buffer_new(MOST * 4), kt_buffer_new(MOST_BYTES),
                     kt_buffer_new(MOST_BYTES)};
}

static void buffers_free(buffers *b) {
    kt_buffer_free(&b->x);
    kt_buffer_free(&b->w);
    kt_buffer_free(&b->want);
    kt_buffer_free(&b->got);
}

/* The levels whose function differs from the scalar one and from those of the levels below. */
typedef struct twins {
    size_t n;
    mg_isa isa[KT_LEVELS];
    const mg_codec *codec[KT_LEVELS];
} twins;

static twins twins_of(mg_dtype t, bool decoding) {
    mg_isa level[KT_LEVELS];
    size_t levels = kt_levels(level);
    const mg_codec *below = mg_codec_for(t, MG_ISA_SCALAR);
    twins r = {0};
    for (size_t i = 0; i < levels; i++) {
        const mg_codec *c = mg_codec_for(t, level[i]);
        if (c->dtype != below->dtype || c->imatrix != below->imatrix) kt_fail("the table of the twins is mixed up");
        if (decoding ? c->decode == below->decode : c->encode == below->encode) continue;
        r.isa[r.n] = level[i];
        r.codec[r.n++] = below = c;
    }
    return r;
}

static uint64_t row_bytes(mg_dtype t, uint64_t n) {
    uint64_t bytes = 0;
    if (!mg_dtype_row_bytes(t, n, &bytes) || bytes > MOST_BYTES) kt_fail("row of %" PRIu64, n);
    return bytes;
}

/* Short rows for tails, long ones for full batches. */
static uint64_t row_length(mg_dtype t, uint64_t index) {
    uint64_t block = mg_dtype_get(t)->block, most = MOST / block;
    uint64_t blocks = index % 4 == 0 ? 1 + kt_below(most < 19 ? most : 19) : 1 + kt_below(most);
    return blocks * block;
}

static void first_difference(mg_dtype t, const uint8_t *want, const uint8_t *got, uint64_t n, const char *what) {
    uint64_t i = 0, block = mg_dtype_get(t)->block_bytes;
    while (i < n && want[i] == got[i]) i++;
    if (i < n)
        kt_fail("%s: block %" PRIu64 " byte %" PRIu64 " is %02x, expected %02x", what, i / block, i % block, got[i],
                want[i]);
}

/* One call with the state of the processor and the surroundings of the output watched. */
static mg_status encode(const mg_codec *c, buffers *b, kt_buffer *out, const float *w, uint64_t n, mg_error *err) {
    uint32_t before = kt_fp_state();
    mg_status st = c->encode((const float *)(const void *)b->x.data, w, n, out->data, err);
    if (kt_fp_state() != before) kt_fail("the floating-point state is not as the caller had it");
    if (!kt_intact(out)) kt_fail("wrote outside its output");
    return st;
}

static void encode_case(mg_dtype t, const twins *tw, bool weighted, uint64_t index, buffers *b, uint64_t n) {
    char what[64];
    kt_kind kind = (kt_kind)(index % KT_KINDS);
    bool at_end = index % 5 != 4;
    uint64_t bytes = row_bytes(t, n);
    mg_error want_err = {0};
    kt_fill(kt_place(&b->x, n * 4, at_end), n, kind);
    kt_fill_weights(kt_place(&b->w, n * 4, at_end), n);
    if (weighted && kind == KT_NOT_FINITE && index % 2) ((float *)(void *)b->w.data)[kt_below(n)] = -1.0f;
    kt_read_only(&b->x, true);
    kt_read_only(&b->w, true);
    const float *w = weighted ? (const float *)(const void *)b->w.data : NULL;
    snprintf(what, sizeof what, "%s row of %" PRIu64, kt_kind_name(kind), n);
    memset(kt_place(&b->want, bytes, at_end), 0xA5, bytes);
    kt_isa(MG_ISA_SCALAR);
    mg_status want = encode(mg_codec_for(t, MG_ISA_SCALAR), b, &b->want, w, n, &want_err);
    for (size_t i = 0; i < tw->n; i++) {
        mg_error err = {0};
        kt_isa(tw->isa[i]);
        memset(kt_place(&b->got, bytes, at_end), 0x5A, bytes);
        mg_status st = encode(tw->codec[i], b, &b->got, w, n, &err);
        if (st != want || strcmp(err.message, want_err.message) != 0)
            kt_fail("%s: '%s', expected '%s'", what, err.message, want_err.message);
        if (st == MG_OK) first_difference(t, b->want.data, b->got.data, bytes, what);
    }
}

/* A scalar kernel without twins is only watched, which takes few rows. */
static uint64_t budget(const twins *tw) {
    return tw->n || kt.weights < 20000 ? kt.weights : 20000;
}

static void check_encode(mg_dtype t, bool weighted, buffers *b) {
    char name[48];
    snprintf(name, sizeof name, "%s.encode%s", mg_dtype_get(t)->name, weighted ? ".imatrix" : "");
    if (!kt_selected(name)) return;
    twins tw = twins_of(t, false);
    unsigned before = kt_failures();
    uint64_t index = kt.case_index < 0 ? 0 : (uint64_t)kt.case_index, done = 0;
    for (; (done < budget(&tw) || index < KT_KINDS) && kt_failures() == before; index++) {
        kt_case(name, index);
        uint64_t n = row_length(t, index);
        encode_case(t, &tw, weighted, index, b, n);
        done += n;
        if (kt.case_index >= 0) break;
    }
    kt_done(name, tw.n, done);
}

static void decode(const mg_codec *c, buffers *b, kt_buffer *out, uint64_t n) {
    uint32_t before = kt_fp_state();
    c->decode(b->x.data, n, (float *)(void *)out->data);
    if (kt_fp_state() != before) kt_fail("the floating-point state is not as the caller had it");
    if (!kt_intact(out)) kt_fail("wrote outside its output");
}

/* Blocks nobody encoded, infinite and NaN scales among them, and blocks as an encoder makes them. */
static void fill_blocks(mg_dtype t, uint8_t *p, uint64_t bytes, uint64_t n, uint64_t index) {
    static float x[MOST], w[MOST];
    for (uint64_t i = 0; i < bytes; i++) p[i] = index == 0 ? 0xFF : (uint8_t)(kt_next() >> 24);
    if (index % 3 != 2) return;
    kt_fill(x, n, KT_GAUSS);
    kt_fill_weights(w, n);
    if (mg_codec_get(t)->encode(x, w, n, p, NULL) != MG_OK) kt_fail("a normal row is refused");
}

static void decode_case(mg_dtype t, const twins *tw, uint64_t index, buffers *b, uint64_t n) {
    uint64_t bytes = row_bytes(t, n);
    bool at_end = index % 5 != 4;
    fill_blocks(t, kt_place(&b->x, bytes, at_end), bytes, n, index);
    kt_read_only(&b->x, true);
    kt_place(&b->want, n * 4, at_end);
    kt_isa(MG_ISA_SCALAR);
    decode(mg_codec_for(t, MG_ISA_SCALAR), b, &b->want, n);
    for (size_t i = 0; i < tw->n; i++) {
        kt_isa(tw->isa[i]);
        memset(kt_place(&b->got, n * 4, at_end), 0x5A, n * 4);
        decode(tw->codec[i], b, &b->got, n);
        const float *want = (const float *)(const void *)b->want.data, *got = (const float *)(const void *)b->got.data;
        uint64_t k = 0;
        while (k < n && kt_same(want[k], got[k])) k++;
        if (k < n)
            kt_fail("element %" PRIu64 " of %" PRIu64 " is %a, expected %a", k, n, (double)got[k], (double)want[k]);
    }
}

static void check_decode(mg_dtype t, buffers *b) {
    char name[48];
    snprintf(name, sizeof name, "%s.decode", mg_dtype_get(t)->name);
    if (!kt_selected(name)) return;
    twins tw = twins_of(t, true);
    unsigned before = kt_failures();
    uint64_t index = kt.case_index < 0 ? 0 : (uint64_t)kt.case_index, done = 0;
    for (; (done < budget(&tw) || index < 20) && kt_failures() == before; index++) {
        kt_case(name, index);
        uint64_t n = row_length(t, index);
        decode_case(t, &tw, index, b, n);
        done += n;
        if (kt.case_index >= 0) break;
    }
    kt_done(name, tw.n, done);
}

/* ---- half precision: every value, every boundary ---- */

enum { HALVES = 65536, BOUNDARIES = 8 };

static float of_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* The f32 at and around every point where rounding to the 16-bit type turns over: x, half way to the next value, and
 * one place on either side; both signs. Returns how many, with the code each must get. */
static uint64_t boundaries(mg_dtype t, float *x, uint16_t *want) {
    const uint32_t top = t == MG_F16 ? 0x7C00 : 0x7F80;
    uint64_t n = 0;
    for (uint32_t i = 0; i < top; i++) {
        uint32_t low = i << 16, mid = low | 0x8000;
        if (t == MG_F16) {
            float v = mg_f16_to_f32((uint16_t)i), next = i + 1 == top ? 65536.0f : mg_f16_to_f32((uint16_t)(i + 1));
            float half = (v + next) / 2; /* 12 significant bits: exact */
            memcpy(&low, &v, sizeof low);
            memcpy(&mid, &half, sizeof mid);
        }
        const uint32_t bits[4] = {low, mid - 1, mid, mid + 1};
        const uint32_t code[4] = {i, i, i + (i & 1), i + 1};
        for (int k = 0; k < 4; k++)
            for (uint32_t sign = 0; sign < 2; sign++, n++) {
                x[n] = of_bits(bits[k] | sign << 31);
                want[n] = (uint16_t)(code[k] | sign << 15);
            }
    }
    return n;
}

static void exhaustive_encode(const mg_codec *c, uint64_t shift) {
    static float x[HALVES * BOUNDARIES / 2];
    static uint16_t want[HALVES * BOUNDARIES / 2], got[HALVES * BOUNDARIES / 2];
    uint64_t n = boundaries(c->dtype, x, want);
    mg_error err = {0};
    if (c->encode(x + shift, NULL, n - shift, got + shift, &err) != MG_OK) kt_fail("%s", err.message);
    for (uint64_t i = shift; i < n; i++)
        if (got[i] != want[i]) {
            kt_fail("%a becomes %04x, expected %04x", (double)x[i], got[i], want[i]);
            return;
        }
}

static void exhaustive_decode(const mg_codec *c, uint64_t shift) {
    static uint16_t in[HALVES];
    static uint32_t got[HALVES];
    for (uint32_t i = 0; i < HALVES; i++) in[i] = (uint16_t)i;
    c->decode(in + shift, HALVES - shift, (float *)(void *)got + shift);
    for (uint32_t i = (uint32_t)shift; i < HALVES; i++) {
        uint32_t e = i >> 10 & 31, m = i & 1023, want = i << 16;
        if (c->dtype == MG_F16) { /* from the definition of binary16; a NaN keeps its payload */
            float v = (float)m * 0x1p-24f;
            memcpy(&want, &v, sizeof want);
            if (e) want = (e == 31 ? 255 : e + 112) << 23 | m << 13;
            want |= (i & 0x8000) << 16;
        }
        if (got[i] != want) {
            kt_fail("%04x becomes %08x, expected %08x", i, got[i], want);
            return;
        }
    }
}

/* With subnormals flushed too: the conversions do not depend on it. */
static void check_halves(mg_dtype t) {
    mg_isa level[1 + KT_LEVELS] = {MG_ISA_SCALAR};
    size_t levels = 1 + kt_levels(level + 1);
    char name[48];
    snprintf(name, sizeof name, "%s.exhaustive", mg_dtype_get(t)->name);
    if (!kt_selected(name)) return;
    for (size_t i = 0; i < levels; i++)
        for (uint64_t round = 0; round < 16; round++) {
            kt_case(name, round);
            kt_isa(level[i]);
            if (round % 2) kt_fp_flush();
            exhaustive_encode(mg_codec_for(t, level[i]), round / 2);
            exhaustive_decode(mg_codec_for(t, level[i]), round / 2);
            mg_cpu_fp_env();
        }
    kt_done(name, levels - 1, HALVES);
}

void kt_codecs_check(void) {
    buffers b = buffers_new();
    for (int k = 0; k < MG_DTYPE_COUNT; k++) {
        mg_dtype t = (mg_dtype)k;
        const mg_codec *c = mg_codec_for(t, MG_ISA_SCALAR);
        if (!c) continue;
        if (c->imatrix != MG_IMATRIX_REQUIRED) check_encode(t, false, &b);
        if (c->imatrix != MG_IMATRIX_IGNORED) check_encode(t, true, &b);
        check_decode(t, &b);
        if (t == MG_F16 || t == MG_BF16) check_halves(t);
    }
    buffers_free(&b);
}
