/* config_rules_vocab.c - the tokenizer's files among each other and against the embedding, and the chat template. */
#include "quant/config_rules_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/chat.h"

/* ---- names of tokens ---- */

static bool judge_name(mg_rules *v, const char *file, const char *key, const mg_json *value) {
    char found[80];
    const char *name = mg_rules_token_name(value);
    if (!name || mg_tokenizer_find(v->tokenizer, name) >= 0) return false;
    snprintf(found, sizeof found, "\"%.60s\"", name);
    mg_rules_found(v, MG_SEVERITY_WARNING, file, key, NULL, found,
                   "a token of %s: it would be added as a new one, number %" PRIu32 " of an embedding with %" PRIu64
                   " rows",
                   v->tokenizer_file, mg_tokenizer_size(v->tokenizer), v->rows);
    return true;
}

void mg_rule_special_tokens(mg_rules *v) {
    static const char *const keys[] = {"bos_token",           "eos_token", "pad_token",  "unk_token",
                                       "sep_token",           "cls_token", "mask_token", "additional_special_tokens",
                                       "extra_special_tokens"};
    if (!v->tokenizer) return;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const mg_json *value = mg_json_get(v->tokenizer_config, keys[i]);
        const char *file = "tokenizer_config.json";
        if (!value) {
            value = mg_json_get(v->special_map, keys[i]);
            file = "special_tokens_map.json";
        }
        if (!value || mg_json_type(value) != MG_JSON_ARRAY) {
            judge_name(v, file, keys[i], value);
            continue;
        }
        for (const mg_json *x = mg_json_first(value); x; x = mg_json_next(x))
            if (judge_name(v, file, keys[i], x)) break; /* one of a list is enough */
    }
}

/* One entry: `text` is said to have this id. */
static bool judge_added(mg_rules *v, const char *file, const char *key, const char *text, const char *digits) {
    char *end, found[120];
    const unsigned long long id = strtoull(digits, &end, 10);
    const mg_token *t =
        end != digits && !*end && id <= INT32_MAX ? mg_tokenizer_token(v->tokenizer, (int32_t)id) : NULL;
    if (!text || (t && strcmp(t->text, text) == 0)) return false;
    if (t)
        snprintf(found, sizeof found, "\"%.40s\" with id %.20s", text, digits);
    else
        snprintf(found, sizeof found, "\"%.40s\" with id %.20s, beyond %" PRIu32 " tokens", text, digits,
                 mg_tokenizer_size(v->tokenizer));
    const int32_t own = mg_tokenizer_find(v->tokenizer, text);
    if (own >= 0)
        mg_rules_found(v, MG_SEVERITY_WARNING, file, key, NULL, found, "id %" PRId32 " as in %s", own,
                       v->tokenizer_file);
    else
        mg_rules_found(v, MG_SEVERITY_WARNING, file, key, NULL, found, "a token of %s", v->tokenizer_file);
    return true;
}

void mg_rule_added_tokens(mg_rules *v) {
    const mg_json *list = mg_json_get(v->tokenizer_config, "added_tokens_decoder");
    char digits[48];
    if (!v->tokenizer) return;
    for (const mg_json *x = mg_json_first(list); x; x = mg_json_next(x))
        if (judge_added(v, "tokenizer_config.json", "added_tokens_decoder", mg_rules_token_name(x), mg_json_key(x)))
            break;
    if (!v->added || mg_json_type(v->added) != MG_JSON_OBJECT) return;
    for (const mg_json *x = mg_json_first(v->added); x; x = mg_json_next(x))
        if (judge_added(v, "added_tokens.json", mg_json_key(x), mg_json_key(x),
                        mg_rules_show(x, digits, sizeof digits)))
            break;
}

/* ---- sizes ---- */

/* More tokens than rows cannot be looked up. More rows than tokens are padding, as programs that train like it. A GGUF
 * has a rule of its own. */
void mg_rule_vocabulary(mg_rules *v) {
    char found[40];
    if (!v->tokenizer || !v->rows || v->kv) return;
    const uint64_t tokens = mg_tokenizer_size(v->tokenizer);
    snprintf(found, sizeof found, "%" PRIu64 " tokens", tokens);
    if (tokens > v->rows)
        mg_rules_found(v, MG_SEVERITY_ERROR, v->tokenizer_file, "vocabulary", NULL, found,
                       "at most %" PRIu64 ", the rows of the embedding", v->rows);
    else if (tokens < v->rows)
        mg_rules_note(
            v, "the embedding has %" PRIu64 " rows for the %" PRIu64 " tokens of %s: %" PRIu64 " rows of padding",
            v->rows, tokens, v->tokenizer_file, v->rows - tokens);
}

/* ---- chat template ---- */

void mg_rule_template_missing(mg_rules *v) {
    if (!v->tokenizer || v->chat_template) return; /* weights alone have none */
    mg_rules_found(v, MG_SEVERITY_WARNING, v->template_file, v->kv ? "tokenizer.chat_template" : "chat_template", NULL,
                   "absent", "a chat template: chat programs will guess one");
}

static const char bar[] = "\xef\xbd\x9c"; /* U+FF5C, which some families write for '|' */

/* Length of a token as templates spell them at p, "<|name|>", "<\uff5cname\uff5c>" or one of two old words; 0: none. */
static size_t marker(const char *p) {
    static const char *const words[] = {"<start_of_turn>", "<end_of_turn>"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strncmp(p, words[i], strlen(words[i])) == 0) return strlen(words[i]);
    const char *fence = strncmp(p + 1, bar, 3) == 0 ? bar : "|";
    const size_t f = strlen(fence);
    if (p[0] != '<' || strncmp(p + 1, fence, f) != 0) return 0;
    const char *name = p + 1 + f, *end = strstr(name, fence);
    if (!end || end == name || end - name > 60 || end[f] != '>') return 0;
    if (strcspn(name, "<>|'\"{} \t\r\n\\") < (size_t)(end - name)) return 0; /* put together by the program */
    return (size_t)(end + f + 1 - p);
}

/* A format whose marks were never tokens: models of it were trained on their pieces. */
static bool spells_its_marks(const char *text) {
    const mg_chat_format *f;
    return mg_chat_choose(&f, text, NULL, NULL) == MG_OK && strcmp(mg_chat_name(f), "zephyr") == 0;
}

void mg_rule_template_tokens(mg_rules *v) {
    char found[200] = "", name[80];
    unsigned n = 0;
    if (!v->tokenizer || !v->chat_template || spells_its_marks(v->chat_template)) return;
    for (const char *p = v->chat_template; (p = strchr(p, '<')) != NULL; p++) {
        const size_t len = marker(p);
        if (!len || len >= sizeof name) continue;
        snprintf(name, sizeof name, "%.*s", (int)len, p);
        if (mg_tokenizer_find(v->tokenizer, name) >= 0 || strstr(found, name)) continue;
        const size_t at = strlen(found);
        n++;
        if (at + len + 3 < sizeof found) snprintf(found + at, sizeof found - at, "%s%s", at ? ", " : "", name);
    }
    if (n)
        mg_rules_found(v, MG_SEVERITY_WARNING, v->template_file, v->kv ? "tokenizer.chat_template" : "chat_template",
                       NULL, found, "tokens of %s: as text they are cut into pieces", v->tokenizer_file);
}
