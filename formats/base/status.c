/* status.c - the only place that formats error messages. */
#include "formats/base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void mg_error_set(mg_error *err, mg_status code, int sys_errno, const char *fmt, va_list ap) {
    if (!err || err->code != MG_OK) return;
    err->code = code;
    err->sys_errno = sys_errno;
    int n = vsnprintf(err->message, sizeof err->message, fmt, ap);
    if (sys_errno && n >= 0 && (size_t)n < sizeof err->message)
        snprintf(err->message + n, sizeof err->message - (size_t)n, ": %s", strerror(sys_errno));
}

mg_status mg_fail(mg_error *err, mg_status code, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    mg_error_set(err, code, 0, fmt, ap);
    va_end(ap);
    return code;
}

mg_status mg_fail_errno(mg_error *err, const char *fmt, ...) {
    int saved = errno ? errno : EIO;
    va_list ap;
    va_start(ap, fmt);
    mg_error_set(err, MG_ERR_IO, saved, fmt, ap);
    va_end(ap);
    return MG_ERR_IO;
}

mg_status mg_fail_nomem(mg_error *err, uint64_t bytes) {
    return mg_fail(err, MG_ERR_LIMIT, "out of memory: %llu bytes could not be had", (unsigned long long)bytes);
}

static void fill(char *dst, size_t size, const char *src) {
    if (src && !dst[0]) snprintf(dst, size, "%s", src);
}

void mg_error_at(mg_error *err, const char *file, const char *tensor) {
    if (!err) return;
    fill(err->file, sizeof err->file, file);
    fill(err->tensor, sizeof err->tensor, tensor);
}

void mg_error_offset(mg_error *err, uint64_t offset) {
    if (!err || err->has_offset) return;
    err->has_offset = true;
    err->offset = offset;
}

/* Length of the valid UTF-8 sequence at s (1..4), or 0. NUL ends the string and is never passed in. */
static size_t utf8_len(const unsigned char *s) {
    if (s[0] < 0x80) return 1;
    size_t n = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : s[0] >= 0xC2 ? 2 : 0;
    if (n == 0 || s[0] > 0xF4) return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F)) return 0;
    if ((s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F)) return 0;
    return n;
}

/* Copy src with control bytes and broken UTF-8 as \xNN, so that a hostile name cannot drive a terminal. */
static size_t append_escaped(char *buf, size_t size, size_t at, const char *src) {
    const unsigned char *s = (const unsigned char *)src;
    while (*s && at + 5 < size) {
        size_t n = utf8_len(s);
        if (n == 0 || *s < 0x20 || *s == 0x7F) {
            at += (size_t)snprintf(buf + at, size - at, "\\x%02x", *s);
            s++;
            continue;
        }
        memcpy(buf + at, s, n);
        at += n;
        s += n;
    }
    buf[at] = 0;
    return at;
}

static size_t append(char *buf, size_t size, size_t at, const char *text) {
    size_t n = strlen(text);
    if (n > size - at - 1) n = size - at - 1;
    memcpy(buf + at, text, n);
    buf[at + n] = 0;
    return at + n;
}

const char *mg_error_text(const mg_error *err, char *buf, size_t size) {
    if (size == 0) return buf;
    buf[0] = 0;
    size_t at = 0;
    if (err->tensor[0]) {
        at = append(buf, size, at, "tensor '");
        at = append_escaped(buf, size, at, err->tensor);
        at = append(buf, size, at, "'");
    }
    if (err->file[0]) {
        at = append(buf, size, at, err->tensor[0] ? " in '" : "'");
        at = append_escaped(buf, size, at, err->file);
        at = append(buf, size, at, "'");
    }
    if (err->has_offset) {
        char num[32];
        snprintf(num, sizeof num, "%s%llu", at ? " at " : "at ", (unsigned long long)err->offset);
        at = append(buf, size, at, num);
    }
    if (at) at = append(buf, size, at, ": ");
    at = append_escaped(buf, size, at, err->message[0] ? err->message : mg_status_name(err->code));
    return buf;
}

const char *mg_status_name(mg_status code) {
    switch (code) {
    case MG_OK:
        return "done";
    case MG_ERR_FAILED:
        return "check failed";
    case MG_ERR_USAGE:
        return "usage error";
    case MG_ERR_FORMAT:
        return "malformed input";
    case MG_ERR_UNSUPPORTED:
        return "unsupported";
    case MG_ERR_IO:
        return "input/output error";
    case MG_ERR_LIMIT:
        return "resource limit";
    case MG_ERR_INTEGRITY:
        return "integrity error";
    case MG_ERR_CONFLICT:
        return "conflicting configuration";
    case MG_ERR_INTERNAL:
        return "internal error";
    case MG_ERR_INTERRUPTED:
        return "interrupted";
    case MG_ERR_TERMINATED:
        return "terminated";
    }
    return "unknown status";
}
