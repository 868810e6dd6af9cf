/* pool.h - a fixed set of worker threads and a byte budget.
 *
 * Work is a range of tickets 0..n-1 handed out in ascending order. What a ticket computes must not depend on which
 * worker runs it or on other tickets: that is how the same bytes come out for every thread count. Workers block when
 * idle (no spinning) and start with round-to-nearest and subnormals on (docs/numerics.md). When a thread cannot be
 * created the pool runs with fewer. The calling thread works too, so a pool of 1 creates no thread. */
#ifndef MG_BASE_POOL_H
#define MG_BASE_POOL_H

#include "formats/base/status.h"

typedef struct mg_pool mg_pool;

/* One ticket. worker is 0..mg_pool_size-1 and selects per-worker scratch. Return non-OK to stop the run. */
typedef mg_status (*mg_pool_fn)(void *ctx, uint64_t ticket, unsigned worker, mg_error *err);

/* threads 0 = mg_cpu_count(); at most 256. */
mg_status mg_pool_new(mg_pool **out, unsigned threads, mg_error *err) MG_MUST_CHECK;
void mg_pool_free(mg_pool *p);
unsigned mg_pool_size(const mg_pool *p);

/* Run fn for every ticket and wait. After a failure no new ticket starts; the error of the lowest failed ticket is
 * reported. Returns MG_ERR_INTERRUPTED/TERMINATED when mg_interrupted() becomes set between tickets.
 * Not reentrant: fn must not call mg_pool_run on the same pool. pool NULL runs everything in the caller. */
mg_status mg_pool_run(mg_pool *p, uint64_t n, mg_pool_fn fn, void *ctx, mg_error *err) MG_MUST_CHECK;

/* Byte budget shared by workers: acquire blocks until bytes fit (a request larger than the whole budget is granted
 * alone); release gives back. Requests are served in the order they came. A worker that holds bytes must not ask for
 * more: two such workers could wait for each other. */
typedef struct mg_budget mg_budget;
mg_status mg_budget_new(mg_budget **out, uint64_t bytes, mg_error *err) MG_MUST_CHECK;
void mg_budget_free(mg_budget *b);
void mg_budget_acquire(mg_budget *b, uint64_t bytes);
void mg_budget_release(mg_budget *b, uint64_t bytes);

/* Set by the SIGINT/SIGTERM handlers that tools install (mg_interrupt_install): 0, 130 or 143. A second SIGINT ends the
 * process at once with 130. SIGPIPE and SIGXFSZ are ignored: the write that meets them fails with an error. */
int mg_interrupted(void);
void mg_interrupt_install(void);

#endif
