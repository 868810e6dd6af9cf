/* test_outfile.c - rules of output sets that need no crash: names, bounds, existing files, other plans, damage of part
 * files and journals, small files. Crashes and faults: crash_outfile.c, fault_outfile.c. */
#include <criterion/criterion.h>

#include <sys/resource.h>
#include <sys/wait.h>

#include "formats/base/pool.h"
#include "outset_job.h"

enum { OLD = 1, NEW = 2 };
static char dir[64];

static void begin(void) {
    job_scratch(dir);
    setenv("MOEGRAFT_SYNC_BYTES", "1", 1);
}

static void end(void) {
    job_empty(dir);
    rmdir(dir);
}

TestSuite(outfile, .init = begin, .fini = end, .timeout = 60);

static const char *path_of(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

/* A run that stops after `units` units, as SIGINT would have it: its part files and journal stay. */
static void interrupted_run(unsigned seed, uint64_t units) {
    mg_outset *s;
    uint32_t index;
    cr_assert_eq(mg_outset_new(&s, dir, "set", mg_xxh128_of(&seed, sizeof seed), NULL, NULL), MG_OK);
    for (uint32_t f = 0; f < JOB_FILES; f++)
        cr_assert_eq(mg_outset_add(s, job_names[f], job_sizes[f], &index, NULL), MG_OK);
    cr_assert_eq(mg_outset_start(s, JOB_UNITS, NULL), MG_OK);
    for (uint64_t u = 0; u < units; u++) cr_assert_eq(job_unit(s, seed, u, NULL), MG_OK);
    mg_outset_free(s);
}

static uint8_t *load(const char *name, size_t *n) {
    FILE *f = fopen(path_of(name), "rb");
    cr_assert_not_null(f);
    uint8_t *bytes = malloc(1 << 20);
    *n = fread(bytes, 1, 1 << 20, f);
    fclose(f);
    return bytes;
}

static void store(const char *name, const uint8_t *bytes, size_t n) {
    FILE *f = fopen(path_of(name), "wb");
    cr_assert_not_null(f);
    cr_assert_eq(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static void flip(const char *name, long at) {
    FILE *f = fopen(path_of(name), "r+b");
    cr_assert_not_null(f);
    fseek(f, at, SEEK_SET);
    int c = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(c ^ 0x10, f);
    fclose(f);
}

Test(outfile, whole_run_leaves_only_its_files) {
    mg_error err = {0};
    cr_assert_eq(job_run(dir, NEW, false, false, &err), MG_OK, "%s", err.message);
    cr_assert(job_complete(dir, NEW));
    cr_assert_eq(job_count(dir, false), JOB_FILES);
}

Test(outfile, existing_file_is_refused_without_a_trace) {
    mg_error err = {0};
    store(job_names[1], (const uint8_t *)"mine", 4);
    cr_assert_eq(job_run(dir, NEW, false, false, &err), MG_ERR_USAGE);
    cr_assert_eq(job_count(dir, false), 1);
    cr_assert_str_eq(err.message, "exists already; --force replaces it");
    cr_assert_str_eq(err.file, path_of(job_names[1]));
    cr_assert_eq(job_run(dir, NEW, true, false, &err), MG_OK);
    cr_assert(job_complete(dir, NEW));
}

Test(outfile, file_that_appears_meanwhile_is_not_replaced) {
    mg_outset *s;
    mg_error err = {0};
    uint32_t index;
    cr_assert_eq(mg_outset_new(&s, dir, "set", mg_xxh128_of("x", 1), NULL, NULL), MG_OK);
    cr_assert_eq(mg_outset_add(s, "late", 4, &index, NULL), MG_OK);
    cr_assert_eq(mg_outset_start(s, 0, NULL), MG_OK);
    cr_assert_eq(mg_outset_write(s, index, 0, "ours", 4, NULL), MG_OK);
    store("late", (const uint8_t *)"mine", 4);
    cr_assert_eq(mg_outset_commit(s, &err), MG_ERR_USAGE);
    mg_outset_free(s);
    size_t n;
    uint8_t *bytes = load("late", &n);
    cr_assert(n == 4 && memcmp(bytes, "mine", 4) == 0);
    free(bytes);
}

Test(outfile, only_missing_units_are_done_again) {
    mg_outset *s;
    uint32_t index;
    unsigned seed = NEW;
    interrupted_run(NEW, 4);
    cr_assert(mg_outset_pending(dir, "set"));
    flip(".a.safetensors.part", JOB_HEADER + 2 * JOB_A + 77);
    cr_assert_eq(mg_outset_new(&s, dir, "set", mg_xxh128_of(&seed, sizeof seed), NULL, NULL), MG_OK);
    for (uint32_t f = 0; f < JOB_FILES; f++)
        cr_assert_eq(mg_outset_add(s, job_names[f], job_sizes[f], &index, NULL), MG_OK);
    cr_assert_eq(mg_outset_start(s, JOB_UNITS, NULL), MG_OK);
    for (uint64_t u = 0; u < JOB_UNITS; u++) {
        mg_extent e[2] = {{0, JOB_HEADER + u * JOB_A, JOB_A}, {1, JOB_HEADER + u * JOB_B, JOB_B}};
        cr_assert_eq(mg_outset_is_done(s, u, e, 2), u < 4 && u != 2, "unit %d", (int)u);
    }
    mg_outset_free(s);
    cr_assert_eq(job_run(dir, NEW, false, false, NULL), MG_OK);
    cr_assert(job_complete(dir, NEW));
    cr_assert(!mg_outset_pending(dir, "set"));
}

Test(outfile, other_plan_is_a_conflict_until_restart) {
    mg_error err = {0};
    interrupted_run(OLD, 3);
    cr_assert_eq(job_run(dir, NEW, true, false, &err), MG_ERR_CONFLICT);
    cr_assert(strstr(err.message, "--restart"));
    cr_assert_str_eq(err.file, path_of(".set.journal"));
    cr_assert_eq(job_count(dir, true), 4, "the other run's work is untouched");
    cr_assert_eq(job_run(dir, NEW, false, true, NULL), MG_OK);
    cr_assert(job_complete(dir, NEW));
    cr_assert_eq(job_count(dir, false), JOB_FILES);
}

Test(outfile, lost_part_file_costs_only_time) {
    interrupted_run(NEW, 5);
    cr_assert_eq(unlink(path_of(".b.safetensors.part")), 0);
    cr_assert_eq(truncate(path_of(".a.safetensors.part"), 1000), 0);
    cr_assert_eq(job_run(dir, NEW, false, false, NULL), MG_OK);
    cr_assert(job_complete(dir, NEW));
}

/* A damaged journal is refused or believed as far as it checks; the bytes are right whenever a run succeeds. */
Test(outfile, journal_damaged_anywhere) {
    size_t n, m;
    interrupted_run(NEW, 6);
    uint8_t *journal = load(".set.journal", &n), *part = load(".a.safetensors.part", &m);
    int refused = 0, done = 0;
    for (size_t at = 0; at < n; at += at < 64 ? 1 : 7) {
        job_empty(dir);
        store(".set.journal", journal, n);
        store(".a.safetensors.part", part, m);
        flip(".set.journal", (long)at);
        mg_error err = {0};
        mg_status st = job_run(dir, NEW, false, false, &err);
        if (st == MG_OK) {
            cr_assert(job_complete(dir, NEW), "wrong bytes, journal byte %zu", at);
            done++;
            continue;
        }
        cr_assert(st == MG_ERR_INTEGRITY || st == MG_ERR_UNSUPPORTED, "journal byte %zu: %d %s", at, st, err.message);
        cr_assert_eq(job_file_state(dir, NEW, 0), -1);
        cr_assert_eq(job_run(dir, NEW, false, true, NULL), MG_OK, "restart, journal byte %zu", at);
        cr_assert(job_complete(dir, NEW));
        refused++;
    }
    for (size_t size = 0; size < n; size += 5) { /* torn at any length */
        job_empty(dir);
        store(".set.journal", journal, size);
        mg_status st = job_run(dir, NEW, false, size > 64 && size < 170, NULL);
        cr_assert(st == MG_OK || (st == MG_ERR_INTEGRITY && size >= 64), "journal of %zu bytes: %d", size, st);
        if (st == MG_OK) cr_assert(job_complete(dir, NEW));
    }
    cr_assert(refused > 60 && done > 20, "%d refused, %d done", refused, done);
    free(journal);
    free(part);
}

Test(outfile, names_and_ranges_are_checked) {
    mg_outset *s;
    uint32_t index, again;
    char long_name[300];
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    mg_xxh128 plan = mg_xxh128_of("x", 1);
    cr_assert_eq(mg_outset_new(&s, dir, "../set", plan, NULL, NULL), MG_ERR_FORMAT);
    cr_assert_eq(mg_outset_new(&s, path_of("absent"), "set", plan, NULL, NULL), MG_ERR_IO);
    cr_assert_eq(mg_outset_new(&s, dir, "set", plan, NULL, NULL), MG_OK);
    cr_assert_eq(mg_outset_add(s, "a/b", 1, &index, NULL), MG_ERR_FORMAT);
    cr_assert_eq(mg_outset_add(s, long_name, 1, &index, NULL), MG_ERR_LIMIT);
    cr_assert_eq(mg_outset_add(s, "a", 10, &index, NULL), MG_OK);
    cr_assert_eq(mg_outset_add(s, "a", 10, &again, NULL), MG_ERR_INTERNAL);
    cr_assert_eq(mg_outset_write(s, index, 0, "x", 1, NULL), MG_ERR_INTERNAL, "not started");
    cr_assert_eq(mg_outset_start(s, 2, NULL), MG_OK);
    cr_assert_eq(mg_outset_write(s, index, 10, "x", 1, NULL), MG_ERR_INTERNAL);
    cr_assert_eq(mg_outset_write(s, index, UINT64_MAX, "x", 1, NULL), MG_ERR_INTERNAL);
    cr_assert_eq(mg_outset_write(s, index + 1, 0, "x", 1, NULL), MG_ERR_INTERNAL);
    cr_assert_eq(mg_outset_unit_done(s, 2, plan, NULL), MG_ERR_INTERNAL);
    cr_assert_eq(mg_outset_unit_done(s, 0, plan, NULL), MG_OK);
    cr_assert_eq(mg_outset_commit(s, NULL), MG_ERR_INTERNAL, "unit 1 is missing");
    mg_outset_free(s);
}

Test(outfile, room_is_asked_for_before_work) {
    mg_outset *s;
    uint32_t index;
    mg_error err = {0};
    cr_assert_eq(mg_outset_new(&s, dir, "set", mg_xxh128_of("x", 1), NULL, NULL), MG_OK);
    cr_assert_eq(mg_outset_add(s, "huge", UINT64_C(1) << 60, &index, NULL), MG_OK);
    cr_assert_eq(mg_outset_start(s, 1, &err), MG_ERR_IO);
    cr_assert(strstr(err.message, "are missing"), "%s", err.message);
    mg_outset_free(s);
    cr_assert_eq(job_count(dir, false), 0);
}

Test(outfile, size_limit_is_an_error_with_advice) {
    mg_outset *s;
    uint32_t index;
    mg_error err = {0};
    mg_interrupt_install(); /* SIGXFSZ */
    struct rlimit r = {100000, RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &r);
    cr_assert_eq(mg_outset_new(&s, dir, "set", mg_xxh128_of("x", 1), NULL, NULL), MG_OK);
    cr_assert_eq(mg_outset_add(s, "large", 200000, &index, NULL), MG_OK);
    cr_assert_eq(mg_outset_start(s, 1, &err), MG_ERR_IO);
    cr_assert(strstr(err.message, "split the output"), "%s", err.message);
    mg_outset_free(s);
    cr_assert_eq(job_count(dir, false), 0);
}

Test(outfile, empty_set_and_empty_files) {
    mg_outset *s;
    uint32_t index;
    cr_assert_eq(mg_outset_new(&s, dir, "set", mg_xxh128_of("x", 1), NULL, NULL), MG_OK);
    cr_assert_eq(mg_outset_add(s, "empty", 0, &index, NULL), MG_OK);
    cr_assert_eq(mg_outset_start(s, 0, NULL), MG_OK);
    cr_assert_eq(mg_outset_commit(s, NULL), MG_OK);
    mg_outset_free(s);
    size_t n;
    free(load("empty", &n));
    cr_assert_eq(n, 0);
    cr_assert_eq(job_count(dir, false), 1);
}

Test(outfile, small_file) {
    mg_error err = {0};
    size_t n;
    char path[128];
    snprintf(path, sizeof path, "%s", path_of("report.json"));
    cr_assert_eq(mg_outfile_write_all(path, "one", 3, false, NULL), MG_OK);
    cr_assert_eq(mg_outfile_write_all(path, "other", 5, false, &err), MG_ERR_USAGE);
    cr_assert_str_eq(err.file, path);
    cr_assert_eq(mg_outfile_write_all(path, "other", 5, true, NULL), MG_OK);
    uint8_t *bytes = load("report.json", &n);
    cr_assert(n == 5 && memcmp(bytes, "other", 5) == 0);
    free(bytes);
    cr_assert_eq(mg_outfile_write_all(path_of("no/such/dir"), "x", 1, false, NULL), MG_ERR_IO);
    cr_assert_eq(chdir(dir), 0);
    cr_assert_eq(mg_outfile_write_all("here", "", 0, false, NULL), MG_OK, "a path without a directory");
    cr_assert_eq(job_count(dir, false), 2);
}
