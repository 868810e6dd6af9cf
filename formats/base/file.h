/* file.h - positional reads and small directory helpers. Tensor data is read by pread into caller buffers and never
 * mapped: no SIGBUS on a truncated file, and resident memory is what we say it is. */
#ifndef MG_BASE_FILE_H
#define MG_BASE_FILE_H

#include "formats/base/status.h"

typedef struct mg_file {
    int fd;
    uint64_t size;     /* at open, with all pieces that follow */
    uint64_t own;      /* of fd alone */
    uint64_t dev, ino; /* identity at open, for mg_file_recheck */
    int64_t mtime_ns;
    struct mg_file *next; /* the following piece (mg_file_open_pieces), NULL */
    char path[4096];
} mg_file;

/* Open a regular file for reading (O_NONBLOCK|O_CLOEXEC, then fstat: FIFOs, devices and directories are refused with
 * MG_ERR_FORMAT without blocking). Missing or unreadable: MG_ERR_IO. */
mg_status mg_file_open(mg_file *f, const char *path, mg_error *err) MG_MUST_CHECK;
/* The same, and a path NAME.part1ofN (a file that was cut by bytes) is all N pieces one after the other. MG_ERR_FORMAT
 * when another piece than the first is named. */
mg_status mg_file_open_pieces(mg_file *f, const char *path, mg_error *err) MG_MUST_CHECK;
/* Length of NAME in such a path, and its numbers; false for any other. */
bool mg_path_is_piece(const char *path, size_t *stem, unsigned *no, unsigned *of);
void mg_file_close(mg_file *f);
/* Read exactly n bytes at offset; loops over short reads and EINTR, at most 1 GiB a call. A read past the end is
 * MG_ERR_FORMAT ("truncated") and names the offset. */
mg_status mg_file_read(const mg_file *f, uint64_t offset, void *dst, uint64_t n, mg_error *err) MG_MUST_CHECK;
/* MG_ERR_INTEGRITY when the file behind f was truncated, replaced or modified since mg_file_open. */
mg_status mg_file_recheck(const mg_file *f, mg_error *err) MG_MUST_CHECK;

/* Whole small file (config, YAML, tokenizer): at most cap bytes, else MG_ERR_LIMIT. *out is malloc'ed, NUL-terminated
 * (the NUL not counted in *n), and the caller's to free. */
mg_status mg_file_slurp(const char *path, uint64_t cap, char **out, size_t *n, mg_error *err) MG_MUST_CHECK;

bool mg_path_exists(const char *path);
bool mg_path_is_dir(const char *path);
/* "dir/name" into buf; MG_ERR_LIMIT when it does not fit. */
mg_status mg_path_join(char *buf, size_t size, const char *dir, const char *name, mg_error *err) MG_MUST_CHECK;
/* MG_ERR_FORMAT unless name is a plain file name (no '/', no '\\', not empty, not "." or ".."): what index files may
 * hold. */
mg_status mg_path_check_plain(const char *name, mg_error *err) MG_MUST_CHECK;
/* Folder for temporary files: TMPDIR, else /tmp. */
const char *mg_path_temporary(void);
/* mkdir -p of one level; existing directory is fine. */
mg_status mg_path_mkdir(const char *path, mg_error *err) MG_MUST_CHECK;

#endif
