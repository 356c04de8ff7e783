/* Moments and bounds of the random numbers. SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"
#include "check.h"

#define COUNT 200000

static float x[COUNT];

/* Mean, standard deviation, least and greatest of x. */
static void moments(double out[4])
{
    double sum = 0, squares = 0, least = INFINITY, most = -INFINITY;
    for (int i = 0; i < COUNT; i++) {
        sum += x[i];
        squares += (double)x[i] * x[i];
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    out[0] = sum / COUNT;
    out[1] = sqrt(squares / COUNT - out[0] * out[0]);
    out[2] = least;
    out[3] = most;
}

static void expect(const char *what, double mean, double std, double least, double most)
{
    double m[4];
    moments(m);
    CHECK(fabs(m[0] - mean) < 0.01 * std, "%s: mean %g, not %g", what, m[0], mean);
    CHECK(fabs(m[1] - std) < 0.01 * std, "%s: std %g, not %g", what, m[1], std);
    CHECK(m[2] >= least && m[3] <= most, "%s: %g to %g", what, m[2], m[3]);
}

int main(void)
{
    vp_rng rng = {7};
    vp_rng_normal(&rng, x, COUNT, 0.02);
    expect("normal", 0.0, 0.02, -0.2, 0.2);
    vp_rng_trunc_normal(&rng, x, COUNT, 0.02, -2.0, 2.0); /* timm's: hardly cut */
    expect("truncated far out", 0.0, 0.02, -0.2, 0.2);
    vp_rng_trunc_normal(&rng, x, COUNT, 1.0, -1.0, 1.0);
    expect("truncated at one", 0.0, 0.5396, -1.0, 1.0);
    vp_rng_fill_uniform(&rng, x, COUNT, -3.0, 1.0);
    expect("uniform", -1.0, 4.0 / sqrt(12.0), -3.0, 1.0);
    for (int i = 0; i < COUNT; i++) {
        const double u = vp_rng_uniform(&rng);
        CHECK(u >= 0.0 && u < 1.0, "uniform gave %g", u);
        x[i] = (float)u;
    }
    expect("unit", 0.5, 1.0 / sqrt(12.0), 0.0, 1.0);

    vp_rng one = {42}, two = {42}, other = {43};
    float a[9], b[9], c[9];
    vp_rng_normal(&one, a, 9, 1.0);
    vp_rng_normal(&two, b, 9, 1.0);
    vp_rng_normal(&other, c, 9, 1.0);
    CHECK(memcmp(a, b, sizeof a) == 0, "a seed does not repeat itself");
    CHECK(memcmp(a, c, sizeof a) != 0, "two seeds give the same");
    return check_done();
}
