/* stage_file.h - what a stage found out about the weights of one layer, as a safetensors file in its work folder, and
 * such a file applied to a variant of the model (quant/variant.h). Tensors are called ROLE.EXPERT.WHAT; the metadata
 * carry the id of everything the result depends on, so a finished layer is known when an interrupted job runs again. */
#ifndef MG_CONVERT_STAGE_FILE_H
#define MG_CONVERT_STAGE_FILE_H

#include "formats/base/hash.h"
#include "quant/variant.h"

typedef enum mg_stage_what {
    MG_STAGE_VALUES, /* F32 [cols] of a vector: in place of it */
    MG_STAGE_COL,    /* F32 [cols]: factors of input channels */
    MG_STAGE_ROW,    /* F32 [rows]: factors of outputs */
    MG_STAGE_LIMITS, /* F32 [rows, groups, 2] */
    MG_STAGE_CODES,  /* U8 [rows, cols] */
    MG_STAGE_SCALES, /* F32 [rows, groups] */
    MG_STAGE_ZEROS,  /* U8 [rows, groups] */
    MG_STAGE_BIASES, /* F32 [rows, groups], instead of zeros */
    MG_STAGE_BLOCKS, /* U8 [rows, row bytes] of a ggml type; stored rows, not logical ones */
    MG_STAGE_WHATS
} mg_stage_what;

typedef struct mg_stage_piece {
    mg_role role;
    uint32_t expert;
    mg_stage_what what;
    uint32_t rank;
    uint64_t shape[3];
    void *data; /* owned */
} mg_stage_piece;

/* The pieces of a layer while it is worked on. */
typedef struct mg_stage_layer {
    uint32_t layer;
    mg_stage_piece *pieces;
    uint32_t n, cap;
} mg_stage_layer;

void mg_stage_layer_release(mg_stage_layer *l);
/* Add a piece; data (malloc'ed) belongs to l from now on, also after a failure. */
mg_status mg_stage_layer_add(mg_stage_layer *l, const mg_stage_piece *p, mg_error *err) MG_MUST_CHECK;
const mg_stage_piece *mg_stage_layer_find(const mg_stage_layer *l, mg_role role, uint32_t expert, mg_stage_what what);
/* note: a line of JSON kept with it. */
mg_status mg_stage_layer_write(const mg_stage_layer *l, const char *path, mg_xxh128 id, const char *note,
                               mg_error *err) MG_MUST_CHECK;

/* All layers of a finished stage, open. */
typedef struct mg_stage_set {
    mg_checkpoint **layers; /* [n] */
    uint32_t n;
    float **vectors; /* what patches borrow */
    uint32_t n_vectors, cap_vectors;
} mg_stage_set;
mg_status mg_stage_set_init(mg_stage_set *s, uint32_t layers, mg_error *err) MG_MUST_CHECK;
void mg_stage_set_release(mg_stage_set *s);
/* Open the file of a layer: *found false when there is none of this id. */
mg_status mg_stage_set_open(mg_stage_set *s, uint32_t layer, const char *path, mg_xxh128 id, bool *found,
                            mg_error *err) MG_MUST_CHECK;
/* The line of JSON kept with an open layer, NULL when there is none. */
const char *mg_stage_set_note(const mg_stage_set *s, uint32_t layer);
/* Number of a tensor of an open layer's file, MG_STRMAP_NONE when it has none. */
uint32_t mg_stage_set_find(const mg_stage_set *s, mg_role role, uint32_t layer, uint32_t expert, mg_stage_what what);
/* Patch v with what an open layer holds. group: columns that share limits or a scale, 0: whole rows; NULL: scales and
 * vectors only. Linear weights that nothing was found for become F32 as they are. */
mg_status mg_stage_set_apply(mg_stage_set *s, uint32_t layer, const uint64_t *group, mg_variant *v,
                             mg_error *err) MG_MUST_CHECK;
/* Replace in v the stored tensors of a layer whose blocks are all there: in l when it is not NULL, else in s. types: of
 * each tensor of the checkpoint. */
mg_status mg_stage_store(const mg_stage_set *s, const mg_stage_layer *l, uint32_t layer, const mg_dtype *types,
                         mg_variant *v, mg_error *err) MG_MUST_CHECK;

#endif
