/* tool_card.c - moegraft-card: the model card of a result. */
#include <stdio.h>
#include <stdlib.h>

#include "formats/arch/arch_file.h"
#include "formats/base/file.h"
#include "formats/base/outfile.h"
#include "verify/tool_card_sources.h"

static const mg_tool_info tool = {
    .name = "card",
    .summary = "write the model card of a result: front matter, files, donors, recipe, hashes, drift",
    .synopsis = "PATH... [--recipe F] [--verify F]... [--routing F] [--license ID] [--template F] [-o README.md]",
    .examples =
        "  moegraft-card moe4/ -o moe4/README.md\n"
        "  moegraft-card a-Q4_K_M.gguf a-Q8_0.gguf --base-model org/name --verify drift.json\n"
        "  moegraft-card moe4/ --license other --license-name my-terms --license-link LICENSE --template t.md\n",
    .next = "moegraft card --help",
};

#define MAX_TEMPLATE (1u << 20)

typedef struct args {
    mg_tool_card_args from;
    const char *template, *out;
    bool force, quiet, done;
} args;

static mg_status parse(args *a, int argc, char **argv, mg_error *err) {
    const mg_opt opts[] = {
        {NULL, MG_OPT_GROUP, NULL, NULL, "What the card tells"},
        {"--name", MG_OPT_STR, &a->from.name, "NAME", "name of the model (default: that of PATH)"},
        {"--recipe", MG_OPT_STR, &a->from.recipe, "FILE",
         "the merge YAML it was made with (default: the copy that merge leaves in the directory)"},
        {"--base-model", MG_OPT_LIST, &a->from.bases, "ID", "hub name of what it was made of; repeatable"},
        {"--verify", MG_OPT_LIST, &a->from.verify, "FILE", "a result of verify --json; repeatable"},
        {"--routing", MG_OPT_STR, &a->from.routing, "FILE", "a result of route --json, or route --report --json"},
        {"--manifest", MG_OPT_LIST, &a->from.manifests, "FILE",
         "a manifest that does not lie beside its file; repeatable"},
        MG_ARCH_OPT,
        {NULL, MG_OPT_GROUP, NULL, NULL, "Licence (donors whose licences differ are refused without it)"},
        {"--license", MG_OPT_STR, &a->from.licence, "ID", "licence of the result, as the hub writes it (apache-2.0)"},
        {"--license-name", MG_OPT_STR, &a->from.licence_name, "NAME", "its name, where ID is 'other'"},
        {"--license-link", MG_OPT_STR, &a->from.licence_link, "URL", "where it can be read"},
        {NULL, MG_OPT_GROUP, NULL, NULL, "Output"},
        {"--template", MG_OPT_STR, &a->template, "FILE", "a text with {{front_matter}}, {{files}} ... (docs/card.md)"},
        {"--output,-o", MG_OPT_STR, &a->out, "FILE", "write the card there (default: print it)"},
        {"--force", MG_OPT_FLAG, &a->force, NULL, "replace an existing file (it is refused otherwise)"},
        MG_QUIET_OPT(a->quiet),
        {0}};
    MG_TRY(mg_options_parse(&tool, opts, argc, argv, &a->from.pos, &a->done, err));
    if (a->done) return MG_OK;
    if (a->from.pos.n == 0) return mg_fail(err, MG_ERR_USAGE, "no model given");
    if ((a->from.licence_name || a->from.licence_link) && !a->from.licence)
        return mg_fail(err, MG_ERR_USAGE, "--license-name and --license-link belong to --license");
    if (a->out && !a->force && mg_path_exists(a->out))
        return mg_fail(err, MG_ERR_USAGE, "'%s' exists (--force replaces it)", a->out);
    return MG_OK;
}

/* What the card could tell and does not, and which option would make it. */
static void say_missing(const mg_card *c) {
    size_t unhashed = 0;
    for (size_t i = 0; i < c->n_files; i++) unhashed += !c->files[i].sha256[0];
    if (unhashed)
        fprintf(stderr, "moegraft-card: note: no manifest has the hashes of %zu of %zu files (--manifest)\n", unhashed,
                c->n_files);
    if (!c->n_drift) fputs("moegraft-card: note: nothing is said of drift (--verify RESULT.json)\n", stderr);
}

static mg_status run(const args *a, mg_error *err) {
    mg_card card = {0};
    char *template = NULL, *text = NULL;
    size_t n = 0;
    mg_status st = a->template ? mg_file_slurp(a->template, MAX_TEMPLATE, &template, &n, err) : MG_OK;
    if (st == MG_OK) st = mg_tool_card_gather(&card, &a->from, err);
    if (st == MG_OK) {
        st = mg_card_text(&text, &n, &card, template, err);
        if (st != MG_OK) mg_error_at(err, a->template, NULL);
    }
    if (st == MG_OK && !a->quiet) say_missing(&card);
    if (st == MG_OK && a->out) st = mg_outfile_write_all(a->out, text, n, a->force, err);
    if (st == MG_OK && !a->out) fwrite(text, 1, n, stdout);
    free(text);
    free(template);
    mg_tool_card_release(&card);
    return st;
}

int main(int argc, char **argv) {
    args a = {0};
    mg_error err = {0};
    mg_status st = parse(&a, argc, argv, &err);
    if (st == MG_OK && !a.done) st = run(&a, &err);
    mg_opt_list_release(&a.from.pos);
    mg_opt_list_release(&a.from.verify);
    mg_opt_list_release(&a.from.bases);
    mg_opt_list_release(&a.from.manifests);
    return st == MG_OK ? 0 : mg_tool_fail(&tool, &err);
}
