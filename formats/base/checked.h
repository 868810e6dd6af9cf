/* checked.h - overflow-checked unsigned arithmetic and borrowed byte views.
 * Every size that comes out of a file passes through here before it reaches an allocation or a read. */
#ifndef MG_BASE_CHECKED_H
#define MG_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A borrowed view of bytes; owns nothing. */
typedef struct mg_span {
    const uint8_t *data;
    size_t size;
} mg_span;

/* *out = a*b / a+b; false on overflow (then *out is unspecified). */
static inline bool mg_mul_u64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool mg_add_u64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

/* Round v up to a multiple of align (a power of two); false on overflow. */
static inline bool mg_align_u64(uint64_t v, uint64_t align, uint64_t *out) {
    if (!mg_add_u64(v, align - 1, out)) return false;
    *out &= ~(align - 1);
    return true;
}

/* True when [off, off+len) lies inside a file of size bytes. Never forms off+len, so it cannot wrap. */
static inline bool mg_range_fits(uint64_t off, uint64_t len, uint64_t size) {
    return off <= size && len <= size - off;
}

#endif
