/* gate_stage.c - storing and finding the router rows of an unfinished merge. */
#include "convert/gate_stage.h"

#include "convert/stage_id.h"
#include "formats/base/outfile.h"
#include "formats/checkpoint.h"
#include "formats/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void tensor_name(char *buf, size_t n, uint32_t layer) {
    snprintf(buf, n, "router.%u", layer);
}

bool mg_gate_stage_load(const char *path, mg_xxh128 id, mg_gate_shape s, float *rows) {
    mg_checkpoint *c = NULL;
    mg_error ignored = {0};
    if (!mg_path_exists(path) || mg_checkpoint_open(&c, path, &ignored) != MG_OK) return false;
    bool ok = mg_stage_id_is(c, id);
    for (uint32_t l = 0; ok && l < s.layers; l++) {
        char name[32];
        tensor_name(name, sizeof name, l);
        uint32_t t = mg_checkpoint_find(c, name);
        ok = t != MG_STRMAP_NONE && c->tensors[t].dtype == MG_F32 && c->tensors[t].n_elements == s.experts * s.hidden &&
             mg_checkpoint_read(c, t, 0, rows + (uint64_t)l * s.experts * s.hidden, c->tensors[t].n_bytes, &ignored) ==
                 MG_OK;
    }
    mg_checkpoint_free(c);
    return ok;
}

static mg_status lay_out(mg_arena *a, mg_xxh128 id, mg_gate_shape s, mg_tensor *t, uint8_t **header, uint64_t *size,
                         uint64_t *offsets, uint64_t *total, mg_error *err) {
    for (uint32_t l = 0; l < s.layers; l++) {
        t[l] = (mg_tensor){
            .name = mg_arena_printf(a, "router.%u", l), .dtype = MG_F32, .rank = 2, .shape = {s.experts, s.hidden}};
        if (!t[l].name || !mg_tensor_set_sizes(&t[l])) return mg_fail(err, MG_ERR_LIMIT, "router rows are too large");
    }
    mg_kvs meta;
    mg_kvs_init(&meta);
    mg_status st = mg_stage_id_put(&meta, id, err);
    if (st == MG_OK) st = mg_safetensors_layout(t, s.layers, &meta, header, size, offsets, total, err);
    mg_kvs_release(&meta);
    return st;
}

mg_status mg_gate_stage_save(const char *path, mg_xxh128 id, mg_gate_shape s, const float *rows, mg_error *err) {
    mg_arena a;
    mg_arena_init(&a, 0);
    mg_tensor *t = mg_arena_alloc(&a, s.layers, sizeof *t);
    uint64_t *offsets = mg_arena_alloc(&a, s.layers, sizeof *offsets), size = 0, total = 0;
    uint8_t *header = NULL, *file = NULL;
    mg_status st = t && offsets ? lay_out(&a, id, s, t, &header, &size, offsets, &total, err)
                                : mg_fail_nomem(err, s.layers * sizeof *t);
    if (st == MG_OK && !(file = malloc(total))) st = mg_fail_nomem(err, total);
    if (st == MG_OK) {
        memcpy(file, header, size);
        for (uint32_t l = 0; l < s.layers; l++)
            memcpy(file + offsets[l], rows + (uint64_t)l * s.experts * s.hidden, t[l].n_bytes);
        st = mg_outfile_write_all(path, file, total, true, err);
    }
    free(header);
    free(file);
    mg_arena_release(&a);
    return st;
}
