/* Random numbers for fresh weights: SplitMix64, polar normals, truncated normals.
 *
 * timm's distributions, not torch's bit stream. One generator is one caller's; nothing is
 * shared. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_RNG_H
#define VP_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t state;
} vp_rng;

/* Uniform in [0, 1), 53 bits. */
double vp_rng_uniform(vp_rng *rng);

/* x[0..n): normal with this mean (0) and standard deviation. */
void vp_rng_normal(vp_rng *rng, float *x, size_t n, double std);

/* Normal(0, std) cut at [low, high] (absolute values), by redrawing. */
void vp_rng_trunc_normal(vp_rng *rng, float *x, size_t n, double std, double low,
                         double high);

/* Uniform in [low, high). */
void vp_rng_fill_uniform(vp_rng *rng, float *x, size_t n, double low, double high);

#endif
