/* loader_view.h - what the rules of quant/loader_rules.c look at, and those of its rules that are about vLLM alone. */
#ifndef MG_QUANT_LOADER_VIEW_H
#define MG_QUANT_LOADER_VIEW_H

#include "formats/arch/arch.h"
#include "formats/group_layouts.h"

typedef struct mg_loader_view {
    mg_checkpoint *c;     /* as stored */
    mg_checkpoint *dense; /* c itself, or its dense view, which borrows c */
    mg_group_layout layout;
    mg_model *m;
    mg_targets names; /* what the family's files are called where every loader knows them */
    uint32_t tp;
    const mg_json *quant; /* quantization_config, or NULL */
} mg_loader_view;

/* What a rule found: the first tensor, or NULL, and the numbers behind it. */
typedef struct mg_loader_hit {
    const char *tensor;
    char text[512];
} mg_loader_hit;

bool mg_loader_is_method(const mg_loader_view *v, mg_group_method m);
bool mg_loader_has_experts(const mg_loader_view *v);
/* Of a dense tensor; MG_ROLE_COUNT: none. */
mg_role mg_loader_role_of(const mg_loader_view *v, const char *name);

/* Rules, true when broken. Shares are what one of v->tp tensor-parallel ranks gets: inputs of the projections that end
 * a block, outputs of the others. */
bool mg_vllm_groups_cut(const mg_loader_view *v, mg_loader_hit *h);     /* inputs: no whole groups */
bool mg_vllm_words_cut(const mg_loader_view *v, mg_loader_hit *h);      /* no whole words of codes or zeros */
bool mg_vllm_blocks_cut(const mg_loader_view *v, mg_loader_hit *h);     /* outputs: no whole blocks of one scale */
bool mg_vllm_heads_cut(const mg_loader_view *v, mg_loader_hit *h);      /* no whole heads */
bool mg_vllm_row_groups(const mg_loader_view *v, mg_loader_hit *h);     /* AWQ with one group per row */
bool mg_vllm_act_order(const mg_loader_view *v, mg_loader_hit *h);      /* groups in another order than columns */
bool mg_vllm_byte_zeros(const mg_loader_view *v, mg_loader_hit *h);     /* experts of 8 bits with zero points */
bool mg_vllm_scales_rounded(const mg_loader_view *v, mg_loader_hit *h); /* scales of another type than config.json's */
bool mg_vllm_unknown_family(const mg_loader_view *v, mg_loader_hit *h);
bool mg_vllm_code_elsewhere(const mg_loader_view *v, mg_loader_hit *h); /* config.json names code on a hub */

#endif
