/* kvcache.h - keys and values of past tokens, laid out as the kernels read them.
 *
 * One slab holds one layer of one sequence. Keys are panels of 16 positions, [kv_heads][cap/16][head_dim][16], so that
 * scores need no transposition; values are panels of 16 columns, [kv_heads][ceil(v_dim/16)][cap][16], with positions
 * as rows. f32 throughout: the cache does not round. Slots are zero until written. */
#ifndef MG_VERIFY_KVCACHE_H
#define MG_VERIFY_KVCACHE_H

#include "formats/arch/model.h"
#include "verify/fbuf.h"

typedef struct mg_kv_dims {
    uint64_t heads, dim, v_dim; /* kv heads; elements of a key and of a value */
} mg_kv_dims;

typedef struct mg_kv_slab {
    uint64_t cap; /* positions, a multiple of 16 */
    float *k, *v;
} mg_kv_slab;

/* Floats of a slab of cap positions (cap a multiple of 16); false on overflow. */
bool mg_kv_floats(const mg_kv_dims *d, uint64_t cap, uint64_t *out);
/* Slab over memory of that many floats. The memory is not touched. */
mg_kv_slab mg_kv_slab_at(const mg_kv_dims *d, uint64_t cap, float *mem);
/* Store key [heads*dim] and value [heads*v_dim] of position pos. */
void mg_kv_store(const mg_kv_dims *d, const mg_kv_slab *s, uint64_t pos, const float *k, const float *v);

/* All layers of n_seqs sequences. past[s] positions of sequence s are filled in every layer. */
typedef struct mg_kvcache {
    mg_kv_dims dims;
    uint32_t n_layers, n_seqs;
    uint64_t cap;
    uint64_t *past; /* [n_seqs] */
    uint64_t slab_floats;
    float *mem;
} mg_kvcache;

/* capacity in positions per sequence. MG_ERR_LIMIT when the memory cannot be had. */
mg_status mg_kvcache_new(mg_kvcache **out, const mg_model *m, uint32_t n_seqs, uint64_t capacity,
                         mg_error *err) MG_MUST_CHECK;
void mg_kvcache_free(mg_kvcache *c);
mg_kv_slab mg_kvcache_slab(const mg_kvcache *c, uint32_t layer, uint32_t seq);
mg_kv_dims mg_kv_dims_of(const mg_model *m);

#endif
