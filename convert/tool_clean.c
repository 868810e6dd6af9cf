/* tool_clean.c - moegraft-clean: what interrupted runs left in a directory, removed. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/base/options.h"
#include "formats/base/outclean.h"
#include "formats/base/tempdir.h"
#include "formats/checkpoint.h"

static const mg_tool_info tool = {
    .name = "clean",
    .summary = "remove partial files and journals that interrupted runs left in a directory",
    .synopsis = "DIR... [--dry-run] [--all] [--json]",
    .examples = "  moegraft-clean models/ --dry-run\n"
                "  moegraft-clean models/ models/moe4/ --all\n",
    .next = "moegraft clean --help",
};

typedef struct args {
    mg_opt_list pos;
    bool dry_run, all, json, done;
} args;

static mg_status parse(args *a, int argc, char **argv, mg_error *err) {
    const mg_opt opts[] = {
        {"--all", MG_OPT_FLAG, &a->all, NULL,
         "also partial files that no journal names, and what quantize and merge computed and keep for a rerun: nothing "
         "says whether a run still uses those"},
        {"--dry-run", MG_OPT_FLAG, &a->dry_run, NULL, "say what would be removed; touch nothing"},
        {"--json", MG_OPT_FLAG, &a->json, NULL, "result as JSON on stdout"},
        {0}};
    MG_TRY(mg_options_parse(&tool, opts, argc, argv, &a->pos, &a->done, err));
    if (a->done) return MG_OK;
    if (a->pos.n == 0) return mg_fail(err, MG_ERR_USAGE, "no directory given");
    for (size_t i = 0; i < a->pos.n; i++)
        if (mg_path_exists(a->pos.items[i]) && !mg_path_is_dir(a->pos.items[i]))
            return mg_fail(err, MG_ERR_USAGE, "'%s' is no directory", a->pos.items[i]);
    return MG_OK;
}

typedef struct run {
    const args *a;
    mg_json *removed, *kept; /* with --json */
    uint64_t files, bytes;
} run;

static void found(void *ctx, const char *dir, const char *name, uint64_t bytes, const char *why) {
    run *r = ctx;
    if (!why) {
        r->files++;
        r->bytes += bytes;
    }
    if (r->a->json) {
        mg_json *o = mg_json_new_object();
        char *path = NULL;
        if (asprintf(&path, "%s/%s", dir, name) >= 0) mg_json_set_str(o, "path", path);
        free(path);
        mg_json_set_u64(o, "bytes", bytes);
        if (why) mg_json_set_str(o, "why", why);
        mg_json_push(why ? r->kept : r->removed, o);
    } else if (why) {
        printf("kept     %s/%s: %s\n", dir, name, why);
    } else {
        printf("%s %s/%s (%llu bytes)\n", r->a->dry_run ? "would go" : "removed ", dir, name,
               (unsigned long long)bytes);
    }
}

/* ---- what is kept for a rerun ---- */

static bool ends_with(const char *s, const char *tail) {
    const size_t n = strlen(s), k = strlen(tail);
    return n > k && !strcmp(s + n - k, tail);
}

/* A safetensors file that carries the id of a stage (convert/stage_id.h). */
static bool is_stage_file(const char *path) {
    mg_error unused = {0};
    mg_checkpoint *c;
    struct stat st;
    if (!ends_with(path, ".safetensors") || lstat(path, &st) != 0 || !S_ISREG(st.st_mode)) return false;
    if (mg_checkpoint_open(&c, path, &unused) != MG_OK) return false;
    const bool is = c->st_metadata && mg_kvs_get(c->st_metadata, "stage_id");
    mg_checkpoint_free(c);
    return is;
}

static mg_status clean_stage_file(run *r, const char *dir, const char *name, mg_error *err) {
    char path[4096];
    struct stat st;
    MG_TRY(mg_path_join(path, sizeof path, dir, name, err));
    if (!is_stage_file(path) || lstat(path, &st) != 0) return MG_OK;
    if (!r->a->all) {
        found(r, dir, name, (uint64_t)st.st_size, "kept for a rerun (--all removes it)");
        return MG_OK;
    }
    if (!r->a->dry_run && unlink(path) != 0) return mg_fail_errno(err, "cannot remove '%s'", path);
    found(r, dir, name, (uint64_t)st.st_size, NULL);
    return MG_OK;
}

static mg_status clean_stage_files(run *r, const char *dir, bool inside, mg_error *err);

/* The work folder ".NAME.stage", or ".NAME.replay" of verify, which has such folders and files in it: it goes when
 * nothing of somebody else's is in it. */
static mg_status clean_stage_dir(run *r, const char *dir, const char *name, mg_error *err) {
    char path[4096];
    const mg_clean_options opt = {.dry_run = r->a->dry_run, .orphans = r->a->all};
    MG_TRY(mg_path_join(path, sizeof path, dir, name, err));
    MG_TRY(mg_outset_clean(path, &opt, found, r, err));
    MG_TRY(clean_stage_files(r, path, ends_with(name, ".stage"), err));
    if (r->a->all && !r->a->dry_run) (void)rmdir(path); /* fails when it is not empty, and then stays */
    return MG_OK;
}

/* In a directory only hidden names are looked at, inside a work folder all. */
static mg_status clean_stage_files(run *r, const char *dir, bool inside, mg_error *err) {
    struct dirent **all;
    const int n = scandir(dir, &all, NULL, alphasort);
    if (n < 0) return mg_fail_errno(err, "cannot read '%s'", dir);
    mg_status st = MG_OK;
    for (int i = 0; i < n; i++) {
        const char *name = all[i]->d_name;
        char path[4096];
        struct stat sb;
        const bool ours = inside || name[0] == '.';
        if (st == MG_OK && ours && !inside && (ends_with(name, ".stage") || ends_with(name, ".replay")) &&
            mg_path_join(path, sizeof path, dir, name, NULL) == MG_OK && lstat(path, &sb) == 0 && S_ISDIR(sb.st_mode))
            st = clean_stage_dir(r, dir, name, err);
        else if (st == MG_OK && ours)
            st = clean_stage_file(r, dir, name, err);
        free(all[i]);
    }
    free(all);
    return st;
}

/* ---- temporary folders ---- */

typedef struct swept {
    run *r;
    const char *dir;
} swept;

static void found_folder(void *ctx, const char *name, uint64_t bytes) {
    const swept *s = ctx;
    found(s->r, s->dir, name, bytes, NULL);
}

/* ---- the run ---- */

static mg_status print_json(run *r, mg_error *err) {
    mg_json *root = mg_json_new_object();
    char *text;
    mg_json_set_i64(root, "schema", 1);
    mg_json_set_u64(root, "files", r->files);
    mg_json_set_u64(root, "bytes", r->bytes);
    mg_json_set(root, "removed", r->removed);
    mg_json_set(root, "kept", r->kept);
    r->removed = r->kept = NULL;
    mg_status st = mg_json_print(&text, root, 0, err);
    mg_json_free(root);
    if (st != MG_OK) return st;
    puts(text);
    free(text);
    return MG_OK;
}

static mg_status work(run *r, const args *a, mg_error *err) {
    const mg_clean_options opt = {.dry_run = a->dry_run, .orphans = a->all};
    r->removed = mg_json_new_array();
    r->kept = mg_json_new_array();
    for (size_t i = 0; i < a->pos.n; i++) {
        MG_TRY(mg_outset_clean(a->pos.items[i], &opt, found, r, err));
        MG_TRY(clean_stage_files(r, a->pos.items[i], false, err));
        swept s = {r, a->pos.items[i]};
        mg_tempdir_sweep(s.dir, a->dry_run, found_folder, &s);
    }
    if (a->json) return print_json(r, err);
    printf("%llu files, %llu bytes%s\n", (unsigned long long)r->files, (unsigned long long)r->bytes,
           a->dry_run ? " would be removed" : " removed");
    return MG_OK;
}

int main(int argc, char **argv) {
    args a = {0};
    run r = {.a = &a};
    mg_error err = {0};
    mg_status st = parse(&a, argc, argv, &err);
    if (st == MG_OK && !a.done) st = work(&r, &a, &err);
    mg_json_free(r.removed);
    mg_json_free(r.kept);
    mg_opt_list_release(&a.pos);
    return st == MG_OK ? 0 : mg_tool_fail(&tool, &err);
}
