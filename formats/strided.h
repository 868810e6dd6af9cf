/* strided.h - reading tensors whose elements do not lie one after the other: views that torch.save stores as they are
 * (transposed matrices, slices of columns, expanded rows). Private to the containers. */
#ifndef MG_FORMATS_STRIDED_H
#define MG_FORMATS_STRIDED_H

#include "formats/base/file.h"
#include "formats/tensor.h"

/* Is element i of t simply at t->offset + i * element bytes? stride[k]: distance in elements of neighbours along
 * dimension k. Strides of dimensions of size 1 do not count. */
bool mg_strides_plain(const mg_tensor *t, const uint64_t *stride);
/* Can mg_strided_read follow them? Rows whose elements are neighbours, or matrices whose columns are. */
bool mg_strides_readable(const mg_tensor *t, const uint64_t *stride);
/* Elements from the first one to behind the last; false when that overflows. 0 for an empty tensor. */
bool mg_strides_span(const mg_tensor *t, const uint64_t *stride, uint64_t *span);

/* n bytes of t as if it were contiguous, starting at byte `begin`. t->offset is the place of its first element. The
 * span has been checked against the file; memory is bounded by a scratch of 1 MiB. */
mg_status mg_strided_read(const mg_file *f, const mg_tensor *t, const uint64_t *stride, uint64_t begin, void *dst,
                          uint64_t n, mg_error *err) MG_MUST_CHECK;

#endif
