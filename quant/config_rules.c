/* config_rules.c - see config_rules.h. The rules, each with the program and place it was read from in November 2026;
 * what they do is in config_rules_*.c. */
#include "quant/config_rules.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/chat.h"
#include "formats/hf_dir.h"
#include "quant/config_rules_impl.h"

/* A rule says nothing where what it compares is not there, so all are asked of every container. */
static const mg_config_rule rules[] = {
    {"token ids", "config", mg_rule_config_ids,
     "transformers configuration_utils.py validate_token_ids; torch nn.Embedding: padding_idx must be within "
     "num_embeddings"},
    {"generation ids", "config", mg_rule_generation_ids,
     "transformers generation/configuration_utils.py validate; generation/utils.py _prepare_special_tokens"},
    {"generation", "config", mg_rule_generation,
     "transformers generation/utils.py: generation_config.json, not config.json, says where generate() stops; "
     "llama.cpp's converter reads config.json"},
    {"tokenizer ids", "config", mg_rule_tokenizer_ids,
     "transformers takes bos and eos of a text from the tokenizer, of generate() from the configurations"},
    {"special tokens", "vocabulary", mg_rule_special_tokens,
     "transformers tokenization_utils_tokenizers.py __init__: names without a token are added as new ones"},
    {"added tokens", "vocabulary", mg_rule_added_tokens,
     "transformers tokenization_utils_tokenizers.py: tokenizer.json first, added_tokens_decoder without it"},
    {"vocabulary", "vocabulary", mg_rule_vocabulary,
     "torch nn.Embedding: index out of range; llama.cpp, its model loader: check_tensor_dims"},
    {"chat template", "template", mg_rule_template_missing,
     "transformers apply_chat_template: no template is an error"},
    {"template tokens", "template", mg_rule_template_tokens,
     "tokenizers: text that is no added token is cut into pieces"},
    {"rope type", "config", mg_rule_rope_type,
     "transformers modeling_rope_utils.py ROPE_INIT_FUNCTIONS; standardize_rope_params"},
    {"rope factor", "config", mg_rule_rope_factor,
     "transformers modeling_rope_utils.py _validate_*_rope_parameters: a number of at least 1"},
    {"rope context", "config", mg_rule_rope_context,
     "transformers modeling_rope_utils.py _validate_*_rope_parameters of yarn and llama3"},
    {"rope frequencies", "config", mg_rule_rope_frequencies,
     "transformers modeling_rope_utils.py _compute_*_parameters: llama3 divides by high - low; "
     "_validate_yarn_rope_parameters"},
    {"rope lists", "config", mg_rule_rope_lists,
     "transformers modeling_rope_utils.py _validate_longrope_rope_parameters: one factor for each rotated pair"},
    {"rope theta", "config", mg_rule_rope_theta,
     "transformers 5 standardize_rope_params prefers rope_parameters; older releases and llama.cpp's converter read "
     "rope_theta"},
    {"dtype", "config", mg_rule_dtype,
     "transformers modeling_utils.py _get_dtype: the config's type, not the stored one, is what a model loads in"},
    {"stored types", "config", mg_rule_stored_types,
     "transformers modeling_utils.py _get_dtype: all weights are taken to be of one type"},
    {"experts", "config", mg_rule_experts, "torch.topk: selected index k out of range"},
    {"quantized", "quantization", mg_rule_quantized,
     "transformers quantizers: modules are replaced by quantized ones, whose tensors must be there"},
    {"skip list", "quantization", mg_rule_skip_list,
     "vLLM is_layer_skipped, get_dynamic_override; compressed-tensors utils/match.py is_match: see "
     "quant/loader_rules.c"},
    {"token ids", "gguf", mg_rule_gguf_ids,
     "llama.cpp, its vocabulary: 'bad special token', the default is used; its model loader: key has wrong "
     "type"},
    {"vocabulary", "gguf", mg_rule_gguf_vocabulary,
     "llama.cpp, its model loader: check_tensor_dims: the embedding has a row for each token"},
    {"file type", "gguf", mg_rule_gguf_file_type,
     "llama.cpp, its list of file types: what every program shows as the type"},
    {"quantization version", "gguf", mg_rule_gguf_version,
     "ggml docs/gguf.md general.quantization_version; ggml.h GGML_QNT_VERSION"},
    {"experts", "gguf", mg_rule_gguf_experts,
     "llama.cpp, its model: load_hparams: GGML_ASSERT(n_expert_used <= n_expert)"},
    {"sizes", "gguf", mg_rule_gguf_sizes, "llama.cpp, its model: key not found in model; invalid n_rot"},
    {"key types", "gguf", mg_rule_gguf_key_types, "llama.cpp, its model loader: key has wrong type"},
    {"rope scaling", "gguf", mg_rule_gguf_rope,
     "llama.cpp, its model: load_hparams: rope.scaling.*; an unknown type is an assertion"},
    {"set", "gguf", mg_rule_gguf_set,
     "llama.cpp, its model loader: split.count says whether there are other files, not the name"},
};

/* ---- saying ---- */

static void set_text(mg_json *o, const char *key, const char *text) {
    if (text) mg_json_set_str(o, key, text);
}

void mg_rules_found(mg_rules *v, mg_severity severity, const char *file, const char *key, const char *tensor,
                    const char *found, const char *expected, ...) {
    char want[512], text[1200];
    va_list args;
    va_start(args, expected);
    vsnprintf(want, sizeof want, expected, args);
    va_end(args);
    snprintf(text, sizeof text, "'%.200s' in %.200s is %.200s, expected %.512s", key, file, found, want);
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "kind", v->rule->kind);
    mg_json_set_str(o, "severity", severity == MG_SEVERITY_ERROR ? "error" : "warning");
    mg_json_set_str(o, "rule", v->rule->name);
    set_text(o, "tensor", tensor);
    mg_json_set_str(o, "file", file);
    mg_json_set_str(o, "key", key);
    mg_json_set_str(o, "found", found);
    mg_json_set_str(o, "expected", want);
    mg_json_set_str(o, "text", text);
    mg_json_set_str(o, "source", v->rule->source);
    mg_json_push(v->findings, o);
    v->n_errors += severity == MG_SEVERITY_ERROR;
}

void mg_rules_note(mg_rules *v, const char *format, ...) {
    char text[600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    mg_json_push(v->notes, mg_json_new_str(text));
}

const char *mg_rules_show(const mg_json *value, char *buf, size_t size) {
    double d;
    bool b;
    if (!value) {
        snprintf(buf, size, "absent");
        return buf;
    }
    switch (mg_json_type(value)) {
    case MG_JSON_STRING:
        snprintf(buf, size, "\"%.60s\"", mg_json_str(value));
        break;
    case MG_JSON_BOOL:
        snprintf(buf, size, "%s", mg_json_bool(value, &b) && b ? "true" : "false");
        break;
    case MG_JSON_INT:
        snprintf(buf, size, "%.40s", mg_json_digits(value));
        break;
    case MG_JSON_REAL:
        snprintf(buf, size, "%.9g", mg_json_f64(value, &d) ? d : 0);
        break;
    case MG_JSON_ARRAY:
        snprintf(buf, size, "a list of %zu", mg_json_len(value));
        break;
    case MG_JSON_OBJECT:
        snprintf(buf, size, "an object");
        break;
    default:
        snprintf(buf, size, "null");
    }
    return buf;
}

const char *mg_rules_show_kv(const mg_kv *value, char *buf, size_t size) {
    int64_t i;
    uint64_t u;
    double d;
    mg_str s;
    if (!value)
        snprintf(buf, size, "absent");
    else if (mg_kv_str(value, &s))
        snprintf(buf, size, "\"%.60s\"", s.data);
    else if (mg_kv_i64(value, &i))
        snprintf(buf, size, "%" PRId64, i);
    else if (mg_kv_u64(value, &u))
        snprintf(buf, size, "%" PRIu64, u);
    else if (mg_kv_f64(value, &d))
        snprintf(buf, size, "%.9g", d);
    else
        snprintf(buf, size, "a list of %" PRIu64, value->count);
    return buf;
}

const mg_kv *mg_rules_kv(const mg_rules *v, const char *suffix, char key[128]) {
    key[0] = 0;
    if (!v->kv || !v->arch || snprintf(key, 128, "%s.%s", v->arch, suffix) >= 128) return NULL;
    return mg_kvs_get(v->kv, key);
}

const char *mg_rules_token_name(const mg_json *value) {
    return mg_json_str(value) ? mg_json_str(value) : mg_json_str(mg_json_get(value, "content"));
}

/* ---- what there is ---- */

static bool is_there(const char *dir, const char *name) {
    char path[4096];
    return dir && mg_path_join(path, sizeof path, dir, name, NULL) == MG_OK && mg_path_exists(path);
}

/* NULL when the file is not there; only objects hold what the rules look for. */
static mg_status load_side(mg_json **out, const char *dir, const char *name, mg_error *err) {
    enum { CAP = 64 << 20 }; /* added tokens may be many */
    char path[4096];
    if (!is_there(dir, name)) return MG_OK;
    MG_TRY(mg_path_join(path, sizeof path, dir, name, err));
    MG_TRY(mg_hf_check_link(dir, name, err));
    mg_status st = mg_json_load(out, path, CAP, err);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    return st;
}

static mg_status load_text_side(mg_rules *v, mg_error *err) {
    const mg_checkpoint *c = v->c;
    v->tokenizer_file = c->kv                                ? v->data_file
                        : is_there(c->dir, "tokenizer.json") ? "tokenizer.json"
                                                             : "tokenizer.model";
    v->template_file = c->kv                                     ? v->data_file
                       : is_there(c->dir, "chat_template.jinja") ? "chat_template.jinja"
                                                                 : "tokenizer_config.json";
    MG_TRY(mg_chat_template_model(&v->chat_template, c, err));
    if (c->kv) return MG_OK; /* what lies beside a GGUF is not part of it */
    MG_TRY(load_side(&v->tokenizer_config, c->dir, "tokenizer_config.json", err));
    MG_TRY(load_side(&v->special_map, c->dir, "special_tokens_map.json", err));
    return load_side(&v->added, c->dir, "added_tokens.json", err);
}

static uint64_t embedding_rows(const mg_rules *v) {
    const mg_bound *b = v->m ? mg_model_find(v->m, MG_R_TOKEN_EMBD, 0, 0) : NULL;
    uint64_t n = 0;
    if (b && b->rank == 2) return b->shape[0];
    if (!mg_json_u64(mg_json_get(v->config, "vocab_size"), &n)) return 0;
    return n;
}

static mg_status ask_all(mg_rules *v, mg_group_layout *layout, mg_error *err) {
    mg_error broken = {0}; /* a layout that does not fit its configuration is an error of the structure */
    mg_error why = {0};
    mg_str arch;
    if (mg_kv_str(mg_kvs_get(v->kv, "general.architecture"), &arch)) v->arch = arch.data;
    if (mg_group_layout_init(layout, v->c, &broken) == MG_OK) v->layout = layout;
    const mg_status st = mg_tokenizer_open_model(&v->tokenizer, v->c, &why);
    MG_TRY(load_text_side(v, err));
    v->rows = embedding_rows(v);
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        v->rule = &rules[i];
        rules[i].ask(v);
    }
    if (!v->findings || !v->notes || mg_json_is_broken(v->findings) || mg_json_is_broken(v->notes))
        return mg_fail_nomem(err, sizeof(void *));
    if (st == MG_OK || st == MG_ERR_UNSUPPORTED) return MG_OK; /* a kind that is not understood is no finding */
    *err = why; /* a broken tokenizer does not keep the other rules from being asked */
    return st;
}

mg_status mg_config_rules(mg_json *findings, mg_json *notes, uint32_t *n_errors, mg_checkpoint *c, mg_checkpoint *dense,
                          mg_model *m, mg_error *err) {
    mg_group_layout layout = {0};
    mg_rules v = {.c = c,
                  .dense = dense,
                  .m = m,
                  .config = c->config,
                  .generation = c->generation_config,
                  .kv = c->kv,
                  .data_file = c->n_files ? c->files[0] : c->path,
                  .findings = findings,
                  .notes = notes};
    const mg_status st = ask_all(&v, &layout, err);
    *n_errors = v.n_errors;
    mg_group_layout_release(&layout);
    mg_tokenizer_free(v.tokenizer);
    mg_json_free(v.tokenizer_config);
    mg_json_free(v.special_map);
    mg_json_free(v.added);
    free(v.chat_template);
    return st;
}
