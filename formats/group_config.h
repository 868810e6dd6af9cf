/* group_config.h - what a config.json says about how its weights are quantized in groups, read into numbers.
 *
 * The block is config.json's "quantization_config", or the side file of older writers (quant_config.json of AutoAWQ,
 * quantize_config.json of AutoGPTQ). Only facts about storage are kept; how the codes were found is of no interest. */
#ifndef MG_FORMATS_GROUP_CONFIG_H
#define MG_FORMATS_GROUP_CONFIG_H

#include "formats/checkpoint.h"

typedef enum mg_group_method {
    MG_GROUPS_NONE,  /* no such block */
    MG_GROUPS_AWQ,   /* the GEMM layout */
    MG_GROUPS_GPTQ,  /* v1 and v2 */
    MG_GROUPS_CT,    /* compressed-tensors */
    MG_GROUPS_FP8,   /* "quant_method": "fp8": blocks or one scale per tensor */
    MG_GROUPS_MLX,   /* MLX: "quantization" */
    MG_GROUPS_MXFP4, /* "quant_method": "mxfp4": X_blocks and X_scales, as gpt-oss is released */
} mg_group_method;

/* How compressed-tensors stores the weights of one of its config groups. */
typedef enum mg_ct_format {
    MG_CT_PACKED, /* weight_packed: integers in 32 bit words */
    MG_CT_INT8,   /* weight: one int8 each */
    MG_CT_FP8,    /* weight: one F8_E4M3 each */
    MG_CT_NVFP4,  /* weight_packed: two E2M1 per byte, F8_E4M3 scales, one global scale */
    MG_CT_MXFP4,  /* weight_packed: two E2M1 per byte, E8M0 scales */
} mg_ct_format;

typedef struct mg_ct_group {
    mg_ct_format format;
    uint32_t bits;
    bool symmetric;
    bool act_order;      /* weight_g_idx is stored */
    bool one_scale;      /* strategy "tensor": one scale for everything */
    uint64_t group_size; /* columns that share a scale; 0: the whole row */
    uint64_t row_block;  /* rows that share a scale; 1 unless strategy "block" */
} mg_ct_group;

#define MG_CT_MAX_GROUPS 16

typedef struct mg_group_config {
    mg_group_method method;
    uint32_t bits;       /* AWQ, GPTQ */
    uint64_t group_size; /* AWQ, GPTQ: 0 = the whole column */
    bool symmetric;      /* AWQ, GPTQ: qzeros may be absent, the zero is 2^(bits-1) */
    bool zero_minus_one; /* GPTQ v1: qzeros hold zero - 1 */
    bool act_order;      /* GPTQ: rows are in no order, g_idx is needed */
    bool mixed;          /* GPTQ "dynamic": bits and groups differ by module and follow from the shapes */
    uint64_t block[2];   /* FP8: rows, columns; 0: one scale for the tensor */
    const mg_json *mlx;  /* MLX: its block, where weights may have bits and groups of their own; the checkpoint's */
    mg_ct_group ct[MG_CT_MAX_GROUPS];
    uint32_t n_ct;
} mg_group_config;

/* Read the block of c. MG_GROUPS_NONE when there is none. A method or layout that is known but not read is
 * MG_ERR_UNSUPPORTED by its name; a value of the wrong type or outside its range is MG_ERR_FORMAT naming the key. */
mg_status mg_group_config_read(mg_group_config *out, const mg_checkpoint *c, mg_error *err) MG_MUST_CHECK;
/* How MLX stores the weights of a module: whole numbers with biases, or small floats. */
typedef enum mg_mlx_mode { MG_MLX_AFFINE, MG_MLX_MXFP4, MG_MLX_MXFP8, MG_MLX_NVFP4 } mg_mlx_mode;
typedef struct mg_mlx_scheme {
    mg_mlx_mode mode;
    uint32_t bits;
    uint64_t group_size;
} mg_mlx_scheme;
/* MLX: the scheme of a module, which may have an entry of its own; NULL: of all that have none. */
mg_status mg_group_config_mlx(const mg_group_config *c, const char *module, mg_mlx_scheme *out,
                              mg_error *err) MG_MUST_CHECK;

#endif
