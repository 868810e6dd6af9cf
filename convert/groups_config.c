/* groups_config.c - quantization_config of the group formats, and lists of what is not quantized.
 *
 * How loaders match those lists (read 2026-11): AutoAWQ and vLLM's AWQ take a module whose name contains an entry
 * anywhere (AutoAWQ utils/module.py exclude_layers_to_not_quantize; vLLM quantization/utils is_layer_skipped);
 * transformers 5 takes a name that begins with the entry as a regular expression, or ends in it
 * (quantizers/quantizers_utils should_convert_module); GPTQModel and vLLM's GPTQ match "-:REGEX" keys of `dynamic`
 * against the beginning of the name (GPTQModel quantization/config dynamic_get; vLLM gptq_utils get_dynamic_override);
 * compressed-tensors takes whole names (utils/match is_match). */
#include "convert/quantize_groups.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The last `parts` components of a dotted name. */
static const char *tail_of(const char *name, unsigned parts) {
    const char *p = name + strlen(name);
    for (; p > name; p--)
        if (p[-1] == '.' && --parts == 0) return p;
    return name;
}

static bool listed(const char *const *list, size_t n, const char *text) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i], text) == 0) return true;
    return false;
}

/* Distinct tails of the kept names; false when one of them is found inside a name that is quantized. */
static bool tails(const mg_groups_names *names, unsigned parts, const char **out, size_t *n) {
    *n = 0;
    for (size_t i = 0; i < names->n_kept; i++) {
        const char *tail = tail_of(names->kept[i], parts);
        if (!listed(out, *n, tail)) out[(*n)++] = tail;
    }
    for (size_t i = 0; i < *n; i++)
        for (size_t q = 0; q < names->n_quantized; q++)
            if (strstr(names->quantized[q], out[i])) return false;
    return true;
}

/* The shortest list that selects exactly the kept modules as substrings, hence as suffixes too. */
static mg_status skip_list(const mg_groups_names *names, const char ***out, size_t *n, mg_error *err) {
    MG_TRY(MG_ARENA_NEW(names->arena, out, names->n_kept + 1, err));
    for (unsigned parts = 1; parts <= 16; parts++)
        if (tails(names, parts, *out, n)) return MG_OK;
    return mg_fail(err, MG_ERR_UNSUPPORTED,
                   "no list of module names can leave '%s' alone without hitting layers that are quantized",
                   names->kept[0]);
}

static mg_json *strings(const char *const *list, size_t n) {
    mg_json *a = mg_json_new_array();
    for (size_t i = 0; i < n; i++) mg_json_push(a, mg_json_new_str(list[i]));
    return a;
}

static int64_t group_number(const mg_groups_options *opt) {
    return opt->group_size ? (int64_t)opt->group_size : -1;
}

/* ---- AWQ ---- */

static mg_json *awq_skip(const char *const *list, size_t n) {
    return n ? strings(list, n) : mg_json_new_null();
}

static mg_json *awq_block(const mg_groups_options *opt, const char *const *list, size_t n) {
    mg_json *q = mg_json_new_object();
    mg_json_set_str(q, "quant_method", "awq");
    mg_json_set_u64(q, "bits", opt->bits);
    mg_json_set_i64(q, "group_size", group_number(opt));
    mg_json_set_bool(q, "zero_point", true); /* zeros are always stored, symmetric or not */
    mg_json_set_str(q, "version", "gemm");
    mg_json_set(q, "modules_to_not_convert", awq_skip(list, n));
    return q;
}

static mg_json *awq_side(const mg_groups_options *opt, const char *const *list, size_t n) {
    mg_json *q = mg_json_new_object();
    mg_json_set_bool(q, "zero_point", true);
    mg_json_set_i64(q, "q_group_size", group_number(opt));
    mg_json_set_u64(q, "w_bit", opt->bits);
    mg_json_set_str(q, "version", "GEMM");
    mg_json_set(q, "modules_to_not_convert", awq_skip(list, n));
    return q;
}

/* ---- GPTQ ---- */

/* "-:.*\.block_sparse_moe\.gate$": not this module. */
static mg_status leave_alone(mg_json *rules, mg_arena *a, const char *tail, mg_error *err) {
    char *key = mg_arena_printf(a, "-:.*\\.%*s", (int)(2 * strlen(tail)) + 1, "");
    if (!key) return mg_fail_nomem(err, strlen(tail));
    char *p = key + strlen("-:.*\\.");
    for (; *tail; *p++ = *tail++)
        if (*tail == '.') *p++ = '\\';
    *p++ = '$';
    *p = 0;
    mg_json_set(rules, key, mg_json_new_object());
    return MG_OK;
}

/* Early writers of this layout got zero points wrong. GPTQModel therefore reads them only from files with this mark,
 * the first of its releases that stored them right (models/loader.py), and refuses all others. */
static mg_json *sound_zeros(void) {
    static const char *const mark[] = {"gptqmodel:0.9.0"};
    mg_json *meta = mg_json_new_object();
    mg_json_set(meta, "quantizer", strings(mark, 1));
    return meta;
}

static mg_status gptq_block(mg_json **out, const mg_groups_options *opt, mg_arena *a, const char *const *list, size_t n,
                            mg_error *err) {
    mg_json *q = mg_json_new_object(), *rules = n ? mg_json_new_object() : NULL;
    *out = q;
    mg_json_set_str(q, "quant_method", "gptq");
    mg_json_set_u64(q, "bits", opt->bits);
    mg_json_set_i64(q, "group_size", group_number(opt));
    mg_json_set_bool(q, "desc_act", false); /* columns are stored in the order of their groups */
    mg_json_set_bool(q, "sym", opt->symmetric);
    mg_json_set_bool(q, "lm_head", false);
    mg_json_set_bool(q, "true_sequential", true);
    mg_json_set_str(q, "checkpoint_format", opt->format == MG_FORMAT_GPTQ ? "gptq" : "gptq_v2");
    mg_json_set_str(q, "pack_dtype", "int32");
    if (opt->format == MG_FORMAT_GPTQ && !opt->symmetric) mg_json_set(q, "meta", sound_zeros());
    if (rules) mg_json_set(q, "dynamic", rules);
    for (size_t i = 0; i < n; i++) MG_TRY(leave_alone(rules, a, list[i], err));
    return MG_OK;
}

/* ---- compressed-tensors ---- */

/* What is said of a scheme of small floats beside bits, type and symmetry, of weights and of inputs as they are rounded
 * at run time: llm-compressor's presets. */
typedef struct ct_args {
    uint32_t bits; /* 0: not rounded */
    const char *strategy;
    uint32_t group_size; /* 0: null */
    const char *scale_dtype;
} ct_args;
static const struct ct_preset {
    const char *format;
    ct_args weights, inputs;
} presets[MG_FORMAT_COUNT] = {
    [MG_FORMAT_FP8_DYNAMIC] = {"float-quantized", {8, "channel", 0, NULL}, {8, "token", 0, NULL}},
    [MG_FORMAT_FP8_BLOCK] = {"float-quantized", {8, "block", 0, NULL}, {8, "group", MG_FP8_BLOCK, NULL}},
    [MG_FORMAT_NVFP4A16] = {"nvfp4-pack-quantized", {4, "tensor_group", 16, "torch.float8_e4m3fn"}, {0}},
    [MG_FORMAT_MXFP4A16] = {"mxfp4-pack-quantized", {4, "group", 32, "torch.uint8"}, {0}},
    [MG_FORMAT_MXFP4] = {"mxfp4-pack-quantized", {4, "group", 32, "torch.uint8"}, {4, "group", 32, "torch.uint8"}},
};

static mg_json *ct_float_args(const ct_args *a, bool dynamic) {
    if (!a->bits) return mg_json_new_null();
    mg_json *w = mg_json_new_object();
    mg_json_set_u64(w, "num_bits", a->bits);
    mg_json_set_str(w, "type", "float");
    mg_json_set_bool(w, "symmetric", true);
    mg_json_set_str(w, "strategy", a->strategy);
    mg_json_set(w, "group_size", a->group_size ? mg_json_new_u64(a->group_size) : mg_json_new_null());
    mg_json_set_bool(w, "dynamic", dynamic);
    if (a->scale_dtype) mg_json_set_str(w, "scale_dtype", a->scale_dtype);
    if (strcmp(a->strategy, "block") != 0) return w;
    mg_json *block = mg_json_new_array();
    for (int i = 0; i < 2; i++) mg_json_push(block, mg_json_new_u64(MG_FP8_BLOCK));
    mg_json_set(w, "block_structure", block);
    return w;
}

static mg_json *ct_weights(const mg_groups_options *opt) {
    mg_json *w = mg_json_new_object();
    mg_json_set_u64(w, "num_bits", opt->bits);
    mg_json_set_str(w, "type", "int");
    mg_json_set_bool(w, "symmetric", opt->symmetric);
    mg_json_set_str(w, "strategy", opt->group_size ? "group" : "channel");
    mg_json_set(w, "group_size", opt->group_size ? mg_json_new_u64(opt->group_size) : mg_json_new_null());
    mg_json_set_bool(w, "dynamic", false);
    mg_json_set(w, "actorder", mg_json_new_null());
    return w;
}

static mg_json *ct_block(const mg_groups_options *opt, const mg_groups_names *names) {
    static const char *const targets[] = {"Linear"};
    mg_json *q = mg_json_new_object(), *groups = mg_json_new_object(), *g = mg_json_new_object();
    mg_json *ignore = strings(names->kept, names->n_kept);
    const struct ct_preset *preset = &presets[opt->format];
    const char *format = preset->format ? preset->format : "pack-quantized";
    mg_json_push(ignore, mg_json_new_str("lm_head"));
    mg_json_set(g, "targets", strings(targets, 1));
    mg_json_set_str(g, "format", format);
    mg_json_set(g, "weights", preset->format ? ct_float_args(&preset->weights, false) : ct_weights(opt));
    mg_json_set(g, "input_activations", ct_float_args(&preset->inputs, true));
    mg_json_set(g, "output_activations", mg_json_new_null());
    mg_json_set(groups, "group_0", g);
    mg_json_set_str(q, "quant_method", "compressed-tensors");
    mg_json_set_str(q, "format", format);
    mg_json_set_str(q, "quantization_status", "compressed");
    mg_json_set(q, "config_groups", groups);
    mg_json_set(q, "ignore", ignore);
    mg_json_set(q, "kv_cache_scheme", mg_json_new_null());
    mg_json_set_str(q, "version", "0.20.0"); /* of the library whose dense packing of 3, 5, 6 and 7 bits is written */
    return q;
}

/* ---- MLX ---- */

static mg_json *mlx_block(const mg_groups_options *opt) {
    mg_json *q = mg_json_new_object();
    mg_json_set_i64(q, "group_size", group_number(opt));
    mg_json_set_u64(q, "bits", opt->bits);
    mg_json_set_str(q, "mode", "affine");
    return q;
}

/* ---- which ---- */

static mg_status print_side(mg_json *side, char **text, mg_error *err) {
    mg_status st = mg_json_print(text, side, 2, err);
    mg_json_free(side);
    return st;
}

mg_status mg_groups_config(mg_json *config, const mg_groups_options *opt, const mg_groups_names *names,
                           const char **side_name, char **side_text, mg_error *err) {
    const char **list = NULL;
    size_t n = 0;
    mg_json *q;
    *side_name = NULL;
    *side_text = NULL;
    if (opt->format == MG_FORMAT_CT || mg_group_format_is_float(opt->format)) {
        mg_json_set(config, "quantization_config", ct_block(opt, names));
        return MG_OK;
    }
    if (opt->format == MG_FORMAT_MLX) { /* what has no scales is no quantized layer: no list */
        mg_json_set(config, "quantization", mlx_block(opt));
        mg_json_set(config, "quantization_config", mlx_block(opt));
        return MG_OK;
    }
    MG_TRY(skip_list(names, &list, &n, err));
    if (opt->format == MG_FORMAT_AWQ) {
        mg_json_set(config, "quantization_config", awq_block(opt, list, n));
        *side_name = "quant_config.json";
        return print_side(awq_side(opt, list, n), side_text, err);
    }
    mg_status st = gptq_block(&q, opt, names->arena, list, n, err);
    mg_json_set(config, "quantization_config", q);
    MG_TRY(st);
    *side_name = "quantize_config.json";
    MG_TRY(gptq_block(&q, opt, names->arena, list, n, err));
    return print_side(q, side_text, err);
}
