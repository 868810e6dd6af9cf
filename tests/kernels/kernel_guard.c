/* kernel_guard.c - regions of exact size between pages that fault, the floating-point state, and time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/kernels/kernel_test.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { AROUND = 256, PATTERN = 0xC7 };

static void must(bool ok, const char *what) {
    if (ok) return;
    perror(what);
    exit(1);
}

kt_buffer kt_buffer_new(size_t most) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (most + page - 1) / page * page + (most == 0) * page;
    uint8_t *map = mmap(NULL, body + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(map != MAP_FAILED && mprotect(map + page, body, PROT_READ | PROT_WRITE) == 0, "guarded buffer");
    return (kt_buffer){map, map + page, body, map + page, 0};
}

void kt_buffer_free(kt_buffer *b) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    must(munmap(b->map, b->body_size + 2 * page) == 0, "munmap");
}

/* Bytes of the body within AROUND of the region, on the side that has no guard page next to it. */
static uint8_t *beside(const kt_buffer *b, size_t *n) {
    bool at_end = b->data + b->size == b->body + b->body_size;
    size_t room = b->body_size - b->size;
    *n = room < AROUND ? room : AROUND;
    return at_end ? b->data - *n : b->data + b->size;
}

void *kt_place(kt_buffer *b, size_t size, bool at_end) {
    must(size <= b->body_size, "region larger than its buffer");
    kt_read_only(b, false);
    b->size = size;
    b->data = at_end ? b->body + b->body_size - size : b->body;
    size_t n;
    uint8_t *p = beside(b, &n);
    memset(p, PATTERN, n);
    return b->data;
}

void kt_read_only(kt_buffer *b, bool yes) {
    must(mprotect(b->body, b->body_size, yes ? PROT_READ : PROT_READ | PROT_WRITE) == 0, "mprotect");
}

bool kt_intact(const kt_buffer *b) {
    size_t n;
    const uint8_t *p = beside(b, &n);
    for (size_t i = 0; i < n; i++)
        if (p[i] != PATTERN) return false;
    return true;
}

#if defined(__x86_64__)
uint32_t kt_fp_state(void) {
    return _mm_getcsr() & ~0x3Fu;
}
void kt_fp_flush(void) {
    _mm_setcsr(_mm_getcsr() | 1u << 15 | 1u << 6);
}
#elif defined(__aarch64__)
uint32_t kt_fp_state(void) {
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return (uint32_t)fpcr;
}
void kt_fp_flush(void) {
    uint64_t fpcr = kt_fp_state() | UINT64_C(1) << 24;
    __asm__ volatile("msr fpcr, %0" : : "r"(fpcr));
}
#else
uint32_t kt_fp_state(void) {
    return 0;
}
void kt_fp_flush(void) {}
#endif

static double cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Long beside the 0.3 us that reading the clock takes, short beside what else runs on the machine. */
static const double SAMPLE_NS = 15e6;
enum { ROUNDS = 7 };

static double sample(const kt_timed *v, uint64_t *turn) {
    double start = cpu_ns(), used;
    uint64_t calls = 0;
    do {
        v->call(v->ctx, (*turn)++);
        calls++;
    } while ((used = cpu_ns() - start) < SAMPLE_NS);
    return used / (double)calls;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v) {
    qsort(v, ROUNDS, sizeof *v, ascending);
    return v[ROUNDS / 2];
}

enum { MOST_TIMED = 1 + KT_LEVELS };

void kt_time(kt_timed *v, size_t n) {
    double ns[MOST_TIMED][ROUNDS], ratio[MOST_TIMED][ROUNDS];
    uint64_t turn[MOST_TIMED] = {0};
    for (size_t i = 0; i < n; i++) v[i].call(v[i].ctx, turn[i]++); /* tables that are built at first use */
    for (int r = 0; r < ROUNDS; r++)
        for (size_t i = 0; i < n; i++) {
            ns[i][r] = sample(&v[i], &turn[i]);
            ratio[i][r] = ns[0][r] / ns[i][r];
        }
    for (size_t i = 0; i < n; i++) {
        v[i].ns = median(ns[i]);
        v[i].ratio = median(ratio[i]);
    }
}

typedef struct copy {
    uint8_t *to, *from;
    uint64_t piece, pieces;
} copy;

static void copy_call(void *ctx, uint64_t turn) {
    copy *c = ctx;
    uint64_t at = turn % c->pieces * c->piece;
    memcpy(c->to + at, c->from + at, c->piece);
}

double kt_copy_speed(uint64_t set_bytes) {
    copy c = {.piece = 16384, .pieces = (set_bytes + 16383) / 16384};
    c.from = malloc(c.piece * c.pieces);
    c.to = malloc(c.piece * c.pieces);
    must(c.from && c.to, "memory for memcpy");
    memset(c.from, 1, c.piece * c.pieces);
    kt_timed v = {.call = copy_call, .ctx = &c};
    kt_time(&v, 1);
    free(c.from);
    free(c.to);
    return 2.0 * (double)c.piece / v.ns;
}
