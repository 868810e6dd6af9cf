/* thread_outfile.c - many workers writing one output set, with a flush after almost every unit, then a resumed run in
 * which they ask for finished units. A plain main, for ThreadSanitizer. */
#include "formats/base/pool.h"
#include "outset_job.h"

enum { UNITS = 400, SIZE = 3000, SEED = 7 };

struct job {
    mg_outset *set;
    uint64_t limit; /* units from here on are not done */
};

static mg_status unit(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    struct job *j = ctx;
    mg_extent e = {0, ticket * SIZE, SIZE};
    uint8_t bytes[SIZE];
    (void)worker;
    if (ticket >= j->limit || mg_outset_is_done(j->set, ticket, &e, 1)) return MG_OK;
    job_fill(SEED, 0, e.offset, bytes, SIZE);
    MG_TRY(mg_outset_write(j->set, 0, e.offset, bytes, SIZE, err));
    return mg_outset_unit_done(j->set, ticket, mg_xxh128_of(bytes, SIZE), err);
}

static mg_status run(const char *dir, mg_pool *pool, uint64_t limit, mg_error *err) {
    struct job j = {.limit = limit};
    uint32_t index;
    MG_TRY(mg_outset_new(&j.set, dir, "set", mg_xxh128_of("t", 1), NULL, err));
    mg_status st = mg_outset_add(j.set, "out", (uint64_t)UNITS * SIZE, &index, err);
    if (st == MG_OK) st = mg_outset_start(j.set, UNITS, err);
    if (st == MG_OK) st = mg_pool_run(pool, UNITS, unit, &j, err);
    if (st == MG_OK && limit >= UNITS) st = mg_outset_commit(j.set, err);
    mg_outset_free(j.set);
    return st;
}

static int check(const char *dir) {
    char path[128];
    snprintf(path, sizeof path, "%s/out", dir);
    FILE *f = fopen(path, "rb");
    if (!f) return 1;
    uint64_t n = 0, bad = 0;
    for (int c; (c = fgetc(f)) != EOF; n++) bad += (uint8_t)c != job_byte(SEED, 0, n);
    fclose(f);
    return bad != 0 || n != (uint64_t)UNITS * SIZE || job_count(dir, false) != 1;
}

int main(void) {
    static const unsigned threads[] = {1, 2, 8};
    int failures = 0;
    char dir[64];
    job_scratch(dir);
    setenv("MOEGRAFT_SYNC_BYTES", "7000", 1);
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        mg_pool *pool;
        mg_error err = {0};
        mg_status st = mg_pool_new(&pool, threads[i], &err);
        if (st != MG_OK) return 1;
        if (st == MG_OK) st = run(dir, pool, UNITS / 2, &err);
        if (st == MG_OK) st = run(dir, pool, UNITS, &err);
        if (st != MG_OK) fprintf(stderr, "%u threads: %d %s\n", threads[i], (int)st, err.message);
        failures += st != MG_OK || check(dir);
        mg_pool_free(pool);
        job_empty(dir);
    }
    rmdir(dir);
    return failures != 0;
}
