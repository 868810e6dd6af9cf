/* pickle.h - a machine for the pickles that torch.save writes. It can build numbers, strings, lists, tuples, dicts and
 * descriptions of tensors, and nothing else: there is no import, no call, no attribute, no class. The few names a
 * checkpoint of weights needs (list in pickle.c) are answered by the machine itself; any other is refused by name
 * before anything is built from it. Memory is bounded by the limits below, time by the length of the pickle. */
#ifndef MG_FORMATS_PICKLE_H
#define MG_FORMATS_PICKLE_H

#include "formats/base/arena.h"
#include "formats/base/checked.h"
#include "formats/base/strmap.h"
#include "formats/tensor.h"

#define MG_PICKLE_MAX_BYTES  (64u << 20)  /* of one pickle; a checkpoint of 10 000 tensors has some 3 MB */
#define MG_PICKLE_MAX_MEMORY (512u << 20) /* of everything built from it */
#define MG_PICKLE_MAX_STACK  (1u << 20)

typedef enum mg_pk_type {
    MG_PK_NONE,
    MG_PK_BOOL,    /* i */
    MG_PK_INT,     /* i */
    MG_PK_BIG,     /* s: an integer over 64 bits, little endian two's complement */
    MG_PK_FLOAT,   /* f */
    MG_PK_STR,     /* s: UTF-8 */
    MG_PK_BYTES,   /* s */
    MG_PK_TUPLE,   /* seq */
    MG_PK_LIST,    /* seq */
    MG_PK_DICT,    /* seq: key, value, key, value ... in order of insertion; keys may repeat */
    MG_PK_GLOBAL,  /* i: which */
    MG_PK_STORAGE, /* i: index into mg_pickle.storages */
    MG_PK_TENSOR,  /* tensor */
} mg_pk_type;

/* Elements are in units of the storage's dtype. Nothing has been compared with the storage yet. */
typedef struct mg_pk_tensor {
    uint32_t storage, rank;
    uint64_t offset, shape[MG_MAX_RANK], stride[MG_MAX_RANK];
} mg_pk_tensor;

typedef struct mg_pk_value mg_pk_value;
struct mg_pk_value {
    mg_pk_type type;
    union {
        int64_t i;
        double f;
        struct {
            const char *data; /* NUL-terminated copy; may contain NULs */
            size_t size;
        } s;
        struct {
            mg_pk_value **items;
            uint32_t n, cap;
            bool ordered; /* made by collections.OrderedDict */
        } seq;
        const mg_pk_tensor *tensor;
    };
};

/* What a persistent id asked for. */
typedef struct mg_pk_storage {
    const char *key;
    mg_dtype dtype;
    uint64_t n_elements;
} mg_pk_storage;

typedef struct mg_pickle {
    mg_arena arena; /* owns all values */
    mg_pk_storage *storages;
    uint32_t n_storages, storages_cap;
    mg_strmap by_key;
    bool truncated; /* the last failure was the end of the text: more of it may help */
} mg_pickle;

void mg_pickle_init(mg_pickle *p);
void mg_pickle_release(mg_pickle *p);
/* Run one pickle from the start of text to its STOP. *used: bytes up to behind STOP (may be NULL). base: offset of text
 * in the file, for messages. Storages collect over several runs. MG_ERR_FORMAT: malformed or truncated;
 * MG_ERR_UNSUPPORTED: a global, opcode or value that weights do not need, by name; MG_ERR_LIMIT. */
mg_status mg_pickle_run(mg_pickle *p, mg_span text, uint64_t base, mg_pk_value **root, size_t *used,
                        mg_error *err) MG_MUST_CHECK;

/* Value under a string key, the last one stored; NULL when absent or v is no dict. */
mg_pk_value *mg_pk_get(const mg_pk_value *v, const char *key);

#endif
