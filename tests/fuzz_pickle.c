/* fuzz_pickle.c - one pickle in memory. What runs to its end may hold only what the machine can build: every reference
 * points into it, and tensors name storages that were described. */
#include <stdlib.h>
#include <string.h>

#include "formats/pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok) {
    if (!ok) abort();
}

/* Values may contain themselves, so the walk is bounded. */
static void walk(const mg_pickle *p, const mg_pk_value *v, unsigned *budget, unsigned depth) {
    if (*budget == 0 || depth == 0) return;
    --*budget;
    switch (v->type) {
    case MG_PK_TUPLE:
    case MG_PK_LIST:
    case MG_PK_DICT:
        require(v->type != MG_PK_DICT || v->seq.n % 2 == 0);
        for (uint32_t i = 0; i < v->seq.n; i++) walk(p, v->seq.items[i], budget, depth - 1);
        break;
    case MG_PK_STR:
    case MG_PK_BYTES:
    case MG_PK_BIG:
        require(v->s.data[v->s.size] == 0);
        break;
    case MG_PK_STORAGE:
        require(v->i >= 0 && v->i < p->n_storages);
        break;
    case MG_PK_TENSOR:
        require(v->tensor->storage < p->n_storages && v->tensor->rank <= MG_MAX_RANK);
        break;
    default:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mg_pickle p;
    mg_pk_value *root = NULL;
    mg_error err = {0};
    size_t used = 0;
    unsigned budget = 10000;
    mg_pickle_init(&p);
    mg_status st = mg_pickle_run(&p, (mg_span){data, size}, 0, &root, &used, &err);
    require(used <= size);
    if (st == MG_OK) {
        require(err.code == MG_OK && used > 0 && data[used - 1] == '.');
        walk(&p, root, &budget, 50);
    } else {
        require(err.code == st && err.message[0]);
        require(st == MG_ERR_FORMAT || st == MG_ERR_UNSUPPORTED || st == MG_ERR_LIMIT);
    }
    mg_pickle_release(&p);
    return 0;
}
