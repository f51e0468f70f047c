#ifndef MQ_BASE_DTYPE_H
#define MQ_BASE_DTYPE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/** The element types of the safetensors format, under its names; then those of GGUF whose element
 * is a block of MQ_BLOCK_WEIGHTS weights of a row. */
typedef enum mq_dtype {
    MQ_BOOL,
    MQ_U8,
    MQ_I8,
    MQ_F8_E4M3,
    MQ_F8_E5M2,
    MQ_F8_E8M0,
    MQ_F4,
    MQ_F6_E2M3,
    MQ_F6_E3M2,
    MQ_I16,
    MQ_U16,
    MQ_F16,
    MQ_BF16,
    MQ_I32,
    MQ_U32,
    MQ_F32,
    MQ_I64,
    MQ_U64,
    MQ_F64,
    MQ_C64,
    MQ_Q4_0,
    MQ_Q4_1,
    MQ_Q8_0,
    MQ_N_DTYPES,
    MQ_N_SAFETENSORS_DTYPES = MQ_Q4_0
} mq_dtype;

enum { MQ_BLOCK_WEIGHTS = 32 };

/** Weights in one element: MQ_BLOCK_WEIGHTS for blocks, else 1. */
static inline int mq_dtype_weights(mq_dtype dtype)
{
    return dtype >= MQ_N_SAFETENSORS_DTYPES ? MQ_BLOCK_WEIGHTS : 1;
}

/** Bits of one element (4 and 6 for the sub-byte types). */
int mq_dtype_bits(mq_dtype dtype);

/** Bytes of one element of a whole-byte type. */
size_t mq_dtype_size(mq_dtype dtype);

const char *mq_dtype_name(mq_dtype dtype);

/** The safetensors type of that exact name; false when there is none. */
_Bool mq_dtype_parse(const char *name, size_t length, mq_dtype *out);

/** bf16 bits to f32: exact. */
static inline float mq_bf16_to_f32(uint16_t b)
{
    union {
        uint32_t u;
        float f;
    } x = {.u = (uint32_t)b << 16};
    return x.f;
}

/** f32 to bf16 bits, to nearest even; NaN stays NaN. Branch-free, so that loops vectorise. */
static inline uint16_t mq_f32_to_bf16(float f)
{
    union {
        float f;
        uint32_t u;
    } x = {.f = f};
    uint32_t rounded = x.u + 0x7FFFu + ((x.u >> 16) & 1u);
    uint32_t quiet = x.u | 0x00400000u;
    uint32_t bits = (x.u & 0x7FFFFFFFu) > 0x7F800000u ? quiet : rounded;
    return (uint16_t)(bits >> 16);
}

/** IEEE half bits to f32 (exact), and f32 to the nearest half (ties to even; overflow to inf). */
float mq_f16_to_f32(uint16_t h);
uint16_t mq_f32_to_f16(float f);

/** n elements of F32, BF16, F16 or F64 to f32. Not collective.
 *  Errors: MQ_E_INPUT for another type. */
mq_status mq_to_f32(const void *src, mq_dtype dtype, int64_t n, float *dst);

/** n f32 to F32, BF16 or F16, to nearest even. Errors: MQ_E_INPUT for another type. */
mq_status mq_from_f32(const float *src, int64_t n, mq_dtype dtype, void *dst);

#endif
