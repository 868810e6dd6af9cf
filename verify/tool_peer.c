/* tool_peer.c - see tool_peer.h. */
#include "verify/tool_peer.h"

#include <stdio.h>
#include <stdlib.h>

#include "formats/base/outfile.h"
#include "verify/peer.h"

typedef struct run {
    mg_pool *pool;
    mg_tool_inputs in;
    mg_peers peers;
    mg_json *json;
} run;

static mg_status compare(run *r, const mg_common *c, mg_error *err) {
    const mg_walk_options opt = {
        .pool = r->pool, .windows = &r->in.windows, .experts_per_token = c->experts_per_token, .memory = c->memory};
    mg_progress *progress = NULL;
    uint32_t all[MG_PEERS_MAX];
    for (uint32_t i = 0; i < r->in.n; i++) {
        const mg_tool_input *o = &r->in.items[i];
        all[i] = i;
        r->peers.peers[r->peers.n++] =
            (mg_peer){.source = mg_tool_input_source(o), .bytes = o->bytes, .n_weights = o->n_weights, .rows = o->rows};
    }
    MG_TRY(mg_tool_inputs_common(&r->in, all, r->in.n, &r->peers.ids, err));
    MG_TRY(mg_progress_new(&progress, c->progress, "verify", r->in.windows.scored, err));
    mg_progress_unit(progress, "tokens");
    mg_status st = mg_peers_run(&r->peers, &opt, progress, err);
    mg_progress_free(progress);
    return st;
}

static void print_text(const run *r) {
    const mg_peers *p = &r->peers;
    printf("%u models, %llu scored positions of %s\n", p->n, (unsigned long long)r->in.windows.scored, r->in.text_name);
    mg_peers_vocabulary_note(stdout, r->json, "vocabulary: ", "\n");
    for (uint32_t i = 0; i < p->n; i++)
        printf("%c %u  perplexity %.6g +/- %.3g  %12llu bytes  %s\n", p->peers[i].pareto ? '*' : ' ', i + 1,
               p->peers[i].ppl, p->peers[i].ppl_stderr, (unsigned long long)p->peers[i].bytes, p->peers[i].source.path);
    for (uint32_t i = 0; i < p->n_pairs; i++) {
        const mg_peer_pair *k = &p->pairs[i];
        const mg_drift_summary *s = &k->of_ab, *t = &k->of_ba;
        printf("%u and %u\n", k->a + 1, k->b + 1);
        printf("  KL divergence   %u from %u: %smean %.6g +/- %.2g, max %.6g; %u from %u: %smean %.6g +/- %.2g, max "
               "%.6g\n",
               k->b + 1, k->a + 1, s->kl_kind == MG_KL_LOWER ? "at least " : "", s->kl.mean, s->kl.stderr_,
               s->kl.kl.max, k->a + 1, k->b + 1, t->kl_kind == MG_KL_LOWER ? "at least " : "", t->kl.mean,
               t->kl.stderr_, t->kl.kl.max);
        printf("  perplexity      %u to %u: ln ratio %.6g +/- %.2g\n", k->b + 1, k->a + 1, s->kl.ln_ratio,
               s->kl.ln_ratio_stderr);
        printf("  same top token  %.3f +/- %.3f %%\n", 100 * s->kl.same_top, 100 * s->kl.same_top_stderr);
    }
}

static mg_status write_file(const run *r, const char *path, bool force,
                            mg_status (*make)(char **, size_t *, const mg_json *, mg_error *), mg_error *err) {
    char *text = NULL;
    size_t n = 0;
    if (!path) return MG_OK;
    mg_status st = make(&text, &n, r->json, err);
    if (st == MG_OK) st = mg_outfile_write_all(path, text, n, force, err);
    free(text);
    return st;
}

static mg_status work(run *r, const mg_tool_peer *o, mg_error *err) {
    if (o->paths->n > MG_PEERS_MAX) return mg_fail(err, MG_ERR_USAGE, "--peer: at most %u models", MG_PEERS_MAX);
    MG_TRY(mg_pool_new(&r->pool, o->common->n_threads, err));
    MG_TRY(mg_tool_inputs_open(&r->in, o->paths, err));
    MG_TRY(mg_tool_inputs_windows(&r->in, o->common, err));
    MG_TRY(mg_tool_windows_check(&r->in.windows, o->tool, o->common, err));
    MG_TRY(mg_tool_inputs_tokenizers(&r->in, err));
    MG_TRY(compare(r, o->common, err));
    const mg_peer_text text = {r->in.text_name, r->in.text_sha256, r->in.windows.scored};
    MG_TRY(mg_peers_json(&r->json, &r->peers, &text, err));
    MG_TRY(write_file(r, o->html, o->common->force, mg_peers_html, err));
    MG_TRY(write_file(r, o->markdown, o->common->force, mg_peers_markdown, err));
    if (o->common->json) return mg_tool_print_json(r->json, err);
    print_text(r);
    return MG_OK;
}

mg_status mg_tool_peer_run(const mg_tool_peer *o, mg_error *err) {
    run r = {0};
    mg_status st = work(&r, o, err);
    mg_json_free(r.json);
    mg_peers_release(&r.peers);
    mg_tool_inputs_release(&r.in);
    mg_pool_free(r.pool);
    return st;
}
