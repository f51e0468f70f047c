#include "store/json_scan.h"

#include "base/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

mq_status mq_scan_fail(const mq_scan *scan, const char *what)
{
    return mq_fail(MQ_E_INPUT, "%s: safetensors header, byte %zu of %zu: %s", scan->path, scan->at,
                   scan->length, what);
}

/* The next byte, or -1 at the end. */
static int peek(const mq_scan *scan)
{
    return scan->at < scan->length ? (unsigned char)scan->text[scan->at] : -1;
}

void mq_scan_space(mq_scan *scan)
{
    for (;;) {
        int c = peek(scan);
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return;
        scan->at++;
    }
}

mq_status mq_scan_open(mq_scan *scan, char bracket, bool *more)
{
    if (peek(scan) != bracket) {
        return mq_scan_fail(scan, bracket == '{' ? "expected an object" : "expected an array");
    }
    if (scan->depth == MQ_SCAN_DEPTH) return mq_scan_fail(scan, "nested more than 127 deep");
    scan->depth++;
    scan->at++;
    mq_scan_space(scan);
    int closing = bracket == '{' ? '}' : ']';
    *more = peek(scan) != closing;
    if (!*more) {
        scan->at++;
        scan->depth--;
    }
    return MQ_OK;
}

mq_status mq_scan_more(mq_scan *scan, char closing, bool *more)
{
    mq_scan_space(scan);
    int c = peek(scan);
    if (c != ',' && c != closing) return mq_scan_fail(scan, "expected a comma or closing bracket");
    scan->at++;
    *more = c == ',';
    if (*more) {
        mq_scan_space(scan);
    } else {
        scan->depth--;
    }
    return MQ_OK;
}

mq_status mq_scan_colon(mq_scan *scan)
{
    mq_scan_space(scan);
    if (peek(scan) != ':') return mq_scan_fail(scan, "expected a colon");
    scan->at++;
    mq_scan_space(scan);
    return MQ_OK;
}

/* ---- strings --------------------------------------------------------------------------------- */

static size_t utf8_encode(uint32_t code, char *dst)
{
    if (code < 0x80) {
        dst[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n - 1; i > 0; i--) {
        dst[i] = (char)(0x80 | (code & 0x3F));
        code >>= 6;
    }
    dst[0] = (char)(lead[n] | code);
    return n;
}

/* Four hex digits. */
static mq_status hex4(mq_scan *scan, uint32_t *out)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++, scan->at++) {
        int c = peek(scan);
        uint32_t digit = 0;
        if (c >= '0' && c <= '9') {
            digit = (uint32_t)(c - '0');
        } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
            digit = (uint32_t)((c | 0x20) - 'a' + 10);
        } else {
            return mq_scan_fail(scan, "expected four hexadecimal digits after \\u");
        }
        value = value << 4 | digit;
    }
    *out = value;
    return MQ_OK;
}

/* What follows "\u": one code unit, or a pair of surrogates. */
static mq_status unicode_escape(mq_scan *scan, uint32_t *code)
{
    MQ_TRY(hex4(scan, code));
    if (*code >= 0xDC00 && *code <= 0xDFFF) return mq_scan_fail(scan, "lone low surrogate");
    if (*code < 0xD800 || *code > 0xDBFF) return MQ_OK;
    uint32_t low = 0;
    if (scan->length - scan->at < 2 || memcmp(scan->text + scan->at, "\\u", 2) != 0) {
        return mq_scan_fail(scan, "lone high surrogate");
    }
    scan->at += 2;
    MQ_TRY(hex4(scan, &low));
    if (low < 0xDC00 || low > 0xDFFF) return mq_scan_fail(scan, "lone high surrogate");
    *code = 0x10000 + ((*code - 0xD800) << 10) + (low - 0xDC00);
    return MQ_OK;
}

/* What follows a backslash. */
static mq_status escape(mq_scan *scan, uint32_t *code)
{
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    int c = peek(scan);
    const char *found = c > 0 ? strchr(letters, c) : NULL;
    if (c != 'u' && !found) return mq_scan_fail(scan, "unknown escape in a string");
    scan->at++;
    if (c == 'u') return unicode_escape(scan, code);
    *code = (uint32_t)meanings[found - letters];
    return MQ_OK;
}

/* One character of a string at the current byte, plain or escaped, into piece (4 bytes). */
static mq_status one_character(mq_scan *scan, char *piece, size_t *n)
{
    const unsigned char *s = (const unsigned char *)scan->text + scan->at;
    if (*s < 0x20) return mq_scan_fail(scan, "control character in a string");
    if (*s == '\\') {
        uint32_t code = 0;
        scan->at++;
        MQ_TRY(escape(scan, &code));
        *n = utf8_encode(code, piece);
        return MQ_OK;
    }
    *n = mq_utf8_sequence(s, scan->length - scan->at);
    if (*n == 0) return mq_scan_fail(scan, "not UTF-8");
    memcpy(piece, s, *n);
    scan->at += *n;
    return MQ_OK;
}

/* Bytes from the current one on that stand for themselves: nearly all of every name. */
static size_t plain_run(const mq_scan *scan)
{
    size_t at = scan->at;
    for (; at < scan->length; at++) {
        unsigned char c = (unsigned char)scan->text[at];
        if (c < 0x20 || c >= 0x80 || c == '"' || c == '\\') break;
    }
    return at - scan->at;
}

mq_status mq_scan_string(mq_scan *scan, char *dst, size_t *length)
{
    size_t used = 0;
    if (peek(scan) != '"') return mq_scan_fail(scan, "expected a string");
    scan->at++;
    for (;;) {
        char piece[4];
        size_t n = plain_run(scan);
        if (dst) memcpy(dst + used, scan->text + scan->at, n);
        scan->at += n;
        used += n;
        int c = peek(scan);
        if (c < 0) return mq_scan_fail(scan, "a string does not end");
        if (c == '"') break;
        MQ_TRY(one_character(scan, piece, &n));
        if (dst) memcpy(dst + used, piece, n);
        used += n;
    }
    scan->at++;
    if (dst) dst[used] = '\0';
    if (length) *length = used;
    return MQ_OK;
}

/* ---- numbers and other values ---------------------------------------------------------------- */

/* Passes over digits, at least one. */
static mq_status digits(mq_scan *scan)
{
    size_t start = scan->at;
    while (peek(scan) >= '0' && peek(scan) <= '9') scan->at++;
    return scan->at > start ? MQ_OK : mq_scan_fail(scan, "expected a digit");
}

/* Passes over one number by JSON's grammar; *whole: neither sign, fraction nor exponent. */
static mq_status number(mq_scan *scan, bool *whole)
{
    *whole = true;
    if (peek(scan) == '-') {
        *whole = false;
        scan->at++;
    }
    if (peek(scan) == '0') {
        scan->at++;
        if (peek(scan) >= '0' && peek(scan) <= '9') {
            return mq_scan_fail(scan, "a number with a leading zero");
        }
    } else {
        MQ_TRY(digits(scan));
    }
    if (peek(scan) == '.') {
        *whole = false;
        scan->at++;
        MQ_TRY(digits(scan));
    }
    if (peek(scan) == 'e' || peek(scan) == 'E') {
        *whole = false;
        scan->at++;
        if (peek(scan) == '+' || peek(scan) == '-') scan->at++;
        MQ_TRY(digits(scan));
    }
    int next = peek(scan);
    if (next <= 0 || !strchr(" \n\r\t,]}", next)) {
        return mq_scan_fail(scan, "a number does not end well");
    }
    return MQ_OK;
}

mq_status mq_scan_u64(mq_scan *scan, uint64_t *out)
{
    size_t start = scan->at;
    bool whole = false;
    uint64_t value = 0;
    MQ_TRY(number(scan, &whole));
    if (!whole) return mq_scan_fail(scan, "expected a whole number, 0 or more, written plainly");
    for (size_t i = start; i < scan->at; i++) {
        uint64_t digit = (uint64_t)(scan->text[i] - '0');
        if (value > (UINT64_MAX - digit) / 10) {
            return mq_scan_fail(scan, "a number does not fit 64 bits");
        }
        value = value * 10 + digit;
    }
    *out = value;
    return MQ_OK;
}

/* The reference reader takes any number in a field it does not know, but not one past the range of
 * a double. strtod stops at the byte after the number, which `number` has seen. */
static mq_status skip_number(mq_scan *scan)
{
    size_t start = scan->at;
    bool whole = false;
    MQ_TRY(number(scan, &whole));
    if (isinf(strtod(scan->text + start, NULL))) return mq_scan_fail(scan, "number out of range");
    return MQ_OK;
}

static bool literal(mq_scan *scan, const char *word)
{
    size_t n = strlen(word);
    if (scan->length - scan->at < n || memcmp(scan->text + scan->at, word, n) != 0) return false;
    scan->at += n;
    return true;
}

bool mq_scan_null(mq_scan *scan)
{
    return literal(scan, "null");
}

/* Recursion is bounded by MQ_SCAN_DEPTH. */
static mq_status skip_members(mq_scan *scan, char bracket)
{
    bool more = false;
    MQ_TRY(mq_scan_open(scan, bracket, &more));
    while (more) {
        if (bracket == '{') {
            MQ_TRY(mq_scan_string(scan, NULL, NULL));
            MQ_TRY(mq_scan_colon(scan));
        }
        MQ_TRY(mq_scan_skip(scan));
        MQ_TRY(mq_scan_more(scan, bracket == '{' ? '}' : ']', &more));
    }
    return MQ_OK;
}

mq_status mq_scan_skip(mq_scan *scan)
{
    int c = peek(scan);
    if (c == '{' || c == '[') return skip_members(scan, (char)c);
    if (c == '"') return mq_scan_string(scan, NULL, NULL);
    if (c == '-' || (c >= '0' && c <= '9')) return skip_number(scan);
    if (literal(scan, "null") || literal(scan, "true") || literal(scan, "false")) return MQ_OK;
    return mq_scan_fail(scan, "expected a value");
}
