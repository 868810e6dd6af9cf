/* tool_moegraft.c - the front door: `moegraft TOOL ...` runs the moegraft-TOOL that lies beside this file. Which tools
 * exist is asked of the directory, so that an installed copy and a partial build both tell the truth. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/cpu.h"
#include "formats/base/options.h"
#include "mg_version.h"

typedef struct door_tool {
    const char *name, *summary;
} door_tool;

/* Every tool of docs/cli.md, in the order of a job. */
static const door_tool tools[] = {
    {"inspect", "what a model file or directory holds"},
    {"check", "validate checkpoints, compare merge donors, lint for a loader"},
    {"merge", "dense donors into a mixture of experts, from a mergekit YAML"},
    {"extract", "experts of a mixture out as dense models"},
    {"graft", "add, drop or re-gate experts of an existing mixture"},
    {"convert", "between Hugging Face, GGUF and Mistral layouts"},
    {"calibrate", "importance matrix and expert load from text"},
    {"imatrix", "the same as calibrate"},
    {"quantize", "to 2-8 bit GGUF types and group formats"},
    {"verify", "drift of candidates against a reference, with a verdict"},
    {"forward", "logits, hidden states and router logits of the reference pass"},
    {"perplexity", "perplexity of text, llama-perplexity's definition"},
    {"route", "which expert took which token"},
    {"tokenize", "text to token ids and back"},
    {"generate", "text through the reference pass"},
    {"edit", "change GGUF metadata, config or template in place"},
    {"card", "model card for a result"},
    {"clean", "remove our stale partial files and journals"},
    {"finalize", "complete a distributed run"},
};
enum { N_TOOLS = sizeof tools / sizeof *tools };

/* The tool that a name runs: itself, except for aliases. */
static const char *real_name(const char *name) {
    static const char *const aliases[][2] = {{"imatrix", "calibrate"}};
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++)
        if (strcmp(name, aliases[i][0]) == 0) return aliases[i][1];
    return name;
}

/* "DIR/moegraft-NAME", DIR being where this executable lies; false when it cannot be known. */
static bool tool_path(char *buf, size_t size, const char *name) {
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return false;
    self[n] = 0;
    char *slash = strrchr(self, '/');
    if (!slash) return false;
    *slash = 0;
    int k = snprintf(buf, size, "%s/moegraft-%s", self, real_name(name));
    return k > 0 && (size_t)k < size;
}

static bool is_built(const char *name) {
    char path[4352];
    return tool_path(path, sizeof path, name) && access(path, X_OK) == 0;
}

static void overview(FILE *to) {
    fprintf(to,
            "moegraft %s: merge dense language models into mixtures of experts, quantize them, prove what came out.\n\n"
            "Usage: moegraft TOOL [arguments]      (moegraft TOOL --help says more)\n\n",
            MG_VERSION);
    for (size_t i = 0; i < N_TOOLS; i++)
        fprintf(to, "  %-11s %s%s\n", tools[i].name, tools[i].summary,
                is_built(tools[i].name) ? "" : " (not built yet)");
    fputs("\nExamples:\n"
          "  moegraft merge samples/moe4.yml moe4-Q4_K_M.gguf --to Q4_K_M\n"
          "  moegraft quantize moe4-bf16.gguf moe4-Q6_K.gguf Q6_K\n"
          "  moegraft verify moe4/ moe4-Q4_K_M.gguf --text samples/text/prose.txt\n",
          to);
}

static int fail(const mg_error *err) {
    char text[2048];
    fprintf(stderr, "moegraft: error: %s\nnext: moegraft --help\n", mg_error_text(err, text, sizeof text));
    return (int)err->code;
}

static mg_status unknown_tool(const char *name, mg_error *err) {
    const char *names[N_TOOLS + 1] = {0};
    for (size_t i = 0; i < N_TOOLS; i++) {
        names[i] = tools[i].name;
        if (strcmp(name, tools[i].name) == 0)
            return mg_fail(err, MG_ERR_UNSUPPORTED, "tool '%s' is not built yet", name);
    }
    const char *near = mg_nearest(name, names);
    return mg_fail(err, MG_ERR_USAGE, "no tool '%s'%s%s%s", name, near ? "; nearest: '" : "", near ? near : "",
                   near ? "'" : "");
}

/* Returns only on failure. */
static mg_status run_tool(const char *name, char **argv, mg_error *err) {
    char path[4352];
    if (name[0] == '-' || strchr(name, '/') || strlen(name) > 64)
        return mg_fail(err, MG_ERR_USAGE, "'%s' is no tool", name);
    if (!is_built(name)) return unknown_tool(name, err);
    if (!tool_path(path, sizeof path, name)) return mg_fail_errno(err, "where moegraft lies is unknown");
    argv[0] = path;
    execv(path, argv);
    return mg_fail_errno(err, "'%s' does not start", path);
}

int main(int argc, char **argv) {
    mg_error err = {0};
    const char *word = argc > 1 ? argv[1] : "--help";
    if (strcmp(word, "--version") == 0) {
        printf("moegraft %s (commit %s, %s)\n", MG_VERSION, MG_COMMIT, mg_isa_name(mg_cpu_isa()));
        return 0;
    }
    bool help = strcmp(word, "help") == 0;
    if (help && argc > 2) { /* moegraft help TOOL */
        char option[] = "--help", *args[] = {argv[0], option, NULL};
        if (run_tool(argv[2], args, &err)) return fail(&err);
    }
    if (help || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        overview(stdout);
        return 0;
    }
    if (run_tool(word, argv + 1, &err)) return fail(&err);
    return 0;
}
