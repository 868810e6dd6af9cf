/* choices.c - see choices.h. */
#include "verify/choices.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "quant/math/f64.h"

#define MAX_BYTES (512u << 20)

const char *mg_choice_way_name(mg_choice_way w) {
    static const char *const names[] = {"acc", "acc_norm", "acc_token"};
    return names[w];
}

static bool is_blank(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* ---- the file ---- */

void mg_questions_release(mg_questions *q) {
    for (uint64_t i = 0; i < q->n; i++) {
        mg_question *o = &q->items[i];
        for (uint32_t k = 0; o->choices && k < o->n; k++) free(o->choices[k]);
        free(o->choices);
        free(o->context);
        free(o->delimiter);
    }
    free(q->items);
    *q = (mg_questions){0};
}

static mg_status copy(char **out, const char *s, mg_error *err) {
    *out = strdup(s);
    return *out ? MG_OK : mg_fail_nomem(err, strlen(s) + 1);
}

static mg_status read_choices(mg_question *o, const mg_json *list, mg_error *err) {
    const size_t n = mg_json_len(list);
    if (!list || mg_json_type(list) != MG_JSON_ARRAY || n < 2 || n > MG_CHOICES_MAX)
        return mg_fail(err, MG_ERR_FORMAT, "'choices' is not a list of 2 to %u texts", MG_CHOICES_MAX);
    o->choices = calloc(n, sizeof *o->choices);
    if (!o->choices) return mg_fail_nomem(err, n * sizeof *o->choices);
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v)) {
        const char *s = mg_json_str(v);
        if (!s || !*s) return mg_fail(err, MG_ERR_FORMAT, "choice %u is no text", o->n);
        MG_TRY(copy(&o->choices[o->n], s, err));
        o->n++;
    }
    return MG_OK;
}

static mg_status read_question(mg_questions *q, const mg_json *v, mg_error *err) {
    mg_question *o = &q->items[q->n++];
    *o = (mg_question){0};
    uint64_t answer;
    const char *context = mg_json_str(mg_json_get(v, "context")), *delimiter = mg_json_str(mg_json_get(v, "delimiter"));
    if (!context) return mg_fail(err, MG_ERR_FORMAT, "'context' is no text");
    if (mg_json_get(v, "delimiter") && !delimiter) return mg_fail(err, MG_ERR_FORMAT, "'delimiter' is no text");
    MG_TRY(copy(&o->context, context, err));
    MG_TRY(copy(&o->delimiter, delimiter ? delimiter : " ", err));
    MG_TRY(read_choices(o, mg_json_get(v, "choices"), err));
    if (!mg_json_u64(mg_json_get(v, "answer"), &answer) || answer >= o->n)
        return mg_fail(err, MG_ERR_FORMAT, "'answer' is none of the choices 0 to %u", o->n - 1);
    o->answer = (uint32_t)answer;
    q->choices += o->n;
    return MG_OK;
}

static mg_status add_line(mg_questions *q, const char *p, size_t n, const char *path, mg_error *err) {
    mg_json *v;
    if (q->n == q->cap) {
        const uint64_t cap = q->cap ? 2 * q->cap : 64;
        mg_question *items = realloc(q->items, cap * sizeof *items);
        if (!items) return mg_fail_nomem(err, cap * sizeof *items);
        q->items = items;
        q->cap = cap;
    }
    MG_TRY(mg_json_parse(&v, (mg_span){(const uint8_t *)p, n}, path, err));
    mg_status st = read_question(q, v, err);
    mg_json_free(v);
    return st;
}

mg_status mg_questions_load(mg_questions *q, const char *path, mg_error *err) {
    char *text;
    size_t n;
    uint64_t line = 1;
    *q = (mg_questions){0};
    MG_TRY(mg_file_slurp(path, MAX_BYTES, &text, &n, err));
    mg_status st = MG_OK;
    for (const char *p = text, *end = text + n; st == MG_OK && p < end; line++) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        if (!eol) eol = end;
        mg_error why = {0};
        const char *from = p;
        while (from < eol && is_blank(*from)) from++;
        if (eol > from) st = add_line(q, p, (size_t)(eol - p), path, &why);
        if (st != MG_OK) mg_fail(err, st, "line %llu: %s", (unsigned long long)line, why.message);
        p = eol + 1;
    }
    free(text);
    if (st == MG_OK && q->n == 0) st = mg_fail(err, MG_ERR_FORMAT, "holds no question");
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        mg_questions_release(q);
    }
    return st;
}

/* ---- tokens ---- */

/* BOS and the text. Never EOS: the text goes on. */
static mg_status encode(mg_ids *out, const mg_tokenizer *t, const char *text, size_t n, mg_error *err) {
    out->n = 0;
    if (mg_tokenizer_adds_bos(t)) MG_TRY(mg_ids_push(out, mg_tokenizer_bos(t), err));
    return mg_tokenizer_encode(t, text, n, 0, out, err);
}

static mg_status encode_choice(mg_ids *out, const mg_tokenizer *t, const mg_question *o, uint32_t k, mg_error *err) {
    const size_t a = strlen(o->context), b = strlen(o->delimiter), c = strlen(o->choices[k]);
    char *text = malloc(a + b + c + 1);
    if (!text) return mg_fail_nomem(err, a + b + c + 1);
    memcpy(text, o->context, a);
    memcpy(text + a, o->delimiter, b);
    memcpy(text + a + b, o->choices[k], c);
    mg_status st = encode(out, t, text, a + b + c, err);
    free(text);
    return st;
}

static uint32_t common_prefix(const mg_ids *seqs, uint32_t n) {
    size_t k = 0, shortest = seqs[0].n;
    for (uint32_t i = 1; i < n; i++) shortest = seqs[i].n < shortest ? seqs[i].n : shortest;
    for (; k + 1 < shortest; k++)
        for (uint32_t i = 1; i < n; i++)
            if (seqs[i].ids[k] != seqs[0].ids[k]) return (uint32_t)k;
    return (uint32_t)k;
}

static mg_status add_question(mg_windows *w, mg_choice_row *rows, const mg_question *o, const mg_tokenizer *t,
                              mg_ids *context, mg_ids *seqs, mg_error *err) {
    size_t n = strlen(o->context);
    while (n && is_blank(o->context[n - 1])) n--;
    MG_TRY(encode(context, t, o->context, n, err));
    for (uint32_t k = 0; k < o->n; k++) MG_TRY(encode_choice(&seqs[k], t, o, k, err));
    const uint32_t shared = common_prefix(seqs, o->n);
    for (uint32_t k = 0; k < o->n; k++) {
        const size_t from = context->n < shared ? context->n : shared;
        if (from == 0) return mg_fail(err, MG_ERR_FORMAT, "choice %u: no token in front of it predicts it", k);
        if (seqs[k].n <= context->n) return mg_fail(err, MG_ERR_FORMAT, "choice %u adds no token to the context", k);
        rows[k] = (mg_choice_row){.context = (uint32_t)context->n, .shared = shared};
        MG_TRY(mg_windows_add_scored(w, seqs[k].ids, seqs[k].n, from - 1, err));
    }
    return MG_OK;
}

mg_status mg_choice_windows(mg_windows *w, mg_choice_row **rows, const mg_questions *q, const mg_tokenizer *t,
                            mg_error *err) {
    mg_ids context = {0}, seqs[MG_CHOICES_MAX] = {0};
    *rows = calloc(q->choices, sizeof **rows);
    mg_status st = *rows ? MG_OK : mg_fail_nomem(err, q->choices * sizeof **rows);
    for (uint64_t i = 0; st == MG_OK && i < q->n; i++) {
        mg_error why = {0};
        st = add_question(w, *rows + w->n, &q->items[i], t, &context, seqs, &why);
        if (st != MG_OK) mg_fail(err, st, "question %llu: %s", (unsigned long long)i, why.message);
    }
    mg_ids_release(&context);
    for (uint32_t k = 0; k < MG_CHOICES_MAX; k++) mg_ids_release(&seqs[k]);
    return st;
}

/* ---- answers ---- */

static double characters(const char *s) {
    double n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

static double score_of(const mg_question *o, const mg_choice_row *row, const mg_window *w, uint32_t k,
                       mg_choice_way way) {
    if (way == MG_CHOICE_RAW) return row->raw;
    return way == MG_CHOICE_NORM ? row->raw / characters(o->choices[k]) : row->mean / (double)(w->len - row->shared);
}

mg_status mg_choices_decide(mg_choice_result *r, const mg_questions *q, const mg_choice_row *rows, const mg_windows *w,
                            mg_error *err) {
    *r = (mg_choice_result){0};
    for (unsigned way = 0; way < MG_CHOICE_WAYS; way++) {
        r->chosen[way] = calloc(q->n, 1);
        if (!r->chosen[way]) return mg_fail_nomem(err, q->n);
        uint64_t at = 0;
        for (uint64_t i = 0; i < q->n; at += q->items[i++].n) {
            const mg_question *o = &q->items[i];
            double best = 0;
            for (uint32_t k = 0; k < o->n; k++) {
                const double s = score_of(o, &rows[at + k], &w->items[at + k], k, (mg_choice_way)way);
                if (!isfinite(s))
                    return mg_fail(err, MG_ERR_FORMAT, "question %llu, choice %u: the log-probability is not finite",
                                   (unsigned long long)i, k);
                if (k == 0 || s > best) {
                    best = s;
                    r->chosen[way][i] = (uint8_t)k;
                }
            }
            r->right[way] += r->chosen[way][i] == o->answer;
        }
    }
    return MG_OK;
}

void mg_choice_result_release(mg_choice_result *r) {
    for (unsigned way = 0; way < MG_CHOICE_WAYS; way++) free(r->chosen[way]);
    *r = (mg_choice_result){0};
}

/* Twice the probability of at most k heads in n throws. */
static double two_sided(uint64_t k, uint64_t n) {
    double log_term = -(double)n * mg_f64_log(2.0), p = mg_f64_exp(log_term);
    for (uint64_t i = 1; i <= k; i++) {
        log_term += mg_f64_log((double)(n - i + 1) / (double)i);
        p += mg_f64_exp(log_term);
    }
    return fmin(1.0, 2 * p);
}

mg_flips mg_choice_flips(const mg_questions *q, const mg_choice_result *a, const mg_choice_result *b,
                         mg_choice_way way) {
    mg_flips f = {.n = q->n};
    for (uint64_t i = 0; i < q->n; i++) {
        const uint32_t x = a->chosen[way][i], y = b->chosen[way][i], right = q->items[i].answer;
        f.changed += x != y;
        f.lost += x == right && y != right;
        f.gained += x != right && y == right;
    }
    const double n = (double)f.n, flips = (double)(f.lost + f.gained);
    f.difference = ((double)f.gained - (double)f.lost) / n;
    const double var = flips / n - f.difference * f.difference;
    f.stderr_ = f.n > 1 && var > 0 ? sqrt(var / (n - 1)) : 0;
    f.mcnemar_p = two_sided(f.lost < f.gained ? f.lost : f.gained, f.lost + f.gained);
    return f;
}
