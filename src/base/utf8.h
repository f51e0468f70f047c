#ifndef MQ_BASE_UTF8_H
#define MQ_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Texts that came out of files. */

/** Bytes of the UTF-8 sequence that starts at s (left > 0 bytes there), 0 when it is not valid: no
 *  overlong forms, no surrogates, nothing past U+10FFFF. */
size_t mq_utf8_sequence(const unsigned char *s, size_t left);

/** Whether a NUL-terminated text is UTF-8. */
bool mq_is_utf8(const char *text);

/** Names and texts of a file may be any bytes, and may end up on a terminal or in JSON: question
 *  marks for what is not UTF-8, and for control characters. */
void mq_make_printable(char *text);

#endif
