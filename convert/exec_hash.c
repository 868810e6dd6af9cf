/* exec_hash.c - hashes of what a plan writes: sha256 of every weight file, and of every tensor for the manifest.
 *
 * A file's sha256 cannot be shared between threads, and at the end it would keep one busy and the others waiting. So
 * whoever finishes a unit hashes what has become contiguous since, while the others go on encoding. Files are read
 * back: what is hashed is what is there. */
#include "convert/exec.h"

#include "convert/reuse.h"

#include "formats/base/pool.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 20 };

/* Where the bytes of a unit begin in an output; the larger of two is later in the file, or in a later file. */
static mg_exec_mark start_of(const mg_exec *x, const mg_plan_member *m, uint64_t row) {
    const mg_plan_tensor *t = &x->p->outputs[m->output]->tensors[m->tensor];
    return (mg_exec_mark){.file = t->file, .at = t->offset + row * m->e->row_bytes};
}

static mg_exec_mark earlier(mg_exec_mark a, mg_exec_mark b) {
    return a.file != b.file ? (a.file < b.file ? a : b) : (a.at < b.at ? a : b);
}

/* begins[g]: where the first byte of groups g and later lies. */
static mg_status find_begins(const mg_exec *x, uint32_t out, mg_exec_hasher *h, mg_error *err) {
    const mg_plan_output *o = x->p->outputs[out];
    h->begins = calloc((size_t)x->units.n_groups + 1, sizeof *h->begins);
    if (!h->begins) return mg_fail_nomem(err, x->units.n_groups * sizeof *h->begins);
    h->begins[x->units.n_groups] = (mg_exec_mark){.file = o->n_files};
    for (uint32_t g = x->units.n_groups; g-- > 0;) {
        h->begins[g] = h->begins[g + 1];
        const mg_plan_group *group = &x->units.groups[g];
        for (uint32_t i = 0; i < group->n_members; i++) {
            const mg_plan_member *m = &x->units.members[group->first_member + i];
            if (m->output == out) h->begins[g] = earlier(h->begins[g], start_of(x, m, 0));
        }
    }
    return MG_OK;
}

mg_status mg_exec_hash_begin(mg_exec *x, mg_error *err) {
    pthread_mutex_init(&x->hash_lock, NULL);
    x->unit_done = calloc((size_t)x->units.n_units + 1, sizeof *x->unit_done);
    x->hashers = calloc((size_t)x->p->n_outputs + 1, sizeof *x->hashers);
    if (!x->unit_done || !x->hashers) return mg_fail_nomem(err, x->units.n_units);
    for (uint32_t i = 0; i < x->p->n_outputs; i++) {
        const mg_plan_output *o = x->p->outputs[i];
        x->outs[i].file_hash = calloc(o->n_files + 1, sizeof *x->outs[i].file_hash);
        x->outs[i].tensor_hash = calloc(o->n_tensors + 1, sizeof *x->outs[i].tensor_hash);
        if (!x->outs[i].file_hash || !x->outs[i].tensor_hash)
            return mg_fail_nomem(err, o->n_tensors * sizeof(mg_tensor_hash));
        mg_sha256_init(&x->hashers[i].sha);
        MG_TRY(find_begins(x, i, &x->hashers[i], err));
    }
    return MG_OK;
}

void mg_exec_hash_release(mg_exec *x) {
    for (uint32_t i = 0; x->hashers && i < x->p->n_outputs; i++) free(x->hashers[i].begins);
    if (x->unit_done) pthread_mutex_destroy(&x->hash_lock);
    free(x->hashers);
    free(x->unit_done);
    free(x->hash_jobs);
}

/* The next bytes of a file into sha, and into xs where it is not NULL. Uses the evaluator's memory of the worker. */
static mg_status hash_bytes(mg_exec *x, uint32_t out, uint32_t file, uint64_t at, uint64_t n, mg_exec_worker *w,
                            mg_sha256 *sha, mg_xxh128_state *xs, mg_error *err) {
    void *buf;
    w->ev.depth = 0;
    MG_TRY(mg_eval_push(&w->ev, CHUNK, &buf, err));
    while (n) {
        uint64_t k = n < CHUNK ? n : CHUNK;
        MG_TRY(mg_outset_read(x->sets[x->outs[out].set].set, x->outs[out].index[file], at, buf, k, err));
        mg_sha256_update(sha, buf, (size_t)k);
        if (xs) mg_xxh128_update(xs, buf, (size_t)k);
        at += k;
        n -= k;
        if (mg_interrupted()) return mg_fail(err, (mg_status)mg_interrupted(), "interrupted");
    }
    return MG_OK;
}

static void finish_sha(mg_sha256 *sha, char hex[65]) {
    uint8_t digest[32];
    mg_sha256_final(sha, digest);
    mg_hex(digest, sizeof digest, hex);
}

/* Hash the weight files of an output up to `end`. */
static mg_status hash_up_to(mg_exec *x, uint32_t out, mg_exec_mark end, mg_exec_worker *w, mg_error *err) {
    const mg_plan_output *o = x->p->outputs[out];
    mg_exec_hasher *h = &x->hashers[out];
    while (h->next.file < o->n_files && o->files[h->next.file].weights && h->next.file <= end.file) {
        uint64_t to = h->next.file < end.file ? o->files[h->next.file].size : end.at;
        if (to > h->next.at)
            MG_TRY(hash_bytes(x, out, h->next.file, h->next.at, to - h->next.at, w, &h->sha, NULL, err));
        if (to > h->next.at) h->next.at = to;
        if (h->next.file == end.file) break;
        finish_sha(&h->sha, x->outs[out].file_hash[h->next.file].sha256);
        mg_sha256_init(&h->sha);
        h->next = (mg_exec_mark){.file = h->next.file + 1};
    }
    return MG_OK;
}

/* What lies before it in an output is written once every unit before `unit` is. */
static mg_exec_mark written_before(const mg_exec *x, uint32_t out, uint64_t unit) {
    const mg_exec_hasher *h = &x->hashers[out];
    if (unit == x->units.n_units) return h->begins[x->units.n_groups];
    uint64_t row, n;
    const mg_plan_group *g = mg_plan_unit_at(&x->units, unit, &row, &n);
    mg_exec_mark mark = h->begins[g - x->units.groups + 1];
    for (uint32_t i = 0; i < g->n_members; i++) {
        const mg_plan_member *m = &x->units.members[g->first_member + i];
        if (m->output == out) mark = earlier(mark, start_of(x, m, row));
    }
    return mark;
}

mg_status mg_exec_hash_unit_done(mg_exec *x, uint64_t unit, mg_exec_worker *w, mg_error *err) {
    atomic_store(&x->unit_done[unit], true);
    if (pthread_mutex_trylock(&x->hash_lock) != 0) return MG_OK; /* someone is at it and will look again */
    mg_status st = MG_OK;
    while (x->first_undone < x->units.n_units && atomic_load(&x->unit_done[x->first_undone])) x->first_undone++;
    for (uint32_t i = 0; st == MG_OK && i < x->p->n_outputs; i++)
        st = hash_up_to(x, i, written_before(x, i, x->first_undone), w, err);
    pthread_mutex_unlock(&x->hash_lock);
    return st;
}

/* Ticket t of what is left: the files of an output that nobody came to, or both hashes of a tensor. */
static mg_status run_hash(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    mg_exec *x = ctx;
    mg_exec_worker *w = &x->workers[worker];
    const mg_exec_hash *j = &x->hash_jobs[ticket];
    const mg_plan_output *o = x->p->outputs[j->output];
    if (!j->tensor) return hash_up_to(x, j->output, (mg_exec_mark){.file = o->n_files}, w, err);
    const mg_plan_tensor *t = &o->tensors[j->index];
    mg_tensor_hash *hash = &x->outs[j->output].tensor_hash[j->index];
    if (x->opt->hash_sources && t->e->op == MG_EX_CAST)
        MG_TRY(mg_reuse_source_hash(t->e->children[0], &w->ev, hash->source, err));
    mg_sha256 sha;
    mg_xxh128_state *xs;
    mg_sha256_init(&sha);
    MG_TRY(mg_xxh128_new(&xs, err));
    mg_status st = hash_bytes(x, j->output, t->file, t->offset, t->e->t.n_bytes, w, &sha, xs, err);
    mg_xxh128 h = mg_xxh128_final(xs);
    mg_xxh128_free(xs);
    finish_sha(&sha, hash->sha256);
    mg_hex(h.bytes, sizeof h.bytes, hash->xxh3);
    return st;
}

mg_status mg_exec_hash_rest(mg_exec *x, mg_pool *pool, mg_error *err) {
    size_t n = 0;
    for (uint32_t i = 0; i < x->p->n_outputs; i++) n += 1 + (x->opt->manifest ? x->p->outputs[i]->n_tensors : 0);
    x->hash_jobs = calloc(n + 1, sizeof *x->hash_jobs);
    if (!x->hash_jobs) return mg_fail_nomem(err, n * sizeof *x->hash_jobs);
    uint64_t jobs = 0;
    for (uint32_t i = 0; i < x->p->n_outputs; i++) x->hash_jobs[jobs++] = (mg_exec_hash){.output = i};
    for (uint32_t i = 0; x->opt->manifest && i < x->p->n_outputs; i++)
        for (uint32_t t = 0; t < x->p->outputs[i]->n_tensors; t++)
            x->hash_jobs[jobs++] = (mg_exec_hash){.output = i, .index = t, .tensor = true};
    return mg_pool_run(pool, jobs, run_hash, x, err);
}
