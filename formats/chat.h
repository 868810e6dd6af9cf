/* chat.h - conversations as the text a model was trained on. Chat templates are programs (Jinja) that travel with a
 * model; here none is ever run. A template whose text is known (chats.inc) is rendered by a format of ours that gives
 * the same bytes; any other is refused, and a format can be named instead. */
#ifndef MG_FORMATS_CHAT_H
#define MG_FORMATS_CHAT_H

#include "formats/checkpoint.h"
#include "formats/tokenizer.h"

typedef struct mg_chat_format mg_chat_format;

typedef enum mg_chat_role { MG_CHAT_SYSTEM, MG_CHAT_USER, MG_CHAT_ASSISTANT } mg_chat_role;

typedef struct mg_chat_message {
    mg_chat_role role;
    const char *content;
} mg_chat_message;

typedef struct mg_chat {
    mg_json *json; /* owns the texts */
    mg_chat_message *messages;
    size_t n;
} mg_chat;

/* A file [{"role": "system" | "user" | "assistant", "content": TEXT}, ...], or {"messages": such a list}.
 * MG_ERR_FORMAT: it is none, or empty; MG_ERR_UNSUPPORTED: other roles, members (tool calls) or contents (images).
 * Release in every case. */
mg_status mg_chat_load(mg_chat *c, const char *path, mg_error *err) MG_MUST_CHECK;
void mg_chat_release(mg_chat *c);

/* Text of the model's chat template: a GGUF's key, else chat_template.jinja, else tokenizer_config.json (of several the
 * one called "default"). malloc'ed; NULL when the model has none. */
mg_status mg_chat_template_model(char **text, const mg_checkpoint *c, mg_error *err) MG_MUST_CHECK;
/* The same for PATH as mg_tokenizer_open_path takes it. */
mg_status mg_chat_template_path(char **text, const char *path, mg_error *err) MG_MUST_CHECK;

/* The format by name ("chatml"): NULL when there is none. */
const mg_chat_format *mg_chat_find(const char *name);
const char *mg_chat_name(const mg_chat_format *f);
/* The format whose output is that of the template. name (may be NULL): take this one instead, text is not looked at.
 * MG_ERR_USAGE: unknown name; MG_ERR_UNSUPPORTED: text NULL, or not known: the message has its first line, and the
 * format that it looks like. */
mg_status mg_chat_choose(const mg_chat_format **f, const char *text, const char *name, mg_error *err) MG_MUST_CHECK;

/* Text of a conversation: malloc'ed, NUL-terminated. tok supplies the texts of BOS and EOS. reply: end with what comes
 * before the model's answer (transformers' add_generation_prompt). MG_ERR_FORMAT where the template raises an exception
 * (roles that must alternate); MG_ERR_UNSUPPORTED: conversations that the format does not render as the template would.
 */
mg_status mg_chat_render(char **out, const mg_chat_format *f, const mg_chat *c, const mg_tokenizer *tok, bool reply,
                         mg_error *err) MG_MUST_CHECK;

#endif
