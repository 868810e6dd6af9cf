/* overlay.h - a model whose weights come from two: a base, and another of the same shape that some roles are taken
 * from.
 *
 * Nothing is copied or converted: every role keeps the stored tensor and the views of the model it is taken from, so
 * the two may have any formats and types. Exchanging one weight costs nothing until it is read. */
#ifndef MG_FORMATS_ARCH_OVERLAY_H
#define MG_FORMATS_ARCH_OVERLAY_H

#include "formats/arch/model.h"

typedef struct mg_overlay mg_overlay;

/* base and other are borrowed and outlive the overlay, which starts as base. MG_ERR_CONFLICT when layers, widths,
 * experts or vocabularies differ. */
mg_status mg_overlay_new(mg_overlay **out, mg_model *base, mg_model *other, mg_error *err) MG_MUST_CHECK;
void mg_overlay_free(mg_overlay *o);
/* The model, valid while the overlay lives; not for mg_model_free. Its numbers (hp) are the base's. */
mg_model *mg_overlay_model(mg_overlay *o);
/* Take this role from other, absent where it is absent there (an output head tied there is the embedding).
 * MG_ERR_CONFLICT when the shapes differ or the base's family has no such role. */
mg_status mg_overlay_take(mg_overlay *o, mg_role role, uint32_t layer, uint32_t expert, mg_error *err) MG_MUST_CHECK;
/* Everything from base again. */
void mg_overlay_reset(mg_overlay *o);

#endif
