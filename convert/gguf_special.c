/* gguf_special.c - see gguf_special.h.
 *
 * The converter's rules, in its order: the post-processor of tokenizer.json says which tokens stand before and behind a
 * text (and may rename BOS, EOS, CLS and SEP on the way); tokenizer_config.json names the tokens, whose ids are looked
 * up among the added tokens of tokenizer.json; config.json gives the ids that are still missing. Written are the ids in
 * the order they were found, then the flags in the order they were set, then the chat template. */
#include "convert/gguf_special.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/json_section.h"
#include "formats/base/utf8.h"

enum { BOS, EOS, UNK, SEP, PAD, CLS, MASK, EOT, EOM, N_KINDS };
enum { MAX_TOKENIZER = 256 << 20, MAX_TEMPLATE = 16 << 20, MAX_SIDE = 64 << 20 };

static const struct {
    const char *name, *id_key, *add_key; /* keys NULL: found, but GGUF has no key for it */
} kinds[N_KINDS] = {
    {"bos", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token"},
    {"eos", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_eos_token"},
    {"unk", "tokenizer.ggml.unknown_token_id", NULL},
    {"sep", "tokenizer.ggml.seperator_token_id", "tokenizer.ggml.add_sep_token"}, /* sic */
    {"pad", "tokenizer.ggml.padding_token_id", NULL},
    {"cls", NULL, NULL},
    {"mask", "tokenizer.ggml.mask_token_id", NULL},
    {"eot", "tokenizer.ggml.eot_token_id", NULL},
    {"eom", "tokenizer.ggml.eom_token_id", NULL},
};

/* "bos_token" of tokenizer_config.json: a string, an object with content, or neither. */
typedef struct entry {
    const char *text;
    const mg_json *object;
} entry;

typedef struct specials {
    bool has_config, never_bos;
    entry token[N_KINDS]; /* tokenizer_config.json, with what the post-processor changed */
    bool active[N_KINDS]; /* kinds looked for: eot and eom only when an EOS was renamed */
    unsigned kind_order[N_KINDS], n_kinds;
    int64_t id[N_KINDS]; /* -1: not found */
    unsigned id_order[N_KINDS], n_ids;
    int add[N_KINDS]; /* -1: not set */
    unsigned add_order[N_KINDS], n_adds;
    uint64_t n_vocab;
} specials;

static bool given(entry e) {
    return (e.text && *e.text) || mg_json_len(e.object) > 0;
}

/* Python's ==: an object is never equal to a string. */
static bool is(entry e, const char *text) {
    return e.text && strcmp(e.text, text) == 0;
}

static entry named(const char *text) {
    return (entry){text, NULL};
}

static void set_add(specials *p, unsigned kind, bool value) {
    if (p->add[kind] < 0) p->add_order[p->n_adds++] = kind;
    p->add[kind] = value;
}

static mg_status set_id(specials *p, unsigned kind, const mg_json *v, mg_error *err) {
    int64_t id;
    if (mg_json_type(v) != MG_JSON_INT || !mg_json_i64(v, &id))
        return MG_OK; /* absent, null, or a list: not looked at */
    if (id < 0) return mg_fail(err, MG_ERR_FORMAT, "special token '%s' has id %lld", kinds[kind].name, (long long)id);
    if ((uint64_t)id >= p->n_vocab || p->id[kind] >= 0) return MG_OK;
    p->id[kind] = id;
    p->id_order[p->n_ids++] = kind;
    return MG_OK;
}

static void activate(specials *p, unsigned kind) {
    p->active[kind] = true;
    p->kind_order[p->n_kinds++] = kind;
}

static void init(specials *p, const mg_json *config, uint64_t n_vocab) {
    *p = (specials){.has_config = mg_json_len(config) > 0, .n_vocab = n_vocab};
    for (unsigned k = 0; k < N_KINDS; k++) {
        char key[16];
        snprintf(key, sizeof key, "%s_token", kinds[k].name);
        const mg_json *v = mg_json_get(config, key);
        p->token[k] = (entry){mg_json_str(v), mg_json_type(v) == MG_JSON_OBJECT ? v : NULL};
        p->id[k] = p->add[k] = -1;
        if (k < EOT) activate(p, k);
    }
}

/* ---- the post-processor ---- */

static const char *special_of(const mg_json *item) {
    const char *s = mg_json_str(mg_json_path(item, "SpecialToken.id"));
    return s && *s ? s : NULL;
}

static bool is_sequence(const mg_json *item, const char *id) {
    const char *s = mg_json_str(mg_json_path(item, "Sequence.id"));
    return s && strcmp(s, id) == 0;
}

static const mg_json *last_of(const mg_json *list) {
    const mg_json *last = NULL;
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v)) last = v;
    return last;
}

static void first_token(specials *p, const char *first) {
    if (!p->has_config) {
        p->token[BOS] = named(first);
    } else if (!is(p->token[BOS], first) && !is(p->token[CLS], first)) {
        if (!given(p->token[BOS])) p->token[BOS] = named(first);
        if (!given(p->token[CLS])) p->token[CLS] = named(first);
    }
    set_add(p, BOS, is(p->token[BOS], first) || is(p->token[CLS], first));
}

/* Another token than EOS ends a text: it becomes EOS, and the old one is kept as end of turn (or of message). */
static void last_token(specials *p, const char *last) {
    if (!p->has_config) {
        p->token[EOS] = named(last);
    } else if (!is(p->token[EOS], last)) {
        unsigned kind = !p->active[EOT] ? EOT : !p->active[EOM] ? EOM : N_KINDS;
        if (kind < N_KINDS) {
            activate(p, kind);
            p->token[kind] = p->token[EOS];
        }
        p->token[EOS] = named(last);
    }
    set_add(p, EOS, true);
}

/* What stands between the two texts of a pair, the outer tokens taken off: A [sep] [eos] B. */
static void pair_tokens(specials *p, const mg_json *pair, const char *first, const char *last) {
    const mg_json *item[64];
    size_t n = 0, from = 0;
    for (const mg_json *v = mg_json_first(pair); v && n < 64; v = mg_json_next(v)) item[n++] = v;
    if (n == 0) return;
    if (first && special_of(item[0]) && strcmp(special_of(item[0]), first) == 0) from++;
    if (last && special_of(item[n - 1]) && strcmp(special_of(item[n - 1]), last) == 0) n--;
    if (n <= from + 2 || !is_sequence(item[from], "A") || !is_sequence(item[n - 1], "B")) return;
    bool add = false;
    size_t inner = n - from - 2;
    const char *one = special_of(item[from + 1]), *two = inner == 2 ? special_of(item[from + 2]) : NULL;
    if (one && !last) add = is(p->token[SEP], one) || is(p->token[EOS], one);
    if (two) add = add || is(p->token[SEP], two) || is(p->token[EOS], two);
    set_add(p, SEP, add);
    if (add && !given(p->token[SEP]) && p->has_config) p->token[SEP] = p->token[EOS];
}

static mg_status processor(specials *p, const mg_json *v, mg_error *err) {
    const char *type = mg_json_str(mg_json_get(v, "type"));
    if (type && strcmp(type, "ByteLevel") == 0) {
        for (unsigned k = BOS; k <= EOS; k++)
            if (p->add[k] < 0) set_add(p, k, false);
        return MG_OK;
    }
    if (!type || strcmp(type, "TemplateProcessing") != 0)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "tokenizer with post-processor '%s'", type ? type : "");
    const mg_json *single = mg_json_get(v, "single");
    bool several = mg_json_len(single) > 1;
    const char *first = several ? special_of(mg_json_first(single)) : NULL;
    const char *last = several ? special_of(last_of(single)) : NULL;
    if (first) first_token(p, first);
    if (last) last_token(p, last);
    pair_tokens(p, mg_json_get(v, "pair"), first, last);
    return MG_OK;
}

static mg_status post_processor(specials *p, const mg_json *v, mg_error *err) {
    if (!given(p->token[BOS]) && given(p->token[CLS])) p->token[BOS] = p->token[CLS];
    if (!given(p->token[EOS]) && given(p->token[SEP])) p->token[EOS] = p->token[SEP];
    if (!v) return MG_OK;
    const mg_json *list = mg_json_get(v, "processors");
    if (!list) return processor(p, v, err);
    mg_status s = MG_OK;
    for (const mg_json *e = mg_json_first(list); e && !s; e = mg_json_next(e)) s = processor(p, e, err);
    return s;
}

/* ---- names and ids ---- */

static const mg_json *added_id(const mg_json *added, const char *content) {
    for (const mg_json *v = mg_json_first(added); v; v = mg_json_next(v)) {
        const char *text = mg_json_str(mg_json_get(v, "content"));
        if (text && strcmp(text, content) == 0) return mg_json_get(v, "id");
    }
    return NULL;
}

static mg_status from_config(specials *p, const mg_json *config, const mg_json *added, mg_error *err) {
    mg_status s = MG_OK;
    for (unsigned i = 0; i < p->n_kinds && p->has_config && !s; i++) {
        unsigned k = p->kind_order[i];
        char key[24];
        bool add;
        snprintf(key, sizeof key, "add_%s_token", kinds[k].name);
        if (p->add[k] < 0 && mg_json_bool(mg_json_get(config, key), &add)) set_add(p, k, add);
        const char *text =
            p->token[k].text ? p->token[k].text : mg_json_str(mg_json_get(p->token[k].object, "content"));
        if (text) s = set_id(p, k, added_id(added, text), err);
    }
    return s;
}

/* A small file of the directory as a tree; NULL when it is not there. */
static mg_status load_side(mg_json **out, const char *dir, const char *name, mg_error *err) {
    char path[4096];
    *out = NULL;
    mg_status s = mg_path_join(path, sizeof path, dir, name, err);
    return s || !mg_path_exists(path) ? s : mg_json_load(out, path, MAX_SIDE, err);
}

static mg_status from_model_config(specials *p, const char *dir, mg_error *err) {
    mg_json *config;
    mg_status s = load_side(&config, dir, "config.json", err);
    for (unsigned i = 0; i < p->n_kinds && config && !s; i++) {
        unsigned k = p->kind_order[i];
        char key[24];
        snprintf(key, sizeof key, "%s_token_id", kinds[k].name);
        const mg_json *v = mg_json_get(config, key);
        if (mg_json_type(v) == MG_JSON_NULL) v = mg_json_get(mg_json_get(config, "text_config"), key);
        s = set_id(p, k, v, err);
    }
    mg_json_free(config);
    return s;
}

/* tokenizer.json's two sections that matter here. *there: whether there is such a file. */
static mg_status load_sections(mg_json **post, mg_json **added, const char *dir, bool *there, mg_error *err) {
    char path[4096], *text;
    size_t n;
    mg_json_section k[2] = {{"post_processor", {0}, 0}, {"added_tokens", {0}, 0}};
    *post = *added = NULL;
    mg_status s = mg_path_join(path, sizeof path, dir, "tokenizer.json", err);
    *there = !s && mg_path_exists(path);
    if (!*there) return s;
    s = mg_file_slurp(path, MAX_TOKENIZER, &text, &n, err);
    if (s) return s;
    s = mg_json_sections((mg_span){(const uint8_t *)text, n}, 0, k, 2, err);
    if (!s) s = mg_json_section_tree(post, &k[0], err);
    if (!s) s = mg_json_section_tree(added, &k[1], err);
    mg_error_at(s ? err : NULL, path, NULL);
    free(text);
    return s;
}

static mg_status collect(specials *p, const char *dir, const mg_json *config, mg_kvs *kv, mg_error *err) {
    mg_json *post = NULL, *added = NULL;
    bool there;
    mg_status s = load_sections(&post, &added, dir, &there, err);
    if (!s && there) s = post_processor(p, post, err);
    if (!s) s = from_config(p, config, added, err);
    if (!s) s = from_model_config(p, dir, err);
    for (unsigned i = 0; i < p->n_ids && !s; i++) {
        unsigned k = p->id_order[i];
        if (kinds[k].id_key) s = mg_kvs_set_u32(kv, kinds[k].id_key, (uint32_t)p->id[k], err);
    }
    for (unsigned i = 0; i < p->n_adds && !s; i++) {
        unsigned k = p->add_order[i];
        if (kinds[k].add_key)
            s = mg_kvs_set_bool(kv, kinds[k].add_key, p->add[k] != 0 && !(k == BOS && p->never_bos), err);
    }
    mg_json_free(post);
    mg_json_free(added);
    return s;
}

/* ---- chat templates ---- */

/* A text file as Python reads one: UTF-8, every line end a '\n'. */
static mg_status read_text(const char *path, char **out, mg_error *err) {
    size_t n, to = 0;
    mg_status s = mg_file_slurp(path, MAX_TEMPLATE, out, &n, err);
    if (s) return s;
    if (mg_utf8_valid_prefix((const uint8_t *)*out, n) != n || memchr(*out, 0, n)) {
        free(*out);
        s = mg_fail(err, MG_ERR_FORMAT, "chat template is not UTF-8 text");
        mg_error_at(err, path, NULL);
        return s;
    }
    for (size_t i = 0; i < n; i++) {
        bool cr = (*out)[i] == '\r';
        if (cr && i + 1 < n && (*out)[i + 1] == '\n') continue;
        (*out)[to++] = cr ? '\n' : (*out)[i];
    }
    (*out)[to] = 0;
    return MG_OK;
}

static void push_template(mg_json *list, const char *name, const char *text) {
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "name", name);
    mg_json_set_str(o, "template", text);
    mg_json_push(list, o);
}

static int jinja_only(const struct dirent *e) {
    size_t n = strlen(e->d_name);
    return n > 6 && strcmp(e->d_name + n - 6, ".jinja") == 0;
}

/* additional_chat_templates/NAME.jinja, sorted by name; the first of them makes *list, with the default in front. */
static mg_status more_templates(const char *dir, const char *main_text, mg_json **list, mg_error *err) {
    char folder[4096], path[4096], name[256];
    struct dirent **found = NULL;
    mg_status s = mg_path_join(folder, sizeof folder, dir, "additional_chat_templates", err);
    if (s) return s;
    int n = scandir(folder, &found, jinja_only, alphasort);
    for (int i = 0; i < n && !s; i++) {
        char *text;
        if (!*list) {
            *list = mg_json_new_array();
            push_template(*list, "default", main_text);
        }
        snprintf(name, sizeof name, "%.*s", (int)(strlen(found[i]->d_name) - 6), found[i]->d_name);
        s = mg_path_join(path, sizeof path, folder, found[i]->d_name, err);
        if (!s) s = read_text(path, &text, err);
        if (!s) {
            push_template(*list, name, text);
            free(text);
        }
    }
    for (int i = 0; i < n; i++) free(found[i]);
    free(found);
    return s;
}

/* chat_template.jinja (with its companions), else chat_template.json's member; NULL when there is neither. */
static mg_status template_file(const char *dir, mg_json **out, mg_error *err) {
    char path[4096], *text;
    *out = NULL;
    mg_status s = mg_path_join(path, sizeof path, dir, "chat_template.jinja", err);
    if (s) return s;
    if (!mg_path_exists(path)) {
        mg_json *root;
        s = load_side(&root, dir, "chat_template.json", err);
        if (!s && mg_json_get(root, "chat_template")) s = mg_json_dup(out, mg_json_get(root, "chat_template"), err);
        mg_json_free(root);
        return s;
    }
    s = read_text(path, &text, err);
    if (s) return s;
    s = more_templates(dir, text, out, err);
    if (!s && !*out) *out = mg_json_new_str(text);
    free(text);
    return s;
}

static mg_status put_str(mg_kvs *kv, const char *key, const char *text, mg_error *err) {
    return mg_kvs_set_str(kv, key, text, strlen(text), err);
}

/* [{"name": "default", "template": ...}, {"name": "tool_use", ...}]: one key each, and the list of names. */
static mg_status put_list(mg_kvs *kv, const mg_json *list, mg_error *err) {
    size_t n = 0, most = mg_json_len(list);
    const char *main_text = NULL;
    mg_str *names = calloc(most + 1, sizeof *names);
    char(*keys)[160] = calloc(most + 1, sizeof *keys);
    mg_status s = names && keys ? MG_OK : mg_fail_nomem(err, most * 176);
    static const char prefix[] = "tokenizer.chat_template.";
    for (const mg_json *v = mg_json_first(list); v && !s; v = mg_json_next(v)) {
        const char *name = mg_json_str(mg_json_get(v, "name")), *text = mg_json_str(mg_json_get(v, "template"));
        if (!name || !*name || !text) continue;
        if (strcmp(name, "default") == 0) {
            main_text = text;
            continue;
        }
        snprintf(keys[n], sizeof *keys, "%s%s", prefix, name);
        for (char *c = keys[n] + sizeof prefix - 1; *c; c++)
            if (!isascii((unsigned char)*c) || !isalnum((unsigned char)*c)) *c = '_';
        s = put_str(kv, keys[n], text, err);
        names[n] = (mg_str){keys[n] + sizeof prefix - 1, strlen(keys[n] + sizeof prefix - 1)};
        n++;
    }
    if (!s && n) s = mg_kvs_set_arr(kv, "tokenizer.chat_templates", MG_KV_STR, n, names, err);
    if (!s && main_text) s = put_str(kv, "tokenizer.chat_template", main_text, err);
    free(names);
    free(keys);
    return s;
}

/* Only beside a tokenizer_config.json, whose own template comes first; a null there means none. */
static mg_status put_template(mg_kvs *kv, const char *dir, const mg_json *config, mg_error *err) {
    mg_json *from_file = NULL;
    const mg_json *v = mg_json_get(config, "chat_template");
    mg_status s = MG_OK;
    if (mg_json_len(config) == 0) return MG_OK;
    if (!v) {
        s = template_file(dir, &from_file, err);
        v = from_file;
    }
    if (!s && mg_json_str(v)) s = put_str(kv, "tokenizer.chat_template", mg_json_str(v), err);
    if (!s && mg_json_type(v) == MG_JSON_ARRAY) s = put_list(kv, v, err);
    mg_json_free(from_file);
    return s;
}

mg_status mg_gguf_special_append(mg_kvs *kv, const char *hf_dir, const mg_json *config, uint64_t n_vocab,
                                 bool never_bos, mg_error *err) {
    specials p;
    init(&p, config, n_vocab);
    p.never_bos = never_bos;
    mg_status s = collect(&p, hf_dir, config, kv, err);
    if (!s) s = put_template(kv, hf_dir, config, err);
    return s || !never_bos || p.add[BOS] >= 0 ? s : mg_kvs_set_bool(kv, kinds[BOS].add_key, false, err);
}
