/* weight_stored.c - see weight_stored.h. */
#include "verify/weight_stored.h"

#include "formats/group_layouts.h"
#include "quant/group_checkpoint.h"
#include "verify/weight_diff.h"

/* Measured on the donors in groups of 64 and 128: rounding and AWQ lose about 0.1 of a weight at 4 bits, GPTQ, which
 * makes up for the errors of some weights by others, 0.19 (0.31 at 3 bits, 0.009 at 8), a block of 32 up to 0.46 (0.85,
 * 0.031); FP8 0.027 and 0.046. */
static mg_weight_limits limits_of(const mg_group_matrix *x) {
    static const mg_weight_limits by_bits[] = {[3] = {1.3, 0.5},  [4] = {0.75, 0.3}, [5] = {0.4, 0.15},
                                               [6] = {0.2, 0.08}, [7] = {0.1, 0.04}, [8] = {0.06, 0.02}};
    switch (x->value) {
    case MG_CODE_E4M3:
        return (mg_weight_limits){0.1, 0.05};
    case MG_CODE_E5M2:
        return (mg_weight_limits){0.2, 0.1};
    case MG_CODE_E2M1:
        return (mg_weight_limits){0.5, 0.2};
    default:
        return x->codes.bits >= 3 && x->codes.bits <= 8 ? by_bits[x->codes.bits] : (mg_weight_limits){1.3, 1};
    }
}

static const char *name_of(const mg_group_matrix *x) {
    static const char *const ints[] = {"INT1", "INT2", "INT3", "INT4", "INT5", "INT6", "INT7", "INT8"};
    if (x->value == MG_CODE_INT) return x->codes.bits - 1 < 8 ? ints[x->codes.bits - 1] : "INT";
    return x->value == MG_CODE_E2M1 ? "FP4" : "FP8";
}

static double bpw_of(mg_checkpoint *view, uint32_t t, const mg_group_matrix *x) {
    uint32_t codes;
    const mg_checkpoint *c = mg_group_checkpoint_stored(view, t, &codes);
    const uint32_t parts[] = {x->codes.tensor, x->zeros.tensor, x->scales, x->biases, x->g_idx, x->divisor};
    uint64_t bytes = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i] < c->n_tensors) bytes += c->tensors[parts[i]].n_bytes;
    return 8 * (double)bytes / (double)view->tensors[t].n_elements;
}

mg_weight_stored mg_weight_stored_of(const mg_model *m, const mg_bound *b) {
    if (!b) return (mg_weight_stored){.dtype = MG_DTYPE_COUNT, .name = "missing"};
    const mg_dtype t = mg_model_tensor(m, b)->dtype;
    const mg_dtype_info *d = mg_dtype_get(t);
    const mg_group_matrix *x = mg_group_checkpoint_matrix(m->ckpt, b->tensor);
    if (!x)
        return (mg_weight_stored){
            .dtype = t, .name = d->name, .bpw = 8.0 * d->block_bytes / d->block, .limits = mg_weight_limits_of(t)};
    return (mg_weight_stored){.dtype = t,
                              .name = name_of(x),
                              .bits = x->codes.bits,
                              .method = (int)mg_group_checkpoint_config(m->ckpt)->method,
                              .group = x->group_size,
                              .bpw = bpw_of(m->ckpt, b->tensor, x),
                              .limits = limits_of(x)};
}

bool mg_weight_stored_same(const mg_weight_stored *a, const mg_weight_stored *b) {
    return a->dtype == b->dtype && a->bits == b->bits && a->method == b->method && a->group == b->group;
}
