/* gguf_write.c - header bytes and data offsets of a GGUF v3 file. The same routine runs twice: once counting, once
 * writing. */
#include "formats/gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct writer {
    uint8_t *to; /* NULL while counting */
    uint64_t at;
    bool overflow;
} writer;

static void put(writer *w, const void *data, uint64_t n) {
    if (w->to && n) memcpy(w->to + w->at, data, n);
    if (!mg_add_u64(w->at, n, &w->at)) w->overflow = true;
}

static void put_u32(writer *w, uint32_t v) {
    put(w, &v, sizeof v);
}
static void put_u64(writer *w, uint64_t v) {
    put(w, &v, sizeof v);
}

static void put_str(writer *w, const char *s, uint64_t n) {
    put_u64(w, n);
    put(w, s, n);
}

static void put_kv(writer *w, const mg_kv *kv) {
    put_str(w, kv->key.data, kv->key.size);
    put_u32(w, (uint32_t)kv->type);
    if (kv->type == MG_KV_ARR) {
        put_u32(w, (uint32_t)kv->elem);
        put_u64(w, kv->count);
    }
    if (kv->elem == MG_KV_STR) {
        const mg_str *s = kv->data;
        for (uint64_t i = 0; i < kv->count; i++) put_str(w, s[i].data, s[i].size);
    } else {
        put(w, kv->data, kv->count * mg_kv_type_size(kv->elem));
    }
}

static void put_header(writer *w, const mg_kvs *kv, const mg_tensor *tensors, uint32_t n, const uint64_t *relative) {
    put(w, "GGUF", 4);
    put_u32(w, 3);
    put_u64(w, n);
    put_u64(w, kv->n);
    for (uint32_t i = 0; i < kv->n; i++) put_kv(w, &kv->items[i]);
    for (uint32_t i = 0; i < n; i++) {
        const mg_tensor *t = &tensors[i];
        put_str(w, t->name, strlen(t->name));
        put_u32(w, t->rank);
        for (uint32_t d = t->rank; d-- > 0;) put_u64(w, t->shape[d]);
        put_u32(w, (uint32_t)mg_dtype_get(t->dtype)->gguf_id);
        put_u64(w, relative[i]);
    }
}

static mg_status choose_alignment(const mg_kvs *kv, uint64_t *alignment, mg_error *err) {
    uint64_t stated = MG_GGUF_DEFAULT_ALIGNMENT;
    const mg_kv *v = mg_kvs_get(kv, "general.alignment");
    if (v && !mg_kv_u64(v, &stated)) return mg_fail(err, MG_ERR_FORMAT, "general.alignment is no integer");
    if (*alignment == 0) *alignment = stated;
    if (*alignment != stated)
        return mg_fail(err, MG_ERR_CONFLICT, "alignment %" PRIu64 " asked for, general.alignment says %" PRIu64,
                       *alignment, stated);
    if (stated == 0 || (stated & (stated - 1)) || stated > MG_GGUF_MAX_ALIGNMENT)
        return mg_fail(err, MG_ERR_FORMAT, "alignment %" PRIu64 " is no power of two up to %u", stated,
                       MG_GGUF_MAX_ALIGNMENT);
    return MG_OK;
}

static mg_status check_tensor(const mg_tensor *t, uint32_t before, mg_error *err) {
    size_t n = strlen(t->name);
    if (n == 0 || n > MG_GGUF_MAX_NAME)
        return mg_fail(err, MG_ERR_FORMAT, "name of %zu bytes, GGUF readers take 1 to %u", n, MG_GGUF_MAX_NAME);
    if (before != MG_STRMAP_NONE) return mg_fail(err, MG_ERR_FORMAT, "name is used twice");
    if (mg_dtype_get(t->dtype)->gguf_id < 0)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "GGUF cannot hold %s", mg_dtype_get(t->dtype)->name);
    if (t->rank > 4)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "GGUF holds at most 4 dimensions, this has %" PRIu32, t->rank);
    return MG_OK;
}

/* Offsets relative to the data section: running sum of padded sizes. *total is the end of the last padding. */
static mg_status place(const mg_tensor *tensors, uint32_t n, uint64_t alignment, uint64_t *offsets, uint64_t *total,
                       mg_error *err) {
    mg_strmap names;
    mg_status st = MG_OK;
    mg_strmap_init(&names);
    *total = 0;
    for (uint32_t i = 0; st == MG_OK && i < n; i++) {
        const mg_tensor *t = &tensors[i];
        uint32_t before = MG_STRMAP_NONE;
        uint64_t padded;
        st = mg_strmap_put(&names, t->name, strlen(t->name), i, &before, err);
        if (st == MG_OK) st = check_tensor(t, before, err);
        offsets[i] = *total;
        if (st == MG_OK &&
            (!mg_align_u64(t->n_bytes, alignment, &padded) || !mg_add_u64(*total, padded, total) || *total > INT64_MAX))
            st = mg_fail(err, MG_ERR_LIMIT, "file would be larger than 2^63 bytes");
        if (st != MG_OK) mg_error_at(err, NULL, t->name);
    }
    mg_strmap_release(&names);
    return st;
}

mg_status mg_gguf_layout(const mg_kvs *kv, const mg_tensor *tensors, uint32_t n, uint64_t alignment, uint8_t **header,
                         uint64_t *header_size, uint64_t *offsets, uint64_t *file_size, mg_error *err) {
    uint64_t data = 0, size = 0;
    MG_TRY(choose_alignment(kv, &alignment, err));
    MG_TRY(place(tensors, n, alignment, offsets, &data, err));
    writer count = {0};
    put_header(&count, kv, tensors, n, offsets);
    if (count.overflow || !mg_align_u64(count.at, alignment, &size) || size > MG_GGUF_MAX_HEADER)
        return mg_fail(err, MG_ERR_LIMIT, "header is larger than %" PRIu64 " bytes", MG_GGUF_MAX_HEADER);
    writer w = {.to = calloc(1, size)};
    if (!w.to) return mg_fail_nomem(err, size);
    put_header(&w, kv, tensors, n, offsets);
    for (uint32_t i = 0; i < n; i++) offsets[i] += size;
    *header = w.to;
    *header_size = size;
    *file_size = size + data;
    return MG_OK;
}
