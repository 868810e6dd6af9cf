/* vocab_map.h - models with different vocabularies in one merge: rows of embeddings and of the output head found by the
 * text of their tokens. */
#ifndef MG_CONVERT_VOCAB_MAP_H
#define MG_CONVERT_VOCAB_MAP_H

#include "convert/plan.h"

/* For each row of the base's embedding the donor's row of the same token, UINT32_MAX where the donor has no such token,
 * and for rows beyond the base's last token, which pad it: there the base's own row stands. row NULL: the vocabularies
 * are the same. */
typedef struct mg_vocab_map {
    uint32_t *row; /* [n] */
    uint32_t n, found;
} mg_vocab_map;

/* MG_ERR_CONFLICT when the sizes differ and one of them has no tokenizer. Of tokens with the same text the first
 * counts. *out is released with mg_vocab_map_release. */
mg_status mg_vocab_map_make(mg_vocab_map *out, const mg_model *base, const mg_model *donor,
                            mg_error *err) MG_MUST_CHECK;
void mg_vocab_map_release(mg_vocab_map *m);

/* The donor's matrix [its tokens, ...] with the base's rows: runs of both, in the donor's dtype. */
mg_status mg_vocab_map_rows(mg_plan *p, const mg_vocab_map *m, const mg_expr *base, const mg_expr *donor,
                            const mg_expr **out, mg_error *err) MG_MUST_CHECK;
/* Does a weight of this role have a row per token? */
bool mg_role_is_vocab(mg_role role);

#endif
