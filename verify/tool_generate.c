/* tool_generate.c - moegraft-generate: text through the reference pass, token by token with a cache. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/arch/arch_file.h"
#include "formats/base/json.h"
#include "formats/chat.h"
#include "verify/pareto.h"
#include "verify/sample.h"
#include "verify/score.h"
#include "verify/tool_model.h"

static const mg_tool_info tool = {
    .name = "generate",
    .summary = "continue a text with a model, through the reference forward pass",
    .synopsis = "PATH... --prompt S | --chat F.json [-n 64] [--temp 0] [--seed N]",
    .examples = "  moegraft-generate model/ --prompt 'Once upon a time' -n 100\n"
                "  moegraft-generate model-Q4_K_M.gguf --prompt 'def main' --temp 0.8 --seed 7\n"
                "  moegraft-generate model/ a.gguf b.gguf --prompt 'Once'      where do they part from the first\n",
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
         "keep up to SIZE of packed weights between tokens (codes as they are, others as F32), read the rest anew for "
         "each (default 1GiB)"},
        MG_COMMON_PROGRESS_OPTS(a->common),
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
    if (a->pos.n == 0) return mg_fail(err, MG_ERR_USAGE, "no model given");
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
    mg_progress *progress;
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
        mg_progress_add(w->progress, take, NULL);
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
        const uint64_t bad = mg_row_not_finite(w->logits, vocab);
        if (bad < vocab)
            return mg_fail(err, MG_ERR_FORMAT, "the logit of token %llu is not finite", (unsigned long long)bad);
        MG_TRY(mg_sampler_next(&w->sampler, w->logits, vocab, &id, err));
        if (is_end(w, id)) break;
        MG_TRY(mg_ids_push(&w->ids, id, err));
        MG_TRY(show(w, false, err));
    }
    return show(w, true, err);
}

static mg_json *ids_json(const mg_ids *ids, size_t from, size_t to) {
    mg_json *list = mg_json_new_array();
    for (size_t i = from; i < to; i++) mg_json_push(list, mg_json_new_i64(ids->ids[i]));
    return list;
}

/* The text of ids [0, n); the caller's. */
static mg_status text_of(const writer *w, size_t n, char **text, mg_error *err) {
    size_t bytes;
    return mg_tokenizer_decode(w->tok, w->ids.ids, n, MG_DECODE_SKIP_SPECIAL, text, &bytes, err);
}

static mg_status print_json(const writer *w, mg_error *err) {
    char *all;
    MG_TRY(text_of(w, w->ids.n, &all, err));
    mg_json *o = mg_json_new_object();
    mg_json_set_i64(o, "schema", 1);
    mg_json_set_str(o, "prompt", w->text);
    mg_json_set(o, "prompt_ids", ids_json(&w->ids, 0, w->prompt));
    mg_json_set(o, "ids", ids_json(&w->ids, w->prompt, w->ids.n));
    mg_json_set_str(o, "text", all);
    mg_status st = mg_tool_print_json(o, err);
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

/* heading: NULL for the only model. While the text itself appears on a terminal no bar is drawn into it. */
static mg_status run_writer(writer *w, const char *heading, bool first, mg_error *err) {
    const mg_common *c = &w->a->common;
    const bool shown = c->progress == MG_PROGRESS_AUTO && !c->json && isatty(STDOUT_FILENO);
    const double start = mg_elapsed_seconds();
    MG_TRY(prepare(w, err));
    if (heading && !c->json) printf("%s%s:\n", first ? "" : "\n", heading);
    MG_TRY(mg_progress_new(&w->progress, shown ? MG_PROGRESS_NONE : c->progress, "generate", w->prompt + w->a->n, err));
    mg_progress_unit(w->progress, "tokens");
    mg_status st = write_text(w, err);
    mg_progress_free(w->progress);
    if (st != MG_OK || c->quiet) return st;
    char memory[MG_HUMAN_MAX];
    const double seconds = mg_elapsed_seconds() - start;
    fprintf(stderr, "generate: %zu tokens behind %zu of the prompt, %.3g s, peak memory %s\n", w->ids.n - w->prompt,
            w->prompt, seconds, mg_human_bytes(mg_peak_memory(), memory));
    return MG_OK;
}

/* ---- several models ---- */

/* What one of several wrote. */
typedef struct written {
    const char *path;
    uint64_t bytes, n_weights;
    mg_ids ids; /* prompt and text */
    size_t prompt;
    char *text, *shared_text; /* of all ids; of those that are the first model's too */
    size_t shared;            /* generated tokens that are the first model's, from the beginning */
    bool differs, pareto;     /* differs: behind them */
} written;

static mg_status take(written *o, const written *first, writer *w, mg_error *err) {
    mg_tool_model_size(w->t, &o->bytes, &o->n_weights);
    o->prompt = w->prompt;
    o->ids = w->ids;
    w->ids = (mg_ids){0};
    const size_t n = o->ids.n < first->ids.n ? o->ids.n : first->ids.n;
    size_t same = 0;
    while (same < n && o->ids.ids[same] == first->ids.ids[same]) same++;
    if (o->prompt != first->prompt || same < o->prompt)
        return mg_fail(err, MG_ERR_CONFLICT, "the prompt has other token ids than with '%s'", first->path);
    o->shared = same - o->prompt;
    o->differs = same < o->ids.n || same < first->ids.n;
    w->ids = o->ids; /* borrowed for their text */
    mg_status st = text_of(w, o->ids.n, &o->text, err);
    if (st == MG_OK) st = text_of(w, same, &o->shared_text, err);
    w->ids = (mg_ids){0};
    return st;
}

static mg_status results_json(const written *all, size_t n, const char *prompt, mg_error *err) {
    mg_json *root = mg_json_new_object(), *list = mg_json_new_array();
    mg_json_set_i64(root, "schema", 1);
    mg_json_set_str(root, "prompt", prompt);
    mg_json_set(root, "prompt_ids", ids_json(&all[0].ids, 0, all[0].prompt));
    for (size_t i = 0; i < n; i++) {
        const written *w = &all[i];
        mg_json *o = mg_json_new_object();
        mg_json_set_str(o, "path", w->path);
        mg_json_set_u64(o, "bytes", w->bytes);
        mg_json_set_f64(o, "bpw", w->n_weights ? 8 * (double)w->bytes / (double)w->n_weights : 0);
        mg_json_set(o, "ids", ids_json(&w->ids, w->prompt, w->ids.n));
        mg_json_set_str(o, "text", w->text);
        mg_json_set_u64(o, "shared", w->shared);
        mg_json_set_str(o, "shared_text", w->shared_text);
        mg_json_set(o, "first_difference", w->differs ? mg_json_new_u64(w->shared) : mg_json_new_null());
        mg_json_set_bool(o, "pareto", w->pareto);
        mg_json_push(list, o);
    }
    mg_json_set(root, "results", list);
    mg_status st = mg_tool_print_json(root, err);
    mg_json_free(root);
    return st;
}

static void print_table(const written *all, const mg_ranked *ranked, size_t n) {
    printf("\n  %12s %7s %7s %7s  (* no other is both smaller and longer with the first)\n", "bytes", "bits", "tokens",
           "shared");
    for (size_t i = 0; i < n; i++) {
        const written *o = &all[ranked[i].index];
        printf("%c %12llu %7.3f %7zu %7zu  %s", o->pareto ? '*' : ' ', (unsigned long long)o->bytes,
               o->n_weights ? 8 * (double)o->bytes / (double)o->n_weights : 0, o->ids.n - o->prompt, o->shared,
               o->path);
        if (o->differs)
            printf(": token %zu is the first that differs\n", o->shared);
        else
            puts(ranked[i].index ? ": the same" : "");
    }
}

static void rank(written *all, mg_ranked *ranked, size_t n) {
    for (size_t i = 0; i < n; i++)
        ranked[i] = (mg_ranked){.bytes = all[i].bytes, .figure = -(double)all[i].shared, .index = (uint32_t)i};
    mg_rank(ranked, (uint32_t)n);
    for (size_t i = 0; i < n; i++) all[ranked[i].index].pareto = ranked[i].pareto;
}

/* ---- the run ---- */

/* One model; out NULL: the only one. */
static mg_status run_model(const args *a, const char *path, written *out, const written *first, char **prompt,
                           mg_error *err) {
    mg_tool_model t = {0};
    mg_tool_pass pass = {0};
    writer w = {.a = a, .t = &t, .pass = &pass};
    mg_status st = mg_tool_model_open(&t, path, err);
    if (st == MG_OK) st = mg_tool_pass_new_keeping(&pass, &a->common, a->common.memory, err);
    if (st == MG_OK) st = run_writer(&w, out ? path : NULL, out == first, err);
    if (st == MG_OK && !out && a->common.json) st = print_json(&w, err);
    if (st == MG_OK && out && first == out && !(*prompt = strdup(w.text))) st = mg_fail_nomem(err, strlen(w.text));
    if (st == MG_OK && out) {
        out->path = path;
        st = take(out, first, &w, err);
        if (st != MG_OK) mg_error_at(err, path, NULL);
    }
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

static mg_status run_several(const args *a, mg_error *err) {
    const size_t n = a->pos.n;
    char *prompt = NULL;
    written *all = calloc(n, sizeof *all);
    mg_ranked *ranked = calloc(n, sizeof *ranked);
    mg_status st = all && ranked ? MG_OK : mg_fail_nomem(err, n * sizeof *all);
    for (size_t i = 0; st == MG_OK && i < n; i++) st = run_model(a, a->pos.items[i], &all[i], all, &prompt, err);
    if (st == MG_OK) rank(all, ranked, n);
    if (st == MG_OK && a->common.json)
        st = results_json(all, n, prompt, err);
    else if (st == MG_OK)
        print_table(all, ranked, n);
    for (size_t i = 0; all && i < n; i++) {
        mg_ids_release(&all[i].ids);
        free(all[i].text);
        free(all[i].shared_text);
    }
    free(all);
    free(ranked);
    free(prompt);
    return st;
}

int main(int argc, char **argv) {
    args a = {0};
    mg_error err = {0};
    mg_interrupt_install();
    mg_status st = parse(&a, argc, argv, &err);
    if (st == MG_OK && !a.done)
        st = a.pos.n == 1 ? run_model(&a, a.pos.items[0], NULL, NULL, NULL, &err) : run_several(&a, &err);
    mg_opt_list_release(&a.pos);
    mg_common_release(&a.common);
    return st == MG_OK ? 0 : mg_tool_fail(&tool, &err);
}
