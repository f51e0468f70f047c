/* Packed layers whose numbers and tensors are anything, in buffers of just their size. */
#include "format/bits.h"
#include "format/stored.h"
#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return 0;
}

/* The next bytes of the input, repeated: a tensor of that size. */
static void *tensor(fuzz_input *in, int64_t bytes)
{
    char *out = malloc(bytes > 0 ? (size_t)bytes : 1);
    size_t n = in->size < 64 ? in->size : 64;
    FUZZ_CHECK(out);
    for (int64_t i = 0; i < bytes; i++) out[i] = n > 0 ? (char)in->data[(size_t)i % n] : 0;
    in->data += n / 2;
    in->size -= n / 2;
    return out;
}

static void check(const mq_stored_layer *layer, int64_t n_out, int64_t n_in)
{
    float *w = malloc((size_t)(n_out * n_in) * sizeof *w);
    FUZZ_CHECK(w);
    mq_stored_is_symmetric(layer);
    bool good = mq_stored_dequantise(layer, "fuzz", 0, n_out, w) == MQ_OK;
    for (int64_t i = 0; i < n_out * n_in && good; i++) FUZZ_CHECK(w[i] - w[i] == 0);
    bool checked = layer->form != MQ_PACKED_FP8; /* which is refused there */
    FUZZ_CHECK((mq_stored_check(layer, "fuzz") == MQ_OK) == (good && checked));
    free(w);
}

static void fuzz_fp8(fuzz_input *in)
{
    int64_t n_out = 1 + (int64_t)fuzz_take(in, 1) % 80, n_in = 1 + (int64_t)fuzz_take(in, 1);
    int64_t rows = 1 + (int64_t)fuzz_take(in, 1), columns = 1 + (int64_t)fuzz_take(in, 1);
    mq_dtype dtype = fuzz_take(in, 1) % 2 ? MQ_F32 : MQ_BF16;
    int64_t n_scales = ((n_out + rows - 1) / rows) * ((n_in + columns - 1) / columns);
    uint8_t *codes = tensor(in, n_out * n_in);
    void *scales = tensor(in, n_scales * (int64_t)mq_dtype_size(dtype));
    mq_stored_layer layer = {.form = MQ_PACKED_FP8,
                             .fp8 = {codes, scales, dtype, n_out, n_in, rows, columns}};
    check(&layer, n_out, n_in);
    free(codes);
    free(scales);
}

static void fuzz_mxfp4(fuzz_input *in)
{
    int64_t n_out = 1 + (int64_t)fuzz_take(in, 1) % 80, blocks = 1 + (int64_t)fuzz_take(in, 1) % 9;
    int64_t n_in = blocks * MQ_MXFP4_BLOCK;
    uint8_t *codes = tensor(in, n_out * n_in / 2), *scale = tensor(in, n_out * blocks);
    mq_stored_layer layer = {.form = MQ_PACKED_MXFP4,
                             .mxfp4 = {codes, scale, n_out, n_in, .step = 1}};
    check(&layer, n_out, n_in);
    free(codes);
    free(scale);
}

/* Tables that make sense of one width, some of whose numbers may be replaced by any. */
static void fuzz_exl2(fuzz_input *in)
{
    static const uint16_t widths[] = {2, 3, 4, 5, 6, 8, 7, 0};
    uint16_t bits = widths[fuzz_take(in, 1) % 8];
    int64_t n_out = 1 + (int64_t)fuzz_take(in, 1) % 80, groups = 1 + (int64_t)fuzz_take(in, 1) % 9;
    int64_t rows = 16 * (1 + (int64_t)fuzz_take(in, 1) % 8), n_in = groups * rows;
    int64_t columns = mq_exl2_columns(n_out), each = mq_bits_words(rows, bits);
    uint16_t *table = tensor(in, 4 * groups), *largest = tensor(in, 2 * groups);
    int32_t *invperm = tensor(in, 4 * n_in);
    uint64_t any = fuzz_take(in, 1);
    for (int64_t g = 0; g < groups && !(any & 1); g++) {
        table[2 * g] = bits;
        table[2 * g + 1] = (uint16_t)(g * each);
    }
    for (int64_t k = 0; k < n_in && !(any & 2); k++) invperm[k] = (int32_t)(n_in - 1 - k);
    if (any & 4) table[fuzz_take(in, 1) % (uint64_t)(2 * groups)] = (uint16_t)fuzz_take(in, 2);
    void *weight = tensor(in, 4 * groups * each * columns);
    void *scale = tensor(in, groups * columns / 2);
    mq_stored_layer layer = {.form = MQ_PACKED_EXL2,
                             .exl2 = {.weight = weight,
                                      .scale = scale,
                                      .invperm = invperm,
                                      .groups = table,
                                      .scale_max = largest,
                                      .n_out = n_out,
                                      .n_in = n_in,
                                      .n_groups = groups,
                                      .n_words = groups * each}};
    check(&layer, n_out, n_in);
    free(table);
    free(largest);
    free(invperm);
    free(weight);
    free(scale);
}

/* GPTQ, or compressed-tensors' integers. */
static void fuzz_integers(fuzz_input *in)
{
    static const int widths[] = {2, 3, 4, 8};
    int bits = widths[fuzz_take(in, 1) % 4];
    int64_t n_out = 1 + (int64_t)fuzz_take(in, 1) % 80, groups = 1 + (int64_t)fuzz_take(in, 1) % 9;
    int64_t n_in = groups * (1 + (int64_t)fuzz_take(in, 1) % 40);
    uint64_t form = fuzz_take(in, 1);
    bool gptq = form % 2 == 0;
    int64_t along_in = mq_bits_words(n_in, bits), along_out = mq_bits_words(n_out, bits);
    void *codes = tensor(in, 4 * (gptq ? along_in * n_out : n_out * along_in));
    void *zeros = tensor(in, 4 * groups * along_out), *scales = tensor(in, 2 * groups * n_out);
    int32_t *g_idx = tensor(in, 4 * n_in);
    if (form & 2) {
        for (int64_t k = 0; k < n_in; k++) g_idx[k] = (int32_t)((uint32_t)g_idx[k] % groups);
    }
    mq_stored_layer layer = {.form = MQ_PACKED_GPTQ};
    if (gptq) {
        layer.gptq =
            (mq_gptq_layer){codes, zeros, scales, g_idx, n_out, n_in, groups, bits, form >> 2 & 1};
    } else {
        layer.form = MQ_PACKED_COMPRESSED;
        layer.compressed = (mq_compressed_layer){
            codes,  scales, form & 2 ? MQ_F16 : MQ_BF16, form & 4 ? zeros : NULL, n_out, n_in,
            groups, bits};
    }
    check(&layer, n_out, n_in);
    free(codes);
    free(zeros);
    free(scales);
    free(g_idx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const forms[])(fuzz_input *) = {fuzz_fp8, fuzz_exl2, fuzz_integers, fuzz_mxfp4};
    fuzz_input in = {data, size};
    forms[fuzz_take(&in, 1) % 4](&in);
    return 0;
}
