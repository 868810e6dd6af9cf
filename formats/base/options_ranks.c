/* options_ranks.c - which rank of how many this process is: from the options, or from what launched it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/options.h"
#include "formats/base/outfile.h"

/* Variables that launchers set for every process they start. The first pair that is there counts: a launcher inside a
 * Slurm allocation sets its own beside Slurm's. */
static const struct {
    const char *rank, *world;
} launchers[] = {
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}, /* Open MPI */
    {"MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"},   /* MVAPICH */
    {"PMI_RANK", "PMI_SIZE"},                         /* MPICH, Intel MPI */
    {"PMIX_RANK", "PMIX_SIZE"},                       /* PMIx */
    {"PMIX_RANK", "SLURM_STEP_NUM_TASKS"},            /* srun --mpi=pmix */
    {"PMIX_RANK", "SLURM_NTASKS"},                    /* the same, older */
};

static mg_status number(const char *name, uint64_t *out, mg_error *err) {
    mg_error cause = {0};
    if (mg_parse_u64(getenv(name), out, &cause) == MG_OK) return MG_OK;
    return mg_fail(err, MG_ERR_USAGE, "%s in the environment: %s; give --rank and --world", name, cause.message);
}

static bool both(const char *a, const char *b) {
    return getenv(a) && getenv(b);
}

/* An array of jobs: COUNT tasks numbered from MIN in steps of STEP. */
static mg_status from_array(uint64_t *rank, uint64_t *world, mg_error *err) {
    uint64_t id, min = 0, step = 1;
    MG_TRY(number("SLURM_ARRAY_TASK_ID", &id, err));
    MG_TRY(number("SLURM_ARRAY_TASK_COUNT", world, err));
    if (getenv("SLURM_ARRAY_TASK_MIN")) MG_TRY(number("SLURM_ARRAY_TASK_MIN", &min, err));
    if (getenv("SLURM_ARRAY_TASK_STEP")) MG_TRY(number("SLURM_ARRAY_TASK_STEP", &step, err));
    if (step == 0 || id < min || (id - min) % step != 0 || (id - min) / step >= *world)
        return mg_fail(err, MG_ERR_USAGE,
                       "SLURM_ARRAY_TASK_ID=%llu does not follow from MIN, STEP and COUNT; give --rank and --world",
                       (unsigned long long)id);
    *rank = (id - min) / step;
    return MG_OK;
}

/* A batch script itself has SLURM_PROCID=0, too, but is no step: what it runs without srun is alone. */
static bool is_slurm_step(void) {
    return both("SLURM_PROCID", "SLURM_NTASKS") && (!getenv("SLURM_JOB_ID") || getenv("SLURM_STEP_ID"));
}

static mg_status from_environment(uint64_t *rank, uint64_t *world, const char **from, mg_error *err) {
    *from = NULL;
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        if (!both(launchers[i].rank, launchers[i].world)) continue;
        *from = launchers[i].rank;
        MG_TRY(number(launchers[i].rank, rank, err));
        return number(launchers[i].world, world, err);
    }
    if (is_slurm_step()) {
        *from = "SLURM_PROCID";
        MG_TRY(number("SLURM_PROCID", rank, err));
        MG_TRY(number("SLURM_NTASKS", world, err));
        if (*world > 1) return MG_OK;
    }
    if (both("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")) {
        *from = "SLURM_ARRAY_TASK_ID";
        return from_array(rank, world, err);
    }
    return MG_OK;
}

mg_status mg_common_ranks(mg_common *c, const mg_tool_info *tool, mg_error *err) {
    const bool rank_given = c->rank_asked != UINT64_MAX, world_given = c->world_asked != UINT64_MAX;
    uint64_t rank = c->rank_asked, world = c->world_asked;
    const char *from = NULL;
    if (rank_given != world_given)
        return mg_fail(err, MG_ERR_USAGE, "--rank and --world go together: %s is missing",
                       rank_given ? "--world" : "--rank");
    if (!rank_given) MG_TRY(from_environment(&rank, &world, &from, err));
    if (!rank_given && !from) {
        if (c->finalize) return mg_fail(err, MG_ERR_USAGE, "--finalize is for ranks: --rank I --world N");
        return MG_OK;
    }
    if (world < 1 || world > MG_RANKS_MAX)
        return mg_fail(err, MG_ERR_USAGE, "%llu ranks: expected 1 to %d", (unsigned long long)world, MG_RANKS_MAX);
    if (rank >= world)
        return mg_fail(err, MG_ERR_USAGE, "rank %llu of %llu: ranks count from 0", (unsigned long long)rank,
                       (unsigned long long)world);
    if (world == 1) return MG_OK; /* alone */
    c->rank = (uint32_t)rank;
    c->world = (uint32_t)world;
    if (from || !c->quiet)
        fprintf(stderr, "moegraft-%s: rank %u of %u (%s%s)\n", tool->name, c->rank, c->world, from ? "from " : "",
                from ? from : "--rank");
    return MG_OK;
}
