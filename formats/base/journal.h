/* journal.h - private to outfile: the file that remembers which units of an interrupted run are safely on disk.
 *
 *   offset 0            header, 64 bytes: magic | version, layout bytes | plan id | units | files | 0 | check
 *   64                  layout: per file {size u64, name length u64, name, zero padding to 8}
 *   64 + layout bytes   records of 40 bytes: kind, sequence number | a | b (16 bytes) | check
 *
 * All numbers little-endian. The header's check is XXH3-64 over header (check = 0) and layout; a record's covers the
 * plan id and the record's first 32 bytes, so a record of another run or another place is no record. The magic is
 * written last: a journal whose creation was cut short begins with zeros and claims nothing. Reading stops at the first
 * record that does not check: a torn tail is normal, and appending goes on where it begins. */
#ifndef MG_BASE_JOURNAL_H
#define MG_BASE_JOURNAL_H

#include "formats/base/hash.h"
#include "formats/base/status.h"

enum { MG_JOURNAL_VERSION = 1 };

typedef enum mg_journal_kind {
    MG_JOURNAL_UNIT = 1,   /* unit a is done; b = XXH3-128 of its bytes */
    MG_JOURNAL_COMMIT = 2, /* everything is written and synced; a FILE records follow, then renaming begins */
    MG_JOURNAL_FILE = 3,   /* file number a of a commit; b = device u64, inode u64 of its bytes */
    MG_JOURNAL_OWNER = 4,  /* process a has opened the journal (only to name it to a second process) */
    MG_JOURNAL_NOTE = 5,   /* mg_outset_note: key a, value b */
} mg_journal_kind;

typedef struct mg_journal_record {
    uint32_t kind;
    uint32_t sequence; /* position among the records, modulo 2^32; set by mg_journal_append */
    uint64_t a;
    uint8_t b[16];
    uint64_t check; /* set by mg_journal_append */
} mg_journal_record;

typedef struct mg_journal_file {
    char *name; /* final name, plain */
    uint64_t size;
} mg_journal_file;

/* An open, locked journal. */
typedef struct mg_journal {
    int fd;
    int dirfd;        /* borrowed */
    const char *path; /* for errors, borrowed */
    const char *name; /* its last part: the name in the directory */
    mg_xxh128 plan;
    uint64_t end;       /* where the next record goes */
    uint32_t n_records; /* modulo 2^32 */
} mg_journal;

/* What a journal says. Everything malloc'ed, released by mg_journal_image_release. */
typedef struct mg_journal_image {
    bool empty; /* no journal, or one whose creation was cut short: nothing below is set */
    mg_xxh128 plan;
    uint64_t n_units;
    mg_journal_file *files;
    size_t n_files;
    mg_journal_record *records;
    size_t n_records;
} mg_journal_image;

/* Open (creating it when absent) and lock. MG_ERR_IO naming the journal, and the process when known, while another
 * holds it. */
mg_status mg_journal_open(mg_journal *j, int dirfd, const char *path, mg_error *err) MG_MUST_CHECK;
/* Read it all; sets the place where appending goes on. MG_ERR_INTEGRITY: damaged header; MG_ERR_UNSUPPORTED: newer
 * version. */
mg_status mg_journal_load(mg_journal *j, mg_journal_image *image, mg_error *err) MG_MUST_CHECK;
void mg_journal_image_release(mg_journal_image *image);
/* Start over with an empty journal for this plan, on disk when it returns. */
mg_status mg_journal_begin(mg_journal *j, mg_xxh128 plan, uint64_t n_units, const mg_journal_file *files,
                           size_t n_files, mg_error *err) MG_MUST_CHECK;
/* Append records, completing their sequence and check fields; on disk when it returns, if sync. */
mg_status mg_journal_append(mg_journal *j, mg_journal_record *records, size_t n, bool sync,
                            mg_error *err) MG_MUST_CHECK;
/* Forget it all (restart). */
mg_status mg_journal_wipe(mg_journal *j, mg_error *err) MG_MUST_CHECK;
/* Remove the file, then unlock. */
mg_status mg_journal_remove(mg_journal *j, mg_error *err) MG_MUST_CHECK;
/* Close and unlock; the file stays. Does nothing when not open. */
void mg_journal_close(mg_journal *j);

/* Positional loops over short transfers and EINTR, at most 1 GiB a call. mg_fd_read fails with MG_ERR_IO at end of
 * file. ENOSPC, EDQUOT and EFBIG are explained. */
mg_status mg_fd_write(int fd, uint64_t offset, const void *data, uint64_t n, mg_error *err) MG_MUST_CHECK;
mg_status mg_fd_read(int fd, uint64_t offset, void *dst, uint64_t n, mg_error *err) MG_MUST_CHECK;
/* An exclusive advisory lock. *held_by_other is set, and MG_OK returned, when another process has it. File systems
 * without locks count as locked: there two processes on one output are the user's care (docs/resume.md). */
mg_status mg_fd_lock(int fd, bool *held_by_other, mg_error *err) MG_MUST_CHECK;
/* The same, waiting up to `seconds` for another process to let go, and less when a signal asks to stop. */
mg_status mg_fd_lock_wait(int fd, double seconds, bool *held_by_other, mg_error *err) MG_MUST_CHECK;
/* fsync of a directory: names made by create, rename and unlink survive a power cut. Fine where it is not supported. */
mg_status mg_fd_sync_dir(int dirfd, mg_error *err) MG_MUST_CHECK;

#endif
