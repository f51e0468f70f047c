#ifndef MQ_FORMAT_FORMAT_H
#define MQ_FORMAT_FORMAT_H

#include "format/stored.h"

#include <stdbool.h>

/* What a checkpoint format makes of a linear layer: which tensors, and their bytes. Packing only:
 * no I/O, no ranks. */

enum { MQ_MAX_PARTS = 5 };

/** What the tensors of a packed layer depend on besides its codes. */
typedef struct mq_layer_shape {
    int64_t n_out, n_in;
    int64_t group; /* columns per scale; divides n_in */
    int bits;
    bool zero_points;
    mq_dtype dtype;    /* of the weight in the source: F16, BF16 or F32 */
    int64_t head_rows; /* q and k where the output wants the rows that rope turns together side by
                          side: rows of a head; else 0 */
} mq_layer_shape;

/** A layer as the solver left it: w = scale * (code - zero). */
typedef struct mq_layer_codes {
    mq_layer_shape shape;
    const uint8_t *codes;      /* (n_out, n_in), in [0, 2^bits - 1] */
    const float *scales;       /* (n_out, n_in / group), on the format's grid */
    const uint8_t *zeros;      /* the same shape; NULL: 2^(bits-1) throughout */
    const float *largest;      /* (n_in / group) of square scales (base/squares.h), else NULL */
    const float *column_scale; /* (n_in) s of scaled columns: codes and scales are those of
                                  W diag(1/s); NULL: they are not scaled */
} mq_layer_codes;

/** One tensor of a packed layer. */
typedef struct mq_part {
    const char *suffix; /* its name is MODULE.suffix */
    mq_dtype dtype;
    int n_dims;
    int64_t dim[2];
    int64_t step; /* rows (of the first dimension) are packed in multiples of so many */
} mq_part;

/** The numbers that scales may be. */
typedef enum mq_scale_form {
    MQ_SCALES_F16,
    MQ_SCALES_AS_SOURCE, /* of the type of the source's weights; F32: BF16 */
    MQ_SCALES_SHORT,     /* F16, with zero points of 7 significant bits only */
    MQ_SCALES_SQUARES    /* base/squares.h */
} mq_scale_form;

/** Where the powers of two go that columns were scaled by. */
typedef enum mq_columns_form {
    MQ_COLUMNS_IN_NORMS,   /* into the weights of the norm before the layer: packed layers stay as
                              they are */
    MQ_COLUMNS_IN_WEIGHTS, /* back into the layer's weights */
    MQ_COLUMNS_NEVER       /* they are not scaled */
} mq_columns_form;

typedef struct mq_format {
    const char *name;    /* for --format */
    mq_packed_form form; /* how its layers are read again; NONE: they are not packed */
    bool half_biases;    /* biases of packed layers become F16; else they stay as they are */
    mq_scale_form scales;
    mq_columns_form columns;
    bool gguf;     /* one file model.gguf, with llama.cpp's names; else safetensors */
    int64_t group; /* the group size it is made for; 0: any */
    /** The layer's tensors, the one with the codes first; returns how many. */
    int (*parts)(const mq_layer_shape *shape, mq_part out[MQ_MAX_PARTS]);
    /** Rows [r0, r1) of a part, as the file has them; r0 is a multiple of its step, and so is r1
     * but at the end. Errors: MQ_E_MEMORY. */
    mq_status (*pack)(const mq_layer_codes *layer, int part, int64_t r0, int64_t r1, void *out);
    /** Why a layer cannot be written so, into `why`; false when it can. NULL: all can. */
    bool (*refuses)(const mq_layer_shape *shape, char *why, size_t bytes);
} mq_format;

extern const mq_format mq_format_gptq, mq_format_gptq_v2, mq_format_compressed, mq_format_exl2,
    mq_format_dense, mq_format_gguf;

/** All of them, NULL at the end. */
extern const mq_format *const mq_formats[];

/** NULL when there is none of that name. zero_points: "gptq" is then gptq_v2, since v1 has no room
 * for a zero point of 0. */
const mq_format *mq_format_find(const char *name, bool zero_points);

#endif
