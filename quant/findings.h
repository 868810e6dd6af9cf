/* findings.h - what is odd about a model's data, from one scan of it: nothing that makes a file invalid, all of it
 * worth knowing before it is published. */
#ifndef MG_QUANT_FINDINGS_H
#define MG_QUANT_FINDINGS_H

#include "formats/arch/model.h"
#include "quant/scan.h"

/* Append to a list objects with "kind", "severity" (always "warning") and "text", and "tensor" where one is meant:
 *   zero_blocks  runs of 32 zeros in a weight matrix that is not all zero: lost blocks, pruned rows
 *   overflow     values beyond 65504, which F16 and the F16 scales of quantized types cannot hold
 *   all_zero     a weight matrix of zeros (a vector of zeros, a bias say, is common)
 *   dead_expert  an expert's row of the router, or the expert itself, is zero: it is never told apart, or adds nothing
 *   duplicate    the same bytes as an earlier tensor ("of"), matrices only
 *   config       a head with other values than the embedding it is tied to
 * m may be NULL (a family that is not known): then only the tensors are looked at. scan: statistics and digests of
 * every tensor of scanned, which m's checkpoint may be a view of. What configurations say: config_rules.h. */
mg_status mg_findings(mg_json *list, mg_model *m, mg_checkpoint *scanned, const mg_scan *scan,
                      mg_error *err) MG_MUST_CHECK;

#endif
