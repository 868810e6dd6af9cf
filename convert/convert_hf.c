/* convert_hf.c - a model laid out as a Hugging Face directory: per-tensor names of the family, config.json, and the
 * side files that loaders look for, byte for byte. */
#include "convert/convert_common.h"
#include "convert/hf_vocab.h"

#include "formats/base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

mg_status mg_convert_uniform_dtype(void *ctx, const mg_convert_item *item, mg_dtype *dtype, const float **weights,
                                   uint64_t *n_weights, mg_error *err) {
    (void)item;
    (void)weights;
    (void)n_weights;
    (void)err;
    *dtype = *(const mg_dtype *)ctx;
    return MG_OK;
}

mg_status mg_convert_floats_dtype(void *ctx, const mg_convert_item *item, mg_dtype *dtype, const float **weights,
                                  uint64_t *n_weights, mg_error *err) {
    (void)ctx;
    (void)weights;
    (void)n_weights;
    (void)err;
    if (mg_dtype_is_block(item->source)) *dtype = MG_F32;
    return MG_OK;
}

/* ---- llama3 rotary factors ---- */

static bool same_factors(const float *have, uint64_t n, const mg_hparams *hp, float *work) {
    mg_error quiet = {0};
    return mg_arch_rope_factors(work, n, hp, &quiet) == MG_OK && !memcmp(have, work, (size_t)n * sizeof *have);
}

/* A GGUF holds the factors, config.json the four numbers they are made from. The largest factor is one of the numbers;
 * the others are searched among the values in use (low 1 to 4, high 2 to 32, an original context of a power of two) and
 * taken only when they give exactly the stored factors; sets that do so are equivalent. */
static bool find_llama3(const float *have, uint64_t n, mg_hparams *hp, float *work) {
    hp->i[MG_K_ROPE_TYPE] = MG_ROPE_LLAMA3;
    hp->present[MG_K_ROPE_TYPE] = true;
    hp->f[MG_K_ROPE_FACTOR] = 1.0;
    for (uint64_t i = 0; i < n; i++)
        if ((double)have[i] > hp->f[MG_K_ROPE_FACTOR]) hp->f[MG_K_ROPE_FACTOR] = (double)have[i];
    static const int64_t first = 8192; /* what released models state */
    for (int low = 1; low <= 4; low *= 2)
        for (int high = 4; high; high = high == 4 ? 2 : high == 2 ? 8 : high < 32 ? high * 2 : 0)
            for (int64_t orig = first; orig; orig = orig == first ? 8 : orig * 2 <= 1 << 20 ? orig * 2 : 0) {
                if (high <= low) continue;
                hp->f[MG_K_ROPE_LOW_FREQ] = low;
                hp->f[MG_K_ROPE_HIGH_FREQ] = high;
                hp->i[MG_K_ROPE_ORIG_CONTEXT] = orig;
                if (same_factors(have, n, hp, work)) return true;
            }
    return false;
}

mg_status mg_convert_recover_rope(mg_model *m, mg_hparams *hp, mg_error *err) {
    const mg_bound *b = mg_model_find(m, MG_R_ROPE_FREQS, 0, 0);
    if (!b || !m->ckpt->kv) return MG_OK;
    const mg_tensor *t = mg_model_tensor(m, b);
    if (t->dtype != MG_F32 || t->n_elements > 1 << 20)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "rotary factors of type %s", mg_dtype_get(t->dtype)->name);
    float *have = malloc((size_t)t->n_bytes + 4), *work = malloc((size_t)t->n_bytes + 4);
    mg_status st =
        have && work ? mg_model_read_rows(m, b, 0, mg_bound_rows(b), have, err) : mg_fail_nomem(err, t->n_bytes);
    if (st == MG_OK && !find_llama3(have, t->n_elements, hp, work))
        st = mg_fail(err, MG_ERR_UNSUPPORTED,
                     "the rotary factors in '%s' are not those of a llama3 scaling that config.json could state",
                     t->name);
    free(have);
    free(work);
    return st;
}

bool mg_convert_has_for_dir(const void *model, mg_role role, uint32_t layer, uint32_t expert) {
    return role != MG_R_ROPE_FREQS && mg_model_has(model, role, layer, expert);
}

mg_status mg_convert_set_config(mg_plan *p, uint32_t out, const mg_arch *arch, const mg_json *config, mg_error *err) {
    if (!arch->auto_map) return mg_plan_set_config(p, out, config, err);
    mg_json *own = NULL, *map = NULL;
    MG_TRY(mg_json_parse(&map, (mg_span){(const uint8_t *)arch->auto_map, strlen(arch->auto_map)}, arch->name, err));
    mg_status st = mg_json_dup(&own, config, err);
    if (st != MG_OK) {
        mg_json_free(map);
        return st;
    }
    mg_json_set(own, "auto_map", map);
    st = mg_plan_set_config(p, out, own, err);
    for (const mg_code_file *const *f = arch->code; st == MG_OK && *f; f++)
        st = mg_plan_add_side_file(p, out, (*f)->name, (*f)->text, (*f)->size, err);
    mg_json_free(own);
    return st;
}

static mg_status state_blocks(mg_json *config, const mg_arch *arch, mg_error *err) {
    mg_json *q;
    MG_TRY(mg_json_parse(&q, (mg_span){(const uint8_t *)arch->blocks_config, strlen(arch->blocks_config)}, arch->name,
                         err));
    mg_json_set(config, "quantization_config", q);
    return MG_OK;
}

/* The source's own config with the element type replaced where it stands, or one built from canonical keys. */
static mg_status make_config(mg_plan *p, mg_model *m, const mg_hparams *hp, uint32_t out, mg_dtype dtype, bool blocks,
                             mg_error *err) {
    mg_json *config;
    if (m->ckpt->config) {
        MG_TRY(mg_json_dup(&config, m->ckpt->config, err));
        if (mg_dtype_is_float(dtype) && mg_config_dtype(config) != dtype) mg_config_set_dtype(config, dtype);
    } else {
        MG_TRY(mg_arch_new_config(&config, m->arch, hp, dtype, err));
    }
    mg_status st = blocks ? state_blocks(config, m->arch, err) : MG_OK;
    if (st == MG_OK) st = mg_convert_set_config(p, out, m->arch, config, err);
    mg_json_free(config);
    return st;
}

static mg_status make_params(mg_plan *p, mg_model *m, const mg_hparams *hp, uint32_t out, const mg_arch **family,
                             mg_error *err) {
    mg_json *params;
    MG_TRY(mg_arch_new_params(&params, family, m, hp, err));
    mg_status st = mg_plan_set_names(p, out, "consolidated", "params.json", err);
    if (st == MG_OK) st = mg_plan_set_config(p, out, params, err);
    mg_json_free(params);
    return st;
}

/* What a loader needs beside weights and config. Tokenizer files first; the flag says whether they count as a
 * tokenizer. */
static const struct side {
    const char *name;
    bool tokenizer;
} sides[] = {
    {"tokenizer.json", true},
    {"tokenizer.model", true},
    {"vocab.json", true},
    {"merges.txt", false},
    {"tokenizer_config.json", false},
    {"special_tokens_map.json", false},
    {"added_tokens.json", false},
    {"chat_template.jinja", false},
    {"chat_template.json", false},
    {"generation_config.json", false},
};

mg_status mg_convert_copy_sides(mg_plan *p, uint32_t out, const char *dir, bool *had_tokenizer, mg_error *err) {
    enum { CAP = 256 << 20 };
    bool had = false;
    for (size_t i = 0; dir && i < sizeof sides / sizeof sides[0]; i++) {
        char path[4096], *text;
        size_t n;
        MG_TRY(mg_path_join(path, sizeof path, dir, sides[i].name, err));
        if (!mg_path_exists(path)) continue;
        MG_TRY(mg_file_slurp(path, CAP, &text, &n, err));
        mg_status st = mg_plan_add_side_file(p, out, sides[i].name, text, n, err);
        free(text);
        MG_TRY(st);
        had = had || sides[i].tokenizer;
    }
    if (had_tokenizer) *had_tokenizer = had;
    return MG_OK;
}

/* X_blocks [E, rows, cols / 32, 16] and X_scales [E, rows, cols / 32] of a target named X_blocks. */
static mg_status add_blocks(mg_plan *p, uint32_t out, const mg_target *t, const mg_expr *e, mg_error *err) {
    char scales[256];
    const mg_expr *codes_part, *scales_part;
    const uint64_t shape[4] = {t->shape[0], t->shape[1], t->shape[2] / 32, 16};
    MG_TRY(mg_expr_fp4_part(p, e, MG_FP4_CODES, 4, shape, &codes_part, err));
    MG_TRY(mg_expr_fp4_part(p, e, MG_FP4_SCALES, 3, shape, &scales_part, err));
    const int stem = (int)(strlen(t->name) - strlen("blocks"));
    if (stem < 0 || snprintf(scales, sizeof scales, "%.*sscales", stem, t->name) >= (int)sizeof scales)
        return mg_fail(err, MG_ERR_INTERNAL, "'%s' has no place for its scales", t->name);
    MG_TRY(mg_plan_add_tensor(p, out, t->name, codes_part, err));
    return mg_plan_add_tensor(p, out, scales, scales_part, err);
}

static mg_status add_targets(mg_plan *p, mg_model *m, const mg_targets *ts, uint32_t out,
                             const mg_convert_hf_options *opt, mg_dtype *dtype, mg_error *err) {
    for (size_t i = 0; i < ts->n; i++) {
        const mg_target *t = &ts->items[i];
        const mg_expr *e;
        MG_TRY(mg_convert_target_expr(p, m, t, &e, err));
        if (t->blocks) {
            MG_TRY(add_blocks(p, out, t, e, err));
            continue;
        }
        mg_convert_item item = {.name = t->name, .index = (uint32_t)i, .count = (uint32_t)ts->n};
        mg_convert_item_of(&item, t);
        MG_TRY(mg_convert_add_tensor(p, out, e, &item, opt->dtype, opt->dtype_ctx, err));
        if (*dtype == MG_DTYPE_COUNT && t->rank >= 2) *dtype = item.stored;
    }
    return MG_OK;
}

/* Weights without a tokenizer are still of use, so a vocabulary that cannot be written does not fail the whole. */
static mg_status add_vocab(mg_plan *p, uint32_t out, const mg_kvs *kv, const mg_convert_hf_options *opt,
                           mg_error *err) {
    bool had;
    mg_status st = mg_hf_vocab_add(p, out, kv, &had, err);
    if (st == MG_ERR_UNSUPPORTED) {
        if (opt->no_tokenizer) *opt->no_tokenizer = *err;
        *err = (mg_error){0};
        st = MG_OK;
    }
    if (opt->had_tokenizer) *opt->had_tokenizer = had;
    return st;
}

mg_status mg_convert_plan_hf(mg_plan *p, mg_model *m, const char *dir, const mg_convert_hf_options *opt, uint32_t *out,
                             mg_error *err) {
    mg_targets ts;
    mg_dtype dtype = opt->torch_dtype;
    MG_TRY(mg_plan_add_output(p, MG_OUT_HF_DIR, dir, out, err));
    if (opt->shard_size) MG_TRY(mg_plan_set_shard_size(p, *out, opt->shard_size, err));
    mg_hparams hp = m->hp;
    MG_TRY(mg_convert_recover_rope(m, &hp, err));
    const mg_arch *family = m->arch;
    if (opt->native) MG_TRY(make_params(p, m, &hp, *out, &family, err));
    const bool blocks = opt->blocks && !opt->native && mg_model_has_blocks(m);
    mg_status st =
        blocks ? mg_arch_targets_in(&ts, family, &hp, m->layers, MG_FORMS_BLOCKS, mg_convert_has_for_dir, m, err)
               : mg_arch_targets(&ts, family, &hp, m->layers, opt->native ? MG_LAYOUT_NATIVE : MG_LAYOUT_HF,
                                 mg_convert_has_for_dir, m, err);
    if (st == MG_OK) st = add_targets(p, m, &ts, *out, opt, &dtype, err);
    if (st == MG_OK && !opt->native) st = make_config(p, m, &hp, *out, dtype, blocks, err);
    /* A GGUF carries its tokenizer inside; files beside it need not belong to it. */
    const char *side = opt->side_dir ? opt->side_dir : m->ckpt->kv ? NULL : m->ckpt->dir;
    if (st == MG_OK) st = mg_convert_copy_sides(p, *out, side, opt->had_tokenizer, err);
    if (st == MG_OK && m->ckpt->kv && !side) st = add_vocab(p, *out, m->ckpt->kv, opt, err);
    mg_targets_release(&ts);
    return st;
}
