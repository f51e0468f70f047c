#include "base/utf8.h"

#include <string.h>

static bool in_range(unsigned char c, unsigned char lowest, unsigned char highest)
{
    return c >= lowest && c <= highest;
}

size_t mq_utf8_sequence(const unsigned char *s, size_t left)
{
    if (s[0] < 0x80) return 1;
    if (in_range(s[0], 0xC2, 0xDF)) return left >= 2 && in_range(s[1], 0x80, 0xBF) ? 2 : 0;
    if (in_range(s[0], 0xE0, 0xEF)) {
        unsigned char lowest = s[0] == 0xE0 ? 0xA0 : 0x80, highest = s[0] == 0xED ? 0x9F : 0xBF;
        bool good = left >= 3 && in_range(s[1], lowest, highest) && in_range(s[2], 0x80, 0xBF);
        return good ? 3 : 0;
    }
    if (in_range(s[0], 0xF0, 0xF4)) {
        unsigned char lowest = s[0] == 0xF0 ? 0x90 : 0x80, highest = s[0] == 0xF4 ? 0x8F : 0xBF;
        bool good = left >= 4 && in_range(s[1], lowest, highest) && in_range(s[2], 0x80, 0xBF) &&
                    in_range(s[3], 0x80, 0xBF);
        return good ? 4 : 0;
    }
    return 0;
}

bool mq_is_utf8(const char *text)
{
    for (size_t left = strlen(text), n = 0; left > 0; left -= n, text += n) {
        n = mq_utf8_sequence((const unsigned char *)text, left);
        if (n == 0) return false;
    }
    return true;
}

static bool is_control(const unsigned char *s, size_t n)
{
    if (n == 1) return s[0] < 0x20 || s[0] == 0x7F;
    return n == 2 && s[0] == 0xC2 && s[1] < 0xA0;
}

void mq_make_printable(char *text)
{
    for (size_t left = strlen(text), n = 0; left > 0; left -= n, text += n) {
        const unsigned char *s = (const unsigned char *)text;
        n = mq_utf8_sequence(s, left);
        bool bad = n == 0 || is_control(s, n);
        if (n == 0) n = 1;
        if (bad) memset(text, '?', n);
    }
}
