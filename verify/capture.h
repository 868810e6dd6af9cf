/* capture.h - activations of sequences of equal length into a safetensors file, streamed by position: logits
 * [batch, n, vocab], hidden.<i> [batch, n, hidden] as transformers numbers them (0 = embedding, the last after the
 * final norm), router.<i> [batch * n, experts] over the layers that have a router. F64 from a pass in double, F32
 * otherwise. */
#ifndef MG_VERIFY_CAPTURE_H
#define MG_VERIFY_CAPTURE_H

#include "formats/base/progress.h"
#include "verify/forward.h"
#include "verify/forward64.h"
#include "verify/windows.h"

enum { MG_CAPTURE_LOGITS = 1, MG_CAPTURE_HIDDEN = 2, MG_CAPTURE_ROUTER = 4, MG_CAPTURE_ALL = 7 };

/* "logits,hidden,router" to bits. MG_ERR_USAGE for another word or none. */
mg_status mg_capture_parse(const char *text, unsigned *what, mg_error *err) MG_MUST_CHECK;

typedef struct mg_capture_options {
    unsigned what;
    mg_precision precision;
    bool force;            /* replace an existing file */
    uint64_t memory;       /* bytes of activations and logits per batch of sequences; 0 = 1 GiB */
    mg_progress *progress; /* counts tokens; may be NULL */
} mg_capture_options;

/* Run m over all windows and write path. MG_ERR_USAGE unless all have the same length. */
mg_status mg_capture_run(mg_forward *f, mg_model *m, const mg_windows *w, const char *path,
                         const mg_capture_options *opt, mg_error *err) MG_MUST_CHECK;

#endif
