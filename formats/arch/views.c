/* views.c - reading rows of a stored tensor through a chain of views.
 *
 * A chain turns the stored tensor (stage 0) into the logical one (last stage). Views that only move rows are composed
 * into one index map over *units*: the longest run of elements that every such view keeps together (a whole row, or
 * single elements when the rows of a vector move). Units that lie together are read with one pread; units that are
 * permuted within a small neighbourhood (the heads of a rotary permutation) are read as a block and scattered.
 * TRANSPOSE and ADD touch elements, so they cut the chain: what lies below them is read first.
 *
 * Scratch is bounded by VIEW_SCRATCH plus one stored row of a transposed matrix. */
#include "formats/arch/arch_internal.h"

#include <stdlib.h>
#include <string.h>

#define VIEW_SCRATCH                                                                                                   \
    ((uint64_t)1 << 20) /* bytes of a permuted neighbourhood or transposed slab: several heads of a large model */
#define VIEW_DIRECT ((uint64_t)1 << 16) /* a contiguous run of this size is worth its own pread */

typedef struct stage {
    uint32_t rank;
    uint64_t shape[MG_MAX_RANK];
    uint64_t n; /* elements */
} stage;

typedef struct chain {
    mg_checkpoint *c;
    uint32_t tensor;
    mg_dtype dtype;
    uint32_t block, block_bytes;
    const mg_view *views;
    uint32_t n;
    stage st[MG_MAX_VIEWS + 1];
} chain;

uint32_t mg_views_count(const mg_view *views) {
    uint32_t n = 0;
    while (n < MG_MAX_VIEWS && views[n].kind != MG_VIEW_END) n++;
    return n;
}

static bool moves_rows(mg_view_kind k) {
    return k != MG_VIEW_TRANSPOSE && k != MG_VIEW_ADD;
}

static uint64_t inner_of(const stage *s) { /* elements of one index of the slowest dimension */
    uint64_t n = 1;
    for (uint32_t i = 1; i < s->rank; i++) n *= s->shape[i];
    return n;
}

/* Shape of one view's result; false when it does not fit. */
static bool next_stage(stage *out, const stage *in, const mg_view *v) {
    uint64_t step = v->step ? v->step : 1, last;
    *out = *in;
    switch (v->kind) {
    case MG_VIEW_SELECT:
        if (in->rank < 2 || v->a >= in->shape[0]) return false;
        out->rank = in->rank - 1;
        for (uint32_t i = 0; i < out->rank; i++) out->shape[i] = in->shape[i + 1];
        out->n = in->n / in->shape[0];
        return true;
    case MG_VIEW_ROWS:
        if (in->rank < 1 || v->b < 1 || !mg_mul_u64(v->b - 1, step, &last) || !mg_add_u64(last, v->a, &last) ||
            last >= in->shape[0])
            return false;
        out->shape[0] = v->b;
        out->n = v->b * inner_of(in);
        return true;
    case MG_VIEW_GROUPS:
        if (in->rank < 1 || v->b < 1 || step < v->b || v->a > step - v->b || in->shape[0] % step) return false;
        out->shape[0] = in->shape[0] / step * v->b;
        out->n = out->shape[0] * inner_of(in);
        return true;
    case MG_VIEW_ROPE_UNPERM:
    case MG_VIEW_ROPE_PERM:
        return in->rank >= 1 && v->a && in->shape[0] % v->a == 0 && (in->shape[0] / v->a) % 2 == 0;
    case MG_VIEW_TRANSPOSE:
        if (in->rank < 2) return false;
        out->shape[in->rank - 2] = in->shape[in->rank - 1];
        out->shape[in->rank - 1] = in->shape[in->rank - 2];
        return true;
    case MG_VIEW_RESHAPE:
        if (!mg_mul_u64(v->a, v->b ? v->b : 1, &last) || !mg_mul_u64(last, v->step ? v->step : 1, &last) ||
            last != in->n || (v->step && !v->b))
            return false;
        out->rank = v->step ? 3 : v->b ? 2 : 1;
        out->shape[0] = v->a;
        out->shape[1] = v->b;
        out->shape[2] = v->step;
        return true;
    case MG_VIEW_ADD:
        return true;
    case MG_VIEW_END:
        break;
    }
    return false;
}

bool mg_views_shape(const mg_view *views, uint32_t rank, const uint64_t *shape, uint32_t *out_rank,
                    uint64_t *out_shape) {
    stage a = {.rank = rank, .n = 1}, b;
    for (uint32_t i = 0; i < rank; i++) {
        a.shape[i] = shape[i];
        if (!mg_mul_u64(a.n, shape[i], &a.n)) return false;
    }
    for (uint32_t i = 0, n = mg_views_count(views); i < n; i++) {
        if (!next_stage(&b, &a, &views[i])) return false;
        a = b;
    }
    *out_rank = a.rank;
    memcpy(out_shape, a.shape, sizeof a.shape);
    for (uint32_t i = a.rank; i < MG_MAX_RANK; i++) out_shape[i] = 0;
    return true;
}

static bool undo_each_other(const mg_view *x, const mg_view *y) {
    if (x->kind == MG_VIEW_ROPE_UNPERM) return y->kind == MG_VIEW_ROPE_PERM && x->a == y->a;
    if (x->kind == MG_VIEW_ROPE_PERM) return y->kind == MG_VIEW_ROPE_UNPERM && x->a == y->a;
    if (x->kind == MG_VIEW_TRANSPOSE) return y->kind == MG_VIEW_TRANSPOSE;
    return x->kind == MG_VIEW_ADD && y->kind == MG_VIEW_ADD && x->value == -y->value;
}

bool mg_views_append(mg_view *chain_views, const mg_view *more) {
    uint32_t n = mg_views_count(chain_views);
    for (uint32_t i = 0, k = mg_views_count(more); i < k; i++) {
        if (n && undo_each_other(&chain_views[n - 1], &more[i])) {
            chain_views[--n] = (mg_view){0};
            continue;
        }
        if (n == MG_MAX_VIEWS) return false;
        chain_views[n++] = more[i];
    }
    return true;
}

double mg_bound_take_add(mg_bound *b) {
    double sum = 0;
    for (uint32_t n = mg_views_count(b->views); n && b->views[n - 1].kind == MG_VIEW_ADD; n--) {
        sum += b->views[n - 1].value;
        b->views[n - 1] = (mg_view){0};
    }
    return sum;
}

static uint64_t bytes_of(const chain *ch, uint64_t elements) {
    return elements / ch->block * ch->block_bytes;
}

static mg_status read_stage(const chain *ch, uint32_t k, uint64_t first, uint64_t n, uint8_t *dst, mg_error *err);

/* Index map of one view over units of `u` elements: unit x of the result is this unit of the input. */
static uint64_t map_unit(const stage *in, const stage *out, const mg_view *v, uint64_t u, uint64_t x) {
    uint64_t iu = inner_of(in) / u, s, r, d, w;
    switch (v->kind) {
    case MG_VIEW_SELECT:
        return v->a * (out->n / u) + x;
    case MG_VIEW_ROWS:
        s = x / iu;
        r = x % iu;
        return (v->a + s * (v->step ? v->step : 1)) * iu + r;
    case MG_VIEW_GROUPS:
        s = x / iu;
        r = x % iu;
        return (s / v->b * v->step + v->a + s % v->b) * iu + r;
    case MG_VIEW_ROPE_UNPERM: /* logical h*D + t*D/2 + j <- stored h*D + 2j + t */
    case MG_VIEW_ROPE_PERM:
        s = x / iu;
        r = x % iu;
        d = in->shape[0] / v->a;
        w = s % d;
        w = v->kind == MG_VIEW_ROPE_UNPERM ? 2 * (w % (d / 2)) + w / (d / 2) : w % 2 * (d / 2) + w / 2;
        return (s - s % d + w) * iu + r;
    default:
        return x;
    }
}

typedef struct unit_map {
    const chain *ch;
    uint32_t lo, hi; /* views lo..hi-1 move rows */
    uint64_t unit;   /* elements */
} unit_map;

static uint64_t map_down(const unit_map *m, uint64_t x) {
    for (uint32_t i = m->hi; i-- > m->lo;) x = map_unit(&m->ch->st[i], &m->ch->st[i + 1], &m->ch->views[i], m->unit, x);
    return x;
}

static uint64_t gcd(uint64_t a, uint64_t b) {
    while (b) {
        uint64_t t = a % b;
        a = b;
        b = t;
    }
    return a;
}

/* How many of the n units from x on are to be read together: a contiguous run (*direct), or a neighbourhood whose hull
 * [*lo, *hi] is at most twice as large and fits the scratch. */
static uint64_t next_run(const unit_map *m, uint64_t x, uint64_t n, uint64_t *lo, uint64_t *hi, bool *direct) {
    uint64_t first = map_down(m, x), run = 1, ub = bytes_of(m->ch, m->unit);
    while (run < n && map_down(m, x + run) == first + run) run++;
    *direct = true;
    *lo = first;
    *hi = first + run - 1;
    if (run == n || run * ub >= VIEW_DIRECT) return run;
    uint64_t want = VIEW_SCRATCH / ub;
    for (want = want < n ? want : n; want > run; want /= 2) {
        uint64_t a = first, b = first;
        for (uint64_t i = 1; i < want; i++) {
            uint64_t s = map_down(m, x + i);
            a = s < a ? s : a;
            b = s > b ? s : b;
        }
        if (b - a < 2 * want) {
            *direct = false;
            *lo = a;
            *hi = b;
            return want;
        }
    }
    return run;
}

static mg_status read_moved(const unit_map *m, uint64_t x, uint64_t n, uint8_t *dst, mg_error *err) {
    const chain *ch = m->ch;
    uint64_t ub = bytes_of(ch, m->unit), lo, hi;
    uint8_t *scratch = NULL;
    mg_status st = MG_OK;
    for (bool direct; st == MG_OK && n;) {
        uint64_t run = next_run(m, x, n, &lo, &hi, &direct), hull = hi - lo + 1;
        if (direct) {
            st = read_stage(ch, m->lo, lo * m->unit, hull * m->unit, dst, err);
        } else {
            if (!scratch && !(scratch = malloc(2 * VIEW_SCRATCH + ub)))
                return mg_fail_nomem(err, 2 * VIEW_SCRATCH + ub);
            st = read_stage(ch, m->lo, lo * m->unit, hull * m->unit, scratch, err);
            for (uint64_t i = 0; st == MG_OK && i < run; i++)
                memcpy(dst + i * ub, scratch + (map_down(m, x + i) - lo) * ub, ub);
        }
        x += run;
        n -= run;
        dst += run * ub;
    }
    free(scratch);
    return st;
}

/* One transposed matrix: elements [first, first + n) of out[i][j] = in[j][i], in slabs of whole input rows. base: first
 * element of the matrix in stage k-1. */
static mg_status transpose_matrix(const chain *ch, uint32_t k, uint64_t base, uint64_t first, uint64_t n, uint8_t *dst,
                                  uint8_t *buf, uint64_t slab, mg_error *err) {
    const stage *in = &ch->st[k - 1];
    uint64_t rows = in->shape[in->rank - 2], cols = in->shape[in->rank - 1], es = ch->block_bytes;
    for (uint64_t r = 0; r < rows; r += slab) {
        uint64_t nr = rows - r < slab ? rows - r : slab;
        MG_TRY(read_stage(ch, k - 1, base + r * cols, nr * cols, buf, err));
        for (uint64_t j = r; j < r + nr; j++) {
            /* elements i*rows + j inside [first, first + n) */
            uint64_t i = first > j ? (first - j + rows - 1) / rows : 0;
            for (; i < cols && i * rows + j < first + n; i++)
                memcpy(dst + (i * rows + j - first) * es, buf + ((j - r) * cols + i) * es, es);
        }
    }
    return MG_OK;
}

/* Elements first.. of the transposed stage k: matrix by matrix. */
static mg_status read_transposed(const chain *ch, uint32_t k, uint64_t first, uint64_t n, uint8_t *dst, mg_error *err) {
    const stage *in = &ch->st[k - 1];
    uint64_t rows = in->shape[in->rank - 2], cols = in->shape[in->rank - 1], es = ch->block_bytes;
    uint64_t slab = VIEW_SCRATCH / es / cols, matrix = rows * cols;
    slab = slab < 1 ? 1 : slab < rows ? slab : rows;
    uint8_t *buf = malloc(slab * cols * es);
    if (!buf) return mg_fail_nomem(err, slab * cols * es);
    mg_status st = MG_OK;
    while (st == MG_OK && n) {
        uint64_t at = first % matrix, take = matrix - at < n ? matrix - at : n;
        st = transpose_matrix(ch, k, first - at, at, take, dst, buf, slab, err);
        first += take;
        n -= take;
        dst += take * es;
    }
    free(buf);
    return st;
}

/* In the stored dtype; f16 and bf16 round to nearest even, which is not exact for every sum. */
static void add_value(mg_dtype t, double value, uint8_t *p, uint64_t n) {
    float v = (float)value, f;
    uint16_t h;
    double d;
    for (uint64_t i = 0; i < n; i++) {
        switch (t) {
        case MG_F32:
            memcpy(&f, p + i * 4, 4);
            f += v;
            memcpy(p + i * 4, &f, 4);
            break;
        case MG_F64:
            memcpy(&d, p + i * 8, 8);
            d += value;
            memcpy(p + i * 8, &d, 8);
            break;
        default: /* F16, BF16 */
            memcpy(&h, p + i * 2, 2);
            h = t == MG_F16 ? mg_f32_to_f16(mg_f16_to_f32(h) + v) : mg_f32_to_bf16(mg_bf16_to_f32(h) + v);
            memcpy(p + i * 2, &h, 2);
        }
    }
}

/* n elements of stage k from element `first` on. */
static mg_status read_stage(const chain *ch, uint32_t k, uint64_t first, uint64_t n, uint8_t *dst, mg_error *err) {
    if (k == 0) return mg_checkpoint_read(ch->c, ch->tensor, bytes_of(ch, first), dst, bytes_of(ch, n), err);
    const mg_view *v = &ch->views[k - 1];
    if (v->kind == MG_VIEW_TRANSPOSE) return read_transposed(ch, k, first, n, dst, err);
    if (v->kind == MG_VIEW_ADD) {
        MG_TRY(read_stage(ch, k - 1, first, n, dst, err));
        add_value(ch->dtype, v->value, dst, n);
        return MG_OK;
    }
    unit_map m = {.ch = ch, .lo = k, .hi = k, .unit = 0};
    while (m.lo && moves_rows(ch->views[m.lo - 1].kind)) m.lo--;
    m.unit = gcd(first, n);
    for (uint32_t i = m.lo; i < m.hi; i++) {
        mg_view_kind kind = ch->views[i].kind;
        if (kind == MG_VIEW_SELECT)
            m.unit = gcd(m.unit, ch->st[i + 1].n);
        else if (kind != MG_VIEW_RESHAPE)
            m.unit = gcd(m.unit, inner_of(&ch->st[i]));
    }
    if (m.unit % ch->block)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "rows of %llu elements cannot be cut out of %s blocks of %u",
                       (unsigned long long)m.unit, mg_dtype_get(ch->dtype)->name, ch->block);
    return read_moved(&m, first / m.unit, n / m.unit, dst, err);
}

static mg_status chain_init(chain *ch, mg_checkpoint *c, uint32_t t, const mg_view *views, mg_error *err) {
    const mg_tensor *x = &c->tensors[t];
    const mg_dtype_info *info = mg_dtype_get(x->dtype);
    *ch = (chain){.c = c, .tensor = t, .dtype = x->dtype, .block = info->block, .block_bytes = info->block_bytes};
    ch->views = views;
    ch->n = mg_views_count(views);
    ch->st[0] = (stage){.rank = x->rank, .n = x->n_elements};
    memcpy(ch->st[0].shape, x->shape, sizeof x->shape);
    for (uint32_t i = 0; i < ch->n; i++) {
        if (!next_stage(&ch->st[i + 1], &ch->st[i], &views[i]))
            return mg_fail(err, MG_ERR_INTERNAL, "view %u does not fit the tensor's shape", i);
        if (!moves_rows(views[i].kind) && !mg_dtype_is_float(x->dtype))
            return mg_fail(err, MG_ERR_UNSUPPORTED, "elements of type %s cannot be transposed or added to", info->name);
    }
    return MG_OK;
}

static mg_status views_read(mg_checkpoint *c, uint32_t t, const mg_view *views, uint64_t row, uint64_t n, void *dst,
                            mg_error *err) {
    chain ch;
    MG_TRY(chain_init(&ch, c, t, views, err));
    const stage *last = &ch.st[ch.n];
    uint64_t cols = last->rank ? last->shape[last->rank - 1] : 1, rows = cols ? last->n / cols : 0;
    if (!mg_range_fits(row, n, rows))
        return mg_fail(err, MG_ERR_INTERNAL, "rows %llu+%llu asked of %llu", (unsigned long long)row,
                       (unsigned long long)n, (unsigned long long)rows);
    return n ? read_stage(&ch, ch.n, row * cols, n * cols, dst, err) : MG_OK;
}

bool mg_views_row(mg_checkpoint *c, uint32_t t, const mg_view *views, uint64_t row, uint64_t *stored) {
    chain ch;
    mg_error err = {0};
    if (chain_init(&ch, c, t, views, &err) != MG_OK) return false;
    const stage *first = &ch.st[0], *last = &ch.st[ch.n];
    const uint64_t cols = last->rank ? last->shape[last->rank - 1] : 1;
    if (!first->rank || first->shape[first->rank - 1] != cols || !cols || row >= last->n / cols) return false;
    for (uint32_t i = 0; i < ch.n; i++)
        if (!moves_rows(views[i].kind) || (views[i].kind != MG_VIEW_RESHAPE && inner_of(&ch.st[i]) % cols))
            return false;
    const unit_map m = {.ch = &ch, .lo = 0, .hi = ch.n, .unit = cols};
    *stored = map_down(&m, row);
    return true;
}

mg_status mg_views_read(mg_checkpoint *c, uint32_t t, const mg_view *views, uint64_t row, uint64_t n, void *dst,
                        mg_error *err) {
    mg_status st = views_read(c, t, views, row, n, dst, err);
    if (st != MG_OK) mg_error_at(err, NULL, c->tensors[t].name);
    return st;
}
