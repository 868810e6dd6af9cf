/* group_config.c - see group_config.h. */
#include "formats/group_config.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "formats/base/file.h"
#include "formats/hf_dir.h"

/* ---- values ---- */

static mg_status bad_key(const char *key, const char *expected, mg_error *err) {
    return mg_fail(err, MG_ERR_FORMAT, "quantization_config: '%s' is not %s", key, expected);
}

static bool is_null(const mg_json *v) {
    return !v || mg_json_type(v) == MG_JSON_NULL;
}

/* The first of two spellings that is there. */
static const mg_json *either(const mg_json *q, const char *a, const char *b) {
    const mg_json *v = mg_json_get(q, a);
    return is_null(v) ? mg_json_get(q, b) : v;
}

static mg_status flag(const mg_json *q, const char *key, bool absent, bool *out, mg_error *err) {
    const mg_json *v = mg_json_get(q, key);
    *out = absent;
    return is_null(v) || mg_json_bool(v, out) ? MG_OK : bad_key(key, "true or false", err);
}

static mg_status text(const mg_json *q, const char *key, const char **out, mg_error *err) {
    const mg_json *v = mg_json_get(q, key);
    if (is_null(v)) return MG_OK;
    *out = mg_json_str(v);
    return *out ? MG_OK : bad_key(key, "a string", err);
}

static mg_status bits_of(const mg_json *v, const char *key, uint32_t *out, mg_error *err) {
    int64_t n;
    if (!mg_json_i64(v, &n) || n < 2 || n > 8) return bad_key(key, "an integer from 2 to 8", err);
    *out = (uint32_t)n;
    return MG_OK;
}

/* -1 and null: everything shares one scale, here 0. */
static mg_status group_of(const mg_json *v, const char *key, uint64_t *out, mg_error *err) {
    int64_t n = -1;
    if (!is_null(v) && (!mg_json_i64(v, &n) || n == 0 || n < -1)) return bad_key(key, "-1 or a positive integer", err);
    *out = n < 0 ? 0 : (uint64_t)n;
    return MG_OK;
}

static mg_status block_of(const mg_json *v, const char *key, uint64_t out[2], mg_error *err) {
    const mg_json *a = mg_json_first(v), *b = a ? mg_json_next(a) : NULL;
    if (mg_json_type(v) != MG_JSON_ARRAY || mg_json_len(v) != 2 || !mg_json_u64(a, &out[0]) ||
        !mg_json_u64(b, &out[1]) || !out[0] || !out[1])
        return bad_key(key, "a pair of positive integers", err);
    return MG_OK;
}

static mg_status refuse_layout(const char *method, const char *what, mg_error *err) {
    return mg_fail(err, MG_ERR_UNSUPPORTED,
                   "%s weights in the '%s' layout are not read; convert from the float checkpoint or from a layout "
                   "that docs/format_groups.md lists",
                   method, what);
}

/* ---- AWQ and GPTQ ---- */

static mg_status read_awq(mg_group_config *c, const mg_json *q, mg_error *err) {
    const char *layout = "gemm", *dtype = "int32";
    bool zero_point;
    c->method = MG_GROUPS_AWQ;
    MG_TRY(text(q, "checkpoint_format", &layout, err));
    MG_TRY(text(q, "format", &layout, err));
    MG_TRY(text(q, "version", &layout, err));
    MG_TRY(text(q, "pack_dtype", &dtype, err));
    if (strcasecmp(layout, "gemm") != 0) return refuse_layout("AWQ", layout, err);
    if (strcmp(dtype, "int32") != 0) return refuse_layout("AWQ", dtype, err);
    MG_TRY(bits_of(either(q, "bits", "w_bit"), "bits", &c->bits, err));
    MG_TRY(group_of(either(q, "group_size", "q_group_size"), "group_size", &c->group_size, err));
    MG_TRY(flag(q, "zero_point", true, &zero_point, err));
    c->symmetric = !zero_point;
    return MG_OK;
}

static mg_status read_gptq(mg_group_config *c, const mg_json *q, mg_error *err) {
    const char *layout = "gptq", *dtype = "int32";
    bool marlin;
    c->method = MG_GROUPS_GPTQ;
    MG_TRY(text(q, "format", &layout, err));
    MG_TRY(text(q, "checkpoint_format", &layout, err));
    MG_TRY(text(q, "pack_dtype", &dtype, err));
    MG_TRY(flag(q, "is_marlin_format", false, &marlin, err));
    if (marlin) layout = "marlin";
    if (strcmp(layout, "gptq") != 0 && strcmp(layout, "gptq_v2") != 0) return refuse_layout("GPTQ", layout, err);
    if (strcmp(dtype, "int32") != 0) return refuse_layout("GPTQ", dtype, err);
    c->zero_minus_one = strcmp(layout, "gptq") == 0;
    MG_TRY(bits_of(mg_json_get(q, "bits"), "bits", &c->bits, err));
    if (c->bits != 2 && c->bits != 3 && c->bits != 4 && c->bits != 8) return refuse_layout("GPTQ", "5 to 7 bits", err);
    MG_TRY(group_of(mg_json_get(q, "group_size"), "group_size", &c->group_size, err));
    MG_TRY(flag(q, "desc_act", false, &c->act_order, err));
    MG_TRY(flag(q, "sym", true, &c->symmetric, err));
    c->mixed = mg_json_len(mg_json_get(q, "dynamic")) != 0;
    return MG_OK;
}

/* ---- MLX ---- */

static mg_status read_mlx(mg_group_config *c, const mg_json *q, mg_error *err) {
    mg_mlx_scheme all;
    if (mg_json_type(q) != MG_JSON_OBJECT) return mg_fail(err, MG_ERR_FORMAT, "quantization is not an object");
    c->method = MG_GROUPS_MLX;
    c->mlx = q;
    return mg_group_config_mlx(c, NULL, &all, err);
}

/* An entry of a module stands by itself: what it does not say has the library's value, not that of all others. */
mg_status mg_group_config_mlx(const mg_group_config *c, const char *module, mg_mlx_scheme *out, mg_error *err) {
    static const struct {
        const char *name;
        mg_mlx_scheme scheme;
    } modes[] = {{"affine", {MG_MLX_AFFINE, 4, 64}},
                 {"mxfp4", {MG_MLX_MXFP4, 4, 32}},
                 {"mxfp8", {MG_MLX_MXFP8, 8, 32}},
                 {"nvfp4", {MG_MLX_NVFP4, 4, 16}}};
    const mg_json *q = module ? mg_json_get(c->mlx, module) : c->mlx;
    const char *mode = "affine";
    size_t i = 0;
    if (mg_json_type(q) != MG_JSON_OBJECT) q = c->mlx;
    MG_TRY(text(q, "mode", &mode, err));
    while (i < sizeof modes / sizeof *modes && strcmp(modes[i].name, mode) != 0) i++;
    if (i == sizeof modes / sizeof *modes) return refuse_layout("MLX", mode, err);
    *out = modes[i].scheme;
    if (!is_null(mg_json_get(q, "bits"))) MG_TRY(bits_of(mg_json_get(q, "bits"), "bits", &out->bits, err));
    if (!is_null(mg_json_get(q, "group_size")))
        MG_TRY(group_of(mg_json_get(q, "group_size"), "group_size", &out->group_size, err));
    const mg_mlx_scheme *fixed = &modes[i].scheme;
    if (out->mode == MG_MLX_AFFINE || (out->bits == fixed->bits && out->group_size == fixed->group_size)) return MG_OK;
    return mg_fail(err, MG_ERR_FORMAT,
                   "quantization: mode %s with %" PRIu32 " bits in groups of %" PRIu64 ", expected %" PRIu32
                   " in groups of %" PRIu64,
                   mode, out->bits, out->group_size, fixed->bits, fixed->group_size);
}

/* ---- FP8 ---- */

static mg_status read_fp8(mg_group_config *c, const mg_json *q, mg_error *err) {
    const mg_json *block = mg_json_get(q, "weight_block_size");
    c->method = MG_GROUPS_FP8;
    return is_null(block) ? MG_OK : block_of(block, "weight_block_size", c->block, err);
}

/* ---- compressed-tensors ---- */

static mg_status ct_format(mg_ct_group *g, const char *format, bool is_float, mg_error *err) {
    if (!strcmp(format, "pack-quantized") && !is_float)
        g->format = MG_CT_PACKED;
    else if ((!strcmp(format, "int-quantized") || !strcmp(format, "naive-quantized")) && !is_float && g->bits == 8)
        g->format = MG_CT_INT8;
    else if ((!strcmp(format, "float-quantized") || !strcmp(format, "naive-quantized")) && is_float && g->bits == 8)
        g->format = MG_CT_FP8;
    else if (!strcmp(format, "nvfp4-pack-quantized") && is_float && g->bits == 4)
        g->format = MG_CT_NVFP4;
    else if (!strcmp(format, "mxfp4-pack-quantized") && is_float && g->bits == 4)
        g->format = MG_CT_MXFP4;
    else
        return refuse_layout("compressed-tensors", format, err);
    return MG_OK;
}

static mg_status ct_strategy(mg_ct_group *g, const mg_json *w, mg_error *err) {
    const char *s = mg_json_str(mg_json_get(w, "strategy"));
    uint64_t block[2];
    MG_TRY(group_of(mg_json_get(w, "group_size"), "group_size", &g->group_size, err));
    if (!s) s = g->group_size ? "group" : "tensor"; /* as the library fills it in */
    g->row_block = 1;
    if (!strcmp(s, "group") || !strcmp(s, "tensor_group")) {
        if (!g->group_size && g->format == MG_CT_NVFP4) g->group_size = 16;
        if (!g->group_size && g->format == MG_CT_MXFP4) g->group_size = 32;
        return MG_OK;
    }
    g->group_size = 0;
    if (!strcmp(s, "channel")) return MG_OK;
    if (!strcmp(s, "tensor")) {
        g->one_scale = true;
        return MG_OK;
    }
    if (strcmp(s, "block") != 0) return refuse_layout("compressed-tensors", s, err);
    MG_TRY(block_of(mg_json_get(w, "block_structure"), "block_structure", block, err));
    g->row_block = block[0];
    g->group_size = block[1];
    return MG_OK;
}

static mg_status ct_group(mg_ct_group *g, const mg_json *group, const char *format, mg_error *err) {
    const mg_json *w = mg_json_get(group, "weights"), *order = mg_json_get(w, "actorder");
    const char *type = "int";
    MG_TRY(text(group, "format", &format, err));
    if (!format) return bad_key("format", "there", err);
    MG_TRY(text(w, "type", &type, err));
    MG_TRY(bits_of(mg_json_get(w, "num_bits"), "num_bits", &g->bits, err));
    MG_TRY(flag(w, "symmetric", true, &g->symmetric, err));
    MG_TRY(ct_format(g, format, !strcmp(type, "float"), err));
    g->act_order = mg_json_str(order) && !strcmp(mg_json_str(order), "group");
    return ct_strategy(g, w, err);
}

/* Parts of the format that change what the stored weights mean. */
static mg_status ct_refuse(const mg_json *q, mg_error *err) {
    const char *status = "compressed", *sparse = "dense";
    MG_TRY(text(q, "quantization_status", &status, err));
    if (strcmp(status, "compressed") != 0)
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "compressed-tensors weights of status '%s' are not read: save them compressed", status);
    MG_TRY(text(mg_json_get(q, "sparsity_config"), "format", &sparse, err));
    if (strcmp(sparse, "dense") != 0) return refuse_layout("compressed-tensors", sparse, err);
    if (mg_json_len(mg_json_get(q, "transform_config")) != 0)
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "compressed-tensors weights with transforms (rotations) that run with the model are not read");
    return MG_OK;
}

static mg_status read_ct(mg_group_config *c, const mg_json *q, mg_error *err) {
    const mg_json *groups = mg_json_get(q, "config_groups");
    const char *format = NULL;
    c->method = MG_GROUPS_CT;
    MG_TRY(ct_refuse(q, err));
    MG_TRY(text(q, "format", &format, err));
    if (mg_json_type(groups) != MG_JSON_OBJECT) return bad_key("config_groups", "an object", err);
    for (const mg_json *g = mg_json_first(groups); g; g = mg_json_next(g)) {
        if (is_null(mg_json_get(g, "weights"))) continue; /* activations or the cache only */
        if (c->n_ct == MG_CT_MAX_GROUPS)
            return mg_fail(err, MG_ERR_LIMIT, "quantization_config: more than %d config_groups", MG_CT_MAX_GROUPS);
        MG_TRY(ct_group(&c->ct[c->n_ct++], g, format, err));
    }
    return MG_OK;
}

/* ---- which ---- */

static mg_status read_block(mg_group_config *c, const mg_json *q, mg_error *err) {
    const char *method = NULL;
    if (mg_json_type(q) != MG_JSON_OBJECT) return bad_key("quantization_config", "an object", err);
    MG_TRY(text(q, "quant_method", &method, err));
    if (!method && mg_json_get(q, "w_bit")) method = "awq";
    if (!method && mg_json_get(q, "desc_act")) method = "gptq";
    if (!method && mg_json_get(q, "zero_point")) method = "awq";
    if (!method) return bad_key("quant_method", "there", err);
    if (!strcmp(method, "awq")) return read_awq(c, q, err);
    if (!strcmp(method, "gptq")) return read_gptq(c, q, err);
    if (!strcmp(method, "compressed-tensors")) return read_ct(c, q, err);
    if (!strcmp(method, "fp8")) return read_fp8(c, q, err);
    if (!strcmp(method, "mxfp4")) {
        c->method = MG_GROUPS_MXFP4; /* nothing else is stated: the layout is fixed */
        return MG_OK;
    }
    return mg_fail(err, MG_ERR_UNSUPPORTED, "weights quantized by '%s' are not read; convert from the float checkpoint",
                   method);
}

static mg_status read_side_file(mg_group_config *c, const char *dir, const char *name, bool *found, mg_error *err) {
    char path[4096];
    mg_json *q = NULL;
    MG_TRY(mg_path_join(path, sizeof path, dir, name, err));
    if (!mg_path_exists(path)) return MG_OK;
    *found = true;
    MG_TRY(mg_hf_check_link(dir, name, err));
    mg_status st = mg_json_load(&q, path, MG_HF_CONFIG_CAP, err);
    if (st == MG_OK) st = read_block(c, q, err);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    mg_json_free(q);
    return st;
}

/* Side files count only beside tensors of that kind: folders keep them after the weights have been dequantized. */
static bool has_qweight(const mg_checkpoint *c) {
    for (uint32_t i = 0; i < c->n_tensors; i++) {
        size_t n = strlen(c->tensors[i].name);
        if (n > 8 && !strcmp(c->tensors[i].name + n - 8, ".qweight")) return true;
    }
    return false;
}

mg_status mg_group_config_read(mg_group_config *out, const mg_checkpoint *c, mg_error *err) {
    *out = (mg_group_config){0};
    if (!c->config) return MG_OK;
    const mg_json *q = mg_json_get(c->config, "quantization_config");
    if (!is_null(mg_json_get(c->config, "quantization")))
        return read_mlx(out, mg_json_get(c->config, "quantization"), err);
    if (!is_null(q)) return read_block(out, q, err);
    if (!c->dir || !has_qweight(c)) return MG_OK;
    bool found = false;
    MG_TRY(read_side_file(out, c->dir, "quantize_config.json", &found, err));
    if (!found) MG_TRY(read_side_file(out, c->dir, "quant_config.json", &found, err));
    return MG_OK;
}
