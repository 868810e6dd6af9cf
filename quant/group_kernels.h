/* group_kernels.h - the inner loops of weights quantized in groups behind one table of functions, one table per
 * instruction set: bits to codes and back, ranges, rounding, what rounding costs, codes to values; codes that
 * are floats of 8 and 4 bits.
 *
 * Every twin gives the bytes of the scalar functions (quant/ref/ref_group.c), which are the definitions; the templates
 * are quant/simd/group.inc. Sums run in 16 lanes by index modulo 16, added in ascending order in double. No function
 * allocates or fails; n may be 0. */
#ifndef MG_QUANT_GROUP_KERNELS_H
#define MG_QUANT_GROUP_KERNELS_H

#include "formats/base/cpu.h"
#include "formats/group_layouts.h"

/* Scale and zero (or bias) of a group, as numbers: the value of code q is (q - zero) * scale + bias. zero is 0 where
 * there is a bias, bias is 0 where there are zeros. */
typedef struct mg_group_step {
    float scale, bias, zero;
    float top; /* the largest code */
} mg_group_step;

/* n codes of 2 to 8 bits out of a dense stream of bits, lowest first: reads (n * bits + 7) / 8 bytes. */
typedef void mg_group_unpack_fn(const uint8_t *in, uint64_t n, uint32_t bits, uint8_t *codes);
/* The same back; codes are below 2^bits. Writes whole 32-bit words, the unused bits of the last as 0. */
typedef void mg_group_pack_fn(const uint8_t *codes, uint64_t n, uint32_t bits, uint8_t *out);
/* Rows to columns: byte r of the line at out + (c - c % 8 + place[c % 8]) * ld is rows[r][c], for r < 8 and c < n. n is
 * a multiple of 8. */
typedef void mg_group_turn_fn(const uint8_t *const rows[8], uint64_t n, const uint8_t place[8], uint8_t *out,
                              uint64_t ld);
/* Smallest and largest of n >= 1 values, a zero always as +0. false: one of them is not finite (lo and hi are then
 * anything). */
typedef bool mg_group_range_fn(const float *w, uint64_t n, float *lo, float *hi);
/* clamp(rint((w - bias) / scale) + zero, 0, top); NaN becomes 0. */
typedef void mg_group_round_fn(const mg_group_step *s, const float *w, uint64_t n, uint8_t *codes);
/* e = the value w is rounded to, minus w; e may be w. Divides by multiplying with 1 / scale, so a weight half way
 * between two codes may go the other way than in round: for judging, not for storing. |w - bias| < 2^22 scale. */
typedef void mg_group_error_fn(const mg_group_step *s, const float *w, uint64_t n, float *e);
/* Sum of weight * error^2. */
typedef double mg_group_cost_fn(const mg_group_step *s, const float *w, const float *weight, uint64_t n);
/* Ways to round the same weights, side by side: a lane for each. */
enum { MG_GROUP_TRIES = 16 };
typedef struct mg_group_tries {
    float scale[MG_GROUP_TRIES], bias[MG_GROUP_TRIES], zero[MG_GROUP_TRIES];
    float top;
} mg_group_tries;
/* What rounding by each of them would change: d[k][t] = (error of w[k] under t) * back[k] - now[k], errors as above. */
typedef void mg_group_tries_fn(const mg_group_tries *s, const float *w, const float *back, const float *now, uint64_t n,
                               float *d);
/* gain[t] = sum over k, ascending, of d[k][t] * (y[k][t] + b[k]); d and y [n][MG_GROUP_TRIES]. */
typedef void mg_group_gains_fn(const float *d, const float *y, const float *b, uint64_t n, float gain[MG_GROUP_TRIES]);
/* (code - zero) * scale; code * scale + bias. */
typedef void mg_group_values_fn(const uint8_t *codes, uint64_t n, float zero, float scale, float *out);
typedef void mg_group_affine_fn(const uint8_t *codes, uint64_t n, float scale, float bias, float *out);
/* Codes that are small floats (MG_CODE_E4M3, _E5M2: bytes; _E2M1: the low four bits), widened, times scale. */
typedef void mg_group_floats_fn(const uint8_t *codes, uint64_t n, mg_group_value kind, float scale, float *out);
/* The small floats (MG_CODE_E4M3, _E2M1) nearest to w / step, as quant/small_float.h rounds; for E2M1 no w is NaN. */
typedef void mg_group_narrow_fn(const float *w, uint64_t n, mg_group_value kind, float step, uint8_t *codes);

typedef struct mg_group_kernels {
#define MG_GROUP_KERNEL(field) mg_group_##field##_fn *field;
#include "quant/group_kernels.inc"
#undef MG_GROUP_KERNEL
} mg_group_kernels;

/* The table for the instruction set in use (mg_cpu_isa). */
const mg_group_kernels *mg_group_kernels_get(void);
/* The table of one instruction set; the caller knows that the processor has the instructions. */
const mg_group_kernels *mg_group_kernels_for(mg_isa isa);

#endif
