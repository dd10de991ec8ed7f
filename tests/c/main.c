#include "check.h"

int failures = 0;

static unsigned long long state = 1;

void fill(double* values, size_t count) {
    size_t i;
    for (i = 0; i < count; ++i) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL; /* Knuth's MMIX */
        values[i] = (double)(state >> 40) / (double)(1ULL << 23) - 1;
    }
}

double* zeros(size_t count) { return calloc(count == 0 ? 1 : count, sizeof(double)); }

double* random_values(size_t count) {
    double* values = zeros(count);
    fill(values, count);
    return values;
}

int main(void) {
    test_values();
    test_bad_input();
    test_other_threads();
    if (failures != 0) printf("%d checks failed\n", failures);
    return failures != 0;
}
