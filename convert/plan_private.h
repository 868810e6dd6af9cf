/* plan_private.h - the inside of a plan, shared by the files of convert/ that build, lay out, execute and print it. */
#ifndef MG_CONVERT_PLAN_PRIVATE_H
#define MG_CONVERT_PLAN_PRIVATE_H

#include "convert/expr.h"

/* Part of every plan id: change it when the meaning of a plan, the unit rules or the journal change. */
#define MG_PLAN_VERSION 1

/* Source bytes (or f32 bytes, when an encoder works) per unit. Constant: the journal refers to unit numbers. */
#define MG_UNIT_BYTES ((uint64_t)4 << 20)

typedef struct mg_plan_tensor {
    const char *name;
    const mg_expr *e;
    const mg_expr *recipe; /* what the manifest says of it: e, or what e was proved to equal */
    const char *source;    /* digest of what that was encoded from, where it is known; else NULL */
    uint32_t part;         /* wanted file of a set (mg_plan_set_parts) */
    uint32_t file;         /* in the output's files */
    uint64_t offset;       /* absolute, in that file */
} mg_plan_tensor;

/* A file of an output. Tensors are written by units; everything else (headers, config, side files) is `head`, written
 * at offset 0 before the commit. */
typedef struct mg_plan_file {
    const char *name; /* plain name in the output's directory */
    uint64_t size;
    const uint8_t *head;
    uint64_t head_size;
    bool weights; /* holds tensors: hashed for the result */
} mg_plan_file;

typedef struct mg_plan_side {
    const char *name;
    const uint8_t *data;
    uint64_t size;
} mg_plan_side;

typedef struct mg_plan_output {
    mg_out_kind kind;
    const char *path; /* as given */
    const char *dir;  /* of the files */
    const char *base; /* last component of path */
    mg_plan_tensor *tensors;
    uint32_t n_tensors, cap_tensors;
    mg_strmap names;
    mg_kvs kv;
    bool has_kv;
    mg_json *config;
    mg_plan_side *sides;
    uint32_t n_sides, cap_sides;
    const char *stem, *config_name; /* of a directory: "model", "config.json" */
    uint64_t shard_size;
    uint64_t split_size; /* GGUF: limits of a part, 0: none */
    uint32_t split_tensors;
    bool like_gguf_split;
    uint32_t n_parts;    /* GGUF: parts given tensor by tensor, 0: not */
    mg_plan_file *files; /* after layout; weights first, then side files, index and config last */
    uint32_t n_files;
} mg_plan_output;

struct mg_plan {
    mg_arena arena;
    mg_checkpoint **inputs;
    uint32_t n_inputs, cap_inputs;
    mg_expr **nodes;
    uint32_t n_nodes, cap_nodes;
    mg_strmap interned;       /* structural key -> node index */
    mg_plan_output **outputs; /* in the arena: their addresses stay */
    uint32_t n_outputs, cap_outputs;
    bool laid_out;
    void *result_files;  /* owned: mg_exec_result.files */
    uint64_t unit_bytes; /* MG_UNIT_BYTES; tests use smaller ones */
    bool hash_sources;   /* the manifest has source_xxh3 (mg_exec_options) */
    char *made;          /* owned: JSON of mg_plan_set_record, NULL: nothing is recorded */
};

/* Sizes, depth and grain of an expression from what the caller has filled in. */
mg_status mg_expr_finish(mg_expr *e, mg_error *err) MG_MUST_CHECK;
/* Copy *proto into the plan after computing its sizes, or return the equal node that exists. Children, factors, weights
 * and data of proto must be the plan's (children: the array is copied). */
mg_status mg_expr_intern(mg_plan *p, mg_expr *proto, const mg_expr **out, mg_error *err) MG_MUST_CHECK;
/* Grow a malloc'ed array so that index n fits. */
mg_status mg_plan_grow(void *array_ptr, uint32_t *cap, uint32_t n, size_t item, mg_error *err) MG_MUST_CHECK;
mg_status mg_plan_output_get(mg_plan *p, uint32_t out, mg_plan_output **o, mg_error *err) MG_MUST_CHECK;
/* The expression behind tensor t of a plan checkpoint; NULL when c is no plan checkpoint. */
const mg_expr *mg_plan_checkpoint_expr(const mg_checkpoint *c, uint32_t t);

/* mg_plan_add_tensor of a copy e that is proved to equal `encoded`, whose source has the digest `source`: the manifest
 * says how it is made, not where it was copied from. */
mg_status mg_plan_add_reused(mg_plan *p, uint32_t out, const char *name, const mg_expr *e, const mg_expr *encoded,
                             const char *source, mg_error *err) MG_MUST_CHECK;

/* ---- units (plan_unit.c) ---- */
/* Outputs whose expressions are `core` itself, or one cast or part of it: core is evaluated once, each member encodes.
 */
typedef struct mg_plan_member {
    uint32_t output, tensor;
    const mg_expr *e;
} mg_plan_member;

typedef struct mg_plan_group {
    const mg_expr *core;
    uint32_t first_member, n_members; /* in mg_plan_units.members */
    uint64_t unit_rows;
    uint64_t first_unit, n_units;
} mg_plan_group;

typedef struct mg_plan_units {
    mg_plan_group *groups;
    uint32_t n_groups;
    mg_plan_member *members;
    uint32_t n_members;
    uint64_t n_units;
    uint64_t tile_bytes; /* the most one unit holds: core rows plus the encoded rows of its largest member */
} mg_plan_units;

mg_status mg_plan_units_init(mg_plan_units *u, const mg_plan *p, mg_error *err) MG_MUST_CHECK;
void mg_plan_units_release(mg_plan_units *u);
/* Group of a unit and its rows. */
const mg_plan_group *mg_plan_unit_at(const mg_plan_units *u, uint64_t unit, uint64_t *row, uint64_t *n_rows);

/* ---- manifest (manifest.c) ---- */
typedef struct mg_tensor_hash {
    char xxh3[33];
    char source[33]; /* of what it was encoded from */
} mg_tensor_hash;
/* Text of the manifest of one output, malloc'ed. hashes[n_tensors] and file_sha256[n_files][65] may be NULL while sizes
 * are planned: placeholders of the same length stand in their place. */
mg_status mg_manifest_text(mg_plan *p, uint32_t out, const mg_tensor_hash *hashes, const char (*file_sha256)[65],
                           char **text, mg_error *err) MG_MUST_CHECK;
/* XXH3-128 of a file's first and last 64 KiB and its size: cheap, and independent of times and places. */
mg_status mg_manifest_edges(const char *dir, const char *name, uint64_t *file_size, char hex[33],
                            mg_error *err) MG_MUST_CHECK;
/* Size and XXH3-128 of a small file. */
mg_status mg_manifest_side(const char *dir, const char *name, uint64_t *size, char hex[33],
                           mg_error *err) MG_MUST_CHECK;
/* Its plain file name: "NAME.manifest.json", NAME = the output file, or "model" in a directory. Arena string. */
const char *mg_manifest_name(mg_plan *p, uint32_t out);

#endif
