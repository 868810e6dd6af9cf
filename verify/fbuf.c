/* fbuf.c - see fbuf.h. */
#include "verify/fbuf.h"

#include <stdlib.h>

#include "formats/base/checked.h"

mg_status mg_fbuf_need(mg_fbuf *buf, uint64_t a, uint64_t b, mg_error *err) {
    uint64_t n, bytes;
    if (!mg_mul_u64(a, b, &n) || !mg_mul_u64(n, sizeof(float), &bytes) || !mg_align_u64(bytes, 64, &bytes))
        return mg_fail(err, MG_ERR_LIMIT, "a buffer of %llu by %llu numbers is too large", (unsigned long long)a,
                       (unsigned long long)b);
    if (n <= buf->n) return MG_OK;
    mg_fbuf_release(buf);
    buf->p = aligned_alloc(64, bytes);
    if (!buf->p) return mg_fail_nomem(err, bytes);
    buf->n = n;
    return MG_OK;
}

void mg_fbuf_release(mg_fbuf *buf) {
    free(buf->p);
    *buf = (mg_fbuf){0};
}
