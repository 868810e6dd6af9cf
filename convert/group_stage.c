/* group_stage.c - see group_stage.h: layers one after the other, finished ones from their files. */
#include "convert/group_stage.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/stage_layer.h"
#include "formats/arch/arch.h"
#include "formats/base/checked.h"
#include "formats/base/outclean.h"
#include "quant/gptq.h"

#define STAGE_VERSION  5u /* part of the id: raise when a formula changes */
#define DEFAULT_MEMORY (256ull << 20)

/* One pass over the model: AWQ or GPTQ. */
typedef struct pass {
    const char *name;
    bool gptq;
    mg_stage_set set;
    mg_variant *variant;
    mg_xxh128 id;
} pass;

struct mg_group_stage {
    mg_group_stage_options opt;
    mg_model *model;
    uint32_t layers;
    uint64_t matrices, streams; /* bytes of opt.memory for Gram matrices (factors aside), and for activations */
    pass awq, gptq;
    double fold_error; /* rms of what folding changes in the logits, over their rms */
};

/* ---- what the layers share ---- */

bool mg_stage_rounds(mg_role role) {
    return mg_role_is_linear(role) && mg_input_of(role) != MG_IN_COUNT;
}

bool mg_stage_few(const mg_stage_work *w, uint32_t expert) {
    return w->in.tokens[expert] < MG_STAGE_FEW_TOKENS;
}

const mg_gram *mg_stage_gram(const mg_stage_work *w, mg_role role, uint32_t expert) {
    mg_stage_input *x = mg_stage_input_of(&w->in, role, expert);
    if (!x) return NULL;
    const bool inside = x->point == MG_TAP_EXPERT_IN || x->point == MG_TAP_EXPERT_DOWN_IN;
    if (!inside || !mg_stage_few(w, expert)) return x->gram.g ? &x->gram : NULL;
    if (x->point == MG_TAP_EXPERT_DOWN_IN) return NULL;
    x = mg_stage_input_of(&w->in, MG_R_ROUTER, 0);
    return x && x->gram.g ? &x->gram : NULL;
}

static const unsigned together = 1u << MG_TAP_FFN_IN | 1u << MG_TAP_EXPERT_IN; /* one norm makes them all */

bool mg_stage_want(mg_stage_work *w, unsigned mask, bool *done) {
    uint64_t bytes = 0;
    bool any = false, first = true;
    for (int round = 0; round < 2; round++)
        for (uint32_t i = 0; i < w->in.n; i++) {
            mg_stage_input *x = &w->in.items[i];
            const bool must = round == 0 && (mask >> x->point & 1) && (together >> x->point & 1);
            if (done[i] || !(mask >> x->point & 1) || (round == 0 && !must)) continue;
            const uint64_t size = mg_stage_input_bytes(x);
            if (!must && !first && bytes + size > w->memory) continue;
            bytes += size;
            first = false;
            x->wanted = done[i] = any = true;
        }
    return any;
}

/* ---- memory ---- */

/* Bytes that layer l cannot do without: the matrices that one norm makes at once, or the largest other; *factor: what
 * factoring the largest takes on top. */
static mg_status layer_needs(const mg_model *m, uint32_t l, uint64_t *matrices, uint64_t *factor, mg_error *err) {
    mg_stage_inputs in;
    uint64_t joint = 0;
    mg_status st = mg_stage_inputs_init(&in, m, l, NULL, err);
    for (uint32_t i = 0; st == MG_OK && i < in.n; i++) {
        const mg_stage_input *x = &in.items[i];
        const uint64_t bytes = x->gram.d > 1u << 28 ? UINT64_MAX / 4 : mg_stage_input_bytes(x);
        if ((together >> x->point & 1) && !mg_add_u64(joint, bytes, &joint)) joint = UINT64_MAX;
        if (bytes > *matrices) *matrices = bytes;
        if (mg_gptq_bytes(x->gram.d) > *factor) *factor = mg_gptq_bytes(x->gram.d);
    }
    if (joint > *matrices) *matrices = joint;
    mg_stage_inputs_release(&in);
    return st;
}

/* Half for matrices and half for activations; matrices take more where a layer needs more. */
static mg_status share_memory(mg_group_stage *s, mg_error *err) {
    uint64_t matrices = 0, factor = 0, need;
    for (uint32_t l = 0; l < s->layers; l++) MG_TRY(layer_needs(s->model, l, &matrices, &factor, err));
    if (!s->opt.gptq) factor = 0;
    const bool blocks = s->opt.awq && !s->opt.gptq; /* AWQ runs them for its last candidates */
    const uint64_t exact = blocks ? mg_stage_exact_bytes((uint64_t)mg_hp_i(s->model, MG_K_HIDDEN)) : 0;
    if (!mg_add_u64(matrices, factor, &need)) need = UINT64_MAX;
    if (exact && !mg_add_u64(need, exact, &need)) need = UINT64_MAX;
    const uint64_t all = s->opt.memory ? s->opt.memory : DEFAULT_MEMORY;
    if (s->opt.memory && need >= all)
        return mg_fail(err, MG_ERR_LIMIT,
                       "the statistics of a layer need %" PRIu64 " KiB, expected less than --memory (%" PRIu64 " KiB)",
                       (need >> 10) + 1, all >> 10);
    s->matrices = (all / 2 > need ? all / 2 : need) - factor - exact;
    s->streams = all / 2 > need || !s->opt.memory ? all / 2 : all - need;
    return MG_OK;
}

/* ---- identity ---- */

static void text_into(mg_xxh128_state *h, const mg_group_stage_options *o) {
    mg_xxh128_update(h, &o->damping, sizeof o->damping);
    mg_xxh128_update(h, o->text->len, o->text->n_seqs * sizeof *o->text->len);
    mg_xxh128_update(h, o->text->ids, o->text->n_tokens * sizeof *o->text->ids);
}

mg_status mg_group_stage_text_id(const mg_group_stage *s, mg_xxh128 *id, mg_error *err) {
    const uint64_t head[] = {STAGE_VERSION, s->opt.text->n_seqs};
    mg_xxh128_state *h;
    MG_TRY(mg_xxh128_new(&h, err));
    mg_xxh128_update(h, head, sizeof head);
    text_into(h, &s->opt);
    *id = mg_xxh128_final(h);
    mg_xxh128_free(h);
    return MG_OK;
}

static mg_status stage_id(const mg_group_stage *s, bool gptq, mg_xxh128 *id, mg_error *err) {
    const mg_group_stage_options *o = &s->opt;
    const mg_stage_text *t = o->text;
    uint8_t of[16];
    mg_xxh128_state *h;
    MG_TRY(mg_checkpoint_identity(s->model->ckpt, of, err));
    MG_TRY(mg_xxh128_new(&h, err));
    const uint64_t head[] = {STAGE_VERSION,       gptq,           o->awq,
                             o->fold_only,        o->scheme.bits, o->scheme.group_size,
                             o->scheme.symmetric, o->scheme.rule, (uint64_t)o->scheme.scale_dtype,
                             o->scheme.zero_min,  t->n_seqs,      t->n_tokens};
    mg_xxh128_update(h, head, sizeof head);
    mg_xxh128_update(h, of, sizeof of);
    text_into(h, o);
    if (o->types) mg_xxh128_update(h, o->types, s->model->ckpt->n_tensors * sizeof *o->types);
    *id = mg_xxh128_final(h);
    mg_xxh128_free(h);
    return MG_OK;
}

/* ---- layers ---- */

static mg_status layer_path(const mg_group_stage *s, const pass *p, uint32_t layer, char *buf, size_t size,
                            mg_error *err) {
    const int n = snprintf(buf, size, "%s/%s-%05u.safetensors", s->opt.dir, p->name, layer);
    return n > 0 && (size_t)n < size ? MG_OK : mg_fail(err, MG_ERR_LIMIT, "path of %d bytes", n);
}

static void describe(mg_stage_work *w) {
    float most = 0.0f;
    for (uint32_t i = 0; i < w->in.n; i++) most = w->in.items[i].most > most ? w->in.items[i].most : most;
    mg_json *tokens = mg_json_new_array();
    for (uint32_t e = 0; e < w->in.experts; e++) {
        mg_json_push(tokens, mg_json_new_u64(w->in.tokens[e]));
        w->few += mg_stage_few(w, e);
    }
    mg_json_set_i64(w->note, "layer", w->layer);
    if (w->in.experts) mg_json_set(w->note, "tokens", tokens);
    if (!w->in.experts) mg_json_free(tokens);
    mg_json_set_i64(w->note, "few", w->few);
    mg_json_set_f64(w->note, "largest_input", (double)most);
}

static mg_status finish_layer(const mg_group_stage *s, pass *p, mg_stage_work *w, mg_error *err) {
    char path[4096], *text = NULL;
    bool found = false;
    describe(w);
    MG_TRY(layer_path(s, p, w->layer, path, sizeof path, err));
    MG_TRY(mg_json_print(&text, w->note, 0, err));
    mg_status st = mg_stage_layer_write(&w->out, path, p->id, text, err);
    free(text);
    if (st == MG_OK) st = mg_stage_set_open(&p->set, w->layer, path, p->id, &found, err);
    if (st == MG_OK && !found) st = mg_fail(err, MG_ERR_INTEGRITY, "'%s' was changed while in use", path);
    return st;
}

static mg_status work_layer(const mg_group_stage *s, pass *p, mg_model *from, mg_stage_stream *stream, uint32_t layer,
                            mg_error *err) {
    mg_stage_work w = {.opt = &s->opt, .model = from, .stream = stream, .layer = layer, .last = layer + 1 == s->layers};
    w.memory = s->matrices;
    w.out.layer = layer;
    w.note = mg_json_new_object();
    if (!p->gptq) mg_json_set(w.note, "awq", mg_json_new_array());
    if (!p->gptq) mg_json_set(w.note, "limits", mg_json_new_array());
    if (p->gptq) mg_json_set(w.note, "gptq", mg_json_new_array());
    mg_status st = mg_stage_inputs_init(&w.in, from, layer, s->opt.pool, err);
    if (st == MG_OK) st = p->gptq ? mg_stage_gptq(&w, p->variant, err) : mg_stage_awq(&w, err);
    if (st == MG_OK) st = finish_layer(s, p, &w, err);
    if (p->gptq) mg_variant_clear(p->variant);
    mg_stage_layer_release(&w.out);
    mg_stage_inputs_release(&w.in);
    mg_json_free(w.note);
    return st;
}

/* A finished layer into the variant. */
static mg_status apply_layer(const mg_group_stage *s, pass *p, uint32_t layer, mg_error *err) {
    if (p->gptq && s->opt.types) return mg_stage_store(&p->set, NULL, layer, s->opt.types, p->variant, err);
    return mg_stage_set_apply(&p->set, layer, &s->opt.scheme.group_size, p->variant, err);
}

/* A layer whose file is there: only the stream has to pass it. */
static mg_status pass_layer(const mg_group_stage *s, pass *p, mg_model *from, mg_stage_stream *stream, uint32_t layer,
                            mg_error *err) {
    mg_model *m = from;
    if (p->gptq) {
        MG_TRY(apply_layer(s, p, layer, err));
        m = mg_variant_model(p->variant);
    }
    mg_status st = mg_stage_stream_run(stream, m, layer, MG_PART_ALL, true, NULL, NULL, err);
    if (p->gptq) mg_variant_clear(p->variant);
    return st;
}

static mg_status all_layers(mg_group_stage *s, pass *p, mg_model *from, mg_error *err) {
    mg_stage_stream stream = {0};
    uint32_t last = 0; /* beyond it everything is done */
    for (uint32_t l = 0; l < s->layers; l++) {
        char path[4096];
        bool found;
        MG_TRY(layer_path(s, p, l, path, sizeof path, err));
        MG_TRY(mg_stage_set_open(&p->set, l, path, p->id, &found, err));
        if (!found) last = l + 1;
    }
    mg_status st = MG_OK;
    if (last) st = mg_stage_stream_init(&stream, s->opt.eval, from, s->opt.text, s->streams, err);
    for (uint32_t l = 0; st == MG_OK && l < s->layers; l++) {
        char text[64];
        snprintf(text, sizeof text, "%s layer %u", p->name, l);
        const bool done = p->set.layers[l] != NULL;
        if (l < last) st = (done ? pass_layer : work_layer)(s, p, from, &stream, l, err);
        if (done)
            mg_progress_skip(s->opt.progress, s->opt.text->n_tokens);
        else
            mg_progress_add(s->opt.progress, s->opt.text->n_tokens, text);
    }
    mg_stage_stream_release(&stream);
    for (uint32_t l = 0; st == MG_OK && l < s->layers; l++) st = apply_layer(s, p, l, err);
    mg_variant_set_id(p->variant, p->id.bytes);
    return st;
}

static mg_status run_pass(mg_group_stage *s, pass *p, mg_model *from, mg_error *err) {
    MG_TRY(stage_id(s, p->gptq, &p->id, err));
    MG_TRY(mg_stage_set_init(&p->set, s->layers, err));
    MG_TRY(mg_variant_new(&p->variant, from, err));
    return all_layers(s, p, from, err);
}

/* ---- folding, checked ---- */

enum { CHECK_TOKENS = 64 }; /* each sees every weight, experts included */
#define CHECK_LIMIT 1e-3    /* folding rounds each weight once more, 6e-8; logits move by some 1e-6 of their size */

static mg_status logits_of(const mg_group_stage *s, mg_model *m, uint32_t n, float **logits, uint64_t vocab,
                           mg_error *err) {
    const mg_evaluator *ev = s->opt.eval;
    const mg_batch batch = {.n_seqs = 1, .len = &n, .n_tokens = n};
    float *x = malloc((size_t)(n * (uint64_t)mg_hp_i(m, MG_K_HIDDEN)) * sizeof *x);
    *logits = malloc((size_t)(n * vocab) * sizeof **logits);
    mg_status st = x && *logits ? MG_OK : mg_fail_nomem(err, n * vocab * sizeof **logits);
    if (st == MG_OK) st = ev->embed(ev->self, m, s->opt.text->ids, n, x, err);
    for (uint32_t l = 0; st == MG_OK && l < s->layers; l++)
        st = ev->run_layer(ev->self, m, l, MG_PART_ALL, &batch, x, NULL, NULL, err);
    if (st == MG_OK) st = ev->logits(ev->self, m, x, n, *logits, err);
    free(x);
    return st;
}

/* Folding moves router logits by rounding errors, and where two experts are all but equal a token then takes the other
 * one: no damage, but a difference. So the check lets every token take all experts, where the family's rule can. */
static void take_all_experts(mg_model *m) {
    if (m->arch->block.router == MG_ROUTER_SPARSEMIXER) return; /* made for exactly two */
    m->hp.i[MG_K_EXPERTS_USED] = m->hp.i[MG_K_EXPERTS];
    m->hp.i[MG_K_GROUPS_USED] = m->hp.i[MG_K_GROUPS];
}

/* The model with scales folded in and nothing rounded computes what the original does. */
static mg_status check_folding(mg_group_stage *s, mg_error *err) {
    const mg_bound *head = mg_model_find(s->model, MG_R_OUTPUT, 0, 0);
    if (!head) head = mg_model_find(s->model, MG_R_TOKEN_EMBD, 0, 0);
    const uint64_t vocab = head ? mg_bound_rows(head) : 0;
    const uint32_t n = s->opt.text->len[0] < CHECK_TOKENS ? s->opt.text->len[0] : CHECK_TOKENS;
    mg_variant *plain = NULL, *folded = NULL;
    float *a = NULL, *b = NULL;
    double size = 0, off = 0;
    mg_status st = mg_variant_new(&plain, s->model, err);
    if (st == MG_OK) st = mg_variant_new(&folded, s->model, err);
    for (uint32_t l = 0; st == MG_OK && l < s->layers; l++) st = mg_stage_set_apply(&s->awq.set, l, NULL, folded, err);
    if (st == MG_OK) {
        take_all_experts(mg_variant_model(plain));
        take_all_experts(mg_variant_model(folded));
        st = logits_of(s, mg_variant_model(plain), n, &a, vocab, err);
    }
    if (st == MG_OK) st = logits_of(s, mg_variant_model(folded), n, &b, vocab, err);
    for (uint64_t i = 0; st == MG_OK && i < n * vocab; i++) {
        size += (double)a[i] * (double)a[i];
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    }
    s->fold_error = size > 0 ? sqrt(off / size) : 0;
    if (st == MG_OK && !(s->fold_error <= CHECK_LIMIT))
        st = mg_fail(err, MG_ERR_INTERNAL, "folding scales changes the logits by %.1e of their size", s->fold_error);
    free(a);
    free(b);
    mg_variant_free(plain);
    mg_variant_free(folded);
    return st;
}

void mg_group_stage_tensors(const mg_model *m, bool *read) {
    memset(read, 0, m->ckpt->n_tensors * sizeof *read);
    for (mg_role r = 0; r < MG_ROLE_COUNT; r++) {
        if (!mg_stage_rounds(r)) continue;
        const mg_scope scope = mg_role_scope(r);
        const uint32_t n = scope == MG_SCOPE_LAYER ? 1 : mg_scope_count(scope, &m->hp);
        for (uint32_t l = 0; l < (uint32_t)mg_hp_i(m, MG_K_LAYERS); l++)
            for (uint32_t e = 0; e < n; e++) {
                const mg_bound *b = mg_model_find(m, r, l, e);
                if (b) read[b->tensor] = true;
            }
    }
}

/* ---- both passes ---- */

mg_status mg_group_stage_run(mg_group_stage **out, mg_model *m, const mg_group_stage_options *opt, mg_error *err) {
    mg_group_stage *s = calloc(1, sizeof *s);
    if (!s) return mg_fail_nomem(err, sizeof *s);
    s->opt = *opt;
    if (!(s->opt.damping > 0)) s->opt.damping = 0.01;
    s->model = m;
    s->layers = (uint32_t)mg_hp_i(m, MG_K_LAYERS);
    s->awq.name = "awq";
    s->gptq.name = opt->types ? "feedback" : "gptq";
    s->gptq.gptq = true;
    mg_status st = share_memory(s, err);
    if (st != MG_OK) rmdir(opt->dir); /* nothing was done: unless an earlier run left something, it goes */
    if (st == MG_OK && opt->awq) st = run_pass(s, &s->awq, m, err);
    if (st == MG_OK && opt->awq) st = check_folding(s, err);
    if (st == MG_OK && opt->gptq) st = run_pass(s, &s->gptq, mg_group_stage_folded(s), err);
    if (st != MG_OK) {
        mg_group_stage_free(s);
        return st;
    }
    *out = s;
    return MG_OK;
}

void mg_group_stage_free(mg_group_stage *s) {
    if (!s) return;
    mg_variant_free(s->gptq.variant);
    mg_variant_free(s->awq.variant);
    mg_stage_set_release(&s->gptq.set);
    mg_stage_set_release(&s->awq.set);
    free(s);
}

/* ---- results ---- */

mg_model *mg_group_stage_folded(mg_group_stage *s) {
    return s->awq.variant ? mg_variant_model(s->awq.variant) : s->model;
}

mg_model *mg_group_stage_rounded(mg_group_stage *s) {
    return s->gptq.variant ? mg_variant_model(s->gptq.variant) : mg_group_stage_folded(s);
}

bool mg_group_stage_codes(const mg_group_stage *s, mg_role role, uint32_t layer, uint32_t expert, mg_checkpoint **c,
                          uint32_t *codes, uint32_t *scales, uint32_t *offsets) {
    if (!s->opt.gptq) return false;
    *codes = mg_stage_set_find(&s->gptq.set, role, layer, expert, MG_STAGE_CODES);
    *scales = mg_stage_set_find(&s->gptq.set, role, layer, expert, MG_STAGE_SCALES);
    *offsets = mg_stage_set_find(&s->gptq.set, role, layer, expert,
                                 s->opt.scheme.rule == MG_GROUP_EDGE ? MG_STAGE_BIASES : MG_STAGE_ZEROS);
    if (*codes == MG_STRMAP_NONE || *scales == MG_STRMAP_NONE || *offsets == MG_STRMAP_NONE) return false;
    *c = s->gptq.set.layers[layer];
    return true;
}

static mg_status report_pass(const pass *p, uint32_t layers, mg_json *to, mg_error *err) {
    mg_json *list = mg_json_new_array();
    mg_json_set(to, p->name, list);
    for (uint32_t l = 0; p->variant && l < layers; l++) {
        const char *text = mg_stage_set_note(&p->set, l);
        mg_json *note = NULL;
        if (!text) continue;
        MG_TRY(mg_json_parse(&note, (mg_span){(const uint8_t *)text, strlen(text)}, "note", err));
        mg_json_push(list, note);
    }
    return MG_OK;
}

mg_status mg_group_stage_report(const mg_group_stage *s, mg_json **out, mg_error *err) {
    *out = mg_json_new_object();
    mg_status st = s->opt.awq ? report_pass(&s->awq, s->layers, *out, err) : MG_OK;
    if (s->opt.awq) {
        mg_json *fold = mg_json_new_object();
        mg_json_set_f64(fold, "logits_rms_difference", s->fold_error);
        mg_json_set(*out, "folding", fold);
    }
    if (st == MG_OK && s->opt.gptq) st = report_pass(&s->gptq, s->layers, *out, err);
    if (st == MG_OK) return MG_OK;
    mg_json_free(*out);
    *out = NULL;
    return st;
}

static void forget(void *ctx, const char *dir, const char *name, uint64_t bytes, const char *why) {
    (void)ctx, (void)dir, (void)name, (void)bytes, (void)why;
}

void mg_group_stage_clean(const mg_group_stage *s) {
    const pass *passes[] = {&s->awq, &s->gptq};
    char path[4096];
    mg_error quiet = {0};
    for (int i = 0; i < 2; i++)
        for (uint32_t l = 0; l < s->layers; l++)
            if (layer_path(s, passes[i], l, path, sizeof path, &quiet) == MG_OK) unlink(path);
    /* A run killed between the renaming of a layer's file and the end of its journal leaves the journal. */
    const mg_clean_options all = {.orphans = true};
    if (mg_outset_clean(s->opt.dir, &all, forget, NULL, &quiet) == MG_OK) rmdir(s->opt.dir);
}
