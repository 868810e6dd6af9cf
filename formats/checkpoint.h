/* checkpoint.h - one interface over every container and over plans: list tensors, describe them, read a region.
 *
 * Implementations embed mg_checkpoint first and fill ops. Tensor order is the container's own (file order for GGUF and
 * safetensors by data offset within a shard, shards in order). All reads are positional and thread safe. */
#ifndef MG_FORMATS_CHECKPOINT_H
#define MG_FORMATS_CHECKPOINT_H

#include "formats/base/json.h"
#include "formats/base/strmap.h"
#include "formats/kv.h"
#include "formats/tensor.h"

typedef enum mg_container {
    MG_CONTAINER_SAFETENSORS,
    MG_CONTAINER_HF_DIR, /* safetensors or pickles, with config.json */
    MG_CONTAINER_GGUF,
    MG_CONTAINER_PLAN,
    MG_CONTAINER_TORCH,  /* one .pth, .pt or .bin */
    MG_CONTAINER_NATIVE, /* directory with params.json and consolidated.* */
} mg_container;

typedef struct mg_checkpoint mg_checkpoint;

typedef struct mg_checkpoint_ops {
    /* n bytes of tensor t, starting byte_offset bytes into its data, as stored. The range has been checked. */
    mg_status (*read)(mg_checkpoint *c, uint32_t t, uint64_t byte_offset, void *dst, uint64_t n, mg_error *err);
    mg_status (*recheck)(mg_checkpoint *c, mg_error *err);                  /* see mg_checkpoint_recheck */
    mg_status (*identity)(mg_checkpoint *c, uint8_t id[16], mg_error *err); /* see mg_checkpoint_identity */
    void (*free)(mg_checkpoint *c);
} mg_checkpoint_ops;

struct mg_checkpoint {
    const mg_checkpoint_ops *ops;
    mg_container container;
    const char *path; /* as given by the user; "org/name" for one from the Hugging Face cache */
    const char
        *dir; /* directory of side files (tokenizer.json ...); for a GGUF or single file its directory; NULL for none */
    mg_tensor *tensors;
    uint32_t n_tensors;
    mg_strmap by_name;  /* name -> index */
    const char **files; /* base names of data files, for messages, provenance and tensor.file */
    uint32_t n_files;
    const mg_json *config; /* Hugging Face config.json; NULL for GGUF and for a bare .safetensors without one */
    const mg_json *generation_config; /* or NULL */
    const mg_json
        *params; /* params.json of a Mistral- or Meta-native release; NULL otherwise. Its tensors have native names */
    const mg_kvs *kv;          /* GGUF metadata; NULL otherwise */
    const mg_kvs *vocab;       /* of a plan made from a GGUF: that file's metadata, whose tokenizer is the model's; NULL
                                  otherwise */
    const mg_kvs *st_metadata; /* safetensors __metadata__ of the first file as strings; may be NULL */
    uint64_t alignment;        /* GGUF: general.alignment in force; 0 otherwise */
    const char *const
        *notes; /* oddities that are no errors (total_size off, stray shards ...), for inspect and check */
    uint32_t n_notes;
};

/* Open PATH: a Hugging Face or native directory, a .safetensors, .gguf, .pth, .pt or .bin file, told by what is there,
 * never by magic sniffing of shards. Headers only are read, every extent is checked against the real file size. Kinds
 * that CLI.md lists and that are not built yet are MG_ERR_UNSUPPORTED by name. *out is the caller's
 * (mg_checkpoint_free). */
mg_status mg_checkpoint_open(mg_checkpoint **out, const char *path, mg_error *err) MG_MUST_CHECK;
void mg_checkpoint_free(mg_checkpoint *c);

/* Index of a tensor, MG_STRMAP_NONE when absent. */
uint32_t mg_checkpoint_find(const mg_checkpoint *c, const char *name);

/* Bytes as stored; range checked (MG_ERR_FORMAT naming tensor and file). */
mg_status mg_checkpoint_read(mg_checkpoint *c, uint32_t t, uint64_t byte_offset, void *dst, uint64_t n,
                             mg_error *err) MG_MUST_CHECK;
/* Whole rows as stored: n_rows * row_bytes into dst. */
mg_status mg_checkpoint_read_rows(mg_checkpoint *c, uint32_t t, uint64_t row, uint64_t n_rows, void *dst,
                                  mg_error *err) MG_MUST_CHECK;

/* Sources unchanged since they were opened? MG_ERR_INTEGRITY names the file. Plans ask their inputs. */
mg_status mg_checkpoint_recheck(mg_checkpoint *c, mg_error *err) MG_MUST_CHECK;
/* Identity of the input for plan ids: container, sizes, mtimes, and XXH3-128 of the first and last 64 KiB of each file.
 */
mg_status mg_checkpoint_identity(mg_checkpoint *c, uint8_t id[16], mg_error *err) MG_MUST_CHECK;

#endif
