/* slices.h - releases whose files each hold a slice of every matrix, as Meta's larger ones do (model parallel), as the
 * one checkpoint that they were cut from. Private to the containers.
 *
 * Which axis is cut follows from the layer's kind in Meta's code, which names tell: layers that split their outputs
 * (wq, wk, wv, w1, w3, output) are cut between rows, those that split their inputs (wo, w2) between columns,
 * tok_embeddings between columns up to Llama 2 and between rows since; vectors (norms, frequencies) are in every file.
 */
#ifndef MG_FORMATS_SLICES_H
#define MG_FORMATS_SLICES_H

#include "formats/container.h"

/* files has its data files in the order of the slices and is not indexed by name; its params.json states 'dim', by
 * which the shapes are checked. Nothing but descriptors is held; a read takes up to 1 MiB of scratch. After MG_OK
 * files belongs to *out, else it is still the caller's. MG_ERR_FORMAT names a tensor that is not in every file, or in
 * another shape or type; MG_ERR_UNSUPPORTED a matrix of which no rule says how it is cut. */
mg_status mg_slices_join(mg_checkpoint **out, mg_files_ckpt *files, mg_error *err) MG_MUST_CHECK;

#endif
