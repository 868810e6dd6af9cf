/* check_kernels.c - every kernel of every instruction set of this machine against its scalar reference, and their
 * speed.
 *
 * Kernels are found through the tables the library itself dispatches by (mg_codec_for, quant/kernels.inc), so none can
 * be in use and untested. Inputs are random and hostile rows, read-only between pages that fault; the caller's
 * floating-point state is set to flush subnormals and round up, which the library promises to survive when work runs
 * on its pool. Everything follows from --seed; a failure prints the options that repeat it alone. */
#include <getopt.h>
#include <fenv.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/pool.h"
#include "tests/kernels/kernel_test.h"

kt_options kt = {.seed = 1, .weights = 100000, .case_index = -1, .set_bytes = 256 << 10};

static char current[64] = "start";
static uint64_t current_index;
static mg_isa current_isa;
static unsigned failures, kernels, twins;

bool kt_selected(const char *kernel) {
    return !kt.only || strncmp(kernel, kt.only, strlen(kt.only)) == 0;
}

void kt_case(const char *kernel, uint64_t index) {
    uint64_t h = 0xCBF29CE484222325u;
    snprintf(current, sizeof current, "%s", kernel);
    current_index = index;
    for (const char *p = kernel; *p; p++) h = (h ^ (uint8_t)*p) * 0x100000001B3u;
    kt_seed(kt.seed * 0x9E3779B97F4A7C15u + h + index);
}

void kt_isa(mg_isa isa) {
    current_isa = isa;
}

void kt_fail(const char *format, ...) {
    va_list args;
    failures++;
    printf("FAILED %s, %s: ", current, mg_isa_name(current_isa));
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n    again: check_kernels --seed %" PRIu64 " --only %s --case %" PRIu64 "\n", kt.seed, current,
           current_index);
}

unsigned kt_failures(void) {
    return failures;
}

void kt_done(const char *kernel, size_t n_twins, uint64_t elements) {
    kernels++;
    twins += (unsigned)n_twins;
    if (kt.verbose)
        printf("%-22s %zu twin%s, %" PRIu64 " elements\n", kernel, n_twins, n_twins == 1 ? "" : "s", elements);
}

size_t kt_levels(mg_isa out[KT_LEVELS]) {
    static const mg_isa x86[] = {MG_ISA_AVX2, MG_ISA_AVX512};
    mg_isa best = mg_cpu_isa();
    size_t n = 0;
    if (best == MG_ISA_NEON) out[n++] = best;
    for (size_t i = 0; i < 2 && best != MG_ISA_NEON; i++)
        if (x86[i] <= best) out[n++] = x86[i];
    return n;
}

/* A guard page was touched. Only calls that are safe in a handler. */
static void fault(int sig) {
    char text[160];
    int n = snprintf(text, sizeof text, "FAILED %s, %s: signal %d in case %" PRIu64 " of seed %" PRIu64 "\n", current,
                     mg_isa_name(current_isa), sig, current_index, kt.seed);
    if (write(STDERR_FILENO, text, (size_t)n) != n) _exit(2);
    _exit(1);
}

static const char usage[] =
    "usage: check_kernels [options]\n"
    "  --seed N        of every random row (default 1)\n"
    "  --weights N     elements per kernel, at least (default 100000; acceptance: 10000000)\n"
    "  --only NAME     kernels whose name starts with NAME: Q4_K, IQ3_S.encode, math.exp\n"
    "  --case N        one case of --only, as a failure prints it\n"
    "  --bench         time the kernels instead of checking them\n"
    "  --set-kib N     f32 data a timed kernel works through (default 256; 65536 leaves the caches)\n"
    "  --golden DIR    compare with the golden blocks of DIR; print digests of what decoding gives\n"
    "  --verbose       a line per kernel\n"
    "MOEGRAFT_ISA caps the instruction sets.\n";

static const struct option options[] = {
    {"seed", required_argument, NULL, 's'},   {"weights", required_argument, NULL, 'w'},
    {"only", required_argument, NULL, 'o'},   {"case", required_argument, NULL, 'c'},
    {"bench", no_argument, NULL, 'b'},        {"set-kib", required_argument, NULL, 'k'},
    {"golden", required_argument, NULL, 'g'}, {"verbose", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, 'h'},         {0}};

static uint64_t number(const char *text) {
    char *end;
    unsigned long long v = strtoull(text, &end, 10);
    if (end == text || *end || v > INT64_MAX) {
        fprintf(stderr, "'%s' is not a number\n", text);
        exit(2);
    }
    return v;
}

typedef struct job {
    bool bench;
    const char *golden;
} job;

static void parse(int argc, char **argv, job *j) {
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) switch (c) {
        case 's':
            kt.seed = number(optarg);
            break;
        case 'w':
            kt.weights = number(optarg);
            break;
        case 'o':
            kt.only = optarg;
            break;
        case 'c':
            kt.case_index = (int64_t)number(optarg);
            break;
        case 'b':
            j->bench = true;
            break;
        case 'k':
            kt.set_bytes = number(optarg) << 10;
            break;
        case 'g':
            j->golden = optarg;
            break;
        case 'v':
            kt.verbose = true;
            break;
        default:
            fputs(usage, c == 'h' ? stdout : stderr);
            exit(c == 'h' ? 0 : 2);
        }
    if (optind < argc) {
        fputs(usage, stderr);
        exit(2);
    }
}

static mg_status run(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    const job *j = ctx;
    (void)ticket, (void)worker, (void)err;
    if (j->bench) {
        kt_codecs_bench();
        kt_math_bench();
        kt_groups_bench();
        kt_peak_bench();
    } else if (j->golden) {
        kt_codecs_golden(j->golden);
    } else {
        kt_codecs_check();
        kt_math_check();
        kt_groups_check();
        kt_sha256_check();
    }
    return MG_OK;
}

int main(int argc, char **argv) {
    job j = {0};
    mg_error err = {0};
    parse(argc, argv, &j);
    signal(SIGSEGV, fault);
    signal(SIGBUS, fault);
    signal(SIGILL, fault);
    fesetround(FE_UPWARD);
    kt_fp_flush();
    uint32_t before = kt_fp_state();
    if (mg_pool_run(NULL, 1, run, &j, &err) != MG_OK) kt_fail("%s", err.message);
    if (kt_fp_state() != before) kt_fail("the pool did not give the caller's floating-point state back");
    if (j.bench || j.golden) return failures != 0;
    if (kernels == 0) kt_fail("--only %s selects nothing", kt.only);
    printf("%u kernels, %u twins up to %s, seed %" PRIu64 ": %u failure%s\n", kernels, twins, mg_isa_name(mg_cpu_isa()),
           kt.seed, failures, failures == 1 ? "" : "s");
    return failures != 0;
}
