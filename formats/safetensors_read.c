/* safetensors_read.c - validation of safetensors headers. A first pass over the JSON proves it well formed and counts
 * the entries, so that the second allocates once; nothing is allocated from a number the file merely claims. */
#include "formats/safetensors.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/jsonlex.h"
#include "formats/base/strmap.h"

/* Types of the format that no model we handle uses; named so that their sizes are still checked before the refusal. */
static const struct {
    const char *name;
    unsigned bits;
} foreign[] = {{"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"C64", 64}};

typedef struct parser {
    mg_jsonlex lx;
    mg_arena *a;
    mg_kvs *metadata;
    mg_st_header *out;
    mg_strmap names;
    uint64_t data_start, data_size;
    char *scratch; /* one unescaped key or value */
    size_t scratch_cap;
} parser;

MG_PRINTF(5, 6)
static mg_status bad(parser *p, mg_error *err, mg_status code, const char *tensor, const char *fmt, ...) {
    char message[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    mg_fail(err, code, "%s", message);
    mg_error_at(err, NULL, tensor);
    mg_error_offset(err, p->lx.token_at);
    return code;
}

static mg_status expect(parser *p, mg_jtok want, const char *tensor, const char *message, mg_error *err) {
    mg_jtok tok;
    MG_TRY(mg_jsonlex_next(&p->lx, &tok, err));
    return tok == want ? MG_OK : bad(p, err, MG_ERR_FORMAT, tensor, "%s", message);
}

/* The current KEY or STRING in p->scratch. */
static mg_status unescape(parser *p, size_t *len, mg_error *err) {
    if (p->lx.raw_len >= p->scratch_cap) {
        size_t cap = p->lx.raw_len + 256;
        char *s = realloc(p->scratch, cap);
        if (!s) return mg_fail_nomem(err, cap);
        p->scratch = s;
        p->scratch_cap = cap;
    }
    return mg_jsonlex_string(&p->lx, p->scratch, p->scratch_cap, len, err);
}

static mg_status parse_metadata(parser *p, mg_error *err) {
    mg_strmap keys;
    mg_strmap_init(&keys);
    mg_kvs scratch; /* keys must outlive the map even when the caller wants no metadata */
    mg_kvs_init(&scratch);
    mg_kvs *to = p->metadata ? p->metadata : &scratch;
    mg_status st;
    MG_TRY_GOTO(expect(p, MG_JTOK_OBJ_BEGIN, "__metadata__", "metadata is not an object", err), done);
    for (uint32_t n = 0;; n++) {
        mg_jtok tok;
        size_t len;
        MG_TRY_GOTO(mg_jsonlex_next(&p->lx, &tok, err), done);
        if (tok == MG_JTOK_OBJ_END) break;
        MG_TRY_GOTO(unescape(p, &len, err), done);
        mg_kv kv = {.type = MG_KV_STR, .elem = MG_KV_STR, .count = 1};
        mg_str *v;
        MG_TRY_GOTO(MG_ARENA_NEW(&to->arena, &v, 1, err), done);
        kv.key = (mg_str){mg_arena_strndup(&to->arena, p->scratch, len), len};
        uint32_t before;
        if (!kv.key.data) {
            st = mg_fail_nomem(err, len);
            goto done;
        }
        MG_TRY_GOTO(mg_strmap_put(&keys, kv.key.data, len, n, &before, err), done);
        if (before != MG_STRMAP_NONE) {
            st = bad(p, err, MG_ERR_FORMAT, "__metadata__", "duplicate key in metadata");
            goto done;
        }
        MG_TRY_GOTO(expect(p, MG_JTOK_STRING, "__metadata__", "metadata value is not a string", err), done);
        MG_TRY_GOTO(unescape(p, &len, err), done);
        *v = (mg_str){mg_arena_strndup(&to->arena, p->scratch, len), len};
        if (!v->data) {
            st = mg_fail_nomem(err, len);
            goto done;
        }
        kv.data = v;
        MG_TRY_GOTO(mg_kvs_push(to, &kv, err), done);
    }
    p->out->has_metadata = true;
    st = MG_OK;
done:
    mg_strmap_release(&keys);
    mg_kvs_release(&scratch);
    return st;
}

static mg_status parse_shape(parser *p, mg_tensor *t, mg_error *err) {
    MG_TRY(expect(p, MG_JTOK_ARR_BEGIN, t->name, "shape is not an array", err));
    for (;;) {
        mg_jtok tok;
        MG_TRY(mg_jsonlex_next(&p->lx, &tok, err));
        if (tok == MG_JTOK_ARR_END) return MG_OK;
        if (tok != MG_JTOK_NUMBER)
            return bad(p, err, MG_ERR_FORMAT, t->name, "shape holds something that is no number");
        uint64_t d;
        MG_TRY(mg_jsonlex_u64(&p->lx, &d, err));
        if (t->rank == MG_MAX_RANK) return bad(p, err, MG_ERR_LIMIT, t->name, "shape has more than 8 dimensions");
        t->shape[t->rank++] = d;
    }
}

static mg_status parse_offsets(parser *p, mg_tensor *t, uint64_t *begin, uint64_t *end, mg_error *err) {
    static const char what[] = "data_offsets is not an array of two integers";
    MG_TRY(expect(p, MG_JTOK_ARR_BEGIN, t->name, what, err));
    MG_TRY(expect(p, MG_JTOK_NUMBER, t->name, what, err));
    MG_TRY(mg_jsonlex_u64(&p->lx, begin, err));
    MG_TRY(expect(p, MG_JTOK_NUMBER, t->name, what, err));
    MG_TRY(mg_jsonlex_u64(&p->lx, end, err));
    return expect(p, MG_JTOK_ARR_END, t->name, what, err);
}

/* dtype, shape and extent agree? foreign_bits: element size of a dtype of the format that is not ours, else 0. */
static mg_status check_sizes(parser *p, mg_tensor *t, unsigned foreign_bits, const char *dtype, uint64_t begin,
                             uint64_t end, mg_error *err) {
    if (begin > end) return bad(p, err, MG_ERR_FORMAT, t->name, "data_offsets end before they begin");
    char shape[200];
    mg_tensor bits = *t; /* sub-byte types are counted in bits: a byte-sized dtype holds n_elements */
    if (foreign_bits) bits.dtype = MG_U8;
    uint64_t need;
    if (!mg_tensor_set_sizes(&bits) || !mg_mul_u64(bits.n_elements, foreign_bits ? foreign_bits : 8, &need))
        return bad(p, err, MG_ERR_FORMAT, t->name, "shape %s overflows", mg_tensor_shape_text(t, shape, sizeof shape));
    if (foreign_bits && need % 8 != 0)
        return bad(p, err, MG_ERR_FORMAT, t->name, "elements of the sub-byte dtype do not fill whole bytes");
    uint64_t bytes = foreign_bits ? need / 8 : bits.n_bytes;
    if (end - begin != bytes)
        return bad(p, err, MG_ERR_FORMAT, t->name, "shape %s of %s needs %" PRIu64 " bytes, data_offsets hold %" PRIu64,
                   mg_tensor_shape_text(t, shape, sizeof shape), dtype, bytes, end - begin);
    if (foreign_bits) return bad(p, err, MG_ERR_UNSUPPORTED, t->name, "dtype '%s' is not supported", dtype);
    t->n_elements = bits.n_elements;
    t->n_bytes = bits.n_bytes;
    return MG_OK;
}

static mg_status parse_dtype(parser *p, mg_tensor *t, unsigned *foreign_bits, char name[32], mg_error *err) {
    size_t len;
    MG_TRY(expect(p, MG_JTOK_STRING, t->name, "dtype is not a string", err));
    MG_TRY(unescape(p, &len, err));
    t->dtype = mg_dtype_from_st_name(p->scratch, len);
    size_t keep = len < 31 ? len : 31;
    memcpy(name, p->scratch, keep);
    name[keep] = 0;
    *foreign_bits = 0;
    if (t->dtype != MG_DTYPE_COUNT) return MG_OK;
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (strcmp(foreign[i].name, name) == 0) *foreign_bits = foreign[i].bits;
    return *foreign_bits ? MG_OK : bad(p, err, MG_ERR_UNSUPPORTED, t->name, "unknown dtype '%s'", name);
}

/* One {"dtype":…,"shape":…,"data_offsets":…}; other members are skipped, as the reference reader does. */
static mg_status parse_tensor(parser *p, mg_tensor *t, mg_error *err) {
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4 };
    static const char *const fields[] = {"dtype", "shape", "data_offsets"};
    unsigned seen = 0, foreign_bits = 0;
    char dtype[32] = "";
    uint64_t begin = 0, end = 0;
    MG_TRY(expect(p, MG_JTOK_OBJ_BEGIN, t->name, "tensor entry is not an object", err));
    for (;;) {
        mg_jtok tok;
        size_t len;
        unsigned which = 0;
        MG_TRY(mg_jsonlex_next(&p->lx, &tok, err));
        if (tok == MG_JTOK_OBJ_END) break;
        MG_TRY(unescape(p, &len, err));
        for (unsigned i = 0; i < 3; i++)
            if (strlen(fields[i]) == len && memcmp(fields[i], p->scratch, len) == 0) which = 1u << i;
        if (which & seen) return bad(p, err, MG_ERR_FORMAT, t->name, "duplicate field in tensor entry");
        seen |= which;
        if (which == DTYPE) {
            MG_TRY(parse_dtype(p, t, &foreign_bits, dtype, err));
        } else if (which == SHAPE) {
            MG_TRY(parse_shape(p, t, err));
        } else if (which == OFFSETS) {
            MG_TRY(parse_offsets(p, t, &begin, &end, err));
        } else {
            MG_TRY(mg_jsonlex_next(&p->lx, &tok, err));
            MG_TRY(mg_jsonlex_skip(&p->lx, tok, err));
        }
    }
    if (seen != (DTYPE | SHAPE | OFFSETS))
        return bad(p, err, MG_ERR_FORMAT, t->name, "tensor entry lacks dtype, shape or data_offsets");
    MG_TRY(check_sizes(p, t, foreign_bits, dtype, begin, end, err));
    t->offset = begin; /* relative until the extents are checked */
    return MG_OK;
}

static int by_offset(const void *a, const void *b) {
    const mg_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->n_bytes != y->n_bytes) return x->n_bytes < y->n_bytes ? -1 : 1;
    return x->file < y->file ? -1 : x->file > y->file; /* file holds the header position while sorting */
}

/* The data section is tiled exactly: no hole, no overlap, nothing before or after. */
static mg_status check_extents(parser *p, mg_error *err) {
    mg_st_header *h = p->out;
    uint64_t at = 0;
    for (uint32_t i = 0; i < h->n_tensors; i++) h->tensors[i].file = i;
    if (h->n_tensors) qsort(h->tensors, h->n_tensors, sizeof *h->tensors, by_offset);
    for (uint32_t i = 0; i < h->n_tensors; i++) {
        mg_tensor *t = &h->tensors[i];
        mg_status st = MG_OK;
        if (t->offset != at)
            st = mg_fail(err, MG_ERR_FORMAT,
                         "data starts at %" PRIu64 " of the data section, the data before it ends at %" PRIu64 " (%s)",
                         t->offset, at, t->offset > at ? "hole" : "overlap");
        else if (!mg_range_fits(at, t->n_bytes, p->data_size))
            st = mg_fail(err, MG_ERR_FORMAT,
                         "needs %" PRIu64 " bytes at %" PRIu64 ", the file has only %" PRIu64
                         " bytes: truncated, download it again",
                         t->n_bytes, p->data_start + at, p->data_start + p->data_size);
        if (st != MG_OK) {
            mg_error_at(err, NULL, t->name);
            return st;
        }
        at += t->n_bytes;
        t->file = 0;
        t->offset += p->data_start;
    }
    if (at != p->data_size)
        return mg_fail(err, MG_ERR_FORMAT, "%" PRIu64 " bytes after the last tensor belong to nothing",
                       p->data_size - at);
    return MG_OK;
}

static mg_status count_entries(parser *p, mg_span text, uint32_t *n, mg_error *err) {
    mg_jtok tok;
    *n = 0;
    mg_jsonlex_init(&p->lx, text, 0);
    MG_TRY(expect(p, MG_JTOK_OBJ_BEGIN, NULL, "header is not a JSON object", err));
    for (;;) {
        MG_TRY(mg_jsonlex_next(&p->lx, &tok, err));
        if (tok == MG_JTOK_OBJ_END) break;
        MG_TRY(mg_jsonlex_next(&p->lx, &tok, err));
        MG_TRY(mg_jsonlex_skip(&p->lx, tok, err));
        ++*n; /* bounded by the header limit */
    }
    /* The shortest entry has 46 bytes and a name: a header of ten million empty objects must not cost a gigabyte. */
    if (*n > text.size / 46 + 1)
        return bad(p, err, MG_ERR_FORMAT, NULL, "tensor entries lack dtype, shape or data_offsets");
    return mg_jsonlex_next(&p->lx, &tok, err); /* END, or the lexer's complaint about bytes after it */
}

static mg_status parse_entries(parser *p, mg_span text, mg_error *err) {
    uint32_t n;
    MG_TRY(count_entries(p, text, &n, err));
    MG_TRY(MG_ARENA_NEW(p->a, &p->out->tensors, n ? n : 1, err));
    mg_jsonlex_init(&p->lx, text, 0);
    MG_TRY(expect(p, MG_JTOK_OBJ_BEGIN, NULL, "header is not a JSON object", err));
    for (;;) {
        mg_jtok tok;
        size_t len;
        uint32_t before;
        MG_TRY(mg_jsonlex_next(&p->lx, &tok, err));
        if (tok == MG_JTOK_OBJ_END) return MG_OK;
        if (p->lx.raw_len > MG_SAFETENSORS_MAX_NAME)
            return bad(p, err, MG_ERR_LIMIT, NULL, "tensor name is longer than 65536 bytes");
        MG_TRY(unescape(p, &len, err));
        char *name = mg_arena_strndup(p->a, p->scratch, len);
        if (!name) return mg_fail_nomem(err, len);
        MG_TRY(mg_strmap_put(&p->names, name, len, p->out->n_tensors, &before, err));
        if (before != MG_STRMAP_NONE) return bad(p, err, MG_ERR_FORMAT, name, "duplicate name in the header");
        if (strcmp(name, "__metadata__") == 0) {
            MG_TRY(parse_metadata(p, err));
            continue;
        }
        mg_tensor *t = &p->out->tensors[p->out->n_tensors++];
        t->name = name;
        MG_TRY(parse_tensor(p, t, err));
    }
}

mg_status mg_safetensors_parse(mg_st_header *out, mg_span text, uint64_t data_start, uint64_t file_size, mg_arena *a,
                               mg_kvs *metadata, mg_error *err) {
    memset(out, 0, sizeof *out);
    if (data_start > file_size) return mg_fail(err, MG_ERR_FORMAT, "header ends after the file");
    out->data_start = data_start;
    parser p = {
        .a = a, .metadata = metadata, .out = out, .data_start = data_start, .data_size = file_size - data_start};
    mg_strmap_init(&p.names);
    mg_status st = parse_entries(&p, text, err);
    if (st == MG_OK) st = check_extents(&p, err);
    mg_strmap_release(&p.names);
    free(p.scratch);
    return st;
}

/* A Git-LFS pointer is a small text file in place of the weights: the usual cause of an absurd header length. */
static mg_status refuse_length(const mg_file *f, uint64_t n, mg_error *err) {
    static const char lfs[] = "version https://git-lfs";
    char head[sizeof lfs - 1];
    if (f->size >= sizeof head && mg_file_read(f, 0, head, sizeof head, NULL) == MG_OK &&
        memcmp(head, lfs, sizeof head) == 0)
        return mg_fail(err, MG_ERR_FORMAT, "is a Git-LFS pointer, not the weights: run 'git lfs pull'");
    if (n > MG_SAFETENSORS_MAX_HEADER)
        return mg_fail(err, MG_ERR_FORMAT, "header length %" PRIu64 " is over the limit of %u", n,
                       MG_SAFETENSORS_MAX_HEADER);
    return mg_fail(err, MG_ERR_FORMAT,
                   "header length %" PRIu64 " does not fit a file of %" PRIu64 " bytes (truncated?)", n, f->size);
}

static mg_status read_header(mg_st_header *out, const mg_file *f, mg_arena *a, mg_kvs *metadata, mg_error *err) {
    uint8_t len[8];
    uint64_t n = 0;
    if (f->size < 8)
        return mg_fail(err, MG_ERR_FORMAT, "%" PRIu64 " bytes are too small for a safetensors file", f->size);
    MG_TRY(mg_file_read(f, 0, len, 8, err));
    for (unsigned i = 0; i < 8; i++) n |= (uint64_t)len[i] << (8 * i);
    if (n > MG_SAFETENSORS_MAX_HEADER || n > f->size - 8) return refuse_length(f, n, err);
    uint8_t *text = malloc(n ? n : 1);
    if (!text) return mg_fail_nomem(err, n);
    mg_error inner = {0};
    mg_status st = mg_file_read(f, 8, text, n, &inner);
    if (st == MG_OK) {
        st = mg_safetensors_parse(out, (mg_span){text, n}, 8 + n, f->size, a, metadata, &inner);
        if (st != MG_OK && inner.has_offset) inner.offset += 8; /* the parser counts from the start of the JSON */
    }
    free(text);
    if (st != MG_OK && err && err->code == MG_OK) *err = inner;
    return st;
}

mg_status mg_safetensors_read(mg_st_header *out, const mg_file *f, mg_arena *a, mg_kvs *metadata, mg_error *err) {
    mg_status st = read_header(out, f, a, metadata, err);
    if (st != MG_OK) mg_error_at(err, f->path, NULL);
    return st;
}
