/* expr.h - expression nodes and their evaluation. Private to convert/; the constructors are in plan.h.
 *
 * A node is immutable, has a dtype and a shape, and yields any range of its rows. Nodes are interned: two structurally
 * equal expressions of one plan are the same pointer, which is how outputs that share work are found. */
#ifndef MG_CONVERT_EXPR_H
#define MG_CONVERT_EXPR_H

#include "convert/blend.h"
#include "convert/plan.h"

#include <pthread.h>

typedef enum mg_expr_op {
    MG_EX_SOURCE,   /* tensor of an input */
    MG_EX_CONST,    /* values in memory */
    MG_EX_SLOT,     /* values in memory, supplied later */
    MG_EX_CAST,     /* decode child[0] to f32, encode */
    MG_EX_LINEAR,   /* sum of factor * child */
    MG_EX_STACK,    /* children below each other, a new slowest dimension */
    MG_EX_CONCAT,   /* children below each other */
    MG_EX_BESIDE,   /* rows of the children one after the other in one row */
    MG_EX_VIEW,     /* one mg_view of child[0] */
    MG_EX_BLEND,    /* children made into one by a merge method */
    MG_EX_NOISE,    /* child[0] + factor[0] * normal numbers */
    MG_EX_LOWRANK,  /* child[0] + factor[0] * child[1] child[2] */
    MG_EX_COLUMNS,  /* child[0], each column times the number that child[1] has for it */
    MG_EX_NORMS,    /* child[0], each row scaled to the norm that child[1] has for it */
    MG_EX_GROUPS,   /* child[0] rounded in groups, or codes, scales and zeros of others, as slabs of bytes */
    MG_EX_GLOBAL,   /* one number from all of the children: the global scale of NVFP4 */
    MG_EX_PART,     /* one stored part of child[0], a GROUPS: its rows are slabs */
    MG_EX_FP4,      /* codes or scales of child[0], which is of 4-bit float blocks; its rows are the child's */
    MG_EX_FEEDBACK, /* child[0] in a block type, the bytes chosen by a stage and read from its checkpoint */
    MG_EX_OP_COUNT,
} mg_expr_op;

/* What a blend needs of its whole children: gathered by the first reader, shared by imports of the node. */
typedef struct mg_blend_state {
    pthread_mutex_t lock;
    bool ready; /* under lock */
    mg_blend_stats stats;
} mg_blend_state;

/* The value of a GLOBAL, found in the same way. */
typedef struct mg_global_state {
    pthread_mutex_t lock;
    bool ready;
    float value;
} mg_global_state;

struct mg_expr {
    mg_expr_op op;
    uint32_t index; /* position in the plan's node list; children have smaller ones */
    mg_tensor t;    /* dtype, rank, shape, sizes; name is the stored name of a SOURCE, else NULL */
    uint64_t rows, row_bytes;
    uint64_t grain; /* cutting rows at multiples of this avoids reading anything twice (rows of a rotary head) */
    uint32_t depth; /* height of the tree below, bounded by MG_EXPR_MAX_DEPTH */
    uint32_t n_children;
    const mg_expr **children;
    mg_checkpoint *ckpt; /* SOURCE, FEEDBACK */
    uint32_t input, tensor;
    mg_view view;              /* VIEW */
    double *factors;           /* LINEAR [n_children]; NOISE, LOWRANK [1] */
    uint64_t seed;             /* NOISE */
    const mg_blend *blend;     /* BLEND */
    mg_blend_state *state;     /* BLEND */
    float *weights;            /* CAST: importance [n_slices * cols] or NULL */
    const mg_group_form *form; /* GROUPS */
    mg_global_state *global;   /* GLOBAL */
    uint64_t arg;              /* PART, FP4: which; GLOBAL: type of the model */
    uint64_t n_weights;
    bool fixed;          /* CAST: by quant/fixed.h */
    const void *data;    /* CONST, SLOT: t.n_bytes bytes; a SLOT's is NULL until supplied (atomic) */
    const mg_expr *slot; /* SLOT imported from another plan: where the data is; else NULL */
    mg_xxh128 hash;      /* of weights or CONST data; FEEDBACK: of what the stage went by */
};

enum { MG_EXPR_MAX_DEPTH = 24 };
/* The longest row (in bytes, as stored and as f32) an expression may have: a row is never split, so this bounds tiles.
 */
#define MG_EXPR_MAX_ROW ((uint64_t)1 << 30)

/* Evaluation state of one worker: scratch tiles used as a stack and kept between calls, and a read counter. */
typedef struct mg_eval {
    struct {
        void *p;
        uint64_t cap;
    } slots[2 * MG_EXPR_MAX_DEPTH + 8];
    unsigned depth;
    uint64_t bytes_read; /* from inputs */
} mg_eval;

void mg_eval_init(mg_eval *ev);
void mg_eval_release(mg_eval *ev);
/* n scratch bytes until the matching pop; content undefined. */
mg_status mg_eval_push(mg_eval *ev, uint64_t n, void **out, mg_error *err) MG_MUST_CHECK;
void mg_eval_pop(mg_eval *ev);

/* Rows [row, row+n) of e in its dtype into dst (n * e->row_bytes). The range must lie inside. */
mg_status mg_expr_eval(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, void *dst, mg_error *err) MG_MUST_CHECK;
/* The same decoded to f32: n * cols values. */
mg_status mg_expr_eval_f32(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, float *dst,
                           mg_error *err) MG_MUST_CHECK;
/* All rows of e in its dtype into s, a tile at a time. Starts the evaluator's memory anew; MG_ERR_INTERRUPTED between
 * tiles. */
mg_status mg_expr_digest_rows(const mg_expr *e, mg_eval *ev, mg_xxh128_state *s, mg_error *err) MG_MUST_CHECK;
/* The work of a CAST on n rows of its child that are already in memory; row is their position (for the weights of a
 * slice and for messages). */
mg_status mg_expr_cast_rows(const mg_expr *cast, mg_eval *ev, const void *child_rows, uint64_t row, uint64_t n,
                            void *dst, mg_error *err) MG_MUST_CHECK;

/* Feed the node's own description (children by number) and, for a slot, its values into a plan id. */
mg_status mg_expr_hash(const mg_expr *e, mg_xxh128_state *s, mg_error *err) MG_MUST_CHECK;

/* Evaluation of GROUPS, GLOBAL and PART (expr_groups.c). */
mg_status mg_expr_eval_groups(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, uint8_t *dst,
                              mg_error *err) MG_MUST_CHECK;
mg_status mg_expr_eval_global(const mg_expr *e, mg_eval *ev, float *dst, mg_error *err) MG_MUST_CHECK;
mg_status mg_expr_eval_part(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, uint8_t *dst,
                            mg_error *err) MG_MUST_CHECK;
/* The same of FP4 (expr_fp4.c), and its rows out of n of the child that are in memory. */
mg_status mg_expr_eval_fp4(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, uint8_t *dst,
                           mg_error *err) MG_MUST_CHECK;
void mg_expr_fp4_rows(const mg_expr *e, const void *child_rows, uint64_t n, void *dst);
/* Rows of a PART out of n slabs of its GROUPS that are in memory. */
void mg_expr_part_rows(const mg_expr *part, const void *slabs, uint64_t n, void *dst);
/* Slabs that one unit of work takes: a function of the expression alone. */
uint64_t mg_expr_group_unit(const mg_expr *groups, uint64_t unit_bytes);
/* Scratch that evaluating slabs takes beside them. */
uint64_t mg_expr_group_scratch(const mg_expr *groups);

/* Compact recipe for the manifest: ["cast","Q8_0",["source",0,"name"]]. */
mg_json *mg_expr_json(const mg_expr *e);
/* The word of a view in a recipe; NULL for none. */
const char *mg_expr_view_name(mg_view_kind kind);
/* The stored name an expression mainly comes from (first source, depth first), or a word for computed ones. */
const char *mg_expr_origin(const mg_expr *e, mg_dtype *dtype);

#endif
