/* gguf_override.h - convert --metadata FILE: general.* keys given by the user, as convert_hf_to_gguf.py takes them. */
#ifndef MG_CONVERT_GGUF_OVERRIDE_H
#define MG_CONVERT_GGUF_OVERRIDE_H

#include "formats/base/json.h"
#include "formats/kv.h"

/* Read and check FILE: a JSON object of the keys that gguf-py's metadata.py knows, and general.license. Strings, whole
 * numbers and numbers as their GGUF types; general.tags and general.languages lists of strings; general.base_models and
 * general.datasets lists of objects of strings (name, author, version, organization, description, url, doi, uuid,
 * repo_url); null leaves a key out. MG_ERR_USAGE: an unknown key, with the nearest; MG_ERR_FORMAT: not such a value.
 * *out is the caller's. */
mg_status mg_gguf_override_load(mg_json **out, const char *path, mg_error *err) MG_MUST_CHECK;
/* Put them into kv, in the converter's order of keys, among those that are there already. name: general.name, stronger
 * than the file's (--model-name); NULL: none. */
mg_status mg_gguf_override_apply(mg_kvs *kv, const mg_json *override, const char *name, mg_error *err) MG_MUST_CHECK;

#endif
