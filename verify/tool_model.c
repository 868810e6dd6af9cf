/* tool_model.c - see tool_model.h. */
#include "verify/tool_model.h"

mg_status mg_tool_model_open(mg_tool_model *t, const char *path, mg_error *err) {
    *t = (mg_tool_model){0};
    mg_status st = mg_checkpoint_open(&t->ckpt, path, err);
    if (st == MG_OK) st = mg_model_open(&t->m, t->ckpt, err);
    if (st == MG_OK) st = mg_forward_check(t->m, err);
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        mg_tool_model_close(t);
    }
    return st;
}

void mg_tool_model_close(mg_tool_model *t) {
    mg_model_free(t->m);
    mg_checkpoint_free(t->ckpt);
    *t = (mg_tool_model){0};
}

mg_status mg_tool_pass_new(mg_tool_pass *p, const mg_common *c, mg_error *err) {
    *p = (mg_tool_pass){0};
    mg_status st = mg_pool_new(&p->pool, c->n_threads, err);
    const mg_forward_options opt = {.experts_per_token = c->experts_per_token};
    if (st == MG_OK) st = mg_forward_new(&p->f, p->pool, &opt, err);
    if (st != MG_OK) mg_tool_pass_free(p);
    return st;
}

void mg_tool_pass_free(mg_tool_pass *p) {
    mg_forward_free(p->f);
    mg_pool_free(p->pool);
    *p = (mg_tool_pass){0};
}
