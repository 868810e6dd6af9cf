/* exec_hash.c - hashes of what a plan writes: sha256 of every weight file, XXH3-128 of every tensor for the manifest.
 *
 * A file's sha256 cannot be shared between threads, and at the end it would keep one busy and the others waiting. So
 * whoever finishes a unit hashes what has become contiguous since, while the others go on encoding. Files are read
 * back: what is hashed is what is there. */
#include "convert/exec.h"

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

static int by_place(const void *a, const void *b, void *tensors) {
    const mg_plan_tensor *t = tensors, *p = &t[*(const uint32_t *)a], *q = &t[*(const uint32_t *)b];
    if (p->file != q->file) return p->file < q->file ? -1 : 1;
    if (p->offset != q->offset) return p->offset < q->offset ? -1 : 1;
    return p->e->t.n_bytes < q->e->t.n_bytes ? -1 : p->e->t.n_bytes > q->e->t.n_bytes; /* empty ones come first */
}

static mg_status sort_tensors(const mg_plan_output *o, mg_exec_hasher *h, mg_error *err) {
    h->order = calloc((size_t)o->n_tensors + 1, sizeof *h->order);
    if (!h->order) return mg_fail_nomem(err, o->n_tensors * sizeof *h->order);
    for (uint32_t i = 0; i < o->n_tensors; i++) h->order[i] = i;
    qsort_r(h->order, o->n_tensors, sizeof *h->order, by_place, o->tensors);
    return MG_OK;
}

mg_status mg_exec_hash_begin(mg_exec *x, mg_error *err) {
    pthread_mutex_init(&x->hash_lock, NULL);
    x->unit_done = calloc((size_t)x->units.n_units + 1, sizeof *x->unit_done);
    x->hashers = calloc((size_t)x->p->n_outputs + 1, sizeof *x->hashers);
    if (!x->unit_done || !x->hashers) return mg_fail_nomem(err, x->units.n_units);
    for (uint32_t i = 0; i < x->p->n_outputs; i++) {
        const mg_plan_output *o = x->p->outputs[i];
        x->outs[i].file_sha256 = calloc(o->n_files + 1, sizeof *x->outs[i].file_sha256);
        x->outs[i].tensor_hash = calloc(o->n_tensors + 1, sizeof *x->outs[i].tensor_hash);
        if (!x->outs[i].file_sha256 || !x->outs[i].tensor_hash)
            return mg_fail_nomem(err, o->n_tensors * sizeof(mg_tensor_hash));
        mg_sha256_init(&x->hashers[i].sha);
        MG_TRY(find_begins(x, i, &x->hashers[i], err));
        MG_TRY(sort_tensors(o, &x->hashers[i], err));
        MG_TRY(mg_xxh128_new(&x->hashers[i].xxh, err));
    }
    return MG_OK;
}

void mg_exec_hash_release(mg_exec *x) {
    for (uint32_t i = 0; x->hashers && i < x->p->n_outputs; i++) {
        free(x->hashers[i].begins);
        free(x->hashers[i].order);
        mg_xxh128_free(x->hashers[i].xxh);
    }
    if (x->unit_done) pthread_mutex_destroy(&x->hash_lock);
    free(x->hashers);
    free(x->unit_done);
}

/* The next bytes of the file that the hasher is in; they belong to one tensor, or to none. */
static mg_status hash_bytes(mg_exec *x, uint32_t out, uint64_t n, bool tensor, mg_exec_worker *w, mg_error *err) {
    mg_exec_hasher *h = &x->hashers[out];
    void *buf;
    w->ev.depth = 0;
    MG_TRY(mg_eval_push(&w->ev, CHUNK, &buf, err));
    while (n) {
        uint64_t k = n < CHUNK ? n : CHUNK;
        MG_TRY(
            mg_outset_read(x->sets[x->outs[out].set].set, x->outs[out].index[h->next.file], h->next.at, buf, k, err));
        mg_sha256_update(&h->sha, buf, (size_t)k);
        if (tensor && x->opt->manifest) mg_xxh128_update(h->xxh, buf, (size_t)k);
        h->next.at += k;
        n -= k;
        if (!x->opt->verify_copies) /* which reads everything once more */
            MG_TRY(mg_outset_settle(x->sets[x->outs[out].set].set, x->outs[out].index[h->next.file], h->next.at, err));
        if (mg_interrupted()) return mg_fail(err, (mg_status)mg_interrupted(), "interrupted");
    }
    return MG_OK;
}

static mg_status finish_tensor(mg_exec *x, uint32_t out, mg_error *err) {
    mg_exec_hasher *h = &x->hashers[out];
    mg_xxh128 sum = mg_xxh128_final(h->xxh);
    mg_hex(sum.bytes, sizeof sum.bytes, x->outs[out].tensor_hash[h->order[h->n_hashed++]].xxh3);
    mg_xxh128_free(h->xxh);
    h->xxh = NULL;
    return mg_xxh128_new(&h->xxh, err);
}

/* Hash the current file of an output up to `to`, tensor by tensor and what is between them. */
static mg_status hash_in_file(mg_exec *x, uint32_t out, uint64_t to, mg_exec_worker *w, mg_error *err) {
    const mg_plan_output *o = x->p->outputs[out];
    mg_exec_hasher *h = &x->hashers[out];
    for (;;) {
        const mg_plan_tensor *t = h->n_hashed < o->n_tensors ? &o->tensors[h->order[h->n_hashed]] : NULL;
        bool here = t && t->file == h->next.file, inside = here && t->offset <= h->next.at;
        uint64_t stop = inside ? t->offset + t->e->t.n_bytes : here ? t->offset : to;
        if (stop > to) stop = to;
        if (stop > h->next.at) MG_TRY(hash_bytes(x, out, stop - h->next.at, inside, w, err));
        if (inside && h->next.at == t->offset + t->e->t.n_bytes)
            MG_TRY(finish_tensor(x, out, err));
        else if (h->next.at >= to)
            return MG_OK;
    }
}

/* Hash the weight files of an output up to `end`. */
static mg_status hash_up_to(mg_exec *x, uint32_t out, mg_exec_mark end, mg_exec_worker *w, mg_error *err) {
    const mg_plan_output *o = x->p->outputs[out];
    mg_exec_hasher *h = &x->hashers[out];
    while (h->next.file < o->n_files && o->files[h->next.file].weights) {
        if (h->next.file >= end.file) return h->next.file > end.file ? MG_OK : hash_in_file(x, out, end.at, w, err);
        MG_TRY(hash_in_file(x, out, o->files[h->next.file].size, w, err));
        uint8_t digest[32];
        mg_sha256_final(&h->sha, digest);
        mg_hex(digest, sizeof digest, x->outs[out].file_sha256[h->next.file]);
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

/* What nobody came to of an output. */
static mg_status run_hash(void *ctx, uint64_t out, unsigned worker, mg_error *err) {
    mg_exec *x = ctx;
    const mg_exec_mark end = {.file = x->p->outputs[out]->n_files};
    return hash_up_to(x, (uint32_t)out, end, &x->workers[worker], err);
}

mg_status mg_exec_hash_rest(mg_exec *x, mg_pool *pool, mg_error *err) {
    mg_exec_sources_put(x);
    return mg_pool_run(pool, x->p->n_outputs, run_hash, x, err);
}
