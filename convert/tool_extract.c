/* tool_extract.c - moegraft-extract: experts of a mixture back as dense models. */
#include "convert/convert.h"
#include "convert/extract.h"
#include "convert/tool_runs.h"
#include "formats/base/file.h"
#include "formats/arch/arch_file.h"
#include "formats/base/options.h"
#include "formats/base/pool.h"
#include "quant/group_checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const mg_tool_info mg_tool_extract_info = {
    .name = "extract",
    .summary = "take experts out of a mixture as dense models",
    .synopsis = "IN OUT --expert N\nIN OUT --all\nIN OUT --shared only",
    .examples =
        "  moegraft-extract moe4 prose --expert 0           a Hugging Face directory\n"
        "  moegraft-extract moe4 donors --all               donors/expert-0, donors/expert-1 ...\n"
        "  moegraft-extract moe4-Q4_K_M.gguf prose.gguf --expert 0    its blocks as they are\n"
        "  moegraft-extract moe4-AWQ prose --expert 0       its codes as they are; --outtype bf16 decodes them\n"
        "  moegraft-extract mixture wide --expert 3  --shared merge    expert 3 and the shared one in one block\n",
    .next = "moegraft extract --help",
};

typedef struct args {
    mg_common c;
    mg_opt_list words;
    uint64_t expert;
    const char *shared, *scale, *shared_weight, *outtype, *to, *as;
    bool all, manifest, done, gguf;
    mg_extract_shared how;
    double factor, weight;
    mg_dtype dtype;
    mg_record *record;
    const mg_tool_sink *sink;
} args;

static mg_status number(const char *text, const char *option, double *out, mg_error *err) {
    char *end;
    if (!text) return MG_OK;
    *out = strtod(text, &end);
    if (end != text && !*end && isfinite(*out)) return MG_OK;
    return mg_fail(err, MG_ERR_USAGE, "%s %s: expected a number", option, text);
}

static mg_status read_outtype(args *a, mg_error *err) {
    a->dtype = MG_DTYPE_COUNT;
    if (!a->outtype) return MG_OK;
    a->dtype = mg_dtype_from_name(a->outtype);
    if (a->dtype != MG_DTYPE_COUNT && (mg_dtype_is_float(a->dtype) || a->dtype == MG_Q8_0)) {
        if (a->gguf || a->dtype != MG_Q8_0) return MG_OK;
        return mg_fail(err, MG_ERR_UNSUPPORTED, "a Hugging Face directory cannot hold q8_0; use f32, f16 or bf16");
    }
    if (a->dtype != MG_DTYPE_COUNT)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "--outtype %s is the business of moegraft-quantize", a->outtype);
    return mg_fail(err, MG_ERR_USAGE, "unknown --outtype '%s': f32, f16, bf16 or q8_0", a->outtype);
}

static mg_status read_choice(args *a, mg_error *err) {
    static const char *const names[] = {"apart", "drop", "merge", "only"};
    static const mg_extract_shared kinds[] = {MG_SHARED_APART, MG_SHARED_APART, MG_SHARED_MERGE, MG_SHARED_ONLY};
    size_t i = 0;
    while (i < 4 && a->shared && strcmp(a->shared, names[i]) != 0) i++;
    if (i == 4) return mg_fail(err, MG_ERR_USAGE, "--shared %s: apart, drop, merge or only", a->shared);
    a->how = kinds[i];
    const bool chosen = a->expert != UINT64_MAX;
    if (a->how == MG_SHARED_ONLY && (chosen || a->all))
        return mg_fail(err, MG_ERR_USAGE, "--shared only takes no routed expert: leave --expert and --all out");
    if (a->how != MG_SHARED_ONLY && a->all == chosen)
        return mg_fail(err, MG_ERR_USAGE, "either --expert N or --all is needed");
    if (chosen && a->expert > UINT32_MAX) return mg_fail(err, MG_ERR_USAGE, "--expert is too large");
    if (a->shared_weight && a->how != MG_SHARED_MERGE)
        return mg_fail(err, MG_ERR_USAGE, "--shared-weight needs --shared merge");
    return MG_OK;
}

static mg_status read_layout(args *a, mg_error *err) {
    const char *out = a->words.items[1];
    const size_t n = strlen(out);
    const bool suffix = n > 5 && !strcasecmp(out + n - 5, ".gguf");
    if (a->to && strcmp(a->to, "hf") != 0 && strcmp(a->to, "gguf") != 0)
        return mg_fail(err, MG_ERR_USAGE, "unknown --to '%s': hf or gguf", a->to);
    if (suffix && (a->all || (a->to && a->to[0] == 'h')))
        return mg_fail(err, MG_ERR_USAGE, "'%s' ends in .gguf, but a directory is written", out);
    a->gguf = a->to ? a->to[0] == 'g' : suffix;
    return MG_OK;
}

static mg_status parse(args *a, int argc, char **argv, mg_error *err) {
    const mg_opt opts[] = {
        {NULL, MG_OPT_GROUP, NULL, NULL, "Which"},
        {"--expert", MG_OPT_U64, &a->expert, "N", "one expert, counted from 0"},
        {"--all", MG_OPT_FLAG, &a->all, NULL, "every expert, into OUT/expert-N, and a shared one into OUT/shared"},
        {"--shared", MG_OPT_STR, &a->shared, "apart|drop|merge|only",
         "a shared expert: apart (default) a model of its own beside those of --all; drop: none; merge: in one wider "
         "block with each expert, which is exactly the sum of both; only: it alone, without routed experts"},
        {"--shared-weight", MG_OPT_STR, &a->shared_weight, "X",
         "with merge, where a router weighs the shared expert by the token: the constant taken instead"},
        {"--scale", MG_OPT_STR, &a->scale, "X",
         "multiply the down projections taken out (2 undoes shared_scale: exact); default 1"},
        {NULL, MG_OPT_GROUP, NULL, NULL, "Result"},
        {"--outtype", MG_OPT_STR, &a->outtype, "TYPE",
         "f32, f16, bf16 (or q8_0 in a GGUF) for all matrices; default: as they are stored, blocks and codes too, but "
         "blocks in a directory are F32"},
        {"--to", MG_OPT_STR, &a->to, "LAYOUT", "hf or gguf (default: gguf when OUT ends in .gguf, else hf)"},
        {"--as", MG_OPT_STR, &a->as, "FAMILY",
         "dense family of the result; default: the last that has a place for all weights (docs/merge.md)"},
        {"--manifest", MG_OPT_FLAG, &a->manifest, NULL, "write model.manifest.json: inputs, recipes and hashes"},
        MG_COMMON_WRITE_OPTS(a->c),
        MG_ARCH_OPT,
        MG_COMMON_JSON_OPT(a->c),
        MG_COMMON_EXEC_OPTS(a->c),
        MG_COMMON_RANK_OPTS(a->c),
        MG_COMMON_VERIFY_OPT(a->c),
        {0},
    };
    a->expert = UINT64_MAX;
    a->factor = 1;
    a->weight = (double)NAN;
    MG_TRY(mg_options_parse(&mg_tool_extract_info, opts, argc, argv, &a->words, &a->done, err));
    if (a->done) return MG_OK;
    MG_TRY(mg_common_finish(&a->c, err));
    if (!a->sink) MG_TRY(mg_common_ranks(&a->c, &mg_tool_extract_info, err));
    if (a->words.n != 2) return mg_fail(err, MG_ERR_USAGE, "expected IN OUT");
    MG_TRY(read_choice(a, err));
    MG_TRY(number(a->scale, "--scale", &a->factor, err));
    MG_TRY(number(a->shared_weight, "--shared-weight", &a->weight, err));
    MG_TRY(read_layout(a, err));
    MG_TRY(read_outtype(a, err));
    MG_TRY(mg_record_word(a->record, MG_RECORD_MODEL, a->words.items[0], err));
    MG_TRY(mg_record_word(a->record, MG_RECORD_OUTPUT, a->words.items[1], err));
    return mg_record_options(a->record, opts, err);
}

/* ---- one model ---- */

/* What one output is made of. */
typedef struct one {
    mg_plan *plan, *gguf_plan;
    mg_checkpoint *ckpt;
    mg_model *dense;
} one;

static void release(one *o) {
    mg_plan_free(o->gguf_plan);
    mg_model_free(o->dense);
    mg_checkpoint_free(o->ckpt);
    mg_plan_free(o->plan);
}

static void say(const args *a, const mg_extract *x, const char *path) {
    const mg_model *m = x->m;
    if (a->c.quiet) return;
    fprintf(stderr, "moegraft-extract: '%s' is a %s model with blocks of %llu\n", path, x->family->name,
            (unsigned long long)x->ffn);
    if (x->padded)
        fprintf(stderr, "moegraft-extract: layers have blocks of different sizes: zeros fill the smaller ones\n");
    if (mg_hp_i(m, MG_K_GRID_X))
        fprintf(stderr, "moegraft-extract: exchange maps are left out: an expert alone has no neighbours\n");
    if (x->shared == MG_SHARED_APART && mg_hp_i(m, MG_K_SHARED_FFN))
        fprintf(stderr, "moegraft-extract: the shared expert is not in it (--shared merge joins them)\n");
}

/* The dense model as a GGUF: of a GGUF in its types, of a directory in the converter's. */
static mg_status to_gguf(const args *a, one *o, mg_model *m, const char *path, uint32_t *out, mg_error *err) {
    uint64_t file_type = UINT32_MAX;
    mg_dtype dtype = a->dtype;
    MG_TRY(mg_plan_checkpoint(o->plan, *out, &o->ckpt, err));
    o->ckpt->vocab = m->ckpt->kv;
    if (!m->ckpt->kv) o->ckpt->dir = m->ckpt->dir; /* tokenizer files and model card */
    MG_TRY(mg_model_open(&o->dense, o->ckpt, err));
    mg_convert_gguf_options opt = {0};
    if (m->ckpt->kv && dtype == MG_DTYPE_COUNT) {
        const mg_kv *v = mg_kvs_get(m->ckpt->kv, "general.file_type");
        if (!v || !mg_kv_u64(v, &file_type)) file_type = 0;
    } else {
        if (dtype == MG_DTYPE_COUNT) dtype = mg_convert_auto_dtype(o->ckpt);
        file_type = mg_convert_file_type(dtype);
        opt.dtype = mg_convert_outtype_dtype;
        opt.dtype_ctx = &dtype;
    }
    opt.file_type = (uint32_t)file_type;
    MG_TRY(mg_plan_new(&o->gguf_plan, err));
    return mg_convert_plan_gguf(o->gguf_plan, o->dense, path, &opt, out, err);
}

/* As a plan of its own: a model is complete or absent whatever happens to the next. */
static mg_status extract_one(const args *a, mg_model *m, mg_extract_shared how, uint32_t expert, const char *path,
                             mg_error *err) {
    one o = {0};
    uint32_t out;
    const mg_arch *family = a->as ? mg_arch_find(a->as) : NULL;
    if (a->as && !family) return mg_fail(err, MG_ERR_USAGE, "--as %s: no such family", a->as);
    mg_extract x = {.m = m,
                    .expert = expert,
                    .shared = how,
                    .scale = a->factor,
                    .shared_weight = a->weight,
                    .dtype = a->gguf && !mg_dtype_is_float(a->dtype) ? MG_DTYPE_COUNT : a->dtype,
                    .family = family};
    mg_exec_options opt = mg_tool_exec_options(&a->c, "extract");
    opt.manifest = a->manifest;
    mg_tool_plan_style style = {.json = a->c.json, .quiet = a->c.quiet};
    mg_status st = mg_plan_new(&o.plan, err);
    if (st == MG_OK) st = mg_extract_plan(o.plan, &x, path, a->gguf, &out, err);
    if (st == MG_OK) say(a, &x, path);
    if (st == MG_OK && a->gguf) st = to_gguf(a, &o, m, path, &out, err);
    mg_plan *plan = a->gguf ? o.gguf_plan : o.plan;
    if (st == MG_OK)
        st = a->c.dry_run ? mg_tool_plan_show(plan, &out, 1, &opt, style, err)
                          : mg_tool_plan_execute(plan, &opt, style, (mg_tool_job){a->record, a->sink}, err);
    release(&o);
    return st;
}

static mg_status extract_into(const args *a, mg_model *m, mg_extract_shared how, uint32_t expert, mg_error *err) {
    char name[32], path[4096];
    const char *end = a->gguf ? ".gguf" : "";
    if (how == MG_SHARED_ONLY)
        snprintf(name, sizeof name, "shared%s", end);
    else
        snprintf(name, sizeof name, "expert-%u%s", expert, end);
    MG_TRY(mg_path_join(path, sizeof path, a->words.items[1], name, err));
    return extract_one(a, m, how, expert, path, err);
}

static mg_status extract_all(const args *a, mg_model *m, mg_error *err) {
    const bool shared = a->how == MG_SHARED_APART && (!a->shared || strcmp(a->shared, "apart") == 0);
    if (!a->c.dry_run && !a->sink) MG_TRY(mg_path_mkdir(a->words.items[1], err));
    for (uint32_t e = 0; e < (uint32_t)mg_hp_i(m, MG_K_EXPERTS); e++) MG_TRY(extract_into(a, m, a->how, e, err));
    return shared && mg_hp_i(m, MG_K_SHARED_FFN) ? extract_into(a, m, MG_SHARED_ONLY, 0, err) : MG_OK;
}

static mg_status work(const args *a, mg_error *err) {
    mg_checkpoint *ckpt = NULL;
    mg_model *m = NULL;
    mg_status st = mg_group_checkpoint_open(&ckpt, a->words.items[0], err);
    if (st == MG_OK) st = mg_model_open(&m, ckpt, err);
    if (st == MG_OK && mg_hp_i(m, MG_K_EXPERTS) == 0)
        st = mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' has no experts", a->words.items[0]);
    if (st == MG_OK)
        st = a->all ? extract_all(a, m, err) : extract_one(a, m, a->how, (uint32_t)a->expert, a->words.items[1], err);
    mg_model_free(m);
    mg_checkpoint_free(ckpt);
    return st;
}

mg_status mg_tool_extract_run(int argc, char **argv, const mg_tool_sink *sink, mg_error *err) {
    args a = {.sink = sink};
    mg_common_init(&a.c);
    mg_status st = mg_record_new(&a.record, mg_tool_extract_info.name, err);
    if (st == MG_OK) st = parse(&a, argc, argv, err);
    if (st == MG_OK && !a.done) st = work(&a, err);
    mg_opt_list_release(&a.words);
    mg_common_release(&a.c);
    mg_record_free(a.record);
    return st;
}
