/* Random numbers for fresh weights. SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"

#include <math.h>

/* SplitMix64 (Steele, Lea, Flood 2014): any seed, the whole period, 64 good bits. */
static uint64_t next(vp_rng *rng)
{
    uint64_t z = (rng->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double vp_rng_uniform(vp_rng *rng)
{
    return (double)(next(rng) >> 11) * 0x1p-53;
}

/* Two independent standard normals (Marsaglia's polar method: no trigonometry). */
static void normal_pair(vp_rng *rng, double pair[2])
{
    double u, v, s;
    do {
        u = 2.0 * vp_rng_uniform(rng) - 1.0;
        v = 2.0 * vp_rng_uniform(rng) - 1.0;
        s = u * u + v * v;
    } while (s >= 1.0 || s == 0.0);
    const double scale = sqrt(-2.0 * log(s) / s);
    pair[0] = u * scale;
    pair[1] = v * scale;
}

void vp_rng_normal(vp_rng *rng, float *x, size_t n, double std)
{
    vp_rng_trunc_normal(rng, x, n, std, -INFINITY, INFINITY);
}

void vp_rng_trunc_normal(vp_rng *rng, float *x, size_t n, double std, double low,
                         double high)
{
    size_t filled = 0;
    while (filled < n) {
        double pair[2];
        normal_pair(rng, pair);
        for (int i = 0; i < 2 && filled < n; i++) {
            const double value = std * pair[i];
            if (value >= low && value <= high) {
                x[filled++] = (float)value;
            }
        }
    }
}

void vp_rng_fill_uniform(vp_rng *rng, float *x, size_t n, double low, double high)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)(low + (high - low) * vp_rng_uniform(rng));
    }
}
