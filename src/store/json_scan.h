#ifndef MQ_STORE_JSON_SCAN_H
#define MQ_STORE_JSON_SCAN_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A strict JSON scanner for safetensors headers: RFC 8259 to the letter, integers of 64 bits, text
 * that need not end in NUL, no allocation, linear time. Private to store. All calls: MQ_E_INPUT
 * naming file and byte on anything that is not JSON. */

/** Nesting the reference reader accepts, the outermost object counted. */
enum { MQ_SCAN_DEPTH = 127 };

typedef struct mq_scan {
    const char *path; /* for messages */
    const char *text;
    size_t length;
    size_t at; /* next byte */
    int depth; /* brackets open */
} mq_scan;

/** Failure at the current byte: "PATH: safetensors header, byte N: WHAT". */
mq_status mq_scan_fail(const mq_scan *scan, const char *what);

void mq_scan_space(mq_scan *scan);

/** Enters an object or array whose opening bracket is next; *more tells whether it has members. */
mq_status mq_scan_open(mq_scan *scan, char bracket, bool *more);

/** After a member: takes a comma (*more) or the closing bracket (not *more). */
mq_status mq_scan_more(mq_scan *scan, char closing, bool *more);

/** A colon between key and value, with white space around it. */
mq_status mq_scan_colon(mq_scan *scan);

/** A string, decoded into dst (at most as many bytes as its source takes) and NUL-terminated in
 *  the place of its quotes; *length is without the NUL. dst NULL only checks it. */
mq_status mq_scan_string(mq_scan *scan, char *dst, size_t *length);

/** A number that is a whole one in [0, 2^64), without sign, fraction or exponent. */
mq_status mq_scan_u64(mq_scan *scan, uint64_t *out);

/** The literal null, if it is next. */
bool mq_scan_null(mq_scan *scan);

/** Any value, checked and dropped. */
mq_status mq_scan_skip(mq_scan *scan);

#endif
