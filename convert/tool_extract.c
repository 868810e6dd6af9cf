/* tool_extract.c - moegraft-extract: experts of a mixture back as dense models. */
#include "convert/extract.h"
#include "convert/tool_plan.h"
#include "formats/base/file.h"
#include "formats/arch/arch_file.h"
#include "formats/base/options.h"
#include "formats/base/pool.h"
#include "quant/group_checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const mg_tool_info tool = {
    .name = "extract",
    .summary = "take experts out of a mixture as dense models",
    .synopsis = "IN OUT --expert N\nIN OUT --all",
    .examples = "  moegraft-extract moe4 prose --expert 0       a Hugging Face directory\n"
                "  moegraft-extract moe4 donors --all           donors/expert-0, donors/expert-1 ...\n",
    .next = "moegraft extract --help",
};

typedef struct args {
    mg_common c;
    mg_opt_list words;
    uint64_t expert;
    bool all, manifest, done;
} args;

static mg_status parse(args *a, int argc, char **argv, mg_error *err) {
    const mg_opt opts[] = {
        {NULL, MG_OPT_GROUP, NULL, NULL, "Which"},
        {"--expert", MG_OPT_U64, &a->expert, "N", "one expert, counted from 0"},
        {"--all", MG_OPT_FLAG, &a->all, NULL, "every expert, into OUT/expert-N"},
        {"--manifest", MG_OPT_FLAG, &a->manifest, NULL, "write model.manifest.json: inputs, recipes and hashes"},
        MG_COMMON_WRITE_OPTS(a->c),
        MG_ARCH_OPT,
        MG_COMMON_JSON_OPT(a->c),
        MG_COMMON_EXEC_OPTS(a->c),
        MG_COMMON_UNBUILT_OPTS,
        {0},
    };
    a->expert = UINT64_MAX;
    MG_TRY(mg_options_parse(&tool, opts, argc, argv, &a->words, &a->done, err));
    if (a->done) return MG_OK;
    MG_TRY(mg_common_finish(&a->c, err));
    if (a->words.n != 2) return mg_fail(err, MG_ERR_USAGE, "expected IN OUT");
    if (a->all == (a->expert != UINT64_MAX)) return mg_fail(err, MG_ERR_USAGE, "either --expert N or --all is needed");
    if (!a->all && a->expert > UINT32_MAX) return mg_fail(err, MG_ERR_USAGE, "--expert is too large");
    return MG_OK;
}

/* One expert, as a plan of its own: a directory is complete or absent whatever happens to the next. */
static mg_status extract_one(const args *a, mg_model *m, uint32_t expert, const char *dir, mg_error *err) {
    mg_plan *plan;
    uint32_t out;
    MG_TRY(mg_plan_new(&plan, err));
    mg_exec_options opt = {.threads = a->c.n_threads,
                           .memory = a->c.memory,
                           .restart = a->c.restart,
                           .force = a->c.force,
                           .progress = a->c.progress,
                           .label = "extract",
                           .manifest = a->manifest};
    mg_tool_plan_style style = {.json = a->c.json, .quiet = a->c.quiet};
    mg_status st = mg_extract_plan(plan, m, expert, dir, &out, err);
    if (st == MG_OK)
        st = a->c.dry_run ? mg_tool_plan_show(plan, &out, 1, &opt, style, err)
                          : mg_tool_plan_execute(plan, &opt, style, err);
    mg_plan_free(plan);
    return st;
}

static mg_status extract_all(const args *a, mg_model *m, mg_error *err) {
    if (!a->c.dry_run) MG_TRY(mg_path_mkdir(a->words.items[1], err));
    for (uint32_t e = 0; e < (uint32_t)mg_hp_i(m, MG_K_EXPERTS); e++) {
        char name[32], dir[4096];
        snprintf(name, sizeof name, "expert-%u", e);
        MG_TRY(mg_path_join(dir, sizeof dir, a->words.items[1], name, err));
        MG_TRY(extract_one(a, m, e, dir, err));
    }
    return MG_OK;
}

static mg_status work(const args *a, mg_error *err) {
    mg_checkpoint *ckpt = NULL;
    mg_model *m = NULL;
    mg_status st = mg_group_checkpoint_open(&ckpt, a->words.items[0], err);
    if (st == MG_OK) st = mg_model_open(&m, ckpt, err);
    if (st == MG_OK && mg_hp_i(m, MG_K_EXPERTS) == 0)
        st = mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' has no experts", a->words.items[0]);
    if (st == MG_OK)
        st = a->all ? extract_all(a, m, err) : extract_one(a, m, (uint32_t)a->expert, a->words.items[1], err);
    mg_model_free(m);
    mg_checkpoint_free(ckpt);
    return st;
}

int main(int argc, char **argv) {
    mg_error err = {0};
    args a = {0};
    mg_interrupt_install();
    mg_common_init(&a.c);
    mg_status st = parse(&a, argc, argv, &err);
    if (st == MG_OK && !a.done) st = work(&a, &err);
    mg_opt_list_release(&a.words);
    mg_common_release(&a.c);
    return st == MG_OK ? 0 : mg_tool_fail(&tool, &err);
}
