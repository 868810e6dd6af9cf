/* side_files.c - copying and comparing what lies beside the weights. */
#include "convert/side_files.h"

#include "formats/base/file.h"
#include "formats/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#define MAX_SIDE_FILE (256u << 20) /* the cap of tokenizer files */

static const char *const names[] = {
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json",     "merges.txt",      "chat_template.jinja",   "chat_template.json",      "generation_config.json",
};

static mg_status copy_one(mg_plan *p, uint32_t out, const char *path, const char *name, mg_error *err) {
    char *data;
    size_t n;
    MG_TRY(mg_file_slurp(path, MAX_SIDE_FILE, &data, &n, err));
    mg_status st = mg_plan_add_side_file(p, out, name, data, n, err);
    free(data);
    return st;
}

mg_status mg_side_files_copy(mg_plan *p, uint32_t out, const char *dir, bool *had_tokenizer, mg_error *err) {
    if (had_tokenizer) *had_tokenizer = false;
    for (size_t i = 0; dir && i < sizeof names / sizeof *names; i++) {
        char path[4096];
        MG_TRY(mg_path_join(path, sizeof path, dir, names[i], err));
        if (!mg_path_exists(path)) continue;
        MG_TRY(copy_one(p, out, path, names[i], err));
        if (had_tokenizer && i < 2) *had_tokenizer = true;
    }
    return MG_OK;
}

/* ---- comparing tokenizers ---- */

static mg_status compare_tokens(const mg_tokenizer *a, const mg_tokenizer *b, const char *pa, const char *pb,
                                mg_error *err) {
    if (!a || !b) return MG_OK;
    if (mg_tokenizer_size(a) != mg_tokenizer_size(b))
        return mg_fail(err, MG_ERR_CONFLICT, "tokenizers differ: '%s' has %u tokens, '%s' has %u", pa,
                       mg_tokenizer_size(a), pb, mg_tokenizer_size(b));
    for (uint32_t i = 0; i < mg_tokenizer_size(a); i++) {
        const mg_token *x = mg_tokenizer_token(a, (int32_t)i), *y = mg_tokenizer_token(b, (int32_t)i);
        if (x->len != y->len || memcmp(x->text, y->text, x->len) != 0)
            return mg_fail(err, MG_ERR_CONFLICT, "tokenizers differ: token %u is '%s' in '%s' and '%s' in '%s'", i,
                           x->text, pa, y->text, pb);
    }
    return MG_OK;
}

mg_status mg_side_files_same_tokenizer(mg_checkpoint *a, mg_checkpoint *b, mg_error *err) {
    mg_tokenizer *x = NULL, *y = NULL;
    mg_status st = a->dir ? mg_tokenizer_open_dir(&x, a->dir, err) : MG_OK;
    if (st == MG_OK && b->dir) st = mg_tokenizer_open_dir(&y, b->dir, err);
    if (st == MG_OK) st = compare_tokens(x, y, a->path, b->path, err);
    mg_tokenizer_free(x);
    mg_tokenizer_free(y);
    return st;
}
