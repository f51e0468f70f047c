#ifndef MQ_PIPELINE_STARTUP_H
#define MQ_PIPELINE_STARTUP_H

#include "par/comm.h"

/** Starts the kernels with `threads` threads on the narrowest instruction set of all ranks, so
 *  that every rank computes the same bits. Warns when this rank may not run on that many cores.
 *  Collective. Errors, same everywhere: MQ_E_USAGE: fewer than one thread, or ranks whose CPUs make
 *  their BLAS choose different kernels. */
mq_status mq_start_kernels(const mq_comm *comm, int threads);

/** Opposite of mq_start_kernels. */
void mq_stop_kernels(void);

#endif
