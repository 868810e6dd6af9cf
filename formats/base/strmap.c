/* strmap.c - linear probing over a power-of-two table that is at most 3/4 full. Nothing is ever deleted, so an empty
 * slot ends every probe. The seed is drawn once per process: a file cannot choose names that collide. */
#include "formats/base/strmap.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

struct mg_strmap_slot {
    const char *key; /* NULL = free */
    uint64_t hash;
    uint32_t len;
    uint32_t value;
};

static uint64_t seed;
static pthread_once_t seed_once = PTHREAD_ONCE_INIT;

static void draw_seed(void) {
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) == (ssize_t)sizeof seed) return;
    /* early boot or an old kernel: weaker, but still not known to whoever made the file */
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    seed = (uint64_t)t.tv_nsec * UINT64_C(0x9E3779B97F4A7C15) ^ (uint64_t)getpid() ^ (uint64_t)(uintptr_t)&t;
}

static uint64_t hash_of(const char *key, size_t len) {
    pthread_once(&seed_once, draw_seed);
    return XXH3_64bits_withSeed(key, len, seed);
}

void mg_strmap_init(mg_strmap *m) {
    *m = (mg_strmap){0};
}

void mg_strmap_release(mg_strmap *m) {
    free(m->slots);
    *m = (mg_strmap){0};
}

/* The slot that holds key, or the free one where it belongs. */
static struct mg_strmap_slot *find(const mg_strmap *m, const char *key, size_t len, uint64_t hash) {
    size_t mask = m->n_slots - 1;
    for (size_t i = (size_t)hash & mask;; i = (i + 1) & mask) {
        struct mg_strmap_slot *s = &m->slots[i];
        if (!s->key) return s;
        if (s->hash == hash && s->len == len && memcmp(s->key, key, len) == 0) return s;
    }
}

static mg_status grow(mg_strmap *m, mg_error *err) {
    mg_strmap bigger = {.n_slots = m->n_slots ? m->n_slots * 2 : 16, .n_used = m->n_used};
    bigger.slots = calloc(bigger.n_slots, sizeof *bigger.slots);
    if (!bigger.slots) return mg_fail_nomem(err, (uint64_t)bigger.n_slots * sizeof *bigger.slots);
    for (size_t i = 0; i < m->n_slots; i++) {
        const struct mg_strmap_slot *s = &m->slots[i];
        if (s->key) *find(&bigger, s->key, s->len, s->hash) = *s;
    }
    free(m->slots);
    *m = bigger;
    return MG_OK;
}

mg_status mg_strmap_put(mg_strmap *m, const char *key, size_t len, uint32_t value, uint32_t *previous, mg_error *err) {
    if (previous) *previous = MG_STRMAP_NONE;
    if (len > UINT32_MAX || value == MG_STRMAP_NONE)
        return mg_fail(err, MG_ERR_LIMIT, "a name map holds names below 4 GiB and indices below %u", MG_STRMAP_NONE);
    if (m->n_used >= m->n_slots / 4 * 3) MG_TRY(grow(m, err));
    if (len == 0) key = "";
    uint64_t hash = hash_of(key, len);
    struct mg_strmap_slot *s = find(m, key, len, hash);
    if (s->key) {
        if (previous) *previous = s->value;
        return MG_OK;
    }
    *s = (struct mg_strmap_slot){.key = key, .hash = hash, .len = (uint32_t)len, .value = value};
    m->n_used++;
    return MG_OK;
}

uint32_t mg_strmap_get(const mg_strmap *m, const char *key, size_t len) {
    if (m->n_slots == 0 || len > UINT32_MAX) return MG_STRMAP_NONE;
    if (len == 0) key = "";
    const struct mg_strmap_slot *s = find(m, key, len, hash_of(key, len));
    return s->key ? s->value : MG_STRMAP_NONE;
}
