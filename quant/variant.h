/* variant.h - a model with some of its weights replaced, nothing written: scales folded in, values limited, or codes in
 * the place of values. To everyone who reads it, it is a model like any other: the forward pass runs it, the planners
 * write it.
 *
 * A replaced weight is F32 in logical order, computed as it is read:
 *     w'[n][k] = clamp((w[n][k] * col[k]) * row[n], limits[n][k / group]), rounded in groups if asked for
 * or (code - zero) * scale, or code * scale + bias (quant/group_encode.h), or values in memory.
 *
 * A whole stored tensor can be replaced too, by the same shape in another type, as bytes: what several roles share, and
 * what the views of roles turn into rows, stays as it is. */
#ifndef MG_QUANT_VARIANT_H
#define MG_QUANT_VARIANT_H

#include "formats/arch/model.h"
#include "quant/group_encode.h"

/* What replaces one weight. All arrays and stage are borrowed until the patch is taken back or the variant freed. A
 * vector (norm, bias) is one row. */
typedef struct mg_patch {
    mg_role role;
    uint32_t layer, expert;
    const float *values;          /* [rows][cols]: these, and nothing else below */
    const float *col;             /* [cols], NULL: 1 */
    const float *row;             /* [rows], NULL: 1 */
    uint64_t group;               /* columns that share limits or a scale */
    const float *limits;          /* [rows][groups][2]: lowest and highest value; NULL: none */
    const mg_group_scheme *round; /* round to nearest in its groups after all that; NULL: not */
    const uint8_t *codes;         /* [rows][cols]: these with scales, and zeros or biases, [rows][groups] */
    const float *scales;
    const uint8_t *zeros;
    const float *biases;
    /* The same, not in memory but in tensors of a checkpoint: MG_STRMAP_NONE or the number. */
    mg_checkpoint *stage;
    uint32_t limits_at, codes_at, scales_at, zeros_at, biases_at;
} mg_patch;
#define MG_PATCH_INIT(r, l, e)                                                                                         \
    {                                                                                                                  \
        .role = (r), .layer = (l), .expert = (e), .limits_at = MG_STRMAP_NONE, .codes_at = MG_STRMAP_NONE,             \
        .scales_at = MG_STRMAP_NONE, .zeros_at = MG_STRMAP_NONE, .biases_at = MG_STRMAP_NONE                           \
    }

typedef struct mg_variant mg_variant;

/* A variant of base that equals it so far; base outlives it. */
mg_status mg_variant_new(mg_variant **out, mg_model *base, mg_error *err) MG_MUST_CHECK;
void mg_variant_free(mg_variant *v);
/* The model; freed with the variant. */
mg_model *mg_variant_model(mg_variant *v);
/* Replace a weight that the base has; an earlier patch of it is dropped. Not while the model is being read. */
mg_status mg_variant_set(mg_variant *v, const mg_patch *p, mg_error *err) MG_MUST_CHECK;
/* Part of a stored tensor: bytes in memory, or a tensor of a checkpoint. Borrowed as patches are. */
typedef struct mg_stored_slice {
    const uint8_t *bytes;
    mg_checkpoint *stage; /* when bytes is NULL */
    uint32_t at;
} mg_stored_slice;
/* Let a tensor of the base be n slices of equal size below each other, in dtype. */
mg_status mg_variant_store(mg_variant *v, uint32_t tensor, mg_dtype dtype, const mg_stored_slice *slices, uint32_t n,
                           mg_error *err) MG_MUST_CHECK;
/* Back to the base's weights. */
void mg_variant_clear(mg_variant *v);
/* Part of what mg_checkpoint_identity says of it, beside the base's: what the patches come from. */
void mg_variant_set_id(mg_variant *v, const uint8_t id[16]);
/* Is c the checkpoint of a variant? It bears the base's path and names. */
bool mg_variant_is(const mg_checkpoint *c);

#endif
