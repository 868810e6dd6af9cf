/* onefile.h - one large output file written by position, atomically: an output set with a single member. It is never
 * resumed (a run that was cut short starts anew), because what it holds is computed faster than it is checked. */
#ifndef MG_VERIFY_ONEFILE_H
#define MG_VERIFY_ONEFILE_H

#include "formats/base/outfile.h"

typedef struct mg_onefile {
    mg_outset *set;
    uint32_t file;
} mg_onefile;

/* Begin path with its final size. An existing file is MG_ERR_USAGE without force. */
mg_status mg_onefile_open(mg_onefile *o, const char *path, uint64_t size, bool force, mg_error *err) MG_MUST_CHECK;
mg_status mg_onefile_write(mg_onefile *o, uint64_t offset, const void *data, uint64_t n, mg_error *err) MG_MUST_CHECK;
/* Give the file its name; then only mg_onefile_close remains. */
mg_status mg_onefile_commit(mg_onefile *o, mg_error *err) MG_MUST_CHECK;
/* Without commit: the partial file is removed. */
void mg_onefile_close(mg_onefile *o);

#endif
