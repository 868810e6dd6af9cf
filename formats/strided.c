/* strided.c - gather reads.
 *
 * A range of elements is cut into pieces that one loop can read: the rest of a row when the elements of a row are
 * neighbours, and for transposed matrices the part that lies in one matrix. There the file holds columns, so a piece of
 * nr rows is nr elements of every column: read column by column when they lie far apart, else many columns at once. */
#include "formats/strided.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/checked.h"

#define SCRATCH ((uint64_t)1 << 20)
#define FAR     ((uint64_t)8 << 10) /* bytes between columns from which separate reads are cheaper than the gap */

bool mg_strides_plain(const mg_tensor *t, const uint64_t *stride) {
    uint64_t want = 1;
    if (t->n_elements == 0) return true;
    for (uint32_t k = t->rank; k-- > 0; want *= t->shape[k])
        if (t->shape[k] != 1 && stride[k] != want) return false;
    return true;
}

/* Is the matrix of the last two dimensions stored column by column? */
static bool columns(const mg_tensor *t, const uint64_t *stride) {
    return t->rank >= 2 && t->shape[t->rank - 1] != 1 && stride[t->rank - 1] != 1;
}

bool mg_strides_readable(const mg_tensor *t, const uint64_t *stride) {
    return !columns(t, stride) ? t->rank != 1 || stride[0] == 1 || t->shape[0] == 1
                               : stride[t->rank - 2] == 1 || t->shape[t->rank - 2] == 1;
}

bool mg_strides_span(const mg_tensor *t, const uint64_t *stride, uint64_t *span) {
    uint64_t last = 0, d;
    *span = 0;
    for (uint32_t k = 0; k < t->rank; k++) {
        if (t->shape[k] == 0) return true;
        if (!mg_mul_u64(t->shape[k] - 1, stride[k], &d) || !mg_add_u64(last, d, &last)) return false;
    }
    return mg_add_u64(last, 1, span);
}

typedef struct gather {
    const mg_file *f;
    const mg_tensor *t;
    const uint64_t *stride;
    uint64_t es;
    uint8_t *scratch;
    mg_error *err;
} gather;

/* Element of the storage at which entry `i` of the first `rank` dimensions begins. */
static uint64_t outer(const gather *g, uint32_t rank, uint64_t i) {
    uint64_t at = 0;
    for (uint32_t k = rank; k-- > 0; i /= g->t->shape[k]) at += i % g->t->shape[k] * g->stride[k];
    return at;
}

static mg_status fetch(const gather *g, uint64_t element, uint64_t n, void *dst) {
    return mg_file_read(g->f, g->t->offset + element * g->es, dst, n * g->es, g->err);
}

/* Elements [first, first + n) of a tensor whose rows are runs. */
static mg_status gather_rows(const gather *g, uint64_t first, uint64_t n, uint8_t *dst) {
    uint64_t cols = g->t->shape[g->t->rank - 1];
    while (n) {
        uint64_t c = first % cols, take = cols - c < n ? cols - c : n;
        MG_TRY(fetch(g, outer(g, g->t->rank - 1, first / cols) + c, take, dst));
        first += take;
        n -= take;
        dst += take * g->es;
    }
    return MG_OK;
}

/* Elements [first, first + n) of one matrix [rows, cols] whose column j begins at base + j * pitch. */
static mg_status gather_matrix(const gather *g, uint64_t base, uint64_t first, uint64_t n, uint8_t *dst) {
    uint64_t cols = g->t->shape[g->t->rank - 1], pitch = g->stride[g->t->rank - 1], es = g->es;
    uint64_t r0 = first / cols, r1 = (first + n - 1) / cols;
    while (r0 <= r1) {
        uint64_t nr = r1 - r0 + 1 < SCRATCH / es ? r1 - r0 + 1 : SCRATCH / es, k = 1;
        if (pitch <= FAR / es && nr * es < SCRATCH) /* k columns: (k - 1) * pitch + nr elements fit */
            k = pitch ? (SCRATCH / es - nr) / pitch + 1 : cols;
        for (uint64_t j = 0; j < cols; j += k) {
            uint64_t m = cols - j < k ? cols - j : k;
            MG_TRY(fetch(g, base + j * pitch + r0, (m - 1) * pitch + nr, g->scratch));
            for (uint64_t c = 0; c < m; c++) {
                for (uint64_t r = 0; r < nr; r++) {
                    uint64_t to = (r0 + r) * cols + j + c;
                    if (to >= first && to - first < n)
                        memcpy(dst + (to - first) * es, g->scratch + (c * pitch + r) * es, es);
                }
            }
        }
        r0 += nr;
    }
    return MG_OK;
}

static mg_status gather_columns(const gather *g, uint64_t first, uint64_t n, uint8_t *dst) {
    uint32_t rank = g->t->rank;
    uint64_t matrix = g->t->shape[rank - 2] * g->t->shape[rank - 1];
    while (n) {
        uint64_t at = first % matrix, take = matrix - at < n ? matrix - at : n;
        MG_TRY(gather_matrix(g, outer(g, rank - 2, first / matrix), at, take, dst));
        first += take;
        n -= take;
        dst += take * g->es;
    }
    return MG_OK;
}

static mg_status gather_elements(const gather *g, uint64_t first, uint64_t n, uint8_t *dst) {
    return columns(g->t, g->stride) ? gather_columns(g, first, n, dst) : gather_rows(g, first, n, dst);
}

/* A range may begin and end within an element. */
static mg_status gather_bytes(const gather *g, uint64_t begin, uint64_t n, uint8_t *dst) {
    uint8_t one[16];
    uint64_t head = begin % g->es, k;
    if (head && n) {
        k = g->es - head < n ? g->es - head : n;
        MG_TRY(gather_elements(g, begin / g->es, 1, one));
        memcpy(dst, one + head, k);
        begin += k;
        n -= k;
        dst += k;
    }
    if (n / g->es) MG_TRY(gather_elements(g, begin / g->es, n / g->es, dst));
    k = n - n % g->es;
    if (n % g->es) {
        MG_TRY(gather_elements(g, (begin + k) / g->es, 1, one));
        memcpy(dst + k, one, n % g->es);
    }
    return MG_OK;
}

mg_status mg_strided_read(const mg_file *f, const mg_tensor *t, const uint64_t *stride, uint64_t begin, void *dst,
                          uint64_t n, mg_error *err) {
    gather g = {.f = f, .t = t, .stride = stride, .es = mg_dtype_get(t->dtype)->block_bytes, .err = err};
    g.scratch = malloc(SCRATCH);
    if (!g.scratch) return mg_fail_nomem(err, SCRATCH);
    mg_status st = gather_bytes(&g, begin, n, dst);
    free(g.scratch);
    return st;
}
