/* manifest.c - NAME.manifest.json: what was made of what, so that anyone with the inputs can make it again and compare.
 *
 * Deterministic: no times, host names, thread counts or paths. Its size does not depend on the hashes, so that it can
 * be declared with the set before the work starts and is committed with it. Format: docs/plan.md. */
#include "convert/lora.h"
#include "convert/plan_private.h"
#include "convert/stage_id.h"

#include "formats/base/file.h"
#include "mg_version.h"
#include "quant/variant.h"

#include <stdlib.h>
#include <string.h>

#define MANIFEST_SCHEMA 1

static const char zeros[] = "0000000000000000000000000000000000000000000000000000000000000000";

static mg_json *hex_or_zeros(const char *hex, size_t digits) {
    char text[65];
    memcpy(text, hex ? hex : zeros, digits);
    text[digits] = 0;
    return mg_json_new_str(text);
}

const char *mg_manifest_name(mg_plan *p, uint32_t out) {
    const mg_plan_output *o = p->outputs[out];
    return mg_arena_printf(&p->arena, "%s.manifest.json", o->kind == MG_OUT_HF_DIR ? "model" : o->base);
}

/* Last component of a path, a trailing slash ignored. */
static mg_json *base_name(const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t b = n;
    while (b > 0 && path[b - 1] != '/') b--;
    char text[512];
    size_t k = n - b < sizeof text - 1 ? n - b : sizeof text - 1;
    memcpy(text, path + b, k);
    text[k] = 0;
    return mg_json_new_str(text);
}

mg_status mg_manifest_edges(const char *dir, const char *name, uint64_t *file_size, char hex[33], mg_error *err) {
    enum { EDGE = 65536 };
    char path[4096];
    mg_file f;
    MG_TRY(mg_path_join(path, sizeof path, dir, name, err));
    MG_TRY(mg_file_open_pieces(&f, path, err));
    uint8_t *buf = malloc(2 * EDGE + sizeof f.size);
    if (!buf) {
        mg_file_close(&f);
        return mg_fail_nomem(err, 2 * EDGE);
    }
    uint64_t k = f.size < EDGE ? f.size : EDGE, size = f.size;
    mg_status st = mg_file_read(&f, 0, buf, k, err);
    if (st == MG_OK) st = mg_file_read(&f, size - k, buf + k, k, err);
    mg_file_close(&f);
    if (st == MG_OK) {
        memcpy(buf + 2 * k, &size, sizeof size);
        mg_xxh128 h = mg_xxh128_of(buf, (size_t)(2 * k) + sizeof size);
        mg_hex(h.bytes, sizeof h.bytes, hex);
    }
    free(buf);
    *file_size = size;
    return st;
}

static mg_status file_json(const char *dir, const char *name, mg_json **out, mg_error *err) {
    uint64_t size;
    char hex[33];
    MG_TRY(mg_manifest_edges(dir, name, &size, hex, err));
    *out = mg_json_new_object();
    mg_json_set_str(*out, "name", name);
    mg_json_set_u64(*out, "size", size);
    mg_json_set_str(*out, "edges_xxh3", hex);
    return MG_OK;
}

/* Small files beside the weights that say how a model computes and what its tokens are: stages go by them. */
static const char *const sides[] = {
    "config.json",           "adapter_config.json",     "params.json",       "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",     "merges.txt",
    "chat_template.jinja",   "chat_template.json"};

mg_status mg_manifest_side(const char *dir, const char *name, uint64_t *size, char hex[33], mg_error *err) {
    enum { SIDE_CAP = 256 << 20 };
    char path[4096], *data;
    size_t n;
    MG_TRY(mg_path_join(path, sizeof path, dir, name, err));
    MG_TRY(mg_file_slurp(path, SIDE_CAP, &data, &n, err));
    const mg_xxh128 h = mg_xxh128_of(data, n);
    mg_hex(h.bytes, sizeof h.bytes, hex);
    *size = n;
    free(data);
    return MG_OK;
}

static mg_status sides_json(const char *dir, mg_json *to, mg_error *err) {
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        char path[4096], hex[33];
        uint64_t size;
        MG_TRY(mg_path_join(path, sizeof path, dir, sides[i], err));
        if (!mg_path_exists(path) || mg_path_is_dir(path)) continue;
        MG_TRY(mg_manifest_side(dir, sides[i], &size, hex, err));
        mg_json *f = mg_json_new_object();
        mg_json_set_str(f, "name", sides[i]);
        mg_json_set_u64(f, "size", size);
        mg_json_set_str(f, "xxh3", hex);
        mg_json_push(to, f);
    }
    return MG_OK;
}

static mg_status input_json(const mg_checkpoint *c, mg_json **out, mg_error *err) {
    mg_json *files = mg_json_new_array();
    *out = mg_json_new_object();
    mg_json_set(*out, "name", base_name(c->path ? c->path : ""));
    if (mg_variant_is(c)) mg_json_set_str(*out, "stage", "folded");
    if (mg_stage_is(c)) mg_json_set_str(*out, "stage", "file");
    if (c->config && (mg_json_get(c->config, "quantization_config") || mg_json_get(c->config, "quantization")))
        mg_json_set_str(*out, "stage", "stored"); /* decoded, it would not say so */
    mg_json_set(*out, "files", files);
    for (uint32_t i = 0; c->dir && i < c->n_files; i++) {
        mg_json *f;
        MG_TRY(file_json(c->dir, c->files[i], &f, err));
        mg_json_push(files, f);
    }
    /* a recipe's folded model has no files either: its donors are inputs, and its folder is the base's */
    const bool adapter = c->n_files == 1 && mg_lora_is_file(c->files[0]);
    if (!c->dir || !c->n_files || !(c->config || adapter) || mg_stage_is(c)) return MG_OK;
    mg_json *beside = mg_json_new_array();
    mg_json_set(*out, "sides", beside);
    return sides_json(c->dir, beside, err);
}

static mg_json *tensor_json(const mg_plan *p, const mg_plan_output *o, uint32_t i, const mg_tensor_hash *hash) {
    const mg_plan_tensor *t = &o->tensors[i];
    mg_json *j = mg_json_new_object(), *shape = mg_json_new_array();
    for (uint32_t d = 0; d < t->e->t.rank; d++) mg_json_push(shape, mg_json_new_u64(t->e->t.shape[d]));
    mg_json_set_str(j, "name", t->name);
    mg_json_set_str(j, "dtype", mg_dtype_get(t->e->t.dtype)->name);
    mg_json_set(j, "shape", shape);
    mg_json_set_str(j, "file", o->files[t->file].name);
    mg_json_set_u64(j, "offset", t->offset);
    mg_json_set_u64(j, "bytes", t->e->t.n_bytes);
    mg_json_set(j, "recipe", mg_expr_json(t->recipe));
    if (p->hash_sources && t->recipe->op == MG_EX_CAST)
        mg_json_set(j, "source_xxh3", hex_or_zeros(t->source ? t->source : hash ? hash->source : NULL, 32));
    mg_json_set(j, "xxh3", hex_or_zeros(hash ? hash->xxh3 : NULL, 32));
    return j;
}

/* Small files are known before the work: their hash is of what will be written. */
static mg_json *output_file_json(const mg_plan_file *f, const char *sha256) {
    mg_json *j = mg_json_new_object();
    char hex[65];
    if (!f->weights) {
        mg_sha256 s;
        uint8_t digest[32];
        mg_sha256_init(&s);
        mg_sha256_update(&s, f->head, (size_t)f->head_size);
        mg_sha256_final(&s, digest);
        mg_hex(digest, sizeof digest, hex);
        sha256 = hex;
    }
    mg_json_set_str(j, "name", f->name);
    mg_json_set_u64(j, "size", f->size);
    mg_json_set(j, "sha256", hex_or_zeros(sha256, 64));
    return j;
}

/* One value per line at the outer levels, one line per item inside: diffable and compact. */
typedef struct text_buf {
    char *data;
    size_t n, cap;
    bool failed;
} text_buf;

static void put(text_buf *b, const char *s, size_t n) {
    if (b->failed) return;
    if (b->n + n + 1 > b->cap) {
        size_t cap = (b->n + n + 1) * 2;
        char *now = realloc(b->data, cap);
        if (!now) {
            b->failed = true;
            return;
        }
        b->data = now;
        b->cap = cap;
    }
    memcpy(b->data + b->n, s, n);
    b->n += n;
    b->data[b->n] = 0;
}

static void puts_to(text_buf *b, const char *s) {
    put(b, s, strlen(s));
}

static mg_status put_json(text_buf *b, mg_json *v, mg_error *err) {
    char *text = NULL;
    mg_status st = mg_json_print(&text, v, 0, err);
    if (st == MG_OK) puts_to(b, text);
    free(text);
    mg_json_free(v);
    return st;
}

static mg_status put_head(text_buf *b, const mg_plan_output *o, mg_error *err) {
    mg_json *head = mg_json_new_object();
    mg_json_set_i64(head, "schema", MANIFEST_SCHEMA);
    mg_json_set_str(head, "tool", "moegraft");
    mg_json_set_str(head, "version", MG_VERSION);
    mg_json_set_i64(head, "plan_version", MG_PLAN_VERSION);
    mg_json_set_str(head, "output", o->base);
    char *text = NULL;
    mg_status st = mg_json_print(&text, head, 0, err);
    if (st == MG_OK) put(b, text, strlen(text) - 1); /* without the closing brace */
    free(text);
    mg_json_free(head);
    return st;
}

/* ,\n"key":[\nitem,\nitem\n] */
static void open_list(text_buf *b, const char *key) {
    puts_to(b, ",\n\"");
    puts_to(b, key);
    puts_to(b, "\":[");
}

mg_status mg_manifest_text(mg_plan *p, uint32_t out, const mg_tensor_hash *hashes, const char (*file_sha256)[65],
                           char **text, mg_error *err) {
    mg_plan_output *o;
    MG_TRY(mg_plan_output_get(p, out, &o, err));
    MG_TRY(mg_plan_layout(p, err));
    text_buf b = {0};
    mg_json *item = NULL;
    mg_status st = put_head(&b, o, err);
    if (p->made) {
        puts_to(&b, ",\n\"made\":");
        puts_to(&b, p->made);
    }
    open_list(&b, "inputs");
    for (uint32_t i = 0; i < p->n_inputs && st == MG_OK; i++) {
        puts_to(&b, i ? ",\n" : "\n");
        st = input_json(p->inputs[i], &item, err);
        if (st == MG_OK)
            st = put_json(&b, item, err);
        else
            mg_json_free(item);
    }
    puts_to(&b, "\n]");
    open_list(&b, "files");
    for (uint32_t i = 0; i < o->n_files && st == MG_OK; i++) {
        puts_to(&b, i ? ",\n" : "\n");
        st = put_json(&b, output_file_json(&o->files[i], file_sha256 ? file_sha256[i] : NULL), err);
    }
    puts_to(&b, "\n]");
    open_list(&b, "tensors");
    for (uint32_t i = 0; i < o->n_tensors && st == MG_OK; i++) {
        puts_to(&b, i ? ",\n" : "\n");
        st = put_json(&b, tensor_json(p, o, i, hashes ? &hashes[i] : NULL), err);
    }
    puts_to(&b, "\n]}\n");
    if (st == MG_OK && b.failed) st = mg_fail_nomem(err, b.cap);
    if (st != MG_OK) {
        free(b.data);
        return st;
    }
    *text = b.data;
    return MG_OK;
}
