/* card_routing.c - the section of a model card about its routers, from what route said: the loads of one text, or the
 * figures of --report, with its sets of text and warnings. */
#include "verify/card.h"

#include <math.h>
#include <string.h>

#include "verify/report_html.h"

#define MANY_EXPERTS 16u /* from here on a layer's loads are their extremes */

static bool is_report(const mg_json *v) {
    return mg_json_first(mg_json_get(v, "models")) != NULL;
}

/* experts numbers */
static bool is_load(const mg_json *load, uint64_t experts) {
    double x;
    bool ok = experts && mg_json_len(load) == experts;
    for (const mg_json *e = mg_json_first(load); ok && e; e = mg_json_next(e)) ok = mg_json_f64(e, &x);
    return ok;
}

/* layers, each with its number and a load at path */
static bool are_layers(const mg_json *layers, uint64_t experts, const char *path) {
    uint64_t n;
    bool ok = mg_json_first(layers) != NULL;
    for (const mg_json *l = mg_json_first(layers); l && ok; l = mg_json_next(l))
        ok = mg_json_u64(mg_json_get(l, "layer"), &n) && is_load(mg_json_path(l, path), experts);
    return ok;
}

static bool is_model(const mg_json *m) {
    static const char *const path[] = {"path", NULL}, *const name[] = {"name", NULL};
    uint64_t experts = 0, n;
    double x;
    bool ok = mg_card_has_strings(m, path) && mg_json_u64(mg_json_get(m, "experts"), &experts) &&
              mg_json_u64(mg_json_get(m, "tokens"), &n) && mg_json_f64(mg_json_get(m, "balance_loss"), &x) &&
              are_layers(mg_json_get(m, "layers"), experts, "all.load");
    for (const mg_json *s = mg_json_first(mg_json_get(m, "sets")); s; s = mg_json_next(s))
        ok = ok && mg_card_has_strings(s, name) && mg_json_u64(mg_json_get(s, "tokens"), &n);
    for (const mg_json *w = mg_json_first(mg_json_get(m, "warnings")); w; w = mg_json_next(w))
        ok = ok && mg_json_str(w);
    return ok;
}

mg_status mg_card_check_routing(const mg_json *v, mg_error *err) {
    uint64_t experts = 0, n;
    bool ok = mg_card_is_schema_1(v);
    if (is_report(v)) {
        for (const mg_json *m = mg_json_first(mg_json_get(v, "models")); m; m = mg_json_next(m)) ok = ok && is_model(m);
    } else {
        ok = ok && mg_json_u64(mg_json_get(v, "experts"), &experts) && mg_json_u64(mg_json_get(v, "counted"), &n) &&
             are_layers(mg_json_get(v, "layers"), experts, "load");
    }
    return ok ? MG_OK : mg_fail(err, MG_ERR_FORMAT, "is no result of route --json (schema 1)");
}

static void extremes(FILE *f, const mg_json *load) {
    double low = 1, high = 0;
    size_t unused = 0;
    for (const mg_json *e = mg_json_first(load); e; e = mg_json_next(e)) {
        double x = 0;
        if (!mg_json_f64(e, &x)) continue;
        low = fmin(low, x);
        high = fmax(high, x);
        unused += x == 0;
    }
    fprintf(f, " %.3g | %.3g | %.3g | %zu |", 100 * low, 100 / (double)mg_json_len(load), 100 * high, unused);
}

/* Loads in percent by layer, and the figures at more (NULL-terminated) under their titles. */
static void layer_table(FILE *f, const mg_json *layers, const char *path, const char *const *titles,
                        const char *const *more) {
    const size_t experts = mg_json_len(mg_json_path(mg_json_first(layers), path));
    const bool many = experts > MANY_EXPERTS;
    size_t columns = many ? 4 : experts;
    fputs("| layer |", f);
    if (many) fputs(" lowest | even | highest | unused |", f);
    for (size_t e = 0; !many && e < experts; e++) fprintf(f, " %zu |", e);
    for (size_t i = 0; titles[i]; i++, columns++) fprintf(f, " %s |", titles[i]);
    fputs("\n|---:|", f);
    for (size_t e = 0; e < columns; e++) fputs("---:|", f);
    fputc('\n', f);
    for (const mg_json *l = mg_json_first(layers); l; l = mg_json_next(l)) {
        fprintf(f, "| %.0f |", mg_html_num(l, "layer"));
        if (many) extremes(f, mg_json_path(l, path));
        for (const mg_json *e = mg_json_first(mg_json_path(l, path)); !many && e; e = mg_json_next(e)) {
            double x = 0;
            if (mg_json_f64(e, &x)) fprintf(f, " %.3g |", 100 * x);
        }
        for (size_t i = 0; more[i]; i++) {
            const double x = mg_html_num(l, more[i]);
            if (isnan(x)) fputs(" – |", f);
            if (!isnan(x)) fprintf(f, " %.3g |", x);
        }
        fputc('\n', f);
    }
    fputc('\n', f);
}

static void percent(FILE *f, const mg_json *v, const char *key) {
    const double x = mg_html_num(v, key);
    if (isnan(x))
        fputs(" – |", f);
    else
        fprintf(f, " %.1f |", 100 * x);
}

static void set_table(FILE *f, const mg_json *sets) {
    if (!mg_json_first(sets)) return;
    fputs("| text | tokens | meant for | reaches it, % | as the best, % |\n|---|---:|---|---:|---:|\n", f);
    for (const mg_json *s = mg_json_first(sets); s; s = mg_json_next(s)) {
        const double expert = mg_html_num(s, "intended");
        bool negative = false;
        fputs("| ", f);
        mg_markdown_text(f, mg_json_str(mg_json_get(s, "name")));
        fprintf(f, " | %.0f |", mg_html_num(s, "tokens"));
        negative = mg_json_bool(mg_json_get(s, "negative"), &negative) && negative;
        if (isnan(expert))
            fputs(" – |", f);
        else
            fprintf(f, " %s%.0f |", negative ? "anyone but " : "", expert);
        percent(f, s, "chosen");
        percent(f, s, "best");
        fputc('\n', f);
    }
    fputc('\n', f);
}

static void report(FILE *f, const mg_json *m) {
    static const char *const titles[] = {"entropy", "balance loss", "z-loss", NULL};
    static const char *const more[] = {"all.entropy", "balance_loss", "z_loss", NULL};
    const char *path = mg_json_str(mg_json_get(m, "path")), *slash = strrchr(path, '/');
    fputs("**", f);
    mg_markdown_text(f, slash && slash[1] ? slash + 1 : path);
    fprintf(f,
            "**: %.0f tokens, load-balancing loss %.4g. Share of the choices that fell on each expert, in percent:\n\n",
            mg_html_num(m, "tokens"), mg_html_num(m, "balance_loss"));
    layer_table(f, mg_json_get(m, "layers"), "all.load", titles, more);
    set_table(f, mg_json_get(m, "sets"));
    for (const mg_json *w = mg_json_first(mg_json_get(m, "warnings")); w; w = mg_json_next(w)) {
        fputs("- Warning: ", f);
        mg_markdown_text(f, mg_json_str(w));
        fputc('\n', f);
    }
    if (mg_json_first(mg_json_get(m, "warnings"))) fputc('\n', f);
}

void mg_card_routing(FILE *f, const mg_card *c) {
    static const char *const none[] = {NULL};
    if (!c->routing) return;
    fputs("## Routing\n\n", f);
    if (is_report(c->routing)) {
        for (const mg_json *m = mg_json_first(mg_json_get(c->routing, "models")); m; m = mg_json_next(m)) report(f, m);
        return;
    }
    fprintf(f, "Share of the choices that fell on each expert, in percent, over %.0f tokens.\n\n",
            mg_html_num(c->routing, "counted"));
    layer_table(f, mg_json_get(c->routing, "layers"), "load", none, none);
}
