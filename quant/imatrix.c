/* imatrix.c - reads importance matrices in both forms; every length is checked against the file before it is used. */
#include "quant/imatrix.h"

#include "formats/base/file.h"
#include "formats/gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static mg_status imatrix_new(mg_imatrix **out, uint64_t file_size, bool raw, mg_error *err) {
    mg_imatrix *m = calloc(1, sizeof *m);
    if (!m) return mg_fail_nomem(err, sizeof *m);
    m->raw = raw;
    /* values and names are copied once; the rest is a fixed amount per entry, and an entry costs at least 13 file bytes
     */
    mg_arena_init(&m->arena, (1u << 20) + 16 * file_size);
    mg_strmap_init(&m->by_name);
    *out = m;
    return MG_OK;
}

void mg_imatrix_free(mg_imatrix *m) {
    if (!m) return;
    mg_strmap_release(&m->by_name);
    mg_arena_release(&m->arena);
    free(m);
}

static mg_status entry_fail(mg_error *err, const char *name, const char *what) {
    mg_status st = mg_fail(err, MG_ERR_FORMAT, "importance matrix: %s", what);
    mg_error_at(err, NULL, name);
    return st;
}

static mg_status check_values(const mg_imatrix_entry *e, mg_error *err) {
    for (uint64_t i = 0; i < e->n_mat * e->cols; i++)
        if (!isfinite(e->values[i])) return entry_fail(err, e->name, "a value is not finite");
    return MG_OK;
}

static mg_status add_entry(mg_imatrix *m, const mg_imatrix_entry *e, mg_error *err) {
    MG_TRY(check_values(e, err));
    uint32_t before;
    MG_TRY(mg_strmap_put(&m->by_name, e->name, strlen(e->name), m->n, &before, err));
    if (before != MG_STRMAP_NONE) return entry_fail(err, e->name, "two entries of this name");
    m->entries[m->n++] = *e;
    return MG_OK;
}

/* ---- GGUF ---- */

static const char SUMS[] = ".in_sum2", COUNTS[] = ".counts";

/* The weight's name when tensor name ends in suffix, else NULL. */
static mg_status stem_of(mg_imatrix *m, const char *name, const char *suffix, char **stem, mg_error *err) {
    size_t n = strlen(name), k = strlen(suffix);
    *stem = NULL;
    if (n <= k || strcmp(name + n - k, suffix) != 0) return MG_OK;
    *stem = mg_arena_strndup(&m->arena, name, n - k);
    return *stem ? MG_OK : mg_fail_nomem(err, n);
}

static mg_status read_floats(mg_imatrix *m, mg_checkpoint *c, uint32_t t, float **out, mg_error *err) {
    const mg_tensor *x = &c->tensors[t];
    if (x->dtype != MG_F32) return entry_fail(err, x->name, "dtype is not F32");
    if (x->n_elements == 0) return entry_fail(err, x->name, "no values");
    MG_TRY(MG_ARENA_NEW(&m->arena, out, x->n_elements, err));
    return mg_checkpoint_read(c, t, 0, *out, x->n_bytes, err);
}

/* counts are small integers stored as floats; rounded half away from zero as lround does */
static mg_status round_counts(const float *raw, uint64_t n, int64_t *out, const char *name, mg_error *err) {
    for (uint64_t i = 0; i < n; i++) {
        if (!(fabsf(raw[i]) < 0x1p62f)) return entry_fail(err, name, "a count is not a number of tokens");
        out[i] = (int64_t)roundf(raw[i]);
    }
    return MG_OK;
}

static mg_status read_pair(mg_imatrix *m, mg_checkpoint *c, char *name, uint32_t sums, uint32_t counts, mg_error *err) {
    mg_imatrix_entry e = {.name = name, .n_mat = c->tensors[counts].n_elements};
    float *values, *raw;
    int64_t *n;
    MG_TRY(read_floats(m, c, sums, &values, err));
    MG_TRY(read_floats(m, c, counts, &raw, err));
    MG_TRY(MG_ARENA_NEW(&m->arena, &n, e.n_mat, err));
    MG_TRY(round_counts(raw, e.n_mat, n, name, err));
    if (c->tensors[sums].n_elements % e.n_mat != 0) return entry_fail(err, name, "sums are no multiple of the counts");
    e.cols = c->tensors[sums].n_elements / e.n_mat;
    for (uint64_t j = 0; j < e.n_mat; j++) {
        float *v = values + j * e.cols, count = (float)n[j];
        for (uint64_t i = 0; i < e.cols && !m->raw; i++) v[i] = count > 0.0f ? v[i] / count : 1.0f;
        e.n_empty += count > 0.0f ? 0 : 1;
    }
    e.values = values;
    e.counts = n;
    return add_entry(m, &e, err);
}

static mg_status read_metadata(mg_imatrix *m, const mg_kvs *kv, mg_error *err) {
    const mg_kv *sets = mg_kvs_get(kv, "imatrix.datasets");
    uint64_t count, size;
    if (!sets || !mg_kv_u64(mg_kvs_get(kv, "imatrix.chunk_count"), &count) ||
        !mg_kv_u64(mg_kvs_get(kv, "imatrix.chunk_size"), &size) || count > UINT32_MAX)
        return mg_fail(err, MG_ERR_FORMAT,
                       "no importance matrix: keys imatrix.datasets, .chunk_count and .chunk_size are not there");
    m->chunk_count = (int64_t)count;
    m->chunk_size = size;
    if (sets->type != MG_KV_ARR || sets->elem != MG_KV_STR || sets->count == 0) return MG_OK;
    const mg_str *names = sets->data;
    m->n_datasets = sets->count > UINT32_MAX ? UINT32_MAX : (uint32_t)sets->count;
    MG_TRY(MG_ARENA_NEW(&m->arena, &m->datasets, m->n_datasets, err));
    for (uint32_t i = 0; i < m->n_datasets; i++) { /* up to a NUL, as it is stored again */
        m->datasets[i] = mg_arena_strdup(&m->arena, names[i].data);
        if (!m->datasets[i]) return mg_fail_nomem(err, names[i].size);
    }
    m->dataset = m->datasets[0];
    return MG_OK;
}

typedef struct named {
    char *name;
    uint32_t tensor;
} named;

static int by_name(const void *a, const void *b) {
    return strcmp(((const named *)a)->name, ((const named *)b)->name);
}

static mg_status collect(mg_imatrix *m, mg_checkpoint *c, const char *suffix, named *list, uint32_t *n, mg_error *err) {
    *n = 0;
    for (uint32_t t = 0; t < c->n_tensors; t++) {
        char *stem;
        MG_TRY(stem_of(m, c->tensors[t].name, suffix, &stem, err));
        if (stem) list[(*n)++] = (named){stem, t};
    }
    qsort(list, *n, sizeof *list, by_name);
    return MG_OK;
}

static mg_status read_gguf(mg_imatrix *m, mg_checkpoint *c, mg_error *err) {
    named *sums, *counts;
    uint32_t n_sums, n_counts;
    MG_TRY(read_metadata(m, c->kv, err));
    MG_TRY(MG_ARENA_NEW(&m->arena, &sums, c->n_tensors + 1u, err));
    MG_TRY(MG_ARENA_NEW(&m->arena, &counts, c->n_tensors + 1u, err));
    MG_TRY(collect(m, c, SUMS, sums, &n_sums, err));
    MG_TRY(collect(m, c, COUNTS, counts, &n_counts, err));
    MG_TRY(MG_ARENA_NEW(&m->arena, &m->entries, n_sums + 1u, err));
    if (n_sums == 0) return mg_fail(err, MG_ERR_FORMAT, "no importance matrix: no tensor ends in '%s'", SUMS);
    for (uint32_t i = 0; i < n_sums || i < n_counts; i++) {
        int d = i >= n_sums ? 1 : i >= n_counts ? -1 : strcmp(sums[i].name, counts[i].name);
        if (d < 0) return entry_fail(err, sums[i].name, "sums without counts");
        if (d > 0) return entry_fail(err, counts[i].name, "counts without sums");
        MG_TRY(read_pair(m, c, sums[i].name, sums[i].tensor, counts[i].tensor, err));
    }
    return MG_OK;
}

static mg_status from_checkpoint(mg_imatrix **out, mg_checkpoint *c, bool raw, mg_error *err) {
    mg_imatrix *m = NULL;
    uint64_t size = 0;
    if (!c->kv) return mg_fail(err, MG_ERR_FORMAT, "'%s' is no importance matrix", c->path);
    for (uint32_t t = 0; t < c->n_tensors; t++)
        if (!mg_add_u64(size, c->tensors[t].n_bytes + 256, &size))
            return mg_fail(err, MG_ERR_LIMIT, "importance matrix too large");
    MG_TRY(imatrix_new(&m, size, raw, err));
    mg_status st = read_gguf(m, c, err);
    if (st != MG_OK) {
        mg_error_at(err, c->path, NULL);
        mg_imatrix_free(m);
        return st;
    }
    *out = m;
    return MG_OK;
}

/* ---- .dat ---- */

typedef struct reader {
    const mg_file *f;
    uint64_t at;
} reader;

static mg_status read_i32(reader *r, int32_t *v, mg_error *err) {
    MG_TRY(mg_file_read(r->f, r->at, v, sizeof *v, err));
    r->at += sizeof *v;
    return MG_OK;
}

static mg_status length_fail(const reader *r, mg_error *err, const char *what, int32_t n) {
    mg_status st = mg_fail(err, MG_ERR_FORMAT, "importance matrix: %s of %d does not fit the file", what, n);
    mg_error_offset(err, r->at);
    return st;
}

static mg_status read_name(mg_imatrix *m, reader *r, const char **name, mg_error *err) {
    int32_t len;
    MG_TRY(read_i32(r, &len, err));
    if (len < 1 || !mg_range_fits(r->at, (uint64_t)len, r->f->size)) return length_fail(r, err, "name length", len);
    char *s;
    MG_TRY(MG_ARENA_NEW(&m->arena, &s, (size_t)len + 1, err));
    MG_TRY(mg_file_read(r->f, r->at, s, (uint64_t)len, err));
    r->at += (uint64_t)len;
    if (memchr(s, '\0', (size_t)len)) return entry_fail(err, s, "a NUL byte in a name");
    *name = s;
    return MG_OK;
}

static mg_status read_entry(mg_imatrix *m, reader *r, mg_error *err) {
    mg_imatrix_entry e = {.n_mat = 1};
    int32_t calls, n;
    float *v;
    int64_t *counts;
    MG_TRY(read_name(m, r, &e.name, err));
    MG_TRY(read_i32(r, &calls, err));
    MG_TRY(read_i32(r, &n, err));
    if (n < 1 || !mg_range_fits(r->at, 4 * (uint64_t)n, r->f->size)) return length_fail(r, err, "value count", n);
    e.cols = (uint64_t)n;
    MG_TRY(MG_ARENA_NEW(&m->arena, &v, e.cols, err));
    MG_TRY(MG_ARENA_NEW(&m->arena, &counts, 1, err));
    MG_TRY(mg_file_read(r->f, r->at, v, 4 * e.cols, err));
    r->at += 4 * e.cols;
    if (calls > 0 && !m->raw)
        for (uint64_t i = 0; i < e.cols; i++) v[i] /= (float)calls;
    *counts = calls;
    e.values = v;
    e.counts = counts;
    return add_entry(m, &e, err);
}

static mg_status read_legacy(mg_imatrix *m, const mg_file *f, mg_error *err) {
    reader r = {.f = f};
    int32_t n, chunks;
    MG_TRY(read_i32(&r, &n, err));
    /* an entry is at least three lengths, a name byte and a value */
    if (n < 1 || (uint64_t)n > f->size / 17) return length_fail(&r, err, "entry count", n);
    MG_TRY(MG_ARENA_NEW(&m->arena, &m->entries, (size_t)n, err));
    for (int32_t i = 0; i < n; i++) MG_TRY(read_entry(m, &r, err));
    m->legacy = true;
    if (r.at == f->size) return MG_OK; /* the trailer is newer than the format */
    MG_TRY(read_i32(&r, &chunks, err));
    m->chunk_count = chunks;
    if (r.at == f->size) return MG_OK;
    int32_t len;
    reader peek = r;
    MG_TRY(read_i32(&peek, &len, err));
    if (len == 0) {
        r = peek;
    } else {
        MG_TRY(MG_ARENA_NEW(&m->arena, &m->datasets, 1, err));
        MG_TRY(read_name(m, &r, &m->dataset, err));
        m->datasets[0] = m->dataset;
        m->n_datasets = 1;
    }
    if (r.at != f->size)
        return length_fail(&r, err, "trailer", (int32_t)(f->size - r.at > INT32_MAX ? INT32_MAX : f->size - r.at));
    return MG_OK;
}

/* ---- both ---- */

static mg_status load(mg_imatrix **out, const char *path, bool raw, mg_error *err) {
    mg_file f;
    char magic[4] = {0};
    MG_TRY(mg_file_open(&f, path, err));
    mg_status st = mg_file_read(&f, 0, magic, sizeof magic, err);
    mg_imatrix *m = NULL;
    if (st == MG_OK && memcmp(magic, "GGUF", 4) == 0) {
        mg_file_close(&f);
        mg_checkpoint *c;
        MG_TRY(mg_gguf_open(&c, path, err));
        st = from_checkpoint(out, c, raw, err);
        mg_checkpoint_free(c);
        return st;
    }
    if (st == MG_OK) st = imatrix_new(&m, f.size, raw, err);
    if (st == MG_OK) st = read_legacy(m, &f, err);
    mg_file_close(&f);
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        mg_imatrix_free(m);
        return st;
    }
    *out = m;
    return MG_OK;
}

mg_status mg_imatrix_load(mg_imatrix **out, const char *path, mg_error *err) {
    return load(out, path, false, err);
}

mg_status mg_imatrix_load_sums(mg_imatrix **out, const char *path, mg_error *err) {
    return load(out, path, true, err);
}

mg_status mg_imatrix_filter(mg_imatrix *m, const char *const *substrings, size_t n, bool include, mg_error *err) {
    if (n == 0) return MG_OK;
    uint32_t kept = 0;
    mg_strmap_release(&m->by_name);
    mg_strmap_init(&m->by_name);
    for (uint32_t i = 0; i < m->n; i++) {
        bool hit = false;
        for (size_t k = 0; k < n && !hit; k++) hit = strstr(m->entries[i].name, substrings[k]) != NULL;
        if (hit != include) continue;
        m->entries[kept] = m->entries[i];
        MG_TRY(mg_strmap_put(&m->by_name, m->entries[kept].name, strlen(m->entries[kept].name), kept, NULL, err));
        kept++;
    }
    m->n = kept;
    return MG_OK;
}

const mg_imatrix_entry *mg_imatrix_find(const mg_imatrix *m, const char *name) {
    if (!m) return NULL;
    uint32_t i = mg_strmap_get(&m->by_name, name, strlen(name));
    return i == MG_STRMAP_NONE ? NULL : &m->entries[i];
}
