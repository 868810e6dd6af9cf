/* options.h - option tables. One table per tool yields parsing, --help, the man page and the nearest-name suggestion
 * for an unknown option (MG_ERR_USAGE, exit 2). A table row states where the value goes, so an option cannot be parsed
 * and forgotten without its variable being visibly unused. */
#ifndef MG_BASE_OPTIONS_H
#define MG_BASE_OPTIONS_H

#include <stdio.h>

#include "formats/base/progress.h"
#include "formats/base/status.h"

typedef enum mg_opt_kind {
    MG_OPT_GROUP, /* heading line in --help; only .help is used */
    MG_OPT_FLAG,  /* bool *          : set to true */
    MG_OPT_STR,   /* const char **   : last one wins */
    MG_OPT_LIST,  /* mg_opt_list *   : repeatable string */
    MG_OPT_U64,   /* uint64_t *      */
    MG_OPT_F64,   /* double *        */
    MG_OPT_SIZE,  /* uint64_t *      : K/M/G/B decimal, KiB/MiB/GiB binary, plain bytes */
    MG_OPT_CALL,  /* const mg_opt_call * : called with the value as it is parsed; repeatable */
    MG_OPT_NOOP,  /* accepted, with one line on stderr saying why it is not needed (mergekit's switches); out unused */
    MG_OPT_UNBUILT, /* documented but not built yet: using it is MG_ERR_UNSUPPORTED (exit 4); out unused */
} mg_opt_kind;

typedef struct mg_opt_list {
    const char **items;
    size_t n;
} mg_opt_list;

/* What an option does at once; its error is the option's. */
typedef struct mg_opt_call {
    mg_status (*run)(const char *value, mg_error *err);
} mg_opt_call;

typedef struct mg_opt {
    const char *names; /* "--threads,-t,-j": first long, then aliases */
    mg_opt_kind kind;
    void *out;
    const char *arg;  /* placeholder in help: "N", "FILE"; NULL for flags */
    const char *help; /* one sentence */
} mg_opt;

typedef struct mg_tool_info {
    const char *name;     /* "quantize": the executable is moegraft-quantize */
    const char *summary;  /* one line */
    const char *synopsis; /* "IN [OUT] TYPE [NTHREADS]" (may hold several lines) */
    const char *examples; /* block of text, may be NULL */
    const char *next;     /* printed after a failure: the next command to type, may be NULL */
} mg_tool_info;

/* Parse argv. opts: table ended by {0}. A table that lists a name twice is MG_ERR_INTERNAL; a MOEGRAFT_ISA that does
 * not exist is MG_ERR_USAGE. Positional arguments are collected in order into *pos (pointing into argv). Values: "--opt
 * value", "--opt=value", "-t8", "-t 8"; "--" ends options. A negative number is a value, not an option.
 * --help, --version and --man are handled here: text to stdout, then *done = true and MG_OK. */
mg_status mg_options_parse(const mg_tool_info *tool, const mg_opt *opts, int argc, char **argv, mg_opt_list *pos,
                           bool *done, mg_error *err) MG_MUST_CHECK;
void mg_opt_list_release(mg_opt_list *l);
void mg_options_help(const mg_tool_info *tool, const mg_opt *opts, FILE *to);
void mg_options_man(const mg_tool_info *tool, const mg_opt *opts, FILE *to);

mg_status mg_parse_size(const char *text, uint64_t *out, mg_error *err) MG_MUST_CHECK;
mg_status mg_parse_u64(const char *text, uint64_t *out, mg_error *err) MG_MUST_CHECK;
mg_status mg_parse_f64(const char *text, double *out, mg_error *err) MG_MUST_CHECK;
/* The candidate closest to word by edit distance (NULL-terminated list), or NULL when none is near. */
const char *mg_nearest(const char *word, const char *const *candidates);
/* Edit distance (insert, delete, replace, swap of neighbours) of two words; of their first 64 bytes. */
unsigned mg_edit_distance(const char *a, size_t na, const char *b, size_t nb);

/* ---- the options most tools share ----
 * A tool holds one mg_common, calls mg_common_init on it, puts into its table only the groups it honours, and calls
 * mg_common_finish after parsing:
 *     const mg_opt opts[] = {{"--to", MG_OPT_STR, &to, "TYPE", "..."}, MG_COMMON_EXEC_OPTS(c), MG_COMMON_TEXT_OPTS(c),
 * {0}}; */
typedef struct mg_common {
    /* as parsed */
    uint64_t threads; /* 0: not given */
    const char *progress_name;
    const char *experts; /* NULL: not given */
    /* ready to use after mg_common_finish */
    unsigned n_threads; /* 1..1024; default: cores this process may use */
    mg_progress_mode progress;
    uint32_t experts_per_token; /* 0: as the model says; MG_EXPERTS_ALL; else K */
    uint64_t memory;            /* bytes for tiles; 0: the executor's default */
    uint64_t ctx;               /* window in tokens; default 512 */
    mg_opt_list text;           /* --text FILE, in order */
    mg_opt_list tokens;         /* --tokens FILE, in order */
    bool json, dry_run, restart, force, quiet, verbose;
    /* as parsed, UINT64_MAX: not given; and after mg_common_ranks */
    uint64_t rank_asked, world_asked;
    uint32_t rank, world; /* world 0: this process works alone */
    bool verify_inputs;   /* formats/known_hashes.h */
    bool finalize;        /* the last rank to finish completes the output */
} mg_common;

#define MG_EXPERTS_ALL UINT32_MAX

/* Threads, memory and what is printed while working. -q: no progress, warnings and errors only. */
#define MG_COMMON_EXEC_OPTS(c)                                                                                         \
    {NULL, MG_OPT_GROUP, NULL, NULL, "Execution"},                                                                     \
        {"--threads,-t,-j", MG_OPT_U64, &(c).threads, "N",                                                             \
         "worker threads (default: cores allowed by affinity and cgroup)"},                                            \
        {"--memory", MG_OPT_SIZE, &(c).memory, "SIZE", "hard budget for the buffers data passes through"},             \
        MG_COMMON_PROGRESS_OPTS(c)
/* The part of it for tools that have no tile buffers. */
#define MG_COMMON_PROGRESS_OPTS(c)                                                                                     \
    {"--progress", MG_OPT_STR, &(c).progress_name, "MODE", "auto (bar on a terminal), plain, json or none"},           \
        MG_QUIET_OPT((c).quiet), {                                                                                     \
        "--verbose,-v", MG_OPT_FLAG, &(c).verbose, NULL, "say more about what is done"                                 \
    }
/* Of it what a tool takes that is done at once. */
#define MG_QUIET_OPT(quiet)                                                                                            \
    { "--quiet,-q", MG_OPT_FLAG, &(quiet), NULL, "results, warnings and errors only" }
/* Tools that write files. */
#define MG_COMMON_WRITE_OPTS(c)                                                                                        \
    {NULL, MG_OPT_GROUP, NULL, NULL, "Output"},                                                                        \
        {"--dry-run", MG_OPT_FLAG, &(c).dry_run, NULL, "show plan, sizes, memory and disk need; touch nothing"},       \
        {"--force", MG_OPT_FLAG, &(c).force, NULL, "replace an existing output (it is refused otherwise)"}, {          \
        "--restart", MG_OPT_FLAG, &(c).restart, NULL, "start anew instead of resuming an interrupted run"              \
    }
/* Tools that run a model on text. */
#define MG_COMMON_TEXT_OPTS(c)                                                                                         \
    {NULL, MG_OPT_GROUP, NULL, NULL, "Text"},                                                                          \
        {"--text,-f", MG_OPT_LIST, &(c).text, "FILE", "text file; repeatable, one file each"},                         \
        {"--tokens", MG_OPT_LIST, &(c).tokens, "FILE",                                                                 \
         "token ids instead of text: safetensors with input_ids [batch, n] int64, or one sequence of ids per line"},   \
    {                                                                                                                  \
        "--ctx,-c", MG_OPT_U64, &(c).ctx, "N", "tokens per window of --text (default 512)"                             \
    }
/* Tools that run a model. */
#define MG_COMMON_MODEL_OPTS(c)                                                                                        \
    {NULL, MG_OPT_GROUP, NULL, NULL, "Model"}, {                                                                       \
        "--experts-per-token", MG_OPT_STR, &(c).experts, "K|all",                                                      \
            "use K experts per token instead of the model's own number"                                                \
    }
#define MG_COMMON_JSON_OPT(c)                                                                                          \
    { "--json", MG_OPT_FLAG, &(c).json, NULL, "result as JSON on stdout" }
/* Tools whose outputs several processes can write together (docs/ranks.md). */
#define MG_COMMON_RANK_OPTS(c)                                                                                         \
    {NULL, MG_OPT_GROUP, NULL, NULL, "Several processes"},                                                             \
        {"--rank", MG_OPT_U64, &(c).rank_asked, "I",                                                                   \
         "write share I of the output, counted from 0; with --world (default: what mpirun, srun or a Slurm array "     \
         "says, "                                                                                                      \
         "if one of them started this)"},                                                                              \
        {"--world", MG_OPT_U64, &(c).world_asked, "N", "number of shares; moegraft-finalize completes the output"}, {  \
        "--finalize", MG_OPT_FLAG, &(c).finalize, NULL, "the last rank to finish completes the output itself"          \
    }
/* Tools that read whole models. */
#define MG_COMMON_VERIFY_OPT(c)                                                                                        \
    {                                                                                                                  \
        "--verify-inputs", MG_OPT_FLAG, &(c).verify_inputs, NULL,                                                      \
            "compare input files with hashes recorded beside them (manifests, sha256sum and md5sum lists, the "        \
            "Hugging "                                                                                                 \
            "Face cache) first"                                                                                        \
    }
/* mergekit's switches without meaning here. */
#define MG_MERGEKIT_NOOP_OPTS                                                                                          \
    {NULL, MG_OPT_GROUP, NULL, NULL, "Accepted for mergekit's sake"},                                                  \
        {"--lazy-unpickle", MG_OPT_NOOP, NULL, NULL, "tensors are always read piece by piece"},                        \
        {"--low-cpu-memory", MG_OPT_NOOP, NULL, NULL, "memory is always bounded, see --memory"},                       \
        {"--clone-tensors", MG_OPT_NOOP, NULL, NULL, "shared tensors are never a problem for the writer"},             \
        {"--copy-tokenizer", MG_OPT_NOOP, NULL, NULL, "tokenizer files are always copied"},                            \
        {"--cuda", MG_OPT_NOOP, NULL, NULL, "everything runs on the CPU"},                                             \
        {"--trust-remote-code", MG_OPT_NOOP, NULL, NULL, "no code of a model is ever run"}, {                          \
        "--allow-crimes", MG_OPT_NOOP, NULL, NULL, "what works is allowed"                                             \
    }

void mg_common_init(mg_common *c);
/* Check and derive the fields marked above. -v says on stderr which program runs, with how many threads and which
 * budget. */
mg_status mg_common_finish(mg_common *c, mg_error *err) MG_MUST_CHECK;
void mg_common_release(mg_common *c);
/* After mg_common_finish, by tools with MG_COMMON_RANK_OPTS: options, else what a launcher put into the environment;
 * says on stderr which was taken. One of 1 is no rank. */
mg_status mg_common_ranks(mg_common *c, const mg_tool_info *tool, mg_error *err) MG_MUST_CHECK;

/* Print "moegraft-TOOL: error: TEXT" and the next command to type to stderr (after a usage error: its --help); returns
 * the error's code as an exit status. */
int mg_tool_fail(const mg_tool_info *tool, const mg_error *err);

#endif
