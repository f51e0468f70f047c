#include "pipeline/memory_settings.h"

#include "pipeline/row_work.h"
#include "pipeline/sampled_drift.h"
#include "pipeline/tap_result.h"
#include "solve/judge.h"

mq_status mq_memory_settings_make(const mq_scheme *scheme, const mq_quantize_options *options,
                                  const mq_solver_settings *solver, mq_memory_settings *out)
{
    *out = (mq_memory_settings){.distribute_above = options->distribute_above,
                                .n_streams = mq_settings_streams(solver),
                                .pass_blocks = MQ_PASS_BLOCKS,
                                .refine = solver->refine > 0,
                                .threads = options->threads,
                                .couple = solver->couple,
                                .halves = solver->measure_damping,
                                .drift_rows = solver->measure_alpha ? MQ_DRIFT_ROWS : 0,
                                .judged_group = solver->judge ? MQ_JUDGE_GROUP : 0};
    MQ_TRY(mq_tap_result_bytes_of_experts(scheme, &out->expert_codes));
    return mq_tap_result_bytes(scheme, &out->codes);
}
