/* fault_outfile.c - every system call and allocation of an output set is made to fail in turn (the linker's --wrap puts
 * the functions below in front of the real ones). Whatever fails, no file under a final name is partial, the error has
 * a code, and a run without faults afterwards leaves the bytes of an undisturbed run. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <unistd.h>

#include "outset_job.h"

static int failures;
static char dir[64];

#define CHECK(cond, ...)                                                                                               \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond);                                                 \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fprintf(stderr, "\n");                                                                                     \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)

enum call {
    PWRITE,
    SHORT_PWRITE,
    PREAD,
    SHORT_PREAD,
    FDATASYNC,
    FSYNC,
    FTRUNCATE,
    FALLOCATE,
    SYNC_RANGE,
    OPENAT,
    RENAMEAT2,
    RENAMEAT,
    UNLINKAT,
    FLOCK,
    MEMORY,
    N_CALLS
};

static const char *const call_names[N_CALLS] = {
    "pwrite",          "short pwrite", "pread",     "short pread", "fdatasync", "fsync", "ftruncate", "fallocate",
    "sync_file_range", "openat",       "renameat2", "renameat",    "unlinkat",  "flock", "allocation"};

static struct {
    enum call call;
    unsigned long at; /* this call fails, 1-based; 0 = none */
    unsigned long seen;
    int error;
    bool fired;
} fault;

static bool hit(enum call call) {
    if (call != fault.call || fault.at == 0 || ++fault.seen != fault.at) return false;
    fault.fired = true;
    errno = fault.error;
    return true;
}

ssize_t __real_pwrite64(int fd, const void *data, size_t n, off_t at);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t n, off_t at);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t n, off_t at) {
    if (hit(PWRITE)) return -1;
    return __real_pwrite64(fd, data, n > 1 && hit(SHORT_PWRITE) ? n / 2 : n, at);
}

ssize_t __real_pread64(int fd, void *data, size_t n, off_t at);
ssize_t __wrap_pread64(int fd, void *data, size_t n, off_t at);
ssize_t __wrap_pread64(int fd, void *data, size_t n, off_t at) {
    if (hit(PREAD)) return -1;
    return __real_pread64(fd, data, n > 1 && hit(SHORT_PREAD) ? n / 2 : n, at);
}

#define WRAP(call, type, name, params, args)                                                                           \
    type __real_##name params;                                                                                         \
    type __wrap_##name params;                                                                                         \
    type __wrap_##name params {                                                                                        \
        return hit(call) ? (type)-1 : __real_##name args;                                                              \
    }
WRAP(FDATASYNC, int, fdatasync, (int fd), (fd))
WRAP(FSYNC, int, fsync, (int fd), (fd))
WRAP(FTRUNCATE, int, ftruncate64, (int fd, off_t size), (fd, size))
WRAP(FALLOCATE, int, fallocate64, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size))
WRAP(SYNC_RANGE, int, sync_file_range, (int fd, off_t at, off_t n, unsigned flags), (fd, at, n, flags))
WRAP(RENAMEAT2, int, renameat2, (int a, const char *from, int b, const char *to, unsigned flags),
     (a, from, b, to, flags))
WRAP(RENAMEAT, int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
WRAP(UNLINKAT, int, unlinkat, (int d, const char *name, int flags), (d, name, flags))
WRAP(FLOCK, int, flock, (int fd, int op), (fd, op))
#undef WRAP

int __real_openat64(int d, const char *name, int flags, ...);
int __wrap_openat64(int d, const char *name, int flags, ...);
int __wrap_openat64(int d, const char *name, int flags, ...) {
    va_list ap;
    va_start(ap, flags);
    unsigned mode = flags & O_CREAT ? va_arg(ap, unsigned) : 0;
    va_end(ap);
    return hit(OPENAT) ? -1 : __real_openat64(d, name, flags, mode);
}

#define WRAP(name, params, args)                                                                                       \
    void *__real_##name params;                                                                                        \
    void *__wrap_##name params;                                                                                        \
    void *__wrap_##name params {                                                                                       \
        return hit(MEMORY) ? NULL : __real_##name args;                                                                \
    }
WRAP(malloc, (size_t n), (n))
WRAP(calloc, (size_t n, size_t size), (n, size))
WRAP(realloc, (void *p, size_t n), (p, n))
WRAP(strdup, (const char *s), (s))
WRAP(strndup, (const char *s, size_t n), (s, n))
#undef WRAP

enum { OLD = 1, NEW = 2 };

struct scenario {
    const char *name;
    bool force;  /* over finished older files */
    bool resume; /* after a run that lost its disk half way */
};

static void arm(enum call call, unsigned long at, int error) {
    fault.call = call;
    fault.at = at;
    fault.seen = 0;
    fault.error = error;
    fault.fired = false;
}

static void prepare(const struct scenario *s) {
    arm(PWRITE, 0, 0);
    job_empty(dir);
    if (s->force) CHECK(job_run(dir, OLD, false, false, NULL) == MG_OK, "older files");
    if (!s->resume) return;
    arm(PWRITE, 25, ENOSPC);
    mg_error err = {0};
    CHECK(job_run(dir, NEW, s->force, false, &err) == MG_ERR_IO && fault.fired, "the disk to resume from");
    CHECK(strstr(err.message, "no room for") != NULL, "message '%s'", err.message);
    CHECK(job_count(dir, true) == 4, "part files and journal stay after a full disk");
    arm(PWRITE, 0, 0);
}

static void check_finals(const struct scenario *s, enum call call, unsigned long at) {
    for (uint32_t f = 0; f < JOB_FILES; f++) {
        int state = job_file_state(dir, NEW, f);
        bool old = s->force && job_file_state(dir, OLD, f) == 1;
        CHECK(state != 0 || old, "%s: partial %s after %s %lu failed", s->name, job_names[f], call_names[call], at);
    }
}

/* One run with the at-th call failing, then one without. False when the run had fewer such calls. */
static bool one(const struct scenario *s, enum call call, unsigned long at, int error) {
    mg_error err = {0};
    prepare(s);
    arm(call, at, error);
    mg_status st = job_run(dir, NEW, s->force, false, &err);
    bool fired = fault.fired;
    arm(call, 0, 0);
    check_finals(s, call, at);
    if (!fired) CHECK(st == MG_OK, "%s: no fault, yet %d", s->name, (int)st);
    CHECK(st == MG_OK ? job_complete(dir, NEW) : err.code == st && err.message[0], "%s: %s %lu: %d '%s'", s->name,
          call_names[call], at, (int)st, err.message);
    if (call == MEMORY && st != MG_OK) CHECK(st == MG_ERR_LIMIT, "%s: allocation %lu: %d", s->name, at, (int)st);
    if ((call == FDATASYNC || call == FSYNC || call == PWRITE || call == SYNC_RANGE) && fired && error != EINTR &&
        error != EINVAL)
        CHECK(st == MG_ERR_IO, "%s: a failed %s is an error", s->name, call_names[call]);
    if ((call == SHORT_PWRITE || call == SHORT_PREAD) && fired)
        CHECK(st == MG_OK, "%s: short transfers are continued", s->name);
    if (call == SYNC_RANGE && error == EINVAL) CHECK(st == MG_OK, "%s: a system that cannot settle", s->name);
    bool complete = job_complete(dir, NEW) && job_count(dir, true) == 0;
    mg_status again = job_run(dir, NEW, s->force, false, NULL);
    CHECK(again == MG_OK || (again == MG_ERR_USAGE && complete), "%s: run after %s %lu: %d", s->name, call_names[call],
          at, (int)again);
    CHECK(job_complete(dir, NEW) && job_count(dir, true) == 0, "%s: wrong end after %s %lu", s->name, call_names[call],
          at);
    return fired;
}

/* Errors that a caller overlooks stay errors: after a failed fsync the set is never committed. */
static void stubborn_caller(void) {
    mg_outset *s;
    uint32_t index;
    uint8_t bytes[100] = {1};
    mg_xxh128 plan = mg_xxh128_of("p", 1);
    job_empty(dir);
    CHECK(mg_outset_new(&s, dir, "set", plan, NULL, NULL) == MG_OK, "new");
    CHECK(mg_outset_add(s, "a.safetensors", 200, &index, NULL) == MG_OK, "add");
    CHECK(mg_outset_start(s, 2, NULL) == MG_OK, "start");
    for (uint64_t unit = 0; unit < 2; unit++) {
        arm(FDATASYNC, unit == 0, EIO);
        mg_status st = mg_outset_write(s, index, unit * 100, bytes, 100, NULL);
        if (st == MG_OK) st = mg_outset_unit_done(s, unit, mg_xxh128_of(bytes, 100), NULL);
        CHECK(st == MG_ERR_IO, "unit %d: %d", (int)unit, (int)st);
    }
    arm(FDATASYNC, 0, 0);
    mg_status st = mg_outset_commit(s, NULL);
    CHECK(st != MG_OK, "commit after a failed fsync");
    mg_outset_free(s);
    CHECK(job_file_state(dir, NEW, 0) == -1, "no final file");
}

int main(void) {
    static const struct scenario scenarios[] = {
        {.name = "first run"}, {.name = "over older files", .force = true}, {.name = "resumed run", .resume = true}};
    static const int errors[] = {EIO, ENOSPC, EINTR, EINVAL};
    job_scratch(dir);
    setenv("MOEGRAFT_SYNC_BYTES", "1", 1);
#ifdef __SANITIZE_THREAD__
    size_t n_scenarios = 1; /* one thread: there is nothing for it to see */
#else
    size_t n_scenarios = sizeof scenarios / sizeof *scenarios;
#endif
    for (size_t i = 0; i < n_scenarios; i++)
        for (int call = 0; call < N_CALLS; call++)
            for (size_t e = 0; e < sizeof errors / sizeof *errors; e++) {
                unsigned long at = 1;
                if (errors[e] == EINTR && call != PWRITE && call != PREAD && call != FLOCK && call != FALLOCATE)
                    continue;
                if (errors[e] == EINVAL && call != RENAMEAT2 && call != FALLOCATE && call != SYNC_RANGE) continue;
                if (e > 0 && call == MEMORY) continue;
                while (one(&scenarios[i], (enum call)call, at, errors[e])) at++;
            }
    stubborn_caller();
    job_empty(dir);
    rmdir(dir);
    return failures != 0;
}
