/* calibrate.h - sums of squares of every weight's inputs over a text, by our own forward pass.
 *
 * One accumulator per point of a layer where activations can be seen (quant/eval.h); weights that share an input share
 * it. Every square is exact in f64 and is added in f64 in token order, each channel by one worker, so threads,
 * instruction sets and batches cannot change a bit (llama-imatrix adds in f32). Experts count the tokens routed to
 * them. A value that is not finite stops the run. Memory: 8 bytes per input channel and expert, plus a batch. */
#ifndef MG_VERIFY_CALIBRATE_H
#define MG_VERIFY_CALIBRATE_H

#include "formats/base/progress.h"
#include "quant/imatrix_set.h"
#include "verify/forward.h"
#include "verify/windows.h"

typedef struct mg_calibration mg_calibration;

/* f and m are borrowed. output: also the input of the output head. */
mg_status mg_calibration_new(mg_calibration **out, mg_forward *f, mg_model *m, bool output,
                             mg_error *err) MG_MUST_CHECK;
void mg_calibration_free(mg_calibration *c);

/* Run the first n windows (more than there are: all), every token of them. memory: bytes for activations, 0 = 1 GiB;
 * at least one window is run at a time. progress, which may be NULL, counts tokens. */
mg_status mg_calibration_run(mg_calibration *c, const mg_windows *w, uint64_t n, uint64_t memory, mg_progress *progress,
                             mg_error *err) MG_MUST_CHECK;

/* Entries under the names the weights have in a GGUF of this model, into s, whose arrays c keeps. */
mg_status mg_calibration_entries(const mg_calibration *c, mg_imatrix_set *s, mg_error *err) MG_MUST_CHECK;

/* Tokens routed to each expert of a layer so far, *n of them; NULL for a dense layer. */
const int64_t *mg_calibration_load(const mg_calibration *c, uint32_t layer, uint32_t *n);

#endif
