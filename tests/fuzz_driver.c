/* fuzz_driver.c - a main for LLVMFuzzerTestOneInput where libFuzzer is not there (gcc): replays every file of a corpus,
 * then runs seeded random mutations of them. A crash file put into the corpus is a test from that day on.
 *
 *   fuzz_x [-runs=N] [-seed=S] FILE-OR-DIRECTORY...
 *
 * The same seed gives the same inputs on every machine. The input of a crash is left in fuzz_crash.bin in the working
 * directory (it is written before each run, when -save=1 is given). */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEED_BYTES = 1 << 16, MAX_SEEDS = 256 };

typedef struct input {
    uint8_t *data;
    size_t size;
} input;

static input seeds[MAX_SEEDS];
static size_t n_seeds;
static uint64_t state;

/* splitmix64 */
static uint64_t next(void) {
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static size_t below(size_t n) {
    return n ? (size_t)(next() % n) : 0;
}

static void load(const char *path) {
    DIR *d = opendir(path);
    if (d) {
        for (struct dirent *e; (e = readdir(d)) != NULL;) {
            char child[4096];
            if (e->d_name[0] == '.') continue;
            snprintf(child, sizeof child, "%s/%s", path, e->d_name);
            load(child);
        }
        closedir(d);
        return;
    }
    FILE *f = fopen(path, "rb");
    if (!f || n_seeds == MAX_SEEDS) {
        fprintf(stderr, "cannot use '%s'\n", path);
        exit(1);
    }
    input *s = &seeds[n_seeds++];
    s->data = malloc(SEED_BYTES);
    s->size = s->data ? fread(s->data, 1, SEED_BYTES, f) : 0;
    fclose(f);
}

static int by_content(const void *a, const void *b) {
    const input *x = a, *y = b;
    if (x->size != y->size) return x->size < y->size ? -1 : 1;
    return memcmp(x->data, y->data, x->size);
}

static const uint64_t interesting[] = {0,
                                       1,
                                       7,
                                       8,
                                       31,
                                       32,
                                       63,
                                       64,
                                       255,
                                       65535,
                                       65536,
                                       0x7FFFFFFF,
                                       0x80000000,
                                       0xFFFFFFFF,
                                       1ull << 32,
                                       1ull << 53,
                                       INT64_MAX,
                                       1ull << 63,
                                       UINT64_MAX - 7,
                                       UINT64_MAX};

static size_t mutate_once(uint8_t *buf, size_t n) {
    size_t at = below(n + 1), k = 1 + below(16), w;
    switch (next() % 8) {
    case 0:
        if (n) buf[below(n)] ^= (uint8_t)(1u << below(8));
        return n;
    case 1:
        if (n) buf[below(n)] = (uint8_t)next();
        return n;
    case 2:
        return below(4) ? n : at; /* truncate, seldom */
    case 3:                       /* delete */
        if (at + k > n) return n;
        memmove(buf + at, buf + at + k, n - at - k);
        return n - k;
    case 4: /* insert */
        if (n + k > SEED_BYTES) return n;
        memmove(buf + at + k, buf + at, n - at);
        for (size_t i = 0; i < k; i++) buf[at + i] = (uint8_t)next();
        return n + k;
    case 5: /* a number a parser might trust */
        w = (size_t)1 << below(4);
        if (at + w > n) return n;
        memcpy(buf + at, &interesting[below(sizeof interesting / sizeof *interesting)], w);
        return n;
    case 6: { /* copy a piece of itself elsewhere */
        size_t from = below(n + 1);
        if (from + k > n || at + k > n) return n;
        memmove(buf + at, buf + from, k);
        return n;
    }
    default: { /* a piece of another seed */
        const input *s = &seeds[below(n_seeds)];
        size_t from = below(s->size + 1);
        if (from + k > s->size || at + k > n) return n;
        memcpy(buf + at, s->data + from, k);
        return n;
    }
    }
}

/* Exactly sized, so that a read past the end is one past an allocation. */
static void run_exact(const uint8_t *data, size_t size, int save) {
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy) exit(1);
    memcpy(copy, data, size);
    if (save) {
        FILE *f = fopen("fuzz_crash.bin", "wb");
        if (f) {
            fwrite(data, 1, size, f);
            fclose(f);
        }
    }
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

int main(int argc, char **argv) {
    unsigned long runs = 0, save = 0;
    static uint8_t buf[SEED_BYTES];
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "-runs=", 6) == 0)
            runs = strtoul(argv[i] + 6, NULL, 10);
        else if (strncmp(argv[i], "-seed=", 6) == 0)
            state = strtoull(argv[i] + 6, NULL, 10);
        else if (strncmp(argv[i], "-save=", 6) == 0)
            save = strtoul(argv[i] + 6, NULL, 10);
        else
            load(argv[i]);
    }
    if (n_seeds == 0) {
        fprintf(stderr, "usage: %s [-runs=N] [-seed=S] [-save=1] FILE-OR-DIRECTORY...\n", argv[0]);
        return 2;
    }
    qsort(seeds, n_seeds, sizeof *seeds, by_content); /* directory order must not matter */
    for (size_t i = 0; i < n_seeds; i++) run_exact(seeds[i].data, seeds[i].size, save != 0);
    for (unsigned long r = 0; r < runs; r++) {
        const input *s = &seeds[below(n_seeds)];
        size_t n = s->size;
        memcpy(buf, s->data, n);
        for (size_t k = 1 + below(6); k > 0; k--) n = mutate_once(buf, n);
        run_exact(buf, n, save != 0);
    }
    printf("%zu files and %lu mutations\n", n_seeds, runs);
    for (size_t i = 0; i < n_seeds; i++) free(seeds[i].data);
    return 0;
}
