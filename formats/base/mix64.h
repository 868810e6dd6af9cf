/* mix64.h - splitmix64 (Steele, Lea and Flood 2014): numbers that are the same on every machine. A stream adds
 * MG_MIX64_STEP to its state and mixes; a counter mixes seed + k * MG_MIX64_STEP, so nothing depends on the order of
 * evaluation. */
#ifndef MG_BASE_MIX64_H
#define MG_BASE_MIX64_H

#include <stdint.h>

#define MG_MIX64_STEP 0x9e3779b97f4a7c15u

static inline uint64_t mg_mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t mg_mix64_next(uint64_t *state) {
    return mg_mix64(*state += MG_MIX64_STEP);
}

/* 53 bits in [0, 1), and in (0, 1). */
static inline double mg_unit_from(uint64_t bits) {
    return (double)(bits >> 11) * 0x1p-53;
}
static inline double mg_open_unit_from(uint64_t bits) {
    return ((double)(bits >> 11) + 0.5) * 0x1p-53;
}

#endif
