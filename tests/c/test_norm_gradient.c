/* The gradients of LayerNorm and RMSNorm are the slopes of the norms in double.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backward.h"
#include "ops/norm.h"

#define MOST ((size_t)1300)

/* One vector through a norm in double, and what comes out times dy, summed. */
typedef struct {
    vp_norm_kind kind;
    size_t n;
    double eps, x[MOST], w[MOST], b[MOST], dy[MOST];
} vector;

static double scale_of(const vector *v, double *mean)
{
    double squares = 0.0;
    *mean = 0.0;
    for (size_t i = 0; v->kind == VP_NORM_LAYER && i < v->n; i++) {
        *mean += v->x[i] / (double)v->n;
    }
    for (size_t i = 0; i < v->n; i++) {
        squares += (v->x[i] - *mean) * (v->x[i] - *mean) / (double)v->n;
    }
    return 1.0 / sqrt(squares + v->eps);
}

static double value(void *ctx)
{
    const vector *v = ctx;
    double mean, sum = 0.0;
    const double scale = scale_of(v, &mean);
    for (size_t i = 0; i < v->n; i++) {
        sum += v->dy[i] * ((v->x[i] - mean) * scale * v->w[i] + v->b[i]);
    }
    return sum;
}

typedef struct {
    matrix x, dy, dx, before;
    float *w, *b, *dw, *db;
} data;

/* Compares one vector's dx with slopes, and adds the slopes of w and b to dw and db. */
static void check_vector(const vp_norm_op *norm, const data *d, const matrix *dx,
                         size_t i, size_t h, size_t n, bool add, double *dw, double *db,
                         const char *target)
{
    static vector v;
    v.kind = norm->kind;
    v.n = n;
    v.eps = norm->eps;
    for (size_t c = 0; c < n; c++) {
        v.x[c] = row(&d->x, i)[h * n + c];
        v.dy[c] = row(&d->dy, i)[h * n + c];
        v.w[c] = d->w[c];
        v.b[c] = d->b[c];
    }
    double mean;
    const double scale = scale_of(&v, &mean);
    for (size_t c = 0; c < n; c++) {
        dw[c] += v.dy[c] * (v.x[c] - mean) * scale;
        db[c] += v.dy[c];
    }
    /* every number of a short vector, some of a long one */
    for (size_t c = below(1 + n / 40); c < n; c += 1 + n / 40) {
        double want = slope_of(value, &v, &v.x[c], 1e-6);
        want += add ? row(&d->before, i)[h * n + c] : 0.0;
        const double got = row(dx, i)[h * n + c];
        CHECK(fabs(got - want) <= 2e-6 * (1.0 + scale),
              "%s, kind %d, row %zu, head %zu, n %zu: dx[%zu] %.9g, not %.9g", target,
              norm->kind, i, h, n, c, got, want);
    }
    /* what the sums above say is the slope of w */
    const size_t c = below(n);
    const double want = slope_of(value, &v, &v.w[c], 0.5);
    const double got = v.dy[c] * (v.x[c] - mean) * scale;
    CHECK(fabs(got - want) <= 1e-9 * (1.0 + scale), "the test's own formula of dw");
}

static void check_sums(const float *got, const float *before, const double *want,
                       size_t n, size_t vectors, const char *what, const char *target)
{
    for (size_t c = 0; c < n; c++) {
        CHECK(fabs(got[c] - (before[c] + want[c])) <=
                  4e-7 * (4.0 + sqrt((double)vectors)),
              "%s, %zu vectors of %zu: %s[%zu] %.9g, not %.9g", target, vectors, n,
              what, c, (double)got[c], before[c] + want[c]);
    }
}

static void one_shape(const vp_run *run, const char *target, size_t m, size_t heads,
                      size_t n, unsigned how)
{
    static float w[MOST], b[MOST], dw[MOST], db[MOST], before[2][MOST];
    static double want[2][MOST];
    check_fill(w, n, 1.0f);
    check_fill(b, n, 1.0f);
    check_fill(dw, n, 1.0f);
    check_fill(db, n, 1.0f);
    memcpy(before[0], dw, sizeof dw);
    memcpy(before[1], db, sizeof db);
    memset(want, 0, sizeof want);
    const bool layer = how & 1, add = how & 2, in_place = how & 4 && !add;
    const bool sums = how & 8;
    const vp_norm_op norm = {layer ? VP_NORM_LAYER : VP_NORM_RMS, 1e-5f, w,
                             layer ? b : NULL};
    data d = {.x = matrix_new(m, heads * n, 2.0f),
              .dy = matrix_new(m, heads * n, 1.0f),
              .dx = matrix_new(m, heads * n, 1.0f),
              .w = w,
              .b = b};
    for (size_t i = 0; i < m * d.x.ld; i++) { /* a mean that is not small */
        d.x.x[i] += i % d.x.ld < d.x.cols ? 1.0f : 0.0f;
    }
    d.before = matrix_copy(&d.dx);
    matrix dy = matrix_copy(&d.dy);
    matrix *dx = in_place ? &dy : &d.dx;
    const size_t floats = vp_norm_gradient_floats(m, heads, n);
    check_memory partial = check_memory_new(floats * sizeof(float), true);
    vp_norm_gradient_run(run, &norm, m, heads, n, dx->x, dx->ld, add, dy.x, dy.ld,
                         d.x.x, d.x.ld, sums ? dw : NULL, sums && layer ? db : NULL,
                         partial.data);
    check_memory_free(&partial, "a norm's gradient");
    for (size_t i = 0; i < m; i++) {
        for (size_t h = 0; h < heads; h++) {
            check_vector(&norm, &d, dx, i, h, n, add, want[0], want[1], target);
        }
    }
    if (!sums) {
        memset(want, 0, sizeof want);
    }
    check_sums(dw, before[0], want[0], n, m * heads, "dw", target);
    if (layer) {
        check_sums(db, before[1], want[1], n, m * heads, "db", target);
    }
    matrix_keep(dx);
    keep(dw, n);
    keep(db, n);
    matrix_free(&d.x);
    matrix_free(&d.dy);
    matrix_free(&d.dx);
    matrix_free(&d.before);
    matrix_free(&dy);
}

/* dx = dy, or added */
static void no_norm(const vp_run *run, const char *target)
{
    const vp_norm_op none = {.kind = VP_NORM_NONE};
    for (int add = 0; add < 2; add++) {
        matrix x = matrix_new(33, 10, 1.0f), dy = matrix_new(33, 10, 1.0f);
        matrix dx = matrix_new(33, 10, 1.0f), before = matrix_copy(&dx);
        static float partial[1024];
        vp_norm_gradient_run(run, &none, 33, 2, 5, dx.x, dx.ld, add, dy.x, dy.ld, x.x,
                             x.ld, NULL, NULL, partial);
        for (size_t i = 0; i < 330; i++) {
            const float old = add ? row(&before, i / 10)[i % 10] : 0.0f;
            CHECK(row(&dx, i / 10)[i % 10] == old + row(&dy, i / 10)[i % 10],
                  "%s: no norm, row %zu", target, i / 10);
        }
        matrix_keep(&dx);
        matrix_free(&x);
        matrix_free(&dy);
        matrix_free(&dx);
        matrix_free(&before);
    }
}

static void test(const vp_run *run, const char *target)
{
    for (unsigned how = 0; how < 16; how++) {
        one_shape(run, target, 1 + below(80), 1, 1 + below(70), how);
        one_shape(run, target, 1 + below(80), 1, 1, how);
        one_shape(run, target, 1 + below(20), 2 + below(12), 1 + below(40), how);
        one_shape(run, target, 1 + below(5), 1 + how % 2, 513 + below(700), how);
    }
    one_shape(run, target, 700, 1, 3, 1 | 8); /* many blocks of rows */
    no_norm(run, target);
    const vp_norm_op norm = {.kind = VP_NORM_LAYER};
    vp_norm_gradient_run(run, &norm, 0, 1, 4, NULL, 4, false, NULL, 4, NULL, 4, NULL,
                         NULL, NULL);
}

int main(void)
{
    on_every_target(test);
    return check_done();
}
