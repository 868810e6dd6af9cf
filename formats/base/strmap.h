/* strmap.h - open-addressing map from strings to uint32 indices (tensor names, keys, tokens).
 * Keys are borrowed and must outlive the map. Hash: XXH3-64 with a per-process seed, so that a file cannot
 * choose names that collide; iteration order is therefore never exposed. */
#ifndef MG_BASE_STRMAP_H
#define MG_BASE_STRMAP_H

#include "formats/base/status.h"

#define MG_STRMAP_NONE UINT32_MAX

typedef struct mg_strmap {
    struct mg_strmap_slot *slots;
    size_t n_slots; /* power of two */
    size_t n_used;
} mg_strmap;

void mg_strmap_init(mg_strmap *m);
void mg_strmap_release(mg_strmap *m);
/* Insert key -> value. *previous (may be NULL) receives the value already stored under key, or MG_STRMAP_NONE;
 * an existing value is kept, not replaced. MG_ERR_LIMIT without memory. */
mg_status mg_strmap_put(mg_strmap *m, const char *key, size_t len, uint32_t value, uint32_t *previous,
                        mg_error *err) MG_MUST_CHECK;
/* Value stored under key, or MG_STRMAP_NONE. */
uint32_t mg_strmap_get(const mg_strmap *m, const char *key, size_t len);

#endif
