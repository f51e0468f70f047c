#include "base/dtype.h"

#include "base/clones.h"

#include <string.h>

static const struct {
    const char *name;
    int bits;
} types[MQ_N_DTYPES] = {
    [MQ_BOOL] = {"BOOL", 8},       [MQ_U8] = {"U8", 8},           [MQ_I8] = {"I8", 8},
    [MQ_F8_E4M3] = {"F8_E4M3", 8}, [MQ_F8_E5M2] = {"F8_E5M2", 8}, [MQ_F8_E8M0] = {"F8_E8M0", 8},
    [MQ_F4] = {"F4", 4},           [MQ_F6_E2M3] = {"F6_E2M3", 6}, [MQ_F6_E3M2] = {"F6_E3M2", 6},
    [MQ_I16] = {"I16", 16},        [MQ_U16] = {"U16", 16},        [MQ_F16] = {"F16", 16},
    [MQ_BF16] = {"BF16", 16},      [MQ_I32] = {"I32", 32},        [MQ_U32] = {"U32", 32},
    [MQ_F32] = {"F32", 32},        [MQ_I64] = {"I64", 64},        [MQ_U64] = {"U64", 64},
    [MQ_F64] = {"F64", 64},        [MQ_C64] = {"C64", 64},        [MQ_Q4_0] = {"Q4_0", 18 * 8},
    [MQ_Q4_1] = {"Q4_1", 20 * 8},  [MQ_Q8_0] = {"Q8_0", 34 * 8},
};

int mq_dtype_bits(mq_dtype dtype)
{
    return types[dtype].bits;
}

size_t mq_dtype_size(mq_dtype dtype)
{
    return (size_t)types[dtype].bits / 8;
}

const char *mq_dtype_name(mq_dtype dtype)
{
    return types[dtype].name;
}

_Bool mq_dtype_parse(const char *name, size_t length, mq_dtype *out)
{
    for (int i = 0; i < MQ_N_SAFETENSORS_DTYPES; i++) {
        if (strlen(types[i].name) == length && memcmp(types[i].name, name, length) == 0) {
            *out = (mq_dtype)i;
            return 1;
        }
    }
    return 0;
}

/* Both ways are computed and masks take one, without a branch, so that loops vectorise; no operand
 * is subnormal, which some processors are slow at. */
static inline float widen_half(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h & 0x7C00u, rest = h & 0x3FFu;
    uint32_t is_small = 0u - (exponent == 0), is_special = 0u - (exponent == 0x7C00u);
    union {
        uint32_t u;
        float f;
    } x, small = {.f = (float)(int32_t)rest * 0x1p-24f};
    uint32_t normal = ((uint32_t)(h & 0x7FFFu) << 13) + 0x38000000u + (is_special & 0x38000000u);
    x.u = sign | (is_small & small.u) | (~is_small & normal);
    return x.f;
}

float mq_f16_to_f32(uint16_t h)
{
    return widen_half(h);
}

uint16_t mq_f32_to_f16(float f)
{
    union {
        float f;
        uint32_t u;
    } x = {.f = f};
    uint32_t sign = (x.u >> 16) & 0x8000u, magnitude = x.u & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return (uint16_t)(sign | 0x7E00u);
    if (magnitude >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u); /* >= 65520 rounds to inf */
    if (magnitude < 0x38800000u) {
        /* Subnormal half: adding 0.5 puts the rounding at 2^-24, done by the hardware. */
        union {
            uint32_t u;
            float f;
        } y = {.u = magnitude};
        y.f += 0.5f;
        return (uint16_t)(sign | (y.u - 0x3F000000u));
    }
    uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

MQ_CLONES static void vec_widen_halves(const uint16_t *h, int64_t n, float *dst)
{
    for (int64_t i = 0; i < n; i++) dst[i] = widen_half(h[i]);
}

mq_status mq_to_f32(const void *src, mq_dtype dtype, int64_t n, float *dst)
{
    const uint16_t *h = src;
    const double *d = src;
    switch (dtype) {
    case MQ_F32:
        memcpy(dst, src, (size_t)n * sizeof *dst);
        return MQ_OK;
    case MQ_BF16:
        for (int64_t i = 0; i < n; i++) dst[i] = mq_bf16_to_f32(h[i]);
        return MQ_OK;
    case MQ_F16:
        vec_widen_halves(h, n, dst);
        return MQ_OK;
    case MQ_F64:
        for (int64_t i = 0; i < n; i++) dst[i] = (float)d[i];
        return MQ_OK;
    default:
        return mq_fail(MQ_E_INPUT, "%s is not a type of weights", mq_dtype_name(dtype));
    }
}

mq_status mq_from_f32(const float *src, int64_t n, mq_dtype dtype, void *dst)
{
    uint16_t *h = dst;
    switch (dtype) {
    case MQ_F32:
        memcpy(dst, src, (size_t)n * sizeof *src);
        return MQ_OK;
    case MQ_BF16:
        for (int64_t i = 0; i < n; i++) h[i] = mq_f32_to_bf16(src[i]);
        return MQ_OK;
    case MQ_F16:
        for (int64_t i = 0; i < n; i++) h[i] = mq_f32_to_f16(src[i]);
        return MQ_OK;
    default:
        return mq_fail(MQ_E_INPUT, "cannot store weights as %s", mq_dtype_name(dtype));
    }
}
