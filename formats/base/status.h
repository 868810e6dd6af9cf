/* status.h - how every fallible function of moegraft reports failure.
 *
 * A function that can fail returns a must-check mg_status and takes, last, a caller-owned mg_error (may be NULL).
 * The deepest layer that knows the cause fills it with mg_fail(); outer layers add the place with mg_error_at(),
 * which fills only fields that are still empty, so the cause is never overwritten. On MG_OK the error is untouched.
 * Only tool_*.c prints an error or exits. Data from a file is never asserted.
 *
 * The enumerator values are the exit codes of CLI documentation (docs/cli.md): a tool returns the status itself. */
#ifndef MG_BASE_STATUS_H
#define MG_BASE_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum mg_status {
    MG_OK = 0,
    MG_ERR_FAILED = 1,        /* judged and failed: drift over a threshold, mismatch found by verify */
    MG_ERR_USAGE = 2,         /* wrong option or argument */
    MG_ERR_FORMAT = 3,        /* malformed input */
    MG_ERR_UNSUPPORTED = 4,   /* valid, but not something this version can do */
    MG_ERR_IO = 5,            /* the operating system refused a read, write, open, rename ... */
    MG_ERR_LIMIT = 6,         /* a resource limit of ours or of the system (memory included) */
    MG_ERR_INTEGRITY = 7,     /* a hash or a re-read disagrees with what was recorded */
    MG_ERR_CONFLICT = 8,      /* configs that contradict each other or themselves */
    MG_ERR_INTERNAL = 70,     /* a bug of ours */
    MG_ERR_INTERRUPTED = 130, /* SIGINT */
    MG_ERR_TERMINATED = 143,  /* SIGTERM */
} mg_status;

#define MG_MUST_CHECK        __attribute__((warn_unused_result))
#define MG_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* Fixed size on purpose: an error must be reportable when memory is gone. Empty string = not set. */
typedef struct mg_error {
    mg_status code;
    int sys_errno;   /* saved errno when the cause was a system call, else 0 */
    bool has_offset; /* true when offset (bytes from the start of the file) is meaningful */
    uint64_t offset;
    char file[512];
    char tensor[256];
    char message[1024]; /* lower case, no full stop, subject in quotes, expected and found named */
} mg_error;

/* Zero-initialise an mg_error before the first use: mg_error err = {0}; */

/* Set *err (if not NULL and not already set) and return code. */
mg_status mg_fail(mg_error *err, mg_status code, const char *fmt, ...) MG_PRINTF(3, 4);

/* As mg_fail, for a failed system call: appends strerror(errno) and saves errno. Code MG_ERR_IO. */
mg_status mg_fail_errno(mg_error *err, const char *fmt, ...) MG_PRINTF(2, 3);

/* Out of memory. Returns MG_ERR_LIMIT. */
mg_status mg_fail_nomem(mg_error *err, uint64_t bytes);

/* Name the place of an error already set: fills file and tensor only where they are still empty. NULL = leave. */
void mg_error_at(mg_error *err, const char *file, const char *tensor);

/* Same for the byte offset. */
void mg_error_offset(mg_error *err, uint64_t offset);

/* One line: "tensor 'T' in 'F' at OFFSET: MESSAGE" with the absent parts left out; control bytes and invalid UTF-8
 * of file-supplied names are shown escaped. Always terminates buf. Returns buf. */
const char *mg_error_text(const mg_error *err, char *buf, size_t size);

/* A short name for a code: "malformed input" ... */
const char *mg_status_name(mg_status code);

/* Pass a failure on unchanged. */
#define MG_TRY(expr)                                                                                                   \
    do {                                                                                                               \
        mg_status mg_try_s_ = (expr);                                                                                  \
        if (mg_try_s_ != MG_OK) return mg_try_s_;                                                                      \
    } while (0)

/* Pass a failure on to a cleanup label; needs a local `mg_status st`. */
#define MG_TRY_GOTO(expr, label)                                                                                       \
    do {                                                                                                               \
        st = (expr);                                                                                                   \
        if (st != MG_OK) goto label;                                                                                   \
    } while (0)

#endif
