/* arch_fields.c - see arch_fields.h: the tables. The texts of symbols and fallbacks are in arch_text.c. */
#include "formats/arch/arch_fields.h"

#include <string.h>

/* ---- enumerators, spelled as in arch.h ---- */

/* clang-format off */
static const mg_enum_name acts[] = {{"silu", MG_ACT_SILU}, {"gelu_tanh", MG_ACT_GELU_TANH}, {"gelu_erf", MG_ACT_GELU_ERF}, {NULL, 0}};
static const mg_enum_name scalings[] = {
    {"none", MG_ROPE_NONE}, {"linear", MG_ROPE_LINEAR}, {"llama3", MG_ROPE_LLAMA3}, {"yarn", MG_ROPE_YARN},
    {"dynamic", MG_ROPE_DYNAMIC}, {"longrope", MG_ROPE_LONGROPE}, {NULL, 0}};
static const mg_enum_name scores[] = {{"softmax", MG_SCORE_SOFTMAX}, {"sigmoid", MG_SCORE_SIGMOID}, {NULL, 0}};
static const mg_enum_name score_or_any[] = {{"any", 0}, {"softmax", MG_SCORE_SOFTMAX}, {"sigmoid", MG_SCORE_SIGMOID}, {NULL, 0}};
static const mg_enum_name norms[] = {{"rms", MG_NORM_RMS}, {"layer", MG_NORM_LAYER}, {NULL, 0}};
static const mg_enum_name qk_norms[] = {{"before_rope", MG_QK_NORM_BEFORE_ROPE}, {"after_rope", MG_QK_NORM_AFTER_ROPE}, {NULL, 0}};
static const mg_enum_name ropes[] = {{"half", MG_ROPE_HALF}, {"interleaved", MG_ROPE_INTERLEAVED}, {NULL, 0}};
static const mg_enum_name routers[] = {
    {"none", MG_ROUTER_NONE}, {"softmax_topk", MG_ROUTER_SOFTMAX_TOPK}, {"topk_softmax", MG_ROUTER_TOPK_SOFTMAX},
    {"sigmoid", MG_ROUTER_SIGMOID}, {"softmax_corrected", MG_ROUTER_SOFTMAX_CORRECTED},
    {"softmax_groups", MG_ROUTER_SOFTMAX_GROUPS}, {"sparsemixer", MG_ROUTER_SPARSEMIXER}, {NULL, 0}};
static const mg_enum_name gatings[] = {{"act", MG_GATING_ACT}, {"swiglu_clamped", MG_GATING_SWIGLU_CLAMPED}, {NULL, 0}};
static const mg_enum_name schedules[] = {
    {"all", MG_MOE_ALL}, {"after_dense", MG_MOE_AFTER_DENSE}, {"stepped", MG_MOE_STEPPED}, {"range", MG_MOE_RANGE}, {"multiples", MG_MOE_MULTIPLES}, {NULL, 0}};
static const mg_enum_name vllms[] = {{"all", MG_VLLM_ALL}, {"no_gptq", MG_VLLM_NO_GPTQ}, {"none", MG_VLLM_NONE}, {NULL, 0}};
static const mg_enum_name matches[] = {
    {"never", MG_GGUF_MATCH_NEVER}, {"dense", MG_GGUF_MATCH_DENSE}, {"moe", MG_GGUF_MATCH_MOE}, {NULL, 0}};
static const mg_enum_name kv_types[] = {
    {"u8", MG_KV_U8}, {"i8", MG_KV_I8}, {"u16", MG_KV_U16}, {"i16", MG_KV_I16}, {"u32", MG_KV_U32}, {"i32", MG_KV_I32},
    {"f32", MG_KV_F32}, {"bool", MG_KV_BOOL}, {"str", MG_KV_STR}, {NULL, 0}};
static const mg_enum_name whens[] = {
    {"never", MG_GGUF_NEVER}, {"always", MG_GGUF_ALWAYS}, {"stated", MG_GGUF_STATED}, {"scaled", MG_GGUF_SCALED},
    {"yarn", MG_GGUF_YARN}, {"yarn_stated", MG_GGUF_YARN_STATED}, {"longrope", MG_GGUF_LONGROPE},
    {"unusual", MG_GGUF_UNUSUAL}, {"file_type", MG_GGUF_FILE_TYPE}, {NULL, 0}};
static const mg_enum_name traits[] = {{"window", MG_TRAIT_WINDOW}, {"rope", MG_TRAIT_ROPE}, {NULL, 0}};
static const mg_enum_name conds[] = {
    {"always", MG_IF_ALWAYS}, {"dense", MG_IF_DENSE}, {"moe", MG_IF_MOE}, {"shared", MG_IF_SHARED}, {"exchange", MG_IF_EXCHANGE},
    {"q_lora", MG_IF_Q_LORA}, {"no_q_lora", MG_IF_NO_Q_LORA}, {"stored", MG_IF_STORED}, {"llama3", MG_IF_LLAMA3},
    {"longrope", MG_IF_LONGROPE}, {"untied", MG_IF_UNTIED}, {"attn_bias", MG_IF_ATTN_BIAS}, {"head_bias", MG_IF_HEAD_BIAS},
    {"qk_norm", MG_IF_QK_NORM}, {"dense_mlp_bias", MG_IF_DENSE_MLP_BIAS}, {NULL, 0}};
static const mg_enum_name view_kinds[] = {
    {"select", MG_VIEW_SELECT}, {"rows", MG_VIEW_ROWS}, {"rope_unperm", MG_VIEW_ROPE_UNPERM}, {"rope_perm", MG_VIEW_ROPE_PERM},
    {"groups", MG_VIEW_GROUPS}, {"transpose", MG_VIEW_TRANSPOSE}, {"reshape", MG_VIEW_RESHAPE}, {"add", MG_VIEW_ADD}, {NULL, 0}};
/* clang-format on */

const mg_enum_name *mg_key_enumerators(mg_key key) {
    return key == MG_K_ACT ? acts : key == MG_K_ROPE_TYPE ? scalings : key == MG_K_SCORE_FUNC ? scores : NULL;
}

const char *mg_enumerator_name(const mg_enum_name *names, int value) {
    for (; names && names->name; names++)
        if (names->value == value) return names->name;
    return NULL;
}

/* ---- structures ---- */

/* clang-format off */
#define FIELD(type, member, sort, ...) {.name = #member, .kind = sort, .at = offsetof(type, member), .n_at = MG_NO_COUNT, __VA_ARGS__}
#define NAMED(text, type, member, sort, ...) {.name = text, .kind = sort, .at = offsetof(type, member), .n_at = MG_NO_COUNT, __VA_ARGS__}
#define COUNTED(type, member, sort, count, ...) \
    {.name = #member, .kind = sort, .at = offsetof(type, member), .n_at = offsetof(type, count), __VA_ARGS__}
#define FIELDS(name, type, plain) \
    {name, sizeof name / sizeof *name, sizeof(type), plain}

static const mg_field view_items[] = {
    FIELD(mg_view_row, kind, MG_FIELD_ENUM, .names = view_kinds, .required = true),
    FIELD(mg_view_row, a, MG_FIELD_SYM), FIELD(mg_view_row, b, MG_FIELD_SYM), FIELD(mg_view_row, step, MG_FIELD_U64),
    FIELD(mg_view_row, value, MG_FIELD_F64), FIELD(mg_view_row, group, MG_FIELD_SYM),
};
static const mg_fields view_fields = FIELDS(view_items, mg_view_row, "kind");

static const mg_field form_items[] = {
    FIELD(mg_form, pattern, MG_FIELD_STR, .required = true),
    FIELD(mg_form, views, MG_FIELD_INLINE, .room = MG_MAX_ROW_VIEWS, .rows = &view_fields),
    FIELD(mg_form, stored, MG_FIELD_SYMS, .room = 4), FIELD(mg_form, blocks, MG_FIELD_BOOL),
    FIELD(mg_form, mlx, MG_FIELD_BOOL),
};
static const mg_fields form_fields = FIELDS(form_items, mg_form, "pattern");

static const mg_field tensor_items[] = {
    FIELD(mg_tensor_row, role, MG_FIELD_ROLE, .required = true), FIELD(mg_tensor_row, when, MG_FIELD_ENUM, .names = conds),
    FIELD(mg_tensor_row, shape, MG_FIELD_SYMS, .room = 3, .required = true),
    NAMED("hf", mg_tensor_row, forms[MG_LAYOUT_HF], MG_FIELD_INLINE, .room = MG_MAX_FORMS, .rows = &form_fields),
    NAMED("gguf", mg_tensor_row, forms[MG_LAYOUT_GGUF], MG_FIELD_INLINE, .room = MG_MAX_FORMS, .rows = &form_fields),
    NAMED("native", mg_tensor_row, forms[MG_LAYOUT_NATIVE], MG_FIELD_INLINE, .room = MG_MAX_FORMS, .rows = &form_fields),
    FIELD(mg_tensor_row, flush, MG_FIELD_U32),
};
static const mg_fields tensor_fields = FIELDS(tensor_items, mg_tensor_row, NULL);

static const mg_field config_items[] = {
    FIELD(mg_config_row, key, MG_FIELD_KEY, .required = true), FIELD(mg_config_row, hf, MG_FIELD_STRS, .room = MG_MAX_SPELLINGS),
    FIELD(mg_config_row, gguf, MG_FIELD_STR), FIELD(mg_config_row, gguf_type, MG_FIELD_ENUM, .names = kv_types),
    FIELD(mg_config_row, gguf_when, MG_FIELD_ENUM, .names = whens), FIELD(mg_config_row, absent, MG_FIELD_FALLBACK),
    FIELD(mg_config_row, null, MG_FIELD_FALLBACK), FIELD(mg_config_row, zero, MG_FIELD_FALLBACK),
    FIELD(mg_config_row, gguf_absent, MG_FIELD_FALLBACK), FIELD(mg_config_row, lo, MG_FIELD_F64), FIELD(mg_config_row, hi, MG_FIELD_F64),
    FIELD(mg_config_row, names, MG_FIELD_SPELLINGS), FIELD(mg_config_row, gguf_unread, MG_FIELD_BOOL),
    FIELD(mg_config_row, quiet, MG_FIELD_BOOL), FIELD(mg_config_row, only_if, MG_FIELD_KEY),
    FIELD(mg_config_row, gguf_scale, MG_FIELD_F64), FIELD(mg_config_row, lost_in_gguf, MG_FIELD_BOOL),
};
const mg_fields mg_config_fields = FIELDS(config_items, mg_config_row, NULL);

static const mg_field list_items[] = {
    FIELD(mg_layer_list, path, MG_FIELD_STR, .required = true), FIELD(mg_layer_list, trait, MG_FIELD_ENUM, .names = traits),
    FIELD(mg_layer_list, yes, MG_FIELD_STR), FIELD(mg_layer_list, no, MG_FIELD_STR),
};
static const mg_fields list_fields = FIELDS(list_items, mg_layer_list, NULL);

static const mg_field refusal_items[] = {
    FIELD(mg_config_refusal, path, MG_FIELD_STR, .required = true), FIELD(mg_config_refusal, harmless, MG_FIELD_HARMLESS),
    FIELD(mg_config_refusal, why, MG_FIELD_STR, .required = true),
};
static const mg_fields refusal_fields = FIELDS(refusal_items, mg_config_refusal, NULL);

static const mg_field edit_items[] = {
    FIELD(mg_config_edit, field, MG_FIELD_STR, .required = true), FIELD(mg_config_edit, json, MG_FIELD_STR),
    FIELD(mg_config_edit, key, MG_FIELD_KEY), FIELD(mg_config_edit, keep, MG_FIELD_BOOL), FIELD(mg_config_edit, remove, MG_FIELD_BOOL),
    FIELD(mg_config_edit, append, MG_FIELD_BOOL), FIELD(mg_config_edit, as_role, MG_FIELD_BOOL), FIELD(mg_config_edit, role, MG_FIELD_ROLE),
};
static const mg_fields edit_fields = FIELDS(edit_items, mg_config_edit, NULL);

static const mg_field pair_items[] = {
    FIELD(mg_role_pair, dense, MG_FIELD_ROLE, .required = true), FIELD(mg_role_pair, expert, MG_FIELD_ROLE, .required = true),
};
static const mg_fields pair_fields = FIELDS(pair_items, mg_role_pair, NULL);

static const mg_field made_items[] = {
    FIELD(mg_made_from, called, MG_FIELD_STR), FIELD(mg_made_from, families, MG_FIELD_STRS, .room = 4, .required = true),
    COUNTED(mg_made_from, roles, MG_FIELD_INLINE, n_roles, .room = 6, .rows = &pair_fields),
    COUNTED(mg_made_from, shared, MG_FIELD_INLINE, n_shared_roles, .room = 3, .rows = &pair_fields),
    FIELD(mg_made_from, needs_shared, MG_FIELD_BOOL), COUNTED(mg_made_from, zeros, MG_FIELD_ROLES, n_zeros, .room = 4),
    FIELD(mg_made_from, order, MG_FIELD_U32),
};
static const mg_fields made_fields = FIELDS(made_items, mg_made_from, NULL);

static const mg_field restates_items[] = {
    FIELD(mg_restates, families, MG_FIELD_STRS, .room = 4, .required = true), COUNTED(mg_restates, zeros, MG_FIELD_ROLES, n_zeros, .room = 2),
    COUNTED(mg_restates, doubled, MG_FIELD_ROLES, n_doubled, .room = 2), COUNTED(mg_restates, vanishing, MG_FIELD_ROLES, n_vanishing, .room = 2),
};
static const mg_fields restates_fields = FIELDS(restates_items, mg_restates, NULL);

static const mg_field native_row_items[] = {
    FIELD(mg_native_row, key, MG_FIELD_KEY, .required = true), FIELD(mg_native_row, path, MG_FIELD_STR, .required = true),
    FIELD(mg_native_row, absent, MG_FIELD_FALLBACK), FIELD(mg_native_row, windowed, MG_FIELD_FALLBACK),
};
static const mg_fields native_row_fields = FIELDS(native_row_items, mg_native_row, NULL);

static const mg_field native_items[] = {
    FIELD(mg_native, has, MG_FIELD_STR, .required = true), FIELD(mg_native, lacks, MG_FIELD_STR),
    COUNTED(mg_native, rows, MG_FIELD_ROWS, n_rows, .rows = &native_row_fields), FIELD(mg_native, ignored, MG_FIELD_STRLIST),
};
static const mg_fields native_fields = FIELDS(native_items, mg_native, NULL);

static const mg_field block_items[] = {
    FIELD(mg_block, norm, MG_FIELD_ENUM, .names = norms), FIELD(mg_block, qk_norm, MG_FIELD_ENUM, .names = qk_norms),
    FIELD(mg_block, rope, MG_FIELD_ENUM, .names = ropes), FIELD(mg_block, router, MG_FIELD_ENUM, .names = routers),
    FIELD(mg_block, norm_topk, MG_FIELD_BOOL), FIELD(mg_block, topk_sum_add, MG_FIELD_F64),
    FIELD(mg_block, moe, MG_FIELD_ENUM, .names = schedules), FIELD(mg_block, gating, MG_FIELD_ENUM, .names = gatings),
    FIELD(mg_block, latent_eps, MG_FIELD_F64), FIELD(mg_block, heads_fill, MG_FIELD_BOOL),
};
static const mg_fields block_fields = FIELDS(block_items, mg_block, NULL);

static const mg_field arch_items[] = {
    FIELD(mg_arch, name, MG_FIELD_STR, .required = true), FIELD(mg_arch, hf_classes, MG_FIELD_STRS, .room = 4, .required = true),
    FIELD(mg_arch, gguf_arch, MG_FIELD_STR, .required = true), FIELD(mg_arch, gguf_own, MG_FIELD_BOOL),
    FIELD(mg_arch, vllm, MG_FIELD_ENUM, .names = vllms),
    FIELD(mg_arch, gguf_score, MG_FIELD_ENUM, .names = score_or_any), FIELD(mg_arch, gguf_no_blank, MG_FIELD_BOOL),
    FIELD(mg_arch, gguf_eot, MG_FIELD_U32),
    FIELD(mg_arch, gguf_needs, MG_FIELD_KEY),
    FIELD(mg_arch, gguf_match, MG_FIELD_ENUM, .names = matches),
    FIELD(mg_arch, block, MG_FIELD_STRUCT, .rows = &block_fields),
    COUNTED(mg_arch, config, MG_FIELD_ROWS, n_config, .rows = &mg_config_fields),
    FIELD(mg_arch, lists, MG_FIELD_ROWS, .rows = &list_fields),
    COUNTED(mg_arch, refusals, MG_FIELD_ROWS, n_refusals, .rows = &refusal_fields),
    COUNTED(mg_arch, tensors, MG_FIELD_ROWS, n_tensors, .rows = &tensor_fields),
    FIELD(mg_arch, dense_list, MG_FIELD_STR), FIELD(mg_arch, skip_extra_layers, MG_FIELD_BOOL),
    FIELD(mg_arch, ignored, MG_FIELD_STRLIST), FIELD(mg_arch, made_from, MG_FIELD_OBJECT, .rows = &made_fields),
    FIELD(mg_arch, edits, MG_FIELD_ROWS, .rows = &edit_fields), FIELD(mg_arch, restates, MG_FIELD_OBJECT, .rows = &restates_fields),
    FIELD(mg_arch, native, MG_FIELD_OBJECT, .rows = &native_fields),
    FIELD(mg_arch, blocks_config, MG_FIELD_STR),
};
const mg_fields mg_arch_fields = FIELDS(arch_items, mg_arch, NULL);
/* clang-format on */

/* A member that is new in arch.h has another size, and belongs into the tables above. */
#define IN_FULL(type, bytes) _Static_assert(sizeof(type) == bytes, #type " has other members than its table")
IN_FULL(mg_arch, 288);
IN_FULL(mg_restates, 72);
IN_FULL(mg_block, 56);
IN_FULL(mg_config_row, 200);
IN_FULL(mg_layer_list, 32);
IN_FULL(mg_config_refusal, 24);
IN_FULL(mg_config_edit, 32);
IN_FULL(mg_tensor_row, 4888);
IN_FULL(mg_form, 400);
IN_FULL(mg_view_row, 96);
IN_FULL(mg_made_from, 152);
IN_FULL(mg_native, 40);
IN_FULL(mg_native_row, 64);
