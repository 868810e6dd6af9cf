/* plan_ckpt.c - an output of a plan read as a checkpoint: expressions are evaluated on reading, nothing is written.
 *
 * A byte range is answered from the rows that cover it. Evaluation states are kept in a free list, one per thread
 * that reads at the same time, so memory is a few tiles per reader. */
#include "convert/plan_private.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct plan_ckpt {
    mg_checkpoint base; /* first: ops receive it */
    mg_plan *plan;
    uint32_t output;
    pthread_mutex_t lock; /* guards idle */
    struct idle_eval {
        mg_eval ev;
        struct idle_eval *next;
    } * idle;
} plan_ckpt;

static plan_ckpt *plan_of(mg_checkpoint *c) {
    return (plan_ckpt *)(void *)c;
}

static struct idle_eval *borrow(plan_ckpt *pc) {
    pthread_mutex_lock(&pc->lock);
    struct idle_eval *e = pc->idle;
    if (e) pc->idle = e->next;
    pthread_mutex_unlock(&pc->lock);
    return e ? e : calloc(1, sizeof *e);
}

static void give_back(plan_ckpt *pc, struct idle_eval *e) {
    pthread_mutex_lock(&pc->lock);
    e->next = pc->idle;
    pc->idle = e;
    pthread_mutex_unlock(&pc->lock);
}

/* n bytes at `at`: whole rows straight into dst, a cut row through a scratch row. */
static mg_status read_range(const mg_expr *e, mg_eval *ev, uint64_t at, uint8_t *dst, uint64_t n, mg_error *err) {
    while (n) {
        uint64_t row = at / e->row_bytes, skip = at % e->row_bytes, rows = n / e->row_bytes;
        if (skip == 0 && rows) {
            MG_TRY(mg_expr_eval(e, ev, row, rows, dst, err));
            at += rows * e->row_bytes;
            dst += rows * e->row_bytes;
            n -= rows * e->row_bytes;
            continue;
        }
        uint64_t take = e->row_bytes - skip < n ? e->row_bytes - skip : n;
        void *tile;
        MG_TRY(mg_eval_push(ev, e->row_bytes, &tile, err));
        mg_status st = mg_expr_eval(e, ev, row, 1, tile, err);
        if (st == MG_OK) memcpy(dst, (const uint8_t *)tile + skip, (size_t)take);
        mg_eval_pop(ev);
        MG_TRY(st);
        at += take;
        dst += take;
        n -= take;
    }
    return MG_OK;
}

static mg_status ckpt_read(mg_checkpoint *c, uint32_t t, uint64_t byte_offset, void *dst, uint64_t n, mg_error *err) {
    plan_ckpt *pc = plan_of(c);
    const mg_expr *e = pc->plan->outputs[pc->output]->tensors[t].e;
    struct idle_eval *ev = borrow(pc);
    if (!ev) return mg_fail_nomem(err, sizeof *ev);
    ev->ev.depth = 0; /* a failed read may have left tiles pushed */
    mg_status st = read_range(e, &ev->ev, byte_offset, dst, n, err);
    give_back(pc, ev);
    if (st != MG_OK) mg_error_at(err, NULL, c->tensors[t].name);
    return st;
}

static mg_status ckpt_recheck(mg_checkpoint *c, mg_error *err) {
    plan_ckpt *pc = plan_of(c);
    for (uint32_t i = 0; i < pc->plan->n_inputs; i++) MG_TRY(mg_checkpoint_recheck(pc->plan->inputs[i], err));
    return MG_OK;
}

static mg_status ckpt_identity(mg_checkpoint *c, uint8_t id[16], mg_error *err) {
    mg_xxh128 h;
    MG_TRY(mg_plan_id(plan_of(c)->plan, &h, err));
    memcpy(id, h.bytes, 16);
    return MG_OK;
}

static void ckpt_free(mg_checkpoint *c) {
    plan_ckpt *pc = plan_of(c);
    while (pc->idle) {
        struct idle_eval *e = pc->idle;
        pc->idle = e->next;
        mg_eval_release(&e->ev);
        free(e);
    }
    pthread_mutex_destroy(&pc->lock);
    mg_strmap_release(&c->by_name);
    free(c->tensors);
    free(c->files);
    free(pc);
}

static const mg_checkpoint_ops ops = {
    .read = ckpt_read, .recheck = ckpt_recheck, .identity = ckpt_identity, .free = ckpt_free};

const mg_expr *mg_plan_checkpoint_expr(const mg_checkpoint *c, uint32_t t) {
    if (c->ops != &ops) return NULL;
    const plan_ckpt *pc = (const plan_ckpt *)(const void *)c;
    return pc->plan->outputs[pc->output]->tensors[t].e;
}

static mg_status fill(plan_ckpt *pc, const mg_plan_output *o, mg_error *err) {
    mg_checkpoint *c = &pc->base;
    c->tensors = calloc(o->n_tensors + 1, sizeof *c->tensors);
    c->files = calloc(o->n_files + 1, sizeof *c->files);
    if (!c->tensors || !c->files) return mg_fail_nomem(err, o->n_tensors * sizeof *c->tensors);
    for (uint32_t i = 0; i < o->n_files; i++) c->files[i] = o->files[i].name;
    c->n_files = o->n_files;
    for (uint32_t i = 0; i < o->n_tensors; i++) {
        c->tensors[i] = o->tensors[i].e->t;
        c->tensors[i].name = o->tensors[i].name;
        c->tensors[i].file = o->tensors[i].file;
        c->tensors[i].offset = 0;
        MG_TRY(mg_strmap_put(&c->by_name, o->tensors[i].name, strlen(o->tensors[i].name), i, NULL, err));
    }
    c->n_tensors = o->n_tensors;
    return MG_OK;
}

mg_status mg_plan_checkpoint(mg_plan *p, uint32_t out, mg_checkpoint **ckpt, mg_error *err) {
    mg_plan_output *o;
    MG_TRY(mg_plan_output_get(p, out, &o, err));
    MG_TRY(mg_plan_layout(p, err));
    plan_ckpt *pc = calloc(1, sizeof *pc);
    if (!pc) return mg_fail_nomem(err, sizeof *pc);
    pthread_mutex_init(&pc->lock, NULL);
    pc->plan = p;
    pc->output = out;
    pc->base.ops = &ops;
    pc->base.container = MG_CONTAINER_PLAN;
    pc->base.path = o->path;
    mg_strmap_init(&pc->base.by_name);
    mg_status st = fill(pc, o, err);
    if (st != MG_OK) {
        ckpt_free(&pc->base);
        return st;
    }
    pc->base.config = o->config;
    pc->base.kv = o->has_kv ? &o->kv : NULL;
    *ckpt = &pc->base;
    return MG_OK;
}
