#include "base/hash.h"

#include "base/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <xxhash.h>

uint64_t mq_hash(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}

static mq_status hash_stream(FILE *f, const char *path, XXH3_state_t *state, uint64_t *out)
{
    enum { BUFFER = 1 << 20 };
    char *buffer = NULL;
    size_t got = 0;
    MQ_TRY(mq_alloc(BUFFER, 1, "file buffer", &buffer));
    XXH3_64bits_reset(state);
    while ((got = fread(buffer, 1, BUFFER, f)) > 0) XXH3_64bits_update(state, buffer, got);
    *out = XXH3_64bits_digest(state);
    mq_free(&buffer);
    if (ferror(f)) return mq_fail(MQ_E_IO, "%s: cannot read: %s", path, mq_errno_text(errno));
    return MQ_OK;
}

mq_status mq_hash_file(const char *path, uint64_t *out)
{
    FILE *f = fopen(path, "rb");
    if (!f) return mq_fail(MQ_E_IO, "%s: cannot open: %s", path, mq_errno_text(errno));
    XXH3_state_t *state = XXH3_createState();
    mq_status status = state ? hash_stream(f, path, state, out)
                             : mq_fail(MQ_E_MEMORY, "%s: no memory for its checksum", path);
    XXH3_freeState(state);
    fclose(f);
    return status;
}

void mq_hash_text(uint64_t hash, char text[22])
{
    snprintf(text, 22, "xxh3:%016" PRIx64, hash);
}
