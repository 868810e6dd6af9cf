/* config_rules_gguf.c - the metadata of a GGUF against its tokens, its tensors and itself. */
#include "quant/config_rules_impl.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/arch/arch.h"
#include "formats/base/text.h"
#include "formats/gguf_set.h"
#include "quant/preset.h"

static uint64_t n_tokens(const mg_rules *v) {
    const mg_kv *tokens = mg_kvs_get(v->kv, "tokenizer.ggml.tokens");
    return tokens && tokens->type == MG_KV_ARR ? tokens->count : 0;
}

/* ---- tokens ---- */

void mg_rule_gguf_ids(mg_rules *v) {
    const uint64_t tokens = n_tokens(v);
    for (uint32_t i = 0; v->kv && i < v->kv->n; i++) {
        const mg_kv *k = &v->kv->items[i];
        const char *key = k->key.data;
        uint64_t id;
        char found[100];
        if (strncmp(key, "tokenizer.ggml.", 15) != 0 || !mg_ends_with(key, "_token_id")) continue;
        mg_rules_show_kv(k, found, sizeof found);
        if (k->type != MG_KV_U32)
            mg_rules_found(v, MG_SEVERITY_ERROR, v->data_file, key, NULL, found, "a value of type u32, not %s",
                           mg_kv_type_name(k->type));
        else if (tokens && mg_kv_u64(k, &id) && id >= tokens)
            mg_rules_found(v, MG_SEVERITY_WARNING, v->data_file, key, NULL, found,
                           "0 to %" PRIu64 ": tokenizer.ggml.tokens has %" PRIu64, tokens - 1, tokens);
    }
}

void mg_rule_gguf_vocabulary(mg_rules *v) {
    const uint64_t tokens = n_tokens(v);
    char key[128], found[60];
    uint64_t says;
    if (!tokens) return;
    if (v->m && v->rows && v->rows != tokens) {
        snprintf(found, sizeof found, "a list of %" PRIu64, tokens);
        mg_rules_found(v, MG_SEVERITY_ERROR, v->data_file, "tokenizer.ggml.tokens", NULL, found,
                       "%" PRIu64 " tokens, one for each row of the embedding", v->rows);
    }
    const mg_kv *k = mg_rules_kv(v, "vocab_size", key);
    if (mg_kv_u64(k, &says) && says != tokens)
        mg_rules_found(v, MG_SEVERITY_WARNING, v->data_file, key, NULL, mg_rules_show_kv(k, found, sizeof found),
                       "%" PRIu64 ", the tokens of tokenizer.ggml.tokens", tokens);
}

/* ---- types ---- */

/* What llama-quantize stores instead where the rows of a matrix are no multiple of a type's block. */
static mg_dtype fallback(mg_dtype t) {
    switch (t) {
    case MG_Q4_K:
        return MG_Q5_0;
    case MG_Q5_K:
        return MG_Q5_1;
    case MG_Q6_K:
        return MG_Q8_0;
    default:
        return mg_dtype_get(t)->block == 256 ? MG_IQ4_NL : t;
    }
}

static const mg_preset *preset_of(uint64_t file_type) {
    for (int i = 0; i < MG_PRESET_COUNT; i++)
        if (mg_preset_get((mg_preset_id)i)->file_type == file_type) return mg_preset_get((mg_preset_id)i);
    return NULL;
}

void mg_rule_gguf_file_type(mg_rules *v) {
    static const char key[] = "general.file_type";
    enum { GUESSED = 1024 };
    uint64_t elements[MG_DTYPE_COUNT] = {0}, says;
    mg_dtype most = MG_DTYPE_COUNT;
    const mg_kv *k = mg_kvs_get(v->kv, key);
    char found[80];
    for (uint32_t t = 0; k && t < v->c->n_tensors; t++) {
        const mg_tensor *x = &v->c->tensors[t];
        if (x->rank < 2) continue;
        elements[x->dtype] += x->n_elements;
        if (most == MG_DTYPE_COUNT || elements[x->dtype] > elements[most]) most = x->dtype;
    }
    if (most == MG_DTYPE_COUNT) return;
    mg_rules_show_kv(k, found, sizeof found);
    const mg_preset *p = mg_kv_u64(k, &says) ? preset_of(says & ~(uint64_t)GUESSED) : NULL;
    if (!p) {
        mg_rules_found(v, MG_SEVERITY_WARNING, v->data_file, key, NULL, found, "a number of llama.cpp's list");
        return;
    }
    /* Mixes store many types; the one a preset is named after, or its stand-in, is among them. A float type is the type
     * of most weights. */
    const bool block = mg_dtype_is_block(p->dtype);
    if (block ? elements[p->dtype] || elements[fallback(p->dtype)] : most == p->dtype) return;
    const size_t at = strlen(found);
    snprintf(found + at, sizeof found - at, " (%s)", p->name);
    mg_rules_found(v, MG_SEVERITY_WARNING, v->data_file, key, NULL, found,
                   "that of the stored types: %s, most weights are %s", block ? "none is of it" : "it is another",
                   mg_dtype_get(most)->name);
}

void mg_rule_gguf_version(mg_rules *v) {
    static const char key[] = "general.quantization_version";
    const mg_kv *k = mg_kvs_get(v->kv, key);
    uint64_t says = 0;
    char found[60];
    const mg_tensor *first = NULL;
    for (uint32_t t = 0; v->kv && t < v->c->n_tensors && !first; t++)
        if (mg_dtype_is_block(v->c->tensors[t].dtype)) first = &v->c->tensors[t];
    if (!first || (mg_kv_u64(k, &says) && says == 2)) return;
    mg_rules_found(v, MG_SEVERITY_WARNING, v->data_file, key, NULL, mg_rules_show_kv(k, found, sizeof found),
                   "2, which the blocks of '%.80s' (%s) are of", first->name, mg_dtype_get(first->dtype)->name);
}

/* ---- sizes ---- */

void mg_rule_gguf_experts(mg_rules *v) {
    char key[128], other[128], found[60];
    uint64_t used = 0, all = 0;
    const mg_kv *u = mg_rules_kv(v, "expert_used_count", key), *a = mg_rules_kv(v, "expert_count", other);
    if ((!u && !a) || (u && !mg_kv_u64(u, &used)) || (a && !mg_kv_u64(a, &all))) return;
    if (used > all || (all && !used))
        mg_rules_found(v, MG_SEVERITY_ERROR, v->data_file, key, NULL, mg_rules_show_kv(u, found, sizeof found),
                       "%d to %" PRIu64 ", which is %s", all ? 1 : 0, all, other);
}

/* The rotated part of a head is no number of its own in the family's configurations. */
static bool rotates_whole_heads(const mg_arch *a) {
    for (uint32_t i = 0; i < a->n_config; i++) {
        const mg_config_row *r = &a->config[i];
        if (r->key == MG_K_ROPE_DIM && r->gguf_when != MG_GGUF_FILE_TYPE)
            return !r->hf[0] && r->absent.kind == MG_FB_KEY && r->absent.key == MG_K_HEAD_DIM;
    }
    return false;
}

/* Keys that no loader does without. */
void mg_rule_gguf_sizes(mg_rules *v) {
    static const char *const needed[] = {"context_length", "embedding_length", "block_count"};
    char key[128], found[60];
    uint64_t n;
    for (size_t i = 0; v->arch && i < sizeof needed / sizeof *needed; i++) {
        const mg_kv *k = mg_rules_kv(v, needed[i], key);
        if (!mg_kv_u64(k, &n) || n == 0)
            mg_rules_found(v, MG_SEVERITY_ERROR, v->data_file, key, NULL, mg_rules_show_kv(k, found, sizeof found),
                           "a positive number");
    }
    const mg_kv *d = mg_rules_kv(v, "rope.dimension_count", key);
    if (v->m && rotates_whole_heads(v->m->arch) && mg_kv_u64(d, &n) && n != (uint64_t)mg_hp_i(v->m, MG_K_HEAD_DIM))
        mg_rules_found(v, MG_SEVERITY_ERROR, v->data_file, key, NULL, mg_rules_show_kv(d, found, sizeof found),
                       "%" PRId64 ", the size of a head", mg_hp_i(v->m, MG_K_HEAD_DIM));
}

/* A loader reads these in one type only; lists, which some may be, are of the same. */
void mg_rule_gguf_key_types(mg_rules *v) {
    static const struct {
        const char *key; /* behind the architecture's name, or the whole of one with a room of its own */
        mg_kv_type type;
    } typed[] = {{"context_length", MG_KV_U32},
                 {"embedding_length", MG_KV_U32},
                 {"block_count", MG_KV_U32},
                 {"feed_forward_length", MG_KV_U32},
                 {"expert_feed_forward_length", MG_KV_U32},
                 {"attention.head_count", MG_KV_U32},
                 {"attention.head_count_kv", MG_KV_U32},
                 {"attention.key_length", MG_KV_U32},
                 {"attention.value_length", MG_KV_U32},
                 {"attention.sliding_window", MG_KV_U32},
                 {"attention.layer_norm_rms_epsilon", MG_KV_F32},
                 {"attention.layer_norm_epsilon", MG_KV_F32},
                 {"expert_count", MG_KV_U32},
                 {"expert_used_count", MG_KV_U32},
                 {"vocab_size", MG_KV_U32},
                 {"rope.dimension_count", MG_KV_U32},
                 {"rope.freq_base", MG_KV_F32},
                 {"rope.scaling.type", MG_KV_STR},
                 {"rope.scaling.factor", MG_KV_F32},
                 {"rope.scaling.original_context_length", MG_KV_U32},
                 {"rope.scaling.attn_factor", MG_KV_F32},
                 {"general.file_type", MG_KV_U32},
                 {"tokenizer.ggml.model", MG_KV_STR},
                 {"tokenizer.ggml.pre", MG_KV_STR},
                 {"tokenizer.ggml.add_bos_token", MG_KV_BOOL},
                 {"tokenizer.ggml.add_eos_token", MG_KV_BOOL},
                 {"tokenizer.ggml.add_space_prefix", MG_KV_BOOL}};
    char key[128], found[100];
    for (size_t i = 0; v->kv && i < sizeof typed / sizeof *typed; i++) {
        const mg_kv *k = mg_rules_kv(v, typed[i].key, key);
        if (!k) k = mg_kvs_get(v->kv, typed[i].key);
        if (!k || k->type == MG_KV_ARR || k->type == typed[i].type) continue;
        snprintf(found, sizeof found, "of type %s", mg_kv_type_name(k->type));
        mg_rules_found(v, MG_SEVERITY_ERROR, v->data_file, k->key.data, NULL, found, "%s",
                       mg_kv_type_name(typed[i].type));
    }
}

/* ---- rotary scaling ---- */

static void rope_context(mg_rules *v, bool yarn) {
    char key[128], other[128], found[60];
    double orig, most, factor;
    const mg_kv *o = mg_rules_kv(v, "rope.scaling.original_context_length", key);
    if (!mg_kv_f64(o, &orig) || !mg_kv_f64(mg_rules_kv(v, "context_length", other), &most) || orig <= 0 || most <= 0)
        return;
    if (orig > most) {
        mg_rules_found(v, MG_SEVERITY_WARNING, v->data_file, key, NULL, mg_rules_show_kv(o, found, sizeof found),
                       "at most %s, %.17g", other, most);
        return;
    }
    const mg_kv *f = mg_rules_kv(v, "rope.scaling.factor", key);
    if (yarn && orig != most && mg_kv_f64(f, &factor) && fabs(factor * orig - most) >= 1)
        mg_rules_found(v, MG_SEVERITY_WARNING, v->data_file, key, NULL, mg_rules_show_kv(f, found, sizeof found),
                       "%.9g, %s (%.17g) / rope.scaling.original_context_length (%.17g)", most / orig, other, most,
                       orig);
}

void mg_rule_gguf_rope(mg_rules *v) {
    static const char *const known[] = {"none", "linear", "yarn", "longrope"};
    char key[128], found[100];
    mg_str type = {0};
    double x;
    const mg_kv *t = mg_rules_kv(v, "rope.scaling.type", key);
    bool good = !t;
    if (t && mg_kv_str(t, &type))
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) good = good || strcmp(type.data, known[i]) == 0;
    if (!good)
        mg_rules_found(v, MG_SEVERITY_ERROR, v->data_file, key, NULL, mg_rules_show_kv(t, found, sizeof found),
                       "none, linear, yarn or longrope");
    const mg_kv *f = mg_rules_kv(v, "rope.scaling.factor", key);
    if (f && (!mg_kv_f64(f, &x) || !isfinite(x) || x < 0)) /* 0 is no scaling */
        mg_rules_found(v, MG_SEVERITY_ERROR, v->data_file, key, NULL, mg_rules_show_kv(f, found, sizeof found),
                       "a number of at least 1, or 0 for no scaling");
    const mg_kv *b = mg_rules_kv(v, "rope.freq_base", key);
    if (b && (!mg_kv_f64(b, &x) || !isfinite(x) || x <= 0))
        mg_rules_found(v, MG_SEVERITY_ERROR, v->data_file, key, NULL, mg_rules_show_kv(b, found, sizeof found),
                       "a positive number");
    const bool yarn = type.data && strcmp(type.data, "yarn") == 0;
    if (yarn || (type.data && strcmp(type.data, "longrope") == 0))
        rope_context(v, yarn); /* the others have no use for it */
}

/* ---- sets ---- */

/* Whether the parts of a set agree is checked when it is opened. What is left is a file that is none, but looks so. */
void mg_rule_gguf_set(mg_rules *v) {
    const mg_kv *count = mg_kvs_get(v->kv, "split.count"), *total = mg_kvs_get(v->kv, "split.tensors.count");
    uint64_t parts = 0, tensors;
    uint32_t no, named;
    size_t stem;
    char found[60];
    if (!v->kv || (count && (!mg_kv_u64(count, &parts) || parts > 1))) return;
    if (mg_gguf_is_part_name(v->data_file, &stem, &no, &named) && named > 1)
        mg_rules_found(v, MG_SEVERITY_WARNING, v->data_file, "split.count", NULL,
                       mg_rules_show_kv(count, found, sizeof found),
                       "%" PRIu32 " as in its name: the other files are not read", named);
    if (mg_kv_u64(total, &tensors) && tensors != v->c->n_tensors)
        mg_rules_found(v, MG_SEVERITY_WARNING, v->data_file, "split.tensors.count", NULL,
                       mg_rules_show_kv(total, found, sizeof found), "%" PRIu32 ", the tensors of this file",
                       v->c->n_tensors);
}
