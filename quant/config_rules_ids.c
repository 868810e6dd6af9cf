/* config_rules_ids.c - token ids of the configurations: within the embedding, and the same everywhere. */
#include "quant/config_rules_impl.h"

#include "formats/base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char config_json[] = "config.json", generation_json[] = "generation_config.json";
static const char *const ends[] = {"bos_token_id", "eos_token_id", "pad_token_id"};

static bool is_list(const mg_json *v) {
    return v && mg_json_type(v) == MG_JSON_ARRAY;
}

/* The ids of a value: itself, or the elements of a list. */
static const mg_json *first_of(const mg_json *v) {
    return is_list(v) ? mg_json_first(v) : v;
}

static const mg_json *next_of(const mg_json *list, const mg_json *at) {
    return is_list(list) ? mg_json_next(at) : NULL;
}

static bool names(const mg_json *ids, int64_t id) {
    int64_t other;
    for (const mg_json *x = first_of(ids); x; x = next_of(ids, x))
        if (mg_json_i64(x, &other) && other == id) return true;
    return false;
}

static bool is_stated(const mg_json *v) {
    return v && mg_json_type(v) != MG_JSON_NULL;
}

/* ---- within the embedding ---- */

/* The first id of a key that is none, and how many more there are. */
static void judge_ids(mg_rules *v, const char *file, const mg_json *member) {
    const char *key = mg_json_key(member);
    const bool pad = file == config_json && strcmp(key, "pad_token_id") == 0;
    char place[160], value[80], found[160];
    uint64_t bad = 0, at = 0, i = 0;
    mg_severity severity = MG_SEVERITY_WARNING;
    for (const mg_json *x = first_of(member); x; x = next_of(member, x), i++) {
        int64_t id;
        const bool integer = mg_json_type(x) == MG_JSON_INT; /* 2.0 is none for transformers */
        if (integer && mg_json_i64(x, &id) && id >= 0 && (uint64_t)id < v->rows) continue;
        if (bad++) continue;
        at = i;
        mg_rules_show(x, value, sizeof value);
        if (pad && integer && value[0] != '-') severity = MG_SEVERITY_ERROR; /* the embedding is not even made */
    }
    if (!bad) return;
    snprintf(place, sizeof place, is_list(member) ? "%.100s[%" PRIu64 "]" : "%.100s", key, at);
    snprintf(found, sizeof found, bad > 1 ? "%s (and %" PRIu64 " more such)" : "%s", value, bad - 1);
    mg_rules_found(v, severity, file, place, NULL, found, "0 to %" PRIu64 ": the embedding has %" PRIu64 " rows",
                   v->rows - 1, v->rows);
}

static void judge_file(mg_rules *v, const char *file, const mg_json *config) {
    for (const mg_json *x = v->rows ? mg_json_first(config) : NULL; x; x = mg_json_next(x))
        if (is_stated(x) && mg_ends_with(mg_json_key(x), "_token_id")) judge_ids(v, file, x);
}

void mg_rule_config_ids(mg_rules *v) {
    judge_file(v, config_json, v->config);
}

void mg_rule_generation_ids(mg_rules *v) {
    judge_file(v, generation_json, v->generation);
}

/* ---- the same everywhere ---- */

void mg_rule_generation(mg_rules *v) {
    char found[160];
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const mg_json *ours = mg_json_get(v->config, ends[i]), *theirs = mg_json_get(v->generation, ends[i]);
        if (!is_stated(ours) || !is_stated(theirs)) continue;
        for (const mg_json *x = first_of(ours); x; x = next_of(ours, x)) {
            int64_t id;
            if (!mg_json_i64(x, &id) || names(theirs, id)) continue;
            mg_rules_show(theirs, found, sizeof found);
            mg_rules_found(v, MG_SEVERITY_WARNING, generation_json, ends[i], NULL, found, "%s%" PRId64 " as in %s",
                           is_list(theirs) ? "one with " : "", id, config_json);
            break;
        }
    }
}

static int32_t pad_of(const mg_rules *v) {
    const char *name = mg_rules_token_name(mg_json_get(v->tokenizer_config, "pad_token"));
    return name ? mg_tokenizer_find(v->tokenizer, name) : -1;
}

void mg_rule_tokenizer_ids(mg_rules *v) {
    if (!v->tokenizer || !v->config) return;
    const int32_t own[] = {mg_tokenizer_bos(v->tokenizer), mg_tokenizer_eos(v->tokenizer), pad_of(v)};
    char found[160];
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const mg_json *ids = mg_json_get(v->config, ends[i]);
        if (own[i] < 0 || !is_stated(ids) || names(ids, own[i]) || names(mg_json_get(v->generation, ends[i]), own[i]))
            continue;
        const mg_token *t = mg_tokenizer_token(v->tokenizer, own[i]);
        mg_rules_found(v, MG_SEVERITY_WARNING, config_json, ends[i], NULL, mg_rules_show(ids, found, sizeof found),
                       "%" PRId32 ", the tokenizer's \"%.60s\"", own[i], t ? t->text : "");
    }
}
