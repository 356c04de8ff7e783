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
                       const void *ahead, size_t ahead_step)
{
    (void)ukr;
    vp_sgemm_ukr_14x32__avx512(rows, k, a, lda, b, c, ldc, accumulate, ahead,
                               ahead_step);
}
#endif

static void choose(void)
{
#if defined(VP_X86)
    const char *wish = getenv("VITPOOL_UKR");
    if (vp_target_current() == VP_TARGET_AVX512 &&
        (wish == NULL || strcmp(wish, "blis") != 0)) {
        chosen = (vp_ukr){.name = "vitpool sgemm 14x32 avx512",
                          .mr = VP_SGEMM_MR,
                          .nr = VP_SGEMM_NR,
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
