#include "pipeline/module_names.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char any_parents[] = "(?:.*\\.)?";

void mq_pattern_append(char out[MQ_PATTERN_BYTES], const char *text)
{
    size_t used = strlen(out);
    snprintf(out + used, MQ_PATTERN_BYTES - used, "%s", text);
}

/* The specials of regular expressions that module names have are dots. */
void mq_pattern_escape(char out[MQ_PATTERN_BYTES], const char *text)
{
    size_t used = strlen(out);
    for (const char *c = text; *c && used + 3 < MQ_PATTERN_BYTES; c++) {
        if (*c == '.') out[used++] = '\\';
        out[used++] = *c;
    }
    out[used] = '\0';
}

/* Where the component in front of the block's number begins; without a number, the last one. */
static const char *tail_of(const char *name)
{
    const char *before = name, *last = name;
    for (const char *c = name; *c; c++) {
        if (*c != '.' || !c[1]) continue;
        before = last;
        last = c + 1;
        size_t digits = strspn(last, "0123456789");
        if (digits > 0 && (last[digits] == '.' || last[digits] == '\0')) return before;
    }
    return last;
}

void mq_module_pattern(const mq_arch *arch, const char *name, char out[MQ_PATTERN_BYTES])
{
    if (arch->towers) {
        mq_pattern_append(out, any_parents);
        name = tail_of(name);
    }
    mq_pattern_escape(out, name);
}

int64_t mq_n_other_patterns(const mq_arch *arch)
{
    return arch->n_copied + arch->moe.other_kinds * arch->moe.routing.n_experts;
}

/* Of an expert of any block. */
static void expert_pattern(const mq_arch *arch, int64_t expert, char out[MQ_PATTERN_BYTES])
{
    static const char block_mark[] = "{i}.";
    char name[MQ_ARCH_NAME + 32];
    const char *begin = strstr(arch->moe.expert[0], block_mark) + sizeof block_mark - 1;
    const char *end = strstr(begin, "{e}");
    snprintf(name, sizeof name, "%.*s%" PRId64 ".", (int)(end - begin), begin, expert);
    mq_pattern_append(out, any_parents);
    mq_pattern_escape(out, name);
}

void mq_other_pattern(const mq_arch *arch, int64_t i, char out[MQ_PATTERN_BYTES])
{
    static const char outer[] = "model.";
    if (i >= arch->n_copied) {
        expert_pattern(arch, arch->moe.routing.n_experts + i - arch->n_copied, out);
        return;
    }
    const char *prefix = arch->copied[i];
    if (!arch->towers) {
        mq_pattern_append(out, "^");
        mq_pattern_escape(out, prefix);
        return;
    }
    if (strncmp(prefix, outer, sizeof outer - 1) == 0) prefix += sizeof outer - 1;
    mq_pattern_append(out, any_parents);
    mq_pattern_escape(out, prefix);
}
