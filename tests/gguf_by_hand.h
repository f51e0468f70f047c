#ifndef MQ_TEST_GGUF_BY_HAND_H
#define MQ_TEST_GGUF_BY_HAND_H

#include <stdint.h>
#include <string.h>

/* A GGUF file made up by hand from the specification. */

enum { N = 4, FILE_ROOM = 4096 };

static const char *const stored[N] = {"token_embd.weight", "blk.0.attn_q.weight",
                                      "blk.0.attn_k.weight", "output_norm.weight"};

typedef struct by_hand {
    char bytes[FILE_ROOM];
    size_t n;
    size_t pairs, infos, data; /* where these begin */
} by_hand;

static inline void add(by_hand *f, const void *bytes, size_t n)
{
    memcpy(f->bytes + f->n, bytes, n);
    f->n += n;
}

static inline void add_number(by_hand *f, uint64_t value, size_t bytes)
{
    add(f, &value, bytes);
}

static inline void add_text(by_hand *f, const char *text)
{
    add_number(f, strlen(text), 8);
    add(f, text, strlen(text));
}

static inline void add_info(by_hand *f, const char *name, uint64_t columns, uint64_t rows,
                            uint32_t type, uint64_t offset)
{
    add_text(f, name);
    add_number(f, rows ? 2 : 1, 4);
    add_number(f, columns, 8);
    if (rows) add_number(f, rows, 8);
    add_number(f, type, 4);
    add_number(f, offset, 8);
}

static inline void fill_up(by_hand *f)
{
    while (f->n % 32 != 0) f->bytes[f->n++] = 0;
}

static inline char data_byte(int tensor, size_t i)
{
    return (char)(tensor * 37 + (int)i % 100 + 1);
}

static inline size_t bytes_of(int t)
{
    static const size_t bytes[N] = {3 * 64 * 2, 2 * 2 * 18, 3 * 34, 5 * 4};
    return bytes[t];
}

static inline by_hand make_by_hand(void)
{
    by_hand f = {.n = 0};
    add(&f, "GGUF", 4);
    add_number(&f, 3, 4);
    add_number(&f, N, 8);
    add_number(&f, 3, 8);
    f.pairs = f.n;
    add_text(&f, "general.architecture");
    add_number(&f, 8, 4);
    add_text(&f, "llama");
    add_text(&f, "llama.block_count");
    add_number(&f, 4, 4);
    add_number(&f, 7, 4);
    add_text(&f, "tokens");
    add_number(&f, 9, 4);
    add_number(&f, 8, 4);
    add_number(&f, 2, 8);
    add_text(&f, "a");
    add_text(&f, "");
    f.infos = f.n;
    add_info(&f, stored[0], 64, 3, 30, 0);
    add_info(&f, stored[1], 64, 2, 2, 384);
    add_info(&f, stored[2], 32, 3, 8, 480);
    add_info(&f, stored[3], 5, 0, 0, 608);
    fill_up(&f);
    f.data = f.n;
    for (int t = 0; t < N; t++) {
        for (size_t i = 0; i < bytes_of(t); i++) f.bytes[f.n++] = data_byte(t, i);
        fill_up(&f);
    }
    return f;
}

#endif
