/* outset_job.h - a small job over formats/base/outfile.h, shared by crash_outfile.c and fault_outfile.c: three files
 * (two shards and an index written last), units that cover extents in both shards, headers written after all units. */
#ifndef MG_TESTS_OUTSET_JOB_H
#define MG_TESTS_OUTSET_JOB_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/outfile.h"

enum { JOB_UNITS = 9, JOB_HEADER = 64, JOB_A = 5000, JOB_B = 1700, JOB_FILES = 3 };

static const char *const job_names[JOB_FILES] = {"a.safetensors", "b.safetensors", "index.json"};
static const uint64_t job_sizes[JOB_FILES] = {JOB_HEADER + JOB_UNITS * JOB_A, JOB_HEADER + JOB_UNITS *JOB_B, 300};

/* Byte i of file f: what an undisturbed run leaves. seed tells two plans apart. */
static uint8_t job_byte(unsigned seed, uint32_t f, uint64_t i) {
    uint64_t v = (i + 1) * UINT64_C(0x9E3779B97F4A7C15) + f * UINT64_C(0xD1B54A32D192ED03) + seed;
    return (uint8_t)(v >> 40);
}

static void job_fill(unsigned seed, uint32_t f, uint64_t at, uint8_t *out, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) out[i] = job_byte(seed, f, at + i);
}

static mg_status job_unit(mg_outset *s, unsigned seed, uint64_t unit, mg_error *err) {
    mg_extent e[2] = {{0, JOB_HEADER + unit * JOB_A, JOB_A}, {1, JOB_HEADER + unit * JOB_B, JOB_B}};
    uint8_t bytes[JOB_A + JOB_B];
    if (mg_outset_is_done(s, unit, e, 2)) return MG_OK;
    job_fill(seed, 0, e[0].offset, bytes, JOB_A);
    job_fill(seed, 1, e[1].offset, bytes + JOB_A, JOB_B);
    MG_TRY(mg_outset_write(s, 0, e[0].offset, bytes, JOB_A, err));
    MG_TRY(mg_outset_write(s, 1, e[1].offset, bytes + JOB_A, JOB_B, err));
    MG_TRY(mg_outset_settle(s, 0, e[0].offset + JOB_A, err));
    return mg_outset_unit_done(s, unit, mg_xxh128_of(bytes, sizeof bytes), err);
}

static mg_status job_body(mg_outset *s, unsigned seed, mg_error *err) {
    uint8_t bytes[300];
    for (uint32_t f = 0; f < JOB_FILES; f++) {
        uint32_t index;
        MG_TRY(mg_outset_add(s, job_names[f], job_sizes[f], &index, err));
    }
    MG_TRY(mg_outset_start(s, JOB_UNITS, err));
    for (uint64_t u = 0; u < JOB_UNITS; u++) MG_TRY(job_unit(s, seed, u, err));
    for (uint32_t f = 0; f < JOB_FILES; f++) {
        uint64_t n = f == 2 ? 300 : JOB_HEADER;
        job_fill(seed, f, 0, bytes, n);
        MG_TRY(mg_outset_write(s, f, 0, bytes, n, err));
    }
    return mg_outset_commit(s, err);
}

static inline mg_status job_run(const char *dir, unsigned seed, bool force, bool restart, mg_error *err) {
    mg_outset_options opt = {.force = force, .restart = restart};
    setenv("MOEGRAFT_SETTLE_BLOCK", "4096", 1);
    mg_outset *s;
    MG_TRY(mg_outset_new(&s, dir, "set", mg_xxh128_of(&seed, sizeof seed), &opt, err));
    mg_status st = job_body(s, seed, err);
    mg_outset_free(s);
    return st;
}

/* -1 absent, 0 other bytes, 1 exactly the bytes of a finished run with this seed. */
static inline int job_file_state(const char *dir, unsigned seed, uint32_t f) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, job_names[f]);
    FILE *file = fopen(path, "rb");
    if (!file) return -1;
    int c, same = 1;
    uint64_t n = 0;
    for (; (c = fgetc(file)) != EOF; n++) same = same && n < job_sizes[f] && (uint8_t)c == job_byte(seed, f, n);
    fclose(file);
    return same && n == job_sizes[f];
}

static inline bool job_complete(const char *dir, unsigned seed) {
    for (uint32_t f = 0; f < JOB_FILES; f++)
        if (job_file_state(dir, seed, f) != 1) return false;
    return true;
}

/* Number of names in dir; hidden ones (part files, journals) only, when asked. */
static inline int job_count(const char *dir, bool hidden) {
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) n += !hidden || e->d_name[0] == '.';
    if (d) closedir(d);
    return n;
}

static inline void job_empty(const char *dir) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) unlinkat(dirfd(d), e->d_name, 0);
    if (d) closedir(d);
}

/* A fresh directory, in memory when there is such a file system: these tests sync hundreds of times. */
static inline void job_scratch(char dir[64]) {
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(dir, 64, "%s/mg_outset.XXXXXX", base);
    if (!mkdtemp(dir)) abort();
}

#endif
