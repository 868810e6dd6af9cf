/* router_report.c - see router_report.h: the JSON with its warnings, and the text for a terminal. */
#include "verify/router_report.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "verify/report_html.h"
#include "verify/route_view.h"

#define ALIKE       0.99 /* cosine of rows that can hardly tell tokens apart */
#define BY_CHANCE   0.99 /* entropy */
#define HARDLY_EVER 0.05 /* of an even share */
#define COLUMNS     12u  /* experts beside each other */

/* ---- JSON ---- */

static mg_json *numbers(const double *x, uint32_t n) {
    mg_json *list = mg_json_new_array();
    for (uint32_t i = 0; i < n; i++) mg_json_push(list, mg_json_new_f64(x[i]));
    return list;
}

static mg_json *share_json(const mg_router_share *s, uint32_t experts) {
    mg_json *o = mg_json_new_object();
    mg_json_set_u64(o, "tokens", s->tokens);
    mg_json_set(o, "load", numbers(s->load, experts));
    mg_json_set(o, "first", numbers(s->first, experts));
    mg_json_set(o, "weight", numbers(s->weight, experts));
    mg_json_set(o, "probability", numbers(s->prob, experts));
    mg_json_set_f64(o, "entropy", s->entropy);
    mg_json_set_f64(o, "chosen", s->chosen);
    mg_json_set_f64(o, "best", s->best);
    return o;
}

/* The two different rows that are most alike; 0, 0 for one expert. */
static double closest(const mg_router_stats *s, const mg_router_layer *l, uint32_t *a, uint32_t *b) {
    double top = -2;
    *a = *b = 0;
    for (uint32_t i = 0; i < s->experts; i++)
        for (uint32_t j = i + 1; j < s->experts; j++)
            if (l->cosine[i * s->experts + j] > top) {
                top = l->cosine[i * s->experts + j];
                *a = i;
                *b = j;
            }
    return top;
}

static mg_json *layer_json(const mg_router_stats *s, const mg_router_layer *l) {
    mg_json *o = mg_json_new_object(), *dropped = mg_json_new_array(), *rows = mg_json_new_array(),
            *sets = mg_json_new_array();
    for (int c = 0; c < MG_CAPACITIES; c++) {
        mg_json *d = mg_json_new_object();
        mg_json_set_f64(d, "capacity", mg_router_capacity[c]);
        mg_json_set_f64(d, "share", l->dropped[c]);
        mg_json_push(dropped, d);
    }
    for (uint32_t e = 0; e < s->experts; e++)
        mg_json_push(rows, numbers(l->cosine + (size_t)e * s->experts, s->experts));
    for (uint32_t i = 0; i < s->n_sets; i++) mg_json_push(sets, share_json(&l->sets[i], s->experts));
    mg_json_set_i64(o, "layer", l->layer);
    mg_json_set_f64(o, "balance_loss", l->balance_loss);
    mg_json_set_f64(o, "z_loss", l->z_loss);
    mg_json_set(o, "dropped", dropped);
    mg_json_set_f64(o, "condition", l->condition);
    mg_json_set(o, "cosines", rows);
    mg_json_set(o, "all", share_json(&l->sets[s->n_sets], s->experts));
    mg_json_set(o, "sets", sets);
    return o;
}

/* One set over all layers: means. */
static mg_json *set_json(const mg_router_stats *s, const mg_router_set *set, uint32_t i) {
    mg_json *o = mg_json_new_object(), *weight = mg_json_new_array();
    double chosen = 0, best = 0;
    for (uint32_t l = 0; l < s->n_layers; l++) {
        chosen += s->layers[l].sets[i].chosen / s->n_layers;
        best += s->layers[l].sets[i].best / s->n_layers;
    }
    for (uint32_t e = 0; e < s->experts; e++) {
        double sum = 0;
        for (uint32_t l = 0; l < s->n_layers; l++) sum += s->layers[l].sets[i].weight[e];
        mg_json_push(weight, mg_json_new_f64(sum / s->n_layers));
    }
    mg_json_set_str(o, "name", set->name);
    if (set->intended == MG_ROUTER_NOBODY)
        mg_json_set(o, "intended", mg_json_new_null());
    else
        mg_json_set_i64(o, "intended", set->intended);
    mg_json_set_bool(o, "negative", set->negative);
    mg_json_set_u64(o, "tokens", s->layers[0].sets[i].tokens);
    mg_json_set(o, "weight", weight);
    mg_json_set_f64(o, "chosen", chosen);
    mg_json_set_f64(o, "best", best);
    return o;
}

__attribute__((format(printf, 2, 3))) static void warn(mg_json *list, const char *format, ...) {
    char text[256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    mg_json_push(list, mg_json_new_str(text));
}

static void warn_layer(mg_json *list, const mg_router_stats *s, const mg_router_layer *l) {
    const mg_router_share *all = &l->sets[s->n_sets];
    uint32_t a, b;
    for (uint32_t e = 0; s->k < s->experts && e < s->experts; e++) {
        if (all->load[e] == 0)
            warn(list, "layer %u: expert %u is dead, no token chooses it", l->layer, e);
        else if (all->load[e] * s->experts < HARDLY_EVER)
            warn(list, "layer %u: expert %u gets %.2g %% of the choices, an even share is %.3g %%", l->layer, e,
                 100 * all->load[e], 100.0 / s->experts);
    }
    for (uint32_t e = 0; e < s->experts; e++)
        if (l->cosine[(size_t)e * s->experts + e] == 0)
            warn(list, "layer %u: the router's row of expert %u is zero", l->layer, e);
    const double alike = closest(s, l, &a, &b);
    if (alike > ALIKE)
        warn(list, "layer %u: rows %u and %u of the router are alike (cosine %.4f)", l->layer, a, b, alike);
    if (all->entropy > BY_CHANCE)
        warn(list, "layer %u: the router hardly prefers anyone (entropy %.4f of 1)", l->layer, all->entropy);
}

static mg_json *warnings_json(const mg_router_stats *s, const mg_json *sets) {
    mg_json *list = mg_json_new_array();
    if (s->k == s->experts)
        warn(list, "every token takes all %u experts: loads and agreement say nothing, mean weights do", s->experts);
    for (uint32_t i = 0; i < s->n_layers; i++) warn_layer(list, s, &s->layers[i]);
    for (const mg_json *v = mg_json_first(sets); v && s->k < s->experts; v = mg_json_next(v)) {
        bool negative = false;
        const bool known = mg_json_bool(mg_json_get(v, "negative"), &negative);
        const double chance = (double)s->k / s->experts, chosen = mg_html_num(v, "chosen");
        if (known && chosen < (negative ? 1 - chance : chance))
            warn(list, "'%s' reaches its expert no better than chance (%.1f %%, chance %.1f %%)",
                 mg_json_str(mg_json_get(v, "name")), 100 * chosen, 100 * (negative ? 1 - chance : chance));
    }
    return list;
}

mg_json *mg_router_report_model(const char *path, const mg_router_stats *s, const mg_router_set *sets) {
    mg_json *o = mg_json_new_object(), *layers = mg_json_new_array(), *list = mg_json_new_array();
    for (uint32_t i = 0; i < s->n_layers; i++) mg_json_push(layers, layer_json(s, &s->layers[i]));
    for (uint32_t i = 0; i < s->n_sets; i++) mg_json_push(list, set_json(s, &sets[i], i));
    mg_json_set_str(o, "path", path);
    mg_json_set_i64(o, "experts", s->experts);
    mg_json_set_i64(o, "experts_per_token", s->k);
    mg_json_set_u64(o, "tokens", s->tokens);
    mg_json_set_f64(o, "balance_loss", s->balance_loss);
    mg_json_set(o, "warnings", warnings_json(s, list));
    mg_json_set(o, "sets", list);
    mg_json_set(o, "layers", layers);
    return o;
}

/* ---- text ---- */

static double nth(const mg_json *list, uint32_t i) {
    const mg_json *v = mg_json_first(list);
    double x;
    while (v && i--) v = mg_json_next(v);
    return mg_json_f64(v, &x) ? x : NAN;
}

static void number(FILE *to, int width, int decimals, double x) {
    if (isnan(x))
        fprintf(to, " %*s", width, "-");
    else
        fprintf(to, " %*.*f", width, decimals, x);
}

static void names(FILE *to, uint32_t from, uint32_t end) {
    for (uint32_t e = from; e < end; e++) {
        char name[MG_EXPERT_NAME];
        mg_expert_name(e, name);
        fprintf(to, " %6s", name);
    }
    putc('\n', to);
}

static void layer_lines(FILE *to, const mg_json *m) {
    fprintf(to, "%-8s %8s %8s %8s  %-23s %10s %12s\n", "layer", "entropy", "balance", "z loss", "dropped at 1, 1.25, 2",
            "condition", "closest rows");
    for (const mg_json *l = mg_json_first(mg_json_get(m, "layers")); l; l = mg_json_next(l)) {
        double top = NAN;
        uint32_t i = 0;
        for (const mg_json *r = mg_json_first(mg_json_get(l, "cosines")); r; r = mg_json_next(r), i++)
            for (uint32_t j = 0; j < i; j++) top = fmax(top, nth(r, j));
        fprintf(to, "%-8.0f", mg_html_num(l, "layer"));
        number(to, 8, 4, mg_html_num(l, "all.entropy"));
        number(to, 8, 4, mg_html_num(l, "balance_loss"));
        number(to, 8, 4, mg_html_num(l, "z_loss"));
        putc(' ', to);
        for (const mg_json *d = mg_json_first(mg_json_get(l, "dropped")); d; d = mg_json_next(d))
            fprintf(to, " %5.2f %%", 100 * mg_html_num(d, "share"));
        number(to, 10, 2, mg_html_num(l, "condition"));
        number(to, 12, 4, top);
        putc('\n', to);
    }
}

/* A row of numbers of each layer or set, some experts at a time. */
static void expert_lines(FILE *to, const mg_json *m, const char *title, const char *rows, const char *label,
                         const char *path) {
    const uint32_t n = (uint32_t)mg_html_num(m, "experts");
    for (uint32_t from = 0; from < n; from += COLUMNS) {
        const uint32_t end = n - from < COLUMNS ? n : from + COLUMNS;
        fprintf(to, "%-24s", title);
        names(to, from, end);
        for (const mg_json *r = mg_json_first(mg_json_get(m, rows)); r; r = mg_json_next(r)) {
            const char *name = mg_json_str(mg_json_get(r, label));
            if (name)
                fprintf(to, "  %-22.22s", name);
            else
                fprintf(to, "  layer %-16.0f", mg_html_num(r, label));
            for (uint32_t e = from; e < end; e++) number(to, 6, 3, nth(mg_json_path(r, path), e));
            putc('\n', to);
        }
    }
}

static void agreement_lines(FILE *to, const mg_json *m) {
    bool any = false;
    for (const mg_json *v = mg_json_first(mg_json_get(m, "sets")); v; v = mg_json_next(v)) {
        bool negative = false;
        if (isnan(mg_html_num(v, "chosen"))) continue;
        if (!any) fprintf(to, "%-24s %8s %8s %8s %8s\n", "text", "tokens", "expert", "chosen", "best");
        any = true;
        char name[MG_EXPERT_NAME + 4] = "not ";
        const size_t at = mg_json_bool(mg_json_get(v, "negative"), &negative) && negative ? 4 : 0;
        mg_expert_name((uint32_t)mg_html_num(v, "intended"), name + at);
        fprintf(to, "  %-22.22s %8.0f %8s %6.1f %% %6.1f %%\n", mg_json_str(mg_json_get(v, "name")),
                mg_html_num(v, "tokens"), name, 100 * mg_html_num(v, "chosen"), 100 * mg_html_num(v, "best"));
    }
}

void mg_router_report_text(FILE *to, const mg_json *root) {
    for (const mg_json *m = mg_json_first(mg_json_get(root, "models")); m; m = mg_json_next(m)) {
        fprintf(to, "%s: %.0f tokens, %.0f of %.0f experts each, balance loss %.4f (%.0f when even)\n",
                mg_json_str(mg_json_get(m, "path")), mg_html_num(m, "tokens"), mg_html_num(m, "experts_per_token"),
                mg_html_num(m, "experts"), mg_html_num(m, "balance_loss"), mg_html_num(m, "experts_per_token"));
        agreement_lines(to, m);
        expert_lines(to, m, "mean weight", "sets", "name", "weight");
        expert_lines(to, m, "share of the choices", "layers", "layer", "all.load");
        layer_lines(to, m);
        for (const mg_json *w = mg_json_first(mg_json_get(m, "warnings")); w; w = mg_json_next(w))
            fprintf(to, "warning: %s\n", mg_json_str(w));
        if (mg_json_next(m)) putc('\n', to);
    }
}
