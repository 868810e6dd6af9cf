/* rope.c - see rope.h. Formulas of the scalings: transformers' modeling_rope_utils, evaluated in f32 where it does. */
#include "verify/rope.h"

#include <math.h>
#include <string.h>

#include "formats/arch/arch.h"
#include "quant/math/f64.h"
#include "quant/read_f32.h"

#define PI 3.14159265358979323846

void mg_rope_release(mg_rope *r) {
    mg_fbuf_release(&r->inv_buf);
    mg_fbuf_release(&r->cs);
    mg_fbuf_release(&r->sn);
    *r = (mg_rope){0};
}

/* theta^(2i/d), rounded to f32. */
static float power(double theta, uint64_t i, uint64_t half) {
    float e = (float)(2 * i) / (float)(2 * half);
    return (float)mg_f64_pow(theta, (double)e);
}

static void plain(double theta, uint64_t half, float *inv) {
    for (uint64_t i = 0; i < half; i++) inv[i] = 1.0f / power(theta, i, half);
}

/* Long wavelengths are divided by the factor, short ones kept, those between interpolated. */
static void llama3(const mg_hparams *hp, uint64_t half, float *inv) {
    const double ctx = (double)hp->i[MG_K_ROPE_ORIG_CONTEXT];
    const float factor = (float)hp->f[MG_K_ROPE_FACTOR];
    const double low = hp->f[MG_K_ROPE_LOW_FREQ], high = hp->f[MG_K_ROPE_HIGH_FREQ];
    const float low_len = (float)(ctx / low), high_len = (float)(ctx / high);
    for (uint64_t i = 0; i < half; i++) {
        float len = (float)(2 * PI) / inv[i];
        float scaled = len > low_len ? inv[i] / factor : inv[i];
        if (!(len < high_len) && !(len > low_len)) {
            float smooth = ((float)ctx / len - (float)low) / (float)(high - low);
            scaled = (1.0f - smooth) * scaled / factor + smooth * scaled;
        }
        inv[i] = scaled;
    }
}

/* The dimension that turns `rotations` times over the original context. */
static double yarn_dim(double rotations, double dim, double theta, double ctx) {
    return dim * mg_f64_log(ctx / (rotations * 2 * PI)) / (2 * mg_f64_log(theta));
}

static double yarn_mscale(double scale, double m) {
    return scale <= 1 ? 1.0 : 0.1 * m * mg_f64_log(scale) + 1.0;
}

static float yarn(const mg_hparams *hp, double theta, uint64_t half, float *inv) {
    const double dim = 2.0 * (double)half, ctx = (double)hp->i[MG_K_ROPE_ORIG_CONTEXT];
    const double factor = hp->f[MG_K_ROPE_FACTOR];
    double low = yarn_dim(hp->f[MG_K_ROPE_BETA_FAST], dim, theta, ctx);
    double high = yarn_dim(hp->f[MG_K_ROPE_BETA_SLOW], dim, theta, ctx);
    if (hp->i[MG_K_ROPE_TRUNCATE]) {
        low = floor(low);
        high = ceil(high);
    }
    if (low < 0) low = 0;
    if (high > dim - 1) high = dim - 1;
    if (low == high) high += 0.001;
    for (uint64_t i = 0; i < half; i++) {
        float p = power(theta, i, half);
        float extra = 1.0f / p, inter = 1.0f / ((float)factor * p);
        float ramp = ((float)i - (float)low) / (float)(high - low);
        ramp = ramp < 0.0f ? 0.0f : ramp > 1.0f ? 1.0f : ramp;
        float keep = 1.0f - ramp;
        inv[i] = inter * (1.0f - keep) + extra * keep;
    }
    const double given = hp->f[MG_K_ROPE_ATTN_FACTOR], ms = hp->f[MG_K_ROPE_MSCALE];
    const double all = hp->f[MG_K_ROPE_MSCALE_ALL];
    if (given > 0) return (float)given;
    if (ms != 0 && all != 0) return (float)(yarn_mscale(factor, ms) / yarn_mscale(factor, all));
    return (float)yarn_mscale(factor, 1.0);
}

static mg_status unsupported(const char *what, mg_error *err) {
    return mg_fail(err, MG_ERR_UNSUPPORTED, "%s is not built into the forward pass yet", what);
}

/* Factors stored with the model (GGUF rope_freqs) divide the plain frequencies and replace a scaling of the config. */
static mg_status stored(mg_model *m, const mg_bound *b, uint64_t half, float *inv, mg_error *err) {
    if (b->rank != 1 || b->shape[0] != half)
        return mg_fail(err, MG_ERR_FORMAT, "rotary factors for %llu pairs, expected %llu",
                       (unsigned long long)(b->rank ? b->shape[0] : 0), (unsigned long long)half);
    mg_fbuf f = {0};
    mg_status st = mg_fbuf_need(&f, half, 1, err);
    if (st == MG_OK) st = mg_read_f32(m, b, 0, 1, f.p, err);
    for (uint64_t i = 0; st == MG_OK && i < half; i++) inv[i] = inv[i] / f.p[i];
    mg_fbuf_release(&f);
    return st;
}

mg_status mg_rope_frequencies(mg_model *m, uint32_t layer, uint64_t half, uint64_t positions, float *inv, float *factor,
                              mg_error *err) {
    const mg_hparams *hp = &m->hp;
    const double theta = m->layers[layer].rope_theta;
    const mg_bound *freqs = mg_model_find(m, MG_R_ROPE_FREQS, 0, 0);
    *factor = 1.0f;
    if (!(theta > 0)) return mg_fail(err, MG_ERR_CONFLICT, "rotary base %g is not positive", theta);
    plain(theta, half, inv);
    if (m->layers[layer].rope_plain) return MG_OK;
    if (freqs) return stored(m, freqs, half, inv, err);
    switch ((mg_rope_scaling)hp->i[MG_K_ROPE_TYPE]) {
    case MG_ROPE_NONE:
        return MG_OK;
    case MG_ROPE_LINEAR:
        for (uint64_t i = 0; i < half; i++) inv[i] = inv[i] / (float)hp->f[MG_K_ROPE_FACTOR];
        return MG_OK;
    case MG_ROPE_LLAMA3:
        llama3(hp, half, inv);
        return MG_OK;
    case MG_ROPE_YARN:
        *factor = yarn(hp, theta, half, inv);
        return MG_OK;
    case MG_ROPE_DYNAMIC: /* the frequencies change with the length of the text once it passes the trained context */
        if (positions <= (uint64_t)hp->i[MG_K_CONTEXT]) return MG_OK;
        return unsupported("dynamic rotary scaling beyond the trained context", err);
    case MG_ROPE_LONGROPE: /* likewise: other factors, and other keys in the cache, once it passes the first context */
        if (positions > (uint64_t)hp->i[MG_K_ROPE_ORIG_CONTEXT])
            return unsupported("longrope scaling beyond the context before extension", err);
        if (hp->n_rope_factors[0] != half)
            return mg_fail(err, MG_ERR_CONFLICT, "%u rotary factors for %llu pairs", hp->n_rope_factors[0],
                           (unsigned long long)half);
        for (uint64_t i = 0; i < half; i++) inv[i] = 1.0f / (hp->rope_factors[0][i] * power(theta, i, half));
        if (hp->f[MG_K_ROPE_ATTN_FACTOR] > 0) *factor = (float)hp->f[MG_K_ROPE_ATTN_FACTOR];
        return MG_OK;
    }
    return unsupported("this rotary scaling", err);
}

static mg_status tables(mg_rope *r, uint64_t positions, mg_error *err) {
    MG_TRY(mg_fbuf_need(&r->cs, positions, r->half, err));
    MG_TRY(mg_fbuf_need(&r->sn, positions, r->half, err));
    for (uint64_t p = 0; p < positions; p++)
        for (uint64_t i = 0; i < r->half; i++) {
            double s, c;
            float angle = (float)p * r->inv[i];
            mg_f64_sincos((double)angle, &s, &c);
            r->cs.p[p * r->half + i] = (float)c * r->factor;
            r->sn.p[p * r->half + i] = (float)s * r->factor;
        }
    r->positions = positions;
    return MG_OK;
}

mg_status mg_rope_prepare(mg_rope *r, mg_model *m, uint32_t layer, uint64_t positions, mg_error *err) {
    if (!m->layers[layer].rope) {
        r->half = 0;
        r->positions = 0;
        return MG_OK;
    }
    const uint64_t half = (uint64_t)mg_hp_i(m, MG_K_ROPE_DIM) / 2;
    mg_fbuf now = {0};
    float factor = 1.0f;
    mg_status st = mg_fbuf_need(&now, half ? half : 1, 1, err);
    if (st == MG_OK) st = mg_rope_frequencies(m, layer, half, positions, now.p, &factor, err);
    bool same = st == MG_OK && half == r->half && factor == r->factor && r->positions > 0 &&
                !memcmp(now.p, r->inv, half * sizeof(float));
    if (st != MG_OK || (same && positions <= r->positions)) {
        mg_fbuf_release(&now);
        return st;
    }
    mg_fbuf_release(&r->inv_buf);
    r->inv_buf = now;
    r->inv = now.p;
    r->half = half;
    r->factor = factor;
    r->positions = 0;
    /* Twice what is asked when a text grows token by token, so that the tables are not rebuilt at each step. */
    if (same || positions < 64) positions = positions < 32 ? 64 : positions * 2;
    return tables(r, positions, err);
}

double mg_rope_stretch(const mg_model *m) {
    const double all = m->hp.f[MG_K_ROPE_MSCALE_ALL], factor = m->hp.f[MG_K_ROPE_FACTOR];
    if (m->hp.i[MG_K_KV_LORA] <= 0 || m->hp.i[MG_K_ROPE_TYPE] == MG_ROPE_NONE || all == 0 || factor <= 1) return 1;
    const double mscale = 0.1 * all * mg_f64_log(factor) + 1.0;
    return mscale * mscale;
}
