/* donors.h - models opened to be merged, and the comparison that comes before anything is planned. */
#ifndef MG_CONVERT_DONORS_H
#define MG_CONVERT_DONORS_H

#include "convert/vocab_map.h"
#include "formats/arch/model.h"

typedef struct mg_donor {
    const char *name;      /* as the recipe writes it, borrowed */
    const char *path;      /* "model" or "model+adapter", borrowed */
    mg_checkpoint *ckpt;   /* the adapted model where there is an adapter */
    mg_checkpoint *files;  /* what was opened */
    struct mg_lora *lora;  /* NULL: no adapter */
    const mg_json *config; /* its config.json, or one made of what a GGUF or a native release states */
    mg_json *made;         /* owner of the latter */
    mg_vocab_map vocab;    /* set by mg_donors_compare */
    mg_model *model;
    bool shared; /* opened under another index: not closed twice */
} mg_donor;

/* Open n donors; a path that occurs again shares the first one's checkpoint. name and path are set by the caller; the
 * rest is zero. After a failure mg_donors_close cleans up. */
mg_status mg_donors_open(mg_donor *d, uint32_t n, mg_error *err) MG_MUST_CHECK;
void mg_donors_close(mg_donor *d, uint32_t n);

/* The base's side files into a directory output: what is beside it, or tokenizer files made of a GGUF's keys. */
mg_status mg_donor_copy_sides(const mg_donor *base, mg_plan *p, uint32_t out, mg_error *err) MG_MUST_CHECK;

/* *e, a projection of the donor's whose inputs are normed, for the norm of a layer of m: its columns times n_donor /
 * n_m where one of the two is an AWQ model, which has scales folded into its norms and taken out of what reads them. Of
 * other models norms are left alone, as merging does. */
mg_status mg_donor_fit_norm(mg_plan *p, mg_model *m, const mg_donor *d, uint32_t layer, const mg_expr **e,
                            mg_error *err) MG_MUST_CHECK;

enum {
    MG_DONORS_ANY_DEPTH = 1, /* numbers of layers may differ */
    MG_DONORS_MIXTURES = 2, /* donors may be mixtures of families that have experts in common with the base's; what they
                               say of their experts is not compared */
    MG_DONORS_NEW_VOCAB = 8, /* vocabularies may differ, and what belongs together is vocab_union.h's business */
    MG_DONORS_ANY_VOCAB = 4, /* vocabularies may differ: vocab says which rows belong together */
};
/* Compare donors 1..n-1 with donor 0, the base: family (a GGUF may be of any that shares its architecture's name),
 * every canonical config value except those that belong to the base's trunk alone (context length, sliding window, tied
 * head, special token ids) and what the flags let differ, and the tokenizers. MG_ERR_CONFLICT lists every difference in
 * one message. */
mg_status mg_donors_compare(mg_donor *d, uint32_t n, unsigned flags, mg_error *err) MG_MUST_CHECK;

#endif
