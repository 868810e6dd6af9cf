/* convert_common.h - what the two planners of convert.h share. */
#ifndef MG_CONVERT_CONVERT_COMMON_H
#define MG_CONVERT_CONVERT_COMMON_H

#include "convert/convert.h"
#include "formats/arch/arch.h"

/* The expression of one target over the model's weights, in the source's dtype. */
mg_status mg_convert_target_expr(mg_plan *p, mg_model *m, const mg_target *t, const mg_expr **out,
                                 mg_error *err) MG_MUST_CHECK;
/* Parts of a target from fn, put together as the file has them; each is what it is of the weight after the part's slice
 * and t's views. Rows are what is arranged: for codes and scales of a weight the columns may be others than the
 * weight's.
 */
typedef mg_status (*mg_convert_part_fn)(const void *ctx, const mg_target *t, uint32_t part, const mg_expr **out,
                                        mg_error *err);
mg_status mg_convert_target_of(mg_plan *p, const mg_target *t, mg_convert_part_fn fn, const void *ctx,
                               const mg_expr **out, mg_error *err) MG_MUST_CHECK;
mg_status mg_convert_expect_shape(const mg_expr *e, const mg_target *t, mg_error *err) MG_MUST_CHECK;
/* Role, layer, expert and keep_f32 of an item. */
void mg_convert_item_of(mg_convert_item *item, const mg_target *t);
/* Ask the callback (NULL: as it is), cast and add to the output. name, index, count and role of item are set. */
mg_status mg_convert_add_tensor(mg_plan *p, uint32_t out, const mg_expr *e, mg_convert_item *item,
                                mg_convert_dtype_fn choose, void *ctx, mg_error *err) MG_MUST_CHECK;

/* The numbers of a rotary scaling that a GGUF states as factors only, into hp. */
mg_status mg_convert_recover_rope(mg_model *m, mg_hparams *hp, mg_error *err) MG_MUST_CHECK;
/* Which weights a Hugging Face directory gets: all but the rotary factors, which its config states. */
bool mg_convert_has_for_dir(const void *model, mg_role role, uint32_t layer, uint32_t expert);

#endif
