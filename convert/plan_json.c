/* plan_json.c - a plan shown before anything is touched: tensors, sizes, bits per weight, memory, disk. */
#include "convert/exec.h"

#include "formats/base/cpu.h"

#include <stdio.h>
#include <string.h>

/* What the process holds beside its tiles: descriptors, metadata, and the C library. */
enum { BASE_MEMORY = 8 << 20 };

mg_status mg_plan_memory(mg_plan *p, const mg_exec_options *opt, uint64_t *bytes, mg_error *err) {
    mg_plan_units u;
    MG_TRY(mg_plan_layout(p, err));
    MG_TRY(mg_plan_units_init(&u, p, err));
    uint64_t each = mg_plan_worker_bytes(&u), threads = opt && opt->threads ? opt->threads : mg_cpu_count();
    uint64_t workers = mg_plan_workers(&u, opt ? opt->memory : 0, (unsigned)threads);
    *bytes = workers * each + p->arena.used + BASE_MEMORY;
    mg_plan_units_release(&u);
    return MG_OK;
}

/* Weights of the model that a tensor holds: packed codes are many, scales and zeros none. */
static uint64_t weights_of(const mg_expr *e) {
    const mg_group_form *f = e->op == MG_EX_PART ? e->children[0]->form : NULL;
    if (f) return f->parts[e->arg].what == MG_PART_CODES ? f->rows * f->cols : 0;
    if (e->op == MG_EX_FP4) return e->arg == MG_FP4_CODES ? e->children[0]->t.n_elements : 0;
    return e->t.dtype == MG_I32 || e->t.dtype == MG_I64 ? 0 : e->t.n_elements; /* group numbers, shapes */
}

static mg_json *tensor_json(const mg_plan_tensor *t) {
    mg_json *j = mg_json_new_object(), *shape = mg_json_new_array();
    mg_dtype from;
    mg_expr_origin(t->e, &from);
    for (uint32_t d = 0; d < t->e->t.rank; d++) mg_json_push(shape, mg_json_new_u64(t->e->t.shape[d]));
    mg_json_set_str(j, "name", t->name);
    mg_json_set(j, "shape", shape);
    mg_json_set_str(j, "from", mg_dtype_get(from)->name);
    mg_json_set_str(j, "to", mg_dtype_get(t->e->t.dtype)->name);
    mg_json_set_u64(j, "bytes", t->e->t.n_bytes);
    return j;
}

mg_status mg_plan_json(mg_plan *p, uint32_t out, mg_json **json, mg_error *err) {
    mg_plan_output *o;
    uint64_t memory, bytes = 0, elements = 0, disk = 0;
    MG_TRY(mg_plan_output_get(p, out, &o, err));
    MG_TRY(mg_plan_memory(p, NULL, &memory, err));
    mg_json *root = mg_json_new_object(), *tensors = mg_json_new_array(), *files = mg_json_new_array();
    for (uint32_t i = 0; i < o->n_tensors; i++) {
        mg_json_push(tensors, tensor_json(&o->tensors[i]));
        bytes += o->tensors[i].e->t.n_bytes;
        elements += weights_of(o->tensors[i].e);
    }
    for (uint32_t i = 0; i < o->n_files; i++) {
        mg_json *f = mg_json_new_object();
        mg_json_set_str(f, "name", o->files[i].name);
        mg_json_set_u64(f, "size", o->files[i].size);
        mg_json_push(files, f);
        disk += o->files[i].size;
    }
    mg_json_set_i64(root, "schema", 1);
    mg_json_set_str(root, "output", o->path);
    mg_json_set(root, "tensors", tensors);
    mg_json_set_u64(root, "bytes", bytes);
    mg_json_set_f64(root, "bpw", elements ? 8.0 * (double)bytes / (double)elements : 0.0);
    mg_json_set_u64(root, "elements", elements);
    mg_json_set(root, "files", files);
    mg_json_set_u64(root, "disk_bytes", disk);
    mg_json_set_u64(root, "peak_memory_bytes", memory);
    *json = root;
    return MG_OK;
}

mg_status mg_plan_print(mg_plan *p, uint32_t out, const mg_exec_options *opt, FILE *to, mg_error *err) {
    mg_plan_output *o;
    uint64_t memory, bytes = 0, elements = 0, disk = 0;
    MG_TRY(mg_plan_output_get(p, out, &o, err));
    MG_TRY(mg_plan_memory(p, opt, &memory, err));
    int width = 4;
    for (uint32_t i = 0; i < o->n_tensors; i++)
        if ((int)strlen(o->tensors[i].name) > width) width = (int)strlen(o->tensors[i].name);
    fprintf(to, "%-*s  %-18s %-8s %-8s %14s\n", width, "name", "shape", "from", "to", "bytes");
    for (uint32_t i = 0; i < o->n_tensors; i++) {
        const mg_tensor *t = &o->tensors[i].e->t;
        char shape[128];
        mg_dtype from;
        mg_expr_origin(o->tensors[i].e, &from);
        fprintf(to, "%-*s  %-18s %-8s %-8s %14llu\n", width, o->tensors[i].name,
                mg_tensor_shape_text(t, shape, sizeof shape), mg_dtype_get(from)->name, mg_dtype_get(t->dtype)->name,
                (unsigned long long)t->n_bytes);
        bytes += t->n_bytes;
        elements += weights_of(o->tensors[i].e);
    }
    for (uint32_t i = 0; i < o->n_files; i++) disk += o->files[i].size;
    char a[MG_HUMAN_MAX], b[MG_HUMAN_MAX], c[MG_HUMAN_MAX];
    fprintf(to, "%s: %u tensors, %s in %u file%s (%s on disk), %.3f bits per weight, about %s of memory\n", o->path,
            o->n_tensors, mg_human_bytes(bytes, a), o->n_files, o->n_files == 1 ? "" : "s", mg_human_bytes(disk, b),
            elements ? 8.0 * (double)bytes / (double)elements : 0.0, mg_human_bytes(memory, c));
    return MG_OK;
}
