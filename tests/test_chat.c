/* test_chat.c - chat templates by their text, and every format against what transformers renders. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/chat.h"

static mg_json *golden(void) {
    mg_error err = {0};
    mg_json *root = NULL;
    cr_assert_eq(mg_json_load(&root, MG_TEST_DATA "/chat/chats.json", 1u << 22, &err), MG_OK, "%s", err.message);
    return root;
}

static mg_chat conversation(const mg_json *list) {
    mg_chat c = {.messages = calloc(mg_json_len(list), sizeof *c.messages)};
    for (const mg_json *m = mg_json_first(list); m; m = mg_json_next(m)) {
        const char *role = mg_json_str(mg_json_get(m, "role"));
        c.messages[c.n].role = *role == 's' ? MG_CHAT_SYSTEM : *role == 'u' ? MG_CHAT_USER : MG_CHAT_ASSISTANT;
        c.messages[c.n++].content = mg_json_str(mg_json_get(m, "content"));
    }
    return c;
}

static void compare(const mg_tokenizer *tok, const mg_chat_format *f, const mg_chat *c, bool reply, const mg_json *want,
                    const char *of, unsigned n) {
    mg_error err = {0};
    char *text = NULL;
    int64_t code = 0;
    mg_status st = mg_chat_render(&text, f, c, tok, reply, &err);
    if (mg_json_i64(want, &code)) {
        cr_expect_eq((int64_t)st, code, "%s, %u: %d instead of %d (%s)", of, n, (int)st, (int)code, text ? text : "");
    } else {
        cr_expect_eq(st, MG_OK, "%s, %u: %s", of, n, err.message);
        cr_expect_str_eq(text ? text : "(nothing)", mg_json_str(want), "%s, %u", of, n);
    }
    free(text);
}

Test(chat, formats_give_the_bytes_of_transformers) {
    mg_error err = {0};
    mg_tokenizer *tok = NULL;
    mg_json *root = golden();
    cr_assert_eq(mg_tokenizer_open_path(&tok, MG_SAMPLES "/donors/base", &err), MG_OK, "%s", err.message);
    unsigned compared = 0;
    for (const mg_json *t = mg_json_first(mg_json_get(root, "templates")); t; t = mg_json_next(t)) {
        const mg_chat_format *f = mg_chat_find(mg_json_str(mg_json_get(t, "format")));
        cr_assert(f, "%s", mg_json_str(mg_json_get(t, "format")));
        const mg_json *want = mg_json_first(mg_json_get(t, "expected"));
        const mg_json *list = mg_json_first(mg_json_get(root, "conversations"));
        for (unsigned i = 0; list; list = mg_json_next(list), i++) {
            mg_chat c = conversation(list);
            for (int reply = 0; reply < 2; reply++, want = mg_json_next(want), compared++)
                compare(tok, f, &c, reply, want, mg_json_str(mg_json_get(t, "of")), i);
            free(c.messages);
        }
    }
    cr_expect_geq(compared, 900u);
    mg_tokenizer_free(tok);
    mg_json_free(root);
}

/* The same text with CR LF line ends, with line ends written out inside tags, and with an end of the last line. */
static char *respelled(const char *text) {
    char *out = malloc(2 * strlen(text) + 3), *to = out;
    for (const char *s = text; *s; s++) {
        if (*s == '\n') *to++ = '\r';
        *to++ = *s;
    }
    strcpy(to, "\n");
    return out;
}

Test(chat, templates_are_known_by_their_text) {
    mg_json *root = golden();
    unsigned texts = 0;
    for (const mg_json *t = mg_json_first(mg_json_get(root, "templates")); t; t = mg_json_next(t)) {
        const char *text = mg_json_str(mg_json_get(t, "text")), *name = mg_json_str(mg_json_get(t, "format"));
        mg_error err = {0};
        const mg_chat_format *f = NULL;
        if (!text) continue;
        texts++;
        cr_expect_eq(mg_chat_choose(&f, text, NULL, &err), MG_OK, "%s", err.message);
        cr_expect_str_eq(f ? mg_chat_name(f) : "", name);
        if (text[strlen(text) - 1] == '\n') continue;
        char *again = respelled(text);
        cr_expect_eq(mg_chat_choose(&f, again, NULL, &err), MG_OK, "%s", err.message);
        cr_expect_str_eq(f ? mg_chat_name(f) : "", name);
        again[strlen(again) / 2] ^= 1; /* any other text is another program */
        cr_expect_eq(mg_chat_choose(&f, again, NULL, &err), MG_ERR_UNSUPPORTED);
        free(again);
    }
    cr_expect_geq(texts, 30u);
    mg_json_free(root);
}

Test(chat, a_line_end_may_be_written_out_inside_a_tag_only) {
    const mg_chat_format *f = NULL;
    mg_error err = {0};
    const char *written =
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
        "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' "
        "}}{% endif %}";
    const char *real = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
                       "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
                       "}}{% endif %}";
    cr_expect_eq(mg_chat_choose(&f, written, NULL, &err), MG_OK, "%s", err.message);
    cr_expect_eq(mg_chat_choose(&f, real, NULL, &err), MG_OK, "%s", err.message);
    cr_expect_str_eq(mg_chat_name(f), "chatml");
}

Test(chat, unknown_templates_are_refused_by_their_first_line) {
    static const struct {
        const char *text, *name;
        mg_status code;
        const char *say[2];
    } cases[] = {
        {"\n  {{ os.system('x') }}\nmore", NULL, MG_ERR_UNSUPPORTED, {"'{{ os.system('x') }}'", "not run"}},
        {"{# mine #}\n<|im_start|> <|im_end|>", NULL, MG_ERR_UNSUPPORTED, {"{# mine #}", "--chat-template chatml"}},
        {NULL, NULL, MG_ERR_UNSUPPORTED, {"no chat template", "--chat-template"}},
        {"", NULL, MG_ERR_UNSUPPORTED, {"not one of those", ""}},
        {NULL, "chatmal", MG_ERR_USAGE, {"did you mean 'chatml'", "zephyr"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mg_error err = {0};
        const mg_chat_format *f;
        cr_expect_eq(mg_chat_choose(&f, cases[i].text, cases[i].name, &err), cases[i].code, "case %zu", i);
        for (int k = 0; k < 2; k++) cr_expect(strstr(err.message, cases[i].say[k]), "case %zu: %s", i, err.message);
    }
}
