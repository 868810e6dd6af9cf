/* config_rules_impl.h - what the rules of config_rules.c look at, and how they say what they found. */
#ifndef MG_QUANT_CONFIG_RULES_IMPL_H
#define MG_QUANT_CONFIG_RULES_IMPL_H

#include "formats/arch/model.h"
#include "formats/group_layouts.h"
#include "formats/tokenizer.h"

typedef enum mg_severity { MG_SEVERITY_WARNING, MG_SEVERITY_ERROR } mg_severity;

typedef struct mg_config_rule mg_config_rule;

/* Everything may be NULL but c. */
typedef struct mg_rules {
    mg_checkpoint *c, *dense;
    mg_model *m;
    const mg_json *config, *generation; /* the checkpoint's */
    const mg_kvs *kv;                   /* of a GGUF */
    const char *arch;                   /* general.architecture */
    const char *data_file;              /* base name of the first file with tensors */
    mg_json *tokenizer_config, *special_map, *added;
    mg_tokenizer *tokenizer;
    const char *tokenizer_file;
    char *chat_template;
    const char *template_file;
    uint64_t rows;                 /* of the token embedding, 0: not known */
    const mg_group_layout *layout; /* NULL: nothing is quantized, or the layout is broken */
    mg_json *findings, *notes;
    uint32_t n_errors;
    const mg_config_rule *rule; /* that is being asked */
} mg_rules;

struct mg_config_rule {
    const char *name, *kind;
    void (*ask)(mg_rules *v);
    const char *source;
};

/* "'KEY' in FILE is FOUND, expected ...". tensor may be NULL. */
MG_PRINTF(7, 8)
void mg_rules_found(mg_rules *v, mg_severity severity, const char *file, const char *key, const char *tensor,
                    const char *found, const char *expected, ...);
MG_PRINTF(2, 3)
void mg_rules_note(mg_rules *v, const char *format, ...);

/* A value in a few words, into buf; returns buf. NULL is "absent". */
const char *mg_rules_show(const mg_json *value, char *buf, size_t size);
const char *mg_rules_show_kv(const mg_kv *value, char *buf, size_t size);
/* The key ARCH.suffix of a GGUF; *key its name. */
const mg_kv *mg_rules_kv(const mg_rules *v, const char *suffix, char key[128]);

/* The text of a token in a configuration, "<s>" or {"content": "<s>", ...}; NULL for anything else. */
const char *mg_rules_token_name(const mg_json *value);

/* config_rules_ids.c */
void mg_rule_config_ids(mg_rules *v);
void mg_rule_generation_ids(mg_rules *v);
void mg_rule_generation(mg_rules *v);
void mg_rule_tokenizer_ids(mg_rules *v);
/* config_rules_vocab.c */
void mg_rule_special_tokens(mg_rules *v);
void mg_rule_added_tokens(mg_rules *v);
void mg_rule_vocabulary(mg_rules *v);
void mg_rule_template_missing(mg_rules *v);
void mg_rule_template_tokens(mg_rules *v);
/* config_rules_rope.c */
void mg_rule_rope_type(mg_rules *v);
void mg_rule_rope_factor(mg_rules *v);
void mg_rule_rope_context(mg_rules *v);
void mg_rule_rope_frequencies(mg_rules *v);
void mg_rule_rope_lists(mg_rules *v);
void mg_rule_rope_theta(mg_rules *v);
/* config_rules_types.c */
void mg_rule_dtype(mg_rules *v);
void mg_rule_stored_types(mg_rules *v);
void mg_rule_experts(mg_rules *v);
void mg_rule_quantized(mg_rules *v);
void mg_rule_skip_list(mg_rules *v);
/* config_rules_gguf.c */
void mg_rule_gguf_ids(mg_rules *v);
void mg_rule_gguf_vocabulary(mg_rules *v);
void mg_rule_gguf_file_type(mg_rules *v);
void mg_rule_gguf_version(mg_rules *v);
void mg_rule_gguf_experts(mg_rules *v);
void mg_rule_gguf_sizes(mg_rules *v);
void mg_rule_gguf_key_types(mg_rules *v);
void mg_rule_gguf_rope(mg_rules *v);
void mg_rule_gguf_set(mg_rules *v);

#endif
