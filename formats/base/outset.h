/* outset.h - private to outfile*.c: the state of a set of output files while it is written. */
#ifndef MG_BASE_OUTSET_H
#define MG_BASE_OUTSET_H

#include <pthread.h>
#include <stdatomic.h>

#include "formats/base/journal.h"
#include "formats/base/outfile.h"
#include "formats/base/strmap.h"

typedef struct mg_outset_file {
    char part[264];         /* ".NAME.part" */
    int fd;                 /* -1 before start */
    uint64_t inode;         /* of the bytes, under whichever name */
    bool renamed;           /* an earlier run already gave it its final name */
    atomic_bool dirty;      /* written since the last fdatasync */
    uint64_t sent, dropped; /* outfile_settle.c: on their way to disk, and out of the page cache, up to here */
} mg_outset_file;

/* Who claims a unit: nobody, the set's own journal, another process's (which goes into ours once it is confirmed). */
enum { MG_CLAIM_NONE, MG_CLAIM_OWN, MG_CLAIM_OTHER };

struct mg_outset {
    int dirfd;
    char *dir, *name;
    char *journal_path; /* DIR/.NAME.journal */
    mg_xxh128 plan;
    mg_outset_options options;
    mg_journal_file *specs; /* name and size of each file */
    mg_outset_file *files;
    size_t n_files, cap_files;
    mg_strmap names; /* of specs, to refuse a second file of the same name */

    mg_journal journal; /* .fd -1 unless locked */
    bool started, finished;
    bool disposable; /* journal and part files hold nothing worth keeping: free may remove them */

    int ranks_fd;       /* lock on .NAME.ranks, -1 */
    mg_journal *others; /* journals of ranks, open and locked while this process works on the set alone */
    size_t n_others;
    char **other_paths;       /* [n_others] */
    mg_journal_record *notes; /* of all journals read, and of this run; under lock */
    size_t n_notes, cap_notes;

    uint64_t n_units;
    uint8_t *claimed;  /* per unit: MG_CLAIM_*; NULL when there are none at all */
    mg_xxh128 *hashes; /* per unit, where claimed */

    pthread_mutex_t lock; /* guards the queue and the counts below */
    uint8_t *done;        /* per unit: finished in this run or confirmed from the journal */
    uint64_t n_done;
    mg_journal_record *queue; /* finished, not yet in the journal */
    size_t n_queue, cap_queue;
    double last_sync; /* monotonic seconds */

    pthread_mutex_t sync_lock;         /* one flush at a time; taken before lock, never while holding it */
    atomic_uint_fast64_t unsynced;     /* bytes written since the last flush */
    uint64_t sync_bytes;               /* flush after so many */
    atomic_int broken;                 /* mg_status of a failure after which nothing may be claimed any more */
    atomic_uint_fast64_t settle_block; /* bytes that outfile_settle.c sends at a time; 0: it leaves this set alone */
};

/* Add file and the directory to an error. Returns st. */
mg_status mg_outset_place(const mg_outset *s, const char *file, mg_status st, mg_error *err);
/* The place of an error in file i, under the name it has now. Returns st. */
mg_status mg_outset_in_file(const mg_outset *s, size_t i, mg_status st, mg_error *err);
/* Nothing may be claimed any more. Returns st. */
mg_status mg_outset_broken(mg_outset *s, mg_status st);
/* Decide whether the set, whose files are all declared, is worth settling (outfile_settle.c). */
void mg_outset_settle_init(mg_outset *s);
double mg_outset_clock(void);
/* The units and notes of a journal of this plan and layout; claim: MG_CLAIM_OWN or MG_CLAIM_OTHER. */
mg_status mg_outset_take_claims(mg_outset *s, const mg_journal_image *image, uint8_t claim,
                                mg_error *err) MG_MUST_CHECK;
/* Remember a note without writing it; the last one of a key counts. */
mg_status mg_outset_keep_note(mg_outset *s, uint64_t key, mg_xxh128 value, mg_error *err) MG_MUST_CHECK;
/* Does the journal describe the files and units of this set? */
bool mg_outset_same_layout(const mg_outset *s, const mg_journal_image *image);
/* rename within a directory that, unless force, refuses a target that exists (EEXIST). As rename: 0, or -1 and errno.
 */
int mg_outset_rename(int dirfd, const char *from, const char *to, bool force);

#endif
