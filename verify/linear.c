/* linear.c - see linear.h. */
#include "verify/linear.h"

#include <stdlib.h>
#include <string.h>

/* Columns of a ticket: six panels of 512 k are 192 KiB of packed weights, which stay in a 512 KiB L2 while the
 * activations stream past. Fewer when rows are so long that the stored tile would pass RAW_MAX. */
#define NC_MAX  96
#define RAW_MAX (4u << 20)
/* Floats between decoded rows: 16 rows a power of two apart would share a few sets of the first-level cache. */
#define ROW_LD (MG_GEMM_KC + 16)
/* Rows of x that are multiplied on codes: for more, unpacking once to f32 is less work. */
#define DOT_ROWS 4

typedef struct task {
    const mg_linear_job *job;
    mg_f32_source w;
    const float *bias;
    uint64_t n, k, nc;
    mg_panel_entry *kept;        /* NULL: streamed */
    const mg_code_source *codes; /* NULL: the weight is unpacked to f32 as it is read */
    mg_code_source own;          /* codes, when nothing is kept */
    uint64_t first_ticket;
} task;

typedef struct run {
    mg_linear *l;
    task *tasks;
    size_t n;
} run;

mg_status mg_linear_init(mg_linear *l, mg_pool *pool, mg_error *err) {
    *l = (mg_linear){.pool = pool, .workers = pool ? mg_pool_size(pool) : 1, .math = mg_math_get()};
    l->per_worker = calloc(l->workers, sizeof *l->per_worker);
    return l->per_worker ? MG_OK : mg_fail_nomem(err, l->workers * sizeof *l->per_worker);
}

void mg_linear_release(mg_linear *l) {
    for (unsigned i = 0; l->per_worker && i < l->workers; i++) {
        free(l->per_worker[i].raw);
        mg_fbuf_release(&l->per_worker[i].rows);
        mg_fbuf_release(&l->per_worker[i].chunk);
    }
    free(l->per_worker);
    mg_fbuf_release(&l->biases);
    mg_panels_clear(&l->panels);
    *l = (mg_linear){0};
}

/* --- packing --- */

typedef struct pack_run {
    const mg_math *math;
    float *dst;
    const float *x;
    uint64_t ldx, m, k;
    const uint32_t *rows;
} pack_run;

enum { SLIVERS_PER_TICKET = 16 };

static mg_status pack_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const pack_run *p = ctx;
    for (uint64_t s = ticket * SLIVERS_PER_TICKET; s < (ticket + 1) * SLIVERS_PER_TICKET && s * p->math->mr < p->m; s++)
        mg_gemm_pack_x(p->math, p->dst, s, p->x, p->ldx, p->rows, p->m, p->k);
    return MG_OK;
}

mg_status mg_linear_pack(mg_linear *l, mg_xpack *out, float *dst, const float *x, uint64_t ldx, const uint32_t *rows,
                         uint64_t m, uint64_t k, mg_error *err) {
    pack_run p = {.math = l->math, .dst = dst, .x = x, .ldx = ldx, .m = m, .k = k, .rows = rows};
    *out = (mg_xpack){.data = dst, .m = m, .k = k};
    uint64_t per = (uint64_t)SLIVERS_PER_TICKET * l->math->mr;
    return mg_pool_run(l->pool, (m + per - 1) / per, pack_ticket, &p, err);
}

mg_status mg_linear_pack_buf(mg_linear *l, mg_xpack *out, mg_fbuf *dst, const float *x, uint64_t ldx, uint64_t m,
                             uint64_t k, mg_error *err) {
    uint64_t n;
    if (!mg_linear_pack_floats(l, m, k, &n)) return mg_fail(err, MG_ERR_LIMIT, "too many activations for one batch");
    MG_TRY(mg_fbuf_need(dst, n, 1, err));
    return mg_linear_pack(l, out, dst->p, x, ldx, NULL, m, k, err);
}

/* --- products --- */

static mg_status worker_raw(mg_linear_worker *w, uint64_t bytes, mg_error *err) {
    if (bytes <= w->raw_bytes) return MG_OK;
    free(w->raw);
    w->raw_bytes = 0;
    w->raw = malloc(bytes);
    if (!w->raw) return mg_fail_nomem(err, bytes);
    w->raw_bytes = bytes;
    return MG_OK;
}

/* Columns k0..k0+kc of n rows at raw, as panels. */
static void pack_chunk(const mg_math *t, const task *k, const void *raw, uint64_t n, uint64_t k0, uint64_t kc,
                       float *rows, float *chunk) {
    for (uint64_t p = 0; p < n; p += MG_GEMM_NR) {
        uint64_t take = n - p < MG_GEMM_NR ? n - p : MG_GEMM_NR;
        mg_f32_source_decode(&k->w, (const uint8_t *)raw + p * k->w.row_bytes, take, k0, kc, rows, ROW_LD);
        t->pack_w(chunk + p * kc, rows, ROW_LD, (uint32_t)take, kc);
    }
}

/* The task that ticket belongs to: the last whose first ticket is not beyond it. */
static const task *task_of(const run *r, uint64_t ticket) {
    size_t lo = 0, hi = r->n;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (r->tasks[mid].first_ticket <= ticket)
            lo = mid;
        else
            hi = mid;
    }
    return &r->tasks[lo];
}

/* Read n rows from j and multiply chunk by chunk. kept (may be NULL) receives the panels of all chunks. */
static mg_status stream_tile(const run *r, const task *k, mg_linear_worker *w, uint64_t j, uint64_t n, float *kept,
                             mg_error *err) {
    const mg_linear_job *job = k->job;
    const uint64_t width = (n + MG_GEMM_NR - 1) / MG_GEMM_NR * MG_GEMM_NR;
    MG_TRY(worker_raw(w, n * k->w.row_bytes, err));
    MG_TRY(mg_fbuf_need(&w->rows, MG_GEMM_NR, ROW_LD, err));
    if (!kept) MG_TRY(mg_fbuf_need(&w->chunk, mg_gemm_w_floats(k->nc), 1, err));
    MG_TRY(mg_f32_source_read(&k->w, j, n, w->raw, err));
    for (uint64_t k0 = 0; k0 < k->k; k0 += MG_GEMM_KC) {
        const uint64_t kc = k->k - k0 < MG_GEMM_KC ? k->k - k0 : MG_GEMM_KC;
        float *chunk = kept ? kept + k0 * width : w->chunk.p;
        pack_chunk(r->l->math, k, w->raw, n, k0, kc, w->rows.p, chunk);
        mg_gemm_chunk(r->l->math, job->x.m, job->x.data, k->k, k0, kc, chunk, n, job->y + j, job->ldy);
    }
    return MG_OK;
}

/* Panels of codes times x. */
static mg_status code_products(const run *r, const task *k, mg_linear_worker *w, uint64_t j, uint64_t n,
                               const uint8_t *panels, mg_error *err) {
    const mg_linear_job *job = k->job;
    const mg_codes *form = &k->codes->form;
    const mg_math *t = r->l->math;
    const uint64_t size = mg_codes_panel_bytes(form), whole = n / MG_GEMM_NR, tail = n % MG_GEMM_NR;
    if (job->x.m <= DOT_ROWS) {
        const uint32_t m = (uint32_t)job->x.m;
        float last[DOT_ROWS * MG_GEMM_NR]; /* nothing beyond column n is touched */
        t->dot_codes(form, panels, whole, m, job->x.data, job->y + j, job->ldy);
        if (tail) t->dot_codes(form, panels + whole * size, 1, m, job->x.data, last, MG_GEMM_NR);
        for (uint64_t i = 0; tail && i < m; i++)
            memcpy(job->y + i * job->ldy + j + whole * MG_GEMM_NR, last + i * MG_GEMM_NR, tail * sizeof *last);
        return MG_OK;
    }
    MG_TRY(mg_fbuf_need(&w->chunk, mg_gemm_w_floats(k->nc), 1, err));
    for (uint64_t k0 = 0; k0 < k->k; k0 += MG_GEMM_KC) {
        const uint64_t kc = k->k - k0 < MG_GEMM_KC ? k->k - k0 : MG_GEMM_KC;
        for (uint64_t p = 0; p * MG_GEMM_NR < n; p++)
            t->values_codes(form, panels + p * size, k0, kc, w->chunk.p + p * kc * MG_GEMM_NR);
        mg_gemm_chunk(t, job->x.m, job->x.data, k->k, k0, kc, w->chunk.p, n, job->y + j, job->ldy);
    }
    return MG_OK;
}

/* Read n rows from j as codes and multiply. kept (may be NULL) becomes the panels. */
static mg_status stream_codes(const run *r, const task *k, mg_linear_worker *w, uint64_t j, uint64_t n, void **kept,
                              mg_error *err) {
    const uint64_t bytes = (n + MG_GEMM_NR - 1) / MG_GEMM_NR * mg_codes_panel_bytes(&k->codes->form);
    uint8_t *panels = NULL;
    bool exact = false;
    if (kept && !(panels = malloc(bytes))) return mg_fail_nomem(err, bytes);
    mg_status st = kept ? MG_OK : worker_raw(w, bytes, err);
    if (!kept) panels = w->raw;
    if (st == MG_OK) st = mg_code_source_read(k->codes, j, n, panels, &exact, err);
    if (st == MG_OK && exact) st = code_products(r, k, w, j, n, panels, err);
    if (st == MG_OK && exact && kept)
        *kept = panels;
    else if (kept)
        free(panels);
    return st == MG_OK && !exact ? stream_tile(r, k, w, j, n, NULL, err) : st;
}

static void kept_tile(const run *r, const task *k, uint64_t j, uint64_t n, const float *kept) {
    const mg_linear_job *job = k->job;
    const uint64_t width = (n + MG_GEMM_NR - 1) / MG_GEMM_NR * MG_GEMM_NR;
    for (uint64_t k0 = 0; k0 < k->k; k0 += MG_GEMM_KC) {
        const uint64_t kc = k->k - k0 < MG_GEMM_KC ? k->k - k0 : MG_GEMM_KC;
        mg_gemm_chunk(r->l->math, job->x.m, job->x.data, k->k, k0, kc, kept + k0 * width, n, job->y + j, job->ldy);
    }
}

static mg_status stream_f32(const run *r, const task *k, mg_linear_worker *w, uint64_t j, uint64_t n, void **kept,
                            mg_error *err) {
    if (!kept) return stream_tile(r, k, w, j, n, NULL, err);
    float *panels = malloc((n + MG_GEMM_NR - 1) / MG_GEMM_NR * MG_GEMM_NR * k->k * sizeof *panels);
    mg_status st = stream_tile(r, k, w, j, n, panels, err);
    if (st == MG_OK)
        *kept = panels;
    else
        free(panels);
    return st;
}

static mg_status linear_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    const run *r = ctx;
    const task *k = task_of(r, ticket);
    const uint64_t tile = ticket - k->first_ticket, j = tile * k->nc, n = k->n - j < k->nc ? k->n - j : k->nc;
    void **kept = k->kept ? &k->kept->tile[tile] : NULL; /* no other ticket of this run has this tile */
    mg_linear_worker *w = &r->l->per_worker[worker];
    if (k->codes && kept && *kept)
        MG_TRY(code_products(r, k, w, j, n, *kept, err));
    else if (k->codes)
        MG_TRY(stream_codes(r, k, w, j, n, kept, err));
    else if (kept && *kept)
        kept_tile(r, k, j, n, *kept);
    else
        MG_TRY(stream_f32(r, k, w, j, n, kept, err));
    if (k->bias)
        for (uint64_t i = 0; i < k->job->x.m; i++) r->l->math->add(k->job->y + i * k->job->ldy + j, k->bias + j, n);
    return MG_OK;
}

static mg_status task_init(task *k, mg_model *m, const mg_linear_job *job, mg_error *err) {
    *k = (task){.job = job, .k = job->x.k};
    MG_TRY(mg_f32_source_init(&k->w, m, job->w, err));
    k->n = k->w.rows;
    if (k->w.cols != k->k || (job->bias && job->bias->shape[job->bias->rank ? job->bias->rank - 1 : 0] != k->n)) {
        mg_status st = mg_fail(err, MG_ERR_FORMAT, "rows of %llu values, expected %llu", (unsigned long long)k->w.cols,
                               (unsigned long long)k->k);
        mg_error_at(err, NULL, mg_model_tensor(m, job->w)->name);
        return st;
    }
    k->nc = NC_MAX;
    while (k->nc > MG_GEMM_NR && k->nc * k->w.row_bytes > RAW_MAX) k->nc -= MG_GEMM_NR;
    return MG_OK;
}

/* Smaller tiles while there would be fewer than four tickets per worker. */
static uint64_t tickets_of(task *tasks, size_t n, uint64_t nc, unsigned workers) {
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++) total += (tasks[i].n + nc - 1) / nc;
    return total >= 4u * workers || nc == MG_GEMM_NR ? nc : tickets_of(tasks, n, nc - MG_GEMM_NR, workers);
}

static mg_status load_biases(mg_linear *l, mg_model *m, task *tasks, size_t n, mg_error *err) {
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++)
        if (tasks[i].job->bias) total += tasks[i].n;
    MG_TRY(mg_fbuf_need(&l->biases, total, 1, err));
    float *at = l->biases.p;
    for (size_t i = 0; i < n; i++) {
        if (!tasks[i].job->bias) continue;
        MG_TRY(mg_read_f32(m, tasks[i].job->bias, 0, 1, at, err));
        tasks[i].bias = at;
        at += tasks[i].n;
    }
    return MG_OK;
}

/* Kept or streamed, as codes or as f32. Blocks are codes only when they are kept: decoders are faster than the search
 * for what a value was. */
static mg_status choose_form(mg_linear *l, const mg_model *m, task *k, mg_error *err) {
    k->kept = mg_panels_find(&l->panels, m, k->job->w);
    if (!k->kept) {
        MG_TRY(mg_code_source_init(&k->own, &k->w, err));
        k->kept = mg_panels_new(&l->panels, m, k->job->w, k->n, k->k, k->nc, &k->own);
        if (!k->kept && (k->own.matrix && k->own.form.bits)) k->codes = &k->own;
    }
    if (!k->kept) return MG_OK;
    k->nc = k->kept->nc;
    if (k->kept->codes.form.bits) k->codes = &k->kept->codes;
    return MG_OK;
}

mg_status mg_linear_run(mg_linear *l, mg_model *m, const mg_linear_job *jobs, size_t n, mg_error *err) {
    task *tasks = calloc(n ? n : 1, sizeof *tasks);
    if (!tasks) return mg_fail_nomem(err, n * sizeof *tasks);
    mg_status st = MG_OK;
    size_t have = 0;
    for (size_t i = 0; i < n && st == MG_OK; i++)
        if (jobs[i].x.m) st = task_init(&tasks[have++], m, &jobs[i], err);
    if (st == MG_OK) st = load_biases(l, m, tasks, have, err);
    if (st == MG_OK) {
        uint64_t cap = tickets_of(tasks, have, NC_MAX, l->workers), total = 0;
        for (size_t i = 0; i < have && st == MG_OK; i++) {
            if (tasks[i].nc > cap) tasks[i].nc = cap;
            st = choose_form(l, m, &tasks[i], err);
            tasks[i].first_ticket = total;
            total += (tasks[i].n + tasks[i].nc - 1) / tasks[i].nc;
        }
        run r = {.l = l, .tasks = tasks, .n = have};
        if (st == MG_OK) st = mg_pool_run(l->pool, total, linear_ticket, &r, err);
    }
    for (size_t i = 0; i < have; i++) mg_code_source_release(&tasks[i].own);
    free(tasks);
    return st;
}
