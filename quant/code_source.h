/* code_source.h - weights of a model as panels of codes (quant/math/codes.h): those quantized in groups, and GGUF's
 * blocks of a scale and a minimum. What such a panel says is what mg_f32_source decodes, but for the sign of zeros.
 *
 * Groups: code * scale - zero * scale is rounded once where zero * scale is exact in f32, as (code - zero) * scale is;
 * with a bias, where code * scale is. Scales of 16 bits leave 8 bits for the zero or the code, so both hold but for
 * scales that no quantizer writes; every group is tested.
 * Blocks: codes are found from the values and the step that the block states; what they give is compared with the
 * values. */
#ifndef MG_QUANT_CODE_SOURCE_H
#define MG_QUANT_CODE_SOURCE_H

#include "quant/math/codes.h"
#include "quant/read_f32.h"

typedef struct mg_code_source {
    mg_codes form; /* bits 0: not a weight of this kind */
    mg_f32_source w;
    const struct mg_group_matrix *matrix; /* NULL: blocks */
    uint32_t *g_idx;
} mg_code_source;

/* w: as mg_f32_source_init made it. MG_OK with form.bits 0 when w is stored in another way. Released by the caller,
 * also after a failure. */
mg_status mg_code_source_init(mg_code_source *s, const mg_f32_source *w, mg_error *err) MG_MUST_CHECK;
void mg_code_source_release(mg_code_source *s);

/* Rows row..row + n as ceil(n / 16) panels. *exact false: some values are not those of the f32 source; dst is then of
 * no use. Thread safe. */
mg_status mg_code_source_read(const mg_code_source *s, uint64_t row, uint64_t n, uint8_t *dst, bool *exact,
                              mg_error *err) MG_MUST_CHECK;

#endif
