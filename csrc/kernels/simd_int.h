/* Integers beside simd.h's vf: vi, VW of 32 bits; and vectors out as narrower numbers.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_KERNELS_SIMD_INT_H
#define VP_KERNELS_SIMD_INT_H

#include "kernels/simd.h"

/* vi_round: to the nearest, ties to even; |a| < 2^22.
 * vi_store_16(p, a, b): 2 VW numbers, each of them an int16's.
 * vi_store_u8(p, a, b, c, d): 4 VW numbers, each of them an int16's, cut to [0, 255].
 * vf_store_f16(p, a): the nearest float16, ties to even; a NaN quiet, with the top of its
 * payload.
 * vf_load_f16(p): VW float16, exactly; a NaN quiet, with its payload. */

/* a, in a register, and nothing that the compiler could know of where it comes from. */
VP_INLINE vf vf_opaque(vf a)
{
#if defined(__AVX512F__)
    __asm__("" : "+v"(a));
#elif defined(__x86_64__)
    __asm__("" : "+x"(a));
#elif defined(__aarch64__)
    __asm__("" : "+w"(a));
#else
    __asm__("" : "+m"(a)); /* or in memory */
#endif
    return a;
}

#if defined(__AVX512F__)
typedef __m512i vi;

VP_INLINE vi vi_set(int32_t a)
{
    return _mm512_set1_epi32(a);
}
VP_INLINE vi vi_load(const int32_t *p)
{
    return _mm512_loadu_si512(p);
}
VP_INLINE vi vi_load_n(const int32_t *p, size_t n)
{
    return _mm512_maskz_loadu_epi32(vf_mask(n), p);
}
VP_INLINE vi vi_bits(vf a)
{
    return _mm512_castps_si512(a);
}
VP_INLINE vi vi_round(vf a)
{
    return _mm512_cvtps_epi32(a);
}
VP_INLINE vf vi_float(vi a)
{
    return _mm512_cvtepi32_ps(a);
}
VP_INLINE vi vi_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}
VP_INLINE vi vi_sub(vi a, vi b)
{
    return _mm512_sub_epi32(a, b);
}
VP_INLINE vi vi_mul(vi a, vi b) /* modulo 2^32 */
{
    return _mm512_mullo_epi32(a, b);
}
VP_INLINE vi vi_min(vi a, vi b)
{
    return _mm512_min_epi32(a, b);
}
VP_INLINE vi vi_max(vi a, vi b)
{
    return _mm512_max_epi32(a, b);
}
VP_INLINE vi vi_umax(vi a, vi b) /* as unsigned numbers */
{
    return _mm512_max_epu32(a, b);
}
VP_INLINE vi vi_and(vi a, vi b)
{
    return _mm512_and_si512(a, b);
}
VP_INLINE vi vi_or(vi a, vi b)
{
    return _mm512_or_si512(a, b);
}
VP_INLINE vi vi_shr(vi a, int n) /* the sign comes in */
{
    return _mm512_srai_epi32(a, (unsigned)n);
}
VP_INLINE vi vi_if_nan(vf x, vi yes, vi no)
{
    return _mm512_mask_mov_epi32(no, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), yes);
}
VP_INLINE int32_t vi_hmax(vi a)
{
    return _mm512_reduce_max_epi32(a);
}
VP_INLINE uint32_t vi_humax(vi a)
{
    return _mm512_reduce_max_epu32(a);
}
VP_INLINE void vi_store_16(void *p, vi a, vi b)
{
    /* a pack works within lanes of 128 bits */
    const vi order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi64(order, _mm512_packs_epi32(a, b)));
}
VP_INLINE void vi_store_u8(uint8_t *p, vi a, vi b, vi c, vi d)
{
    const vi order =
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const vi packed =
        _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
    _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, packed));
}
VP_INLINE void vf_store_f16(uint16_t *p, vf a)
{
    /* with a mask of all lanes: the other form is a macro without -O, and warns */
    const __m256i half = _mm512_maskz_cvtps_ph(
        (__mmask16)-1, a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256((__m256i *)p, half);
}
VP_INLINE vf vf_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

#elif defined(__AVX2__) && defined(__FMA__)
typedef __m256i vi;

VP_INLINE vi vi_set(int32_t a)
{
    return _mm256_set1_epi32(a);
}
VP_INLINE vi vi_load(const int32_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}
VP_INLINE vi vi_load_n(const int32_t *p, size_t n)
{
    return _mm256_maskload_epi32(p, vf_mask(n));
}
VP_INLINE vi vi_bits(vf a)
{
    return _mm256_castps_si256(a);
}
VP_INLINE vi vi_round(vf a)
{
    return _mm256_cvtps_epi32(a);
}
VP_INLINE vf vi_float(vi a)
{
    return _mm256_cvtepi32_ps(a);
}
VP_INLINE vi vi_add(vi a, vi b)
{
    return _mm256_add_epi32(a, b);
}
VP_INLINE vi vi_sub(vi a, vi b)
{
    return _mm256_sub_epi32(a, b);
}
VP_INLINE vi vi_mul(vi a, vi b)
{
    return _mm256_mullo_epi32(a, b);
}
VP_INLINE vi vi_min(vi a, vi b)
{
    return _mm256_min_epi32(a, b);
}
VP_INLINE vi vi_max(vi a, vi b)
{
    return _mm256_max_epi32(a, b);
}
VP_INLINE vi vi_umax(vi a, vi b)
{
    return _mm256_max_epu32(a, b);
}
VP_INLINE vi vi_and(vi a, vi b)
{
    return _mm256_and_si256(a, b);
}
VP_INLINE vi vi_or(vi a, vi b)
{
    return _mm256_or_si256(a, b);
}
VP_INLINE vi vi_shr(vi a, int n)
{
    return _mm256_srai_epi32(a, n);
}
VP_INLINE vi vi_if_nan(vf x, vi yes, vi no)
{
    return _mm256_blendv_epi8(no, yes,
                              _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}
VP_INLINE int32_t vi_hmax(vi a)
{
    __m128i s =
        _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_max_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
VP_INLINE uint32_t vi_humax(vi a)
{
    __m128i s =
        _mm_max_epu32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_max_epu32(s, _mm_shuffle_epi32(s, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epu32(s, _mm_shuffle_epi32(s, 0xb1)));
}
VP_INLINE void vi_store_16(void *p, vi a, vi b)
{
    _mm256_storeu_si256(p, _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8));
}
VP_INLINE void vi_store_u8(uint8_t *p, vi a, vi b, vi c, vi d)
{
    const vi order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const vi packed =
        _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    _mm256_storeu_si256((__m256i *)p, _mm256_permutevar8x32_epi32(packed, order));
}
VP_INLINE void vf_store_f16(uint16_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
VP_INLINE vf vf_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

#elif defined(VP_NEON_VECTORS)
typedef uint32x4_t vi; /* unsigned, so that it is modulo 2^32 */

VP_INLINE int32x4_t vi_signed(vi a)
{
    return vreinterpretq_s32_u32(a);
}
VP_INLINE vi vi_set(int32_t a)
{
    return vdupq_n_u32((uint32_t)a);
}
VP_INLINE vi vi_load(const int32_t *p)
{
    return vreinterpretq_u32_s32(vld1q_s32(p));
}
VP_INLINE vi vi_load_n(const int32_t *p, size_t n)
{
    return vreinterpretq_u32_f32(vf_load_n((const float *)(const void *)p, n));
}
VP_INLINE vi vi_bits(vf a)
{
    return vreinterpretq_u32_f32(a);
}
VP_INLINE vi vi_round(vf a)
{
    return vreinterpretq_u32_s32(vcvtnq_s32_f32(a));
}
VP_INLINE vf vi_float(vi a)
{
    return vcvtq_f32_s32(vi_signed(a));
}
VP_INLINE vi vi_add(vi a, vi b)
{
    return vaddq_u32(a, b);
}
VP_INLINE vi vi_sub(vi a, vi b)
{
    return vsubq_u32(a, b);
}
VP_INLINE vi vi_mul(vi a, vi b)
{
    return vmulq_u32(a, b);
}
VP_INLINE vi vi_min(vi a, vi b)
{
    return vreinterpretq_u32_s32(vminq_s32(vi_signed(a), vi_signed(b)));
}
VP_INLINE vi vi_max(vi a, vi b)
{
    return vreinterpretq_u32_s32(vmaxq_s32(vi_signed(a), vi_signed(b)));
}
VP_INLINE vi vi_umax(vi a, vi b)
{
    return vmaxq_u32(a, b);
}
VP_INLINE vi vi_and(vi a, vi b)
{
    return vandq_u32(a, b);
}
VP_INLINE vi vi_or(vi a, vi b)
{
    return vorrq_u32(a, b);
}
VP_INLINE vi vi_shr(vi a, int n)
{
    return vreinterpretq_u32_s32(vi_signed(a) >> n);
}
VP_INLINE vi vi_if_nan(vf x, vi yes, vi no)
{
    return vbslq_u32(vceqq_f32(x, x), no, yes);
}
VP_INLINE int32_t vi_hmax(vi a)
{
    return vmaxvq_s32(vi_signed(a));
}
VP_INLINE uint32_t vi_humax(vi a)
{
    return vmaxvq_u32(a);
}
/* Of numbers that 16 bits hold the lower halves are all: one UZP1 takes those of two vectors. */
VP_INLINE int16x8_t vi_halves(vi a, vi b)
{
    return vuzp1q_s16(vreinterpretq_s16_u32(a), vreinterpretq_s16_u32(b));
}
VP_INLINE void vi_store_16(void *p, vi a, vi b)
{
    vst1q_s16(p, vi_halves(a, b));
}
VP_INLINE void vi_store_u8(uint8_t *p, vi a, vi b, vi c, vi d)
{
    const uint8x8_t low = vqmovun_s16(vi_halves(a, b));
    vst1q_u8(p, vqmovun_high_s16(low, vi_halves(c, d)));
}
/* FCVTN and FCVTL round and keep denormals and payloads as asked for while FPCR is 0, as every
 * thread finds it. */
VP_INLINE void vf_store_f16(uint16_t *p, vf a)
{
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a)));
}
VP_INLINE vf vf_load_f16(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

#else /* portable; unsigned, so that it is modulo 2^32 */
typedef vp_ui vi;
typedef int16_t vp_s16x4 __attribute__((vector_size(8)));
typedef uint16_t vp_u16x4 __attribute__((vector_size(8)));
typedef uint8_t vp_u8x4 __attribute__((vector_size(4)));

VP_INLINE vi vi_set(int32_t a)
{
    const uint32_t b = (uint32_t)a;
    return (vi){b, b, b, b};
}
VP_INLINE vi vi_load(const int32_t *p)
{
    vi a;
    memcpy(&a, p, sizeof a);
    return a;
}
VP_INLINE vi vi_load_n(const int32_t *p, size_t n)
{
    vi a = {0};
    memcpy(&a, p, n * sizeof *p);
    return a;
}
VP_INLINE vi vi_bits(vf a)
{
    return (vi)a;
}
VP_INLINE vi vi_round(vf a)
{
    a = vf_opaque(a); /* not a product, to be added unrounded by a multiply-add */
    return (vi)(a + 0x1.8p23f) - (vi)vf_set(0x1.8p23f);
}
VP_INLINE vf vi_float(vi a)
{
    return __builtin_convertvector((vp_vi)a, vf);
}
VP_INLINE vi vi_add(vi a, vi b)
{
    return a + b;
}
VP_INLINE vi vi_sub(vi a, vi b)
{
    return a - b;
}
VP_INLINE vi vi_mul(vi a, vi b)
{
    return a * b;
}
VP_INLINE vi vi_select(vp_vi mask, vi a, vi b)
{
    return ((vi)mask & a) | (~(vi)mask & b);
}
VP_INLINE vi vi_min(vi a, vi b)
{
    return vi_select((vp_vi)a < (vp_vi)b, a, b);
}
VP_INLINE vi vi_max(vi a, vi b)
{
    return vi_select((vp_vi)a > (vp_vi)b, a, b);
}
VP_INLINE vi vi_umax(vi a, vi b)
{
    return vi_select(a > b, a, b);
}
VP_INLINE vi vi_and(vi a, vi b)
{
    return a & b;
}
VP_INLINE vi vi_or(vi a, vi b)
{
    return a | b;
}
VP_INLINE vi vi_shr(vi a, int n)
{
    return (vi)((vp_vi)a >> n);
}
VP_INLINE vi vi_if_nan(vf x, vi yes, vi no)
{
    return vi_select(x != x, yes, no);
}
VP_INLINE uint32_t vi_humax(vi a)
{
    const uint32_t b = a[0] > a[1] ? a[0] : a[1], c = a[2] > a[3] ? a[2] : a[3];
    return b > c ? b : c;
}
VP_INLINE int32_t vi_hmax(vi a)
{
    return (int32_t)(vi_humax(a ^ 0x80000000u) ^ 0x80000000u);
}
VP_INLINE void vi_store_16(void *p, vi a, vi b)
{
    const vp_s16x4 both[2] = {__builtin_convertvector((vp_vi)a, vp_s16x4),
                              __builtin_convertvector((vp_vi)b, vp_s16x4)};
    memcpy(p, both, sizeof both);
}
VP_INLINE void vi_store_u8(uint8_t *p, vi a, vi b, vi c, vi d)
{
    vi all[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        all[i] = vi_max(vi_set(0), vi_min(vi_set(255), all[i]));
        const vp_u8x4 bytes = __builtin_convertvector(all[i], vp_u8x4);
        memcpy(p + i * VW, &bytes, sizeof bytes);
    }
}
VP_INLINE void vf_store_f16(uint16_t *p, vf a)
{
    const vi sign = (vi)a >> 16 & 0x8000, bits = (vi)a & 0x7fffffff;
    const vi odd = bits >> 13 & 1, payload = bits >> 13 & 0x3ff;
    vi half = (bits - (112u << 23) + 0xfff + odd) >> 13;
    /* below 2^-14 a step of float16 is one of float32 behind a half */
    const vi behind = (vi)((vf)bits + 0.5f) - 0x3f000000;
    half = vi_select(bits < 0x38800000, behind, half);
    half = vi_select(bits >= 0x477ff000, vi_set(0x7c00), half); /* from 65520 on */
    half = vi_select(bits > 0x7f800000, payload | 0x7e00, half);
    const vp_s16x4 out = __builtin_convertvector((vp_vi)(half | sign), vp_s16x4);
    memcpy(p, &out, sizeof out);
}
VP_INLINE vf vf_load_f16(const uint16_t *p)
{
    vp_u16x4 half;
    memcpy(&half, p, sizeof half);
    const vi all = __builtin_convertvector(half, vi);
    const vi sign = (all & 0x8000) << 16, size = all & 0x7fff;
    vi bits = (size << 13) + (112u << 23);
    /* denormals: steps of 2^-24, without a leading 1 */
    bits = vi_select(size < 0x0400, (vi)(vi_float(size) * 0x1p-24f), bits);
    bits = vi_select(size >= 0x7c00, bits + (112u << 23), bits);
    bits = vi_select(size > 0x7c00, bits | 0x400000, bits);
    return (vf)(bits | sign);
}
#endif

#endif
