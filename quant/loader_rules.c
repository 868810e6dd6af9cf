/* loader_rules.c - see loader_rules.h. Rules were read from the programs' sources and documentation, or measured on
 * their current releases, in November 2026. */
#include "quant/loader_rules.h"

#include "quant/loader_lists.h"
#include "quant/loader_view.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what rules look at ---- */

typedef mg_loader_view view;
typedef mg_loader_hit hit;
typedef bool (*rule_fn)(const view *v, hit *h);

bool mg_loader_is_method(const view *v, mg_group_method m) {
    return v->layout.config.method == m;
}

bool mg_loader_has_experts(const view *v) {
    return v->m->hp.i[MG_K_EXPERTS] > 0;
}

mg_role mg_loader_role_of(const view *v, const char *name) {
    mg_role role = MG_ROLE_COUNT;
    const uint32_t t = mg_checkpoint_find(v->dense, name);
    if (t == MG_STRMAP_NONE || !mg_model_role_of(v->m, t, &role, NULL, NULL)) return MG_ROLE_COUNT;
    return role;
}

/* ---- sizes ---- */

static bool not_multiple_of_32(const view *v, hit *h) {
    for (uint32_t i = 0; mg_loader_is_method(v, MG_GROUPS_GPTQ) && i < v->layout.n_matrices; i++) {
        const mg_group_matrix *m = &v->layout.matrices[i];
        if (m->rows % 32 == 0 && m->cols % 32 == 0) continue;
        h->tensor = m->name;
        snprintf(h->text, sizeof h->text, "%" PRIu64 " x %" PRIu64 " is not a multiple of 32 both ways", m->rows,
                 m->cols);
        return true;
    }
    return false;
}

static bool mlx_group(const view *v, hit *h) {
    if (mg_loader_is_method(v, MG_GROUPS_AWQ) &&
        v->layout.config.group_size == 0) { /* one size is passed on for all weights */
        snprintf(h->text, sizeof h->text, "groups of whole rows, expected 32, 64 or 128");
        return true;
    }
    for (uint32_t i = 0; i < v->layout.n_matrices; i++) {
        const uint64_t g = v->layout.matrices[i].group_size;
        if (g == 32 || g == 64 || g == 128 || v->layout.matrices[i].value != MG_CODE_INT) continue;
        h->tensor = v->layout.matrices[i].name;
        snprintf(h->text, sizeof h->text, "groups of %" PRIu64 ", expected 32, 64 or 128", g);
        return true;
    }
    return false;
}

/* ---- formats ---- */

static bool awq_bits(const view *v, hit *h) {
    if (!mg_loader_is_method(v, MG_GROUPS_AWQ) || v->layout.config.bits == 4) return false;
    snprintf(h->text, sizeof h->text, "AWQ with %" PRIu32 " bits, only 4 are read", v->layout.config.bits);
    return true;
}

static bool gptq_bits(const view *v, hit *h) {
    const mg_group_config *c = &v->layout.config;
    if (!mg_loader_is_method(v, MG_GROUPS_GPTQ) || (c->symmetric && (c->bits == 4 || c->bits == 8))) return false;
    snprintf(h->text, sizeof h->text, "GPTQ with %" PRIu32 " bits%s: symmetric 4 and 8 bits only are read", c->bits,
             c->symmetric ? "" : " and zero points");
    return true;
}

static bool not_awq(const view *v, hit *h) {
    if (mg_loader_is_method(v, MG_GROUPS_AWQ) || mg_loader_is_method(v, MG_GROUPS_NONE)) return false;
    snprintf(h->text, sizeof h->text, "it reads AWQ and unquantized models only");
    return true;
}

static bool not_awq_gptq(const view *v, hit *h) {
    if (mg_loader_is_method(v, MG_GROUPS_AWQ) || mg_loader_is_method(v, MG_GROUPS_GPTQ) ||
        mg_loader_is_method(v, MG_GROUPS_NONE))
        return false;
    snprintf(h->text, sizeof h->text, "it reads AWQ, GPTQ and unquantized models only");
    return true;
}

static bool mlx_only(const view *v, hit *h) {
    if (!mg_loader_is_method(v, MG_GROUPS_MLX)) return false;
    snprintf(h->text, sizeof h->text, "MLX weights are read by mlx-lm only");
    return true;
}

static bool not_mlx(const view *v, hit *h) {
    const mg_group_config *c = &v->layout.config;
    if (mg_loader_is_method(v, MG_GROUPS_MLX) || mg_loader_is_method(v, MG_GROUPS_NONE)) return false;
    if (mg_loader_is_method(v, MG_GROUPS_AWQ) && c->bits == 4) return false;
    snprintf(h->text, sizeof h->text, "it reads its own quantization and 4-bit AWQ");
    return true;
}

static bool awq_to_gguf(const view *v, hit *h) {
    const mg_group_config *c = &v->layout.config;
    const bool mxfp4 = mg_loader_is_method(v, MG_GROUPS_CT) && c->n_ct && c->ct[0].format == MG_CT_MXFP4;
    if (!mg_loader_is_method(v, MG_GROUPS_AWQ) && !mg_loader_is_method(v, MG_GROUPS_MLX) && !mxfp4) return false;
    snprintf(h->text, sizeof h->text, "its converter refuses this quantization: moegraft convert makes a GGUF of it");
    return true;
}

static bool no_gguf(const view *v, hit *h) {
    if (v->c->kv) return false;
    snprintf(h->text, sizeof h->text, "a GGUF file is needed: moegraft convert makes one");
    return true;
}

static bool gguf_own(const view *v, hit *h) {
    if (!v->m->arch->gguf_own) return false;
    snprintf(h->text, sizeof h->text, "it does not know the architecture %s", v->m->arch->gguf_arch);
    return true;
}

static bool gguf_losses(const view *v, hit *h) {
    if (v->c->kv || !mg_arch_gguf_losses(v->m, h->text, sizeof h->text)) return false;
    h->text[strcspn(h->text, "\n")] = 0;
    return true;
}

static bool is_gguf(const view *v, hit *h) {
    if (!v->c->kv) return false;
    snprintf(h->text, sizeof h->text, "a Hugging Face directory is needed: moegraft convert makes one");
    return true;
}

static bool half_type(const view *v, hit *h) {
    const mg_dtype d = v->c->config ? mg_config_dtype(v->c->config) : MG_DTYPE_COUNT;
    if (!mg_loader_is_method(v, MG_GROUPS_AWQ) || d == MG_F16 || d == MG_DTYPE_COUNT) return false;
    snprintf(h->text, sizeof h->text, "config.json names %s; its kernels accept float16 only", mg_dtype_get(d)->name);
    return true;
}

/* ---- mixtures ---- */

/* mlx-lm's own form of experts, which it reads in every family. */
static bool mlx_stack(const view *v, uint32_t t) {
    return mg_loader_is_method(v, MG_GROUPS_MLX) && v->dense->tensors[t].rank == 3;
}

/* A stored weight whose name is not the one that AutoAWQ, vLLM and the files on the hub use; NULL: none. */
static const char *unusual_name(const view *v) {
    for (uint32_t i = 0; i < v->dense->n_tensors; i++) {
        const char *name = v->dense->tensors[i].name;
        bool usual = !mg_model_role_of(v->m, i, NULL, NULL, NULL) || mlx_stack(v, i);
        size_t lo = 0, hi = v->names.n; /* sorted by name */
        while (!usual && lo < hi) {
            const size_t mid = lo + (hi - lo) / 2;
            const int order = strcmp(name, v->names.items[mid].name);
            usual = order == 0;
            if (order < 0)
                hi = mid;
            else
                lo = mid + 1;
        }
        if (!usual) return name;
    }
    return NULL;
}

static bool new_names(const view *v, hit *h) {
    if (v->c->kv || !mg_loader_has_experts(v) || !(h->tensor = unusual_name(v))) return false;
    snprintf(h->text, sizeof h->text, "experts are not named as it expects (write them with --layout legacy)");
    return true;
}

/* Does the family have newer names, and are the old ones used? */
static bool old_names(const view *v, hit *h) {
    char newest[256];
    for (size_t i = 0; i < v->names.n && !v->c->kv; i++) {
        const mg_target *t = &v->names.items[i];
        if (!mg_target_newest_name(t, v->m->arch, &v->m->hp, newest, sizeof newest)) continue;
        if (strcmp(newest, t->name) == 0 || mg_checkpoint_find(v->dense, t->name) == MG_STRMAP_NONE) continue;
        h->tensor = t->name;
        snprintf(h->text, sizeof h->text,
                 "it looks for '%s' and leaves experts uninitialised (write them with --layout v5)", newest);
        return true;
    }
    return false;
}

/* Experts in tensors of their own, of a family whose files stack them. */
static bool split_experts(const view *v, hit *h) {
    for (uint32_t i = 0; i < v->layout.n_matrices; i++) {
        const char *name = v->layout.matrices[i].name;
        const uint32_t t = mg_checkpoint_find(v->dense, name);
        const mg_role r = mg_loader_role_of(v, name);
        if (r == MG_ROLE_COUNT || v->dense->tensors[t].rank != 2 || !mg_arch_stacks(v->m->arch, r)) continue;
        h->tensor = name;
        snprintf(h->text, sizeof h->text,
                 "it looks for all experts of a layer in one tensor; vLLM takes them one by one");
        return true;
    }
    return false;
}

/* Quantized experts in tensors of their own, of a family for which mlx-lm joins weights only. */
static bool unjoined_experts(const view *v, hit *h) {
    for (uint32_t i = 0; mg_loader_is_method(v, MG_GROUPS_MLX) && i < v->layout.n_matrices; i++) {
        const char *name = v->layout.matrices[i].name;
        const mg_role r = mg_loader_role_of(v, name);
        if (v->layout.matrices[i].rank != 2 || r == MG_ROLE_COUNT || !mg_arch_has_mlx_form(v->m->arch, r)) continue;
        h->tensor = name;
        snprintf(h->text, sizeof h->text,
                 "it joins the weights of this family's experts, but not their scales (quantize again: stacks are "
                 "written)");
        return true;
    }
    return false;
}

static bool random_experts(const view *v, hit *h) {
    if (!mg_loader_has_experts(v) ||
        (!mg_loader_is_method(v, MG_GROUPS_AWQ) && !mg_loader_is_method(v, MG_GROUPS_GPTQ)))
        return false;
    snprintf(h->text, sizeof h->text,
             "experts are one tensor there and no Linear: quantized ones are initialised at random, without an error");
    return true;
}

static bool is_asymmetric(const view *v) {
    for (uint32_t i = 0; mg_loader_is_method(v, MG_GROUPS_CT) && i < v->layout.n_matrices; i++)
        if (v->layout.matrices[i].zeros.tensor != MG_STRMAP_NONE) return true;
    return false;
}

/* Weights of compressed-tensors for which `is` holds, in a mixture. */
static bool ct_experts(const view *v, bool (*is)(const mg_group_matrix *m)) {
    for (uint32_t i = 0; mg_loader_is_method(v, MG_GROUPS_CT) && mg_loader_has_experts(v) && i < v->layout.n_matrices;
         i++)
        if (is(&v->layout.matrices[i])) return true;
    return false;
}

static bool has_blocks(const mg_group_matrix *m) {
    return m->row_block > 1;
}

static bool has_global(const mg_group_matrix *m) {
    return m->divisor != MG_STRMAP_NONE;
}

static bool block_experts(const view *v, hit *h) {
    if (!ct_experts(v, has_blocks)) return false;
    snprintf(h->text, sizeof h->text, "FP8 experts with a scale for each block end in an error (FP8_DYNAMIC loads)");
    return true;
}

static bool global_experts(const view *v, hit *h) {
    if (!ct_experts(v, has_global)) return false;
    snprintf(h->text, sizeof h->text,
             "experts are decoded without their global scale, without an error (MXFP4A16 loads right)");
    return true;
}

static bool asymmetric_experts(const view *v, hit *h) {
    if (!is_asymmetric(v) || !mg_loader_has_experts(v)) return false;
    snprintf(h->text, sizeof h->text, "compressed experts with zero points are refused (write them with --symmetric)");
    return true;
}

static bool asymmetric_dense(const view *v, hit *h) {
    if (!is_asymmetric(v) || mg_loader_has_experts(v)) return false;
    snprintf(h->text, sizeof h->text, "zero points load only with CompressedTensorsConfig(dequantize=True)");
    return true;
}

/* ---- lists of modules to leave alone ---- */

static bool wrong_list(const view *v, hit *h, mg_list_match how, bool or_files) {
    const mg_list_view l = {&v->layout, v->dense, v->m, v->quant, or_files};
    bool quantized;
    return mg_loader_list_wrong(&l, how, &h->tensor, &quantized, h->text, sizeof h->text);
}

static bool list_of_vllm(const view *v, hit *h) {
    return wrong_list(v, h, MG_LIST_SUBSTRING, true) || wrong_list(v, h, MG_LIST_RULES, true);
}

static bool list_by_substring(const view *v, hit *h) {
    return wrong_list(v, h, MG_LIST_SUBSTRING, false);
}

static bool list_by_suffix(const view *v, hit *h) {
    return wrong_list(v, h, MG_LIST_SUFFIX, false);
}

static bool list_by_rules(const view *v, hit *h) {
    return wrong_list(v, h, MG_LIST_RULES, false);
}

/* ---- the table ---- */

#define FOR(l) (1u << MG_LOADER_##l)

static const struct rule {
    uint32_t loaders;
    bool fatal;
    const char *name;
    rule_fn test;
    const char *source;
} rules[] = {
    {FOR(VLLM) | FOR(TRANSFORMERS5) | FOR(AUTOAWQ) | FOR(GPTQMODEL) | FOR(MLX), true, "container", is_gguf,
     "these programs read safetensors directories"},
    {FOR(LLAMA_CPP), true, "container", no_gguf, "llama.cpp reads GGUF only"},
    {FOR(LLAMA_CPP), true, "architecture", gguf_own, "llama.cpp, its list of architectures"},
    {FOR(LLAMA_CPP), false, "converter", awq_to_gguf,
     "llama.cpp conversion/base.py dequant_model: fp8, gptq, some of compressed-tensors; issues 4701, 10965"},
    {FOR(LLAMA_CPP), false, "metadata", gguf_losses, "llama.cpp, its list of metadata keys"},
    {FOR(VLLM) | FOR(TRANSFORMERS5) | FOR(AUTOAWQ) | FOR(GPTQMODEL), true, "format", mlx_only,
     "quantization methods these programs register"},
    {FOR(AUTOAWQ), true, "format", not_awq, "AutoAWQ 0.2.9 awq/models/base.py"},
    {FOR(GPTQMODEL), true, "format", not_awq_gptq, "GPTQModel 7.7 quantization/config.py METHOD"},
    {FOR(MLX), true, "format", not_mlx, "mlx-lm utils.py load_model and its AWQ transform"},
    {FOR(MLX), true, "group", mlx_group, "mlx ops quantize: group sizes 32, 64, 128"},
    {FOR(VLLM) | FOR(AUTOAWQ), true, "bits", awq_bits,
     "vLLM 0.32 quantization/auto_awq.py TYPE_MAP; AutoAWQ modules/linear/gemm.py: only 4-bit are supported"},
    {FOR(VLLM), true, "bits", gptq_bits, "vLLM 0.32 quantization/auto_gptq.py TYPE_MAP: (4, sym) and (8, sym)"},
    {FOR(VLLM), true, "group", mg_vllm_row_groups,
     "vLLM 0.32 auto_awq.py AutoAWQMoEMethod.create_weights: no case for -1"},
    {FOR(VLLM), true, "group x tp", mg_vllm_groups_cut,
     "vLLM 0.32 auto_awq.py, auto_gptq.py, compressed_tensors schemes and moe, create_weights: input size per "
     "partition a "
     "multiple of the group"},
    {FOR(VLLM), true, "words x tp", mg_vllm_words_cut, "vLLM 0.32 parameter.py PackedvLLMParameter: pack factor"},
    {FOR(VLLM), true, "blocks x tp", mg_vllm_blocks_cut,
     "vLLM 0.32 quantization/utils/fp8_utils.py validate_fp8_block_shape: whole blocks for each rank and joined "
     "weight"},
    {FOR(VLLM), true, "heads x tp", mg_vllm_heads_cut, "vLLM models: total_num_heads % tp_size == 0"},
    {FOR(VLLM), true, "act-order", mg_vllm_act_order,
     "vLLM 0.32 gptq_utils.py normalize_and_validate_gptq_desc_act, compressed_tensors.py: actorder no longer "
     "supported"},
    {FOR(VLLM), true, "experts", mg_vllm_byte_zeros,
     "vLLM 0.32 fused_moe/oracle/int_wna16.py select_wna16_moe_backend: no backend takes uint8 with zero points"},
    {FOR(VLLM), true, "architecture", mg_vllm_unknown_family,
     "vLLM 0.32 model_executor/models/registry.py; a QKVParallelLinear without a prefix there"},
    {FOR(VLLM), false, "remote code", mg_vllm_code_elsewhere, "vLLM 0.32 transformers_utils/config.py: AutoConfig"},
    {FOR(VLLM), false, "type", mg_vllm_scales_rounded,
     "vLLM 0.32 create_weights: scales are parameters of the type that the model runs in, config.json's"},
    {FOR(AUTOAWQ), false, "type", half_type, "AutoAWQ modules/linear/gemm.py: kernels for float16"},
    {FOR(GPTQMODEL), true, "32", not_multiple_of_32, "GPTQModel nn_modules/qlinear: in and out features"},
    {FOR(VLLM) | FOR(AUTOAWQ) | FOR(MLX), true, "names", new_names,
     "vLLM 0.32 routed_experts.py get_expert_mapping, AutoAWQ models, mlx-lm sanitize: names of the original releases"},
    {FOR(GPTQMODEL), true, "names", old_names, "measured: GPTQModel 7.7 with transformers 5"},
    {FOR(TRANSFORMERS5) | FOR(AUTOAWQ) | FOR(GPTQMODEL) | FOR(MLX), true, "stacks", split_experts,
     "transformers and mlx-lm: such families' modules hold stacks (ParallelExperts); AutoAWQ and GPTQModel define none "
     "of them; vLLM 0.32 routed_experts.py get_expert_mapping takes experts one by one"},
    {FOR(MLX), true, "stacks", unjoined_experts, "mlx-lm 0.32 sanitize of each model: some join .weight alone"},
    {FOR(TRANSFORMERS5), true, "experts", random_experts, "measured: transformers 5.23, load report says MISSING"},
    {FOR(TRANSFORMERS5), true, "experts", asymmetric_experts,
     "measured: transformers 5.23 with compressed-tensors 0.20"},
    {FOR(TRANSFORMERS5), true, "experts", block_experts,
     "measured: transformers 5.24, CompressedTensorsDequantize multiplies without spreading blocks"},
    {FOR(TRANSFORMERS5), true, "experts", global_experts,
     "measured: transformers 5.24, CompressedTensorsDequantize takes packed codes, scale and shape only"},
    {FOR(TRANSFORMERS5), false, "zero points", asymmetric_dense,
     "measured: transformers 5.23, shape mismatch otherwise"},
    {FOR(VLLM), true, "skip list", list_of_vllm,
     "vLLM 0.32 is_layer_skipped, gptq_utils.py, should_ignore_layer; auto_awq.py and auto_gptq.py "
     "maybe_update_config"},
    {FOR(AUTOAWQ), true, "skip list", list_by_substring, "AutoAWQ exclude_layers_to_not_quantize: substring"},
    {FOR(TRANSFORMERS5), true, "skip list", list_by_suffix,
     "transformers quantizers_utils should_convert_module: beginning or ending of the name"},
    {FOR(TRANSFORMERS5) | FOR(GPTQMODEL), true, "skip list", list_by_rules,
     "GPTQModel quantization/config dynamic_get; compressed-tensors utils/match is_match"},
};

/* ---- judging ---- */

static const char *const names[MG_LOADER_COUNT] = {"vllm", "transformers5", "autoawq", "gptqmodel", "llama.cpp", "mlx"};

const char *mg_loader_name(mg_loader l) {
    return names[l];
}

mg_status mg_loader_parse(const char *text, mg_loader *loader, uint32_t *tp, mg_error *err) {
    const size_t n = strcspn(text, ":");
    *tp = 1;
    for (mg_loader l = 0; l < MG_LOADER_COUNT; l++) {
        if (strlen(names[l]) != n || strncmp(text, names[l], n) != 0) continue;
        *loader = l;
        if (!text[n]) return MG_OK;
        char *end;
        const unsigned long long v =
            l == MG_LOADER_VLLM && strncmp(text + n, ":tp=", 4) == 0 ? strtoull(text + n + 4, &end, 10) : 0;
        if (v == 0 || v > 1024 || *end)
            return mg_fail(err, MG_ERR_USAGE, "'%s': only vllm takes an option, :tp=N from 1 to 1024", text);
        *tp = (uint32_t)v;
        return MG_OK;
    }
    return mg_fail(err, MG_ERR_USAGE,
                   "no rules for '%s'; there are vllm[:tp=N], transformers5, autoawq, gptqmodel, llama.cpp, mlx", text);
}

static mg_status judge(view *v, mg_loader loader, mg_loader_fn found, void *ctx, mg_error *err) {
    MG_TRY(mg_group_layout_init(&v->layout, v->c, err));
    MG_TRY(mg_model_open(&v->m, v->dense, err));
    MG_TRY(mg_arch_targets_in(&v->names, v->m->arch, &v->m->hp, v->m->layers,
                              mg_loader_is_method(v, MG_GROUPS_MLX) ? MG_FORMS_MLX
                              : v->layout.n_matrices                ? MG_FORMS_MATRICES
                                                                    : MG_FORMS_FIRST,
                              mg_model_has, v->m, err));
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        hit h = {0};
        if (!(rules[i].loaders >> loader & 1) || !rules[i].test(v, &h)) continue;
        const mg_loader_finding f = {rules[i].name, rules[i].fatal, rules[i].source, h.tensor, h.text};
        found(ctx, &f);
    }
    return MG_OK;
}

mg_status mg_loader_judge(mg_checkpoint *c, mg_checkpoint *dense, mg_loader loader, uint32_t tp, mg_loader_fn found,
                          void *ctx, mg_error *err) {
    view v = {.c = c, .dense = dense, .tp = tp};
    if (c->config) v.quant = mg_json_get(c->config, "quantization_config");
    mg_status st = judge(&v, loader, found, ctx, err);
    mg_targets_release(&v.names);
    mg_model_free(v.m);
    mg_group_layout_release(&v.layout);
    return st;
}
