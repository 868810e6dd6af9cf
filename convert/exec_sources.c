/* exec_sources.c - mg_exec_options.hash_sources: digests of what encoded tensors are made of, taken from the tiles that
 * the encoders get, so that sources are read once.
 *
 * A digest goes over the rows in order, units are done in any: a unit waits for its turn between reading and encoding.
 * Units are handed out in ascending order and one that was taken runs, so the one waited for is under way; when it
 * fails, mg_exec_sources_stop lets the others go. After a resume, units that are done already are read for this alone.
 */
#include "convert/exec.h"

#include "convert/reuse.h"

#include <stdlib.h>
#include <string.h>

struct mg_exec_source {
    mg_xxh128_state *state; /* between the first unit and the last */
    uint64_t next;          /* the unit whose turn it is */
    mg_xxh128 sum;
    bool wanted, known;
};

bool mg_exec_is_encoded(const mg_exec *x, const mg_plan_group *g) {
    for (uint32_t i = 0; i < g->n_members; i++)
        if (x->units.members[g->first_member + i].e->op == MG_EX_CAST) return true;
    return false;
}

static mg_status begin(struct mg_exec_source *s, const mg_expr *core, mg_error *err) {
    MG_TRY(mg_xxh128_new(&s->state, err));
    mg_reuse_source_begin(s->state, core);
    return MG_OK;
}

static void end(struct mg_exec_source *s) {
    s->sum = mg_xxh128_final(s->state);
    s->known = true;
    mg_xxh128_free(s->state);
    s->state = NULL;
}

mg_status mg_exec_sources_init(mg_exec *x, mg_error *err) {
    pthread_mutex_init(&x->turn_lock, NULL);
    pthread_cond_init(&x->turn_changed, NULL);
    x->sources = calloc((size_t)x->units.n_groups + 1, sizeof *x->sources);
    if (!x->sources) return mg_fail_nomem(err, x->units.n_groups * sizeof *x->sources);
    for (uint32_t i = 0; x->opt->manifest && x->opt->hash_sources && i < x->units.n_groups; i++) {
        const mg_plan_group *g = &x->units.groups[i];
        struct mg_exec_source *s = &x->sources[i];
        s->wanted = mg_exec_is_encoded(x, g) && (!g->n_units || mg_exec_is_ours(x, g->first_unit));
        s->next = g->first_unit;
        if (!s->wanted || g->n_units || x->stored) continue;
        MG_TRY(begin(s, g->core, err));
        end(s);
    }
    return MG_OK;
}

void mg_exec_sources_release(mg_exec *x) {
    if (!x->sources) return;
    for (uint32_t i = 0; i < x->units.n_groups; i++) mg_xxh128_free(x->sources[i].state);
    free(x->sources);
    pthread_cond_destroy(&x->turn_changed);
    pthread_mutex_destroy(&x->turn_lock);
}

static struct mg_exec_source *source_of(const mg_exec *x, const mg_plan_group *g) {
    return &x->sources[g - x->units.groups];
}

bool mg_exec_sources_wants(const mg_exec *x, const mg_plan_group *g) {
    return source_of(x, g)->wanted && !source_of(x, g)->known;
}

mg_status mg_exec_sources_add(mg_exec *x, const mg_plan_group *g, uint64_t unit, const void *tile, uint64_t bytes,
                              mg_error *err) {
    struct mg_exec_source *s = source_of(x, g);
    if (!mg_exec_sources_wants(x, g)) return MG_OK;
    pthread_mutex_lock(&x->turn_lock);
    while (s->next != unit && !x->turn_stopped) pthread_cond_wait(&x->turn_changed, &x->turn_lock);
    const bool mine = s->next == unit;
    pthread_mutex_unlock(&x->turn_lock);
    if (!mine) return mg_fail(err, MG_ERR_INTERNAL, "stopped by the failure of an earlier unit");
    if (unit == g->first_unit) MG_TRY(begin(s, g->core, err));
    mg_xxh128_update(s->state, tile, (size_t)bytes);
    if (unit + 1 == g->first_unit + g->n_units) end(s);
    pthread_mutex_lock(&x->turn_lock);
    s->next++;
    pthread_cond_broadcast(&x->turn_changed);
    pthread_mutex_unlock(&x->turn_lock);
    return MG_OK;
}

void mg_exec_sources_stop(mg_exec *x) {
    pthread_mutex_lock(&x->turn_lock);
    x->turn_stopped = true;
    pthread_cond_broadcast(&x->turn_changed);
    pthread_mutex_unlock(&x->turn_lock);
}

/* All members of a group write to one set when there are ranks. */
static mg_outset *set_of(const mg_exec *x) {
    return x->sets[0].set;
}

void mg_exec_sources_recall(mg_exec *x) {
    for (uint32_t i = 0; x->n_sets == 1 && i < x->units.n_groups; i++) {
        struct mg_exec_source *s = &x->sources[i];
        if (s->wanted && !s->known) s->known = mg_outset_noted(set_of(x), i, &s->sum);
    }
}

mg_status mg_exec_sources_note(mg_exec *x, mg_error *err) {
    for (uint32_t i = 0; i < x->units.n_groups; i++) {
        const struct mg_exec_source *s = &x->sources[i];
        mg_xxh128 before;
        if (s->wanted && s->known && !mg_outset_noted(set_of(x), i, &before))
            MG_TRY(mg_outset_note(set_of(x), i, s->sum, err));
    }
    return MG_OK;
}

bool mg_exec_sources_lacks(const mg_exec *x, uint32_t group) {
    return x->sources[group].wanted && !x->sources[group].known;
}

void mg_exec_sources_put(mg_exec *x) {
    for (uint32_t i = 0; i < x->units.n_groups; i++) {
        const mg_plan_group *g = &x->units.groups[i];
        for (uint32_t k = 0; x->sources[i].known && k < g->n_members; k++) {
            const mg_plan_member *m = &x->units.members[g->first_member + k];
            mg_hex(x->sources[i].sum.bytes, sizeof x->sources[i].sum.bytes,
                   x->outs[m->output].tensor_hash[m->tensor].source);
        }
    }
}
