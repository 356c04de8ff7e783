/* One vector type for every target: vf, VW floats wide. Only kernels/ sees it.
 *
 * VP_TARGET decides at compile time: intrinsics of AVX-512, of AVX2 + FMA, of NEON, or GCC's
 * portable vector extension. Loads and stores need no alignment. A tail of n < VW lanes is
 * loaded and stored without touching memory beyond it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_KERNELS_SIMD_H
#define VP_KERNELS_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VP_INLINE static inline __attribute__((always_inline))

/* NEON is in the ABI's floor, so flags do not tell: 1 for the target of that name alone, which
 * leaves the portable vectors to `baseline`. */
#define VP_VECTORS_OF_neon 1
#define VP_VECTORS_OF(target) VP_VECTORS_OF_##target
#define VP_VECTORS(target) VP_VECTORS_OF(target)

#if defined(__AVX512F__)
#include <immintrin.h>

#define VW 16
typedef __m512 vf;

VP_INLINE vf vf_set(float a)
{
    return _mm512_set1_ps(a);
}
VP_INLINE vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
VP_INLINE void vf_store(float *p, vf a)
{
    _mm512_storeu_ps(p, a);
}
VP_INLINE __mmask16 vf_mask(size_t n)
{
    return (__mmask16)((1u << n) - 1u);
}
VP_INLINE vf vf_load_n(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(vf_mask(n), p);
}
VP_INLINE void vf_store_n(float *p, vf a, size_t n)
{
    _mm512_mask_storeu_ps(p, vf_mask(n), a);
}
/* Lanes from n on become `fill`. */
VP_INLINE vf vf_keep(vf a, size_t n, vf fill)
{
    return _mm512_mask_blend_ps(vf_mask(n), fill, a);
}
VP_INLINE vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
VP_INLINE vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
VP_INLINE vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
VP_INLINE vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
VP_INLINE vf vf_sqrt(vf a)
{
    return _mm512_sqrt_ps(a);
}
VP_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
VP_INLINE vf vf_fnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}
/* The second operand where either is NaN. */
VP_INLINE vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
VP_INLINE vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
VP_INLINE vf vf_nan_or(vf a, vf b) /* a where a is NaN, else b */
{
    return _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
}
VP_INLINE vf vf_abs(vf a)
{
    return _mm512_abs_ps(a);
}
VP_INLINE vf vf_if_negative(vf a, vf yes, vf no) /* by the sign bit */
{
    return _mm512_mask_mov_ps(no, _mm512_movepi32_mask(_mm512_castps_si512(a)), yes);
}
/* 2^n from VP_SHIFT + n, see there. */
VP_INLINE vf vf_two_to(vf shifted)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(shifted), 23));
}
/* Lanes 1, 0, 3, 2, ...: each with its neighbour. */
VP_INLINE vf vf_swap(vf a)
{
    return _mm512_permute_ps(a, 0xb1);
}
VP_INLINE float vf_sum(vf a)
{
    return _mm512_reduce_add_ps(a);
}
VP_INLINE float vf_hmax(vf a)
{
    return _mm512_reduce_max_ps(a);
}
VP_INLINE vf vf_from_u8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(
        _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#define VW 8
typedef __m256 vf;

VP_INLINE vf vf_set(float a)
{
    return _mm256_set1_ps(a);
}
VP_INLINE vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
VP_INLINE void vf_store(float *p, vf a)
{
    _mm256_storeu_ps(p, a);
}
VP_INLINE __m256i vf_mask(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
VP_INLINE vf vf_load_n(const float *p, size_t n)
{
    return _mm256_maskload_ps(p, vf_mask(n));
}
VP_INLINE void vf_store_n(float *p, vf a, size_t n)
{
    _mm256_maskstore_ps(p, vf_mask(n), a);
}
VP_INLINE vf vf_keep(vf a, size_t n, vf fill)
{
    return _mm256_blendv_ps(fill, a, _mm256_castsi256_ps(vf_mask(n)));
}
VP_INLINE vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
VP_INLINE vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
VP_INLINE vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
VP_INLINE vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
VP_INLINE vf vf_sqrt(vf a)
{
    return _mm256_sqrt_ps(a);
}
VP_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
VP_INLINE vf vf_fnma(vf a, vf b, vf c)
{
    return _mm256_fnmadd_ps(a, b, c);
}
VP_INLINE vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
VP_INLINE vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
VP_INLINE vf vf_nan_or(vf a, vf b)
{
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
VP_INLINE vf vf_abs(vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
VP_INLINE vf vf_if_negative(vf a, vf yes, vf no) /* by the sign bit */
{
    return _mm256_blendv_ps(no, yes, a);
}
VP_INLINE vf vf_two_to(vf shifted)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23));
}
VP_INLINE vf vf_swap(vf a)
{
    return _mm256_permute_ps(a, 0xb1);
}
VP_INLINE float vf_sum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
VP_INLINE float vf_hmax(vf a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
VP_INLINE vf vf_from_u8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

#elif defined(__ARM_NEON) && VP_VECTORS(VP_TARGET)
/* The portable vectors are NEON on ARM as well. This says what is one instruction there and
 * several operations in C: comparisons that select, sums across lanes, tails without memcpy. */
#include <arm_neon.h>

#define VP_NEON_VECTORS 1
#define VW 4
typedef float32x4_t vf;

VP_INLINE vf vf_set(float a)
{
    return vdupq_n_f32(a);
}
VP_INLINE vf vf_load(const float *p)
{
    return vld1q_f32(p);
}
VP_INLINE void vf_store(float *p, vf a)
{
    vst1q_f32(p, a);
}
/* n may be VW, as everywhere. */
VP_INLINE vf vf_load_n(const float *p, size_t n)
{
    const vf zero = vdupq_n_f32(0.0f);
    switch (n) {
    case 0:
        return zero;
    case 1:
        return vld1q_lane_f32(p, zero, 0);
    case 2:
        return vcombine_f32(vld1_f32(p), vget_low_f32(zero));
    case 3:
        return vld1q_lane_f32(p + 2, vcombine_f32(vld1_f32(p), vget_low_f32(zero)), 2);
    default:
        return vld1q_f32(p);
    }
}
VP_INLINE void vf_store_n(float *p, vf a, size_t n)
{
    if (n >= VW) {
        vst1q_f32(p, a);
        return;
    }
    if (n & 2) {
        vst1_f32(p, vget_low_f32(a));
        p += 2;
        a = vextq_f32(a, a, 2);
    }
    if (n & 1) {
        vst1q_lane_f32(p, a, 0);
    }
}
VP_INLINE vf vf_keep(vf a, size_t n, vf fill)
{
    const uint32x4_t lanes = {0, 1, 2, 3};
    return vbslq_f32(vcltq_u32(lanes, vdupq_n_u32((uint32_t)n)), a, fill);
}
VP_INLINE vf vf_add(vf a, vf b)
{
    return vaddq_f32(a, b);
}
VP_INLINE vf vf_sub(vf a, vf b)
{
    return vsubq_f32(a, b);
}
VP_INLINE vf vf_mul(vf a, vf b)
{
    return vmulq_f32(a, b);
}
VP_INLINE vf vf_div(vf a, vf b)
{
    return vdivq_f32(a, b);
}
VP_INLINE vf vf_sqrt(vf a)
{
    return vsqrtq_f32(a);
}
VP_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return vfmaq_f32(c, a, b);
}
VP_INLINE vf vf_fnma(vf a, vf b, vf c)
{
    return vfmsq_f32(c, a, b);
}
/* FMAX gives NaN where either operand is one, FMAXNM where both are: neither is vf_max. */
VP_INLINE vf vf_max(vf a, vf b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
VP_INLINE vf vf_min(vf a, vf b)
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}
VP_INLINE vf vf_nan_or(vf a, vf b)
{
    return vbslq_f32(vceqq_f32(a, a), b, a);
}
VP_INLINE vf vf_abs(vf a)
{
    return vabsq_f32(a);
}
VP_INLINE vf vf_if_negative(vf a, vf yes, vf no) /* by the sign bit */
{
    return vbslq_f32(vcltzq_s32(vreinterpretq_s32_f32(a)), yes, no);
}
VP_INLINE vf vf_two_to(vf shifted)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(shifted), 23));
}
VP_INLINE vf vf_swap(vf a)
{
    return vrev64q_f32(a);
}
VP_INLINE float vf_sum(vf a)
{
    return vaddvq_f32(a);
}
VP_INLINE float vf_hmax(vf a)
{
    return vmaxnmvq_f32(a);
}
VP_INLINE vf vf_from_u8(const uint8_t *p)
{
    uint32_t four;
    memcpy(&four, p, sizeof four);
    const uint16x8_t wide = vmovl_u8(vcreate_u8(four));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide)));
}

#else /* portable: GCC and Clang vectors of four */
#include <math.h>

#define VW 4
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vp_vi __attribute__((vector_size(16)));
typedef uint32_t vp_ui __attribute__((vector_size(16)));

VP_INLINE vf vf_set(float a)
{
    return (vf){a, a, a, a};
}
VP_INLINE vf vf_load(const float *p)
{
    vf a;
    memcpy(&a, p, sizeof a);
    return a;
}
VP_INLINE void vf_store(float *p, vf a)
{
    memcpy(p, &a, sizeof a);
}
VP_INLINE vf vf_load_n(const float *p, size_t n)
{
    vf a = {0};
    memcpy(&a, p, n * sizeof(float));
    return a;
}
VP_INLINE void vf_store_n(float *p, vf a, size_t n)
{
    memcpy(p, &a, n * sizeof(float));
}
VP_INLINE vf vf_select(vp_vi mask, vf a, vf b)
{
    return (vf)((mask & (vp_vi)a) | (~mask & (vp_vi)b));
}
VP_INLINE vf vf_keep(vf a, size_t n, vf fill)
{
    const int32_t count = (int32_t)n;
    return vf_select((vp_vi){0, 1, 2, 3} < (vp_vi){count, count, count, count}, a,
                     fill);
}
VP_INLINE vf vf_add(vf a, vf b)
{
    return a + b;
}
VP_INLINE vf vf_sub(vf a, vf b)
{
    return a - b;
}
VP_INLINE vf vf_mul(vf a, vf b)
{
    return a * b;
}
VP_INLINE vf vf_div(vf a, vf b)
{
    return a / b;
}
VP_INLINE vf vf_sqrt(vf a)
{
    return (vf){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])};
}
VP_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return a * b + c;
}
VP_INLINE vf vf_fnma(vf a, vf b, vf c)
{
    return c - a * b;
}
VP_INLINE vf vf_max(vf a, vf b)
{
    return vf_select(a > b, a, b);
}
VP_INLINE vf vf_min(vf a, vf b)
{
    return vf_select(a < b, a, b);
}
VP_INLINE vf vf_nan_or(vf a, vf b)
{
    return vf_select(a != a, a, b);
}
VP_INLINE vf vf_abs(vf a)
{
    return (vf)((vp_vi)a & 0x7fffffff);
}
VP_INLINE vf vf_if_negative(vf a, vf yes, vf no) /* by the sign bit */
{
    return vf_select((vp_vi)a >> 31, yes, no);
}
VP_INLINE vf vf_two_to(vf shifted)
{
    return (vf)((vp_ui)shifted << 23);
}
VP_INLINE vf vf_swap(vf a)
{
    return (vf){a[1], a[0], a[3], a[2]};
}
VP_INLINE float vf_sum(vf a)
{
    return (a[0] + a[2]) + (a[1] + a[3]);
}
VP_INLINE float vf_hmax(vf a)
{
    const float b = a[0] > a[1] ? a[0] : a[1], c = a[2] > a[3] ? a[2] : a[3];
    return b > c ? b : c;
}
VP_INLINE vf vf_from_u8(const uint8_t *p)
{
    return (vf){(float)p[0], (float)p[1], (float)p[2], (float)p[3]};
}
#endif

/* VP_SHIFT + x is VP_SHIFT + n, n being x rounded to an integer, for n in [-127, 128]; its
 * lowest bits are 127 + n, the exponent of 2^n. So a rounding and a power take four
 * operations on any target. 2^-127 comes out as 0, 2^128 as infinity. */
#define VP_SHIFT (0x1.8p23f + 127.0f)
VP_INLINE vf vf_whole(vf shifted) /* n */
{
    return vf_sub(shifted, vf_set(VP_SHIFT));
}

/* 2^x for x <= 127, 2e-9 and the rounding of seven operations off: 0 below -126.5; NaN stays
 * NaN. The polynomial is our own minimax fit on [-1/2, 1/2]. */
VP_INLINE vf vf_exp2(vf x)
{
    x = vf_max(vf_set(-127.0f), x); /* second operand: NaN passes */
    const vf shifted = vf_add(x, vf_set(VP_SHIFT));
    const vf r = vf_sub(x, vf_whole(shifted)); /* exact */
    /* in pairs (Estrin): half the latency of a chain */
#define PAIR(b, a) vf_fma(vf_set(b), r, vf_set(a))
    const vf r2 = vf_mul(r, r);
    vf p = vf_fma(vf_set(0x1.41d334p-13f), r2, PAIR(0x1.5f456ap-10f, 0x1.3b2dbcp-7f));
    p = vf_fma(p, r2, PAIR(0x1.c6aed4p-5f, 0x1.ebfbdap-3f));
    p = vf_fma(p, r2, PAIR(0x1.62e430p-1f, 1.0f));
#undef PAIR
    return vf_mul(p, vf_two_to(shifted));
}

/* e^x to 1 ulp or so: 0 below -87.7, +inf above 88.38; NaN stays NaN. x = n ln 2 + r, then a
 * polynomial in r on +-0.347 (our own minimax fit, 1.9e-9). */
VP_INLINE vf vf_exp(vf x)
{
    /* second operand of min/max: NaN passes */
    x = vf_max(vf_set(-88.03f), vf_min(vf_set(88.73f), x));
    const vf shifted = vf_fma(x, vf_set(0x1.715476p+0f), vf_set(VP_SHIFT));
    const vf n = vf_whole(shifted);
    /* ln 2, high part: n times it is exact; then the rest */
    vf r = vf_fnma(n, vf_set(0x1.62e000p-1f), x);
    r = vf_fnma(n, vf_set(0x1.0bfbe8p-15f), r);
    /* in pairs (Estrin): half the latency of a chain */
#define PAIR(b, a) vf_fma(vf_set(b), r, vf_set(a))
    const vf r2 = vf_mul(r, r);
    vf p = PAIR(0x1.6ab920p-10f, 0x1.126d64p-7f);
    p = vf_fma(p, r2, PAIR(0x1.55589cp-5f, 0x1.55540ap-3f));
    p = vf_fma(p, r, vf_set(0x1.fffffap-2f));
    p = vf_fma(p, r2, vf_add(r, vf_set(1.0f)));
#undef PAIR
    return vf_mul(p, vf_two_to(shifted));
}

#endif
