/* route_view.c - see route_view.h. */
#include "verify/route_view.h"

#include <string.h>

#include "formats/base/utf8.h"

#define LABEL         10u /* columns before the text: "layer 31  " */
#define DEFAULT_WIDTH 100u
#define LOADS_PER_ROW 10u

unsigned mg_expert_name(uint32_t expert, char buf[MG_EXPERT_NAME]) {
    char back[MG_EXPERT_NAME];
    unsigned n = 0;
    for (uint64_t e = (uint64_t)expert + 1; e > 0; e = (e - 1) / 26) back[n++] = (char)('A' + (e - 1) % 26);
    for (unsigned i = 0; i < n; i++) buf[i] = back[n - 1 - i];
    buf[n] = 0;
    return n;
}

/* ---- one token's text ---- */

/* Columns a terminal gives a character: 0 for marks that sit on the one before, 2 for the wide scripts and pictures. */
static unsigned columns(uint32_t c) {
    static const uint32_t none[][2] = {{0x300, 0x36F}, {0xFE00, 0xFE0F}};
    static const uint32_t wide[][2] = {{0x1100, 0x115F}, {0x2E80, 0xA4CF},   {0xAC00, 0xD7A3},
                                       {0xF900, 0xFAFF}, {0xFE30, 0xFE6F},   {0xFF00, 0xFF60},
                                       {0xFFE0, 0xFFE6}, {0x1F300, 0x1FAFF}, {0x20000, 0x3FFFD}};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        if (c >= none[i][0] && c <= none[i][1]) return 0;
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        if (c >= wide[i][0] && c <= wide[i][1]) return 2;
    return 1;
}

/* Characters that move the cursor or reorder text. */
static bool steers(uint32_t c) {
    return c < 0x20 || (c >= 0x7F && c < 0xA0) || (c >= 0x200B && c <= 0x200F) || (c >= 0x2028 && c <= 0x202E) ||
           (c >= 0x2060 && c <= 0x2069) || c == 0xFEFF;
}

static unsigned put_escape(FILE *to, uint32_t c) {
    char buf[16];
    int n = c == '\n'   ? snprintf(buf, sizeof buf, "\\n")
            : c == '\t' ? snprintf(buf, sizeof buf, "\\t")
            : c < 0x100 ? snprintf(buf, sizeof buf, "\\x%02X", (unsigned)c)
                        : snprintf(buf, sizeof buf, "\\u%04X", (unsigned)c);
    if (to) fputs(buf, to);
    return (unsigned)n;
}

/* Write s[0..n) (to may be NULL) and return its columns. A blank is U+2581 in a vocabulary. */
static unsigned put_text(FILE *to, const char *s, size_t n) {
    unsigned width = 0;
    for (size_t at = 0; at < n;) {
        uint32_t c;
        const size_t k = mg_utf8_decode((const uint8_t *)s + at, n - at, &c);
        if (k == 0) {
            width += put_escape(to, (uint8_t)s[at++]);
            continue;
        }
        if (c == 0x2581) {
            if (to) putc(' ', to);
            width++;
        } else if (steers(c)) {
            width += put_escape(to, c);
        } else {
            if (to) fwrite(s + at, 1, k, to);
            width += columns(c);
        }
        at += k;
    }
    return width;
}

/* The byte of a byte token "<0x0A>", -1 for any other. */
static int byte_of(const mg_token *t) {
    unsigned b;
    return t && t->type == MG_TOKEN_BYTE && sscanf(t->text, "<0x%2X>", &b) == 1 ? (int)b : -1;
}

unsigned mg_route_view_token(const mg_route_view *v, FILE *to, uint64_t i) {
    const int32_t id = v->windows->ids[i];
    const mg_token *t = v->tok ? mg_tokenizer_token(v->tok, id) : NULL;
    char buf[16];
    if (byte_of(t) >= 0) {
        buf[0] = (char)byte_of(t);
        return put_text(to, buf, 1);
    }
    if (t) return put_text(to, t->text, t->len);
    return put_text(to, buf, (size_t)snprintf(buf, sizeof buf, " %d", id));
}

/* ---- lines ---- */

typedef struct cell {
    unsigned width, lead, text; /* columns in all, before the letter, of the text */
} cell;

static cell measure(const mg_route_view *v, uint64_t i) {
    const mg_token *t = v->tok ? mg_tokenizer_token(v->tok, v->windows->ids[i]) : NULL;
    char name[MG_EXPERT_NAME];
    const unsigned letters = mg_expert_name(v->routes->experts - 1, name);
    cell c = {.text = mg_route_view_token(v, NULL, i)};
    const bool blank = !v->tok || (t && t->len > 3 && !memcmp(t->text, "\xE2\x96\x81", 3));
    c.lead = blank ? 1 : 0;
    /* names of more than one letter need a gap between them */
    const unsigned need = c.lead + letters + (letters > 1);
    c.width = c.text > need ? c.text : need;
    return c;
}

bool mg_route_view_ends_line(const mg_route_view *v, uint64_t i) {
    const mg_token *t = v->tok ? mg_tokenizer_token(v->tok, v->windows->ids[i]) : NULL;
    return byte_of(t) == '\n' || (t && t->len && t->text[t->len - 1] == '\n');
}

static void colour(const mg_route_view *v, FILE *to, int64_t expert) {
    if (!v->colour) return;
    if (expert < 0)
        fputs("\033[0m", to);
    else
        fprintf(to, "\033[%d;%dm", (expert / 6) % 2 ? 1 : 0, (int)(31 + expert % 6));
}

static void blanks(FILE *to, unsigned n) {
    fprintf(to, "%*s", (int)n, "");
}

/* Letters of one line: by layer index, or the majority for layers beyond. */
static void put_letters(const mg_route_view *v, FILE *to, uint32_t layer, uint64_t from, uint64_t end) {
    const mg_routes *r = v->routes;
    unsigned owed = 0; /* blanks not written yet, so that no line ends in them */
    if (layer < r->n_layers)
        fprintf(to, "layer %-*u", (int)LABEL - 6, r->layers[layer].layer);
    else
        fprintf(to, "%-*s", (int)LABEL, "majority");
    for (uint64_t i = from; i < end; i++) {
        char name[MG_EXPERT_NAME];
        if (v->hide && v->hide[i]) continue;
        const cell c = measure(v, i);
        const uint32_t e = layer < r->n_layers ? r->layers[layer].expert[i * r->k] : r->majority[i];
        const unsigned n = mg_expert_name(e, name);
        blanks(to, owed + c.lead);
        colour(v, to, e);
        fputs(name, to);
        colour(v, to, -1);
        owed = c.width - c.lead - n;
    }
    putc('\n', to);
}

static void put_line(const mg_route_view *v, FILE *to, uint64_t from, uint64_t end) {
    const mg_routes *r = v->routes;
    unsigned owed = LABEL;
    for (uint64_t i = from; i < end; i++) {
        if (v->hide && v->hide[i]) continue;
        const cell c = measure(v, i);
        blanks(to, owed);
        colour(v, to, r->majority[i]);
        mg_route_view_token(v, to, i);
        colour(v, to, -1);
        owed = c.width - c.text;
    }
    putc('\n', to);
    for (uint32_t l = 0; l < r->n_layers + (r->n_layers > 1); l++) put_letters(v, to, l, from, end);
    putc('\n', to);
}

void mg_route_view_tokens(const mg_route_view *v, FILE *to) {
    const unsigned most = v->width ? v->width : DEFAULT_WIDTH;
    uint64_t from = 0;
    unsigned width = LABEL;
    bool any = false; /* something to show since from */
    for (uint64_t i = 0; i < v->routes->n; i++) {
        if (v->hide && v->hide[i]) continue;
        const unsigned w = measure(v, i).width;
        if (any && width + w > most) {
            put_line(v, to, from, i);
            from = i;
            width = LABEL;
        }
        any = true;
        width += w;
        if (mg_route_view_ends_line(v, i)) {
            put_line(v, to, from, i + 1);
            from = i + 1;
            width = LABEL;
            any = false;
        }
    }
    if (any) put_line(v, to, from, v->routes->n);
}

static void put_shares(FILE *to, const double *share, uint32_t from, uint32_t end) {
    for (uint32_t e = from; e < end; e++) fprintf(to, " %5.1f %%", 100 * share[e]);
    putc('\n', to);
}

void mg_route_view_loads(const mg_route_view *v, FILE *to) {
    const mg_routes *r = v->routes;
    fprintf(to, "%llu tokens, %u of %u experts each. Loads: share of the choices; majority: share of the tokens.\n",
            (unsigned long long)r->counted, r->k, r->experts);
    for (uint32_t from = 0; from < r->experts; from += LOADS_PER_ROW) {
        const uint32_t end = r->experts - from < LOADS_PER_ROW ? r->experts : from + LOADS_PER_ROW;
        blanks(to, LABEL);
        for (uint32_t e = from; e < end; e++) {
            char name[MG_EXPERT_NAME];
            mg_expert_name(e, name);
            fprintf(to, " %7s", name);
        }
        putc('\n', to);
        for (uint32_t l = 0; l < r->n_layers; l++) {
            fprintf(to, "layer %-*u", (int)LABEL - 6, r->layers[l].layer);
            put_shares(to, r->layers[l].load, from, end);
        }
        fprintf(to, "%-*s", (int)LABEL, "majority");
        put_shares(to, r->majority_share, from, end);
    }
}
