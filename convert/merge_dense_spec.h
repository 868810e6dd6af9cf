/* merge_dense_spec.h - a mergekit-yaml recipe: models or slices of their layers, a merge method, and parameters that
 * may be numbers, gradients over a slice, or choices by tensor name. Unknown keys and parameters are errors. */
#ifndef MG_CONVERT_MERGE_DENSE_SPEC_H
#define MG_CONVERT_MERGE_DENSE_SPEC_H

#include "convert/blend.h"
#include "convert/vocab_union.h"
#include "formats/base/arena.h"
#include "formats/base/yaml.h"
#include "formats/dtype.h"

typedef struct mg_dense_source {
    const char *path;          /* resolved */
    const mg_yaml *parameters; /* NULL: none */
    bool is_base;              /* named by the recipe or the slice as the base */
    bool whole;                /* all layers */
    uint32_t first, end;       /* layers [first, end) otherwise */
} mg_dense_source;

typedef struct mg_dense_slice {
    mg_dense_source *sources; /* the base first when the method has one */
    uint32_t n_sources;
    const mg_yaml *parameters;
} mg_dense_slice;

typedef struct mg_dense_spec {
    mg_vocab_spec vocab;
    mg_blend_method method;
    const char *base_path; /* config, tokenizer and delta base; the first source when the recipe names none */
    mg_dense_slice *slices;
    uint32_t n_slices;
    const mg_yaml *parameters;
    double default_weight; /* of models whose recipe gives none; NAN: demanded, as mergekit does */
    mg_dtype dtype;        /* of the result; MG_DTYPE_COUNT: the base's */
    uint64_t seed;         /* of random choices, set by the tool */
    const char *text;      /* the file verbatim, copied as mergekit_config.yml */
    size_t text_size;
    mg_arena arena;
    mg_yaml_doc *doc;
} mg_dense_spec;

/* True when the recipe at path has a merge_method: a dense merge rather than a mixture of experts. */
mg_status mg_merge_is_dense(const char *path, bool *dense, mg_error *err) MG_MUST_CHECK;
/* Schema errors: MG_ERR_FORMAT with line; methods that are not built, modules and tokenizer surgery:
 * MG_ERR_UNSUPPORTED by name. *out is the caller's. */
mg_status mg_dense_spec_load(mg_dense_spec **out, const char *path, mg_error *err) MG_MUST_CHECK;
void mg_dense_spec_free(mg_dense_spec *s);

/* The trunk of a mixture of experts as a dense merge: v is a method's name or {merge_method, models, parameters},
 * already without keys that are not the merge's. Models are the n experts when v names none, and weigh 1 each unless it
 * says otherwise. v is borrowed: its document outlives the spec. */
mg_status mg_dense_spec_trunk(mg_dense_spec **out, const char *dir, const mg_yaml *v, const char *method,
                              const char *base, const char *const *experts, uint32_t n, mg_error *err) MG_MUST_CHECK;

/* The blend of one output tensor: parameters of slice `slice` at place t (0 to 1 over its layers, 0 outside layers).
 * Filters of what all models share are matched against tensor, those of a model's parameters against its own tensor's
 * name in inputs, one for each source (NULL: tensor as well). Precedence as mergekit's: source, slice, recipe, default.
 */
mg_status mg_dense_blend(const mg_dense_spec *s, uint32_t slice, const char *tensor, const char *const *inputs,
                         double t, mg_blend *out, mg_error *err) MG_MUST_CHECK;

#endif
