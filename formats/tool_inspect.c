/* tool_inspect.c - moegraft-inspect: what a model file, a directory or a bare config.json holds. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/arch/arch_file.h"
#include "formats/base/file.h"
#include "formats/base/options.h"
#include "formats/base/pool.h"
#include "formats/base/text.h"
#include "formats/hf_cache.h"
#include "formats/hf_dir.h"
#include "formats/tool_inspect.h"
#include "quant/group_checkpoint.h"

static const mg_tool_info tool = {
    .name = "inspect",
    .summary = "what a model file or directory holds",
    .synopsis = "PATH [--tensors] [--kv] [--stats] [--hash] [--json]",
    .examples = "  moegraft-inspect samples/donors/base\n"
                "  moegraft-inspect model.gguf --kv --tensors\n"
                "  moegraft-inspect config.json            (counts from a configuration alone)\n"
                "  moegraft-inspect model/ --hash --json   (XXH3-128 and SHA-256 of every tensor)\n",
    .next = "moegraft-check PATH",
};

/* A directory that has a config.json and nothing that could be weights. */
static bool is_config_only(const char *dir) {
    bool config = false, weights = false;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        static const char *const kinds[] = {".safetensors", ".safetensors.index.json", ".gguf", ".bin", ".pth", ".pt"};
        config |= strcmp(e->d_name, "config.json") == 0;
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) weights |= mg_ends_with(e->d_name, kinds[i]);
    }
    if (d) closedir(d);
    return config && !weights;
}

static mg_status open_config(inspection *in, const char *path, mg_error *err) {
    mg_status st = mg_json_load(&in->own_config, path, MG_HF_CONFIG_CAP, err);
    if (st == MG_OK && mg_json_type(in->own_config) != MG_JSON_OBJECT)
        st = mg_fail(err, MG_ERR_FORMAT, "is not a JSON object");
    mg_error_at(err, path, NULL);
    MG_TRY(st);
    in->config = in->own_config;
    mg_json *dense = NULL; /* counts are of the model, however its weights were stored */
    mg_status bound = mg_json_dup(&dense, in->config, &in->why_no_model);
    if (bound == MG_OK) {
        mg_json_remove(dense, "quantization_config");
        bound = mg_model_from_config(&in->model, dense, &in->why_no_model);
    }
    mg_json_free(dense);
    (void)bound; /* kept in why_no_model */
    return MG_OK;
}

static mg_status open_path(inspection *in, mg_error *err) {
    char path[4096], found[4096];
    bool cached;
    if (mg_hf_resolve(found, sizeof found, in->path, &cached, NULL) == MG_OK && mg_path_is_dir(found) &&
        is_config_only(found)) { /* what is not found is refused below */
        MG_TRY(mg_path_join(path, sizeof path, found, "config.json", err));
        return open_config(in, path, err);
    }
    if (mg_ends_with(in->path, ".json") && mg_path_exists(in->path)) return open_config(in, in->path, err);
    if (mg_tool_is_recipe(in->path)) {
        MG_TRY(mg_tool_weights_open(&in->merged, in->path, in->common.n_threads, err));
        in->ckpt = in->merged.ckpt;
    } else {
        MG_TRY(mg_checkpoint_open(&in->ckpt, in->path, err));
    }
    in->config = in->ckpt->config;
    mg_status bound = mg_group_checkpoint_wrap(&in->dense, in->ckpt, &in->why_no_model);
    if (bound == MG_OK) bound = mg_model_open(&in->model, in->dense, &in->why_no_model);
    (void)bound;
    return MG_OK;
}

static mg_status scan(inspection *in, mg_error *err) {
    unsigned what = (in->stats ? MG_SCAN_STATS : 0u) | (in->hash ? MG_SCAN_HASH : 0u);
    if (what == 0 || !in->ckpt) return MG_OK;
    uint64_t total = 0;
    mg_pool *pool = NULL;
    mg_progress *progress = NULL;
    for (uint32_t i = 0; i < in->ckpt->n_tensors; i++) total += in->ckpt->tensors[i].n_bytes;
    in->scan = calloc(in->ckpt->n_tensors + 1u, sizeof *in->scan);
    mg_status st = in->scan ? mg_pool_new(&pool, mg_scan_threads(in->common.n_threads, in->common.memory), err)
                            : mg_fail_nomem(err, sizeof *in->scan);
    if (st == MG_OK) st = mg_progress_new(&progress, in->common.progress, "inspect", total, err);
    if (st == MG_OK) st = mg_scan_checkpoint(in->ckpt, what, pool, progress, in->scan, err);
    if (progress) mg_progress_free(progress);
    if (pool) mg_pool_free(pool);
    return st;
}

static mg_status run(inspection *in, mg_error *err) {
    MG_TRY(open_path(in, err));
    if (in->model && in->common.experts_per_token && inspect_per_token(in) > mg_hp_i(in->model, MG_K_EXPERTS))
        return mg_fail(err, MG_ERR_USAGE, "--experts-per-token %" PRId64 ": '%s' has %" PRId64 " experts",
                       inspect_per_token(in), in->path, mg_hp_i(in->model, MG_K_EXPERTS));
    MG_TRY(scan(in, err));
    if (in->common.json)
        MG_TRY(inspect_print_json(in, err));
    else
        inspect_print(in);
    /* What the file says was shown; a configuration that contradicts itself is still a failure. An unknown family is
     * not. */
    if (!in->model && inspect_is_model(in) && in->why_no_model.code != MG_ERR_UNSUPPORTED) {
        *err = in->why_no_model;
        mg_error_at(err, in->path, NULL);
        return err->code;
    }
    return MG_OK;
}

static mg_status print_description(const char *name, mg_error *err) {
    const mg_arch *arch = mg_arch_find(name);
    char *text;
    if (!arch) return mg_fail(err, MG_ERR_USAGE, "--print-arch: '%s' is not a family this version knows", name);
    MG_TRY(mg_arch_print(arch, &text, err));
    fputs(text, stdout);
    free(text);
    return MG_OK;
}

int main(int argc, char **argv) {
    inspection in = {0};
    mg_error err = {0};
    mg_opt_list pos = {0};
    bool done = false;
    const char *family = NULL;
    mg_common_init(&in.common);
    const mg_opt opts[] = {
        {"--tensors", MG_OPT_FLAG, &in.tensors, NULL, "list every tensor: type, shape, bytes"},
        {"--kv", MG_OPT_FLAG, &in.kv, NULL, "list all metadata (with --json: arrays in full)"},
        {"--stats", MG_OPT_FLAG, &in.stats, NULL,
         "read all data: min, max, mean, std, zeros and non-finite values per tensor"},
        {"--hash", MG_OPT_FLAG, &in.hash, NULL, "read all data: XXH3-128 and SHA-256 of each tensor's bytes"},
        {"--print-arch", MG_OPT_STR, &family, "FAMILY", "print the description of a family, as --arch reads it"},
        {"--experts-per-token", MG_OPT_STR, &in.common.experts, "K|all",
         "count the active parameters of K experts per token instead of the model's own number"},
        MG_ARCH_OPT,
        MG_COMMON_JSON_OPT(in.common),
        MG_COMMON_EXEC_OPTS(in.common),
        {0},
    };
    mg_status st = mg_options_parse(&tool, opts, argc, argv, &pos, &done, &err);
    if (st == MG_OK && !done) {
        mg_interrupt_install();
        st = mg_common_finish(&in.common, &err);
        if (st == MG_OK && family && pos.n == 0)
            st = print_description(family, &err);
        else if (st == MG_OK && pos.n != 1)
            st = mg_fail(&err, MG_ERR_USAGE, "expected one PATH, found %zu", pos.n);
        if (st == MG_OK && pos.n == 1) {
            in.path = pos.items[0];
            in.tensors |= in.common.verbose;
            in.kv |= in.common.verbose;
            st = run(&in, &err);
        }
    }
    if (in.model) mg_model_free(in.model);
    if (!in.merged.ckpt) mg_checkpoint_free(in.dense ? in.dense : in.ckpt);
    mg_tool_weights_close(&in.merged);
    mg_json_free(in.own_config);
    free(in.scan);
    mg_opt_list_release(&pos);
    mg_common_release(&in.common);
    return st == MG_OK ? 0 : mg_tool_fail(&tool, &err);
}
