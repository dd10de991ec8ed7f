/* What the tests of the C interface share. Strict C99. */
#ifndef PYBPTT_TEST_CHECK_H
#define PYBPTT_TEST_CHECK_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pybptt.h"

extern int failures;

#define CHECK(condition)                                           \
    do {                                                           \
        if (!(condition)) {                                        \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            ++failures;                                            \
        }                                                          \
    } while (0)

#define CHECK_OK(call)                                                                 \
    do {                                                                               \
        if ((call) != PYBPTT_OK) {                                                     \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, pybptt_last_error()); \
            ++failures;                                                                \
        }                                                                              \
    } while (0)

#define CHECK_CLOSE(a, b, tolerance)                                                       \
    do {                                                                                   \
        const double x_ = (a), y_ = (b);                                                   \
        if (!(fabs(x_ - y_) <= (tolerance))) {                                             \
            printf("%s:%d: %s = %.17g, %s = %.17g\n", __FILE__, __LINE__, #a, x_, #b, y_); \
            ++failures;                                                                    \
        }                                                                                  \
    } while (0)

/* The call fails with this status, and this is in its message. */
#define CHECK_FAILS(call, expected, text)                                                                         \
    do {                                                                                                          \
        const pybptt_status status_ = (call);                                                                     \
        if (status_ != (expected) || strstr(pybptt_last_error(), (text)) == NULL) {                               \
            printf("%s:%d: %s: status %d, '%s'\n", __FILE__, __LINE__, #call, (int)status_, pybptt_last_error()); \
            ++failures;                                                                                           \
        }                                                                                                         \
    } while (0)

/* Numbers in [-1, 1), the same ones every time. */
void fill(double* values, size_t count);
/* The same on the heap; also of zeros, and of NaNs. */
double* random_values(size_t count);
double* zeros(size_t count);

void test_values(void);
void test_bad_input(void);
void test_other_threads(void);

#endif
