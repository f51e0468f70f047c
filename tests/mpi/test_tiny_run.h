#ifndef MQ_TEST_TINY_RUN_H
#define MQ_TEST_TINY_RUN_H

#include "harness.h"
#include "pipeline/run.h"

/* A run that stands at block 0 of a model of tests/data/tiny, with its weights read: for tests of
 * the steps of pipeline/run.h. */

/** options and comm must outlive the run. Collective; true on all ranks or on none. */
static inline bool tiny_run_open(mq_run *run, const mq_comm *comm,
                                 const mq_quantize_options *options, const char *name,
                                 mq_tap_id tap)
{
    char path[512];
    snprintf(path, sizeof path, "%s/tiny/%s", MQ_TEST_DATA, name);
    *run = (mq_run){.comm = comm, .options = options};
    mq_stream *stream = &run->stream[MQ_QUANTISED];
    mq_status status = mq_settings_solver(options, &run->solver);
    for (int l = 0; l <= MQ_HEAD; l++) run->alpha[l] = run->solver.alpha;
    if (status == MQ_OK) status = mq_arch_load(comm, path, &run->arch);
    if (status == MQ_OK) status = mq_folder_open(comm, path, &run->source);
    if (status == MQ_OK) status = mq_scheme_create(run->arch, options, &run->scheme);
    if (status == MQ_OK) status = mq_tap_result_create(comm, run->scheme, &run->result);
    if (status == MQ_OK) status = mq_tap_result_bind(run->result, run->scheme, 0, tap);
    if (status == MQ_OK) {
        status = mq_block_weights_create(comm, run->arch, MQ_BF16, &stream->weights);
    }
    if (status == MQ_OK) status = mq_block_weights_read(comm, run->source, 0, stream->weights);
    return CHECK_ALL(status == MQ_OK);
}

/** Collective. */
static inline void tiny_run_close(mq_run *run)
{
    mq_rope_mean_destroy(&run->rope_mean);
    mq_block_weights_destroy(&run->stream[MQ_QUANTISED].weights);
    mq_tap_result_destroy(&run->result);
    mq_scheme_destroy(&run->scheme);
    mq_folder_close(&run->source);
    mq_arch_destroy(&run->arch);
}

#endif
