/* model_card.h - what a model's README.md says of it in its YAML front matter. */
#ifndef MG_FORMATS_MODEL_CARD_H
#define MG_FORMATS_MODEL_CARD_H

#include "formats/base/yaml.h"

/* Front matter between two "---" lines at the start of dir/README.md: a map, or NULL when there is none, it is no valid
 * YAML (a card is text for people, so that is no error), or the file has more than 4 MiB. */
mg_status mg_model_card_load(mg_yaml_doc **doc, const char *dir, mg_error *err) MG_MUST_CHECK;

#endif
