/* quantize_kv.c - keys of a quantized file: copied in order, version and file type moved to the end, overrides after
 * them, then the note about the importance matrix. */
#include "convert/quantize_kv.h"

#include "formats/base/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { STR_MAX = 127 }; /* strings on the command line of llama-quantize */

/* ---- overrides ---- */

static mg_status parse_int(mg_kv_override *o, const char *v, const char *text, mg_error *err) {
    char *end;
    errno = 0;
    long long n = strtoll(v, &end, 10);
    if (*v == '\0' || *end != '\0' || errno || n < -(long long)UINT32_MAX || n > (long long)UINT32_MAX)
        return mg_fail(err, MG_ERR_USAGE, "--override-kv '%s': the value is no 32-bit integer", text);
    o->type = MG_KV_U32;
    o->u32 = (uint32_t)(n < 0 ? -n : n);
    return MG_OK;
}

static mg_status parse_bool(mg_kv_override *o, const char *v, const char *text, mg_error *err) {
    o->type = MG_KV_BOOL;
    o->flag = strcmp(v, "true") == 0;
    if (!o->flag && strcmp(v, "false") != 0)
        return mg_fail(err, MG_ERR_USAGE, "--override-kv '%s': a bool is true or false", text);
    return MG_OK;
}

static mg_status parse_str(mg_kv_override *o, const char *v, const char *text, mg_error *err) {
    if (strlen(v) > STR_MAX)
        return mg_fail(err, MG_ERR_USAGE, "--override-kv '%s': a string of more than %d bytes", text, STR_MAX);
    o->type = MG_KV_STR;
    o->str = v;
    return MG_OK;
}

mg_status mg_kv_override_parse(mg_kv_override *o, const char *text, mg_error *err) {
    *o = (mg_kv_override){0};
    const char *eq = strchr(text, '=');
    if (!eq || eq == text || (size_t)(eq - text) >= sizeof o->key)
        return mg_fail(err, MG_ERR_USAGE, "--override-kv '%s' is not of the form KEY=TYPE:VALUE", text);
    memcpy(o->key, text, (size_t)(eq - text));
    const char *colon = strchr(eq, ':');
    size_t n = colon ? (size_t)(colon - eq - 1) : 0;
    if (n == 3 && strncmp(eq + 1, "int", n) == 0) return parse_int(o, colon + 1, text, err);
    if (n == 4 && strncmp(eq + 1, "bool", n) == 0) return parse_bool(o, colon + 1, text, err);
    if (n == 3 && strncmp(eq + 1, "str", n) == 0) return parse_str(o, colon + 1, text, err);
    if (n == 5 && strncmp(eq + 1, "float", n) == 0) {
        double d;
        MG_TRY(mg_parse_f64(colon + 1, &d, err));
        o->type = MG_KV_F32;
        o->f32 = (float)d;
        return MG_OK;
    }
    return mg_fail(err, MG_ERR_USAGE, "--override-kv '%s': the type is int, float, bool or str", text);
}

static mg_status set_override(mg_kvs *kv, const mg_kv_override *o, mg_error *err) {
    switch (o->type) {
    case MG_KV_U32:
        return mg_kvs_set_u32(kv, o->key, o->u32, err);
    case MG_KV_F32:
        return mg_kvs_set_f32(kv, o->key, o->f32, err);
    case MG_KV_BOOL:
        return mg_kvs_set_bool(kv, o->key, o->flag, err);
    case MG_KV_STR:
        return mg_kvs_set_str(kv, o->key, o->str, strlen(o->str), err);
    default:
        return mg_fail(err, MG_ERR_INTERNAL, "override of type %d", (int)o->type);
    }
}

/* ---- hyperparameters ---- */

/* Integer of a key: an int override wins; of an array its first element (layer 0). */
static bool lookup(const mg_checkpoint *in, const mg_quantize_options *opt, const char *key, uint64_t *out) {
    for (size_t i = 0; i < opt->n_overrides; i++)
        if (opt->overrides[i].type == MG_KV_U32 && strcmp(opt->overrides[i].key, key) == 0) {
            *out = opt->overrides[i].u32;
            return true;
        }
    const mg_kv *v = mg_kvs_get(in->kv, key);
    if (!v || v->type != MG_KV_ARR) return mg_kv_u64(v, out);
    if (v->count == 0 || v->elem == MG_KV_STR) return false;
    mg_kv first = {.key = v->key, .type = v->elem, .count = 1, .data = v->data};
    return mg_kv_u64(&first, out);
}

static bool lookup_arch(const mg_checkpoint *in, const mg_quantize_options *opt, const char *arch, const char *name,
                        uint64_t *out) {
    char key[256];
    int n = snprintf(key, sizeof key, "%s.%s", arch, name);
    return n > 0 && (size_t)n < sizeof key && lookup(in, opt, key, out);
}

mg_status mg_quantize_hparams(mg_mix_model *m, const mg_checkpoint *in, const mg_quantize_options *opt,
                              bool need_layers, mg_error *err) {
    mg_str arch;
    *m = (mg_mix_model){0};
    if (!mg_kv_str(mg_kvs_get(in->kv, "general.architecture"), &arch))
        return mg_fail(err, MG_ERR_FORMAT, "no key 'general.architecture'");
    m->arch = arch.data;
    bool layers = lookup_arch(in, opt, m->arch, "block_count", &m->n_layer);
    if (need_layers && (!layers || m->n_layer == 0 || m->n_layer > (1u << 20)))
        return mg_fail(err, MG_ERR_FORMAT, "key '%s.block_count' is missing or out of range", m->arch);
    lookup_arch(in, opt, m->arch, "attention.head_count", &m->n_head);
    if (!lookup_arch(in, opt, m->arch, "attention.head_count_kv", &m->n_head_kv)) m->n_head_kv = m->n_head;
    lookup_arch(in, opt, m->arch, "expert_count", &m->n_expert);
    return MG_OK;
}

/* ---- file type ---- */

/* What a file without general.file_type counts as: the preset of its most frequent dtype, marked as guessed. */
static uint32_t guess_file_type(const mg_checkpoint *in) {
    static const struct {
        mg_dtype dtype;
        mg_preset_id preset;
    } usual[] = {
        {MG_F16, MG_PRESET_F16},       {MG_BF16, MG_PRESET_BF16},   {MG_Q4_0, MG_PRESET_Q4_0},
        {MG_Q4_1, MG_PRESET_Q4_1},     {MG_Q5_0, MG_PRESET_Q5_0},   {MG_Q5_1, MG_PRESET_Q5_1},
        {MG_Q8_0, MG_PRESET_Q8_0},     {MG_Q2_K, MG_PRESET_Q2_K},   {MG_Q3_K, MG_PRESET_Q3_K_M},
        {MG_Q4_K, MG_PRESET_Q4_K_M},   {MG_Q5_K, MG_PRESET_Q5_K_M}, {MG_Q6_K, MG_PRESET_Q6_K},
        {MG_TQ1_0, MG_PRESET_TQ1_0},   {MG_TQ2_0, MG_PRESET_TQ2_0}, {MG_IQ2_XXS, MG_PRESET_IQ2_XXS},
        {MG_IQ2_XS, MG_PRESET_IQ2_XS}, {MG_IQ2_S, MG_PRESET_IQ2_S}, {MG_IQ3_XXS, MG_PRESET_IQ3_XXS},
        {MG_IQ1_S, MG_PRESET_IQ1_S},   {MG_IQ1_M, MG_PRESET_IQ1_M}, {MG_IQ4_NL, MG_PRESET_IQ4_NL},
        {MG_IQ4_XS, MG_PRESET_IQ4_XS}, {MG_IQ3_S, MG_PRESET_IQ3_S}, {MG_NVFP4, MG_PRESET_NVFP4},
        {MG_Q1_0, MG_PRESET_Q1_0},     {MG_Q2_0, MG_PRESET_Q2_0},
    };
    enum { GUESSED = 1024 };
    uint32_t n[MG_DTYPE_COUNT] = {0};
    mg_dtype most = MG_F32;
    for (uint32_t t = 0; t < in->n_tensors; t++) n[in->tensors[t].dtype]++;
    for (int d = 0; d < MG_DTYPE_COUNT; d++)
        if (n[d] > n[most]) most = (mg_dtype)d;
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        if (usual[i].dtype == most) return mg_preset_get(usual[i].preset)->file_type | GUESSED;
    return mg_preset_get(MG_PRESET_F32)->file_type | GUESSED;
}

static uint32_t file_type(const mg_checkpoint *in, const mg_quantize_options *opt) {
    uint64_t v;
    if (opt->mix.preset->id != MG_PRESET_COPY) return opt->mix.preset->file_type;
    if (lookup(in, opt, "general.file_type", &v) && v <= UINT32_MAX) return (uint32_t)v;
    return guess_file_type(in);
}

/* ---- the keys ---- */

static mg_status set_cut(mg_kvs *kv, const char *key, const char *s, mg_error *err) {
    return mg_kvs_set_str(kv, key, s, strnlen(s, STR_MAX), err);
}

static mg_status set_imatrix(mg_kvs *kv, const mg_quantize_options *opt, mg_error *err) {
    const mg_imatrix *m = opt->imatrix;
    if (!m || m->n == 0) return MG_OK;
    MG_TRY(set_cut(kv, "quantize.imatrix.file", opt->imatrix_name ? opt->imatrix_name : "", err));
    if (m->dataset) MG_TRY(set_cut(kv, "quantize.imatrix.dataset", m->dataset, err));
    MG_TRY(mg_kvs_set_u32(kv, "quantize.imatrix.entries_count", m->n, err));
    if (m->chunk_count > 0) MG_TRY(mg_kvs_set_u32(kv, "quantize.imatrix.chunks_count", (uint32_t)m->chunk_count, err));
    return MG_OK;
}

mg_status mg_quantize_keys(mg_kvs *kv, const mg_checkpoint *in, const mg_quantize_options *opt, const char *arch,
                           uint32_t block_count, mg_error *err) {
    for (uint32_t i = 0; i < in->kv->n; i++) MG_TRY(mg_kvs_copy(kv, &in->kv->items[i], err));
    MG_TRY(mg_kvs_set_u32(kv, "general.quantization_version", 2, err));
    MG_TRY(mg_kvs_set_u32(kv, "general.file_type", file_type(in, opt), err));
    mg_kvs_remove(kv, "split.no");
    mg_kvs_remove(kv, "split.count");
    mg_kvs_remove(kv, "split.tensors.count");
    for (size_t i = 0; i < opt->n_overrides; i++) MG_TRY(set_override(kv, &opt->overrides[i], err));
    MG_TRY(set_imatrix(kv, opt, err));
    if (block_count == UINT32_MAX) return MG_OK;
    char key[256];
    int n = snprintf(key, sizeof key, "%s.block_count", arch);
    if (n < 0 || (size_t)n >= sizeof key) return mg_fail(err, MG_ERR_FORMAT, "architecture name too long");
    return mg_kvs_set_u32(kv, key, block_count, err);
}
