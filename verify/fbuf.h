/* fbuf.h - a float buffer that grows when asked and is reused from layer to layer. */
#ifndef MG_VERIFY_FBUF_H
#define MG_VERIFY_FBUF_H

#include "formats/base/status.h"

typedef struct mg_fbuf {
    float *p;   /* aligned to 64 bytes */
    uint64_t n; /* floats it can hold */
} mg_fbuf;

/* Room for a*b floats. What the buffer held is lost when it grows. MG_ERR_LIMIT on overflow or without memory. */
mg_status mg_fbuf_need(mg_fbuf *buf, uint64_t a, uint64_t b, mg_error *err) MG_MUST_CHECK;
void mg_fbuf_release(mg_fbuf *buf);

#endif
