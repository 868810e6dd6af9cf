/* baseline.c - see baseline.h. */
#include "verify/baseline.h"

#include <math.h>
#include <string.h>

#define MAX_BYTES (256u << 20)

mg_status mg_baseline_open(mg_json **out, const char *path, const char *text_sha256, mg_error *err) {
    mg_json *old;
    int64_t schema = 0;
    MG_TRY(mg_json_load(&old, path, MAX_BYTES, err));
    mg_status st = MG_OK;
    const char *text = mg_json_str(mg_json_get(old, "text_sha256"));
    if (!mg_json_i64(mg_json_get(old, "schema"), &schema) || schema != 1 || !text || !mg_json_get(old, "candidates"))
        st = mg_fail(err, MG_ERR_FORMAT, "is no result of verify --json (schema 1)");
    else if (strcmp(text, text_sha256) != 0)
        st = mg_fail(err, MG_ERR_USAGE, "was measured on another text (sha256 %.64s, now %s)", text, text_sha256);
    if (st == MG_OK) {
        *out = old;
        return MG_OK;
    }
    mg_error_at(err, path, NULL);
    mg_json_free(old);
    return st;
}

static const char *file_name(const mg_json *c) {
    const char *path = mg_json_str(mg_json_get(c, "path")), *slash = path ? strrchr(path, '/') : NULL;
    return slash && slash[1] ? slash + 1 : path ? path : "";
}

static double figure(const mg_json *c, const char *path) {
    double x;
    return mg_json_f64(mg_json_path(c, path), &x) ? x : (double)NAN;
}

mg_status mg_baseline_check(const mg_json *old, const mg_json *c, bool only, const char **worse, mg_error *err) {
    const mg_json *list = mg_json_get(old, "candidates"), *was = NULL;
    *worse = NULL;
    for (const mg_json *o = mg_json_first(list); o && !was; o = mg_json_next(o))
        if (strcmp(file_name(o), file_name(c)) == 0) was = o;
    if (!was && only && mg_json_len(list) == 1) was = mg_json_first(list);
    if (!was) return mg_fail(err, MG_ERR_USAGE, "the baseline has no candidate called '%s'", file_name(c));
    const double kl = figure(was, "kl.mean"), ratio = figure(was, "ppl.ratio"), top = figure(was, "top1_agreement");
    if (isnan(kl) || isnan(ratio) || isnan(top))
        return mg_fail(err, MG_ERR_FORMAT, "the baseline lacks figures of '%s'", file_name(c));
    /* written so that a NaN now is worse */
    if (!(figure(c, "kl.mean") <= kl + fmax(MG_BASELINE_KL * kl, MG_BASELINE_KL0)))
        *worse = "kl.mean";
    else if (!(fabs(figure(c, "ppl.ratio") - 1) <= fabs(ratio - 1) + MG_BASELINE_PPL))
        *worse = "ppl.ratio";
    else if (!(figure(c, "top1_agreement") >= top - MG_BASELINE_TOP1))
        *worse = "top1_agreement";
    return MG_OK;
}
