/* torch_file.h - .pth, .pt and .bin: files that torch.save wrote, as zip archives (torch 1.6 and later) or as the older
 * stream of pickles. What is accepted and what is refused, and why nothing in such a file can run:
 * docs/format_torch.md. */
#ifndef MG_FORMATS_TORCH_FILE_H
#define MG_FORMATS_TORCH_FILE_H

#include "formats/base/arena.h"
#include "formats/base/file.h"
#include "formats/checkpoint.h"
#include "formats/tensor.h"

typedef struct mg_torch_file {
    mg_tensor *tensors;       /* in the order of the dict; offset: of the first element in the file */
    const uint64_t **strides; /* [n_tensors]; NULL: contiguous, else MG_MAX_RANK strides in elements (strided.h) */
    uint32_t n_tensors;
    const char *inside;  /* key of the dict the tensors were found in; NULL: the outermost */
    const char *skipped; /* key of the first entry that is no tensor, NULL when there is none */
    uint32_t n_skipped;
} mg_torch_file;

/* Read the structure of f; no tensor data. Everything is allocated in a. Extents are checked against the storages, and
 * storages against the entries or the file. MG_ERR_FORMAT: malformed; MG_ERR_UNSUPPORTED: globals outside the list, big
 * endian, compressed, strides that cannot be followed; MG_ERR_LIMIT. Errors name the file and the tensor. */
mg_status mg_torch_read(mg_torch_file *out, const mg_file *f, mg_arena *a, mg_error *err) MG_MUST_CHECK;

/* A single file as a checkpoint; config.json or params.json beside it is used when present. */
mg_status mg_torch_open(mg_checkpoint **out, const char *path, mg_error *err) MG_MUST_CHECK;
/* Ends in .pth, .pt or .bin? */
bool mg_torch_is_name(const char *name);

#endif
