/* arena.h - bump allocation for things that die together: descriptors, names, plans, tokenizers.
 *
 * Requirements: (1) a hostile file must not make us allocate without bound: every arena has a byte cap;
 * (2) overruns must be visible: under AddressSanitizer each object is followed by a poisoned redzone;
 * (3) no per-object free. Memory is zeroed. Pointers stay valid until mg_arena_release. Not thread safe. */
#ifndef MG_BASE_ARENA_H
#define MG_BASE_ARENA_H

#include "formats/base/status.h"

typedef struct mg_arena {
    struct mg_arena_chunk *head; /* newest chunk */
    uint64_t used;               /* bytes handed out so far, alignment included */
    uint64_t cap;                /* refuse beyond this */
} mg_arena;

/* cap = 0 means 16 GiB. */
void mg_arena_init(mg_arena *a, uint64_t cap);
void mg_arena_release(mg_arena *a);

/* count*size zeroed bytes aligned to 16; NULL when the cap or the system refuses, or count*size overflows. */
void *mg_arena_alloc(mg_arena *a, size_t count, size_t size);

/* Copy of n bytes with a terminating NUL; NULL as above. */
char *mg_arena_strndup(mg_arena *a, const char *s, size_t n);
char *mg_arena_strdup(mg_arena *a, const char *s);
/* printf into the arena. */
char *mg_arena_printf(mg_arena *a, const char *fmt, ...) MG_PRINTF(2, 3);

/* The same with an error instead of NULL. MG_ARENA_NEW(a, &ptr, count, err) infers the size. */
mg_status mg_arena_get(mg_arena *a, void **out, size_t count, size_t size, mg_error *err) MG_MUST_CHECK;
#define MG_ARENA_NEW(a, pptr, count, err) mg_arena_get((a), (void **)(pptr), (count), sizeof **(pptr), (err))

#endif
