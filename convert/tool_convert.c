/* tool_convert.c - moegraft-convert: between Hugging Face directories and GGUF, float types and Q8_0. */
#include "convert/convert.h"
#include "convert/gguf_override.h"
#include "convert/quantize_groups.h"
#include "convert/restate.h"
#include "convert/tool_runs.h"
#include "formats/arch/arch.h"
#include "formats/arch/arch_file.h"
#include "formats/base/file.h"
#include "formats/base/options.h"
#include "formats/base/pool.h"
#include "quant/group_checkpoint.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

const mg_tool_info mg_tool_convert_info = {
    .name = "convert",
    .summary = "a model from one layout to another",
    .synopsis = "IN OUT",
    .examples = "  moegraft-convert models/moe4 moe4-bf16.gguf --outtype bf16\n"
                "  moegraft-convert moe4-bf16.gguf moe4-hf\n"
                "  moegraft-convert models/moe4 moe4-native --to mistral    (consolidated.safetensors, params.json)\n"
                "  moegraft-convert big-model resharded --out-shard-size 2G\n"
                "  moegraft-convert models/moe4 moe4-q8.gguf --outtype q8_0 --dry-run\n"
                "  moegraft-convert big.gguf parts.gguf --split-max-size 2G     (parts-00001-of-00003.gguf ...)\n"
                "  moegraft-convert parts-00001-of-00003.gguf one.gguf\n",
    .next = "moegraft-inspect IN",
};

typedef struct args {
    mg_common c;
    const char *in, *out, *outtype, *to, *model_name, *metadata, *as;
    uint64_t shard_size, split_size, split_tensors;
    bool no_manifest, to_gguf, to_native;
    mg_dtype dtype;    /* MG_DTYPE_COUNT: auto */
    mg_json *override; /* --metadata */
    mg_record *record;
    const mg_tool_sink *sink;
} args;

static mg_status read_outtype(args *a, mg_error *err) {
    static const char *const names[] = {"auto", "f32", "f16", "bf16", "q8_0", NULL};
    static const mg_dtype types[] = {MG_DTYPE_COUNT, MG_F32, MG_F16, MG_BF16, MG_Q8_0};
    for (int i = 0; names[i]; i++)
        if (!strcasecmp(a->outtype, names[i])) {
            a->dtype = types[i];
            return MG_OK;
        }
    if (!strcasecmp(a->outtype, "mxfp4")) {
        a->dtype = MG_MXFP4;
        return MG_OK;
    }
    if (mg_dtype_from_name(a->outtype) != MG_DTYPE_COUNT)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "--outtype %s is the business of moegraft-quantize", a->outtype);
    const char *near = mg_nearest(a->outtype, names);
    return mg_fail(err, MG_ERR_USAGE, "unknown --outtype '%s'%s%s%s", a->outtype, near ? ", did you mean '" : "",
                   near ? near : "", near ? "'?" : "");
}

static mg_status read_target(args *a, mg_error *err) {
    size_t n = strlen(a->out);
    bool suffix = n > 5 && !strcasecmp(a->out + n - 5, ".gguf");
    if (!a->to) {
        a->to_gguf = suffix;
    } else if (!strcmp(a->to, "gguf") || !strcmp(a->to, "hf")) {
        a->to_gguf = a->to[0] == 'g';
    } else if (!strcmp(a->to, "mistral")) {
        a->to_native = true;
    } else {
        return mg_fail(err, MG_ERR_USAGE, "unknown --to '%s': hf, gguf or mistral", a->to);
    }
    if (a->as && (a->to_gguf || a->to_native))
        return mg_fail(err, MG_ERR_USAGE, "--as writes a Hugging Face directory; convert that one further");
    if (a->to_gguf && mg_path_is_dir(a->out))
        return mg_fail(err, MG_ERR_USAGE, "'%s' is a directory; a GGUF needs a file name", a->out);
    if (!a->to_gguf && suffix)
        return mg_fail(err, MG_ERR_USAGE, "'%s' ends in .gguf, but --to %s writes a directory", a->out, a->to);
    if (!a->to_gguf && mg_path_exists(a->out) && !mg_path_is_dir(a->out))
        return mg_fail(err, MG_ERR_USAGE, "'%s' exists and is no directory", a->out);
    if (a->dtype == MG_MXFP4 && (a->to_gguf || a->to_native))
        return mg_fail(err, MG_ERR_USAGE,
                       "--outtype mxfp4 belongs to Hugging Face directories; moegraft-quantize makes "
                       "GGUF files of it");
    if (!a->to_gguf && a->metadata) return mg_fail(err, MG_ERR_USAGE, "--metadata belongs to GGUF outputs");
    if (!a->to_gguf && a->model_name) return mg_fail(err, MG_ERR_USAGE, "--model-name belongs to GGUF outputs");
    if (a->to_gguf && a->shard_size)
        return mg_fail(err, MG_ERR_USAGE, "--out-shard-size belongs to directories; a GGUF is one file");
    if (!a->to_gguf && (a->split_size || a->split_tensors))
        return mg_fail(err, MG_ERR_USAGE, "--split-max-size and --split-max-tensors belong to GGUF outputs");
    if (a->split_tensors > UINT32_MAX) return mg_fail(err, MG_ERR_USAGE, "--split-max-tensors is too large");
    return MG_OK;
}

static mg_status parse(args *a, int argc, char **argv, bool *done, mg_error *err) {
    mg_opt_list pos = {0};
    const mg_opt opts[] = {
        {NULL, MG_OPT_GROUP, NULL, NULL, "Conversion"},
        {"--outtype", MG_OPT_STR, &a->outtype, "TYPE",
         "auto, f32, f16, bf16 or q8_0 (default auto: bf16, MXFP4 and, in a GGUF, NVFP4 stay, else f16); directories "
         "also mxfp4: weights "
         "that "
         "are so stay so, as compressed-tensors or in the family's own form"},
        {"--to", MG_OPT_STR, &a->to, "LAYOUT", "hf, gguf or mistral (default: gguf when OUT ends in .gguf, else hf)"},
        {"--as", MG_OPT_STR, &a->as, "FAMILY",
         "say the model as one of another family that computes the same (docs/mesh_and_nekomind.md)"},
        {"--out-shard-size", MG_OPT_SIZE, &a->shard_size, "SIZE", "limit of a safetensors shard (default 5G)"},
        {"--model-name", MG_OPT_STR, &a->model_name, "NAME",
         "general.name (default: model card, config, directory name)"},
        {"--no-manifest", MG_OPT_FLAG, &a->no_manifest, NULL, "do not write NAME.manifest.json (recipes and hashes)"},
        {"--split-max-size", MG_OPT_SIZE, &a->split_size, "SIZE",
         "split a GGUF: tensor bytes of a part (a larger tensor gets its own)"},
        {"--split-max-tensors", MG_OPT_U64, &a->split_tensors, "N", "split a GGUF: tensors of a part"},
        {"--metadata", MG_OPT_STR, &a->metadata, "FILE",
         "general.* keys of a GGUF from a JSON object, in place of what the card and the name say; --model-name is "
         "stronger"},
        MG_COMMON_WRITE_OPTS(a->c),
        MG_ARCH_OPT,
        MG_COMMON_JSON_OPT(a->c),
        MG_COMMON_EXEC_OPTS(a->c),
        MG_COMMON_RANK_OPTS(a->c),
        MG_COMMON_VERIFY_OPT(a->c),
        {0},
    };
    mg_status st = mg_options_parse(&mg_tool_convert_info, opts, argc, argv, &pos, done, err);
    if (st == MG_OK && !*done) st = mg_common_finish(&a->c, err);
    if (st == MG_OK && !*done && !a->sink) st = mg_common_ranks(&a->c, &mg_tool_convert_info, err);
    if (st == MG_OK && !*done && pos.n != 2)
        st = mg_fail(err, MG_ERR_USAGE, "expected IN and OUT, found %zu arguments", pos.n);
    if (st == MG_OK && !*done) {
        a->in = pos.items[0];
        a->out = pos.items[1];
        st = read_outtype(a, err);
    }
    if (st == MG_OK && !*done) st = read_target(a, err);
    if (st == MG_OK && !*done) st = mg_record_options(a->record, opts, err);
    mg_opt_list_release(&pos);
    return st;
}

static void warn(const char *text) {
    fprintf(stderr, "moegraft-convert: warning: %s\n", text);
}

/* First matrix: what a directory gets when nothing is asked for and the source mixes float types. */
static mg_dtype first_matrix(const mg_model *m) {
    const mg_bound *b = mg_model_find(m, MG_R_TOKEN_EMBD, 0, 0);
    mg_dtype t = b ? mg_model_tensor(m, b)->dtype : MG_F32;
    return mg_dtype_is_float(t) ? t : MG_F16;
}

/* A GGUF as it is, joined or split: nothing need be known about its architecture. */
static bool is_copy(const args *a, const mg_checkpoint *c) {
    return a->to_gguf && c->kv && a->dtype == MG_DTYPE_COUNT;
}

static mg_status copy_keys(const args *a, mg_kvs *kv, const mg_kvs *from, mg_error *err) {
    for (uint32_t i = 0; i < from->n; i++) {
        const char *key = from->items[i].key.data;
        if (!strncmp(key, "split.", 6)) continue;
        if (a->model_name && !strcmp(key, "general.name"))
            MG_TRY(mg_kvs_set_str(kv, key, a->model_name, strlen(a->model_name), err));
        else
            MG_TRY(mg_kvs_copy(kv, &from->items[i], err));
    }
    if (a->model_name && !mg_kvs_get(from, "general.name"))
        return mg_kvs_set_str(kv, "general.name", a->model_name, strlen(a->model_name), err);
    return MG_OK;
}

static mg_status plan_copy(const args *a, mg_plan *p, mg_checkpoint *c, uint32_t *out, mg_error *err) {
    mg_kvs kv;
    mg_kvs_init(&kv);
    mg_status st = copy_keys(a, &kv, c->kv, err);
    if (st == MG_OK) st = mg_gguf_override_apply(&kv, a->override, a->model_name, err);
    if (st == MG_OK) st = mg_plan_add_output(p, MG_OUT_GGUF, a->out, out, err);
    if (st == MG_OK) st = mg_plan_set_kv(p, *out, &kv, err);
    for (uint32_t i = 0; i < c->n_tensors && st == MG_OK; i++) {
        const mg_expr *e;
        st = mg_expr_source(p, c, i, &e, err);
        if (st == MG_OK) st = mg_plan_add_tensor(p, *out, c->tensors[i].name, e, err);
    }
    mg_kvs_release(&kv);
    return st;
}

static mg_dtype kept_blocks(const mg_checkpoint *c) {
    for (uint32_t i = 0; i < c->n_tensors && !c->kv; i++)
        if (mg_dtype_is_block(c->tensors[i].dtype)) return c->tensors[i].dtype;
    return MG_DTYPE_COUNT;
}

static mg_status plan_gguf(args *a, mg_plan *p, mg_model *m, uint32_t *out, mg_error *err) {
    bool had = true;
    const mg_dtype kept = kept_blocks(m->ckpt); /* of a directory, and only when no type was asked for */
    if (a->dtype == MG_DTYPE_COUNT) a->dtype = mg_convert_auto_dtype(m->ckpt);
    mg_convert_gguf_options o = {.dtype =
                                     kept != MG_DTYPE_COUNT ? mg_convert_keep_blocks_dtype : mg_convert_outtype_dtype,
                                 .dtype_ctx = &a->dtype,
                                 .file_type = kept == MG_MXFP4   ? MG_FILE_TYPE_MXFP4_MOE
                                              : kept == MG_NVFP4 ? MG_FILE_TYPE_NVFP4
                                                                 : mg_convert_file_type(a->dtype),
                                 .name = a->model_name,
                                 .override = a->override,
                                 .had_tokenizer = &had};
    MG_TRY(mg_convert_plan_gguf(p, m, a->out, &o, out, err));
    if (!had) warn("no tokenizer files found: the GGUF has no tokenizer and cannot be used with text");
    char losses[2048];
    if (!m->ckpt->kv && mg_arch_gguf_losses(m, losses, sizeof losses))
        for (char *save = NULL, *l = strtok_r(losses, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) warn(l);
    return MG_OK;
}

/* Weights that are MXFP4 as compressed-tensors stores them, the others as floats. */
static mg_status plan_mxfp4(args *a, mg_plan *p, mg_model *m, uint32_t *out, mg_error *err) {
    bool had = true;
    mg_groups_report report;
    const mg_groups_options o = {.format = MG_FORMAT_MXFP4A16,
                                 .bits = 4,
                                 .group_size = 32,
                                 .symmetric = true,
                                 .as_stored = true,
                                 .had_tokenizer = &had};
    mg_status st = mg_quantize_plan_groups(p, m, a->out, &o, &report, out, err);
    if (st == MG_OK && a->shard_size) st = mg_plan_set_shard_size(p, *out, a->shard_size, err);
    if (st == MG_OK && !had) warn("no tokenizer files written");
    return st;
}

static mg_status plan_hf(args *a, mg_plan *p, mg_model *m, uint32_t *out, mg_error *err) {
    bool had = true;
    mg_error why = {0};
    const bool blocks = a->dtype == MG_DTYPE_COUNT || a->dtype == MG_MXFP4;
    bool keep = a->dtype == MG_DTYPE_COUNT && !m->ckpt->kv;
    if (a->dtype == MG_Q8_0)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "a Hugging Face directory cannot hold q8_0; use f32, f16 or bf16");
    if (a->dtype == MG_MXFP4 && !mg_model_has_blocks(m)) return plan_mxfp4(a, p, m, out, err);
    if (blocks) a->dtype = first_matrix(m);
    mg_convert_hf_options o = {.dtype = keep ? mg_convert_floats_dtype : mg_convert_uniform_dtype,
                               .dtype_ctx = &a->dtype,
                               .torch_dtype = keep ? MG_DTYPE_COUNT : a->dtype,
                               .shard_size = a->shard_size,
                               .blocks = blocks,
                               .native = a->to_native,
                               .had_tokenizer = &had,
                               .no_tokenizer = &why};
    MG_TRY(mg_convert_plan_hf(p, m, a->out, &o, out, err));
    if (!had && why.message[0])
        fprintf(stderr, "moegraft-convert: warning: no tokenizer files written: %s\n", why.message);
    else if (!had)
        warn(m->ckpt->kv ? "the GGUF has no tokenizer" : "no tokenizer files found beside the model");
    return MG_OK;
}

static mg_status plan_other(args *a, mg_plan *p, mg_model *m, uint32_t *out, mg_error *err) {
    const mg_arch *arch;
    bool had = true;
    if (a->dtype != MG_DTYPE_COUNT && !mg_dtype_is_float(a->dtype))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "--as writes floats: %s is none", mg_dtype_get(a->dtype)->name);
    MG_TRY(mg_restate_find(&arch, m, a->as, err));
    MG_TRY(mg_restate_plan(p, m, arch, a->out, a->dtype, a->shard_size, &had, out, err));
    if (!had)
        warn(m->ckpt->kv ? "tokenizers of GGUF files are not taken along here"
                         : "no tokenizer files found beside the model");
    return MG_OK;
}

static mg_status plan_model(args *a, mg_plan *p, mg_model *m, uint32_t *out, mg_error *err) {
    if (a->c.verbose)
        for (uint32_t i = 0; i < m->n_assumptions; i++)
            fprintf(stderr, "moegraft-convert: note: %s\n", m->assumptions[i]);
    if (a->as) return plan_other(a, p, m, out, err);
    return a->to_gguf ? plan_gguf(a, p, m, out, err) : plan_hf(a, p, m, out, err);
}

static mg_status record(args *a, const mg_checkpoint *c, mg_error *err) {
    MG_TRY(mg_record_word(a->record, MG_RECORD_MODEL, c->path, err));
    return mg_record_word(a->record, MG_RECORD_OUTPUT, a->out, err);
}

static mg_status work(args *a, mg_plan *p, mg_checkpoint *c, mg_model *m, mg_error *err) {
    uint32_t out;
    MG_TRY(m ? plan_model(a, p, m, &out, err) : plan_copy(a, p, c, &out, err));
    if (a->split_size || a->split_tensors)
        MG_TRY(mg_plan_set_split(p, out, a->split_size, (uint32_t)a->split_tensors, !m, err));
    mg_exec_options eo = mg_tool_exec_options(&a->c, "convert");
    eo.manifest = !a->no_manifest;
    mg_tool_plan_style style = {.json = a->c.json, .quiet = a->c.quiet};
    if (a->c.dry_run) return mg_tool_plan_show(p, &out, 1, &eo, style, err);
    MG_TRY(record(a, c, err));
    return mg_tool_plan_execute(p, &eo, style, (mg_tool_job){a->record, a->sink}, err);
}

mg_status mg_tool_convert_run(int argc, char **argv, const mg_tool_sink *sink, mg_error *err) {
    args a = {.outtype = "auto", .sink = sink};
    mg_checkpoint *c = NULL;
    mg_model *m = NULL;
    mg_plan *p = NULL;
    bool done = false;
    mg_common_init(&a.c);
    mg_status st = mg_record_new(&a.record, mg_tool_convert_info.name, err);
    if (st == MG_OK) st = parse(&a, argc, argv, &done, err);
    if (st == MG_OK && !done && a.metadata) st = mg_gguf_override_load(&a.override, a.metadata, err);
    if (st == MG_OK && !done) {
        const mg_group_keep keep = a.dtype != MG_DTYPE_COUNT && a.dtype != MG_MXFP4 ? MG_KEEP_NONE
                                   : a.to_gguf                                      ? MG_KEEP_FP4
                                                                                    : MG_KEEP_MXFP4;
        st = mg_group_checkpoint_open_keeping(&c, a.in, keep, err);
        if (st == MG_OK && is_copy(&a, c)) { /* what is stored, not what it decodes to */
            mg_checkpoint_free(c);
            c = NULL;
            st = mg_checkpoint_open(&c, a.in, err);
        } else if (st == MG_OK) {
            st = mg_model_open(&m, c, err);
        }
        if (st == MG_OK) st = mg_plan_new(&p, err);
        if (st == MG_OK) st = work(&a, p, c, m, err);
    }
    mg_plan_free(p);
    mg_model_free(m);
    mg_checkpoint_free(c);
    mg_json_free(a.override);
    mg_common_release(&a.c);
    mg_record_free(a.record);
    return st;
}
