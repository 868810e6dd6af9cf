/* config_ckpt.c - see config_ckpt.h. */
#include "convert/config_ckpt.h"

#include "formats/arch/arch.h"
#include "formats/base/file.h"
#include "formats/base/text.h"
#include "formats/hf_dir.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

typedef struct config_ckpt {
    mg_checkpoint base; /* first: ops receive it */
    mg_json *config;
    char *dir;
    mg_targets targets; /* owns the names */
} config_ckpt;

static mg_status no_values(mg_checkpoint *c, uint32_t t, uint64_t offset, void *dst, uint64_t n, mg_error *err) {
    (void)offset;
    (void)dst;
    (void)n;
    mg_fail(err, MG_ERR_USAGE, "there are no weights, only a configuration: it can be planned with --dry-run");
    mg_error_at(err, c->path, c->tensors[t].name);
    return MG_ERR_USAGE;
}

static mg_status unchanged(mg_checkpoint *c, mg_error *err) {
    (void)c;
    (void)err;
    return MG_OK;
}

static mg_status no_identity(mg_checkpoint *c, uint8_t id[16], mg_error *err) {
    (void)id;
    return mg_fail(err, MG_ERR_USAGE, "'%s' is a configuration without weights", c->path);
}

static void free_config(mg_checkpoint *c) {
    config_ckpt *k = (config_ckpt *)(void *)c;
    mg_strmap_release(&c->by_name);
    mg_targets_release(&k->targets);
    mg_json_free(k->config);
    free((char *)(void *)(uintptr_t)c->path);
    free(k->dir);
    free(c->tensors);
    free(k);
}

static const mg_checkpoint_ops ops = {no_values, unchanged, no_identity, free_config};

bool mg_config_ckpt_is(const char *path) {
    static const char *const kinds[] = {".safetensors", ".safetensors.index.json", ".gguf", ".bin", ".pth", ".pt"};
    bool config = false, weights = false;
    if (!mg_path_is_dir(path)) return mg_ends_with(path, ".json") && mg_path_exists(path);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        config |= strcmp(e->d_name, "config.json") == 0;
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) weights |= mg_ends_with(e->d_name, kinds[i]);
    }
    if (d) closedir(d);
    return config && !weights;
}

static mg_status fill_tensors(config_ckpt *k, mg_error *err) {
    mg_model *m;
    mg_dtype dtype = mg_config_dtype(k->config);
    if (dtype == MG_DTYPE_COUNT) dtype = MG_BF16;
    MG_TRY(mg_model_from_config(&m, k->config, err));
    mg_status st = mg_arch_targets(&k->targets, m->arch, &m->hp, m->layers, MG_LAYOUT_HF, NULL, NULL, err);
    mg_model_free(m);
    MG_TRY(st);
    k->base.tensors = calloc(k->targets.n + 1, sizeof *k->base.tensors);
    if (!k->base.tensors) return mg_fail_nomem(err, k->targets.n * sizeof *k->base.tensors);
    for (size_t i = 0; i < k->targets.n; i++) {
        const mg_target *from = &k->targets.items[i];
        mg_tensor *t = &k->base.tensors[i];
        *t = (mg_tensor){.name = from->name, .dtype = dtype, .rank = from->rank};
        memcpy(t->shape, from->shape, sizeof t->shape);
        if (!mg_tensor_set_sizes(t)) return mg_fail(err, MG_ERR_LIMIT, "'%s' is too large", t->name);
        MG_TRY(mg_strmap_put(&k->base.by_name, t->name, strlen(t->name), (uint32_t)i, NULL, err));
        k->base.n_tensors++;
    }
    return MG_OK;
}

static mg_status fill(config_ckpt *k, const char *path, mg_error *err) {
    char file[4096];
    const bool dir = mg_path_is_dir(path);
    if (dir) MG_TRY(mg_path_join(file, sizeof file, path, "config.json", err));
    k->base.path = strdup(path);
    k->dir = dir ? strdup(path) : NULL;
    if (!k->base.path || (dir && !k->dir)) return mg_fail_nomem(err, strlen(path));
    k->base.dir = k->dir;
    MG_TRY(mg_json_load(&k->config, dir ? file : path, MG_HF_CONFIG_CAP, err));
    if (mg_json_type(k->config) != MG_JSON_OBJECT) return mg_fail(err, MG_ERR_FORMAT, "is not a JSON object");
    mg_json_remove(k->config, "quantization_config"); /* of the model, however its weights were stored */
    k->base.config = k->config;
    return fill_tensors(k, err);
}

mg_status mg_config_ckpt_open(mg_checkpoint **out, const char *path, mg_error *err) {
    config_ckpt *k = calloc(1, sizeof *k);
    *out = NULL;
    if (!k) return mg_fail_nomem(err, sizeof *k);
    k->base.ops = &ops;
    k->base.container = MG_CONTAINER_HF_DIR;
    mg_strmap_init(&k->base.by_name);
    mg_status st = fill(k, path, err);
    if (st == MG_OK) {
        *out = &k->base;
        return MG_OK;
    }
    mg_error_at(err, path, NULL);
    free_config(&k->base);
    return st;
}
