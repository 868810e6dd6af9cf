/* slices.c - see slices.h. */
#include "formats/slices.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/checked.h"
#include "formats/base/text.h"

#define SCRATCH ((uint64_t)1 << 20)

typedef enum cut { CUT_NONE, CUT_ROWS, CUT_COLUMNS } cut;

typedef struct slices {
    mg_checkpoint base; /* first: an mg_checkpoint * is a slices * */
    mg_files_ckpt *files;
    uint32_t *parts; /* [base tensors][n]: tensors of files */
    uint8_t *cuts;   /* [base tensors] of cut */
    uint32_t n;      /* slices */
} slices;

/* ---- which axis ---- */

static bool is_one_of(const char *name, const char *const *tails) {
    while (*tails && !mg_ends_with(name, *tails)) tails++;
    return *tails != NULL;
}

static mg_status cut_of(const mg_tensor *t, uint64_t dim, uint32_t n, cut *out, mg_error *err) {
    static const char *const rows[] = {".wq.weight", ".wk.weight", ".wv.weight", ".w1.weight", ".w3.weight", NULL};
    static const char *const columns[] = {".wo.weight", ".w2.weight", NULL};
    const bool embedding = strcmp(t->name, "tok_embeddings.weight") == 0, head = strcmp(t->name, "output.weight") == 0;
    *out = CUT_NONE;
    if (t->rank < 2) return MG_OK;
    if (t->rank > 2 || !(embedding || head || is_one_of(t->name, rows) || is_one_of(t->name, columns)))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "the files each hold a slice of it, and no rule says how it was cut");
    *out = is_one_of(t->name, columns) || (embedding && t->shape[1] != dim) ? CUT_COLUMNS : CUT_ROWS;
    const uint64_t side = t->shape[*out == CUT_COLUMNS && !embedding ? 0 : 1]; /* the one that dim is known for */
    if (embedding && *out == CUT_COLUMNS ? side <= dim / n && side * n == dim : side == dim) return MG_OK;
    char shape[128];
    return mg_fail(err, MG_ERR_FORMAT,
                   "%" PRIu32 " slices of shape %s do not make a matrix with a side of 'dim' %" PRIu64
                   ": is a file missing?",
                   n, mg_tensor_shape_text(t, shape, sizeof shape), dim);
}

/* ---- reading ---- */

static mg_status read_part(slices *s, uint32_t t, uint32_t slice, uint64_t at, uint8_t *dst, uint64_t n,
                           mg_error *err) {
    return mg_checkpoint_read(&s->files->base, s->parts[(uint64_t)t * s->n + slice], at, dst, n, err);
}

/* Slices below each other. */
static mg_status read_rows(slices *s, uint32_t t, uint64_t at, uint8_t *dst, uint64_t n, mg_error *err) {
    const uint64_t each = s->base.tensors[t].n_bytes / s->n;
    for (uint64_t k; n; at += k, dst += k, n -= k) {
        k = each - at % each < n ? each - at % each : n;
        MG_TRY(read_part(s, t, (uint32_t)(at / each), at % each, dst, k, err));
    }
    return MG_OK;
}

/* Whole rows, `rows` of them, each of n parts of `width` bytes: a slice's at once, then dealt to their places. */
static mg_status read_whole_rows(slices *s, uint32_t t, uint64_t row, uint64_t rows, uint64_t width, uint8_t *scratch,
                                 uint8_t *dst, mg_error *err) {
    for (uint32_t i = 0; i < s->n; i++) {
        MG_TRY(read_part(s, t, i, row * width, scratch, rows * width, err));
        for (uint64_t r = 0; r < rows; r++) memcpy(dst + (r * s->n + i) * width, scratch + r * width, width);
    }
    return MG_OK;
}

/* Slices beside each other. */
static mg_status read_columns(slices *s, uint32_t t, uint64_t at, uint8_t *dst, uint64_t n, mg_error *err) {
    const uint64_t row = mg_tensor_row_bytes(&s->base.tensors[t]), width = row / s->n;
    uint8_t *scratch = malloc(SCRATCH);
    if (!scratch) return mg_fail_nomem(err, SCRATCH);
    mg_status st = MG_OK;
    for (uint64_t k; n && st == MG_OK; at += k, dst += k, n -= k) {
        const uint64_t from = at % width;
        uint64_t rows = n / row < SCRATCH / width ? n / row : SCRATCH / width;
        if (at % row == 0 && rows) {
            k = rows * row;
            st = read_whole_rows(s, t, at / row, rows, width, scratch, dst, err);
        } else {
            k = width - from < n ? width - from : n;
            st = read_part(s, t, (uint32_t)(at % row / width), at / row * width + from, dst, k, err);
        }
    }
    free(scratch);
    return st;
}

static mg_status read_joined(mg_checkpoint *base, uint32_t t, uint64_t at, void *dst, uint64_t n, mg_error *err) {
    slices *s = (slices *)base;
    if (s->cuts[t] == CUT_ROWS) return read_rows(s, t, at, dst, n, err);
    if (s->cuts[t] == CUT_COLUMNS) return read_columns(s, t, at, dst, n, err);
    return read_part(s, t, 0, at, dst, n, err);
}

static mg_status recheck(mg_checkpoint *base, mg_error *err) {
    return mg_checkpoint_recheck(&((slices *)base)->files->base, err);
}

static mg_status identity(mg_checkpoint *base, uint8_t id[16], mg_error *err) {
    return mg_checkpoint_identity(&((slices *)base)->files->base, id, err);
}

/* Everything but the files. */
static void free_view(slices *s) {
    mg_strmap_release(&s->base.by_name);
    free(s->base.tensors);
    free(s->parts);
    free(s->cuts);
    free(s);
}

static void free_joined(mg_checkpoint *base) {
    mg_files_ckpt *files = ((slices *)base)->files;
    free_view((slices *)base);
    mg_files_ckpt_free(files);
}

static const mg_checkpoint_ops ops = {read_joined, recheck, identity, free_joined};

/* ---- joining ---- */

/* Tensors of the first file are the checkpoint's; each other one is a part of the one of its name. */
static mg_status place(slices *s, uint32_t t, mg_error *err) {
    const mg_tensor *x = &s->files->base.tensors[t], *first;
    uint32_t at = mg_strmap_get(&s->base.by_name, x->name, strlen(x->name));
    if (x->file == 0) {
        if (at != MG_STRMAP_NONE) return mg_fail(err, MG_ERR_FORMAT, "stands twice in '%s'", s->base.files[0]);
        at = s->base.n_tensors++;
        MG_TRY(mg_strmap_put(&s->base.by_name, x->name, strlen(x->name), at, NULL, err));
        s->base.tensors[at] = *x;
    }
    if (at == MG_STRMAP_NONE) return mg_fail(err, MG_ERR_FORMAT, "is not in '%s'", s->base.files[0]);
    uint32_t *part = &s->parts[(uint64_t)at * s->n + x->file];
    if (*part != MG_STRMAP_NONE) return mg_fail(err, MG_ERR_FORMAT, "stands twice in '%s'", s->base.files[x->file]);
    *part = t;
    first = &s->base.tensors[at];
    if (x->dtype != first->dtype)
        return mg_fail(err, MG_ERR_FORMAT, "element type is %s, in '%s' %s", mg_dtype_get(x->dtype)->name,
                       s->base.files[0], mg_dtype_get(first->dtype)->name);
    return mg_tensor_expect_shape(x, first->rank, first->shape, err);
}

static mg_status widen(slices *s, uint32_t t, uint64_t dim, mg_error *err) {
    mg_tensor *x = &s->base.tensors[t];
    cut c;
    for (uint32_t i = 0; i < s->n; i++)
        if (s->parts[(uint64_t)t * s->n + i] == MG_STRMAP_NONE)
            return mg_fail(err, MG_ERR_FORMAT, "is not in '%s'", s->base.files[i]);
    MG_TRY(cut_of(x, dim, s->n, &c, err));
    s->cuts[t] = (uint8_t)c;
    if (c == CUT_NONE) return MG_OK;
    uint64_t *d = &x->shape[c == CUT_ROWS ? 0 : 1];
    if (!mg_mul_u64(*d, s->n, d) || !mg_tensor_set_sizes(x)) return mg_fail(err, MG_ERR_LIMIT, "is too large");
    return MG_OK;
}

static mg_status fill(slices *s, mg_error *err) {
    const mg_checkpoint *in = &s->files->base;
    uint64_t dim = 0;
    if (!mg_json_u64(mg_json_get(in->params, "dim"), &dim) || dim == 0)
        return mg_fail(err, MG_ERR_FORMAT, "params.json: 'dim' is not a positive integer");
    uint64_t all = 1;
    for (uint32_t i = 0; i < in->n_tensors; i++) all += in->tensors[i].file == 0;
    s->base.tensors = calloc(all, sizeof *s->base.tensors);
    s->parts = malloc(all * s->n * sizeof *s->parts);
    s->cuts = calloc(all, sizeof *s->cuts);
    if (!s->base.tensors || !s->parts || !s->cuts) return mg_fail_nomem(err, all * s->n * sizeof *s->parts);
    for (uint64_t i = 0; i < all * s->n; i++) s->parts[i] = MG_STRMAP_NONE;
    mg_status st = MG_OK;
    for (uint32_t i = 0; st == MG_OK && i < in->n_tensors; i++) {
        st = place(s, i, err);
        if (st != MG_OK) mg_error_at(err, in->files[in->tensors[i].file], in->tensors[i].name);
    }
    for (uint32_t i = 0; st == MG_OK && i < s->base.n_tensors; i++) {
        st = widen(s, i, dim, err);
        if (st != MG_OK) mg_error_at(err, in->files[0], s->base.tensors[i].name);
    }
    return st;
}

mg_status mg_slices_join(mg_checkpoint **out, mg_files_ckpt *files, mg_error *err) {
    slices *s = calloc(1, sizeof *s);
    if (!s) return mg_fail_nomem(err, sizeof *s);
    mg_status st =
        mg_files_ckpt_note(files, err, "%" PRIu32 " files each hold a slice of every matrix: joined as they are read",
                           files->base.n_files);
    s->files = files;
    s->n = files->base.n_files;
    s->base = files->base;
    s->base.ops = &ops;
    s->base.tensors = NULL;
    s->base.n_tensors = 0;
    mg_strmap_init(&s->base.by_name);
    if (st == MG_OK) st = fill(s, err);
    if (st != MG_OK) {
        free_view(s);
        return st;
    }
    *out = &s->base;
    return MG_OK;
}
