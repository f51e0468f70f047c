#ifndef MQ_MODEL_TENSORS_H
#define MQ_MODEL_TENSORS_H

#include "model/arch.h"
#include "store/folder.h"

/* Which tensors of a folder make up a block, with their shapes checked. */

enum { MQ_NAME_BYTES = MQ_ARCH_NAME + 64 }; /* a name with its block number and a suffix */

/** The tensor of that name, of that shape and of a floating-point type.
 *  Errors: MQ_E_INPUT naming expected and found shape. */
mq_status mq_tensor_expect(const mq_folder *folder, const char *name, int n_dims,
                           const int64_t *dims, const mq_tensor **out);

/** The same of one type. */
mq_status mq_tensor_expect_type(const mq_folder *folder, const char *name, int n_dims,
                                const int64_t *dims, mq_dtype dtype, const mq_tensor **out);

/* The small tensors of a block, which are never quantised: norms, sinks of attention, biases, the
 * router, what linear attention has beside its large layers. */
typedef enum mq_vector_id {
    MQ_VECTOR_ATTN_NORM,
    MQ_VECTOR_MLP_NORM,
    MQ_VECTOR_O_NORM,
    MQ_VECTOR_DOWN_NORM,
    MQ_VECTOR_Q_NORM,
    MQ_VECTOR_K_NORM,
    MQ_VECTOR_Q_LORA_NORM,
    MQ_VECTOR_KV_LORA_NORM,
    MQ_N_VECTOR_NORMS,
    MQ_VECTOR_NORM_BIAS = MQ_N_VECTOR_NORMS, /* + the norm's, one of the first four */
    MQ_VECTOR_SINKS = MQ_VECTOR_NORM_BIAS + MQ_VECTOR_Q_NORM,
    MQ_VECTOR_ROUTER,
    MQ_VECTOR_ROUTER_BIAS,
    MQ_VECTOR_CORRECTION,
    MQ_VECTOR_SHARED_WEIGHT,
    MQ_VECTOR_DELTA_CONV,
    MQ_VECTOR_DELTA_A_LOG,
    MQ_VECTOR_DELTA_DT_BIAS,
    MQ_VECTOR_DELTA_NORM,
    MQ_VECTOR_DELTA_B,
    MQ_VECTOR_DELTA_A,
    MQ_VECTOR_BIAS, /* + linear */
    MQ_N_VECTORS = MQ_VECTOR_BIAS + MQ_N_LINEARS
} mq_vector_id;

typedef struct mq_vector {
    int id;
    char name[MQ_NAME_BYTES];
    int n_dims;
    int64_t dim[3];
    int64_t count;
} mq_vector;

/** The tensor of a vector; one more dimension of 1 in front is taken too. Errors: MQ_E_INPUT. */
mq_status mq_vector_find(const mq_folder *folder, const mq_vector *vector, const mq_tensor **out);

/** Those that the arch has; returns how many. */
int mq_arch_vectors(const mq_arch *arch, int64_t block, mq_vector out[MQ_N_VECTORS]);

/* How a linear is stored: as one weight, or packed. MQ_STORED_EXTRA: g_idx of GPTQ, weight_shape of
 * compressed-tensors, which leaves out MQ_STORED_ZEROS of symmetric layers; of FP8 and MXFP4 the
 * scale of its inputs, which is not used, if there is one, and no MQ_STORED_ZEROS; q_invperm of
 * EXL2, which alone has the last two, and no MQ_STORED_ZEROS. */
enum {
    MQ_STORED_CODES,
    MQ_STORED_ZEROS,
    MQ_STORED_SCALES,
    MQ_STORED_EXTRA,
    MQ_STORED_GROUPS,
    MQ_STORED_SCALE_MAX,
    MQ_N_STORED
};

/** Where a linear lies in a tensor that holds those of all experts of a block, as a row of matrices
 *  (rows, n_in), or (n_in, rows) where it is transposed. */
typedef struct mq_stack_part {
    int64_t n_experts; /* 0: it is not in such a tensor */
    int64_t expert;    /* the matrix, */
    int64_t rows;
    int64_t first, step; /* of which row r of the linear is row first + step r */
    bool transposed;
} mq_stack_part;

typedef struct mq_linear_source {
    const mq_tensor *weight;              /* NULL when packed */
    const mq_tensor *packed[MQ_N_STORED]; /* NULL when not */
    mq_packed_form form;
    int bits; /* EXL2: the average of its groups, rounded down */
    int64_t n_groups;
    int64_t fp8_block[2]; /* rows and columns that share a scale */
    int64_t n_in;
    mq_stack_part stack;
} mq_linear_source;

/** Finds the tensors of a linear, by its own name or else stacked (model/stacked.h), and checks
 * their shapes and types. Errors: MQ_E_INPUT. */
mq_status mq_linear_find(const mq_folder *folder, const mq_arch *arch, mq_linear_id linear,
                         int64_t block, mq_linear_source *out);

/** The layer that packed tensors make up, their bytes at at[]. zero_offset: of GPTQ. */
void mq_linear_stored(const mq_linear_source *source, int zero_offset, int64_t n_out, int64_t n_in,
                      const char *const at[MQ_N_STORED], mq_stored_layer *out);

/** Part `rank` of `size` of n things: *begin, *end. */
static inline void mq_even_part(int64_t n, int rank, int size, int64_t *begin, int64_t *end)
{
    int64_t each = n / size, left = n % size;
    *begin = each * rank + (rank < left ? rank : left);
    *end = *begin + each + (rank < left);
}

#endif
