/* One vector type for every target: vf, VW floats wide. Only kernels/ sees it.
 *
 * VP_TARGET decides at compile time: AVX-512 intrinsics, AVX2 + FMA intrinsics, or GCC's
 * portable vector extension (SSE2, NEON, ...). Loads and stores need no alignment. A tail
 * of n < VW lanes is loaded and stored without touching memory beyond it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_KERNELS_SIMD_H
#define VP_KERNELS_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VP_INLINE static inline __attribute__((always_inline))

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
VP_INLINE vf vf_less(vf a, vf b, vf yes, vf no) /* a < b ? yes : no */
{
    return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), yes);
}
VP_INLINE vf vf_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a * 2^n for integral n in [-150, 128]. */
VP_INLINE vf vf_ldexp(vf a, vf n)
{
    return _mm512_scalef_ps(a, n);
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
VP_INLINE vf vf_less(vf a, vf b, vf yes, vf no) /* a < b ? yes : no */
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
VP_INLINE vf vf_round(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
VP_INLINE vf vf_exponent(__m256i n)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
VP_INLINE vf vf_ldexp(vf a, vf n)
{
    /* In two steps, so that results below the normal range round instead of wrapping. */
    const __m256i whole = _mm256_cvtps_epi32(n);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    a = _mm256_mul_ps(a, vf_exponent(half));
    return _mm256_mul_ps(a, vf_exponent(_mm256_sub_epi32(whole, half)));
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

#else /* portable: GCC and Clang vectors of four */
#include <math.h>

#define VW 4
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vp_vi __attribute__((vector_size(16)));

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
VP_INLINE vf vf_less(vf a, vf b, vf yes, vf no)
{
    return vf_select(a < b, yes, no);
}
VP_INLINE vf vf_round(vf a) /* |a| < 2^22 */
{
    const vf magic = vf_set(0x1.8p23f);
    volatile vf shifted = a + magic; /* volatile: the compiler must not fold it away */
    return shifted - magic;
}
VP_INLINE vf vf_ldexp(vf a, vf n)
{
    const vp_vi whole = __builtin_convertvector(n, vp_vi);
    const vp_vi half = whole >> 1;
    a = a * (vf)((half + 127) << 23);
    return a * (vf)((whole - half + 127) << 23);
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

/* e^x to 1 ulp or so: 0 below -104, +inf above 88.73; NaN stays NaN. x = n ln 2 + r, then a
 * polynomial in r on +-0.347 (our own minimax fit, 1.9e-9). */
VP_INLINE vf vf_exp(vf x)
{
    /* second operand of min/max: NaN passes */
    x = vf_max(vf_set(-104.0f), vf_min(vf_set(89.0f), x));
    const vf n = vf_round(vf_mul(x, vf_set(0x1.715476p+0f)));
    vf r = vf_fnma(n, vf_set(0x1.62e000p-1f),
                   x); /* ln 2, high part: n times it is exact */
    r = vf_fnma(n, vf_set(0x1.0bfbe8p-15f), r); /* ln 2, the rest */
    vf p = vf_set(0x1.6ab920p-10f);
    p = vf_fma(p, r, vf_set(0x1.126d64p-7f));
    p = vf_fma(p, r, vf_set(0x1.55589cp-5f));
    p = vf_fma(p, r, vf_set(0x1.55540ap-3f));
    p = vf_fma(p, r, vf_set(0x1.fffffap-2f));
    p = vf_fma(p, r, vf_set(1.0f));
    p = vf_fma(p, r, vf_set(1.0f));
    return vf_ldexp(p, n);
}

#endif
