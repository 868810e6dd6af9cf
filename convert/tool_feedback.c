/* tool_feedback.c - see tool_feedback.h. */
#include "convert/tool_feedback.h"

#include <stdlib.h>

#include "formats/base/file.h"
#include "quant/feedback.h"

/* Hours of work must not end in a refusal. */
static mg_status check(const mg_tool_feedback_options *opt, mg_error *err) {
    mg_plan *p = NULL;
    mg_quantize_options q = *opt->quantize;
    uint32_t out;
    q.note = NULL; /* the plan that is executed will say it */
    q.reuse = NULL;
    mg_status st = mg_plan_new(&p, err);
    if (st == MG_OK) st = mg_quantize_plan(p, opt->gguf, opt->out, &q, NULL, &out, err);
    mg_plan_free(p);
    MG_TRY(st);
    if (!opt->common->force && mg_path_exists(opt->out))
        return mg_fail(err, MG_ERR_USAGE, "'%s' exists already; --force replaces it", opt->out);
    return MG_OK;
}

/* The wanted type of every tensor that codes can be chosen for. */
static mg_status take_types(mg_tool_feedback *t, const mg_tool_feedback_options *opt, mg_error *err) {
    mg_arena a;
    mg_quantize_item *items;
    uint32_t n, taken = 0;
    const size_t all = (size_t)opt->gguf->n_tensors + 1;
    t->types = malloc(all * sizeof *t->types);
    bool *read = malloc(all * sizeof *read);
    if (!t->types || !read) {
        free(read);
        return mg_fail_nomem(err, all * sizeof *t->types);
    }
    mg_group_stage_tensors(t->model, read);
    for (uint32_t i = 0; i < opt->gguf->n_tensors; i++) t->types[i] = MG_DTYPE_COUNT;
    mg_arena_init(&a, 0);
    mg_status st = mg_quantize_items(opt->gguf, opt->quantize, &a, &items, &n, err);
    for (uint32_t i = 0; st == MG_OK && i < n; i++) {
        const mg_quantize_item *item = &items[i];
        if (!read[item->tensor] || !mg_feedback_supports(item->target) ||
            item->target == opt->gguf->tensors[item->tensor].dtype)
            continue;
        t->types[item->tensor] = item->target;
        taken++;
    }
    mg_arena_release(&a);
    free(read);
    if (st == MG_OK && !taken)
        st = mg_fail(
            err, MG_ERR_UNSUPPORTED,
            "--feedback: no weight of a layer becomes a type whose codes can be chosen one by one (Q2_K to Q6_K, "
            "IQ4, Q4 and Q5 in blocks of 32)");
    return st;
}

mg_status mg_tool_feedback_run(mg_tool_feedback *t, const mg_tool_feedback_options *opt, mg_error *err) {
    MG_TRY(check(opt, err));
    MG_TRY(mg_model_open(&t->model, opt->gguf, err));
    MG_TRY(take_types(t, opt, err));
    const mg_tool_calib_options o = {
        .common = opt->common, .out = opt->out, .gptq = true, .types = t->types, .samples = opt->samples};
    MG_TRY(mg_tool_calib_run(&t->calib, opt->in, t->model, &o, err));
    t->made.ckpt = mg_group_stage_rounded(t->calib.stage)->ckpt;
    return mg_group_stage_text_id(t->calib.stage, &t->made.id, err);
}

void mg_tool_feedback_close(mg_tool_feedback *t, bool done) {
    mg_tool_calib_close(&t->calib, done);
    mg_model_free(t->model);
    free(t->types);
    *t = (mg_tool_feedback){0};
}
