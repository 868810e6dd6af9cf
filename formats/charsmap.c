/* charsmap.c - see charsmap.h. Every step of a search is checked against the table, which a file may hold anything in.
 */
#include "formats/charsmap.h"

#include <string.h>

#include "formats/base/utf8.h"

static uint32_t unit_at(const mg_charsmap *m, uint32_t i) {
    uint32_t u;
    memcpy(&u, m->units + (size_t)i * 4, 4); /* little-endian, as the host */
    return u;
}

static uint32_t offset_of(uint32_t unit) {
    return unit >> 10 << ((unit & 1u << 9) >> 6);
}

mg_status mg_charsmap_init(mg_charsmap *m, const uint8_t *bytes, size_t n, mg_error *err) {
    uint32_t size = 0;
    if (n >= 4) memcpy(&size, bytes, 4);
    if (n < 8 || size > n - 4 || size < 4 || size % 4)
        return mg_fail(err, MG_ERR_FORMAT, "normalization table of %zu bytes whose trie has %u", n, size);
    *m = (mg_charsmap){.units = bytes + 4, .n_units = size / 4, .texts = (const char *)bytes + 4 + size};
    m->n_texts = n - 4 - size;
    if (m->n_texts && m->texts[m->n_texts - 1] != 0)
        return mg_fail(err, MG_ERR_FORMAT, "normalization table: its last replacement does not end");
    if (mg_utf8_valid_prefix((const uint8_t *)m->texts, m->n_texts) != m->n_texts)
        return mg_fail(err, MG_ERR_FORMAT, "normalization table: a replacement is not UTF-8");
    return MG_OK;
}

static size_t search(const mg_charsmap *m, const char *key, size_t n, bool longest, const char **to) {
    uint32_t at = offset_of(unit_at(m, 0));
    size_t found = 0;
    for (size_t i = 0; i < n && key[i]; i++) {
        at ^= (uint8_t)key[i];
        if (at >= m->n_units) break;
        const uint32_t unit = unit_at(m, at);
        if ((unit & (1u << 31 | 0xff)) != (uint8_t)key[i]) break;
        at ^= offset_of(unit);
        if (at >= m->n_units) break;
        if (!(unit >> 8 & 1)) continue;
        const uint32_t value = unit_at(m, at) & ~(1u << 31);
        if (value >= m->n_texts) break;
        *to = m->texts + value;
        found = i + 1;
        if (!longest) break;
    }
    return found;
}

size_t mg_charsmap_shortest(const mg_charsmap *m, const char *key, size_t n, const char **to) {
    return search(m, key, n, false, to);
}

size_t mg_charsmap_longest(const mg_charsmap *m, const char *key, size_t n, const char **to) {
    return search(m, key, n, true, to);
}
