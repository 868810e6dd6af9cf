/* tool_edit.c - moegraft-edit: metadata of a GGUF, config and template of a directory; tensor bytes are proven
 * untouched. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "convert/edit_dir.h"
#include "convert/plan.h"
#include "formats/base/file.h"
#include "formats/hf_cache.h"
#include "formats/arch/arch_file.h"
#include "formats/base/options.h"
#include "formats/base/pool.h"
#include "formats/base/utf8.h"
#include "formats/gguf.h"

#define VALUE_CAP (64u << 20) /* bytes of a --set-file */

static const mg_tool_info tool = {
    .name = "edit",
    .summary = "GGUF metadata, or config and chat template of a directory",
    .synopsis = "IN [OUT] --set KEY=VALUE --set-file KEY=FILE --remove KEY",
    .examples = "  moegraft-edit model.gguf --set general.name='My model' --remove general.url\n"
                "  moegraft-edit model.gguf fixed.gguf --set-file tokenizer.chat_template=template.jinja\n"
                "  moegraft-edit model.gguf --set general.priority=u32:3 --set general.tags='[\"moe\",\"en\"]'\n"
                "  moegraft-edit model/ --set rope_theta=500000 --set generation_config.temperature=0.7\n",
    .next = "moegraft inspect IN --kv",
};

typedef struct args {
    mg_common c;
    mg_opt_list pos, set, set_file, remove;
    const char *in, *out; /* out NULL: in place */
    mg_kv_edit *edits;
    size_t n_edits;
    char **owned; /* [2 * n_edits] the key of each, and the content of its file */
} args;

static void warn(const char *text) {
    fprintf(stderr, "moegraft-edit: warning: %s\n", text);
}

/* KEY=VALUE into an edit; the key is a copy, the text points into the argument or, from a file, is owned too. */
static mg_status read_edit(args *a, const char *text, bool from_file, mg_error *err) {
    const char *eq = strchr(text, '=');
    if (!eq || eq == text)
        return mg_fail(err, MG_ERR_USAGE, "'%s' is not of the form KEY=%s", text, from_file ? "FILE" : "VALUE");
    mg_kv_edit *e = &a->edits[a->n_edits];
    char **own = &a->owned[2 * a->n_edits];
    own[0] = strndup(text, (size_t)(eq - text));
    if (!own[0]) return mg_fail_nomem(err, strlen(text));
    a->n_edits++;
    *e = (mg_kv_edit){.key = own[0], .text = eq + 1, .n = strlen(eq + 1), .from_file = from_file};
    if (!from_file) return MG_OK;
    MG_TRY(mg_file_slurp(eq + 1, VALUE_CAP, &own[1], &e->n, err));
    e->text = own[1];
    return MG_OK;
}

static mg_status read_edits(args *a, mg_error *err) {
    const size_t n = a->set.n + a->set_file.n;
    a->edits = calloc(n + 1, sizeof *a->edits);
    a->owned = calloc(2 * n + 1, sizeof *a->owned);
    if (!a->edits || !a->owned) return mg_fail_nomem(err, n * sizeof *a->edits);
    for (size_t i = 0; i < a->set.n; i++) MG_TRY(read_edit(a, a->set.items[i], false, err));
    for (size_t i = 0; i < a->set_file.n; i++) MG_TRY(read_edit(a, a->set_file.items[i], true, err));
    if (n + a->remove.n == 0) return mg_fail(err, MG_ERR_USAGE, "nothing to do: --set, --set-file or --remove");
    return MG_OK;
}

static void args_release(args *a) {
    for (size_t i = 0; a->owned && i < 2 * a->n_edits; i++) free(a->owned[i]);
    free(a->owned);
    free(a->edits);
    mg_opt_list_release(&a->pos);
    mg_opt_list_release(&a->set);
    mg_opt_list_release(&a->set_file);
    mg_opt_list_release(&a->remove);
    mg_common_release(&a->c);
}

static mg_status parse(args *a, int argc, char **argv, bool *done, mg_error *err) {
    const mg_opt opts[] = {
        {NULL, MG_OPT_GROUP, NULL, NULL, "Edits"},
        {"--set", MG_OPT_LIST, &a->set, "KEY=VALUE", "set a key; repeatable. New keys: KEY=TYPE:VALUE states a type"},
        {"--set-file", MG_OPT_LIST, &a->set_file, "KEY=FILE", "set a key to the content of a file; repeatable"},
        {"--remove", MG_OPT_LIST, &a->remove, "KEY", "remove a key; repeatable"},
        MG_COMMON_WRITE_OPTS(a->c),
        MG_ARCH_OPT,
        MG_COMMON_JSON_OPT(a->c),
        MG_COMMON_EXEC_OPTS(a->c),
        {0},
    };
    MG_TRY(mg_options_parse(&tool, opts, argc, argv, &a->pos, done, err));
    if (*done) return MG_OK;
    MG_TRY(mg_common_finish(&a->c, err));
    if (a->pos.n < 1 || a->pos.n > 2)
        return mg_fail(err, MG_ERR_USAGE, "expected IN and perhaps OUT, found %zu arguments", a->pos.n);
    a->in = a->pos.items[0];
    a->out = a->pos.n == 2 ? a->pos.items[1] : NULL;
    return read_edits(a, err);
}

static mg_status print_json(mg_json *root, mg_error *err) {
    char *text;
    mg_status st = mg_json_print(&text, root, 0, err);
    if (st == MG_OK) {
        puts(text);
        free(text);
    }
    mg_json_free(root);
    return st;
}

/* ---- GGUF ---- */

/* A value for a message: strings cut after SHOWN bytes, arrays as type and length. NULL: absent. */
static mg_json *value_json(const mg_kv *v) {
    enum { SHOWN = 200 };
    char text[SHOWN + 8];
    mg_str s;
    bool b;
    int64_t i;
    uint64_t u;
    double d;
    if (!v) return mg_json_new_null();
    if (v->type == MG_KV_ARR) {
        snprintf(text, sizeof text, "%s[%llu]", mg_kv_type_name(v->elem), (unsigned long long)v->count);
        return mg_json_new_str(text);
    }
    if (mg_kv_str(v, &s)) {
        const size_t n = mg_utf8_valid_prefix((const uint8_t *)s.data, s.size < SHOWN ? s.size : SHOWN);
        snprintf(text, sizeof text, "%.*s%s", (int)n, s.data, n < s.size ? "..." : "");
        return mg_json_new_str(text);
    }
    if (v->type == MG_KV_BOOL && mg_kv_bool(v, &b)) return mg_json_new_bool(b);
    if (mg_kv_i64(v, &i)) return mg_json_new_i64(i);
    if (mg_kv_u64(v, &u)) return mg_json_new_u64(u);
    return mg_kv_f64(v, &d) ? mg_json_new_f64(d) : mg_json_new_null();
}

static mg_json *change_json(const char *key, const mg_kv *before, const mg_kv *after) {
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "key", key);
    mg_json_set_str(o, "type", mg_kv_type_name(after ? after->type : before->type));
    mg_json_set(o, "before", value_json(before));
    mg_json_set(o, "after", value_json(after));
    return o;
}

/* Every key that an edit names, once. */
static mg_json *changes_json(const args *a, const mg_kvs *before, const mg_kvs *after) {
    mg_json *list = mg_json_new_array();
    for (size_t i = 0; i < a->remove.n; i++)
        if (!mg_kvs_get(after, a->remove.items[i]))
            mg_json_push(list, change_json(a->remove.items[i], mg_kvs_get(before, a->remove.items[i]), NULL));
    for (size_t i = 0; i < a->n_edits; i++)
        mg_json_push(list, change_json(a->edits[i].key, mg_kvs_get(before, a->edits[i].key),
                                       mg_kvs_get(after, a->edits[i].key)));
    return list;
}

static mg_status print_changes(const mg_json *list, mg_error *err) {
    for (const mg_json *c = mg_json_first(list); c; c = mg_json_next(c)) {
        char *before = NULL, *after = NULL;
        mg_status st = mg_json_print(&before, mg_json_get(c, "before"), 0, err);
        if (st == MG_OK) st = mg_json_print(&after, mg_json_get(c, "after"), 0, err);
        if (st == MG_OK)
            printf("%s (%s): %s -> %s\n", mg_json_str(mg_json_get(c, "key")), mg_json_str(mg_json_get(c, "type")),
                   before, after);
        free(before);
        free(after);
        MG_TRY(st);
    }
    return MG_OK;
}

/* Does the result still open as a model when the source did? */
static mg_status check_model(mg_plan *p, uint32_t out, mg_checkpoint *in, mg_error *err) {
    mg_model *m;
    mg_checkpoint *c;
    mg_error why = {0};
    if (mg_model_open(&m, in, &why) != MG_OK) return MG_OK;
    mg_model_free(m);
    MG_TRY(mg_plan_checkpoint(p, out, &c, err));
    why = (mg_error){0};
    if (mg_model_open(&m, c, &why) == MG_OK) {
        mg_model_free(m);
    } else {
        char text[1536];
        snprintf(text, sizeof text, "with these keys it is no model that moegraft can read any more: %s", why.message);
        warn(text);
    }
    mg_checkpoint_free(c);
    return MG_OK;
}

static mg_status make_plan(mg_plan *p, mg_checkpoint *in, const mg_kvs *kv, const char *path, uint32_t *out,
                           mg_error *err) {
    MG_TRY(mg_plan_add_output(p, MG_OUT_GGUF, path, out, err));
    for (uint32_t t = 0; t < in->n_tensors; t++) {
        const mg_expr *e;
        MG_TRY(mg_expr_source(p, in, t, &e, err));
        MG_TRY(mg_plan_add_tensor(p, *out, in->tensors[t].name, e, err));
    }
    return mg_plan_set_kv(p, *out, kv, err);
}

static void add_result(mg_json *root, const mg_exec_result *res) {
    mg_json *t = mg_json_new_object(), *files = mg_json_new_array(), *f = mg_json_new_object();
    mg_json_set_u64(t, "count", res->copies.tensors);
    mg_json_set_u64(t, "bytes", res->copies.bytes);
    mg_json_set_str(t, "xxh3_before", res->copies.before);
    mg_json_set_str(t, "xxh3_after", res->copies.after);
    mg_json_set(root, "tensors", t);
    mg_json_set_str(f, "path", res->files[0].path);
    mg_json_set_u64(f, "size", res->files[0].size);
    mg_json_set_str(f, "sha256", res->files[0].sha256);
    mg_json_push(files, f);
    mg_json_set(root, "files", files);
}

static mg_status execute(const args *a, mg_plan *p, mg_json *root, mg_error *err) {
    const mg_exec_options eo = {.threads = a->c.n_threads,
                                .memory = a->c.memory,
                                .restart = a->c.restart,
                                .force = a->c.force || !a->out,
                                .in_place = !a->out,
                                .progress = a->c.progress,
                                .label = "edit",
                                .verify_copies = true};
    mg_exec_result res;
    MG_TRY(mg_plan_execute(p, &eo, &res, err));
    const mg_job_cost cost = {
        .label = "edit", .read = res.bytes_read, .written = res.bytes_written, .sha256 = res.files[0].sha256};
    add_result(root, &res);
    if (!a->c.json)
        printf("%u tensors, %llu bytes: xxh3 %s before, %s after\n%s  %s\n", (unsigned)res.copies.tensors,
               (unsigned long long)res.copies.bytes, res.copies.before, res.copies.after, res.files[0].sha256,
               res.files[0].path);
    fflush(stdout);
    if (!a->c.quiet) mg_progress_cost(stderr, a->c.progress, &cost);
    return MG_OK;
}

/* A manifest of ours beside a file that is replaced describes what was there before. */
static void warn_manifest(const char *path) {
    char name[4352];
    const int n = snprintf(name, sizeof name, "%s.manifest.json", path);
    if (n > 0 && (size_t)n < sizeof name && mg_path_exists(name)) {
        char text[4608];
        snprintf(text, sizeof text, "'%s' describes the file before the edit; its hashes of tensors still hold", name);
        warn(text);
    }
}

/* True when an interrupted run on path left its journal. */
static bool is_pending(const char *path) {
    char dir[4096];
    const char *slash = strrchr(path, '/');
    const int n =
        slash ? snprintf(dir, sizeof dir, "%.*s/", (int)(slash - path), path) : snprintf(dir, sizeof dir, ".");
    return n > 0 && (size_t)n < sizeof dir && mg_outset_pending(dir, slash ? slash + 1 : path);
}

static mg_status run_plan(const args *a, mg_checkpoint *in, const mg_kvs *kv, bool changed, mg_json *root,
                          mg_error *err) {
    mg_plan *p;
    uint32_t out;
    if (a->c.dry_run) return MG_OK;
    if (!a->out && !changed && !is_pending(a->in)) {
        if (!a->c.json) printf("%s: nothing to change\n", a->in);
        return MG_OK;
    }
    MG_TRY(mg_plan_new(&p, err));
    mg_status st = make_plan(p, in, kv, a->out ? a->out : a->in, &out, err);
    if (st == MG_OK) st = check_model(p, out, in, err);
    if (st == MG_OK) st = execute(a, p, root, err);
    mg_plan_free(p);
    if (st == MG_OK && !a->out) warn_manifest(a->in);
    return st;
}

/* What is written in place of a file gets its permissions (set execute bits aside). */
static void keep_mode(const char *path) {
    struct stat st;
    if (stat(path, &st) == 0) umask(~st.st_mode & 0777);
}

static mg_status check_in_place(const args *a, const mg_checkpoint *in, mg_error *err) {
    struct stat st;
    if (in->n_files > 1)
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "'%s' is the first of %u parts: join them first (moegraft-convert IN OUT.gguf)", a->in,
                       in->n_files);
    if (a->out) return MG_OK;
    keep_mode(a->in);
    if (lstat(a->in, &st) != 0 || !S_ISLNK(st.st_mode)) return MG_OK;
    return mg_fail(err, MG_ERR_USAGE, "'%s' is a symbolic link: name the file it leads to, or an OUT", a->in);
}

static mg_status edit_gguf(const args *a, mg_checkpoint *in, mg_error *err) {
    mg_kvs kv;
    bool changed;
    mg_kvs_init(&kv);
    mg_status st = check_in_place(a, in, err);
    if (st == MG_OK) st = mg_kvs_edit(&kv, in->kv, a->edits, a->n_edits, a->remove.items, a->remove.n, &changed, err);
    mg_json *root = st == MG_OK ? mg_json_new_object() : NULL;
    if (st == MG_OK) {
        mg_json *list = changes_json(a, in->kv, &kv);
        mg_json_set_i64(root, "schema", 1);
        mg_json_set_str(root, "path", a->out ? a->out : a->in);
        mg_json_set_bool(root, "changed", changed);
        if (!a->c.json) st = print_changes(list, err);
        mg_json_set(root, "changes", list);
    }
    if (st == MG_OK) st = run_plan(a, in, &kv, changed, root, err);
    if (st == MG_OK && a->c.json)
        st = print_json(root, err);
    else
        mg_json_free(root);
    mg_kvs_release(&kv);
    return st;
}

/* ---- directories ---- */

static void check_config(const mg_dir_edit *e) {
    mg_model *m;
    mg_error why = {0};
    if (!e->files[MG_EDIT_CONFIG].now) return;
    if (mg_model_from_config(&m, e->files[MG_EDIT_CONFIG].now, &why) == MG_OK) {
        mg_model_free(m);
        return;
    }
    char text[1536];
    snprintf(text, sizeof text, "with this config.json it is no model that moegraft can read: %s", why.message);
    warn(text);
}

static mg_status report_dir(const args *a, const mg_dir_edit *e, mg_error *err) {
    mg_json *root = mg_json_new_object(), *list = mg_json_new_array();
    mg_status st = MG_OK;
    for (int i = 0; i < MG_EDIT_JSONS && st == MG_OK; i++) {
        bool changed;
        st = mg_dir_edit_changed(e, i, &changed, err);
        if (st == MG_OK && changed) mg_json_push(list, mg_json_new_str(mg_dir_edit_file(i)));
    }
    if (e->template_file || e->remove_template) mg_json_push(list, mg_json_new_str("chat_template.jinja"));
    mg_json_set_i64(root, "schema", 1);
    mg_json_set_str(root, "path", a->in);
    mg_json_set_bool(root, "changed", mg_json_len(list) > 0);
    if (!a->c.json) {
        if (mg_json_len(list) == 0) printf("%s: nothing to change\n", a->in);
        for (const mg_json *f = mg_json_first(list); f; f = mg_json_next(f))
            printf("%s/%s %s\n", a->in, mg_json_str(f), a->c.dry_run ? "would change" : "changed");
    }
    mg_json_set(root, "files", list);
    if (st == MG_OK && a->c.json) return print_json(root, err);
    mg_json_free(root);
    return st;
}

static mg_status edit_dir(const args *a, mg_error *err) {
    mg_dir_edit e = {0};
    char config[4096];
    if (a->out)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "a directory is edited in place: copy it first, then edit the copy");
    MG_TRY(mg_path_join(config, sizeof config, a->in, mg_dir_edit_file(MG_EDIT_CONFIG), err));
    keep_mode(config);
    mg_status st = mg_dir_edit_prepare(&e, a->in, a->edits, a->n_edits, a->remove.items, a->remove.n, err);
    if (st == MG_OK) check_config(&e);
    if (st == MG_OK && !a->c.dry_run) st = mg_dir_edit_write(&e, err);
    if (st == MG_OK) st = report_dir(a, &e, err);
    mg_dir_edit_release(&e);
    return st;
}

/* The cache belongs to its own tools: its files are shared between snapshots. */
static mg_status check_not_cached(const args *a, mg_error *err) {
    char found[4096];
    bool cached;
    MG_TRY(mg_hf_resolve(found, sizeof found, a->in, &cached, err));
    if (!cached || a->out) return MG_OK;
    return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' is in the Hugging Face cache, which is not edited: copy it first",
                   a->in);
}

static mg_status run(const args *a, mg_error *err) {
    if (mg_path_is_dir(a->in)) return edit_dir(a, err);
    if (a->out && mg_path_is_dir(a->out)) return mg_fail(err, MG_ERR_USAGE, "'%s' is a directory", a->out);
    mg_checkpoint *in;
    MG_TRY(check_not_cached(a, err));
    MG_TRY(mg_checkpoint_open(&in, a->in, err));
    mg_status st = in->kv ? edit_gguf(a, in, err)
                          : mg_fail(err, MG_ERR_UNSUPPORTED, "only a GGUF or a model directory has metadata to edit");
    mg_checkpoint_free(in);
    return st;
}

int main(int argc, char **argv) {
    args a = {0};
    mg_error err = {0};
    bool done = false;
    mg_common_init(&a.c);
    mg_interrupt_install();
    mg_status st = parse(&a, argc, argv, &done, &err);
    if (st == MG_OK && !done) st = run(&a, &err);
    args_release(&a);
    mg_tool_info t = tool;
    if (st == MG_ERR_INTERRUPTED || st == MG_ERR_TERMINATED)
        t.next = "the same command again continues where this one stopped";
    return st == MG_OK ? 0 : mg_tool_fail(&t, &err);
}
