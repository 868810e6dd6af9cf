/* preset.h - the named file types of llama-quantize: Q4_K_M, IQ2_XXS, COPY ... (rows of presets.inc).
 * A preset is a default dtype plus the mix rules (mix.h) that apply under its name. */
#ifndef MG_QUANT_PRESET_H
#define MG_QUANT_PRESET_H

#include "formats/dtype.h"

typedef enum mg_preset_id {
#define MG_PRESET(sym, name, file_type, dtype, what) MG_PRESET_##sym,
#include "quant/presets.inc"
#undef MG_PRESET
    MG_PRESET_COUNT
} mg_preset_id;

typedef struct mg_preset {
    mg_preset_id id;
    const char *name;   /* canonical spelling, also used in file names */
    uint32_t file_type; /* general.file_type; COPY keeps the source's instead */
    mg_dtype dtype;     /* default dtype of a weight */
    const char *what;   /* one phrase for --help */
} mg_preset;

const mg_preset *mg_preset_get(mg_preset_id id);

/* A name (any case, aliases Q3_K, Q4_K, Q5_K of the _M mixes) or a decimal file-type number that belongs to a
 * llama-quantize preset (the whole text: "2bit.gguf" is no number). NULL when it is neither. */
const mg_preset *mg_preset_find(const char *text);

/* Same, with MG_ERR_USAGE naming the nearest preset. */
mg_status mg_preset_parse(const char *text, const mg_preset **out, mg_error *err) MG_MUST_CHECK;

#endif
