/* number.h - decimal text to double and back, independent of the process locale. */
#ifndef MG_BASE_NUMBER_H
#define MG_BASE_NUMBER_H

#include <stdbool.h>
#include <stddef.h>

/* Longest text mg_number_print writes, NUL included. */
#define MG_NUMBER_MAX 40

/* Correctly rounded value of text[0..n): [sign] digits [. digits] [exponent], the whole text used. false on other text
 * (hexadecimal, inf and nan included), when it is longer than 4096 bytes, or when the value overflows a double. */
bool mg_number_parse(const char *text, size_t n, double *out);
/* The shortest decimal that reads back equal, laid out as Python's repr(float) does: "0.0001", "1e-05", "10000.0",
 * "1e+16",
 * "-0.0"; "inf", "-inf", "nan". */
void mg_number_print(double v, char out[MG_NUMBER_MAX]);

#endif
