/* preset.c - the preset table and how its names are written on a command line. */
#include "quant/preset.h"

#include "formats/base/options.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const mg_preset presets[MG_PRESET_COUNT] = {
#define MG_PRESET(sym, nm, ft, dt, wh) {MG_PRESET_##sym, nm, ft, dt, wh},
#include "quant/presets.inc"
#undef MG_PRESET
};

/* llama-quantize's own short names: a K type without a letter means its medium mix. */
static const struct {
    const char *alias;
    mg_preset_id id;
} aliases[] = {{"Q3_K", MG_PRESET_Q3_K_M}, {"Q4_K", MG_PRESET_Q4_K_M}, {"Q5_K", MG_PRESET_Q5_K_M}};

const mg_preset *mg_preset_get(mg_preset_id id) {
    return &presets[id];
}

static const mg_preset *by_number(const char *text) {
    size_t n = strspn(text, "0123456789");
    if (n == 0 || text[n] != '\0' || n > 4) return NULL;
    unsigned long v = strtoul(text, NULL, 10);
    for (int i = 0; i < MG_PRESET_COUNT; i++)
        if (presets[i].file_type == v && i != MG_PRESET_NVFP4) return &presets[i];
    return NULL;
}

const mg_preset *mg_preset_find(const char *text) {
    for (int i = 0; i < MG_PRESET_COUNT; i++)
        if (strcasecmp(presets[i].name, text) == 0) return &presets[i];
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++)
        if (strcasecmp(aliases[i].alias, text) == 0) return &presets[aliases[i].id];
    return by_number(text);
}

mg_status mg_preset_parse(const char *text, const mg_preset **out, mg_error *err) {
    *out = mg_preset_find(text);
    if (*out) return MG_OK;
    const char *names[MG_PRESET_COUNT + 1];
    for (int i = 0; i < MG_PRESET_COUNT; i++) names[i] = presets[i].name;
    names[MG_PRESET_COUNT] = NULL;
    const char *near = mg_nearest(text, names);
    if (near) return mg_fail(err, MG_ERR_USAGE, "unknown type '%s', did you mean '%s'", text, near);
    return mg_fail(err, MG_ERR_USAGE, "unknown type '%s'", text);
}
