/* Activations by themselves, gated and not, and their slopes in double.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backward.h"
#include "ops/activation.h"

static double act_of(double x, vp_act act)
{
    switch (act) {
    case VP_ACT_GELU:
        return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    case VP_ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case VP_ACT_QUICK_GELU:
        return x / (1.0 + exp(-1.702 * x));
    case VP_ACT_SILU:
        return x / (1.0 + exp(-x));
    case VP_ACT_RELU:
        return x > 0.0 ? x : 0.0;
    case VP_ACT_NONE:
        break;
    }
    return x;
}

typedef struct {
    vp_act act;
    bool gated;
    double dh, v, g;
} number;

static double value(void *ctx)
{
    const number *x = ctx;
    return x->dh * (x->gated ? act_of(x->g, x->act) * x->v : act_of(x->v, x->act));
}

static void check(const char *target, vp_act act, const char *what, double got,
                  double want)
{
    CHECK(fabs(got - want) <= 2e-6 * (1.0 + fabs(want)),
          "%s, act %d: %s %.9g, not %.9g", target, act, what, got, want);
}

static void one_shape(const vp_run *run, const char *target, vp_act act, size_t m,
                      size_t n, bool gated, unsigned in_place)
{
    matrix v = matrix_new(m, n, 4.0f), g = matrix_copy(&v), dh = matrix_new(m, n, 1.0f);
    matrix h = matrix_new(m, n, 1.0f), dv = matrix_new(m, n, 1.0f);
    matrix dg = matrix_copy(&dv);
    for (size_t i = 0; i < m; i++) {
        check_fill(row(&g, i), n, 4.0f);
    }
    matrix v0 = matrix_copy(&v), dh0 = matrix_copy(&dh);
    matrix *to_h = in_place == 1 ? &v : &h;
    vp_act_run(run, act, m, n, to_h->x, to_h->ld, v.x, gated ? g.x : NULL, v.ld);
    matrix_keep(to_h);
    /* dv and dg have one stride: where one is dh, so has the other */
    matrix both[2] = {matrix_copy(&dh), matrix_copy(&dh)};
    float *to_dv = in_place == 1 ? dh.x : both[0].x;
    float *to_dg = in_place == 2 ? dh.x : both[1].x;
    vp_act_gradient_run(run, act, m, n, to_dv, gated ? to_dg : NULL, dh.ld, dh.x, dh.ld,
                        v0.x, gated ? g.x : NULL, v0.ld);
    for (size_t i = 0; i < m; i++) {
        for (size_t c = 0; c < n; c++) {
            number x = {act, gated, 1.0, row(&v0, i)[c], row(&g, i)[c]};
            check(target, act, "h", row(to_h, i)[c], value(&x));
            x.dh = row(&dh0, i)[c];
            check(target, act, "dv", to_dv[i * dh.ld + c],
                  slope_of(value, &x, &x.v, 1e-6));
            if (gated) {
                check(target, act, "dg", to_dg[i * dh.ld + c],
                      slope_of(value, &x, &x.g, 1e-6));
            }
        }
    }
    keep(to_dv, m * dh.ld);
    keep(to_dg, m * dh.ld);
    matrix *all[] = {&v, &g, &dh, &h, &dv, &dg, &v0, &dh0, &both[0], &both[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        matrix_free(all[i]);
    }
}

static void test(const vp_run *run, const char *target)
{
    for (int act = VP_ACT_NONE; act <= VP_ACT_RELU; act++) {
        for (unsigned in_place = 0; in_place < 3; in_place++) {
            for (int gated = 0; gated < 2; gated++) {
                one_shape(run, target, (vp_act)act, 1 + below(40), 1 + below(60), gated,
                          in_place);
            }
        }
    }
}

int main(void)
{
    on_every_target(test);
    return check_done();
}
