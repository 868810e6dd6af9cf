/* probe.h - how far a model's predictions move when a few of its weights are replaced: the divergence of variants that
 * equal the reference up to some layer.
 *
 * The residual stream of the reference is carried from layer to layer, and a variant is run from the first layer it
 * changes, so that probing every tensor costs half of what whole passes would. Divergence is that of drift.h: sum p
 * (log p - log q) in nats over the scored positions of the windows. */
#ifndef MG_VERIFY_PROBE_H
#define MG_VERIFY_PROBE_H

#include "formats/base/progress.h"
#include "verify/forward.h"
#include "verify/windows.h"

typedef struct mg_probe {
    int64_t from; /* first layer that differs; -1: the embedding does; the number of layers: only what follows them */
    double kl;    /* result: mean over all scored positions */
} mg_probe;

typedef struct mg_probe_options {
    uint64_t memory; /* bytes of activations and logits; 0 = 1 GiB. At least one window is run whatever it says */
    /* Variant i, and its end. Called once per batch of windows and probe; one variant is open at a time. */
    mg_status (*open)(void *ctx, uint32_t i, mg_model **m, mg_error *err);
    void (*close)(void *ctx, uint32_t i, mg_model *m);
    void *ctx;
    mg_progress *progress; /* counts probes times windows; may be NULL */
} mg_probe_options;

/* Fill kl of every probe. probes[n] come with `from` ascending (MG_ERR_INTERNAL otherwise). The result does not depend
 * on threads or memory. MG_ERR_FORMAT when logits are not finite, MG_ERR_USAGE when no position is scored. */
mg_status mg_probe_run(mg_forward *f, mg_model *reference, const mg_windows *w, mg_probe *probes, uint32_t n,
                       const mg_probe_options *opt, mg_error *err) MG_MUST_CHECK;

#endif
