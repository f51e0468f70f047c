#include "pipeline/tokens.h"

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "par/collectives.h"

#include <inttypes.h>
#include <string.h>

/* SHA-256 of MODEL/tokenizer.json, "" when there is none. */
static mq_status tokenizer_sha256(const mq_comm *comm, const char *model, char sha[65])
{
    mq_status status = MQ_OK;
    memset(sha, 0, 65);
    if (comm->rank == 0) {
        char *path = NULL;
        status = mq_path_join(model, "tokenizer.json", &path);
        if (status == MQ_OK && mq_file_exists(path)) status = mq_sha256_file(path, sha);
        mq_free(&path);
    }
    status = mq_agree(comm, status);
    if (status != MQ_OK) return status;
    return mq_bcast(comm, sha, 65, 0);
}

/* A dynamic rope takes no such samples: its tables are refused (model/rope.c). */
static void warn_about_length(const mq_arch *arch, const mq_calib *calib)
{
    if (arch->max_position == 0 || calib->longest <= arch->max_position) return;
    if (arch->rope.scaling == MQ_ROPE_NTK) return;
    mq_warn("the longest sample has %" PRId64 " tokens, the model was made for %" PRId64
            " positions (max_position_embeddings): its rope (%s) goes on beyond them by the same "
            "formula, where the model was not trained, and what it computes there says little. "
            "Shorter samples: mpiquant-calib --length",
            calib->longest, arch->max_position, mq_rope_scaling_name(arch->rope.scaling));
}

mq_status mq_tokens_load(const mq_comm *comm, const char *path, const char *model,
                         const mq_arch *arch, int64_t unit_tokens, int64_t samples, mq_calib **out)
{
    char sha[65] = "";
    MQ_TRY(tokenizer_sha256(comm, model, sha));
    mq_calib_options o = {
        .unit_tokens = unit_tokens,
        .max_samples = samples,
        .vocab_size = arch->vocab,
        .tokenizer_sha256 = sha,
    };
    MQ_TRY(mq_calib_load(comm, path, &o, out));
    warn_about_length(arch, *out);
    return MQ_OK;
}
