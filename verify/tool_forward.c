/* tool_forward.c - moegraft-forward: raw activations of a model on given token ids. */
#include "formats/arch/arch_file.h"
#include <stdio.h>

#include "verify/capture.h"
#include "verify/tool_model.h"

static const mg_tool_info tool = {
    .name = "forward",
    .summary = "run a model on token ids and write logits, hidden states and router logits",
    .synopsis = "PATH --ids 1,5,9 -o X.safetensors\nPATH --tokens FILE -o X.safetensors",
    .examples = "  moegraft-forward model/ --ids 1,15,27 -o x.safetensors\n"
                "  moegraft-forward model.gguf --tokens ids.safetensors --capture logits -o logits.safetensors\n",
    .next = "moegraft forward --help",
};

typedef struct args {
    mg_common common;
    mg_opt_list pos;
    const char *ids, *out, *capture, *precision_word;
    bool done;
    unsigned what;
    mg_precision precision;
} args;

static mg_status parse(args *a, int argc, char **argv, mg_error *err) {
    const mg_opt opts[] = {
        {NULL, MG_OPT_GROUP, NULL, NULL, "Input"},
        {"--ids", MG_OPT_STR, &a->ids, "1,5,9", "token ids of one sequence"},
        {"--tokens", MG_OPT_LIST, &a->common.tokens, "FILE",
         "safetensors with input_ids [batch, n] int64, or one sequence of ids per line; all of one length"},
        {NULL, MG_OPT_GROUP, NULL, NULL, "Output"},
        {"--output,-o", MG_OPT_STR, &a->out, "FILE", "safetensors file to write"},
        {"--capture", MG_OPT_STR, &a->capture, "LIST", "any of logits,hidden,router (default: all three)"},
        {"--precision", MG_OPT_STR, &a->precision_word, "f32|f64|bf16|f16",
         "arithmetic: our f32 rules (default); double, written as F64; every operation rounded to 16 bits"},
        {"--force", MG_OPT_FLAG, &a->common.force, NULL, "replace an existing file (it is refused otherwise)"},
        MG_COMMON_MODEL_OPTS(a->common),
        MG_ARCH_OPT,
        MG_COMMON_EXEC_OPTS(a->common),
        {0}};
    mg_common_init(&a->common);
    MG_TRY(mg_options_parse(&tool, opts, argc, argv, &a->pos, &a->done, err));
    if (a->done) return MG_OK;
    MG_TRY(mg_common_finish(&a->common, err));
    if (a->pos.n != 1) return mg_fail(err, MG_ERR_USAGE, "one model expected, %zu given", a->pos.n);
    if (!a->out) return mg_fail(err, MG_ERR_USAGE, "no output file given (-o)");
    if (!a->ids == !a->common.tokens.n) return mg_fail(err, MG_ERR_USAGE, "either --ids or --tokens is needed");
    a->what = MG_CAPTURE_ALL;
    if (a->capture) MG_TRY(mg_capture_parse(a->capture, &a->what, err));
    return mg_precision_parse(a->precision_word, &a->precision, err);
}

static mg_status windows_of(const args *a, mg_windows *w, mg_error *err) {
    if (a->ids) return mg_windows_add_list(w, a->ids, err);
    for (size_t i = 0; i < a->common.tokens.n; i++)
        MG_TRY(mg_windows_add_token_file(w, a->common.tokens.items[i], err));
    return MG_OK;
}

static mg_status run(const args *a, mg_error *err) {
    mg_windows w;
    mg_tool_model model = {0};
    mg_tool_pass pass = {0};
    mg_progress *progress = NULL;
    mg_windows_init(&w);
    mg_status st = windows_of(a, &w, err);
    if (st == MG_OK) st = mg_tool_model_open(&model, a->pos.items[0], err);
    if (st == MG_OK) st = mg_tool_pass_new(&pass, &a->common, err);
    if (st == MG_OK) st = mg_progress_new(&progress, a->common.progress, "forward", w.n_ids, err);
    mg_progress_unit(progress, "tokens");
    if (st == MG_OK) {
        const mg_capture_options opt = {.what = a->what,
                                        .precision = a->precision,
                                        .force = a->common.force,
                                        .memory = a->common.memory,
                                        .progress = progress};
        st = mg_capture_run(pass.f, model.m, &w, a->out, &opt, err);
    }
    mg_progress_free(progress);
    mg_tool_pass_free(&pass);
    mg_tool_model_close(&model);
    mg_windows_release(&w);
    return st;
}

int main(int argc, char **argv) {
    args a = {0};
    mg_error err = {0};
    mg_interrupt_install();
    mg_status st = parse(&a, argc, argv, &err);
    if (st == MG_OK && !a.done) st = run(&a, &err);
    mg_opt_list_release(&a.pos);
    mg_common_release(&a.common);
    return st == MG_OK ? 0 : mg_tool_fail(&tool, &err);
}
