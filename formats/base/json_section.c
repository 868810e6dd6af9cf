/* json_section.c - see json_section.h. */
#include "formats/base/json_section.h"

#include <string.h>

#include "formats/base/jsonlex.h"

mg_status mg_json_section_moved(mg_status s, mg_error *err, uint64_t at) {
    if (s && err && err->has_offset) err->offset += at;
    return s;
}

/* Find the wanted members of the object `text`; a wanted name given twice is refused. */
mg_status mg_json_sections(mg_span text, uint64_t at, mg_json_section *want, size_t n, mg_error *err) {
    mg_jsonlex lx;
    mg_jtok tok;
    mg_jsonlex_init(&lx, text, 64);
    mg_status s = mg_jsonlex_next(&lx, &tok, err);
    if (!s && tok != MG_JTOK_OBJ_BEGIN) s = mg_fail(err, MG_ERR_FORMAT, "JSON: an object was expected");
    while (!s) {
        s = mg_jsonlex_next(&lx, &tok, err);
        if (s || tok == MG_JTOK_END) break;
        if (tok == MG_JTOK_OBJ_END) continue;
        mg_json_section *hit = NULL;
        for (size_t i = 0; i < n && !hit; i++)
            if (strlen(want[i].name) == lx.raw_len && memcmp(want[i].name, lx.raw, lx.raw_len) == 0) hit = &want[i];
        if (hit && hit->text.data) s = mg_fail(err, MG_ERR_FORMAT, "JSON: '%s' is given twice", hit->name);
        if (!s) s = mg_jsonlex_next(&lx, &tok, err);
        size_t begin = lx.token_at;
        if (!s) s = mg_jsonlex_skip(&lx, tok, err);
        if (hit) *hit = (mg_json_section){hit->name, {text.data + begin, lx.at - begin}, at + begin};
    }
    return mg_json_section_moved(s, err, at);
}

/* A small section as a tree; NULL when it is absent or null. */
mg_status mg_json_section_tree(mg_json **out, const mg_json_section *k, mg_error *err) {
    *out = NULL;
    if (!k->text.data) return MG_OK;
    mg_status s = mg_json_section_moved(mg_json_parse(out, k->text, NULL, err), err, k->at);
    if (!s && mg_json_type(*out) == MG_JSON_NULL) {
        mg_json_free(*out);
        *out = NULL;
    }
    return s;
}

/* Members or elements directly inside the container `k`. */
mg_status mg_json_section_count(const mg_json_section *k, size_t *n, mg_error *err) {
    mg_jsonlex lx;
    mg_jtok tok;
    *n = 0;
    mg_jsonlex_init(&lx, k->text, 64);
    mg_status s = mg_jsonlex_next(&lx, &tok, err);
    while (!s) {
        s = mg_jsonlex_next(&lx, &tok, err);
        if (s || lx.depth == 0) break;
        if (tok == MG_JTOK_KEY) continue;
        s = mg_jsonlex_skip(&lx, tok, err);
        ++*n;
    }
    return mg_json_section_moved(s, err, k->at);
}
