/* tool_inspect_json.c - the JSON of moegraft-inspect. */
#include <stdio.h>
#include <stdlib.h>

#include "formats/tool_inspect.h"

static mg_json *kv_scalar_json(const mg_kv *v) {
    mg_str s;
    uint64_t u;
    int64_t i;
    double d;
    bool b;
    if (mg_kv_str(v, &s)) return mg_json_new_str(s.data);
    if (v->type == MG_KV_BOOL && mg_kv_bool(v, &b)) return mg_json_new_bool(b);
    if (mg_kv_i64(v, &i)) return mg_json_new_i64(i);
    if (mg_kv_u64(v, &u)) return mg_json_new_u64(u);
    return mg_json_new_f64(mg_kv_f64(v, &d) ? d : 0);
}

/* Arrays longer than this appear as {"elem":type,"count":n} unless --kv asks for all of them. */
enum { SHORT_ARRAY = 64 };

static mg_json *kvs_json(const mg_kvs *kv, bool full) {
    mg_json *o = mg_json_new_object();
    for (uint32_t i = 0; kv && i < kv->n; i++) {
        const mg_kv *v = &kv->items[i];
        mg_json *j;
        if (v->type != MG_KV_ARR) {
            j = kv_scalar_json(v);
        } else if (full || v->count <= SHORT_ARRAY) {
            mg_kv e;
            j = mg_json_new_array();
            for (uint64_t k = 0; mg_kv_elem(v, k, &e); k++) mg_json_push(j, kv_scalar_json(&e));
        } else {
            j = mg_json_new_object();
            mg_json_set_str(j, "elem", mg_kv_type_name(v->elem));
            mg_json_set_u64(j, "count", v->count);
        }
        mg_json_add(o, v->key.data, j); /* keys were unique in the file */
    }
    return o;
}

static mg_json *stats_json(const mg_scan_stats *s) {
    mg_json *o = mg_json_new_object();
    mg_json_set_f64(o, "min", s->min);
    mg_json_set_f64(o, "max", s->max);
    mg_json_set_f64(o, "mean", s->mean);
    mg_json_set_f64(o, "std", s->std);
    mg_json_set_u64(o, "zeros", s->zeros);
    mg_json_set_u64(o, "nan", s->nans);
    mg_json_set_u64(o, "inf", s->infs);
    return o;
}

static mg_json *tensor_json(const inspection *in, uint32_t i) {
    const mg_tensor *t = &in->ckpt->tensors[i];
    mg_json *o = mg_json_new_object(), *shape = mg_json_new_array();
    char hex[65];
    for (uint32_t d = 0; d < t->rank; d++) mg_json_push(shape, mg_json_new_u64(t->shape[d]));
    mg_json_set_str(o, "name", t->name);
    mg_json_set_str(o, "dtype", mg_dtype_get(t->dtype)->name);
    mg_json_set(o, "shape", shape);
    mg_json_set_u64(o, "bytes", t->n_bytes);
    mg_json_set_str(o, "file", in->ckpt->files[t->file]);
    mg_json_set_u64(o, "offset", t->offset);
    if (in->hash) {
        mg_hex(in->scan[i].xxh3.bytes, 16, hex);
        mg_json_set_str(o, "xxh3", hex);
        mg_hex(in->scan[i].sha256, 32, hex);
        mg_json_set_str(o, "sha256", hex);
    }
    if (in->stats) mg_json_set(o, "stats", stats_json(&in->scan[i].stats));
    return o;
}

static void add_family(mg_json *o, const inspection *in, uint64_t stored) {
    mg_json *p = mg_json_new_object();
    mg_json_set(o, "family", in->model ? mg_json_new_str(in->model->arch->name) : mg_json_new_null());
    if (!in->model) {
        mg_json_set_u64(p, "total", stored); /* what is stored; the rest needs a known family */
        mg_json_set(p, "active", mg_json_new_null());
        mg_json_set(p, "non_embedding", mg_json_new_null());
        mg_json_set(o, "parameters", p);
        return;
    }
    mg_counts n = mg_model_counts(in->model, (uint64_t)inspect_per_token(in));
    mg_json_set_u64(p, "total", n.total);
    mg_json_set_u64(p, "active", n.active);
    mg_json_set_u64(p, "non_embedding", n.non_embedding);
    if (n.active_one_bond != n.active) mg_json_set_u64(p, "active_one_bond", n.active_one_bond);
    mg_json_set(o, "parameters", p);
    mg_json_set_u64(o, "flop_per_token", n.flop_per_token);
    mg_json_set_u64(o, "kv_bytes_per_token", n.kv_bytes_per_token);
    mg_json_set_i64(o, "layers", mg_hp_i(in->model, MG_K_LAYERS));
    mg_json_set_i64(o, "experts", mg_hp_i(in->model, MG_K_EXPERTS));
    mg_json_set_i64(o, "experts_per_token", inspect_per_token(in));
}

mg_status inspect_print_json(const inspection *in, mg_error *err) {
    type_sum by[MG_DTYPE_COUNT], all = inspect_types(in, by);
    char text[512], *out = NULL;
    const char *place = inspect_template(in), *runs = inspect_runs_in(in);
    mg_json *o = mg_json_new_object(), *types = mg_json_new_object(), *notes = mg_json_new_array(),
            *list = mg_json_new_array();
    mg_json *config = NULL;
    mg_json_set_i64(o, "schema", 1);
    mg_json_set_str(o, "path", in->path);
    mg_json_set_str(o, "format", inspect_format(in));
    add_family(o, in, all.elements);
    if (in->config) MG_TRY(mg_json_dup(&config, in->config, err));
    mg_json_set(o, "config", config ? config : mg_json_new_object());
    const mg_kvs *kv = !in->ckpt ? NULL : in->ckpt->kv ? in->ckpt->kv : in->ckpt->st_metadata;
    mg_json_set(o, "metadata", kvs_json(kv, in->kv));
    mg_json_set_u64(o, "bytes", all.bytes);
    mg_json_set_f64(o, "bpw", inspect_bits_per_weight(all));
    for (int t = 0; t < MG_DTYPE_COUNT; t++)
        if (by[t].tensors) mg_json_set_u64(types, mg_dtype_get((mg_dtype)t)->name, by[t].bytes);
    mg_json_set(o, "types", types);
    inspect_tokenizer(in, text, sizeof text);
    mg_json_set(o, "tokenizer", text[0] ? mg_json_new_str(text) : mg_json_new_null());
    mg_json_set(o, "template", place ? mg_json_new_str(place) : mg_json_new_null());
    mg_json_set(o, "runs_in", runs ? mg_json_new_str(runs) : mg_json_new_null());
    const mg_checkpoint *said = in->dense ? in->dense : in->ckpt;
    for (uint32_t i = 0; said && i < said->n_notes; i++) mg_json_push(notes, mg_json_new_str(said->notes[i]));
    if (!in->model && inspect_is_model(in)) mg_json_push(notes, mg_json_new_str(in->why_no_model.message));
    mg_json_set(o, "notes", notes);
    for (uint32_t i = 0; in->ckpt && i < in->ckpt->n_tensors; i++) mg_json_push(list, tensor_json(in, i));
    mg_json_set(o, "tensors", list);
    mg_status st = mg_json_print(&out, o, 1, err);
    if (st == MG_OK) puts(out);
    free(out);
    mg_json_free(o);
    return st;
}
