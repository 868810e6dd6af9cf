/* tool_inputs.c - see tool_inputs.h. */
#include "verify/tool_inputs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "verify/builtin_text.h"

/* ---- models and recordings ---- */

static mg_status open_input(mg_tool_input *i, const char *path, mg_error *err) {
    i->path = path;
    if (mg_path_is_recorded(path)) {
        MG_TRY(mg_recorded_open(&i->recorded, path, err));
    } else {
        MG_TRY(mg_tool_model_open(&i->model, path, err));
        mg_tool_model_size(&i->model, &i->bytes, &i->n_weights);
    }
    const mg_walk_source s = mg_tool_input_source(i);
    i->rows = mg_walk_rows(&s);
    return MG_OK;
}

/* A kind that is not understood is as good as none. */
static mg_status open_tokenizer(mg_tokenizer **out, const mg_tool_input *i, mg_error *err) {
    mg_error why = {0};
    mg_status st = mg_tokenizer_open_model(out, i->model.ckpt, &why);
    if (st == MG_OK || st == MG_ERR_UNSUPPORTED) return MG_OK;
    *err = why;
    mg_error_at(err, i->path, NULL);
    return st;
}

mg_status mg_tool_inputs_open(mg_tool_inputs *in, const mg_opt_list *paths, mg_error *err) {
    mg_windows_init(&in->windows);
    in->items = calloc(paths->n, sizeof *in->items);
    if (!in->items) return mg_fail_nomem(err, paths->n * sizeof *in->items);
    for (size_t i = 0; i < paths->n; i++) {
        mg_tool_input *o = &in->items[in->n++];
        MG_TRY(open_input(o, paths->items[i], err));
        if (!in->text && !o->recorded) in->text = o;
    }
    return in->text ? open_tokenizer(&in->tok, in->text, err) : MG_OK;
}

void mg_tool_inputs_release(mg_tool_inputs *in) {
    for (uint32_t i = 0; i < in->n; i++) {
        mg_tool_model_close(&in->items[i].model);
        mg_recorded_free(in->items[i].recorded);
    }
    free(in->items);
    mg_tokenizer_free(in->tok);
    mg_windows_release(&in->windows);
}

mg_walk_source mg_tool_input_source(const mg_tool_input *i) {
    return (mg_walk_source){.model = i->model.m, .recorded = i->recorded, .path = i->path};
}

/* ---- vocabularies ---- */

/* One tokenizer at a time beside the one of the text: they are large. */
mg_status mg_tool_inputs_tokenizers(mg_tool_inputs *in, mg_error *err) {
    for (uint32_t i = 0; i < in->n; i++) {
        mg_tool_input *o = &in->items[i];
        mg_tokenizer *tok = NULL;
        if (o == in->text) o->known = mg_vocab_known(in->tok);
        if (o->recorded || o == in->text) continue;
        MG_TRY(open_tokenizer(&tok, o, err));
        o->known = mg_vocab_known(tok);
        mg_status st = mg_tokenizer_compare(&o->tokenizer, in->tok, tok, mg_builtin_text, mg_builtin_text_size, err);
        mg_tokenizer_free(tok);
        if (st != MG_OK) mg_error_at(err, o->path, NULL);
        MG_TRY(st);
    }
    return MG_OK;
}

mg_status mg_tool_inputs_common(const mg_tool_inputs *in, const uint32_t *which, uint32_t n, uint64_t *ids,
                                mg_error *err) {
    mg_vocab_side *sides = calloc(n, sizeof *sides);
    const mg_tool_input *other = NULL; /* whose tokens mean something else */
    uint64_t rows = 0;
    bool equal = true;
    if (!sides) return mg_fail_nomem(err, n * sizeof *sides);
    for (uint32_t i = 0; i < n; i++) {
        const mg_tool_input *o = &in->items[which[i]];
        sides[i] = (mg_vocab_side){.path = o->path, .rows = o->rows, .known = o->known};
        equal = equal && (!rows || !o->rows || rows == o->rows);
        if (o->rows) rows = o->rows;
        if (o->tokenizer.tokens) other = o;
    }
    mg_status st = MG_OK;
    if (equal || !other) {
        st = mg_common_vocab(ids, sides, n, mg_windows_last_id(&in->windows), err);
    } else {
        st = mg_fail(
            err, MG_ERR_CONFLICT,
            "vocabularies differ: %llu rows of the output, and %llu tokens mean something else than in '%s', the "
            "first id %lld",
            (unsigned long long)other->rows, (unsigned long long)other->tokenizer.tokens, in->text->path,
            (long long)other->tokenizer.first);
        mg_error_at(err, other->path, NULL);
    }
    free(sides);
    return st;
}

/* ---- tokens ---- */

static mg_status hash_file(mg_sha256 *h, const char *path, mg_error *err) {
    char block[16384];
    mg_file f;
    MG_TRY(mg_file_open(&f, path, err));
    mg_status st = MG_OK;
    for (uint64_t at = 0, n = 0; st == MG_OK && at < f.size; at += n) {
        n = f.size - at < sizeof block ? f.size - at : sizeof block;
        st = mg_file_read(&f, at, block, n, err);
        if (st == MG_OK) mg_sha256_update(h, block, n);
    }
    mg_file_close(&f);
    return st;
}

/* Windows of the built-in text as of any other, except that it is short: where it is less than one window, that is made
 * as short. */
static mg_status builtin_windows(mg_tool_inputs *in, const mg_common *c, mg_error *err) {
    mg_tokenizer *tok;
    mg_ids ids = {0};
    MG_TRY(mg_tool_model_tokenizer(&tok, &in->text->model, err));
    mg_status st = mg_tokenizer_encode(tok, mg_builtin_text, mg_builtin_text_size, MG_ENCODE_BOS_EOS, &ids, err);
    const int64_t bos = mg_tokenizer_adds_bos(tok) ? mg_tokenizer_bos(tok) : -1;
    const uint64_t ctx = c->ctx < ids.n ? c->ctx : ids.n;
    if (st == MG_OK) st = mg_windows_add_text(&in->windows, ids.ids, ids.n, ctx, bos, err);
    mg_ids_release(&ids);
    mg_tokenizer_free(tok);
    return st;
}

/* What BOS the windows of a base file began with. Models that have no tokenizer say it in their config. */
static int64_t bos_of(const mg_tool_inputs *in) {
    if (in->tok) return mg_tokenizer_adds_bos(in->tok) ? mg_tokenizer_bos(in->tok) : -1;
    return in->text ? mg_hp_i(in->text->model.m, MG_K_BOS) : -1;
}

static mg_status recorded_windows(mg_tool_inputs *in, const mg_tool_input *from, mg_sha256 *h, mg_error *err) {
    const int64_t bos = mg_recorded_kind(from->recorded) == MG_ROWS_BASE ? bos_of(in) : -1;
    mg_status st = mg_recorded_windows(from->recorded, bos, &in->windows, err);
    if (st != MG_OK) mg_error_at(err, from->path, NULL);
    snprintf(in->text_name, sizeof in->text_name, "the tokens of %s", from->path);
    mg_sha256_update(h, in->windows.ids, in->windows.n_ids * sizeof *in->windows.ids);
    return st;
}

static mg_status given_windows(mg_tool_inputs *in, const mg_common *c, mg_sha256 *h, mg_error *err) {
    const mg_opt_list *lists[] = {&c->text, &c->tokens};
    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; i < lists[k]->n; i++) {
            const size_t at = strlen(in->text_name);
            snprintf(in->text_name + at, sizeof in->text_name - at, "%s%s", at ? ", " : "", lists[k]->items[i]);
            MG_TRY(hash_file(h, lists[k]->items[i], err));
        }
    if (in->text) return mg_tool_model_windows(&in->windows, &in->text->model, c, err);
    if (c->text.n) return mg_fail(err, MG_ERR_USAGE, "all are recorded: no tokenizer reads --text (leave it out)");
    for (size_t i = 0; i < c->tokens.n; i++) MG_TRY(mg_windows_add_token_file(&in->windows, c->tokens.items[i], err));
    return MG_OK;
}

mg_status mg_tool_inputs_windows(mg_tool_inputs *in, const mg_common *c, mg_error *err) {
    mg_sha256 h;
    uint8_t digest[32];
    const mg_tool_input *recorded = NULL;
    for (uint32_t i = 0; i < in->n && !recorded; i++)
        if (in->items[i].recorded) recorded = &in->items[i];
    mg_sha256_init(&h);
    if (c->text.n || c->tokens.n) {
        MG_TRY(given_windows(in, c, &h, err));
    } else if (recorded) {
        MG_TRY(recorded_windows(in, recorded, &h, err));
    } else {
        snprintf(in->text_name, sizeof in->text_name, "built-in text");
        mg_sha256_update(&h, mg_builtin_text, mg_builtin_text_size);
        MG_TRY(builtin_windows(in, c, err));
    }
    mg_sha256_final(&h, digest);
    mg_hex(digest, sizeof digest, in->text_sha256);
    return MG_OK;
}
