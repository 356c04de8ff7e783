/* Targets: names, what each needs, and what is left when the kernel refuses AMX's tiles. Says
 * which this machine has, for tools/run_ctests.sh. SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>

#include "base/cpu.h"
#include "check.h"

int main(void)
{
    for (int t = 0; t < VP_TARGET_COUNT; t++) {
        CHECK(vp_target_from_name(vp_target_name((vp_target)t)) == (vp_target)t,
              "target %d has another's name", t);
    }
    CHECK(vp_target_from_name("amx2") == VP_TARGET_COUNT, "a name too many");
    CHECK(vp_target_supported(VP_TARGET_baseline), "no baseline");
#if defined(__linux__)
    /* A thread whose signal stack has no room for the tiles: the kernel allows none. */
    static char small[2048];
    stack_t stack = {.ss_sp = small, .ss_size = sizeof small}, old;
    if (sigaltstack(&stack, &old) == 0) {
        const vp_target best = vp_target_best();
        CHECK(best != VP_TARGET_amx, "tiles on a signal stack of 2 KiB");
        CHECK(!vp_target_enable(VP_TARGET_amx), "tiles are enabled all the same");
        CHECK(vp_target_enable(best), "the best target cannot be enabled");
        (void)sigaltstack(&old, NULL);
    }
#endif
    CHECK(vp_target_enable(vp_target_best()), "the best target cannot be enabled");
    /* A target supports what its vectors need; tables belong to targets that run here. */
#define VECTORS(name, arch, vectors, features)                                   \
    CHECK(VP_TARGET_##vectors <= VP_TARGET_##name, #name " before its vectors"); \
    CHECK(!vp_target_supported(VP_TARGET_##name) ||                              \
              vp_target_supported(VP_TARGET_##vectors),                          \
          #name " without its vectors");
    VP_TARGETS(VECTORS)
#undef VECTORS
    (void)printf("targets:");
    for (int t = 0; t < VP_TARGET_COUNT; t++) {
        if (vp_target_enable((vp_target)t)) {
            (void)printf(" %s", vp_target_name((vp_target)t));
        }
    }
    (void)printf("\n");
    return check_done();
}
