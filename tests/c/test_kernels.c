/* Each kernel of VP_KERNELS on every target of this machine against its plain C twin, to the
 * bit where the list says exact, in ulp elsewhere: all tails, both ends of memory guarded, in
 * place, NaN and infinity.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"
#include "kernels/kernels.h"

#define MOST ((size_t)70)

static const vp_kernels *fast;
static const vp_kernels *const plain = &vp_kernels_reference;
static const char *target;
static bool at_end; /* which side of the guarded memory the data lies at */

static float *room(check_memory *memory, size_t floats)
{
    *memory = check_memory_new(floats * sizeof(float), at_end);
    return memory->data;
}

static const char *kernel; /* under test */
static bool exact;         /* as VP_KERNELS says */
static double worst;       /* in ulp */

/* `ulps` at most, of the element's own size or of `size`, whichever is larger. */
static void compare(const float *got, const float *want, size_t n, double ulps,
                    double size)
{
    for (size_t i = 0; i < n; i++) {
        const double error = check_ulps(got[i], want[i], size);
        worst = fmax(worst, error);
        if (exact) {
            CHECK(memcmp(&got[i], &want[i], sizeof *got) == 0 ||
                      (isnan(got[i]) && isnan(want[i])),
                  "%s %s[%zu of %zu]: %a, not exactly %a", target, kernel, i, n,
                  (double)got[i], (double)want[i]);
        } else {
            CHECK(error <= ulps, "%s %s[%zu of %zu]: %.9g, not %.9g: %.2f ulp, not %g",
                  target, kernel, i, n, (double)got[i], (double)want[i], error, ulps);
        }
    }
}

/* The largest finite |x|: the size of a row's sums. */
static double largest(const float *x, size_t n)
{
    double most = 0.0;
    for (size_t i = 0; i < n; i++) {
        most = isfinite(x[i]) ? fmax(most, fabs((double)x[i])) : most;
    }
    return most;
}

/* Puts one odd number among n random ones: case 0 is none. */
static const float odd[] = {0.0f, NAN, INFINITY, -INFINITY, 1e30f, -1e30f, 1e-40f};
#define ODD (sizeof odd / sizeof *odd)
static void fill_odd(float *x, size_t n, size_t which)
{
    check_fill(x, n, 3.0f);
    if (which > 0) {
        x[n * 2 / 3] = odd[which];
    }
}

static void test_norms(bool layer)
{
    for (size_t n = 1; n <= MOST; n++) {
        for (size_t c = 0; c < 2 * 4; c++) {
            check_memory mx, mw, mb;
            float *x = room(&mx, n), *w = room(&mw, n), *b = room(&mb, n);
            float want[MOST];
            fill_odd(x, n, c % 4);
            check_fill(w, n, 1.0f);
            check_fill(b, n, 1.0f);
            const float *weight = c < 4 ? w : NULL, *bias = c < 4 ? b : NULL;
            if (layer) {
                plain->layer_norm(want, x, weight, bias, n, 1e-6f);
                fast->layer_norm(x, x, weight, bias, n, 1e-6f);
            } else {
                plain->rms_norm(want, x, weight, n, 1e-6f);
                fast->rms_norm(x, x, weight, n, 1e-6f);
            }
            /* of a sum, in ulp of what is added: the bias may take most of it away */
            const double most = fmax(largest(want, n), c < 4 ? largest(b, n) : 0.0);
            compare(x, want, n, 12, layer ? most : 0);
            check_memory_free(&mx, "x of a norm");
            check_memory_free(&mw, "w of a norm");
            check_memory_free(&mb, "b of a norm");
        }
    }
}

static void test_layer_norm(void)
{
    test_norms(true);
}

static void test_rms_norm(void)
{
    test_norms(false);
}

static void test_softmax(void)
{
    for (size_t n = 1; n <= MOST; n++) {
        for (size_t c = 0; c < 5; c++) {
            check_memory mx;
            float *x = room(&mx, n), want[MOST];
            fill_odd(x, n, c < 4 ? c : 0);
            for (size_t i = 0; c == 4 && i < n; i++) {
                x[i] = -INFINITY;
            }
            memcpy(want, x, n * sizeof *x);
            plain->softmax(want, n, 0.7f);
            fast->softmax(x, n, 0.7f);
            compare(x, want, n, 8, 0);
            check_memory_free(&mx, "softmax");
        }
    }
}

static void test_softmax_block(void)
{
    for (size_t n = 1; n <= MOST; n++) {
        for (size_t c = 0; c < 4; c++) {
            float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, shrink[2];
            for (size_t block = 0; block < 4; block++) {
                check_memory mx;
                float *x = room(&mx, n), want[MOST];
                fill_odd(x, n, block == 1 ? c : 0);
                for (size_t i = 0; c == 3 && block == 0 && i < n; i++) {
                    x[i] = -INFINITY; /* nothing seen in the first block */
                }
                memcpy(want, x, n * sizeof *x);
                plain->softmax_block(want, n, 1.3f, &max[0], &sum[0], &shrink[0]);
                fast->softmax_block(x, n, 1.3f, &max[1], &sum[1], &shrink[1]);
                if (!isnan(sum[0])) { /* else the sum makes everything NaN at last */
                    /* 2^-7: a small weight's error is that of its rounded exponent */
                    compare(x, want, n, 8, 0.0078125);
                    compare(&max[1], &max[0], 1, 1, 0);
                    compare(&shrink[1], &shrink[0], 1, 8, 0);
                }
                compare(&sum[1], &sum[0], 1, 8, 0);
                check_memory_free(&mx, "softmax_block");
            }
        }
    }
}

/* The error of whole rows, root of the mean square, is one rounding's or two: it grows
 * neither with the row's length nor with its mean. */
static void long_rows_are_as_accurate_as_short_ones(void)
{
    enum { LONGEST = 8192, ROWS = 30, NORMS = 2 };
    static float x[LONGEST], got[LONGEST], want[LONGEST];
    const char *const names[] = {"layer_norm", "rms_norm", "softmax"};
    const size_t lengths[] = {48, 768, LONGEST};
    for (size_t which = 0; which <= NORMS; which++) {
        for (size_t l = 0; l < 3; l++) {
            const size_t n = lengths[l];
            double error = 0.0, size = 0.0;
            for (size_t row = 0; row < ROWS; row++) {
                check_fill(x, n, 2.0f);
                for (size_t i = 0; which < NORMS && i < n; i++) {
                    x[i] += 4.0f;
                }
                if (which == 0) {
                    plain->layer_norm(want, x, NULL, NULL, n, 1e-6f);
                    fast->layer_norm(got, x, NULL, NULL, n, 1e-6f);
                } else if (which == 1) {
                    plain->rms_norm(want, x, NULL, n, 1e-6f);
                    fast->rms_norm(got, x, NULL, n, 1e-6f);
                } else {
                    memcpy(want, x, n * sizeof *x);
                    memcpy(got, x, n * sizeof *x);
                    plain->softmax(want, n, 1.0f);
                    fast->softmax(got, n, 1.0f);
                }
                for (size_t i = 0; i < n; i++) {
                    error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
                    size += (double)want[i] * want[i];
                }
            }
            CHECK(sqrt(error / size) < 1e-7, "%s %s[%zu]: an error of %.3g", target,
                  names[which], n, sqrt(error / size));
        }
    }
}

/* The three that read x and change y. */
typedef enum { ADD, MAXIMUM, AXPBY } pair_kernel;

static void test_pair(pair_kernel which)
{
    for (size_t n = 1; n <= MOST; n++) {
        for (size_t c = 0; c < 2 * ODD; c++) {
            check_memory mx, my;
            float *x = room(&mx, n), *y = room(&my, n), want[MOST];
            fill_odd(x, n, c < ODD ? c : 0);
            fill_odd(y, n, c < ODD ? 0 : c - ODD);
            memcpy(want, y, n * sizeof *y);
            switch (which) {
            case ADD:
                plain->add(want, x, n);
                fast->add(y, x, n);
                compare(y, want, n, 0, 0);
                break;
            case MAXIMUM:
                plain->maximum(want, x, n);
                fast->maximum(y, x, n);
                compare(y, want, n, 0, 0);
                break;
            case AXPBY: {
                const float b = c % 3 == 0 ? 0.0f : 0.37f; /* 0: y is not read */
                plain->axpby(want, -1.7f, x, b, n);
                fast->axpby(y, -1.7f, x, b, n);
                compare(y, want, n, 1, 4);
                break;
            }
            }
            check_memory_free(&mx, "x of a pair");
            check_memory_free(&my, "y of a pair");
        }
    }
}

static void test_add(void)
{
    test_pair(ADD);
}

static void test_maximum(void)
{
    test_pair(MAXIMUM);
}

static void test_axpby(void)
{
    test_pair(AXPBY);
}

static void test_transpose(void)
{
    for (size_t rows = 1; rows <= 40; rows++) {
        for (size_t cols = 1; cols <= MOST; cols += 1 + cols / 20) {
            for (size_t gap = 0; gap < 6; gap += 5) {
                const size_t ldx = cols + gap, ldy = rows + gap;
                check_memory mx, my;
                float *x = room(&mx, (rows - 1) * ldx + cols);
                float *y = room(&my, (cols - 1) * ldy + rows);
                float want[MOST * 45];
                for (size_t i = 0; i < (rows - 1) * ldx + cols; i++) {
                    x[i] = (float)i;
                }
                memcpy(want, y, ((cols - 1) * ldy + rows) * sizeof *y);
                plain->transpose(want, ldy, x, ldx, rows, cols);
                fast->transpose(y, ldy, x, ldx, rows, cols);
                compare(y, want, (cols - 1) * ldy + rows, 0, 0);
                check_memory_free(&mx, "x of transpose");
                check_memory_free(&my, "y of transpose");
            }
        }
    }
}

/* The activations alone: odd numbers, and a sweep over where approximations change pieces. */
static void test_activations(void)
{
    /* Below -5.65 GELU is nothing, and its tanh form in other places: their errors are in ulp
     * of their larger values. Quick GELU's tail is an exponential of a rounded argument. */
    static const double ulps[] = {0, 8, 8, 64, 4, 0},
                        sizes[] = {0, 0.125, 0.125, 0, 0, 0};
    for (int act = VP_ACT_NONE; act <= VP_ACT_RELU; act++) {
        vp_finish how = {.act = (vp_act)act};
        for (size_t n = 1; n <= MOST; n++) {
            for (size_t c = 0; c < ODD; c++) {
                check_memory mx;
                float *x = room(&mx, n), want[MOST];
                fill_odd(x, n, c);
                how.out = want;
                plain->finish(x, n, 1, n, &how);
                how.out = x; /* in place */
                fast->finish(x, n, 1, n, &how);
                compare(x, want, n, ulps[act], sizes[act]);
                check_memory_free(&mx, "an activation");
            }
        }
        for (double at = -20.0; at < 20.0; at += 1e-3) {
            float x = (float)at, want;
            how.out = &want;
            plain->finish(&x, 1, 1, 1, &how);
            how.out = &x;
            fast->finish(&x, 1, 1, 1, &how);
            compare(&x, &want, 1, ulps[act], sizes[act]);
        }
    }
}

static void test_finish(void)
{
    test_activations();
    enum { ROWS = 5, GAP = 3, SIZE = ROWS * (70 + GAP) };
    for (size_t cols = 1; cols <= MOST; cols += cols < 34 ? 1 : 9) {
        for (unsigned parts = 0; parts < 64; parts++) {
            const size_t stride = cols + GAP, size = (ROWS - 1) * stride + cols;
            check_memory mp, mg, mr, mb, mo;
            float *product = room(&mp, size), *gate = room(&mg, size);
            float *residual = room(&mr, size), *bias = room(&mb, cols);
            float *out = room(&mo, size), want[SIZE];
            check_fill(product, size, 2.0f);
            check_fill(gate, size, 2.0f);
            check_fill(residual, size, 2.0f);
            check_fill(bias, cols, 1.0f);
            if (cols % 7 == 3) {
                product[cols / 2] = NAN;
            }
            vp_finish how = {.act = (vp_act)(parts % 6), .out_stride = stride};
            how.bias = parts & 1 ? bias : NULL;
            how.gate = parts & 2 ? gate : NULL;
            how.gate_bias = parts & 4 ? bias : NULL;
            how.gate_stride = stride;
            how.scale = parts & 8 ? bias : NULL;
            how.residual = parts & 16 ? residual : NULL;
            how.residual_stride = stride;
            how.out = want;
            memcpy(want, out, size * sizeof *out);
            plain->finish(product, stride, ROWS, cols, &how);
            how.out = out;
            if (parts & 16 && parts & 32) {
                how.out = residual; /* in place */
            }
            fast->finish(product, stride, ROWS, cols, &how);
            for (size_t r = 0; r < ROWS; r++) {
                compare(how.out + r * stride, want + r * stride, cols, 4, 4);
            }
            check_memory_free(&mp, "product");
            check_memory_free(&mg, "gate");
            check_memory_free(&mr, "residual");
            check_memory_free(&mb, "bias");
            check_memory_free(&mo, "out");
        }
    }
}

#include "kernels_backward.h"
#include "kernels_low.h"

/* A table of d cosines and d signed sines for each of `heads`. */
static void fill_table(float *table, size_t heads, size_t d, bool half)
{
    for (size_t h = 0; h < heads; h++) {
        float *cosines = table + h * 2 * d, *sines = cosines + d;
        for (size_t i = 0; i < d / 2; i++) {
            const size_t a = half ? i : 2 * i, b = half ? i + d / 2 : a + 1;
            const double angle = (double)(h * 7 + i) * 0.37 - 1.0;
            cosines[a] = cosines[b] = (float)cos(angle);
            sines[b] = (float)sin(angle);
            sines[a] = -sines[b];
        }
    }
}

/* Both layouts, one table for all heads or one each, there and back, one odd number. */
static void test_rotate(void)
{
    enum { HEADS = 3 };
    for (size_t d = 4; d <= MOST; d += 4) {
        for (size_t c = 0; c < 8 * ODD; c++) {
            const bool half = c & 1, own = c & 2, inverse = c & 4;
            const size_t tables = own ? HEADS : 1, apart = own ? 2 * d : 0;
            check_memory mx, mt;
            float *x = room(&mx, HEADS * d), *table = room(&mt, tables * 2 * d);
            float want[HEADS * MOST], before[HEADS * MOST];
            fill_odd(x, HEADS * d, c / 8);
            fill_table(table, tables, d, half);
            memcpy(want, x, HEADS * d * sizeof *x);
            memcpy(before, x, HEADS * d * sizeof *x);
            plain->rotate(want, HEADS, d, table, apart, half, inverse);
            fast->rotate(x, HEADS, d, table, apart, half, inverse);
            compare(x, want, HEADS * d, 1, 3);
            if (c < 8) { /* the way back */
                fast->rotate(x, HEADS, d, table, apart, half, !inverse);
                compare(x, before, HEADS * d, 2, 3);
            }
            check_memory_free(&mx, "x of rotate");
            check_memory_free(&mt, "table of rotate");
        }
    }
}

static void test_normalize_u8(void)
{
    for (size_t channels = 1; channels <= 5; channels++) {
        const float mean[5] = {0.485f, 0.456f, 0.406f, 0.5f, 0.0f};
        const float std[5] = {0.229f, 0.224f, 0.225f, 0.5f, 1.0f};
        for (size_t n = 1; n <= 300; n += n < MOST ? 1 : 37) {
            check_memory mp = check_memory_new(n * channels, at_end), mo;
            uint8_t *pixels = mp.data;
            float *out = room(&mo, n * channels), want[5 * 300];
            for (size_t i = 0; i < n * channels; i++) {
                pixels[i] = (uint8_t)(i * 37 + n);
            }
            plain->normalize_u8(want, pixels, n, channels, mean, std);
            fast->normalize_u8(out, pixels, n, channels, mean, std);
            compare(out, want, n * channels, 0, 0);
            check_memory_free(&mp, "pixels");
            check_memory_free(&mo, "out of normalize_u8");
        }
    }
}

/* A kernel without a test does not compile. */
static const struct {
    const char *name;
    bool exact;
    void (*test)(void);
} tests[] = {
#define TEST(name, exact, parameters) {#name, exact, test_##name},
    VP_KERNELS(TEST)
#undef TEST
};

int main(void)
{
    for (int t = 0; t < VP_TARGET_COUNT; t++) {
        if (!vp_target_supported((vp_target)t)) {
            continue;
        }
        fast = vp_kernels_for((vp_target)t);
        target = vp_target_name((vp_target)t);
        long_rows_are_as_accurate_as_short_ones();
        for (int side = 0; side < 2; side++) {
            at_end = side == 1;
            for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
                kernel = tests[i].name;
                exact = tests[i].exact;
                worst = 0.0;
                tests[i].test();
                (void)printf("%s %s: %.2f ulp\n", target, kernel, worst);
            }
        }
    }
    return check_done();
}
