/* chat.c - which format a template is, and a conversation written in it. */
#include "formats/chat.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/hash.h"
#include "formats/base/options.h"

enum {
    TRIM = 1,               /* white space around every content goes */
    TRIM_ASSISTANT = 2,     /* around the assistant's only */
    ALTERNATE = 4,          /* user, assistant, user ... after an optional first system message, else an exception */
    NO_SYSTEM = 8,          /* a system message is an exception */
    DROP_SYSTEM = 16,       /* system messages are left out */
    DROP_EMPTY_SYSTEM = 32, /* those without text are */
    FIRST_USER = 64,        /* the system text stands inside the first user message */
    LAST_USER = 128,        /* ... inside the last message, if it is the user's; else it is left out */
    SYSTEM_FIRST = 256,     /* only the first message may be the system's; others are not rendered here */
    NO_THINKING = 512, /* the template takes assistant messages with <think> apart, and a last one: not rendered here */
    NO_REPLY_TO_SELF = 1024, /* no reply is opened after an assistant message */
};

/* {bos} and {eos} in these texts stand for the tokenizer's tokens. */
struct mg_chat_format {
    const char *name;
    const char *start;
    const char *open[3], *close[3]; /* around a content, by role */
    const char *reply, *end;        /* last: when a reply is asked for, and when not */
    const char *default_system;     /* content of a system message before a conversation that has none; or NULL */
    unsigned flags;
};

static const mg_chat_format formats[] = {
#define MG_CHAT_FORMAT(name, start, so, sc, uo, uc, ao, ac, reply, end, system, flags)                                 \
    {name, start, {so, uo, ao}, {sc, uc, ac}, reply, end, system, flags},
#define MG_CHAT_TEXT(sha256, format, of)
#define MG_CHAT_MARK(a, b, format)
#include "formats/chats.inc"
#undef MG_CHAT_FORMAT
#undef MG_CHAT_TEXT
#undef MG_CHAT_MARK
};

static const struct {
    const char *sha256, *format;
} texts[] = {
#define MG_CHAT_FORMAT(...)
#define MG_CHAT_TEXT(sha256, format, of) {sha256, format},
#define MG_CHAT_MARK(a, b, format)
#include "formats/chats.inc"
#undef MG_CHAT_FORMAT
#undef MG_CHAT_TEXT
#undef MG_CHAT_MARK
};

static const struct {
    const char *a, *b, *format;
} marks[] = {
#define MG_CHAT_FORMAT(...)
#define MG_CHAT_TEXT(sha256, format, of)
#define MG_CHAT_MARK(a, b, format) {a, b, format},
#include "formats/chats.inc"
#undef MG_CHAT_FORMAT
#undef MG_CHAT_TEXT
#undef MG_CHAT_MARK
};

enum { N_FORMATS = sizeof formats / sizeof *formats, N_TEXTS = sizeof texts / sizeof *texts };
enum { N_MARKS = sizeof marks / sizeof *marks };

/* ---- recognising ---- */

const mg_chat_format *mg_chat_find(const char *name) {
    for (size_t i = 0; i < N_FORMATS; i++)
        if (strcmp(formats[i].name, name) == 0) return &formats[i];
    return NULL;
}

const char *mg_chat_name(const mg_chat_format *f) {
    return f->name;
}

/* Spellings that cannot matter made one: CR LF, the last line's end, and "\n" for a line's end inside a tag (outside it
 * is text). In place; returns the new length. */
static size_t canonical(char *s, size_t n) {
    size_t to = 0;
    bool tag = false;
    for (size_t i = 0; i < n; i++) {
        char next = i + 1 < n ? s[i + 1] : 0;
        if (s[i] == '\r' && next == '\n') continue;
        if (s[i] == '{' && (next == '{' || next == '%')) tag = true;
        if ((s[i] == '}' || s[i] == '%') && next == '}') tag = false;
        if (tag && s[i] == '\\' && next == 'n') {
            s[to++] = '\n';
            i++;
        } else if (tag && s[i] == '\\' && next) {
            s[to++] = s[i++];
            s[to++] = next;
        } else {
            s[to++] = s[i];
        }
    }
    return to && s[to - 1] == '\n' ? to - 1 : to;
}

static mg_status recognise(const mg_chat_format **f, const char *text, mg_error *err) {
    size_t n = strlen(text);
    char *copy = malloc(n + 1), hex[65];
    uint8_t digest[32];
    mg_sha256 sha;
    *f = NULL;
    if (!copy) return mg_fail_nomem(err, n);
    memcpy(copy, text, n + 1);
    mg_sha256_init(&sha);
    mg_sha256_update(&sha, copy, canonical(copy, n));
    mg_sha256_final(&sha, digest);
    mg_hex(digest, sizeof digest, hex);
    free(copy);
    for (size_t i = 0; i < N_TEXTS; i++)
        if (strcmp(texts[i].sha256, hex) == 0) *f = mg_chat_find(texts[i].format);
    return MG_OK;
}

static mg_status refuse(const char *text, mg_error *err) {
    const char *like = NULL;
    for (size_t i = 0; i < N_MARKS && !like; i++)
        if (strstr(text, marks[i].a) && strstr(text, marks[i].b)) like = marks[i].format;
    text += strspn(text, " \t\r\n");
    int line = (int)strcspn(text, "\r\n");
    if (line > 80) line = 80;
    if (!like)
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "the model's chat template is not one of those known here, and templates are not run: it begins "
                       "'%.*s'; --chat-template NAME takes a format by name",
                       line, text);
    return mg_fail(err, MG_ERR_UNSUPPORTED,
                   "the model's chat template is not one of those known here, and templates are not run: it begins "
                   "'%.*s' and looks like '%s'; --chat-template %s renders that",
                   line, text, like, like);
}

static mg_status by_name(const mg_chat_format **f, const char *name, mg_error *err) {
    const char *names[N_FORMATS + 1] = {0};
    *f = mg_chat_find(name);
    if (*f) return MG_OK;
    for (size_t i = 0; i < N_FORMATS; i++) names[i] = formats[i].name;
    const char *near = mg_nearest(name, names);
    char list[900] = "";
    for (size_t i = 0, at = 0; i < N_FORMATS && at < sizeof list - 40; i++)
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", names[i]);
    return mg_fail(err, MG_ERR_USAGE, "unknown chat format '%s'%s%s%s: there are %s", name,
                   near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "", list);
}

mg_status mg_chat_choose(const mg_chat_format **f, const char *text, const char *name, mg_error *err) {
    *f = NULL;
    if (name) return by_name(f, name, err);
    if (!text)
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "the model has no chat template; --chat-template NAME takes a format by name");
    MG_TRY(recognise(f, text, err));
    return *f ? MG_OK : refuse(text, err);
}

/* ---- writing ---- */

typedef struct writer {
    char *text;
    size_t n, cap;
    bool failed;
    const char *bos, *eos;
} writer;

static void put(writer *w, const char *s, size_t n) {
    if (w->failed) return;
    if (w->cap - w->n <= n) {
        size_t cap = (w->n + n + 64) * 2;
        char *p = realloc(w->text, cap);
        if (!p) {
            w->failed = true;
            return;
        }
        w->text = p;
        w->cap = cap;
    }
    memcpy(w->text + w->n, s, n);
    w->n += n;
    w->text[w->n] = 0;
}

/* A text of a format. */
static void put_format(writer *w, const char *s) {
    while (*s) {
        const char *brace = strchr(s, '{');
        bool bos = brace && strncmp(brace, "{bos}", 5) == 0, eos = brace && strncmp(brace, "{eos}", 5) == 0;
        if (!bos && !eos) {
            size_t n = brace ? (size_t)(brace - s) + 1 : strlen(s);
            put(w, s, n);
            s += n;
            continue;
        }
        put(w, s, (size_t)(brace - s));
        const char *token = bos ? w->bos : w->eos;
        put(w, token, strlen(token));
        s = brace + 5;
    }
}

/* Bytes of the white-space character at s, 0 for none: those that Python's str.strip() removes. */
static size_t space_at(const unsigned char *s) {
    if ((*s >= 9 && *s <= 13) || (*s >= 28 && *s <= 32)) return 1;
    if (s[0] == 0xC2 && (s[1] == 0x85 || s[1] == 0xA0)) return 2;
    if (s[0] == 0xE1 && s[1] == 0x9A && s[2] == 0x80) return 3;
    if (s[0] == 0xE2 && s[1] == 0x80 &&
        ((s[2] >= 0x80 && s[2] <= 0x8A) || s[2] == 0xA8 || s[2] == 0xA9 || s[2] == 0xAF))
        return 3;
    if (s[0] == 0xE2 && s[1] == 0x81 && s[2] == 0x9F) return 3;
    return s[0] == 0xE3 && s[1] == 0x80 && s[2] == 0x80 ? 3 : 0;
}

static void put_stripped(writer *w, const char *s, size_t n) {
    size_t k;
    while (n && (k = space_at((const unsigned char *)s)) > 0 && k <= n) {
        s += k;
        n -= k;
    }
    for (bool more = true; more;) {
        more = false;
        for (size_t b = 1; b <= 3 && b <= n && !more; b++)
            if (space_at((const unsigned char *)s + n - b) == b) {
                n -= b;
                more = true;
            }
    }
    put(w, s, n);
}

/* A system message at i: where it may stand. */
static mg_status check_system(const mg_chat_format *f, size_t i, mg_error *err) {
    if (i > 0 && (f->flags & (SYSTEM_FIRST | ALTERNATE)))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "message %zu: a system message that is not the first", i + 1);
    if (f->flags & NO_SYSTEM) return mg_fail(err, MG_ERR_FORMAT, "this chat template takes no system message");
    return MG_OK;
}

static mg_status check_thinking(const mg_chat *c, size_t i, mg_error *err) {
    const mg_chat_message *m = &c->messages[i];
    bool last = i + 1 == c->n, thinks = strstr(m->content, "<think>") || strstr(m->content, "</think>");
    if (m->role != MG_CHAT_ASSISTANT || !(last || thinks)) return MG_OK;
    return mg_fail(
        err, MG_ERR_UNSUPPORTED,
        "message %zu: this chat template takes an assistant's thoughts, and a last assistant message, apart, "
        "which is not built",
        i + 1);
}

static mg_status check_roles(const mg_chat_format *f, const mg_chat *c, mg_error *err) {
    size_t system = c->messages[0].role == MG_CHAT_SYSTEM;
    for (size_t i = 0; i < c->n; i++) {
        mg_chat_role role = c->messages[i].role;
        if (role == MG_CHAT_SYSTEM)
            MG_TRY(check_system(f, i, err));
        else if ((f->flags & ALTERNATE) && role != ((i - system) % 2 == 0 ? MG_CHAT_USER : MG_CHAT_ASSISTANT))
            return mg_fail(err, MG_ERR_FORMAT, "message %zu: this chat template takes user and assistant in turn",
                           i + 1);
        if (f->flags & NO_THINKING) MG_TRY(check_thinking(c, i, err));
    }
    if (c->n == system && (f->flags & (FIRST_USER | LAST_USER)))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "a conversation without a user message");
    return MG_OK;
}

/* One message; inside: the system text that stands in front of its content, or NULL. */
static mg_status put_message(writer *w, const mg_chat_format *f, const mg_chat_message *m, const char *inside,
                             mg_error *err) {
    bool trim = (f->flags & TRIM) || (m->role == MG_CHAT_ASSISTANT && (f->flags & TRIM_ASSISTANT));
    writer part = {.bos = w->bos, .eos = w->eos};
    if (inside) {
        put_format(&part, f->open[MG_CHAT_SYSTEM]);
        put(&part, inside, strlen(inside));
        put_format(&part, f->close[MG_CHAT_SYSTEM]);
    }
    put(&part, m->content, strlen(m->content));
    put_format(w, f->open[m->role]);
    if (!part.failed && trim)
        put_stripped(w, part.text, part.n);
    else if (!part.failed)
        put(w, part.text, part.n);
    put_format(w, f->close[m->role]);
    free(part.text);
    return part.failed ? mg_fail_nomem(err, part.n) : MG_OK;
}

static mg_status put_messages(writer *w, const mg_chat_format *f, const mg_chat *c, mg_error *err) {
    const mg_chat_message *m = c->messages;
    const bool folds = f->flags & (FIRST_USER | LAST_USER), system = m[0].role == MG_CHAT_SYSTEM;
    const size_t from = folds && system;
    if (!system && f->default_system) {
        const mg_chat_message given = {MG_CHAT_SYSTEM, f->default_system};
        MG_TRY(put_message(w, f, &given, NULL, err));
    }
    for (size_t i = from; i < c->n; i++) {
        if (m[i].role == MG_CHAT_SYSTEM &&
            ((f->flags & DROP_SYSTEM) || ((f->flags & DROP_EMPTY_SYSTEM) && !m[i].content[0])))
            continue;
        bool here = m[i].role == MG_CHAT_USER && i == ((f->flags & FIRST_USER) ? from : c->n - 1);
        MG_TRY(put_message(w, f, &m[i], from && here ? m[0].content : NULL, err));
    }
    return MG_OK;
}

static const char *token_text(const mg_tokenizer *t, int32_t id) {
    const mg_token *k = id >= 0 ? mg_tokenizer_token(t, id) : NULL;
    return k ? k->text : "";
}

mg_status mg_chat_render(char **out, const mg_chat_format *f, const mg_chat *c, const mg_tokenizer *tok, bool reply,
                         mg_error *err) {
    writer w = {.bos = token_text(tok, mg_tokenizer_bos(tok)), .eos = token_text(tok, mg_tokenizer_eos(tok))};
    *out = NULL;
    if (c->n == 0) return mg_fail(err, MG_ERR_FORMAT, "a conversation without messages");
    MG_TRY(check_roles(f, c, err));
    if (c->messages[c->n - 1].role == MG_CHAT_ASSISTANT && (f->flags & NO_REPLY_TO_SELF)) reply = false;
    put(&w, "", 0);
    put_format(&w, f->start);
    mg_status st = put_messages(&w, f, c, err);
    put_format(&w, reply ? f->reply : f->end);
    if (st == MG_OK && w.failed) st = mg_fail_nomem(err, w.n);
    if (st != MG_OK) {
        free(w.text);
        return st;
    }
    *out = w.text;
    return MG_OK;
}
