/* exec.c - a plan carried out: units evaluated by a pool of workers, written by position, journaled, committed.
 *
 * Files of one directory form one set (outfile.h) with one journal, named after the first output in it. A unit that
 * feeds several sets is done when every set says so; what a set already has is not written to it again. */
#include "convert/exec.h"

#include "convert/expr_tile.h"

#include "formats/base/cpu.h"
#include "formats/base/file.h"
#include "formats/base/pool.h"
#include "quant/scan.h"

#include <stdlib.h>
#include <string.h>

/* ---- sets ---- */

static mg_status add_file(mg_exec *x, uint32_t set, const char *name, uint64_t size, uint32_t *index, mg_error *err) {
    return mg_outset_add(x->sets[set].set, name, size, index, err);
}

/* Text of an output's manifest, and its name. */
static mg_status manifest(mg_exec *x, uint32_t out, const mg_tensor_hash *hashes, const char (*sha256)[65], char **text,
                          const char **name, mg_error *err) {
    if (x->stored) return mg_stored_manifest(x->stored, out, hashes, sha256, text, name, err);
    MG_TRY(mg_manifest_text(x->p, out, hashes, sha256, text, err));
    *name = mg_manifest_name(x->p, out);
    if (*name) return MG_OK;
    free(*text);
    return mg_fail_nomem(err, 64);
}

static mg_status open_set(mg_exec *x, const mg_plan_output *o, uint32_t *set, mg_error *err) {
    MG_TRY(mg_exec_check_parts(o, err));
    for (*set = 0; *set < x->n_sets; (*set)++)
        if (!strcmp(x->sets[*set].dir, o->dir)) return MG_OK;
    if (o->kind == MG_OUT_HF_DIR) {
        MG_TRY(mg_exec_check_dir(o, o->base, x->opt->force, err));
        MG_TRY(mg_path_mkdir(o->dir, err));
    }
    mg_outset_options so = {.restart = x->opt->restart,
                            .force = x->opt->force,
                            .rank = x->opt->rank,
                            .world = x->opt->world,
                            .shared = x->shared,
                            .shared_size = x->shared_size};
    if (x->opt->world && x->n_sets)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "ranks write into one directory: '%s' and '%s' are two", x->sets[0].dir,
                       o->dir);
    x->sets[*set].dir = o->dir;
    MG_TRY(mg_outset_new(&x->sets[*set].set, o->dir, o->base, x->id, &so, err));
    x->n_sets++;
    return MG_OK;
}

/* Declare the files of every output, weights of all outputs of a set before small files, manifest before config. */
static mg_status declare(mg_exec *x, mg_error *err) {
    mg_plan *p = x->p;
    if (!x->opt->in_place) MG_TRY(mg_exec_check_inputs(p, err));
    for (uint32_t i = 0; i < p->n_outputs; i++) {
        const mg_plan_output *o = p->outputs[i];
        mg_exec_out *eo = &x->outs[i];
        MG_TRY(open_set(x, o, &eo->set, err));
        if (!(eo->index = calloc(o->n_files, sizeof *eo->index)))
            return mg_fail_nomem(err, o->n_files * sizeof *eo->index);
        uint32_t f = 0;
        for (; f < o->n_files && o->files[f].weights; f++)
            MG_TRY(add_file(x, eo->set, o->files[f].name, o->files[f].size, &eo->index[f], err));
        if (x->opt->manifest) {
            char *text;
            const char *name;
            MG_TRY(manifest(x, i, NULL, NULL, &text, &name, err));
            eo->manifest_size = strlen(text);
            free(text);
            MG_TRY(add_file(x, eo->set, name, eo->manifest_size, &eo->manifest, err));
        }
        for (; f < o->n_files; f++)
            MG_TRY(add_file(x, eo->set, o->files[f].name, o->files[f].size, &eo->index[f], err));
    }
    for (uint32_t s = 0; s < x->n_sets; s++) MG_TRY(mg_outset_start(x->sets[s].set, x->units.n_units, err));
    return MG_OK;
}

/* ---- units ---- */

static mg_extent extent_of(const mg_exec *x, const mg_plan_member *m, uint64_t row, uint64_t n) {
    const mg_plan_tensor *t = &x->p->outputs[m->output]->tensors[m->tensor];
    return (mg_extent){.file = x->outs[m->output].index[t->file],
                       .offset = t->offset + row * m->e->row_bytes,
                       .size = n * m->e->row_bytes};
}

/* Extents of a unit that lie in one set, in member order; ex has room for all members. */
static size_t set_extents(const mg_exec *x, const mg_plan_group *g, uint32_t set, uint64_t row, uint64_t n,
                          mg_extent *ex) {
    size_t k = 0;
    for (uint32_t i = 0; i < g->n_members; i++) {
        const mg_plan_member *m = &x->units.members[g->first_member + i];
        if (x->outs[m->output].set == set) ex[k++] = extent_of(x, m, row, n);
    }
    return k;
}

/* Tensors that no encoder looks at: copies and casts to floats. */
static mg_status check_values(const mg_plan_group *g, const mg_plan_member *m, const void *bytes, uint64_t row,
                              uint64_t n, mg_error *err) {
    if (m->e != g->core && m->e->op != MG_EX_CAST) return MG_OK;
    const uint64_t cols = mg_tensor_cols(&m->e->t);
    for (uint64_t i = 0; i < n; i++) {
        const uint8_t *line = (const uint8_t *)bytes + i * m->e->row_bytes;
        if (m->e != g->core) {
            MG_TRY(mg_expr_check_cast(m->e, line, row + i, err));
            continue;
        }
        mg_status st = mg_scan_finite(m->e->t.dtype, line, cols, err);
        if (st == MG_OK) continue;
        mg_expr_name_row(err, row + i);
        return st;
    }
    return MG_OK;
}

/* Bytes of one member for rows that the core tile holds: the tile itself, or its encoding. */
static mg_status member_bytes(const mg_plan_group *g, const mg_plan_member *m, mg_eval *ev, const void *tile,
                              void *coded, uint64_t row, uint64_t n, const void **bytes, mg_error *err) {
    *bytes = tile;
    if (m->e == g->core) return MG_OK;
    *bytes = coded;
    if (m->e->op == MG_EX_PART) {
        mg_expr_part_rows(m->e, tile, n, coded);
        return MG_OK;
    }
    if (m->e->op == MG_EX_FP4) {
        mg_expr_fp4_rows(m->e, tile, n, coded);
        return MG_OK;
    }
    return mg_expr_cast_rows(m->e, ev, tile, row, n, coded, err);
}

/* Members of one set, encoded and written in order; h receives their bytes. */
static mg_status write_to_set(mg_exec *x, const mg_plan_group *g, uint32_t set, mg_exec_worker *w, const void *tile,
                              void *coded, uint64_t row, uint64_t n, mg_xxh128_state *h, mg_error *err) {
    for (uint32_t i = 0; i < g->n_members; i++) {
        const mg_plan_member *m = &x->units.members[g->first_member + i];
        if (x->outs[m->output].set != set) continue;
        const mg_plan_output *o = x->p->outputs[m->output];
        const void *bytes;
        mg_status st = member_bytes(g, m, &w->ev, tile, coded, row, n, &bytes, err);
        if (st == MG_OK && x->opt->check_values) st = check_values(g, m, bytes, row, n, err);
        if (st != MG_OK) {
            mg_error_at(err, o->path, o->tensors[m->tensor].name);
            return st;
        }
        mg_extent e = extent_of(x, m, row, n);
        mg_xxh128_update(h, bytes, (size_t)e.size);
        MG_TRY(mg_outset_write(x->sets[set].set, e.file, e.offset, bytes, e.size, err));
        w->bytes_written += e.size;
    }
    return MG_OK;
}

static mg_status write_members(mg_exec *x, const mg_plan_group *g, uint64_t unit, uint64_t row, uint64_t n,
                               unsigned worker, const bool *done, mg_error *err) {
    mg_exec_worker *w = &x->workers[worker];
    const mg_plan_member *members = &x->units.members[g->first_member];
    uint64_t largest = 0;
    for (uint32_t i = 0; i < g->n_members; i++)
        if (members[i].e != g->core && members[i].e->row_bytes > largest) largest = members[i].e->row_bytes;
    void *tile, *coded = NULL;
    MG_TRY(mg_eval_push(&w->ev, n * g->core->row_bytes, &tile, err));
    if (largest) MG_TRY(mg_eval_push(&w->ev, n * largest, &coded, err));
    MG_TRY(mg_expr_eval(g->core, &w->ev, row, n, tile, err));
    MG_TRY(mg_exec_sources_add(x, g, unit, tile, n * g->core->row_bytes, err));
    for (uint32_t s = 0; s < x->n_sets; s++) {
        if (done[s]) continue;
        mg_xxh128_state *h;
        MG_TRY(mg_xxh128_new(&h, err));
        mg_status st = write_to_set(x, g, s, w, tile, coded, row, n, h, err);
        if (st == MG_OK) st = mg_outset_unit_done(x->sets[s].set, unit, mg_xxh128_final(h), err);
        mg_xxh128_free(h);
        MG_TRY(st);
    }
    return MG_OK;
}

/* Whoever completes what ranks did has no inputs to do it again. */
static mg_status not_as_claimed(const mg_exec *x, uint64_t unit, const mg_extent *at, size_t n, mg_error *err) {
    uint32_t r = 0;
    while (x->bounds[r + 1] <= unit) r++;
    mg_status st = mg_fail(err, MG_ERR_INTEGRITY,
                           "%llu bytes are not what rank %u has claimed; run it again (--rank %u --world %u)",
                           (unsigned long long)(n ? at[0].size : 0), r, r, mg_stored_world(x->stored));
    if (n) mg_error_offset(err, at[0].offset);
    return st;
}

static mg_status run_unit(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    mg_exec *x = ctx;
    const uint64_t unit = x->first_unit + ticket;
    const bool ours = mg_exec_is_ours(x, unit);
    mg_exec_worker *w = &x->workers[worker];
    uint64_t row, n, bytes = 0;
    const mg_plan_group *g = mg_plan_unit_at(&x->units, unit, &row, &n);
    bool all = true;
    for (uint32_t s = 0; s < x->n_sets; s++) {
        size_t k = set_extents(x, g, s, row, n, w->extents);
        w->done[s] = !ours || mg_outset_is_done(x->sets[s].set, unit, w->extents, k);
        all = all && w->done[s];
        if (!w->done[s] && x->stored) return not_as_claimed(x, unit, w->extents, k, err);
    }
    for (uint32_t i = 0; ours && i < g->n_members; i++) bytes += n * x->units.members[g->first_member + i].e->row_bytes;
    const mg_plan_member *first = &x->units.members[g->first_member];
    const char *name = x->p->outputs[first->output]->tensors[first->tensor].name;
    w->ev.depth = 0;
    if (!all || mg_exec_sources_wants(x, g)) {
        mg_status st = write_members(x, g, unit, row, n, worker, w->done, err);
        if (st != MG_OK) {
            mg_exec_sources_stop(x);
            mg_error_at(err, NULL, name);
            return st;
        }
    }
    mg_progress_add(x->progress, bytes, name);
    if (x->opt->world) return MG_OK;
    return mg_exec_hash_unit_done(x, unit, w, err);
}

/* ---- what is around the units ---- */

static mg_status write_heads(mg_exec *x, mg_error *err) {
    for (uint32_t i = 0; i < x->p->n_outputs; i++) {
        const mg_plan_output *o = x->p->outputs[i];
        for (uint32_t f = 0; f < o->n_files; f++) {
            MG_TRY(mg_outset_write(x->sets[x->outs[i].set].set, x->outs[i].index[f], 0, o->files[f].head,
                                   o->files[f].head_size, err));
            x->workers[0].bytes_written += o->files[f].head_size;
        }
    }
    return MG_OK;
}

static mg_status write_manifests(mg_exec *x, mg_error *err) {
    for (uint32_t i = 0; i < x->p->n_outputs; i++) {
        const mg_plan_output *o = x->p->outputs[i];
        mg_exec_out *eo = &x->outs[i];
        char *text = NULL;
        const char *name;
        mg_status st = manifest(x, i, eo->tensor_hash, (const char(*)[65])eo->file_sha256, &text, &name, err);
        if (st == MG_OK && strlen(text) != eo->manifest_size)
            st = mg_fail(err, MG_ERR_INTERNAL, "the manifest of '%s' changed its size", o->path);
        if (st == MG_OK) st = mg_outset_write(x->sets[eo->set].set, eo->manifest, 0, text, eo->manifest_size, err);
        x->workers[0].bytes_written += eo->manifest_size;
        free(text);
        MG_TRY(st);
    }
    return MG_OK;
}

/* ---- the whole ---- */

uint64_t mg_plan_worker_bytes(const mg_plan_units *u) {
    return u->tile_bytes + ((uint64_t)2 << 20); /* evaluator tiles: a few of 256 KiB and one of at most 1 MiB */
}

unsigned mg_plan_workers(const mg_plan_units *u, uint64_t memory, unsigned threads) {
    uint64_t fit = memory ? memory / mg_plan_worker_bytes(u) : UINT64_MAX;
    if (fit > u->n_units) fit = u->n_units;
    if (fit == 0) fit = 1;
    return fit < threads ? (unsigned)fit : threads;
}

static mg_status make_workers(mg_exec *x, unsigned n, mg_error *err) {
    x->workers = calloc(n, sizeof *x->workers);
    if (!x->workers) return mg_fail_nomem(err, n * sizeof *x->workers);
    x->n_workers = n;
    uint32_t most = 1;
    for (uint32_t g = 0; g < x->units.n_groups; g++)
        if (x->units.groups[g].n_members > most) most = x->units.groups[g].n_members;
    for (unsigned i = 0; i < n; i++) {
        mg_eval_init(&x->workers[i].ev);
        x->workers[i].extents = calloc(most, sizeof *x->workers[i].extents);
        x->workers[i].done = calloc(x->n_sets + 1, sizeof *x->workers[i].done);
        if (!x->workers[i].extents || !x->workers[i].done) return mg_fail_nomem(err, most * sizeof(mg_extent));
    }
    return MG_OK;
}

static void exec_release(mg_exec *x) {
    for (unsigned i = 0; i < x->n_workers; i++) {
        mg_eval_release(&x->workers[i].ev);
        free(x->workers[i].extents);
        free(x->workers[i].done);
    }
    free(x->workers);
    for (uint32_t i = 0; x->outs && i < x->p->n_outputs; i++) {
        free(x->outs[i].index);
        free(x->outs[i].file_sha256);
        free(x->outs[i].tensor_hash);
    }
    free(x->outs);
    mg_exec_hash_release(x);
    for (uint32_t s = 0; s < x->n_sets; s++) mg_outset_free(x->sets[s].set);
    free(x->sets);
    free(x->bounds);
    free(x->shared);
    mg_progress_free(x->progress);
    mg_exec_sources_release(x);
    mg_plan_units_release(&x->units);
}

/* A file of an output as the user would name it: a part of a GGUF beside the path that was asked for. */
static const char *in_dir(mg_plan *p, const mg_plan_output *o, const char *name) {
    bool here = o->kind != MG_OUT_HF_DIR && !strcmp(o->dir, ".") && strncmp(o->path, "./", 2) != 0;
    return here ? name : mg_arena_printf(&p->arena, "%s/%s", o->dir, name);
}

static mg_status fill_result(mg_exec *x, mg_exec_result *res, mg_error *err) {
    mg_plan *p = x->p;
    memset(res, 0, sizeof *res);
    res->units = x->units.n_units;
    res->out = p->outputs[0]->path;
    res->share_units = x->end_unit - x->first_unit;
    for (unsigned i = 0; i < x->n_workers; i++) {
        res->bytes_read += x->workers[i].ev.bytes_read;
        res->bytes_written += x->workers[i].bytes_written;
    }
    res->copies.tensors = x->copies.tensors;
    res->copies.bytes = x->copies.bytes;
    memcpy(res->copies.before, x->copies.before, sizeof res->copies.before);
    memcpy(res->copies.after, x->copies.after, sizeof res->copies.after);
    if (x->opt->world) return MG_OK;
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_outputs; i++)
        for (uint32_t f = 0; f < p->outputs[i]->n_files; f++) n += p->outputs[i]->files[f].weights;
    free(p->result_files);
    p->result_files = calloc(n + 1, sizeof *res->files);
    if (!p->result_files) return mg_fail_nomem(err, n * sizeof *res->files);
    res->files = p->result_files;
    for (uint32_t i = 0; i < p->n_outputs; i++) {
        const mg_plan_output *o = p->outputs[i];
        for (uint32_t f = 0; f < o->n_files; f++) {
            if (!o->files[f].weights) continue;
            res->files[res->n_files].path =
                o->kind == MG_OUT_HF_DIR || o->files[0].name != o->base ? in_dir(p, o, o->files[f].name) : o->path;
            res->files[res->n_files].size = o->files[f].size;
            memcpy(res->files[res->n_files++].sha256, x->outs[i].file_sha256[f], 65);
        }
    }
    return MG_OK;
}

static mg_status prepare(mg_exec *x, mg_error *err) {
    mg_plan *p = x->p;
    if (x->stored) {
        MG_TRY(mg_stored_apply(x->stored, x, err));
    } else {
        MG_TRY(mg_plan_id(p, &x->id, err));
        p->hash_sources = x->opt->hash_sources;
        MG_TRY(mg_plan_units_init(&x->units, p, err));
    }
    MG_TRY(mg_exec_share_init(x, err));
    MG_TRY(mg_exec_sources_init(x, err));
    x->outs = calloc(p->n_outputs + 1, sizeof *x->outs);
    x->sets = calloc(p->n_outputs + 1, sizeof *x->sets);
    if (!x->outs || !x->sets) return mg_fail_nomem(err, p->n_outputs * sizeof *x->outs);
    if (x->opt->world) MG_TRY(mg_stored_write(x, err));
    MG_TRY(declare(x, err));
    mg_exec_sources_recall(x);
    if (x->stored) MG_TRY(mg_stored_check(x, err));
    x->stored_checked = true;
    return MG_OK;
}

/* A rank's share: headers, hashes and names are the business of whoever completes the set. */
static mg_status run_share(mg_exec *x, mg_pool *pool, mg_error *err) {
    MG_TRY(mg_pool_run(pool, x->end_visit - x->first_unit, run_unit, x, err));
    MG_TRY(mg_exec_sources_note(x, err));
    for (uint32_t i = 0; i < x->p->n_inputs; i++) MG_TRY(mg_checkpoint_recheck(x->p->inputs[i], err));
    for (uint32_t s = 0; s < x->n_sets; s++) MG_TRY(mg_outset_share_done(x->sets[s].set, err));
    return MG_OK;
}

static mg_status run_all(mg_exec *x, mg_pool *pool, mg_error *err) {
    MG_TRY(write_heads(x, err)); /* first, because hashing follows the units through the files */
    MG_TRY(mg_exec_hash_begin(x, err));
    MG_TRY(mg_pool_run(pool, x->units.n_units, run_unit, x, err));
    MG_TRY(mg_exec_hash_rest(x, pool, err));
    if (x->opt->verify_copies) MG_TRY(mg_exec_verify_copies(x, err));
    if (x->opt->manifest) MG_TRY(write_manifests(x, err));
    for (uint32_t i = 0; i < x->p->n_inputs; i++) MG_TRY(mg_checkpoint_recheck(x->p->inputs[i], err));
    for (uint32_t s = 0; s < x->n_sets; s++) MG_TRY(mg_outset_commit(x->sets[s].set, err));
    return MG_OK;
}

static mg_status run(mg_exec *x, mg_exec_result *res, mg_pool **pool, mg_error *err) {
    MG_TRY(prepare(x, err));
    unsigned threads = x->opt->threads ? x->opt->threads : mg_cpu_count();
    MG_TRY(mg_pool_new(pool, mg_plan_workers(&x->units, x->opt->memory, threads), err));
    MG_TRY(make_workers(x, mg_pool_size(*pool), err));
    MG_TRY(mg_progress_new(&x->progress, x->opt->progress, x->opt->label ? x->opt->label : "write",
                           mg_plan_units_bytes(&x->units, x->first_unit, x->end_unit), err));
    MG_TRY(x->opt->world ? run_share(x, *pool, err) : run_all(x, *pool, err));
    return fill_result(x, res, err);
}

mg_status mg_exec_run(mg_exec *x, mg_exec_result *res, mg_error *err) {
    mg_pool *pool = NULL;
    mg_status st = run(x, res, &pool, err);
    mg_pool_free(pool);
    exec_release(x);
    return st;
}

mg_status mg_plan_execute(mg_plan *p, const mg_exec_options *opt, mg_exec_result *res, mg_error *err) {
    mg_exec x = {.p = p, .opt = opt};
    return mg_exec_run(&x, res, err);
}
