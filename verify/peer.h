/* peer.h - siblings compared with each other, none being the reference: every pair both ways, all models walked once.
 */
#ifndef MG_VERIFY_PEER_H
#define MG_VERIFY_PEER_H

#include <stdio.h>

#include "formats/base/json.h"
#include "formats/base/progress.h"
#include "verify/drift.h"
#include "verify/walk.h"

#define MG_PEERS_MAX 16u

typedef struct mg_peer {
    mg_walk_source source;
    uint64_t bytes, n_weights; /* of all tensors; 0 for a recording */
    uint64_t rows;             /* logits per position; 0: a recording that does not say */
    double ppl, ppl_stderr;
    bool pareto; /* no other one is both smaller and has a lower perplexity; never a recording */
} mg_peer;

typedef struct mg_peer_pair {
    uint32_t a, b;   /* indexes of peers, a < b */
    mg_drift ab, ba; /* b judged by a, and a by b */
    mg_drift_summary of_ab, of_ba;
} mg_peer_pair;

typedef struct mg_peers {
    mg_peer peers[MG_PEERS_MAX];
    uint32_t n;
    uint64_t ids;        /* compared of the vocabulary, by all pairs (common_vocab.h); 0: all, and all have as many */
    mg_peer_pair *pairs; /* (0,1), (0,2), .. (1,2), .. */
    uint32_t n_pairs;
} mg_peers;

/* p: n, ids and the first four members of each peer set. Fills the rest; released by the caller in every case. progress
 * (may be NULL) counts scored positions. */
mg_status mg_peers_run(mg_peers *p, const mg_walk_options *opt, mg_progress *progress, mg_error *err) MG_MUST_CHECK;
void mg_peers_release(mg_peers *p);

typedef struct mg_peer_text {
    const char *name, *sha256;
    uint64_t tokens; /* scored positions */
} mg_peer_text;
/* The result as JSON (keys: docs/verify.md), the page, and the table, both made of that JSON. Owned by the caller. */
mg_status mg_peers_json(mg_json **out, const mg_peers *p, const mg_peer_text *text, mg_error *err) MG_MUST_CHECK;
/* Over which ids they were compared where they do not all have as many, between two texts; else nothing. */
void mg_peers_vocabulary_note(FILE *f, const mg_json *json, const char *before, const char *after);
mg_status mg_peers_html(char **out, size_t *size, const mg_json *json, mg_error *err) MG_MUST_CHECK;
mg_status mg_peers_markdown(char **out, size_t *size, const mg_json *json, mg_error *err) MG_MUST_CHECK;

#endif
