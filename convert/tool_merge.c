/* tool_merge.c - moegraft-merge: donors in, a mixture of experts out; as a Hugging Face directory, or straight to GGUF files of any type in
 * one pass over the donors. */
#include "convert/merge_run.h"
#include "convert/merge_linear.h"
#include "convert/quantize.h"
#include "formats/base/options.h"
#include "verify/forward.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct args {
    mg_common c;
    const char *config, *out, *to, *gate, *model_name;
    mg_opt_list outputs, text;
    uint64_t seed, shard_size;
    bool same_models, manifest;
} args;

static const mg_tool_info tool = {
    .name = "merge",
    .summary = "merge dense models into a mixture of experts",
    .synopsis = "CONFIG OUT [--to TYPE]\nCONFIG -o FILE=TYPE [-o FILE=TYPE]...",
    .examples = "  moegraft-merge moe.yml moe4                        a Hugging Face directory\n"
                "  moegraft-merge moe.yml moe4-Q4_K_M.gguf --to Q4_K_M  donors to a quantized file in one pass\n"
                "  moegraft-merge moe.yml -o a.gguf=Q4_K_M -o b.gguf=Q8_0 --gate hidden\n",
    .next = "moegraft-merge --help",
};
