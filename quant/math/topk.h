/* topk.h - the k largest of n values: larger wins, equal values (-0 equals +0) go to the lower index, NaN comes last.
 */
#ifndef MG_MATH_TOPK_H
#define MG_MATH_TOPK_H

#include <stdint.h>

/* idx[0..k) in descending order of value. k <= n. O(n * k): meant for routers and small k. */
void mg_topk(const float *x, uint32_t n, uint32_t k, uint32_t *idx);
/* Index of the largest value; n > 0. */
uint64_t mg_argmax(const float *x, uint64_t n);

#endif
