/* provenance_output.c - the output as a reader finds it: tensors where its own header says they are, not where the
 * manifest says they were, so that a header that leads to other bytes is found, and an edited one (other keys, other
 * places) is no damage to tensors. Files as a whole are compared by their sha256. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/provenance.h"
#include "formats/base/file.h"
#include "formats/base/pool.h"

static bool ends_in(const char *text, const char *end) {
    const size_t n = strlen(text), k = strlen(end);
    return n > k && strcmp(text + n - k, end) == 0;
}

/* A GGUF is opened by its first file, everything else by its folder. */
mg_status mg_provenance_open_output(mg_provenance *p, mg_error *err) {
    char path[8192];
    const char *first = p->n_files ? p->files[0].name : NULL, *output = mg_json_str(mg_json_get(p->manifest, "output"));
    const bool file = first && output && (ends_in(first, ".gguf") || strcmp(first, output) == 0);
    if (!first) return mg_fail(err, MG_ERR_FORMAT, "the manifest names no files");
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        if (i && strcmp(p->tensors[i].file, p->tensors[i - 1].file) == 0) continue;
        MG_TRY(mg_path_join(path, sizeof path, p->dir, p->tensors[i].file, err));
        if (!mg_path_exists(path)) return mg_fail(err, MG_ERR_IO, "'%s' of the output is not there", path);
    }
    MG_TRY(mg_path_join(path, sizeof path, p->dir, file ? first : ".", err));
    return mg_checkpoint_open(&p->output, file ? path : p->dir, err);
}

/* Is the tensor what the manifest says, its bytes aside? */
static bool is_stated(const mg_tensor *t, const mg_proof_tensor *want) {
    return strcmp(mg_dtype_get(t->dtype)->name, want->dtype) == 0 && t->n_bytes == want->bytes &&
           t->rank == want->t.rank && memcmp(t->shape, want->t.shape, t->rank * sizeof *t->shape) == 0;
}

mg_status mg_provenance_hash_stored(const mg_provenance *p, mg_proof_tensor *t, char hex[33], mg_error *err) {
    enum { CHUNK = 1 << 20 };
    const uint32_t at = mg_checkpoint_find(p->output, t->name);
    mg_xxh128_state *s;
    hex[0] = 0;
    if (at == MG_STRMAP_NONE || !is_stated(&p->output->tensors[at], t)) {
        snprintf(t->note, sizeof t->note, "%s",
                 at == MG_STRMAP_NONE ? "the output has no such tensor" : "the output has it in another type or shape");
        return MG_OK;
    }
    void *buf = malloc(CHUNK);
    if (!buf) return mg_fail_nomem(err, CHUNK);
    mg_status st = mg_xxh128_new(&s, err);
    for (uint64_t done = 0; st == MG_OK && done < t->bytes; done += CHUNK) {
        const uint64_t n = t->bytes - done < CHUNK ? t->bytes - done : CHUNK;
        st = mg_interrupted() ? mg_fail(err, (mg_status)mg_interrupted(), "interrupted")
                              : mg_checkpoint_read(p->output, at, done, buf, n, err);
        if (st == MG_OK) mg_xxh128_update(s, buf, (size_t)n);
    }
    free(buf);
    MG_TRY(st);
    const mg_xxh128 h = mg_xxh128_final(s);
    mg_xxh128_free(s);
    mg_hex(h.bytes, sizeof h.bytes, hex);
    return MG_OK;
}

static mg_status hash_file(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    mg_provenance *p = ctx;
    mg_proof_file *f = &p->files[ticket];
    char path[8192];
    (void)worker;
    MG_TRY(mg_path_join(path, sizeof path, p->dir, f->name, err));
    if (mg_path_exists(path)) MG_TRY(mg_sha256_file(path, f->found, err));
    f->differs = strcmp(f->found, f->stated) != 0;
    return MG_OK;
}

mg_status mg_provenance_files(mg_provenance *p, mg_pool *pool, uint32_t *differ, mg_error *err) {
    *differ = 0;
    MG_TRY(mg_pool_run(pool, p->n_files, hash_file, p, err));
    for (uint32_t i = 0; i < p->n_files; i++) *differ += p->files[i].differs;
    return MG_OK;
}
