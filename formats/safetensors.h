/* safetensors.h - the container of Hugging Face weights: u64 header length, JSON header, contiguous data.
 *
 * Reading is liberal only where the format's own reader is (JSON white space around the header, zero-sized and scalar
 * tensors, any data alignment); everything else is refused before anything is allocated for it:
 * docs/format_safetensors.md. Writing is canonical: the header the safetensors library itself would write for the same
 * tensors. */
#ifndef MG_FORMATS_SAFETENSORS_H
#define MG_FORMATS_SAFETENSORS_H

#include "formats/base/arena.h"
#include "formats/base/file.h"
#include "formats/kv.h"
#include "formats/tensor.h"

#define MG_SAFETENSORS_MAX_HEADER 100000000u /* bytes of JSON; the limit of the reference reader */
#define MG_SAFETENSORS_MAX_NAME   65536u

typedef struct mg_st_header {
    mg_tensor *tensors; /* by data offset (ties: header order); offset is absolute, file is 0; in the arena given */
    uint32_t n_tensors;
    bool has_metadata;   /* the header has a __metadata__ object */
    uint64_t data_start; /* 8 + header length */
} mg_st_header;

/* Parse and validate header JSON of a file of file_size bytes whose data starts at data_start. Names and descriptors
 * are allocated in a; the strings of __metadata__ are added to metadata (may be NULL). Offsets in errors count from the
 * start of text. MG_ERR_FORMAT: malformed; MG_ERR_UNSUPPORTED: a dtype we cannot hold; MG_ERR_LIMIT: rank > MG_MAX_RANK
 * or a name over MG_SAFETENSORS_MAX_NAME. */
mg_status mg_safetensors_parse(mg_st_header *out, mg_span text, uint64_t data_start, uint64_t file_size, mg_arena *a,
                               mg_kvs *metadata, mg_error *err) MG_MUST_CHECK;

/* The same from an open file: length, header and extents are checked against the file's real size. Errors name the
 * file. */
mg_status mg_safetensors_read(mg_st_header *out, const mg_file *f, mg_arena *a, mg_kvs *metadata,
                              mg_error *err) MG_MUST_CHECK;

/* Lay out a file: tensors[0..n) (name, dtype, rank, shape and sizes set; offsets ignored) become *header, malloc'ed, of
 * *header_size bytes (length word, JSON, spaces up to a multiple of 8; = start of data). offsets[i] receives the
 * absolute offset of tensor i. The order in the file is the safetensors library's: its dtype order descending (widest
 * first), then name. metadata: string values in order; NULL means {"format":"pt"}; an empty one writes no __metadata__.
 * MG_ERR_UNSUPPORTED: a dtype without safetensors name; MG_ERR_FORMAT: duplicate name; MG_ERR_LIMIT: header too large.
 */
mg_status mg_safetensors_layout(const mg_tensor *tensors, uint32_t n, const mg_kvs *metadata, uint8_t **header,
                                uint64_t *header_size, uint64_t *offsets, uint64_t *file_size,
                                mg_error *err) MG_MUST_CHECK;

#endif
