/* arch_rows.h - shorthand for the tables of the families, and the rows that the llama-like families share. Included
 * only by <family>.c files. Each shared row says something once: a family's file adds what is its own. */
#ifndef MG_FORMATS_ARCH_ARCH_ROWS_H
#define MG_FORMATS_ARCH_ARCH_ROWS_H

#include "formats/arch/arch.h"

#include <math.h>

/* Made of the files in formats/arch/code/ by the build. */
extern const mg_code_file mg_code_decoder, mg_code_mesh, mg_code_nekomind;

/* clang-format off */
#define MG_LEN(a) (uint32_t)(sizeof(a) / sizeof *(a))

/* Symbols: a key, a product of keys, a key times a constant, a literal, the expert's index. */
#define K_(k)      {MG_SYM_KEY, MG_K_##k, MG_K_##k, 0, 0, MG_K_VOCAB}
#define KK_(a, b)  {MG_SYM_KEYS, MG_K_##a, MG_K_##b, 0, 0, MG_K_VOCAB}
#define KKX_(a, b, m) {MG_SYM_KEYS, MG_K_##a, MG_K_##b, m, 0, MG_K_VOCAB}
#define KX_(k, m)  {MG_SYM_KEY, MG_K_##k, MG_K_##k, m, 0, MG_K_VOCAB}
#define KD_(k, d)  {MG_SYM_KEY, MG_K_##k, MG_K_##k, 0, d, MG_K_VOCAB}
#define LIT_(n)    {MG_SYM_LIT, MG_K_VOCAB, MG_K_VOCAB, n, 0, MG_K_VOCAB}
/* a + b; (a + b * m) * c */
#define KSUM_(a, b)        {MG_SYM_SUM, MG_K_##a, MG_K_##b, 0, 0, MG_K_VOCAB}
#define KSUMX_(a, b, m, c) {MG_SYM_SUM, MG_K_##a, MG_K_##b, m, 0, MG_K_##c}
#define EXPERTX_(k) {MG_SYM_EXPERT_KEY, MG_K_##k, MG_K_##k, 0, 0, MG_K_VOCAB}
#define EXPERT_    {MG_SYM_EXPERT, MG_K_VOCAB, MG_K_VOCAB, 0, 0, MG_K_VOCAB}

/* Views. */
#define SELECT_EXPERT_          {.kind = MG_VIEW_SELECT, .a = EXPERT_}
#define FIRST_ROWS_(count)      {.kind = MG_VIEW_ROWS, .a = LIT_(0), .b = K_(count)}
#define ROWS_FROM_(first, count) {.kind = MG_VIEW_ROWS, .a = K_(first), .b = K_(count)}
#define UNPERM_(heads)          {.kind = MG_VIEW_ROPE_UNPERM, .a = K_(heads)}

/* Forms: a plain name; a name and one view; any views and the stored shape. */
#define NAME_(name)         {.pattern = name}
#define VIEW_(name, ...)    {.pattern = name, .views = {__VA_ARGS__}}

/* Fallbacks. */
#define REQUIRED_     {MG_FB_REQUIRED, MG_K_VOCAB, MG_K_VOCAB, 0}
#define VALUE_(v)     {MG_FB_VALUE, MG_K_VOCAB, MG_K_VOCAB, v}
#define SAME_AS_(k)   {MG_FB_KEY, MG_K_##k, MG_K_VOCAB, 0}
#define QUOTIENT_(a, b) {MG_FB_QUOTIENT, MG_K_##a, MG_K_##b, 0}
#define PART_(a, b)     {MG_FB_PART, MG_K_##a, MG_K_##b, 0}
#define RATIO_(a, b)    {MG_FB_RATIO, MG_K_##a, MG_K_##b, 0}
#define ROOT_(k)        {MG_FB_ROOT, MG_K_##k, MG_K_VOCAB, 0}
#define PRODUCT_(a, b) {MG_FB_PRODUCT, MG_K_##a, MG_K_##b, 0}
#define SUM_(a, b)     {MG_FB_SUM, MG_K_##a, MG_K_##b, 0}
#define MINUS_(a, b)   {MG_FB_MINUS, MG_K_##a, MG_K_##b, 0}
#define TOKENS_       {MG_FB_TOKENS, MG_K_VOCAB, MG_K_VOCAB, 0}
#define TENSORS_      {MG_FB_TENSORS, MG_K_VOCAB, MG_K_VOCAB, 0}

/* Limits that no real model passes and that keep products of two keys within 64 bits. */
#define MAX_SIZE  (double)(1 << 24)
#define MAX_LAYERS (double)MG_MAX_LAYERS
#define MAX_COUNT 65536.0

/* ---- configuration of the llama-like families, in the order in which a converter writes GGUF keys ----
 * ffn, context, kv (fallback), eps, theta: defaults of the family's configuration class in transformers.
 * head_when: does the class fill head_dim in by itself, so that a converter always sees it? */
#define CONFIG_LAYERS(layers) \
    {.key = MG_K_LAYERS, .hf = {"num_hidden_layers"}, .gguf = "block_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS, \
     .absent = VALUE_(layers), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_LAYERS}
#define CONFIG_CONTEXT(context) \
    {.key = MG_K_CONTEXT, .hf = {"max_position_embeddings"}, .gguf = "context_length", .gguf_type = MG_KV_U32, \
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(context), .gguf_absent = REQUIRED_, .lo = 1, .hi = 1e12}
#define CONFIG_HIDDEN(hidden) \
    {.key = MG_K_HIDDEN, .hf = {"hidden_size"}, .gguf = "embedding_length", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS, \
     .absent = VALUE_(hidden), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_SIZE}
#define CONFIG_FFN(ffn) \
    {.key = MG_K_FFN, .hf = {"intermediate_size"}, .gguf = "feed_forward_length", .gguf_type = MG_KV_U32, \
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(ffn), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_SIZE}
#define CONFIG_QKV_HEADS(heads, ...) \
    {.key = MG_K_HEADS, .hf = {"num_attention_heads"}, .gguf = "attention.head_count", .gguf_type = MG_KV_U32, \
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(heads), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT}, \
    {.key = MG_K_KV_HEADS, .hf = {"num_key_value_heads"}, .gguf = "attention.head_count_kv", .gguf_type = MG_KV_U32, \
     .gguf_when = MG_GGUF_ALWAYS, .absent = __VA_ARGS__, .null = SAME_AS_(HEADS), .gguf_absent = SAME_AS_(HEADS), .lo = 1, .hi = MAX_COUNT}
#define CONFIG_SIZES(layers, context, hidden, ffn, heads, ...) \
    CONFIG_LAYERS(layers), CONFIG_CONTEXT(context), CONFIG_HIDDEN(hidden), CONFIG_FFN(ffn), CONFIG_QKV_HEADS(heads, __VA_ARGS__)
#define LLAMA_CONFIG_SIZES(ffn, context, ...) CONFIG_SIZES(32, context, 4096, ffn, 32, __VA_ARGS__)

/* The object rope_scaling or rope_parameters: see mg_config_row.hf. llama3 scaling has no GGUF key, it becomes the tensor
 * rope_freqs. mscale belongs to DeepSeek's yarn and has no key of GGUF's llama. */
#define CONFIG_ROPE_SCALING_BASE \
    {.key = MG_K_ROPE_TYPE, .hf = {"rope_parameters.rope_type", "rope_parameters.type"}, .gguf = "rope.scaling.type", .gguf_type = MG_KV_STR, \
     .gguf_when = MG_GGUF_SCALED, .absent = VALUE_(MG_ROPE_NONE), .names = mg_rope_names, .quiet = true}, \
    {.key = MG_K_ROPE_FACTOR, .hf = {"rope_parameters.factor"}, .gguf = "rope.scaling.factor", .gguf_type = MG_KV_F32, \
     .gguf_when = MG_GGUF_SCALED, .absent = VALUE_(1), .quiet = true}, \
    {.key = MG_K_ROPE_ORIG_CONTEXT, .hf = {"original_max_position_embeddings", "rope_parameters.original_max_position_embeddings"}, \
     .gguf = "rope.scaling.original_context_length", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_YARN, .absent = SAME_AS_(CONTEXT), \
     .lo = 1, .hi = 1e12}, \
    {.key = MG_K_ROPE_ATTN_FACTOR, .hf = {"rope_parameters.attention_factor"}, .gguf = "rope.scaling.yarn_attn_factor", \
     .gguf_type = MG_KV_F32, .gguf_when = MG_GGUF_YARN_STATED, .absent = VALUE_(0), .quiet = true}, \
    {.key = MG_K_ROPE_BETA_FAST, .hf = {"rope_parameters.beta_fast"}, .gguf = "rope.scaling.yarn_beta_fast", .gguf_type = MG_KV_F32, \
     .gguf_when = MG_GGUF_YARN_STATED, .absent = VALUE_(32), .quiet = true}, \
    {.key = MG_K_ROPE_BETA_SLOW, .hf = {"rope_parameters.beta_slow"}, .gguf = "rope.scaling.yarn_beta_slow", .gguf_type = MG_KV_F32, \
     .gguf_when = MG_GGUF_YARN_STATED, .absent = VALUE_(1), .quiet = true}, \
    {.key = MG_K_ROPE_LOW_FREQ, .hf = {"rope_parameters.low_freq_factor"}, .absent = VALUE_(0), .quiet = true}, \
    {.key = MG_K_ROPE_HIGH_FREQ, .hf = {"rope_parameters.high_freq_factor"}, .absent = VALUE_(0), .quiet = true}
#define CONFIG_ROPE_THETA(theta, when) \
    {.key = MG_K_ROPE_THETA, .hf = {"rope_parameters.rope_theta", "rope_theta"}, .gguf = "rope.freq_base", .gguf_type = MG_KV_F32, \
     .gguf_when = when, .absent = VALUE_(theta), .gguf_absent = VALUE_(10000)}
#define CONFIG_ROPE_TRUNCATE(assumed) \
    {.key = MG_K_ROPE_TRUNCATE, .hf = {"rope_parameters.truncate"}, .absent = VALUE_(1), .gguf_absent = VALUE_(assumed), .quiet = true, \
     .lost_in_gguf = true}
#define CONFIG_ROPE_SCALING CONFIG_ROPE_SCALING_BASE, CONFIG_ROPE_TRUNCATE(1), \
    {.key = MG_K_ROPE_MSCALE, .hf = {"rope_parameters.mscale"}, .absent = VALUE_(0), .quiet = true, .lost_in_gguf = true}, \
    {.key = MG_K_ROPE_MSCALE_ALL, .hf = {"rope_parameters.mscale_all_dim"}, .absent = VALUE_(0), .quiet = true, .lost_in_gguf = true}
#define LLAMA_CONFIG_ROPE(theta) CONFIG_ROPE_SCALING, CONFIG_ROPE_THETA(theta, MG_GGUF_ALWAYS)
/* A rotated front part of every head; GGUF has the number of rotated elements instead. */
#define CONFIG_ROTARY_PART(part) \
    {.key = MG_K_ROTARY_PART, .hf = {"rope_parameters.partial_rotary_factor", "partial_rotary_factor"}, .absent = VALUE_(part), \
     .gguf_absent = RATIO_(ROPE_DIM, HEAD_DIM), .lo = 0, .hi = 1, .quiet = true}
#define CONFIG_ROPE_DIM(when, ...) \
    {.key = MG_K_ROPE_DIM, .gguf = "rope.dimension_count", .gguf_type = MG_KV_U32, .gguf_when = when, .absent = __VA_ARGS__, \
     .gguf_absent = SAME_AS_(HEAD_DIM), .lo = 2, .hi = MAX_COUNT}

#define LLAMA_CONFIG_EPS(eps) \
    {.key = MG_K_NORM_EPS, .hf = {"rms_norm_eps"}, .gguf = "attention.layer_norm_rms_epsilon", .gguf_type = MG_KV_F32, \
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(eps), .gguf_absent = REQUIRED_, .lo = 0, .hi = 1}

/* Head sizes, then the place of general.file_type: what follows is each converter class's own. The size of a head is a
 * quotient or, where the configuration class says so, a number. */
#define CONFIG_HEAD_SIZES(head_when, ...) \
    {.key = MG_K_HEAD_DIM, .hf = {"head_dim"}, .gguf = "attention.key_length", .gguf_type = MG_KV_U32, .gguf_when = head_when, \
     .absent = __VA_ARGS__, .null = QUOTIENT_(HIDDEN, HEADS), .gguf_absent = QUOTIENT_(HIDDEN, HEADS), .lo = 1, .hi = MAX_COUNT}, \
    {.key = MG_K_V_HEAD_DIM, .hf = {"head_dim"}, .gguf = "attention.value_length", .gguf_type = MG_KV_U32, .gguf_when = head_when, \
     .absent = SAME_AS_(HEAD_DIM), .gguf_absent = QUOTIENT_(HIDDEN, HEADS), .lo = 1, .hi = MAX_COUNT}
#define CONFIG_HEADS(head_when) CONFIG_HEAD_SIZES(head_when, QUOTIENT_(HIDDEN, HEADS)), {.gguf_when = MG_GGUF_FILE_TYPE}
#define CONFIG_HEADS_FIXED(n)   CONFIG_HEAD_SIZES(MG_GGUF_ALWAYS, VALUE_(n)), {.gguf_when = MG_GGUF_FILE_TYPE}
#define CONFIG_VOCAB_SIZE(vocab, when) \
    {.key = MG_K_VOCAB, .hf = {"vocab_size"}, .gguf = "vocab_size", .gguf_type = MG_KV_U32, .gguf_when = when, \
     .absent = VALUE_(vocab), .gguf_absent = TOKENS_, .lo = 1, .hi = MAX_SIZE}
#define CONFIG_VOCAB(vocab, when) CONFIG_VOCAB_SIZE(vocab, when), CONFIG_ROPE_DIM(when, SAME_AS_(HEAD_DIM))
#define CONFIG_TIED_AND_IDS(tied, bos, eos) \
    {.key = MG_K_TIED, .hf = {"tie_word_embeddings"}, .absent = VALUE_(tied), .gguf_absent = TENSORS_, .quiet = true}, \
    {.key = MG_K_BOS, .hf = {"bos_token_id"}, .gguf = "tokenizer.ggml.bos_token_id", .absent = VALUE_(bos), .null = VALUE_(-1), \
     .gguf_absent = VALUE_(-1), .lo = -1, .hi = MAX_SIZE, .quiet = true}, \
    {.key = MG_K_EOS, .hf = {"eos_token_id"}, .gguf = "tokenizer.ggml.eos_token_id", .absent = VALUE_(eos), .null = VALUE_(-1), \
     .gguf_absent = VALUE_(-1), .lo = -1, .hi = MAX_SIZE, .quiet = true}, \
    {.key = MG_K_PAD, .hf = {"pad_token_id"}, .gguf = "tokenizer.ggml.padding_token_id", .absent = VALUE_(-1), .lo = -1, .hi = MAX_SIZE, \
     .quiet = true}
#define CONFIG_ACT(field, act, list) \
    {.key = MG_K_ACT, .hf = {field}, .absent = VALUE_(act), .names = list, .quiet = true, .lost_in_gguf = true}
#define CONFIG_COMMON(tied, bos, eos) CONFIG_TIED_AND_IDS(tied, bos, eos), CONFIG_ACT("hidden_act", MG_ACT_SILU, mg_act_names)
#define LLAMA_CONFIG_TAIL(head_when) CONFIG_HEADS(head_when), CONFIG_VOCAB(32000, MG_GGUF_ALWAYS), CONFIG_COMMON(0, 1, 2)

/* Granite's multipliers. */
#define GRANITE_SCALE(k, hf_name, gguf_name, without) \
    {.key = MG_K_##k, .hf = {hf_name}, .gguf = gguf_name, .gguf_type = MG_KV_F32, .gguf_when = MG_GGUF_ALWAYS, \
     .absent = VALUE_(1), .gguf_absent = VALUE_(without), .lo = 0, .hi = 1e9}
#define GRANITE_SCALES \
    GRANITE_SCALE(ATTN_SCALE, "attention_multiplier", "attention.scale", 0), \
    GRANITE_SCALE(EMBED_SCALE, "embedding_multiplier", "embedding_scale", 1), \
    GRANITE_SCALE(RESIDUAL_SCALE, "residual_multiplier", "residual_scale", 1), \
    GRANITE_SCALE(LOGIT_SCALE, "logits_scaling", "logit_scale", 1)

/* ---- configuration of mixtures ---- */
#define CONFIG_EXPERTS(n, used, used_name, ...) \
    {.key = MG_K_EXPERTS, .hf = {__VA_ARGS__}, .gguf = "expert_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS, \
     .absent = VALUE_(n), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT}, \
    {.key = MG_K_EXPERTS_USED, .hf = {used_name}, .gguf = "expert_used_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS, \
     .absent = VALUE_(used), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT}
#define CONFIG_EXPERT_FFN(size) \
    {.key = MG_K_EXPERT_FFN, .hf = {"moe_intermediate_size"}, .gguf = "expert_feed_forward_length", .gguf_type = MG_KV_U32, \
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(size), .lo = 1, .hi = MAX_SIZE}
#define CONFIG_SHARED_FFN(size) \
    {.key = MG_K_SHARED_FFN, .hf = {"shared_expert_intermediate_size"}, .gguf = "expert_shared_feed_forward_length", \
     .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(size), .lo = 0, .hi = MAX_SIZE}
/* Qwen's schedule: every n-th layer routes, but for those listed in mlp_only_layers (mg_arch.dense_list). */
#define CONFIG_SPARSE_STEP \
    {.key = MG_K_MOE_STEP, .hf = {"decoder_sparse_step"}, .absent = VALUE_(1), .lo = 1, .hi = MAX_LAYERS, .quiet = true}

#define REFUSE_GROUP_FORMATS \
    {"quantization_config", NAN, "quantized weights are read through their dense view only"}
#define LLAMA_REFUSALS \
    REFUSE_GROUP_FORMATS, {"partial_rotary_factor", 1, "this family rotates whole heads"}, \
    {"rope_parameters.partial_rotary_factor", 1, "this family rotates whole heads"}
/* Gemma's options that no published model uses. */
#define GEMMA_REFUSALS \
    LLAMA_REFUSALS, {"use_bidirectional_attention", 0, "attention to later tokens is not built"}, \
    {"attention_bias", 0, "biases have no place in this family's GGUF"}

/* Rows of mixtures whose converters write GGUF's general expert keys, in the order of the base converter ... */
#define CONFIG_GROUPS(n, used) \
    {.key = MG_K_GROUPS, .hf = {"n_group"}, .gguf = "expert_group_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS, \
     .absent = VALUE_(n), .gguf_absent = VALUE_(1), .lo = 0, .hi = MAX_COUNT, .quiet = true}, \
    {.key = MG_K_GROUPS_USED, .hf = {"topk_group"}, .gguf = "expert_group_used_count", .gguf_type = MG_KV_U32, \
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(used), .gguf_absent = VALUE_(1), .lo = 0, .hi = MAX_COUNT, .quiet = true}
#define CONFIG_SCORE(func, when) \
    {.key = MG_K_SCORE_FUNC, .hf = {"scoring_func"}, .gguf = "expert_gating_func", .gguf_type = MG_KV_U32, .gguf_when = when, \
     .absent = VALUE_(func), .names = mg_score_names, .quiet = true}
/* ... and each on its own, for the order of the classes. */
#define CONFIG_DENSE_LAYERS(n) \
    {.key = MG_K_DENSE_LAYERS, .hf = {"first_k_dense_replace"}, .gguf = "leading_dense_block_count", .gguf_type = MG_KV_U32, \
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(n), .gguf_absent = VALUE_(0), .lo = 0, .hi = MAX_LAYERS}
#define CONFIG_SHARED_COUNT(n) \
    {.key = MG_K_SHARED_COUNT, .hf = {"n_shared_experts"}, .gguf = "expert_shared_count", .gguf_type = MG_KV_U32, \
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(n), .null = VALUE_(0), .lo = 0, .hi = MAX_COUNT}
#define CONFIG_ROUTED_SCALE(x) \
    {.key = MG_K_ROUTED_SCALE, .hf = {"routed_scaling_factor"}, .gguf = "expert_weights_scale", .gguf_type = MG_KV_F32, \
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(x), .gguf_absent = VALUE_(1), .lo = 1e-6, .hi = 1e6}
#define CONFIG_NORM_TOPK(on, when) \
    {.key = MG_K_NORM_TOPK, .hf = {"norm_topk_prob"}, .gguf = "expert_weights_norm", .gguf_type = MG_KV_BOOL, .gguf_when = when, \
     .absent = VALUE_(on), .gguf_absent = VALUE_(0), .quiet = true}
/* Where GGUF readers assume a value. */
#define CONFIG_NORM_TOPK_UNSAID(on, assumed) \
    {.key = MG_K_NORM_TOPK, .hf = {"norm_topk_prob"}, .absent = VALUE_(on), .gguf_absent = VALUE_(assumed), .quiet = true, \
     .lost_in_gguf = true}
#define CONFIG_SHARED_PRODUCT {.key = MG_K_SHARED_FFN, .absent = PRODUCT_(SHARED_COUNT, EXPERT_FFN), .quiet = true}
#define CONFIG_ATTN_BIAS(name, on) \
    {.key = MG_K_ATTN_BIAS, .hf = {name}, .absent = VALUE_(on), .gguf_absent = TENSORS_, .quiet = true}

/* ---- tensors of the llama-like families ----
 * W_(role, condition, Hugging Face pattern, GGUF pattern, shape...): the same rows in both layouts. */
#define W_(r, cond, hf_name, gguf_name, ...) \
    {.role = MG_R_##r, .when = cond, .shape = {__VA_ARGS__}, .forms = {[MG_LAYOUT_HF] = {NAME_(hf_name)}, [MG_LAYOUT_GGUF] = {NAME_(gguf_name)}}}
/* Q_: the same with GGUF's rotary order of the rows of `heads` heads. */
#define Q_(r, cond, heads, hf_name, gguf_name, ...) \
    {.role = MG_R_##r, .when = cond, .shape = {__VA_ARGS__}, \
     .forms = {[MG_LAYOUT_HF] = {NAME_(hf_name)}, [MG_LAYOUT_GGUF] = {VIEW_(gguf_name, UNPERM_(heads))}}}

/* WN_, QN_: the same with a place in native releases, which keep rotary pairs as GGUF does. */
#define WN_(r, cond, hf_name, gguf_name, native, ...) \
    {.role = MG_R_##r, .when = cond, .shape = {__VA_ARGS__}, .forms = { \
        [MG_LAYOUT_HF] = {NAME_(hf_name)}, [MG_LAYOUT_GGUF] = {NAME_(gguf_name)}, [MG_LAYOUT_NATIVE] = {NAME_(native)}}}
#define QN_(r, cond, heads, hf_name, gguf_name, native, ...) \
    {.role = MG_R_##r, .when = cond, .shape = {__VA_ARGS__}, .forms = { \
        [MG_LAYOUT_HF] = {NAME_(hf_name)}, [MG_LAYOUT_GGUF] = {VIEW_(gguf_name, UNPERM_(heads))}, \
        [MG_LAYOUT_NATIVE] = {VIEW_(native, UNPERM_(heads))}}}

#define LLAMA_TENSORS_MODEL \
    {.role = MG_R_ROPE_FREQS, .when = MG_IF_LLAMA3, .shape = {KD_(ROPE_DIM, 2)}, .forms = {[MG_LAYOUT_GGUF] = {NAME_("rope_freqs.weight")}}}, \
    WN_(TOKEN_EMBD, MG_IF_ALWAYS, "model.embed_tokens.weight", "token_embd.weight", "tok_embeddings.weight", K_(VOCAB), K_(HIDDEN)), \
    WN_(OUTPUT_NORM, MG_IF_ALWAYS, "model.norm.weight", "output_norm.weight", "norm.weight", K_(HIDDEN)), \
    WN_(OUTPUT, MG_IF_UNTIED, "lm_head.weight", "output.weight", "output.weight", K_(VOCAB), K_(HIDDEN))

#define LLAMA_TENSORS_ATTENTION \
    WN_(ATTN_NORM, MG_IF_ALWAYS, "model.layers.{l}.input_layernorm.weight", "blk.{l}.attn_norm.weight", "layers.{l}.attention_norm.weight", K_(HIDDEN)), \
    QN_(ATTN_Q, MG_IF_ALWAYS, HEADS, "model.layers.{l}.self_attn.q_proj.weight", "blk.{l}.attn_q.weight", "layers.{l}.attention.wq.weight", KK_(HEADS, HEAD_DIM), K_(HIDDEN)), \
    QN_(ATTN_K, MG_IF_ALWAYS, KV_HEADS, "model.layers.{l}.self_attn.k_proj.weight", "blk.{l}.attn_k.weight", "layers.{l}.attention.wk.weight", KK_(KV_HEADS, HEAD_DIM), K_(HIDDEN)), \
    WN_(ATTN_V, MG_IF_ALWAYS, "model.layers.{l}.self_attn.v_proj.weight", "blk.{l}.attn_v.weight", "layers.{l}.attention.wv.weight", KK_(KV_HEADS, V_HEAD_DIM), K_(HIDDEN)), \
    WN_(ATTN_O, MG_IF_ALWAYS, "model.layers.{l}.self_attn.o_proj.weight", "blk.{l}.attn_output.weight", "layers.{l}.attention.wo.weight", K_(HIDDEN), KK_(HEADS, V_HEAD_DIM)), \
    WN_(FFN_NORM, MG_IF_ALWAYS, "model.layers.{l}.post_attention_layernorm.weight", "blk.{l}.ffn_norm.weight", "layers.{l}.ffn_norm.weight", K_(HIDDEN))

/* The same without GGUF's rotary order: llama.cpp rotates halves for these families. */
#define NEOX_TENSORS_QKVO \
    W_(ATTN_NORM, MG_IF_ALWAYS, "model.layers.{l}.input_layernorm.weight", "blk.{l}.attn_norm.weight", K_(HIDDEN)), \
    W_(ATTN_Q, MG_IF_ALWAYS, "model.layers.{l}.self_attn.q_proj.weight", "blk.{l}.attn_q.weight", KK_(HEADS, HEAD_DIM), K_(HIDDEN)), \
    W_(ATTN_K, MG_IF_ALWAYS, "model.layers.{l}.self_attn.k_proj.weight", "blk.{l}.attn_k.weight", KK_(KV_HEADS, HEAD_DIM), K_(HIDDEN)), \
    W_(ATTN_V, MG_IF_ALWAYS, "model.layers.{l}.self_attn.v_proj.weight", "blk.{l}.attn_v.weight", KK_(KV_HEADS, V_HEAD_DIM), K_(HIDDEN)), \
    W_(ATTN_O, MG_IF_ALWAYS, "model.layers.{l}.self_attn.o_proj.weight", "blk.{l}.attn_output.weight", K_(HIDDEN), KK_(HEADS, V_HEAD_DIM))
#define FFN_NORM_(gguf_name) \
    W_(FFN_NORM, MG_IF_ALWAYS, "model.layers.{l}.post_attention_layernorm.weight", gguf_name, K_(HIDDEN))
#define NEOX_TENSORS_ATTENTION NEOX_TENSORS_QKVO, FFN_NORM_("blk.{l}.ffn_norm.weight")
#define NEOX_TENSORS_QKV_BIAS \
    W_(ATTN_Q_BIAS, MG_IF_ATTN_BIAS, "model.layers.{l}.self_attn.q_proj.bias", "blk.{l}.attn_q.bias", KK_(HEADS, HEAD_DIM)), \
    W_(ATTN_K_BIAS, MG_IF_ATTN_BIAS, "model.layers.{l}.self_attn.k_proj.bias", "blk.{l}.attn_k.bias", KK_(KV_HEADS, HEAD_DIM)), \
    W_(ATTN_V_BIAS, MG_IF_ATTN_BIAS, "model.layers.{l}.self_attn.v_proj.bias", "blk.{l}.attn_v.bias", KK_(KV_HEADS, V_HEAD_DIM))
#define NEOX_TENSORS_O_BIAS \
    W_(ATTN_O_BIAS, MG_IF_ATTN_BIAS, "model.layers.{l}.self_attn.o_proj.bias", "blk.{l}.attn_output.bias", K_(HIDDEN))

#define LLAMA_TENSORS_ATTN_BIAS \
    Q_(ATTN_Q_BIAS, MG_IF_ATTN_BIAS, HEADS, "model.layers.{l}.self_attn.q_proj.bias", "blk.{l}.attn_q.bias", KK_(HEADS, HEAD_DIM)), \
    Q_(ATTN_K_BIAS, MG_IF_ATTN_BIAS, KV_HEADS, "model.layers.{l}.self_attn.k_proj.bias", "blk.{l}.attn_k.bias", KK_(KV_HEADS, HEAD_DIM)), \
    W_(ATTN_V_BIAS, MG_IF_ATTN_BIAS, "model.layers.{l}.self_attn.v_proj.bias", "blk.{l}.attn_v.bias", KK_(KV_HEADS, V_HEAD_DIM)), \
    W_(ATTN_O_BIAS, MG_IF_ATTN_BIAS, "model.layers.{l}.self_attn.o_proj.bias", "blk.{l}.attn_output.bias", K_(HIDDEN))

/* Norms stored minus one: the logical weight is what multiplies, as GGUF stores it. */
#define NORM_LESS_ONE_(r, hf_name, gguf_name, ...) \
    {.role = MG_R_##r, .when = MG_IF_ALWAYS, .shape = {__VA_ARGS__}, .forms = { \
        [MG_LAYOUT_HF] = {VIEW_(hf_name, {.kind = MG_VIEW_ADD, .value = 1})}, [MG_LAYOUT_GGUF] = {NAME_(gguf_name)}}}
#define NEOX_TENSORS_PROJECTIONS \
    W_(ATTN_Q, MG_IF_ALWAYS, "model.layers.{l}.self_attn.q_proj.weight", "blk.{l}.attn_q.weight", KK_(HEADS, HEAD_DIM), K_(HIDDEN)), \
    W_(ATTN_K, MG_IF_ALWAYS, "model.layers.{l}.self_attn.k_proj.weight", "blk.{l}.attn_k.weight", KK_(KV_HEADS, HEAD_DIM), K_(HIDDEN)), \
    W_(ATTN_V, MG_IF_ALWAYS, "model.layers.{l}.self_attn.v_proj.weight", "blk.{l}.attn_v.weight", KK_(KV_HEADS, V_HEAD_DIM), K_(HIDDEN)), \
    W_(ATTN_O, MG_IF_ALWAYS, "model.layers.{l}.self_attn.o_proj.weight", "blk.{l}.attn_output.weight", K_(HIDDEN), KK_(HEADS, V_HEAD_DIM))
#define GEMMA_TENSORS_MODEL \
    W_(TOKEN_EMBD, MG_IF_ALWAYS, "model.embed_tokens.weight", "token_embd.weight", K_(VOCAB), K_(HIDDEN)), \
    NORM_LESS_ONE_(OUTPUT_NORM, "model.norm.weight", "output_norm.weight", K_(HIDDEN)), \
    W_(OUTPUT, MG_IF_UNTIED, "lm_head.weight", "output.weight", K_(VOCAB), K_(HIDDEN)), \
    NORM_LESS_ONE_(ATTN_NORM, "model.layers.{l}.input_layernorm.weight", "blk.{l}.attn_norm.weight", K_(HIDDEN))
/* Norms before and after both halves of a block. */
#define GEMMA_TENSORS_FOUR_NORMS \
    NORM_LESS_ONE_(ATTN_POST_NORM, "model.layers.{l}.post_attention_layernorm.weight", "blk.{l}.post_attention_norm.weight", K_(HIDDEN)), \
    NORM_LESS_ONE_(FFN_NORM, "model.layers.{l}.pre_feedforward_layernorm.weight", "blk.{l}.ffn_norm.weight", K_(HIDDEN)), \
    NORM_LESS_ONE_(FFN_POST_NORM, "model.layers.{l}.post_feedforward_layernorm.weight", "blk.{l}.post_ffw_norm.weight", K_(HIDDEN))

#define LLAMA_TENSORS_FFN \
    WN_(FFN_GATE, MG_IF_DENSE, "model.layers.{l}.mlp.gate_proj.weight", "blk.{l}.ffn_gate.weight", "layers.{l}.feed_forward.w1.weight", K_(FFN), K_(HIDDEN)), \
    WN_(FFN_DOWN, MG_IF_DENSE, "model.layers.{l}.mlp.down_proj.weight", "blk.{l}.ffn_down.weight", "layers.{l}.feed_forward.w2.weight", K_(HIDDEN), K_(FFN)), \
    WN_(FFN_UP, MG_IF_DENSE, "model.layers.{l}.mlp.up_proj.weight", "blk.{l}.ffn_up.weight", "layers.{l}.feed_forward.w3.weight", K_(FFN), K_(HIDDEN))

#define LLAMA_TENSORS_FFN_BIAS \
    W_(FFN_GATE_BIAS, MG_IF_DENSE_MLP_BIAS, "model.layers.{l}.mlp.gate_proj.bias", "blk.{l}.ffn_gate.bias", K_(FFN)), \
    W_(FFN_DOWN_BIAS, MG_IF_DENSE_MLP_BIAS, "model.layers.{l}.mlp.down_proj.bias", "blk.{l}.ffn_down.bias", K_(HIDDEN)), \
    W_(FFN_UP_BIAS, MG_IF_DENSE_MLP_BIAS, "model.layers.{l}.mlp.up_proj.bias", "blk.{l}.ffn_up.bias", K_(FFN))

/* ---- tensors of mixtures ---- */
#define FUSED_(name, rows) {.pattern = name, .views = {SELECT_EXPERT_, rows}, .stored = {K_(EXPERTS), KX_(EXPERT_FFN, 2), K_(HIDDEN)}}
#define STACKED_(name, r, c) {.pattern = name, .views = {SELECT_EXPERT_}, .stored = {K_(EXPERTS), K_(r), K_(c)}}
#define GATE_ROWS_ FIRST_ROWS_(EXPERT_FFN)
#define UP_ROWS_   ROWS_FROM_(EXPERT_FFN, EXPERT_FFN)

/* One expert matrix; the forms on the Hugging Face side are the arguments. */
#define EXPERT_ROW_(r, rows, cols, gguf_name, group, ...) \
    {.role = MG_R_##r, .when = MG_IF_MOE, .shape = {K_(rows), K_(cols)}, .flush = group, .forms = { \
        [MG_LAYOUT_HF] = {__VA_ARGS__}, [MG_LAYOUT_GGUF] = {STACKED_(gguf_name, rows, cols)}}}
#define EXPERT_GATE_(...) EXPERT_ROW_(EXPERT_GATE, EXPERT_FFN, HIDDEN, "blk.{l}.ffn_gate_exps.weight", 1, __VA_ARGS__)
#define EXPERT_UP_(...) EXPERT_ROW_(EXPERT_UP, EXPERT_FFN, HIDDEN, "blk.{l}.ffn_up_exps.weight", 1, __VA_ARGS__)
#define EXPERT_DOWN_(...) EXPERT_ROW_(EXPERT_DOWN, HIDDEN, EXPERT_FFN, "blk.{l}.ffn_down_exps.weight", 1, __VA_ARGS__)

/* mlx-lm's stacks of one projection each; module: of the layer. What else: .mlx, for families of which it joins the
 * weights of experts but not their scales. */
#define SWITCH_(module, proj, r, c, ...) {.pattern = "model.layers.{l}." module "." proj ".weight", .views = {SELECT_EXPERT_}, \
    .stored = {K_(EXPERTS), K_(r), K_(c)}, __VA_ARGS__}
#define SWITCH_GATE_(module, ...) SWITCH_(module, "gate_proj", EXPERT_FFN, HIDDEN, __VA_ARGS__)
#define SWITCH_UP_(module, ...)   SWITCH_(module, "up_proj", EXPERT_FFN, HIDDEN, __VA_ARGS__)
#define SWITCH_DOWN_(module, ...) SWITCH_(module, "down_proj", HIDDEN, EXPERT_FFN, __VA_ARGS__)

/* mlp.experts.E.gate_proj and so on, or fused over the experts as transformers 5 holds them (gate's rows first), and
 * other forms. */
#define MLP_EXPERT_GATE_(...) EXPERT_GATE_(NAME_("model.layers.{l}.mlp.experts.{e}.gate_proj.weight"), \
                                           FUSED_("model.layers.{l}.mlp.experts.gate_up_proj", GATE_ROWS_), __VA_ARGS__)
#define MLP_EXPERT_UP_(...)   EXPERT_UP_(NAME_("model.layers.{l}.mlp.experts.{e}.up_proj.weight"), \
                                         FUSED_("model.layers.{l}.mlp.experts.gate_up_proj", UP_ROWS_), __VA_ARGS__)
#define MLP_EXPERT_DOWN_(...) EXPERT_DOWN_(NAME_("model.layers.{l}.mlp.experts.{e}.down_proj.weight"), \
                                           STACKED_("model.layers.{l}.mlp.experts.down_proj", HIDDEN, EXPERT_FFN), __VA_ARGS__)
#define MLP_EXPERT_GATE MLP_EXPERT_GATE_(SWITCH_GATE_("mlp.switch_mlp"))
#define MLP_EXPERT_UP   MLP_EXPERT_UP_(SWITCH_UP_("mlp.switch_mlp"))
#define MLP_EXPERT_DOWN MLP_EXPERT_DOWN_(SWITCH_DOWN_("mlp.switch_mlp"))
#define MLP_EXPERTS_DOWN_GATE_UP MLP_EXPERT_DOWN, MLP_EXPERT_GATE, MLP_EXPERT_UP
/* Stacks in another module of the layer, or marked. */
#define MLP_EXPERTS_IN_(module, ...) MLP_EXPERT_DOWN_(SWITCH_DOWN_(module, __VA_ARGS__)), \
    MLP_EXPERT_GATE_(SWITCH_GATE_(module, __VA_ARGS__)), MLP_EXPERT_UP_(SWITCH_UP_(module, __VA_ARGS__))

#define ROUTER_(hf_name) W_(ROUTER, MG_IF_MOE, hf_name, "blk.{l}.ffn_gate_inp.weight", K_(EXPERTS), K_(HIDDEN))
/* The shared expert of Qwen2 has a router of one row; elsewhere it is simply added. */
#define SHARED_EXPERT_(hf_name) \
    W_(SHARED_GATE, MG_IF_SHARED, "model.layers.{l}.mlp." hf_name ".gate_proj.weight", "blk.{l}.ffn_gate_shexp.weight", K_(SHARED_FFN), K_(HIDDEN)), \
    W_(SHARED_DOWN, MG_IF_SHARED, "model.layers.{l}.mlp." hf_name ".down_proj.weight", "blk.{l}.ffn_down_shexp.weight", K_(HIDDEN), K_(SHARED_FFN)), \
    W_(SHARED_UP, MG_IF_SHARED, "model.layers.{l}.mlp." hf_name ".up_proj.weight", "blk.{l}.ffn_up_shexp.weight", K_(SHARED_FFN), K_(HIDDEN))
#define SHARED_ROUTER_ \
    W_(SHARED_ROUTER, MG_IF_SHARED, "model.layers.{l}.mlp.shared_expert_gate.weight", "blk.{l}.ffn_gate_inp_shexp.weight", LIT_(1), K_(HIDDEN))

/* What is added to a router's scores before the choice. */
#define CORRECTION_(hf_name) W_(ROUTER_CORRECTION, MG_IF_MOE, hf_name, "blk.{l}.exp_probs_b.bias", K_(EXPERTS))

/* ---- latent attention; see deepseek_v2.c ---- */
#define KV_B_(from, count) {.pattern = "model.layers.{l}.self_attn.kv_b_proj.weight", \
    .views = {{.kind = MG_VIEW_GROUPS, .a = from, .b = K_(count), .group = KSUM_(NOPE_DIM, V_HEAD_DIM)}}, \
    .stored = {KSUMX_(NOPE_DIM, V_HEAD_DIM, 1, HEADS), K_(KV_LORA)}}
/* The halves by themselves, a matrix for each head, k's turned: GGUF and mlx-lm. */
#define K_B_(name) {.pattern = name, \
    .views = {{.kind = MG_VIEW_TRANSPOSE}, {.kind = MG_VIEW_RESHAPE, .a = KK_(HEADS, NOPE_DIM), .b = K_(KV_LORA)}}, \
    .stored = {K_(HEADS), K_(KV_LORA), K_(NOPE_DIM)}}
#define V_B_(name) {.pattern = name, .views = {{.kind = MG_VIEW_RESHAPE, .a = KK_(HEADS, V_HEAD_DIM), .b = K_(KV_LORA)}}, \
    .stored = {K_(HEADS), K_(V_HEAD_DIM), K_(KV_LORA)}}
#define MLA_TENSORS \
    W_(ATTN_Q, MG_IF_NO_Q_LORA, "model.layers.{l}.self_attn.q_proj.weight", "blk.{l}.attn_q.weight", KK_(HEADS, HEAD_DIM), K_(HIDDEN)), \
    W_(ATTN_Q_A, MG_IF_Q_LORA, "model.layers.{l}.self_attn.q_a_proj.weight", "blk.{l}.attn_q_a.weight", K_(Q_LORA), K_(HIDDEN)), \
    W_(ATTN_Q_A_NORM, MG_IF_Q_LORA, "model.layers.{l}.self_attn.q_a_layernorm.weight", "blk.{l}.attn_q_a_norm.weight", K_(Q_LORA)), \
    W_(ATTN_Q_B, MG_IF_Q_LORA, "model.layers.{l}.self_attn.q_b_proj.weight", "blk.{l}.attn_q_b.weight", KK_(HEADS, HEAD_DIM), K_(Q_LORA)), \
    W_(ATTN_KV_A, MG_IF_ALWAYS, "model.layers.{l}.self_attn.kv_a_proj_with_mqa.weight", "blk.{l}.attn_kv_a_mqa.weight", \
       KSUM_(KV_LORA, ROPE_DIM), K_(HIDDEN)), \
    W_(ATTN_KV_A_NORM, MG_IF_ALWAYS, "model.layers.{l}.self_attn.kv_a_layernorm.weight", "blk.{l}.attn_kv_a_norm.weight", K_(KV_LORA)), \
    {.role = MG_R_ATTN_K_B, .when = MG_IF_ALWAYS, .shape = {KK_(HEADS, NOPE_DIM), K_(KV_LORA)}, .forms = { \
        [MG_LAYOUT_HF] = {KV_B_(LIT_(0), NOPE_DIM), K_B_("model.layers.{l}.self_attn.embed_q.weight")}, \
        [MG_LAYOUT_GGUF] = {K_B_("blk.{l}.attn_k_b.weight")}}}, \
    {.role = MG_R_ATTN_V_B, .when = MG_IF_ALWAYS, .shape = {KK_(HEADS, V_HEAD_DIM), K_(KV_LORA)}, .forms = { \
        [MG_LAYOUT_HF] = {KV_B_(K_(NOPE_DIM), V_HEAD_DIM), V_B_("model.layers.{l}.self_attn.unembed_out.weight")}, \
        [MG_LAYOUT_GGUF] = {V_B_("blk.{l}.attn_v_b.weight")}}}

/* ---- norms of query and key, over every head or over the whole projection ---- */
#define QK_NORM_HEAD \
    W_(ATTN_Q_NORM, MG_IF_ALWAYS, "model.layers.{l}.self_attn.q_norm.weight", "blk.{l}.attn_q_norm.weight", K_(HEAD_DIM)), \
    W_(ATTN_K_NORM, MG_IF_ALWAYS, "model.layers.{l}.self_attn.k_norm.weight", "blk.{l}.attn_k_norm.weight", K_(HEAD_DIM))
#define QK_NORM_WHOLE \
    W_(ATTN_Q_NORM, MG_IF_ALWAYS, "model.layers.{l}.self_attn.q_norm.weight", "blk.{l}.attn_q_norm.weight", KK_(HEADS, HEAD_DIM)), \
    W_(ATTN_K_NORM, MG_IF_ALWAYS, "model.layers.{l}.self_attn.k_norm.weight", "blk.{l}.attn_k_norm.weight", KK_(KV_HEADS, HEAD_DIM))

#define QK_NORM_HEAD_OPTION \
    W_(ATTN_Q_NORM, MG_IF_QK_NORM, "model.layers.{l}.self_attn.q_norm.weight", "blk.{l}.attn_q_norm.weight", K_(HEAD_DIM)), \
    W_(ATTN_K_NORM, MG_IF_QK_NORM, "model.layers.{l}.self_attn.k_norm.weight", "blk.{l}.attn_k_norm.weight", K_(HEAD_DIM))
#define CONFIG_QK_NORM(name, on) \
    {.key = MG_K_QK_NORM, .hf = {name}, .absent = VALUE_(on), .gguf_absent = TENSORS_, .quiet = true}

/* Windows that begin at a layer, in Qwen's spelling. Layers before max_window_layers attend fully, and all do unless
 * use_sliding_window; layer_types, where it is stated, says so layer by layer. */
#define QWEN_CONFIG_WINDOW \
    {.key = MG_K_WINDOW_ON, .hf = {"use_sliding_window"}, .absent = VALUE_(0), .quiet = true}, \
    {.key = MG_K_WINDOW, .hf = {"sliding_window"}, .only_if = MG_K_WINDOW_ON, .absent = VALUE_(4096), .null = VALUE_(0), \
     .gguf_absent = VALUE_(0), .lo = 1, .hi = 1e12, .quiet = true, .lost_in_gguf = true}, \
    {.key = MG_K_WINDOW_FROM, .hf = {"max_window_layers"}, .absent = VALUE_(28), .lo = 0, .hi = 1e9, .quiet = true}
#define LAYER_TYPES_WINDOW {.path = "layer_types", .trait = MG_TRAIT_WINDOW, .yes = "sliding_attention", .no = "full_attention"}

/* Every n-th layer attends fully, the others through a window (0: all have it). GGUF readers know the family's own number;
 * another one is written under llama.cpp's key. */
#define CONFIG_WINDOW_PERIOD(n, ...) \
    {.key = MG_K_WINDOW_PERIOD, .hf = {__VA_ARGS__}, .gguf = "attention.sliding_window_pattern", .gguf_type = MG_KV_U32, \
     .gguf_when = MG_GGUF_UNUSUAL, .absent = VALUE_(n), .lo = 0, .hi = MAX_LAYERS, .quiet = true, .lost_in_gguf = true}
/* Scores are divided by the root of this. GGUF has no key; llama.cpp knows the one size at which it is not the head's. */
#define CONFIG_SCORE_DIM(layers) \
    {.key = MG_K_ATTN_SCALE_DIM, .hf = {"query_pre_attn_scalar"}, .gguf = "attention.query_pre_attn_scalar", .gguf_type = MG_KV_U32, \
     .gguf_when = MG_GGUF_UNUSUAL, .absent = VALUE_(256), .gguf_absent = {MG_FB_SCORE_DIM, MG_K_VOCAB, MG_K_VOCAB, layers}, \
     .lo = 1, .hi = MAX_SIZE, .lost_in_gguf = true}

/* ---- native releases (params.json) ---- */
#define NATIVE_SIZES \
    {.key = MG_K_HIDDEN, .path = "dim"}, {.key = MG_K_LAYERS, .path = "n_layers"}, {.key = MG_K_HEADS, .path = "n_heads"}, \
    {.key = MG_K_KV_HEADS, .path = "n_kv_heads", .absent = SAME_AS_(HEADS)}, {.key = MG_K_HEAD_DIM, .path = "head_dim"}, \
    {.key = MG_K_V_HEAD_DIM, .path = "head_dim"}, {.key = MG_K_NORM_EPS, .path = "norm_eps"}, {.key = MG_K_VOCAB, .path = "vocab_size"}
/* Mistral's own reader takes a base of 1e6, or 1e4 for the windowed models of 2023, when the file states none. */
#define NATIVE_MISTRAL \
    NATIVE_SIZES, {.key = MG_K_FFN, .path = "hidden_dim"}, {.key = MG_K_WINDOW, .path = "sliding_window", .absent = VALUE_(0)}, \
    {.key = MG_K_ROPE_THETA, .path = "rope_theta", .absent = VALUE_(1000000), .windowed = VALUE_(10000)}, \
    {.key = MG_K_CONTEXT, .path = "max_seq_len", .absent = VALUE_(32768)}, {.key = MG_K_TIED, .path = "tied_embeddings"}

/* Rotary inverse frequencies that old checkpoints stored as buffers. */
/* ---- mixtures made of dense models ---- */
/* A gated block of three matrices becomes an expert, or the shared expert. */
#define MADE_OF_BLOCKS \
    .roles = {{MG_R_FFN_GATE, MG_R_EXPERT_GATE}, {MG_R_FFN_UP, MG_R_EXPERT_UP}, {MG_R_FFN_DOWN, MG_R_EXPERT_DOWN}}, .n_roles = 3
#define MADE_SHARED_OF_BLOCK \
    .shared = {{MG_R_FFN_GATE, MG_R_SHARED_GATE}, {MG_R_FFN_UP, MG_R_SHARED_UP}, {MG_R_FFN_DOWN, MG_R_SHARED_DOWN}}, \
    .n_shared_roles = 3
/* What Qwen's mixtures say of their experts, as mergekit-moe writes it: every layer routes unless it is listed, chosen
 * weights are divided by their sum. */
#define EDITS_QWEN_EXPERTS \
    {.field = "num_experts", .key = MG_K_EXPERTS}, \
    {.field = "num_experts_per_tok", .key = MG_K_EXPERTS_USED}, \
    {.field = "moe_intermediate_size", .key = MG_K_EXPERT_FFN}, \
    {.field = "norm_topk_prob", .json = "true"}, \
    {.field = "decoder_sparse_step", .json = "1"}, \
    {.field = "mlp_only_layers", .json = "[]"}
/* Values that the base may leave to its own family's defaults, which need not be the mixture's. */
#define EDITS_DEFAULTS \
    {.field = "num_key_value_heads", .key = MG_K_KV_HEADS}, \
    {.field = "rope_theta", .key = MG_K_ROPE_THETA, .keep = true}, \
    {.field = "rms_norm_eps", .key = MG_K_NORM_EPS, .keep = true}, \
    {.field = "tie_word_embeddings", .key = MG_K_TIED}

/* Rotary frequencies that follow from the configuration, in old files of transformers and of Meta. */
#define LLAMA_IGNORED "model.layers.{l}.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq", \
    "rope.freqs", "layers.{l}.attention.inner_attention.rope.freqs", NULL
/* clang-format on */

extern const mg_enum_name mg_rope_names[];
extern const mg_enum_name mg_act_names[];
extern const mg_enum_name mg_score_names[];

#endif
