/* arch_file.h - families described in a file instead of a table of the program: `--arch FILE` of every tool that reads
 * models. The file is YAML (or JSON, which is YAML too) with the fields of mg_arch; docs/adding_a_family.md walks
 * through one. */
#ifndef MG_FORMATS_ARCH_ARCH_FILE_H
#define MG_FORMATS_ARCH_ARCH_FILE_H

#include "formats/arch/arch.h"
#include "formats/base/options.h"

/* Read a description, check it as the built-in ones are checked, and let it take part in everything below arch.h from
 * now on, before the families of the same name. To be called before models are opened, from one thread; what was loaded
 * stays for the life of the process. MG_ERR_FORMAT names file, line, field, found and expected. */
mg_status mg_arch_load(const char *path, mg_error *err) MG_MUST_CHECK;

/* The path of the i-th description that was loaded, NULL beyond the last. */
const char *mg_arch_loaded(uint32_t i);

/* The option; it loads as it is parsed. */
extern const mg_opt_call mg_arch_load_call;
#define MG_ARCH_OPT                                                                                                    \
    {                                                                                                                  \
        "--arch", MG_OPT_CALL, (void *)&mg_arch_load_call, "FILE",                                                     \
            "description of a model family (docs/adding_a_family.md); repeatable"                                      \
    }

/* The description of a family as such a file. *text is the caller's. */
mg_status mg_arch_print(const mg_arch *arch, char **text, mg_error *err) MG_MUST_CHECK;

#endif
