#include "ops/ops.h"

#include "base/parallel.h"
#include "ops/gemm_impl.h"
#include "ops/isa.h"

#include <cblas.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>

#ifdef MQ_WITH_DNNL
#include <oneapi/dnnl/dnnl.h>
#endif

/* From whichever OpenMP runtime oneDNN or OpenBLAS brought in; absent when neither did. Declared
 * here because clang has no omp.h without its own runtime. */
extern void omp_set_num_threads(int n) __attribute__((weak));

static void set_blas_threads(void)
{
    openblas_set_num_threads(1);
}

void mq_gemm_one_thread(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static _Thread_local bool done;
    if (done) return;
    pthread_once(&once, set_blas_threads);
    if (omp_set_num_threads) omp_set_num_threads(1); /* OpenMP counts threads per thread */
    done = true;
}

mq_status mq_ops_start(int n_threads, const char *isa_limit)
{
    MQ_TRY(mq_isa_limit(isa_limit));
    return mq_threads_start(n_threads, mq_gemm_one_thread);
}

void mq_ops_stop(void)
{
    mq_threads_stop();
    mq_scratch_free();
#ifdef MQ_WITH_DNNL
    mq_gemm_dnnl_stop();
#endif
}

const char *mq_ops_describe(void)
{
    static _Thread_local char text[256];
    char blas[64] = "OpenBLAS";
    int version_ends = 0;
    const char *config = openblas_get_config(); /* "OpenBLAS 0.3.21 NO_LAPACKE ..." */
    sscanf(config, "%*s %*s%n", &version_ends);
    if (version_ends > 0) snprintf(blas, sizeof blas, "%.*s", version_ends, config);
#ifdef MQ_WITH_DNNL
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, sizeof text, "oneDNN %d.%d.%d (%s), %s %s", v->major, v->minor, v->patch,
             mq_ops_isa(), blas, openblas_get_corename());
#else
    snprintf(text, sizeof text, "%s %s", blas, openblas_get_corename());
#endif
    return text;
}
