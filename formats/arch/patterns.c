/* patterns.c - the small language of the family tables: symbols, name patterns, conditions. */
#include "formats/arch/arch_internal.h"

#include <string.h>

uint64_t mg_sym_value(const mg_sym *s, const mg_hparams *hp, uint32_t expert) {
    uint64_t mul = s->mul ? s->mul : 1, div = s->div ? s->div : 1, v = 1;
    switch (s->kind) {
    case MG_SYM_NONE:
        return 1;
    case MG_SYM_LIT:
        return s->mul;
    case MG_SYM_EXPERT:
        v = expert;
        break;
    case MG_SYM_KEYS:
        if (!mg_mul_u64((uint64_t)hp->i[s->a], (uint64_t)hp->i[s->b], &v)) return UINT64_MAX;
        break;
    case MG_SYM_SUM:
        if (!mg_mul_u64((uint64_t)hp->i[s->b], mul, &v) || !mg_add_u64((uint64_t)hp->i[s->a], v, &v) ||
            !mg_mul_u64(v, s->c ? (uint64_t)hp->i[s->c] : 1, &v))
            return UINT64_MAX;
        return v;
    case MG_SYM_EXPERT_KEY:
        if (!mg_mul_u64((uint64_t)hp->i[s->a], expert, &v)) return UINT64_MAX;
        break;
    case MG_SYM_KEY:
        v = (uint64_t)hp->i[s->a];
        break;
    }
    return mg_mul_u64(v, mul, &v) ? v / div : UINT64_MAX;
}

uint32_t mg_sym_shape(uint64_t *shape, const mg_sym *syms, uint32_t max, const mg_hparams *hp, uint32_t expert) {
    uint32_t n = 0;
    for (; n < max && syms[n].kind != MG_SYM_NONE; n++) shape[n] = mg_sym_value(&syms[n], hp, expert);
    return n;
}

void mg_form_views(mg_view *out, const mg_form *form, const mg_hparams *hp, uint32_t expert) {
    memset(out, 0, MG_MAX_VIEWS * sizeof *out);
    for (uint32_t i = 0; i < MG_MAX_ROW_VIEWS && form->views[i].kind != MG_VIEW_END; i++) {
        const mg_view_row *v = &form->views[i];
        out[i] = (mg_view){.kind = v->kind, .step = v->step, .value = v->value};
        out[i].a = v->a.kind == MG_SYM_NONE ? 0 : mg_sym_value(&v->a, hp, expert);
        if (v->group.kind != MG_SYM_NONE) out[i].step = mg_sym_value(&v->group, hp, expert);
        out[i].b = v->b.kind == MG_SYM_NONE ? 0 : mg_sym_value(&v->b, hp, expert);
    }
}

/* Append the decimal digits of v. */
static bool put_number(char *buf, size_t size, size_t *n, uint32_t v) {
    char digits[10];
    size_t k = 0;
    do {
        digits[k++] = (char)('0' + v % 10);
    } while (v /= 10);
    if (size - *n <= k) return false;
    while (k) buf[(*n)++] = digits[--k];
    return true;
}

/* {l}, {e}, {s} or {d} at p. */
static bool is_place(const char *p) {
    return p[0] == '{' && p[1] && strchr("lesd", p[1]) && p[2] == '}';
}

bool mg_pattern_expand(char *buf, size_t size, const char *pattern, const mg_hparams *hp, uint32_t layer,
                       uint32_t expert) {
    size_t n = 0;
    for (const char *p = pattern; *p; p++) {
        if (is_place(p)) {
            uint32_t v = p[1] == 'l' ? layer : expert, src, dst;
            if (p[1] == 's' || p[1] == 'd') {
                mg_edge_at(hp, expert, &src, &dst);
                v = p[1] == 's' ? src : dst;
            }
            if (!put_number(buf, size, &n, v)) return false;
            p += 2;
        } else {
            if (size - n <= 1) return false;
            buf[n++] = *p;
        }
    }
    buf[n] = 0;
    return true;
}

bool mg_pattern_match(const char *pattern, const char *name) {
    for (; *pattern; pattern++) {
        if (pattern[0] == '*' && !pattern[1]) return true;
        if (is_place(pattern)) {
            if (*name < '0' || *name > '9') return false;
            while (*name >= '0' && *name <= '9') name++;
            pattern += 2;
        } else if (*pattern != *name++) {
            return false;
        }
    }
    return !*name;
}

bool mg_cond_holds(mg_cond c, const mg_hparams *hp, const mg_layer *layer) {
    bool moe = layer && layer->moe;
    switch (c) {
    case MG_IF_ALWAYS:
        return true;
    case MG_IF_DENSE:
        return !moe;
    case MG_IF_MOE:
        return moe;
    case MG_IF_SHARED:
        return moe && hp->i[MG_K_SHARED_FFN] > 0;
    case MG_IF_EXCHANGE:
        return moe && hp->i[MG_K_EXCHANGE] != 0;
    case MG_IF_UNTIED:
        return !hp->i[MG_K_TIED];
    case MG_IF_ATTN_BIAS:
        return hp->i[MG_K_ATTN_BIAS] != 0;
    case MG_IF_Q_LORA:
        return hp->i[MG_K_Q_LORA] > 0;
    case MG_IF_NO_Q_LORA:
        return hp->i[MG_K_Q_LORA] <= 0;
    case MG_IF_HEAD_BIAS:
        return hp->i[MG_K_HEAD_BIAS] != 0;
    case MG_IF_QK_NORM:
        return hp->i[MG_K_QK_NORM] != 0;
    case MG_IF_DENSE_MLP_BIAS:
        return !moe && hp->i[MG_K_MLP_BIAS] != 0;
    case MG_IF_STORED:
    case MG_IF_LLAMA3:
    case MG_IF_LONGROPE:
        break;
    }
    return false;
}

const mg_config_row *mg_arch_config_row(const mg_arch *arch, mg_key key) {
    for (uint32_t i = 0; i < arch->n_config; i++)
        if (arch->config[i].gguf_when != MG_GGUF_FILE_TYPE && arch->config[i].key == key) return &arch->config[i];
    return NULL;
}

const mg_tensor_row *mg_arch_row(const mg_arch *arch, mg_role role) {
    for (uint32_t i = 0; i < arch->n_tensors; i++)
        if (arch->tensors[i].role == role) return &arch->tensors[i];
    return NULL;
}
