/* walk.h - several models walked over the same windows in step: each step gives every one of them the rows of the same
 * positions of the same window. Logits that are not finite are the caller's to judge. A walker is a model that is run,
 * or what another program recorded of one. */
#ifndef MG_VERIFY_WALK_H
#define MG_VERIFY_WALK_H

#include "verify/recorded.h"
#include "verify/score.h"

/* Either of the two; borrowed. */
typedef struct mg_walk_source {
    mg_model *model;
    mg_recorded *recorded;
    const char *path;       /* for errors */
    mg_precision precision; /* the model is run in */
} mg_walk_source;

/* Logits per position; 0: a recording that does not say. */
uint64_t mg_walk_rows(const mg_walk_source *s);

typedef struct mg_walker {
    mg_walk_source source;
    mg_forward *forward;
    mg_scorer *scorer;
    mg_score_rows rows; /* of the current step */
} mg_walker;

typedef struct mg_walk_options {
    mg_pool *pool;
    const mg_windows *windows;
    uint32_t experts_per_token; /* 0 = the models' own; MG_EXPERTS_ALL */
    uint64_t memory;            /* bytes for activations and logits of all models together; 0 = 1 GiB */
} mg_walk_options;

typedef struct mg_walk {
    mg_walk_options opt;
    mg_walker *walkers;
    uint32_t n;
    uint32_t leader;       /* whose cuts all follow: the first model that is run; n: all are recorded */
    mg_score_options cuts; /* of the leader */
    uint64_t window;       /* of the next rows when nothing leads */
    uint32_t pos;
} mg_walk;

/* Check and begin n sources. A recording of other tokens is MG_ERR_CONFLICT naming window and position. Whether their
 * vocabularies go together is not asked (common_vocab.h). taps: what sees the layers of each model, [n] or NULL.
 * Released in every case by mg_walk_release. */
mg_status mg_walk_new(mg_walk *w, const mg_walk_source *sources, uint32_t n, const mg_walk_options *opt,
                      const mg_tap_fn *taps, void *const *tap_ctx, mg_error *err) MG_MUST_CHECK;
void mg_walk_release(mg_walk *w);
/* A step: first the leader's rows (*cut, n = 0: the end), then those of every other walker that still takes part,
 * once. One that is not the leader may be left out from some step on. */
mg_status mg_walk_lead(mg_walk *w, mg_score_rows *cut, mg_error *err) MG_MUST_CHECK;
mg_status mg_walk_follow(mg_walk *w, uint32_t i, const mg_score_rows *cut, mg_error *err) MG_MUST_CHECK;
/* MG_ERR_FORMAT when the rows of walker i are not all finite (score.h). */
mg_status mg_walk_check(const mg_walk *w, uint32_t i, mg_error *err) MG_MUST_CHECK;

#endif
