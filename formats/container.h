/* container.h - what the checkpoints that live in files have in common: open files, positional reads, recheck,
 * identity. Private to the containers (safetensors, torch_file, hf_dir, native_dir, gguf); everyone else uses
 * checkpoint.h. */
#ifndef MG_FORMATS_CONTAINER_H
#define MG_FORMATS_CONTAINER_H

#include "formats/base/file.h"
#include "formats/checkpoint.h"

typedef struct mg_files_ckpt {
    mg_checkpoint base; /* first: an mg_checkpoint * is an mg_files_ckpt * */
    mg_arena arena;     /* names, notes */
    mg_arena names;     /* tensor names of a GGUF, taken over from its reader */
    mg_file **files;    /* base.n_files of them, open until the checkpoint is freed */
    uint32_t files_cap;
    mg_kvs kv;       /* base.kv points here for GGUF */
    mg_kvs metadata; /* base.st_metadata points here when the file had one */
    mg_json *config, *generation_config, *params;
    const uint64_t **strides; /* [tensors_cap]: of tensors whose elements are not neighbours (strided.h), else NULL */
    uint32_t tensors_cap, notes_cap;
    const char **notes;
    mg_tensor *tensors;
} mg_files_ckpt;

mg_status mg_files_ckpt_new(mg_files_ckpt **out, mg_container kind, const char *path, mg_error *err) MG_MUST_CHECK;
void mg_files_ckpt_free(mg_files_ckpt *c);
/* Directory of path: "." when it names no directory. Allocated in c's arena and set as base.dir. */
mg_status mg_files_ckpt_set_dir_of(mg_files_ckpt *c, const char *path, mg_error *err) MG_MUST_CHECK;
/* Open path as the next data file, shown as name. */
mg_status mg_files_ckpt_add_file(mg_files_ckpt *c, const char *path, const char *name, mg_error *err) MG_MUST_CHECK;
/* Append descriptors that belong to the last added file. */
mg_status mg_files_ckpt_add_tensors(mg_files_ckpt *c, const mg_tensor *t, uint32_t n, mg_error *err) MG_MUST_CHECK;
/* Open path as the next data file and append its tensors: safetensors (metadata of the first file is kept), torch. */
mg_status mg_files_ckpt_add_safetensors(mg_files_ckpt *c, const char *path, const char *name,
                                        mg_error *err) MG_MUST_CHECK;
mg_status mg_files_ckpt_add_torch(mg_files_ckpt *c, const char *path, const char *name, mg_error *err) MG_MUST_CHECK;
/* Build by_name. A name in two files is MG_ERR_FORMAT naming both. */
mg_status mg_files_ckpt_index(mg_files_ckpt *c, mg_error *err) MG_MUST_CHECK;
mg_status mg_files_ckpt_note(mg_files_ckpt *c, mg_error *err, const char *fmt, ...) MG_PRINTF(3, 4) MG_MUST_CHECK;
/* Load dir/config.json and dir/generation_config.json when they exist. required: a missing config is MG_ERR_FORMAT. */
mg_status mg_files_ckpt_load_config(mg_files_ckpt *c, const char *dir, bool required, mg_error *err) MG_MUST_CHECK;
/* Load dir/params.json, which must be there, and make it the checkpoint's. */
mg_status mg_files_ckpt_load_params(mg_files_ckpt *c, const char *dir, mg_error *err) MG_MUST_CHECK;
/* What describes the single file `name` in base.dir: params.json for consolidated.*, else config.json, else
 * params.json; nothing when there is neither. */
mg_status mg_files_ckpt_load_side(mg_files_ckpt *c, const char *name, mg_error *err) MG_MUST_CHECK;

#endif
