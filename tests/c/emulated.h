/* Micro-kernels in a form for tests on a machine that lacks their instructions: those for AMX on
 * emulated ones (amx_emulated.h), where AVX-512 is, which the rest of their sources takes; those for
 * AVX-VNNI in AVX-512's encoding of the same instructions, where AVX512_VNNI is.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_TEST_EMULATED_H
#define VP_TEST_EMULATED_H

#include <string.h>

#include "ukernels/ukr.h"

/* X(name, target that the other form needs): those of VP_UKRS whose target is amx or avxvnni;
 * test_amx_emulated.c holds the list to that. */
#define EMULATED_UKRS(X)                        \
    X(vp_gemm_f32f32_32x32x32__amx, avx512)     \
    X(vp_gemm_bf16bf16_32x32x32__amx, avx512)   \
    X(vp_gemm_u8s8_32x32x64__amx, avx512)       \
    X(vp_gemm_u8s8_6x16x4__avxvnni, avx512vnni) \
    X(vp_gemm_s16s8a16_6x16x2__avxvnni, avx512vnni)

#if defined(VP_X86)
#define EMULATED_DECLARE(name, target) const vp_ukr *name##_emulated(void);
EMULATED_UKRS(EMULATED_DECLARE)
#undef EMULATED_DECLARE
#endif

/* The other form of that micro-kernel; NULL where it has none, or the machine cannot run it. */
static inline const vp_ukr *emulated_ukr(const vp_ukr *ukr)
{
#if defined(VP_X86)
    static const struct {
        const vp_ukr *(*get)(void);
        vp_target needs;
    } all[] = {
#define EMULATED_GET(name, target) {name##_emulated, VP_TARGET_##target},
        EMULATED_UKRS(EMULATED_GET)
#undef EMULATED_GET
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (vp_target_supported(all[i].needs) &&
            strcmp(all[i].get()->name, ukr->name) == 0) {
            return all[i].get();
        }
    }
#endif
    (void)ukr;
    return NULL;
}

/* What to test that micro-kernel by: itself where the machine can run it, else its other form;
 * NULL where it can do neither. */
static inline const vp_ukr *testable_ukr(const vp_ukr *ukr)
{
    return vp_target_enable(ukr->target) ? ukr : emulated_ukr(ukr);
}

#endif
