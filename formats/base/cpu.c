/* cpu.c - instruction sets (CPUID, with the operating system's register state checked), usable cores, FP environment.
 */
#include "formats/base/cpu.h"

#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#endif

static const char *const names[] = {"scalar", "avx2", "avx512", "neon"};

const char *mg_isa_name(mg_isa isa) {
    return names[isa];
}

/* Index of the name in MOEGRAFT_ISA; -1 when unset or empty, -2 when unknown. */
static int wanted(void) {
    const char *text = getenv("MOEGRAFT_ISA");
    if (!text || !text[0]) return -1;
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (strcmp(text, names[i]) == 0) return i;
    return -2;
}

#if defined(__x86_64__)
static mg_isa detect(void) {
    enum { FMA = 1 << 12, OSXSAVE = 1 << 27, F16C = 1 << 29, AVX2 = 1 << 5 };
    const unsigned leaf1 = FMA | OSXSAVE | F16C, avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F DQ BW VL */
    unsigned a, b, c, d, xcr0, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & leaf1) != leaf1) return MG_ISA_SCALAR;
    __asm__("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    if ((xcr0 & 0x06) != 0x06 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & AVX2)) return MG_ISA_SCALAR;
    return (xcr0 & 0xE6) == 0xE6 && (b & avx512) == avx512 ? MG_ISA_AVX512 : MG_ISA_AVX2;
}
#elif defined(__aarch64__)
static mg_isa detect(void) {
    return MG_ISA_NEON;
} /* part of the base architecture */
#else
static mg_isa detect(void) {
    return MG_ISA_SCALAR;
}
#endif

static mg_isa present, chosen;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void choose(void) {
    int want = wanted();
    chosen = present = detect();
    if (want < 0) return;
    /* a level of another architecture leaves the scalar code, which is on every one */
    if ((want == MG_ISA_NEON) != (chosen == MG_ISA_NEON)) chosen = MG_ISA_SCALAR;
    if ((mg_isa)want < chosen) chosen = (mg_isa)want;
}

mg_isa mg_cpu_isa(void) {
    pthread_once(&once, choose);
    return chosen;
}

bool mg_cpu_has(mg_isa isa) {
    pthread_once(&once, choose);
    /* AVX-512 comes with AVX2; NEON is alone */
    return isa == MG_ISA_SCALAR || isa == present || (isa == MG_ISA_AVX2 && present == MG_ISA_AVX512);
}

mg_status mg_cpu_check(mg_error *err) {
    if (wanted() != -2) return MG_OK;
    return mg_fail(err, MG_ERR_USAGE, "MOEGRAFT_ISA is '%s', expected scalar, avx2, avx512 or neon",
                   getenv("MOEGRAFT_ISA"));
}

static unsigned affinity_count(void) {
    for (size_t cpus = 1024; cpus <= 1 << 20; cpus *= 4) {
        cpu_set_t *set = CPU_ALLOC(cpus);
        if (!set) break;
        size_t size = CPU_ALLOC_SIZE(cpus);
        int n = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (n > 0) return (unsigned)n;
    }
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (unsigned)n : 1;
}

static bool read_line(const char *path, char *buf, size_t size) {
    FILE *f = fopen(path, "re");
    if (!f) return false;
    bool ok = fgets(buf, (int)size, f) != NULL;
    fclose(f);
    if (ok) buf[strcspn(buf, "\n")] = 0;
    return ok;
}

/* Cores granted by one cgroup directory, rounded up; 0 means no limit. Version 2 first, then 1. */
static unsigned quota_of(const char *dir) {
    char path[4400], line[64];
    long long quota, period;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", dir);
    if (read_line(path, line, sizeof line)) {
        if (sscanf(line, "%lld %lld", &quota, &period) != 2) return 0; /* "max 100000" */
    } else {
        snprintf(path, sizeof path, "/sys/fs/cgroup/cpu%s/cpu.cfs_quota_us", dir);
        if (!read_line(path, line, sizeof line) || sscanf(line, "%lld", &quota) != 1) return 0;
        snprintf(path, sizeof path, "/sys/fs/cgroup/cpu%s/cpu.cfs_period_us", dir);
        if (!read_line(path, line, sizeof line) || sscanf(line, "%lld", &period) != 1) return 0;
    }
    if (quota <= 0 || period <= 0) return 0;
    long long cores = (quota + period - 1) / period;
    return cores < 1 ? 1 : cores > 1 << 20 ? 1 << 20 : (unsigned)cores;
}

/* Our path below the cgroup mount: "0::/path" (version 2) or "N:...cpu...:/path" (version 1). */
static void own_cgroup(char *dir, size_t size) {
    char line[4200];
    dir[0] = 0;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f) return;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path) continue;
        *path++ = 0;
        if (controllers[1] == 0 || strstr(controllers + 1, "cpu,") || strcmp(controllers + 1, "cpu") == 0)
            snprintf(dir, size, "%s", path);
    }
    fclose(f);
}

unsigned mg_cpu_count(void) {
    unsigned n = affinity_count();
    char dir[4096];
    own_cgroup(dir, sizeof dir);
    for (;;) { /* a quota may sit on any ancestor */
        unsigned q = quota_of(dir);
        if (q && q < n) n = q;
        char *slash = strrchr(dir, '/');
        if (!slash) break;
        *slash = 0;
    }
    return n;
}

void mg_cpu_fp_env(void) {
    fesetround(FE_TONEAREST);
#if defined(__x86_64__)
    enum { FTZ = 1 << 15, DAZ = 1 << 6, ROUNDING = 3 << 13 };
    _mm_setcsr(_mm_getcsr() & ~(unsigned)(FTZ | DAZ | ROUNDING));
#elif defined(__aarch64__)
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    fpcr &= ~(UINT64_C(1) << 24 | UINT64_C(1) << 19 | UINT64_C(3) << 22); /* FZ, FZ16, RMode */
    __asm__ volatile("msr fpcr, %0" : : "r"(fpcr));
#endif
}
