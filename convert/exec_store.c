/* exec_store.c - what the ranks of a plan agree on, as bytes beside their output: everything but the inputs and the
 * work on them. exec_stored.c reads them.
 *
 * All numbers are u64, little-endian; text and bytes are a length and as many bytes.
 *   label | manifest, hash_sources | world, bounds [world + 1]
 *   outputs: kind, name; files {name, size, weights, head}; tensors {name, file, offset, bytes}; manifest {name, text
 *            with zeros for hashes, holes {where, kind, number}}
 *   groups:  first unit, units, rows of a unit, rows; members {output, tensor, row bytes, encoded} */
#include "convert/exec.h"

#include <stdlib.h>
#include <string.h>

typedef struct buf {
    uint8_t *p;
    uint64_t n, cap;
    bool failed;
} buf;

static void put(buf *b, const void *data, uint64_t n) {
    if (b->failed) return;
    if (n > b->cap - b->n) {
        const uint64_t cap = 2 * (b->n + n) + 4096;
        uint8_t *more = realloc(b->p, (size_t)cap);
        if (!more) {
            b->failed = true;
            return;
        }
        b->p = more;
        b->cap = cap;
    }
    if (n) memcpy(b->p + b->n, data, (size_t)n);
    b->n += n;
}

static void put_u64(buf *b, uint64_t v) {
    put(b, &v, sizeof v);
}

static void put_text(buf *b, const char *s) {
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}

/* Where two manifests that differ in nothing but hashes differ, hashes go. */
static mg_status put_holes(buf *b, const mg_plan *p, const mg_plan_output *o, const char *zeros, const char *other,
                           mg_error *err) {
    const size_t n = strlen(zeros);
    size_t at = 0;
    uint64_t found = 0;
    const uint64_t count_at = b->n;
    put_u64(b, 0);
    mg_stored_hole next[2];
    uint32_t f = 0, t = 0;
    bool good = strlen(other) == n;
    while (good && (f < o->n_files || t < o->n_tensors)) {
        int k = 0;
        if (f < o->n_files) {
            if (o->files[f].weights) next[k++] = (mg_stored_hole){.kind = MG_HOLE_FILE, .number = f};
            f++;
        } else {
            if (p->hash_sources && o->tensors[t].e->op == MG_EX_CAST)
                next[k++] = (mg_stored_hole){.kind = MG_HOLE_SOURCE, .number = t};
            next[k++] = (mg_stored_hole){.kind = MG_HOLE_TENSOR, .number = t++};
        }
        for (int i = 0; i < k && good; i++) {
            const size_t digits = mg_stored_digits(next[i].kind);
            while (at < n && zeros[at] == other[at]) at++;
            good = n - at >= digits;
            for (size_t d = 0; good && d < digits; d++) good = zeros[at + d] == '0' && other[at + d] == 'f';
            next[i].at = at;
            put(b, &next[i], sizeof next[i]);
            at += digits;
            found++;
        }
    }
    while (good && at < n && zeros[at] == other[at]) at++;
    if (!good || at != n) return mg_fail(err, MG_ERR_INTERNAL, "the hashes of a manifest are not where they should be");
    if (!b->failed) memcpy(b->p + count_at, &found, sizeof found);
    return MG_OK;
}

static mg_status put_manifest(buf *b, mg_plan *p, uint32_t out, mg_error *err) {
    const mg_plan_output *o = p->outputs[out];
    const char *name = mg_manifest_name(p, out);
    char *zeros = NULL, *other = NULL;
    mg_tensor_hash *hashes = calloc((size_t)o->n_tensors + 1, sizeof *hashes);
    char(*sha256)[65] = calloc((size_t)o->n_files + 1, sizeof *sha256);
    mg_status st = name && hashes && sha256 ? MG_OK : mg_fail_nomem(err, o->n_tensors * sizeof *hashes);
    for (uint32_t i = 0; st == MG_OK && i < o->n_tensors; i++) {
        memset(hashes[i].xxh3, 'f', 32);
        memset(hashes[i].source, 'f', 32);
    }
    for (uint32_t i = 0; st == MG_OK && i < o->n_files; i++) memset(sha256[i], 'f', 64);
    if (st == MG_OK) st = mg_manifest_text(p, out, NULL, NULL, &zeros, err);
    if (st == MG_OK) st = mg_manifest_text(p, out, hashes, (const char(*)[65])sha256, &other, err);
    if (st == MG_OK) {
        put_text(b, name);
        put_text(b, zeros);
        st = put_holes(b, p, o, zeros, other, err);
    }
    free(zeros);
    free(other);
    free(hashes);
    free(sha256);
    return st;
}

static void put_output(buf *b, const mg_plan_output *o) {
    put_u64(b, (uint64_t)o->kind);
    put_text(b, o->base);
    put_u64(b, o->n_files);
    for (uint32_t f = 0; f < o->n_files; f++) {
        const mg_plan_file *x = &o->files[f];
        put_text(b, x->name);
        put_u64(b, x->size);
        put_u64(b, x->weights);
        put_u64(b, x->head_size);
        put(b, x->head, x->head_size);
    }
    put_u64(b, o->n_tensors);
    for (uint32_t t = 0; t < o->n_tensors; t++) {
        const mg_plan_tensor *x = &o->tensors[t];
        put_text(b, x->name);
        put_u64(b, x->file);
        put_u64(b, x->offset);
        put_u64(b, x->e->t.n_bytes);
    }
}

static void put_groups(buf *b, const mg_plan_units *u) {
    put_u64(b, u->n_units);
    put_u64(b, u->n_groups);
    for (uint32_t i = 0; i < u->n_groups; i++) {
        const mg_plan_group *g = &u->groups[i];
        put_u64(b, g->first_unit);
        put_u64(b, g->n_units);
        put_u64(b, g->unit_rows);
        put_u64(b, g->core->rows);
        put_u64(b, g->n_members);
        for (uint32_t k = 0; k < g->n_members; k++) {
            const mg_plan_member *m = &u->members[g->first_member + k];
            put_u64(b, m->output);
            put_u64(b, m->tensor);
            put_u64(b, m->e->row_bytes);
            put_u64(b, m->e->op == MG_EX_CAST);
        }
    }
}

mg_status mg_stored_write(mg_exec *x, mg_error *err) {
    buf b = {0};
    mg_status st = MG_OK;
    put_text(&b, x->opt->label ? x->opt->label : "write");
    put_u64(&b, x->opt->manifest);
    put_u64(&b, x->opt->hash_sources);
    put_u64(&b, x->opt->world);
    put(&b, x->bounds, ((uint64_t)x->opt->world + 1) * sizeof *x->bounds);
    put_u64(&b, x->p->n_outputs);
    for (uint32_t i = 0; st == MG_OK && i < x->p->n_outputs; i++) {
        put_output(&b, x->p->outputs[i]);
        if (x->opt->manifest) st = put_manifest(&b, x->p, i, err);
    }
    put_groups(&b, &x->units);
    if (st == MG_OK && b.failed) st = mg_fail_nomem(err, b.cap);
    x->shared = b.p; /* freed with x */
    x->shared_size = b.n;
    return st;
}
