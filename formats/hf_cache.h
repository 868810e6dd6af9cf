/* hf_cache.h - models by name, org/name[@revision], in the local Hugging Face cache. Nothing is downloaded.
 *
 *   CACHE/models--org--name/refs/REVISION            text: the commit
 *   CACHE/models--org--name/snapshots/COMMIT/FILE -> ../../blobs/HASH
 *
 * CACHE: HF_HUB_CACHE, else HUGGINGFACE_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub, else
 * ~/.cache/huggingface/hub; a variable that is set and empty counts as not set. The layout is a published interface
 * (huggingface_hub, "Understand caching"). */
#ifndef MG_FORMATS_HF_CACHE_H
#define MG_FORMATS_HF_CACHE_H

#include "formats/base/status.h"

typedef struct mg_hf_name {
    char repo[256];     /* "org/name", or "name" behind "hf:" */
    char revision[256]; /* "main" when none was given */
    const char *file;   /* behind "hf:org/name/": a path inside the snapshot, borrowed; else NULL */
} mg_hf_name;

/* Whether path is spelled like a model of the hub: org/name[@revision], or hf: and [org/]name[@revision], or
 * hf:org/name[@revision]/FILE. *name is filled when it is. Looks at no file. */
bool mg_hf_parse_name(mg_hf_name *name, const char *path);

/* Path as a user gives it -> a path to open, in buf: itself when something of that name exists or it is no name of the
 * hub; else the snapshot in the cache. *cached says which. "hf:" always means the cache. MG_ERR_IO names what is
 * missing: the model, the revision (and those there are), or the snapshot. */
mg_status mg_hf_resolve(char *buf, size_t size, const char *path, bool *cached, mg_error *err) MG_MUST_CHECK;

#endif
