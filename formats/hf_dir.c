/* hf_dir.c - Hugging Face model directories and single safetensors files as checkpoints. */
#include "formats/hf_dir.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "formats/base/jsonlex.h"
#include "formats/base/text.h"
#include "formats/container.h"
#include "formats/safetensors.h"
#include "formats/torch_file.h"

/* The names under which weights count, in order of precedence, and what their index may name. */
static const struct kind {
    const char *single, *index, *suffix;
} kinds[] = {{"model.safetensors", "model.safetensors.index.json", ".safetensors"},
             {"pytorch_model.bin", "pytorch_model.bin.index.json", ".bin"}};

/* The cache keeps files as REPO/snapshots/REV/[DIR/]FILE linking to REPO/blobs/HASH. */
static bool is_cache_link(const char *real_dir, const char *target) {
    static const char mark[] = "/snapshots/";
    const char *at = NULL;
    for (const char *p = real_dir; (p = strstr(p, mark)) != NULL; p++) at = p;
    size_t root = at ? (size_t)(at - real_dir) : 0;
    return at && strncmp(target, real_dir, root) == 0 && strncmp(target + root, "/blobs/", 7) == 0;
}

static bool is_inside(const char *real_dir, const char *target) {
    size_t n = strlen(real_dir);
    return strncmp(target, real_dir, n) == 0 && (target[n] == '/' || (n == 1 && real_dir[0] == '/'));
}

mg_status mg_hf_check_link(const char *dir, const char *name, mg_error *err) {
    char path[4096];
    struct stat sb;
    MG_TRY(mg_path_join(path, sizeof path, dir, name, err));
    if (lstat(path, &sb) != 0 || !S_ISLNK(sb.st_mode)) return MG_OK;
    char *target = realpath(path, NULL), *real_dir = realpath(dir, NULL);
    mg_status st = MG_OK;
    if (!target || mg_ends_with(target, ".incomplete"))
        st = mg_fail(err, MG_ERR_FORMAT,
                     "link to missing or unfinished data: the download was interrupted, run it again");
    else if (!real_dir || (!is_inside(real_dir, target) && !is_cache_link(real_dir, target)))
        st = mg_fail(err, MG_ERR_FORMAT, "link leaves the model directory (to '%s')", target);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    free(target);
    free(real_dir);
    return st;
}

mg_status mg_hf_add_shard(mg_files_ckpt *c, const char *dir, const char *name, mg_error *err) {
    char path[4096];
    MG_TRY(mg_path_join(path, sizeof path, dir, name, err));
    MG_TRY(mg_hf_check_link(dir, name, err));
    return mg_torch_is_name(name) ? mg_files_ckpt_add_torch(c, path, name, err)
                                  : mg_files_ckpt_add_safetensors(c, path, name, err);
}

/* ---- the index ---- */

typedef struct shard_index {
    mg_arena arena;
    mg_strmap tensors;  /* name -> shard */
    mg_strmap shard_of; /* shard file name -> shard */
    const char **names; /* tensor names in index order, for "missing" messages */
    uint32_t *shard;    /* of names[i] */
    uint32_t n, cap;
    const char **shards;
    uint32_t n_shards, shards_cap;
    bool has_total;
    uint64_t total_size;
    const char *file, *suffix; /* name of the index; end of the names of shards */
    mg_jsonlex lx;
} shard_index;

static mg_status index_bad(shard_index *ix, mg_error *err, const char *message) {
    mg_fail(err, MG_ERR_FORMAT, "%s", message);
    mg_error_offset(err, ix->lx.token_at);
    return MG_ERR_FORMAT;
}

static mg_status index_string(shard_index *ix, char **out, size_t *len, mg_error *err) {
    char *s = mg_arena_alloc(&ix->arena, ix->lx.raw_len + 1, 1);
    if (!s) return mg_fail_nomem(err, ix->lx.raw_len);
    *out = s;
    return mg_jsonlex_string(&ix->lx, s, ix->lx.raw_len + 1, len, err);
}

static mg_status grow_pair(void **a, size_t size, uint32_t n, uint32_t cap, mg_error *err) {
    if (n < cap) return MG_OK;
    void *p = realloc(*a, (size_t)(cap ? cap * 2 : 64) * size);
    if (!p) return mg_fail_nomem(err, (uint64_t)cap * 2 * size);
    *a = p;
    return MG_OK;
}

static mg_status index_shard(shard_index *ix, const char *file, size_t len, uint32_t *shard, mg_error *err) {
    *shard = mg_strmap_get(&ix->shard_of, file, len);
    if (*shard != MG_STRMAP_NONE) return MG_OK;
    if (mg_path_check_plain(file, err) != MG_OK) {
        mg_error_offset(err, ix->lx.token_at);
        return MG_ERR_FORMAT;
    }
    if (!mg_ends_with(file, ix->suffix)) {
        mg_fail(err, MG_ERR_FORMAT, "index names a file that is no %s", ix->suffix);
        mg_error_offset(err, ix->lx.token_at);
        return MG_ERR_FORMAT;
    }
    MG_TRY(grow_pair((void **)&ix->shards, sizeof *ix->shards, ix->n_shards, ix->shards_cap, err));
    if (ix->n_shards == ix->shards_cap) ix->shards_cap = ix->shards_cap ? ix->shards_cap * 2 : 64;
    *shard = ix->n_shards;
    ix->shards[ix->n_shards++] = file;
    return mg_strmap_put(&ix->shard_of, file, len, *shard, NULL, err);
}

static mg_status index_weight_map(shard_index *ix, mg_error *err) {
    mg_jtok tok;
    MG_TRY(mg_jsonlex_next(&ix->lx, &tok, err));
    if (tok != MG_JTOK_OBJ_BEGIN) return index_bad(ix, err, "weight_map is not an object");
    for (;;) {
        char *name = NULL, *file = NULL;
        size_t name_len, file_len;
        uint32_t shard, before;
        MG_TRY(mg_jsonlex_next(&ix->lx, &tok, err));
        if (tok == MG_JTOK_OBJ_END) return MG_OK;
        MG_TRY(index_string(ix, &name, &name_len, err));
        MG_TRY(mg_jsonlex_next(&ix->lx, &tok, err));
        if (tok != MG_JTOK_STRING) return index_bad(ix, err, "weight_map value is not a string");
        MG_TRY(index_string(ix, &file, &file_len, err));
        MG_TRY(index_shard(ix, file, file_len, &shard, err));
        MG_TRY(mg_strmap_put(&ix->tensors, name, name_len, shard, &before, err));
        if (before != MG_STRMAP_NONE) return index_bad(ix, err, "duplicate tensor in weight_map");
        MG_TRY(grow_pair((void **)&ix->names, sizeof *ix->names, ix->n, ix->cap, err));
        MG_TRY(grow_pair((void **)&ix->shard, sizeof *ix->shard, ix->n, ix->cap, err));
        if (ix->n == ix->cap) ix->cap = ix->cap ? ix->cap * 2 : 64;
        ix->shard[ix->n] = shard;
        ix->names[ix->n++] = name;
    }
}

static mg_status index_metadata(shard_index *ix, mg_error *err) {
    mg_jtok tok;
    MG_TRY(mg_jsonlex_next(&ix->lx, &tok, err));
    if (tok != MG_JTOK_OBJ_BEGIN) return mg_jsonlex_skip(&ix->lx, tok, err);
    for (;;) {
        char *key = NULL;
        size_t len;
        MG_TRY(mg_jsonlex_next(&ix->lx, &tok, err));
        if (tok == MG_JTOK_OBJ_END) return MG_OK;
        MG_TRY(index_string(ix, &key, &len, err));
        bool total = strcmp(key, "total_size") == 0;
        MG_TRY(mg_jsonlex_next(&ix->lx, &tok, err));
        /* Some writers store it as a float; then it is not compared. */
        if (total && tok == MG_JTOK_NUMBER)
            ix->has_total = mg_jsonlex_u64(&ix->lx, &ix->total_size, NULL) == MG_OK;
        else
            MG_TRY(mg_jsonlex_skip(&ix->lx, tok, err));
    }
}

static mg_status index_parse(shard_index *ix, mg_span text, mg_error *err) {
    mg_jtok tok;
    bool seen_map = false, seen_meta = false;
    mg_jsonlex_init(&ix->lx, text, 0);
    MG_TRY(mg_jsonlex_next(&ix->lx, &tok, err));
    if (tok != MG_JTOK_OBJ_BEGIN) return index_bad(ix, err, "index is not a JSON object");
    for (;;) {
        char *key = NULL;
        size_t len;
        MG_TRY(mg_jsonlex_next(&ix->lx, &tok, err));
        if (tok == MG_JTOK_OBJ_END) break;
        MG_TRY(index_string(ix, &key, &len, err));
        bool map = strcmp(key, "weight_map") == 0, meta = strcmp(key, "metadata") == 0;
        if ((map && seen_map) || (meta && seen_meta)) return index_bad(ix, err, "duplicate key in the index");
        seen_map |= map;
        seen_meta |= meta;
        if (map) {
            MG_TRY(index_weight_map(ix, err));
        } else if (meta) {
            MG_TRY(index_metadata(ix, err));
        } else {
            MG_TRY(mg_jsonlex_next(&ix->lx, &tok, err));
            MG_TRY(mg_jsonlex_skip(&ix->lx, tok, err));
        }
    }
    MG_TRY(mg_jsonlex_next(&ix->lx, &tok, err));
    return seen_map ? MG_OK : index_bad(ix, err, "index has no weight_map");
}

static void index_release(shard_index *ix) {
    mg_strmap_release(&ix->tensors);
    mg_strmap_release(&ix->shard_of);
    free(ix->names);
    free(ix->shard);
    free(ix->shards);
    mg_arena_release(&ix->arena);
}

/* ---- shards ---- */

static int by_string(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* "'a', 'b' and 3 more" */
static void list_add(char *buf, size_t size, uint32_t *n, const char *name) {
    size_t at = strlen(buf), need = strlen(name) + 5;
    if (at + need < size) snprintf(buf + at, size - at, "%s'%s'", at ? ", " : "", name);
    ++*n;
}

static mg_status check_shards_exist(const char *dir, shard_index *ix, mg_error *err) {
    char missing[700] = "", path[4096];
    uint32_t n = 0;
    struct stat sb;
    for (uint32_t i = 0; i < ix->n_shards; i++) {
        MG_TRY(mg_path_join(path, sizeof path, dir, ix->shards[i], err));
        if (lstat(path, &sb) != 0) list_add(missing, sizeof missing, &n, ix->shards[i]);
    }
    return n == 0 ? MG_OK
                  : mg_fail(err, MG_ERR_FORMAT, "%" PRIu32 " of %" PRIu32 " shards are missing: %s", n, ix->n_shards,
                            missing);
}

/* Tensors of the shard just added against the index. */
static mg_status check_shard_tensors(const mg_files_ckpt *c, const shard_index *ix, const char *shard, mg_error *err) {
    uint32_t want = mg_strmap_get(&ix->shard_of, shard, strlen(shard));
    for (uint32_t i = c->base.n_tensors; i-- > 0;) {
        const mg_tensor *t = &c->base.tensors[i];
        if (t->file + 1 != c->base.n_files) break;
        uint32_t says = mg_strmap_get(&ix->tensors, t->name, strlen(t->name));
        if (says == want) continue;
        if (says == MG_STRMAP_NONE)
            mg_fail(err, MG_ERR_FORMAT, "is not in the index");
        else
            mg_fail(err, MG_ERR_FORMAT, "the index places it in '%s'", ix->shards[says]);
        mg_error_at(err, c->files[c->base.n_files - 1]->path, t->name);
        return MG_ERR_FORMAT;
    }
    return MG_OK;
}

static mg_status check_complete(const mg_files_ckpt *c, const shard_index *ix, mg_error *err) {
    char missing[700] = "";
    uint32_t n = 0;
    for (uint32_t i = 0; i < ix->n; i++)
        if (mg_checkpoint_find(&c->base, ix->names[i]) == MG_STRMAP_NONE)
            list_add(missing, sizeof missing, &n, ix->names[i]);
    return n == 0 ? MG_OK
                  : mg_fail(err, MG_ERR_FORMAT, "%" PRIu32 " tensors of the index are in no shard: %s", n, missing);
}

static mg_status note_total(mg_files_ckpt *c, const shard_index *ix, mg_error *err) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < c->base.n_tensors; i++)
        sum += c->base.tensors[i].n_bytes; /* each <= its file: no overflow */
    if (!ix->has_total || ix->total_size == sum) return MG_OK;
    return mg_files_ckpt_note(c, err, "%s: total_size is %" PRIu64 ", the tensors have %" PRIu64 " bytes", ix->file,
                              ix->total_size, sum);
}

static mg_status note_strays(mg_files_ckpt *c, const char *dir, const shard_index *ix, mg_error *err) {
    DIR *d = opendir(dir);
    mg_status st = MG_OK;
    for (struct dirent *e; d && st == MG_OK && (e = readdir(d)) != NULL;)
        if (mg_ends_with(e->d_name, ix->suffix) && e->d_name[0] != '.' &&
            mg_strmap_get(&ix->shard_of, e->d_name, strlen(e->d_name)) == MG_STRMAP_NONE)
            st = mg_files_ckpt_note(c, err, "'%s' is not named by the index and was not read", e->d_name);
    if (d) closedir(d);
    return st;
}

static mg_status add_sharded(mg_files_ckpt *c, const char *dir, shard_index *ix, mg_error *err) {
    char path[4096], *text = NULL;
    size_t n = 0;
    MG_TRY(mg_path_join(path, sizeof path, dir, ix->file, err));
    MG_TRY(mg_hf_check_link(dir, ix->file, err));
    mg_status st = mg_file_slurp(path, MG_HF_INDEX_CAP, &text, &n, err);
    if (st == MG_OK) st = index_parse(ix, (mg_span){(const uint8_t *)text, n}, err);
    free(text);
    if (st == MG_OK) st = check_shards_exist(dir, ix, err);
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        return st;
    }
    const char **sorted = malloc((ix->n_shards ? ix->n_shards : 1) * sizeof *sorted);
    if (!sorted) return mg_fail_nomem(err, ix->n_shards * sizeof *sorted);
    memcpy(sorted, ix->shards, ix->n_shards * sizeof *sorted);
    qsort(sorted, ix->n_shards, sizeof *sorted, by_string);
    for (uint32_t i = 0; st == MG_OK && i < ix->n_shards; i++) {
        st = mg_hf_add_shard(c, dir, sorted[i], err);
        if (st == MG_OK) st = check_shard_tensors(c, ix, sorted[i], err);
    }
    free(sorted);
    MG_TRY(st);
    MG_TRY(mg_files_ckpt_index(c, err));
    st = check_complete(c, ix, err);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    MG_TRY(st);
    MG_TRY(note_total(c, ix, err));
    return note_strays(c, dir, ix, err);
}

/* ---- what is in the directory ---- */

static bool has(const char *dir, const char *name) {
    char path[4096];
    struct stat sb;
    return mg_path_join(path, sizeof path, dir, name, NULL) == MG_OK && lstat(path, &sb) == 0;
}

bool mg_hf_has_weights(const char *dir) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (has(dir, kinds[i].single) || has(dir, kinds[i].index)) return true;
    return false;
}

/* No weights under the names that count: say what there is instead. */
static mg_status explain_no_weights(const char *dir, mg_error *err) {
    bool pickle = false, shard = false, gguf = false;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        pickle |= mg_torch_is_name(e->d_name);
        shard |= mg_ends_with(e->d_name, ".safetensors");
        gguf |= mg_ends_with(e->d_name, ".gguf");
    }
    if (d) closedir(d);
    if (has(dir, "qmodel.pt"))
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "weights quantized by HQQ ('qmodel.pt') are not read; convert from the float checkpoint");
    if (shard)
        return mg_fail(err, MG_ERR_FORMAT,
                       "has .safetensors files but neither %s nor %s: without an index only %s counts", kinds[0].single,
                       kinds[0].index, kinds[0].single);
    if (pickle)
        return mg_fail(err, MG_ERR_FORMAT,
                       "has .bin, .pth or .pt files but neither %s nor %s; a single file can be named itself",
                       kinds[1].single, kinds[1].index);
    if (gguf) return mg_fail(err, MG_ERR_FORMAT, "has no safetensors weights; name the .gguf file itself");
    return mg_fail(err, MG_ERR_FORMAT, "has no weights (%s or %s)", kinds[0].single, kinds[0].index);
}

static mg_status index_names_single(const shard_index *ix, const char *single, mg_error *err) {
    if (!single || mg_strmap_get(&ix->shard_of, single, strlen(single)) != MG_STRMAP_NONE) return MG_OK;
    return mg_fail(err, MG_ERR_CONFLICT,
                   "holds both %s and an index that does not name it: loaders disagree about which counts, "
                   "remove one",
                   single);
}

mg_status mg_hf_add_indexed(mg_files_ckpt *c, const char *dir, const char *index, const char *suffix,
                            const char *single, mg_error *err) {
    shard_index ix = {.file = index, .suffix = suffix};
    mg_arena_init(&ix.arena, 0);
    mg_strmap_init(&ix.tensors);
    mg_strmap_init(&ix.shard_of);
    mg_status st = add_sharded(c, dir, &ix, err);
    if (st == MG_OK) st = index_names_single(&ix, single, err);
    index_release(&ix);
    return st;
}

static mg_status fill_dir(mg_files_ckpt *c, const char *dir, mg_error *err) {
    MG_TRY(mg_files_ckpt_load_config(c, dir, true, err));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const struct kind *k = &kinds[i];
        bool single = has(dir, k->single);
        if (has(dir, k->index)) return mg_hf_add_indexed(c, dir, k->index, k->suffix, single ? k->single : NULL, err);
        if (!single) continue;
        MG_TRY(mg_hf_add_shard(c, dir, k->single, err));
        return mg_files_ckpt_index(c, err);
    }
    return explain_no_weights(dir, err);
}

mg_status mg_hf_dir_open(mg_checkpoint **out, const char *dir, mg_error *err) {
    mg_files_ckpt *c = NULL;
    MG_TRY(mg_files_ckpt_new(&c, MG_CONTAINER_HF_DIR, dir, err));
    c->base.dir = c->base.path;
    mg_status st = fill_dir(c, dir, err);
    if (st != MG_OK) {
        mg_error_at(err, dir, NULL);
        mg_files_ckpt_free(c);
        return st;
    }
    *out = &c->base;
    return MG_OK;
}

static mg_status fill_single(mg_files_ckpt *c, const char *path, mg_error *err) {
    const char *slash = strrchr(path, '/');
    MG_TRY(mg_files_ckpt_set_dir_of(c, path, err));
    MG_TRY(mg_files_ckpt_add_safetensors(c, path, slash ? slash + 1 : path, err));
    MG_TRY(mg_files_ckpt_index(c, err));
    return mg_files_ckpt_load_side(c, slash ? slash + 1 : path, err);
}

mg_status mg_safetensors_open(mg_checkpoint **out, const char *path, mg_error *err) {
    mg_files_ckpt *c = NULL;
    MG_TRY(mg_files_ckpt_new(&c, MG_CONTAINER_SAFETENSORS, path, err));
    mg_status st = fill_single(c, path, err);
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        mg_files_ckpt_free(c);
        return st;
    }
    *out = &c->base;
    return MG_OK;
}
