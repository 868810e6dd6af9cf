/* safetensors, GGUF and Hugging Face directories on real files: what they hold, and headers rewritten byte for byte.
 * The malformed inputs are in e2e/bad_inputs.py. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/checkpoint.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"

static void must(mg_status st, const mg_error *err) {
    char text[2048];
    cr_assert_eq(st, MG_OK, "%s", mg_error_text(err, text, sizeof text));
}

static void *head_of(const char *path, uint64_t n) {
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f, "%s", path);
    void *p = malloc(n);
    cr_assert_eq(fread(p, 1, n, f), n);
    fclose(f);
    return p;
}

static void rewrite_safetensors(const char *path) {
    mg_checkpoint *c;
    mg_error err = {0};
    uint8_t *header;
    uint64_t size, end;
    must(mg_checkpoint_open(&c, path, &err), &err);
    uint64_t *offsets = malloc(c->n_tensors * sizeof *offsets);
    const mg_kvs none = {0}; /* a file without __metadata__ is written without */
    const mg_kvs *metadata = c->st_metadata ? c->st_metadata : &none;
    must(mg_safetensors_layout(c->tensors, c->n_tensors, metadata, &header, &size, offsets, &end, &err), &err);
    void *want = head_of(path, size);
    cr_assert_arr_eq(header, want, size, "%s", path);
    for (uint32_t i = 0; i < c->n_tensors; i++) cr_assert_eq(offsets[i], c->tensors[i].offset);
    free(want);
    free(header);
    free(offsets);
    mg_checkpoint_free(c);
}

Test(safetensors, headers_of_the_reference_library_are_reproduced) {
    rewrite_safetensors(MG_TEST_DATA "/models/donors/base/model.safetensors");
    rewrite_safetensors(MG_TEST_DATA "/models/tiny/mixtral/model.safetensors");
    rewrite_safetensors(MG_TEST_DATA "/models/tiny/mixtral/reference.safetensors"); /* F32 and I64 together */
}

Test(safetensors, layout_orders_by_dtype_then_name_and_escapes) {
    mg_tensor t[] = {
        {.name = "b", .dtype = MG_U8, .rank = 1, .shape = {3}, .n_bytes = 3},
        {.name = "a\"\n\x01", .dtype = MG_U8, .rank = 2, .shape = {1, 2}, .n_bytes = 2},
        {.name = "z", .dtype = MG_F32, .rank = 0, .n_bytes = 4},
        {.name = "h", .dtype = MG_F16, .rank = 1, .shape = {0}, .n_bytes = 0},
        {.name = "i", .dtype = MG_BF16, .rank = 1, .shape = {1}, .n_bytes = 2},
    };
    static const char want[] =
        "{\"__metadata__\":{\"format\":\"pt\"},\"z\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
        "\"i\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[4,6]},"
        "\"h\":{\"dtype\":\"F16\",\"shape\":[0],\"data_offsets\":[6,6]},"
        "\"a\\\"\\n\\u0001\":{\"dtype\":\"U8\",\"shape\":[1,2],\"data_offsets\":[6,8]},"
        "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[8,11]}}";
    mg_error err = {0};
    uint8_t *header;
    uint64_t size, end, offsets[5];
    must(mg_safetensors_layout(t, 5, NULL, &header, &size, offsets, &end, &err), &err);
    cr_assert_eq(size % 8, 0);
    cr_assert_eq(header[0] | header[1] << 8, size - 8);
    cr_assert_arr_eq(header + 8, want, sizeof want - 1);
    for (uint64_t i = 8 + sizeof want - 1; i < size; i++) cr_assert_eq(header[i], ' ');
    cr_assert(size - 8 - (sizeof want - 1) < 8);
    cr_assert_eq(offsets[0], size + 8);
    cr_assert_eq(offsets[4], size + 4);
    cr_assert_eq(end, size + 11);
    /* and it reads back */
    mg_arena a;
    mg_st_header h;
    mg_arena_init(&a, 0);
    must(mg_safetensors_parse(&h, (mg_span){header + 8, size - 8}, size, end, &a, NULL, &err), &err);
    cr_assert_eq(h.n_tensors, 5);
    cr_assert_str_eq(h.tensors[3].name, "a\"\n\x01");
    mg_arena_release(&a);
    free(header);
    t[0].dtype = MG_Q4_0;
    cr_assert_eq(mg_safetensors_layout(t, 5, NULL, &header, &size, offsets, &end, &err), MG_ERR_UNSUPPORTED);
    t[0].dtype = MG_U8;
    t[0].name = "z";
    err = (mg_error){0};
    cr_assert_eq(mg_safetensors_layout(t, 5, NULL, &header, &size, offsets, &end, &err), MG_ERR_FORMAT);
}

static void rewrite_gguf(const char *path) {
    mg_checkpoint *c;
    mg_error err = {0};
    uint8_t *header;
    uint64_t size, end;
    must(mg_checkpoint_open(&c, path, &err), &err);
    uint64_t *offsets = malloc((c->n_tensors + 1) * sizeof *offsets);
    must(mg_gguf_layout(c->kv, c->tensors, c->n_tensors, 0, &header, &size, offsets, &end, &err), &err);
    void *want = head_of(path, size);
    cr_assert_arr_eq(header, want, size, "%s", path);
    for (uint32_t i = 0; i < c->n_tensors; i++) cr_assert_eq(offsets[i], c->tensors[i].offset);
    free(want);
    free(header);
    free(offsets);
    mg_checkpoint_free(c);
}

Test(gguf, headers_are_reproduced) {
    rewrite_gguf(MG_TEST_DATA "/golden/gguf/imatrix.gguf");
    const char *shared = getenv("MOEGRAFT_SHARED");
    char path[4096];
    if (!shared) return;
    snprintf(path, sizeof path, "%s/golden/gguf/moe4-bf16.gguf", shared);
    rewrite_gguf(path);
}

/* Every value type, by hand: 0x47 0x47 0x55 0x46 | v3 | 2 tensors | 3 keys ... */
Test(gguf, layout_is_the_documented_one) {
    static const uint8_t want[] = {
        'G', 'G', 'U', 'F', 3,    0,    0, 0, 2, 0, 0, 0, 0, 0,   0,   0, 3,   0,   0,   0,  0, 0, 0, 0, 1, 0, 0, 0,
        0,   0,   0,   0,   'k',  8,    0, 0, 0, 2, 0, 0, 0, 0,   0,   0, 0,   'h', 'i', 1,  0, 0, 0, 0, 0, 0, 0, 'b',
        7,   0,   0,   0,   1,    1,    0, 0, 0, 0, 0, 0, 0, 'a', 9,   0, 0,   0,   3,   0,  0, 0, 2, 0, 0, 0, 0, 0,
        0,   0,   1,   0,   0xFE, 0xFF, 1, 0, 0, 0, 0, 0, 0, 0,   'x', 2, 0,   0,   0,   32, 0, 0, 0, 0, 0, 0, 0, 3,
        0,   0,   0,   0,   0,    0,    0, 8, 0, 0, 0, 0, 0, 0,   0,   0, 0,   0,   0,   1,  0, 0, 0, 0, 0, 0, 0, 'y',
        1,   0,   0,   0,   1,    0,    0, 0, 0, 0, 0, 0, 0, 0,   0,   0, 128, 0,   0,   0,  0, 0, 0, 0,
    };
    mg_kvs k;
    mg_error err = {0};
    mg_kvs_init(&k);
    int16_t arr[] = {1, -2};
    must(mg_kvs_set_str(&k, "k", "hi", 2, &err), &err);
    must(mg_kvs_set_bool(&k, "b", true, &err), &err);
    must(mg_kvs_set_arr(&k, "a", MG_KV_I16, 2, arr, &err), &err);
    mg_tensor t[] = {
        {.name = "x", .dtype = MG_Q8_0, .rank = 2, .shape = {3, 32}, .n_bytes = 102},
        {.name = "y", .dtype = MG_F32, .rank = 1, .shape = {1}, .n_bytes = 4},
    };
    uint8_t *header;
    uint64_t size, end, offsets[2];
    must(mg_gguf_layout(&k, t, 2, 0, &header, &size, offsets, &end, &err), &err);
    cr_assert_eq(size, (sizeof want + 31) / 32 * 32);
    cr_assert_arr_eq(header, want, sizeof want);
    for (uint64_t i = sizeof want; i < size; i++) cr_assert_eq(header[i], 0);
    cr_assert_eq(offsets[0], size);
    cr_assert_eq(offsets[1], size + 128);
    cr_assert_eq(end, size + 160);
    uint8_t *file = calloc(1, end);
    memcpy(file, header, size);
    mg_gguf g;
    must(mg_gguf_parse(&g, (mg_span){file, end}, &err), &err);
    cr_assert(g.n_tensors == 2 && g.kv.n == 3 && g.tensors[0].shape[0] == 3 && g.tensors[0].shape[1] == 32);
    mg_gguf_release(&g);
    must(mg_gguf_parse(&g, (mg_span){file, size + 132}, &err), &err); /* last padding absent: fine */
    mg_gguf_release(&g);
    for (uint64_t n = 0; n < size + 132; n++) /* every shorter file is refused, and none crashes */
        cr_assert_eq(mg_gguf_parse(&g, (mg_span){file, n}, NULL), MG_ERR_FORMAT, "%llu", (unsigned long long)n);
    free(file);
    free(header);
    cr_assert_eq(mg_gguf_layout(&k, t, 2, 64, &header, &size, offsets, &end, &err), MG_ERR_CONFLICT);
    err = (mg_error){0};
    must(mg_kvs_set_u32(&k, "general.alignment", 64, &err), &err);
    must(mg_gguf_layout(&k, t, 2, 0, &header, &size, offsets, &end, &err), &err);
    cr_assert_eq(size % 64, 0);
    free(header);
    mg_kvs_release(&k);
}

Test(hf_dir, donor_directory) {
    mg_checkpoint *c;
    mg_error err = {0};
    must(mg_checkpoint_open(&c, MG_TEST_DATA "/models/donors/prose", &err), &err);
    cr_assert_eq(c->container, MG_CONTAINER_HF_DIR);
    cr_assert_str_eq(mg_json_str(mg_json_get(c->config, "model_type")), "mistral");
    cr_assert_eq(c->n_files, 1);
    cr_assert_str_eq(c->files[0], "model.safetensors");
    uint32_t t = mg_checkpoint_find(c, "model.embed_tokens.weight");
    cr_assert_neq(t, MG_STRMAP_NONE);
    const mg_tensor *e = &c->tensors[t];
    cr_assert(e->dtype == MG_BF16 && e->rank == 2 && e->shape[0] == 1024);
    /* rows and bytes agree, and the ends of the tensor are guarded */
    uint64_t row_bytes = mg_tensor_row_bytes(e);
    uint8_t *a = malloc(row_bytes * 2), *b = malloc(row_bytes * 2);
    must(mg_checkpoint_read_rows(c, t, 1022, 2, a, &err), &err);
    must(mg_checkpoint_read(c, t, 1022 * row_bytes, b, 2 * row_bytes, &err), &err);
    cr_assert_arr_eq(a, b, 2 * row_bytes);
    cr_assert_eq(mg_checkpoint_read_rows(c, t, 1023, 2, a, &err), MG_ERR_FORMAT);
    cr_assert(strcmp(err.tensor, "model.embed_tokens.weight") == 0 && strcmp(err.file, "model.safetensors") == 0);
    err = (mg_error){0};
    cr_assert_eq(mg_checkpoint_read(c, t, UINT64_MAX, a, 1, &err), MG_ERR_FORMAT);
    free(a);
    free(b);
    err = (mg_error){0};
    must(mg_checkpoint_recheck(c, &err), &err);
    uint8_t id[16], id2[16];
    mg_checkpoint *d;
    must(mg_checkpoint_identity(c, id, &err), &err);
    must(mg_checkpoint_open(&d, MG_TEST_DATA "/models/donors/math", &err), &err);
    must(mg_checkpoint_identity(d, id2, &err), &err);
    cr_assert_neq(memcmp(id, id2, 16), 0);
    mg_checkpoint_free(d);
    mg_checkpoint_free(c);
}

Test(hf_dir, kinds_not_built_yet_are_named) {
    static const struct {
        const char *path;
        mg_status code;
        const char *say;
    } cases[] = {
        {"no_such_org/no_such_model", MG_ERR_IO, "cache"},
        {"hf:no_such_org/no_such_model", MG_ERR_IO, "cache"},
        {"hf:a/../b", MG_ERR_USAGE, "hf:"},
        {"/no/such/dir/x.gguf", MG_ERR_IO, "No such file"},
        {MG_TEST_DATA "/golden/merge/moe4_hidden.yml", MG_ERR_UNSUPPORTED, "YAML"},
        {MG_TEST_DATA "/models/donors/base/config.json", MG_ERR_FORMAT, "JSON"},
        {MG_TEST_DATA "/golden/merge", MG_ERR_FORMAT, "no config.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mg_checkpoint *c;
        mg_error err = {0};
        cr_assert_eq(mg_checkpoint_open(&c, cases[i].path, &err), cases[i].code, "%s", cases[i].path);
        cr_assert(strstr(err.message, cases[i].say), "%s: %s", cases[i].path, err.message);
        cr_assert(err.file[0], "%s", cases[i].path);
    }
}
