/* tool_replay.c - see tool_replay.h. A manifest is hostile: what it says goes into the words of one of the tools below
 * and nowhere else, names are plain, files are known by their hash, and outputs lie in the work folder. */
#include "verify/tool_replay.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "convert/merge_yaml.h"
#include "convert/tool_runs.h"
#include "formats/arch/arch_file.h"
#include "formats/base/file.h"

enum { MAX_WORDS = 4096 };

/* ---- files ---- */

typedef struct wanted {
    const char *name, *sha256;
    uint64_t size;
    bool named; /* by a file that comes before it */
    char changed[1024];
} wanted;

static bool ends_in(const char *text, const char *end) {
    const size_t n = strlen(text), k = strlen(end);
    return n >= k && strcasecmp(text + n - k, end) == 0;
}

static bool is_called(const char *path, const char *name) {
    const char *slash = strrchr(path, '/');
    return strcmp(slash ? slash + 1 : path, name) == 0;
}

/* Is it the file? One of the name, or given and of the kind, that is not is remembered. */
static bool is_file(wanted *w, const char *path, bool given) {
    mg_file f;
    mg_error e = {0};
    char hex[65];
    if (!mg_path_exists(path) || mg_path_is_dir(path) || mg_file_open(&f, path, &e) != MG_OK) return false;
    const uint64_t size = f.size;
    mg_file_close(&f);
    const char *dot = strrchr(w->name, '.');
    const bool like = is_called(path, w->name) || (given && dot && ends_in(path, dot));
    if ((size != w->size && (!like || w->changed[0])) || mg_sha256_file(path, hex, &e) != MG_OK) return false;
    if (size == w->size && strcmp(hex, w->sha256) == 0) return true;
    if (like && !w->changed[0])
        snprintf(w->changed, sizeof w->changed, "'%s' has the sha256 %s, '%.200s' had %s", path, hex, w->name,
                 w->sha256);
    return false;
}

static mg_status try_in(wanted *w, const char *dir, const char *name, bool *found, char path[4096], mg_error *err) {
    if (*found) return MG_OK;
    MG_TRY(mg_path_join(path, 4096, dir, name, err));
    *found = is_file(w, path, false);
    return MG_OK;
}

static void dir_of(const char *path, char dir[4096]) {
    const char *slash = strrchr(path, '/');
    snprintf(dir, 4096, "%.*s", slash ? (int)(slash - path + 1) : 1, slash ? path : ".");
}

/* Look for w; recipe: the path of the recipe that may name it, or NULL. */
static mg_status find(const mg_tool_replay *o, wanted *w, const char *recipe, bool *found, char path[4096],
                      mg_error *err) {
    char dir[4096 + 4];
    *found = false;
    if (w->named && recipe) {
        dir_of(recipe, dir);
        MG_TRY(try_in(w, dir, w->name, found, path, err));
    }
    for (size_t i = 0; !*found && i < o->n_places; i++) {
        *found = is_file(w, o->places[i], true);
        if (*found) snprintf(path, 4096, "%s", o->places[i]);
        MG_TRY(try_in(w, o->places[i], w->name, found, path, err));
    }
    snprintf(dir, sizeof dir, "%s/..", o->p->dir);
    const char *const usual[] = {o->p->dir, dir, "."};
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) MG_TRY(try_in(w, usual[i], w->name, found, path, err));
    /* a copy of its recipe is part of a merge */
    if (ends_in(w->name, ".yml") || ends_in(w->name, ".yaml"))
        MG_TRY(try_in(w, o->p->dir, "mergekit_moe_config.yml", found, path, err));
    return MG_OK;
}

static mg_status find_file(const mg_tool_replay *o, uint64_t number, const char *recipe, const char **out,
                           mg_error *err) {
    const mg_json *v = mg_json_first(mg_json_get(o->p->made, "files"));
    char path[4096];
    bool found;
    for (uint64_t i = 0; v && i < number; i++) v = mg_json_next(v);
    wanted w = {.name = mg_json_str(mg_json_get(v, "name")), .sha256 = mg_json_str(mg_json_get(v, "sha256"))};
    w.named = mg_json_get(v, "named_by") != NULL;
    if (!w.name || !w.sha256 || !mg_json_u64(mg_json_get(v, "size"), &w.size))
        return mg_fail(err, MG_ERR_FORMAT, "the manifest lacks the name, size or sha256 of file %" PRIu64, number);
    MG_TRY(mg_path_check_plain(w.name, err));
    MG_TRY(find(o, &w, recipe, &found, path, err));
    if (!found && w.changed[0]) return mg_fail(err, MG_ERR_INTEGRITY, "%s", w.changed);
    if (!found) return mg_fail(err, MG_ERR_IO, "'%s' (sha256 %s) is not found: name its path", w.name, w.sha256);
    *out = mg_arena_strdup((mg_arena *)&o->p->arena, path);
    return *out ? MG_OK : mg_fail_nomem(err, strlen(path));
}

mg_status mg_tool_replay_file(const mg_tool_replay *o, const char *option, const char **path, mg_error *err) {
    uint64_t number;
    *path = NULL;
    for (const mg_json *v = mg_json_first(mg_json_get(o->p->made, "options")); v; v = mg_json_next(v)) {
        const mg_json *name = mg_json_first(v);
        if (mg_json_str(name) && strcmp(mg_json_str(name), option) == 0 &&
            mg_json_u64(mg_json_get(mg_json_next(name), "file"), &number))
            return find_file(o, number, NULL, path, err);
    }
    return MG_OK;
}

/* ---- the words ---- */

typedef struct replay {
    const mg_tool_replay *o;
    mg_arena arena;
    const char **files; /* [n_files] found */
    uint64_t n_files;
    char work[4096];
    char **argv;
    int argc;
    bool is_arch; /* the option being read: it was loaded before models were opened */
} replay;

static mg_status push(replay *r, const char *word, mg_error *err) {
    if (r->argc == MAX_WORDS) return mg_fail(err, MG_ERR_LIMIT, "the manifest records more than %d words", MAX_WORDS);
    r->argv[r->argc] = mg_arena_strdup(&r->arena, word);
    return r->argv[r->argc++] ? MG_OK : mg_fail_nomem(err, strlen(word));
}

static mg_status input_path(const replay *r, uint64_t input, const char **path, mg_error *err) {
    const mg_provenance *p = r->o->p;
    if (input >= p->n_inputs)
        return mg_fail(err, MG_ERR_FORMAT, "the manifest records input %" PRIu64 " of %u", input, p->n_inputs);
    *path = p->inputs[input].path;
    return *path ? MG_OK : mg_fail(err, MG_ERR_IO, "input '%s' is not found: name its path", p->inputs[input].name);
}

static mg_status piece_text(replay *r, const mg_json *v, const char **text, mg_error *err) {
    uint64_t n;
    *text = mg_json_str(v);
    if (*text) return MG_OK;
    const char *output = mg_json_str(mg_json_get(v, "output"));
    if (mg_json_u64(mg_json_get(v, "input"), &n)) return input_path(r, n, text, err);
    if (mg_json_u64(mg_json_get(v, "file"), &n) && n < r->n_files) {
        *text = r->files[n];
        return MG_OK;
    }
    if (!output) return mg_fail(err, MG_ERR_FORMAT, "the manifest records a word that is neither text nor a file");
    MG_TRY(mg_path_check_plain(output, err));
    *text = mg_arena_printf(&r->arena, "%s/%s", r->work, output);
    return *text ? MG_OK : mg_fail_nomem(err, strlen(output));
}

static mg_status push_pieces(replay *r, const mg_json *v, mg_error *err) {
    const char *word = "";
    for (; v; v = mg_json_next(v)) {
        const char *text;
        MG_TRY(piece_text(r, v, &text, err));
        word = mg_arena_printf(&r->arena, "%s%s", word, text);
        if (!word) return mg_fail_nomem(err, strlen(text));
    }
    return push(r, word, err);
}

/* Options that a manifest never records, because they do not change what is written. */
static bool is_foreign(const char *name) {
    static const char *const names[] = {"--force", "--restart", "--dry-run", "--help", "--man", "--version"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return strncmp(name, "--", 2) != 0 || strchr(name, '=') != NULL;
}

static mg_status push_record(replay *r, mg_error *err) {
    const mg_json *made = r->o->p->made;
    for (const mg_json *v = mg_json_first(mg_json_get(made, "options")); v; v = mg_json_next(v)) {
        const mg_json *first = mg_json_first(v);
        const char *name = mg_json_str(first);
        if (!name || is_foreign(name))
            return mg_fail(err, MG_ERR_FORMAT, "the manifest records an option that changes nothing");
        if (strcmp(name, "--arch") == 0) continue; /* loaded */
        if (strcmp(name, "--output") == 0 && !mg_json_get(mg_json_next(first), "output"))
            return mg_fail(err, MG_ERR_FORMAT, "the manifest records an output that is none");
        MG_TRY(push(r, name, err));
        if (mg_json_next(first)) MG_TRY(push_pieces(r, mg_json_next(first), err));
    }
    MG_TRY(push(r, "--", err));
    for (const mg_json *v = mg_json_first(mg_json_get(made, "words")); v; v = mg_json_next(v)) {
        const char *text = mg_json_str(mg_json_first(v)); /* a TYPE: paths are never recorded as text */
        if (text) MG_TRY(mg_path_check_plain(text, err));
        MG_TRY(push_pieces(r, mg_json_first(v), err));
    }
    return MG_OK;
}

static mg_status push_common(replay *r, mg_error *err) {
    const mg_common *c = r->o->common;
    char number[32];
    snprintf(number, sizeof number, "%u", c->n_threads);
    MG_TRY(push(r, "--threads", err));
    MG_TRY(push(r, number, err));
    snprintf(number, sizeof number, "%" PRIu64, c->memory);
    if (c->memory) MG_TRY(push(r, "--memory", err));
    if (c->memory) MG_TRY(push(r, number, err));
    if (c->quiet) return push(r, "--quiet", err);
    MG_TRY(push(r, "--progress", err));
    return push(r, c->progress_name ? c->progress_name : "auto", err);
}

/* ---- before the work ---- */

/* Families that were described in files: loaded here unless --arch of verify has done it. */
static mg_status load_families(const replay *r, mg_error *err) {
    for (const mg_json *v = mg_json_first(mg_json_get(r->o->p->made, "options")); v; v = mg_json_next(v)) {
        const char *name = mg_json_str(mg_json_first(v)), *loaded;
        char ours[65], theirs[65];
        uint64_t n;
        bool have = false;
        if (!name || strcmp(name, "--arch") != 0) continue;
        if (!mg_json_u64(mg_json_get(mg_json_next(mg_json_first(v)), "file"), &n) || n >= r->n_files)
            return mg_fail(err, MG_ERR_FORMAT, "the manifest records --arch without a file");
        MG_TRY(mg_sha256_file(r->files[n], ours, err));
        for (uint32_t i = 0; (loaded = mg_arch_loaded(i)); i++) {
            MG_TRY(mg_sha256_file(loaded, theirs, err));
            have = have || strcmp(ours, theirs) == 0;
        }
        if (!have) MG_TRY(mg_arch_load(r->files[n], err));
    }
    return MG_OK;
}

static mg_status find_files(replay *r, mg_error *err) {
    const mg_json *files = mg_json_get(r->o->p->made, "files");
    r->n_files = mg_json_len(files);
    MG_TRY(MG_ARENA_NEW(&r->arena, &r->files, r->n_files + 1, err));
    const char *recipe = NULL; /* what it names comes behind it */
    for (uint64_t i = 0; i < r->n_files; i++) {
        MG_TRY(find_file(r->o, i, recipe, &r->files[i], err));
        if (ends_in(r->files[i], ".yml") || ends_in(r->files[i], ".yaml")) recipe = r->files[i];
    }
    return MG_OK;
}

/* Recipes say where models were; here they are where inputs were found. Of several of one name each recipe knows which
 * is which, so that its own word counts. */
static mg_status know_inputs(replay *r, mg_error *err) {
    const mg_provenance *p = r->o->p;
    const char **names, **paths;
    size_t n = 0;
    MG_TRY(MG_ARENA_NEW(&r->arena, &names, p->n_inputs + 1u, err));
    MG_TRY(MG_ARENA_NEW(&r->arena, &paths, p->n_inputs + 1u, err));
    for (uint32_t i = 0; i < p->n_inputs; i++) {
        uint32_t of_name = 0;
        for (uint32_t k = 0; k < p->n_inputs; k++) of_name += strcmp(p->inputs[k].name, p->inputs[i].name) == 0;
        if (!p->inputs[i].path || of_name > 1) continue;
        names[n] = p->inputs[i].name;
        paths[n++] = p->inputs[i].path;
    }
    mg_merge_yaml_known(names, paths, n);
    return MG_OK;
}

static mg_status make_work(replay *r, mg_error *err) {
    const char *output = mg_json_str(mg_json_get(r->o->p->manifest, "output"));
    if (!output) return mg_fail(err, MG_ERR_FORMAT, "the manifest names no output");
    MG_TRY(mg_path_check_plain(output, err));
    const int n = r->o->work ? snprintf(r->work, sizeof r->work, "%s", r->o->work)
                             : snprintf(r->work, sizeof r->work, "%s/.%s.replay", r->o->p->dir, output);
    if (n < 0 || (size_t)n >= sizeof r->work) return mg_fail(err, MG_ERR_LIMIT, "path of %d bytes", n);
    mg_status st = mg_path_mkdir(r->work, err);
    return st;
}

typedef mg_status (*run_fn)(int argc, char **argv, const mg_tool_sink *sink, mg_error *err);

static mg_status find_tool(const mg_json *made, run_fn *run, mg_error *err) {
    static const struct {
        const mg_tool_info *info;
        run_fn run;
    } tools[] = {{&mg_tool_merge_info, mg_tool_merge_run},
                 {&mg_tool_quantize_info, mg_tool_quantize_run},
                 {&mg_tool_graft_info, mg_tool_graft_run},
                 {&mg_tool_extract_info, mg_tool_extract_run},
                 {&mg_tool_convert_info, mg_tool_convert_run}};
    const char *name = mg_json_str(mg_json_get(made, "tool"));
    uint64_t version = 0;
    if (!name || !mg_json_u64(mg_json_get(made, "version"), &version))
        return mg_fail(err, MG_ERR_FORMAT, "the manifest does not say what made it");
    if (version != MG_RECORD_VERSION)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "the manifest records options in version %" PRIu64 ", expected %d",
                       version, MG_RECORD_VERSION);
    *run = NULL;
    for (size_t i = 0; i < sizeof tools / sizeof *tools; i++)
        if (strcmp(tools[i].info->name, name) == 0) *run = tools[i].run;
    return *run ? MG_OK : mg_fail(err, MG_ERR_UNSUPPORTED, "the work of '%.40s' cannot be done again", name);
}

/* ---- the work ---- */

static mg_status run(replay *r, const mg_tool_sink *sink, mg_error *err) {
    run_fn tool;
    MG_TRY(find_tool(r->o->p->made, &tool, err));
    MG_TRY(find_files(r, err));
    MG_TRY(load_families(r, err));
    MG_TRY(mg_provenance_sides(r->o->p, err));
    MG_TRY(know_inputs(r, err));
    MG_TRY(make_work(r, err));
    MG_TRY(push(r, mg_json_str(mg_json_get(r->o->p->made, "tool")), err));
    MG_TRY(push_common(r, err));
    MG_TRY(push_record(r, err));
    mg_status st = tool(r->argc, r->argv, sink, err);
    rmdir(r->work); /* what a stopped run left stays, and the folder with it */
    return st;
}

mg_status mg_tool_replay_run(const mg_tool_replay *o, const mg_tool_sink *sink, mg_error *err) {
    replay r = {.o = o, .argv = calloc(MAX_WORDS + 1, sizeof *r.argv)};
    if (!r.argv) return mg_fail_nomem(err, MAX_WORDS * sizeof *r.argv);
    mg_arena_init(&r.arena, 0);
    mg_status st = run(&r, sink, err);
    mg_merge_yaml_known(NULL, NULL, 0);
    mg_arena_release(&r.arena);
    free(r.argv);
    return st;
}
