/* Plans carried out: layout, units, several outputs from one read, resume, refusals, and plans read as checkpoints. */
#include <criterion/criterion.h>

#include "convert/plan_private.h"
#include "formats/base/file.h"
#include "memory_checkpoint.h"

#include <stdio.h>
#include <unistd.h>

static mg_plan *plan;
static memory_checkpoint *mem;
static mg_error err;
static char dir[64];

static void setup(void) {
    strcpy(dir, "/tmp/mg_test_plan_XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    cr_assert_eq(mg_plan_new(&plan, &err), MG_OK);
    mem = memory_new(NULL);
    memory_add_known(mem, "w", MG_BF16, 2, (uint64_t[]){96, 64}, 1);
    memory_add_known(mem, "x", MG_BF16, 2, (uint64_t[]){96, 64}, 2);
    memory_add_known(mem, "norm", MG_BF16, 1, (uint64_t[]){64}, 3);
}

static void teardown(void) {
    char cmd[128];
    mg_plan_free(plan);
    mg_checkpoint_free(&mem->base);
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    cr_assert_eq(system(cmd), 0);
}

TestSuite(plan, .init = setup, .fini = teardown);

#define OK(call) cr_assert_eq((call), MG_OK, "%s", err.message)

static char *in_dir(const char *name) {
    static char path[4][256];
    static int i;
    i = (i + 1) % 4;
    snprintf(path[i], sizeof path[i], "%s/%s", dir, name);
    return path[i];
}

static const mg_expr *cast(const mg_expr *e, mg_dtype t) {
    OK(mg_expr_cast(plan, e, t, NULL, 0, &e, &err));
    return e;
}

static const mg_expr *source(const char *name) {
    const mg_expr *e;
    OK(mg_expr_source(plan, &mem->base, mg_checkpoint_find(&mem->base, name), &e, &err));
    return e;
}

/* rotary rows of w, a stack of w and x, a norm: in `type`, norm in F32. */
static uint32_t add_gguf(const char *path, mg_dtype type) {
    uint32_t out;
    mg_kvs kv;
    const mg_expr *e, *both[2] = {source("w"), source("x")};
    OK(mg_plan_add_output(plan, MG_OUT_GGUF, path, &out, &err));
    mg_kvs_init(&kv);
    OK(mg_kvs_set_str(&kv, "general.architecture", "test", 4, &err));
    OK(mg_plan_set_kv(plan, out, &kv, &err));
    mg_kvs_release(&kv);
    OK(mg_expr_view(plan, source("w"), &(mg_view){.kind = MG_VIEW_ROPE_PERM, .a = 3}, &e, &err));
    OK(mg_plan_add_tensor(plan, out, "q.weight", cast(e, type), &err));
    OK(mg_plan_add_tensor(plan, out, "norm.weight", cast(source("norm"), MG_F32), &err));
    OK(mg_expr_stack(plan, both, 2, &e, &err));
    OK(mg_plan_add_tensor(plan, out, "exps.weight", cast(e, type), &err));
    return out;
}

static uint32_t add_dir(const char *path) {
    uint32_t out;
    OK(mg_plan_add_output(plan, MG_OUT_HF_DIR, path, &out, &err));
    OK(mg_plan_add_tensor(plan, out, "a", source("w"), &err));
    OK(mg_plan_add_tensor(plan, out, "b", cast(source("x"), MG_F16), &err));
    OK(mg_plan_add_tensor(plan, out, "c", source("norm"), &err));
    mg_json *config = mg_json_new_object();
    mg_json_set_str(config, "model_type", "test");
    OK(mg_plan_set_config(plan, out, config, &err));
    mg_json_free(config);
    OK(mg_plan_add_side_file(plan, out, "note.txt", "hello", 5, &err));
    return out;
}

static mg_exec_options options = {.threads = 2, .progress = MG_PROGRESS_NONE, .manifest = true};

static char *slurp(const char *path, size_t *n) {
    char *text;
    OK(mg_file_slurp(path, 1 << 24, &text, n, &err));
    return text;
}

/* The file opens, and holds what the plan says, tensor by tensor. */
static void check_output(uint32_t out, const char *path) {
    mg_checkpoint *file, *planned;
    OK(mg_checkpoint_open(&file, path, &err));
    OK(mg_plan_checkpoint(plan, out, &planned, &err));
    cr_assert_eq(file->n_tensors, planned->n_tensors);
    for (uint32_t i = 0; i < planned->n_tensors; i++) {
        const mg_tensor *t = &planned->tensors[i];
        uint32_t at = mg_checkpoint_find(file, t->name);
        cr_assert_neq(at, MG_STRMAP_NONE, "%s", t->name);
        cr_assert_eq(file->tensors[at].dtype, t->dtype);
        OK(mg_tensor_expect_shape(&file->tensors[at], t->rank, t->shape, &err));
        uint8_t *a = malloc(t->n_bytes), *b = malloc(t->n_bytes);
        OK(mg_checkpoint_read(file, at, 0, a, t->n_bytes, &err));
        OK(mg_checkpoint_read(planned, i, 0, b, t->n_bytes, &err));
        cr_assert_arr_eq(a, b, t->n_bytes);
        free(a);
        free(b);
    }
    mg_checkpoint_free(planned);
    mg_checkpoint_free(file);
}

Test(plan, bytes_do_not_depend_on_threads_or_memory) {
    char *first = NULL;
    size_t n = 0;
    plan->unit_bytes = 1024;
    uint32_t out = add_gguf(in_dir("m.gguf"), MG_Q8_0);
    for (unsigned threads = 1; threads <= 4; threads++) {
        mg_exec_result r;
        mg_exec_options o = options;
        o.threads = threads;
        o.memory = threads == 4 ? 1 : 0;
        o.force = threads > 1;
        OK(mg_plan_execute(plan, &o, &r, &err));
        char hex[65];
        size_t size;
        OK(mg_sha256_file(in_dir("m.gguf"), hex, &err));
        cr_assert_eq(r.n_files, 1);
        cr_assert_str_eq(r.files[0].sha256, hex);
        char *bytes = slurp(in_dir("m.gguf"), &size);
        cr_assert_eq(size, r.files[0].size);
        if (!first) {
            first = bytes;
            n = size;
            continue;
        }
        cr_assert_eq(size, n);
        cr_assert_arr_eq(bytes, first, n);
        free(bytes);
    }
    free(first);
    check_output(out, in_dir("m.gguf"));
}

Test(plan, manifest_states_hashes_and_recipes) {
    mg_exec_result r;
    mg_json *m;
    add_gguf(in_dir("m.gguf"), MG_F16);
    OK(mg_plan_execute(plan, &options, &r, &err));
    OK(mg_json_load(&m, in_dir("m.gguf.manifest.json"), 1 << 20, &err));
    const mg_json *t = mg_json_first(mg_json_get(m, "tensors"));
    cr_assert_str_eq(mg_json_str(mg_json_get(t, "name")), "q.weight");
    cr_assert_str_eq(mg_json_str(mg_json_get(mg_json_first(mg_json_get(m, "files")), "sha256")), r.files[0].sha256);
    char *recipe;
    OK(mg_json_print(&recipe, mg_json_get(t, "recipe"), 0, &err));
    cr_assert_str_eq(recipe, "[\"cast\", \"F16\", [\"rope_interleave\", 3, [\"source\", 0, \"w\"]]]");
    free(recipe);
    mg_checkpoint *file;
    OK(mg_checkpoint_open(&file, in_dir("m.gguf"), &err));
    for (; t; t = mg_json_next(t)) {
        uint32_t at = mg_checkpoint_find(file, mg_json_str(mg_json_get(t, "name")));
        uint8_t *data = malloc(file->tensors[at].n_bytes);
        OK(mg_checkpoint_read(file, at, 0, data, file->tensors[at].n_bytes, &err));
        mg_xxh128 h = mg_xxh128_of(data, file->tensors[at].n_bytes);
        char hex[33];
        mg_hex(h.bytes, 16, hex);
        cr_assert_str_eq(mg_json_str(mg_json_get(t, "xxh3")), hex);
        free(data);
    }
    mg_checkpoint_free(file);
    mg_json_free(m);
}

Test(plan, several_types_from_one_read) {
    mg_exec_result r;
    plan->unit_bytes = 2048;
    uint32_t a = add_gguf(in_dir("a.gguf"), MG_Q8_0);
    OK(mg_plan_execute(plan, &options, &r, &err));
    uint64_t single = r.bytes_read;
    mg_plan_free(plan);
    OK(mg_plan_new(&plan, &err));
    plan->unit_bytes = 2048;
    a = add_gguf(in_dir("b.gguf"), MG_Q8_0);
    uint32_t b = add_gguf(in_dir("c.gguf"), MG_BF16), c = add_gguf(in_dir("d.gguf"), MG_Q4_0);
    OK(mg_path_mkdir(in_dir("sub"), &err));
    uint32_t d = add_gguf(in_dir("sub/e.gguf"), MG_F32);
    OK(mg_plan_execute(plan, &options, &r, &err));
    cr_assert_eq(r.bytes_read, single);
    cr_assert_eq(r.n_files, 4);
    check_output(a, in_dir("b.gguf"));
    check_output(b, in_dir("c.gguf"));
    check_output(c, in_dir("d.gguf"));
    check_output(d, in_dir("sub/e.gguf"));
    size_t n, k;
    char *x = slurp(in_dir("a.gguf"), &n), *y = slurp(in_dir("b.gguf"), &k);
    cr_assert_eq(n, k);
    cr_assert_arr_eq(x, y, n);
    free(x);
    free(y);
}

Test(plan, sharded_directory) {
    mg_exec_result r;
    mg_json *index;
    char *text;
    size_t n;
    uint32_t out = add_dir(in_dir("model"));
    OK(mg_plan_set_shard_size(plan, out, 96 * 64 * 2 + 128, &err));
    OK(mg_plan_execute(plan, &options, &r, &err));
    cr_assert_eq(r.n_files, 2);
    check_output(out, in_dir("model"));
    OK(mg_json_load(&index, in_dir("model/model.safetensors.index.json"), 1 << 20, &err));
    uint64_t total;
    cr_assert(mg_json_u64(mg_json_path(index, "metadata.total_size"), &total));
    cr_assert_eq(total, 2 * 96 * 64 * 2 + 128);
    cr_assert_str_eq(mg_json_str(mg_json_get(mg_json_get(index, "weight_map"), "a")),
                     "model-00001-of-00002.safetensors");
    cr_assert_str_eq(mg_json_str(mg_json_get(mg_json_get(index, "weight_map"), "c")),
                     "model-00002-of-00002.safetensors");
    mg_json_free(index);
    text = slurp(in_dir("model/config.json"), &n);
    cr_assert_str_eq(text, "{\n  \"model_type\": \"test\"\n}\n");
    free(text);
    text = slurp(in_dir("model/note.txt"), &n);
    cr_assert_str_eq(text, "hello");
    free(text);
    /* Written again with one shard: the old ones must not stay beside it. */
    OK(mg_plan_set_shard_size(plan, out, 1 << 30, &err));
    mg_exec_options o = options;
    cr_assert_eq(mg_plan_execute(plan, &o, &r, NULL), MG_ERR_USAGE);
    o.force = true;
    cr_assert_eq(mg_plan_execute(plan, &o, &r, NULL), MG_ERR_USAGE);
}

Test(plan, resumes_after_a_failed_read) {
    mg_exec_result r;
    plan->unit_bytes = 1024;
    uint32_t out = add_gguf(in_dir("m.gguf"), MG_F16);
    options.threads = 1;
    mem->fail_after = 10;
    cr_assert_eq(mg_plan_execute(plan, &options, &r, &err), MG_ERR_IO);
    cr_assert_not(mg_path_exists(in_dir("m.gguf")));
    cr_assert(mg_path_exists(in_dir(".m.gguf.journal")));
    mem->fail_after = 0;
    err = (mg_error){0};
    OK(mg_plan_execute(plan, &options, &r, &err));
    cr_assert_lt(r.bytes_read, 3u * 96 * 64 * 2 + 128);
    cr_assert_not(mg_path_exists(in_dir(".m.gguf.journal")));
    check_output(out, in_dir("m.gguf"));
}

Test(plan, a_changed_source_is_not_committed) {
    mg_exec_result r;
    add_gguf(in_dir("m.gguf"), MG_F16);
    mem->changed = true;
    cr_assert_eq(mg_plan_execute(plan, &options, &r, &err), MG_ERR_INTEGRITY);
    cr_assert_not(mg_path_exists(in_dir("m.gguf")));
}

Test(plan, copies_are_compared_with_their_sources) {
    mg_exec_result r;
    options.threads = 1;
    add_dir(in_dir("plain"));
    OK(mg_plan_execute(plan, &options, &r, &err));
    cr_expect_eq(r.copies.tensors, 0u);
    const uint64_t reads = mem->reads; /* of writing alone */
    mg_plan_free(plan);
    OK(mg_plan_new(&plan, &err));
    add_dir(in_dir("m"));
    options.verify_copies = true;
    mem->reads = 0;
    mem->lie_after = reads;
    cr_assert_eq(mg_plan_execute(plan, &options, &r, &err), MG_ERR_INTEGRITY);
    cr_expect_str_eq(err.tensor, "a");
    cr_expect_not(mg_path_exists(in_dir("m/model.safetensors")));
    err = (mg_error){0};
    mem->lie_after = 0;
    OK(mg_plan_execute(plan, &options, &r, &err));
    options.verify_copies = false;
    cr_expect_eq(r.copies.tensors, 2u, "b is converted");
    cr_expect_eq(r.copies.bytes, (96u + 1) * 64 * 2);
    cr_expect_str_eq(r.copies.before, r.copies.after);
    cr_expect_eq(strlen(r.copies.before), 32u);
}

Test(plan, refuses_what_is_there) {
    mg_exec_result r;
    add_gguf(in_dir("m.gguf"), MG_F16);
    OK(mg_plan_execute(plan, &options, &r, &err));
    cr_assert_eq(mg_plan_execute(plan, &options, &r, &err), MG_ERR_USAGE);
    err = (mg_error){0};
    add_gguf(in_dir("m.gguf"), MG_F32);
    cr_assert_eq(mg_plan_layout(plan, &err), MG_ERR_USAGE);
}

Test(plan, identity_covers_what_determines_bytes) {
    mg_xxh128 a, b;
    uint32_t out = add_gguf("m.gguf", MG_F16);
    OK(mg_plan_id(plan, &a, &err));
    OK(mg_plan_id(plan, &b, &err));
    cr_assert_arr_eq(a.bytes, b.bytes, 16);
    mem->id++;
    OK(mg_plan_id(plan, &b, &err));
    cr_assert(memcmp(a.bytes, b.bytes, 16));
    mem->id--;
    OK(mg_plan_add_tensor(plan, out, "more", source("x"), &err));
    OK(mg_plan_id(plan, &b, &err));
    cr_assert(memcmp(a.bytes, b.bytes, 16));
    mg_plan_free(plan);
    OK(mg_plan_new(&plan, &err));
    add_gguf("m.gguf", MG_BF16);
    OK(mg_plan_id(plan, &b, &err));
    cr_assert(memcmp(a.bytes, b.bytes, 16));
}

Test(plan, units_follow_the_grain) {
    mg_plan_units u;
    uint64_t row, n, seen = 0;
    plan->unit_bytes = 40 * 64 * 4; /* 40 f32 rows; heads have 32 */
    add_gguf("m.gguf", MG_F16);
    OK(mg_plan_units_init(&u, plan, &err));
    cr_assert_eq(u.n_groups, 3);
    cr_assert_eq(u.groups[0].unit_rows, 32);
    cr_assert_eq(u.groups[2].unit_rows, 40);
    for (uint64_t i = 0; i < u.n_units; i++) {
        const mg_plan_group *g = mg_plan_unit_at(&u, i, &row, &n);
        cr_assert(row + n <= g->core->rows && n > 0);
        seen += n;
    }
    cr_assert_eq(seen, 96 + 1 + 192);
    mg_plan_units_release(&u);
}

Test(plan, a_plan_is_a_checkpoint) {
    mg_checkpoint *c;
    uint32_t out = add_gguf("m.gguf", MG_Q8_0);
    OK(mg_plan_checkpoint(plan, out, &c, &err));
    cr_assert_eq(c->container, MG_CONTAINER_PLAN);
    cr_assert_not_null(mg_kvs_get(c->kv, "general.architecture"));
    const mg_tensor *t = &c->tensors[2];
    uint8_t *all = malloc(t->n_bytes), *part = malloc(t->n_bytes);
    OK(mg_checkpoint_read(c, 2, 0, all, t->n_bytes, &err));
    for (uint64_t at = 0; at < t->n_bytes; at += 61)
        for (uint64_t n = 1; at + n <= t->n_bytes; n = n * 3 + 1) {
            OK(mg_checkpoint_read(c, 2, at, part, n, &err));
            cr_assert_arr_eq(part, all + at, n);
        }
    cr_assert_eq(mg_checkpoint_read(c, 2, t->n_bytes, part, 1, NULL), MG_ERR_FORMAT);
    free(all);
    free(part);
    mg_checkpoint_free(c);
}

/* A plan over a plan reads the first one's inputs, and equal subtrees meet again. */
Test(plan, a_plan_over_a_plan_is_one_plan) {
    mg_checkpoint *c;
    mg_plan *outer;
    const mg_expr *e, *f;
    uint32_t out = add_gguf("m.gguf", MG_F16), out2;
    OK(mg_plan_checkpoint(plan, out, &c, &err));
    OK(mg_plan_new(&outer, &err));
    OK(mg_expr_source(outer, c, 2, &e, &err));
    OK(mg_expr_source(outer, c, 2, &f, &err));
    cr_assert_eq(e, f);
    cr_assert_eq(outer->n_inputs, 1);
    cr_assert_eq(outer->inputs[0], &mem->base);
    OK(mg_expr_cast(outer, e, MG_Q8_0, NULL, 0, &e, &err));
    OK(mg_plan_add_output(outer, MG_OUT_SAFETENSORS, in_dir("x.safetensors"), &out2, &err));
    OK(mg_plan_add_tensor(outer, out2, "f", f, &err));
    mg_exec_result r;
    OK(mg_plan_execute(outer, &options, &r, &err));
    mg_plan_free(outer);
    mg_checkpoint_free(c);
    cr_assert_eq(r.bytes_read, 2u * 96 * 64 * 2);
}

Test(plan, dry_run_numbers) {
    mg_json *j;
    uint64_t bytes;
    double bpw;
    uint32_t out = add_gguf("m.gguf", MG_Q8_0);
    OK(mg_plan_json(plan, out, &j, &err));
    cr_assert(mg_json_u64(mg_json_get(j, "bytes"), &bytes));
    cr_assert_eq(bytes, 3u * 96 * 2 * 34 + 64 * 4);
    cr_assert(mg_json_f64(mg_json_get(j, "bpw"), &bpw));
    cr_assert_float_eq(bpw, 8.0 * (double)bytes / (3 * 96 * 64 + 64), 1e-9);
    cr_assert_str_eq(mg_json_str(mg_json_get(mg_json_first(mg_json_get(j, "tensors")), "from")), "BF16");
    mg_json_free(j);
}
