/* quantize_args.h - what the words on quantize's command line mean: types, outputs, thread count, pruned blocks.
 * Separate from the tool so that tests can ask without running it. */
#ifndef MG_CONVERT_QUANTIZE_ARGS_H
#define MG_CONVERT_QUANTIZE_ARGS_H

#include "formats/base/arena.h"
#include "formats/base/options.h"
#include "quant/preset.h"

typedef struct mg_quantize_target {
    const char *path;
    const mg_preset *preset;
} mg_quantize_target;

typedef struct mg_quantize_targets {
    mg_arena arena;
    const char *in;
    mg_quantize_target *items;
    size_t n;
    uint64_t threads; /* NTHREADS, 0 when not given (or given as 0: all cores) */
    bool threads_given;
} mg_quantize_targets;

/* Read the positional arguments and the -o FILE=TYPE list:
 *   IN TYPE [NTHREADS]            into ggml-model-TYPE.gguf beside IN
 *   IN OUT TYPE [NTHREADS]
 *   IN DIR TYPE TYPE... [NTHREADS]  DIR ends in '/' or exists: DIR/STEM-TYPE.gguf each; a number after a TYPE at the
 * end is the thread count IN with -o FILE=TYPE... The first word after IN that is a TYPE (name or file-type number)
 * decides which form it is, as in llama-quantize. MG_ERR_USAGE otherwise; MG_ERR_UNSUPPORTED for the group formats AWQ,
 * GPTQ and RTN. Release in every case. */
mg_status mg_quantize_targets_parse(mg_quantize_targets *t, const mg_opt_list *words, const mg_opt_list *outputs,
                                    mg_error *err) MG_MUST_CHECK;
void mg_quantize_targets_release(mg_quantize_targets *t);

/* "0,3,7" (and several of these) to ascending numbers without duplicates, in a. */
mg_status mg_quantize_parse_prune(mg_arena *a, const mg_opt_list *lists, uint32_t **out, size_t *n,
                                  mg_error *err) MG_MUST_CHECK;

#endif
