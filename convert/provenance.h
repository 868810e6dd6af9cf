/* provenance.h - outputs made again from what their manifest names, and compared by hash with the manifest and with the
 * bytes that are there. Nothing is written. Manifest: docs/plan.md. */
#ifndef MG_CONVERT_PROVENANCE_H
#define MG_CONVERT_PROVENANCE_H

#include "convert/plan.h"
#include "formats/base/pool.h"
#include "quant/imatrix.h"

typedef enum mg_proof {
    MG_PROOF_SKIPPED,     /* not selected */
    MG_PROOF_SAME,        /* derived, stated and stored bytes have one hash */
    MG_PROOF_STORED,      /* the stored bytes are others */
    MG_PROOF_DERIVED,     /* what is derived now is not what was written: an input has changed */
    MG_PROOF_STATED,      /* derived and stored agree with each other, not with the manifest */
    MG_PROOF_NOT_DERIVED, /* the manifest does not say how to make it again; the stored bytes are as stated */
    MG_PROOF_COUNT
} mg_proof;

typedef struct mg_proof_tensor {
    const char *name, *dtype, *file; /* of the manifest */
    uint64_t offset, bytes;
    const char *stated; /* XXH3-128 */
    const mg_json *recipe;
    mg_tensor t;          /* shape */
    const mg_expr *e;     /* NULL: a constant, or not derived */
    const char *constant; /* hash of a constant, as the recipe states it; else NULL */
    bool again;           /* e comes from the tool's work done again, not from the recipe */
    mg_proof proof;
    char note[256]; /* what is wrong or missing */
} mg_proof_tensor;

typedef struct mg_proof_input {
    const char *name;
    const char *stage; /* "folded": read with changes that a stage made; "file": its work file; NULL */
    const mg_json *files;
    const mg_json *sides; /* small files beside it, or NULL */
    bool made;            /* by a stage, and not kept: its work file, or what it changed of a recipe's model */
    bool needed;          /* by the recipe of a selected tensor */
    mg_checkpoint *ckpt;  /* owned; NULL: made, or not found and not needed */
    const char *path;     /* where it was found */
} mg_proof_input;

/* A file of the output. */
typedef struct mg_proof_file {
    const char *name, *stated; /* sha256 */
    char found[65];            /* "": there is none */
    bool differs;
} mg_proof_file;

typedef struct mg_provenance {
    mg_arena arena;
    mg_json *manifest;
    const mg_json *made; /* what the tool was asked for (record.h), NULL: an older manifest */
    char dir[4096];      /* of the manifest, and of the files it describes */
    mg_plan *plan;
    mg_proof_input *inputs;
    uint32_t n_inputs;
    mg_proof_tensor *tensors;
    uint32_t n_tensors;
    mg_proof_file *files;
    uint32_t n_files;
    mg_checkpoint *output; /* after mg_provenance_open_output */
    uint64_t selected_bytes;
} mg_provenance;

/* Read a manifest. p is zeroed by the caller and released in every case. MG_ERR_FORMAT, MG_ERR_UNSUPPORTED (newer). */
mg_status mg_provenance_open(mg_provenance *p, const char *manifest, mg_error *err) MG_MUST_CHECK;
void mg_provenance_release(mg_provenance *p);
/* Keep the tensors whose name matches a regular expression (NULL: all), and of those `sample` evenly spaced ones (0:
 * all). MG_ERR_USAGE when none is left. */
mg_status mg_provenance_select(mg_provenance *p, const char *regex, uint64_t sample, mg_error *err) MG_MUST_CHECK;
/* Find and open the inputs that are not made: at places[n] and in them, beside the manifest's folder or in it, in the
 * working directory. MG_ERR_IO names one that is needed and nowhere (all are where one that is made is needed),
 * MG_ERR_INTEGRITY one whose files are others. */
mg_status mg_provenance_inputs(mg_provenance *p, const char *const *places, size_t n, mg_error *err) MG_MUST_CHECK;

typedef struct mg_provenance_options {
    mg_pool *pool;
    const mg_imatrix *imatrix; /* NULL */
    const mg_plan *values;     /* of the recipe that was merged; NULL */
    mg_progress *progress;     /* counts bytes */
} mg_provenance_options;
/* Read the recipes of the selected tensors. May be called again with more values. */
mg_status mg_provenance_plan(mg_provenance *p, const mg_provenance_options *opt, mg_error *err) MG_MUST_CHECK;
/* The first selected tensor whose recipe does not suffice, so that the tool's work has to be done again; NULL: none. */
const mg_proof_tensor *mg_provenance_lacks(const mg_provenance *p);
/* The tensors that lack something as `again`, the plan of the tool's work done again, makes them. It outlives
 * mg_provenance_prove. *found: the manifest's output is among its outputs. */
mg_status mg_provenance_take(mg_provenance *p, const mg_plan *again, bool *found, mg_error *err) MG_MUST_CHECK;
/* Open the output as any reader does, by its own headers. */
mg_status mg_provenance_open_output(mg_provenance *p, mg_error *err) MG_MUST_CHECK;
/* XXH3-128 of a tensor's bytes in the output; "" and a note when it is not there as stated. */
mg_status mg_provenance_hash_stored(const mg_provenance *p, mg_proof_tensor *t, char hex[33],
                                    mg_error *err) MG_MUST_CHECK;
/* Compare whole files of the output (headers, config, tokenizer) with the manifest; *differ: how many are others. */
mg_status mg_provenance_files(mg_provenance *p, mg_pool *pool, uint32_t *differ, mg_error *err) MG_MUST_CHECK;
/* Fill proof and note of every selected tensor; the output is open. */
mg_status mg_provenance_prove(mg_provenance *p, const mg_provenance_options *opt, mg_error *err) MG_MUST_CHECK;
/* MG_ERR_INTEGRITY: a small file beside an input is another one than it was. */
mg_status mg_provenance_sides(const mg_provenance *p, mg_error *err) MG_MUST_CHECK;
/* "same", "output differs" ...: how a result is called. */
const char *mg_proof_name(mg_proof p);

#endif
