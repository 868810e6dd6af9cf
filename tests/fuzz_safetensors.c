/* fuzz_safetensors.c - a whole safetensors file in memory. What parses must keep its promises: extents inside the file,
 * and a header laid out again that parses to the same tensors. */
#include <stdlib.h>
#include <string.h>

#include "formats/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok) {
    if (!ok) abort();
}

static void lay_out_again(const mg_st_header *h, const mg_kvs *metadata) {
    mg_arena a;
    mg_st_header again;
    uint8_t *header = NULL;
    uint64_t header_size, end, *offsets = malloc((h->n_tensors + 1) * sizeof *offsets);
    mg_arena_init(&a, 0);
    require(mg_safetensors_layout(h->tensors, h->n_tensors, metadata, &header, &header_size, offsets, &end, NULL) ==
            MG_OK);
    require(header_size % 8 == 0);
    require(mg_safetensors_parse(&again, (mg_span){header + 8, header_size - 8}, header_size, end, &a, NULL, NULL) ==
            MG_OK);
    require(again.n_tensors == h->n_tensors);
    free(header);
    free(offsets);
    mg_arena_release(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t n;
    mg_arena a;
    mg_kvs metadata;
    mg_st_header h;
    mg_error err = {0};
    char text[2048];
    if (size < 8) return 0;
    memcpy(&n, data, 8);
    if (n > size - 8) return 0;
    mg_arena_init(&a, 64u << 20);
    mg_kvs_init(&metadata);
    mg_status st = mg_safetensors_parse(&h, (mg_span){data + 8, (size_t)n}, 8 + n, size, &a, &metadata, &err);
    if (st == MG_OK) {
        require(err.code == MG_OK);
        uint64_t at = 8 + n;
        for (uint32_t i = 0; i < h.n_tensors; i++) {
            require(h.tensors[i].offset == at);
            at += h.tensors[i].n_bytes;
        }
        require(at == size);
        lay_out_again(&h, &metadata);
    } else {
        require(err.code == st && err.message[0]);
        mg_error_text(&err, text, sizeof text);
    }
    mg_kvs_release(&metadata);
    mg_arena_release(&a);
    return 0;
}
