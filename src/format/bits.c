#include "format/bits.h"

#include "base/checked.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "checkpoints are little-endian");

int64_t mq_bits_words(int64_t n, int bits)
{
    return n / 32 * bits + mq_ceil_div(n % 32 * bits, 32);
}

/* Eight codes, one per byte, to 8 b bits: neighbours are moved together in lanes of 16, 32 and 64
 * bits. Eight codes are b whole bytes of the stream. Inlined with constant `bits`. */
static inline uint64_t squeeze_8(uint64_t x, int bits)
{
    const uint64_t lane_16 = 0x0001000100010001u * ((UINT64_C(1) << 2 * bits) - 1);
    const uint64_t lane_32 = 0x0000000100000001u * ((UINT64_C(1) << 4 * bits) - 1);
    x = (x | x >> (8 - bits)) & lane_16;
    x = (x | x >> (16 - 2 * bits)) & lane_32;
    return x | x >> (32 - 4 * bits);
}

static inline void pack_eights(const uint8_t *codes, int64_t times, int bits, uint8_t *bytes)
{
    for (int64_t i = 0; i < times; i++) {
        uint64_t x = 0;
        memcpy(&x, codes + i * 8, 8);
        x = squeeze_8(x, bits);
        memcpy(bytes + i * bits, &x, (size_t)bits);
    }
}

static void pack_many(const uint8_t *codes, int64_t times, int bits, uint32_t *words)
{
    uint8_t *bytes = (uint8_t *)words;
    switch (bits) {
    case 2:
        pack_eights(codes, times, 2, bytes);
        break;
    case 3:
        pack_eights(codes, times, 3, bytes);
        break;
    case 4:
        pack_eights(codes, times, 4, bytes);
        break;
    default:
        memcpy(bytes, codes, (size_t)times * 8);
        break;
    }
}

void mq_bits_pack(const uint8_t *codes, int64_t n, int bits, uint32_t *words)
{
    pack_many(codes, n / 32 * 4, bits, words);
    if (n % 32 != 0) {
        uint8_t last[32] = {0};
        memcpy(last, codes + n / 32 * 32, (size_t)(n % 32));
        pack_many(last, 4, bits, words + n / 32 * bits);
    }
}
