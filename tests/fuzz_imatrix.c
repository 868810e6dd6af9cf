/* fuzz_imatrix.c - importance matrices of both forms from arbitrary bytes: an answer or an error, nothing else. */
#include "quant/imatrix.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int fd = memfd_create("imatrix", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) abort();
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    mg_error err = {0};
    mg_imatrix *m;
    if (mg_imatrix_load(&m, path, &err) == MG_OK) {
        const char *const part = "a";
        for (uint32_t i = 0; i < m->n; i++) {
            const mg_imatrix_entry *e = mg_imatrix_find(m, m->entries[i].name);
            if (!e || e != &m->entries[i] || e->n_mat == 0 || e->cols == 0) abort();
            if (!isfinite(e->values[0]) || !isfinite(e->values[e->n_mat * e->cols - 1])) abort();
        }
        if (mg_imatrix_filter(m, &part, 1, false, &err) != MG_OK) abort();
        mg_imatrix_free(m);
    } else if (!err.message[0]) {
        abort(); /* refused without a word */
    }
    close(fd);
    return 0;
}
