/* tool_tokenize.c - text to token ids as the model's own tokenizer makes them, and back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/base/options.h"
#include "formats/chat.h"
#include "formats/tokenizer.h"

enum { MAX_INPUT = 1 << 29 };

static const mg_tool_info tool = {"tokenize", "token ids as the model's own tokenizer makes them",
                                  "PATH --text S | --file F | --chat F.json\nPATH --decode 1,2,3",
                                  "  moegraft-tokenize samples/donors/base --text 'the quick brown fox'\n"
                                  "  moegraft-tokenize moe4-Q4_K_M.gguf --file samples/text/prose.txt --json\n"
                                  "  moegraft-tokenize models/instruct --chat talk.json --json\n"
                                  "  moegraft-tokenize samples/donors/base --decode 1,439,270\n",
                                  NULL};

typedef struct arguments {
    const char *path, *text, *file, *decode, *chat, *format;
    bool no_special, json, no_reply, quiet;
} arguments;

static mg_status parse(arguments *a, int argc, char **argv, bool *done, mg_error *err) {
    const mg_opt opts[] = {
        {"--text", MG_OPT_STR, &a->text, "S", "the text itself"},
        {"--file", MG_OPT_STR, &a->file, "F", "a file whose whole content is the text ('-': standard input)"},
        {"--decode", MG_OPT_STR, &a->decode, "IDS", "comma-separated token ids to turn into text"},
        {"--no-special", MG_OPT_FLAG, &a->no_special, NULL,
         "no BOS or EOS added, '<s>' in the text is three characters; with --decode: leave special tokens out"},
        {"--json", MG_OPT_FLAG, &a->json, NULL, "{\"ids\": [...], \"pieces\": [...]} on stdout"},
        {"--chat", MG_OPT_STR, &a->chat, "F.json",
         "a conversation [{\"role\": \"user\", \"content\": S}, ...] as the model's chat template writes it"},
        {"--chat-template", MG_OPT_STR, &a->format, "NAME",
         "this chat format instead of the model's (chatml, llama3 ...)"},
        {"--no-reply", MG_OPT_FLAG, &a->no_reply, NULL, "with --chat: do not open the model's answer at the end"},
        MG_QUIET_OPT(a->quiet),
        {0},
    };
    mg_opt_list pos = {0};
    mg_status s = mg_options_parse(&tool, opts, argc, argv, &pos, done, err);
    if (!s && !*done) {
        int given = (a->text != NULL) + (a->file != NULL) + (a->decode != NULL) + (a->chat != NULL);
        if (pos.n != 1 || given != 1)
            s = mg_fail(err, MG_ERR_USAGE, "expected one PATH and one of --text, --file, --chat, --decode");
        else if (!a->chat && (a->format || a->no_reply))
            s = mg_fail(err, MG_ERR_USAGE, "--chat-template and --no-reply belong to --chat");
        a->path = pos.n ? pos.items[0] : NULL;
    }
    mg_opt_list_release(&pos);
    return s;
}

/* "1, 2,3": every id a number that fits int32. */
static mg_status parse_ids(const char *text, mg_ids *ids, mg_error *err) {
    mg_status s = MG_OK;
    while (*text && !s) {
        text += strspn(text, ", \t\n");
        size_t n = strcspn(text, ", \t\n");
        char word[32];
        uint64_t id = 0;
        if (n == 0) break;
        if (n >= sizeof word) return mg_fail(err, MG_ERR_USAGE, "--decode: '%.40s' is no token id", text);
        memcpy(word, text, n);
        word[n] = 0;
        s = mg_parse_u64(word, &id, err);
        if (!s && id > INT32_MAX) s = mg_fail(err, MG_ERR_USAGE, "--decode: '%s' is no token id", word);
        if (!s) s = mg_ids_push(ids, (int32_t)id, err);
        text += n;
    }
    return s;
}

static mg_status read_stdin(char **out, size_t *n, mg_error *err) {
    size_t cap = 0;
    *out = NULL;
    *n = 0;
    for (;;) {
        if (*n == cap) {
            char *p = realloc(*out, cap = cap * 2 + 65536);
            if (!p) return mg_fail_nomem(err, cap);
            *out = p;
        }
        size_t got = fread(*out + *n, 1, cap - *n, stdin);
        *n += got;
        if (*n > MAX_INPUT) return mg_fail(err, MG_ERR_LIMIT, "standard input is longer than 512 MiB");
        if (got == 0) return ferror(stdin) ? mg_fail_errno(err, "standard input") : MG_OK;
    }
}

static mg_status print_json(const mg_tokenizer *t, const mg_ids *ids, const char *text, const char *format,
                            mg_error *err) {
    mg_json *o = mg_json_new_object(), *list = mg_json_new_array(), *pieces = mg_json_new_array();
    for (size_t i = 0; i < ids->n; i++) {
        const mg_token *k = mg_tokenizer_token(t, ids->ids[i]);
        mg_json_push(list, mg_json_new_i64(ids->ids[i]));
        mg_json_push(pieces, mg_json_new_str(k ? k->text : ""));
    }
    mg_json_set(o, "ids", list);
    mg_json_set(o, "pieces", pieces);
    if (text) mg_json_set_str(o, "text", text);
    if (format) mg_json_set_str(o, "chat_format", format);
    char *out;
    mg_status s = mg_json_print(&out, o, 0, err);
    if (!s) {
        puts(out);
        free(out);
    }
    mg_json_free(o);
    return s;
}

static mg_status print_ids(const mg_ids *ids) {
    for (size_t i = 0; i < ids->n; i++) printf("%d%c", ids->ids[i], i + 1 < ids->n ? ' ' : '\n');
    return MG_OK;
}

static mg_status encode(const mg_tokenizer *t, const arguments *a, mg_error *err) {
    mg_ids ids = {0};
    char *text = NULL;
    size_t n = a->text ? strlen(a->text) : 0;
    mg_status s = MG_OK;
    if (a->file)
        s = strcmp(a->file, "-") == 0 ? read_stdin(&text, &n, err) : mg_file_slurp(a->file, MAX_INPUT, &text, &n, err);
    if (!s) s = mg_tokenizer_encode(t, a->text ? a->text : text, n, a->no_special ? 0 : MG_ENCODE_DEFAULT, &ids, err);
    if (!s) s = a->json ? print_json(t, &ids, NULL, NULL, err) : print_ids(&ids);
    if (!s && a->file && ids.n && !a->quiet)
        fprintf(stderr, "tokenize: %zu bytes, %zu tokens, %.3g bytes per token\n", n, ids.n, (double)n / (double)ids.n);
    free(text);
    mg_ids_release(&ids);
    return s;
}

/* The conversation as text, and which format that is. */
static mg_status render(const mg_tokenizer *t, const arguments *a, char **text, const char **format, mg_error *err) {
    mg_chat chat;
    const mg_chat_format *f = NULL;
    char *model = NULL;
    mg_status s = mg_chat_load(&chat, a->chat, err);
    if (!s && !a->format) s = mg_chat_template_path(&model, a->path, err);
    if (!s) s = mg_chat_choose(&f, model, a->format, err);
    if (!s) s = mg_chat_render(text, f, &chat, t, !a->no_reply, err);
    if (!s) *format = mg_chat_name(f);
    free(model);
    mg_chat_release(&chat);
    return s;
}

static mg_status encode_chat(const mg_tokenizer *t, const arguments *a, mg_error *err) {
    mg_ids ids = {0};
    char *text = NULL;
    const char *format = NULL;
    mg_status s = render(t, a, &text, &format, err);
    if (!s) s = mg_tokenizer_encode(t, text, strlen(text), a->no_special ? 0 : MG_ENCODE_SPECIAL, &ids, err);
    if (!s) s = a->json ? print_json(t, &ids, text, format, err) : print_ids(&ids);
    free(text);
    mg_ids_release(&ids);
    return s;
}

static mg_status decode(const mg_tokenizer *t, const arguments *a, mg_error *err) {
    mg_ids ids = {0};
    char *text = NULL;
    size_t n = 0;
    mg_status s = parse_ids(a->decode, &ids, err);
    if (!s) s = mg_tokenizer_decode(t, ids.ids, ids.n, a->no_special ? MG_DECODE_SKIP_SPECIAL : 0, &text, &n, err);
    if (!s && a->json) s = print_json(t, &ids, text, NULL, err);
    if (!s && !a->json) {
        fwrite(text, 1, n, stdout);
        putchar('\n');
    }
    free(text);
    mg_ids_release(&ids);
    return s;
}

int main(int argc, char **argv) {
    mg_error err = {0};
    arguments a = {0};
    mg_tokenizer *t = NULL;
    bool done = false;
    mg_status s = parse(&a, argc, argv, &done, &err);
    if (!s && !done) s = mg_tokenizer_open_path(&t, a.path, &err);
    if (!s && !done) s = a.decode ? decode(t, &a, &err) : a.chat ? encode_chat(t, &a, &err) : encode(t, &a, &err);
    mg_tokenizer_free(t);
    if (!s && fflush(stdout) != 0) s = mg_fail_errno(&err, "standard output");
    return s ? mg_tool_fail(&tool, &err) : 0;
}
