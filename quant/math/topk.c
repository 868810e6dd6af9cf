/* topk.c - see topk.h. */
#include "quant/math/topk.h"

#include <stdbool.h>

/* Does a beat b, given that a stands at the higher index? */
static bool beats(float a, float b) {
    return a > b || (b != b && a == a);
}

void mg_topk(const float *x, uint32_t n, uint32_t k, uint32_t *idx) {
    uint32_t have = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = have;
        while (at > 0 && beats(x[i], x[idx[at - 1]])) at--;
        if (at >= k) continue;
        if (have < k) have++;
        for (uint32_t j = have - 1; j > at; j--) idx[j] = idx[j - 1];
        idx[at] = i;
    }
}

uint64_t mg_argmax(const float *x, uint64_t n) {
    uint64_t best = 0;
    for (uint64_t i = 1; i < n; i++)
        if (beats(x[i], x[best])) best = i;
    return best;
}
