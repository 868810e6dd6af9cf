/* cpu.h - what the processor can do, capped by MOEGRAFT_ISA=scalar|avx2|avx512|neon for tests. */
#ifndef MG_BASE_CPU_H
#define MG_BASE_CPU_H

#include "formats/base/status.h"

typedef enum mg_isa { MG_ISA_SCALAR = 0, MG_ISA_AVX2, MG_ISA_AVX512, MG_ISA_NEON } mg_isa;

/* Best level both present and allowed. Read once, then constant; an unknown MOEGRAFT_ISA value is reported by
 * mg_cpu_check and otherwise ignored. MG_ISA_AVX2 implies FMA and F16C. */
mg_isa mg_cpu_isa(void);
/* Whether the processor has the instructions, whatever MOEGRAFT_ISA says. A file compiled for an instruction set is
 * entered only if so, the function that fills its table included: compilers use the set there as well. */
bool mg_cpu_has(mg_isa isa);
const char *mg_isa_name(mg_isa isa);
/* MG_ERR_USAGE when MOEGRAFT_ISA holds a name that does not exist. */
mg_status mg_cpu_check(mg_error *err) MG_MUST_CHECK;
/* Cores this process may use: affinity mask and cgroup cpu quota, at least 1. */
unsigned mg_cpu_count(void);
/* Round to nearest even, subnormals on, for the calling thread (a library or plugin may have set FTZ/DAZ). */
void mg_cpu_fp_env(void);

#endif
