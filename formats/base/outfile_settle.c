/* outfile_settle.c - large outputs go to disk while they are written, and leave the page cache behind them.
 *
 * Without this everything waits for the flush at the end, which then takes as long as the disk needs for the whole
 * model, and a model of several times the memory pushes the donors, which are still read, out of the cache. With it the
 * same few cached pages take turns; on virtual machines, where the first touch of a page is dear, that alone makes
 * writing several times cheaper. The price: whoever reads the result next reads it from disk, so sets that are read in
 * a blink stay cached.
 *
 * The system reports a failed write to whoever waits for it first: an error here is as final as that of an fsync. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "formats/base/crash.h"
#include "formats/base/outset.h"

#define BLOCK  (UINT64_C(8) << 20)
#define LARGE  (UINT64_C(256) << 20)
#define BLOCKS 4u /* sent and not waited for, so that the disk always has something to do */

void mg_outset_settle_init(mg_outset *s) {
    const char *text = getenv("MOEGRAFT_SETTLE_BLOCK");
    const unsigned long long block = text ? strtoull(text, NULL, 10) : 0;
    uint64_t total = 0;
    for (size_t i = 0; i < s->n_files && total < LARGE; i++) total += s->specs[i].size;
    atomic_store(&s->settle_block, block ? block : total < LARGE ? 0 : BLOCK);
}

/* Sandboxes and rare file systems cannot: the flush at the end does the work, then. */
static mg_status failed(mg_outset *s, uint32_t file, mg_error *err) {
    atomic_store(&s->settle_block, 0);
    if (errno == ENOSYS || errno == EINVAL || errno == EOPNOTSUPP || errno == EPERM) return MG_OK;
    mg_status st = mg_fail_errno(err, "cannot bring the data to disk");
    return mg_outset_in_file(s, file, mg_outset_broken(s, st), err);
}

mg_status mg_outset_settle(mg_outset *s, uint32_t file, uint64_t end, mg_error *err) {
    mg_outset_file *f = &s->files[file];
    const uint64_t block = atomic_load(&s->settle_block), to = block ? end - end % block : 0;
    if (to <= f->sent || f->renamed) return MG_OK;
    if (sync_file_range(f->fd, (off_t)f->sent, (off_t)(to - f->sent), SYNC_FILE_RANGE_WRITE) != 0)
        return failed(s, file, err);
    f->sent = to;
    if (to - f->dropped <= BLOCKS * block) return MG_OK;
    const uint64_t n = to - BLOCKS * block - f->dropped;
    if (sync_file_range(f->fd, (off_t)f->dropped, (off_t)n,
                        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER) != 0)
        return failed(s, file, err);
    (void)posix_fadvise(f->fd, (off_t)f->dropped, (off_t)n, POSIX_FADV_DONTNEED); /* advice: pages may stay */
    f->dropped += n;
    mg_crash_point("settle: out of the cache");
    return MG_OK;
}
