/* Safetensors: the length of the header in 8 bytes, then its text. */
#include "base/memory.h"
#include "store/writer_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { LENGTH_WORD = 8 };

/* base NULL: only counts. */
typedef struct sink {
    char *base;
    size_t at;
} sink;

static void emit(sink *out, const char *text, size_t length)
{
    if (out->base) memcpy(out->base + out->at, text, length);
    out->at += length;
}

static void emit_text(sink *out, const char *text)
{
    emit(out, text, strlen(text));
}

static void emit_number(sink *out, uint64_t value)
{
    char text[24];
    int n = snprintf(text, sizeof text, "%" PRIu64, value);
    emit(out, text, (size_t)n);
}

static void emit_string(sink *out, const char *s)
{
    emit_text(out, "\"");
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        char escaped[8] = {'\\', (char)c, '\0'};
        if (c < 0x20) snprintf(escaped, sizeof escaped, "\\u%04x", c);
        if (c < 0x20 || c == '"' || c == '\\') {
            emit_text(out, escaped);
        } else {
            emit(out, s, 1);
        }
    }
    emit_text(out, "\"");
}

static void emit_header(sink *out, const mq_writer *w, const mq_shard *shard)
{
    emit_text(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int64_t i = 0; i < shard->n; i++) {
        const mq_slot *s = &w->slot[shard->first + i];
        emit_text(out, ",");
        emit_string(out, s->stored);
        emit_text(out, ":{\"dtype\":");
        emit_string(out, mq_dtype_name(s->dtype));
        emit_text(out, ",\"shape\":[");
        for (int d = 0; d < s->n_dims; d++) {
            if (d > 0) emit_text(out, ",");
            emit_number(out, (uint64_t)s->dim[d]);
        }
        emit_text(out, "],\"data_offsets\":[");
        emit_number(out, s->begin);
        emit_text(out, ",");
        emit_number(out, s->begin + s->bytes);
        emit_text(out, "]}");
    }
    emit_text(out, "}");
    while (out->at % 8 != 0) emit_text(out, " ");
}

static void fill_length_word(char *bytes, uint64_t length)
{
    for (int i = 0; i < LENGTH_WORD; i++) bytes[i] = (char)(unsigned char)(length >> 8 * i);
}

static mq_status header(const mq_writer *w, const mq_shard *shard, char **bytes, size_t *length)
{
    sink out = {0};
    emit_header(&out, w, shard);
    if (out.at > MQ_HEADER_LIMIT) {
        return mq_fail(MQ_E_INPUT, "%s: header of %zu bytes, at most %" PRIu64 " are allowed: %s",
                       shard->path, out.at, MQ_HEADER_LIMIT, "ask for smaller shards");
    }
    *length = LENGTH_WORD + out.at;
    MQ_TRY(mq_alloc((int64_t)*length, 1, "header of the output", bytes));
    fill_length_word(*bytes, out.at);
    out = (sink){.base = *bytes + LENGTH_WORD};
    emit_header(&out, w, shard);
    return MQ_OK;
}

/* Reads our own header as any reader would: names that are not UTF-8 or not allowed show here. */
static mq_status checked_header(const mq_writer *w, const mq_shard *shard, char **bytes,
                                size_t *length)
{
    mq_header read = {0};
    MQ_TRY(header(w, shard, bytes, length));
    mq_status status = mq_header_scan(shard->path, *bytes + LENGTH_WORD, *length - LENGTH_WORD,
                                      shard->data_bytes, &read);
    if (status == MQ_OK && read.n_tensors != shard->n) {
        status =
            mq_fail(MQ_E_INTERNAL, "%s: the header holds %" PRId64 " tensors instead of %" PRId64,
                    shard->path, read.n_tensors, shard->n);
    }
    mq_header_clear(&read);
    return status;
}

const mq_container mq_container_safetensors = {.extension = "safetensors",
                                               .alignment = 1,
                                               .widest_first = true,
                                               .header = checked_header,
                                               .read = mq_header_read};
