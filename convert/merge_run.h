/* merge_run.h - a merge made ready: donors opened and compared, routers computed, the plan complete. What comes out can
 * be executed, converted or quantized further, or read as a checkpoint with nothing written. */
#ifndef MG_CONVERT_MERGE_RUN_H
#define MG_CONVERT_MERGE_RUN_H

#include "convert/merge.h"
#include "convert/gates.h"
#include "formats/base/tempdir.h"

typedef struct mg_merge_run_options {
    const mg_evaluator *eval; /* runs the base and the model being built */
    mg_pool *pool;
    uint64_t seed;             /* of random gates */
    const char *dir;           /* the directory output of the plan (need not ever be written) */
    uint64_t shard_size;       /* 0 = 5e9 */
    const char *stage_path;    /* where computed routers are kept until the merge is finished; NULL: nowhere */
    const char *trunk_path;    /* the same for matrices of the trunk that are computed; NULL: a temporary file */
    const char *exchange_path; /* the same for exchange maps that are fitted */
    void (*note)(void *ctx, const char *text); /* one line about what is being done; NULL: silent */
    void *note_ctx;
} mg_merge_run_options;

typedef struct mg_merge_run {
    mg_merge *merge;
    mg_plan *plan;
    uint32_t out;           /* the directory output */
    mg_checkpoint *ckpt;    /* the merged model, evaluated on reading */
    mg_model *model;        /* the same, understood */
    mg_fit_report *reports; /* [layers] when routers were fitted in this run, else NULL */
    float *rows;            /* [layers][experts][hidden] */
    mg_gate_mode mode;
    mg_tempdir own; /* of stages whose files have no other place */
} mg_merge_run;

/* spec has been checked (mg_merge_spec_check) and outlives the run. *out is the caller's. */
mg_status mg_merge_run_new(mg_merge_run **out, const mg_merge_spec *spec, const mg_merge_run_options *opt,
                           mg_error *err) MG_MUST_CHECK;
void mg_merge_run_free(mg_merge_run *r);

#endif
