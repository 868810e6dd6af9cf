/* imatrix_set.c - sums of squares under way, and how they are merged. Writing: imatrix_write.c. */
#include "quant/imatrix_set.h"

#include "formats/base/checked.h"

#include <string.h>

void mg_imatrix_set_init(mg_imatrix_set *s) {
    *s = (mg_imatrix_set){0};
    mg_arena_init(&s->arena, 0);
    mg_strmap_init(&s->by_name);
}

void mg_imatrix_set_release(mg_imatrix_set *s) {
    mg_strmap_release(&s->by_name);
    mg_arena_release(&s->arena);
    *s = (mg_imatrix_set){0};
}

/* Room for one more; what an array held before stays in the arena unused, which doubling bounds. */
static mg_status room(mg_imatrix_set *s, void **items, uint32_t n, uint32_t *cap, size_t size, mg_error *err) {
    if (n < *cap) return MG_OK;
    const uint32_t now = *cap ? 2 * *cap : 64;
    void *p;
    if (now < *cap) return mg_fail(err, MG_ERR_LIMIT, "too many entries in an importance matrix");
    MG_TRY(mg_arena_get(&s->arena, &p, now, size, err));
    if (n) memcpy(p, *items, n * size);
    *items = p;
    *cap = now;
    return MG_OK;
}

mg_status mg_imatrix_set_put(mg_imatrix_set *s, const mg_imatrix_sums *entry, mg_error *err) {
    uint32_t before;
    const char *name = mg_arena_strdup(&s->arena, entry->name); /* the map keeps a pointer to it */
    if (!name) return mg_fail_nomem(err, strlen(entry->name));
    MG_TRY(room(s, (void **)&s->items, s->n, &s->cap, sizeof *s->items, err));
    MG_TRY(mg_strmap_put(&s->by_name, name, strlen(name), s->n, &before, err));
    if (before != MG_STRMAP_NONE) {
        mg_status st = mg_fail(err, MG_ERR_FORMAT, "two importance entries of this name");
        mg_error_at(err, NULL, name);
        return st;
    }
    s->items[s->n] = *entry;
    s->items[s->n++].name = name;
    return MG_OK;
}

mg_status mg_imatrix_set_dataset(mg_imatrix_set *s, const char *name, mg_error *err) {
    for (uint32_t i = 0; i < s->n_datasets; i++)
        if (strcmp(s->datasets[i], name) == 0) return MG_OK;
    MG_TRY(room(s, (void **)&s->datasets, s->n_datasets, &s->cap_datasets, sizeof *s->datasets, err));
    const char *copy = mg_arena_strdup(&s->arena, name);
    if (!copy) return mg_fail_nomem(err, strlen(name));
    s->datasets[s->n_datasets++] = copy;
    return MG_OK;
}

static mg_status new_entry(mg_imatrix_set *s, const mg_imatrix_entry *from, mg_imatrix_sums **out, mg_error *err) {
    mg_imatrix_sums e = {.name = from->name, .cols = from->cols, .n_mat = from->n_mat};
    MG_TRY(MG_ARENA_NEW(&s->arena, &e.sums, from->n_mat * from->cols, err));
    MG_TRY(MG_ARENA_NEW(&s->arena, &e.counts, from->n_mat, err));
    MG_TRY(mg_imatrix_set_put(s, &e, err));
    *out = &s->items[s->n - 1];
    return MG_OK;
}

static mg_status add_entry(mg_imatrix_set *s, const mg_imatrix_entry *from, int64_t scale, mg_error *err) {
    const uint32_t i = mg_strmap_get(&s->by_name, from->name, strlen(from->name));
    mg_imatrix_sums *e = i == MG_STRMAP_NONE ? NULL : &s->items[i];
    if (!e) MG_TRY(new_entry(s, from, &e, err));
    if (e->cols != from->cols || e->n_mat != from->n_mat)
        return mg_fail(err, MG_ERR_CONFLICT, "%llu x %llu values, %llu x %llu in the files before",
                       (unsigned long long)from->n_mat, (unsigned long long)from->cols, (unsigned long long)e->n_mat,
                       (unsigned long long)e->cols);
    for (uint64_t k = 0; k < e->n_mat * e->cols; k++) e->sums[k] += (double)from->values[k] * (double)scale;
    for (uint64_t k = 0; k < e->n_mat; k++) {
        int64_t n;
        if (from->counts[k] < 0 || __builtin_mul_overflow(from->counts[k], scale, &n) ||
            __builtin_add_overflow(e->counts[k], n, &e->counts[k]))
            return mg_fail(err, MG_ERR_FORMAT, "a count of %lld tokens", (long long)from->counts[k]);
    }
    return MG_OK;
}

mg_status mg_imatrix_set_add(mg_imatrix_set *s, const mg_imatrix *m, uint64_t legacy_chunk, mg_error *err) {
    const uint64_t chunk = m->legacy ? legacy_chunk : m->chunk_size;
    if (!m->raw) return mg_fail(err, MG_ERR_INTERNAL, "an averaged importance matrix cannot be merged");
    if (m->legacy && (chunk == 0 || chunk > UINT32_MAX))
        return mg_fail(err, MG_ERR_USAGE, "a chunk of %llu tokens", (unsigned long long)chunk);
    for (uint32_t i = 0; i < m->n; i++) {
        mg_status st = add_entry(s, &m->entries[i], m->legacy ? (int64_t)chunk : 1, err);
        if (st != MG_OK) {
            mg_error_at(err, NULL, m->entries[i].name);
            return st;
        }
    }
    for (uint32_t i = 0; i < m->n_datasets; i++) MG_TRY(mg_imatrix_set_dataset(s, m->datasets[i], err));
    if (m->chunk_count > 0 && !mg_add_u64(s->chunk_count, (uint64_t)m->chunk_count, &s->chunk_count))
        return mg_fail(err, MG_ERR_LIMIT, "too many chunks");
    if (s->chunk_size && chunk && s->chunk_size != chunk) s->mixed_chunks = true;
    if (!s->chunk_size) s->chunk_size = chunk;
    return MG_OK;
}
