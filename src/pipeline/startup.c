#define _GNU_SOURCE /* sched_getaffinity */
#include "pipeline/startup.h"

#include "base/hash.h"
#include "base/log.h"
#include "ops/ops.h"
#include "par/collectives.h"

#include <sched.h>
#include <string.h>

enum { MAX_THREADS = 4096 };

static void warn_when_pinned(int threads)
{
    cpu_set_t mask;
    CPU_ZERO(&mask);
    if (sched_getaffinity(0, sizeof mask, &mask) != 0) return;
    int cores = CPU_COUNT(&mask);
    if (cores >= threads) return;
    mq_warn(
        "%d threads a rank, but each rank may use %d core%s only: give mpirun --bind-to none or "
        "--map-by slot:PE=%d, or srun --cpus-per-task=%d",
        threads, cores, cores == 1 ? "" : "s", threads, threads);
}

static mq_status check_same_kernels(const mq_comm *comm)
{
    const char *mine = mq_ops_describe();
    int64_t low = (int64_t)(mq_hash(mine, strlen(mine)) >> 1), high = low;
    MQ_TRY(mq_lowest_i64(comm, &low, 1));
    MQ_TRY(mq_highest_i64(comm, &high, 1));
    if (low == high) return MQ_OK;
    return mq_agree(comm, mq_fail(MQ_E_USAGE,
                                  "the ranks run on different CPUs and would compute different "
                                  "bits (%s here): use nodes of one kind, or set "
                                  "OPENBLAS_CORETYPE and DNNL_MAX_CPU_ISA alike on all of them",
                                  mine));
}

mq_status mq_start_kernels(const mq_comm *comm, int threads)
{
    int64_t level = mq_ops_isa_level(mq_ops_isa());
    if (threads < 1 || threads > MAX_THREADS) {
        return mq_fail(MQ_E_USAGE, "--threads %d: 1 to %d", threads, MAX_THREADS);
    }
    warn_when_pinned(threads);
    mq_status status = mq_lowest_i64(comm, &level, 1);
    if (status == MQ_OK) {
        status =
            mq_agree(comm, mq_ops_start(threads, level < 0 ? "" : mq_ops_isa_name((int)level)));
    }
    if (status == MQ_OK) status = check_same_kernels(comm);
    return status;
}

void mq_stop_kernels(void)
{
    mq_ops_stop();
}
