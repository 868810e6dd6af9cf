/* card.c - see card.h: licences, front matter, and the template. */
#include "verify/card.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "formats/base/options.h"
#include "mg_version.h"
#include "verify/report_html.h"

static const char own_template[] = "{{front_matter}}\n# {{name}}\n\n{{summary}}{{files}}{{prompt}}{{donors}}{{recipe}}"
                                   "{{drift}}{{routing}}{{provenance}}";

/* ---- licences ---- */

static void print_licence(FILE *f, const mg_licence *l) {
    fputs(l->id[0] ? l->id : "not stated", f);
    if (l->name[0]) fprintf(f, " (%s)", l->name);
}

static mg_status conflict(const mg_card_donor *d, size_t n, mg_error *err) {
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f) return mg_fail_nomem(err, 1);
    for (size_t i = 0; i < n; i++) {
        if (!d[i].licence.id[0]) continue;
        fprintf(f, "%s'%s' ", ftell(f) ? ", " : "", d[i].name);
        print_licence(f, &d[i].licence);
    }
    MG_TRY(mg_text_finish(f, &text, &size, err));
    mg_status st = mg_fail(err, MG_ERR_CONFLICT, "licences differ, --license must say what the result has: %s", text);
    free(text);
    return st;
}

mg_status mg_card_settle_licence(mg_licence *out, size_t *open, const mg_card_donor *d, size_t n, mg_error *err) {
    const mg_licence *first = NULL;
    *out = (mg_licence){0};
    *open = 0;
    for (size_t i = 0; i < n; i++) {
        *open += !d[i].licence.id[0];
        if (!d[i].licence.id[0]) continue;
        if (!first) first = &d[i].licence;
        if (!mg_licence_same(first, &d[i].licence)) return conflict(d, n, err);
    }
    if (first && !*open) *out = *first;
    return MG_OK;
}

/* ---- front matter ---- */

/* A YAML scalar: plain where nobody could take it for something else, else quoted as JSON. */
static void scalar(FILE *f, const char *s) {
    static const char *const words[] = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"};
    bool plain = isalpha((unsigned char)s[0]);
    for (const char *p = s; *p; p++) plain = plain && (isalnum((unsigned char)*p) || strchr("._/+-", *p));
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) plain = plain && strcasecmp(s, words[i]) != 0;
    if (plain) {
        fputs(s, f);
        return;
    }
    char *text = NULL;
    mg_json *v = mg_json_new_str(s);
    if (mg_json_print(&text, v, 0, NULL) == MG_OK) fputs(text, f);
    free(text);
    mg_json_free(v);
}

static void member(FILE *f, const char *key, const char *value) {
    fprintf(f, "%s: ", key);
    scalar(f, value);
    fputc('\n', f);
}

/* Hub names of what the result was made of, each once. */
static void base_models(FILE *f, const mg_card *c) {
    size_t n = 0;
    for (size_t i = 0; i < c->n_bases + c->n_donors; i++) {
        const char *name = i < c->n_bases ? c->bases[i] : c->donors[i - c->n_bases].hub;
        bool again = !name[0];
        for (size_t k = 0; k < i && !again; k++)
            again = strcmp(name, k < c->n_bases ? c->bases[k] : c->donors[k - c->n_bases].hub) == 0;
        if (again) continue;
        fputs(n++ ? "- " : "base_model:\n- ", f);
        scalar(f, name);
        fputc('\n', f);
    }
    if (n && c->relation) member(f, "base_model_relation", c->relation);
}

static void front_matter(FILE *f, const mg_card *c) {
    fputs("---\n", f);
    if (c->licence.id[0]) member(f, "license", c->licence.id);
    if (c->licence.name[0]) member(f, "license_name", c->licence.name);
    if (c->licence.link[0]) member(f, "license_link", c->licence.link);
    base_models(f, c);
    member(f, "library_name", c->gguf ? "gguf" : "transformers");
    member(f, "pipeline_tag", "text-generation");
    fputs("tags:\n", f);
    if (c->experts > 1) fputs("- moe\n", f);
    if (c->experts > 1 && c->recipe) fputs("- frankenmoe\n", f);
    if (c->recipe) fputs("- merge\n", f);
    if (c->has_template) fputs("- conversational\n", f);
    fputs("- moegraft\n---\n", f);
}

/* ---- the text ---- */

static void count(FILE *f, uint64_t n) {
    const double x = (double)n;
    if (n >= 1000000000u)
        fprintf(f, "%.3g billion", x * 1e-9);
    else
        fprintf(f, "%.3g million", x * 1e-6);
}

static void summary(FILE *f, const mg_card *c) {
    mg_markdown_text(f, c->name);
    if (c->family[0] && c->experts > 1) {
        fprintf(f, " is a mixture of %llu experts, %llu per token (`%s`): ", (unsigned long long)c->experts,
                (unsigned long long)c->experts_per_token, c->family);
        count(f, c->total);
        fputs(" parameters, ", f);
        count(f, c->active);
        fputs(" active per token", f);
    } else if (c->family[0]) {
        fprintf(f, " is a dense model (`%s`) of ", c->family);
        count(f, c->total);
        fputs(" parameters", f);
    } else {
        fputs(" is a language model", f);
    }
    fprintf(f, ". %s with moegraft %s.\n\n",
            c->relation && !strcmp(c->relation, "quantized") ? "Quantized"
            : c->recipe                                      ? "Merged"
                                                             : "Written",
            MG_VERSION);
}

static void prompt(FILE *f, const mg_card *c) {
    if (!c->has_template) return;
    fputs("## Prompt format\n\n", f);
    if (c->prompt)
        mg_card_fenced(f, "", c->prompt);
    else
        fputs("The chat template in the model's metadata.\n\n", f);
}

static void recipe(FILE *f, const mg_card *c) {
    if (!c->recipe) return;
    fputs("## Recipe\n\n", f);
    mg_card_fenced(f, "yaml", c->recipe);
}

static void name(FILE *f, const mg_card *c) {
    mg_markdown_text(f, c->name);
}

static void licence(FILE *f, const mg_card *c) {
    mg_markdown_text(f, c->licence.id[0] ? c->licence.id : "not stated");
}

static void version(FILE *f, const mg_card *c) {
    (void)c;
    fputs(MG_VERSION, f);
}

static const struct {
    const char *name;
    void (*put)(FILE *f, const mg_card *c); /* NULL: drift, which can fail */
} parts[] = {{"front_matter", front_matter},
             {"name", name},
             {"summary", summary},
             {"files", mg_card_files},
             {"prompt", prompt},
             {"donors", mg_card_donors},
             {"recipe", recipe},
             {"drift", NULL},
             {"routing", mg_card_routing},
             {"provenance", mg_card_provenance},
             {"license", licence},
             {"version", version}};
enum { N_PARTS = sizeof parts / sizeof *parts };

static mg_status put_part(FILE *f, const mg_card *c, const char *word, mg_error *err) {
    const char *names[N_PARTS + 1] = {0};
    for (size_t i = 0; i < N_PARTS; i++) {
        names[i] = parts[i].name;
        if (strcmp(word, parts[i].name)) continue;
        if (!parts[i].put) return mg_card_drift(f, c, err);
        parts[i].put(f, c);
        return MG_OK;
    }
    const char *near = mg_nearest(word, names);
    return mg_fail(err, MG_ERR_USAGE, "the template asks for {{%s}}, which does not exist%s%s%s", word,
                   near ? " (nearest: '" : "", near ? near : "", near ? "')" : "");
}

static mg_status fill(FILE *f, const mg_card *c, const char *template, mg_error *err) {
    for (const char *p = template; *p;) {
        const char *open = strstr(p, "{{"), *close = open ? strstr(open, "}}") : NULL;
        if (!open) {
            fputs(p, f);
            return MG_OK;
        }
        char word[64];
        if (!close || (size_t)(close - open - 2) >= sizeof word)
            return mg_fail(err, MG_ERR_USAGE, "the template opens {{ and names nothing: '%.40s'", open);
        fwrite(p, 1, (size_t)(open - p), f);
        snprintf(word, sizeof word, "%.*s", (int)(close - open - 2), open + 2);
        MG_TRY(put_part(f, c, word, err));
        p = close + 2;
    }
    return MG_OK;
}

mg_status mg_card_text(char **out, size_t *size, const mg_card *c, const char *template, mg_error *err) {
    FILE *f = open_memstream(out, size);
    if (!f) return mg_fail_nomem(err, 1);
    mg_status st = fill(f, c, template ? template : own_template, err);
    mg_error closing = {0};
    mg_status closed = mg_text_finish(f, out, size, &closing);
    if (st == MG_OK && closed != MG_OK) return mg_fail_nomem(err, *size);
    if (st == MG_OK) return MG_OK;
    free(*out);
    *out = NULL;
    return st;
}
