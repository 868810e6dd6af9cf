/* extract.h - an expert of a mixture of experts back as a dense model: attention, norms, embeddings and head of the
 * mixture, the expert's matrices as its feed-forward blocks. Where only these differed between the donors (experts
 * trained on a shared trunk), what comes out is the donor, bit for bit. */
#ifndef MG_CONVERT_EXTRACT_H
#define MG_CONVERT_EXTRACT_H

#include "convert/plan.h"

/* Add expert `expert` of m as a Hugging Face directory dir to plan p. The dense family is the last one that m's family
 * is made from. MG_ERR_UNSUPPORTED: m is no mixture of experts made from dense families; MG_ERR_USAGE: no such expert.
 */
mg_status mg_extract_plan(mg_plan *p, mg_model *m, uint32_t expert, const char *dir, uint32_t *out,
                          mg_error *err) MG_MUST_CHECK;

#endif
