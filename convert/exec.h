/* exec.h - state of one execution of a plan. Private to exec*.c, with what plan_json.c needs to foretell memory. */
#ifndef MG_CONVERT_EXEC_H
#define MG_CONVERT_EXEC_H

#include "convert/plan_private.h"

#include "formats/base/hash.h"
#include "formats/base/pool.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct mg_stored mg_stored; /* exec_stored.c */

typedef struct mg_exec_worker {
    mg_eval ev;
    mg_extent *extents; /* [members of the largest group] */
    bool *done;         /* [n_sets] */
    uint64_t bytes_written;
} mg_exec_worker;

typedef struct mg_exec_set {
    const char *dir;
    mg_outset *set;
} mg_exec_set;

typedef struct mg_exec_out {
    uint32_t set;
    uint32_t *index;   /* file of the output -> file of the set */
    uint32_t manifest; /* file of the set */
    uint64_t manifest_size;
    char (*file_sha256)[65];     /* [n_files], weights only */
    mg_tensor_hash *tensor_hash; /* [n_tensors] */
} mg_exec_out;

/* A place in the files of an output. */
typedef struct mg_exec_mark {
    uint32_t file;
    uint64_t at;
} mg_exec_mark;

/* Hashes of an output's weight files, one after the other, and of the tensors in them. */
typedef struct mg_exec_hasher {
    mg_sha256 sha;
    mg_xxh128_state *xxh; /* of the tensor that `next` is in */
    uint32_t *order;      /* [n_tensors]: by place in the files */
    uint32_t n_hashed;    /* tensors of `order` */
    mg_exec_mark next;    /* hashed up to here */
    mg_exec_mark *begins; /* [n_groups + 1], exec_hash.c */
} mg_exec_hasher;

typedef struct mg_exec {
    mg_plan *p;
    const mg_exec_options *opt;
    mg_xxh128 id;
    mg_plan_units units;
    mg_exec_set *sets;
    uint32_t n_sets;
    mg_exec_out *outs;
    mg_exec_worker *workers;
    unsigned n_workers;
    mg_exec_hasher *hashers; /* [n_outputs]; these and first_undone belong to the holder of hash_lock */
    pthread_mutex_t hash_lock;
    uint64_t first_undone;
    atomic_bool *unit_done; /* [n_units] */
    mg_progress *progress;
    struct mg_exec_source *sources; /* [units.n_groups] */
    pthread_mutex_t turn_lock;      /* guards whose turn it is in sources */
    pthread_cond_t turn_changed;
    bool turn_stopped;
    uint64_t first_unit, end_unit; /* this process writes these ... */
    uint64_t end_visit;            /* ... and reads on to here for digests; from first_unit on */
    uint64_t *bounds;              /* [world + 1] of ranks: where their shares begin; NULL without */
    mg_stored *stored;             /* instead of a plan: what its ranks agreed on (exec_stored.c); else NULL */
    bool stored_checked;           /* every unit is claimed; the claims may still be wrong */
    uint8_t *shared;               /* of a rank: the same as bytes */
    uint64_t shared_size;
    struct {
        uint64_t tensors, bytes;
        char before[33], after[33];
    } copies;
} mg_exec;

/* Hashes (exec_hash.c): before the units, after each of them, and what is left after the last; heads are written. */
mg_status mg_exec_hash_begin(mg_exec *x, mg_error *err) MG_MUST_CHECK;
mg_status mg_exec_hash_unit_done(mg_exec *x, uint64_t unit, mg_exec_worker *w, mg_error *err) MG_MUST_CHECK;
mg_status mg_exec_hash_rest(mg_exec *x, mg_pool *pool, mg_error *err) MG_MUST_CHECK;
void mg_exec_hash_release(mg_exec *x);

/* mg_exec_options.verify_copies (exec_copies.c). */
mg_status mg_exec_verify_copies(mg_exec *x, mg_error *err) MG_MUST_CHECK;

/* mg_exec_options.hash_sources (exec_sources.c). release: also after a failed init. */
mg_status mg_exec_sources_init(mg_exec *x, mg_error *err) MG_MUST_CHECK;
void mg_exec_sources_release(mg_exec *x);
/* Does a group's core have to be read even where nothing is left to write? */
bool mg_exec_sources_wants(const mg_exec *x, const mg_plan_group *g);
/* The core's rows of a unit; returns after those of the group's earlier units. */
mg_status mg_exec_sources_add(mg_exec *x, const mg_plan_group *g, uint64_t unit, const void *tile, uint64_t bytes,
                              mg_error *err) MG_MUST_CHECK;
/* A unit failed: nobody waits any more. */
void mg_exec_sources_stop(mg_exec *x);
/* Into the hashes of the tensors, after all units. */
void mg_exec_sources_put(mg_exec *x);

bool mg_exec_is_encoded(const mg_exec *x, const mg_plan_group *g);
/* Digests that earlier runs noted in the journals are not taken again. After the sets have started. */
void mg_exec_sources_recall(mg_exec *x);
/* The digests this rank has taken, into the journals. */
mg_status mg_exec_sources_note(mg_exec *x, mg_error *err) MG_MUST_CHECK;
/* Is the digest of a group wanted and not there? */
bool mg_exec_sources_lacks(const mg_exec *x, uint32_t group);

/* What may lie where the plan writes (exec_dirs.c). OUT may exist when it is empty, holds our journal (a resume), or
 * with force. Parts of another run with the same stem would be taken for ours, or ours for theirs. force may replace
 * anything but what is being read. */
mg_status mg_exec_check_dir(const mg_plan_output *o, const char *set_name, bool force, mg_error *err) MG_MUST_CHECK;
mg_status mg_exec_check_parts(const mg_plan_output *o, mg_error *err) MG_MUST_CHECK;
mg_status mg_exec_check_inputs(const mg_plan *p, mg_error *err) MG_MUST_CHECK;

/* Ranks (exec_share.c). bounds [world + 1]: rank r has units bounds[r] .. bounds[r+1] - 1. costs: what comes before
 * each of them, [world + 1] or NULL. */
mg_status mg_plan_shares(const mg_plan *p, const mg_plan_units *u, uint32_t world, uint64_t *bounds, uint64_t *costs,
                         mg_error *err) MG_MUST_CHECK;
/* Output bytes of units [first, end). */
uint64_t mg_plan_units_bytes(const mg_plan_units *u, uint64_t first, uint64_t end);
mg_status mg_exec_share_init(mg_exec *x, mg_error *err) MG_MUST_CHECK;
bool mg_exec_is_ours(const mg_exec *x, uint64_t unit);

/* A place for a hash in a stored manifest: of a weight file (64 digits), of what a tensor was encoded from, of a tensor
 * (32). number: of the file or tensor. As it is stored. */
typedef enum mg_hole_kind { MG_HOLE_FILE, MG_HOLE_SOURCE, MG_HOLE_TENSOR } mg_hole_kind;
typedef struct mg_stored_hole {
    uint64_t at, kind, number;
} mg_stored_hole;

static inline size_t mg_stored_digits(uint64_t kind) {
    return kind == MG_HOLE_FILE ? 64 : 32;
}

/* What ranks agree on, and all that completes their work without a plan (exec_store.c, exec_stored.c): files with their
 * heads, places of tensors, extents of units, manifests with the places where hashes go. */
mg_status mg_stored_write(mg_exec *x, mg_error *err) MG_MUST_CHECK; /* to x->shared, malloc'ed */
/* dir: of the files, replaces that of the ranks. MG_ERR_INTEGRITY when it does not add up. */
mg_status mg_stored_read(mg_stored **out, const char *dir, uint32_t world, mg_xxh128 plan, const uint8_t *data,
                         uint64_t size, mg_error *err) MG_MUST_CHECK;
void mg_stored_free(mg_stored *s);
mg_plan *mg_stored_plan(mg_stored *s);
uint32_t mg_stored_world(const mg_stored *s);
/* What the ranks were told of manifest, hash_sources and label, into opt. */
void mg_stored_options(const mg_stored *s, mg_exec_options *opt);
/* Take the units and shares over into x. */
mg_status mg_stored_apply(mg_stored *s, mg_exec *x, mg_error *err) MG_MUST_CHECK;
/* As mg_manifest_text; *name as mg_manifest_name. */
mg_status mg_stored_manifest(mg_stored *s, uint32_t out, const mg_tensor_hash *hashes, const char (*file_sha256)[65],
                             char **text, const char **name, mg_error *err) MG_MUST_CHECK;
/* Which ranks have units that no journal claims, or digests that are not noted: MG_ERR_INTEGRITY naming them. */
mg_status mg_stored_check(const mg_exec *x, mg_error *err) MG_MUST_CHECK;
/* The whole of an execution; x->p and x->opt are set. */
mg_status mg_exec_run(mg_exec *x, mg_exec_result *res, mg_error *err) MG_MUST_CHECK;

/* Memory of one worker: a unit's tile and the evaluator's own small ones. */
uint64_t mg_plan_worker_bytes(const mg_plan_units *u);
/* Workers that fit the budget (0: no limit), at least one and at most `threads`: this is how the budget is kept. */
unsigned mg_plan_workers(const mg_plan_units *u, uint64_t memory, unsigned threads);

#endif
