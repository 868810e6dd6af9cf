/* exec_copies.c - proof that copied tensors are copies: what was written is read back and compared with its source byte
 * by byte, while the source still has its name. */
#include "convert/exec.h"
#include "formats/base/pool.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 20 };

typedef struct copies {
    mg_exec *x;
    mg_xxh128_state *before, *after;
    uint8_t *source, *written; /* [CHUNK] */
} copies;

static mg_status compare(copies *c, uint32_t out, const mg_plan_tensor *t, mg_error *err) {
    const mg_expr *e = t->e;
    mg_exec_out *o = &c->x->outs[out];
    for (uint64_t at = 0; at < e->t.n_bytes; at += CHUNK) {
        const uint64_t n = e->t.n_bytes - at < CHUNK ? e->t.n_bytes - at : CHUNK;
        if (mg_interrupted()) return mg_fail(err, (mg_status)mg_interrupted(), "interrupted");
        MG_TRY(mg_checkpoint_read(e->ckpt, e->tensor, at, c->source, n, err));
        MG_TRY(mg_outset_read(c->x->sets[o->set].set, o->index[t->file], t->offset + at, c->written, n, err));
        if (memcmp(c->source, c->written, (size_t)n) != 0)
            return mg_fail(err, MG_ERR_INTEGRITY, "what was written is not what the source holds");
        mg_xxh128_update(c->before, c->source, (size_t)n);
        mg_xxh128_update(c->after, c->written, (size_t)n);
    }
    c->x->copies.tensors++;
    c->x->copies.bytes += e->t.n_bytes;
    return MG_OK;
}

static mg_status compare_all(copies *c, mg_error *err) {
    const mg_plan *p = c->x->p;
    for (uint32_t i = 0; i < p->n_outputs; i++)
        for (uint32_t t = 0; t < p->outputs[i]->n_tensors; t++) {
            const mg_plan_tensor *x = &p->outputs[i]->tensors[t];
            if (x->e->op != MG_EX_SOURCE) continue;
            mg_status st = compare(c, i, x, err);
            if (st != MG_OK) {
                mg_error_at(err, p->outputs[i]->path, x->name);
                return st;
            }
        }
    return MG_OK;
}

static void finish(mg_xxh128_state *s, char hex[33]) {
    const mg_xxh128 h = mg_xxh128_final(s);
    mg_hex(h.bytes, sizeof h.bytes, hex);
}

mg_status mg_exec_verify_copies(mg_exec *x, mg_error *err) {
    copies c = {.x = x, .source = malloc(2 * CHUNK)};
    if (!c.source) return mg_fail_nomem(err, 2 * CHUNK);
    c.written = c.source + CHUNK;
    mg_status st = mg_xxh128_new(&c.before, err);
    if (st == MG_OK) st = mg_xxh128_new(&c.after, err);
    if (st == MG_OK) st = compare_all(&c, err);
    if (st == MG_OK) {
        finish(c.before, x->copies.before);
        finish(c.after, x->copies.after);
    }
    mg_xxh128_free(c.before);
    mg_xxh128_free(c.after);
    free(c.source);
    return st;
}
