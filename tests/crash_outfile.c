/* crash_outfile.c - the process is stopped at every crash point of a job; the rerun must leave the bytes of an
 * undisturbed run, and at no moment may a file under a final name be anything but whole. A plain main: children are
 * forked, and it runs under every sanitizer. */
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

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

struct scenario {
    const char *name;
    const char *sync_bytes; /* "1": every unit is journaled; "": only the end is */
    bool force;             /* over a finished older run (seed 1) */
    bool restart;           /* over an interrupted other run (seed 1) */
    bool small;             /* mg_outfile_write_all instead of the set */
};

enum { OLD = 1, NEW = 2 };

/* With a sanitizer a fork and its end cost 30 ms and more: every sixth point. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { STRIDE = 6 };
#else
enum { STRIDE = 1 };
#endif

static mg_status job_of(const struct scenario *s, mg_error *err) {
    char path[128];
    uint8_t bytes[300];
    if (!s->small) return job_run(dir, NEW, s->force, s->restart, err);
    snprintf(path, sizeof path, "%s/%s", dir, job_names[2]);
    job_fill(NEW, 2, 0, bytes, sizeof bytes);
    return mg_outfile_write_all(path, bytes, sizeof bytes, s->force, err);
}

/* Run the job in a child that stops at crash point `at` (0: never). Its exit status. */
static int child(const struct scenario *s, unsigned long at, const char *count_file) {
    pid_t pid = fork();
    if (pid == 0) {
        char text[32];
        mg_error err = {0};
        snprintf(text, sizeof text, "%lu", at);
        if (at) setenv("MOEGRAFT_CRASH_AT", text, 1);
        if (count_file) setenv("MOEGRAFT_CRASH_COUNT", count_file, 1);
        setenv("MOEGRAFT_SYNC_BYTES", s->sync_bytes, 1);
        int null = open("/dev/null", O_WRONLY);
        if (at) dup2(null, STDERR_FILENO); /* the name of each point */
        mg_status st = job_of(s, &err);
        exit((int)st);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* What was there before the run under test. */
static void prepare(const struct scenario *s) {
    static const struct scenario old = {.sync_bytes = "1"};
    job_empty(dir);
    if (!s->force && !s->restart) return;
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO);
        setenv("MOEGRAFT_SYNC_BYTES", old.sync_bytes, 1);
        if (s->restart) setenv("MOEGRAFT_CRASH_AT", "60", 1);
        exit((int)job_run(dir, OLD, false, false, NULL));
    }
    int status = 0;
    waitpid(pid, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == (s->restart ? 137 : 0), "preparing %s", s->name);
}

static bool complete(const struct scenario *s) {
    return s->small ? job_file_state(dir, NEW, 2) == 1 : job_complete(dir, NEW);
}

/* Every file under a final name is whole: the new bytes, or with force the old ones. */
static void check_finals(const struct scenario *s, unsigned long at) {
    for (uint32_t f = 0; f < JOB_FILES; f++) {
        int state = job_file_state(dir, NEW, f);
        bool old = s->force && job_file_state(dir, OLD, f) == 1;
        CHECK(state != 0 || old, "%s: partial %s after a stop at point %lu", s->name, job_names[f], at);
        CHECK(state != -1 || !s->force, "%s: %s is gone after a stop at point %lu", s->name, job_names[f], at);
    }
}

/* All files have their final names, and nothing says that the run was interrupted. */
static bool ended(const struct scenario *s) {
    return complete(s) && (s->restart || job_count(dir, true) == 0);
}

/* Rerun until it ends. A run stopped after its last step is complete, and a rerun without force says so with 2; a rerun
 * that asks for a restart is also told so while the journal is still there. */
static void check_rerun(const struct scenario *s, unsigned long at, unsigned long again) {
    bool was_complete = ended(s);
    int code = child(s, again, NULL);
    if (code == 137) {
        check_finals(s, at);
        was_complete = ended(s);
        code = child(s, 0, NULL);
    }
    CHECK(code == 0 || (code == MG_ERR_USAGE && was_complete && !s->force),
          "%s: rerun after point %lu (and %lu) exits %d", s->name, at, again, code);
    CHECK(complete(s), "%s: wrong bytes after a stop at point %lu and %lu", s->name, at, again);
    CHECK(job_count(dir, true) == 0, "%s: leftovers after a stop at point %lu and %lu", s->name, at, again);
}

static void every_point(const struct scenario *s) {
    char count_file[] = "/tmp/mg_crash_count.XXXXXX";
    unsigned long n = 0;
    int fd = mkstemp(count_file);
    prepare(s);
    CHECK(child(s, 0, count_file) == 0 && complete(s), "%s: undisturbed run", s->name);
    FILE *f = fdopen(fd, "r");
    CHECK(f && fscanf(f, "%lu", &n) == 1 && n >= 3, "%s: %lu crash points", s->name, n);
    if (f) fclose(f);
    unlink(count_file);
    for (unsigned long at = 1; at <= n; at += STRIDE) {
        for (unsigned long again = 0; again < 2; again++) {
            prepare(s);
            CHECK(child(s, at, NULL) == 137, "%s: point %lu of %lu", s->name, at, n);
            check_finals(s, at);
            check_rerun(s, at, again ? 1 + at * 7 % n : 0);
        }
    }
    printf("%s: %lu points\n", s->name, n);
}

/* A second process is refused while the first is at work, and named. */
static void two_processes(void) {
    mg_outset *s;
    uint32_t index;
    mg_error err = {0};
    mg_xxh128 plan = mg_xxh128_of("x", 1);
    job_empty(dir);
    CHECK(mg_outset_new(&s, dir, "set", plan, NULL, &err) == MG_OK, "new");
    CHECK(mg_outset_add(s, "a.safetensors", 10, &index, &err) == MG_OK, "add");
    CHECK(mg_outset_start(s, 1, &err) == MG_OK, "start");
    pid_t pid = fork();
    if (pid == 0) {
        char pid_text[32];
        mg_error mine = {0};
        snprintf(pid_text, sizeof pid_text, "(%ld)", (long)getppid());
        mg_status st = job_run(dir, NEW, false, false, &mine);
        _exit(st == MG_ERR_IO && strstr(mine.message, "lock") && strstr(mine.message, pid_text) &&
                      strstr(mine.file, "/.set.journal")
                  ? 0
                  : 1);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "second process");
    mg_outset_free(s);
    CHECK(job_count(dir, false) == 0, "nothing was finished, nothing stays");
}

/* Killed by a real signal at any moment: the lock dies with the process. */
static void killed(void) {
    static const struct scenario s = {.name = "kill -9", .sync_bytes = "1"};
    for (int i = 0; i < 25; i++) {
        job_empty(dir);
        pid_t pid = fork();
        if (pid == 0) {
            setenv("MOEGRAFT_SYNC_BYTES", "1", 1);
            _exit((int)job_run(dir, NEW, false, false, NULL));
        }
        usleep((useconds_t)(i * 60));
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        check_finals(&s, 0);
        check_rerun(&s, 0, 0);
    }
}

int main(void) {
    static const struct scenario scenarios[] = {
        {.name = "each unit journaled", .sync_bytes = "1"},
        {.name = "journaled at the end", .sync_bytes = ""},
        {.name = "over older files", .sync_bytes = "1", .force = true},
        {.name = "restart over another run", .sync_bytes = "12000", .restart = true},
        {.name = "one small file", .sync_bytes = "", .small = true},
    };
    setvbuf(stdout, NULL, _IONBF, 0); /* children leave through exit() */
    job_scratch(dir);
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) every_point(&scenarios[i]);
    killed();
    two_processes(); /* last: this process itself then passes crash points, and reads its environment for good */
    job_empty(dir);
    rmdir(dir);
    return failures != 0;
}
