/* tool_solve.h - quantize's --target-bpw and --target-size: types chosen by measuring, on calibration text, what each
 * costs. Part of the tool, because it takes plans from one room and the forward pass from another. */
#ifndef MG_CONVERT_TOOL_SOLVE_H
#define MG_CONVERT_TOOL_SOLVE_H

#include "convert/quantize.h"
#include "formats/base/options.h"

typedef struct mg_tool_solve_options {
    const mg_common *common; /* text, tokens, context, threads, memory, force */
    mg_checkpoint *in;       /* as opened: whose tokenizer it is */
    mg_checkpoint *gguf;     /* its GGUF form */
    const mg_quantize_options *quantize;
    const char *out;         /* the file that will be written */
    double bpw;              /* bits per weight of all tensors, or 0 */
    uint64_t size;           /* bytes of the file, or 0 */
    const char *types;       /* candidates, "Q3_K,Q4_K"; NULL: every K and I type that fits */
    uint64_t samples;        /* windows of text to measure on; 0: 16 */
    const char *attribution; /* result of verify --attribute to go by instead of measuring; NULL. Text is then only for
                                mg_tool_solve_check */
    void (*say)(void *ctx, const char *text);
    void *say_ctx;
} mg_tool_solve_options;

typedef struct mg_tool_solution {
    char *recipe;       /* rules for --tensor-type-file, malloc'ed */
    double sum;         /* divergences of the chosen types, each measured (or estimated) alone, added up */
    uint32_t n_tensors; /* whose type was chosen */
} mg_tool_solution;

/* Measure, solve, and add one rule per chosen tensor to rules (those already there win). sol->recipe is the caller's.
 * Nothing is written; OUT or its recipe file existing without --force is refused first. */
mg_status mg_tool_solve(const mg_tool_solve_options *opt, mg_type_rules *rules, mg_tool_solution *sol,
                        mg_error *err) MG_MUST_CHECK;
/* Divergence of output `out` of p, everything quantized at once, on the same text. */
mg_status mg_tool_solve_check(const mg_tool_solve_options *opt, mg_plan *p, uint32_t out, double *kl,
                              mg_error *err) MG_MUST_CHECK;
/* Write OUT.types.txt. */
mg_status mg_tool_solve_write(const mg_tool_solve_options *opt, const mg_tool_solution *sol,
                              mg_error *err) MG_MUST_CHECK;

#endif
