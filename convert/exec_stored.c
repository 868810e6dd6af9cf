/* exec_stored.c - what exec_store.c left beside an output, read again by whoever completes what its ranks did. The
 * bytes are checked as a whole before they come here (outranks.c); what they say is checked again all the same. */
#include "convert/exec.h"

#include "formats/base/checked.h"
#include "formats/base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct stored_manifest {
    const char *name, *text;
    uint64_t size;
    const mg_stored_hole *holes; /* [n] */
    uint64_t n;
} stored_manifest;

struct mg_stored {
    mg_plan *plan; /* its outputs are laid out, its expressions say sizes and nothing else */
    mg_xxh128 id;
    uint32_t world;
    uint64_t *bounds;
    stored_manifest *manifests; /* [n_outputs], in the plan's arena like all below */
    bool manifest, hash_sources;
    const char *label;
    mg_plan_units units;
};

typedef struct cursor {
    const uint8_t *p;
    uint64_t left;
    bool bad;
    mg_arena *arena;
} cursor;

static const void *take(cursor *c, uint64_t n) {
    const void *p = c->p;
    c->bad = c->bad || n > c->left;
    if (c->bad) return NULL;
    c->p += n;
    c->left -= n;
    return p;
}

static uint64_t take_u64(cursor *c) {
    uint64_t v = 0;
    const void *p = take(c, sizeof v);
    if (p) memcpy(&v, p, sizeof v);
    return v;
}

/* A number of items that take at least `each` bytes here. */
static uint32_t take_count(cursor *c, uint64_t each) {
    const uint64_t n = take_u64(c);
    c->bad = c->bad || n > c->left / each || n >= UINT32_MAX;
    return c->bad ? 0 : (uint32_t)n;
}

static void *take_array(cursor *c, uint64_t n, size_t size) {
    void *p = c->bad ? NULL : mg_arena_alloc(c->arena, (size_t)n + 1, size);
    c->bad = c->bad || !p;
    return p;
}

static char *take_text(cursor *c) {
    const uint64_t n = take_u64(c);
    const char *p = take(c, n);
    char *s = p && !memchr(p, 0, (size_t)n) ? mg_arena_strndup(c->arena, p, (size_t)n) : NULL;
    c->bad = c->bad || !s;
    return s;
}

static char *take_name(cursor *c) {
    char *s = take_text(c);
    c->bad = c->bad || mg_path_check_plain(s, NULL) != MG_OK;
    return s;
}

static void read_file(cursor *c, mg_plan_file *f) {
    f->name = take_name(c);
    f->size = take_u64(c);
    f->weights = take_u64(c) != 0;
    f->head_size = take_u64(c);
    const void *head = take(c, f->head_size);
    uint8_t *own = take_array(c, f->head_size, 1);
    if (!c->bad && f->head_size) memcpy(own, head, (size_t)f->head_size);
    f->head = own;
    c->bad = c->bad || f->head_size > f->size || (!f->weights && f->head_size != f->size);
}

static void read_tensor(cursor *c, const mg_plan_output *o, mg_plan_tensor *t) {
    mg_expr *e = take_array(c, 1, sizeof *e);
    t->name = take_text(c);
    const uint64_t file = take_u64(c);
    t->offset = take_u64(c);
    const uint64_t bytes = take_u64(c);
    c->bad = c->bad || file >= o->n_files || !o->files[file].weights ||
             !mg_range_fits(t->offset, bytes, o->files[file].size);
    if (c->bad) return;
    e->op = MG_EX_CONST;
    e->t.n_bytes = bytes;
    t->e = e;
    t->file = (uint32_t)file;
}

static void read_manifest(cursor *c, const mg_plan_output *o, stored_manifest *m) {
    m->name = take_name(c);
    m->text = take_text(c);
    m->size = m->text ? strlen(m->text) : 0;
    m->n = take_count(c, sizeof(mg_stored_hole));
    mg_stored_hole *holes = take_array(c, m->n, sizeof *holes);
    const void *p = take(c, m->n * sizeof *holes);
    if (c->bad) return;
    if (m->n) memcpy(holes, p, m->n * sizeof *holes);
    for (uint64_t i = 0; i < m->n; i++) {
        c->bad = c->bad || holes[i].kind > MG_HOLE_TENSOR ||
                 !mg_range_fits(holes[i].at, mg_stored_digits(holes[i].kind), m->size);
        c->bad = c->bad || holes[i].number >= (holes[i].kind == MG_HOLE_FILE ? o->n_files : o->n_tensors);
    }
    m->holes = holes;
}

static void read_output(cursor *c, mg_stored *s, const char *dir, uint32_t out) {
    mg_plan_output *o = take_array(c, 1, sizeof *o);
    const uint64_t kind = take_u64(c);
    const char *base = take_name(c);
    const uint32_t n_files = take_count(c, 4 * sizeof(uint64_t));
    mg_plan_file *files = take_array(c, n_files, sizeof *files);
    for (uint32_t f = 0; !c->bad && f < n_files; f++) {
        read_file(c, &files[f]);
        c->bad = c->bad || (f && files[f].weights && !files[f - 1].weights); /* weights come first */
    }
    const uint32_t n_tensors = c->bad ? 0 : take_count(c, 4 * sizeof(uint64_t));
    if (c->bad || kind > MG_OUT_SAFETENSORS) {
        c->bad = true;
        return;
    }
    o->kind = (mg_out_kind)kind;
    o->dir = dir;
    o->base = base;
    o->path = kind == MG_OUT_HF_DIR ? dir : strcmp(dir, ".") ? mg_arena_printf(c->arena, "%s/%s", dir, base) : base;
    o->files = files;
    o->n_files = n_files;
    o->tensors = calloc((size_t)n_tensors + 1, sizeof *o->tensors); /* freed with the plan */
    c->bad = !o->path || !o->tensors;
    mg_strmap_init(&o->names);
    mg_kvs_init(&o->kv);
    s->plan->outputs[s->plan->n_outputs++] = o;
    for (uint32_t t = 0; !c->bad && t < n_tensors; t++) read_tensor(c, o, &o->tensors[t]);
    o->n_tensors = c->bad ? 0 : n_tensors;
    if (!c->bad && s->manifest) read_manifest(c, o, &s->manifests[out]);
}

/* The rows of a member must be the bytes of its tensor. */
static void read_member(cursor *c, const mg_stored *s, uint64_t rows, mg_plan_member *m) {
    const uint64_t out = take_u64(c), tensor = take_u64(c), row_bytes = take_u64(c), encoded = take_u64(c);
    uint64_t bytes;
    c->bad = c->bad || out >= s->plan->n_outputs || tensor >= s->plan->outputs[out]->n_tensors;
    mg_expr *e = take_array(c, 1, sizeof *e);
    if (c->bad) return;
    *e = *s->plan->outputs[out]->tensors[tensor].e;
    e->op = encoded ? MG_EX_CAST : MG_EX_CONST;
    e->row_bytes = row_bytes;
    c->bad = !mg_mul_u64(rows, row_bytes, &bytes) || bytes != e->t.n_bytes;
    m->output = (uint32_t)out;
    m->tensor = (uint32_t)tensor;
    m->e = e;
}

/* Groups in order, their units without gaps, every tensor in exactly one of them. */
static mg_status read_groups(cursor *c, mg_stored *s, mg_error *err) {
    mg_plan_units *u = &s->units;
    uint64_t n_units = 0, tensors = 0;
    for (uint32_t i = 0; i < s->plan->n_outputs; i++) tensors += s->plan->outputs[i]->n_tensors;
    u->n_units = take_u64(c);
    const uint32_t n = take_count(c, 5 * sizeof(uint64_t));
    u->groups = calloc((size_t)n + 1, sizeof *u->groups);
    u->members = calloc((size_t)tensors + 1, sizeof *u->members);
    if (!u->groups || !u->members) return mg_fail_nomem(err, (n + tensors) * sizeof *u->groups);
    for (; !c->bad && u->n_groups < n; u->n_groups++) {
        mg_plan_group *g = &u->groups[u->n_groups];
        mg_expr *core = take_array(c, 1, sizeof *core);
        g->first_unit = take_u64(c);
        g->n_units = take_u64(c);
        g->unit_rows = take_u64(c);
        const uint64_t rows = take_u64(c);
        g->n_members = take_count(c, 4 * sizeof(uint64_t));
        g->first_member = u->n_members;
        c->bad = c->bad || g->first_unit != n_units || g->unit_rows == 0 || g->n_members == 0 ||
                 g->n_members > tensors - u->n_members ||
                 (g->n_units && g->n_units != rows / g->unit_rows + (rows % g->unit_rows != 0)) ||
                 !mg_add_u64(n_units, g->n_units, &n_units);
        if (c->bad) break;
        core->op = MG_EX_CONST;
        core->rows = rows;
        g->core = core;
        for (uint32_t k = 0; !c->bad && k < g->n_members; k++) read_member(c, s, rows, &u->members[u->n_members++]);
    }
    c->bad = c->bad || n_units != u->n_units || u->n_members != tensors;
    for (uint32_t r = 0; !c->bad && r < s->world; r++) c->bad = s->bounds[r] > s->bounds[r + 1];
    c->bad = c->bad || s->bounds[0] != 0 || s->bounds[s->world] != n_units;
    return MG_OK;
}

static mg_status read_all(cursor *c, mg_stored *s, const char *dir, mg_error *err) {
    s->label = take_text(c);
    s->manifest = take_u64(c) != 0;
    s->hash_sources = take_u64(c) != 0;
    c->bad = c->bad || take_u64(c) != s->world;
    const void *bounds = take(c, ((uint64_t)s->world + 1) * sizeof *s->bounds);
    s->bounds = take_array(c, s->world, sizeof *s->bounds);
    if (!c->bad) memcpy(s->bounds, bounds, ((size_t)s->world + 1) * sizeof *s->bounds);
    const uint32_t n = take_count(c, 4 * sizeof(uint64_t));
    s->manifests = take_array(c, n, sizeof *s->manifests);
    const char *own = c->bad ? NULL : mg_arena_strdup(c->arena, dir);
    s->plan->outputs = calloc((size_t)n + 1, sizeof *s->plan->outputs);
    if (!s->plan->outputs) return mg_fail_nomem(err, n * sizeof *s->plan->outputs);
    c->bad = c->bad || !own || n == 0;
    for (uint32_t i = 0; !c->bad && i < n; i++) read_output(c, s, own, i);
    if (!c->bad) MG_TRY(read_groups(c, s, err));
    if (!c->bad && c->left == 0) return MG_OK;
    return mg_fail(err, MG_ERR_INTEGRITY, "what the ranks of '%s' agreed on does not add up", dir);
}

mg_status mg_stored_read(mg_stored **out, const char *dir, uint32_t world, mg_xxh128 plan, const uint8_t *data,
                         uint64_t size, mg_error *err) {
    mg_stored *s = calloc(1, sizeof *s);
    if (!s) return mg_fail_nomem(err, sizeof *s);
    s->id = plan;
    s->world = world;
    mg_status st = mg_plan_new(&s->plan, err);
    if (st == MG_OK) {
        s->plan->laid_out = true;
        cursor c = {.p = data, .left = size, .arena = &s->plan->arena};
        st = read_all(&c, s, dir, err);
    }
    if (st != MG_OK) {
        mg_stored_free(s);
        return st;
    }
    *out = s;
    return MG_OK;
}

void mg_stored_free(mg_stored *s) {
    if (!s) return;
    mg_plan_units_release(&s->units);
    mg_plan_free(s->plan);
    free(s);
}

mg_plan *mg_stored_plan(mg_stored *s) {
    return s->plan;
}

uint32_t mg_stored_world(const mg_stored *s) {
    return s->world;
}

void mg_stored_options(const mg_stored *s, mg_exec_options *opt) {
    opt->manifest = s->manifest;
    opt->hash_sources = s->hash_sources;
    opt->label = s->label;
}

/* ---- completing ---- */

mg_status mg_stored_apply(mg_stored *s, mg_exec *x, mg_error *err) {
    x->id = s->id;
    x->units = s->units; /* x releases them */
    s->units = (mg_plan_units){0};
    x->bounds = calloc((size_t)s->world + 1, sizeof *x->bounds);
    if (!x->bounds) return mg_fail_nomem(err, s->world * sizeof *x->bounds);
    memcpy(x->bounds, s->bounds, ((size_t)s->world + 1) * sizeof *x->bounds);
    return MG_OK;
}

mg_status mg_stored_manifest(mg_stored *s, uint32_t out, const mg_tensor_hash *hashes, const char (*file_sha256)[65],
                             char **text, const char **name, mg_error *err) {
    const stored_manifest *m = &s->manifests[out];
    *name = m->name;
    *text = strdup(m->text);
    if (!*text) return mg_fail_nomem(err, m->size);
    for (uint64_t i = 0; i < m->n && hashes; i++) {
        const mg_stored_hole *h = &m->holes[i];
        const char *hex = h->kind == MG_HOLE_FILE     ? file_sha256[h->number]
                          : h->kind == MG_HOLE_SOURCE ? hashes[h->number].source
                                                      : hashes[h->number].xxh3;
        memcpy(*text + h->at, hex, mg_stored_digits(h->kind));
    }
    return MG_OK;
}

/* Units of rank r that nobody claims, digests that it should have taken included as one each. */
static uint64_t missing(const mg_exec *x, uint32_t r, uint32_t *group) {
    const mg_outset *set = x->sets[0].set;
    uint64_t n = 0;
    for (uint64_t u = x->bounds[r]; u < x->bounds[r + 1]; u++) n += !mg_outset_is_claimed(set, u);
    for (; *group < x->units.n_groups && x->units.groups[*group].first_unit < x->bounds[r + 1]; ++*group)
        n += mg_exec_sources_lacks(x, *group);
    return n;
}

mg_status mg_stored_check(const mg_exec *x, mg_error *err) {
    char list[640];
    size_t used = 0;
    uint32_t ranks = 0, group = 0, shown = 0;
    uint64_t units = 0;
    for (uint32_t r = 0; r < x->stored->world; r++) {
        const uint64_t n = missing(x, r, &group), share = x->bounds[r + 1] - x->bounds[r];
        if (!n) continue;
        units += n;
        ranks++;
        if (used + 64 > sizeof list) continue;
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%u (%llu of %llu)", ranks > 1 ? ", " : "", r,
                                 (unsigned long long)(n < share ? n : share), (unsigned long long)share);
        shown++;
    }
    if (!ranks) return MG_OK;
    if (shown < ranks) snprintf(list + used, sizeof list - used, " and %u more", ranks - shown);
    return mg_fail(err, MG_ERR_INTEGRITY,
                   "%llu of %llu units are missing; run again with --world %u the rank%s (units missing) %s",
                   (unsigned long long)units, (unsigned long long)x->units.n_units, x->stored->world,
                   ranks > 1 ? "s" : "", list);
}
