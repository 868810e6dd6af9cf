/* torch_zip.c - the central directory of a zip archive, read with suspicion.
 *
 * Layout (all little endian): local header + data of each entry, central directory, [zip64 end record, zip64 locator],
 * end record with a comment up to the end of the file. Sizes and positions of the central directory count; local
 * headers are read to find where data starts and must agree in name and method. */
#include "formats/torch_zip.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/checked.h"

enum { END_SIZE = 22, END64_SIZE = 56, LOCATOR_SIZE = 20, CENTRAL_SIZE = 46, LOCAL_SIZE = 30, MAX_COMMENT = 65535 };
enum {
    END_SIG = 0x06054b50,
    END64_SIG = 0x06064b50,
    LOCATOR_SIG = 0x07064b50,
    CENTRAL_SIG = 0x02014b50,
    LOCAL_SIG = 0x04034b50
};
enum { FLAG_ENCRYPTED = 1, FLAG_PATCHED = 1 << 5, FLAG_STRONG = 1 << 6, METHOD_STORED = 0, EXTRA_ZIP64 = 1 };

static uint64_t le(const uint8_t *p, unsigned n) {
    uint64_t v = 0;
    for (unsigned i = n; i-- > 0;) v = v << 8 | p[i];
    return v;
}

typedef struct directory {
    uint64_t at, size, entries;
    uint64_t limit; /* first byte behind it that belongs to something else */
} directory;

static mg_status bad(mg_error *err, uint64_t at, const char *message) {
    mg_fail(err, MG_ERR_FORMAT, "%s", message);
    mg_error_offset(err, at);
    return MG_ERR_FORMAT;
}

/* ---- the end of the file ---- */

/* The zip64 end record, when a locator stands before the end record at `end`. */
static mg_status read_end64(directory *d, const mg_file *f, uint64_t end, bool needed, mg_error *err) {
    uint8_t loc[LOCATOR_SIZE], rec[END64_SIZE];
    bool there = end >= LOCATOR_SIZE;
    if (there) MG_TRY(mg_file_read(f, end - LOCATOR_SIZE, loc, sizeof loc, err));
    there = there && le(loc, 4) == LOCATOR_SIG;
    if (!there) return needed ? bad(err, end, "zip end record points to a zip64 record that is not there") : MG_OK;
    uint64_t at = le(loc + 8, 8);
    if (le(loc + 4, 4) != 0 || le(loc + 16, 4) > 1)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "zip archive is split over several files");
    if (!mg_range_fits(at, END64_SIZE, end - LOCATOR_SIZE))
        return bad(err, end - LOCATOR_SIZE, "zip64 end record lies outside the file");
    MG_TRY(mg_file_read(f, at, rec, sizeof rec, err));
    if (le(rec, 4) != END64_SIG) return bad(err, at, "zip64 end record has the wrong signature");
    if (le(rec + 16, 4) != 0 || le(rec + 20, 4) != 0 || le(rec + 24, 8) != le(rec + 32, 8))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "zip archive is split over several files");
    directory big = {.entries = le(rec + 32, 8), .size = le(rec + 40, 8), .at = le(rec + 48, 8), .limit = at};
    /* Fields of the old record that are not "see zip64" must say the same: readers differ in which they believe. */
    if ((d->entries != 0xFFFF && d->entries != big.entries) || (d->size != 0xFFFFFFFF && d->size != big.size) ||
        (d->at != 0xFFFFFFFF && d->at != big.at))
        return bad(err, at, "the two end records of the zip archive disagree");
    *d = big;
    return MG_OK;
}

static mg_status read_end(directory *d, const mg_file *f, mg_error *err) {
    uint64_t n = f->size < END_SIZE + MAX_COMMENT ? f->size : END_SIZE + MAX_COMMENT,
             k = n < END_SIZE ? 0 : n - END_SIZE + 1;
    uint8_t *tail = malloc(n ? n : 1);
    if (!tail) return mg_fail_nomem(err, n);
    mg_status st = mg_file_read(f, f->size - n, tail, n, err);
    /* The last signature whose comment ends with the file. */
    while (st == MG_OK && k > 0 && (le(tail + k - 1, 4) != END_SIG || le(tail + k + 19, 2) != n - (k - 1) - END_SIZE))
        k--;
    if (st == MG_OK && k == 0) st = mg_fail(err, MG_ERR_FORMAT, "zip archive has no end record: truncated or no zip");
    if (st == MG_OK) {
        const uint8_t *p = tail + k - 1;
        uint64_t at = f->size - n + k - 1;
        *d = (directory){.entries = le(p + 10, 2), .size = le(p + 12, 4), .at = le(p + 16, 4), .limit = at};
        bool needed = d->entries == 0xFFFF || d->size == 0xFFFFFFFF || d->at == 0xFFFFFFFF;
        if (le(p + 4, 2) != 0 || le(p + 6, 2) != 0 || le(p + 8, 2) != le(p + 10, 2))
            st = mg_fail(err, MG_ERR_UNSUPPORTED, "zip archive is split over several files");
        else
            st = read_end64(d, f, at, needed, err);
    }
    free(tail);
    return st;
}

/* ---- entries ---- */

static mg_status bad_entry(mg_error *err, mg_status code, const char *name, uint64_t at, const char *message) {
    mg_fail(err, code, "entry '%.200s' %s", name, message);
    mg_error_offset(err, at);
    return code;
}

/* Names are never paths here, but a name that wants to be one is a sign of what the file is for. */
static bool unsafe_name(const char *name, size_t n) {
    if (n == 0 || strlen(name) != n || name[0] == '/' || strchr(name, '\\')) return true;
    for (const char *p = name;; p++) {
        if (strncmp(p, "..", 2) == 0 && (p[2] == '/' || p[2] == 0)) return true;
        p = strchr(p, '/');
        if (!p) return false;
    }
}

/* Sizes and position that do not fit 32 bits stand in the zip64 extra field, in this order, each only when needed. */
static bool take_zip64(const uint8_t *extra, uint64_t n, uint64_t *size, uint64_t *packed, uint64_t *header) {
    uint64_t *const want[] = {size, packed, header};
    bool need = *size == 0xFFFFFFFF || *packed == 0xFFFFFFFF || *header == 0xFFFFFFFF;
    for (uint64_t at = 0; need && n - at >= 4;) {
        uint64_t id = le(extra + at, 2), len = le(extra + at + 2, 2);
        at += 4;
        if (len > n - at) return false;
        if (id == EXTRA_ZIP64) {
            for (unsigned k = 0; k < 3; k++) {
                if (*want[k] != 0xFFFFFFFF) continue;
                if (len < 8) return false;
                *want[k] = le(extra + at, 8);
                at += 8;
                len -= 8;
            }
            return true;
        }
        at += len;
    }
    return !need;
}

/* The local header: where data begins. It must be the same entry's. */
static mg_status locate(mg_zip_entry *e, const mg_file *f, uint64_t end, mg_error *err) {
    uint8_t head[LOCAL_SIZE], name[512];
    uint64_t n = strlen(e->name), skip;
    if (!mg_range_fits(e->header, LOCAL_SIZE, end))
        return bad_entry(err, MG_ERR_FORMAT, e->name, e->header,
                         "begins outside the part of the file that holds entries");
    MG_TRY(mg_file_read(f, e->header, head, sizeof head, err));
    skip = le(head + 26, 2) + le(head + 28, 2);
    if (le(head, 4) != LOCAL_SIG || le(head + 26, 2) != n || le(head + 8, 2) != METHOD_STORED ||
        (le(head + 6, 2) & FLAG_ENCRYPTED))
        return bad_entry(err, MG_ERR_FORMAT, e->name, e->header, "has a local header that differs from the directory");
    for (uint64_t at = 0, k; at < n; at += k) {
        k = n - at < sizeof name ? n - at : sizeof name;
        MG_TRY(mg_file_read(f, e->header + LOCAL_SIZE + at, name, k, err));
        if (memcmp(name, e->name + at, k) != 0)
            return bad_entry(err, MG_ERR_FORMAT, e->name, e->header, "has a local header with another name");
    }
    e->offset = e->header + LOCAL_SIZE + skip;
    if (!mg_range_fits(e->offset, e->size, end))
        return bad_entry(err, MG_ERR_FORMAT, e->name, e->header,
                         "ends outside the part of the file that holds entries");
    return MG_OK;
}

/* One record of the central directory; *at moves behind it. */
static mg_status take_entry(mg_zip *z, const directory *d, const uint8_t *dir, uint64_t *at, mg_arena *a,
                            mg_error *err) {
    const uint8_t *p = dir + *at;
    mg_zip_entry *e = &z->entries[z->n];
    if (d->size - *at < CENTRAL_SIZE || le(p, 4) != CENTRAL_SIG)
        return bad(err, d->at + *at, "zip directory is damaged");
    uint64_t n = le(p + 28, 2), extra = le(p + 30, 2), comment = le(p + 32, 2), packed = le(p + 20, 4),
             flags = le(p + 8, 2);
    if (n + extra + comment > d->size - *at - CENTRAL_SIZE) return bad(err, d->at + *at, "zip directory is truncated");
    e->name = mg_arena_strndup(a, (const char *)p + CENTRAL_SIZE, n);
    if (!e->name) return mg_fail_nomem(err, n);
    e->size = le(p + 24, 4);
    e->header = le(p + 42, 4);
    if (unsafe_name(e->name, n))
        return bad_entry(err, MG_ERR_FORMAT, e->name, d->at + *at, "has a name that is a path out of the archive");
    if (flags & (FLAG_ENCRYPTED | FLAG_PATCHED | FLAG_STRONG))
        return bad_entry(err, MG_ERR_UNSUPPORTED, e->name, d->at + *at, "is encrypted or patched");
    if (le(p + 10, 2) != METHOD_STORED)
        return bad_entry(err, MG_ERR_UNSUPPORTED, e->name, d->at + *at,
                         "is compressed: torch.save stores, save it again");
    if (!take_zip64(p + CENTRAL_SIZE + n, extra, &e->size, &packed, &e->header))
        return bad_entry(err, MG_ERR_FORMAT, e->name, d->at + *at, "has a damaged zip64 field");
    if (packed != e->size)
        return bad_entry(err, MG_ERR_FORMAT, e->name, d->at + *at, "is stored, but its two sizes differ");
    if (le(p + 34, 2) != 0) return mg_fail(err, MG_ERR_UNSUPPORTED, "zip archive is split over several files");
    *at += CENTRAL_SIZE + n + extra + comment;
    z->n++;
    return MG_OK;
}

static int by_position(const void *pa, const void *pb) {
    const mg_zip_entry *a = pa, *b = pb;
    return a->header < b->header ? -1 : a->header > b->header;
}

static mg_status check_overlap(const mg_zip *z, mg_error *err) {
    for (uint32_t i = 1; i < z->n; i++) {
        const mg_zip_entry *p = &z->entries[i - 1], *e = &z->entries[i];
        if (e->header >= p->offset + p->size) continue;
        mg_fail(err, MG_ERR_FORMAT, "entries '%.100s' and '%.100s' overlap", p->name, e->name);
        mg_error_offset(err, e->header);
        return MG_ERR_FORMAT;
    }
    return MG_OK;
}

static mg_status read_entries(mg_zip *z, const directory *d, const uint8_t *dir, const mg_file *f, mg_arena *a,
                              mg_error *err) {
    uint64_t at = 0;
    MG_TRY(MG_ARENA_NEW(a, &z->entries, d->entries + 1, err));
    for (uint64_t i = 0; i < d->entries; i++) MG_TRY(take_entry(z, d, dir, &at, a, err));
    if (at != d->size) return bad(err, d->at + at, "zip directory has bytes after its last entry");
    if (z->n) qsort(z->entries, z->n, sizeof *z->entries, by_position);
    for (uint32_t i = 0; i < z->n; i++) {
        uint32_t before;
        MG_TRY(locate(&z->entries[i], f, d->at, err));
        MG_TRY(mg_strmap_put(&z->by_name, z->entries[i].name, strlen(z->entries[i].name), i, &before, err));
        if (before != MG_STRMAP_NONE)
            return bad_entry(err, MG_ERR_FORMAT, z->entries[i].name, z->entries[i].header,
                             "stands twice in the directory");
    }
    return check_overlap(z, err);
}

mg_status mg_zip_open(mg_zip *z, const mg_file *f, mg_arena *a, mg_error *err) {
    directory d = {0};
    memset(z, 0, sizeof *z);
    mg_strmap_init(&z->by_name);
    MG_TRY(read_end(&d, f, err));
    if (!mg_range_fits(d.at, d.size, d.limit)) return bad(err, d.limit, "zip directory lies outside the file");
    if (d.size > MG_ZIP_MAX_DIRECTORY)
        return mg_fail(err, MG_ERR_LIMIT, "zip directory has %" PRIu64 " bytes, the limit is %u", d.size,
                       MG_ZIP_MAX_DIRECTORY);
    if (d.entries > d.size / CENTRAL_SIZE)
        return bad(err, d.limit, "zip directory is too small for its number of entries");
    uint8_t *dir = malloc(d.size ? d.size : 1);
    if (!dir) return mg_fail_nomem(err, d.size);
    mg_status st = mg_file_read(f, d.at, dir, d.size, err);
    if (st == MG_OK) st = read_entries(z, &d, dir, f, a, err);
    free(dir);
    return st;
}

void mg_zip_release(mg_zip *z) {
    mg_strmap_release(&z->by_name);
}

const mg_zip_entry *mg_zip_find(const mg_zip *z, const char *name) {
    uint32_t i = mg_strmap_get(&z->by_name, name, strlen(name));
    return i == MG_STRMAP_NONE ? NULL : &z->entries[i];
}
