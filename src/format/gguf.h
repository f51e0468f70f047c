#ifndef MQ_FORMAT_GGUF_H
#define MQ_FORMAT_GGUF_H

#include "base/dtype.h"

#include <stdbool.h>

/* What llama.cpp makes of a tensor: the numbers of its types, blocks of 32 weights of a row, and
 * the order of the rows that rope turns in pairs.
 *
 *     Q4_0: f16 d, 16 bytes: weight i of the first half in the low, of the second in the high bits;
 *           w = d (code - 8)
 *     Q4_1: f16 d, f16 m, 16 bytes likewise; w = d code + m
 *     Q8_0: f16 d, 32 signed bytes; w = d code
 */

/** The number of a type in GGUF; false when llama.cpp has none or this program writes none. */
bool mq_gguf_type_number(mq_dtype dtype, uint32_t *number);

/** The type of that number; false when this program writes none. */
bool mq_gguf_type_find(uint32_t number, mq_dtype *dtype);

/** Row of a Hugging Face weight that lies at `row` in GGUF. A head has head_rows rows, of which
 * rope turns i and i + head_rows / 2 together; in GGUF those are neighbours. head_rows 0: as they
 * are.
 */
static inline int64_t mq_gguf_source_row(int64_t row, int64_t head_rows)
{
    if (head_rows == 0) return row;
    int64_t in_head = row % head_rows;
    return row - in_head + in_head % 2 * (head_rows / 2) + in_head / 2;
}

/** n rows, a multiple of head_rows, from the one order into the other. */
void mq_gguf_turn_rows(const void *rows, int64_t n, size_t row_bytes, int64_t head_rows, void *out);

/** Refuses a d or m among n blocks that is not finite. `name` and the block's number `first` are
 * for the message. Errors: MQ_E_INPUT. */
mq_status mq_gguf_check_blocks(mq_dtype dtype, const void *blocks, int64_t n, const char *name,
                               int64_t first);

#endif
