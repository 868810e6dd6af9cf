/* quantize_args.c - positional arguments of quantize. */
#include "convert/quantize_args.h"

#include "formats/base/file.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static mg_status parse_type(const char *text, const mg_preset **p, mg_error *err) {
    static const char *const groups[] = {"AWQ", "GPTQ", "RTN"};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        if (strcasecmp(text, groups[i]) == 0)
            return mg_fail(err, MG_ERR_UNSUPPORTED, "the group format %s is not built yet", groups[i]);
    return mg_preset_parse(text, p, err);
}

/* Directory part of IN with its slash: where llama-quantize puts a file without a name. A directory counts as a file.
 */
static size_t dir_length(const char *in) {
    size_t n = strlen(in);
    while (n > 1 && in[n - 1] == '/') n--;
    while (n > 0 && in[n - 1] != '/') n--;
    return n;
}

/* Name of IN without directory, ".gguf"/".safetensors" and the float type at its end ("moe4-bf16.gguf": "moe4"). */
static void stem_of(const char *in, const char **stem, size_t *len) {
    static const char *const tails[] = {".gguf", ".safetensors", "-bf16", "-f16", "-f32", ".bf16", ".f16", ".f32"};
    size_t at = dir_length(in), n = strlen(in);
    while (n > at + 1 && in[n - 1] == '/') n--;
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        size_t k = strlen(tails[i]);
        if (n - at > k && strncasecmp(in + n - k, tails[i], k) == 0) n -= k;
    }
    *stem = in + at;
    *len = n - at;
}

static mg_status add(mg_quantize_targets *t, const char *path, const mg_preset *preset, mg_error *err) {
    if (!path) return mg_fail_nomem(err, 4096);
    for (size_t i = 0; i < t->n; i++)
        if (strcmp(t->items[i].path, path) == 0) return mg_fail(err, MG_ERR_USAGE, "'%s' would be written twice", path);
    t->items[t->n++] = (mg_quantize_target){path, preset};
    return MG_OK;
}

static bool is_number(const char *s) {
    return *s && s[strspn(s, "0123456789")] == '\0';
}

static mg_status take_threads(mg_quantize_targets *t, const mg_opt_list *words, size_t at, mg_error *err) {
    if (at == words->n) return MG_OK;
    if (at + 1 < words->n) return mg_fail(err, MG_ERR_USAGE, "one argument too many: '%s'", words->items[at + 1]);
    if (!is_number(words->items[at])) return mg_fail(err, MG_ERR_USAGE, "'%s' is no thread count", words->items[at]);
    MG_TRY(mg_parse_u64(words->items[at], &t->threads, err));
    if (t->threads > 1024) return mg_fail(err, MG_ERR_USAGE, "%s threads: at most 1024", words->items[at]);
    t->threads_given = true;
    return MG_OK;
}

static mg_status into_directory(mg_quantize_targets *t, const mg_opt_list *words, mg_error *err) {
    const char *dir = words->items[1], *stem;
    size_t n = words->n, len, dir_len = strlen(dir);
    while (dir_len > 1 && dir[dir_len - 1] == '/') dir_len--;
    if (n > 3 && is_number(words->items[n - 1])) MG_TRY(take_threads(t, words, --n, err));
    if (n < 3) return mg_fail(err, MG_ERR_USAGE, "no TYPE after '%s'", dir);
    stem_of(t->in, &stem, &len);
    for (size_t i = 2; i < n; i++) {
        const mg_preset *p;
        MG_TRY(parse_type(words->items[i], &p, err));
        const char *path = mg_arena_printf(&t->arena, "%.*s/%.*s-%s.gguf", (int)dir_len, dir, (int)len, stem, p->name);
        MG_TRY(add(t, path, p, err));
    }
    return MG_OK;
}

static mg_status from_words(mg_quantize_targets *t, const mg_opt_list *words, mg_error *err) {
    if (words->n < 2) return mg_fail(err, MG_ERR_USAGE, "no TYPE given");
    const char *second = words->items[1];
    const mg_preset *p = mg_preset_find(second);
    if (!p && words->n == 2) MG_TRY(parse_type(second, &p, err)); /* IN TYPE with a wrong TYPE */
    if (p) {
        const char *path = mg_arena_printf(&t->arena, "%.*sggml-model-%s.gguf", (int)dir_length(t->in), t->in, p->name);
        MG_TRY(add(t, path, p, err));
        return take_threads(t, words, 2, err);
    }
    if (second[0] && (second[strlen(second) - 1] == '/' || mg_path_is_dir(second)))
        return into_directory(t, words, err);
    MG_TRY(parse_type(words->items[2], &p, err));
    MG_TRY(add(t, second, p, err));
    return take_threads(t, words, 3, err);
}

static mg_status from_outputs(mg_quantize_targets *t, const mg_opt_list *words, const mg_opt_list *outputs,
                              mg_error *err) {
    for (size_t i = 0; i < outputs->n; i++) {
        const char *text = outputs->items[i], *eq = strrchr(text, '=');
        const mg_preset *p;
        if (!eq || eq == text) return mg_fail(err, MG_ERR_USAGE, "-o '%s' is not of the form FILE=TYPE", text);
        MG_TRY(parse_type(eq + 1, &p, err));
        MG_TRY(add(t, mg_arena_strndup(&t->arena, text, (size_t)(eq - text)), p, err));
    }
    return take_threads(t, words, 1, err);
}

mg_status mg_quantize_targets_parse(mg_quantize_targets *t, const mg_opt_list *words, const mg_opt_list *outputs,
                                    mg_error *err) {
    *t = (mg_quantize_targets){0};
    mg_arena_init(&t->arena, 0);
    if (words->n == 0) return mg_fail(err, MG_ERR_USAGE, "no input given");
    t->in = words->items[0];
    MG_TRY(MG_ARENA_NEW(&t->arena, &t->items, words->n + outputs->n, err));
    return outputs->n ? from_outputs(t, words, outputs, err) : from_words(t, words, err);
}

void mg_quantize_targets_release(mg_quantize_targets *t) {
    mg_arena_release(&t->arena);
    *t = (mg_quantize_targets){0};
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static size_t count_items(const mg_opt_list *lists) {
    size_t n = lists->n;
    for (size_t i = 0; i < lists->n; i++)
        for (const char *p = lists->items[i]; *p; p++) n += *p == ',';
    return n;
}

mg_status mg_quantize_parse_prune(mg_arena *a, const mg_opt_list *lists, uint32_t **out, size_t *n, mg_error *err) {
    *n = 0;
    *out = NULL;
    if (lists->n == 0) return MG_OK;
    MG_TRY(MG_ARENA_NEW(a, out, count_items(lists), err));
    for (size_t i = 0; i < lists->n; i++) {
        for (const char *p = lists->items[i];; p++) {
            size_t len = strspn(p, "0123456789");
            if (len == 0 || len > 9 || (p[len] != ',' && p[len] != '\0'))
                return mg_fail(err, MG_ERR_USAGE, "--prune-layers '%s' is no list of layer numbers", lists->items[i]);
            (*out)[(*n)++] = (uint32_t)strtoul(p, NULL, 10);
            p += len;
            if (*p == '\0') break;
        }
    }
    qsort(*out, *n, sizeof **out, ascending);
    size_t kept = 1;
    for (size_t i = 1; i < *n; i++)
        if ((*out)[i] != (*out)[kept - 1]) (*out)[kept++] = (*out)[i];
    *n = kept;
    return MG_OK;
}
