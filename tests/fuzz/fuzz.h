#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* What the targets share. Each refuses or takes its input; what it takes must hold together. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/** Ends the run: the input in hand breaks a promise. */
#define FUZZ_CHECK(condition)                                                       \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                \
        }                                                                           \
    } while (0)

/* Bytes of the input, one after the other; zeros behind its end. */
typedef struct fuzz_input {
    const uint8_t *data;
    size_t size;
} fuzz_input;

static inline uint64_t fuzz_take(fuzz_input *in, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes && in->size > 0; i++) {
        value |= (uint64_t)*in->data++ << (8 * i);
        in->size--;
    }
    return value;
}

/* The rest of the input as text of its own. */
static inline char *fuzz_text(const fuzz_input *in)
{
    char *text = malloc(in->size + 1);
    FUZZ_CHECK(text);
    for (size_t i = 0; i < in->size; i++) text[i] = (char)in->data[i];
    text[in->size] = '\0';
    return text;
}

/* "FOLDER/mpiquant-fuzz-XXXXXX" for mkstemp or mkdtemp: in memory where the system has room for
 * that, because a disk makes a target that writes files 20 times slower. */
static inline void fuzz_scratch_name(char name[64])
{
    const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(name, 64, "%s/mpiquant-fuzz-XXXXXX", folder);
}

/* FOLDER/NAME becomes a file of these bytes. */
static inline void fuzz_put_file(const char *folder, const char *name, const void *data,
                                 size_t bytes)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    FUZZ_CHECK(f && fwrite(data, 1, bytes, f) == bytes);
    FUZZ_CHECK(fclose(f) == 0);
}

static inline void fuzz_remove_folder(const char *folder, const char *const names[], int n)
{
    for (int i = 0; i < n; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

#endif
