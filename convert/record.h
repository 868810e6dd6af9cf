/* record.h - what a tool was asked for, as the manifest keeps it ("made") so that the work can be done again: every
 * option that can change a byte, and the files they name by size and sha256. No paths: files and outputs are kept by
 * name, models by their number among the manifest's inputs. Keys: docs/plan.md.
 *
 * Nothing is read before mg_plan_set_record: options are noted while they are parsed, files are hashed when the plan is
 * complete and whatever is wrong with them has been said by whoever read them. */
#ifndef MG_CONVERT_RECORD_H
#define MG_CONVERT_RECORD_H

#include "convert/plan.h"
#include "formats/base/options.h"

/* Version of "made": raise when the same words come to mean something else. */
#define MG_RECORD_VERSION 1

typedef struct mg_record mg_record;

/* tool: its name, "quantize". Texts handed in below are borrowed and outlive the record. */
mg_status mg_record_new(mg_record **out, const char *tool, mg_error *err) MG_MUST_CHECK;
void mg_record_free(mg_record *r);

/* How a word of the command line is kept. */
typedef enum mg_record_kind {
    MG_RECORD_TEXT,  /* as it is */
    MG_RECORD_FILE,  /* by name, size and sha256 */
    MG_RECORD_MODEL, /* by its number among the inputs of the plan */
    MG_RECORD_OUTPUT /* by its name: it is written elsewhere when the work is done again */
} mg_record_kind;
/* The next positional word. */
mg_status mg_record_word(mg_record *r, mg_record_kind kind, const char *text, mg_error *err) MG_MUST_CHECK;
/* "--output PATH=TYPE". */
mg_status mg_record_output(mg_record *r, const char *path, const char *type, mg_error *err) MG_MUST_CHECK;
/* Every option of a parsed table that was given and can change what is written, in the order of the table. What a value
 * names follows from its placeholder: FILE and CONFIG a file, NAME=FILE, DONOR[:PROMPTS], MODE a file when it ends in
 * .safetensors. */
mg_status mg_record_options(mg_record *r, const mg_opt *opts, mg_error *err) MG_MUST_CHECK;
/* A file that a recorded one names; it is looked for beside that one. */
mg_status mg_record_named(mg_record *r, const char *path, mg_error *err) MG_MUST_CHECK;
/* A stage took part, called so: tensors cannot be derived by their recipes alone. always: not only those whose recipe
 * names what the stage made, because it chose types or experts. */
mg_status mg_record_stage(mg_record *r, const char *name, bool always, mg_error *err) MG_MUST_CHECK;

/* Into the manifests of all outputs of p, whose inputs are complete. Read here: the files. MG_ERR_IO names one. */
mg_status mg_plan_set_record(mg_plan *p, const mg_record *r, mg_error *err) MG_MUST_CHECK;

/* Where PATH of "PATH:PROMPTS" ends: the prompts, a file that exists, or NULL when the whole is a path. */
const char *mg_record_prompts_of(const char *word);

#endif
