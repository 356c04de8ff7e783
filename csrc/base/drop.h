/* Which numbers dropout keeps. A mask depends on a seed, a site of the model, an image of the
 * batch and a place in it, not on the order of work: so any thread can draw any part of it, and
 * a backward pass draws it again. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_DROP_H
#define VP_BASE_DROP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Dropout at one site of one step; rate 0: everything is kept as it is. */
typedef struct {
    float rate; /* from 0 to below 1; what is kept is divided by 1 - rate */
    uint64_t seed, site;
    size_t image; /* the first image's place in the batch */
} vp_drop;

static inline uint64_t vp_drop_mix(uint64_t z)
{
    /* SplitMix64's (Steele, Lea, Flood 2014) */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* The stream of an image: drop->image is added to `image`. */
static inline uint64_t vp_drop_key(const vp_drop *drop, size_t image)
{
    const uint64_t golden = 0x9e3779b97f4a7c15u;
    const uint64_t site = vp_drop_mix(drop->seed + golden) + (drop->site + 1) * golden;
    return vp_drop_mix(vp_drop_mix(site) + (drop->image + image + 1) * golden);
}

/* 24 random bits for number i of a stream (i modulo 2^32): two rounds of MurmurHash3's
 * finaliser, each with half of the key. */
static inline uint32_t vp_drop_bits(uint64_t key, uint32_t i)
{
    uint32_t h = i * 0x9e3779b9u ^ (uint32_t)key;
    h = (h ^ (h >> 16)) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    h ^= h >> 16 ^ (uint32_t)(key >> 32);
    h = (h ^ (h >> 16)) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    return (h ^ (h >> 16)) >> 8;
}

/* Numbers with bits below this are dropped. */
static inline uint32_t vp_drop_limit(float rate)
{
    return (uint32_t)((double)rate * 0x1p24);
}

#endif
