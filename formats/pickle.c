/* pickle.c - the restricted pickle machine: see pickle.h for what it can build.
 *
 * A pickle is a program for a stack machine. Opcodes fall in three groups: those that push data, those that assemble
 * containers, and four that in Python reach out of the pickle: GLOBAL (import), REDUCE (call), BUILD (set state) and
 * BINPERSID (ask the loader for an object). Here a global is one of the names in `globals`, or the file is refused; a
 * call is a switch over them; state is only ever the _metadata that state_dict() hangs on its OrderedDict, and is
 * dropped; a persistent id is the description of a storage. All other opcodes that make objects are refused. */
#include "formats/pickle.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/utf8.h"

/* Memo indices count up from 0 in every writer; a gap of this size is a lie. */
enum { MEMO_GAP = 1024, MAX_GLOBAL_NAME = 256 };

typedef enum global_kind {
    G_ORDERED_DICT,
    G_REBUILD_TENSOR,
    G_REBUILD_TENSOR_V2,
    G_REBUILD_PARAMETER,
    G_SIZE,
    G_STORAGE
} global_kind;

static const struct {
    const char *module, *name;
    global_kind kind;
    mg_dtype dtype; /* G_STORAGE */
} globals[] = {
    {"collections", "OrderedDict", G_ORDERED_DICT, MG_DTYPE_COUNT},
    {"torch._utils", "_rebuild_tensor", G_REBUILD_TENSOR, MG_DTYPE_COUNT},
    {"torch._utils", "_rebuild_tensor_v2", G_REBUILD_TENSOR_V2, MG_DTYPE_COUNT},
    {"torch._utils", "_rebuild_parameter", G_REBUILD_PARAMETER, MG_DTYPE_COUNT},
    {"torch", "Size", G_SIZE, MG_DTYPE_COUNT},
    {"torch", "DoubleStorage", G_STORAGE, MG_F64},
    {"torch", "FloatStorage", G_STORAGE, MG_F32},
    {"torch", "HalfStorage", G_STORAGE, MG_F16},
    {"torch", "BFloat16Storage", G_STORAGE, MG_BF16},
    {"torch", "LongStorage", G_STORAGE, MG_I64},
    {"torch", "IntStorage", G_STORAGE, MG_I32},
    {"torch", "ShortStorage", G_STORAGE, MG_I16},
    {"torch", "CharStorage", G_STORAGE, MG_I8},
    {"torch", "ByteStorage", G_STORAGE, MG_U8},
    {"torch", "BoolStorage", G_STORAGE, MG_BOOL},
};

typedef struct machine {
    mg_pickle *p;
    mg_span text;
    uint64_t base;
    size_t at, op_at;
    mg_pk_value **stack;
    uint32_t n, cap;
    uint32_t *marks;
    uint32_t n_marks, marks_cap;
    mg_pk_value **memo;
    uint32_t memo_n, memo_cap, puts;
    mg_error *err;
} machine;

static mg_status fail_at(machine *m, mg_status code, const char *message) {
    mg_fail(m->err, code, "%s", message);
    mg_error_offset(m->err, m->base + m->op_at);
    return code;
}

/* ---- memory ---- */

static mg_status grow(machine *m, void **array, uint32_t n, uint32_t *cap, size_t size, uint32_t limit) {
    if (n < *cap) return MG_OK;
    if (n >= limit) return fail_at(m, MG_ERR_LIMIT, "pickle needs a deeper stack than any checkpoint");
    uint32_t want = *cap ? *cap * 2 : 64;
    void *p = realloc(*array, want * size);
    if (!p) return mg_fail_nomem(m->err, want * size);
    *array = p;
    *cap = want;
    return MG_OK;
}

static mg_status new_value(machine *m, mg_pk_type type, mg_pk_value **out) {
    MG_TRY(MG_ARENA_NEW(&m->p->arena, out, 1, m->err));
    (*out)->type = type;
    return MG_OK;
}

static mg_status push(machine *m, mg_pk_value *v) {
    MG_TRY(grow(m, (void **)&m->stack, m->n, &m->cap, sizeof *m->stack, MG_PICKLE_MAX_STACK));
    m->stack[m->n++] = v;
    return MG_OK;
}

static mg_status push_new(machine *m, mg_pk_type type, mg_pk_value **out) {
    MG_TRY(new_value(m, type, out));
    return push(m, *out);
}

static mg_status push_int(machine *m, mg_pk_type type, int64_t i) {
    mg_pk_value *v;
    MG_TRY(push_new(m, type, &v));
    v->i = i;
    return MG_OK;
}

/* ---- the text ---- */

static mg_status take(machine *m, uint64_t n, const uint8_t **out) {
    if (n > m->text.size - m->at) {
        m->p->truncated = true;
        return fail_at(m, MG_ERR_FORMAT, "pickle is truncated");
    }
    *out = m->text.data + m->at;
    m->at += (size_t)n;
    return MG_OK;
}

static mg_status take_uint(machine *m, unsigned bytes, uint64_t *out) {
    const uint8_t *p;
    MG_TRY(take(m, bytes, &p));
    *out = 0;
    for (unsigned i = bytes; i-- > 0;) *out = *out << 8 | p[i];
    return MG_OK;
}

/* A line of GLOBAL. */
static mg_status take_line(machine *m, char buf[MAX_GLOBAL_NAME]) {
    for (size_t n = 0;; n++) {
        const uint8_t *p;
        MG_TRY(take(m, 1, &p));
        if (n == MAX_GLOBAL_NAME - 1) return fail_at(m, MG_ERR_FORMAT, "name of a global is too long");
        buf[n] = *p == '\n' ? 0 : (char)*p;
        if (*p == '\n') return MG_OK;
        if (*p == 0) return fail_at(m, MG_ERR_FORMAT, "name of a global contains a zero byte");
    }
}

static mg_status push_text(machine *m, mg_pk_type type, unsigned length_bytes) {
    uint64_t n;
    const uint8_t *p;
    mg_pk_value *v;
    MG_TRY(take_uint(m, length_bytes, &n));
    MG_TRY(take(m, n, &p));
    if (type == MG_PK_STR && mg_utf8_valid_prefix(p, (size_t)n) != n)
        return fail_at(m, MG_ERR_FORMAT, "string of the pickle is not UTF-8");
    MG_TRY(push_new(m, type, &v));
    v->s.data = mg_arena_strndup(&m->p->arena, (const char *)p, (size_t)n);
    v->s.size = (size_t)n;
    return v->s.data ? MG_OK : mg_fail_nomem(m->err, n);
}

static mg_status push_long(machine *m, unsigned length_bytes) {
    uint64_t n, u = 0;
    const uint8_t *p;
    mg_pk_value *v;
    MG_TRY(take_uint(m, length_bytes, &n));
    if (n > 256) return fail_at(m, MG_ERR_LIMIT, "integer of more than 256 bytes");
    MG_TRY(take(m, n, &p));
    if (n <= 8) {
        if (n && (p[n - 1] & 0x80)) u = UINT64_MAX;
        for (uint64_t i = n; i-- > 0;) u = u << 8 | p[i];
        return push_int(m, MG_PK_INT, (int64_t)u);
    }
    MG_TRY(push_new(m, MG_PK_BIG, &v));
    v->s.data = mg_arena_strndup(&m->p->arena, (const char *)p, (size_t)n);
    v->s.size = (size_t)n;
    return v->s.data ? MG_OK : mg_fail_nomem(m->err, n);
}

static mg_status push_float(machine *m) {
    const uint8_t *p;
    mg_pk_value *v;
    uint64_t u = 0;
    MG_TRY(take(m, 8, &p));
    for (int i = 0; i < 8; i++) u = u << 8 | p[i];
    MG_TRY(push_new(m, MG_PK_FLOAT, &v));
    memcpy(&v->f, &u, 8);
    return MG_OK;
}

/* ---- stack, marks, memo ---- */

/* Values above the last mark are a container's; below it nothing may be touched. */
static uint32_t floor_of(const machine *m) {
    return m->n_marks ? m->marks[m->n_marks - 1] : 0;
}

static mg_status pop(machine *m, mg_pk_value **out) {
    if (m->n <= floor_of(m)) return fail_at(m, MG_ERR_FORMAT, "pickle takes more from the stack than it has");
    *out = m->stack[--m->n];
    return MG_OK;
}

/* The values above the last mark leave the stack (they stay readable until the next push). */
static mg_status pop_mark(machine *m, mg_pk_value ***items, uint32_t *n) {
    if (!m->n_marks) return fail_at(m, MG_ERR_FORMAT, "pickle closes a container that it did not open");
    uint32_t from = m->marks[--m->n_marks];
    *items = m->stack + from;
    *n = m->n - from;
    m->n = from;
    return MG_OK;
}

static mg_status memo_put(machine *m, uint64_t i) {
    if (i > (uint64_t)m->puts + MEMO_GAP)
        return fail_at(m, MG_ERR_FORMAT, "memo index is far beyond the number of memo entries");
    if (m->n <= floor_of(m)) return fail_at(m, MG_ERR_FORMAT, "pickle memoizes from an empty stack");
    while (m->memo_n <= i) {
        MG_TRY(grow(m, (void **)&m->memo, m->memo_n, &m->memo_cap, sizeof *m->memo, MG_PICKLE_MAX_BYTES));
        m->memo[m->memo_n++] = NULL;
    }
    m->memo[i] = m->stack[m->n - 1];
    m->puts++;
    return MG_OK;
}

static mg_status memo_get(machine *m, uint64_t i) {
    if (i >= m->memo_n || !m->memo[i])
        return fail_at(m, MG_ERR_FORMAT, "pickle asks for a memo entry that was never made");
    return push(m, m->memo[i]);
}

/* ---- containers ---- */

static mg_status extend(machine *m, mg_pk_value *c, mg_pk_value *const *items, uint32_t n) {
    uint64_t want = (uint64_t)c->seq.n + n;
    if (want > MG_PICKLE_MAX_BYTES) return fail_at(m, MG_ERR_LIMIT, "container of the pickle is too long");
    if (want > c->seq.cap) {
        mg_pk_value **grown;
        uint64_t cap = want > 2 * (uint64_t)c->seq.cap ? want : 2 * (uint64_t)c->seq.cap;
        MG_TRY(MG_ARENA_NEW(&m->p->arena, &grown, (size_t)cap, m->err));
        if (c->seq.n) memcpy(grown, c->seq.items, c->seq.n * sizeof *grown);
        c->seq.items = grown;
        c->seq.cap = (uint32_t)cap;
    }
    if (n) memcpy(c->seq.items + c->seq.n, items, n * sizeof *items);
    c->seq.n += n;
    return MG_OK;
}

static mg_status make_tuple(machine *m, uint32_t n) {
    mg_pk_value *v;
    if (m->n - floor_of(m) < n) return fail_at(m, MG_ERR_FORMAT, "pickle takes more from the stack than it has");
    MG_TRY(new_value(m, MG_PK_TUPLE, &v));
    m->n -= n;
    MG_TRY(extend(m, v, m->stack + m->n, n));
    return push(m, v);
}

static mg_status make_marked(machine *m, mg_pk_type type) {
    mg_pk_value **items, *v;
    uint32_t n;
    MG_TRY(pop_mark(m, &items, &n));
    if (type == MG_PK_DICT && n % 2) return fail_at(m, MG_ERR_FORMAT, "dict of the pickle has a key without a value");
    MG_TRY(new_value(m, type, &v));
    MG_TRY(extend(m, v, items, n));
    return push(m, v);
}

/* Add values to the list or dict below them. */
static mg_status add_to(machine *m, mg_pk_type type, mg_pk_value **items, uint32_t n) {
    if (m->n <= floor_of(m) || m->stack[m->n - 1]->type != type)
        return fail_at(m, MG_ERR_FORMAT,
                       type == MG_PK_LIST ? "pickle appends to what is no list"
                                          : "pickle sets items of what is no dict");
    if (type == MG_PK_DICT && n % 2) return fail_at(m, MG_ERR_FORMAT, "dict of the pickle has a key without a value");
    return extend(m, m->stack[m->n - 1], items, n);
}

static mg_status add_top(machine *m, mg_pk_type type, uint32_t n) {
    if (m->n - floor_of(m) <= n) return fail_at(m, MG_ERR_FORMAT, "pickle takes more from the stack than it has");
    m->n -= n;
    return add_to(m, type, m->stack + m->n, n);
}

static mg_status add_marked(machine *m, mg_pk_type type) {
    mg_pk_value **items;
    uint32_t n;
    MG_TRY(pop_mark(m, &items, &n));
    return add_to(m, type, items, n);
}

/* ---- what reaches out of a pickle in Python ---- */

static mg_status push_global(machine *m, const char *module, const char *name) {
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
        if (!strcmp(globals[i].module, module) && !strcmp(globals[i].name, name))
            return push_int(m, MG_PK_GLOBAL, (int64_t)i);
    mg_fail(
        m->err, MG_ERR_UNSUPPORTED,
        "the pickle asks for '%.200s.%.200s', which is not among the names a file of weights may use; nothing of it "
        "was executed",
        module, name);
    mg_error_offset(m->err, m->base + m->op_at);
    return MG_ERR_UNSUPPORTED;
}

static mg_status op_global(machine *m) {
    char module[MAX_GLOBAL_NAME], name[MAX_GLOBAL_NAME];
    MG_TRY(take_line(m, module));
    MG_TRY(take_line(m, name));
    return push_global(m, module, name);
}

static bool is_plain_text(const mg_pk_value *v) {
    return v->type == MG_PK_STR && strlen(v->s.data) == v->s.size;
}

static mg_status op_stack_global(machine *m) {
    mg_pk_value *module, *name;
    MG_TRY(pop(m, &name));
    MG_TRY(pop(m, &module));
    if (!is_plain_text(module) || !is_plain_text(name))
        return fail_at(m, MG_ERR_FORMAT, "name of a global is not a string");
    return push_global(m, module->s.data, name->s.data);
}

static bool sizes_of(const mg_pk_value *v, uint64_t out[MG_MAX_RANK], uint32_t *rank) {
    if ((v->type != MG_PK_TUPLE && v->type != MG_PK_LIST) || v->seq.n > MG_MAX_RANK) return false;
    for (uint32_t i = 0; i < v->seq.n; i++) {
        if (v->seq.items[i]->type != MG_PK_INT || v->seq.items[i]->i < 0) return false;
        out[i] = (uint64_t)v->seq.items[i]->i;
    }
    *rank = v->seq.n;
    return true;
}

static bool is_empty_dict(const mg_pk_value *v) {
    return v->type == MG_PK_NONE || (v->type == MG_PK_DICT && v->seq.n == 0);
}

/* _rebuild_tensor(storage, offset, size, stride), _v2 with requires_grad, backward_hooks[, metadata]. */
static mg_status rebuild_tensor(machine *m, const mg_pk_value *args, bool v2) {
    mg_pk_tensor *t;
    mg_pk_value *const *a = args->seq.items, *v;
    uint32_t n = args->seq.n, strides;
    if (v2 ? n != 6 && n != 7 : n != 4)
        return fail_at(m, MG_ERR_FORMAT, "a tensor is rebuilt from the wrong number of values");
    MG_TRY(MG_ARENA_NEW(&m->p->arena, &t, 1, m->err));
    if (a[0]->type != MG_PK_STORAGE || a[1]->type != MG_PK_INT || a[1]->i < 0 || !sizes_of(a[2], t->shape, &t->rank) ||
        !sizes_of(a[3], t->stride, &strides) || strides != t->rank || (v2 && a[4]->type != MG_PK_BOOL))
        return fail_at(m, MG_ERR_FORMAT,
                       "a tensor is rebuilt from values that describe none, or has more than 8 dimensions");
    if (v2 && (!is_empty_dict(a[5]) || (n == 7 && !is_empty_dict(a[6]))))
        return fail_at(m, MG_ERR_UNSUPPORTED, "a tensor carries hooks or metadata");
    t->storage = (uint32_t)a[0]->i;
    t->offset = (uint64_t)a[1]->i;
    MG_TRY(push_new(m, MG_PK_TENSOR, &v));
    v->tensor = t;
    return MG_OK;
}

/* OrderedDict() or OrderedDict([(key, value), ...]). */
static mg_status ordered_dict(machine *m, const mg_pk_value *args) {
    mg_pk_value *v;
    if (args->seq.n > 1 || (args->seq.n == 1 && args->seq.items[0]->type != MG_PK_LIST))
        return fail_at(m, MG_ERR_FORMAT, "an OrderedDict is made from what is no list");
    MG_TRY(new_value(m, MG_PK_DICT, &v));
    v->seq.ordered = true;
    for (uint32_t i = 0; args->seq.n && i < args->seq.items[0]->seq.n; i++) {
        const mg_pk_value *pair = args->seq.items[0]->seq.items[i];
        if ((pair->type != MG_PK_TUPLE && pair->type != MG_PK_LIST) || pair->seq.n != 2)
            return fail_at(m, MG_ERR_FORMAT, "an OrderedDict is made from what are no pairs");
        MG_TRY(extend(m, v, pair->seq.items, 2));
    }
    return push(m, v);
}

static mg_status op_reduce(machine *m) {
    mg_pk_value *args, *f;
    MG_TRY(pop(m, &args));
    MG_TRY(pop(m, &f));
    if (f->type != MG_PK_GLOBAL || args->type != MG_PK_TUPLE)
        return fail_at(m, MG_ERR_FORMAT, "pickle calls what is no function");
    switch (globals[f->i].kind) {
    case G_ORDERED_DICT:
        return ordered_dict(m, args);
    case G_REBUILD_TENSOR:
        return rebuild_tensor(m, args, false);
    case G_REBUILD_TENSOR_V2:
        return rebuild_tensor(m, args, true);
    case G_REBUILD_PARAMETER: /* (tensor, requires_grad, hooks) */
        if (args->seq.n != 3 || args->seq.items[0]->type != MG_PK_TENSOR || !is_empty_dict(args->seq.items[2]))
            return fail_at(m, MG_ERR_FORMAT, "a parameter is rebuilt from what is no tensor");
        return push(m, args->seq.items[0]);
    case G_SIZE:
        if (args->seq.n != 1 || args->seq.items[0]->type != MG_PK_TUPLE)
            return fail_at(m, MG_ERR_FORMAT, "torch.Size is made from what is no tuple");
        return push(m, args->seq.items[0]);
    case G_STORAGE:
        break;
    }
    return fail_at(m, MG_ERR_UNSUPPORTED, "pickle holds a storage by value");
}

/* state_dict() hangs its _metadata (versions of modules) on the OrderedDict as an attribute: no weights. */
static mg_status op_build(machine *m) {
    mg_pk_value *state;
    MG_TRY(pop(m, &state));
    if (m->n <= floor_of(m)) return fail_at(m, MG_ERR_FORMAT, "pickle takes more from the stack than it has");
    const mg_pk_value *v = m->stack[m->n - 1];
    if (v->type == MG_PK_DICT && v->seq.ordered && state->type == MG_PK_DICT) return MG_OK;
    return fail_at(m, MG_ERR_UNSUPPORTED, "pickle sets the state of an object");
}

static mg_status storage_index(machine *m, const mg_pk_storage *s, uint32_t *index) {
    mg_pickle *p = m->p;
    *index = mg_strmap_get(&p->by_key, s->key, strlen(s->key));
    if (*index != MG_STRMAP_NONE) {
        const mg_pk_storage *known = &p->storages[*index];
        if (known->dtype == s->dtype && known->n_elements == s->n_elements) return MG_OK;
        return fail_at(m, MG_ERR_FORMAT, "one storage is described in two ways");
    }
    MG_TRY(grow(m, (void **)&p->storages, p->n_storages, &p->storages_cap, sizeof *p->storages, MG_PICKLE_MAX_BYTES));
    *index = p->n_storages;
    p->storages[p->n_storages++] = *s;
    return mg_strmap_put(&p->by_key, s->key, strlen(s->key), *index, NULL, m->err);
}

/* ('storage', class, key, device, elements), in the legacy form followed by a view's (key, offset, elements) or None.
 */
static mg_status op_persistent_id(machine *m) {
    mg_pk_value *id;
    uint32_t index;
    MG_TRY(pop(m, &id));
    mg_pk_value *const *a = id->type == MG_PK_TUPLE ? id->seq.items : NULL;
    if (!a || id->seq.n < 5 || id->seq.n > 6 || a[0]->type != MG_PK_STR || strcmp(a[0]->s.data, "storage") ||
        a[1]->type != MG_PK_GLOBAL || globals[a[1]->i].kind != G_STORAGE || !is_plain_text(a[2]) ||
        a[4]->type != MG_PK_INT || a[4]->i < 0)
        return fail_at(m, MG_ERR_FORMAT, "persistent id of the pickle describes no storage");
    if (id->seq.n == 6 && a[5]->type != MG_PK_NONE)
        return fail_at(m, MG_ERR_UNSUPPORTED, "storage is a view of another storage");
    mg_pk_storage s = {a[2]->s.data, globals[a[1]->i].dtype, (uint64_t)a[4]->i};
    MG_TRY(storage_index(m, &s, &index));
    return push_int(m, MG_PK_STORAGE, index);
}

/* ---- opcodes ---- */

static const struct {
    uint8_t op;
    const char *name;
} refused[] = {
    {'i', "INST"},       {'o', "OBJ"},         {0x81, "NEWOBJ"},      {0x92, "NEWOBJ_EX"},       {0x82, "EXT1"},
    {0x83, "EXT2"},      {0x84, "EXT4"},       {'P', "PERSID"},       {0x8f, "EMPTY_SET"},       {0x90, "ADDITEMS"},
    {0x91, "FROZENSET"}, {0x96, "BYTEARRAY8"}, {0x97, "NEXT_BUFFER"}, {0x98, "READONLY_BUFFER"}, {'I', "INT"},
    {'L', "LONG"},       {'F', "FLOAT"},       {'S', "STRING"},       {'V', "UNICODE"},          {'g', "GET"},
    {'p', "PUT"},
};

static mg_status refuse_opcode(machine *m, uint8_t op) {
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (refused[i].op != op) continue;
        mg_fail(m->err, MG_ERR_UNSUPPORTED, "pickle opcode %s is not one that files of weights use", refused[i].name);
        mg_error_offset(m->err, m->base + m->op_at);
        return MG_ERR_UNSUPPORTED;
    }
    mg_fail(m->err, MG_ERR_FORMAT, "unknown pickle opcode 0x%02x", op);
    mg_error_offset(m->err, m->base + m->op_at);
    return MG_ERR_FORMAT;
}

static mg_status op_frame(machine *m) {
    uint64_t n;
    MG_TRY(take_uint(m, 8, &n));
    if (n <= m->text.size - m->at) return MG_OK;
    m->p->truncated = n <= MG_PICKLE_MAX_BYTES;
    return fail_at(m, MG_ERR_FORMAT, "frame of the pickle is longer than the pickle");
}

static mg_status op_proto(machine *m) {
    uint64_t v;
    MG_TRY(take_uint(m, 1, &v));
    return v >= 2 && v <= 5 ? MG_OK : fail_at(m, MG_ERR_UNSUPPORTED, "pickle protocol is not 2 to 5");
}

static mg_status op_mark(machine *m) {
    MG_TRY(grow(m, (void **)&m->marks, m->n_marks, &m->marks_cap, sizeof *m->marks, MG_PICKLE_MAX_STACK));
    m->marks[m->n_marks++] = m->n;
    return MG_OK;
}

/* POP drops the mark when nothing is above it. */
static mg_status op_pop(machine *m) {
    mg_pk_value *v;
    if (m->n_marks && m->n == m->marks[m->n_marks - 1]) {
        m->n_marks--;
        return MG_OK;
    }
    return pop(m, &v);
}

static mg_status op_dup(machine *m) {
    if (m->n <= floor_of(m)) return fail_at(m, MG_ERR_FORMAT, "pickle takes more from the stack than it has");
    return push(m, m->stack[m->n - 1]);
}

static mg_status op_int(machine *m, unsigned bytes) {
    uint64_t u;
    MG_TRY(take_uint(m, bytes, &u));
    return push_int(m, MG_PK_INT, bytes == 4 ? (int64_t)(int32_t)(uint32_t)u : (int64_t)u);
}

static mg_status op_memo(machine *m, unsigned bytes, bool put) {
    uint64_t i;
    MG_TRY(take_uint(m, bytes, &i));
    return put ? memo_put(m, i) : memo_get(m, i);
}

static mg_status step(machine *m, uint8_t op) {
    mg_pk_value *v, **items;
    uint32_t n;
    switch (op) {
    case 0x80:
        return op_proto(m);
    case 0x95:
        return op_frame(m);
    case '(':
        return op_mark(m);
    case '0':
        return op_pop(m);
    case '1':
        return pop_mark(m, &items, &n);
    case '2':
        return op_dup(m);
    case 'N':
        return push_new(m, MG_PK_NONE, &v);
    case 0x88:
        return push_int(m, MG_PK_BOOL, 1);
    case 0x89:
        return push_int(m, MG_PK_BOOL, 0);
    case 'K':
        return op_int(m, 1);
    case 'M':
        return op_int(m, 2);
    case 'J':
        return op_int(m, 4);
    case 0x8a:
        return push_long(m, 1);
    case 0x8b:
        return push_long(m, 4);
    case 'G':
        return push_float(m);
    case 0x8c:
        return push_text(m, MG_PK_STR, 1);
    case 'X':
        return push_text(m, MG_PK_STR, 4);
    case 0x8d:
        return push_text(m, MG_PK_STR, 8);
    case 'U':
        return push_text(m, MG_PK_STR, 1); /* byte strings of Python 2 are its names */
    case 'T':
        return push_text(m, MG_PK_STR, 4);
    case 'C':
        return push_text(m, MG_PK_BYTES, 1);
    case 'B':
        return push_text(m, MG_PK_BYTES, 4);
    case 0x8e:
        return push_text(m, MG_PK_BYTES, 8);
    case ')':
        return push_new(m, MG_PK_TUPLE, &v);
    case 't':
        return make_marked(m, MG_PK_TUPLE);
    case 0x85:
        return make_tuple(m, 1);
    case 0x86:
        return make_tuple(m, 2);
    case 0x87:
        return make_tuple(m, 3);
    case ']':
        return push_new(m, MG_PK_LIST, &v);
    case 'l':
        return make_marked(m, MG_PK_LIST);
    case 'a':
        return add_top(m, MG_PK_LIST, 1);
    case 'e':
        return add_marked(m, MG_PK_LIST);
    case '}':
        return push_new(m, MG_PK_DICT, &v);
    case 'd':
        return make_marked(m, MG_PK_DICT);
    case 's':
        return add_top(m, MG_PK_DICT, 2);
    case 'u':
        return add_marked(m, MG_PK_DICT);
    case 'q':
        return op_memo(m, 1, true);
    case 'r':
        return op_memo(m, 4, true);
    case 0x94:
        return memo_put(m, m->puts);
    case 'h':
        return op_memo(m, 1, false);
    case 'j':
        return op_memo(m, 4, false);
    case 'c':
        return op_global(m);
    case 0x93:
        return op_stack_global(m);
    case 'R':
        return op_reduce(m);
    case 'b':
        return op_build(m);
    case 'Q':
        return op_persistent_id(m);
    default:
        return refuse_opcode(m, op);
    }
}

static mg_status run(machine *m, mg_pk_value **root) {
    for (;;) {
        const uint8_t *op;
        m->op_at = m->at;
        MG_TRY(take(m, 1, &op));
        if (*op == '.') break;
        MG_TRY(step(m, *op));
    }
    if (m->n != 1 || m->n_marks) return fail_at(m, MG_ERR_FORMAT, "pickle does not end with one value");
    *root = m->stack[0];
    return MG_OK;
}

void mg_pickle_init(mg_pickle *p) {
    memset(p, 0, sizeof *p);
    mg_arena_init(&p->arena, MG_PICKLE_MAX_MEMORY);
    mg_strmap_init(&p->by_key);
}

void mg_pickle_release(mg_pickle *p) {
    free(p->storages);
    mg_strmap_release(&p->by_key);
    mg_arena_release(&p->arena);
}

mg_status mg_pickle_run(mg_pickle *p, mg_span text, uint64_t base, mg_pk_value **root, size_t *used, mg_error *err) {
    machine m = {.p = p, .text = text, .base = base, .err = err};
    p->truncated = false;
    mg_status st = run(&m, root);
    if (used) *used = m.at;
    free(m.stack);
    free(m.marks);
    free(m.memo);
    return st;
}

mg_pk_value *mg_pk_get(const mg_pk_value *v, const char *key) {
    mg_pk_value *found = NULL;
    for (uint32_t i = 0; v->type == MG_PK_DICT && i + 1 < v->seq.n; i += 2)
        if (is_plain_text(v->seq.items[i]) && strcmp(v->seq.items[i]->s.data, key) == 0) found = v->seq.items[i + 1];
    return found;
}
