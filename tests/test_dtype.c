/* The half-precision conversions over their whole domain, and the dtype table's own consistency. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "formats/dtype.h"

static uint32_t bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static float from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* The value of a half from the definition, in double: exact. */
static double half_value(uint16_t h) {
    int e = (h >> 10) & 31, m = h & 1023;
    double v = e == 0 ? ldexp(m, -24) : e == 31 ? (m ? NAN : INFINITY) : ldexp(1024 + m, e - 25);
    return h & 0x8000 ? -v : v;
}

Test(dtype, f16_all_values_widen_exactly_and_round_trip) {
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t h = (uint16_t)i;
        float x = mg_f16_to_f32(h);
        if ((h & 0x7FFF) > 0x7C00) { /* NaN: payload kept when widening, canonical when narrowing */
            cr_assert_eq(bits(x), (uint32_t)(h & 0x8000) << 16 | 0x7F800000u | (uint32_t)(h & 1023) << 13, "%04x", h);
            cr_assert_eq(mg_f32_to_f16(x), (h & 0x8000) | 0x7E00, "%04x", h);
            continue;
        }
        cr_assert_eq((double)x, half_value(h), "%04x", h);
        cr_assert_eq(signbit(x) != 0, h >> 15, "%04x", h);
        cr_assert_eq(mg_f32_to_f16(x), h, "%04x", h);
    }
}

/* Between neighbours a and b: everything below the midpoint goes to a, above to b, the midpoint to the even one. */
Test(dtype, f16_rounds_to_nearest_even_at_every_boundary) {
    for (uint32_t i = 0; i < 0x7C00; i++) {
        double a = half_value((uint16_t)i), b = i == 0x7BFF ? 65536.0 : half_value((uint16_t)(i + 1));
        float mid = (float)((a + b) / 2); /* 12 significant bits: exact in f32 */
        uint16_t even = (uint16_t)(i & 1 ? i + 1 : i);
        cr_assert_eq(mg_f32_to_f16(mid), even, "%04x", i);
        cr_assert_eq(mg_f32_to_f16(nextafterf(mid, 0)), i, "%04x", i);
        cr_assert_eq(mg_f32_to_f16(nextafterf(mid, INFINITY)), i + 1, "%04x", i);
        cr_assert_eq(mg_f32_to_f16(-mid), even | 0x8000, "%04x", i);
    }
}

Test(dtype, f16_special_values) {
    cr_assert_eq(mg_f32_to_f16(0.0f), 0);
    cr_assert_eq(mg_f32_to_f16(-0.0f), 0x8000);
    cr_assert_eq(mg_f32_to_f16(INFINITY), 0x7C00);
    cr_assert_eq(mg_f32_to_f16(-INFINITY), 0xFC00);
    cr_assert_eq(mg_f32_to_f16(3.4e38f), 0x7C00);
    cr_assert_eq(mg_f32_to_f16(from_bits(1)), 0);               /* smallest f32 subnormal */
    cr_assert_eq(mg_f32_to_f16(from_bits(0x7F800001)), 0x7E00); /* signalling NaN */
    cr_assert_eq(mg_f32_to_f16(from_bits(0xFFFFFFFF)), 0xFE00);
}

Test(dtype, bf16_all_values_round_trip) {
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t h = (uint16_t)i;
        float x = mg_bf16_to_f32(h);
        cr_assert_eq(bits(x), i << 16);
        bool nan = (h & 0x7FFF) > 0x7F80;
        cr_assert_eq(mg_f32_to_bf16(x), nan ? h | 0x40 : h, "%04x", h);
    }
}

Test(dtype, bf16_rounds_to_nearest_even_at_every_boundary) {
    for (uint32_t i = 0; i < 65536; i++) {
        if ((i & 0x7FFF) >= 0x7F80) continue;
        uint32_t low = i << 16;
        cr_assert_eq(mg_f32_to_bf16(from_bits(low | 0x7FFF)), i, "%04x", i);
        cr_assert_eq(mg_f32_to_bf16(from_bits(low | 0x8000)), i & 1 ? i + 1 : i, "%04x", i);
        cr_assert_eq(mg_f32_to_bf16(from_bits(low | 0x8001)), i + 1, "%04x", i);
    }
    for (uint32_t low = 1; low < 0x10000; low++) /* a NaN whose payload is only in the dropped half stays a NaN */
        cr_assert_eq(mg_f32_to_bf16(from_bits(0x7F800000u | low)), 0x7FC0);
}

Test(dtype, table_is_a_bijection) {
    for (int t = 0; t < MG_DTYPE_COUNT; t++) {
        const mg_dtype_info *d = mg_dtype_get((mg_dtype)t);
        cr_assert(d->name && d->block && d->block_bytes, "%d", t);
        cr_assert_eq(mg_dtype_from_name(d->name), t);
        if (d->st_name) cr_assert_eq(mg_dtype_from_st_name(d->st_name, strlen(d->st_name)), t);
        if (d->gguf_id >= 0) cr_assert_eq(mg_dtype_from_gguf_id(d->gguf_id), t);
        cr_assert_eq(mg_dtype_is_block((mg_dtype)t), d->block > 1);
    }
    cr_assert_eq(mg_dtype_from_name("q4_k"), MG_Q4_K);
    cr_assert_eq(mg_dtype_from_st_name("bf16", 4), MG_DTYPE_COUNT); /* the container is case-sensitive */
    cr_assert_eq(mg_dtype_from_gguf_id(-1), MG_DTYPE_COUNT);
    cr_assert_eq(mg_dtype_from_gguf_id(4), MG_DTYPE_COUNT);
}

Test(dtype, row_bytes) {
    uint64_t n;
    cr_assert(mg_dtype_row_bytes(MG_Q4_K, 512, &n) && n == 288);
    cr_assert(!mg_dtype_row_bytes(MG_Q4_K, 100, &n));
    cr_assert(mg_dtype_row_bytes(MG_Q4_0, 0, &n) && n == 0);
    cr_assert(!mg_dtype_row_bytes(MG_F64, UINT64_MAX / 4, &n));
}
