/* arch.h - what one model family's description may say. A family is one const mg_arch in formats/arch/<family>.c and
 * one line in archs.inc. A new idea is a new enumerator here, handled in one place, never an `if (arch == ...)`.
 * The proof that the shape of these tables carries deepseek_v2, gemma2, gpt_oss and Mesh is docs/arch_tables.md. */
#ifndef MG_FORMATS_ARCH_ARCH_H
#define MG_FORMATS_ARCH_ARCH_H

#include "formats/arch/model.h"

typedef enum mg_act { MG_ACT_SILU, MG_ACT_GELU_TANH, MG_ACT_GELU_ERF } mg_act;
typedef enum mg_norm { MG_NORM_RMS, MG_NORM_LAYER } mg_norm;
typedef enum mg_rope_style { MG_ROPE_HALF, MG_ROPE_INTERLEAVED } mg_rope_style;
typedef enum mg_rope_scaling { MG_ROPE_NONE, MG_ROPE_LINEAR, MG_ROPE_LLAMA3, MG_ROPE_YARN, MG_ROPE_DYNAMIC, MG_ROPE_LONGROPE } mg_rope_scaling;
typedef enum mg_router_rule {
    MG_ROUTER_NONE,
    MG_ROUTER_SOFTMAX_TOPK, /* p = softmax over all in f32; top-k; divided by their sum when NORM_TOPK */
} mg_router_rule;

/* The arithmetic of one decoder block, shared by all layers (what varies by layer is in mg_layer). */
typedef struct mg_block {
    mg_norm norm;
    mg_rope_style rope;
    mg_router_rule router;
    bool norm_topk;          /* default of NORM_TOPK when the config does not say */
} mg_block;

/* On-disk layouts a family may have; rows of the tensor table carry one pattern and view per layout. */
typedef enum mg_layout { MG_LAYOUT_HF, MG_LAYOUT_GGUF, MG_LAYOUT_COUNT } mg_layout;

/* --- The rest of the description (config rows, tensor rows, predicates, made_from, registry) is defined by the
 *     arch tables; consumers outside formats/arch use only what is above and the functions below. --- */

#endif
