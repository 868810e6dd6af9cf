/* options_value.c - the values of options: sizes, numbers, nearest names, and the options tools share. */
#include "formats/base/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "formats/base/checked.h"
#include "formats/base/cpu.h"
#include "formats/base/number.h"
#include "mg_version.h"

mg_status mg_parse_u64(const char *text, uint64_t *out, mg_error *err) {
    uint64_t v = 0;
    bool ok = *text != 0;
    for (const char *s = text; *s && ok; s++)
        ok = *s >= '0' && *s <= '9' && mg_mul_u64(v, 10, &v) && mg_add_u64(v, (uint64_t)(*s - '0'), &v);
    if (!ok) return mg_fail(err, MG_ERR_USAGE, "'%s' is not a whole number", text);
    *out = v;
    return MG_OK;
}

mg_status mg_parse_f64(const char *text, double *out, mg_error *err) {
    if (!mg_number_parse(text, strlen(text), out)) return mg_fail(err, MG_ERR_USAGE, "'%s' is not a number", text);
    return MG_OK;
}

/* NUMBER [unit]; the number may have a fraction: "1.5GiB". */
mg_status mg_parse_size(const char *text, uint64_t *out, mg_error *err) {
    static const struct {
        const char *name;
        uint64_t bytes;
    } units[] = {{"", 1},
                 {"k", 1000},
                 {"m", 1000000},
                 {"g", 1000000000},
                 {"b", 1000000000},
                 {"t", 1000000000000},
                 {"kb", 1000},
                 {"mb", 1000000},
                 {"gb", 1000000000},
                 {"tb", 1000000000000},
                 {"kib", 1024},
                 {"mib", 1024 * 1024},
                 {"gib", 1024 * 1024 * 1024},
                 {"tib", UINT64_C(1) << 40}};
    size_t n = strspn(text, "0123456789.");
    double v = 0;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcasecmp(text + n, units[i].name) != 0 || !mg_number_parse(text, n, &v)) continue;
        uint64_t whole;
        mg_error ignored = {0};
        char digits[24];
        if (n < sizeof digits && !memchr(text, '.', n)) { /* exact where a double would round */
            memcpy(digits, text, n);
            digits[n] = 0;
            if (mg_parse_u64(digits, &whole, &ignored) == MG_OK && mg_mul_u64(whole, units[i].bytes, out)) return MG_OK;
        } else if (v * (double)units[i].bytes < 18446744073709549568.0) {
            *out = (uint64_t)(v * (double)units[i].bytes);
            return MG_OK;
        }
        return mg_fail(err, MG_ERR_USAGE, "size '%s' does not fit 64 bits", text);
    }
    return mg_fail(err, MG_ERR_USAGE, "'%s' is not a size (examples: 5B, 200M, 1.5GiB)", text);
}

static unsigned least(unsigned a, unsigned b) {
    return a < b ? a : b;
}

unsigned mg_edit_distance(const char *a, size_t na, const char *b, size_t nb) {
    enum { MAX = 64 };
    unsigned row[3][MAX + 1]; /* distances of a[0..i-2], a[0..i-1], a[0..i] to every prefix of b */
    if (na > MAX) na = MAX;
    if (nb > MAX) nb = MAX;
    unsigned *before = row[0], *last = row[1], *cur = row[2];
    for (size_t j = 0; j <= nb; j++) last[j] = (unsigned)j;
    for (size_t i = 1; i <= na; i++) {
        cur[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            cur[j] = least(least(last[j], cur[j - 1]) + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                cur[j] = least(cur[j], before[j - 2] + 1);
        }
        unsigned *t = before;
        before = last;
        last = cur;
        cur = t;
    }
    return last[nb];
}

/* Near: within a third of the word's length, or the word begins the candidate. */
const char *mg_nearest(const char *word, const char *const *candidates) {
    size_t n = strlen(word);
    const char *best = NULL;
    unsigned best_distance = (unsigned)(n > 192 ? 64 : n / 3) + 1;
    for (; *candidates; candidates++) {
        unsigned d = mg_edit_distance(word, n, *candidates, strlen(*candidates));
        if (n >= 4 && strncmp(*candidates, word, n) == 0) d = 1;
        if (d >= best_distance) continue;
        best = *candidates;
        best_distance = d;
    }
    return best;
}

void mg_opt_list_release(mg_opt_list *l) {
    free(l->items);
    *l = (mg_opt_list){0};
}

void mg_common_init(mg_common *c) {
    *c = (mg_common){.ctx = 512, .rank_asked = UINT64_MAX, .world_asked = UINT64_MAX};
}

void mg_common_release(mg_common *c) {
    mg_opt_list_release(&c->text);
    mg_opt_list_release(&c->tokens);
}

mg_status mg_common_finish(mg_common *c, mg_error *err) {
    c->n_threads = c->threads == 0 ? mg_cpu_count() : c->threads > 1024 ? 1024 : (unsigned)c->threads;
    c->progress = MG_PROGRESS_AUTO;
    mg_status s = c->progress_name ? mg_progress_parse_mode(c->progress_name, &c->progress, err) : MG_OK;
    if (s) return s;
    if (c->quiet) c->progress = MG_PROGRESS_NONE;
    if (c->verbose && !c->quiet) {
        char memory[MG_HUMAN_MAX];
        fprintf(stderr, "moegraft %s (commit %s, %s), %u threads, %s for buffers\n", MG_VERSION, MG_COMMIT,
                mg_isa_name(mg_cpu_isa()), c->n_threads,
                c->memory ? mg_human_bytes(c->memory, memory) : "as much as by default");
    }
    if (c->ctx < 2) return mg_fail(err, MG_ERR_USAGE, "--ctx: a window needs at least 2 tokens");
    if (!c->experts) return MG_OK;
    uint64_t k = MG_EXPERTS_ALL;
    if (strcmp(c->experts, "all") != 0) s = mg_parse_u64(c->experts, &k, err);
    if (!s && (k == 0 || k > MG_EXPERTS_ALL)) s = mg_fail(err, MG_ERR_USAGE, "--experts-per-token: at least 1");
    c->experts_per_token = (uint32_t)k;
    return s;
}
