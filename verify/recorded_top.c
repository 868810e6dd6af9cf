/* recorded_top.c - see recorded_top.h. The file is read once for its tokens and again, line by line, for its numbers:
 * one line is held at a time. */
#include "verify/recorded_top.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/tokenizer.h"
#include "quant/math/f64.h"

#define MAX_LINE (256u << 20)
#define BLOCK    65536u
/* Printed log-probabilities are rounded: by this much a sum may be above 1, or one of them above 0. */
#define ROUNDING 1e-3
/* What servers write for a probability that became 0: -9999, or the least float. Such a token counts as not listed. */
#define LOST (-1000.0)

typedef struct pair {
    int32_t id;
    double logp;
} pair;

/* One line, taken apart. Entries of position p are pairs[at[p] .. at[p + 1]). */
typedef struct line {
    mg_ids ids;
    uint32_t first; /* position that is recorded; all behind it are */
    mg_top_row *rows;
    uint64_t n_rows;
    int32_t *row_ids;
    double *row_logp;
    pair *pairs; /* of the position under way */
    uint64_t n_pairs, cap_pairs, used, cap;
} line;

struct mg_recorded_top {
    mg_file file;
    uint64_t *at, *size, *number; /* [n] of the lines; numbers as an editor counts them */
    uint64_t n, cap;
    line held;
    uint64_t held_index; /* which line; UINT64_MAX: none */
};

static void line_release(line *l) {
    mg_ids_release(&l->ids);
    free(l->rows);
    free(l->row_ids);
    free(l->row_logp);
    free(l->pairs);
    *l = (line){0};
}

static mg_status grow(void *array, uint64_t *cap, uint64_t need, size_t size, mg_error *err) {
    if (need <= *cap) return MG_OK;
    uint64_t n = *cap ? 2 * *cap : 64;
    while (n < need) n *= 2;
    void *old, *p;
    memcpy(&old, array, sizeof old);
    p = n <= SIZE_MAX / size ? realloc(old, n * size) : NULL;
    if (!p) return mg_fail_nomem(err, need * size);
    memcpy(array, &p, sizeof p);
    *cap = n;
    return MG_OK;
}

/* ---- token ids ---- */

/* "17" or "token_id:17". */
static mg_status id_of_text(const char *s, int32_t *id, mg_error *err) {
    static const char prefix[] = "token_id:";
    const char *digits = strncmp(s, prefix, sizeof prefix - 1) ? s : s + sizeof prefix - 1;
    uint64_t v = 0;
    size_t n = 0;
    for (; digits[n] >= '0' && digits[n] <= '9' && n < 11; n++) v = 10 * v + (uint64_t)(digits[n] - '0');
    if (n && !digits[n] && v <= INT32_MAX) {
        *id = (int32_t)v;
        return MG_OK;
    }
    return mg_fail(err, MG_ERR_UNSUPPORTED,
                   "'%.40s' is a token as text, which need not name one id: ask the server for ids", s);
}

static mg_status id_of(const mg_json *v, int32_t *id, mg_error *err) {
    int64_t n;
    if (mg_json_str(v)) return id_of_text(mg_json_str(v), id, err);
    if (!mg_json_i64(v, &n) || n < 0 || n > INT32_MAX) return mg_fail(err, MG_ERR_FORMAT, "a token id is no number");
    *id = (int32_t)n;
    return MG_OK;
}

static mg_status read_ids(line *l, const mg_json *list, const char *what, mg_error *err) {
    if (!list || mg_json_type(list) != MG_JSON_ARRAY || !mg_json_first(list))
        return mg_fail(err, MG_ERR_FORMAT, "no list of token ids as %s", what);
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v)) {
        int32_t id = 0;
        MG_TRY(id_of(v, &id, err));
        MG_TRY(mg_ids_push(&l->ids, id, err));
    }
    return MG_OK;
}

/* ---- one position ---- */

static mg_status add_pair(line *l, int32_t id, double logp, mg_error *err) {
    if (!isfinite(logp) || logp > ROUNDING)
        return mg_fail(err, MG_ERR_FORMAT, "token %d has the log-probability %g", id, logp);
    if (logp < LOST) return MG_OK;
    MG_TRY(grow(&l->pairs, &l->cap_pairs, l->n_pairs + 1, sizeof *l->pairs, err));
    l->pairs[l->n_pairs++] = (pair){id, logp < 0 ? logp : 0};
    return MG_OK;
}

/* A number, or an object that has it as "logprob". */
static bool logp_of(const mg_json *v, double *x) {
    return mg_json_f64(v, x) || mg_json_f64(mg_json_get(v, "logprob"), x);
}

/* {"17": x, ...}, {"17": {"logprob": x}, ...} or [{"id": 17, "logprob": x}, ...] */
static mg_status read_list(line *l, const mg_json *list, mg_error *err) {
    const bool object = list && mg_json_type(list) == MG_JSON_OBJECT;
    if (!object && (!list || mg_json_type(list) != MG_JSON_ARRAY))
        return mg_fail(err, MG_ERR_FORMAT, "the most likely tokens are neither an object nor a list");
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v)) {
        int32_t id = 0;
        double x;
        MG_TRY(object ? id_of_text(mg_json_key(v), &id, err) : id_of(mg_json_get(v, "id"), &id, err));
        if (!logp_of(v, &x)) return mg_fail(err, MG_ERR_FORMAT, "token %d has no log-probability", id);
        MG_TRY(add_pair(l, id, x, err));
    }
    return MG_OK;
}

static int by_id(const void *a, const void *b) {
    const int32_t x = ((const pair *)a)->id, y = ((const pair *)b)->id;
    return (x > y) - (x < y);
}

/* The pairs collected become the row of a position whose token is next. A server adds that token to the list when it is
 * not among the best, so it says nothing about what the others can have at most. */
static mg_status finish_row(line *l, int32_t next, const double *logp_next, mg_error *err) {
    mg_top_row *row = &l->rows[l->n_rows];
    *row = (mg_top_row){.most = 0, .target = (double)NAN};
    double sum = 0;
    uint64_t others = 0;
    bool listed = false;
    for (uint64_t i = 0; i < l->n_pairs; i++) listed = listed || l->pairs[i].id == next;
    if (!l->n_pairs) return mg_fail(err, MG_ERR_FORMAT, "no token is listed");
    if (!listed && (!logp_next || *logp_next < LOST))
        return mg_fail(err, MG_ERR_FORMAT, "no log-probability of the token that follows, %d", next);
    if (!listed) MG_TRY(add_pair(l, next, *logp_next, err));
    qsort(l->pairs, l->n_pairs, sizeof *l->pairs, by_id);
    uint64_t room = l->cap;
    MG_TRY(grow(&l->row_ids, &room, l->used + l->n_pairs, sizeof *l->row_ids, err));
    MG_TRY(grow(&l->row_logp, &l->cap, l->used + l->n_pairs, sizeof *l->row_logp, err));
    for (uint64_t i = 0; i < l->n_pairs; i++) {
        const pair *p = &l->pairs[i];
        if (i && p->id == p[-1].id) return mg_fail(err, MG_ERR_FORMAT, "token %d is listed twice", p->id);
        if (p->id == next) row->target = p->logp;
        if (p->id != next && (!others++ || p->logp < row->most)) row->most = p->logp;
        sum += mg_f64_exp(p->logp);
        l->row_ids[l->used] = p->id;
        l->row_logp[l->used++] = p->logp;
    }
    if (sum > 1 + ROUNDING) return mg_fail(err, MG_ERR_FORMAT, "probabilities add up to %g", sum);
    row->n = (uint32_t)l->n_pairs;
    row->five = others >= 5;
    l->n_rows++;
    l->n_pairs = 0;
    return MG_OK;
}

/* One position from its list, and the log-probability of the token that follows (NULL: it is in the list). */
static mg_status read_position(line *l, const mg_json *list, uint64_t pos, const mg_json *own, mg_error *err) {
    double logp;
    mg_error why = {0};
    mg_status st = read_list(l, list, &why);
    if (st == MG_OK) st = finish_row(l, l->ids.ids[pos + 1], mg_json_f64(own, &logp) ? &logp : NULL, &why);
    return st == MG_OK ? MG_OK : mg_fail(err, st, "position %llu: %s", (unsigned long long)pos, why.message);
}

/* ---- the forms ---- */

static mg_status start_rows(line *l, mg_error *err) {
    if (l->ids.n > UINT32_MAX / 2) return mg_fail(err, MG_ERR_LIMIT, "%zu tokens", l->ids.n);
    l->rows = calloc(l->ids.n, sizeof *l->rows);
    return l->rows ? MG_OK : mg_fail_nomem(err, l->ids.n * sizeof *l->rows);
}

/* Lists of the best tokens, entry i about token i, as echoed prompts have them; logp (may be NULL): of the tokens
 * themselves. Entries at the beginning may be null: nothing is recorded there. */
static mg_status aligned(line *l, const mg_json *lists, const mg_json *logp, mg_error *err) {
    MG_TRY(start_rows(l, err));
    if (!lists || mg_json_type(lists) != MG_JSON_ARRAY || mg_json_len(lists) != l->ids.n)
        return mg_fail(err, MG_ERR_FORMAT, "%zu lists of log-probabilities for %zu tokens", mg_json_len(lists),
                       l->ids.n);
    if (logp && mg_json_len(logp) != l->ids.n)
        return mg_fail(err, MG_ERR_FORMAT, "%zu log-probabilities for %zu tokens", mg_json_len(logp), l->ids.n);
    const mg_json *v = mg_json_first(lists), *x = mg_json_first(logp);
    for (size_t i = 0; v; i++, v = mg_json_next(v), x = mg_json_next(x)) {
        if (i == 0) continue; /* nothing predicts the first token */
        if (mg_json_type(v) == MG_JSON_NULL && !l->n_rows) continue;
        if (!l->n_rows) l->first = (uint32_t)i - 1;
        MG_TRY(read_position(l, v, i - 1, x, err));
    }
    return MG_OK;
}

/* What a server wrote behind a prompt of ids, a list for every token it wrote. */
static mg_status generated(line *l, const mg_json *prompt, const mg_json *list, mg_error *err) {
    MG_TRY(read_ids(l, prompt, "request.prompt", err));
    l->first = (uint32_t)(l->ids.n - 1);
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v)) {
        int32_t id = 0;
        MG_TRY(id_of(mg_json_get(v, "id"), &id, err));
        MG_TRY(mg_ids_push(&l->ids, id, err));
    }
    MG_TRY(start_rows(l, err));
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v)) {
        MG_TRY(read_position(l, mg_json_get(v, "top_logprobs"), l->first + l->n_rows, mg_json_get(v, "logprob"), err));
    }
    return MG_OK;
}

static const mg_json *either(const mg_json *a, const mg_json *b, const char *key) {
    const mg_json *v = mg_json_get(a, key);
    return v ? v : mg_json_get(b, key);
}

static mg_status take_apart(line *l, const mg_json *root, mg_error *err) {
    const mg_json *request = mg_json_get(root, "request"), *answer = mg_json_get(root, "response");
    if (!answer) answer = root;
    const mg_json *choices = mg_json_get(answer, "choices"), *choice = mg_json_first(choices);
    if (mg_json_len(choices) > 1) return mg_fail(err, MG_ERR_FORMAT, "%zu choices, one expected", mg_json_len(choices));
    const mg_json *of_prompt = either(choice, answer, "prompt_logprobs");
    if (of_prompt && mg_json_type(of_prompt) != MG_JSON_NULL) {
        const mg_json *ids = either(choice, answer, "prompt_token_ids");
        MG_TRY(read_ids(l, ids ? ids : mg_json_get(request, "prompt"), "prompt_token_ids", err));
        return aligned(l, of_prompt, NULL, err);
    }
    const mg_json *written = mg_json_get(answer, "completion_probabilities");
    if (written) return generated(l, mg_json_get(request, "prompt"), written, err);
    const mg_json *o = choice ? mg_json_get(choice, "logprobs") : answer;
    if (!mg_json_get(o, "top_logprobs"))
        return mg_fail(err, MG_ERR_FORMAT,
                       "none of top_logprobs, prompt_logprobs and completion_probabilities is there");
    MG_TRY(read_ids(l, mg_json_get(o, "tokens"), "tokens", err));
    return aligned(l, mg_json_get(o, "top_logprobs"), mg_json_get(o, "token_logprobs"), err);
}

static mg_status read_line(mg_recorded_top *t, uint64_t i, line *l, mg_error *err) {
    mg_json *root = NULL;
    uint8_t *text = malloc(t->size[i]);
    if (!text) return mg_fail_nomem(err, t->size[i]);
    mg_error why = {0};
    mg_status st = mg_file_read(&t->file, t->at[i], text, t->size[i], &why);
    if (st == MG_OK) st = mg_json_parse(&root, (mg_span){text, t->size[i]}, t->file.path, &why);
    if (st == MG_OK) st = take_apart(l, root, &why);
    if (st == MG_OK && !l->n_rows) st = mg_fail(&why, MG_ERR_FORMAT, "no position is recorded");
    mg_json_free(root);
    free(text);
    if (st == MG_OK) return MG_OK;
    mg_fail(err, st, "line %llu: %s", (unsigned long long)t->number[i], why.message);
    mg_error_at(err, t->file.path, NULL);
    return st;
}

/* ---- the file ---- */

static mg_status add_line(mg_recorded_top *t, uint64_t at, uint64_t end, uint64_t number, mg_error *err) {
    if (end - at > MAX_LINE)
        return mg_fail(err, MG_ERR_LIMIT, "line %llu has %llu bytes, at most %u are read", (unsigned long long)number,
                       (unsigned long long)(end - at), MAX_LINE);
    uint64_t room = t->cap, same = t->cap;
    MG_TRY(grow(&t->at, &room, t->n + 1, sizeof *t->at, err));
    MG_TRY(grow(&t->number, &same, t->n + 1, sizeof *t->number, err));
    t->number[t->n] = number;
    MG_TRY(grow(&t->size, &t->cap, t->n + 1, sizeof *t->size, err));
    t->at[t->n] = at;
    t->size[t->n++] = end - at;
    return MG_OK;
}

/* Where the lines are that are not blank. */
static mg_status find_lines(mg_recorded_top *t, mg_error *err) {
    char block[BLOCK];
    uint64_t begin = 0, number = 1;
    bool blank = true;
    for (uint64_t at = 0, n = 0; at < t->file.size; at += n) {
        n = t->file.size - at < BLOCK ? t->file.size - at : BLOCK;
        MG_TRY(mg_file_read(&t->file, at, block, n, err));
        for (uint64_t i = 0; i < n; i++) {
            if (block[i] != '\n') {
                blank = blank && (block[i] == ' ' || block[i] == '\t' || block[i] == '\r');
                continue;
            }
            if (!blank) MG_TRY(add_line(t, begin, at + i, number, err));
            begin = at + i + 1;
            blank = true;
            number++;
        }
    }
    if (!blank) MG_TRY(add_line(t, begin, t->file.size, number, err));
    return t->n ? MG_OK : mg_fail(err, MG_ERR_FORMAT, "nothing is recorded in it");
}

mg_status mg_recorded_top_open(mg_recorded_top **out, const char *path, mg_windows *own, mg_error *err) {
    mg_recorded_top *t = calloc(1, sizeof *t);
    if (!t) return mg_fail_nomem(err, sizeof *t);
    t->held_index = UINT64_MAX;
    mg_status st = mg_file_open(&t->file, path, err);
    if (st == MG_OK) st = find_lines(t, err);
    for (uint64_t i = 0; st == MG_OK && i < t->n; i++) {
        line l = {0};
        st = read_line(t, i, &l, err);
        if (st == MG_OK) st = mg_windows_add_scored(own, l.ids.ids, l.ids.n, l.first, err);
        line_release(&l);
    }
    if (st == MG_OK)
        *out = t;
    else
        mg_recorded_top_free(t);
    return st;
}

void mg_recorded_top_free(mg_recorded_top *t) {
    if (!t) return;
    if (t->file.path[0]) mg_file_close(&t->file);
    line_release(&t->held);
    free(t->at);
    free(t->size);
    free(t->number);
    free(t);
}

mg_status mg_recorded_top_rows(mg_recorded_top *t, uint64_t window, uint32_t pos, uint32_t n, const mg_top_row **rows,
                               mg_error *err) {
    line *l = &t->held;
    if (t->held_index != window) {
        line_release(l);
        t->held_index = UINT64_MAX;
        MG_TRY(read_line(t, window, l, err));
        uint64_t at = 0; /* the arrays no longer move: rows can point into them */
        for (uint64_t i = 0; i < l->n_rows; at += l->rows[i++].n) {
            l->rows[i].ids = l->row_ids + at;
            l->rows[i].logp = l->row_logp + at;
        }
        t->held_index = window;
    }
    if (pos < l->first || (uint64_t)pos - l->first + n > l->n_rows)
        return mg_fail(err, MG_ERR_INTEGRITY, "line %llu has changed", (unsigned long long)t->number[window]);
    *rows = l->rows + (pos - l->first);
    return MG_OK;
}
