/* The micro-kernels: one list, which the choice, the tests and the benchmarks read.
 *
 * A micro-kernel multiplies a strip of activations a[rows][k] by one panel of packed weights
 * b[k][nr]. Activations are float32; a kernel that takes rows of another type gets them converted
 * (gemm/operand.h). What happens to the two then is its own affair: BLIS's kernels want the
 * strip packed as [k][mr], zero rows added; ours for AVX2, AVX-512 and NEON take it where it lies, and
 * so do all of low precision; ours for float32 on AMX wants strip and panel split into parts,
 * ours for weights of 16 bits on NEON a panel of float32.
 *
 * Where weights are not float32, a panel is [k / g][nr][g], g inputs of a column side by side, as
 * many as the instruction multiplies at once: as 4 bytes of a row hold for VDPBF16PS, VPDPBUSD,
 * VPMADDWD, AMX's tiles and SDOT, as 8 bytes hold for USMMLA and BFMMLA. Where rows are converted,
 * they and panels are filled up with zeros to a multiple of kr. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_UKERNELS_UKR_H
#define VP_UKERNELS_UKR_H

#include <stdbool.h>
#include <stddef.h>

#include "base/cpu.h"
#include "base/dtype.h"
#include "base/memory.h"
#include "base/sizes.h"

/* X(name, architecture). The last that may run wins, so: from the least to the best.
 *
 * A name says what the kernel is, vp_gemm_<rows><weight>_<MR>x<NR>x<KR>__<target>, and is that
 * of its source; <rows> is what activations become, <MR>x<NR> the tile, <KR> the multiple of k
 * that it takes. BLIS's choose their tile at run time, so theirs is "blis"; their architectures
 * are nowhere in a build without BLIS. */
#if defined(VP_NO_BLIS)
#define VP_ON_blis_any(...)
#define VP_ON_blis_x86(...)
#else
#define VP_ON_blis_any VP_ON_any
#define VP_ON_blis_x86 VP_ON_x86
#endif
#define VP_UKRS(X)                               \
    X(vp_gemm_f32f32_6x8x1__baseline, any)       \
    X(vp_gemm_f32f32_blis__baseline, blis_any)   \
    X(vp_gemm_f32f32_blis__avx2, blis_x86)       \
    X(vp_gemm_f32f32_6x16x1__avx2, x86)          \
    X(vp_gemm_f32f32_14x32x1__avx512, x86)       \
    X(vp_gemm_f32f32_32x32x32__amx, x86)         \
    X(vp_gemm_f32f32_6x16x1__neon, arm64)        \
    X(vp_gemm_f32f16_6x8x1__baseline, any)       \
    X(vp_gemm_f32f16_6x16x1__avx2, x86)          \
    X(vp_gemm_f32f16_14x32x1__avx512, x86)       \
    X(vp_gemm_f32f16_6x16x1__neon, arm64)        \
    X(vp_gemm_f32bf16_6x8x1__baseline, any)      \
    X(vp_gemm_f32bf16_6x16x1__avx2, x86)         \
    X(vp_gemm_f32bf16_14x32x1__avx512, x86)      \
    X(vp_gemm_f32bf16_6x16x1__neon, arm64)       \
    X(vp_gemm_bf16bf16_14x32x2__avx512bf16, x86) \
    X(vp_gemm_bf16bf16_32x32x32__amx, x86)       \
    X(vp_gemm_bf16bf16_6x16x4__neonbf16, arm64)  \
    X(vp_gemm_s16s8_6x8x2__baseline, any)        \
    X(vp_gemm_s16s8_6x16x2__avx2, x86)           \
    X(vp_gemm_u8s8_6x16x4__avxvnni, x86)         \
    X(vp_gemm_s16s8_14x32x2__avx512, x86)        \
    X(vp_gemm_u8s8_14x32x4__avx512vnni, x86)     \
    X(vp_gemm_u8s8_32x32x64__amx, x86)           \
    X(vp_gemm_s16s8_6x16x2__neon, arm64)         \
    X(vp_gemm_s8s8_6x16x4__neondot, arm64)       \
    X(vp_gemm_u8s8_6x16x8__neoni8mm, arm64)      \
    X(vp_gemm_s16s8a16_6x8x2__baseline, any)     \
    X(vp_gemm_s16s8a16_6x16x2__avx2, x86)        \
    X(vp_gemm_s16s8a16_6x16x2__avxvnni, x86)     \
    X(vp_gemm_s16s8a16_14x32x2__avx512, x86)     \
    X(vp_gemm_s16s8a16_14x32x2__avx512vnni, x86) \
    X(vp_gemm_s16s8a16_6x16x2__neon, arm64)

/* The panel that a micro-kernel will most likely need next, and what it does about it
 * between its multiply-adds: fetching it from memory and, where it splits panels, that. */
typedef struct {
    const void *panel; /* [k][nr] */
    size_t k;
    size_t step; /* bytes of it to deal with for each k; 0: nothing */
    void *ready; /* where its parts go */
    size_t done; /* how far it is; counted by the micro-kernel */
} vp_ahead;

typedef struct vp_ukr vp_ukr;
struct vp_ukr {
    const char *name; /* as in VP_UKRS */
    vp_target target;
    vp_rows rows;    /* what activations are, or become */
    vp_dtype weight; /* integers: c is int32, exact, and the same on every target */
    size_t mr, nr;   /* largest tile: rows of activations, columns of weights */
    size_t kr;       /* k is cut at multiples of it, and filled up with zeros to one */
    size_t group;    /* g above; divides kr */
    size_t kc; /* inputs in a block, at most: strips and a panel so deep fit into L2 */
    size_t sum_piece; /* see vp_ukr_run */
    /* Makes what run takes as a of a[rows][k], rows lda apart. NULL: run takes the rows where
     * they lie. Either way strip_bytes lead from one k to the next. */
    void (*pack_strip)(const vp_ukr *ukr, void *strip, const float *a, size_t lda,
                       size_t rows, size_t k);
    size_t strip_bytes;
    /* Makes `rows` of x[k], where the unit that multiplies has an instruction for that; NULL: a
     * kernel of kernels.h does. */
    void (*convert)(void *row, const float *x, size_t k);
    /* Makes what run takes as b of a packed panel[k][nr], or what run has left to do of it.
     * NULL: run takes the panel itself. Either way panel_bytes lead from one k to the next. */
    void (*split_panel)(vp_ahead *panel);
    size_t panel_bytes;
    /* c[rows][nr], rows ldc floats (of integers: int32) apart, (+)= a b. a and b are what the two above make; rows
     * of an a that lies where it was are lda times 4 bytes apart. c is 64-byte aligned, ldc
     * a multiple of 16, and all mr rows of it are writable where there is a pack_strip, or
     * rows are not float32; then mr rows of a are readable, too. Where it
     * adds to c, c does not change behind the last row. Each element's sum runs over k in
     * order, whatever rows is. On the side it deals with the panel ahead. */
    void (*run)(const vp_ukr *ukr, size_t rows, size_t k, const void *a, size_t lda,
                const void *b, float *c, size_t ldc, bool accumulate, vp_ahead *ahead);
    /* A worker calls these before its first and after its last run; may be NULL. */
    void (*enter)(void);
    void (*leave)(void);
};

/* Bytes that a micro-kernel may load, and does not use, past a strip or a panel. */
#define VP_UKR_SLACK (8 * VP_ALIGN)

/* The list: micro-kernel i, i < VP_UKR_COUNT. Never NULL; whether it may run is its target's
 * matter (vp_target_enable). */
enum {
#define VP_UKR_ENUM(name, arch) VP_ON_##arch(VP_UKR_INDEX_##name, )
    VP_UKRS(VP_UKR_ENUM)
#undef VP_UKR_ENUM
        VP_UKR_COUNT,
};
const vp_ukr *vp_ukr_at(size_t i);

/* The best micro-kernel for weights of that type on the target in use; never NULL. Where
 * VITPOOL_UKR is set, the best whose name contains it, if there is one. */
const vp_ukr *vp_ukr_for(vp_dtype weight);

/* May it run on the target in use? */
bool vp_ukr_may_run(const vp_ukr *ukr);

/* False if VITPOOL_UKR is set and no micro-kernel that may run has it in its name. */
bool vp_ukr_wish_met(void);

/* "0.9.0" (ukernels/blis.c); NULL without BLIS */
const char *vp_blis_version(void);

/* k inputs, filled up. */
static inline size_t vp_ukr_filled(const vp_ukr *ukr, size_t k)
{
    return ukr->rows == VP_ROWS_f32 ? k : vp_round_up(k, ukr->kr);
}

/* Words of 4 bytes that a row of k inputs takes, filled up. */
static inline size_t vp_ukr_words(const vp_ukr *ukr, size_t k)
{
    return vp_ceil_div(vp_ukr_filled(ukr, k) * vp_rows_bytes(ukr->rows), 4);
}

static inline void vp_ukr_enter(const vp_ukr *ukr)
{
    if (ukr->enter != NULL) {
        ukr->enter();
    }
}

static inline void vp_ukr_leave(const vp_ukr *ukr)
{
    if (ukr->leave != NULL) {
        ukr->leave();
    }
}

/* run over all of k in pieces of at most `piece`, each summed on its own and then added:
 * rounding errors grow with the length of a chain, not with k. ukr->sum_piece costs next to
 * nothing; where a product is small and its result final (the head), shorter is better. */
#define VP_SUM_PIECE_FINAL ((size_t)64)
static inline void vp_ukr_run(const vp_ukr *ukr, size_t piece, size_t rows, size_t k,
                              const void *a, size_t lda, const void *b, float *c,
                              size_t ldc, bool accumulate, vp_ahead *ahead)
{
    if (k <= piece) { /* a small tile takes about as long as the divisions below */
        ukr->run(ukr, rows, k, a, lda, b, c, ldc, accumulate, ahead);
        return;
    }
    const size_t pieces = vp_ceil_div(k, piece), steps = vp_ceil_div(k, ukr->kr);
    for (size_t i = 0, k0 = 0; i < pieces; i++) {
        const size_t length = (steps / pieces + (i < steps % pieces)) * ukr->kr;
        const size_t n = vp_min(k - k0, length);
        ukr->run(ukr, rows, n, (const char *)a + k0 * ukr->strip_bytes, lda,
                 (const char *)b + k0 * ukr->panel_bytes, c, ldc, accumulate || i > 0,
                 ahead);
        k0 += n;
    }
}

#define VP_UKR_DECLARE(name, arch) VP_ON_##arch(const vp_ukr *name(void);)
VP_UKRS(VP_UKR_DECLARE)
#undef VP_UKR_DECLARE

#endif
