/* kernel_test.h - what the parts of check_kernels share: seeded cases, rows that break kernels, guarded buffers, time.
 *
 * A case is known by (seed, kernel, index) and can be run alone: every failure prints those three. */
#ifndef MG_TESTS_KERNEL_TEST_H
#define MG_TESTS_KERNEL_TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/cpu.h"

typedef struct kt_options {
    uint64_t seed;
    uint64_t weights;   /* elements per kernel, at least */
    const char *only;   /* kernels whose name starts with this; NULL: all */
    int64_t case_index; /* this case only; -1: all */
    uint64_t set_bytes; /* --bench: f32 bytes that a kernel works through */
    bool verbose;       /* a line per kernel */
} kt_options;
extern kt_options kt;

/* ---- cases ---- */

/* True when --only selects the kernel. */
bool kt_selected(const char *kernel);
/* Names the kernel and the case for messages and for the handler of SIGSEGV, and seeds kt_next. */
void kt_case(const char *kernel, uint64_t index);
/* The instruction set whose twin runs now, for messages. */
void kt_isa(mg_isa isa);
/* Counts and prints a failure of the current case with the options that repeat it. */
void kt_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
unsigned kt_failures(void);
/* A kernel has been tried: how many twins it has and how many elements each saw. */
void kt_done(const char *kernel, size_t twins, uint64_t elements);

/* The vector levels of this machine, ascending; returns how many. MOEGRAFT_ISA caps them. */
enum { KT_LEVELS = 3 };
size_t kt_levels(mg_isa out[KT_LEVELS]);

/* ---- random numbers of the current case ---- */
void kt_seed(uint64_t seed);
uint64_t kt_next(void);
uint64_t kt_below(uint64_t n); /* 0..n-1 */
double kt_uniform(void);       /* [0, 1) */
double kt_gauss(void);         /* sum of twelve uniforms */
float kt_any_float(void);      /* both zeros, subnormals, all magnitudes, infinities and NaN */

/* Equal to the bit, or both NaN: sign and payload of a NaN are outside the promise (docs/numerics.md), since a compiler
 * may swap the operands of a sum. */
bool kt_same(float a, float b);

/* ---- rows ---- */

/* Twelve distributions as weights have them, then what only a hostile file has. Every row is finite except those of
 * KT_NOT_FINITE, which an encoder refuses. */
typedef enum kt_kind {
    KT_GAUSS,
    KT_GAUSS_BF16,
    KT_GAUSS_F16,
    KT_LAPLACE,
    KT_STUDENT,
    KT_POSITIVE,
    KT_NEGATIVE,
    KT_INTEGERS,
    KT_SPARSE,
    KT_SMALL,
    KT_MIXED_SCALES,
    KT_SHIFTED,
    KT_CONSTANT,
    KT_PLUS_MINUS,
    KT_ULPS,
    KT_MAGNITUDES,
    KT_HUGE,
    KT_SUBNORMAL,
    KT_ZEROS,
    KT_ANY_BITS,
    KT_NOT_FINITE,
    KT_KINDS
} kt_kind;
const char *kt_kind_name(kt_kind k);
void kt_fill(float *x, uint64_t n, kt_kind k);
/* Importance weights: plain, scattered zeros, zero runs of 16, 32 and 256, all zero, all one. */
void kt_fill_weights(float *w, uint64_t n);

/* ---- memory between two pages that fault ---- */

typedef struct kt_buffer {
    uint8_t *map, *body;
    size_t body_size;
    uint8_t *data; /* the region placed last */
    size_t size;
} kt_buffer;
kt_buffer kt_buffer_new(size_t most);
void kt_buffer_free(kt_buffer *b);
/* A region of size bytes that ends at the upper guard page, or begins behind the lower one; what surrounds it is
 * filled with a pattern. Writable. */
void *kt_place(kt_buffer *b, size_t size, bool at_end);
void kt_read_only(kt_buffer *b, bool yes);
/* False when a byte around the region changed. */
bool kt_intact(const kt_buffer *b);

/* ---- the floating-point state ---- */

/* The control bits (rounding, flushing, masks), not the flags. */
uint32_t kt_fp_state(void);
/* Flush subnormals, inputs and results: as a process that was linked with -ffast-math. */
void kt_fp_flush(void);

/* ---- time ---- */

typedef struct kt_timed {
    void (*call)(void *ctx, uint64_t turn); /* turn counts up, so that calls walk through memory */
    void *ctx;
    double ns;    /* median per call; kt_time sets it */
    double ratio; /* median of the first entry's time over this one's, of the same round */
} kt_timed;
/* Times n variants in turns, CPU time of this thread. */
void kt_time(kt_timed *v, size_t n);
/* memcpy over a source of set_bytes, bytes read plus written per nanosecond. */
double kt_copy_speed(uint64_t set_bytes);

/* ---- the kernels ---- */
void kt_codecs_check(void);
void kt_codecs_bench(void);
/* Every file of the folder of golden blocks, every level, scalar included: encodes and compares; prints a line
 * "TYPE VARIANT LEVEL SHA256" with the digest of what decoding gives. */
void kt_codecs_golden(const char *folder);
void kt_math_check(void);
void kt_math_bench(void);
void kt_groups_check(void);
void kt_groups_bench(void);
/* Dense products beside the fma peak of the core. */
void kt_peak_bench(void);
void kt_sha256_check(void);

#endif
