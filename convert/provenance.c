/* provenance.c - see provenance.h. */
#include "convert/provenance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/expr_parse.h"
#include "convert/expr_tile.h"
#include "convert/lora.h"
#include "convert/plan_private.h"
#include "formats/base/file.h"
#include "formats/base/regex.h"
#include "quant/group_checkpoint.h"

#define MANIFEST_CAP (UINT64_C(256) << 20)

const char *mg_proof_name(mg_proof p) {
    static const char *const names[MG_PROOF_COUNT] = {
        "skipped", "same", "output differs", "input changed", "manifest differs", "not derived"};
    return names[p];
}

/* ---- the manifest ---- */

static mg_status read_tensor(mg_proof_tensor *t, const mg_json *v, mg_error *err) {
    t->name = mg_json_str(mg_json_get(v, "name"));
    t->dtype = mg_json_str(mg_json_get(v, "dtype"));
    t->file = mg_json_str(mg_json_get(v, "file"));
    t->stated = mg_json_str(mg_json_get(v, "xxh3"));
    t->recipe = mg_json_get(v, "recipe");
    bool ok = t->name && t->dtype && t->file && t->stated && t->recipe;
    ok = ok && mg_json_u64(mg_json_get(v, "offset"), &t->offset) && mg_json_u64(mg_json_get(v, "bytes"), &t->bytes);
    for (const mg_json *d = mg_json_first(mg_json_get(v, "shape")); d && ok; d = mg_json_next(d))
        ok = t->t.rank < MG_MAX_RANK && mg_json_u64(d, &t->t.shape[t->t.rank++]);
    if (!ok) return mg_fail(err, MG_ERR_FORMAT, "a tensor of the manifest lacks name, place, recipe or hash");
    return mg_path_check_plain(t->file, err);
}

static mg_status read_files(mg_provenance *p, mg_error *err) {
    const mg_json *files = mg_json_get(p->manifest, "files");
    p->n_files = (uint32_t)mg_json_len(files);
    MG_TRY(MG_ARENA_NEW(&p->arena, &p->files, p->n_files + 1u, err));
    uint32_t i = 0;
    for (const mg_json *v = mg_json_first(files); v; v = mg_json_next(v), i++) {
        p->files[i] = (mg_proof_file){.name = mg_json_str(mg_json_get(v, "name")),
                                      .stated = mg_json_str(mg_json_get(v, "sha256"))};
        if (!p->files[i].name || !p->files[i].stated)
            return mg_fail(err, MG_ERR_FORMAT, "file %u of the manifest lacks name or sha256", i);
        MG_TRY(mg_path_check_plain(p->files[i].name, err));
    }
    return MG_OK;
}

/* No model that could be opened: a work file, or what was folded of the model that a merge recipe describes. */
static bool is_made(const mg_proof_input *in) {
    if (!in->stage) return false;
    return strcmp(in->stage, "file") == 0 || (strcmp(in->stage, "folded") == 0 && !mg_json_len(in->files));
}

static mg_status read_lists(mg_provenance *p, mg_error *err) {
    const mg_json *inputs = mg_json_get(p->manifest, "inputs"), *tensors = mg_json_get(p->manifest, "tensors");
    const char *tool = mg_json_str(mg_json_get(p->manifest, "tool"));
    uint64_t schema = 0;
    if (!tool || strcmp(tool, "moegraft") != 0 || !mg_json_u64(mg_json_get(p->manifest, "schema"), &schema))
        return mg_fail(err, MG_ERR_FORMAT, "this is no manifest of ours");
    if (schema != 1) return mg_fail(err, MG_ERR_UNSUPPORTED, "manifest schema %llu", (unsigned long long)schema);
    p->made = mg_json_get(p->manifest, "made");
    p->n_inputs = (uint32_t)mg_json_len(inputs);
    p->n_tensors = (uint32_t)mg_json_len(tensors);
    MG_TRY(MG_ARENA_NEW(&p->arena, &p->inputs, p->n_inputs + 1u, err));
    MG_TRY(MG_ARENA_NEW(&p->arena, &p->tensors, p->n_tensors + 1u, err));
    uint32_t i = 0;
    for (const mg_json *v = mg_json_first(inputs); v; v = mg_json_next(v), i++) {
        p->inputs[i].name = mg_json_str(mg_json_get(v, "name"));
        p->inputs[i].files = mg_json_get(v, "files");
        p->inputs[i].sides = mg_json_get(v, "sides");
        p->inputs[i].stage = mg_json_str(mg_json_get(v, "stage"));
        p->inputs[i].made = is_made(&p->inputs[i]);
        if (!p->inputs[i].name) return mg_fail(err, MG_ERR_FORMAT, "input %u of the manifest has no name", i);
        MG_TRY(mg_path_check_plain(p->inputs[i].name, err));
    }
    i = 0;
    for (const mg_json *v = mg_json_first(tensors); v; v = mg_json_next(v), i++)
        MG_TRY(read_tensor(&p->tensors[i], v, err));
    return read_files(p, err);
}

mg_status mg_provenance_open(mg_provenance *p, const char *manifest, mg_error *err) {
    const char *slash = strrchr(manifest, '/');
    const int n = slash ? snprintf(p->dir, sizeof p->dir, "%.*s", (int)(slash - manifest), manifest)
                        : snprintf(p->dir, sizeof p->dir, ".");
    mg_arena_init(&p->arena, 0);
    if (n < 0 || (size_t)n >= sizeof p->dir) return mg_fail(err, MG_ERR_LIMIT, "path of %zu bytes", strlen(manifest));
    if (n == 0) snprintf(p->dir, sizeof p->dir, "/");
    mg_status st = mg_json_load(&p->manifest, manifest, MANIFEST_CAP, err);
    if (st == MG_OK) st = read_lists(p, err);
    if (st != MG_OK) mg_error_at(err, manifest, NULL);
    return st == MG_OK ? mg_plan_new(&p->plan, err) : st;
}

void mg_provenance_release(mg_provenance *p) {
    mg_plan_free(p->plan);
    mg_checkpoint_free(p->output);
    for (uint32_t i = 0; p->inputs && i < p->n_inputs; i++) mg_checkpoint_free(p->inputs[i].ckpt);
    mg_json_free(p->manifest);
    mg_arena_release(&p->arena);
    *p = (mg_provenance){0};
}

/* ---- which tensors ---- */

static mg_status matches(const mg_regex *re, mg_regex_run *run, const char *name, bool *found, mg_error *err) {
    size_t begin, end;
    *found = true;
    if (!re) return MG_OK;
    MG_TRY(mg_regex_run_text(run, name, strlen(name), err));
    return mg_regex_search(re, run, 0, found, &begin, &end, err);
}

mg_status mg_provenance_select(mg_provenance *p, const char *regex, uint64_t sample, mg_error *err) {
    mg_regex *re = NULL;
    mg_regex_run *run = NULL;
    uint64_t n = 0, k = 0;
    mg_status st = regex ? mg_regex_new(&re, regex, err) : MG_OK;
    if (st == MG_OK && regex) st = mg_regex_run_new(&run, err);
    for (uint32_t i = 0; st == MG_OK && i < p->n_tensors; i++) {
        bool found = false;
        st = matches(re, run, p->tensors[i].name, &found, err);
        p->tensors[i].proof = found ? MG_PROOF_NOT_DERIVED : MG_PROOF_SKIPPED;
        n += found;
    }
    mg_regex_run_free(run);
    mg_regex_free(re);
    MG_TRY(st);
    if (n == 0) return mg_fail(err, MG_ERR_USAGE, "no tensor of the manifest is selected");
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        mg_proof_tensor *t = &p->tensors[i];
        if (t->proof == MG_PROOF_SKIPPED) continue;
        /* The k-th of n is taken where k * sample / n passes a whole number. */
        const bool take = sample == 0 || sample >= n || (k + 1) * sample / n != k * sample / n;
        if (!take) t->proof = MG_PROOF_SKIPPED;
        if (take) p->selected_bytes += t->bytes;
        k++;
    }
    return MG_OK;
}

/* ---- inputs ---- */

static bool has_file(const mg_checkpoint *c, const char *name) {
    for (uint32_t i = 0; i < c->n_files; i++)
        if (strcmp(c->files[i], name) == 0) return true;
    return false;
}

/* Are the files of c those of `in`? *why names the first that is not. */
static bool same_files(const mg_proof_input *in, const mg_checkpoint *c, char *why, size_t size) {
    const char *dir = c->dir;
    for (const mg_json *f = mg_json_first(in->files); f; f = mg_json_next(f)) {
        const char *name = mg_json_str(mg_json_get(f, "name")), *hash = mg_json_str(mg_json_get(f, "edges_xxh3"));
        uint64_t want = 0, got = 0;
        char hex[33];
        mg_error e = {0};
        if (!name || !hash || !mg_json_u64(mg_json_get(f, "size"), &want) || mg_path_check_plain(name, &e) != MG_OK) {
            snprintf(why, size, "the manifest does not say what its files were");
            return false;
        }
        if (!has_file(c, name))
            snprintf(why, size, "it has no %s", name);
        else if (mg_manifest_edges(dir, name, &got, hex, &e) != MG_OK)
            snprintf(why, size, "%s cannot be read", name);
        else if (got != want)
            snprintf(why, size, "%s has %llu bytes, it had %llu", name, (unsigned long long)got,
                     (unsigned long long)want);
        else if (strcmp(hex, hash) != 0)
            snprintf(why, size, "the hash of the ends of %s is %s, it was %s", name, hex, hash);
        else
            continue;
        return false;
    }
    return true;
}

static bool is_called(const char *path, const char *name) {
    size_t n = strlen(path), k = strlen(name);
    while (n > 1 && path[n - 1] == '/') n--;
    return n >= k && memcmp(path + n - k, name, k) == 0 && (n == k || path[n - k - 1] == '/');
}

static bool casts(const mg_json *recipe) {
    const char *op = mg_json_str(mg_json_first(recipe));
    if (op && strcmp(op, "cast") == 0) return true;
    for (const mg_json *v = mg_json_first(recipe); v; v = mg_json_next(v))
        if (mg_json_type(v) == MG_JSON_ARRAY && casts(v)) return true;
    return false;
}

/* How the inputs were read: NVFP4 that nobody cast to came out of them as it was. */
static mg_group_keep kept(const mg_provenance *p) {
    for (uint32_t i = 0; i < p->n_tensors; i++)
        if (strcmp(p->tensors[i].dtype, "NVFP4") == 0 && !casts(p->tensors[i].recipe)) return MG_KEEP_FP4;
    return MG_KEEP_MXFP4;
}

static mg_status open_input(const mg_provenance *p, const mg_proof_input *in, const char *path, mg_checkpoint **c,
                            mg_error *err) {
    const char *first = mg_json_str(mg_json_get(mg_json_first(in->files), "name"));
    if (first && mg_lora_is_file(first)) return mg_lora_open_weights(c, path, err);
    if (in->stage && strcmp(in->stage, "stored") == 0) return mg_checkpoint_open(c, path, err); /* codes were copied */
    return mg_group_checkpoint_open_keeping(c, path, kept(p), err);
}

/* Try one path for an input: open when its files are the same. A path of the input's name with other files is
 * remembered in `changed`. */
static void try_path(mg_provenance *p, mg_proof_input *in, const char *path, char *changed, size_t size) {
    char why[512] = "it has another number of files";
    mg_error e = {0};
    mg_checkpoint *c = NULL;
    if (in->ckpt) return;
    if (open_input(p, in, path, &c, &e) != MG_OK) {
        if (!*changed && e.code != MG_ERR_IO && is_called(path, in->name))
            snprintf(changed, size, "'%.400s': %.300s", path, e.message);
        return;
    }
    if (c->dir && mg_json_len(in->files) == c->n_files && same_files(in, c, why, sizeof why)) {
        in->ckpt = c;
        in->path = mg_arena_strdup(&p->arena, path);
        return;
    }
    if (!*changed && is_called(path, in->name)) snprintf(changed, size, "'%s': %s", path, why);
    mg_checkpoint_free(c);
}

static void try_in(mg_provenance *p, mg_proof_input *in, const char *folder, char *changed, size_t size) {
    char path[4096];
    mg_error e = {0};
    if (mg_path_join(path, sizeof path, folder, in->name, &e) == MG_OK && mg_path_exists(path))
        try_path(p, in, path, changed, size);
}

/* Mark the inputs that a recipe names. */
static void mark(mg_provenance *p, const mg_json *recipe, unsigned depth) {
    const mg_json *v = mg_json_first(recipe);
    const char *op = mg_json_str(v);
    uint64_t input;
    if (op && strcmp(op, "source") == 0 && mg_json_u64(mg_json_next(v), &input) && input < p->n_inputs)
        p->inputs[input].needed = true;
    for (; v && depth < 2 * MG_EXPR_MAX_DEPTH; v = mg_json_next(v))
        if (mg_json_type(v) == MG_JSON_ARRAY) mark(p, v, depth + 1);
}

mg_status mg_provenance_inputs(mg_provenance *p, const char *const *places, size_t n, mg_error *err) {
    char parent[4096 + 4];
    bool all = false; /* a stage's work that is done again reads any of them */
    for (uint32_t i = 0; i < p->n_tensors; i++)
        if (p->tensors[i].proof != MG_PROOF_SKIPPED) mark(p, p->tensors[i].recipe, 0);
    for (uint32_t i = 0; i < p->n_inputs; i++) all = all || (p->made && p->inputs[i].needed && p->inputs[i].made);
    snprintf(parent, sizeof parent, "%s/..", p->dir);
    for (uint32_t i = 0; i < p->n_inputs; i++) {
        mg_proof_input *in = &p->inputs[i];
        char changed[768] = "";
        if (in->made) continue;
        for (size_t k = 0; k < n; k++) {
            try_path(p, in, places[k], changed, sizeof changed);
            try_in(p, in, places[k], changed, sizeof changed);
        }
        const char *const usual[] = {p->dir, parent, "."};
        for (size_t k = 0; k < sizeof usual / sizeof *usual; k++) try_in(p, in, usual[k], changed, sizeof changed);
        if (in->ckpt || !(in->needed || all)) continue;
        if (*changed) return mg_fail(err, MG_ERR_INTEGRITY, "input '%s' has changed: %s", in->name, changed);
        return mg_fail(err, MG_ERR_IO, "input '%s' is not found: name its path", in->name);
    }
    return MG_OK;
}

mg_status mg_provenance_sides(const mg_provenance *p, mg_error *err) {
    for (uint32_t i = 0; i < p->n_inputs; i++)
        for (const mg_json *f = p->inputs[i].ckpt ? mg_json_first(p->inputs[i].sides) : NULL; f; f = mg_json_next(f)) {
            const char *name = mg_json_str(mg_json_get(f, "name")), *want = mg_json_str(mg_json_get(f, "xxh3"));
            char hex[33];
            uint64_t size;
            if (!name || !want) return mg_fail(err, MG_ERR_FORMAT, "input %u of the manifest: files without names", i);
            MG_TRY(mg_path_check_plain(name, err));
            MG_TRY(mg_manifest_side(p->inputs[i].ckpt->dir, name, &size, hex, err));
            if (strcmp(hex, want) == 0) continue;
            return mg_fail(err, MG_ERR_INTEGRITY, "'%s' of input '%s' has changed: its XXH3-128 is %s, it was %s", name,
                           p->inputs[i].name, hex, want);
        }
    return MG_OK;
}

/* ---- deriving ---- */

typedef struct run {
    mg_provenance *p;
    const mg_provenance_options *opt;
    mg_eval *eval; /* [workers] */
} run;

static mg_status hash_rows(const mg_expr *e, mg_eval *ev, char hex[33], mg_error *err) {
    mg_xxh128_state *s;
    MG_TRY(mg_xxh128_new(&s, err));
    mg_status st = mg_expr_digest_rows(e, ev, s, err);
    const mg_xxh128 h = mg_xxh128_final(s);
    mg_xxh128_free(s);
    mg_hex(h.bytes, sizeof h.bytes, hex);
    return st;
}

/* The inputs that an expression reads, in words. */
static void name_sources(const mg_provenance *p, const mg_expr *e, char *text, size_t size) {
    const size_t at = strlen(text);
    if (e->op == MG_EX_SOURCE && at + 8 < size)
        for (uint32_t i = 0; i < p->n_inputs; i++)
            if (p->inputs[i].ckpt == e->ckpt)
                snprintf(text + at, size - at, "%s'%s' of '%s'", at ? ", " : "", e->t.name, p->inputs[i].name);
    for (uint32_t i = 0; i < e->n_children; i++) name_sources(p, e->children[i], text, size);
}

/* The input among those of an expression that a stage changed before it was read; NULL. */
static const char *folded(const mg_provenance *p, const mg_expr *e) {
    for (uint32_t i = 0; e->op == MG_EX_SOURCE && i < p->n_inputs; i++)
        if (p->inputs[i].ckpt == e->ckpt && p->inputs[i].stage && strcmp(p->inputs[i].stage, "folded") == 0)
            return p->inputs[i].name;
    const char *found = NULL;
    for (uint32_t i = 0; !found && i < e->n_children; i++) found = folded(p, e->children[i]);
    return found;
}

static void judge(const mg_provenance *p, mg_proof_tensor *t, const char *derived, const char *stored) {
    const bool d = derived && strcmp(derived, t->stated) == 0, s = strcmp(stored, t->stated) == 0;
    if (!s) t->proof = derived && !d && strcmp(derived, stored) == 0 ? MG_PROOF_STATED : MG_PROOF_STORED;
    if (s && derived) t->proof = d ? MG_PROOF_SAME : MG_PROOF_DERIVED;
    if (*stored && (t->proof == MG_PROOF_STORED || t->proof == MG_PROOF_STATED))
        snprintf(t->note, sizeof t->note, "stored %s, stated %s, derived %s", stored, t->stated,
                 derived ? derived : "nothing");
    if (t->proof != MG_PROOF_DERIVED) return;
    if (t->again) {
        snprintf(t->note, sizeof t->note, "the work done again gives %s, stated %s", derived, t->stated);
        if (strcmp(mg_dtype_get(t->e->t.dtype)->name, t->dtype) != 0)
            snprintf(t->note, sizeof t->note, "the work done again gives it the type %s, not %s",
                     mg_dtype_get(t->e->t.dtype)->name, t->dtype);
        return;
    }
    const char *changed = t->e ? folded(p, t->e) : NULL;
    if (changed) {
        t->proof = MG_PROOF_NOT_DERIVED;
        snprintf(t->note, sizeof t->note,
                 "a stage changed the weights of '%.150s' before, and the manifest does not say how", changed);
        return;
    }
    t->note[0] = 0;
    if (!t->e) snprintf(t->note, sizeof t->note, "the constant %s of its recipe", derived);
    if (t->e) name_sources(p, t->e, t->note, sizeof t->note);
}

static mg_status prove(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    const run *r = ctx;
    mg_proof_tensor *t = &r->p->tensors[ticket];
    char stored[33], derived[33];
    if (t->proof == MG_PROOF_SKIPPED) return MG_OK;
    mg_status st = mg_provenance_hash_stored(r->p, t, stored, err);
    if (st == MG_OK && t->e) st = hash_rows(t->e, &r->eval[worker], derived, err);
    if (st != MG_OK) {
        mg_error_at(err, NULL, t->name);
        return st;
    }
    judge(r->p, t, t->e ? derived : t->constant, stored);
    mg_progress_add(r->opt->progress, t->bytes, t->name);
    return MG_OK;
}

/* The expression of a tensor, or why there is none. */
static mg_status plan_tensor(const mg_provenance *p, mg_proof_tensor *t, const mg_recipe_scope *s, mg_error *err) {
    mg_error why = {0};
    const mg_json *op = mg_json_first(t->recipe);
    if (op && mg_json_str(op) && strcmp(mg_json_str(op), "const") == 0) { /* from no input: the recipe is its hash */
        const mg_json *hash = mg_json_next(mg_json_next(mg_json_next(op)));
        t->constant = hash ? mg_json_str(hash) : NULL;
        if (t->constant) return MG_OK;
    }
    mg_status st = mg_expr_parse(&t->e, s, t->recipe, &t->t, &why);
    /* Blocks of a checkpoint that whoever made the output read as F32. */
    if (st == MG_OK && mg_dtype_is_block(t->e->t.dtype) && mg_dtype_from_name(t->dtype) == MG_F32)
        st = mg_expr_cast(s->plan, t->e, MG_F32, NULL, 0, &t->e, &why);
    const bool fits =
        st == MG_OK && t->e->t.n_bytes == t->bytes && !strcmp(mg_dtype_get(t->e->t.dtype)->name, t->dtype);
    if (st == MG_OK && !fits && folded(p, t->e)) /* weights that a stage changed are F32 */
        st = mg_fail(&why, MG_ERR_UNSUPPORTED, "a stage changed the weights of '%s' before", folded(p, t->e));
    if (st == MG_OK && !fits)
        st = mg_fail(&why, MG_ERR_FORMAT, "the recipe makes %llu bytes of %s, the manifest says %llu of %s",
                     (unsigned long long)t->e->t.n_bytes, mg_dtype_get(t->e->t.dtype)->name,
                     (unsigned long long)t->bytes, t->dtype);
    if (st == MG_OK) return MG_OK;
    t->e = NULL;
    if (st == MG_ERR_UNSUPPORTED) {
        snprintf(t->note, sizeof t->note, "%.240s", why.message);
        return MG_OK;
    }
    *err = why;
    mg_error_at(err, NULL, t->name);
    return st;
}

mg_status mg_provenance_plan(mg_provenance *p, const mg_provenance_options *opt, mg_error *err) {
    mg_checkpoint **inputs;
    MG_TRY(MG_ARENA_NEW(&p->arena, &inputs, p->n_inputs + 1u, err));
    for (uint32_t i = 0; i < p->n_inputs; i++) inputs[i] = p->inputs[i].ckpt;
    const mg_recipe_scope scope = {
        .plan = p->plan, .inputs = inputs, .n_inputs = p->n_inputs, .imatrix = opt->imatrix, .values = opt->values};
    for (uint32_t i = 0; i < p->n_tensors; i++)
        if (p->tensors[i].proof != MG_PROOF_SKIPPED) MG_TRY(plan_tensor(p, &p->tensors[i], &scope, err));
    return MG_OK;
}

/* ---- the work done again ---- */

/* Stages of the manifest: none, some that recipes name, or one that decides what recipes do not show. */
static bool has_stage(const mg_provenance *p, bool *always) {
    const mg_json *list = mg_json_get(p->made, "stages");
    *always = false;
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v)) {
        const char *when = mg_json_str(mg_json_next(mg_json_first(v)));
        *always = *always || (when && strcmp(when, "always") == 0);
    }
    return mg_json_first(list) != NULL;
}

/* Does a tensor need the work done again? A constant (a shape, group numbers) is not worth a stage; where there is none
 * the work is only a plan. */
static bool lacks(const mg_provenance *p, const mg_proof_tensor *t) {
    bool always;
    const bool stages = has_stage(p, &always);
    if (t->proof == MG_PROOF_SKIPPED) return false;
    return always || (t->e ? folded(p, t->e) != NULL : !t->constant || !stages);
}

const mg_proof_tensor *mg_provenance_lacks(const mg_provenance *p) {
    for (uint32_t i = 0; i < p->n_tensors; i++)
        if (lacks(p, &p->tensors[i])) return &p->tensors[i];
    return NULL;
}

mg_status mg_provenance_take(mg_provenance *p, const mg_plan *again, bool *found, mg_error *err) {
    const char *output = mg_json_str(mg_json_get(p->manifest, "output"));
    const mg_plan_output *o = NULL;
    for (uint32_t i = 0; output && i < again->n_outputs; i++)
        if (strcmp(again->outputs[i]->base, output) == 0) o = again->outputs[i];
    *found = o != NULL;
    for (uint32_t i = 0; o && i < p->n_tensors; i++) {
        mg_proof_tensor *t = &p->tensors[i];
        if (!lacks(p, t)) continue;
        const uint32_t at = mg_strmap_get(&o->names, t->name, strlen(t->name));
        if (at == MG_STRMAP_NONE) {
            mg_status st = mg_fail(err, MG_ERR_INTEGRITY, "the work done again does not make it");
            mg_error_at(err, NULL, t->name);
            return st;
        }
        t->e = o->tensors[at].e;
        t->again = true;
    }
    return MG_OK;
}

mg_status mg_provenance_prove(mg_provenance *p, const mg_provenance_options *opt, mg_error *err) {
    run r = {.p = p, .opt = opt};
    const unsigned workers = opt->pool ? mg_pool_size(opt->pool) : 1;
    r.eval = calloc(workers, sizeof *r.eval);
    if (!r.eval) return mg_fail_nomem(err, workers * sizeof *r.eval);
    for (unsigned i = 0; i < workers; i++) mg_eval_init(&r.eval[i]);
    mg_status st = mg_pool_run(opt->pool, p->n_tensors, prove, &r, err);
    for (unsigned i = 0; i < workers; i++) mg_eval_release(&r.eval[i]);
    free(r.eval);
    return st;
}
