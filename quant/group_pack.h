/* group_pack.h - the stored parts of a weight quantized in groups (quant/group_encode.h), for every format we write.
 *
 * Codes are a dense stream of bits, lowest first, in little-endian 32-bit words; formats differ in the axis that is
 * packed, in transposition, and in what is stored for zero. docs/format_groups.md draws them.
 *
 * A form is cut into slabs, all of equal size in every part, so that a large weight is made piece by piece: AWQ and
 * GPTQ store groups of columns one after the other (a slab is a group), the others rows (a slab is one row, 32 where
 * zeros are packed along rows, as many as share a scale; all of them when they do not divide). The bytes of a slab are
 * the bytes of its parts, in the order of the parts. */
#ifndef MG_QUANT_GROUP_PACK_H
#define MG_QUANT_GROUP_PACK_H

#include "formats/tensor.h"
#include "quant/group_encode.h"

typedef enum mg_group_format {
    MG_FORMAT_AWQ,     /* GEMM; 2 to 8 bits, only 4 are read by AutoAWQ and vLLM */
    MG_FORMAT_GPTQ,    /* zeros are stored minus one; 2, 3, 4, 8 bits */
    MG_FORMAT_GPTQ_V2, /* zeros as they are */
    MG_FORMAT_CT,      /* compressed-tensors pack-quantized */
    MG_FORMAT_MLX,     /* affine: biases instead of zeros */
    /* compressed-tensors' small floats, named after llm-compressor's schemes. What follows A is how inputs are rounded
     * at run time: a word in config.json. */
    MG_FORMAT_FP8_DYNAMIC, /* float-quantized: E4M3, a scale for each row */
    MG_FORMAT_FP8_BLOCK,   /* float-quantized: E4M3, a scale for 128 x 128 */
    MG_FORMAT_NVFP4A16,    /* nvfp4-pack-quantized: E2M1, E4M3 scales for 16, a global scale beside the parts */
    MG_FORMAT_MXFP4A16,    /* mxfp4-pack-quantized: E2M1, E8M0 scales for 32 */
    MG_FORMAT_MXFP4,
    MG_FORMAT_COUNT,
} mg_group_format;

typedef enum mg_group_content { MG_PART_CODES, MG_PART_ZEROS, MG_PART_SCALES, MG_PART_BIASES } mg_group_content;

typedef struct mg_group_part {
    mg_group_content what;
    const char *suffix; /* replaces ".weight" in the name of the weight */
    mg_dtype dtype;
    uint32_t rank;
    uint64_t shape[3];
    uint64_t slab_bytes, slab_at; /* bytes of a slab, and where they begin in the bytes of all parts of the slab */
} mg_group_part;

#define MG_GROUP_MAX_PARTS 4
#define MG_FP8_BLOCK       128 /* rows and columns of MG_FORMAT_FP8_BLOCK */

typedef struct mg_group_form {
    mg_group_format format;
    mg_group_scheme scheme;
    uint64_t rows, cols, groups;
    uint64_t matrices; /* that the rows are, below each other; more than 1: parts have three dimensions */
    bool by_group;     /* slabs are groups of columns; else they are rows */
    uint64_t slabs, slab_rows, slab_cols, slab_bytes;
    mg_group_part parts[MG_GROUP_MAX_PARTS];
    uint32_t n_parts;
} mg_group_form;

const char *mg_group_format_name(mg_group_format f);
/* Codes are small floats; bits, groups and symmetry are the format's own. */
bool mg_group_format_is_float(mg_group_format f);
/* MG_FORMAT_COUNT when unknown; case does not matter. */
mg_group_format mg_group_format_find(const char *name);
/* What a format asks for: rounding rule and smallest zero; bits, group size, symmetry and scale type are the caller's.
 * Formats of small floats ask for all of it; scale_dtype is then the type of the model's floats. */
mg_group_scheme mg_group_format_scheme(mg_group_format f, uint32_t bits, uint64_t group_size, bool symmetric,
                                       mg_dtype scale_dtype);

/* The parts of a weight [rows][cols]. MG_ERR_UNSUPPORTED says what does not fit the format: bits it has not, rows or
 * columns that do not fill words or groups. The scheme is judged too. */
mg_status mg_group_form_init(mg_group_form *f, mg_group_format format, const mg_group_scheme *s, uint64_t rows,
                             uint64_t cols, mg_error *err) MG_MUST_CHECK;

/* The parts of a stack [matrices][rows / matrices][cols], after mg_group_form_init with all rows. MG_ERR_UNSUPPORTED
 * for formats without stacks: all but MLX. */
mg_status mg_group_form_stack(mg_group_form *f, uint64_t matrices, mg_error *err) MG_MUST_CHECK;

/* Put q into slabs at dst. q holds rows row..row + q->rows of the slabs, and of the columns those of the slabs. row is
 * a multiple of 32 and of rows that share a scale, and so is q->rows, or q ends the weight: words that q fills in part
 * only are not possible. */
void mg_group_form_pack(const mg_group_form *f, const mg_group_codes *q, uint64_t row, uint8_t *dst);

#endif
