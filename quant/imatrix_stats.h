/* imatrix_stats.h - the figures llama-imatrix --show-statistics prints, over the mean squares a of an entry's input
 * channels (a = sum / count; all experts of a stack together). Experts without tokens have no mean and are left out.
 * Computed in f64. */
#ifndef MG_QUANT_IMATRIX_STATS_H
#define MG_QUANT_IMATRIX_STATS_H

#include "quant/imatrix.h"

typedef struct mg_imatrix_stats {
    uint64_t n;   /* channels; the rest is 0 when there are none */
    double total; /* sum of a */
    double min, max, mean;
    double stddev;       /* sqrt(mean(a^2) - mean^2) */
    double active;       /* fraction of channels with a > 1e-5 */
    double entropy;      /* -sum p log2 p with p = a / total, in bits */
    double entropy_norm; /* entropy / log2(n): 1 when all channels are alike */
    double zd;           /* fraction of channels more than one standard deviation above the mean */
    bool has_cosine;     /* there is an entry of the same name one block earlier with as many values */
    double cosine;       /* of the sums, with it */
} mg_imatrix_stats;

/* Entry e of m, which was loaded with mg_imatrix_load_sums. */
mg_imatrix_stats mg_imatrix_stats_of(const mg_imatrix *m, const mg_imatrix_entry *e);

#endif
