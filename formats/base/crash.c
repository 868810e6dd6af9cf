/* crash.c - see crash.h. The counter is atomic: with several threads the N-th call is still exactly one call. */
#include "formats/base/crash.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { UNKNOWN, OFF, ON };

static atomic_int state = UNKNOWN;
static atomic_ulong passed;
static unsigned long crash_at; /* 0 = never */
static const char *count_file;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void write_count(void) {
    FILE *f = fopen(count_file, "we");
    if (!f) return;
    fprintf(f, "%lu\n", atomic_load(&passed));
    fclose(f);
}

static void read_environment(void) {
    const char *at = getenv("MOEGRAFT_CRASH_AT");
    count_file = getenv("MOEGRAFT_CRASH_COUNT");
    if (at) crash_at = strtoul(at, NULL, 10);
    if (count_file) atexit(write_count);
    atomic_store_explicit(&state, at || count_file ? ON : OFF, memory_order_release);
}

void mg_crash_point(const char *name) {
    int now = atomic_load_explicit(&state, memory_order_acquire);
    if (now == OFF) return;
    if (now == UNKNOWN) {
        pthread_once(&once, read_environment);
        if (atomic_load_explicit(&state, memory_order_acquire) == OFF) return;
    }
    unsigned long n = atomic_fetch_add(&passed, 1) + 1;
    if (n != crash_at) return;
    dprintf(STDERR_FILENO, "crash point %lu: %s\n", n, name);
    _exit(137);
}
