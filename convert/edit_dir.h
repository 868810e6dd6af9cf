/* edit_dir.h - config.json, its companions and the chat template of a Hugging Face directory, with some keys set and
 * some removed. Weights are not opened.
 *
 * A key is a member of config.json; "generation_config.", "tokenizer_config." and "config." in front say which file.
 * Dots lead into objects that exist. chat_template is chat_template.jinja where that file exists, else the member of
 * tokenizer_config.json. A member that exists keeps its type: a string takes the text as it is, a number, bool, array
 * or object takes JSON of that type. For a new one, or one that is null, the text is JSON when it is valid JSON, else a
 * string; text from a file is a string. Files are written as Python's json.dump(indent=2) does, members in their order.
 */
#ifndef MG_CONVERT_EDIT_DIR_H
#define MG_CONVERT_EDIT_DIR_H

#include "convert/edit_kv.h"
#include "formats/base/json.h"

enum { MG_EDIT_CONFIG, MG_EDIT_GENERATION, MG_EDIT_TOKENIZER, MG_EDIT_JSONS };

typedef struct mg_dir_edit {
    const char *dir; /* borrowed */
    struct {
        mg_json *now; /* NULL: not touched */
        char *before; /* its text as it was printed before the edit */
    } files[MG_EDIT_JSONS];
    const mg_kv_edit *template_file; /* new content of chat_template.jinja; NULL: not touched */
    bool remove_template;            /* chat_template.jinja goes */
} mg_dir_edit;

const char *mg_dir_edit_file(int which); /* "config.json" ... */

/* Read what the edits touch and change it in memory. e is released by the caller in every case, before sets. Errors as
 * mg_kvs_edit. */
mg_status mg_dir_edit_prepare(mg_dir_edit *e, const char *dir, const mg_kv_edit *sets, size_t n_sets,
                              const char *const *removes, size_t n_removes, mg_error *err) MG_MUST_CHECK;
/* Does file `which` differ from before? */
mg_status mg_dir_edit_changed(const mg_dir_edit *e, int which, bool *changed, mg_error *err) MG_MUST_CHECK;
/* Write the files that changed, each atomically, config.json last. */
mg_status mg_dir_edit_write(const mg_dir_edit *e, mg_error *err) MG_MUST_CHECK;
void mg_dir_edit_release(mg_dir_edit *e);

#endif
