/* Losses and their gradients, against their definitions in long double.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backward.h"
#include "ops/loss.h"

#define MOST 1500

/* The largest of l[n], and the logarithm of the sum of e^(l - largest), both exact where a
 * class is nearly sure. */
static long double log_sum(const long double *l, size_t n, long double *most)
{
    long double others = 0.0L;
    size_t at = 0;
    for (size_t i = 1; i < n; i++) {
        at = l[i] > l[at] ? i : at;
    }
    for (size_t i = 0; i < n; i++) {
        others += i == at ? 0.0L : expl(l[i] - l[at]);
    }
    *most = l[at];
    return log1pl(others);
}

/* -log sigmoid(l) */
static long double surprise_of_one(long double l)
{
    return l < 0.0L ? -l + log1pl(expl(l)) : log1pl(expl(-l));
}

static long double value(const vp_loss *loss, const long double *l, const float *t)
{
    long double sum = 0.0L, most;
    const long double log_of_sum = log_sum(l, loss->classes, &most);
    for (size_t c = 0; c < loss->classes; c++) {
        const long double w = loss->weights != NULL ? loss->weights[c] : 1.0L;
        if (loss->kind == VP_LOSS_CROSS_ENTROPY) {
            sum += t[c] * (most - l[c] + log_of_sum);
        } else if (loss->kind == VP_LOSS_MSE) {
            sum += w * (l[c] - t[c]) * (l[c] - t[c]);
        } else {
            sum += w * (t[c] * surprise_of_one(l[c]) +
                        (1.0L - t[c]) * surprise_of_one(-l[c]));
        }
    }
    return loss->scale * sum;
}

/* How exact a loss is: the exponents of softmax_block are rounded to float32, so that of
 * e^-x some x 2^-24 is lost; below 1e-38 there is nothing. */
static long double tolerance(const vp_loss *loss, long double value)
{
    const long double small = logl(loss->scale / fmaxl(value, 1e-38L * loss->scale));
    return value * (4e-7L + 1e-7L * fmaxl(small, 0.0L)) + 1e-37L * loss->scale;
}

/* Runs it, in place or not, and compares losses and gradients; returns the first loss. */
static double check_loss(const vp_run *run, const char *target, const vp_loss *loss,
                         const matrix *logits, bool in_place, double step)
{
    const size_t n = loss->classes, rows = loss->rows, groups = loss->groups;
    matrix l = matrix_copy(logits), other = matrix_new(rows, groups * n, 1.0f);
    matrix *d = in_place ? &l : &other;
    static double losses[64], before[64], row_losses[4096];
    static long double exact[MOST];
    for (size_t g = 0; g < groups; g++) {
        before[g] = losses[g] = (double)g / 4.0;
    }
    vp_loss_run(run, loss, l.x, l.ld, d->x, d->ld, losses, row_losses);
    for (size_t g = 0; g < groups; g++) {
        long double want = before[g];
        for (size_t i = 0; i < rows; i++) {
            const float *t = loss->targets + i * n;
            for (size_t c = 0; c < n; c++) {
                exact[c] = row(logits, i)[g * n + c];
            }
            const long double here = value(loss, exact, t);
            want += here;
            CHECK(fabsl(row_losses[i * groups + g] - here) <= tolerance(loss, here),
                  "%s, %s: the loss of row %zu, group %zu is %.9g, not %.9Lg", target,
                  vp_loss_names[loss->kind], i, g, row_losses[i * groups + g], here);
            for (size_t c = below(1 + n / 20); c < n; c += 1 + n / 20) {
                const long double at = exact[c];
                exact[c] = at + step;
                const long double above = value(loss, exact, t);
                exact[c] = at - step;
                const long double slope = (above - value(loss, exact, t)) / (2 * step);
                exact[c] = at;
                const double got = row(d, i)[g * n + c];
                CHECK(fabsl(got - slope) <= 1e-6L * (loss->scale + fabsl(slope)),
                      "%s, %s: d[%zu][%zu][%zu] is %.9g, not %.9Lg", target,
                      vp_loss_names[loss->kind], i, g, c, got, slope);
            }
        }
        CHECK(fabsl(losses[g] - want) <= 4e-7L * (fabsl(want) + 1e-30L),
              "%s, %s: loss %zu is %.9g, not %.9Lg", target, vp_loss_names[loss->kind],
              g, losses[g], want);
        const float digits[2] = {(float)losses[g],
                                 (float)(losses[g] - (double)(float)losses[g])};
        keep(digits, 2);
    }
    matrix_keep(d);
    const double first = losses[0];
    matrix_free(&l);
    matrix_free(&other);
    return first;
}

/* Targets that sum to 1, or to something else; many of them 0. */
static void fill_targets(float *t, size_t rows, size_t n, unsigned how)
{
    for (size_t i = 0; i < rows * n; i++) {
        t[i] = how & 1 && check_random() > 0.0f ? 0.0f : (check_random() + 1.0f) / 2.0f;
    }
    for (size_t i = 0; how & 2 && i < rows; i++) {
        memset(t + i * n, 0, n * sizeof *t); /* one class, or none at all */
        t[i * n + below(n)] = i % 3 == 2 ? 0.0f : 1.0f;
    }
}

static void any_shape(const vp_run *run, const char *target, vp_loss_kind kind,
                      unsigned how, size_t rows, size_t n, size_t groups)
{
    static float targets[20 * MOST], weights[MOST];
    fill_targets(targets, rows, n, how);
    for (size_t c = 0; c < n; c++) {
        weights[c] = c % 5 == 0 ? 0.0f : 1.0f + check_random();
    }
    matrix logits = matrix_new(rows, groups * n, how & 4 ? 1e4f : 5.0f);
    const bool weighted = kind != VP_LOSS_CROSS_ENTROPY && how & 8;
    const vp_loss loss = {
        kind, rows, n, groups, targets, weighted ? weights : NULL, 1.0f / (float)rows};
    /* mse is a parabola, whose slope any step finds */
    (void)check_loss(run, target, &loss, &logits, how & 1,
                     kind == VP_LOSS_MSE ? 0.5 : 1e-4);
    matrix_free(&logits);
}

/* A class that is nearly sure: the loss and the slope are small and still exact. */
static void a_small_loss_keeps_its_digits(const vp_run *run, const char *target)
{
    for (size_t n = 2; n < 40; n += 7) {
        matrix logits = matrix_new(1, n, 1.0f), d = matrix_copy(&logits);
        static float t[40];
        memset(t, 0, sizeof t);
        const size_t c = below(n);
        t[c] = 1.0f;
        row(&logits, 0)[c] = 22.0f;
        const vp_loss loss = {VP_LOSS_CROSS_ENTROPY, 1, n, 1, t, NULL, 1.0f};
        long double others = 0.0L;
        for (size_t i = 0; i < n; i++) {
            others += i == c ? 0.0L : expl((long double)row(&logits, 0)[i] - 22.0L);
        }
        double sum = 0.0, one;
        vp_loss_run(run, &loss, logits.x, logits.ld, d.x, d.ld, &sum, &one);
        const double want = (double)log1pl(others),
                     slope = (double)(others / (1 + others));
        CHECK(fabs(sum - want) <= 4e-6 * want, "%s: the loss is %g, not %g", target,
              sum, want);
        CHECK(fabs(d.x[c] + slope) <= 4e-6 * slope, "%s: the slope is %g, not %g",
              target, (double)d.x[c], -slope);
        matrix_free(&logits);
        matrix_free(&d);
    }
}

/* -inf where no target is, as a mask leaves it, is a class that cannot be. */
static void odd_logits(const vp_run *run, const char *target)
{
    const float t[4] = {0.0f, 1.0f, 0.0f, 0.0f};
    const vp_loss loss = {VP_LOSS_CROSS_ENTROPY, 1, 4, 1, t, NULL, 1.0f};
    float l[4] = {-INFINITY, 1.0f, 1.0f, -INFINITY}, d[4];
    double sum = 0.0, one;
    vp_loss_run(run, &loss, l, 4, d, 4, &sum, &one);
    CHECK(fabs(sum - log(2.0)) < 1e-7, "%s: the loss is %g", target, sum);
    CHECK(d[0] == 0.0f && d[3] == 0.0f && d[1] == -0.5f && d[2] == 0.5f,
          "%s: the gradient is %g %g %g %g", target, (double)d[0], (double)d[1],
          (double)d[2], (double)d[3]);
    for (int kind = 0; kind < VP_LOSS_COUNT; kind++) {
        const vp_loss any = {(vp_loss_kind)kind, 1, 4, 1, t, NULL, 1.0f};
        const float bad[4] = {0.0f, NAN, 1.0f, 2.0f};
        sum = 0.0;
        vp_loss_run(run, &any, bad, 4, d, 4, &sum, &one);
        CHECK(isnan(sum), "%s, %s: NaN is lost in %g", target, vp_loss_names[kind],
              sum);
    }
}

static void test(const vp_run *run, const char *target)
{
    for (int kind = 0; kind < VP_LOSS_COUNT; kind++) {
        for (unsigned how = 0; how < 16; how++) {
            any_shape(run, target, (vp_loss_kind)kind, how, 1 + below(9), 1 + below(30),
                      1 + below(4));
        }
        any_shape(run, target, (vp_loss_kind)kind, 0, 3, 1000 + below(500), 2);
        any_shape(run, target, (vp_loss_kind)kind, 2, 20, 2, 64); /* many probes */
    }
    a_small_loss_keeps_its_digits(run, target);
    odd_logits(run, target);
}

int main(void)
{
    on_every_target(test);
    return check_done();
}
