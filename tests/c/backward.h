/* What the tests of backward passes share: every target, one to three threads, the same bits
 * from each; matrices whose rows lie apart; central differences in double.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_TEST_BACKWARD_H
#define VP_TEST_BACKWARD_H

#include "check.h"
#include "gemm/run.h"

#define BETWEEN 12345.0f /* what lies between the rows */

/* rows x cols floats, ld apart. */
typedef struct {
    size_t rows, cols, ld;
    float *x;
} matrix;

static inline size_t below(size_t n)
{
    return (size_t)((check_random() + 1.0f) / 2.0f * (float)n) % n;
}

static inline matrix matrix_new(size_t rows, size_t cols, float scale)
{
    matrix a = {rows, cols, cols + below(4), NULL};
    a.x = malloc((rows * a.ld + 1) * sizeof(float));
    if (a.x == NULL) {
        exit(1);
    }
    for (size_t i = 0; i < rows * a.ld; i++) {
        a.x[i] = i % a.ld < cols ? scale * check_random() : BETWEEN;
    }
    return a;
}

static inline float *row(const matrix *a, size_t i)
{
    return a->x + i * a->ld;
}

static inline matrix matrix_copy(const matrix *a)
{
    matrix b = *a;
    b.x = malloc((a->rows * a->ld + 1) * sizeof(float));
    if (b.x == NULL) {
        exit(1);
    }
    memcpy(b.x, a->x, a->rows * a->ld * sizeof(float));
    return b;
}

/* What the tests have computed, to be the same whatever the number of threads. */
#define RECORD ((size_t)1 << 22)
static float record[RECORD];
static size_t recorded;

static inline void keep(const float *x, size_t n)
{
    CHECK(recorded + n <= RECORD, "a record is too short");
    memcpy(record + recorded, x, n * sizeof(float));
    recorded += n;
}

/* Keeps a result. Nothing was written between the rows. */
static inline void matrix_keep(const matrix *a)
{
    for (size_t i = 0; i < a->rows * a->ld; i++) {
        CHECK(i % a->ld < a->cols || a->x[i] == BETWEEN, "written between rows");
    }
    keep(a->x, a->rows * a->ld);
}

static inline void matrix_free(matrix *a)
{
    free(a->x);
}

/* The slope of f in *x. */
static inline double slope_of(double (*f)(void *), void *ctx, double *x, double step)
{
    const double at = *x;
    *x = at + step;
    const double above = f(ctx);
    *x = at - step;
    const double under = f(ctx);
    *x = at;
    return (above - under) / (2.0 * step);
}

/* Runs `test` on every target, with one, two and three threads. */
static inline void on_every_target(void (*test)(const vp_run *run, const char *target))
{
    static float first[RECORD];
    for (int t = 0; t < VP_TARGET_COUNT; t++) {
        if (!vp_target_supported((vp_target)t)) {
            continue;
        }
        const char *name = vp_target_name((vp_target)t);
        for (size_t threads = 1; threads <= 3; threads++) {
            vp_set_num_threads(threads);
            vp_team team;
            (void)vp_team_open(&team);
            const vp_run run = {.team = &team, .kernels = vp_kernels_for((vp_target)t)};
            check_reseed(7);
            recorded = 0;
            test(&run, name);
            vp_team_close(&team);
            CHECK(recorded > 0, "%s: nothing was recorded", name);
            if (threads == 1) {
                memcpy(first, record, recorded * sizeof(float));
            }
            CHECK(memcmp(first, record, recorded * sizeof(float)) == 0,
                  "%s: %zu threads give other bits", name, threads);
        }
    }
}

#endif
