/* Sizes, shapes and key/value lists. */
#include <criterion/criterion.h>
#include <string.h>

#include "formats/kv.h"
#include "formats/tensor.h"

static bool sizes(mg_dtype type, uint32_t rank, const uint64_t *shape, mg_tensor *t) {
    *t = (mg_tensor){.name = "t", .dtype = type, .rank = rank};
    if (rank) memcpy(t->shape, shape, rank * sizeof *shape);
    return mg_tensor_set_sizes(t);
}
#define SHAPE(...)                                                                                                     \
    (sizeof((uint64_t[]){__VA_ARGS__}) / 8), (uint64_t[]) {                                                            \
        __VA_ARGS__                                                                                                    \
    }

Test(tensor, sizes) {
    mg_tensor t;
    cr_assert(sizes(MG_BF16, SHAPE(3, 5), &t) && t.n_elements == 15 && t.n_bytes == 30);
    cr_assert(sizes(MG_Q4_K, SHAPE(4, 7, 512), &t) && t.n_elements == 4 * 7 * 512 && t.n_bytes == 4 * 7 * 288);
    cr_assert(sizes(MG_F32, 0, NULL, &t) && t.n_elements == 1 && t.n_bytes == 4);
    cr_assert(!sizes(MG_Q8_0, 0, NULL, &t));
    cr_assert(!sizes(MG_Q8_0, SHAPE(32, 33), &t));
    cr_assert(sizes(MG_F32, SHAPE(2, 0), &t) && t.n_elements == 0 && t.n_bytes == 0);
    cr_assert(!sizes(MG_U8, SHAPE(2, UINT64_MAX - 1), &t));
    cr_assert(!sizes(MG_U8, SHAPE(2, (1ull << 62)), &t));
    cr_assert(!sizes(MG_F64, SHAPE(1ull << 61), &t));
    cr_assert(sizes(MG_U8, SHAPE(INT64_MAX), &t));
    cr_assert(!sizes(MG_U8, SHAPE(0, 1ull << 40, 1ull << 40), &t)); /* wherever the zero stands */
    cr_assert(!sizes(MG_U8, SHAPE(1ull << 40, 1ull << 40, 0), &t));
    /* 256 experts of 7168 x 2048: past 2^31 elements and rows */
    cr_assert(sizes(MG_Q2_K, SHAPE(256, 7168, 2048), &t) && t.n_elements == 3758096384ull &&
              mg_tensor_rows(&t) == 1835008);
}

Test(tensor, shape_messages) {
    mg_tensor t;
    char buf[64], text[2048];
    cr_assert(sizes(MG_F32, SHAPE(4, 512, 256), &t));
    cr_assert_str_eq(mg_tensor_shape_text(&t, buf, sizeof buf), "[4, 512, 256]");
    cr_assert_str_eq(mg_tensor_shape_text(&t, buf, 5), "[4, ");
    mg_error err = {0};
    cr_assert_eq(mg_tensor_expect_shape(&t, SHAPE(4, 512, 256), &err), MG_OK);
    cr_assert_eq(mg_tensor_expect_shape(&t, SHAPE(4, 500, 256), &err), MG_ERR_FORMAT);
    cr_assert_str_eq(mg_error_text(&err, text, sizeof text),
                     "tensor 't': shape [4, 512, 256] differs in dimension 1, expected [4, 500, 256]");
    err = (mg_error){0};
    cr_assert_eq(mg_tensor_expect_shape(&t, SHAPE(4, 512), &err), MG_ERR_FORMAT);
    cr_assert(strstr(err.message, "3 dimensions [4, 512, 256], expected 2 [4, 512]"));
}

Test(kv, order_and_replacement) {
    mg_kvs k;
    mg_error err = {0};
    mg_str s;
    mg_kvs_init(&k);
    cr_assert_eq(mg_kvs_set_u32(&k, "a", 1, &err), MG_OK);
    cr_assert_eq(mg_kvs_set_str(&k, "b", "x\0y", 3, &err), MG_OK);
    cr_assert_eq(mg_kvs_set_f32(&k, "c", 2.5f, &err), MG_OK);
    cr_assert_eq(mg_kvs_set_bool(&k, "a", true, &err), MG_OK); /* replaced: moves to the end */
    cr_assert_eq(k.n, 3);
    cr_assert_str_eq(k.items[0].key.data, "b");
    cr_assert_str_eq(k.items[2].key.data, "a");
    cr_assert(mg_kv_str(mg_kvs_get(&k, "b"), &s) && s.size == 3 && memcmp(s.data, "x\0y", 4) == 0);
    mg_kvs_remove(&k, "b");
    mg_kvs_remove(&k, "no such key");
    cr_assert_eq(k.n, 2);
    cr_assert_null(mg_kvs_get(&k, "b"));
    /* an item may be copied onto its own list */
    cr_assert_eq(mg_kvs_copy(&k, mg_kvs_get(&k, "c"), &err), MG_OK);
    cr_assert_str_eq(k.items[1].key.data, "c");
    mg_kvs_release(&k);
}

Test(kv, conversions) {
    mg_kvs k;
    mg_error err = {0};
    uint64_t u;
    int64_t i;
    double d;
    bool b;
    mg_kv e;
    mg_kvs_init(&k);
    int8_t minus = -3;
    uint64_t big = UINT64_MAX;
    int64_t low = INT64_MIN;
    double half = 0.5;
    int32_t arr[] = {7, -8, 9};
    cr_assert_eq(mg_kvs_set(&k, "minus", MG_KV_I8, &minus, &err), MG_OK);
    cr_assert_eq(mg_kvs_set(&k, "big", MG_KV_U64, &big, &err), MG_OK);
    cr_assert_eq(mg_kvs_set(&k, "low", MG_KV_I64, &low, &err), MG_OK);
    cr_assert_eq(mg_kvs_set(&k, "half", MG_KV_F64, &half, &err), MG_OK);
    cr_assert_eq(mg_kvs_set_bool(&k, "yes", true, &err), MG_OK);
    cr_assert_eq(mg_kvs_set_arr(&k, "arr", MG_KV_I32, 3, arr, &err), MG_OK);
    cr_assert(!mg_kv_u64(mg_kvs_get(&k, "minus"), &u) && mg_kv_i64(mg_kvs_get(&k, "minus"), &i) && i == -3);
    cr_assert(mg_kv_u64(mg_kvs_get(&k, "big"), &u) && u == UINT64_MAX && !mg_kv_i64(mg_kvs_get(&k, "big"), &i));
    cr_assert(mg_kv_i64(mg_kvs_get(&k, "low"), &i) && i == INT64_MIN);
    cr_assert(mg_kv_f64(mg_kvs_get(&k, "half"), &d) && d == 0.5 && !mg_kv_u64(mg_kvs_get(&k, "half"), &u));
    cr_assert(mg_kv_bool(mg_kvs_get(&k, "yes"), &b) && b && mg_kv_u64(mg_kvs_get(&k, "yes"), &u) && u == 1);
    cr_assert(!mg_kv_u64(mg_kvs_get(&k, "arr"), &u) && !mg_kv_u64(NULL, &u));
    cr_assert(mg_kv_elem(mg_kvs_get(&k, "arr"), 1, &e) && mg_kv_i64(&e, &i) && i == -8);
    cr_assert(!mg_kv_elem(mg_kvs_get(&k, "arr"), 3, &e));
    cr_assert_eq(mg_kvs_set(&k, "x", MG_KV_ARR, arr, &err), MG_ERR_INTERNAL);
    mg_kvs_release(&k);
}
