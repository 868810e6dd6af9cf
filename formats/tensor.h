/* tensor.h - the descriptor of one stored tensor, the same for every container and for plans. */
#ifndef MG_FORMATS_TENSOR_H
#define MG_FORMATS_TENSOR_H

#include "formats/base/checked.h"
#include "formats/dtype.h"

#define MG_MAX_RANK 8

typedef struct mg_tensor {
    const char *name; /* NUL-terminated, owned by the checkpoint */
    mg_dtype dtype;
    uint32_t rank;               /* 0 = scalar */
    uint64_t shape[MG_MAX_RANK]; /* torch order: slowest first; shape[rank-1] is the contiguous row. GGUF dims are
                                    reversed on reading */
    uint64_t n_elements;
    uint64_t n_bytes;
    uint32_t file;   /* index into the checkpoint's files */
    uint64_t offset; /* absolute byte offset in that file; 0 for computed tensors */
} mg_tensor;

/* Row length in elements (1 for scalars) and number of rows. */
static inline uint64_t mg_tensor_cols(const mg_tensor *t) {
    return t->rank ? t->shape[t->rank - 1] : 1;
}
static inline uint64_t mg_tensor_rows(const mg_tensor *t) {
    uint64_t c = mg_tensor_cols(t);
    return c ? t->n_elements / c : 0;
}
/* Bytes of one row; valid for a checked descriptor. */
static inline uint64_t mg_tensor_row_bytes(const mg_tensor *t) {
    uint64_t r = mg_tensor_rows(t);
    return r ? t->n_bytes / r : 0;
}

/* Fill n_elements and n_bytes from dtype and shape with overflow checks; false when the shape does not fit the dtype's
 * blocks or a product overflows 63 bits. Zero-sized dimensions are legal. */
bool mg_tensor_set_sizes(mg_tensor *t);
/* "[4, 512, 256]" into buf. */
const char *mg_tensor_shape_text(const mg_tensor *t, char *buf, size_t size);
/* MG_ERR_FORMAT unless t has exactly this shape; the message names tensor, dimension, found and expected. */
mg_status mg_tensor_expect_shape(const mg_tensor *t, uint32_t rank, const uint64_t *shape, mg_error *err) MG_MUST_CHECK;

#endif
