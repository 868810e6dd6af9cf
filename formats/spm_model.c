/* spm_model.c - see spm_model.h. Wire format: a message is a sequence of (field number << 3 | wire type) varints, each
 * followed by a varint (0), 8 bytes (1), a length and that many bytes (2), or 4 bytes (5). Field numbers are those of
 * SentencePiece's sentencepiece_model.proto: ModelProto {1 pieces, 2 trainer_spec, 3 normalizer_spec}. */
#include "formats/spm_model.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/checked.h"
#include "formats/base/file.h"
#include "formats/base/utf8.h"

enum { MAX_FILE = 256 << 20, MAX_PIECES = 1 << 24 };

typedef struct field {
    uint32_t number, wire;
    uint64_t value; /* wire 0, 1, 5 */
    mg_span bytes;  /* wire 2 */
} field;

/* Cursor over a message that lies inside the file `base`. */
typedef struct cursor {
    const uint8_t *base, *at, *end;
} cursor;

static mg_status bad(const cursor *c, mg_error *err, const char *what) {
    mg_status s = mg_fail(err, MG_ERR_FORMAT, "SentencePiece model: %s", what);
    mg_error_offset(err, (uint64_t)(c->at - c->base));
    return s;
}

static mg_status varint(cursor *c, uint64_t *out, mg_error *err) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (c->at == c->end) return bad(c, err, "truncated number");
        uint8_t b = *c->at++;
        v |= (uint64_t)(b & 0x7F) << shift;
        if (!(b & 0x80)) {
            *out = v;
            return MG_OK;
        }
    }
    return bad(c, err, "number longer than 64 bits");
}

static mg_status fixed(cursor *c, unsigned n, uint64_t *out, mg_error *err) {
    if ((size_t)(c->end - c->at) < n) return bad(c, err, "truncated number");
    *out = 0;
    memcpy(out, c->at, n); /* little-endian, as the host */
    c->at += n;
    return MG_OK;
}

static mg_status next_field(cursor *c, field *f, mg_error *err) {
    uint64_t key = 0, n = 0;
    *f = (field){0};
    mg_status s = varint(c, &key, err);
    if (s) return s;
    if (key >> 3 == 0 || key >> 3 > 0x1FFFFFFF) return bad(c, err, "field number out of range");
    f->number = (uint32_t)(key >> 3);
    f->wire = (uint32_t)(key & 7);
    switch (f->wire) {
    case 0:
        return varint(c, &f->value, err);
    case 1:
        return fixed(c, 8, &f->value, err);
    case 5:
        return fixed(c, 4, &f->value, err);
    case 2:
        break;
    default:
        return bad(c, err, "wire type that is not used");
    }
    s = varint(c, &n, err);
    if (s) return s;
    if (n > (uint64_t)(c->end - c->at)) return bad(c, err, "field longer than what is left of the file");
    f->bytes = (mg_span){c->at, (size_t)n};
    c->at += n;
    return MG_OK;
}

static cursor inside(const cursor *outer, mg_span bytes) {
    return (cursor){outer->base, bytes.data, bytes.data + bytes.size};
}

static float as_float(uint64_t value) {
    uint32_t u = (uint32_t)value;
    float v;
    memcpy(&v, &u, sizeof v);
    return v;
}

static mg_status read_piece(mg_spm_model *m, cursor c, mg_token *k, mg_error *err) {
    *k = (mg_token){.text = "", .type = MG_TOKEN_NORMAL};
    field f;
    while (c.at < c.end) {
        mg_status s = next_field(&c, &f, err);
        if (s) return s;
        if (f.number == 1 && f.wire == 2) {
            if (memchr(f.bytes.data, 0, f.bytes.size) ||
                mg_utf8_valid_prefix(f.bytes.data, f.bytes.size) != f.bytes.size)
                return bad(&c, err, "piece that is not UTF-8 text");
            k->text = mg_arena_strndup(&m->arena, (const char *)f.bytes.data, f.bytes.size);
            k->len = (uint32_t)f.bytes.size;
            if (!k->text) return mg_fail_nomem(err, f.bytes.size);
        } else if (f.number == 2 && f.wire == 5) {
            k->score = as_float(f.value);
        } else if (f.number == 3 && f.wire == 0) {
            if (f.value < MG_TOKEN_NORMAL || f.value > MG_TOKEN_BYTE) return bad(&c, err, "piece type out of range");
            k->type = (mg_token_type)f.value;
        }
    }
    return MG_OK;
}

static mg_status read_trainer(mg_spm_model *m, cursor c, mg_error *err) {
    field f;
    while (c.at < c.end) {
        mg_status s = next_field(&c, &f, err);
        if (s) return s;
        if (f.wire != 0) continue;
        int32_t v = (int32_t)(uint32_t)f.value;
        switch (f.number) {
        case 3:
            m->model_type = v;
            break;
        case 24:
            m->whitespace_as_suffix = v != 0;
            break;
        case 35:
            m->byte_fallback = v != 0;
            break;
        case 40:
            m->unk_id = v;
            break;
        case 41:
            m->bos_id = v;
            break;
        case 42:
            m->eos_id = v;
            break;
        case 43:
            m->pad_id = v;
            break;
        default:
            break;
        }
    }
    return MG_OK;
}

static mg_status read_normalizer(mg_spm_model *m, cursor c, mg_error *err) {
    field f;
    while (c.at < c.end) {
        mg_status s = next_field(&c, &f, err);
        if (s) return s;
        if (f.number == 2 && f.wire == 2) {
            m->charsmap = (const uint8_t *)mg_arena_strndup(&m->arena, (const char *)f.bytes.data, f.bytes.size);
            m->charsmap_bytes = f.bytes.size;
            if (!m->charsmap) return mg_fail_nomem(err, f.bytes.size);
        }
        if (f.number == 3 && f.wire == 0) m->add_dummy_prefix = f.value != 0;
        if (f.number == 4 && f.wire == 0) m->remove_extra_whitespaces = f.value != 0;
        if (f.number == 5 && f.wire == 0) m->escape_whitespaces = f.value != 0;
    }
    return MG_OK;
}

/* Two passes: count the pieces, then read. */
static mg_status read_model(mg_spm_model *m, cursor whole, mg_error *err) {
    field f;
    uint32_t n = 0;
    for (cursor c = whole; c.at < c.end;) {
        mg_status s = next_field(&c, &f, err);
        if (s) return s;
        n += f.number == 1 && f.wire == 2;
        if (n > MAX_PIECES) return mg_fail(err, MG_ERR_LIMIT, "SentencePiece model of more than %d pieces", MAX_PIECES);
    }
    mg_status s = MG_ARENA_NEW(&m->arena, &m->pieces, n + 1, err);
    for (cursor c = whole; c.at < c.end && !s;) {
        s = next_field(&c, &f, err);
        if (s || f.wire != 2) continue;
        if (f.number == 1) s = read_piece(m, inside(&c, f.bytes), &m->pieces[m->n++], err);
        if (f.number == 2) s = read_trainer(m, inside(&c, f.bytes), err);
        if (f.number == 3) s = read_normalizer(m, inside(&c, f.bytes), err);
    }
    if (!s && m->n == 0) s = mg_fail(err, MG_ERR_FORMAT, "SentencePiece model without pieces");
    return s;
}

mg_status mg_spm_model_load(mg_spm_model *m, const char *path, mg_error *err) {
    char *data;
    size_t n;
    *m = (mg_spm_model){.model_type = 1,
                        .bos_id = 1,
                        .eos_id = 2,
                        .pad_id = -1,
                        .add_dummy_prefix = true,
                        .remove_extra_whitespaces = true,
                        .escape_whitespaces = true};
    mg_arena_init(&m->arena, UINT64_C(1) << 30);
    mg_status s = mg_file_slurp(path, MAX_FILE, &data, &n, err);
    if (s) return s;
    const uint8_t *b = (const uint8_t *)data;
    s = read_model(m, (cursor){b, b, b + n}, err);
    free(data);
    if (s) {
        mg_error_at(err, path, NULL);
        mg_spm_model_release(m);
    }
    return s;
}

void mg_spm_model_release(mg_spm_model *m) {
    mg_arena_release(&m->arena);
    *m = (mg_spm_model){0};
}
