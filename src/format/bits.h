#ifndef MQ_FORMAT_BITS_H
#define MQ_FORMAT_BITS_H

#include <stdint.h>

/* Codes of b bits as one stream, lowest bit first, cut into little-endian 32-bit words: code k
 * takes the bits [k b, k b + b). Any 32 codes fill b words; for 3 bits the codes 10 and 21 of them
 * straddle two words. */

enum { MQ_MAX_BITS = 8 };

/** Words that hold n codes. */
int64_t mq_bits_words(int64_t n, int bits);

/** n codes, one a byte, into words, the last 32 filled up with zeros: writes a multiple of `bits`
 *  words. bits: 2, 3, 4 or 8. */
void mq_bits_pack(const uint8_t *codes, int64_t n, int bits, uint32_t *words);

/** Code i of a stream whose word w lies at words[w * stride]. */
static inline uint32_t mq_bits_code(const uint32_t *words, int64_t stride, int64_t i, int bits)
{
    int64_t word = i / 32 * bits + i % 32 * bits / 32;
    int shift = (int)(i % 32 * bits % 32);
    uint64_t both = words[word * stride];
    if (shift + bits > 32) both |= (uint64_t)words[(word + 1) * stride] << 32;
    return (uint32_t)(both >> shift) & ((1u << bits) - 1u);
}

#endif
