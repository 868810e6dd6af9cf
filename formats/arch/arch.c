/* arch.c - the registry of families, and the names of keys and roles. */
#include "formats/arch/arch_internal.h"

#include <stdio.h>
#include <string.h>

/* clang-format off */
#define MG_ARCH(name) extern const mg_arch mg_arch_##name;
#include "formats/arch/archs.inc"
#undef MG_ARCH
static const mg_arch *const families[] = {
#define MG_ARCH(name) &mg_arch_##name,
#include "formats/arch/archs.inc"
#undef MG_ARCH
};

static const struct { const char *name; mg_scope scope; } role_table[MG_ROLE_COUNT] = {
#define MG_ROLE(sym, scope, name) {name, MG_SCOPE_##scope},
#include "formats/arch/roles.inc"
#undef MG_ROLE
};

/* Messages use the canonical name where a file's own spelling is not at hand. */
static const char *const key_table[MG_KEY_COUNT] = {
#define MG_KEY(sym, kind, meaning) #sym,
#include "formats/arch/keys.inc"
#undef MG_KEY
};
/* clang-format on */

/* Families from files (arch_file.c): written while options are parsed, only read after. */
enum { MAX_LOADED = 16 };
static const mg_arch *loaded[MAX_LOADED];
static uint32_t n_loaded;

uint32_t mg_arch_built_in_count(void) {
    return sizeof families / sizeof *families;
}
const mg_arch *mg_arch_built_in(uint32_t i) {
    return families[i];
}

/* What was loaded comes first and so wins over a family of the same name. */
uint32_t mg_arch_count(void) {
    return n_loaded + mg_arch_built_in_count();
}
const mg_arch *mg_arch_at(uint32_t i) {
    if (i < n_loaded) return loaded[i];
    return i < mg_arch_count() ? families[i - n_loaded] : NULL;
}

mg_status mg_arch_register(const mg_arch *arch, mg_error *err) {
    for (uint32_t i = 0; i < n_loaded; i++)
        if (strcmp(loaded[i]->name, arch->name) == 0)
            return mg_fail(err, MG_ERR_CONFLICT, "two files describe family '%s'", arch->name);
    if (n_loaded == MAX_LOADED) return mg_fail(err, MG_ERR_LIMIT, "more than %d families from files", MAX_LOADED);
    loaded[n_loaded++] = arch;
    return MG_OK;
}

const char *mg_role_name(mg_role r) {
    return (unsigned)r < MG_ROLE_COUNT ? role_table[r].name : "?";
}
mg_scope mg_role_scope(mg_role r) {
    return (unsigned)r < MG_ROLE_COUNT ? role_table[r].scope : MG_SCOPE_MODEL;
}
const char *mg_key_name(mg_key k) {
    return (unsigned)k < MG_KEY_COUNT ? key_table[k] : "?";
}

const mg_arch *mg_arch_find(const char *name) {
    for (uint32_t i = 0; i < mg_arch_count(); i++)
        if (strcmp(mg_arch_at(i)->name, name) == 0) return mg_arch_at(i);
    return NULL;
}

static const mg_arch *by_class(const char *class_name) {
    for (uint32_t i = 0; i < mg_arch_count(); i++)
        for (uint32_t k = 0; k < 4 && mg_arch_at(i)->hf_classes[k]; k++)
            if (strcmp(mg_arch_at(i)->hf_classes[k], class_name) == 0) return mg_arch_at(i);
    return NULL;
}

/* "llama, mistral, mixtral" */
static const char *family_list(char *buf, size_t size) {
    size_t n = 0;
    buf[0] = 0;
    for (uint32_t i = 0; i < mg_arch_count() && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, "%s%s", i ? ", " : "", mg_arch_at(i)->name);
    return buf;
}

mg_status mg_arch_of_config(const mg_arch **out, const mg_json *config, mg_error *err) {
    char known[512];
    if (!config || mg_json_type(config) != MG_JSON_OBJECT)
        return mg_fail(err, MG_ERR_FORMAT, "config.json is not an object");
    const char *type = mg_json_str(mg_json_get(config, "model_type"));
    const char *class_name = mg_json_str(mg_json_first(mg_json_get(config, "architectures")));
    if (!type && !class_name)
        return mg_fail(err, MG_ERR_FORMAT,
                       "config.json names neither 'architectures' nor 'model_type', so the family is unknown");
    const mg_arch *by_name = type ? mg_arch_find(type) : NULL, *of_class = class_name ? by_class(class_name) : NULL;
    if (type && !by_name)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "model_type '%.80s' is not a family this version knows (%s)", type,
                       family_list(known, sizeof known));
    if (class_name && !of_class)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "architecture '%.80s' is not one this version knows (families: %s)",
                       class_name, family_list(known, sizeof known));
    if (type && class_name && by_name != of_class)
        return mg_fail(err, MG_ERR_CONFLICT, "'architectures' says '%.80s', but 'model_type' says '%.80s'", class_name,
                       type);
    *out = by_name ? by_name : of_class;
    return MG_OK;
}

mg_status mg_arch_of_gguf(const mg_arch **out, const mg_kvs *kv, mg_error *err) {
    char key[128], known[512];
    mg_str name;
    uint64_t experts = 0;
    if (!mg_kv_str(mg_kvs_get(kv, "general.architecture"), &name))
        return mg_fail(err, MG_ERR_FORMAT, "the metadata has no string 'general.architecture'");
    snprintf(key, sizeof key, "%.64s.expert_count", name.data);
    const mg_kv *count = mg_kvs_get(kv, key);
    if (count && !mg_kv_u64(count, &experts)) return mg_fail(err, MG_ERR_CONFLICT, "'%s' is not a count", key);
    uint64_t score = MG_SCORE_SOFTMAX;
    snprintf(key, sizeof key, "%.64s.expert_gating_func", name.data);
    const mg_kv *func = mg_kvs_get(kv, key);
    if (func && !mg_kv_u64(func, &score)) return mg_fail(err, MG_ERR_CONFLICT, "'%s' is not a number", key);
    mg_gguf_match want = experts ? MG_GGUF_MATCH_MOE : MG_GGUF_MATCH_DENSE;
    for (uint32_t i = 0; i < mg_arch_count(); i++) {
        if (mg_arch_at(i)->gguf_score && mg_arch_at(i)->gguf_score != score) continue;
        if (strcmp(mg_arch_at(i)->gguf_arch, name.data) == 0 && mg_arch_at(i)->gguf_match == want) {
            *out = mg_arch_at(i);
            return MG_OK;
        }
    }
    return mg_fail(err, MG_ERR_UNSUPPORTED,
                   "general.architecture '%.64s'%s is not one this version knows (families: %s)", name.data,
                   experts ? " with experts" : "", family_list(known, sizeof known));
}

bool mg_arch_made_from(const mg_arch *arch, const mg_arch *donor) {
    if (!arch->made_from) return false;
    for (uint32_t i = 0; i < 4 && arch->made_from->families[i]; i++)
        if (strcmp(arch->made_from->families[i], donor->name) == 0) return true;
    return false;
}

bool mg_arch_kin(const mg_arch *a, const mg_arch *b) {
    if (a == b || mg_arch_made_from(a, b) || mg_arch_made_from(b, a)) return true;
    for (uint32_t i = 0; a->made_from && i < 4 && a->made_from->families[i]; i++)
        if (mg_arch_made_from(b, mg_arch_find(a->made_from->families[i]))) return true;
    return false;
}

mg_role mg_arch_expert_role(const mg_arch *arch, mg_role dense) {
    if (arch->made_from)
        for (uint32_t i = 0; i < arch->made_from->n_roles; i++)
            if (arch->made_from->roles[i].dense == dense) return arch->made_from->roles[i].expert;
    return MG_ROLE_COUNT;
}

mg_role mg_arch_dense_role(const mg_arch *arch, mg_role expert) {
    if (arch->made_from)
        for (uint32_t i = 0; i < arch->made_from->n_roles; i++)
            if (arch->made_from->roles[i].expert == expert) return arch->made_from->roles[i].dense;
    return MG_ROLE_COUNT;
}

mg_dtype mg_config_dtype(const mg_json *config) {
    static const struct {
        const char *name;
        mg_dtype type;
    } names[] = {{"float32", MG_F32},   {"float", MG_F32},   {"float16", MG_F16}, {"half", MG_F16},
                 {"bfloat16", MG_BF16}, {"float64", MG_F64}, {"double", MG_F64}};
    const char *s = mg_json_str(mg_json_get(config, "dtype"));
    if (!s) s = mg_json_str(mg_json_get(config, "torch_dtype"));
    if (s && strncmp(s, "torch.", 6) == 0) s += 6;
    for (size_t i = 0; s && i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i].name, s) == 0) return names[i].type;
    return MG_DTYPE_COUNT;
}
