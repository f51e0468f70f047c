#include "pipeline/gguf_header.h"

#include "base/checked.h"
#include "base/memory.h"
#include "par/collectives.h"
#include "pipeline/gguf_tokenizer.h"

#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 256, QUANTISATION_VERSION = 2 };

/* What llama.cpp calls files whose weights are mostly of one type. */
enum { MOSTLY_Q4_0 = 2, MOSTLY_Q4_1 = 3, MOSTLY_Q8_0 = 7 };

/* The last part of the model's path. */
static void add_name(mq_gguf_pairs *pairs, const char *path)
{
    char name[NAME_BYTES];
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    snprintf(name, sizeof name, "%.*s", (int)(end - begin), path + begin);
    mq_gguf_add_string(pairs, "general.name", name);
}

/* With a budget no type is known to be that of most weights: llama.cpp then counts. */
static void add_general(mq_gguf_pairs *pairs, const mq_quantize_options *options,
                        const mq_scheme *scheme)
{
    uint32_t four = options->zero_points ? MOSTLY_Q4_1 : MOSTLY_Q4_0;
    mq_gguf_add_string(pairs, "general.architecture", scheme->arch->gguf.architecture);
    mq_gguf_add_string(pairs, "general.type", "model");
    add_name(pairs, options->model);
    mq_gguf_add_u32(pairs, "general.quantization_version", QUANTISATION_VERSION);
    if (scheme->average_bits != 0) return;
    mq_gguf_add_u32(pairs, "general.file_type", scheme->bits == 8 ? MOSTLY_Q8_0 : four);
}

/* "ARCHITECTURE.name" */
typedef struct key {
    char text[NAME_BYTES];
} key;

static key key_of(const mq_arch *arch, const char *name)
{
    key k;
    snprintf(k.text, sizeof k.text, "%s.%s", arch->gguf.architecture, name);
    return k;
}

/* llama.cpp knows no window in these families: up to the window's length there is none. */
static int64_t context_length(const mq_arch *arch)
{
    if (arch->window == 0) return arch->max_position;
    return arch->max_position ? mq_min_i64(arch->window, arch->max_position) : arch->window;
}

static void add_sizes(mq_gguf_pairs *pairs, const mq_arch *arch)
{
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {
        {"block_count", arch->n_blocks},          {"context_length", context_length(arch)},
        {"embedding_length", arch->hidden},       {"feed_forward_length", arch->intermediate},
        {"attention.head_count", arch->n_heads},  {"attention.head_count_kv", arch->n_kv_heads},
        {"attention.key_length", arch->head_dim}, {"attention.value_length", arch->head_dim},
        {"rope.dimension_count", arch->head_dim}, {"vocab_size", arch->vocab},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        mq_gguf_add_u32(pairs, key_of(arch, sizes[i].name).text, (uint32_t)sizes[i].value);
    }
}

static void add_numbers(mq_gguf_pairs *pairs, const mq_arch *arch)
{
    const char *epsilon = arch->norm == MQ_NORM_RMS ? "attention.layer_norm_rms_epsilon"
                                                    : "attention.layer_norm_epsilon";
    mq_gguf_add_f32(pairs, key_of(arch, epsilon).text, (float)arch->norm_eps);
    mq_gguf_add_f32(pairs, key_of(arch, "rope.freq_base").text, (float)arch->rope.theta);
    if (arch->rope.scaling == MQ_ROPE_LINEAR) {
        mq_gguf_add_string(pairs, key_of(arch, "rope.scaling.type").text, "linear");
        mq_gguf_add_f32(pairs, key_of(arch, "rope.scaling.factor").text, (float)arch->rope.factor);
    } else {
        mq_gguf_add_string(pairs, key_of(arch, "rope.scaling.type").text, "none");
    }
    if (arch->logit_scale == 1) return;
    mq_gguf_add_f32(pairs, key_of(arch, "logit_scale").text, (float)arch->logit_scale);
}

static mq_status fill(const mq_quantize_options *options, const mq_scheme *scheme,
                      mq_gguf_pairs *pairs)
{
    add_general(pairs, options, scheme);
    add_sizes(pairs, scheme->arch);
    add_numbers(pairs, scheme->arch);
    MQ_TRY(mq_gguf_add_tokenizer(options->model, scheme->arch, pairs));
    return pairs->status;
}

/* Rank 0's pairs to all. */
static mq_status share(const mq_comm *comm, mq_gguf_pairs *pairs)
{
    uint64_t counts[2] = {pairs->n_bytes, pairs->n_pairs};
    MQ_TRY(mq_agree(comm, mq_bcast(comm, counts, sizeof counts, 0)));
    mq_status status = MQ_OK;
    if (comm->rank != 0) {
        *pairs = (mq_gguf_pairs){.n_bytes = counts[0], .room = counts[0], .n_pairs = counts[1]};
        status = mq_alloc((int64_t)counts[0], 1, "header of a GGUF file", &pairs->bytes);
    }
    MQ_TRY(mq_agree(comm, status));
    return mq_agree(comm, mq_bcast(comm, pairs->bytes, counts[0], 0));
}

mq_status mq_gguf_header(const mq_comm *comm, const mq_quantize_options *options,
                         const mq_scheme *scheme, mq_gguf_pairs *out)
{
    mq_status status = comm->rank == 0 ? fill(options, scheme, out) : MQ_OK;
    status = mq_agree(comm, status);
    return status == MQ_OK ? share(comm, out) : status;
}
