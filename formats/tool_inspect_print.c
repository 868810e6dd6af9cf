/* tool_inspect_print.c - the report of moegraft-inspect. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "formats/tool_inspect.h"

/* Text of a file as a terminal may show it. */
static void print_escaped(const char *s, uint64_t n, uint64_t limit) {
    for (uint64_t i = 0; i < n && i < limit; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '\n')
            fputs("\\n", stdout);
        else if (c < 0x20 || c == 0x7F)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
    if (n > limit) printf("... (%" PRIu64 " bytes)", n);
}

static void print_scalar(const mg_kv *v) {
    mg_str s;
    uint64_t u;
    int64_t i;
    double d;
    bool b;
    if (mg_kv_str(v, &s))
        print_escaped(s.data, s.size, 200);
    else if (v->type == MG_KV_BOOL && mg_kv_bool(v, &b))
        fputs(b ? "true" : "false", stdout);
    else if (mg_kv_i64(v, &i))
        printf("%" PRId64, i);
    else if (mg_kv_u64(v, &u))
        printf("%" PRIu64, u);
    else if (mg_kv_f64(v, &d))
        printf("%.9g", d);
}

static void print_kvs(const mg_kvs *kv) {
    printf("metadata: %" PRIu32 " keys\n", kv->n);
    for (uint32_t i = 0; i < kv->n; i++) {
        const mg_kv *v = &kv->items[i];
        printf("  %-44s ", v->key.data);
        if (v->type != MG_KV_ARR) {
            printf("%-4s ", mg_kv_type_name(v->type));
            print_scalar(v);
        } else {
            printf("%s[%" PRIu64 "]", mg_kv_type_name(v->elem), v->count);
            mg_kv e;
            for (uint64_t k = 0; k < 6 && mg_kv_elem(v, k, &e); k++) {
                fputs(k ? ", " : " ", stdout);
                print_scalar(&e);
            }
            if (v->count > 6) fputs(", ...", stdout);
        }
        putchar('\n');
    }
}

static void print_tensors(const inspection *in) {
    char shape[200], hex[65];
    printf("tensors: %" PRIu32 "\n", in->ckpt->n_tensors);
    for (uint32_t i = 0; i < in->ckpt->n_tensors; i++) {
        const mg_tensor *t = &in->ckpt->tensors[i];
        fputs("  ", stdout);
        print_escaped(t->name, strlen(t->name), 300);
        printf("  %s %s %" PRIu64 " bytes", mg_dtype_get(t->dtype)->name, mg_tensor_shape_text(t, shape, sizeof shape),
               t->n_bytes);
        if (in->stats) {
            const mg_scan_stats *s = &in->scan[i].stats;
            printf("  min %.6g max %.6g mean %.6g std %.6g zeros %" PRIu64 " non-finite %" PRIu64, s->min, s->max,
                   s->mean, s->std, s->zeros, s->nans + s->infs);
        }
        if (in->hash) {
            mg_hex(in->scan[i].xxh3.bytes, 16, hex);
            printf("  xxh3 %s", hex);
            mg_hex(in->scan[i].sha256, 32, hex);
            printf("  sha256 %s", hex);
        }
        putchar('\n');
    }
}

static void print_family(const inspection *in) {
    if (!in->model) {
        printf("family:      unknown (%s)\n",
               inspect_is_model(in) ? in->why_no_model.message : "no model: tensors only");
        return;
    }
    mg_counts n = mg_model_counts(in->model, (uint64_t)inspect_per_token(in));
    char human[MG_HUMAN_MAX];
    printf("family:      %s, %" PRId64 " layers, hidden size %" PRId64 "\n", in->model->arch->name,
           mg_hp_i(in->model, MG_K_LAYERS), mg_hp_i(in->model, MG_K_HIDDEN));
    if (mg_hp_i(in->model, MG_K_EXPERTS))
        printf("experts:     %" PRId64 " of %" PRId64 " per token\n", inspect_per_token(in),
               mg_hp_i(in->model, MG_K_EXPERTS));
    printf("parameters:  %" PRIu64 " total, %" PRIu64 " active per token, %" PRIu64 " without embeddings\n", n.total,
           n.active, n.non_embedding);
    if (n.active_one_bond != n.active)
        printf("             %" PRIu64 " active when one bond of the grid of experts is counted instead of all\n",
               n.active_one_bond);
    printf("work:        %" PRIu64 " FLOP per token (matrices), %s of 16-bit KV cache per token\n", n.flop_per_token,
           mg_human_bytes(n.kv_bytes_per_token, human));
    for (uint32_t i = 0; i < in->model->n_assumptions; i++) printf("assumed:     %s\n", in->model->assumptions[i]);
}

void inspect_print(const inspection *in) {
    char text[512], human[MG_HUMAN_MAX];
    type_sum by[MG_DTYPE_COUNT], all = inspect_types(in, by);
    printf("path:        %s\nformat:      %s\n", in->path, inspect_format(in));
    print_family(in);
    if (in->ckpt) {
        printf("data:        %s in %" PRIu64 " tensors, %" PRIu32 " file%s, %.4f bits per weight\n",
               mg_human_bytes(all.bytes, human), all.tensors, in->ckpt->n_files, in->ckpt->n_files == 1 ? "" : "s",
               inspect_bits_per_weight(all));
        for (int t = 0; t < MG_DTYPE_COUNT; t++)
            if (by[t].tensors)
                printf("  %-10s %8" PRIu64 " tensors %12s\n", mg_dtype_get((mg_dtype)t)->name, by[t].tensors,
                       mg_human_bytes(by[t].bytes, human));
        inspect_tokenizer(in, text, sizeof text);
        const char *where = inspect_template(in), *runs = inspect_runs_in(in);
        printf("tokenizer:   %s\ntemplate:    %s\n", text[0] ? text : "none", where ? where : "none");
        if (runs) printf("runs in:     %s\n", runs);
        const mg_checkpoint *said = in->dense ? in->dense : in->ckpt;
        for (uint32_t i = 0; i < said->n_notes; i++) printf("note:        %s\n", said->notes[i]);
        if (in->kv && in->ckpt->kv) print_kvs(in->ckpt->kv);
        if (in->kv && in->ckpt->st_metadata) print_kvs(in->ckpt->st_metadata);
        if (in->tensors || in->stats || in->hash) print_tensors(in);
    }
}
