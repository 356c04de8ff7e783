/* BLIS's micro-kernels, called through a context as its KernelsHowTo documents. The only
 * file that knows <blis.h>. SPDX-License-Identifier: Apache-2.0 */
#include <blis.h>

#include "base/os.h"
#include "kernels/kernels.h"
#include "ukernels/ukr.h"

#if !defined(VP_BLIS_BEFORE_1)
typedef gemm_ukr_ft sgemm_ukr_ft;
#endif

#if defined(VP_X86) && defined(VP_BLIS_BEFORE_1)
/* In the static library only; weak, so that the shared one serves too. */
#pragma weak bli_gks_lookup_nat_cntx
#endif

typedef struct {
    vp_ukr ukr; /* the first, so that run may look at the rest */
    cntx_t *context;
    sgemm_ukr_ft kernel;
    bool row_preferring;
} blis_ukr;

static void run(const vp_ukr *ukr, size_t rows, size_t k, const void *a, size_t lda,
                const void *b, float *c, size_t ldc, bool accumulate, vp_ahead *ahead)
{
    (void)rows, (void)lda; /* strips are padded to mr */
    (void)ahead;           /* BLIS's kernels prefetch for themselves */
    const blis_ukr *blis = (const blis_ukr *)ukr;
    float one = 1.0f, beta = accumulate ? 1.0f : 0.0f;
    auxinfo_t aux;
    memset(&aux, 0, sizeof aux);
    bli_auxinfo_set_next_a((void *)a, &aux);
    bli_auxinfo_set_next_b((void *)b, &aux);
    /* BLIS's prototypes lack const; the kernels only read a and b. */
    if (blis->row_preferring) {
        blis->kernel((dim_t)ukr->mr, (dim_t)ukr->nr, (dim_t)k, &one, (float *)a,
                     (float *)b, &beta, c, (inc_t)ldc, 1, &aux, blis->context);
    } else {
        /* A column-preferring kernel computes the transpose: the weights take A's place. */
        blis->kernel((dim_t)ukr->nr, (dim_t)ukr->mr, (dim_t)k, &one, (float *)b,
                     (float *)a, &beta, c, 1, (inc_t)ldc, &aux, blis->context);
    }
}

/* [k][mr], zero rows added. */
static void pack_strip(const vp_ukr *ukr, void *strip, const float *a, size_t lda,
                       size_t rows, size_t k)
{
    if (rows < ukr->mr) {
        memset(strip, 0, k * ukr->strip_bytes);
    }
    vp_kernels_get()->transpose(strip, ukr->mr, a, lda, rows, k);
}

static cntx_t *context_of(vp_target target)
{
#if defined(VP_X86) && defined(VP_BLIS_BEFORE_1)
    if (bli_gks_lookup_nat_cntx != NULL) {
        bli_init();
        cntx_t *context = bli_gks_lookup_nat_cntx(
            target == VP_TARGET_baseline ? BLIS_ARCH_GENERIC : BLIS_ARCH_HASWELL);
        if (context != NULL) {
            return context;
        }
    }
#endif
    /* BLIS's own choice for this machine (or BLIS_ARCH_TYPE's). */
    (void)target;
    return (cntx_t *)bli_gks_query_cntx();
}

static blis_ukr make(const char *name, vp_target target)
{
    cntx_t *context = context_of(target);
    blis_ukr blis = {.context = context};
    const size_t mr = (size_t)bli_cntx_get_blksz_def_dt(BLIS_FLOAT, BLIS_MR, context);
    const size_t nr = (size_t)bli_cntx_get_blksz_def_dt(BLIS_FLOAT, BLIS_NR, context);
#if defined(VP_BLIS_BEFORE_1)
    blis.kernel =
        (sgemm_ukr_ft)bli_cntx_get_l3_nat_ukr_dt(BLIS_FLOAT, BLIS_GEMM_UKR, context);
    blis.row_preferring =
        bli_cntx_l3_nat_ukr_prefers_rows_dt(BLIS_FLOAT, BLIS_GEMM_UKR, context);
#else
    blis.kernel = (sgemm_ukr_ft)bli_cntx_get_ukr_dt(BLIS_FLOAT, BLIS_GEMM_UKR, context);
    blis.row_preferring =
        bli_cntx_ukr_prefers_rows_dt(BLIS_FLOAT, BLIS_GEMM_UKR, context);
#endif
    const size_t rows = blis.row_preferring ? mr : nr;
    const size_t cols = blis.row_preferring ? nr : mr;
    blis.ukr = (vp_ukr){.name = name,
                        .target = target,
                        .rows = VP_ROWS_f32,
                        .weight = VP_DTYPE_f32,
                        .mr = rows,
                        .nr = cols,
                        .kr = 1,
                        .group = 1,
                        .kc = 1024,
                        .sum_piece = 256,
                        .pack_strip = pack_strip,
                        .strip_bytes = rows * sizeof(float),
                        .panel_bytes = cols * sizeof(float),
                        .run = run};
    return blis;
}

#define LINE(target)                                                             \
    static blis_ukr of_##target;                                                 \
    static void make_##target(void)                                              \
    {                                                                            \
        of_##target = make("vp_gemm_f32f32_blis__" #target, VP_TARGET_##target); \
    }                                                                            \
    const vp_ukr *vp_gemm_f32f32_blis__##target(void)                            \
    {                                                                            \
        static vp_once once = VP_ONCE_INIT;                                      \
        vp_run_once(&once, make_##target);                                       \
        return &of_##target.ukr;                                                 \
    }

LINE(baseline)
#if defined(VP_X86)
LINE(avx2)
#endif

const char *vp_blis_version(void)
{
    return bli_info_get_version_str();
}
