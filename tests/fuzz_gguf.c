/* fuzz_gguf.c - a whole GGUF file in memory. What parses has its data inside the file, survives the model rules or is
 * refused by them with a message, and is reproduced by the writer: parse(layout(parse(x))) equals parse(x). */
#include <stdlib.h>
#include <string.h>

#include "formats/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok) {
    if (!ok) abort();
}

static void write_again(const mg_gguf *g) {
    uint8_t *header = NULL, *file;
    uint64_t header_size, end, *offsets = malloc((g->n_tensors + 1) * sizeof *offsets);
    mg_gguf again;
    require(mg_gguf_layout(&g->kv, g->tensors, g->n_tensors, 0, &header, &header_size, offsets, &end, NULL) == MG_OK);
    require(header_size == g->data_start && end < (64u << 20));
    for (uint32_t i = 0; i < g->n_tensors; i++) require(offsets[i] == g->tensors[i].offset);
    file = calloc(1, end);
    require(file != NULL);
    memcpy(file, header, header_size);
    require(mg_gguf_parse(&again, (mg_span){file, end}, NULL) == MG_OK);
    require(again.n_tensors == g->n_tensors && again.kv.n == g->kv.n);
    mg_gguf_release(&again);
    free(file);
    free(header);
    free(offsets);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mg_gguf g;
    mg_error err = {0};
    char text[2048];
    mg_status st = mg_gguf_parse(&g, (mg_span){data, size}, &err);
    if (st != MG_OK) {
        require(err.code == st && err.message[0]);
        mg_error_text(&err, text, sizeof text);
        return 0;
    }
    for (uint32_t i = 0; i < g.n_tensors; i++) {
        const mg_tensor *t = &g.tensors[i];
        require(t->n_bytes == 0 || mg_range_fits(t->offset, t->n_bytes, size));
        require(t->rank <= 4 && strlen(t->name) <= MG_GGUF_MAX_NAME);
    }
    st = mg_gguf_check_model(&g.kv, &err);
    require((st == MG_OK) == (err.code == MG_OK));
    write_again(&g);
    mg_gguf_release(&g);
    return 0;
}
