/* safetensors_write.c - layout of a safetensors file: header bytes and data offsets, exactly those of the reference
 * library's serializer (compact JSON, __metadata__ first, entries in data order, spaces up to a multiple of 8). */
#include "formats/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/strmap.h"

/* The reference sorts by its dtype enumeration, widest last, and reverses: this is that enumeration. */
static const uint8_t st_rank[MG_DTYPE_COUNT] = {
    [MG_BOOL] = 1, [MG_U8] = 2,   [MG_I8] = 3,   [MG_F8_E5M2] = 4, [MG_F8_E4M3] = 5, [MG_F8_E8M0] = 6,
    [MG_I16] = 7,  [MG_U16] = 8,  [MG_F16] = 9,  [MG_BF16] = 10,   [MG_I32] = 11,    [MG_U32] = 12,
    [MG_F32] = 13, [MG_F64] = 14, [MG_I64] = 15, [MG_U64] = 16,
};

static int by_library_order(const void *a, const void *b) {
    const mg_tensor *x = *(const mg_tensor *const *)a, *y = *(const mg_tensor *const *)b;
    if (x->dtype != y->dtype) return st_rank[x->dtype] > st_rank[y->dtype] ? -1 : 1;
    return strcmp(x->name, y->name);
}

static void put_string(FILE *f, const char *s, uint64_t n) {
    putc('"', f);
    for (uint64_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        static const char plain[] = "\b\t\n\f\r\"\\", named[] = "btnfr\"\\";
        const char *at = c ? strchr(plain, c) : NULL;
        if (at)
            fprintf(f, "\\%c", named[at - plain]);
        else if (c < 0x20)
            fprintf(f, "\\u%04x", c);
        else
            putc(c, f);
    }
    putc('"', f);
}

static void put_metadata(FILE *f, const mg_kvs *metadata) {
    if (!metadata) {
        fputs("\"__metadata__\":{\"format\":\"pt\"}", f);
        return;
    }
    fputs("\"__metadata__\":{", f);
    for (uint32_t i = 0; i < metadata->n; i++) {
        mg_str v = {"", 0};
        mg_kv_str(&metadata->items[i], &v);
        if (i) putc(',', f);
        put_string(f, metadata->items[i].key.data, metadata->items[i].key.size);
        putc(':', f);
        put_string(f, v.data, v.size);
    }
    putc('}', f);
}

static void put_tensor(FILE *f, const mg_tensor *t, uint64_t begin) {
    put_string(f, t->name, strlen(t->name));
    fprintf(f, ":{\"dtype\":\"%s\",\"shape\":[", mg_dtype_get(t->dtype)->st_name);
    for (uint32_t i = 0; i < t->rank; i++) fprintf(f, "%s%" PRIu64, i ? "," : "", t->shape[i]);
    fprintf(f, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin, begin + t->n_bytes);
}

/* Names unique, dtypes representable, metadata strings only, sum within 63 bits. */
static mg_status check_input(const mg_tensor *tensors, uint32_t n, const mg_kvs *metadata, mg_error *err) {
    mg_strmap names;
    mg_status st = MG_OK;
    uint64_t total = 0;
    mg_strmap_init(&names);
    for (uint32_t i = 0; i < n && st == MG_OK; i++) {
        const mg_tensor *t = &tensors[i];
        uint32_t before = MG_STRMAP_NONE;
        st = mg_strmap_put(&names, t->name, strlen(t->name), i, &before, err);
        if (st != MG_OK) break;
        if (before != MG_STRMAP_NONE || strcmp(t->name, "__metadata__") == 0)
            st = mg_fail(err, MG_ERR_FORMAT, "name is used twice or reserved");
        else if (!mg_dtype_get(t->dtype)->st_name)
            st = mg_fail(err, MG_ERR_UNSUPPORTED, "safetensors cannot hold %s", mg_dtype_get(t->dtype)->name);
        else if (!mg_add_u64(total, t->n_bytes, &total) || total > INT64_MAX)
            st = mg_fail(err, MG_ERR_LIMIT, "file would be larger than 2^63 bytes");
        if (st != MG_OK) mg_error_at(err, NULL, t->name);
    }
    mg_strmap_release(&names);
    for (uint32_t i = 0; metadata && st == MG_OK && i < metadata->n; i++)
        if (metadata->items[i].type != MG_KV_STR)
            st = mg_fail(err, MG_ERR_INTERNAL, "metadata '%s' is not a string", metadata->items[i].key.data);
    return st;
}

/* JSON and padding after 8 bytes left for the length. offsets are relative to the data section. */
static mg_status build(const mg_tensor *tensors, const mg_tensor **order, uint32_t n, const mg_kvs *metadata,
                       char **buf, size_t *size, uint64_t *offsets, uint64_t *data_size, mg_error *err) {
    FILE *f = open_memstream(buf, size);
    if (!f) return mg_fail_nomem(err, 1);
    uint64_t at = 0;
    bool first = metadata && metadata->n == 0;
    fwrite("\0\0\0\0\0\0\0\0{", 1, 9, f);
    if (!first) put_metadata(f, metadata);
    for (uint32_t i = 0; i < n; i++) {
        if (!first) putc(',', f);
        first = false;
        put_tensor(f, order[i], at);
        offsets[order[i] - tensors] = at;
        at += order[i]->n_bytes;
    }
    putc('}', f);
    for (long pos = ftell(f); pos % 8 != 0; pos++) putc(' ', f);
    *data_size = at;
    bool failed = ferror(f) != 0;
    if (fclose(f) != 0 || failed) {
        free(*buf);
        *buf = NULL;
        return mg_fail_nomem(err, *size);
    }
    return MG_OK;
}

mg_status mg_safetensors_layout(const mg_tensor *tensors, uint32_t n, const mg_kvs *metadata, uint8_t **header,
                                uint64_t *header_size, uint64_t *offsets, uint64_t *file_size, mg_error *err) {
    MG_TRY(check_input(tensors, n, metadata, err));
    const mg_tensor **order = malloc((n ? n : 1) * sizeof *order);
    if (!order) return mg_fail_nomem(err, n * sizeof *order);
    for (uint32_t i = 0; i < n; i++) order[i] = &tensors[i];
    if (n) qsort(order, n, sizeof *order, by_library_order);
    char *buf = NULL;
    size_t size = 0;
    uint64_t data = 0;
    mg_status st = build(tensors, order, n, metadata, &buf, &size, offsets, &data, err);
    free(order);
    if (st != MG_OK) return st;
    if (size - 8 > MG_SAFETENSORS_MAX_HEADER) {
        free(buf);
        return mg_fail(err, MG_ERR_LIMIT, "header of %zu bytes is over the limit of %u: use smaller shards", size - 8,
                       MG_SAFETENSORS_MAX_HEADER);
    }
    for (unsigned i = 0; i < 8; i++) buf[i] = (char)((uint64_t)(size - 8) >> (8 * i));
    for (uint32_t i = 0; i < n; i++) offsets[i] += size;
    *header = (uint8_t *)buf;
    *header_size = size;
    *file_size = size + data;
    return MG_OK;
}
