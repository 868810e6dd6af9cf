/* quantize.c - from a GGUF's tensors to the plan of a quantized file: order, pruning, dtypes, importance weights.
 *
 * Everything that can be refused is refused here, before a byte is written. */
#include "convert/quantize.h"

#include "convert/plan_private.h"
#include "convert/quantize_kv.h"
#include "convert/reuse.h"
#include "quant/codec.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    mg_plan *plan;
    mg_checkpoint *in;
    const mg_quantize_options *opt;
    mg_quantize_report *report;
    mg_arena arena;
    mg_mix_model model;
    uint32_t n;           /* tensors of the output */
    uint32_t *source;     /* [n] index into in->tensors, in output order */
    mg_mix_tensor *mix;   /* [n] names are the output's */
    uint32_t block_count; /* after pruning; UINT32_MAX when nothing was asked to be pruned */
} job;

static void note(const job *j, const char *fmt, ...) MG_PRINTF(2, 3);
static void note(const job *j, const char *fmt, ...) {
    if (!j->opt->note) return;
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    j->opt->note(j->opt->note_ctx, text);
}

static mg_status at_tensor(mg_status st, const job *j, const char *name, mg_error *err) {
    if (st != MG_OK) mg_error_at(err, j->in->path, name);
    return st;
}

/* ---- order and pruning ---- */

typedef struct sortable {
    const char *name;
    uint32_t tensor;
    const mg_tensor *t;
} sortable;

/* Under --keep-split: file by file, in the order of their data. */
static int by_part(const void *a, const void *b) {
    const mg_tensor *x = ((const sortable *)a)->t, *y = ((const sortable *)b)->t;
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    return x->offset == y->offset ? 0 : x->offset < y->offset ? -1 : 1;
}

static int by_position(const void *a, const void *b) {
    return mg_mix_compare(((const sortable *)a)->name, ((const sortable *)b)->name);
}

/* "blk.N." anywhere in name: N and where its digits are. -1 when absent. */
static int64_t block_in(const char *name, const char **digits, size_t *n_digits) {
    for (const char *p = strstr(name, "blk."); p; p = strstr(p + 1, "blk.")) {
        size_t n = strspn(p + 4, "0123456789");
        if (n == 0 || n > 9 || p[4 + n] != '.') continue;
        *digits = p + 4;
        *n_digits = n;
        return strtol(p + 4, NULL, 10);
    }
    return -1;
}

static bool is_pruned(const mg_quantize_options *opt, int64_t block) {
    for (size_t i = 0; i < opt->n_prune; i++)
        if (opt->prune[i] == block) return true;
    return false;
}

/* New number of every block: those before the first pruned one keep theirs, the others close the gaps. */
static mg_status number_blocks(job *j, const sortable *order, uint32_t **map, mg_error *err) {
    const char *at;
    size_t len;
    uint32_t n = (uint32_t)j->model.n_layer, next = 0;
    bool *present;
    MG_TRY(MG_ARENA_NEW(&j->arena, &present, n, err));
    MG_TRY(MG_ARENA_NEW(&j->arena, map, n, err));
    for (uint32_t i = 0; i < j->in->n_tensors; i++) {
        int64_t b = block_in(order[i].name, &at, &len);
        if (b >= n)
            return at_tensor(mg_fail(err, MG_ERR_FORMAT, "block number beyond the model's %u blocks", n), j,
                             order[i].name, err);
        if (b >= 0) present[b] = true;
    }
    for (size_t i = 0; i < j->opt->n_prune; i++)
        if (j->opt->prune[i] >= n)
            return mg_fail(err, MG_ERR_USAGE, "no block %u to prune: the model has %u", j->opt->prune[i], n);
    for (uint32_t b = 0; b < n; b++) {
        if (is_pruned(j->opt, b)) {
            (*map)[b] = UINT32_MAX;
        } else if (b < j->opt->prune[0]) {
            (*map)[b] = b;
            if (present[b]) next = b + 1;
        } else if (present[b]) {
            (*map)[b] = next++;
        }
    }
    if (next == 0) return mg_fail(err, MG_ERR_USAGE, "--prune-layers leaves no block");
    j->block_count = next;
    return MG_OK;
}

static mg_status renumber(job *j, const char *name, const uint32_t *map, const char **out, mg_error *err) {
    const char *at;
    size_t len;
    int64_t b = block_in(name, &at, &len);
    *out = name;
    if (b < 0 || map[b] == b) return MG_OK;
    *out =
        map[b] == UINT32_MAX ? NULL : mg_arena_printf(&j->arena, "%.*s%u%s", (int)(at - name), name, map[b], at + len);
    return *out || map[b] == UINT32_MAX ? MG_OK : mg_fail_nomem(err, strlen(name));
}

static void set_shape(mg_mix_tensor *t, const mg_tensor *x) {
    for (uint32_t k = 0; k < 4; k++) t->ne[k] = k < x->rank ? x->shape[x->rank - 1 - k] : 1;
    t->source = x->dtype;
}

static mg_status gather(job *j, mg_error *err) {
    sortable *order;
    uint32_t *map = NULL, n = j->in->n_tensors;
    MG_TRY(MG_ARENA_NEW(&j->arena, &order, n + 1u, err));
    MG_TRY(MG_ARENA_NEW(&j->arena, &j->mix, n + 1u, err));
    MG_TRY(MG_ARENA_NEW(&j->arena, &j->source, n + 1u, err));
    for (uint32_t i = 0; i < n; i++) order[i] = (sortable){j->in->tensors[i].name, i, &j->in->tensors[i]};
    qsort(order, n, sizeof *order, j->opt->keep_split ? by_part : by_position);
    if (j->opt->n_prune) MG_TRY(number_blocks(j, order, &map, err));
    for (uint32_t i = 0; i < n; i++) {
        const mg_tensor *x = &j->in->tensors[order[i].tensor];
        const char *name = x->name;
        if (map) MG_TRY(renumber(j, x->name, map, &name, err));
        if (!name) continue;
        if (x->rank > 4 || x->rank == 0)
            return at_tensor(mg_fail(err, MG_ERR_FORMAT, "rank %u", x->rank), j, x->name, err);
        j->mix[j->n].name = name;
        set_shape(&j->mix[j->n], x);
        j->source[j->n++] = order[i].tensor;
    }
    j->report->n_tensors = j->n;
    j->report->n_pruned = n - j->n;
    return MG_OK;
}

/* ---- importance weights ---- */

/* Entry that weights tensor k, NULL for none. Entries carry the numbers blocks had before pruning. */
static mg_status find_weights(job *j, uint32_t k, const mg_imatrix_entry **entry, mg_error *err) {
    const mg_mix_tensor *t = &j->mix[k];
    const char *name = j->in->tensors[j->source[k]].name;
    const mg_codec *codec = mg_codec_get(t->target);
    const mg_imatrix *m = j->opt->imatrix && j->opt->imatrix->n ? j->opt->imatrix : NULL;
    *entry = mg_imatrix_find(m, name);
    if (*entry && (*entry)->n_mat * (*entry)->cols != t->ne[0] * t->ne[2]) {
        if (!strstr(name, "token_embd.weight"))
            return mg_fail(
                err, MG_ERR_CONFLICT,
                "the importance matrix has %llu values, the tensor needs %llu: it was made for another model",
                (unsigned long long)((*entry)->n_mat * (*entry)->cols), (unsigned long long)(t->ne[0] * t->ne[2]));
        note(j, "%s: importance values of another size are not used", name);
        *entry = NULL;
    }
    if (*entry && t->ne[3] > 1) return mg_fail(err, MG_ERR_UNSUPPORTED, "importance values for a tensor of rank 4");
    if (*entry) j->report->n_empty_experts += codec->imatrix == MG_IMATRIX_IGNORED ? 0 : (*entry)->n_empty;
    if (m && !*entry && codec->imatrix != MG_IMATRIX_IGNORED) {
        j->report->n_unweighted++;
        note(j, "%s: not in the importance matrix, encoded without", name);
    }
    return MG_OK;
}

/* Refusals of llama-quantize ("garbage otherwise"), and of codecs that cannot work without weights. */
static mg_status check_imatrix(job *j, uint32_t k, const mg_imatrix_entry *entry, mg_error *err) {
    const mg_mix_tensor *t = &j->mix[k];
    bool given = j->opt->imatrix && j->opt->imatrix->n;
    bool changes = t->target != t->source;
    /* without any matrix even a tensor that stays as it is counts, as upstream */
    bool needed = (t->needs_imatrix && (changes || !given)) ||
                  (changes && mg_codec_get(t->target)->imatrix == MG_IMATRIX_REQUIRED);
    if (!needed || entry) return MG_OK;
    if (j->opt->estimate) {
        j->report->needs_imatrix = true;
        return MG_OK;
    }
    const char *type = mg_dtype_get(t->target)->name;
    if (given)
        return mg_fail(err, MG_ERR_CONFLICT,
                       "the importance matrix has no entry for it, and %s without one gives garbage", type);
    return mg_fail(err, MG_ERR_USAGE, "%s needs an importance matrix (--imatrix FILE)", type);
}

/* ---- expressions ---- */

/* Leading dimensions of 1 (trailing ones in GGUF order) are dropped, as the C writer does. */
static mg_status source_expr(job *j, uint32_t k, const mg_expr **e, mg_error *err) {
    static const mg_view first = {.kind = MG_VIEW_SELECT};
    MG_TRY(mg_expr_source(j->plan, j->in, j->source[k], e, err));
    uint64_t shape[MG_MAX_RANK];
    while (mg_expr_shape(*e, shape) > 1 && shape[0] == 1) MG_TRY(mg_expr_view(j->plan, *e, &first, e, err));
    return MG_OK;
}

static mg_status encode_expr(job *j, uint32_t k, const mg_expr **e, mg_error *err) {
    const mg_mix_tensor *t = &j->mix[k];
    const mg_imatrix_entry *entry = NULL;
    const char *to = mg_dtype_get(t->target)->name, *from = mg_dtype_get(t->source)->name;
    if (!mg_codec_get(t->target)) return mg_fail(err, MG_ERR_UNSUPPORTED, "writing %s is not built yet", to);
    if (!mg_codec_get(t->source))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "values of type %s cannot be converted", from);
    MG_TRY(find_weights(j, k, &entry, err));
    MG_TRY(check_imatrix(j, k, entry, err));
    if (mg_dtype_is_block(t->source) && !j->opt->allow_requantize)
        return mg_fail(err, MG_ERR_USAGE, "it is %s already; --allow-requantize permits another loss", from);
    j->report->n_encoded++;
    if (t->wanted != t->target) {
        j->report->n_fallback++;
        note(j, "%s: rows of %llu values do not fit %s, stored as %s", t->name, (unsigned long long)t->ne[0],
             mg_dtype_get(t->wanted)->name, to);
    }
    const mg_quantize_feedback *f = j->opt->feedback;
    if (f && f->ckpt->tensors[j->source[k]].dtype == t->target) {
        j->report->n_feedback++;
        return mg_expr_feedback(j->plan, *e, f->ckpt, j->source[k], f->id, e, err);
    }
    if (f) note(j, "%s: %s without error feedback", t->name, to);
    bool use = entry && mg_codec_get(t->target)->imatrix != MG_IMATRIX_IGNORED;
    const float *values = use ? entry->values : NULL;
    const uint64_t n = use ? entry->n_mat * entry->cols : 0;
    if (j->opt->fixed) return mg_expr_cast_fixed(j->plan, *e, t->target, values, n, e, err);
    return mg_expr_cast(j->plan, *e, t->target, values, n, e, err);
}

static mg_status add_tensor(job *j, uint32_t k, uint32_t out, mg_error *err) {
    const mg_mix_tensor *t = &j->mix[k];
    const mg_expr *e;
    MG_TRY(source_expr(j, k, &e, err));
    if (t->target != t->source) {
        MG_TRY(encode_expr(j, k, &e, err));
        const mg_expr *encoded = e;
        const char *source = NULL;
        if (j->opt->reuse) MG_TRY(mg_reuse_apply(j->opt->reuse, j->plan, t->name, &e, &source, err));
        if (e != encoded) return mg_plan_add_reused(j->plan, out, t->name, e, encoded, source, err);
    } else if (t->needs_imatrix) {
        MG_TRY(check_imatrix(j, k, NULL, err));
    }
    return mg_plan_add_tensor(j->plan, out, t->name, e, err);
}

/* ---- the plan ---- */

static mg_status keep_parts(job *j, uint32_t out, mg_error *err) {
    uint32_t *part;
    if (!j->opt->keep_split || j->in->n_files < 2) return MG_OK;
    MG_TRY(MG_ARENA_NEW(&j->arena, &part, j->n + 1u, err));
    for (uint32_t k = 0; k < j->n; k++) part[k] = j->in->tensors[j->source[k]].file;
    return mg_plan_set_parts(j->plan, out, j->in->n_files, part, err);
}

static mg_status plan_output(job *j, const char *path, uint32_t *out, mg_error *err) {
    mg_kvs kv;
    mg_mix_options mix = j->opt->mix;
    mix.have_imatrix = j->opt->imatrix && j->opt->imatrix->n;
    bool mixed = mg_dtype_is_block(mix.preset->dtype) && !mix.pure;
    MG_TRY(mg_quantize_hparams(&j->model, j->in, j->opt, mixed || j->opt->n_prune, err));
    MG_TRY(gather(j, err));
    MG_TRY(mg_mix_choose(&mix, &j->model, j->mix, j->n, err));
    MG_TRY(mg_plan_add_output(j->plan, MG_OUT_GGUF, path, out, err));
    for (uint32_t k = 0; k < j->n; k++) MG_TRY(at_tensor(add_tensor(j, k, *out, err), j, j->mix[k].name, err));
    MG_TRY(keep_parts(j, *out, err));
    mg_kvs_init(&kv);
    mg_status st = mg_quantize_keys(&kv, j->in, j->opt, j->model.arch, j->block_count, err);
    if (st == MG_OK) st = mg_plan_set_kv(j->plan, *out, &kv, err);
    mg_kvs_release(&kv);
    return st;
}

mg_status mg_quantize_plan(mg_plan *p, mg_checkpoint *in, const char *path, const mg_quantize_options *opt,
                           mg_quantize_report *report, uint32_t *out, mg_error *err) {
    mg_quantize_report unused;
    if (!in->kv) return mg_fail(err, MG_ERR_USAGE, "'%s' is no GGUF", in->path);
    if (!report) report = &unused;
    *report = (mg_quantize_report){0};
    job j = {.plan = p, .in = in, .opt = opt, .report = report, .block_count = UINT32_MAX};
    mg_arena_init(&j.arena, 0);
    mg_status st = plan_output(&j, path, out, err);
    if (st != MG_OK) mg_error_at(err, in->path, NULL);
    mg_arena_release(&j.arena);
    return st;
}

/* ---- what may be chosen ---- */

static bool is_open(const job *j, const mg_mix_tensor *t) {
    const mg_mix_options *o = &j->opt->mix;
    if (t->kept || t->target == t->source || !mg_dtype_is_block(t->target)) return false;
    if (t->category == MG_MIX_TOKEN_EMBD && o->embd_type != MG_DTYPE_COUNT) return false;
    if (t->category == MG_MIX_OUTPUT && (o->output_type != MG_DTYPE_COUNT || o->embd_type != MG_DTYPE_COUNT))
        return false; /* a tied embedding follows either option */
    return mg_type_rules_match(o->rules, t->name) == MG_DTYPE_COUNT;
}

static mg_status list_items(job *j, mg_arena *a, mg_quantize_item **items, mg_error *err) {
    mg_mix_options mix = j->opt->mix;
    mix.have_imatrix = j->opt->imatrix && j->opt->imatrix->n;
    MG_TRY(mg_quantize_hparams(&j->model, j->in, j->opt, true, err));
    MG_TRY(gather(j, err));
    MG_TRY(mg_mix_choose(&mix, &j->model, j->mix, j->n, err));
    MG_TRY(MG_ARENA_NEW(a, items, j->n + 1u, err));
    for (uint32_t k = 0; k < j->n; k++) {
        const mg_mix_tensor *t = &j->mix[k];
        mg_quantize_item *item = &(*items)[k];
        const mg_imatrix_entry *e = NULL;
        *item = (mg_quantize_item){.name = t->name, .tensor = j->source[k], .target = t->target, .open = is_open(j, t)};
        if (t->target != t->source) MG_TRY(at_tensor(find_weights(j, k, &e, err), j, t->name, err));
        if (!e) continue;
        item->weights = e->values;
        item->n_weights = e->n_mat * e->cols;
    }
    return MG_OK;
}

mg_status mg_quantize_items(mg_checkpoint *in, const mg_quantize_options *opt, mg_arena *a, mg_quantize_item **items,
                            uint32_t *n, mg_error *err) {
    mg_quantize_report unused = {0};
    if (!in->kv) return mg_fail(err, MG_ERR_USAGE, "'%s' is no GGUF", in->path);
    if (opt->n_prune) return mg_fail(err, MG_ERR_USAGE, "types cannot be chosen for a model that is pruned at once");
    mg_quantize_options quiet = *opt;
    quiet.note = NULL; /* the plan will say it */
    job j = {.plan = NULL, .in = in, .opt = &quiet, .report = &unused, .block_count = UINT32_MAX};
    mg_arena_init(&j.arena, 0);
    mg_status st = list_items(&j, a, items, err);
    *n = j.n;
    mg_arena_release(&j.arena);
    return st;
}
