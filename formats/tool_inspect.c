/* tool_inspect.c - moegraft-inspect: what a model file, a directory or a bare config.json holds. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/tool_recipe.h"
#include "formats/arch/arch.h"
#include "formats/arch/arch_file.h"
#include "formats/base/file.h"
#include "formats/base/options.h"
#include "formats/base/pool.h"
#include "formats/hf_cache.h"
#include "formats/hf_dir.h"
#include "quant/group_checkpoint.h"
#include "quant/scan.h"

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

typedef struct inspection {
    mg_common common;
    bool tensors, kv, stats, hash;
    const char *path;
    mg_tool_weights merged; /* a recipe's model, which owns ckpt */
    mg_checkpoint *ckpt;    /* NULL for a bare configuration */
    mg_checkpoint *dense;   /* what the model is read from: ckpt itself, or the dense view that owns it */
    mg_json *own_config;    /* of a bare configuration */
    const mg_json *config;
    mg_model *model; /* NULL: family unknown, see why_no_model */
    mg_error why_no_model;
    mg_scan *scan; /* [n_tensors] when stats or hash were asked for */
} inspection;

/* Experts of a token, as asked for or as the model says. */
static int64_t per_token(const inspection *in) {
    const uint32_t asked = in->common.experts_per_token;
    if (asked == MG_EXPERTS_ALL) return mg_hp_i(in->model, MG_K_EXPERTS);
    return asked ? (int64_t)asked : mg_hp_i(in->model, MG_K_EXPERTS_USED);
}

/* ---- opening ---- */

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

/* A directory that has a config.json and nothing that could be weights. */
static bool is_config_only(const char *dir) {
    bool config = false, weights = false;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        static const char *const kinds[] = {".safetensors", ".safetensors.index.json", ".gguf", ".bin", ".pth", ".pt"};
        config |= strcmp(e->d_name, "config.json") == 0;
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) weights |= ends_with(e->d_name, kinds[i]);
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
    if (ends_with(in->path, ".json") && mg_path_exists(in->path)) return open_config(in, in->path, err);
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

/* A file that is no model (captures, importance matrices) has no family, and that is no error. */
static bool is_model(const inspection *in) {
    if (!in->ckpt || in->ckpt->container == MG_CONTAINER_HF_DIR || in->ckpt->params) return true;
    mg_str type;
    if (mg_kv_str(mg_kvs_get(in->ckpt->kv, "general.type"), &type) && strcmp(type.data, "model") != 0) return false;
    return mg_kvs_get(in->ckpt->kv, "general.architecture") != NULL;
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

/* ---- facts ---- */

static const char *format_name(const inspection *in) {
    if (!in->ckpt) return "config";
    switch (in->ckpt->container) {
    case MG_CONTAINER_SAFETENSORS:
        return "safetensors";
    case MG_CONTAINER_HF_DIR:
        return "hf";
    case MG_CONTAINER_GGUF:
        return "gguf";
    case MG_CONTAINER_PLAN:
        return "plan";
    case MG_CONTAINER_TORCH:
        return "torch";
    case MG_CONTAINER_NATIVE:
        return "native";
    }
    return "?";
}

typedef struct type_sum {
    uint64_t tensors, elements, bytes;
} type_sum;

static type_sum sum_types(const inspection *in, type_sum by[MG_DTYPE_COUNT]) {
    type_sum all = {0};
    memset(by, 0, MG_DTYPE_COUNT * sizeof *by);
    for (uint32_t i = 0; in->ckpt && i < in->ckpt->n_tensors; i++) {
        const mg_tensor *t = &in->ckpt->tensors[i];
        type_sum *to[2] = {&by[t->dtype], &all};
        for (int k = 0; k < 2; k++) {
            to[k]->tensors++;
            to[k]->elements += t->n_elements;
            to[k]->bytes += t->n_bytes;
        }
    }
    if (!in->dense || in->dense == in->ckpt) return all;
    all.elements = 0; /* weights are counted, not the words that hold their codes */
    for (uint32_t i = 0; i < in->dense->n_tensors; i++) all.elements += in->dense->tensors[i].n_elements;
    return all;
}

static double bits_per_weight(type_sum s) {
    return s.elements ? 8.0 * (double)s.bytes / (double)s.elements : 0;
}

/* Names of the tokenizer's files or of its GGUF kind; "" when there is none. */
static void tokenizer_text(const inspection *in, char *buf, size_t size) {
    static const char *const files[] = {"tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json"};
    mg_str kind;
    buf[0] = 0;
    if (!in->ckpt) return;
    if (in->ckpt->kv) {
        const mg_kv *tokens = mg_kvs_get(in->ckpt->kv, "tokenizer.ggml.tokens");
        if (mg_kv_str(mg_kvs_get(in->ckpt->kv, "tokenizer.ggml.model"), &kind))
            snprintf(buf, size, "%s, %" PRIu64 " tokens", kind.data, tokens ? tokens->count : 0);
        return;
    }
    for (size_t i = 0; in->ckpt->dir && i < sizeof files / sizeof *files; i++) {
        char path[4096];
        size_t at = strlen(buf);
        if (mg_path_join(path, sizeof path, in->ckpt->dir, files[i], NULL) == MG_OK && mg_path_exists(path))
            snprintf(buf + at, size - at, "%s%s", at ? ", " : "", files[i]);
    }
}

/* Where a chat template is kept, or NULL. */
static const char *template_place(const inspection *in) {
    char path[4096];
    if (!in->ckpt) return NULL;
    if (in->ckpt->kv) return mg_kvs_get(in->ckpt->kv, "tokenizer.chat_template") ? "tokenizer.chat_template" : NULL;
    if (!in->ckpt->dir) return NULL;
    if (mg_path_join(path, sizeof path, in->ckpt->dir, "chat_template.jinja", NULL) == MG_OK && mg_path_exists(path))
        return "chat_template.jinja";
    mg_json *j = NULL;
    bool found = mg_path_join(path, sizeof path, in->ckpt->dir, "tokenizer_config.json", NULL) == MG_OK &&
                 mg_json_load(&j, path, MG_HF_CONFIG_CAP, NULL) == MG_OK && mg_json_get(j, "chat_template");
    mg_json_free(j);
    return found ? "tokenizer_config.json" : NULL;
}

static const char *runs_it(const inspection *in) {
    if (!in->model || !in->ckpt) return NULL;
    return in->ckpt->kv ? "llama.cpp and what is built on it (Ollama, LM Studio, llama-cpp-python); moegraft forward"
                        : "transformers, vLLM; moegraft forward";
}

/* ---- text ---- */

/* Text of a file as a terminal may show it. */
static void print_escaped(const char *s, uint64_t n, uint64_t limit) {
    for (uint64_t i = 0; i < n && i < limit; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '\n')
            fputs("\\n", stdout);
        else if (c < 0x20 || c == 0x7F)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
    if (n > limit) printf("... (%" PRIu64 " bytes)", n);
}

static void print_scalar(const mg_kv *v) {
    mg_str s;
    uint64_t u;
    int64_t i;
    double d;
    bool b;
    if (mg_kv_str(v, &s))
        print_escaped(s.data, s.size, 200);
    else if (v->type == MG_KV_BOOL && mg_kv_bool(v, &b))
        fputs(b ? "true" : "false", stdout);
    else if (mg_kv_i64(v, &i))
        printf("%" PRId64, i);
    else if (mg_kv_u64(v, &u))
        printf("%" PRIu64, u);
    else if (mg_kv_f64(v, &d))
        printf("%.9g", d);
}

static void print_kvs(const mg_kvs *kv) {
    printf("metadata: %" PRIu32 " keys\n", kv->n);
    for (uint32_t i = 0; i < kv->n; i++) {
        const mg_kv *v = &kv->items[i];
        printf("  %-44s ", v->key.data);
        if (v->type != MG_KV_ARR) {
            printf("%-4s ", mg_kv_type_name(v->type));
            print_scalar(v);
        } else {
            printf("%s[%" PRIu64 "]", mg_kv_type_name(v->elem), v->count);
            mg_kv e;
            for (uint64_t k = 0; k < 6 && mg_kv_elem(v, k, &e); k++) {
                fputs(k ? ", " : " ", stdout);
                print_scalar(&e);
            }
            if (v->count > 6) fputs(", ...", stdout);
        }
        putchar('\n');
    }
}

static void print_tensors(const inspection *in) {
    char shape[200], hex[65];
    printf("tensors: %" PRIu32 "\n", in->ckpt->n_tensors);
    for (uint32_t i = 0; i < in->ckpt->n_tensors; i++) {
        const mg_tensor *t = &in->ckpt->tensors[i];
        fputs("  ", stdout);
        print_escaped(t->name, strlen(t->name), 300);
        printf("  %s %s %" PRIu64 " bytes", mg_dtype_get(t->dtype)->name, mg_tensor_shape_text(t, shape, sizeof shape),
               t->n_bytes);
        if (in->stats) {
            const mg_scan_stats *s = &in->scan[i].stats;
            printf("  min %.6g max %.6g mean %.6g std %.6g zeros %" PRIu64 " non-finite %" PRIu64, s->min, s->max,
                   s->mean, s->std, s->zeros, s->nans + s->infs);
        }
        if (in->hash) {
            mg_hex(in->scan[i].xxh3.bytes, 16, hex);
            printf("  xxh3 %s", hex);
            mg_hex(in->scan[i].sha256, 32, hex);
            printf("  sha256 %s", hex);
        }
        putchar('\n');
    }
}

static void print_family(const inspection *in) {
    if (!in->model) {
        printf("family:      unknown (%s)\n", is_model(in) ? in->why_no_model.message : "no model: tensors only");
        return;
    }
    mg_counts n = mg_model_counts(in->model, (uint64_t)per_token(in));
    char human[MG_HUMAN_MAX];
    printf("family:      %s, %" PRId64 " layers, hidden size %" PRId64 "\n", in->model->arch->name,
           mg_hp_i(in->model, MG_K_LAYERS), mg_hp_i(in->model, MG_K_HIDDEN));
    if (mg_hp_i(in->model, MG_K_EXPERTS))
        printf("experts:     %" PRId64 " of %" PRId64 " per token\n", per_token(in), mg_hp_i(in->model, MG_K_EXPERTS));
    printf("parameters:  %" PRIu64 " total, %" PRIu64 " active per token, %" PRIu64 " without embeddings\n", n.total,
           n.active, n.non_embedding);
    if (n.active_one_bond != n.active)
        printf("             %" PRIu64 " active when one bond of the grid of experts is counted instead of all\n",
               n.active_one_bond);
    printf("work:        %" PRIu64 " FLOP per token (matrices), %s of 16-bit KV cache per token\n", n.flop_per_token,
           mg_human_bytes(n.kv_bytes_per_token, human));
    for (uint32_t i = 0; i < in->model->n_assumptions; i++) printf("assumed:     %s\n", in->model->assumptions[i]);
}

static void print_report(const inspection *in) {
    char text[512], human[MG_HUMAN_MAX];
    type_sum by[MG_DTYPE_COUNT], all = sum_types(in, by);
    printf("path:        %s\nformat:      %s\n", in->path, format_name(in));
    print_family(in);
    if (in->ckpt) {
        printf("data:        %s in %" PRIu64 " tensors, %" PRIu32 " file%s, %.4f bits per weight\n",
               mg_human_bytes(all.bytes, human), all.tensors, in->ckpt->n_files, in->ckpt->n_files == 1 ? "" : "s",
               bits_per_weight(all));
        for (int t = 0; t < MG_DTYPE_COUNT; t++)
            if (by[t].tensors)
                printf("  %-10s %8" PRIu64 " tensors %12s\n", mg_dtype_get((mg_dtype)t)->name, by[t].tensors,
                       mg_human_bytes(by[t].bytes, human));
        tokenizer_text(in, text, sizeof text);
        const char *where = template_place(in), *runs = runs_it(in);
        printf("tokenizer:   %s\ntemplate:    %s\n", text[0] ? text : "none", where ? where : "none");
        if (runs) printf("runs in:     %s\n", runs);
        const mg_checkpoint *said = in->dense ? in->dense : in->ckpt;
        for (uint32_t i = 0; i < said->n_notes; i++) printf("note:        %s\n", said->notes[i]);
        if (in->kv && in->ckpt->kv) print_kvs(in->ckpt->kv);
        if (in->kv && in->ckpt->st_metadata) print_kvs(in->ckpt->st_metadata);
        if (in->tensors || in->stats || in->hash) print_tensors(in);
    }
}

/* ---- JSON ---- */

static mg_json *kv_scalar_json(const mg_kv *v) {
    mg_str s;
    uint64_t u;
    int64_t i;
    double d;
    bool b;
    if (mg_kv_str(v, &s)) return mg_json_new_str(s.data);
    if (v->type == MG_KV_BOOL && mg_kv_bool(v, &b)) return mg_json_new_bool(b);
    if (mg_kv_i64(v, &i)) return mg_json_new_i64(i);
    if (mg_kv_u64(v, &u)) return mg_json_new_u64(u);
    return mg_json_new_f64(mg_kv_f64(v, &d) ? d : 0);
}

/* Arrays longer than this appear as {"elem":type,"count":n} unless --kv asks for all of them. */
enum { SHORT_ARRAY = 64 };

static mg_json *kvs_json(const mg_kvs *kv, bool full) {
    mg_json *o = mg_json_new_object();
    for (uint32_t i = 0; kv && i < kv->n; i++) {
        const mg_kv *v = &kv->items[i];
        mg_json *j;
        if (v->type != MG_KV_ARR) {
            j = kv_scalar_json(v);
        } else if (full || v->count <= SHORT_ARRAY) {
            mg_kv e;
            j = mg_json_new_array();
            for (uint64_t k = 0; mg_kv_elem(v, k, &e); k++) mg_json_push(j, kv_scalar_json(&e));
        } else {
            j = mg_json_new_object();
            mg_json_set_str(j, "elem", mg_kv_type_name(v->elem));
            mg_json_set_u64(j, "count", v->count);
        }
        mg_json_add(o, v->key.data, j); /* keys were unique in the file */
    }
    return o;
}

static mg_json *stats_json(const mg_scan_stats *s) {
    mg_json *o = mg_json_new_object();
    mg_json_set_f64(o, "min", s->min);
    mg_json_set_f64(o, "max", s->max);
    mg_json_set_f64(o, "mean", s->mean);
    mg_json_set_f64(o, "std", s->std);
    mg_json_set_u64(o, "zeros", s->zeros);
    mg_json_set_u64(o, "nan", s->nans);
    mg_json_set_u64(o, "inf", s->infs);
    return o;
}

static mg_json *tensor_json(const inspection *in, uint32_t i) {
    const mg_tensor *t = &in->ckpt->tensors[i];
    mg_json *o = mg_json_new_object(), *shape = mg_json_new_array();
    char hex[65];
    for (uint32_t d = 0; d < t->rank; d++) mg_json_push(shape, mg_json_new_u64(t->shape[d]));
    mg_json_set_str(o, "name", t->name);
    mg_json_set_str(o, "dtype", mg_dtype_get(t->dtype)->name);
    mg_json_set(o, "shape", shape);
    mg_json_set_u64(o, "bytes", t->n_bytes);
    mg_json_set_str(o, "file", in->ckpt->files[t->file]);
    mg_json_set_u64(o, "offset", t->offset);
    if (in->hash) {
        mg_hex(in->scan[i].xxh3.bytes, 16, hex);
        mg_json_set_str(o, "xxh3", hex);
        mg_hex(in->scan[i].sha256, 32, hex);
        mg_json_set_str(o, "sha256", hex);
    }
    if (in->stats) mg_json_set(o, "stats", stats_json(&in->scan[i].stats));
    return o;
}

static void add_family(mg_json *o, const inspection *in, uint64_t stored) {
    mg_json *p = mg_json_new_object();
    mg_json_set(o, "family", in->model ? mg_json_new_str(in->model->arch->name) : mg_json_new_null());
    if (!in->model) {
        mg_json_set_u64(p, "total", stored); /* what is stored; the rest needs a known family */
        mg_json_set(p, "active", mg_json_new_null());
        mg_json_set(p, "non_embedding", mg_json_new_null());
        mg_json_set(o, "parameters", p);
        return;
    }
    mg_counts n = mg_model_counts(in->model, (uint64_t)per_token(in));
    mg_json_set_u64(p, "total", n.total);
    mg_json_set_u64(p, "active", n.active);
    mg_json_set_u64(p, "non_embedding", n.non_embedding);
    if (n.active_one_bond != n.active) mg_json_set_u64(p, "active_one_bond", n.active_one_bond);
    mg_json_set(o, "parameters", p);
    mg_json_set_u64(o, "flop_per_token", n.flop_per_token);
    mg_json_set_u64(o, "kv_bytes_per_token", n.kv_bytes_per_token);
    mg_json_set_i64(o, "layers", mg_hp_i(in->model, MG_K_LAYERS));
    mg_json_set_i64(o, "experts", mg_hp_i(in->model, MG_K_EXPERTS));
    mg_json_set_i64(o, "experts_per_token", per_token(in));
}

static mg_status print_json(const inspection *in, mg_error *err) {
    type_sum by[MG_DTYPE_COUNT], all = sum_types(in, by);
    char text[512], *out = NULL;
    const char *place = template_place(in), *runs = runs_it(in);
    mg_json *o = mg_json_new_object(), *types = mg_json_new_object(), *notes = mg_json_new_array(),
            *list = mg_json_new_array();
    mg_json *config = NULL;
    mg_json_set_i64(o, "schema", 1);
    mg_json_set_str(o, "path", in->path);
    mg_json_set_str(o, "format", format_name(in));
    add_family(o, in, all.elements);
    if (in->config) MG_TRY(mg_json_dup(&config, in->config, err));
    mg_json_set(o, "config", config ? config : mg_json_new_object());
    const mg_kvs *kv = !in->ckpt ? NULL : in->ckpt->kv ? in->ckpt->kv : in->ckpt->st_metadata;
    mg_json_set(o, "metadata", kvs_json(kv, in->kv));
    mg_json_set_u64(o, "bytes", all.bytes);
    mg_json_set_f64(o, "bpw", bits_per_weight(all));
    for (int t = 0; t < MG_DTYPE_COUNT; t++)
        if (by[t].tensors) mg_json_set_u64(types, mg_dtype_get((mg_dtype)t)->name, by[t].bytes);
    mg_json_set(o, "types", types);
    tokenizer_text(in, text, sizeof text);
    mg_json_set(o, "tokenizer", text[0] ? mg_json_new_str(text) : mg_json_new_null());
    mg_json_set(o, "template", place ? mg_json_new_str(place) : mg_json_new_null());
    mg_json_set(o, "runs_in", runs ? mg_json_new_str(runs) : mg_json_new_null());
    const mg_checkpoint *said = in->dense ? in->dense : in->ckpt;
    for (uint32_t i = 0; said && i < said->n_notes; i++) mg_json_push(notes, mg_json_new_str(said->notes[i]));
    if (!in->model && is_model(in)) mg_json_push(notes, mg_json_new_str(in->why_no_model.message));
    mg_json_set(o, "notes", notes);
    for (uint32_t i = 0; in->ckpt && i < in->ckpt->n_tensors; i++) mg_json_push(list, tensor_json(in, i));
    mg_json_set(o, "tensors", list);
    mg_status st = mg_json_print(&out, o, 1, err);
    if (st == MG_OK) puts(out);
    free(out);
    mg_json_free(o);
    return st;
}

/* ---- */

static mg_status run(inspection *in, mg_error *err) {
    MG_TRY(open_path(in, err));
    if (in->model && in->common.experts_per_token && per_token(in) > mg_hp_i(in->model, MG_K_EXPERTS))
        return mg_fail(err, MG_ERR_USAGE, "--experts-per-token %" PRId64 ": '%s' has %" PRId64 " experts",
                       per_token(in), in->path, mg_hp_i(in->model, MG_K_EXPERTS));
    MG_TRY(scan(in, err));
    if (in->common.json)
        MG_TRY(print_json(in, err));
    else
        print_report(in);
    /* What the file says was shown; a configuration that contradicts itself is still a failure. An unknown family is
     * not. */
    if (!in->model && is_model(in) && in->why_no_model.code != MG_ERR_UNSUPPORTED) {
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
