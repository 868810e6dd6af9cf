/* memory_ckpt.h - a checkpoint in memory for plan tests: tensors of small known values, reads counted. */
#ifndef MG_TEST_MEMORY_CKPT_H
#define MG_TEST_MEMORY_CKPT_H

#include "formats/checkpoint.h"

#include <stdlib.h>
#include <string.h>

typedef struct memory_ckpt {
    mg_checkpoint base;
    uint8_t *data[16];
    uint64_t reads, fail_after; /* reads so far; when not 0, reads beyond this many fail */
    uint64_t lie_after;         /* when not 0, reads beyond this many have a wrong last byte */
    bool changed;               /* what recheck should say */
    uint8_t id;
} memory_ckpt;

static mg_status memory_read(mg_checkpoint *c, uint32_t t, uint64_t at, void *dst, uint64_t n, mg_error *err) {
    memory_ckpt *m = (memory_ckpt *)(void *)c;
    uint64_t k = __atomic_add_fetch(&m->reads, 1, __ATOMIC_RELAXED);
    if (m->fail_after && k > m->fail_after) return mg_fail(err, MG_ERR_IO, "read %d refused", (int)k);
    memcpy(dst, m->data[t] + at, n);
    if (m->lie_after && k > m->lie_after && n) ((uint8_t *)dst)[n - 1] ^= 1;
    return MG_OK;
}

static mg_status memory_recheck(mg_checkpoint *c, mg_error *err) {
    return ((memory_ckpt *)(void *)c)->changed ? mg_fail(err, MG_ERR_INTEGRITY, "source changed") : MG_OK;
}

static mg_status memory_identity(mg_checkpoint *c, uint8_t id[16], mg_error *err) {
    (void)err;
    memset(id, ((memory_ckpt *)(void *)c)->id, 16);
    return MG_OK;
}

static void memory_free(mg_checkpoint *c) {
    memory_ckpt *m = (memory_ckpt *)(void *)c;
    for (int i = 0; i < 16; i++) free(m->data[i]);
    mg_strmap_release(&c->by_name);
    free(c->tensors);
    free(m);
}

static const mg_checkpoint_ops memory_ops = {
    .read = memory_read, .recheck = memory_recheck, .identity = memory_identity, .free = memory_free};

static inline memory_ckpt *memory_new(void) {
    memory_ckpt *m = calloc(1, sizeof *m);
    m->base.ops = &memory_ops;
    m->base.container = MG_CONTAINER_SAFETENSORS;
    m->base.path = "memory";
    m->base.tensors = calloc(16, sizeof *m->base.tensors);
    mg_strmap_init(&m->base.by_name);
    return m;
}

/* Element i has the value (i * 37 + seed) % 251 - 125, exact in every float type. */
static inline uint32_t memory_add(memory_ckpt *m, const char *name, mg_dtype dtype, uint32_t rank, uint64_t a,
                                  uint64_t b, uint64_t c, unsigned seed) {
    mg_tensor *t = &m->base.tensors[m->base.n_tensors];
    t->name = name;
    t->dtype = dtype;
    t->rank = rank;
    t->shape[0] = a;
    t->shape[1] = b;
    t->shape[2] = c;
    if (!mg_tensor_set_sizes(t)) abort();
    uint8_t *d = m->data[m->base.n_tensors] = malloc(t->n_bytes + 1);
    for (uint64_t i = 0; i < t->n_elements; i++) {
        float v = (float)((int)((i * 37 + seed) % 251) - 125);
        uint16_t h = dtype == MG_F16 ? mg_f32_to_f16(v) : mg_f32_to_bf16(v);
        if (dtype == MG_F32)
            memcpy(d + 4 * i, &v, 4);
        else
            memcpy(d + 2 * i, &h, 2);
    }
    if (mg_strmap_put(&m->base.by_name, name, strlen(name), m->base.n_tensors, NULL, NULL) != MG_OK) abort();
    return m->base.n_tensors++;
}

#endif
