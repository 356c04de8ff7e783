/* Targets: names, and what is left when the kernel refuses AMX's tiles.
 * SPDX-License-Identifier: Apache-2.0 */
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
    CHECK(vp_target_supported(VP_TARGET_BASELINE), "no baseline");
#if defined(__linux__)
    /* A thread whose signal stack has no room for the tiles: the kernel allows none. */
    static char small[2048];
    stack_t stack = {.ss_sp = small, .ss_size = sizeof small}, old;
    if (sigaltstack(&stack, &old) == 0) {
        const vp_target best = vp_target_best();
        CHECK(best < VP_TARGET_AMX, "tiles on a signal stack of 2 KiB");
        CHECK(vp_target_supported(best), "the best target is not supported");
        (void)sigaltstack(&old, NULL);
    }
#endif
    CHECK(vp_target_supported(vp_target_best()), "the best target is not supported");
    return check_done();
}
