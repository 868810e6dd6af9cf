/* group_twins.h - private: who fills the tables of quant/group_kernels.h. */
#ifndef MG_QUANT_GROUP_TWINS_H
#define MG_QUANT_GROUP_TWINS_H

#include "quant/group_kernels.h"

void mg_group_fill_ref(mg_group_kernels *t);
/* On other processors these change nothing. */
void mg_group_fill_avx2(mg_group_kernels *t);
void mg_group_fill_avx512(mg_group_kernels *t);
void mg_group_fill_neon(mg_group_kernels *t);

#endif
