/* fuzz_recorded.c - what other programs recorded, and questions: the first byte says which reader gets the rest. What
 * opens must keep its promises: rows that are distributions, tokens that are listed, answers that exist. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "verify/choices.h"
#include "verify/kldbase.h"
#include "verify/recorded_top.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok) {
    if (!ok) abort();
}

static void check_row(const mg_top_row *r, int32_t next) {
    int listed = 0;
    require(r->n > 0 && r->target <= 0 && r->most <= 0);
    for (uint32_t i = 0; i < r->n; i++) {
        require(isfinite(r->logp[i]) && r->logp[i] <= 0 && (!i || r->ids[i] > r->ids[i - 1]) && r->ids[i] >= 0);
        listed += r->ids[i] == next && r->logp[i] == r->target;
    }
    require(listed == 1);
}

static mg_status read_top(const char *path, mg_error *err) {
    mg_recorded_top *t;
    mg_windows own;
    const mg_top_row *rows;
    mg_windows_init(&own);
    mg_status st = mg_recorded_top_open(&t, path, &own, err);
    for (uint64_t w = 0; st == MG_OK && w < own.n; w++) {
        const mg_window *o = &own.items[w];
        const uint32_t n = (uint32_t)mg_window_scored(o);
        require(n > 0 && mg_recorded_top_rows(t, w, o->first, n, &rows, err) == MG_OK);
        for (uint32_t i = 0; i < n; i++) check_row(&rows[i], own.ids[o->at + o->first + i + 1]);
    }
    if (st == MG_OK) mg_recorded_top_free(t);
    mg_windows_release(&own);
    return st;
}

static mg_status read_base(const char *path, mg_error *err) {
    mg_kldbase k;
    MG_TRY(mg_kldbase_open(&k, path, err));
    mg_status st = MG_OK;
    for (uint64_t r = 0; st == MG_OK && r < k.chunks * (k.ctx - 1 - k.ctx / 2); r++) st = mg_kldbase_row(&k, r, err);
    mg_kldbase_release(&k);
    return st;
}

static mg_status read_questions(const char *path, mg_error *err) {
    mg_questions q;
    uint64_t choices = 0;
    MG_TRY(mg_questions_load(&q, path, err));
    require(q.n > 0);
    for (uint64_t i = 0; i < q.n; i++) {
        require(q.items[i].n >= 2 && q.items[i].answer < q.items[i].n && q.items[i].context && q.items[i].delimiter);
        choices += q.items[i].n;
    }
    require(choices == q.choices);
    mg_questions_release(&q);
    return MG_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int fd = -1;
    char path[64], text[2048];
    mg_error err = {0};
    if (size < 1) return 0;
    if (fd < 0) fd = memfd_create("fuzz", MFD_CLOEXEC);
    require(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, data + 1, size - 1, 0) == (ssize_t)(size - 1));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    mg_status st = data[0] == 'b'   ? read_base(path, &err)
                   : data[0] == 'q' ? read_questions(path, &err)
                                    : read_top(path, &err);
    require(err.code == st);
    if (st != MG_OK) {
        require(err.message[0]);
        mg_error_text(&err, text, sizeof text);
    }
    return 0;
}
