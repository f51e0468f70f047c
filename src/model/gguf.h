#ifndef MQ_MODEL_GGUF_H
#define MQ_MODEL_GGUF_H

#include "format/gguf_pairs.h"
#include "model/arch.h"

/* A family as llama.cpp knows it: what its tensors are called there, and what of it has no form.
 * The facts of a family are in the member "gguf" of its descriptor. */

/** A tensor's place in GGUF. */
typedef struct mq_gguf_place {
    char name[MQ_GGUF_NAME_LIMIT];
    bool vector;       /* a norm or a bias: F32 */
    int64_t head_rows; /* as in mq_gguf_source_row */
} mq_gguf_place;

/** The place of a tensor of the source, or of one called like it ("MODULE.weight" of a packed
 *  layer); false for one that has none: it is ignored, or the head of a tied model. */
bool mq_gguf_find_place(const mq_arch *arch, const char *name, mq_gguf_place *out);

/** head_rows of a linear's weight and bias. */
int64_t mq_gguf_head_rows(const mq_arch *arch, mq_linear_id linear);

/** Errors: MQ_E_USAGE naming what of the model llama.cpp does not compute, and what to do. */
mq_status mq_gguf_check(const mq_arch *arch);

/** What rope's frequency i is divided by: 1, or the factor of Llama 3's scaling. */
float mq_gguf_rope_factor(const mq_arch *arch, int64_t i);

#endif
