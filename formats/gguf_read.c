/* gguf_read.c - validating reader of GGUF headers. Counts are checked against the bytes that remain before anything is
 * allocated, arrays of strings grow only as strings are really read, and every sum is overflow-checked: each rule here
 * answers a published crash of another reader. */
#include "formats/gguf.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/container.h"
#include "formats/gguf_set.h"

#define WINDOW (256u << 10)

/* A cursor over a file (through a window) or over memory. */
typedef struct cursor {
    const mg_file *file;
    uint8_t *window;
    uint64_t window_at, window_n;
    const uint8_t *mem;
    uint64_t size, at;
    uint64_t item_at; /* start of the item being read, for messages */
} cursor;

MG_PRINTF(4, 5)
static mg_status bad(const cursor *c, mg_error *err, mg_status code, const char *fmt, ...) {
    char message[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    mg_fail(err, code, "%s", message);
    mg_error_offset(err, c->item_at);
    return code;
}

static uint64_t remaining(const cursor *c) {
    return c->size - c->at;
}

static mg_status take(cursor *c, void *dst, uint64_t n, mg_error *err) {
    if (n > remaining(c))
        return bad(c, err, MG_ERR_FORMAT, "header is cut short: needs %" PRIu64 " bytes, %" PRIu64 " remain", n,
                   remaining(c));
    if (n > MG_GGUF_MAX_HEADER || c->at > MG_GGUF_MAX_HEADER - n)
        return bad(c, err, MG_ERR_LIMIT, "header is larger than %" PRIu64 " bytes", MG_GGUF_MAX_HEADER);
    if (c->mem) {
        if (n) memcpy(dst, c->mem + c->at, n);
    } else if (n > WINDOW) {
        MG_TRY(mg_file_read(c->file, c->at, dst, n, err));
    } else {
        if (c->at < c->window_at || c->at + n > c->window_at + c->window_n) {
            c->window_n = remaining(c) < WINDOW ? remaining(c) : WINDOW;
            c->window_at = c->at;
            MG_TRY(mg_file_read(c->file, c->at, c->window, c->window_n, err));
        }
        memcpy(dst, c->window + (c->at - c->window_at), n);
    }
    c->at += n;
    return MG_OK;
}

static mg_status take_u32(cursor *c, uint32_t *v, mg_error *err) {
    return take(c, v, sizeof *v, err);
}
static mg_status take_u64(cursor *c, uint64_t *v, mg_error *err) {
    return take(c, v, sizeof *v, err);
}

static mg_status take_str(cursor *c, mg_arena *a, mg_str *s, mg_error *err) {
    uint64_t n = 0;
    MG_TRY(take_u64(c, &n, err));
    if (n > remaining(c))
        return bad(c, err, MG_ERR_FORMAT, "string of %" PRIu64 " bytes, %" PRIu64 " remain", n, remaining(c));
    if (n > MG_GGUF_MAX_HEADER) return bad(c, err, MG_ERR_LIMIT, "string of %" PRIu64 " bytes is over the limit", n);
    char *p = mg_arena_alloc(a, n + 1, 1);
    if (!p) return mg_fail_nomem(err, n + 1);
    *s = (mg_str){p, n};
    return take(c, p, n, err);
}

/* ---- values ---- */

static mg_status take_strings(cursor *c, mg_arena *a, mg_kv *kv, mg_error *err) {
    mg_str *v = NULL;
    uint64_t cap = 0;
    mg_status st = MG_OK;
    if (kv->count > remaining(c) / 8)
        return bad(c, err, MG_ERR_FORMAT,
                   "array of %" PRIu64 " strings does not fit in the %" PRIu64 " bytes that remain", kv->count,
                   remaining(c));
    for (uint64_t i = 0; st == MG_OK && i < kv->count; i++) {
        if (i == cap) {
            cap = cap ? cap * 2 : 256;
            if (cap > kv->count) cap = kv->count;
            mg_str *p = realloc(v, cap * sizeof *v);
            if (!p) {
                st = mg_fail_nomem(err, cap * sizeof *v);
                break;
            }
            v = p;
        }
        st = take_str(c, a, &v[i], err);
    }
    mg_str *kept = NULL;
    if (st == MG_OK) st = MG_ARENA_NEW(a, &kept, kv->count ? kv->count : 1, err);
    if (st == MG_OK && kv->count) memcpy(kept, v, kv->count * sizeof *v);
    kv->data = kept;
    free(v);
    return st;
}

static mg_status take_scalars(cursor *c, mg_arena *a, mg_kv *kv, mg_error *err) {
    uint64_t size = mg_kv_type_size(kv->elem), bytes;
    if (!mg_mul_u64(kv->count, size, &bytes) || bytes > remaining(c))
        return bad(c, err, MG_ERR_FORMAT,
                   "%" PRIu64 " values of type %s do not fit in the %" PRIu64 " bytes that remain", kv->count,
                   mg_kv_type_name(kv->elem), remaining(c));
    if (bytes > MG_GGUF_MAX_HEADER)
        return bad(c, err, MG_ERR_LIMIT, "array of %" PRIu64 " bytes is over the limit", bytes);
    void *p = mg_arena_alloc(a, bytes ? bytes : 1, 1);
    if (!p) return mg_fail_nomem(err, bytes);
    MG_TRY(take(c, p, bytes, err));
    kv->data = p;
    for (uint64_t i = 0; kv->elem == MG_KV_BOOL && i < kv->count; i++)
        if (((const uint8_t *)p)[i] > 1)
            return bad(c, err, MG_ERR_FORMAT, "bool has the value %u", ((const uint8_t *)p)[i]);
    return MG_OK;
}

static mg_status take_type(cursor *c, mg_kv_type *t, mg_error *err) {
    uint32_t id; /* checked before it becomes an enumerator */
    MG_TRY(take_u32(c, &id, err));
    if (id >= MG_KV_TYPE_COUNT) return bad(c, err, MG_ERR_FORMAT, "unknown value type %" PRIu32, id);
    *t = (mg_kv_type)id;
    return MG_OK;
}

static mg_status take_value(cursor *c, mg_arena *a, mg_kv *kv, mg_error *err) {
    MG_TRY(take_type(c, &kv->type, err));
    kv->elem = kv->type;
    kv->count = 1;
    if (kv->type == MG_KV_ARR) {
        MG_TRY(take_type(c, &kv->elem, err));
        if (kv->elem == MG_KV_ARR)
            return bad(c, err, MG_ERR_FORMAT, "arrays of arrays are not used by any GGUF reader");
        MG_TRY(take_u64(c, &kv->count, err));
    }
    return kv->elem == MG_KV_STR ? take_strings(c, a, kv, err) : take_scalars(c, a, kv, err);
}

static mg_status check_key(const cursor *c, mg_str key, mg_error *err) {
    if (key.size == 0 || key.size > 65535)
        return bad(c, err, MG_ERR_FORMAT, "key of %" PRIu64 " bytes, expected 1 to 65535", key.size);
    for (uint64_t i = 0; i < key.size; i++)
        if (key.data[i] <= 0x20 || key.data[i] >= 0x7F) /* signed char: bytes over 0x7F are negative */
            return bad(c, err, MG_ERR_FORMAT, "key holds byte 0x%02x, expected printable ASCII", (uint8_t)key.data[i]);
    return MG_OK;
}

static mg_status take_kvs(cursor *c, mg_gguf *g, uint64_t n, mg_error *err) {
    mg_strmap seen;
    mg_status st = MG_OK;
    mg_strmap_init(&seen);
    for (uint64_t i = 0; st == MG_OK && i < n; i++) {
        mg_kv kv = {0};
        uint32_t before = MG_STRMAP_NONE;
        c->item_at = c->at;
        MG_TRY_GOTO(take_str(c, &g->kv.arena, &kv.key, err), done);
        MG_TRY_GOTO(check_key(c, kv.key, err), done);
        MG_TRY_GOTO(mg_strmap_put(&seen, kv.key.data, kv.key.size, (uint32_t)i, &before, err), done);
        if (before != MG_STRMAP_NONE) {
            st = bad(c, err, MG_ERR_FORMAT, "duplicate key '%.200s'", kv.key.data);
            goto done;
        }
        mg_error inner = {0};
        st = take_value(c, &g->kv.arena, &kv, &inner);
        if (st != MG_OK) {
            bad(c, err, st, "key '%.200s': %s", kv.key.data, inner.message);
            goto done;
        }
        st = mg_kvs_push(&g->kv, &kv, err);
    }
done:
    mg_strmap_release(&seen);
    return st;
}

static mg_status read_alignment(const cursor *c, mg_gguf *g, mg_error *err) {
    const mg_kv *kv = mg_kvs_get(&g->kv, "general.alignment");
    uint64_t a = MG_GGUF_DEFAULT_ALIGNMENT;
    if (kv && (kv->type != MG_KV_U32 || !mg_kv_u64(kv, &a)))
        return bad(c, err, MG_ERR_FORMAT, "general.alignment is %s, expected u32", mg_kv_type_name(kv->type));
    if (a == 0 || (a & (a - 1)) != 0 || a > MG_GGUF_MAX_ALIGNMENT)
        return bad(c, err, MG_ERR_FORMAT, "general.alignment is %" PRIu64 ", expected a power of two up to %u", a,
                   MG_GGUF_MAX_ALIGNMENT);
    g->alignment = a;
    return MG_OK;
}

/* ---- tensors ---- */

static mg_status take_name(cursor *c, mg_arena *a, mg_tensor *t, mg_error *err) {
    uint64_t n;
    MG_TRY(take_u64(c, &n, err));
    if (n == 0 || n > MG_GGUF_MAX_NAME)
        return bad(c, err, MG_ERR_FORMAT, "tensor name of %" PRIu64 " bytes, expected 1 to %u", n, MG_GGUF_MAX_NAME);
    char *p = mg_arena_alloc(a, n + 1, 1);
    if (!p) return mg_fail_nomem(err, n + 1);
    MG_TRY(take(c, p, n, err));
    if (memchr(p, 0, n)) return bad(c, err, MG_ERR_FORMAT, "tensor name holds a NUL byte");
    t->name = p;
    return MG_OK;
}

static mg_status take_shape(cursor *c, mg_tensor *t, mg_error *err) {
    MG_TRY(take_u32(c, &t->rank, err));
    if (t->rank > 4) {
        uint32_t n = t->rank;
        t->rank = 0;
        return bad(c, err, MG_ERR_FORMAT, "%" PRIu32 " dimensions, expected at most 4", n);
    }
    for (uint32_t i = 0; i < t->rank; i++) {
        uint64_t *d = &t->shape[t->rank - 1 - i];
        MG_TRY(take_u64(c, d, err));
        if (*d > INT64_MAX) return bad(c, err, MG_ERR_FORMAT, "dimension %" PRIu32 " is negative", i);
    }
    return MG_OK;
}

/* Why a type id is refused. */
static const char *type_reason(uint32_t id) {
    switch (id) {
    case 4:
    case 5:
    case 31:
    case 32:
    case 33:
    case 36:
    case 37:
    case 38:
        return "was removed from GGUF";
    case 9:
    case 15:
        return "exists only inside computations";
    default:
        return "is unknown";
    }
}

static mg_status take_info(cursor *c, mg_tensor *t, mg_error *err) {
    uint32_t type;
    MG_TRY(take_shape(c, t, err));
    MG_TRY(take_u32(c, &type, err));
    t->dtype = mg_dtype_from_gguf_id((int64_t)type);
    if (t->dtype == MG_DTYPE_COUNT)
        return bad(c, err, MG_ERR_UNSUPPORTED, "tensor type %" PRId32 " %s", (int32_t)type, type_reason(type));
    MG_TRY(take_u64(c, &t->offset, err));
    const mg_dtype_info *d = mg_dtype_get(t->dtype);
    char shape[120];
    mg_tensor_shape_text(t, shape, sizeof shape);
    if (mg_tensor_cols(t) % d->block != 0)
        return bad(c, err, MG_ERR_FORMAT, "rows of shape %s are no whole number of %s blocks of %" PRIu32, shape,
                   d->name, d->block);
    if (!mg_tensor_set_sizes(t)) return bad(c, err, MG_ERR_FORMAT, "shape %s overflows", shape);
    return MG_OK;
}

static mg_status take_tensors(cursor *c, mg_gguf *g, uint64_t n, mg_error *err) {
    mg_strmap seen;
    mg_status st = MG_OK;
    mg_tensor *tensors;
    MG_TRY(MG_ARENA_NEW(&g->arena, &tensors, n ? n : 1, err));
    g->tensors = tensors;
    mg_strmap_init(&seen);
    for (uint64_t i = 0; st == MG_OK && i < n; i++) {
        mg_tensor *t = &tensors[i];
        uint32_t before = MG_STRMAP_NONE;
        c->item_at = c->at;
        MG_TRY_GOTO(take_name(c, &g->arena, t, err), done);
        MG_TRY_GOTO(mg_strmap_put(&seen, t->name, strlen(t->name), (uint32_t)i, &before, err), done);
        st = before != MG_STRMAP_NONE ? bad(c, err, MG_ERR_FORMAT, "duplicate tensor name") : take_info(c, t, err);
        if (st != MG_OK) mg_error_at(err, NULL, t->name);
        g->n_tensors++;
    }
done:
    mg_strmap_release(&seen);
    return st;
}

/* Offsets are the running sum of padded sizes and nothing reaches past the end of the file. */
static mg_status place_tensors(cursor *c, mg_gguf *g, mg_error *err) {
    uint64_t sum = 0;
    if (!mg_align_u64(c->at, g->alignment, &g->data_start)) return bad(c, err, MG_ERR_FORMAT, "header size overflows");
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        mg_tensor *t = &g->tensors[i];
        mg_status st = MG_OK;
        uint64_t next = 0;
        if (t->offset != sum)
            st = mg_fail(err, MG_ERR_FORMAT,
                         "offset is %" PRIu64 ", expected %" PRIu64 ", the end of the data before it", t->offset, sum);
        else if (!mg_align_u64(t->n_bytes, g->alignment, &next) || !mg_add_u64(sum, next, &next) || next > INT64_MAX)
            st = mg_fail(err, MG_ERR_FORMAT, "data sizes overflow");
        else if (t->n_bytes && !mg_range_fits(g->data_start, sum, c->size))
            st = mg_fail(err, MG_ERR_FORMAT, "data starts after the end of the file of %" PRIu64 " bytes", c->size);
        else if (t->n_bytes && !mg_range_fits(g->data_start + sum, t->n_bytes, c->size))
            st = mg_fail(err, MG_ERR_FORMAT,
                         "needs %" PRIu64 " bytes at %" PRIu64 ", the file has only %" PRIu64 " bytes: truncated",
                         t->n_bytes, g->data_start + sum, c->size);
        if (st != MG_OK) {
            mg_error_at(err, NULL, t->name);
            return st;
        }
        t->offset = g->data_start + sum;
        sum = next;
    }
    return MG_OK;
}

/* ---- the file ---- */

static mg_status check_magic(cursor *c, mg_error *err) {
    static const char lfs[] = "version https://git-lfs";
    char head[sizeof lfs - 1] = {0};
    uint64_t n = c->size < sizeof head ? c->size : sizeof head;
    if (c->size == 0) return bad(c, err, MG_ERR_FORMAT, "is empty");
    MG_TRY(take(c, head, n, err));
    c->at = 4;
    if (n >= 4 && memcmp(head, "GGUF", 4) == 0) return MG_OK;
    if (memcmp(head, lfs, sizeof head) == 0)
        return bad(c, err, MG_ERR_FORMAT, "is a Git-LFS pointer, not the model: run 'git lfs pull'");
    if (memcmp(head, "\0\0\0\0", 4) == 0)
        return bad(c, err, MG_ERR_FORMAT, "starts with zeros instead of GGUF (incomplete write?)");
    return bad(c, err, MG_ERR_FORMAT, "does not start with GGUF");
}

static mg_status check_version(cursor *c, uint32_t *version, mg_error *err) {
    c->item_at = 4;
    MG_TRY(take_u32(c, version, err));
    if (*version == 2 || *version == 3) return MG_OK;
    if (*version != 0 && (*version & 0xFFFFu) == 0)
        return bad(c, err, MG_ERR_UNSUPPORTED, "is a big-endian GGUF; only little-endian files are read");
    return bad(c, err, MG_ERR_UNSUPPORTED, "GGUF version %" PRIu32 " is not supported (2 and 3 are)", *version);
}

static mg_status read_all(cursor *c, mg_gguf *g, mg_error *err) {
    uint64_t n_tensors, n_kv;
    MG_TRY(check_magic(c, err));
    MG_TRY(check_version(c, &g->version, err));
    c->item_at = 8;
    MG_TRY(take_u64(c, &n_tensors, err));
    MG_TRY(take_u64(c, &n_kv, err));
    /* Smallest records: key of one byte, type, one byte; name of one byte, n_dims, type, offset. */
    if (n_kv > remaining(c) / 14)
        return bad(c, err, MG_ERR_FORMAT, "%" PRIu64 " keys do not fit in %" PRIu64 " bytes", n_kv, remaining(c));
    if (n_tensors > remaining(c) / 25)
        return bad(c, err, MG_ERR_FORMAT, "%" PRIu64 " tensors do not fit in %" PRIu64 " bytes", n_tensors,
                   remaining(c));
    if (n_tensors > MG_GGUF_MAX_TENSORS || n_kv > MG_GGUF_MAX_TENSORS)
        return bad(c, err, MG_ERR_LIMIT, "more than %" PRIu64 " keys or tensors", MG_GGUF_MAX_TENSORS);
    MG_TRY(take_kvs(c, g, n_kv, err));
    MG_TRY(read_alignment(c, g, err));
    if (n_tensors > remaining(c) / 25)
        return bad(c, err, MG_ERR_FORMAT, "%" PRIu64 " tensors do not fit in %" PRIu64 " bytes", n_tensors,
                   remaining(c));
    MG_TRY(take_tensors(c, g, n_tensors, err));
    return place_tensors(c, g, err);
}

static mg_status run(mg_gguf *out, cursor *c, mg_error *err) {
    memset(out, 0, sizeof *out);
    mg_kvs_init(&out->kv);
    mg_arena_init(&out->arena, 0);
    mg_status st = read_all(c, out, err);
    if (st != MG_OK) mg_gguf_release(out);
    return st;
}

mg_status mg_gguf_parse(mg_gguf *out, mg_span bytes, mg_error *err) {
    static const uint8_t none[1];
    cursor c = {.mem = bytes.data ? bytes.data : none, .size = bytes.size};
    return run(out, &c, err);
}

mg_status mg_gguf_read(mg_gguf *out, const mg_file *f, mg_error *err) {
    cursor c = {.file = f, .size = f->size, .window = malloc(WINDOW)};
    mg_status st = c.window ? run(out, &c, err) : mg_fail_nomem(err, WINDOW);
    free(c.window);
    if (st != MG_OK) mg_error_at(err, f->path, NULL);
    return st;
}

void mg_gguf_release(mg_gguf *g) {
    mg_kvs_release(&g->kv);
    mg_arena_release(&g->arena);
    memset(g, 0, sizeof *g);
}

static mg_status check_array(const mg_kvs *kv, const char *key, mg_kv_type elem, uint64_t count, mg_error *err) {
    const mg_kv *v = mg_kvs_get(kv, key);
    if (!v) return MG_OK;
    if (v->type != MG_KV_ARR || v->elem != elem)
        return mg_fail(err, MG_ERR_FORMAT, "key '%s' is %s%s, expected an array of %s", key,
                       v->type == MG_KV_ARR ? "an array of " : "", mg_kv_type_name(v->elem), mg_kv_type_name(elem));
    if (count != UINT64_MAX && v->count != count)
        return mg_fail(err, MG_ERR_FORMAT, "key '%s' has %" PRIu64 " entries, tokenizer.ggml.tokens has %" PRIu64, key,
                       v->count, count);
    return MG_OK;
}

mg_status mg_gguf_check_model(const mg_kvs *kv, mg_error *err) {
    const mg_kv *tokens = mg_kvs_get(kv, "tokenizer.ggml.tokens");
    uint64_t n = tokens ? tokens->count : UINT64_MAX;
    MG_TRY(check_array(kv, "tokenizer.ggml.tokens", MG_KV_STR, UINT64_MAX, err));
    MG_TRY(check_array(kv, "tokenizer.ggml.scores", MG_KV_F32, n, err));
    MG_TRY(check_array(kv, "tokenizer.ggml.token_type", MG_KV_I32, n, err));
    MG_TRY(check_array(kv, "tokenizer.ggml.merges", MG_KV_STR, UINT64_MAX, err));
    return MG_OK;
}

static mg_status note_rest(mg_files_ckpt *c, const mg_gguf *g, mg_error *err) {
    uint64_t end = g->data_start;
    for (uint32_t i = 0; i < g->n_tensors; i++) end = g->tensors[i].offset + g->tensors[i].n_bytes;
    uint64_t file_size = c->files[0]->size;
    if (mg_align_u64(end, g->alignment, &end) && file_size > end)
        return mg_files_ckpt_note(c, err, "%" PRIu64 " bytes after the last tensor belong to nothing", file_size - end);
    return MG_OK;
}

/* The parsed header's allocations move into the checkpoint whole. */
static mg_status fill(mg_files_ckpt *c, const char *path, mg_error *err) {
    const char *slash = strrchr(path, '/');
    mg_gguf g;
    MG_TRY(mg_files_ckpt_set_dir_of(c, path, err));
    MG_TRY(mg_files_ckpt_add_file(c, path, slash ? slash + 1 : path, err));
    MG_TRY(mg_gguf_read(&g, c->files[0], err));
    mg_kvs_release(&c->kv);
    c->kv = g.kv;
    c->names = g.arena;
    c->base.kv = &c->kv;
    c->base.alignment = g.alignment;
    MG_TRY(mg_files_ckpt_add_tensors(c, g.tensors, g.n_tensors, err));
    MG_TRY(mg_gguf_check_model(&c->kv, err));
    MG_TRY(note_rest(c, &g, err));
    MG_TRY(mg_gguf_add_parts(c, path, err));
    return mg_files_ckpt_index(c, err);
}

mg_status mg_gguf_open(mg_checkpoint **out, const char *path, mg_error *err) {
    mg_files_ckpt *c = NULL;
    MG_TRY(mg_files_ckpt_new(&c, MG_CONTAINER_GGUF, path, err));
    mg_status st = fill(c, path, err);
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        mg_files_ckpt_free(c);
        return st;
    }
    *out = &c->base;
    return MG_OK;
}
