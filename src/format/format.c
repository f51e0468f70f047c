#include "format/format.h"

#include <string.h>

const mq_format *const mq_formats[] = {&mq_format_gptq,
                                       &mq_format_gptq_v2,
                                       &mq_format_compressed,
                                       &mq_format_exl2,
                                       &mq_format_dense,
                                       &mq_format_gguf,
                                       NULL};

const mq_format *mq_format_find(const char *name, bool zero_points)
{
    for (int i = 0; mq_formats[i]; i++) {
        if (strcmp(mq_formats[i]->name, name) != 0) continue;
        bool v1 = mq_formats[i] == &mq_format_gptq;
        return v1 && zero_points ? &mq_format_gptq_v2 : mq_formats[i];
    }
    return NULL;
}
