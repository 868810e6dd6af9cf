/* stage_id.h - what the files of all stages have in common: one safetensors file, written whole, whose metadata carry
 * the id of everything its content depends on, so that a later run knows whether it may use it. */
#ifndef MG_CONVERT_STAGE_ID_H
#define MG_CONVERT_STAGE_ID_H

#include "formats/base/hash.h"
#include "formats/base/outfile.h"
#include "formats/checkpoint.h"

/* Add the id to the metadata of a file that is being laid out. */
mg_status mg_stage_id_put(mg_kvs *metadata, mg_xxh128 id, mg_error *err) MG_MUST_CHECK;
/* Does this file carry this id? */
bool mg_stage_id_is(const mg_checkpoint *c, mg_xxh128 id);
/* Is there such a file at path? One that cannot be read is none. */
bool mg_stage_id_at(const char *path, mg_xxh128 id);
/* Is c the file of some stage, a work file that is deleted when the job is done? */
bool mg_stage_is(const mg_checkpoint *c);
/* Begin the file at path: a set of this one file (index 0) of `total` bytes and one unit, started anew whatever is
 * there: what is behind half of one had to be computed again anyway. */
mg_status mg_stage_set_begin(mg_outset **out, const char *path, mg_xxh128 id, uint64_t total,
                             mg_error *err) MG_MUST_CHECK;
/* All content is written: the header (its first `size` bytes), and the file gets its name. */
mg_status mg_stage_set_end(mg_outset *set, const void *header, uint64_t size, mg_error *err) MG_MUST_CHECK;

#endif
