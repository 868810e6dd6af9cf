/* tool_generate.c - moegraft-generate: text through the reference pass, token by token with a cache. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/arch/arch_file.h"
#include "formats/base/json.h"
#include "formats/chat.h"
#include "verify/sample.h"
#include "verify/tool_model.h"

static const mg_tool_info tool = {
    .name = "generate",
    .summary = "continue a text with a model, through the reference forward pass",
    .synopsis = "PATH --prompt S | --chat F.json [-n 64] [--temp 0] [--seed N]",
    .examples = "  moegraft-generate model/ --prompt 'Once upon a time' -n 100\n"
                "  moegraft-generate model-Q4_K_M.gguf --prompt 'def main' --temp 0.8 --seed 7\n",
    .next = "moegraft generate --help",
};

/* Tokens of a prompt that run at a time: bounds memory and changes no bits. */
enum { PREFILL = 1024 };

typedef struct args {
    mg_common common;
    mg_opt_list pos;
    const char *prompt, *chat, *format;
    uint64_t n, seed, top_k;
    double temp, top_p;
    bool done;
} args;

static mg_status parse(args *a, int argc, char **argv, mg_error *err) {
    const mg_opt opts[] = {
        {"--prompt,-p", MG_OPT_STR, &a->prompt, "S", "the text to continue"},
        {"--chat", MG_OPT_STR, &a->chat, "F.json",
         "answer a conversation [{\"role\": \"user\", \"content\": S}, ...], written as the model's chat template "
         "does"},
        {"--chat-template", MG_OPT_STR, &a->format, "NAME",
         "this chat format instead of the model's (chatml, llama3 ...)"},
        {"--n-predict,-n", MG_OPT_U64, &a->n, "N", "most tokens to add (default 64)"},
        {"--temp", MG_OPT_F64, &a->temp, "X", "temperature; 0 takes the most likely token (default 0)"},
        {"--seed", MG_OPT_U64, &a->seed, "N", "of the draws when --temp is above 0 (default 0)"},
        {"--top-k", MG_OPT_U64, &a->top_k, "K", "draw from the K most likely tokens only (default 0: all)"},
        {"--top-p", MG_OPT_F64, &a->top_p, "P", "draw from the smallest set with probability P only (default 1)"},
        MG_COMMON_MODEL_OPTS(a->common),
        {NULL, MG_OPT_GROUP, NULL, NULL, "Execution"},
        {"--threads,-t,-j", MG_OPT_U64, &a->common.threads, "N",
         "worker threads (default: cores allowed by affinity and cgroup)"},
        {"--memory", MG_OPT_SIZE, &a->common.memory, "SIZE",
         "keep up to SIZE of unpacked weights between tokens, read the rest anew for each (default 1GiB)"},
        MG_ARCH_OPT,
        MG_COMMON_JSON_OPT(a->common),
        {0}};
    mg_common_init(&a->common);
    a->common.memory = 1ull << 30;
    a->n = 64;
    a->top_p = 1;
    MG_TRY(mg_options_parse(&tool, opts, argc, argv, &a->pos, &a->done, err));
    if (a->done) return MG_OK;
    MG_TRY(mg_common_finish(&a->common, err));
    if (a->pos.n != 1) return mg_fail(err, MG_ERR_USAGE, "one model expected, %zu given", a->pos.n);
    if (!a->prompt == !a->chat) return mg_fail(err, MG_ERR_USAGE, "expected --prompt or --chat");
    if (a->format && !a->chat) return mg_fail(err, MG_ERR_USAGE, "--chat-template belongs to --chat");
    if (a->n > UINT32_MAX / 2) return mg_fail(err, MG_ERR_USAGE, "%llu tokens", (unsigned long long)a->n);
    return MG_OK;
}

/* A text under way. */
typedef struct writer {
    const args *a;
    const mg_tool_model *t;
    const mg_tool_pass *pass;
    mg_tokenizer *tok;
    mg_ids ids;
    const char *text; /* the prompt */
    char *rendered;   /* of a conversation: owns text */
    size_t prompt;    /* ids of the prompt */
    mg_kvcache *cache;
    mg_sampler sampler;
    float *x, *logits;
    size_t printed; /* bytes of the text that are on stdout */
} writer;

/* Bytes of s[0..n) without a character cut off at the end. */
static size_t whole_characters(const char *s, size_t n) {
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        const unsigned char c = (unsigned char)s[n - back];
        if ((c & 0xC0) == 0x80) continue; /* inside a character */
        const size_t need = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
        return need > back ? n - back : n;
    }
    return n;
}

static mg_status show(writer *w, bool last, mg_error *err) {
    char *text;
    size_t n;
    if (w->a->common.json) return MG_OK;
    MG_TRY(mg_tokenizer_decode(w->tok, w->ids.ids, w->ids.n, MG_DECODE_SKIP_SPECIAL, &text, &n, err));
    const size_t end = last ? n : whole_characters(text, n);
    if (end > w->printed) fwrite(text + w->printed, 1, end - w->printed, stdout);
    if (end > w->printed) w->printed = end;
    free(text);
    if (last) putchar('\n');
    fflush(stdout);
    return MG_OK;
}

/* Run ids [from, n) and leave the logits of the last in w->logits. */
static mg_status feed(writer *w, size_t from, mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(w->t->m, MG_K_HIDDEN);
    uint32_t take = 0;
    for (; from < w->ids.n; from += take) {
        take = (uint32_t)(w->ids.n - from < PREFILL ? w->ids.n - from : PREFILL);
        const mg_batch b = {.n_seqs = 1, .len = &take, .n_tokens = take};
        MG_TRY(mg_forward_run(w->pass->f, w->t->m, w->cache, &b, w->ids.ids + from, w->x, NULL, NULL, err));
    }
    return mg_forward_logits(w->pass->f, w->t->m, w->x + (take - 1u) * hidden, 1, w->logits, err);
}

/* Models that chat end a turn with a token of its own: listed beside EOS in generation_config.json, or a key of its own
 * in a GGUF. */
static bool is_end(const writer *w, int32_t id) {
    const mg_checkpoint *c = w->t->ckpt;
    const mg_json *v = mg_json_get(c->generation_config, "eos_token_id");
    uint64_t eot;
    int64_t one;
    if (id == mg_tokenizer_eos(w->tok) || (mg_json_i64(v, &one) && one == id)) return true;
    if (c->kv && mg_kv_u64(mg_kvs_get(c->kv, "tokenizer.ggml.eot_token_id"), &eot) && eot == (uint64_t)id) return true;
    for (v = v && mg_json_type(v) == MG_JSON_ARRAY ? mg_json_first(v) : NULL; v; v = mg_json_next(v))
        if (mg_json_i64(v, &one) && one == id) return true;
    return false;
}

static mg_status write_text(writer *w, mg_error *err) {
    const uint64_t vocab = mg_forward_vocab(w->t->m);
    size_t from = 0;
    MG_TRY(show(w, false, err));
    for (uint64_t i = 0; i < w->a->n; i++) {
        int32_t id;
        if (mg_interrupted()) return mg_fail(err, (mg_status)mg_interrupted(), "stopped by a signal");
        MG_TRY(feed(w, from, err));
        from = w->ids.n;
        MG_TRY(mg_sampler_next(&w->sampler, w->logits, vocab, &id, err));
        if (is_end(w, id)) break;
        MG_TRY(mg_ids_push(&w->ids, id, err));
        MG_TRY(show(w, false, err));
    }
    return show(w, true, err);
}

static mg_status print_json(const writer *w, mg_error *err) {
    mg_json *o = mg_json_new_object(), *prompt = mg_json_new_array(), *ids = mg_json_new_array();
    char *text, *all = NULL;
    size_t n;
    mg_json_set_i64(o, "schema", 1);
    mg_json_set_str(o, "prompt", w->text);
    for (size_t i = 0; i < w->ids.n; i++) mg_json_push(i < w->prompt ? prompt : ids, mg_json_new_i64(w->ids.ids[i]));
    mg_json_set(o, "prompt_ids", prompt);
    mg_json_set(o, "ids", ids);
    mg_status st = mg_tokenizer_decode(w->tok, w->ids.ids, w->ids.n, MG_DECODE_SKIP_SPECIAL, &all, &n, err);
    if (st == MG_OK) {
        mg_json_set_str(o, "text", all);
        st = mg_json_print(&text, o, 0, err);
    }
    if (st == MG_OK) {
        puts(text);
        free(text);
    }
    free(all);
    mg_json_free(o);
    return st;
}

/* Templates place BOS themselves. */
static mg_status set_prompt(writer *w, mg_error *err) {
    const mg_chat_format *f = NULL;
    mg_chat chat = {0};
    char *model = NULL;
    unsigned flags = MG_ENCODE_DEFAULT;
    mg_status st = MG_OK;
    w->text = w->a->prompt;
    if (w->a->chat) {
        flags = MG_ENCODE_SPECIAL;
        st = mg_chat_load(&chat, w->a->chat, err);
        if (st == MG_OK && !w->a->format) st = mg_chat_template_model(&model, w->t->ckpt, err);
        if (st == MG_OK) st = mg_chat_choose(&f, model, w->a->format, err);
        if (st == MG_OK) st = mg_chat_render(&w->rendered, f, &chat, w->tok, true, err);
        w->text = w->rendered;
    }
    free(model);
    mg_chat_release(&chat);
    return st == MG_OK ? mg_tokenizer_encode(w->tok, w->text, strlen(w->text), flags, &w->ids, err) : st;
}

static mg_status prepare(writer *w, mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(w->t->m, MG_K_HIDDEN), vocab = mg_forward_vocab(w->t->m);
    MG_TRY(mg_sampler_init(&w->sampler, w->a->temp, w->a->top_k, w->a->top_p, w->a->seed, err));
    MG_TRY(mg_tool_model_tokenizer(&w->tok, w->t, err));
    MG_TRY(set_prompt(w, err));
    w->prompt = w->ids.n;
    if (w->prompt == 0) return mg_fail(err, MG_ERR_USAGE, "the prompt has no tokens");
    MG_TRY(mg_kvcache_new(&w->cache, w->t->m, 1, w->prompt + w->a->n, err));
    const uint64_t rows = w->prompt < PREFILL ? w->prompt : PREFILL;
    w->x = malloc(rows * hidden * sizeof *w->x);
    w->logits = malloc(vocab * sizeof *w->logits);
    return w->x && w->logits ? MG_OK : mg_fail_nomem(err, (rows * hidden + vocab) * sizeof *w->x);
}

static mg_status run(const args *a, mg_error *err) {
    mg_tool_model t = {0};
    mg_tool_pass pass = {0};
    writer w = {.a = a, .t = &t, .pass = &pass};
    mg_status st = mg_tool_model_open(&t, a->pos.items[0], err);
    if (st == MG_OK) st = mg_tool_pass_new_keeping(&pass, &a->common, a->common.memory, err);
    if (st == MG_OK) st = prepare(&w, err);
    if (st == MG_OK) st = write_text(&w, err);
    if (st == MG_OK && a->common.json) st = print_json(&w, err);
    mg_sampler_release(&w.sampler);
    mg_kvcache_free(w.cache);
    mg_tokenizer_free(w.tok);
    mg_ids_release(&w.ids);
    free(w.rendered);
    free(w.x);
    free(w.logits);
    mg_tool_pass_free(&pass);
    mg_tool_model_close(&t);
    return st;
}

int main(int argc, char **argv) {
    args a = {0};
    mg_error err = {0};
    mg_interrupt_install();
    mg_status st = parse(&a, argc, argv, &err);
    if (st == MG_OK && !a.done) st = run(&a, &err);
    mg_opt_list_release(&a.pos);
    mg_common_release(&a.common);
    return st == MG_OK ? 0 : mg_tool_fail(&tool, &err);
}
