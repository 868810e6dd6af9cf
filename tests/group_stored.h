/* group_stored.h - what tests of the group formats share: numbers, and the parts of a weight put together as a
 * checkpoint that the readers open. */
#ifndef MG_TESTS_GROUP_STORED_H
#define MG_TESTS_GROUP_STORED_H

#include "formats/base/json.h"
#include "memory_checkpoint.h"
#include "quant/group_checkpoint.h"
#include "quant/group_pack.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

static uint64_t state = 0x2545F4914F6CDD1Du;
static uint64_t rng(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}
static float gaussian(void) {
    double sum = -6.0;
    for (int i = 0; i < 12; i++) sum += (double)(rng() >> 11) * 0x1p-53;
    return (float)sum;
}

static uint32_t *packed(const mg_group_form *f, const mg_group_codes *q) {
    uint8_t *dst = malloc(f->slabs * f->slab_bytes);
    memset(dst, 0xa5, f->slabs * f->slab_bytes); /* every byte has to be written */
    mg_group_form_pack(f, q, 0, dst);
    return (uint32_t *)(void *)dst;
}

static const char *config_of(char *buf, size_t n, mg_group_format f, const mg_group_scheme *s) {
    const long group = s->group_size ? (long)s->group_size : -1;
    if (mg_group_format_is_float(f))
        snprintf(
            buf, n,
            "{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"%s\",\"config_groups\":"
            "{\"g\":{\"weights\":{\"num_bits\":%u,\"type\":\"float\",\"strategy\":\"%s\",\"group_size\":%ld,"
            "\"block_structure\":[128,128]}}}}}",
            s->bits == 8                   ? "float-quantized"
            : s->scale_dtype == MG_F8_E8M0 ? "mxfp4-pack-quantized"
                                           : "nvfp4-pack-quantized",
            s->bits,
            s->row_block > 1 ? "block"
            : group < 0      ? "channel"
                             : "group",
            group);
    else if (f == MG_FORMAT_AWQ)
        snprintf(buf, n, "{\"quantization_config\":{\"quant_method\":\"awq\",\"bits\":%u,\"group_size\":%ld}}", s->bits,
                 group);
    else if (f == MG_FORMAT_MLX)
        snprintf(buf, n, "{\"quantization\":{\"bits\":%u,\"group_size\":%ld}}", s->bits, group);
    else if (f == MG_FORMAT_CT)
        snprintf(buf, n,
                 "{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\","
                 "\"config_groups\":{\"g\":{\"weights\":{\"num_bits\":%u,\"strategy\":\"%s\",\"group_size\":%ld,"
                 "\"symmetric\":%s}}}}}",
                 s->bits, group < 0 ? "channel" : "group", group, s->symmetric ? "true" : "false");
    else
        snprintf(buf, n,
                 "{\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":%u,\"group_size\":%ld,"
                 "\"checkpoint_format\":\"%s\",\"sym\":%s}}",
                 s->bits, group, f == MG_FORMAT_GPTQ ? "gptq" : "gptq_v2", s->symmetric ? "true" : "false");
    return buf;
}

/* The parts of a weight, put together from slabs, as a checkpoint. */
static mg_checkpoint *stored(const mg_group_form *f, const mg_group_codes *q, const uint8_t *slabs) {
    char config[512], name[64];
    memory_checkpoint *c = memory_new(config_of(config, sizeof config, f->format, &f->scheme));
    for (uint32_t p = 0; p < f->n_parts; p++) {
        const mg_group_part *part = &f->parts[p];
        snprintf(name, sizeof name, "m%s", part->suffix);
        uint32_t t = memory_add(c, name, part->dtype, part->rank, part->shape);
        cr_assert_eq(c->base.tensors[t].n_bytes, part->slab_bytes * f->slabs);
        for (uint64_t s = 0; s < f->slabs; s++)
            memcpy(c->data[t] + s * part->slab_bytes, slabs + s * f->slab_bytes + part->slab_at, part->slab_bytes);
    }
    if (f->format == MG_FORMAT_NVFP4A16) {
        const uint64_t one = 1;
        memory_put(c, "m.weight_global_scale", MG_F32, 1, &one, &q->global);
    }
    if (f->format == MG_FORMAT_CT) {
        const uint64_t two = 2;
        const int64_t shape[2] = {(int64_t)f->rows, (int64_t)f->cols};
        memory_put(c, "m.weight_shape", MG_I64, 1, &two, shape);
    }
    return &c->base;
}

static inline void check_read(const mg_group_form *f, const mg_group_codes *q, const uint8_t *slabs) {
    mg_error err = {0};
    mg_checkpoint *view, *in = stored(f, q, slabs);
    cr_assert_eq(mg_group_checkpoint_wrap(&view, in, &err), MG_OK, "%s: %s", err.tensor, err.message);
    cr_assert_neq(view, in);
    float *got = malloc(f->rows * f->cols * 4), *want = malloc(f->cols * 4);
    cr_assert_eq(mg_checkpoint_read(view, 0, 0, got, f->rows * f->cols * 4, &err), MG_OK, "%s", err.message);
    for (uint64_t n = 0; n < f->rows; n++) {
        mg_group_codes_get(q, n, want);
        cr_assert_eq(memcmp(got + n * f->cols, want, f->cols * 4), 0,
                     "%s, %u bits, group %u, %s: row %u of %u x %u differs", mg_group_format_name(f->format),
                     f->scheme.bits, (unsigned)f->scheme.group_size, f->scheme.symmetric ? "symmetric" : "zero points",
                     (unsigned)n, (unsigned)f->rows, (unsigned)f->cols);
    }
    free(got);
    free(want);
    mg_checkpoint_free(view);
}

/* Random weights [rows][cols], with a group of zeros, one that is all positive, all negative, tiny, and constant. */
static inline void fill(float *w, uint64_t rows, uint64_t cols) {
    for (uint64_t i = 0; i < rows * cols; i++) w[i] = gaussian() * 0.02f;
    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t k = 0; k < cols; k++) {
            float *x = &w[r * cols + k];
            const unsigned kind = (unsigned)(r % 8);
            if (kind == 1) *x = 0.0f;
            if (kind == 2) *x = fabsf(*x) + 0.5f;
            if (kind == 3) *x = -fabsf(*x) - 0.5f;
            if (kind == 4) *x *= 1e-7f;
            if (kind == 5) *x = 0.3f;
            if (kind == 6 && k % 7 == 0) *x *= 100.0f;
        }
}

#endif
