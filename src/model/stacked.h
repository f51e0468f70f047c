#ifndef MQ_MODEL_STACKED_H
#define MQ_MODEL_STACKED_H

#include "model/tensors.h"

/* Checkpoints that hold the experts of a block stacked: one tensor for all gates and ups, one for
 * all downs (mq_stack_names). A folder has an expert's linear either there or under its own name,
 * as this program writes packed ones; here is what the former takes. As MXFP4, in which gpt-oss is
 * published, a stack X is X_blocks U8 (n_experts, n_out, n_in / 32, 16) and X_scales U8 (n_experts,
 * n_out, n_in / 32), never transposed. Source: transformers, integrations/mxfp4.py. */

/** True for linears that such a checkpoint of the family has stacked. */
bool mq_stack_is_due(const mq_arch *arch, mq_linear_id linear);

/** The tensor of a block that holds a linear with those of the other experts, or its codes; NULL
 *  when there is none. */
const mq_tensor *mq_stack_find(const mq_folder *folder, const mq_arch *arch, mq_linear_id linear,
                               int64_t block);

/** Where a linear lies in its unpacked stack, or (packed) in its blocks. */
mq_stack_part mq_stack_part_of(const mq_arch *arch, mq_linear_id linear, bool packed);

/** Name and shape (n_experts, rows, columns) of the unpacked stack that a linear lies in. */
void mq_stack_shape(const mq_arch *arch, mq_linear_id linear, int64_t block,
                    char name[MQ_NAME_BYTES], int64_t dims[3]);

/** Name of the biases of a stack, (n_experts, rows); "" without. */
void mq_stack_bias_name(const mq_arch *arch, mq_linear_id linear, int64_t block,
                        char name[MQ_NAME_BYTES]);

/** mq_linear_find for a stacked linear. */
mq_status mq_stack_expect(const mq_folder *folder, const mq_arch *arch, mq_linear_id linear,
                          int64_t block, mq_linear_source *out);

/** The bytes of tensor `which` of a packed linear that are its own, or its expert's. */
void mq_stored_range(const mq_linear_source *source, int which, uint64_t *begin, size_t *bytes);

/** Rows [r0, r1) of a linear that is not packed: dst (r1 - r0, n_in). Not collective; one thread at
 *  a time. Cost: of a transposed stack, where they are more than an eighth of an expert's rows all
 *  of those are read, else a small piece of each of its columns. Errors: as mq_folder_read_rows. */
mq_status mq_linear_read_rows(mq_folder *folder, const mq_linear_source *source, int64_t r0,
                              int64_t r1, mq_dtype dtype, void *dst);

/** Part `rank` of `size` of a linear that is not packed, whichever lies together in the file, to
 *  its place in w (n_out, n_in) of type dtype. The rest likewise. */
mq_status mq_linear_read_part(mq_folder *folder, const mq_linear_source *source, int64_t n_out,
                              int rank, int size, mq_dtype dtype, void *w);

/** Where the bias of an expert's linear is: a row of a tensor (n_experts, rows), or one of its own.
 */
typedef struct mq_expert_bias {
    const mq_tensor *tensor;
    int64_t n_out;
    mq_stack_part stack;
} mq_expert_bias;

/** Not collective. Errors: MQ_E_INPUT naming expected and found shape. */
mq_status mq_expert_bias_find(const mq_folder *folder, const mq_arch *arch, mq_linear_id linear,
                              int64_t block, mq_expert_bias *out);

/** out (n_out). Not collective. Errors: as mq_folder_read_rows. */
mq_status mq_expert_bias_read(mq_folder *folder, const mq_expert_bias *bias, float *out);

#endif
