/* tool_plan.c - see tool_plan.h. */
#include "convert/tool_plan.h"

#include "formats/base/outfile.h"
#include "formats/known_hashes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Print and free root. */
static mg_status print_json(mg_json *root, mg_error *err) {
    char *text;
    mg_status st = mg_json_print(&text, root, 0, err);
    mg_json_free(root);
    if (st != MG_OK) return st;
    puts(text);
    free(text);
    return MG_OK;
}

static mg_status output_json(mg_plan *p, uint32_t out, uint64_t memory, mg_json **one, mg_error *err) {
    MG_TRY(mg_plan_json(p, out, one, err));
    mg_json_set_u64(*one, "peak_memory_bytes", memory); /* with the threads asked for */
    return MG_OK;
}

static mg_status list_shares(mg_plan_share **shares, mg_plan *p, const mg_exec_options *opt, mg_error *err) {
    *shares = calloc(opt->world, sizeof **shares);
    if (!*shares) return mg_fail_nomem(err, opt->world * sizeof **shares);
    mg_status st = mg_plan_share_list(p, opt->world, *shares, err);
    if (st != MG_OK) free(*shares);
    return st;
}

static mg_status add_shares(mg_json *to, mg_plan *p, const mg_exec_options *opt, mg_error *err) {
    mg_plan_share *shares;
    if (!opt->world) return MG_OK;
    MG_TRY(list_shares(&shares, p, opt, err));
    mg_json *list = mg_json_new_array();
    for (uint32_t r = 0; r < opt->world; r++) {
        mg_json *s = mg_json_new_object();
        mg_json_set_u64(s, "rank", r);
        mg_json_set_u64(s, "first_unit", shares[r].first_unit);
        mg_json_set_u64(s, "units", shares[r].n_units);
        mg_json_set_u64(s, "bytes", shares[r].bytes);
        mg_json_set_f64(s, "cost", shares[r].cost);
        mg_json_push(list, s);
    }
    mg_json_set_u64(to, "rank", opt->rank);
    mg_json_set_u64(to, "world", opt->world);
    mg_json_set(to, "shares", list);
    free(shares);
    return MG_OK;
}

static mg_status show_json(mg_plan *p, const uint32_t *out, size_t n, const mg_exec_options *opt, mg_error *err) {
    mg_json *one = NULL;
    uint64_t memory = 0;
    MG_TRY(mg_plan_memory(p, opt, &memory, err));
    if (n == 1) {
        MG_TRY(output_json(p, out[0], memory, &one, err));
        mg_status s = add_shares(one, p, opt, err);
        if (s == MG_OK) return print_json(one, err);
        mg_json_free(one);
        return s;
    }
    mg_json *all = mg_json_new_object(), *list = mg_json_new_array();
    mg_status st = MG_OK;
    for (size_t i = 0; i < n && st == MG_OK; i++) {
        st = output_json(p, out[i], memory, &one, err);
        if (st == MG_OK) mg_json_push(list, one);
    }
    mg_json_set_i64(all, "schema", 1);
    mg_json_set(all, "outputs", list);
    if (st == MG_OK) st = add_shares(all, p, opt, err);
    if (st == MG_OK) return print_json(all, err);
    mg_json_free(all);
    return st;
}

static mg_status show_shares(mg_plan *p, const mg_exec_options *opt, mg_error *err) {
    mg_plan_share *shares;
    if (!opt->world) return MG_OK;
    MG_TRY(list_shares(&shares, p, opt, err));
    for (uint32_t r = 0; r < opt->world; r++) {
        char size[MG_HUMAN_MAX];
        printf("%s rank %u of %u: %llu units from %llu on, %s to write, %.1f %% of the work\n",
               r == opt->rank ? "*" : " ", r, opt->world, (unsigned long long)shares[r].n_units,
               (unsigned long long)shares[r].first_unit, mg_human_bytes(shares[r].bytes, size), 100 * shares[r].cost);
    }
    free(shares);
    return MG_OK;
}

mg_status mg_tool_plan_show(mg_plan *p, const uint32_t *out, size_t n, const mg_exec_options *opt,
                            mg_tool_plan_style style, mg_error *err) {
    if (style.json) return show_json(p, out, n, opt, err);
    for (size_t i = 0; i < n; i++) MG_TRY(mg_plan_print(p, out[i], opt, stdout, err));
    return show_shares(p, opt, err);
}

static mg_status show_files(const mg_exec_result *res, mg_tool_plan_style style, mg_error *err) {
    mg_json *root = mg_json_new_object(), *files = mg_json_new_array();
    for (uint32_t i = 0; i < res->n_files; i++) {
        mg_json *f = mg_json_new_object();
        mg_json_set_str(f, "path", res->files[i].path);
        mg_json_set_u64(f, "size", res->files[i].size);
        mg_json_set_str(f, "sha256", res->files[i].sha256);
        mg_json_push(files, f);
        if (style.json) continue;
        printf("%s  %s", res->files[i].sha256, res->files[i].path);
        if (style.sizes) printf("  %llu bytes", (unsigned long long)res->files[i].size);
        putchar('\n');
    }
    mg_json_set_i64(root, "schema", 1);
    mg_json_set(root, "files", files);
    mg_json_set_u64(root, "bytes_read", res->bytes_read);
    mg_json_set_u64(root, "bytes_written", res->bytes_written);
    mg_json_set_u64(root, "peak_memory_bytes", mg_peak_memory());
    if (style.json) return print_json(root, err);
    mg_json_free(root);
    return MG_OK;
}

mg_status mg_tool_plan_files(const mg_exec_result *res, const mg_exec_options *opt, mg_tool_plan_style style,
                             mg_error *err) {
    MG_TRY(show_files(res, style, err));
    mg_job_cost cost = {.label = opt->label, .read = res->bytes_read, .written = res->bytes_written};
    if (res->n_files == 1) cost.sha256 = res->files[0].sha256;
    if (!style.quiet) mg_progress_cost(stderr, opt->progress, &cost);
    return MG_OK;
}

/* ---- ranks ---- */

static mg_status show_share(const mg_exec_result *res, const mg_exec_options *opt, mg_tool_plan_style style,
                            mg_error *err) {
    const mg_job_cost cost = {.label = opt->label, .read = res->bytes_read, .written = res->bytes_written};
    if (style.json) {
        mg_json *root = mg_json_new_object();
        mg_json_set_i64(root, "schema", 1);
        mg_json_set_u64(root, "rank", opt->rank);
        mg_json_set_u64(root, "world", opt->world);
        mg_json_set_u64(root, "units", res->share_units);
        mg_json_set_u64(root, "of_units", res->units);
        mg_json_set_u64(root, "bytes_read", res->bytes_read);
        mg_json_set_u64(root, "bytes_written", res->bytes_written);
        mg_json_set_u64(root, "peak_memory_bytes", mg_peak_memory());
        MG_TRY(print_json(root, err));
    } else {
        printf("rank %u of %u: %llu of %llu units are written; when all ranks are done: moegraft finalize %s\n",
               opt->rank, opt->world, (unsigned long long)res->share_units, (unsigned long long)res->units, res->out);
    }
    fflush(stdout);
    if (!style.quiet) mg_progress_cost(stderr, opt->progress, &cost);
    return MG_OK;
}

/* Every rank tries when its own share is done. Claims are on disk before a rank tries, and tries are one at a time, so
 * the last one finds all of them; the others find something missing, or another at work, which is no failure of theirs.
 */
static mg_status finalize_as_last(const char *out, const mg_exec_options *opt, mg_tool_plan_style style,
                                  mg_error *err) {
    mg_finalized *f;
    mg_exec_result res;
    mg_finalize_state state;
    mg_error why = {0};
    mg_exec_options o = *opt;
    o.rank = o.world = 0;
    o.restart = false; /* of this rank, before its work */
    mg_status st = mg_finalize(&f, out, &o, &res, &state, &why);
    if (state == MG_FINALIZE_DONE) st = mg_tool_plan_files(&res, &o, style, &why);
    mg_finalized_free(f);
    if (st != MG_OK && state != MG_FINALIZE_INCOMPLETE && state != MG_FINALIZE_BUSY) {
        if (err) *err = why;
        return st;
    }
    if (st != MG_OK && !style.quiet) fprintf(stderr, "%s: not the last rank: %s\n", opt->label, why.message);
    return MG_OK;
}

/* ".NAME.stage-lock" beside the output NAME. */
static mg_status lock_path(char *path, size_t size, const char *out, mg_error *err) {
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') n--;
    size_t at = n;
    while (at > 0 && out[at - 1] != '/') at--;
    const int k = snprintf(path, size, "%.*s.%.*s.stage-lock", (int)at, out, (int)(n - at), out + at);
    if (k < 0 || (size_t)k >= size) return mg_fail(err, MG_ERR_LIMIT, "path of %zu bytes", strlen(out));
    return MG_OK;
}

mg_status mg_tool_stage_lock(int *lock, const mg_common *c, const char *out, mg_error *err) {
    char path[4096];
    bool busy = true;
    *lock = 0;
    if (!c->world || c->dry_run) return MG_OK;
    MG_TRY(lock_path(path, sizeof path, out, err));
    MG_TRY(mg_lock_file(lock, path, 0, &busy, err));
    if (!busy) return MG_OK;
    fprintf(stderr, "rank %u of %u: waits for another rank, which computes what all of them need\n", c->rank, c->world);
    while (busy) MG_TRY(mg_lock_file(lock, path, 3600, &busy, err));
    return MG_OK;
}

void mg_tool_stage_unlock(int *lock) {
    if (*lock > 0) close(*lock);
    *lock = 0;
}

mg_exec_options mg_tool_exec_options(const mg_common *c, const char *label) {
    return (mg_exec_options){.threads = c->n_threads,
                             .memory = c->memory,
                             .restart = c->restart,
                             .force = c->force,
                             .progress = c->progress,
                             .label = label,
                             .rank = c->rank,
                             .world = c->world,
                             .verify_inputs = c->verify_inputs,
                             .finalize = c->finalize};
}

static mg_status verify_inputs(mg_plan *p, const mg_exec_options *opt, mg_tool_plan_style style, mg_error *err) {
    mg_known_counts n;
    char bytes[MG_HUMAN_MAX];
    MG_TRY(mg_plan_verify_inputs(p, opt, &n, err));
    if (n.unknown)
        fprintf(stderr, "%s: warning: %llu input files have no recorded hash, such as '%s'\n", opt->label,
                (unsigned long long)n.unknown, n.first_unknown);
    if (!style.quiet)
        fprintf(stderr, "%s: %llu input files, %s, are as recorded\n", opt->label, (unsigned long long)n.files,
                mg_human_bytes(n.bytes, bytes));
    return MG_OK;
}

mg_status mg_tool_plan_execute(mg_plan *p, const mg_exec_options *opt, mg_tool_plan_style style, mg_tool_job job,
                               mg_error *err) {
    mg_exec_result res;
    if (job.sink) return job.sink->use(job.sink->ctx, p, err);
    if (opt->verify_inputs) MG_TRY(verify_inputs(p, opt, style, err));
    if (opt->manifest) MG_TRY(mg_plan_set_record(p, job.record, err));
    MG_TRY(mg_plan_execute(p, opt, &res, err));
    if (!opt->world) {
        char path[4096];
        if (lock_path(path, sizeof path, res.out, NULL) == MG_OK) unlink(path); /* of ranks that began it */
        return mg_tool_plan_files(&res, opt, style, err);
    }
    MG_TRY(show_share(&res, opt, style, err));
    return opt->finalize ? finalize_as_last(res.out, opt, style, err) : MG_OK;
}
