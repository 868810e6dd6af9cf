/* sample.h - the next token from a row of logits: the most likely one, or drawn with temperature, top-k and top-p.
 *
 * Draws come from a counter-based generator of our own and from double arithmetic of ours, so a seed gives the same
 * text on every machine. */
#ifndef MG_VERIFY_SAMPLE_H
#define MG_VERIFY_SAMPLE_H

#include "formats/base/status.h"

typedef struct mg_sampler {
    double temp;    /* 0: always the most likely token (ties to the lower id) */
    uint64_t top_k; /* only the k most likely; 0: all */
    double top_p;   /* only the smallest set with this much probability; 1: all */
    uint64_t state; /* the seed, then moved on by each draw */
    struct mg_candidate *scratch;
    uint64_t cap;
} mg_sampler;

/* MG_ERR_USAGE for a negative temperature or a top_p outside (0, 1]. */
mg_status mg_sampler_init(mg_sampler *s, double temp, uint64_t top_k, double top_p, uint64_t seed,
                          mg_error *err) MG_MUST_CHECK;
void mg_sampler_release(mg_sampler *s);
/* MG_ERR_FAILED when no logit is a number. */
mg_status mg_sampler_next(mg_sampler *s, const float *logits, uint64_t vocab, int32_t *id, mg_error *err) MG_MUST_CHECK;

#endif
