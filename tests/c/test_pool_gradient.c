/* The gradients of pools: of a mean, of a maximum with and without ties, of the first token.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backward.h"
#include "ops/pool.h"

/* The slope of the pool in x[t][c] by its definition, in double. */
static double want_of(vp_reduce reduce, const matrix *x, size_t image, size_t tokens,
                      size_t first, size_t t, size_t c, double dout)
{
    if (reduce == VP_REDUCE_TOKEN) {
        return t == 0 ? dout : 0.0;
    }
    if (t < first) {
        return 0.0;
    }
    double most = -INFINITY, reach = 0.0;
    for (size_t k = first; k < tokens; k++) {
        most = fmax(most, row(x, image * tokens + k)[c]);
    }
    for (size_t k = first; k < tokens; k++) {
        reach += row(x, image * tokens + k)[c] == most;
    }
    const double mean = dout / (double)(tokens - first);
    const double max = row(x, image * tokens + t)[c] == most ? dout / reach : 0.0;
    return reduce == VP_REDUCE_AVG   ? mean
           : reduce == VP_REDUCE_MAX ? max
                                     : (mean + max) / 2.0;
}

/* What goes around in the pool is what comes out of its gradient: the sum of dx (x' - x) is
 * the change of dout pool(x), as long as the same tokens reach the maximum. */
static void check_slope(const vp_run *run, vp_reduce reduce, size_t batch,
                        size_t tokens, size_t first, const matrix *x, const matrix *dx,
                        const matrix *dout, const char *target)
{
    matrix moved = matrix_copy(x), out[2];
    const size_t n = x->cols;
    double want = 0.0, got = 0.0, size = 0.0;
    for (size_t i = 0; i < batch * tokens; i++) {
        for (size_t c = 0; c < n; c++) {
            row(&moved, i)[c] += 0x1p-12f * (c % 2 ? 1.0f : -1.0f); /* ties stay */
            const double step = (double)row(&moved, i)[c] - row(x, i)[c];
            want += step * row(dx, i)[c];
        }
    }
    for (int k = 0; k < 2; k++) {
        const matrix *in = k == 0 ? x : &moved;
        out[k] = matrix_new(batch, n, 0.0f);
        vp_pool_run(run, reduce, batch, tokens, first, n, out[k].x, out[k].ld, in->x,
                    in->ld, tokens * in->ld);
    }
    for (size_t b = 0; b < batch; b++) {
        for (size_t c = 0; c < n; c++) {
            got += ((double)row(&out[1], b)[c] - row(&out[0], b)[c]) * row(dout, b)[c];
            size += fabs((double)row(&out[0], b)[c]);
        }
    }
    CHECK(fabs(got - want) <= 4e-7 * (1.0 + size),
          "%s, pool %d, %zu tokens: the change is %g, not %g", target, reduce, tokens,
          got, want);
    matrix_free(&moved);
    matrix_free(&out[0]);
    matrix_free(&out[1]);
}

static void one_shape(const vp_run *run, const char *target, vp_reduce reduce,
                      size_t batch, size_t tokens, size_t first, size_t n, bool ties)
{
    matrix x = matrix_new(batch * tokens, n, 1.0f), dout = matrix_new(batch, n, 1.0f);
    matrix dx = matrix_new(batch * tokens, n, 1.0f);
    for (size_t i = 0; i < batch * tokens; i++) {
        for (size_t c = 0; ties && c < n; c++) {
            row(&x, i)[c] = roundf(row(&x, i)[c] * 2.0f);
        }
    }
    vp_pool_gradient_run(run, reduce, batch, tokens, first, n, dx.x, dx.ld,
                         tokens * dx.ld, dout.x, dout.ld, x.x, x.ld, tokens * x.ld);
    for (size_t i = 0; i < batch * tokens; i++) {
        for (size_t c = 0; c < n; c++) {
            const double want = want_of(reduce, &x, i / tokens, tokens, first,
                                        i % tokens, c, row(&dout, i / tokens)[c]);
            CHECK(fabs(row(&dx, i)[c] - want) <= 2e-7 * fabs(want),
                  "%s, pool %d, token %zu of %zu from %zu, [%zu]: %.9g, not %.9g",
                  target, reduce, i % tokens, tokens, first, c, (double)row(&dx, i)[c],
                  want);
        }
    }
    if (first < tokens) {
        check_slope(run, reduce, batch, tokens, first, &x, &dx, &dout, target);
    }
    matrix_keep(&dx);
    matrix_free(&x);
    matrix_free(&dx);
    matrix_free(&dout);
}

static void test(const vp_run *run, const char *target)
{
    for (int reduce = VP_REDUCE_AVG; reduce <= VP_REDUCE_TOKEN; reduce++) {
        for (size_t i = 0; i < 12; i++) {
            const size_t tokens = 1 + below(30);
            one_shape(run, target, (vp_reduce)reduce, 1 + below(4), tokens,
                      below(vp_min(tokens, 6)), 1 + below(40), i % 2);
        }
        one_shape(run, target, (vp_reduce)reduce, 2, 5, 1, 600, true); /* pieces */
        one_shape(run, target, (vp_reduce)reduce, 2, 3, 3, 7, false);  /* reads none */
    }
}

int main(void)
{
    on_every_target(test);
    return check_done();
}
