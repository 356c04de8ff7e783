/* The float32 micro-kernel in use. SPDX-License-Identifier: Apache-2.0 */
#include "gemm/ukr.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

static vp_ukr chosen;
static pthread_once_t once = PTHREAD_ONCE_INIT;

#if defined(VP_X86)
static void run_avx512(const vp_ukr *ukr, size_t rows, size_t k, const float *a,
                       size_t lda, const float *b, float *c, size_t ldc, int accumulate,
                       vp_ahead *ahead)
{
    (void)ukr;
    vp_sgemm_ukr_14x32__avx512(rows, k, a, lda, b, c, ldc, accumulate, ahead);
}

static void run_amx(const vp_ukr *ukr, size_t rows, size_t k, const float *a,
                    size_t lda, const float *b, float *c, size_t ldc, int accumulate,
                    vp_ahead *ahead)
{
    (void)ukr, (void)lda;
    vp_sgemm_ukr_32x32__amx(rows, k, a, b, c, ldc, accumulate, ahead);
}

static void pack_strip_amx(const vp_ukr *ukr, float *strip, const float *a, size_t lda,
                           size_t rows, size_t k)
{
    (void)ukr;
    vp_amx_cut_strip__amx(strip, a, lda, rows, k);
}
#endif

static void choose(void)
{
#if defined(VP_X86)
    const char *wish = getenv("VITPOOL_UKR");
    const bool ours = wish == NULL || strcmp(wish, "blis") != 0;
    if (ours && vp_target_current() == VP_TARGET_AMX) {
        /* AMX adds 32 products at a time in a tree of its own: a longer chain does. */
        chosen =
            (vp_ukr){.name = "vitpool sgemm 32x32 amx, 3 bfloat16 parts",
                     .mr = VP_AMX_MR,
                     .nr = VP_AMX_NR,
                     .kc = 768,
                     .depth = VP_AMX_DEPTH,
                     .sum_piece = 768,
                     .pack_strip = pack_strip_amx,
                     .strip_step = VP_AMX_STEP,
                     .packs_apart = 4, /* 8 % quicker with two; more not measured */
                     .cut_panel = vp_amx_cut_panel__amx,
                     .panel_step = VP_AMX_STEP,
                     .run = run_amx,
                     .enter = vp_amx_enter__amx,
                     .leave = vp_amx_leave__amx};
        return;
    }
    if (ours && vp_target_current() == VP_TARGET_AVX512) {
        chosen = (vp_ukr){.name = "vitpool sgemm 14x32 avx512",
                          .mr = VP_SGEMM_MR,
                          .nr = VP_SGEMM_NR,
                          .kc = 1024,
                          .depth = 1,
                          .sum_piece = 256,
                          .panel_step = VP_SGEMM_NR,
                          .run = run_avx512};
        return;
    }
#endif
    chosen = vp_blis_ukr();
}

const vp_ukr *vp_ukr_get(void)
{
    pthread_once(&once, choose);
    return &chosen;
}
