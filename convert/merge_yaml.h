/* merge_yaml.h - what all merge recipes share: checked keys, model references, dtype names. Errors carry the line. */
#ifndef MG_CONVERT_MERGE_YAML_H
#define MG_CONVERT_MERGE_YAML_H

#include "formats/base/arena.h"
#include "formats/base/yaml.h"
#include "formats/dtype.h"

/* MG_ERR_FORMAT "line N: 'KEY' must be EXPECTED". */
mg_status mg_merge_yaml_schema(mg_error *err, const mg_yaml *at, const char *key, const char *expected);
/* Every member of map is in known (NULL-terminated), else MG_ERR_FORMAT with the nearest name. */
mg_status mg_merge_yaml_check_keys(const mg_yaml *map, const char *const *known, const char *where,
                                   mg_error *err) MG_MUST_CHECK;
/* A model reference: path[@revision][+adapter], or {model, lora}, each a path or {path, revision}. *out in the arena,
 * as written; a mapping as "path@revision+path". */
mg_status mg_merge_yaml_model(mg_arena *a, const mg_yaml *v, const char *key, const char **out,
                              mg_error *err) MG_MUST_CHECK;
/* A model reference as a path that can be opened: beside the recipe in dir, else from the working directory, else a
 * name that the local Hugging Face cache has (kept as a name). */
mg_status mg_merge_yaml_resolve(mg_arena *a, const char *dir, const char *name, const char **out,
                                mg_error *err) MG_MUST_CHECK;
/* bfloat16, float16, float32 and their short forms; *out stays as it is when the key is absent or null. */
mg_status mg_merge_yaml_dtype(const mg_yaml *map, const char *key, mg_dtype *out, mg_error *err) MG_MUST_CHECK;
/* The folder of a recipe's path, "." for a bare name. */
void mg_merge_yaml_dir(const char *path, char *buf, size_t size);

/* From now on models whose path ends in one of names[n] are paths[i] to all recipes, wherever these say they are. To be
 * called before recipes are opened, from one thread; the arrays outlive every use, n 0 ends it. */
void mg_merge_yaml_known(const char *const *names, const char *const *paths, size_t n);

#endif
