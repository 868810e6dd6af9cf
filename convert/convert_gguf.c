/* convert_gguf.c - a model laid out as GGUF: the tensors of the family's table, each as a stack of views of the
 * source's weights, and the metadata of the reference converter. */
#include "convert/convert.h"

#include "convert/convert_common.h"
#include "convert/gguf_meta.h"
#include "convert/gguf_override.h"
#include "formats/arch/arch.h"
#include "convert/gguf_vocab.h"
#include "quant/group_checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- dtype rules ---- */

uint32_t mg_convert_file_type(mg_dtype outtype) {
    switch (outtype) {
    case MG_F32:
        return 0;
    case MG_F16:
        return 1;
    case MG_Q8_0:
        return 7;
    case MG_BF16:
        return 32;
    default:
        return UINT32_MAX;
    }
}

mg_dtype mg_convert_auto_dtype(const mg_checkpoint *c) {
    const mg_tensor *first = NULL;
    for (uint32_t i = 0; i < c->n_tensors; i++) {
        const mg_tensor *t = &c->tensors[i];
        if (t->rank < 2) continue;
        if (!first || t->file < first->file || (t->file == first->file && strcmp(t->name, first->name) < 0)) first = t;
    }
    return first && first->dtype == MG_BF16 ? MG_BF16 : MG_F16;
}

mg_status mg_convert_outtype_dtype(void *ctx, const mg_convert_item *item, mg_dtype *dtype, const float **weights,
                                   uint64_t *n_weights, mg_error *err) {
    (void)weights;
    (void)n_weights;
    (void)err;
    mg_dtype want = *(const mg_dtype *)ctx;
    uint64_t bytes, cols = item->rank ? item->shape[item->rank - 1] : 1;
    if (item->keep_f32)
        *dtype = MG_F32;
    else
        *dtype = mg_dtype_row_bytes(want, cols, &bytes) ? want : MG_F16;
    return MG_OK;
}

mg_status mg_convert_keep_blocks_dtype(void *ctx, const mg_convert_item *item, mg_dtype *dtype, const float **weights,
                                       uint64_t *n_weights, mg_error *err) {
    if (item->source == MG_MXFP4 || item->source == MG_NVFP4) return MG_OK; /* *dtype is what the source is */
    return mg_convert_outtype_dtype(ctx, item, dtype, weights, n_weights, err);
}

/* ---- tensors ---- */

/* Rotary factors as a tensor. */
static mg_status generated(mg_plan *p, const mg_model *m, const mg_target *t, const mg_expr **out, mg_error *err) {
    uint64_t n = t->shape[0];
    float *v = malloc((size_t)n * sizeof *v);
    if (!v) return mg_fail_nomem(err, n * sizeof *v);
    mg_status st = mg_arch_generate(v, n, t->parts[0].role, &m->hp, err);
    if (st == MG_OK) st = mg_expr_const(p, MG_F32, t->rank, t->shape, v, out, err);
    free(v);
    return st;
}

/* Parts one below the other in the target's shape: rank r+1 is a stack of groups, each a concatenation. */
static mg_status assemble(mg_plan *p, const mg_target *t, const mg_expr **parts, uint32_t n_parts, const mg_expr **out,
                          mg_error *err) {
    uint64_t shape[MG_MAX_RANK];
    uint32_t rank = mg_expr_shape(parts[0], shape), groups = 1;
    if (rank + 1 == t->rank) groups = (uint32_t)t->shape[0];
    if (groups == 0 || n_parts % groups)
        return mg_fail(err, MG_ERR_INTERNAL, "'%s': %u parts for %u slices", t->name, n_parts, groups);
    uint32_t per = n_parts / groups;
    if (per > 1)
        for (uint32_t g = 0; g < groups; g++) MG_TRY(mg_expr_concat(p, parts + g * per, per, &parts[g], err));
    if (rank + 1 == t->rank) return mg_expr_stack(p, parts, groups, out, err);
    *out = parts[0];
    return MG_OK;
}

/* Parts that alternate in the file: laid one below the other, then turned into what is stored. */
static mg_status join(mg_plan *p, const mg_target *t, const mg_expr **parts, uint32_t *n, mg_error *err) {
    for (uint32_t g = 0; g < *n / t->join; g++) {
        MG_TRY(mg_expr_concat(p, parts + g * t->join, t->join, &parts[g], err));
        for (uint32_t v = 0; v < MG_MAX_VIEWS && t->after[v].kind != MG_VIEW_END; v++)
            MG_TRY(mg_expr_view(p, parts[g], &t->after[v], &parts[g], err));
    }
    *n /= t->join;
    return MG_OK;
}

mg_status mg_convert_target_of(mg_plan *p, const mg_target *t, mg_convert_part_fn fn, const void *ctx,
                               const mg_expr **out, mg_error *err) {
    const mg_expr **parts = calloc(t->n_parts ? t->n_parts : 1, sizeof *parts);
    if (!parts) return mg_fail_nomem(err, t->n_parts * sizeof *parts);
    mg_status st = MG_OK;
    for (uint32_t i = 0; i < t->n_parts && st == MG_OK; i++) st = fn(ctx, t, i, &parts[i], err);
    uint32_t n = t->n_parts;
    if (st == MG_OK && t->join > 1) st = join(p, t, parts, &n, err);
    if (st == MG_OK) st = assemble(p, t, parts, n, out, err);
    free(parts);
    return st;
}

mg_status mg_convert_expect_shape(const mg_expr *e, const mg_target *t, mg_error *err) {
    mg_tensor d = {.name = t->name, .dtype = mg_expr_dtype(e)};
    d.rank = mg_expr_shape(e, d.shape);
    return mg_tensor_expect_shape(&d, t->rank, t->shape, err);
}

typedef struct source {
    mg_plan *p;
    mg_model *m;
} source;

static mg_status source_part(const void *ctx, const mg_target *t, uint32_t part, const mg_expr **out, mg_error *err) {
    const source *s = ctx;
    mg_bound b;
    MG_TRY(mg_target_bind(&b, s->m, t, part, err));
    return mg_expr_role(s->p, s->m, &b, out, err);
}

mg_status mg_convert_target_expr(mg_plan *p, mg_model *m, const mg_target *t, const mg_expr **out, mg_error *err) {
    const source s = {p, m};
    if (t->generated) return generated(p, m, t, out, err);
    mg_status st = mg_convert_target_of(p, t, source_part, &s, out, err);
    if (st == MG_OK) st = mg_convert_expect_shape(*out, t, err);
    if (st != MG_OK) mg_error_at(err, m->ckpt->path, t->name);
    return st;
}

mg_status mg_convert_add_tensor(mg_plan *p, uint32_t out, const mg_expr *e, mg_convert_item *item,
                                mg_convert_dtype_fn choose, void *ctx, mg_error *err) {
    const float *weights = NULL;
    uint64_t n_weights = 0;
    item->rank = mg_expr_shape(e, item->shape);
    item->source = mg_expr_dtype(e);
    mg_dtype dtype = item->source;
    mg_status st = choose ? choose(ctx, item, &dtype, &weights, &n_weights, err) : MG_OK;
    item->stored = dtype;
    if (st == MG_OK) st = mg_expr_cast(p, e, dtype, weights, n_weights, &e, err);
    if (st == MG_OK) st = mg_plan_add_tensor(p, out, item->name, e, err);
    if (st != MG_OK) mg_error_at(err, NULL, item->name);
    return st;
}

/* X.scale or X.input_scale of a target X.weight: one number, or one for each slice of a stack; none when all are 1. */
static mg_status add_factor(mg_plan *p, uint32_t out, const mg_target *t, const char *suffix, const float *v,
                            uint64_t n, mg_error *err) {
    char name[256];
    const mg_expr *e;
    bool trivial = true;
    for (uint64_t i = 0; i < n; i++) trivial = trivial && fabsf(v[i] - 1.0f) <= 1e-6f; /* as the reference has it */
    if (trivial) return MG_OK;
    const int stem = (int)strlen(t->name) - (int)strlen(".weight");
    if (stem < 0 || snprintf(name, sizeof name, "%.*s%s", stem, t->name, suffix) >= (int)sizeof name)
        return mg_fail(err, MG_ERR_INTERNAL, "'%s' has no place for its factors", t->name);
    MG_TRY(mg_expr_const(p, MG_F32, 1, &n, v, &e, err));
    return mg_plan_add_tensor(p, out, name, e, err);
}

/* The factors of a weight that stays NVFP4. Parts of one matrix have to share theirs. */
static mg_status add_factors(mg_plan *p, mg_model *m, const mg_target *t, uint32_t out, mg_error *err) {
    const uint64_t n = t->rank == 3 ? t->shape[0] : 1, per = t->n_parts / n;
    float *v = calloc(2 * n, sizeof *v);
    if (!v) return mg_fail_nomem(err, 2 * n * sizeof *v);
    mg_status st = MG_OK;
    for (uint32_t i = 0; i < t->n_parts && st == MG_OK; i++) {
        float weight, input;
        mg_bound b;
        st = mg_target_bind(&b, m, t, i, err);
        if (st == MG_OK) st = mg_group_checkpoint_factors(m->ckpt, b.tensor, &weight, &input, err);
        if (st != MG_OK) break;
        const uint64_t at = i / per;
        if (i % per && (v[at] != weight || v[n + at] != input))
            st = mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' joins weights with different global scales", t->name);
        v[at] = weight;
        v[n + at] = input;
    }
    if (st == MG_OK) st = add_factor(p, out, t, ".scale", v, n, err);
    if (st == MG_OK) st = add_factor(p, out, t, ".input_scale", v + n, n, err);
    free(v);
    return st;
}

static mg_status add_targets(mg_plan *p, mg_model *m, const mg_targets *ts, uint32_t out,
                             const mg_convert_gguf_options *opt, mg_error *err) {
    for (size_t i = 0; i < ts->n; i++) {
        const mg_target *t = &ts->items[i];
        const mg_expr *e;
        MG_TRY(mg_convert_target_expr(p, m, t, &e, err));
        mg_convert_item item = {.name = t->name, .index = (uint32_t)i, .count = (uint32_t)ts->n};
        mg_convert_item_of(&item, t);
        MG_TRY(mg_convert_add_tensor(p, out, e, &item, opt->dtype, opt->dtype_ctx, err));
        if (item.source == MG_NVFP4 && !m->ckpt->kv) MG_TRY(add_factors(p, m, t, out, err));
    }
    return MG_OK;
}

void mg_convert_item_of(mg_convert_item *item, const mg_target *t) {
    item->keep_f32 = t->always_f32;
    item->role = t->n_parts ? t->parts[0].role : MG_R_ROPE_FREQS;
    item->layer = t->n_parts ? t->parts[0].layer : 0;
    item->expert = t->n_parts ? t->parts[0].expert : 0;
}

/* ---- metadata ---- */

/* Last component of the path, resolved when it says nothing ("." or ".."). Into buf. */
static const char *dir_name(const char *path, char *buf, size_t size) {
    char *real = NULL;
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t b = n;
    while (b > 0 && path[b - 1] != '/') b--;
    if ((n - b == 1 && path[b] == '.') || (n - b == 2 && !strncmp(path + b, "..", 2))) {
        real = realpath(path, NULL);
        const char *s = real ? strrchr(real, '/') : NULL;
        if (!s) return NULL;
        path = s + 1;
        b = 0;
        n = strlen(path);
    }
    size_t k = n - b < size - 1 ? n - b : size - 1;
    memcpy(buf, path + b, k);
    buf[k] = 0;
    free(real);
    return buf;
}

/* The counts behind general.size_label, as the reference writer counts them: expert stacks are those of rank 3. */
static void count_elements(mg_gguf_meta_in *in, const mg_targets *ts) {
    uint64_t stacks = 0, experts = 0;
    for (size_t i = 0; i < ts->n; i++) {
        const mg_target *t = &ts->items[i];
        uint64_t size = 1;
        for (uint32_t d = 0; d < t->rank; d++) size *= t->shape[d];
        in->total += size;
        if (strstr(t->name, "_exps.") && t->rank >= 3 && t->shape[0]) {
            in->expert += size / t->shape[0];
            experts += t->shape[0];
            stacks++;
        } else {
            in->shared += size;
        }
    }
    in->expert_count = stacks ? (uint32_t)(experts / stacks) : 0;
}

/* What readers need to know of a family's vocabularies and no file beside the model says. */
static mg_status family_tokens(mg_kvs *kv, const mg_model *m, mg_error *err) {
    mg_str kind;
    if (!mg_kv_str(mg_kvs_get(kv, "tokenizer.ggml.model"), &kind) || strcmp(kind.data, "llama") != 0) return MG_OK;
    if (m->arch->gguf_eot && m->arch->gguf_eot < mg_hp_i(m, MG_K_VOCAB))
        MG_TRY(mg_kvs_set_u32(kv, "tokenizer.ggml.eot_token_id", m->arch->gguf_eot, err));
    return m->arch->gguf_no_blank ? mg_kvs_set_bool(kv, "tokenizer.ggml.add_space_prefix", false, err) : MG_OK;
}

/* What a GGUF says of the vocabulary, and of the model in the words of its card. */
static mg_status inherited_keys(mg_kvs *kv, const mg_kvs *from, const mg_convert_gguf_options *opt, bool *had,
                                mg_error *err) {
    static const char *const card[] = {"general.license", "general.license.name", "general.license.link",
                                       "general.tags", "general.languages"};
    for (size_t i = 0; i < sizeof card / sizeof *card; i++) {
        const mg_kv *k = mg_kvs_get(from, card[i]);
        if (k && !mg_kvs_get(kv, card[i])) MG_TRY(mg_kvs_copy(kv, k, err));
    }
    for (uint32_t i = 0; i < from->n && !opt->no_tokenizer; i++)
        if (!strncmp(from->items[i].key.data, "tokenizer.", 10)) MG_TRY(mg_kvs_copy(kv, &from->items[i], err));
    *had = mg_kvs_get(kv, "tokenizer.ggml.tokens") != NULL;
    return MG_OK;
}

static mg_status from_hf_keys(mg_kvs *kv, mg_model *m, const mg_targets *ts, const mg_convert_gguf_options *opt,
                              mg_error *err) {
    char name[512];
    const char *side = opt->side_dir ? opt->side_dir : m->ckpt->dir;
    mg_gguf_meta_in in = {.side_dir = side, .config = m->ckpt->config, .name = opt->name};
    in.dir_name = opt->dir_name ? opt->dir_name : dir_name(m->ckpt->path, name, sizeof name);
    count_elements(&in, ts);
    bool had = false;
    const char *arch = m->arch->gguf_arch;
    MG_TRY(mg_kvs_set_str(kv, "general.architecture", arch, strlen(arch), err));
    MG_TRY(mg_gguf_meta_append(kv, &in, err));
    /* a name of null: the converter takes the directory's then */
    const mg_json *given = mg_json_get(opt->override, "general.name");
    const bool nameless = given && mg_json_type(given) == MG_JSON_NULL;
    MG_TRY(mg_gguf_override_apply(kv, opt->override, opt->name || !nameless ? opt->name : in.dir_name, err));
    MG_TRY(mg_arch_gguf_keys(kv, m->arch, &m->hp, opt->file_type, err));
    MG_TRY(mg_kvs_set_u32(kv, "general.quantization_version", 2, err));
    if (m->ckpt->vocab)
        MG_TRY(inherited_keys(kv, m->ckpt->vocab, opt, &had, err));
    else if (side && !opt->no_tokenizer)
        MG_TRY(mg_gguf_vocab_append(kv, side, (uint64_t)mg_hp_i(m, MG_K_VOCAB), &had, err));
    if (opt->had_tokenizer) *opt->had_tokenizer = had;
    return had && !m->ckpt->vocab ? family_tokens(kv, m, err) : MG_OK;
}

/* Keys of a GGUF source in their order; what describes the encoding is replaced where it stands. */
static mg_status from_gguf_keys(mg_kvs *kv, const mg_model *m, const mg_convert_gguf_options *opt, mg_error *err) {
    const mg_kvs *src = m->ckpt->kv;
    bool had = mg_kvs_get(src, "tokenizer.ggml.tokens") != NULL && !opt->no_tokenizer;
    for (uint32_t i = 0; i < src->n; i++) {
        const mg_kv *k = &src->items[i];
        if (opt->no_tokenizer && !strncmp(k->key.data, "tokenizer.", 10)) continue;
        if (!strncmp(k->key.data, "split.", 6)) continue;
        if (opt->file_type != UINT32_MAX && !strcmp(k->key.data, "general.file_type"))
            MG_TRY(mg_kvs_set_u32(kv, k->key.data, opt->file_type, err));
        else if (opt->name && !strcmp(k->key.data, "general.name"))
            MG_TRY(mg_kvs_set_str(kv, k->key.data, opt->name, strlen(opt->name), err));
        else
            MG_TRY(mg_kvs_copy(kv, k, err));
    }
    if (opt->file_type != UINT32_MAX && !mg_kvs_get(kv, "general.file_type"))
        MG_TRY(mg_kvs_set_u32(kv, "general.file_type", opt->file_type, err));
    if (opt->had_tokenizer) *opt->had_tokenizer = had;
    return mg_gguf_override_apply(kv, opt->override, opt->name, err);
}

mg_status mg_convert_plan_gguf(mg_plan *p, mg_model *m, const char *path, const mg_convert_gguf_options *opt,
                               uint32_t *out, mg_error *err) {
    mg_targets ts;
    mg_kvs kv;
    mg_kvs_init(&kv);
    mg_status st = mg_plan_add_output(p, MG_OUT_GGUF, path, out, err);
    if (st != MG_OK) {
        mg_kvs_release(&kv);
        return st;
    }
    st = mg_arch_targets(&ts, m->arch, &m->hp, m->layers, MG_LAYOUT_GGUF, mg_model_has, m, err);
    if (st == MG_OK) st = mg_targets_order(&ts, m, err);
    if (st == MG_OK) st = m->ckpt->kv ? from_gguf_keys(&kv, m, opt, err) : from_hf_keys(&kv, m, &ts, opt, err);
    if (st == MG_OK) st = mg_plan_set_kv(p, *out, &kv, err);
    if (st == MG_OK) st = add_targets(p, m, &ts, *out, opt, err);
    mg_targets_release(&ts);
    mg_kvs_release(&kv);
    return st;
}
