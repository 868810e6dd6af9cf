/* arch_test.h - what the tests of the family tables share: opening models, configurations as text, checkpoints made up
 * from a configuration. */
#ifndef MG_TESTS_ARCH_TEST_H
#define MG_TESTS_ARCH_TEST_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "formats/arch/arch_internal.h"
#include "memory_checkpoint.h"

#define MODELS MG_TEST_DATA "/models/"

static inline const char *error_text(const mg_error *e) {
    static char buf[2048];
    return mg_error_text(e, buf, sizeof buf);
}

static inline mg_model *open_path(const char *path, mg_checkpoint **c) {
    mg_error err = {0};
    mg_model *m = NULL;
    cr_assert_eq(mg_checkpoint_open(c, path, &err), MG_OK, "%s", error_text(&err));
    cr_assert_eq(mg_model_open(&m, *c, &err), MG_OK, "%s", error_text(&err));
    return m;
}

static inline mg_json *parse(const char *text) {
    mg_json *j = NULL;
    mg_error err = {0};
    cr_assert_eq(mg_json_parse(&j, (mg_span){(const uint8_t *)text, strlen(text)}, "test", &err), MG_OK, "%s",
                 error_text(&err));
    return j;
}

static inline mg_model *from_config(const char *text) {
    mg_error err = {0};
    mg_model *m = NULL;
    mg_json *j = parse(text);
    cr_assert_eq(mg_model_from_config(&m, j, &err), MG_OK, "%s", error_text(&err));
    mg_json_free(j);
    return m;
}

#define SIZES                                                                                                          \
    "\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":3,\"num_attention_heads\":4,"                  \
    "\"num_key_value_heads\":2,\"vocab_size\":320,\"max_position_embeddings\":256,\"rms_norm_eps\":1e-05,"             \
    "\"hidden_act\":\"silu\",\"tie_word_embeddings\":false"
#define LLAMA(rest)   "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"," SIZES rest "}"
#define MISTRAL(rest) "{\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"mistral\"," SIZES rest "}"
#define MIXTRAL(rest) "{\"architectures\":[\"MixtralForCausalLM\"],\"model_type\":\"mixtral\"," SIZES rest "}"

/* A checkpoint with every tensor that config describes, in the layout; data is a pattern of the tensor's index. */
static inline memory_checkpoint *made_from_config(const char *config, mg_layout layout) {
    mg_model *m = from_config(config);
    memory_checkpoint *c = memory_new(config);
    mg_targets t;
    mg_error err = {0};
    cr_assert_eq(mg_arch_targets(&t, m->arch, &m->hp, m->layers, layout, NULL, NULL, &err), MG_OK, "%s",
                 error_text(&err));
    for (size_t i = 0; i < t.n; i++) {
        uint32_t x = memory_add(c, t.items[i].name, MG_F32, t.items[i].rank, t.items[i].shape);
        for (uint64_t k = 0; k < c->base.tensors[x].n_elements; k++)
            ((float *)(void *)c->data[x])[k] = (float)(i * 100003 + k);
    }
    mg_targets_release(&t);
    mg_model_free(m);
    return c;
}

static inline uint64_t elements_of(const mg_bound *b) {
    uint64_t n = 1;
    for (uint32_t i = 0; i < b->rank; i++) n *= b->shape[i];
    return n;
}

/* All of a weight as f32, additions made after widening. The caller frees it. */
static inline float *read_exact(mg_model *m, const mg_bound *bound) {
    mg_bound b = *bound;
    const float add = (float)mg_bound_take_add(&b);
    const mg_dtype type = mg_model_tensor(m, &b)->dtype;
    const uint64_t n = elements_of(&b);
    float *out = malloc(n * sizeof *out);
    uint8_t *raw = malloc(n * sizeof *out);
    mg_error err = {0};
    cr_assert_eq(mg_model_read_rows(m, &b, 0, mg_bound_rows(&b), raw, &err), MG_OK, "%s", error_text(&err));
    for (uint64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, raw + 2 * i, type == MG_F32 ? 0 : sizeof h);
        if (type == MG_F32)
            memcpy(&out[i], raw + 4 * i, sizeof *out);
        else
            out[i] = type == MG_BF16 ? mg_bf16_to_f32(h) : mg_f16_to_f32(h);
        if (add != 0) out[i] += add;
    }
    free(raw);
    return out;
}

static inline void expect_same_weights(mg_model *a, mg_model *b) {
    for (uint32_t i = 0; i < a->arch->n_tensors; i++) {
        mg_role role = a->arch->tensors[i].role;
        if (role == MG_R_ROPE_FREQS || role == MG_R_ROPE_FACTORS_LONG || role == MG_R_ROPE_FACTORS_SHORT) continue;
        for (uint32_t l = 0; l < (uint32_t)mg_hp_i(a, MG_K_LAYERS); l++)
            for (uint32_t e = 0; e == 0 || e < (uint32_t)mg_hp_i(a, MG_K_EXPERTS); e++) {
                const mg_bound *x = mg_model_find(a, role, l, e), *y = mg_model_find(b, role, l, e);
                cr_assert_eq(x == NULL, y == NULL, "%s", mg_role_name(role));
                if (!x) continue;
                cr_assert(x->rank == y->rank && memcmp(x->shape, y->shape, x->rank * sizeof *x->shape) == 0);
                uint64_t n = elements_of(x);
                float *p = read_exact(a, x), *q = read_exact(b, y);
                cr_assert(memcmp(p, q, n * sizeof *p) == 0, "%s %u %u", mg_role_name(role), l, e);
                free(p);
                free(q);
            }
    }
}

/* Every model directory of the test data that these families read: edit here when a family is added. */
static const char *const tiny[] __attribute__((unused)) = {
    /* clang-format off */
    "tiny/llama", "tiny/llama_rope_linear", "tiny/llama_rope_llama3", "tiny/llama_rope_yarn", "tiny/mistral",
    "tiny/mistral_swa", "tiny/mixtral", "donors/prose", "donors/math",
    /* dense */
    "tiny/qwen2", "tiny/qwen3", "tiny/smollm3", "tiny/stablelm", "tiny/olmo2", "tiny/phi3", "tiny/phi3_longrope", "tiny/granite",
    "tiny/gemma", "tiny/gemma2", "tiny/gemma3_text",
    /* mixtures */
    "tiny/qwen2_moe", "tiny/mesh_no_exchange", "tiny/mesh_k1", "tiny/mesh_k2", "tiny/mesh_dense",
    "tiny/qwen3_moe", "tiny/nekomind", "tiny/nekomind_untied", "tiny/olmoe", "tiny/hunyuan_v1_moe", "tiny/dots1",
    "tiny/ernie4_5_moe",
    "tiny/granitemoe", "tiny/glm4_moe", "tiny/minimax_m2", "tiny/phimoe", "tiny/deepseek", "tiny/deepseek_v2", "tiny/deepseek_v3", "tiny/gpt_oss",
    /* clang-format on */
};

/* The configuration of a MoE of four, made from the donors' by the reference merger. */
static const char moe4_config[] __attribute__((unused)) = "{\n"
                                                          "  \"architectures\": [\n"
                                                          "    \"MixtralForCausalLM\"\n"
                                                          "  ],\n"
                                                          "  \"attention_dropout\": 0.0,\n"
                                                          "  \"bos_token_id\": 1,\n"
                                                          "  \"eos_token_id\": 2,\n"
                                                          "  \"head_dim\": 64,\n"
                                                          "  \"hidden_act\": \"silu\",\n"
                                                          "  \"hidden_size\": 256,\n"
                                                          "  \"initializer_range\": 0.02,\n"
                                                          "  \"intermediate_size\": 512,\n"
                                                          "  \"max_position_embeddings\": 2048,\n"
                                                          "  \"model_type\": \"mixtral\",\n"
                                                          "  \"num_attention_heads\": 4,\n"
                                                          "  \"num_experts_per_tok\": 2,\n"
                                                          "  \"num_hidden_layers\": 4,\n"
                                                          "  \"num_key_value_heads\": 2,\n"
                                                          "  \"num_local_experts\": 4,\n"
                                                          "  \"output_router_logits\": false,\n"
                                                          "  \"rms_norm_eps\": 1e-05,\n"
                                                          "  \"rope_theta\": 10000.0,\n"
                                                          "  \"router_aux_loss_coef\": 0.001,\n"
                                                          "  \"router_jitter_noise\": 0.0,\n"
                                                          "  \"sliding_window\": null,\n"
                                                          "  \"tie_word_embeddings\": false,\n"
                                                          "  \"torch_dtype\": \"bfloat16\",\n"
                                                          "  \"transformers_version\": \"4.51.3\",\n"
                                                          "  \"use_cache\": true,\n"
                                                          "  \"vocab_size\": 1024\n"
                                                          "}\n";

#endif
