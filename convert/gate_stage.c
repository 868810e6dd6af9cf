/* gate_stage.c - storing and finding the router rows of an unfinished merge. */
#include "convert/gate_stage.h"

#include "convert/stage_id.h"
#include "formats/base/file.h"
#include "formats/base/outfile.h"
#include "formats/checkpoint.h"

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

static mg_status lay_out(mg_stage_layout *l, mg_xxh128 id, mg_gate_shape s, mg_error *err) {
    const uint64_t shape[2] = {s.experts, s.hidden};
    MG_TRY(mg_stage_layout_begin(l, s.layers, err));
    for (uint32_t i = 0; i < s.layers; i++) {
        char name[32];
        tensor_name(name, sizeof name, i);
        MG_TRY(mg_stage_layout_tensor(l, i, name, MG_F32, 2, shape, err));
    }
    return mg_stage_layout_end(l, id, NULL, err);
}

mg_status mg_gate_stage_save(const char *path, mg_xxh128 id, mg_gate_shape s, const float *rows, mg_error *err) {
    mg_stage_layout as = {0};
    uint8_t *file = NULL;
    mg_status st = lay_out(&as, id, s, err);
    if (st == MG_OK && !(file = malloc(as.total))) st = mg_fail_nomem(err, as.total);
    if (st == MG_OK) {
        memcpy(file, as.header, as.header_size);
        for (uint32_t l = 0; l < s.layers; l++)
            memcpy(file + as.offsets[l], rows + (uint64_t)l * s.experts * s.hidden, as.tensors[l].n_bytes);
        st = mg_outfile_write_all(path, file, as.total, true, err);
    }
    free(file);
    mg_stage_layout_release(&as);
    return st;
}
