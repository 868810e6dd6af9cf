/* imatrix_write.c - both written forms of an importance matrix. */
#include "formats/base/checked.h"
#include "formats/base/hash.h"
#include "formats/base/outfile.h"
#include "formats/gguf.h"
#include "quant/imatrix_set.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A file in memory. */
typedef struct image {
    uint8_t *data;
    uint64_t n;
} image;

static int by_name(const void *a, const void *b) {
    return strcmp((*(const mg_imatrix_sums *const *)a)->name, (*(const mg_imatrix_sums *const *)b)->name);
}

static mg_status at_entry(mg_status st, const mg_imatrix_sums *e, mg_error *err) {
    if (st != MG_OK) mg_error_at(err, NULL, e->name);
    return st;
}

static mg_status to_floats(const mg_imatrix_sums *e, float *sums, mg_error *err) {
    for (uint64_t k = 0; k < e->n_mat * e->cols; k++) {
        sums[k] = (float)e->sums[k];
        if (!isfinite(sums[k]))
            return at_entry(mg_fail(err, MG_ERR_LIMIT, "a sum of squares of %g does not fit the file", e->sums[k]), e,
                            err);
    }
    return MG_OK;
}

/* ---- GGUF ---- */

static mg_status set_keys(mg_kvs *kv, const mg_imatrix_set *s, mg_error *err) {
    static const char type[] = "imatrix";
    if (s->chunk_count > UINT32_MAX || s->chunk_size > UINT32_MAX)
        return mg_fail(err, MG_ERR_LIMIT, "%llu chunks of %llu tokens", (unsigned long long)s->chunk_count,
                       (unsigned long long)s->chunk_size);
    mg_str *names = calloc(s->n_datasets + 1u, sizeof *names);
    if (!names) return mg_fail_nomem(err, s->n_datasets * sizeof *names);
    for (uint32_t i = 0; i < s->n_datasets; i++) names[i] = (mg_str){s->datasets[i], strlen(s->datasets[i])};
    mg_status st = mg_kvs_set_str(kv, "general.type", type, sizeof type - 1, err);
    if (st == MG_OK) st = mg_kvs_set_arr(kv, "imatrix.datasets", MG_KV_STR, s->n_datasets, names, err);
    free(names);
    if (st == MG_OK) st = mg_kvs_set_u32(kv, "imatrix.chunk_count", (uint32_t)s->chunk_count, err);
    if (st == MG_OK) st = mg_kvs_set_u32(kv, "imatrix.chunk_size", (uint32_t)s->chunk_size, err);
    return st;
}

/* Sums and counts of e as file tensors; a single matrix has no dimension for it, as ggml writes. */
static mg_status describe(mg_arena *a, const mg_imatrix_sums *e, mg_tensor t[2], mg_error *err) {
    t[0] =
        (mg_tensor){.name = mg_arena_printf(a, "%s.in_sum2", e->name), .dtype = MG_F32, .rank = 1, .shape = {e->cols}};
    t[1] = (mg_tensor){.name = mg_arena_printf(a, "%s.counts", e->name), .dtype = MG_F32, .rank = 1, .shape = {1}};
    for (int i = 0; i < 2 && e->n_mat > 1; i++) {
        t[i].rank = 2;
        t[i].shape[1] = t[i].shape[0];
        t[i].shape[0] = e->n_mat;
    }
    if (!t[0].name || !t[1].name) return mg_fail_nomem(err, strlen(e->name));
    if (!mg_tensor_set_sizes(&t[0]) || !mg_tensor_set_sizes(&t[1]))
        return mg_fail(err, MG_ERR_LIMIT, "importance matrix too large");
    return MG_OK;
}

static mg_status fill_gguf(const mg_imatrix_sums *const *order, uint32_t n, const uint64_t *at, image *f,
                           mg_error *err) {
    for (uint32_t i = 0; i < n; i++) {
        const mg_imatrix_sums *e = order[i];
        MG_TRY(to_floats(e, (float *)(void *)(f->data + at[2 * i]), err)); /* tensors are aligned to 32 bytes */
        float *counts = (float *)(void *)(f->data + at[2 * i + 1]);
        for (uint64_t k = 0; k < e->n_mat; k++) counts[k] = (float)e->counts[k];
    }
    return MG_OK;
}

static mg_status build_gguf(const mg_imatrix_set *s, const mg_imatrix_sums *const *order, mg_arena *a, mg_kvs *kv,
                            image *f, mg_error *err) {
    mg_tensor *t;
    uint64_t *at, head_size;
    uint8_t *head;
    MG_TRY(set_keys(kv, s, err));
    MG_TRY(MG_ARENA_NEW(a, &t, 2 * (size_t)s->n, err));
    MG_TRY(MG_ARENA_NEW(a, &at, 2 * (size_t)s->n, err));
    for (uint32_t i = 0; i < s->n; i++) MG_TRY(at_entry(describe(a, order[i], t + 2 * i, err), order[i], err));
    if (s->n > UINT32_MAX / 2) return mg_fail(err, MG_ERR_LIMIT, "too many entries in an importance matrix");
    MG_TRY(mg_gguf_layout(kv, t, 2 * s->n, 0, &head, &head_size, at, &f->n, err));
    f->data = calloc(1, f->n);
    if (f->data) memcpy(f->data, head, head_size);
    free(head);
    return f->data ? fill_gguf(order, s->n, at, f, err) : mg_fail_nomem(err, f->n);
}

/* ---- .dat ---- */

static void put(image *f, const void *data, uint64_t n) {
    if (f->data) memcpy(f->data + f->n, data, n);
    f->n += n;
}

static void put_i32(image *f, uint64_t v) {
    const int32_t i = (int32_t)v;
    put(f, &i, sizeof i);
}

static int64_t most(const mg_imatrix_sums *e) {
    int64_t n = 0;
    for (uint64_t k = 0; k < e->n_mat; k++)
        if (e->counts[k] > n) n = e->counts[k];
    return n;
}

static mg_status put_entry(image *f, const mg_imatrix_sums *e, uint64_t chunk, mg_error *err) {
    const uint64_t count = (uint64_t)most(e), calls = count / chunk + (count % chunk != 0);
    if (calls > INT32_MAX || e->n_mat * e->cols > INT32_MAX || strlen(e->name) > INT32_MAX)
        return at_entry(mg_fail(err, MG_ERR_LIMIT, "too large for the .dat form"), e, err);
    put_i32(f, strlen(e->name));
    put(f, e->name, strlen(e->name));
    put_i32(f, calls);
    put_i32(f, e->n_mat * e->cols);
    float *v = f->data ? (float *)malloc(e->n_mat * e->cols * sizeof *v) : NULL;
    if (f->data && !v) return mg_fail_nomem(err, e->n_mat * e->cols * sizeof *v);
    mg_status st = v ? to_floats(e, v, err) : MG_OK;
    for (uint64_t k = 0; v && k < e->n_mat * e->cols; k++) {
        const int64_t n = e->counts[k / e->cols];
        v[k] = (n > 0 ? v[k] / (float)n : 1.0f) * (float)calls;
    }
    if (v)
        put(f, v, e->n_mat * e->cols * sizeof *v);
    else
        f->n += e->n_mat * e->cols * sizeof *v;
    free(v);
    return st;
}

/* Into f, or only its size when f has no data yet. */
static mg_status put_dat(image *f, const mg_imatrix_set *s, const mg_imatrix_sums *const *order, mg_error *err) {
    const char *dataset = s->n_datasets ? s->datasets[s->n_datasets - 1] : "";
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) n += most(order[i]) > 0;
    if (n > INT32_MAX || s->chunk_count > INT32_MAX || strlen(dataset) > INT32_MAX)
        return mg_fail(err, MG_ERR_LIMIT, "too large for the .dat form");
    put_i32(f, n);
    for (uint32_t i = 0; i < s->n; i++)
        if (most(order[i]) > 0) MG_TRY(put_entry(f, order[i], s->chunk_size, err));
    put_i32(f, s->chunk_count);
    put_i32(f, strlen(dataset));
    put(f, dataset, strlen(dataset));
    return MG_OK;
}

static mg_status build_dat(const mg_imatrix_set *s, const mg_imatrix_sums *const *order, image *f, mg_error *err) {
    if (s->chunk_size == 0) return mg_fail(err, MG_ERR_CONFLICT, "the tokens of a chunk are not known");
    MG_TRY(put_dat(f, s, order, err));
    f->data = malloc(f->n);
    if (!f->data) return mg_fail_nomem(err, f->n);
    f->n = 0;
    return put_dat(f, s, order, err);
}

/* ---- both ---- */

static mg_status build(const mg_imatrix_set *s, bool dat, mg_arena *a, mg_kvs *kv, image *f, mg_error *err) {
    const mg_imatrix_sums **order;
    MG_TRY(MG_ARENA_NEW(a, &order, s->n, err));
    for (uint32_t i = 0; i < s->n; i++) order[i] = &s->items[i];
    qsort(order, s->n, sizeof *order, by_name);
    return dat ? build_dat(s, order, f, err) : build_gguf(s, order, a, kv, f, err);
}

mg_status mg_imatrix_set_write(const mg_imatrix_set *s, const char *path, bool force, uint64_t *size, char *sha256,
                               mg_error *err) {
    const size_t len = strlen(path);
    const bool dat = len > 4 && strcmp(path + len - 4, ".dat") == 0;
    mg_arena arena;
    mg_kvs kv;
    image f = {0};
    if (s->n == 0) return mg_fail(err, MG_ERR_USAGE, "an importance matrix without entries");
    mg_arena_init(&arena, 0);
    mg_kvs_init(&kv);
    mg_status st = build(s, dat, &arena, &kv, &f, err);
    if (st == MG_OK) st = mg_outfile_write_all(path, f.data, f.n, force, err);
    if (st == MG_OK && size) *size = f.n;
    if (st == MG_OK && sha256) {
        mg_sha256 h;
        uint8_t digest[32];
        mg_sha256_init(&h);
        mg_sha256_update(&h, f.data, f.n);
        mg_sha256_final(&h, digest);
        mg_hex(digest, sizeof digest, sha256);
    }
    free(f.data);
    mg_kvs_release(&kv);
    mg_arena_release(&arena);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    return st;
}
