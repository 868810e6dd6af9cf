/* gguf.h - the GGUF container, version 3 (2 has the same layout and is read too), little-endian.
 *
 *   "GGUF" u32 version  i64 n_tensors  i64 n_kv | key/values | tensor infos | zeros up to the alignment | data, each
 * padded
 *
 * What is accepted, refused and written: docs/format_gguf.md. Dimensions are reversed on the way in and out: a
 * descriptor's shape is torch order. */
#ifndef MG_FORMATS_GGUF_H
#define MG_FORMATS_GGUF_H

#include "formats/base/file.h"
#include "formats/checkpoint.h"
#include "formats/kv.h"
#include "formats/tensor.h"

#define MG_GGUF_DEFAULT_ALIGNMENT 32u
#define MG_GGUF_MAX_ALIGNMENT     65536u
#define MG_GGUF_MAX_HEADER        (UINT64_C(256) << 20) /* bytes of key/values and tensor infos */
#define MG_GGUF_MAX_TENSORS       (UINT64_C(4) << 20)
#define MG_GGUF_MAX_NAME          63u /* bytes of a tensor name, as in ggml */

typedef struct mg_gguf {
    uint32_t version;
    uint64_t alignment;
    mg_kvs kv;
    mg_arena arena;     /* names and descriptors */
    mg_tensor *tensors; /* file order; offsets absolute, file 0 */
    uint32_t n_tensors;
    uint64_t data_start;
} mg_gguf;

/* Read and validate the header of an open file, or of bytes in memory (file_size is then text.size). Every extent is
 * checked. MG_ERR_FORMAT: malformed; MG_ERR_UNSUPPORTED: version, byte order or tensor type; MG_ERR_LIMIT: our limits.
 * On failure *out is released. Release with mg_gguf_release. */
mg_status mg_gguf_read(mg_gguf *out, const mg_file *f, mg_error *err) MG_MUST_CHECK;
mg_status mg_gguf_parse(mg_gguf *out, mg_span bytes, mg_error *err) MG_MUST_CHECK;
void mg_gguf_release(mg_gguf *g);

/* Rules beyond the container: tokenizer arrays of the right types and equal lengths. Applied by mg_gguf_open; separate
 * for readers that look at foreign GGUF files such as importance matrices. */
mg_status mg_gguf_check_model(const mg_kvs *kv, mg_error *err) MG_MUST_CHECK;

/* Open as a checkpoint: one file, or the first part of a set (gguf_set.h), which finds the others. */
mg_status mg_gguf_open(mg_checkpoint **out, const char *path, mg_error *err) MG_MUST_CHECK;

/* Header bytes for kv and tensors[0..n) in this order (name, dtype, rank, shape, n_bytes set; offset ignored): *header,
 * malloc'ed, *header_size bytes, padding included (= start of data). offsets[i]: absolute offset of tensor i.
 * *file_size: end of the last tensor's padding. alignment 0: general.alignment of kv, else 32; another value than the
 * kv's is MG_ERR_CONFLICT. n_dims is written as rank (trim trailing ones before if the file should have them trimmed).
 * MG_ERR_UNSUPPORTED: dtype without a ggml id, rank over 4; MG_ERR_FORMAT: name too long, empty or twice. */
mg_status mg_gguf_layout(const mg_kvs *kv, const mg_tensor *tensors, uint32_t n, uint64_t alignment, uint8_t **header,
                         uint64_t *header_size, uint64_t *offsets, uint64_t *file_size, mg_error *err) MG_MUST_CHECK;

#endif
