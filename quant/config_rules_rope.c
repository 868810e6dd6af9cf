/* config_rules_rope.c - rotary scaling as config.json states it: for the whole model, or by kind of layer. */
#include "quant/config_rules_impl.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct rope {
    mg_rules *v;
    const mg_json *at; /* the object */
    const char *type;  /* "default" when it does not say */
    char path[120];    /* of it, with a dot at the end */
} rope;

typedef void (*rope_fn)(const rope *r);

/* The object that counts: rope_scaling when it says anything, else rope_parameters (transformers' order). Objects
 * within it are for the kinds of layer they are named after. */
static void ask_each(mg_rules *v, rope_fn fn) {
    const char *name = "rope_scaling";
    const mg_json *o = mg_json_get(v->config, name);
    if (!o || mg_json_type(o) != MG_JSON_OBJECT || !mg_json_len(o))
        o = mg_json_get(v->config, name = "rope_parameters");
    if (!o || mg_json_type(o) != MG_JSON_OBJECT) return;
    bool nested = false;
    for (const mg_json *x = mg_json_first(o); x; x = mg_json_next(x)) {
        if (mg_json_type(x) != MG_JSON_OBJECT) continue;
        rope r = {.v = v, .at = x};
        snprintf(r.path, sizeof r.path, "%s.%.80s.", name, mg_json_key(x));
        r.type = mg_json_str(mg_json_get(x, "rope_type"));
        nested = true;
        if (!r.type) r.type = mg_json_str(mg_json_get(x, "type"));
        if (!r.type) r.type = "default";
        fn(&r);
    }
    if (nested) return;
    rope r = {.v = v, .at = o, .type = mg_json_str(mg_json_get(o, "rope_type"))};
    snprintf(r.path, sizeof r.path, "%s.", name);
    if (!r.type) r.type = mg_json_str(mg_json_get(o, "type"));
    if (!r.type) r.type = "default";
    fn(&r);
}

static bool is(const rope *r, const char *type) {
    return strcmp(r->type, type) == 0;
}

static bool is_longrope(const rope *r) {
    return is(r, "longrope") || is(r, "su"); /* its name in the first releases */
}

MG_PRINTF(4, 5)
static void found(const rope *r, mg_severity severity, const char *key, const char *expected, ...) {
    char path[200], value[80], want[300];
    va_list args;
    va_start(args, expected);
    vsnprintf(want, sizeof want, expected, args);
    va_end(args);
    snprintf(path, sizeof path, "%s%s", r->path, key);
    mg_rules_found(r->v, severity, "config.json", path, NULL,
                   mg_rules_show(mg_json_get(r->at, key), value, sizeof value), "%s", want);
}

static bool number(const rope *r, const char *key, double *out) {
    return mg_json_f64(mg_json_get(r->at, key), out) && isfinite(*out);
}

static bool positive(const mg_json *v, double *out) {
    return mg_json_f64(v, out) && isfinite(*out) && *out > 0;
}

/* A family that keeps the length it was trained on beside the object prefers that one. */
static bool original(const rope *r, double *out) {
    static const char key[] = "original_max_position_embeddings";
    return positive(mg_json_get(r->v->config, key), out) || positive(mg_json_get(r->at, key), out);
}

/* ---- type ---- */

static void type_of(const rope *r) {
    static const char *const known[] = {"default", "linear", "dynamic",      "yarn",  "longrope",
                                        "llama3",  "su",     "proportional", "axial", "mrope"};
    const char *a = mg_json_str(mg_json_get(r->at, "rope_type")), *b = mg_json_str(mg_json_get(r->at, "type"));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (is(r, known[i])) {
            if (a && b && strcmp(a, b) != 0 && strcmp(b, "su") != 0 && strcmp(b, "mrope") != 0)
                found(r, MG_SEVERITY_WARNING, "type", "\"%.40s\" as rope_type beside it", a);
            return;
        }
    found(r, MG_SEVERITY_ERROR, a ? "rope_type" : "type",
          "default, linear, dynamic, yarn, longrope, llama3 or proportional");
}

void mg_rule_rope_type(mg_rules *v) {
    ask_each(v, type_of);
}

/* ---- factor and context ---- */

static void factor_of(const rope *r) {
    const mg_json *f = mg_json_get(r->at, "factor");
    const bool needed = is(r, "linear") || is(r, "dynamic") || is(r, "yarn") || is(r, "llama3");
    double x;
    if (!needed && !is_longrope(r)) return;
    if (!f || mg_json_type(f) == MG_JSON_NULL) {
        /* yarn of null is the ratio of the contexts, absent it is refused */
        if (needed && !(is(r, "yarn") && f))
            found(r, MG_SEVERITY_ERROR, "factor", "a number: \"%.40s\" needs it", r->type);
        return;
    }
    if (!mg_json_f64(f, &x) || !(x > 0))
        found(r, MG_SEVERITY_ERROR, "factor", "a number of at least 1");
    else if (x < 1)
        found(r, MG_SEVERITY_WARNING, "factor", "a number of at least 1: less shortens the context");
}

void mg_rule_rope_factor(mg_rules *v) {
    ask_each(v, factor_of);
}

/* yarn: the factor is the ratio of the two lengths. transformers lets equal lengths pass, which is how a config with
 * the scaling added by hand looks. A whole token of difference is asked for: factors are written with few digits. */
static void context_of(const rope *r) {
    static const char orig_key[] = "original_max_position_embeddings";
    const mg_json *o = mg_json_get(r->at, orig_key);
    double orig, most, factor;
    const bool uses = is(r, "yarn") || is(r, "llama3") || is_longrope(r);
    if (!uses) return;
    if (o && mg_json_type(o) != MG_JSON_NULL && !positive(o, &orig)) {
        found(r, MG_SEVERITY_ERROR, orig_key, "a positive number");
        return;
    }
    if (!original(r, &orig) || !positive(mg_json_get(r->v->config, "max_position_embeddings"), &most)) return;
    if (orig > most)
        found(r, MG_SEVERITY_WARNING, orig_key, "at most max_position_embeddings, %.17g", most);
    else if (is(r, "llama3") && orig >= most)
        found(r, MG_SEVERITY_WARNING, orig_key, "less than max_position_embeddings, %.17g", most);
    else if (is(r, "yarn") && orig != most && number(r, "factor", &factor) && fabs(factor * orig - most) >= 1)
        found(r, MG_SEVERITY_WARNING, "factor", "%.9g, max_position_embeddings (%.17g) / %s (%.17g)", most / orig, most,
              orig_key, orig);
}

void mg_rule_rope_context(mg_rules *v) {
    ask_each(v, context_of);
}

/* ---- frequencies ---- */

static void frequencies_of(const rope *r) {
    double low, high;
    if (is(r, "llama3")) {
        const bool has_low = number(r, "low_freq_factor", &low) && low > 0;
        if (!has_low) found(r, MG_SEVERITY_ERROR, "low_freq_factor", "a positive number");
        if (!number(r, "high_freq_factor", &high) || (has_low && high <= low))
            found(r, MG_SEVERITY_ERROR, "high_freq_factor", "a number above low_freq_factor%s",
                  has_low ? "" : " (none)");
    }
    if (is(r, "yarn") && number(r, "beta_fast", &high) && high < (number(r, "beta_slow", &low) && low != 0 ? low : 1))
        found(r, MG_SEVERITY_WARNING, "beta_fast", "a number above beta_slow");
}

void mg_rule_rope_frequencies(mg_rules *v) {
    ask_each(v, frequencies_of);
}

/* Rotated pairs as transformers counts them; 0: the config does not say. */
static uint64_t pairs(const rope *r) {
    double head, hidden, heads, part = 1;
    const mg_json *c = r->v->config;
    if (!positive(mg_json_get(c, "qk_rope_head_dim"), &head) && !positive(mg_json_get(c, "head_dim"), &head)) {
        if (!positive(mg_json_get(c, "hidden_size"), &hidden) ||
            !positive(mg_json_get(c, "num_attention_heads"), &heads))
            return 0;
        head = floor(hidden / heads);
    }
    if (!positive(mg_json_get(r->at, "partial_rotary_factor"), &part) &&
        !positive(mg_json_get(c, "partial_rotary_factor"), &part))
        part = 1;
    return head * part < 1e9 ? (uint64_t)(head * part) / 2 : 0;
}

static void lists_of(const rope *r) {
    static const char *const keys[] = {"short_factor", "long_factor"};
    const uint64_t n = pairs(r);
    for (int i = 0; i < 2 && is_longrope(r); i++) {
        const mg_json *list = mg_json_get(r->at, keys[i]);
        bool good = list && mg_json_type(list) == MG_JSON_ARRAY;
        double x;
        for (const mg_json *e = good ? mg_json_first(list) : NULL; e && good; e = mg_json_next(e))
            good = positive(e, &x);
        if (!good)
            found(r, MG_SEVERITY_ERROR, keys[i], "a list of positive numbers");
        else if (n && mg_json_len(list) != n)
            found(r, MG_SEVERITY_ERROR, keys[i], "a list of %llu, one factor for each rotated pair",
                  (unsigned long long)n);
    }
}

void mg_rule_rope_lists(mg_rules *v) {
    ask_each(v, lists_of);
}

/* ---- base ---- */

void mg_rule_rope_theta(mg_rules *v) {
    char text[80];
    double outer, inner;
    const mg_json *a = mg_json_get(v->config, "rope_theta"), *b = mg_json_path(v->config, "rope_parameters.rope_theta");
    if (mg_json_f64(a, &outer) && mg_json_f64(b, &inner) && outer != inner)
        mg_rules_found(v, MG_SEVERITY_WARNING, "config.json", "rope_theta", NULL, mg_rules_show(a, text, sizeof text),
                       "%.9g as in rope_parameters.rope_theta", inner);
}
