/* outfile.h - atomic output files and the journal that lets an interrupted run resume.
 *
 * A set of output files (one GGUF, or the shards and side files of a directory) is written together:
 *   .NAME.part     beside each final file NAME: the bytes, written by position, header still zero
 *   .NAME.journal  one per set, named after the set: format version, plan id, then one record per finished unit
 * No pid in the names, so a rerun finds them; flock on the journal keeps a second process out (MG_ERR_IO naming it).
 * Order of durability: data of a unit, fdatasync of the part files, then its record, fdatasync of the journal (every
 * 1 GiB or 10 s and at the end), so the journal never claims bytes that are not on disk. At the end: headers, fsync,
 * check of the sources by the caller, rename of every file (side files such as an index last), fsync of the directory,
 * journal removed. Nothing under a final name is ever partial: a set whose renames were cut short is completed by the
 * rerun.
 *
 * Journal records carry {unit index, XXH3-128 of the unit's bytes} and a CRC (XXH3-64) of the record; reading stops at
 * the first bad record (a torn tail is normal). On resume with the same plan id every claimed unit is re-read and
 * re-hashed; one that differs is done again. Another plan id: MG_ERR_CONFLICT unless restart was asked for.
 * A journal whose set is completely renamed has done its work: a run with another plan removes it and goes on.
 * MOEGRAFT_SYNC_BYTES=N flushes after N bytes instead of 1 GiB. Crash points (mg_crash_point) surround every step; see
 * crash.h and docs/resume.md. */
#ifndef MG_BASE_OUTFILE_H
#define MG_BASE_OUTFILE_H

#include "formats/base/hash.h"
#include "formats/base/status.h"

typedef struct mg_outset mg_outset;

enum { MG_RANKS_MAX = 65536 }; /* processes that write one set together */

typedef struct mg_outset_options {
    bool restart; /* discard a journal and part files that exist */
    bool force;   /* replace existing final files; without it an existing one is MG_ERR_USAGE before work starts */
    /* One of `world` processes that write the set together, each with its own journal; world 0: alone. A rank ends with
     * mg_outset_share_done; a later run alone takes over what all ranks have claimed, and commits (docs/ranks.md). */
    uint32_t rank, world;
    const void *shared; /* what all ranks have to agree on, kept in .NAME.ranks for mg_outset_shared; borrowed */
    uint64_t shared_size;
} mg_outset_options;

/* One contiguous piece of a unit's output: where its bytes lie. */
typedef struct mg_extent {
    uint32_t file;   /* index given by mg_outset_add */
    uint64_t offset; /* in that file */
    uint64_t size;
} mg_extent;

/* Begin a set. dir: existing directory of the final files; name: names the journal (".name.journal").
 * plan_id: identity of everything that determines the bytes. */
mg_status mg_outset_new(mg_outset **out, const char *dir, const char *name, mg_xxh128 plan_id,
                        const mg_outset_options *opt, mg_error *err) MG_MUST_CHECK;
/* True when an interrupted run left its journal in dir: what exists under OUT then is ours to go on with, not to
 * refuse. */
bool mg_outset_pending(const char *dir, const char *name);
/* Free without finishing: finished units that are still queued are flushed; part files and journal stay for a resume
 * (they are removed when nothing was journaled). */
void mg_outset_free(mg_outset *s);

/* Declare a file of the set with its final size; index in declaration order. All before mg_outset_start. */
mg_status mg_outset_add(mg_outset *s, const char *name, uint64_t size, uint32_t *index, mg_error *err) MG_MUST_CHECK;

/* Check free space (statvfs), lock, create or reopen the part files (posix_fallocate; on ENOSPC MG_ERR_IO saying how
 * many bytes are missing), read the journal. n_units: how many units the plan has. */
mg_status mg_outset_start(mg_outset *s, uint64_t n_units, mg_error *err) MG_MUST_CHECK;

/* True when the journal claims unit and its bytes re-hash to the recorded value. extents in the order the unit was
 * written. Thread safe. A false answer after damage is silent: the unit is just done again. */
bool mg_outset_is_done(mg_outset *s, uint64_t unit, const mg_extent *extents, size_t n_extents);

/* True when a journal claims the unit: what mg_outset_is_done would look at. */
bool mg_outset_is_claimed(const mg_outset *s, uint64_t unit);
/* Small results that belong to finished work, kept in the journal with the units: key -> 16 bytes. Thread safe. */
mg_status mg_outset_note(mg_outset *s, uint64_t key, mg_xxh128 value, mg_error *err) MG_MUST_CHECK;
bool mg_outset_noted(mg_outset *s, uint64_t key, mg_xxh128 *value);

/* Write bytes of a unit (or of a header) by position. Thread safe. */
mg_status mg_outset_write(mg_outset *s, uint32_t file, uint64_t offset, const void *data, uint64_t n,
                          mg_error *err) MG_MUST_CHECK;

/* Report a unit finished: hash is XXH3-128 over its extents' bytes in order. Queued; flushed as described above. Thread
 * safe. */
mg_status mg_outset_unit_done(mg_outset *s, uint64_t unit, mg_xxh128 hash, mg_error *err) MG_MUST_CHECK;

/* Read back (for whole-file hashes and headers that need tensor hashes). */
mg_status mg_outset_read(mg_outset *s, uint32_t file, uint64_t offset, void *dst, uint64_t n,
                         mg_error *err) MG_MUST_CHECK;

/* The bytes of a file before `end` are final and this run has read back what it wants of them: sets of 256 MiB and more
 * (MOEGRAFT_SETTLE_BLOCK=N: every set, N bytes at a time) bring them to disk now and take them out of the page cache.
 * Nothing is claimed by it. One caller at a time for a file. */
mg_status mg_outset_settle(mg_outset *s, uint32_t file, uint64_t end, mg_error *err) MG_MUST_CHECK;

/* Everything written (MG_ERR_INTERNAL while a unit is neither confirmed by is_done nor reported by unit_done): fsync
 * files, note the commit and the files' inodes in the journal, rename in declaration order, fsync directory, remove the
 * journal. A rerun after a kill in the middle goes through the same calls: files that already have their final name are
 * read (and compared instead of written) there, and commit renames the rest. After MG_OK the set is finished and only
 * mg_outset_free remains. */
mg_status mg_outset_commit(mg_outset *s, mg_error *err) MG_MUST_CHECK;

/* The end of a rank: everything it finished is on disk and claimed, its journal is closed and stays. Only
 * mg_outset_free remains. */
mg_status mg_outset_share_done(mg_outset *s, mg_error *err) MG_MUST_CHECK;
/* What the ranks of set `name` in dir agreed on; *data NULL when none have been here, else malloc'ed. MG_ERR_INTEGRITY:
 * damaged. */
mg_status mg_outset_shared(const char *dir, const char *name, uint32_t *world, mg_xxh128 *plan, uint8_t **data,
                           uint64_t *size, mg_error *err) MG_MUST_CHECK;

/* Remove the journal of a set whose files all have their names, where a run was stopped before its very last step. */
mg_status mg_outset_sweep(const char *dir, const char *name, mg_error *err) MG_MUST_CHECK;
/* Is this the file name of such an agreement? Its set's name begins after the dot and is *name_len long. */
bool mg_outset_is_shared(const char *file, size_t *name_len);

/* An exclusive lock on a file that is made when it is absent, waited for up to `seconds`. *held_by_other: not locked.
 * *fd: close it to unlock. */
mg_status mg_lock_file(int *fd, const char *path, double seconds, bool *held_by_other, mg_error *err) MG_MUST_CHECK;

/* A small file written in one go with the same temp + fsync + rename protocol (reports, manifests, imatrix). */
mg_status mg_outfile_write_all(const char *path, const void *data, size_t n, bool force, mg_error *err) MG_MUST_CHECK;

#endif
