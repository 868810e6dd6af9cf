/* pool.c - worker threads that sleep on a condition variable between runs.
 *
 * A run is opened under the lock and its number (generation) raised; as many workers are woken as there are tickets
 * for. A worker joins a run that is still open, takes tickets from one atomic counter until none is left, and leaves.
 * The caller works too, then closes the run (so that a worker that wakes late goes back to sleep instead of being
 * waited for) and waits until everyone who joined has left.
 *
 * Why the reported error does not depend on timing: tickets are handed out in ascending order and a ticket once taken
 * is always run. When ticket k fails, every ticket below k has been taken, so the lowest failing ticket is always among
 * those that ran. */
#include "formats/base/pool.h"

#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "formats/base/cpu.h"

enum { MAX_THREADS = 256 };

struct run {
    mg_pool_fn fn;
    void *ctx;
    uint64_t n;
    atomic_uint_fast64_t next; /* lowest ticket not yet taken */
    atomic_bool stop;          /* no new tickets */
    pthread_mutex_t lock;      /* guards what follows */
    bool failed;
    uint64_t failed_ticket; /* lowest so far */
    mg_status status;
    mg_error error;
};

struct worker {
    mg_pool *pool;
    unsigned index;
    pthread_t thread;
};

struct mg_pool {
    pthread_mutex_t lock;
    pthread_cond_t start, finished;
    struct run *open;    /* the run that may be joined, else NULL */
    uint64_t generation; /* number of runs opened */
    unsigned joined;     /* workers inside a run, the caller not counted */
    bool quit;
    unsigned size; /* workers, the caller (index 0) included */
    struct worker workers[MAX_THREADS];
};

static void run_failed(struct run *r, uint64_t ticket, mg_status st, const mg_error *err) {
    atomic_store(&r->stop, true);
    pthread_mutex_lock(&r->lock);
    if (!r->failed || ticket < r->failed_ticket) {
        r->failed = true;
        r->failed_ticket = ticket;
        r->status = st;
        r->error = *err;
        if (err->code == MG_OK) mg_fail(&r->error, st, "work unit %llu failed", (unsigned long long)ticket);
    }
    pthread_mutex_unlock(&r->lock);
}

/* Take and run tickets until none is left or the run stops. */
static void work(struct run *r, unsigned worker) {
    mg_error err = {0};
    while (!atomic_load(&r->stop)) {
        if (mg_interrupted()) {
            atomic_store(&r->stop, true);
            break;
        }
        uint64_t ticket = atomic_fetch_add(&r->next, 1);
        if (ticket >= r->n) break;
        mg_status st = r->fn(r->ctx, ticket, worker, &err);
        if (st != MG_OK) {
            run_failed(r, ticket, st, &err);
            break;
        }
        if (err.code != MG_OK) err = (mg_error){0}; /* an error that was dealt with must not colour the next one */
    }
}

static void *worker_main(void *arg) {
    struct worker *w = arg;
    mg_pool *p = w->pool;
    uint64_t seen = 0;
    mg_cpu_fp_env();
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->quit && p->generation == seen) pthread_cond_wait(&p->start, &p->lock);
        if (p->quit) break;
        seen = p->generation;
        struct run *r = p->open;
        if (!r) continue;
        p->joined++;
        pthread_mutex_unlock(&p->lock);
        work(r, w->index);
        pthread_mutex_lock(&p->lock);
        if (--p->joined == 0) pthread_cond_signal(&p->finished);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Start workers 1..threads-1; when the system refuses one, go on with those that run. */
static void start_workers(mg_pool *p, unsigned threads) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* inherited: signals stay with the caller's threads */
    for (p->size = 1; p->size < threads; p->size++) {
        struct worker *w = &p->workers[p->size];
        *w = (struct worker){.pool = p, .index = p->size};
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0) break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

mg_status mg_pool_new(mg_pool **out, unsigned threads, mg_error *err) {
    *out = NULL;
    if (threads == 0) threads = mg_cpu_count();
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    mg_pool *p = calloc(1, sizeof *p);
    if (!p) return mg_fail_nomem(err, sizeof *p);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->start, NULL);
    pthread_cond_init(&p->finished, NULL);
    start_workers(p, threads);
    *out = p;
    return MG_OK;
}

void mg_pool_free(mg_pool *p) {
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->quit = true;
    pthread_cond_broadcast(&p->start);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 1; i < p->size; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->start);
    pthread_cond_destroy(&p->finished);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

unsigned mg_pool_size(const mg_pool *p) {
    return p ? p->size : 1;
}

static void open_run(mg_pool *p, struct run *r) {
    uint64_t helpers = p->size - 1;
    if (helpers > r->n - 1) helpers = r->n - 1;
    pthread_mutex_lock(&p->lock);
    p->open = r;
    p->generation++;
    for (uint64_t i = 0; i < helpers; i++) pthread_cond_signal(&p->start);
    pthread_mutex_unlock(&p->lock);
}

static void close_run(mg_pool *p) {
    pthread_mutex_lock(&p->lock);
    p->open = NULL;
    while (p->joined) pthread_cond_wait(&p->finished, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

mg_status mg_pool_run(mg_pool *p, uint64_t n, mg_pool_fn fn, void *ctx, mg_error *err) {
    if (n == 0) return MG_OK;
    struct run r = {.fn = fn, .ctx = ctx, .n = n};
    bool threaded = p && p->size > 1 && n > 1;
    fenv_t callers;
    pthread_mutex_init(&r.lock, NULL);
    fegetenv(&callers);
    mg_cpu_fp_env();
    if (threaded) open_run(p, &r);
    work(&r, 0);
    if (threaded) close_run(p);
    fesetenv(&callers);
    pthread_mutex_destroy(&r.lock);
    if (r.failed) {
        if (err && err->code == MG_OK) *err = r.error;
        return r.status;
    }
    if (atomic_load(&r.stop)) /* only an interruption stops a run without a failure */
        return mg_fail(err, (mg_status)mg_interrupted(), "stopped by a signal");
    return MG_OK;
}

/* First come, first served, so that a large request is not starved by small ones. */
struct mg_budget {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t total, used;
    uint64_t next_ticket, serving;
};

mg_status mg_budget_new(mg_budget **out, uint64_t bytes, mg_error *err) {
    mg_budget *b = calloc(1, sizeof *b);
    *out = b;
    if (!b) return mg_fail_nomem(err, sizeof *b);
    b->total = bytes;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->changed, NULL);
    return MG_OK;
}

void mg_budget_free(mg_budget *b) {
    if (!b) return;
    pthread_cond_destroy(&b->changed);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

static bool fits(const mg_budget *b, uint64_t bytes) {
    return b->used == 0 || (b->used <= b->total && bytes <= b->total - b->used);
}

void mg_budget_acquire(mg_budget *b, uint64_t bytes) {
    pthread_mutex_lock(&b->lock);
    uint64_t mine = b->next_ticket++;
    while (b->serving != mine || !fits(b, bytes)) pthread_cond_wait(&b->changed, &b->lock);
    b->used += bytes;
    b->serving++;
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
}

void mg_budget_release(mg_budget *b, uint64_t bytes) {
    pthread_mutex_lock(&b->lock);
    b->used = bytes < b->used ? b->used - bytes : 0;
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
}
