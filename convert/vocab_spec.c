/* vocab_spec.c - tokenizer_source and tokenizer of a recipe; see vocab_union.h. */
#include "convert/merge_yaml.h"
#include "convert/vocab_union.h"

#include <string.h>

static mg_status model_of(mg_arena *a, const char *dir, const mg_yaml *v, const char *key, const char **out,
                          mg_error *err) {
    MG_TRY(mg_merge_yaml_model(a, v, key, out, err));
    return mg_merge_yaml_resolve(a, dir, *out, out, err);
}

/* union, base, or a model. */
static mg_status read_source(mg_vocab_spec *s, mg_arena *a, const char *dir, const mg_yaml *v, const char *key,
                             mg_error *err) {
    s->unite = v->type == MG_YAML_SCALAR && strcmp(v->text, "union") == 0;
    if (s->unite || (v->type == MG_YAML_SCALAR && strcmp(v->text, "base") == 0)) return MG_OK;
    return model_of(a, dir, v, key, &s->source, err);
}

/* {kind: zero}, {kind: model_token, model, token or token_id}, or a model. */
static mg_status read_rule_source(mg_vocab_rule *r, mg_arena *a, const char *dir, const mg_yaml *v, mg_error *err) {
    static const char *const keys[] = {"kind", "model", "token", "token_id", NULL};
    const mg_yaml *kind = mg_yaml_get(v, "kind"), *token = mg_yaml_get(v, "token"), *id = mg_yaml_get(v, "token_id");
    if (!kind) return model_of(a, dir, v, "source", &r->model, err);
    MG_TRY(mg_merge_yaml_check_keys(v, keys, "the source of a token", err));
    if (kind->type == MG_YAML_SCALAR && strcmp(kind->text, "zero") == 0) return MG_OK;
    if (kind->type != MG_YAML_SCALAR || strcmp(kind->text, "model_token") != 0)
        return mg_merge_yaml_schema(err, kind, "kind", "zero or model_token");
    if (!mg_yaml_get(v, "model") || !token == !id)
        return mg_merge_yaml_schema(err, v, "source", "a model and one of token and token_id");
    if (id && (!mg_yaml_i64(id, &r->of_id) || r->of_id < 0))
        return mg_merge_yaml_schema(err, id, "token_id", "a number");
    if (token && token->type != MG_YAML_SCALAR) return mg_merge_yaml_schema(err, token, "token", "a string");
    r->of_token = token ? token->text : NULL;
    return model_of(a, dir, mg_yaml_get(v, "model"), "model", &r->model, err);
}

static mg_status read_rules(mg_vocab_spec *s, mg_arena *a, const char *dir, const mg_yaml *tokens, mg_error *err) {
    static const char *const keys[] = {"source", "force", NULL};
    if (!tokens || mg_yaml_is_null(tokens)) return MG_OK;
    if (tokens->type != MG_YAML_MAP) return mg_merge_yaml_schema(err, tokens, "tokens", "a mapping of tokens");
    MG_TRY(MG_ARENA_NEW(a, &s->rules, tokens->n_children, err));
    for (const mg_yaml *v = tokens->child; v; v = v->next) {
        mg_vocab_rule *r = &s->rules[s->n_rules++];
        const mg_yaml *source = mg_yaml_get(v, "source"), *force = mg_yaml_get(v, "force");
        *r = (mg_vocab_rule){.token = v->key, .of_id = -1, .line = v->line};
        if (v->type != MG_YAML_MAP) return mg_merge_yaml_schema(err, v, v->key, "a mapping with a source");
        MG_TRY(mg_merge_yaml_check_keys(v, keys, "a token", err));
        if (force && !mg_yaml_bool(force, &r->force)) return mg_merge_yaml_schema(err, force, "force", "true or false");
        if (!source || mg_yaml_is_null(source))
            return mg_merge_yaml_schema(err, v, "source", "zero, a model or a token");
        MG_TRY(read_rule_source(r, a, dir, source, err));
    }
    return MG_OK;
}

mg_status mg_vocab_spec_read(mg_vocab_spec *s, mg_arena *arena, const char *dir, const mg_yaml *root, mg_error *err) {
    static const char *const keys[] = {"source", "tokens", "pad_to_multiple_of", NULL};
    const mg_yaml *source = mg_yaml_get(root, "tokenizer_source"), *t = mg_yaml_get(root, "tokenizer");
    const bool has_source = source && !mg_yaml_is_null(source), has = t && !mg_yaml_is_null(t);
    *s = (mg_vocab_spec){0};
    if (has && has_source)
        return mg_fail(err, MG_ERR_FORMAT, "line %u: 'tokenizer' and 'tokenizer_source' say the same: one of them",
                       t->line);
    if (has_source) {
        MG_TRY(read_source(s, arena, dir, source, "tokenizer_source", err));
        s->rebuild = s->unite || s->source;
        s->any_vocab = true;
        return MG_OK;
    }
    if (!has) return MG_OK;
    if (t->type != MG_YAML_MAP) return mg_merge_yaml_schema(err, t, "tokenizer", "a mapping");
    MG_TRY(mg_merge_yaml_check_keys(t, keys, "tokenizer", err));
    const mg_yaml *from = mg_yaml_get(t, "source"), *pad = mg_yaml_get(t, "pad_to_multiple_of");
    int64_t multiple = 0;
    s->unite = true; /* mergekit's default */
    if (from && !mg_yaml_is_null(from)) MG_TRY(read_source(s, arena, dir, from, "source", err));
    if (pad && !mg_yaml_is_null(pad) && (!mg_yaml_i64(pad, &multiple) || multiple < 1 || multiple > 1 << 24))
        return mg_merge_yaml_schema(err, pad, "pad_to_multiple_of", "a number from 1");
    s->multiple = (uint64_t)multiple;
    s->rebuild = s->any_vocab = true;
    return read_rules(s, arena, dir, mg_yaml_get(t, "tokens"), err);
}
