#ifndef MQ_PIPELINE_STACKS_H
#define MQ_PIPELINE_STACKS_H

#include "model/stacked.h"
#include "plan/scheme.h"
#include "store/writer.h"

/* What becomes of tensors of the source that hold the experts of a block stacked (model/stacked.h).
 * Formats pack layers one by one, so an expert becomes a module of its own there, under the name
 * that the descriptor has for it. A stack that is not packed stays a stack. */

typedef enum mq_stack_fate {
    MQ_STACK_NONE,      /* the linear is in no stack */
    MQ_STACK_STAYS,     /* nothing of it is quantised */
    MQ_STACK_REWRITTEN, /* unpacked, where the source has it or would: with quantised weights, or
                           those that were packed, in BF16 */
    MQ_STACK_MODULES /* each of its linears by itself, packed or as it was; its biases likewise */
} mq_stack_fate;

/** Of the stack that a linear is in. Not collective. Errors: MQ_E_USAGE where it would be rewritten
 *  and only some of it is quantised; those of mq_linear_find. */
mq_status mq_stack_fate_of(const mq_folder *source, const mq_scheme *scheme, int64_t block,
                           mq_linear_id linear, mq_stack_fate *out);

/** True for the linear that stands for its stack in walks over all: the first gate, or down. */
bool mq_stack_begins(mq_linear_id linear);

/** Whether two linears of experts of a block are in the same stack. */
bool mq_stack_holds(mq_linear_id one, mq_linear_id linear);

/** The type that what of a stack is not packed is written in: its own, BF16 where it was packed. */
mq_dtype mq_stack_dtype(const mq_tensor *stack);

/** Rows [r0, r1) of a linear to `out` (r1 - r0, n_in), in the type of the output. On any thread. */
typedef mq_status (*mq_stack_rows)(void *context, mq_linear_id linear, int64_t r0, int64_t r1,
                                   void *out);

/** Writes one expert's matrix of a stack: `linear` is any of its linears there. Each rank writes a
 *  part. Not collective. Cost: of a transposed stack every rank asks for all rows. */
mq_status mq_stack_write(const mq_comm *comm, mq_writer *writer, const mq_arch *arch, int64_t block,
                         mq_linear_id linear, mq_dtype dtype, mq_stack_rows rows, void *context);

/** Copies what of stacks that become modules is not packed: weights, and biases that keep their
 *  type. Dealt to ranks. Not collective. */
mq_status mq_stacks_copy(const mq_comm *comm, mq_folder *source, const mq_scheme *scheme,
                         mq_writer *writer);

#endif
