/* test_kernels.c's tests of the kernels of training: backward passes, dropout, optimizers.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_TEST_KERNELS_BACKWARD_H
#define VP_TEST_KERNELS_BACKWARD_H

/* A norm's gradient: with and without weight, dw and db, added or not, in place of dy. */
static void test_norms_backward(bool layer)
{
    for (size_t n = 1; n <= MOST; n++) {
        for (size_t c = 0; c < 32; c++) {
            check_memory mx, my, md, mw, ma, mb;
            float *x = room(&mx, n), *dy = room(&my, n), *dx = room(&md, n);
            float *w = room(&mw, n), *dw = room(&ma, n), *db = room(&mb, n);
            float want[3][MOST];
            const bool add = c & 4;
            fill_odd(x, n, c % 16 == 3 ? 1 : 0);
            fill_odd(dy, n, c % 16 == 7 ? 1 : 0);
            check_fill(w, n, 1.0f);
            check_fill(dx, n, 1.0f);
            check_fill(dw, n, 1.0f);
            check_fill(db, n, 1.0f);
            memcpy(want[0], dx, n * sizeof *dx);
            memcpy(want[1], dw, n * sizeof *dw);
            memcpy(want[2], db, n * sizeof *db);
            const float *weight = c & 1 ? w : NULL;
            float *to = c & 8 && !add ? dy : dx; /* in place */
            const bool dws = c & 2, dbs = c & 16;
            if (layer) {
                plain->layer_norm_backward(want[0], dy, x, weight, dws ? want[1] : NULL,
                                           dbs ? want[2] : NULL, n, 0.1f, add);
                fast->layer_norm_backward(to, dy, x, weight, dws ? dw : NULL,
                                          dbs ? db : NULL, n, 0.1f, add);
            } else {
                plain->rms_norm_backward(want[0], dy, x, weight, dws ? want[1] : NULL,
                                         n, 0.1f, add);
                fast->rms_norm_backward(to, dy, x, weight, dws ? dw : NULL, n, 0.1f,
                                        add);
            }
            compare(to, want[0], n, 8, 4);
            compare(dw, want[1], n, 8, 4);
            compare(db, want[2], n, 2, 4);
            check_memory_free(&mx, "x of a norm's gradient");
            check_memory_free(&my, "dy of a norm");
            check_memory_free(&md, "dx of a norm");
            check_memory_free(&mw, "w of a norm's gradient");
            check_memory_free(&ma, "dw of a norm");
            check_memory_free(&mb, "db of a norm");
        }
    }
}

static void test_layer_norm_backward(void)
{
    test_norms_backward(true);
}

static void test_rms_norm_backward(void)
{
    test_norms_backward(false);
}

static void test_dot(void)
{
    for (size_t n = 1; n <= MOST; n++) {
        check_memory mx, my;
        float *x = room(&mx, n), *y = room(&my, n), got = 0.0f, want = 0.0f;
        double size = 0.0;
        check_fill(x, n, 3.0f);
        check_fill(y, n, 3.0f);
        for (size_t i = 0; i < n; i++) {
            size += fabs((double)x[i] * y[i]);
        }
        plain->dot(&want, x, y, n);
        fast->dot(&got, x, y, n);
        compare(&got, &want, 1, 8, size);
        check_memory_free(&mx, "x of dot");
        check_memory_free(&my, "y of dot");
    }
}

static void test_softmax_backward(void)
{
    for (size_t n = 1; n <= MOST; n++) {
        for (size_t c = 0; c < 3 * 2; c++) {
            check_memory mp, md, ms;
            float *p = room(&mp, n), *dp = room(&md, n), *ds = room(&ms, n), want[MOST];
            check_fill(p, n, 3.0f);
            plain->softmax(p, n, 1.0f);
            fill_odd(dp, n, c / 3);
            float *to = c % 3 == 0 ? ds : c % 3 == 1 ? p : dp;
            plain->softmax_backward(want, p, dp, n, 0.125f);
            fast->softmax_backward(to, p, dp, n, 0.125f);
            compare(to, want, n, 8, 0.125);
            check_memory_free(&mp, "p of softmax_backward");
            check_memory_free(&md, "dp of softmax_backward");
            check_memory_free(&ms, "ds of softmax_backward");
        }
    }
}

/* Slopes are nothing in the tails: their errors are in ulp of their larger values. */
#define SLOPE_ULPS 8
#define SLOPE_SIZE 0.25

static void test_act_backward(void)
{
    for (int act = VP_ACT_NONE; act <= VP_ACT_RELU; act++) {
        for (size_t n = 1; n <= MOST; n++) {
            for (size_t c = 0; c < 3 * ODD; c++) {
                check_memory mx, my, md;
                float *x = room(&mx, n), *dy = room(&my, n), *dx = room(&md, n);
                float want[MOST];
                fill_odd(x, n, c % ODD);
                check_fill(dy, n, 1.0f);
                float *to = c / ODD == 0 ? dx : c / ODD == 1 ? dy : x;
                plain->act_backward(want, dy, x, n, (vp_act)act);
                fast->act_backward(to, dy, x, n, (vp_act)act);
                compare(to, want, n, SLOPE_ULPS, SLOPE_SIZE);
                check_memory_free(&mx, "x of act_backward");
                check_memory_free(&my, "dy of act_backward");
                check_memory_free(&md, "dx of act_backward");
            }
        }
        for (double at = -20.0; at < 20.0; at += 1e-3) {
            const float x = (float)at, one = 1.0f;
            float got, want;
            plain->act_backward(&want, &one, &x, 1, (vp_act)act);
            fast->act_backward(&got, &one, &x, 1, (vp_act)act);
            compare(&got, &want, 1, SLOPE_ULPS, SLOPE_SIZE);
        }
    }
    const float zeros[2] = {0.0f, -0.0f}, ones[2] = {1.0f, 1.0f};
    float at_zero[2] = {NAN, NAN};
    fast->act_backward(at_zero, ones, zeros, 2, VP_ACT_RELU);
    CHECK(at_zero[0] == 0.0f && at_zero[1] == 0.0f, "relu'(0) is %g and %g",
          (double)at_zero[0], (double)at_zero[1]);
}

static void test_gate_backward(void)
{
    for (int act = VP_ACT_NONE; act <= VP_ACT_RELU; act++) {
        for (size_t n = 1; n <= MOST; n++) {
            for (size_t c = 0; c < 3; c++) {
                check_memory mh, mv, mg, ma, mb;
                float *dh = room(&mh, n), *v = room(&mv, n), *g = room(&mg, n);
                float *dv = room(&ma, n), *dg = room(&mb, n), want[2][MOST];
                check_fill(dh, n, 1.0f);
                check_fill(v, n, 1.0f);
                fill_odd(g, n, n % 5 == 0 ? 1 : 0);
                plain->gate_backward(want[0], want[1], dh, v, g, n, (vp_act)act);
                dv = c == 1 ? dh : dv; /* in place */
                dg = c == 2 ? dh : dg;
                fast->gate_backward(dv, dg, dh, v, g, n, (vp_act)act);
                compare(dv, want[0], n, SLOPE_ULPS, SLOPE_SIZE);
                compare(dg, want[1], n, SLOPE_ULPS, SLOPE_SIZE);
                check_memory_free(&mh, "dh of gate_backward");
                check_memory_free(&mv, "v of gate_backward");
                check_memory_free(&mg, "g of gate_backward");
                check_memory_free(&ma, "dv of gate_backward");
                check_memory_free(&mb, "dg of gate_backward");
            }
        }
    }
}

static void test_drop(void)
{
    static const float rates[] = {0.0f, 0.1f, 0.5f, 0.999f};
    static const uint32_t firsts[] = {0, 7, 0xfffffff0u}; /* the last one wraps */
    for (size_t n = 1; n <= MOST; n++) {
        for (size_t c = 0; c < 3 * 4; c++) {
            check_memory mx, my;
            float *x = room(&mx, n), *y = room(&my, n), want[MOST];
            const uint64_t key = 0x123456789abcdef0u * (n + c);
            fill_odd(x, n, n % ODD);
            plain->drop(want, x, n, key, firsts[c % 3], rates[c / 3]);
            float *to = n % 2 ? x : y; /* in place */
            fast->drop(to, x, n, key, firsts[c % 3], rates[c / 3]);
            compare(to, want, n, 0, 0);
            check_memory_free(&mx, "x of drop");
            check_memory_free(&my, "y of drop");
        }
    }
}

static void test_adamw(void)
{
    for (size_t n = 1; n <= MOST; n++) {
        check_memory ms[4];
        float *all[4], want[4][MOST];
        for (size_t i = 0; i < 4; i++) { /* w, m, v, g */
            all[i] = room(&ms[i], n);
            check_fill(all[i], n, 1.0f);
        }
        for (size_t i = 0; i < n; i++) {
            all[2][i] = fabsf(all[2][i]);
            all[3][i] = i % 3 == 0 ? 0.0f : all[3][i]; /* no gradient */
        }
        for (size_t i = 0; i < 4; i++) {
            memcpy(want[i], all[i], n * sizeof(float));
        }
        const vp_adamw how = {.rest1 = 0.1f,
                              .beta2 = 0.999f,
                              .rest2 = 0.001f,
                              .decay = 1e-3f,
                              .step = 0.02f,
                              .root = 3.0f,
                              .eps = 1e-8f};
        plain->adamw(want[0], want[1], want[2], want[3], n, &how);
        fast->adamw(all[0], all[1], all[2], all[3], n, &how);
        for (size_t i = 0; i < 4; i++) {
            compare(all[i], want[i], n, 2, 1);
            check_memory_free(&ms[i], "adamw");
        }
    }
}

static void test_sgd(void)
{
    for (size_t n = 1; n <= MOST; n++) {
        for (size_t c = 0; c < 2; c++) {
            check_memory ms[3];
            float *all[3], want[3][MOST];
            for (size_t i = 0; i < 3; i++) { /* w, buf, g */
                all[i] = room(&ms[i], n);
                check_fill(all[i], n, 1.0f);
                memcpy(want[i], all[i], n * sizeof(float));
            }
            const vp_sgd how = {.lr = 0.1f,
                                .momentum = 0.9f,
                                .decay = 0.01f,
                                .scale = 0.7f,
                                .nesterov = c == 1};
            plain->sgd(want[0], want[1], want[2], n, &how);
            fast->sgd(all[0], all[1], all[2], n, &how);
            for (size_t i = 0; i < 3; i++) {
                compare(all[i], want[i], n, 2, 2);
                check_memory_free(&ms[i], "sgd");
            }
        }
    }
}

#endif
