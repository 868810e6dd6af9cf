/* outranks.h - private to outfile*.c and outclean.c: several processes that write one set of output files together.
 *
 *   .NAME.ranks            what they agree on: plan id, number of ranks, and the bytes that complete the set
 *                          (mg_outset_options.shared), so that whoever completes it needs no plan
 *   .NAME.R-of-N.journal   the units rank R has finished, a journal like any other
 *   .NAME.part             the files, shared: every rank writes its own ranges
 *
 * The lock on .NAME.ranks is held while a rank begins, and throughout by a process that works on the set alone (it
 * completes what ranks began, or only gives the files their names). Waiting for it is bounded. */
#ifndef MG_BASE_OUTRANKS_H
#define MG_BASE_OUTRANKS_H

#include "formats/base/outset.h"

/* ".NAME.R-of-N.journal" -> length of NAME, R and N; false for any other name. */
bool mg_ranks_journal_name(const char *file, size_t *name_len, uint32_t *rank, uint32_t *world);

/* At the start of a set, before its own journal is opened. A rank: lock, agree with what is there or write it. A
 * process that works alone: lock when ranks have been here, and open and lock their journals (MG_ERR_IO: one is at
 * work). MG_ERR_CONFLICT: the ranks here have another plan or are another number; with restart everything of theirs is
 * removed. */
mg_status mg_outset_ranks_begin(mg_outset *s, mg_error *err) MG_MUST_CHECK;
/* What other processes' journals claim, after the set's own was read: the ranks', or for a rank that of a run alone. */
mg_status mg_outset_ranks_claims(mg_outset *s, mg_error *err) MG_MUST_CHECK;
/* The set has its names: remove the ranks' journals, then the file. */
mg_status mg_outset_ranks_remove(mg_outset *s, mg_error *err) MG_MUST_CHECK;
/* A rank leaves nothing behind that is of use: when it is the only one, the part files and .NAME.ranks go. */
void mg_outset_ranks_leave(mg_outset *s);
/* Unlock. */
void mg_outset_ranks_release(mg_outset *s);

#endif
