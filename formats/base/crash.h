/* crash.h - numbered points at which a test can stop the process as kill -9 would.
 * MOEGRAFT_CRASH_AT=N makes the N-th call of mg_crash_point (1-based, counted over the process) call _exit(137) at
 * once; MOEGRAFT_CRASH_COUNT=FILE makes the process write the number of points it passed to FILE at exit. Both unset:
 * one atomic load per call. Present in release builds on purpose: what users run is what was tested. */
#ifndef MG_BASE_CRASH_H
#define MG_BASE_CRASH_H

void mg_crash_point(const char *name);

#endif
