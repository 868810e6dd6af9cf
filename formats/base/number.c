/* number.c - see number.h. The C library does the rounding; here its locale is taken out of play and the shortest
 * digits are searched for. Seventeen digits always suffice for a double, most values in configs need two. */
#include "formats/base/number.h"

#include <ctype.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static locale_t c_locale;
static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;

static void make_c_locale(void) {
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

static double parse_c(const char *text, char **end) {
    pthread_once(&c_locale_once, make_c_locale);
    return c_locale ? strtod_l(text, end, c_locale) : strtod(text, end);
}

static size_t digits_at(const char *s, size_t n, size_t at) {
    size_t k = 0;
    while (at + k < n && s[at + k] >= '0' && s[at + k] <= '9') k++;
    return k;
}

/* True when s[0..n) is [+-] (D+ [. D*] | . D+) [(e|E) [+-] D+]. */
static bool is_decimal(const char *s, size_t n) {
    size_t at = n > 0 && (s[0] == '-' || s[0] == '+');
    size_t whole = digits_at(s, n, at), part = 0;
    at += whole;
    if (at < n && s[at] == '.') {
        part = digits_at(s, n, at + 1);
        at += 1 + part;
    }
    if (whole + part == 0) return false;
    if (at < n && (s[at] == 'e' || s[at] == 'E')) {
        at++;
        if (at < n && (s[at] == '-' || s[at] == '+')) at++;
        size_t e = digits_at(s, n, at);
        if (e == 0) return false;
        at += e;
    }
    return at == n;
}

bool mg_number_parse(const char *text, size_t n, double *out) {
    char buf[4097];
    if (n >= sizeof buf || !is_decimal(text, n)) return false;
    memcpy(buf, text, n);
    buf[n] = 0;
    char *end = NULL;
    double v = parse_c(buf, &end);
    if (end != buf + n || !isfinite(v)) return false;
    *out = v;
    return true;
}

/* p correctly rounded significant digits of v > 0 (no point), and the exponent of the first one. */
static int round_digits(double v, int p, char digits[20]) {
    char buf[64];
    snprintf(buf, sizeof buf, "%.*e", p - 1, v);
    int k = 0;
    const char *s = buf;
    for (; *s && *s != 'e'; s++) /* whatever the locale's radix is, it is no digit */
        if (*s >= '0' && *s <= '9' && k < 19) digits[k++] = *s;
    digits[k] = 0;
    return *s ? atoi(s + 1) : 0;
}

static bool reads_back(const char *digits, int exp10, double v) {
    char buf[48];
    snprintf(buf, sizeof buf, "%se%d", digits, exp10 - (int)strlen(digits) + 1);
    return parse_c(buf, NULL) == v;
}

/* digits + 1 in the last place; a carry out of the first digit makes it "10..0" with one digit less and returns 1. */
static int add_one(char *digits) {
    size_t k = strlen(digits);
    while (k > 0 && digits[k - 1] == '9') digits[--k] = '0';
    if (k > 0) {
        digits[k - 1]++;
        return 0;
    }
    digits[0] = '1';
    return 1;
}

/* The interval that rounds to a power of two is twice as wide above as below, so the shortest decimal inside it may be
 * the one above the nearest: both are tried. */
static int shortest(double v, char digits[20]) {
    for (int p = 1; p < 17; p++) {
        int e = round_digits(v, p, digits);
        if (reads_back(digits, e, v)) return e;
        e += add_one(digits);
        if (reads_back(digits, e, v)) return e;
    }
    return round_digits(v, 17, digits);
}

void mg_number_print(double v, char out[MG_NUMBER_MAX]) {
    if (isnan(v)) {
        snprintf(out, MG_NUMBER_MAX, "nan");
        return;
    }
    const char *sign = signbit(v) ? "-" : "";
    v = fabs(v);
    if (isinf(v) || v == 0) {
        snprintf(out, MG_NUMBER_MAX, "%s%s", sign, v == 0 ? "0.0" : "inf");
        return;
    }
    char d[20];
    int e = shortest(v, d), n = (int)strlen(d);
    while (n > 1 && d[n - 1] == '0') d[--n] = 0;
    if (e < -4 || e >= 16)
        snprintf(out, MG_NUMBER_MAX, "%s%c%s%se%c%02d", sign, d[0], n > 1 ? "." : "", d + 1, e < 0 ? '-' : '+', abs(e));
    else if (e < 0)
        snprintf(out, MG_NUMBER_MAX, "%s0.%.*s%s", sign, -e - 1, "000", d);
    else if (n <= e + 1)
        snprintf(out, MG_NUMBER_MAX, "%s%s%.*s.0", sign, d, e + 1 - n, "0000000000000000");
    else
        snprintf(out, MG_NUMBER_MAX, "%s%.*s.%s", sign, e + 1, d, d + e + 1);
}
