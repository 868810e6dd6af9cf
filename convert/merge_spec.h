/* merge_spec.h - a mergekit-moe YAML, read and checked. Keys and meaning are mergekit's (docs/merge.md lists where we
 * differ); unlike there, an unknown key is an error with a suggestion, and so is an unknown gate mode. */
#ifndef MG_CONVERT_MERGE_SPEC_H
#define MG_CONVERT_MERGE_SPEC_H

#include "convert/vocab_union.h"
#include "convert/merge_dense_spec.h"

typedef enum mg_gate_mode {
    MG_GATE_HIDDEN = 0,     /* mergekit: residual stream at the last prompt token, entering each layer */
    MG_GATE_HIDDEN_AVG,     /* mergekit: its mean over positions */
    MG_GATE_CHEAP_EMBED,    /* mergekit: sum of token embeddings, the same row for every layer */
    MG_GATE_RANDOM,         /* standard normal rows */
    MG_GATE_UNIFORM_RANDOM, /* uniform in +-1/sqrt(hidden) */
    MG_GATE_FIT,            /* ours: multinomial logistic regression at the router's true input, layer by layer */
    MG_GATE_ORTHOGONAL,     /* ours: random rows made orthogonal and of length 1, for training routers later */
    MG_GATE_KEEP,           /* ours: rows of the donors' own routers, where all donors are mixtures */
    MG_GATE_SVD,  /* ours: no data, the direction in which a donor's gate projection differs most from the base's */
    MG_GATE_FILE, /* ours: rows from a safetensors file */
    MG_GATE_MODE_COUNT,
} mg_gate_mode;

const char *mg_gate_mode_name(mg_gate_mode m);
/* MG_ERR_USAGE with the nearest name. "hidden_last" is MG_GATE_HIDDEN, as in mergekit; a name ending in .safetensors is
 * MG_GATE_FILE. */
mg_status mg_gate_mode_parse(const char *text, mg_gate_mode *out, mg_error *err) MG_MUST_CHECK;

#define MG_MERGE_MAX_EXPERTS 512u /* llama.cpp's limit; more has never been published */

typedef struct mg_prompts {
    const char **text; /* [n], NUL-terminated */
    uint32_t n;
} mg_prompts;

typedef struct mg_merge_expert {
    const char *source; /* as written */
    const char *path;   /* resolved */
    mg_prompts positive, negative;
    double residual_scale; /* of the down projection; 1 when absent */
    double noise_scale;    /* standard deviation added to gate, up and down; 0 when absent */
    uint32_t *pick;        /* [n_pick] which experts of a donor that is a mixture; none: all */
    uint32_t n_pick;
    uint32_t split; /* experts that share the inner dimension of each of them; 1 when absent */
} mg_merge_expert;

/* Layers first .. end - 1 have these of the recipe's experts only. */
typedef struct mg_merge_layers {
    uint32_t first, end, n;
    uint32_t *entry; /* [n] */
} mg_merge_layers;

typedef struct mg_merge_spec {
    const char *base;         /* as written */
    const char *base_path;    /* resolved */
    mg_merge_expert *experts; /* [n_experts + n_shared] the shared ones last */
    uint32_t n_experts, n_shared;
    bool shared_exact; /* shared_scale: exact: routed and shared experts count one feed-forward block together, not two
                        */
    uint32_t *dense;   /* [n_dense] layers that stay dense, ascending */
    uint32_t n_dense;
    mg_merge_layers *lists; /* [n_lists] */
    uint32_t n_lists;
    uint32_t grid_x, grid_y;    /* 0 when absent */
    bool exchange_fit;          /* exchange: fit (exchange.h); absent or zero: maps of zeros */
    uint32_t experts_per_token; /* 2 when absent; MG_EXPERTS_ALL; compared with their number when donors are open */
    mg_gate_mode gate_mode;     /* MG_GATE_FIT when absent */
    bool gate_mode_given;
    const char *gate_file;    /* MG_GATE_FILE: resolved path */
    mg_dtype dtype;           /* MG_DTYPE_COUNT when absent: the base config's */
    const char *architecture; /* beginning of the wanted output family's name, any case; NULL: the first that fits */
    mg_dense_spec *trunk;     /* attention, norms, embeddings and head merged from several models; NULL: the base's */
    bool trunk_regmean;       /* projections of the attention by regression on the donors' inputs (regmean.h) */
    double trunk_strength;    /* how far from the base to that trunk; 1 when absent */
    mg_vocab_spec vocab;
    const char *text; /* the file verbatim, copied into the output as mergekit_moe_config.yml */
    size_t text_size;
    bool prompts_only; /* paths are not resolved */
    mg_arena arena;
    mg_yaml_doc *doc;
} mg_merge_spec;

/* Read and validate. Relative donor paths are looked up beside the YAML first, then from the working directory
 * (mergekit's rule). Schema errors: MG_ERR_FORMAT with line; contradictions (experts_per_token, identical prompts or
 * donors, missing prompts): MG_ERR_CONFLICT; what mergekit can say and we cannot build: MG_ERR_UNSUPPORTED. Prompts are
 * checked against the gate mode by mg_merge_spec_check, since tools may override it and supply text. *out is the
 * caller's. */
mg_status mg_merge_spec_load(mg_merge_spec **out, const char *path, mg_error *err) MG_MUST_CHECK;
/* The same for its prompts alone: donors are named, not looked up. */
mg_status mg_merge_spec_load_prompts(mg_merge_spec **out, const char *path, mg_error *err) MG_MUST_CHECK;
void mg_merge_spec_free(mg_merge_spec *s);

/* Append the non-empty lines of a text, or of a file (of a .json file the entries of its list of texts). MG_ERR_FORMAT:
 * a NUL byte, entries that are no texts. */
mg_status mg_prompts_add_lines(mg_prompts *p, mg_arena *a, const char *text, size_t n, mg_error *err) MG_MUST_CHECK;
mg_status mg_prompts_load(mg_prompts *p, mg_arena *a, const char *file, mg_error *err) MG_MUST_CHECK;

/* Append the prompts of a file (mg_prompts_load) to the positive prompts of the expert called name: the last component
 * of its source_model, or its index. MG_ERR_USAGE when no or more than one expert is called so. */
mg_status mg_merge_spec_add_text(mg_merge_spec *s, const char *name, const char *file, mg_error *err) MG_MUST_CHECK;

/* Take another gate mode than the recipe's, as --gate does: a name, or a safetensors file from the working directory.
 */
mg_status mg_merge_spec_set_gate(mg_merge_spec *s, const char *text, mg_error *err) MG_MUST_CHECK;

/* The checks that depend on the final gate mode. same_models_ok: mergekit's
 * --i-understand-this-is-not-useful-without-training. */
mg_status mg_merge_spec_check(const mg_merge_spec *s, bool same_models_ok, mg_error *err) MG_MUST_CHECK;

#endif
