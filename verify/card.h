/* card.h - the model card of a result: YAML front matter as the Hugging Face hub reads it, and sections in Markdown.
 * Everything is taken from what the caller found; nothing is guessed. */
#ifndef MG_VERIFY_CARD_H
#define MG_VERIFY_CARD_H

#include <stdio.h>

#include "formats/base/json.h"
#include "verify/licence.h"

typedef struct mg_card_donor {
    char name[512];   /* as the recipe writes it */
    const char *role; /* "base", "expert", "model" ... */
    char hub[288];    /* org/name on the hub; "" for a local one */
    mg_licence licence;
    bool found; /* it is on this machine: what it states of its licence was read */
} mg_card_donor;

typedef struct mg_card_file {
    char name[512];
    char type[64]; /* "Q4_K_M", "BF16", "AWQ, 4 bits" */
    uint64_t bytes;
    double bpw;
    char sha256[65]; /* "" without a manifest */
} mg_card_file;

typedef struct mg_card {
    char name[512];
    bool gguf;
    const char *relation; /* base_model_relation: "merge", "quantized"; NULL: none */
    char family[64];      /* "": not known, and no counts */
    uint64_t total, active, experts, experts_per_token;
    mg_licence licence; /* of the result */
    mg_card_donor *donors;
    size_t n_donors;
    const char *const *bases; /* hub names given by the user, before those of the donors */
    size_t n_bases;
    mg_card_file *files;
    size_t n_files;
    char *recipe;        /* YAML; NULL: none */
    char *prompt;        /* what a question is wrapped in; NULL: no template, or one that is not known */
    bool has_template;   /* there is a chat template */
    mg_json **manifests; /* checked */
    size_t n_manifests;
    mg_json **drift; /* results of verify, checked */
    size_t n_drift;
    mg_json *routing; /* of route --json or route --report --json, checked; NULL: none */
} mg_card;

/* Are these what they are taken for (schema and the members used here)? MG_ERR_FORMAT otherwise. */
mg_status mg_card_check_manifest(const mg_json *v, mg_error *err) MG_MUST_CHECK;
mg_status mg_card_check_drift(const mg_json *v, mg_error *err) MG_MUST_CHECK;
mg_status mg_card_check_routing(const mg_json *v, mg_error *err) MG_MUST_CHECK;

/* The licence of the result from those stated by the donors (and by the result itself, as one of them): the one that
 * all state. MG_ERR_CONFLICT lists them when they differ. *open: how many state none. */
mg_status mg_card_settle_licence(mg_licence *out, size_t *open, const mg_card_donor *d, size_t n,
                                 mg_error *err) MG_MUST_CHECK;

/* The card, malloc'ed. template: text with {{front_matter}} and the other names of docs/card.md; NULL: ours.
 * MG_ERR_USAGE for a name that does not exist, with the nearest. */
mg_status mg_card_text(char **out, size_t *size, const mg_card *c, const char *template, mg_error *err) MG_MUST_CHECK;

/* ---- shared by card*.c ---- */

bool mg_card_is_schema_1(const mg_json *v);
bool mg_card_has_strings(const mg_json *v, const char *const *paths); /* NULL-terminated */

void mg_card_files(FILE *f, const mg_card *c);
void mg_card_donors(FILE *f, const mg_card *c);
void mg_card_provenance(FILE *f, const mg_card *c);
mg_status mg_card_drift(FILE *f, const mg_card *c, mg_error *err) MG_MUST_CHECK;
void mg_card_routing(FILE *f, const mg_card *c);
/* Text between fences longer than any run of backticks in it. */
void mg_card_fenced(FILE *f, const char *language, const char *text);

#endif
