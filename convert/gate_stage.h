/* gate_stage.h - the stage of a merge that must read data before the plan exists: router rows, kept beside the output
 * while the merge is unfinished, so that an interrupted merge resumes without computing them again. */
#ifndef MG_CONVERT_GATE_STAGE_H
#define MG_CONVERT_GATE_STAGE_H

#include "formats/base/hash.h"

/* Rows of one finished stage: [layers][experts][hidden] float, stored as a safetensors file with tensors router.<layer>
 * and its id in the metadata. id: hash of everything that determines the rows. */
typedef struct mg_gate_shape {
    uint32_t layers, experts;
    uint64_t hidden;
} mg_gate_shape;

/* true and rows filled when path holds a stage of this id and shape; anything else there is ignored (and later
 * replaced). */
bool mg_gate_stage_load(const char *path, mg_xxh128 id, mg_gate_shape shape, float *rows);
mg_status mg_gate_stage_save(const char *path, mg_xxh128 id, mg_gate_shape shape, const float *rows,
                             mg_error *err) MG_MUST_CHECK;

#endif
