/* tool_calibrate.c - moegraft-calibrate: importance matrices from text, merged, converted, described. */
#include "formats/arch/arch_file.h"
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "verify/tool_calibrate.h"
#include "verify/tool_model.h"

static const mg_tool_info tool = {
    .name = "calibrate",
    .summary = "importance matrix of a model on text, and which experts the text reached",
    .synopsis = "PATH --text FILE... -o IMATRIX\nPATH --tokens FILE... -o IMATRIX\n--merge IMATRIX... -o IMATRIX\n"
                "--show-statistics IMATRIX",
    .examples = "  moegraft-calibrate model/ --text calibration.txt -o im.gguf\n"
                "  moegraft-calibrate --merge im-part1.gguf im-part2.gguf -o im.gguf\n"
                "  moegraft-calibrate --merge im.gguf -o im.dat          (the older form of the same)\n"
                "  moegraft-calibrate --show-statistics im.gguf\n",
    .next = "moegraft calibrate --help",
};

typedef struct args {
    mg_common common;
    mg_opt_list pos;
    const char *output;
    uint64_t chunks;
    bool process_output, merge, statistics, done;
} args;

static mg_status check_args(const args *a, mg_error *err) {
    const bool input = a->common.text.n || a->common.tokens.n;
    if (a->merge && a->statistics) return mg_fail(err, MG_ERR_USAGE, "--merge or --show-statistics, not both");
    if (a->statistics) {
        if (a->pos.n != 1) return mg_fail(err, MG_ERR_USAGE, "--show-statistics takes one importance matrix");
        if (a->output) return mg_fail(err, MG_ERR_USAGE, "--show-statistics writes nothing: no -o");
    } else if (!a->output) {
        return mg_fail(err, MG_ERR_USAGE, "where to? -o FILE is needed");
    }
    if ((a->merge || a->statistics) && (input || a->process_output || a->chunks || a->common.experts))
        return mg_fail(err, MG_ERR_USAGE,
                       "no model is run: no --text, --tokens, --chunks, --process-output or "
                       "--experts-per-token");
    if (a->merge && a->pos.n == 0) return mg_fail(err, MG_ERR_USAGE, "no importance matrix to merge");
    if (a->merge || a->statistics) return MG_OK;
    if (a->pos.n != 1) return mg_fail(err, MG_ERR_USAGE, a->pos.n ? "one model, please" : "no model given");
    if (!input) return mg_fail(err, MG_ERR_USAGE, "--text or --tokens is needed");
    return MG_OK;
}

static mg_status parse(args *a, int argc, char **argv, mg_error *err) {
    const mg_opt opts[] = {
        MG_COMMON_TEXT_OPTS(a->common),
        {"--chunks", MG_OPT_U64, &a->chunks, "N", "use only the first N windows"},
        {NULL, MG_OPT_GROUP, NULL, NULL, "Importance matrix"},
        {"--output,-o", MG_OPT_STR, &a->output, "FILE", "the matrix: GGUF, or the older form when it ends in .dat"},
        {"--force", MG_OPT_FLAG, &a->common.force, NULL, "replace an existing output (it is refused otherwise)"},
        {"--process-output", MG_OPT_FLAG, &a->process_output, NULL, "also the input of the output head"},
        {"--merge", MG_OPT_FLAG, &a->merge, NULL,
         "add up the matrices given instead of running a model (--ctx: tokens per chunk of .dat files)"},
        {"--show-statistics", MG_OPT_FLAG, &a->statistics, NULL, "describe the matrix given, weight by weight"},
        MG_COMMON_MODEL_OPTS(a->common),
        MG_ARCH_OPT,
        MG_COMMON_EXEC_OPTS(a->common),
        MG_COMMON_JSON_OPT(a->common),
        {0}};
    mg_common_init(&a->common);
    MG_TRY(mg_options_parse(&tool, opts, argc, argv, &a->pos, &a->done, err));
    if (a->done) return MG_OK;
    MG_TRY(mg_common_finish(&a->common, err));
    return check_args(a, err);
}

/* Hours of work must not end in a refusal: the output is looked at before. */
static mg_status check_output(const args *a, mg_error *err) {
    char dir[4096];
    const char *slash = strrchr(a->output, '/');
    struct stat st;
    mg_status bad = MG_OK;
    const int n = slash ? snprintf(dir, sizeof dir, "%.*s/", (int)(slash - a->output), a->output)
                        : snprintf(dir, sizeof dir, ".");
    if (n < 0 || (size_t)n >= sizeof dir)
        bad = mg_fail(err, MG_ERR_LIMIT, "path of %zu bytes", strlen(a->output));
    else if (!a->common.force && lstat(a->output, &st) == 0)
        bad = mg_fail(err, MG_ERR_USAGE, "exists already; --force replaces it");
    else if (access(dir, W_OK) != 0)
        bad = mg_fail_errno(err, "cannot write into its directory");
    if (bad != MG_OK) mg_error_at(err, a->output, NULL);
    return bad;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Bytes this process has read so far, as the kernel counts them; 0 where it does not. */
static uint64_t bytes_read(void) {
    unsigned long long n = 0;
    FILE *f = fopen("/proc/self/io", "re");
    if (!f) return 0;
    if (fscanf(f, "rchar: %llu", &n) != 1) n = 0;
    fclose(f);
    return n;
}

static mg_status write_set(const args *a, const mg_imatrix_set *s, uint64_t *size, mg_error *err) {
    char sha256[65];
    MG_TRY(mg_imatrix_set_write(s, a->output, a->common.force, size, sha256, err));
    const mg_job_cost cost = {.label = "calibrate", .read = bytes_read(), .written = *size, .sha256 = sha256};
    if (!a->common.quiet) mg_progress_cost(stderr, a->common.progress, &cost);
    return MG_OK;
}

/* ---- from text ---- */

/* What the file says about its text: names without folders, so that the same text gives the same file anywhere. */
static mg_status describe(mg_imatrix_set *s, const args *a, const mg_windows *w, uint64_t n, mg_error *err) {
    for (size_t i = 0; i < a->common.text.n; i++)
        MG_TRY(mg_imatrix_set_dataset(s, base_name(a->common.text.items[i]), err));
    for (size_t i = 0; i < a->common.tokens.n; i++)
        MG_TRY(mg_imatrix_set_dataset(s, base_name(a->common.tokens.items[i]), err));
    s->chunk_count = n;
    for (uint64_t i = 0; i < n; i++)
        if (w->items[i].len > s->chunk_size) s->chunk_size = w->items[i].len;
    return MG_OK;
}

static mg_status report(const args *a, const mg_calibrate_run *r, mg_error *err) {
    uint64_t unseen, few;
    MG_TRY(mg_tool_calibrate_result(r, a->common.json, &unseen, &few, err));
    if (unseen || few)
        fprintf(stderr,
                "moegraft-calibrate: warning: %llu experts saw no token (their weights are encoded as if all inputs "
                "mattered alike) and %llu fewer than %d: more or other text would help\n",
                (unsigned long long)unseen, (unsigned long long)few, MG_FEW_TOKENS);
    return MG_OK;
}

static mg_status run_windows(const args *a, const mg_tool_model *t, mg_calibration *c, const mg_windows *w,
                             mg_error *err) {
    const uint64_t n = a->chunks && a->chunks < w->n ? a->chunks : w->n;
    mg_calibrate_run r = {.model = a->pos.items[0],
                          .output = a->output,
                          .windows = n,
                          .layers = (uint32_t)mg_hp_i(t->m, MG_K_LAYERS),
                          .c = c};
    for (uint64_t i = 0; i < n; i++) r.tokens += w->items[i].len;
    if (r.tokens == 0) return mg_fail(err, MG_ERR_USAGE, "no tokens");
    mg_progress *progress;
    MG_TRY(mg_progress_new(&progress, a->common.progress, "calibrate", r.tokens, err));
    mg_progress_unit(progress, "tokens");
    mg_status st = mg_calibration_run(c, w, n, a->common.memory, progress, err);
    mg_progress_free(progress);
    MG_TRY(st);
    mg_imatrix_set s;
    mg_imatrix_set_init(&s);
    st = describe(&s, a, w, n, err);
    if (st == MG_OK) st = mg_calibration_entries(c, &s, err);
    if (st == MG_OK) st = write_set(a, &s, &r.size, err);
    r.entries = s.n;
    if (st == MG_OK) st = report(a, &r, err);
    mg_imatrix_set_release(&s);
    return st;
}

static mg_status calibrate(const args *a, mg_error *err) {
    mg_tool_pass pass;
    mg_tool_model t;
    mg_windows w;
    mg_calibration *c = NULL;
    MG_TRY(mg_tool_model_open(&t, a->pos.items[0], err));
    mg_windows_init(&w);
    mg_status st = mg_tool_pass_new(&pass, &a->common, err);
    const bool open = st == MG_OK;
    if (st == MG_OK) st = mg_tool_model_windows(&w, &t, &a->common, err);
    if (st == MG_OK) st = mg_calibration_new(&c, pass.f, t.m, a->process_output, err);
    if (st == MG_OK) st = run_windows(a, &t, c, &w, err);
    mg_calibration_free(c);
    mg_windows_release(&w);
    if (open) mg_tool_pass_free(&pass);
    mg_tool_model_close(&t);
    return st;
}

/* ---- from files ---- */

static mg_status merge(const args *a, mg_error *err) {
    mg_imatrix_set s;
    uint64_t size;
    mg_status st = MG_OK;
    mg_imatrix_set_init(&s);
    for (size_t i = 0; st == MG_OK && i < a->pos.n; i++) {
        mg_imatrix *m;
        st = mg_imatrix_load_sums(&m, a->pos.items[i], err);
        if (st != MG_OK) break;
        st = mg_imatrix_set_add(&s, m, a->common.ctx, err);
        if (st != MG_OK) mg_error_at(err, a->pos.items[i], NULL);
        mg_imatrix_free(m);
    }
    if (st == MG_OK && s.mixed_chunks)
        fprintf(stderr, "moegraft-calibrate: warning: chunks of different sizes; %llu tokens, the first's, is stored\n",
                (unsigned long long)s.chunk_size);
    if (st == MG_OK) st = write_set(a, &s, &size, err);
    if (st == MG_OK && !a->common.json)
        printf("%s: %u weights from %zu files, %llu chunks\n", a->output, s.n, a->pos.n,
               (unsigned long long)s.chunk_count);
    if (st == MG_OK && a->common.json)
        printf("{\"schema\":1,\"entries\":%u,\"files\":%zu,\"chunks\":%llu,\"bytes\":%llu}\n", s.n, a->pos.n,
               (unsigned long long)s.chunk_count, (unsigned long long)size);
    mg_imatrix_set_release(&s);
    return st;
}

static mg_status statistics(const args *a, mg_error *err) {
    mg_imatrix *m;
    MG_TRY(mg_imatrix_load_sums(&m, a->pos.items[0], err));
    mg_status st = mg_tool_calibrate_statistics(a->pos.items[0], m, a->common.json, err);
    mg_imatrix_free(m);
    return st;
}

static mg_status run(const args *a, mg_error *err) {
    if (a->statistics) return statistics(a, err);
    MG_TRY(check_output(a, err));
    return a->merge ? merge(a, err) : calibrate(a, err);
}

int main(int argc, char **argv) {
    args a = {0};
    mg_error err = {0};
    mg_interrupt_install();
    mg_status st = parse(&a, argc, argv, &err);
    if (st == MG_OK && !a.done) st = run(&a, &err);
    mg_opt_list_release(&a.pos);
    mg_common_release(&a.common);
    return st == MG_OK ? 0 : mg_tool_fail(&tool, &err);
}
