/* tool_plan.c - see tool_plan.h. */
#include "convert/tool_plan.h"

#include <stdio.h>
#include <stdlib.h>

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

static mg_status show_json(mg_plan *p, const uint32_t *out, size_t n, const mg_exec_options *opt, mg_error *err) {
    mg_json *one = NULL;
    uint64_t memory = 0;
    MG_TRY(mg_plan_memory(p, opt, &memory, err));
    if (n == 1) {
        MG_TRY(output_json(p, out[0], memory, &one, err));
        return print_json(one, err);
    }
    mg_json *all = mg_json_new_object(), *list = mg_json_new_array();
    mg_status st = MG_OK;
    for (size_t i = 0; i < n && st == MG_OK; i++) {
        st = output_json(p, out[i], memory, &one, err);
        if (st == MG_OK) mg_json_push(list, one);
    }
    mg_json_set_i64(all, "schema", 1);
    mg_json_set(all, "outputs", list);
    if (st == MG_OK) return print_json(all, err);
    mg_json_free(all);
    return st;
}

mg_status mg_tool_plan_show(mg_plan *p, const uint32_t *out, size_t n, const mg_exec_options *opt,
                            mg_tool_plan_style style, mg_error *err) {
    if (style.json) return show_json(p, out, n, opt, err);
    for (size_t i = 0; i < n; i++) MG_TRY(mg_plan_print(p, out[i], opt, stdout, err));
    return MG_OK;
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

mg_status mg_tool_plan_execute(mg_plan *p, const mg_exec_options *opt, mg_tool_plan_style style, mg_tool_job job,
                               mg_error *err) {
    mg_exec_result res;
    if (job.sink) return job.sink->use(job.sink->ctx, p, err);
    if (opt->manifest) MG_TRY(mg_plan_set_record(p, job.record, err));
    MG_TRY(mg_plan_execute(p, opt, &res, err));
    MG_TRY(show_files(&res, style, err));
    mg_job_cost cost = {.label = opt->label, .read = res.bytes_read, .written = res.bytes_written};
    if (res.n_files == 1) cost.sha256 = res.files[0].sha256;
    if (!style.quiet) mg_progress_cost(stderr, opt->progress, &cost);
    return MG_OK;
}
