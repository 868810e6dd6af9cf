/* quantize_variant.c - see quantize_variant.h. */
#include "convert/quantize_variant.h"

#include "quant/codec.h"

static mg_status add_tensors(mg_quantize_variant *v, mg_checkpoint *in, uint32_t out, const mg_quantize_item *item,
                             mg_dtype dtype, bool fixed, mg_error *err) {
    const bool use = item->weights && mg_codec_get(dtype)->imatrix != MG_IMATRIX_IGNORED;
    const float *values = use ? item->weights : NULL;
    const uint64_t n = use ? item->n_weights : 0;
    for (uint32_t i = 0; i < in->n_tensors; i++) {
        const mg_expr *e;
        MG_TRY(mg_expr_source(v->plan, in, i, &e, err));
        if (i == item->tensor)
            MG_TRY(fixed ? mg_expr_cast_fixed(v->plan, e, dtype, values, n, &e, err)
                         : mg_expr_cast(v->plan, e, dtype, values, n, &e, err));
        MG_TRY(mg_plan_add_tensor(v->plan, out, in->tensors[i].name, e, err));
    }
    return MG_OK;
}

mg_status mg_quantize_variant_open(mg_quantize_variant *v, mg_checkpoint *in, const mg_quantize_item *item,
                                   mg_dtype dtype, bool fixed, mg_error *err) {
    uint32_t out;
    *v = (mg_quantize_variant){0};
    MG_TRY(mg_plan_new(&v->plan, err));
    MG_TRY(mg_plan_add_output(v->plan, MG_OUT_GGUF, "variant.gguf", &out, err));
    MG_TRY(add_tensors(v, in, out, item, dtype, fixed, err));
    MG_TRY(mg_plan_set_kv(v->plan, out, in->kv, err));
    MG_TRY(mg_plan_checkpoint(v->plan, out, &v->ckpt, err));
    return mg_model_open(&v->model, v->ckpt, err);
}

mg_status mg_quantize_variant_of_plan(mg_quantize_variant *v, mg_plan *p, uint32_t out, mg_error *err) {
    *v = (mg_quantize_variant){0};
    MG_TRY(mg_plan_checkpoint(p, out, &v->ckpt, err));
    return mg_model_open(&v->model, v->ckpt, err);
}

void mg_quantize_variant_close(mg_quantize_variant *v) {
    mg_model_free(v->model);
    mg_checkpoint_free(v->ckpt);
    mg_plan_free(v->plan);
    *v = (mg_quantize_variant){0};
}
