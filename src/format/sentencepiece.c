#include "format/sentencepiece.h"

#include "base/memory.h"

#include <string.h>

/* A message of the protocol buffer, or what is left of it. */
typedef struct message {
    const unsigned char *at, *end;
} message;

/* How a field is stored: the lowest three bits of its key. */
typedef enum wire { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 } wire;

typedef struct field {
    uint64_t number;
    wire wire;
    uint64_t value; /* of a varint, or the bits of a fixed one */
    message bytes;
} field;

enum { NORMAL = 1, LAST_TYPE = 6 };

/* ---- the protocol buffer ----------------------------------------------------------------------
 */

static bool take_varint(message *m, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 64 && m->at < m->end; shift += 7) {
        unsigned char byte = *m->at++;
        *value |= (uint64_t)(byte & 0x7Fu) << shift;
        if (byte < 0x80) return true;
    }
    return false;
}

static bool take_fixed(message *m, size_t bytes, uint64_t *value)
{
    if ((size_t)(m->end - m->at) < bytes) return false;
    *value = 0;
    memcpy(value, m->at, bytes);
    m->at += bytes;
    return true;
}

static bool take_bytes(message *m, message *out)
{
    uint64_t length = 0;
    if (!take_varint(m, &length) || length > (uint64_t)(m->end - m->at)) return false;
    *out = (message){m->at, m->at + length};
    m->at += length;
    return true;
}

/* The next field; false where the bytes are none. */
static bool take_field(message *m, field *f)
{
    uint64_t key = 0;
    if (!take_varint(m, &key)) return false;
    f->number = key >> 3;
    f->wire = (wire)(key & 7u);
    switch (f->wire) {
    case VARINT:
        return take_varint(m, &f->value);
    case FIXED64:
        return take_fixed(m, 8, &f->value);
    case BYTES:
        return take_bytes(m, &f->bytes);
    case FIXED32:
        return take_fixed(m, 4, &f->value);
    }
    return false;
}

/* ---- the model ------------------------------------------------------------------------------- */

/* What is collected: texts one after the other into a storage as long as the model. */
typedef struct parse {
    mq_sentencepiece *out;
    size_t used;
    int64_t room;
} parse;

static bool keep_text(parse *p, message text, mq_sp_piece *piece)
{
    size_t length = (size_t)(text.end - text.at);
    char *to = p->out->storage + p->used;
    memcpy(to, text.at, length);
    to[length] = '\0';
    p->used += length + 1;
    piece->text = to;
    return strlen(to) == length;
}

/* piece: 1 text, 2 score, 3 type */
static bool read_piece(parse *p, message m)
{
    mq_sp_piece *piece = &p->out->piece[p->out->n_pieces];
    *piece = (mq_sp_piece){.text = "", .type = NORMAL};
    while (m.at < m.end) {
        field f = {.number = 0};
        if (!take_field(&m, &f)) return false;
        if (f.number == 1 && f.wire == BYTES && !keep_text(p, f.bytes, piece)) return false;
        if (f.number == 2 && f.wire == FIXED32)
            memcpy(&piece->score, &f.value, sizeof piece->score);
        if (f.number == 3 && f.wire == VARINT) piece->type = (int32_t)f.value;
    }
    p->out->n_pieces++;
    return piece->type >= NORMAL && piece->type <= LAST_TYPE;
}

/* trainer_spec: 3 is the algorithm, of which 2 is BPE */
static bool read_trainer(mq_sentencepiece *out, message m)
{
    while (m.at < m.end) {
        field f = {.number = 0};
        if (!take_field(&m, &f)) return false;
        if (f.number == 3 && f.wire == VARINT) out->bpe = f.value == 2;
    }
    return true;
}

/* normalizer_spec: 2 a table of characters, 3 add_dummy_prefix, 4 remove_extra_whitespaces; both
 * switches are on where they are not given */
static bool read_normalizer(mq_sentencepiece *out, message m)
{
    bool table = false, drops = true;
    out->space_prefix = true;
    while (m.at < m.end) {
        field f = {.number = 0};
        if (!take_field(&m, &f)) return false;
        if (f.number == 2 && f.wire == BYTES) table = f.bytes.at < f.bytes.end;
        if (f.number == 3 && f.wire == VARINT) out->space_prefix = f.value != 0;
        if (f.number == 4 && f.wire == VARINT) drops = f.value != 0;
    }
    out->normalises = table || drops;
    return true;
}

static bool read_model(parse *p, message m)
{
    while (m.at < m.end) {
        field f = {.number = 0};
        bool good = take_field(&m, &f);
        if (!good) return false;
        if (f.wire != BYTES) continue;
        if (f.number == 1) good = p->out->n_pieces < p->room && read_piece(p, f.bytes);
        if (f.number == 2) good = read_trainer(p->out, f.bytes);
        if (f.number == 3) good = read_normalizer(p->out, f.bytes);
        if (!good) return false;
    }
    return p->out->n_pieces > 0;
}

mq_status mq_sentencepiece_read(const char *where, const void *data, size_t bytes,
                                mq_sentencepiece *out)
{
    enum { LEAST_PIECE = 4 }; /* key and length, of the piece and of its text */
    parse p = {.out = out, .room = (int64_t)(bytes / LEAST_PIECE) + 1};
    message m = {data, (const unsigned char *)data + bytes};
    *out = (mq_sentencepiece){.normalises = true, .space_prefix = true};
    mq_status status = mq_alloc(p.room, sizeof *out->piece, "pieces", &out->piece);
    if (status == MQ_OK) status = mq_alloc((int64_t)bytes + 1, 1, "pieces", &out->storage);
    if (status == MQ_OK && !read_model(&p, m)) {
        status = mq_fail(MQ_E_INPUT, "%s: not a SentencePiece model", where);
    }
    if (status != MQ_OK) mq_sentencepiece_clear(out);
    return status;
}

void mq_sentencepiece_clear(mq_sentencepiece *model)
{
    mq_free(&model->piece);
    mq_free(&model->storage);
    *model = (mq_sentencepiece){.n_pieces = 0};
}
