#ifndef MQ_OPS_OPS_H
#define MQ_OPS_OPS_H

#include "base/status.h"

#include <stdbool.h>

/* Kernels. No MPI, no files; they borrow buffers and allocate nothing but thread scratch. Threads
 * are used inside (base/parallel.h), with task boundaries that depend on shapes alone, so the bits
 * of a result depend on neither threads nor ranks. "Activation" buffers are BF16 or F32; the
 * arithmetic between load and store is f32. */

/** Scratch slots (base/parallel.h) from this one on belong to the kernels; callers may keep their
 *  own data in the ones before it across a call. */
enum { MQ_OPS_FIRST_SCRATCH = 5 };

/** Prepares the kernels and starts n_threads threads: one BLAS thread and one OpenMP thread in
 *  each. isa_limit is "" or a oneDNN name ("avx512_core_bf16", "avx2", ...) that all ranks agreed
 *  on. Call before any other kernel; again after mq_ops_stop to change n_threads, but the
 *  instruction set stays what it was first.
 *  Errors: MQ_E_USAGE for an unknown name; MQ_E_INTERNAL when isa_limit comes too late. */
mq_status mq_ops_start(int n_threads, const char *isa_limit);
void mq_ops_stop(void);

/** The widest instruction set of this CPU that the kernels would use, a oneDNN name; "default"
 *  without oneDNN. May be asked before mq_ops_start, for the agreement of ranks. */
const char *mq_ops_isa(void);
/** Orders oneDNN names from narrow to wide, for the agreement of ranks: -1 when unknown. */
int mq_ops_isa_level(const char *isa);
const char *mq_ops_isa_name(int level);

/** True when BF16 products run in BF16 here; otherwise they are converted and run in F32. */
bool mq_ops_has_bf16(void);

/** "oneDNN 2.6.3 (avx512_core_bf16), OpenBLAS 0.3.21 SkylakeX" for --version and the report. */
const char *mq_ops_describe(void);

#endif
