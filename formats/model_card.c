/* model_card.c - see model_card.h. */
#include "formats/model_card.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"

mg_status mg_model_card_load(mg_yaml_doc **doc, const char *dir, mg_error *err) {
    enum { CAP = 4 << 20 };
    char path[4096], *text;
    size_t n;
    mg_error quiet = {0};
    *doc = NULL;
    MG_TRY(mg_path_join(path, sizeof path, dir, "README.md", err));
    if (!mg_path_exists(path) || mg_file_slurp(path, CAP, &text, &n, &quiet) != MG_OK) return MG_OK;
    char *body = !strncmp(text, "---\n", 4) ? text + 4 : !strncmp(text, "---\r\n", 5) ? text + 5 : NULL;
    if (body) {
        char *end = strstr(body, "\n---");
        size_t len = end ? (size_t)(end - body) + 1 : strlen(body);
        for (size_t i = 0; i < len; i++)
            if (body[i] == '\t') body[i] = ' ';
        if (mg_yaml_parse(doc, body, len, path, &quiet) != MG_OK) *doc = NULL;
        if (*doc && mg_yaml_root(*doc)->type != MG_YAML_MAP) {
            mg_yaml_free(*doc);
            *doc = NULL;
        }
    }
    free(text);
    return MG_OK;
}
