/* tensor.c - sizes and shapes of tensor descriptors. */
#include "formats/tensor.h"

#include <inttypes.h>
#include <stdio.h>

/* The product is formed over the non-zero dimensions, so that [0, 2^40, 2^40] is refused like [2^40, 2^40, 0]: a shape
 * nobody can mean must not depend on where its zero stands. */
bool mg_tensor_set_sizes(mg_tensor *t) {
    uint64_t n = 1, rows = 1, row_bytes, bytes;
    bool empty = false;
    if (t->rank > MG_MAX_RANK) return false;
    for (uint32_t i = 0; i < t->rank; i++) {
        empty |= t->shape[i] == 0;
        uint64_t d = t->shape[i] ? t->shape[i] : 1;
        if (!mg_mul_u64(n, d, &n) || n > INT64_MAX) return false;
        if (i + 1 < t->rank) rows *= d;
    }
    if (!mg_dtype_row_bytes(t->dtype, mg_tensor_cols(t), &row_bytes)) return false;
    if (!mg_mul_u64(rows, row_bytes, &bytes) || bytes > INT64_MAX) return false;
    t->n_elements = empty ? 0 : n;
    t->n_bytes = empty ? 0 : bytes;
    return true;
}

static const char *shape_text(uint32_t rank, const uint64_t *shape, char *buf, size_t size) {
    size_t at = 0;
    if (size == 0) return buf;
    buf[0] = 0;
    for (uint32_t i = 0; i <= rank && at < size; i++) {
        int n = i < rank ? snprintf(buf + at, size - at, "%s%" PRIu64, i ? ", " : "[", shape[i])
                         : snprintf(buf + at, size - at, "%s", rank ? "]" : "[]");
        if (n > 0) at += (size_t)n;
    }
    return buf;
}

const char *mg_tensor_shape_text(const mg_tensor *t, char *buf, size_t size) {
    return shape_text(t->rank, t->shape, buf, size);
}

mg_status mg_tensor_expect_shape(const mg_tensor *t, uint32_t rank, const uint64_t *shape, mg_error *err) {
    uint32_t bad = 0;
    while (bad < rank && bad < t->rank && shape[bad] == t->shape[bad]) bad++;
    if (rank == t->rank && bad == rank) return MG_OK;
    char found[200], expected[200];
    mg_tensor_shape_text(t, found, sizeof found);
    shape_text(rank, shape, expected, sizeof expected);
    mg_status st = rank != t->rank
                       ? mg_fail(err, MG_ERR_FORMAT, "has %" PRIu32 " dimensions %s, expected %" PRIu32 " %s", t->rank,
                                 found, rank, expected)
                       : mg_fail(err, MG_ERR_FORMAT, "shape %s differs in dimension %" PRIu32 ", expected %s", found,
                                 bad, expected);
    mg_error_at(err, NULL, t->name);
    return st;
}
