/* arena.c - bump allocation in chunks that grow from 4 KiB to 1 MiB.
 *
 *   head -> [chunk: next | size | at | bytes .............. ] -> older chunk -> ... -> NULL
 *                                     ^at: first free byte
 *
 * Objects start at multiples of 16. Each is followed by at least one redzone of 16 bytes in AddressSanitizer builds
 * (poisoned; the whole unused tail is poisoned too), none otherwise. A large object gets a chunk of its own behind the
 * head, so the head's free tail stays in use. Chunks come from calloc: memory is zero, and untouched pages of a large
 * chunk cost nothing. */
#include "formats/base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/checked.h"

#if defined(__SANITIZE_ADDRESS__)
#define MG_ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MG_ARENA_ASAN 1
#endif
#endif

#ifdef MG_ARENA_ASAN
#include <sanitizer/asan_interface.h>
#define REDZONE        16u
#define POISON(p, n)   ASAN_POISON_MEMORY_REGION((p), (n))
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION((p), (n))
#else
#define REDZONE        0u
#define POISON(p, n)   ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

enum { ALIGN = 16, FIRST_CHUNK = 4096, LAST_CHUNK = 1 << 20 };

struct mg_arena_chunk {
    struct mg_arena_chunk *next;
    size_t size; /* bytes that follow this struct */
    size_t at;   /* first free one */
    size_t pad;  /* keeps the bytes 16-aligned */
};

_Static_assert(sizeof(struct mg_arena_chunk) % ALIGN == 0, "chunk bytes must start aligned");

static uint8_t *chunk_bytes(struct mg_arena_chunk *c) {
    return (uint8_t *)(c + 1);
}

void mg_arena_init(mg_arena *a, uint64_t cap) {
    *a = (mg_arena){.cap = cap ? cap : UINT64_C(16) << 30};
}

void mg_arena_release(mg_arena *a) {
    for (struct mg_arena_chunk *c = a->head, *next; c; c = next) {
        next = c->next;
        UNPOISON(chunk_bytes(c), c->size);
        free(c);
    }
    a->head = NULL;
    a->used = 0;
}

static struct mg_arena_chunk *chunk_new(size_t size) {
    struct mg_arena_chunk *c = calloc(1, sizeof *c + size);
    if (!c) return NULL;
    c->size = size;
    POISON(chunk_bytes(c), size);
    return c;
}

/* A chunk with need free bytes, linked in; NULL without memory. */
static struct mg_arena_chunk *chunk_for(mg_arena *a, size_t need) {
    struct mg_arena_chunk *head = a->head;
    if (head && head->size - head->at >= need) return head;
    size_t size = head ? head->size * 2 : FIRST_CHUNK;
    if (size < FIRST_CHUNK) size = FIRST_CHUNK;
    if (size > LAST_CHUNK) size = LAST_CHUNK;
    bool own = need > size / 4;
    struct mg_arena_chunk *c = chunk_new(own ? need : size);
    if (!c) return NULL;
    if (own && head) {
        c->next = head->next;
        head->next = c;
    } else {
        c->next = head;
        a->head = c;
    }
    return c;
}

void *mg_arena_alloc(mg_arena *a, size_t count, size_t size) {
    uint64_t bytes, rounded, used;
    if (!mg_mul_u64(count, size, &bytes)) return NULL;
    /* an empty object still has an address of its own: NULL only ever means failure */
    if (!mg_align_u64(bytes ? bytes : 1, ALIGN, &rounded) || !mg_add_u64(a->used, rounded, &used)) return NULL;
    if (used > a->cap || rounded > SIZE_MAX / 2) return NULL;
    size_t need = (size_t)rounded + REDZONE;
    struct mg_arena_chunk *c = chunk_for(a, need);
    if (!c) return NULL;
    uint8_t *p = chunk_bytes(c) + c->at;
    c->at += need;
    a->used = used;
    UNPOISON(p, (size_t)bytes);
    return p;
}

char *mg_arena_strndup(mg_arena *a, const char *s, size_t n) {
    if (n == SIZE_MAX) return NULL;
    char *p = mg_arena_alloc(a, n + 1, 1);
    if (p && n) memcpy(p, s, n);
    return p;
}

char *mg_arena_strdup(mg_arena *a, const char *s) {
    return mg_arena_strndup(a, s, strlen(s));
}

char *mg_arena_printf(mg_arena *a, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : mg_arena_alloc(a, (size_t)n + 1, 1);
    if (p) vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

mg_status mg_arena_get(mg_arena *a, void **out, size_t count, size_t size, mg_error *err) {
    *out = mg_arena_alloc(a, count, size);
    if (*out) return MG_OK;
    uint64_t bytes;
    if (!mg_mul_u64(count, size, &bytes))
        return mg_fail(err, MG_ERR_LIMIT, "%zu objects of %zu bytes overflow the address space", count, size);
    if (bytes > a->cap || a->used > a->cap - bytes)
        return mg_fail(err, MG_ERR_LIMIT, "%llu more bytes would pass the limit of %llu (%llu in use)",
                       (unsigned long long)bytes, (unsigned long long)a->cap, (unsigned long long)a->used);
    return mg_fail_nomem(err, bytes);
}
