/* BLIS's micro-kernels, called through a context as its KernelsHowTo documents. The only
 * file that knows <blis.h>. SPDX-License-Identifier: Apache-2.0 */
#include <blis.h>

#include "gemm/ukr.h"
#include "kernels/kernels.h"

#if !defined(VP_BLIS_BEFORE_1)
typedef gemm_ukr_ft sgemm_ukr_ft;
#endif

#if defined(VP_X86) && defined(VP_BLIS_BEFORE_1)
/* In the static library only; weak, so that the shared one serves too. */
#pragma weak bli_gks_lookup_nat_cntx
#endif

static void run_blis(const vp_ukr *ukr, size_t rows, size_t k, const float *a,
                     size_t lda, const float *b, float *c, size_t ldc, int accumulate,
                     vp_ahead *ahead)
{
    (void)rows, (void)lda; /* strips are padded to mr */
    (void)ahead;           /* BLIS's kernels prefetch for themselves */
    float one = 1.0f, beta = accumulate ? 1.0f : 0.0f;
    auxinfo_t aux;
    memset(&aux, 0, sizeof aux);
    bli_auxinfo_set_next_a((void *)a, &aux);
    bli_auxinfo_set_next_b((void *)b, &aux);
    /* BLIS's prototypes lack const; the kernels only read a and b. */
    sgemm_ukr_ft kernel = (sgemm_ukr_ft)ukr->kernel;
    if (ukr->row_preferring) {
        kernel((dim_t)ukr->mr, (dim_t)ukr->nr, (dim_t)k, &one, (float *)a, (float *)b,
               &beta, c, (inc_t)ldc, 1, &aux, ukr->context);
    } else {
        /* A column-preferring kernel computes the transpose: the weights take A's place. */
        kernel((dim_t)ukr->nr, (dim_t)ukr->mr, (dim_t)k, &one, (float *)b, (float *)a,
               &beta, c, 1, (inc_t)ldc, &aux, ukr->context);
    }
}

/* [k][mr], zero rows added. */
static void pack_strip(const vp_ukr *ukr, float *strip, const float *a, size_t lda,
                       size_t rows, size_t k)
{
    if (rows < ukr->mr) {
        memset(strip, 0, ukr->mr * k * sizeof(float));
    }
    vp_kernels_get()->transpose(strip, ukr->mr, a, lda, rows, k);
}

static cntx_t *context_of_target(void)
{
#if defined(VP_X86) && defined(VP_BLIS_BEFORE_1)
    if (bli_gks_lookup_nat_cntx != NULL) {
        bli_init();
        const vp_target target = vp_target_current();
        const arch_t arch =
            target == VP_TARGET_BASELINE ? BLIS_ARCH_GENERIC : BLIS_ARCH_HASWELL;
        cntx_t *context = bli_gks_lookup_nat_cntx(arch);
        if (context != NULL) {
            return context;
        }
    }
#endif
    /* BLIS's own choice for this machine (or BLIS_ARCH_TYPE's). */
    return (cntx_t *)bli_gks_query_cntx();
}

vp_ukr vp_blis_ukr(void)
{
    cntx_t *context = context_of_target();
    vp_ukr ukr = {.kc = 1024, .depth = 1, .sum_piece = 256, .run = run_blis};
    ukr.context = context;
    const size_t mr = (size_t)bli_cntx_get_blksz_def_dt(BLIS_FLOAT, BLIS_MR, context);
    const size_t nr = (size_t)bli_cntx_get_blksz_def_dt(BLIS_FLOAT, BLIS_NR, context);
#if defined(VP_BLIS_BEFORE_1)
    ukr.kernel = (void *)bli_cntx_get_l3_nat_ukr_dt(BLIS_FLOAT, BLIS_GEMM_UKR, context);
    ukr.row_preferring =
        bli_cntx_l3_nat_ukr_prefers_rows_dt(BLIS_FLOAT, BLIS_GEMM_UKR, context);
#else
    ukr.kernel = (void *)bli_cntx_get_ukr_dt(BLIS_FLOAT, BLIS_GEMM_UKR, context);
    ukr.row_preferring =
        bli_cntx_ukr_prefers_rows_dt(BLIS_FLOAT, BLIS_GEMM_UKR, context);
#endif
    ukr.mr = ukr.row_preferring ? mr : nr;
    ukr.nr = ukr.row_preferring ? nr : mr;
    ukr.pack_strip = pack_strip;
    ukr.strip_step = ukr.mr;
    ukr.packs_apart = 1;
    ukr.panel_step = ukr.nr;
    ukr.name = ukr.row_preferring ? "BLIS sgemm, row-preferring"
                                  : "BLIS sgemm, column-preferring";
    return ukr;
}

const char *vp_blis_version(void)
{
    return bli_info_get_version_str();
}
