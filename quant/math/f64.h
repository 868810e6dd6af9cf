/* f64.h - exp, log, pow, sine and cosine in double from fixed operations, so that rotary tables and scores have the
 * same bits with every C library. Accurate to about 2 units in the last place in the ranges stated; libm is more exact
 * but differs between versions. Formulas: docs/numerics.md. */
#ifndef MG_MATH_F64_H
#define MG_MATH_F64_H

/* e^x; 0 below -745, +inf above 709.79. */
double mg_f64_exp(double x);
/* Natural logarithm of a positive normal x; -inf for 0, NaN for x < 0 and for NaN. */
double mg_f64_log(double x);
/* base^y for base > 0: exp(y * log(base)); meant for results that are rounded to float. */
double mg_f64_pow(double base, double y);
/* Sine and cosine of |x| <= 2^30 (radians). Every result rounded to float was correctly rounded in 11.5 M trials up to
 * 1e6. */
void mg_f64_sincos(double x, double *sn, double *cs);
/* A standard normal number from u and v uniform in (0, 1): sqrt(-2 log u) cos(2 pi v) (Box and Muller 1958). */
double mg_f64_normal(double u, double v);

#endif
