/* memory_checkpoint.h - a checkpoint made by a test: tensors in memory, any configuration. Counts reads, so that tests
 * can say how many preads something may take, and can fail, lie or be changed. */
#ifndef MG_TESTS_MEMORY_CHECKPOINT_H
#define MG_TESTS_MEMORY_CHECKPOINT_H

#include <stdlib.h>
#include <string.h>

#include "formats/checkpoint.h"

typedef struct memory_checkpoint {
    mg_checkpoint base;
    uint8_t **data;
    mg_json *own_config;
    mg_kvs own_kv;
    uint64_t reads, bytes_read;
    uint64_t fail_after; /* when not 0, reads beyond this many fail */
    uint64_t lie_after;  /* when not 0, reads beyond this many have a wrong last byte */
    bool changed;        /* what recheck should say */
    uint8_t id;
} memory_checkpoint;

static mg_status memory_read(mg_checkpoint *c, uint32_t t, uint64_t offset, void *dst, uint64_t n, mg_error *err) {
    memory_checkpoint *m = (memory_checkpoint *)(void *)c;
    const uint64_t k = __atomic_add_fetch(&m->reads, 1, __ATOMIC_RELAXED);
    if (m->fail_after && k > m->fail_after) return mg_fail(err, MG_ERR_IO, "read %d refused", (int)k);
    __atomic_add_fetch(&m->bytes_read, n, __ATOMIC_RELAXED);
    memcpy(dst, m->data[t] + offset, n);
    if (m->lie_after && k > m->lie_after && n) ((uint8_t *)dst)[n - 1] ^= 1;
    return MG_OK;
}

static mg_status memory_recheck(mg_checkpoint *c, mg_error *err) {
    return ((memory_checkpoint *)(void *)c)->changed ? mg_fail(err, MG_ERR_INTEGRITY, "source changed") : MG_OK;
}

static mg_status memory_identity(mg_checkpoint *c, uint8_t id[16], mg_error *err) {
    (void)err;
    memset(id, ((memory_checkpoint *)(void *)c)->id, 16);
    return MG_OK;
}

static void memory_free(mg_checkpoint *c) {
    memory_checkpoint *m = (memory_checkpoint *)(void *)c;
    for (uint32_t i = 0; i < c->n_tensors; i++) {
        free(m->data[i]);
        free((char *)c->tensors[i].name);
    }
    free(m->data);
    free(c->tensors);
    mg_strmap_release(&c->by_name);
    mg_json_free(m->own_config);
    mg_kvs_release(&m->own_kv);
    free(m);
}

static const mg_checkpoint_ops memory_ops = {memory_read, memory_recheck, memory_identity, memory_free};

/* config: JSON text or NULL; then m->own_kv may be filled and base.kv set. */
static inline memory_checkpoint *memory_new(const char *config) {
    memory_checkpoint *m = calloc(1, sizeof *m);
    m->base.ops = &memory_ops;
    m->base.container = MG_CONTAINER_HF_DIR;
    m->base.path = "memory";
    mg_strmap_init(&m->base.by_name);
    mg_kvs_init(&m->own_kv);
    if (config &&
        mg_json_parse(&m->own_config, (mg_span){(const uint8_t *)config, strlen(config)}, "config.json", NULL) != MG_OK)
        abort();
    m->base.config = m->own_config;
    return m;
}

/* A tensor with zeroed data; its index. */
static inline uint32_t memory_add(memory_checkpoint *m, const char *name, mg_dtype type, uint32_t rank,
                                  const uint64_t *shape) {
    uint32_t i = m->base.n_tensors++;
    m->base.tensors = realloc(m->base.tensors, m->base.n_tensors * sizeof *m->base.tensors);
    m->data = realloc(m->data, m->base.n_tensors * sizeof *m->data);
    mg_tensor *t = &m->base.tensors[i];
    memset(t, 0, sizeof *t);
    t->name = strdup(name);
    t->dtype = type;
    t->rank = rank;
    memcpy(t->shape, shape, rank * sizeof *shape);
    if (!mg_tensor_set_sizes(t)) abort();
    m->data[i] = calloc(t->n_bytes + 1, 1);
    if (mg_strmap_put(&m->base.by_name, t->name, strlen(name), i, NULL, NULL) != MG_OK) abort();
    return i;
}

/* The same with data, t's n_bytes of it. */
static inline void memory_put(memory_checkpoint *m, const char *name, mg_dtype type, uint32_t rank,
                              const uint64_t *shape, const void *data) {
    uint32_t i = memory_add(m, name, type, rank, shape);
    memcpy(m->data[i], data, m->base.tensors[i].n_bytes);
}

/* The same of F32, F16 or BF16 with the values (i * 37 + seed) % 251 - 125, exact in each of them; its index. */
static inline uint32_t memory_add_known(memory_checkpoint *m, const char *name, mg_dtype type, uint32_t rank,
                                        const uint64_t *shape, unsigned seed) {
    const uint32_t at = memory_add(m, name, type, rank, shape);
    uint8_t *d = m->data[at];
    for (uint64_t i = 0; i < m->base.tensors[at].n_elements; i++) {
        const float v = (float)((int)((i * 37 + seed) % 251) - 125);
        const uint16_t h = type == MG_F16 ? mg_f32_to_f16(v) : mg_f32_to_bf16(v);
        if (type == MG_F32)
            memcpy(d + 4 * i, &v, 4);
        else
            memcpy(d + 2 * i, &h, 2);
    }
    return at;
}

#endif
