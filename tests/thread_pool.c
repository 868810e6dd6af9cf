/* thread_pool.c - worker pool, byte budget and interruption. A plain main, so that it runs under ThreadSanitizer too.
 */
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "formats/base/pool.h"

static int failures;

#define CHECK(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                                                 \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)

static void sleep_ms(long ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

enum { N = 5000 };
struct table {
    unsigned size;
    atomic_uint seen[N];
    unsigned long plain[256]; /* one slot per worker, no lock: a data race here is what TSan would report */
};

static mg_status mark(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    struct table *t = ctx;
    if (worker >= t->size) return mg_fail(err, MG_ERR_INTERNAL, "worker %u of %u", worker, t->size);
    atomic_fetch_add(&t->seen[ticket], 1);
    t->plain[worker]++;
    return MG_OK;
}

static void every_ticket_once(unsigned threads) {
    mg_error err = {0};
    mg_pool *p;
    static struct table t;
    CHECK(mg_pool_new(&p, threads, &err) == MG_OK);
    CHECK(mg_pool_size(p) == threads);
    static const uint64_t counts[] = {0, 1, 2, 3, 7, 100, N};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        memset(&t, 0, sizeof t);
        t.size = threads;
        CHECK(mg_pool_run(p, counts[i], mark, &t, &err) == MG_OK);
        unsigned long sum = 0;
        for (unsigned k = 0; k < N; k++) CHECK(atomic_load(&t.seen[k]) == (k < counts[i]));
        for (unsigned k = 0; k < 256; k++) sum += t.plain[k];
        CHECK(sum == counts[i]);
    }
    for (int i = 0; i < 2000; i++) CHECK(mg_pool_run(p, 3, mark, &t, &err) == MG_OK);
    mg_pool_free(p);
}

static void no_pool_means_the_caller(void) {
    static struct table t = {.size = 1};
    CHECK(mg_pool_run(NULL, 10, mark, &t, NULL) == MG_OK);
    CHECK(t.plain[0] == 10 && mg_pool_size(NULL) == 1);
}

/* Tickets 40, 41 and 200 fail; 40 fails last. */
static mg_status fail_some(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    atomic_uint *started = ctx;
    (void)worker;
    atomic_fetch_add(started, 1);
    if (ticket == 40) sleep_ms(20);
    if (ticket == 40 || ticket == 41 || ticket == 200)
        return mg_fail(err, MG_ERR_FORMAT, "ticket %llu", (unsigned long long)ticket);
    return MG_OK;
}

static void lowest_failure_is_reported(unsigned threads) {
    mg_pool *p;
    CHECK(mg_pool_new(&p, threads, NULL) == MG_OK);
    for (int i = 0; i < 6; i++) {
        atomic_uint started = 0;
        mg_error err = {0};
        CHECK(mg_pool_run(p, 1000000, fail_some, &started, &err) == MG_ERR_FORMAT);
        CHECK(strcmp(err.message, "ticket 40") == 0);
        CHECK(atomic_load(&started) < 1000000);
    }
    mg_pool_free(p);
}

static mg_status fail_silently(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)ctx, (void)worker, (void)err;
    return ticket == 3 ? MG_ERR_LIMIT : MG_OK;
}

static void a_failure_without_text_gets_one(void) {
    mg_error err = {0};
    CHECK(mg_pool_run(NULL, 9, fail_silently, NULL, &err) == MG_ERR_LIMIT);
    CHECK(err.code == MG_ERR_LIMIT && strcmp(err.message, "work unit 3 failed") == 0);
}

static mg_status report_rounding(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)ticket, (void)worker, (void)err;
    if (fegetround() != FE_TONEAREST) atomic_fetch_add((atomic_uint *)ctx, 1);
    return MG_OK;
}

static void callers_rounding_does_not_matter(void) {
    mg_pool *p;
    atomic_uint wrong = 0;
    fesetround(FE_UPWARD);
    CHECK(mg_pool_new(&p, 3, NULL) == MG_OK);
    CHECK(mg_pool_run(p, 1000, report_rounding, &wrong, NULL) == MG_OK);
    CHECK(atomic_load(&wrong) == 0);
    CHECK(fegetround() == FE_UPWARD);
    fesetround(FE_TONEAREST);
    mg_pool_free(p);
}

struct share {
    mg_budget *budget;
    atomic_ullong held, most;
};

static mg_status use_bytes(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    struct share *s = ctx;
    uint64_t bytes = ticket % 50 == 49 ? 5000 : 100 + ticket % 7 * 50;
    (void)worker, (void)err;
    mg_budget_acquire(s->budget, bytes);
    unsigned long long now = atomic_fetch_add(&s->held, bytes) + bytes, most = atomic_load(&s->most);
    if (bytes == 5000 && now != 5000) atomic_store(&s->most, 999999); /* an oversized request is granted alone */
    while (bytes != 5000 && now > most && !atomic_compare_exchange_weak(&s->most, &most, now)) continue;
    atomic_fetch_sub(&s->held, bytes);
    mg_budget_release(s->budget, bytes);
    return MG_OK;
}

static void budget_is_kept(void) {
    struct share s = {0};
    mg_pool *p;
    CHECK(mg_budget_new(&s.budget, 1000, NULL) == MG_OK);
    CHECK(mg_pool_new(&p, 8, NULL) == MG_OK);
    CHECK(mg_pool_run(p, 3000, use_bytes, &s, NULL) == MG_OK);
    CHECK(atomic_load(&s.most) <= 1000 && atomic_load(&s.held) == 0);
    mg_pool_free(p);
    mg_budget_free(s.budget);
}

static mg_status interrupt_at_100(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker, (void)err;
    atomic_fetch_add((atomic_uint *)ctx, 1);
    if (ticket == 100) kill(getpid(), SIGINT); /* to the process: workers block signals */
    if (ticket > 100) sleep_ms(1);             /* time for the signal to arrive */
    return MG_OK;
}

/* In a child: the first SIGINT stops the run between tickets, the second ends the process. */
static int interrupted_child(unsigned threads, int sig) {
    mg_pool *p;
    mg_error err = {0};
    atomic_uint started = 0;
    mg_interrupt_install();
    if (mg_interrupted() != 0) return 1;
    if (mg_pool_new(&p, threads, NULL) != MG_OK) return 2;
    if (sig == SIGTERM) raise(SIGTERM);
    mg_status st = mg_pool_run(p, 100000, interrupt_at_100, &started, &err);
    if (st != (mg_status)(128 + sig) || err.code != st) return 3;
    if (sig == SIGTERM && atomic_load(&started) != 0) return 4;
    if (sig == SIGINT && (atomic_load(&started) < 101 || atomic_load(&started) > 50000)) return 5;
    mg_pool_free(p);
    raise(SIGTERM); /* another SIGTERM is only a reminder */
    raise(SIGINT);
    return 6; /* not reached: the second SIGINT exits with 130 */
}

static void interruption(unsigned threads, int sig) {
    int status = 0;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) _exit(interrupted_child(threads, sig));
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    if (WEXITSTATUS(status) != 130) fprintf(stderr, "threads %u: child exit %d\n", threads, WEXITSTATUS(status));
    CHECK(WEXITSTATUS(status) == 130);
}

int main(void) {
    interruption(1, SIGINT); /* forks come first, before this process has threads */
    interruption(4, SIGINT);
    interruption(4, SIGTERM);
    no_pool_means_the_caller();
    a_failure_without_text_gets_one();
    static const unsigned threads[] = {1, 2, 3, 8, 64};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) every_ticket_once(threads[i]);
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) lowest_failure_is_reported(threads[i]);
    callers_rounding_does_not_matter();
    budget_is_kept();
    return failures != 0;
}
