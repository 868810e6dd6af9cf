/* group_layouts.h - where the bits are in checkpoints quantized in groups: which tensors make up one weight, how their
 * axes run, and how codes sit in their words. No arithmetic on weights happens here (quant/group_decode does that).
 *
 * All layouts are one scheme. A weight W [rows][cols] is a matrix of codes; `group_size` columns and `row_block` rows
 * share a scale, and W = (code - zero) * scale. Codes and zeros lie in two-dimensional arrays of little-endian words,
 * packed along one of the two axes, lowest bits first. docs/format_groups.md draws them. */
#ifndef MG_FORMATS_GROUP_LAYOUTS_H
#define MG_FORMATS_GROUP_LAYOUTS_H

#include "formats/base/arena.h"
#include "formats/group_config.h"

/* What a code stands for before it meets its scale. */
typedef enum mg_group_value { MG_CODE_INT, MG_CODE_E4M3, MG_CODE_E5M2, MG_CODE_E2M1 } mg_group_value;

/* A stored array of codes, one for each (row, j); j is a column or a group. */
typedef struct mg_code_array {
    uint32_t tensor; /* index in the checkpoint, MG_STRMAP_NONE: none */
    uint32_t bits;
    uint32_t word_bytes; /* 1 or 4 */
    uint32_t per_word;   /* codes in a word that wastes its upper bits; 0: a dense stream, codes may cross words */
    bool rows_last;      /* stored [j][row] instead of [row][j] */
    bool packed_last;    /* packed along the last stored axis instead of the first */
    bool awq_order;      /* the nibbles of a word are codes 0,2,4,6,1,3,5,7 */
    uint8_t flip;        /* exclusive-or on each code: 0x80 makes int8 unsigned */
    uint64_t words[2];   /* shape of the stored array */
    uint64_t js;         /* codes per row */
} mg_code_array;

typedef struct mg_group_matrix {
    const char *name; /* of the dense tensor: "X.weight" */
    uint32_t rank;
    uint64_t shape[MG_MAX_RANK]; /* dense */
    uint64_t rows, cols;
    mg_group_value value;
    mg_code_array codes;
    mg_code_array zeros; /* tensor MG_STRMAP_NONE: every zero is zero_fixed */
    uint32_t zero_fixed;
    uint32_t zero_add; /* zero = (stored + zero_add) & zero_mask */
    uint32_t zero_mask;
    uint32_t scales; /* tensor, one of F32, F16, BF16, F8_E4M3, E8M0 (also as U8) */
    mg_dtype scale_dtype;
    bool scales_rows_last; /* stored [group][row] instead of [row][group] */
    uint64_t scale_rows;   /* rows of the scale array */
    uint64_t row_block;    /* rows that share a scale */
    uint64_t slab_rows;    /* row blocks start anew at multiples of this (stacked experts) */
    uint64_t groups, group_size;
    uint32_t biases;  /* tensor like the scales that is added, MG_STRMAP_NONE: none */
    uint32_t g_idx;   /* tensor with the group of each column, MG_STRMAP_NONE: column / group_size */
    uint32_t divisor; /* scalar F32 tensor that divides every scale, MG_STRMAP_NONE: none */
} mg_group_matrix;

/* What becomes of each stored tensor. */
typedef enum mg_group_use { MG_USE_PASS, MG_USE_HIDE, MG_USE_MATRIX } mg_group_use;

typedef struct mg_group_layout {
    mg_arena arena;
    mg_group_config config;
    mg_group_matrix *matrices;
    uint32_t n_matrices;
    uint8_t *use;        /* n_tensors of mg_group_use */
    uint32_t *matrix_of; /* n_tensors: matrix whose codes the tensor holds (use MG_USE_MATRIX) */
} mg_group_layout;

/* Find the quantized weights of c. n_matrices 0: nothing is quantized. Reads headers and the 16 bytes of each
 * weight_shape. MG_ERR_FORMAT names the tensor, what was found and what was expected; MG_ERR_UNSUPPORTED names the
 * layout. *out must be released also after a failure. */
mg_status mg_group_layout_init(mg_group_layout *out, mg_checkpoint *c, mg_error *err) MG_MUST_CHECK;
void mg_group_layout_release(mg_group_layout *l);

#endif
