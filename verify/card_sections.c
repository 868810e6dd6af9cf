/* card_sections.c - sections of a model card that are tables: files, donors, provenance, drift. */
#include "verify/card.h"

#include <stdlib.h>
#include <string.h>

#include "verify/peer.h"
#include "verify/report.h"
#include "verify/report_html.h"

void mg_card_fenced(FILE *f, const char *language, const char *text) {
    size_t longest = 2, n = strlen(text);
    for (const char *p = text; *p;) {
        const size_t run = strspn(p, "`");
        longest = run > longest ? run : longest;
        p += run ? run : 1;
    }
    for (size_t i = 0; i <= longest; i++) fputc('`', f);
    fprintf(f, "%s\n%s%s", language, text, n && text[n - 1] == '\n' ? "" : "\n");
    for (size_t i = 0; i <= longest; i++) fputc('`', f);
    fputs("\n\n", f);
}

void mg_card_files(FILE *f, const mg_card *c) {
    bool hashes = false;
    if (c->n_files == 0) return;
    for (size_t i = 0; i < c->n_files; i++) hashes = hashes || c->files[i].sha256[0];
    fprintf(f, "## Files\n\n| file | type | bytes | bits per weight |%s\n|---|---|---:|---:|%s\n",
            hashes ? " sha256 |" : "", hashes ? "---|" : "");
    for (size_t i = 0; i < c->n_files; i++) {
        const mg_card_file *o = &c->files[i];
        fputs("| ", f);
        mg_markdown_text(f, o->name);
        fputs(" | ", f);
        mg_markdown_text(f, o->type);
        fprintf(f, " | %llu | %.2f |", (unsigned long long)o->bytes, o->bpw);
        if (hashes && o->sha256[0]) fprintf(f, " `%s` |", o->sha256);
        if (hashes && !o->sha256[0]) fputs(" – |", f);
        fputc('\n', f);
    }
    fputc('\n', f);
}

void mg_card_donors(FILE *f, const mg_card *c) {
    if (c->n_donors == 0) return;
    fputs("## Made of\n\n| model | as | licence |\n|---|---|---|\n", f);
    for (size_t i = 0; i < c->n_donors; i++) {
        const mg_card_donor *d = &c->donors[i];
        fputs("| ", f);
        if (d->hub[0]) fprintf(f, "[%s](https://huggingface.co/%s)", d->hub, d->hub);
        if (!d->hub[0]) mg_markdown_text(f, d->name);
        fprintf(f, " | %s | ", d->role);
        mg_markdown_text(f, d->licence.id[0] ? d->licence.id : d->found ? "not stated" : "not read");
        if (d->licence.name[0]) {
            fputs(" (", f);
            mg_markdown_text(f, d->licence.name);
            fputc(')', f);
        }
        fputs(" |\n", f);
    }
    fputc('\n', f);
}

/* ---- provenance ---- */

bool mg_card_has_strings(const mg_json *v, const char *const *keys) {
    for (; *keys; keys++)
        if (!mg_json_str(mg_json_path(v, *keys))) return false;
    return true;
}

static bool is_hex(const char *s, size_t n) {
    return s && strlen(s) == n && strspn(s, "0123456789abcdef") == n;
}

bool mg_card_is_schema_1(const mg_json *v) {
    int64_t schema = 0;
    return mg_json_i64(mg_json_get(v, "schema"), &schema) && schema == 1;
}

mg_status mg_card_check_manifest(const mg_json *v, mg_error *err) {
    static const char *const head[] = {"tool", "version", "output", NULL}, *const named[] = {"name", NULL};
    uint64_t size;
    bool ok = mg_card_is_schema_1(v) && mg_card_has_strings(v, head) && mg_json_first(mg_json_get(v, "files"));
    for (const mg_json *i = mg_json_first(mg_json_get(v, "inputs")); i; i = mg_json_next(i)) {
        ok = ok && mg_card_has_strings(i, named);
        for (const mg_json *x = mg_json_first(mg_json_get(i, "files")); x; x = mg_json_next(x))
            ok = ok && mg_card_has_strings(x, named) && mg_json_u64(mg_json_get(x, "size"), &size) &&
                 is_hex(mg_json_str(mg_json_get(x, "edges_xxh3")), 32);
    }
    for (const mg_json *x = mg_json_first(mg_json_get(v, "files")); x; x = mg_json_next(x))
        ok = ok && mg_card_has_strings(x, named) && mg_json_u64(mg_json_get(x, "size"), &size) &&
             is_hex(mg_json_str(mg_json_get(x, "sha256")), 64);
    return ok ? MG_OK : mg_fail(err, MG_ERR_FORMAT, "is no manifest of moegraft (schema 1)");
}

void mg_card_provenance(FILE *f, const mg_card *c) {
    if (c->n_manifests == 0) return;
    fputs("## Provenance\n\nThe manifests beside the files hold the recipe and the XXH3-128 of every tensor; `moegraft "
          "check PATH --manifest FILE` compares. Made from (the hash is a quick one, of a file's size and its first "
          "and last 64 "
          "KiB):\n\n| output | made by | input | file | bytes | XXH3-128 of "
          "both "
          "ends |\n|---|---|---|---|---:|---|\n",
          f);
    for (size_t m = 0; m < c->n_manifests; m++) {
        const mg_json *v = c->manifests[m];
        for (const mg_json *i = mg_json_first(mg_json_get(v, "inputs")); i; i = mg_json_next(i))
            for (const mg_json *x = mg_json_first(mg_json_get(i, "files")); x; x = mg_json_next(x)) {
                const char *const cells[] = {mg_json_str(mg_json_get(v, "output")), mg_json_str(mg_json_get(v, "tool")),
                                             mg_json_str(mg_json_get(i, "name")), mg_json_str(mg_json_get(x, "name"))};
                uint64_t size = 0;
                for (size_t k = 0; k < 4; k++) {
                    fputs("| ", f);
                    mg_markdown_text(f, cells[k]);
                    if (k == 1) {
                        fputc(' ', f);
                        mg_markdown_text(f, mg_json_str(mg_json_get(v, "version")));
                    }
                    fputc(' ', f);
                }
                const bool known = mg_json_u64(mg_json_get(x, "size"), &size);
                fprintf(f, "| %llu | `%s` |\n", known ? (unsigned long long)size : 0ull,
                        mg_json_str(mg_json_get(x, "edges_xxh3")));
            }
    }
    fputc('\n', f);
}

/* ---- drift ---- */

mg_status mg_card_check_drift(const mg_json *v, mg_error *err) {
    static const char *const head[] = {"text", "text_sha256", NULL}, *const reference[] = {"reference", NULL};
    static const char *const one[] = {"path", "verdict", NULL}, *const pair[] = {"a", "b", NULL};
    const mg_json *list = mg_json_get(v, "candidates"), *pairs = mg_json_get(v, "pairs");
    double x;
    bool ok = mg_card_is_schema_1(v) && mg_card_has_strings(v, head) && mg_json_f64(mg_json_get(v, "tokens"), &x);
    ok = ok && (mg_json_first(pairs) || (mg_json_first(list) && mg_card_has_strings(v, reference)));
    for (const mg_json *o = mg_json_first(list); o; o = mg_json_next(o)) ok = ok && mg_card_has_strings(o, one);
    for (const mg_json *o = mg_json_first(pairs); o; o = mg_json_next(o)) ok = ok && mg_card_has_strings(o, pair);
    return ok ? MG_OK : mg_fail(err, MG_ERR_FORMAT, "is no result of verify --json (schema 1)");
}

/* Names without the folders of whoever measured. */
static void strip_folder(mg_json *o, const char *key) {
    const char *path = mg_json_str(mg_json_get(o, key)), *slash = path ? strrchr(path, '/') : NULL;
    if (!slash || !slash[1]) return;
    mg_json *name = mg_json_new_str(slash + 1);
    mg_json_set(o, key, name);
}

mg_status mg_card_drift(FILE *f, const mg_card *c, mg_error *err) {
    if (c->n_drift) fputs("## Drift\n\n", f);
    for (size_t i = 0; i < c->n_drift; i++) {
        char *text = NULL;
        size_t n = 0;
        mg_json *v;
        MG_TRY(mg_json_dup(&v, c->drift[i], err));
        strip_folder(v, "reference");
        strip_folder(v, "text");
        mg_status st =
            mg_json_get(v, "pairs") ? mg_peers_markdown(&text, &n, v, err) : mg_report_markdown(&text, &n, v, err);
        mg_json_free(v);
        if (st != MG_OK) return st;
        fputs(text, f);
        fputc('\n', f);
        free(text);
    }
    return MG_OK;
}
