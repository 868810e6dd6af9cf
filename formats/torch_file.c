/* torch_file.c - from the value a pickle describes to tensors in a file.
 *
 * Zip form: NAME/data.pkl is the pickle, NAME/data/KEY the bytes of storage KEY, NAME/byteorder optional. Legacy form:
 * five pickles one after the other (magic number, protocol, facts about the writer, the object, the keys of the
 * storages in order), then per storage a 64-bit element count and the bytes. */
#include "formats/torch_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/container.h"
#include "formats/pickle.h"
#include "formats/strided.h"
#include "formats/torch_zip.h"

enum { LEGACY_PROTOCOL = 1001, MAX_NAME = 65536 };

/* Where each storage of the pickle lies. */
typedef struct reader {
    mg_torch_file *out;
    const mg_file *f;
    mg_arena *a;
    mg_pickle pickle;
    uint64_t *data; /* [pickle.n_storages] offset in the file */
    mg_error *err;
} reader;

bool mg_torch_is_name(const char *name) {
    static const char *const tails[] = {".pth", ".pt", ".bin"};
    size_t n = strlen(name);
    for (size_t i = 0; i < 3; i++)
        if (n > strlen(tails[i]) && strcmp(name + n - strlen(tails[i]), tails[i]) == 0) return true;
    return false;
}

/* ---- tensors ---- */

static bool has_tensor(const mg_pk_value *dict) {
    for (uint32_t i = 0; dict && dict->type == MG_PK_DICT && i + 1 < dict->seq.n; i += 2)
        if (dict->seq.items[i + 1]->type == MG_PK_TENSOR) return true;
    return false;
}

/* The dict of weights: the outermost, or one level down under the names that trainers use. */
static mg_status find_weights(reader *r, const mg_pk_value *root, const mg_pk_value **out) {
    static const char *const keys[] = {"state_dict", "model_state_dict", "model", "module"};
    *out = root;
    if (root->type != MG_PK_DICT) return mg_fail(r->err, MG_ERR_UNSUPPORTED, "the pickle holds no dict of tensors");
    if (has_tensor(root)) return MG_OK;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        *out = mg_pk_get(root, keys[i]);
        if (!has_tensor(*out)) continue;
        r->out->inside = keys[i];
        return MG_OK;
    }
    return mg_fail(r->err, MG_ERR_UNSUPPORTED, "the pickle holds no dict of tensors");
}

static mg_status bad_tensor(reader *r, mg_status code, const char *name, const char *message) {
    mg_fail(r->err, code, "%s", message);
    mg_error_at(r->err, NULL, name);
    return code;
}

static mg_status refuse_strides(reader *r, const mg_tensor *t, const uint64_t *stride) {
    char shape[200], strides[200];
    mg_tensor s = *t;
    memcpy(s.shape, stride, sizeof s.shape);
    mg_fail(r->err, MG_ERR_UNSUPPORTED,
            "is a view of shape %s with strides %s, which is not read: save a contiguous copy",
            mg_tensor_shape_text(t, shape, sizeof shape), mg_tensor_shape_text(&s, strides, sizeof strides));
    mg_error_at(r->err, NULL, t->name);
    return MG_ERR_UNSUPPORTED;
}

static mg_status add_tensor(reader *r, const mg_pk_value *key, const mg_pk_tensor *x) {
    mg_tensor *t = &r->out->tensors[r->out->n_tensors];
    const mg_pk_storage *s = &r->pickle.storages[x->storage];
    uint64_t span, es = mg_dtype_get(s->dtype)->block_bytes;
    if (key->type != MG_PK_STR || strlen(key->s.data) != key->s.size || key->s.size == 0 || key->s.size > MAX_NAME)
        return mg_fail(r->err, MG_ERR_FORMAT, "a tensor of the pickle has no proper name");
    *t = (mg_tensor){.name = mg_arena_strndup(r->a, key->s.data, key->s.size), .dtype = s->dtype, .rank = x->rank};
    if (!t->name) return mg_fail_nomem(r->err, key->s.size);
    memcpy(t->shape, x->shape, x->rank * sizeof *t->shape);
    if (!mg_tensor_set_sizes(t)) return bad_tensor(r, MG_ERR_FORMAT, t->name, "has more elements than 63 bits count");
    if (!mg_strides_span(t, x->stride, &span) || !mg_range_fits(x->offset, span, s->n_elements)) {
        mg_fail(r->err, MG_ERR_FORMAT,
                "reaches beyond its storage '%.100s' of %" PRIu64 " elements (offset %" PRIu64 ")", s->key,
                s->n_elements, x->offset);
        mg_error_at(r->err, NULL, t->name);
        return MG_ERR_FORMAT;
    }
    t->offset = r->data[x->storage] + x->offset * es; /* inside the storage, which is inside the file */
    if (!mg_strides_plain(t, x->stride)) {
        uint64_t *stride;
        if (!mg_strides_readable(t, x->stride)) return refuse_strides(r, t, x->stride);
        MG_TRY(MG_ARENA_NEW(r->a, &stride, MG_MAX_RANK, r->err));
        memcpy(stride, x->stride, x->rank * sizeof *stride);
        r->out->strides[r->out->n_tensors] = stride;
    }
    r->out->n_tensors++;
    return MG_OK;
}

static mg_status add_tensors(reader *r, const mg_pk_value *root) {
    const mg_pk_value *dict;
    MG_TRY(find_weights(r, root, &dict));
    MG_TRY(MG_ARENA_NEW(r->a, &r->out->tensors, dict->seq.n / 2 + 1, r->err));
    MG_TRY(MG_ARENA_NEW(r->a, &r->out->strides, dict->seq.n / 2 + 1, r->err));
    for (uint32_t i = 0; i + 1 < dict->seq.n; i += 2) {
        const mg_pk_value *key = dict->seq.items[i], *v = dict->seq.items[i + 1];
        if (v->type == MG_PK_TENSOR) {
            MG_TRY(add_tensor(r, key, v->tensor));
        } else if (r->out->n_skipped++ == 0) {
            r->out->skipped = mg_arena_strdup(r->a, key->type == MG_PK_STR ? key->s.data : "?");
            if (!r->out->skipped) return mg_fail_nomem(r->err, 1);
        }
    }
    return MG_OK;
}

/* ---- zip form ---- */

/* The folder all entries are in: that of the one FOLDER/data.pkl. */
static mg_status find_pickle(reader *r, const mg_zip *z, const mg_zip_entry **out) {
    *out = NULL;
    for (uint32_t i = 0; i < z->n; i++) {
        const char *slash = strchr(z->entries[i].name, '/');
        if (!slash) continue;
        if (strncmp(slash, "/code/", 6) == 0 || strcmp(slash, "/constants.pkl") == 0)
            return mg_fail(r->err, MG_ERR_UNSUPPORTED, "is a TorchScript program, not a file of weights");
        if (strcmp(slash, "/data.pkl") != 0) continue;
        if (*out)
            return mg_fail(r->err, MG_ERR_FORMAT, "holds several pickles ('%.100s' and '%.100s')", (*out)->name,
                           z->entries[i].name);
        *out = &z->entries[i];
    }
    return *out ? MG_OK
                : mg_fail(r->err, MG_ERR_FORMAT, "is a zip archive without a data.pkl: not written by torch.save");
}

static mg_status check_byte_order(reader *r, const mg_zip *z, const char *folder, int len) {
    char name[1024], order[8] = "";
    snprintf(name, sizeof name, "%.*s/byteorder", len, folder);
    const mg_zip_entry *e = mg_zip_find(z, name);
    if (!e) return MG_OK;
    if (e->size < sizeof order) MG_TRY(mg_file_read(r->f, e->offset, order, e->size, r->err));
    return strcmp(order, "little") == 0 ? MG_OK
                                        : mg_fail(r->err, MG_ERR_UNSUPPORTED, "was written in big-endian byte order");
}

static mg_status place_entries(reader *r, const mg_zip *z, const char *folder, int len) {
    char name[1024];
    for (uint32_t i = 0; i < r->pickle.n_storages; i++) {
        const mg_pk_storage *s = &r->pickle.storages[i];
        uint64_t bytes;
        int n = snprintf(name, sizeof name, "%.*s/data/%s", len, folder, s->key);
        const mg_zip_entry *e = n > 0 && (size_t)n < sizeof name ? mg_zip_find(z, name) : NULL;
        if (!e)
            return mg_fail(r->err, MG_ERR_FORMAT, "the pickle names storage '%.100s', which the archive does not hold",
                           s->key);
        if (!mg_mul_u64(s->n_elements, mg_dtype_get(s->dtype)->block_bytes, &bytes) || bytes != e->size) {
            mg_fail(r->err, MG_ERR_FORMAT,
                    "storage '%.100s' has %" PRIu64 " bytes, the pickle says %" PRIu64 " elements of %u", s->key,
                    e->size, s->n_elements, mg_dtype_get(s->dtype)->block_bytes);
            mg_error_offset(r->err, e->offset);
            return MG_ERR_FORMAT;
        }
        r->data[i] = e->offset;
    }
    return MG_OK;
}

static mg_status run_zip_pickle(reader *r, const mg_zip_entry *e, mg_pk_value **root) {
    if (e->size > MG_PICKLE_MAX_BYTES)
        return mg_fail(r->err, MG_ERR_LIMIT, "data.pkl has %" PRIu64 " bytes, the limit is %u", e->size,
                       MG_PICKLE_MAX_BYTES);
    uint8_t *text = malloc(e->size ? e->size : 1);
    size_t used = 0;
    if (!text) return mg_fail_nomem(r->err, e->size);
    mg_status st = mg_file_read(r->f, e->offset, text, e->size, r->err);
    if (st == MG_OK) st = mg_pickle_run(&r->pickle, (mg_span){text, (size_t)e->size}, e->offset, root, &used, r->err);
    if (st == MG_OK && used != e->size) st = mg_fail(r->err, MG_ERR_FORMAT, "data.pkl has bytes after its end");
    free(text);
    return st;
}

static mg_status alloc_places(reader *r) {
    r->data = calloc(r->pickle.n_storages + 1u, sizeof *r->data);
    return r->data ? MG_OK : mg_fail_nomem(r->err, r->pickle.n_storages * sizeof *r->data);
}

static mg_status read_zip_in(reader *r, const mg_zip *z) {
    const mg_zip_entry *e;
    mg_pk_value *root = NULL;
    MG_TRY(find_pickle(r, z, &e));
    int len = (int)(strchr(e->name, '/') - e->name);
    if (len > 900) return mg_fail(r->err, MG_ERR_LIMIT, "name of the archive's folder is too long");
    MG_TRY(check_byte_order(r, z, e->name, len));
    MG_TRY(run_zip_pickle(r, e, &root));
    MG_TRY(alloc_places(r));
    MG_TRY(place_entries(r, z, e->name, len));
    return add_tensors(r, root);
}

static mg_status read_zip(reader *r) {
    mg_zip z;
    mg_arena names;
    mg_arena_init(&names, 0);
    mg_status st = mg_zip_open(&z, r->f, &names, r->err);
    if (st == MG_OK) st = read_zip_in(r, &z);
    mg_zip_release(&z);
    mg_arena_release(&names);
    return st;
}

/* ---- legacy form ---- */

/* 0x1950a86a20f9469cfc6c, little endian. */
static const uint8_t legacy_magic[10] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};

static mg_status run_at(reader *r, mg_span text, size_t *at, mg_pk_value **out) {
    size_t used = 0;
    MG_TRY(mg_pickle_run(&r->pickle, (mg_span){text.data + *at, text.size - *at}, *at, out, &used, r->err));
    *at += used;
    return MG_OK;
}

/* The five pickles; *at: where the storages begin. */
static mg_status run_legacy(reader *r, mg_span text, size_t *at, mg_pk_value **root, mg_pk_value **keys) {
    mg_pk_value *v;
    const mg_pk_value *little;
    *at = 0;
    MG_TRY(run_at(r, text, at, &v));
    if (v->type != MG_PK_BIG || v->s.size != sizeof legacy_magic ||
        memcmp(v->s.data, legacy_magic, sizeof legacy_magic) != 0)
        return mg_fail(r->err, MG_ERR_UNSUPPORTED, "is a pickle, but not one that torch.save wrote");
    MG_TRY(run_at(r, text, at, &v));
    if (v->type != MG_PK_INT || v->i != LEGACY_PROTOCOL)
        return mg_fail(r->err, MG_ERR_UNSUPPORTED, "has an unknown version of torch's legacy format");
    MG_TRY(run_at(r, text, at, &v));
    little = mg_pk_get(v, "little_endian");
    if (!little || little->type != MG_PK_BOOL) return mg_fail(r->err, MG_ERR_FORMAT, "does not say its byte order");
    if (!little->i) return mg_fail(r->err, MG_ERR_UNSUPPORTED, "was written in big-endian byte order");
    MG_TRY(run_at(r, text, at, root));
    MG_TRY(run_at(r, text, at, keys));
    return (*keys)->type == MG_PK_LIST ? MG_OK : mg_fail(r->err, MG_ERR_FORMAT, "has no list of storages");
}

/* Storages in the order of the list, each an element count and its data. */
static mg_status place_stream(reader *r, const mg_pk_value *keys, uint64_t at) {
    MG_TRY(alloc_places(r));
    if (keys->seq.n != r->pickle.n_storages)
        return mg_fail(r->err, MG_ERR_FORMAT, "lists %u storages, the tensors use %u", keys->seq.n,
                       r->pickle.n_storages);
    for (uint32_t i = 0; i < keys->seq.n; i++) {
        const mg_pk_value *k = keys->seq.items[i];
        uint8_t count[8];
        uint64_t n = 0, bytes;
        uint32_t s = k->type == MG_PK_STR ? mg_strmap_get(&r->pickle.by_key, k->s.data, k->s.size) : MG_STRMAP_NONE;
        if (s == MG_STRMAP_NONE || r->data[s])
            return mg_fail(r->err, MG_ERR_FORMAT, "lists a storage twice or one that no tensor uses");
        MG_TRY(mg_file_read(r->f, at, count, sizeof count, r->err));
        for (int b = 8; b-- > 0;) n = n << 8 | count[b];
        if (n != r->pickle.storages[s].n_elements ||
            !mg_mul_u64(n, mg_dtype_get(r->pickle.storages[s].dtype)->block_bytes, &bytes) ||
            !mg_range_fits(at + 8, bytes, r->f->size)) {
            mg_fail(r->err, MG_ERR_FORMAT,
                    "storage '%.100s' says %" PRIu64 " elements, the pickle %" PRIu64 "; the file ends at %" PRIu64,
                    r->pickle.storages[s].key, n, r->pickle.storages[s].n_elements, r->f->size);
            mg_error_offset(r->err, at);
            return MG_ERR_FORMAT;
        }
        r->data[s] = at + 8;
        at += 8 + bytes;
    }
    if (at != r->f->size) {
        mg_fail(r->err, MG_ERR_FORMAT, "%" PRIu64 " bytes follow the last storage", r->f->size - at);
        mg_error_offset(r->err, at);
        return MG_ERR_FORMAT;
    }
    return MG_OK;
}

/* How long the pickles are is not written anywhere: more of the file is read while they are cut off. */
static mg_status read_legacy(reader *r) {
    for (uint64_t size = 1 << 20;; size *= 4) {
        uint64_t n = size < r->f->size ? size : r->f->size;
        size_t at = 0;
        mg_pk_value *root = NULL, *keys = NULL;
        mg_error quiet = {0};
        reader again = *r;
        uint8_t *text = malloc(n ? n : 1);
        if (!text) return mg_fail_nomem(r->err, n);
        again.err = &quiet;
        mg_pickle_release(&r->pickle);
        mg_pickle_init(&again.pickle);
        mg_status st = mg_file_read(r->f, 0, text, n, &quiet);
        if (st == MG_OK) st = run_legacy(&again, (mg_span){text, (size_t)n}, &at, &root, &keys);
        free(text);
        r->pickle = again.pickle;
        if (st != MG_OK && again.pickle.truncated && n < r->f->size && size < MG_PICKLE_MAX_BYTES) continue;
        if (st != MG_OK && r->err && r->err->code == MG_OK) *r->err = quiet;
        MG_TRY(st);
        MG_TRY(place_stream(r, keys, at));
        return add_tensors(r, root);
    }
}

/* ---- which form ---- */

static mg_status read_file(reader *r) {
    static const char lfs[] = "version https://git-lfs";
    uint8_t head[sizeof lfs - 1] = {0};
    uint64_t n = r->f->size < sizeof head ? r->f->size : sizeof head;
    MG_TRY(mg_file_read(r->f, 0, head, n, r->err));
    if (memcmp(head, "PK\3\4", 4) == 0 || memcmp(head, "PK\5\6", 4) == 0) return read_zip(r);
    if (memcmp(head, lfs, sizeof head) == 0)
        return mg_fail(r->err, MG_ERR_FORMAT, "is a Git-LFS pointer, not the weights: run 'git lfs pull'");
    if (n >= 2 && head[0] == 0x80 && head[1] >= 2) return read_legacy(r);
    return mg_fail(r->err, MG_ERR_FORMAT, "is neither a zip archive nor a pickle: not written by torch.save");
}

mg_status mg_torch_read(mg_torch_file *out, const mg_file *f, mg_arena *a, mg_error *err) {
    reader r = {.out = out, .f = f, .a = a, .err = err};
    memset(out, 0, sizeof *out);
    mg_pickle_init(&r.pickle);
    mg_status st = read_file(&r);
    free(r.data);
    mg_pickle_release(&r.pickle);
    if (st != MG_OK) mg_error_at(err, f->path, NULL);
    return st;
}

/* ---- as a checkpoint ---- */

static mg_status fill(mg_files_ckpt *c, const char *path, mg_error *err) {
    const char *slash = strrchr(path, '/');
    MG_TRY(mg_files_ckpt_set_dir_of(c, path, err));
    MG_TRY(mg_files_ckpt_add_torch(c, path, slash ? slash + 1 : path, err));
    MG_TRY(mg_files_ckpt_index(c, err));
    return mg_files_ckpt_load_side(c, slash ? slash + 1 : path, err);
}

mg_status mg_torch_open(mg_checkpoint **out, const char *path, mg_error *err) {
    mg_files_ckpt *c = NULL;
    MG_TRY(mg_files_ckpt_new(&c, MG_CONTAINER_TORCH, path, err));
    mg_status st = fill(c, path, err);
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        mg_files_ckpt_free(c);
        return st;
    }
    *out = &c->base;
    return MG_OK;
}
