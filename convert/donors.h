/* donors.h - models opened to be merged, and the comparison that comes before anything is planned. */
#ifndef MG_CONVERT_DONORS_H
#define MG_CONVERT_DONORS_H

#include "formats/arch/model.h"

typedef struct mg_donor {
    const char *name;     /* as the recipe writes it, borrowed */
    const char *path;     /* "model" or "model+adapter", borrowed */
    mg_checkpoint *ckpt;  /* the adapted model where there is an adapter */
    mg_checkpoint *files; /* what was opened */
    struct mg_lora *lora; /* NULL: no adapter */
    mg_model *model;
    bool shared; /* opened under another index: not closed twice */
} mg_donor;

/* Open n donors; a path that occurs again shares the first one's checkpoint. name and path are set by the caller; the
 * rest is zero. After a failure mg_donors_close cleans up. */
mg_status mg_donors_open(mg_donor *d, uint32_t n, mg_error *err) MG_MUST_CHECK;
void mg_donors_close(mg_donor *d, uint32_t n);

/* Compare donors 1..n-1 with donor 0, the base: family, every canonical config value except those that belong to the
 * base's trunk alone (context length, sliding window, tied head, special token ids; with any_depth the number of
 * layers), and the tokenizers. mixtures: donors may be mixtures of families that have experts in common with the
 * base's; what they say of their experts is not compared. MG_ERR_CONFLICT lists every difference in one message. */
mg_status mg_donors_compare(const mg_donor *d, uint32_t n, bool any_depth, bool mixtures, mg_error *err) MG_MUST_CHECK;

#endif
