/* act_drift.h - activations of two models compared inside the network: the residual stream after every layer, and the
 * routers' decisions. The reference's activations of one batch wait in a compressed temporary file while the candidates
 * run the same batch, so memory does not grow with depth. */
#ifndef MG_VERIFY_ACT_DRIFT_H
#define MG_VERIFY_ACT_DRIFT_H

#include "formats/base/zfile.h"
#include "quant/eval.h"

typedef struct mg_layer_stat {
    uint64_t tokens;
    double cosine_sum;      /* over tokens */
    double diff_sq, ref_sq; /* relative L2 = sqrt(diff_sq / ref_sq) */
} mg_layer_stat;

/* Changed choices by how close they were: the reference's router logit of the last expert chosen minus that of the
 * first one not chosen. Upper ends of the ranges; the last has none. */
#define MG_MARGINS 6u
extern const double mg_margin_ends[MG_MARGINS - 1];
typedef struct mg_margin_stat {
    uint64_t tokens, flips; /* flips: tokens whose set of experts changed */
} mg_margin_stat;

typedef struct mg_routing_stat {
    uint64_t tokens;
    uint64_t same_set, same_order,
        same_first;                    /* tokens whose chosen experts, in any order, in order, whose best agree */
    mg_margin_stat margin[MG_MARGINS]; /* empty when every expert is chosen */
    double weight_kl_sum;              /* KL of softmax over all experts, nats */
    uint64_t *load_ref, *load_cand;    /* [experts] (token, slot) pairs */
} mg_routing_stat;

/* The reference's side: give mg_act_ref_tap to its scorer. */
typedef struct mg_act_ref {
    mg_zcapture *layers, *routers; /* of the current batch */
    bool writing;
    bool want_routers;
    const char *tmp_dir; /* NULL: the system's */
} mg_act_ref;
void mg_act_ref_init(mg_act_ref *r, const mg_model *m);
void mg_act_ref_release(mg_act_ref *r);
mg_status mg_act_ref_tap(void *ctx, const mg_tap *tap, mg_error *err);
/* After the reference ran a batch (or did not): ready for the candidates to read from the start. */
mg_status mg_act_ref_rewind(mg_act_ref *r, mg_error *err) MG_MUST_CHECK;

/* A candidate's side. */
typedef struct mg_act_drift {
    mg_act_ref *ref;
    uint32_t n_layers;                       /* 0: the models' shapes differ and nothing is compared */
    uint32_t experts, top_k_ref, top_k_cand; /* experts 0: routing is not compared */
    mg_layer_stat *layer;                    /* [n_layers] */
    mg_routing_stat *routing;                /* [n_layers]; tokens 0 where a layer has no router */
    float *buf;
    uint64_t buf_floats;
    uint64_t *loads;
} mg_act_drift;
/* top_k: experts per token in force (0 = the model's own number). */
mg_status mg_act_drift_init(mg_act_drift *d, mg_act_ref *ref, const mg_model *reference, const mg_model *candidate,
                            uint32_t top_k, mg_error *err) MG_MUST_CHECK;
void mg_act_drift_release(mg_act_drift *d);
mg_status mg_act_drift_tap(void *ctx, const mg_tap *tap, mg_error *err);

#endif
