/* tool_finalize.c - moegraft-finalize: what several ranks have written gets its headers, hashes and names. */
#include "convert/tool_plan.h"
#include "formats/base/file.h"
#include "formats/base/pool.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

static const mg_tool_info tool = {
    .name = "finalize",
    .summary = "complete an output that several ranks have written",
    .synopsis = "OUT...",
    .examples = "  moegraft-merge moe.yml moe4.gguf --to Q4_K_M --rank 0 --world 2\n"
                "  moegraft-merge moe.yml moe4.gguf --to Q4_K_M --rank 1 --world 2      (anywhere, at any time)\n"
                "  moegraft-finalize moe4.gguf\n",
    .next = "moegraft finalize --help",
};

typedef struct args {
    mg_common c;
    mg_opt_list outs;
    bool done;
} args;

static mg_status parse(args *a, int argc, char **argv, mg_error *err) {
    const mg_opt opts[] = {
        {"--force", MG_OPT_FLAG, &a->c.force, NULL, "replace an existing output (it is refused otherwise)"},
        MG_COMMON_JSON_OPT(a->c),
        MG_COMMON_EXEC_OPTS(a->c),
        {0},
    };
    MG_TRY(mg_options_parse(&tool, opts, argc, argv, &a->outs, &a->done, err));
    if (a->done) return MG_OK;
    MG_TRY(mg_common_finish(&a->c, err));
    return a->outs.n ? MG_OK : mg_fail(err, MG_ERR_USAGE, "no output given");
}

/* A file, or a directory that holds something. */
static bool is_output(const char *path) {
    if (!mg_path_is_dir(path)) return mg_path_exists(path);
    bool found = false;
    DIR *d = opendir(path);
    for (struct dirent *e; d && !found && (e = readdir(d));) found = e->d_name[0] != '.';
    if (d) closedir(d);
    return found;
}

/* Neither ranks nor an output: the name is wrong, or no rank has begun. */
static mg_status nothing(const args *a, const char *out, mg_error *err) {
    if (!is_output(out)) return mg_fail(err, MG_ERR_USAGE, "no rank has begun it, and it does not exist");
    if (!a->c.quiet) fprintf(stderr, "moegraft-finalize: '%s': no ranks have left anything to complete\n", out);
    return MG_OK;
}

static mg_status finalize(const args *a, const char *out, mg_error *err) {
    const mg_exec_options opt = mg_tool_exec_options(&a->c, "finalize");
    const mg_tool_plan_style style = {.json = a->c.json, .quiet = a->c.quiet};
    mg_finalized *f = NULL;
    mg_exec_result res;
    mg_finalize_state state;
    mg_status st = mg_finalize(&f, out, &opt, &res, &state, err);
    if (st == MG_OK)
        st = state == MG_FINALIZE_NOTHING ? nothing(a, out, err) : mg_tool_plan_files(&res, &opt, style, err);
    mg_finalized_free(f);
    if (st != MG_OK) mg_error_at(err, out, NULL);
    return st;
}

int main(int argc, char **argv) {
    args a = {0};
    mg_error err = {0};
    mg_interrupt_install();
    mg_common_init(&a.c);
    mg_status st = parse(&a, argc, argv, &err);
    for (size_t i = 0; st == MG_OK && !a.done && i < a.outs.n; i++) st = finalize(&a, a.outs.items[i], &err);
    mg_opt_list_release(&a.outs);
    mg_common_release(&a.c);
    return st == MG_OK ? 0 : mg_tool_fail(&tool, &err);
}
