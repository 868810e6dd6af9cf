/* kernel_group.c - the kernels of the group formats, a driver per row of quant/group_kernels.inc. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "quant/group_kernels.h"
#include "tests/kernels/kernel_test.h"

enum { MOST = 4096, ROWS = 8 };

typedef struct group_case {
    const mg_group_kernels *table[2]; /* scalar, twin */
    uint64_t index;
    kt_buffer in[ROWS], out[2];
} group_case;

static bool at_end(const group_case *c) {
    return c->index % 5 != 4;
}

static uint64_t length(const group_case *c) {
    return c->index < 70 ? c->index : kt_below(MOST);
}

/* n finite floats of a distribution; wild: any bits. */
static const float *floats(group_case *c, int k, uint64_t n, bool wild) {
    float *p = kt_place(&c->in[k], n * 4, at_end(c));
    kt_fill(p, n, (kt_kind)(c->index % KT_ANY_BITS));
    for (uint64_t i = 0; wild && i < n; i += 1 + kt_below(7)) p[i] = kt_any_float();
    kt_read_only(&c->in[k], true);
    return p;
}

/* n codes of some bits. */
static const uint8_t *codes(group_case *c, int k, uint64_t n, uint32_t bits) {
    uint8_t *p = kt_place(&c->in[k], n, at_end(c));
    for (uint64_t i = 0; i < n; i++) p[i] = (uint8_t)(kt_next() >> 33 & ((1u << bits) - 1));
    kt_read_only(&c->in[k], true);
    return p;
}

static void *output(group_case *c, int i, uint64_t bytes, const void *from) {
    void *p = kt_place(&c->out[i], bytes, at_end(c));
    if (from)
        memcpy(p, from, bytes);
    else
        memset(p, 0xA5, bytes);
    return p;
}

/* One type of element each: bytes that differ are a failure, NaN equals NaN. */
static void compare(group_case *c, uint64_t bytes, bool is_float) {
    const uint8_t *want = c->out[0].data, *got = c->out[1].data;
    for (int i = 0; i < 2; i++)
        if (!kt_intact(&c->out[i])) kt_fail("variant %d wrote outside its output", i);
    for (uint64_t i = 0; i < bytes; i += is_float ? 4 : 1) {
        float a = 0, b = 0;
        if (is_float) memcpy(&a, want + i, 4), memcpy(&b, got + i, 4);
        if (is_float ? kt_same(a, b) : want[i] == got[i]) continue;
        if (is_float)
            kt_fail("element %" PRIu64 " of %" PRIu64 " is %a, expected %a", i / 4, bytes / 4, (double)b, (double)a);
        else
            kt_fail("byte %" PRIu64 " of %" PRIu64 " is %02x, expected %02x", i, bytes, got[i], want[i]);
        return;
    }
}

/* Scale and zero as searches make them for w: whole ranges and narrower ones, so that values are clamped too. */
static mg_group_step step_for(const float *w, uint64_t n) {
    const uint32_t bits = 2 + (uint32_t)kt_below(7);
    mg_group_step s = {.top = (float)((1u << bits) - 1)};
    float lo = 0, hi = 0;
    for (uint64_t i = 0; i < n; i++) {
        lo = w[i] < lo ? w[i] : lo;
        hi = w[i] > hi ? w[i] : hi;
    }
    const float part = (float)(0.1 + 0.9 * kt_uniform());
    s.scale = (hi * part - lo * part) / s.top;
    if (!(s.scale > 1e-30f && s.scale < 1e30f)) s.scale = 0.5f;
    if (kt_next() & 1) {
        s.zero = (float)kt_below((uint64_t)s.top + 1);
    } else {
        s.bias = lo;
        if (kt_next() & 1) s.scale = -s.scale;
    }
    return s;
}

static uint64_t try_unpack(group_case *c) {
    const uint32_t bits = 2 + (uint32_t)kt_below(7);
    const uint64_t n = length(c), bytes = (n * bits + 7) / 8;
    const uint8_t *in = codes(c, 0, bytes, 8);
    for (int i = 0; i < 2; i++) c->table[i]->unpack(in, n, bits, output(c, i, n, NULL));
    compare(c, n, false);
    return n;
}

static uint64_t try_pack(group_case *c) {
    const uint32_t bits = 2 + (uint32_t)kt_below(7);
    const uint64_t n = length(c), bytes = (n * bits + 31) / 32 * 4;
    const uint8_t *in = codes(c, 0, n, bits);
    for (int i = 0; i < 2; i++) c->table[i]->pack(in, n, bits, output(c, i, bytes, NULL));
    compare(c, bytes, false);
    uint8_t *back = kt_place(&c->in[1], n, at_end(c)); /* and the reference undoes what it did */
    c->table[0]->unpack(c->out[0].data, n, bits, back);
    if (memcmp(back, in, n) != 0) kt_fail("%u bits: unpacking gives other codes than were packed", bits);
    return n;
}

static uint64_t try_turn(group_case *c) {
    static const uint8_t orders[2][8] = {{0, 1, 2, 3, 4, 5, 6, 7}, {0, 2, 4, 6, 1, 3, 5, 7}};
    const uint64_t n = length(c) / 8 % (MOST / 64) * 8, ld = 8 + kt_below(9), bytes = n ? (n - 1) * ld + 8 : 0;
    const uint8_t *rows[ROWS];
    for (int r = 0; r < ROWS; r++) rows[r] = codes(c, r, n, 8);
    for (int i = 0; i < 2; i++) c->table[i]->turn(rows, n, orders[c->index % 2], output(c, i, bytes, NULL), ld);
    compare(c, bytes, false);
    return 8 * n;
}

static uint64_t try_range(group_case *c) {
    const uint64_t n = 1 + length(c);
    const float *w = floats(c, 0, n, c->index % 4 == 0);
    float end[2][2];
    bool finite[2];
    for (int i = 0; i < 2; i++) finite[i] = c->table[i]->range(w, n, &end[i][0], &end[i][1]);
    if (finite[0] != finite[1]) kt_fail("of %" PRIu64 " elements: finite %d, expected %d", n, finite[1], finite[0]);
    for (int k = 0; finite[0] && k < 2; k++)
        if (memcmp(&end[0][k], &end[1][k], 4) != 0)
            kt_fail("end %d of %" PRIu64 " elements is %a, expected %a", k, n, (double)end[1][k], (double)end[0][k]);
    return n;
}

static uint64_t try_round(group_case *c) {
    const uint64_t n = length(c);
    const float *w = floats(c, 0, n, c->index % 4 == 0);
    const mg_group_step s = step_for(w, n);
    for (int i = 0; i < 2; i++) c->table[i]->round(&s, w, n, output(c, i, n, NULL));
    compare(c, n, false);
    return n;
}

static uint64_t try_error(group_case *c) {
    const uint64_t n = length(c);
    const float *w = floats(c, 0, n, false);
    const mg_group_step s = step_for(w, n);
    for (int i = 0; i < 2; i++) { /* also in place */
        float *e = output(c, i, 4 * n, c->index % 2 ? w : NULL);
        c->table[i]->error(&s, c->index % 2 ? e : w, n, e);
    }
    compare(c, 4 * n, true);
    return n;
}

static uint64_t try_cost(group_case *c) {
    const uint64_t n = length(c);
    const float *w = floats(c, 0, n, false), *weight = floats(c, 1, n, false);
    const mg_group_step s = step_for(w, n);
    double sum[2];
    for (int i = 0; i < 2; i++) sum[i] = c->table[i]->cost(&s, w, weight, n);
    if (memcmp(&sum[0], &sum[1], sizeof *sum) != 0 && (sum[0] == sum[0] || sum[1] == sum[1]))
        kt_fail("of %" PRIu64 " elements: %a, expected %a", n, sum[1], sum[0]);
    return n;
}

static uint64_t try_tries(group_case *c) {
    const uint64_t n = length(c) % (MOST / MG_GROUP_TRIES), bytes = 4 * n * MG_GROUP_TRIES;
    const float *w = floats(c, 0, n, false), *back = floats(c, 1, n, false), *now = floats(c, 2, n, false);
    mg_group_tries s;
    for (int t = 0; t < MG_GROUP_TRIES; t++) {
        const mg_group_step step = step_for(w, n);
        s.scale[t] = step.scale;
        s.bias[t] = step.bias;
        s.zero[t] = step.zero;
        s.top = step.top; /* some zeros are beyond it, which the kernels do not mind */
    }
    for (int i = 0; i < 2; i++) c->table[i]->tries(&s, w, back, now, n, output(c, i, bytes, NULL));
    compare(c, bytes, true);
    return n * MG_GROUP_TRIES;
}

static uint64_t try_gains(group_case *c) {
    const uint64_t n = length(c) % (MOST / MG_GROUP_TRIES), each = n * MG_GROUP_TRIES;
    const float *d = floats(c, 0, each, false), *y = floats(c, 1, each, false), *b = floats(c, 2, n, false);
    for (int i = 0; i < 2; i++) c->table[i]->gains(d, y, b, n, output(c, i, 4 * MG_GROUP_TRIES, NULL));
    compare(c, 4 * MG_GROUP_TRIES, true);
    return each + MG_GROUP_TRIES;
}

static uint64_t try_values(group_case *c) {
    const uint64_t n = length(c);
    const uint8_t *in = codes(c, 0, n, 8);
    const float zero = (float)kt_below(256), scale = kt_any_float();
    for (int i = 0; i < 2; i++) c->table[i]->values(in, n, zero, scale, output(c, i, 4 * n, NULL));
    compare(c, 4 * n, true);
    return n;
}

static uint64_t try_affine(group_case *c) {
    const uint64_t n = length(c);
    const uint8_t *in = codes(c, 0, n, 8);
    const float scale = kt_any_float(), bias = kt_any_float();
    for (int i = 0; i < 2; i++) c->table[i]->affine(in, n, scale, bias, output(c, i, 4 * n, NULL));
    compare(c, 4 * n, true);
    return n;
}

/* Every code, in every lane; where codes have four bits, with anything in the others. */
static uint64_t try_floats(group_case *c) {
    const uint64_t n = length(c);
    const mg_group_value kind = (mg_group_value[]){MG_CODE_E4M3, MG_CODE_E5M2, MG_CODE_E2M1}[kt_below(3)];
    const uint8_t *in = codes(c, 0, n, 8);
    const float scale = c->index % 3 ? (float)kt_gauss() : kt_any_float();
    for (int i = 0; i < 2; i++) c->table[i]->floats(in, n, kind, scale, output(c, i, 4 * n, NULL));
    compare(c, 4 * n, true);
    return n;
}

static uint64_t try_narrow(group_case *c) {
    const uint64_t n = length(c);
    const bool wide = kt_next() & 1;
    const float *w = floats(c, 0, n, wide && c->index % 3 == 0);
    const float step =
        wide && c->index % 7 == 0 ? kt_any_float() : ldexpf(1.0f + (float)kt_uniform(), (int)kt_below(20) - 12);
    for (int i = 0; i < 2; i++)
        c->table[i]->narrow(w, n, wide ? MG_CODE_E4M3 : MG_CODE_E2M1, step, output(c, i, n, NULL));
    compare(c, n, false);
    return n;
}

static const struct {
    const char *name;
    uint64_t (*try)(group_case *c); /* one case; returns the elements compared */
} kernels[] = {
#define MG_GROUP_KERNEL(field) {"group." #field, try_##field},
#include "quant/group_kernels.inc"
#undef MG_GROUP_KERNEL
};
enum { KERNELS = sizeof kernels / sizeof *kernels };

_Static_assert(sizeof(mg_group_kernels) == KERNELS * sizeof(void *), "every function is a row of group_kernels.inc");

static void check_kernel(int k, group_case *c) {
    mg_isa level[KT_LEVELS];
    const size_t levels = kt_levels(level);
    const unsigned before = kt_failures();
    uint64_t done = 0;
    if (!kt_selected(kernels[k].name)) return;
    for (size_t i = 0; i < levels; i++) {
        c->table[1] = mg_group_kernels_for(level[i]);
        kt_isa(level[i]);
        uint64_t index = kt.case_index < 0 ? 0 : (uint64_t)kt.case_index;
        for (done = 0; (done < kt.weights || index < 100) && kt_failures() == before; index++) {
            kt_case(kernels[k].name, index);
            c->index = index;
            done += kernels[k].try(c);
            if (kt.case_index >= 0) break;
        }
    }
    kt_done(kernels[k].name, levels, done);
}

void kt_groups_check(void) {
    group_case c = {.table = {mg_group_kernels_for(MG_ISA_SCALAR)}};
    for (int i = 0; i < ROWS; i++) c.in[i] = kt_buffer_new(8 * MOST);
    for (int i = 0; i < 2; i++) c.out[i] = kt_buffer_new(8 * MOST);
    for (int k = 0; k < KERNELS; k++) check_kernel(k, &c);
    for (int i = 0; i < ROWS; i++) kt_buffer_free(&c.in[i]);
    for (int i = 0; i < 2; i++) kt_buffer_free(&c.out[i]);
}
