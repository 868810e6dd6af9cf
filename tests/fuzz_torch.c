/* fuzz_torch.c - a whole .pth in a memory file: zip directory, both forms of pickles, storages. What is accepted must
 * be readable: every byte of every tensor, through its strides, from inside the file. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "formats/strided.h"
#include "formats/torch_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { READ_MOST = 1 << 16 };

static void require(int ok) {
    if (!ok) abort();
}

static void read_all(const mg_torch_file *t, const mg_file *f) {
    static uint8_t buf[READ_MOST];
    for (uint32_t i = 0; i < t->n_tensors; i++) {
        const mg_tensor *x = &t->tensors[i];
        uint64_t n = x->n_bytes < READ_MOST ? x->n_bytes : READ_MOST, from[2] = {0, x->n_bytes - n};
        mg_error err = {0};
        for (int k = 0; k < 2; k++)
            require((t->strides[i] ? mg_strided_read(f, x, t->strides[i], from[k], buf, n, &err)
                                   : mg_file_read(f, x->offset + from[k], buf, n, &err)) == MG_OK);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int fd = -1;
    mg_arena a;
    mg_torch_file t;
    mg_error err = {0};
    char text[2048];
    if (fd < 0) fd = memfd_create("fuzz", MFD_CLOEXEC);
    require(fd >= 0 && ftruncate(fd, (off_t)size) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
    mg_file f = {.fd = fd, .size = size, .own = size, .path = "fuzz"};
    mg_arena_init(&a, 64u << 20);
    mg_status st = mg_torch_read(&t, &f, &a, &err);
    if (st == MG_OK) {
        require(err.code == MG_OK);
        read_all(&t, &f);
    } else {
        require(err.code == st && err.message[0]);
        mg_error_text(&err, text, sizeof text);
    }
    mg_arena_release(&a);
    return 0;
}
