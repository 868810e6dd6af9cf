/* stage_id.h - what the files of all stages have in common: one safetensors file, written whole, whose metadata carry
 * the id of everything its content depends on, so that a later run knows whether it may use it. */
#ifndef MG_CONVERT_STAGE_ID_H
#define MG_CONVERT_STAGE_ID_H

#include "formats/base/hash.h"
#include "formats/base/outfile.h"
#include "formats/checkpoint.h"

/* Does this file carry this id? */
bool mg_stage_id_is(const mg_checkpoint *c, mg_xxh128 id);
/* Is there such a file at path? One that cannot be read is none. */
bool mg_stage_id_at(const char *path, mg_xxh128 id);
/* Is c the file of some stage, a work file that is deleted when the job is done? */
bool mg_stage_is(const mg_checkpoint *c);
/* The identity of a checkpoint that a plan reads. A stage's file is known by its size and both its ends, the id among
 * them, and not by its time: it may have been made again. */
mg_status mg_stage_identity(mg_checkpoint *c, uint8_t id[16], mg_error *err) MG_MUST_CHECK;

/* What a file will be: zeroed, begun, each of its tensors described, ended; released in every case. */
typedef struct mg_stage_layout {
    mg_arena arena;
    mg_tensor *tensors; /* [n] */
    uint64_t *offsets;  /* [n] in the file */
    uint32_t n;
    uint8_t *header;
    uint64_t header_size, total;
} mg_stage_layout;
mg_status mg_stage_layout_begin(mg_stage_layout *l, uint32_t n, mg_error *err) MG_MUST_CHECK;
/* Tensor i; the name is copied. */
mg_status mg_stage_layout_tensor(mg_stage_layout *l, uint32_t i, const char *name, mg_dtype dtype, uint32_t rank,
                                 const uint64_t *shape, mg_error *err) MG_MUST_CHECK;
/* Offsets, and the header, with the id and a note (NULL: none) in its metadata. */
mg_status mg_stage_layout_end(mg_stage_layout *l, mg_xxh128 id, const char *note, mg_error *err) MG_MUST_CHECK;
void mg_stage_layout_release(mg_stage_layout *l);

/* Begin the file at path: a set of this one file (index 0) of l's size and one unit, started anew whatever is there:
 * what is behind half of one had to be computed again anyway. */
mg_status mg_stage_set_begin(mg_outset **out, const char *path, mg_xxh128 id, const mg_stage_layout *l,
                             mg_error *err) MG_MUST_CHECK;
/* All content is written: the header, and the file gets its name. */
mg_status mg_stage_set_end(mg_outset *set, const mg_stage_layout *l, mg_error *err) MG_MUST_CHECK;

#endif
