/* quantize_source.c - the GGUF form of a model in another layout, as a plan that quantizing reads through. */
#include "convert/quantize.h"

#include "quant/group_checkpoint.h"

static mg_status plan_conversion(mg_quantize_source *s, mg_model *m, const mg_convert_gguf_options *opt,
                                 mg_dtype *dtype, mg_error *err) {
    mg_convert_gguf_options o = opt ? *opt : (mg_convert_gguf_options){0};
    uint32_t out;
    o.dtype = mg_convert_outtype_dtype;
    o.dtype_ctx = dtype;
    o.file_type = mg_convert_file_type(*dtype);
    bool had = true, *caller = o.had_tokenizer;
    o.had_tokenizer = &had;
    MG_TRY(mg_plan_new(&s->plan, err));
    MG_TRY(mg_convert_plan_gguf(s->plan, m, "model.gguf", &o, &out, err)); /* never executed: the name is not used */
    s->had_tokenizer = had;
    if (caller) *caller = had;
    return mg_plan_checkpoint(s->plan, out, &s->planned, err);
}

mg_status mg_quantize_source_open(mg_quantize_source *s, mg_checkpoint *in, const mg_convert_gguf_options *opt,
                                  mg_error *err) {
    *s = (mg_quantize_source){.gguf = in, .had_tokenizer = true};
    if (in->kv) return MG_OK;
    /* Decoded weights are not rounded twice: they have more bits than the type of the tensors beside them. */
    mg_dtype dtype = mg_group_checkpoint_is_view(in) ? MG_F32 : mg_convert_auto_dtype(in);
    mg_status st = mg_model_open(&s->model, in, err);
    if (st == MG_OK) st = plan_conversion(s, s->model, opt, &dtype, err);
    if (st != MG_OK) {
        mg_quantize_source_close(s);
        return st;
    }
    s->gguf = s->planned;
    return MG_OK;
}

mg_status mg_quantize_source_of_model(mg_quantize_source *s, mg_model *m, mg_error *err) {
    mg_dtype dtype = MG_F32;
    *s = (mg_quantize_source){.had_tokenizer = true};
    mg_status st = plan_conversion(s, m, NULL, &dtype, err);
    if (st != MG_OK) {
        mg_quantize_source_close(s);
        return st;
    }
    s->gguf = s->planned;
    return MG_OK;
}

void mg_quantize_source_close(mg_quantize_source *s) {
    mg_checkpoint_free(s->planned);
    mg_plan_free(s->plan);
    mg_model_free(s->model);
    *s = (mg_quantize_source){0};
}
