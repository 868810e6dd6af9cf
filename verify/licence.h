/* licence.h - what a model states of its licence: a GGUF in its metadata, a directory in its model card. */
#ifndef MG_VERIFY_LICENCE_H
#define MG_VERIFY_LICENCE_H

#include "formats/checkpoint.h"

/* As the hub writes licences; id "" : not stated. */
typedef struct mg_licence {
    char id[96];               /* "apache-2.0", "other" */
    char name[192], link[512]; /* of "other"; "" otherwise */
} mg_licence;

mg_status mg_licence_of(mg_licence *l, const mg_checkpoint *c, mg_error *err) MG_MUST_CHECK;
mg_status mg_licence_of_dir(mg_licence *l, const char *dir, mg_error *err) MG_MUST_CHECK;
/* Two that are stated; case does not matter. */
bool mg_licence_same(const mg_licence *a, const mg_licence *b);

#endif
