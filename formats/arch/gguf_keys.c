/* gguf_keys.c - the metadata an architecture writes into GGUF, and what GGUF cannot say. Rows of the config table are
 * in the reference converter's order, so writing is one walk. */
#include "formats/arch/arch_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What a reader of the GGUF will assume for a row without a key: its fallback for GGUF. */
static double assumed(const mg_config_row *r, const mg_hparams *hp) {
    double v = 0;
    return mg_fallback_value(hp, r->gguf_absent.kind != MG_FB_SAME ? &r->gguf_absent : &r->absent, &v) ? v : 0;
}

static double value_of(const mg_config_row *r, const mg_hparams *hp) {
    return mg_key_kind(r->key) == 'F' ? hp->f[r->key] : (double)hp->i[r->key];
}

/* -1 is how the integer keys say that no number would do. */
static bool unusual(const mg_config_row *r, const mg_hparams *hp) {
    return value_of(r, hp) != assumed(r, hp) && value_of(r, hp) >= 0;
}

static bool written(const mg_config_row *r, const mg_hparams *hp) {
    int64_t type = hp->i[MG_K_ROPE_TYPE];
    switch (r->gguf_when) {
    case MG_GGUF_NEVER:
        return false;
    case MG_GGUF_ALWAYS:
    case MG_GGUF_FILE_TYPE:
        return true;
    case MG_GGUF_STATED:
        return hp->present[r->key];
    case MG_GGUF_SCALED:
        return type == MG_ROPE_LINEAR || type == MG_ROPE_YARN;
    case MG_GGUF_YARN:
        return type == MG_ROPE_YARN;
    case MG_GGUF_YARN_STATED:
        return type == MG_ROPE_YARN && hp->present[r->key];
    case MG_GGUF_LONGROPE:
        return type == MG_ROPE_LONGROPE;
    case MG_GGUF_UNUSUAL:
        return unusual(r, hp);
    }
    return false;
}

static mg_status write_row(mg_kvs *out, const mg_arch *arch, const mg_config_row *r, const mg_hparams *hp,
                           mg_error *err) {
    char name[128];
    snprintf(name, sizeof name, "%s.%s", arch->gguf_arch, r->gguf);
    int64_t v = hp->i[r->key];
    switch (r->gguf_type) {
    case MG_KV_STR:
        for (const mg_enum_name *n = r->names; n->name; n++)
            if (n->value == v) return mg_kvs_set_str(out, name, n->name, strlen(n->name), err);
        return mg_fail(err, MG_ERR_FORMAT, "'%s' has no name for %lld", name, (long long)v);
    case MG_KV_F32:
        return mg_kvs_set_f32(out, name, (float)(hp->f[r->key] * (r->gguf_scale != 0 ? r->gguf_scale : 1)), err);
    default:
        break;
    }
    if (r->gguf_type == MG_KV_BOOL) return mg_kvs_set_bool(out, name, v != 0, err);
    if (v < 0 || v > UINT32_MAX)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' is %lld, which GGUF's 32-bit field cannot hold", name,
                       (long long)v);
    return mg_kvs_set_u32(out, name, (uint32_t)v, err);
}

mg_status mg_arch_gguf_keys(mg_kvs *out, const mg_arch *arch, const mg_hparams *hp, uint32_t file_type, mg_error *err) {
    for (uint32_t i = 0; i < arch->n_config; i++) {
        const mg_config_row *r = &arch->config[i];
        if (!written(r, hp)) continue;
        if (r->gguf_when == MG_GGUF_FILE_TYPE)
            MG_TRY(mg_kvs_set_u32(out, "general.file_type", file_type, err));
        else
            MG_TRY(write_row(out, arch, r, hp, err));
    }
    return MG_OK;
}

uint32_t mg_arch_gguf_losses(const mg_model *m, char *buf, size_t size) {
    uint32_t n = 0;
    size_t used = 0;
    char name[96];
    if (size) buf[0] = 0;
    for (uint32_t i = 0; i < m->arch->n_config; i++) {
        const mg_config_row *r = &m->arch->config[i];
        double v = value_of(r, &m->hp), other = assumed(r, &m->hp);
        for (int64_t l = 0; r->key == MG_K_WINDOW && v != 0; l++) { /* a window no layer has is not lost */
            if (l == m->hp.i[MG_K_LAYERS])
                v = 0;
            else if (m->layers[l].window)
                break;
        }
        if (!r->lost_in_gguf || v == other) continue;
        mg_config_spelling(m->arch, r->key, MG_LAYOUT_HF, name, sizeof name);
        if (used < size)
            used += (size_t)snprintf(buf + used, size - used,
                                     "%s'%s' (%g) has no key in GGUF's architecture '%s': %sreaders will assume %g",
                                     n ? "\n" : "", name, v, m->arch->gguf_arch,
                                     r->gguf && v >= 0 ? "but for one of our own, other " : "", other);
        n++;
    }
    if (m->arch->gguf_own) {
        if (used < size)
            used += (size_t)snprintf(
                buf + used, size - used,
                "%sGGUF architecture '%s' is moegraft's own: its tools read the file, llama.cpp does not",
                n ? "\n" : "", m->arch->gguf_arch);
        n++;
    }
    if (m->arch->gguf_needs && m->hp.i[m->arch->gguf_needs] == 0) {
        mg_config_spelling(m->arch, m->arch->gguf_needs, MG_LAYOUT_HF, name, sizeof name);
        if (used < size)
            used += (size_t)snprintf(buf + used, size - used,
                                     "%s'%s' is 0: llama.cpp does not load a file of GGUF architecture '%s' without",
                                     n ? "\n" : "", name, m->arch->gguf_arch);
        n++;
    }
    if (m->hp.i[MG_K_ROPE_TYPE] != MG_ROPE_DYNAMIC) return n;
    if (used < size)
        snprintf(buf + used, size - used,
                 "%srope scaling 'dynamic' has no key in GGUF's architecture '%s': it acts only beyond %lld tokens",
                 n ? "\n" : "", m->arch->gguf_arch, (long long)m->hp.i[MG_K_CONTEXT]);
    return n + 1;
}

/* The order of operations is torch's in float32: exponents 2i/n, power, reciprocal, wavelength, smoothing. The power is
 * rounded from double, which is what a correctly rounded powf gives. */
mg_status mg_arch_rope_factors(float *out, uint64_t n, const mg_hparams *hp, mg_error *err) {
    if (hp->i[MG_K_ROPE_TYPE] != MG_ROPE_LLAMA3 || 2 * n != (uint64_t)hp->i[MG_K_ROPE_DIM])
        return mg_fail(err, MG_ERR_FORMAT, "rope factors exist for llama3 scaling, half of rope_dim of them");
    double orig = (double)hp->i[MG_K_ROPE_ORIG_CONTEXT], low = hp->f[MG_K_ROPE_LOW_FREQ],
           high = hp->f[MG_K_ROPE_HIGH_FREQ];
    double factor = hp->f[MG_K_ROPE_FACTOR];
    float low_wave = (float)(orig / low), high_wave = (float)(orig / high);
    for (uint64_t i = 0; i < n; i++) {
        float exponent = (float)(2 * i) / (float)(2 * n);
        float freq = 1.0f / (float)pow((double)(float)hp->f[MG_K_ROPE_THETA], (double)exponent);
        float wave = (float)(2 * M_PI) / freq;
        float smooth = ((float)orig / wave - (float)low) / (float)(high - low);
        if (wave < high_wave)
            out[i] = 1;
        else if (wave > low_wave)
            out[i] = (float)factor;
        else
            out[i] = 1.0f / ((1.0f - smooth) / (float)factor + smooth);
    }
    return MG_OK;
}

mg_status mg_arch_generate(float *out, uint64_t n, mg_role role, const mg_hparams *hp, mg_error *err) {
    if (role == MG_R_ROPE_FREQS) return mg_arch_rope_factors(out, n, hp, err);
    const bool beyond = role == MG_R_ROPE_FACTORS_LONG;
    if (n != hp->n_rope_factors[beyond])
        return mg_fail(err, MG_ERR_INTERNAL, "%s has %u factors", mg_role_name(role), hp->n_rope_factors[beyond]);
    memcpy(out, hp->rope_factors[beyond], n * sizeof *out);
    return MG_OK;
}
