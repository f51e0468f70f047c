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
    if (arch->max_position == 0 || calib->n_positions <= arch->max_position) return;
    if (arch->rope.scaling == MQ_ROPE_NTK) return;
    mq_warn("the longest sample has %" PRId64 " %s, the model was made for %" PRId64
            " positions (max_position_embeddings): its rope (%s) goes on beyond them by the same "
            "formula, where the model was not trained, and what it computes there says little. "
            "Shorter samples: mpiquant-calib --length",
            calib->n_positions, calib->n_axes > 0 ? "positions" : "tokens", arch->max_position,
            mq_rope_scaling_name(arch->rope.scaling));
}

/* Positions by which the model's rope cannot turn, and rows that it does not add. */
static mq_status check_positions(const mq_arch *arch, const mq_calib *calib)
{
    if (calib->n_deep > 0 && (!arch->deepstack || calib->n_deep > arch->n_blocks)) {
        return mq_fail(
            MQ_E_INPUT,
            "%s: has rows to add behind %d blocks (\"deepstack_embeds_0\", ...); %s models "
            "of %" PRId64 " blocks have no place for them",
            calib->path, calib->n_deep, arch->family, arch->n_blocks);
    }
    if (calib->hidden > 0 && arch->moe.other_kinds > 0) {
        return mq_fail(MQ_E_INPUT,
                       "%s: has rows in the place of embeddings, some of which go to experts of "
                       "images in %s models: this version computes those of text only, so take "
                       "text alone",
                       calib->path, arch->family);
    }
    if (calib->n_axes <= 1 || arch->rope.n_axes == calib->n_axes) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: has %d positions for each token; this version turns %s models by one, "
                   "unless config.json has an \"mrope_section\" of a known kind",
                   calib->path, calib->n_axes, arch->family);
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
        .hidden = arch->hidden,
        .tokenizer_sha256 = sha,
    };
    MQ_TRY(mq_calib_load(comm, path, &o, out));
    mq_status status = mq_agree(comm, check_positions(arch, *out));
    if (status == MQ_OK) {
        warn_about_length(arch, *out);
    } else {
        mq_calib_destroy(out);
    }
    return status;
}
