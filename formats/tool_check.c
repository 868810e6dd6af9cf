/* tool_check.c - moegraft-check: is this model whole? Structure always, values with --deep, bytes with --manifest. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/tool_donors.h"
#include "convert/tool_recipe.h"
#include "formats/arch/arch.h"
#include "formats/arch/arch_file.h"
#include "formats/base/options.h"
#include "formats/base/pool.h"
#include "formats/known_hashes.h"
#include "formats/tool_check_manifest.h"
#include "quant/config_rules.h"
#include "quant/findings.h"
#include "quant/group_checkpoint.h"
#include "quant/loader_rules.h"
#include "quant/scan.h"

static const mg_tool_info tool = {
    .name = "check",
    .summary = "validate checkpoints, compare merge donors, lint for a loader",
    .synopsis = "BASE DONOR... --merge [--text F]...\nPATH... [--deep] [--manifest FILE] [--for ENGINE] [--json]",
    .examples = "  moegraft-check samples/donors/base --deep\n"
                "  moegraft-check model.gguf --manifest model.gguf.manifest.json\n"
                "  moegraft-check model/ --manifest SHA256SUMS\n",
    .next = "moegraft-inspect PATH --tensors",
};

typedef struct checker {
    mg_common common;
    bool deep, merge;
    const char *manifest;
    const char *loader_text;
    mg_loader loader; /* when loader_text is given */
    uint32_t tp;
    mg_pool *pool;
    mg_json *results; /* array, built always, printed with --json */
} checker;

/* One PATH under examination. */
typedef struct subject {
    const char *path;
    mg_model *model;               /* of dense; NULL: no family known */
    uint32_t n_findings, n_errors; /* of --deep; n_errors: contradictions that a loader stumbles over */
    mg_checkpoint *ckpt;
    mg_tool_weights merged;             /* a recipe's model, which owns ckpt */
    mg_checkpoint *dense;               /* NULL, ckpt itself, or the dense view of quantized weights, which owns ckpt */
    mg_json *report, *notes, *findings; /* the last two are arrays of the first */
    uint64_t manifest_files;
} subject;

/* Lines have names from files in them: control bytes are shown, not sent to the terminal. */
static void say(const checker *c, const char *text) {
    if (c->common.json) return;
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7F)
            printf("\\x%02x", (unsigned)*text);
        else
            putchar(*text);
    putchar('\n');
}

static void say_note(const checker *c, const subject *s, const char *note) {
    char text[1400];
    snprintf(text, sizeof text, "%s: note: %s", s->path, note);
    say(c, text);
}

/* ---- structure ---- */

/* Captures and importance matrices are checkpoints without a model in them. */
static bool is_model(const mg_checkpoint *c) {
    mg_str type;
    if (c->container == MG_CONTAINER_HF_DIR || c->params) return true;
    if (mg_kv_str(mg_kvs_get(c->kv, "general.type"), &type) && strcmp(type.data, "model") != 0) return false;
    return mg_kvs_get(c->kv, "general.architecture") != NULL;
}

/* Whether the tensors are weights at all, of a model that is known or not. */
static bool has_weights(const mg_checkpoint *c) {
    return !c->kv || is_model(c);
}

/* Every tensor claimed by the family, every shape solved. A family we do not know is a note: the container is still
 * whole. */
static mg_status check_model(checker *c, subject *s, mg_error *err) {
    mg_model *m = NULL;
    mg_error why = {0};
    char note[1200];
    if (!is_model(s->ckpt)) return MG_OK;
    mg_status st = mg_group_checkpoint_wrap(&s->dense, s->ckpt, &why);
    if (st == MG_OK) st = mg_model_open(&m, s->dense, &why);
    if (st == MG_OK) {
        mg_json_set_str(s->report, "family", m->arch->name);
        s->model = m;
    } else if (st == MG_ERR_UNSUPPORTED) {
        snprintf(note, sizeof note, "names and shapes not compared with a family: %s", why.message);
        say_note(c, s, note);
        mg_json_push(s->notes, mg_json_new_str(why.message));
    } else if (err->code == MG_OK) {
        *err = why;
    }
    return st == MG_ERR_UNSUPPORTED ? MG_OK : st;
}

static mg_status check_structure(checker *c, subject *s, mg_error *err) {
    if (mg_tool_is_recipe(s->path)) {
        MG_TRY(mg_tool_weights_open(&s->merged, s->path, c->common.n_threads, err));
        s->ckpt = s->merged.ckpt;
    } else {
        MG_TRY(mg_checkpoint_open(&s->ckpt, s->path, err));
    }
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < s->ckpt->n_tensors; i++) bytes += s->ckpt->tensors[i].n_bytes;
    mg_json_set_u64(s->report, "tensors", s->ckpt->n_tensors);
    mg_json_set_u64(s->report, "bytes", bytes);
    for (uint32_t i = 0; i < s->ckpt->n_notes; i++) {
        say_note(c, s, s->ckpt->notes[i]);
        mg_json_push(s->notes, mg_json_new_str(s->ckpt->notes[i]));
    }
    return check_model(c, s, err);
}

/* ---- loaders ---- */

typedef struct loader_report {
    const checker *c;
    const char *path;
    mg_json *findings;
    uint32_t fatal;
} loader_report;

static void on_finding(void *ctx, const mg_loader_finding *f) {
    loader_report *r = ctx;
    char text[2048];
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "rule", f->rule);
    mg_json_set_bool(o, "fatal", f->fatal);
    mg_json_set_str(o, "text", f->text);
    mg_json_set_str(o, "source", f->source);
    if (f->tensor) mg_json_set_str(o, "tensor", f->tensor);
    mg_json_push(r->findings, o);
    r->fatal += f->fatal;
    snprintf(text, sizeof text, "%s: %s for %s: %s: %s%s%s (%s)", r->path, f->fatal ? "wrong" : "note",
             r->c->loader_text, f->rule, f->tensor ? f->tensor : "", f->tensor ? ": " : "", f->text, f->source);
    say(r->c, text);
}

static mg_status check_loader(checker *c, subject *s, mg_error *err) {
    loader_report r = {c, s->path, s->findings, 0};
    mg_status st = mg_loader_judge(s->ckpt, s->dense ? s->dense : s->ckpt, c->loader, c->tp, on_finding, &r, err);
    if (st == MG_OK && r.fatal)
        st = mg_fail(err, MG_ERR_FAILED, "%" PRIu32 " rules of %s are broken", r.fatal, c->loader_text);
    return st;
}

/* ---- findings ---- */

/* Say those that have been listed after `first`, the last one said before; NULL: all. */
static void say_findings(const checker *c, subject *s, const mg_json *first) {
    char text[2048];
    for (const mg_json *f = first ? mg_json_next(first) : mg_json_first(s->findings); f; f = mg_json_next(f)) {
        const char *tensor = mg_json_str(mg_json_get(f, "tensor")), *source = mg_json_str(mg_json_get(f, "source"));
        snprintf(text, sizeof text, "%s: %s: %s: %s%s%s%s%s%s", s->path, mg_json_str(mg_json_get(f, "severity")),
                 mg_json_str(mg_json_get(f, "kind")), tensor ? tensor : "", tensor ? ": " : "",
                 mg_json_str(mg_json_get(f, "text")), source ? " (" : "", source ? source : "", source ? ")" : "");
        say(c, text);
        s->n_findings++;
    }
}

static const mg_json *last(const mg_json *list) {
    const mg_json *at = NULL;
    for (const mg_json *f = mg_json_first(list); f; f = mg_json_next(f)) at = f;
    return at;
}

/* What the files say about each other; also of a model that could not be opened, to have all of it at once. */
static mg_status check_config(checker *c, subject *s, mg_error *err) {
    const mg_json *said = last(s->findings), *noted = last(s->notes);
    mg_status st = mg_config_rules(s->findings, s->notes, &s->n_errors, s->ckpt, s->dense, s->model, err);
    for (const mg_json *n = noted ? mg_json_next(noted) : mg_json_first(s->notes); n; n = mg_json_next(n))
        say_note(c, s, mg_json_str(n));
    say_findings(c, s, said);
    return st;
}

static mg_status fail_for_errors(const subject *s, mg_error *err) {
    for (const mg_json *f = mg_json_first(s->findings); f; f = mg_json_next(f)) {
        const char *severity = mg_json_str(mg_json_get(f, "severity"));
        if (!severity || strcmp(severity, "error") != 0) continue;
        mg_fail(err, MG_ERR_CONFLICT, "%s (%" PRIu32 " such contradictions)", mg_json_str(mg_json_get(f, "text")),
                s->n_errors);
        mg_error_at(err, NULL, mg_json_str(mg_json_get(f, "tensor")));
        break;
    }
    return MG_ERR_CONFLICT;
}

/* ---- values ---- */

static mg_json *bad_tensor_json(const mg_tensor *t, const mg_scan_stats *x) {
    mg_json *o = mg_json_new_object(), *rows = mg_json_new_array();
    for (uint64_t k = 0; k < x->bad_rows && k < MG_SCAN_BAD_ROWS; k++)
        mg_json_push(rows, mg_json_new_u64(x->bad_row[k]));
    mg_json_set_str(o, "tensor", t->name);
    mg_json_set_u64(o, "nan", x->nans);
    mg_json_set_u64(o, "inf", x->infs);
    mg_json_set_u64(o, "bad_rows", x->bad_rows);
    mg_json_set(o, "rows", rows);
    return o;
}

static void say_bad_tensor(const checker *c, const subject *s, const mg_tensor *t, const mg_scan_stats *x) {
    char text[2048], rows[200] = "";
    for (uint64_t k = 0; k < x->bad_rows && k < MG_SCAN_BAD_ROWS; k++) {
        size_t at = strlen(rows);
        snprintf(rows + at, sizeof rows - at, "%s%" PRIu64, k ? ", " : "", x->bad_row[k]);
    }
    mg_error e = {0};
    mg_fail(&e, MG_ERR_FORMAT, "%" PRIu64 " NaN and %" PRIu64 " infinite values in %" PRIu64 " rows: %s%s", x->nans,
            x->infs, x->bad_rows, rows, x->bad_rows > MG_SCAN_BAD_ROWS ? ", ..." : "");
    mg_error_at(&e, s->path, t->name);
    say(c, mg_error_text(&e, text, sizeof text));
}

static mg_status check_values(checker *c, subject *s, mg_error *err) {
    const mg_checkpoint *k = s->ckpt;
    mg_progress *progress = NULL;
    uint64_t total = 0;
    uint32_t bad = 0, first = 0;
    for (uint32_t i = 0; i < k->n_tensors; i++) total += k->tensors[i].n_bytes;
    mg_scan *scan = calloc(k->n_tensors + 1u, sizeof *scan);
    mg_status st =
        scan ? mg_progress_new(&progress, c->common.progress, "check", total, err) : mg_fail_nomem(err, sizeof *scan);
    if (st == MG_OK) st = mg_scan_checkpoint(s->ckpt, MG_SCAN_STATS | MG_SCAN_HASH, c->pool, progress, scan, err);
    if (progress) mg_progress_free(progress);
    mg_json *list = mg_json_new_array();
    for (uint32_t i = 0; st == MG_OK && i < k->n_tensors; i++) {
        if (scan[i].stats.bad_rows == 0) continue;
        if (bad++ == 0) first = i;
        say_bad_tensor(c, s, &k->tensors[i], &scan[i].stats);
        mg_json_push(list, bad_tensor_json(&k->tensors[i], &scan[i].stats));
    }
    mg_json_set(s->report, "non_finite", list);
    const mg_json *said = last(s->findings);
    if (st == MG_OK && has_weights(k)) st = mg_findings(s->findings, s->model, s->ckpt, scan, err);
    say_findings(c, s, said);
    if (bad && st == MG_OK) {
        st = mg_fail(err, MG_ERR_FORMAT,
                     "%" PRIu64 " NaN and %" PRIu64 " infinite values, first in row %" PRIu64 " (%" PRIu32
                     " tensors have such values)",
                     scan[first].stats.nans, scan[first].stats.infs, scan[first].stats.bad_row[0], bad);
        mg_error_at(err, k->files[k->tensors[first].file], k->tensors[first].name);
    }
    free(scan);
    return st;
}

/* ---- */

/* The bytes are compared even when the structure is broken: a manifest then tells damage from a bad writer. */
static mg_status check_path(checker *c, const char *path, mg_error *err) {
    subject s = {
        .path = path, .report = mg_json_new_object(), .notes = mg_json_new_array(), .findings = mg_json_new_array()};
    char text[2048];
    mg_error deep = {0};
    mg_json_set_str(s.report, "path", path);
    mg_status st = check_structure(c, &s, err), contradicts = MG_OK;
    if (st == MG_OK && c->loader_text) st = check_loader(c, &s, err);
    if (c->deep && s.ckpt && is_model(s.ckpt)) contradicts = check_config(c, &s, &deep);
    if (st == MG_OK && c->deep) st = check_values(c, &s, err);
    if (st == MG_OK && contradicts == MG_OK && s.n_errors) contradicts = fail_for_errors(&s, &deep);
    if (st == MG_OK && contradicts != MG_OK) {
        st = contradicts;
        *err = deep;
    }
    mg_known_counts known = {0};
    if (st == MG_OK && c->common.verify_inputs) st = mg_known_hashes_check(&s.ckpt, 1, c->pool, 0, 0, &known, err);
    if (c->manifest && (st == MG_OK || st == MG_ERR_FORMAT)) {
        mg_error bytes = {0};
        mg_status differ = mg_tool_manifest_check(c->manifest, path, s.ckpt, c->pool, &s.manifest_files, &bytes);
        mg_json_set_u64(s.report, "manifest_files", s.manifest_files);
        if (differ != MG_OK && st == MG_OK) *err = bytes;
        if (st == MG_OK) st = differ;
    }
    mg_json_set(s.report, "notes", s.notes);
    mg_json_set(s.report, "findings", s.findings);
    mg_json_set_bool(s.report, "ok", st == MG_OK);
    mg_json_set_i64(s.report, "status", st);
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        mg_json_set_str(s.report, "error", mg_error_text(err, text, sizeof text));
    } else if (!c->common.quiet && !c->common.json) {
        printf("%s: ok, %" PRIu32 " tensors%s", path, s.ckpt->n_tensors, c->deep ? ", all values finite" : "");
        if (s.n_findings) printf(", %" PRIu32 " findings", s.n_findings);
        if (c->common.verify_inputs)
            printf(", %" PRIu64 " files as recorded, %" PRIu64 " without a record", known.files, known.unknown);
        if (c->manifest) printf(", %" PRIu64 " files as the manifest says", s.manifest_files);
        putchar('\n');
    }
    mg_json_push(c->results, s.report);
    mg_model_free(s.model);
    if (!s.merged.ckpt) mg_checkpoint_free(s.dense ? s.dense : s.ckpt);
    mg_tool_weights_close(&s.merged);
    return st;
}

/* All paths are checked; the status is the first failure's. */
static int check_all(checker *c, const mg_opt_list *paths) {
    int code = 0;
    for (size_t i = 0; i < paths->n; i++) {
        mg_error err = {0};
        mg_status st = check_path(c, paths->items[i], &err);
        if (st == MG_OK) continue;
        int shown = mg_tool_fail(&tool, &err);
        if (code == 0) code = shown;
        if (st == MG_ERR_INTERRUPTED || st == MG_ERR_TERMINATED) break;
    }
    return code;
}

/* The donors as a set instead of each path by itself. */
static int compare_donors(checker *c, const mg_opt_list *paths) {
    mg_error err = {0};
    mg_json *report = mg_json_new_object();
    mg_status st = mg_tool_donors(paths, &c->common, report, &err);
    mg_json_push(c->results, report);
    return st == MG_OK ? 0 : mg_tool_fail(&tool, &err);
}

static mg_status print_results(checker *c, mg_error *err) {
    char *text = NULL;
    mg_json *o = mg_json_new_object();
    mg_json_set_i64(o, "schema", 1);
    mg_json_set(o, "results", c->results);
    c->results = NULL;
    mg_status st = mg_json_print(&text, o, 1, err);
    if (st == MG_OK) puts(text);
    free(text);
    mg_json_free(o);
    return st;
}

int main(int argc, char **argv) {
    checker c = {0};
    mg_error err = {0};
    mg_opt_list paths = {0};
    bool done = false;
    int code = 0;
    mg_common_init(&c.common);
    const mg_opt opts[] = {
        {"--deep", MG_OPT_FLAG, &c.deep, NULL,
         "read all data: NaN and infinite values by tensor and row, zero and duplicate tensors, dead experts; "
         "contradictions of configurations, tokenizer, template, metadata and stored types"},
        {"--manifest", MG_OPT_STR, &c.manifest, "FILE",
         "compare files with NAME.manifest.json or a sha256sum or md5sum list"},
        {"--for", MG_OPT_STR, &c.loader_text, "ENGINE",
         "will it load: vllm[:tp=N], transformers5, autoawq, gptqmodel, llama.cpp or mlx"},
        {"--merge", MG_OPT_FLAG, &c.merge, NULL,
         "BASE DONOR...: do they fit, how far did they move; with a --text per donor the ceiling of routing"},
        MG_COMMON_TEXT_OPTS(c.common),
        MG_ARCH_OPT,
        MG_COMMON_JSON_OPT(c.common),
        MG_COMMON_EXEC_OPTS(c.common),
        MG_COMMON_VERIFY_OPT(c.common),
        {0},
    };
    mg_status st = mg_options_parse(&tool, opts, argc, argv, &paths, &done, &err);
    if (st == MG_OK && !done) {
        mg_interrupt_install();
        st = mg_common_finish(&c.common, &err);
        if (st == MG_OK && paths.n == 0) st = mg_fail(&err, MG_ERR_USAGE, "expected at least one PATH");
        if (st == MG_OK && !c.merge && c.common.text.n + c.common.tokens.n)
            st = mg_fail(&err, MG_ERR_USAGE, "--text and --tokens mean something with --merge only");
        if (st == MG_OK && c.merge && c.common.verify_inputs)
            st = mg_fail(&err, MG_ERR_USAGE, "--verify-inputs does not go with --merge; check the donors one by one");
        if (st == MG_OK && c.loader_text) st = mg_loader_parse(c.loader_text, &c.loader, &c.tp, &err);
        if (st == MG_OK) st = mg_pool_new(&c.pool, mg_scan_threads(c.common.n_threads, c.common.memory), &err);
        if (st == MG_OK) {
            c.results = mg_json_new_array();
            code = c.merge ? compare_donors(&c, &paths) : check_all(&c, &paths);
            if (c.common.json) st = print_results(&c, &err);
        }
    }
    if (st != MG_OK) code = mg_tool_fail(&tool, &err);
    mg_json_free(c.results);
    if (c.pool) mg_pool_free(c.pool);
    mg_opt_list_release(&paths);
    mg_common_release(&c.common);
    return code;
}
