/* The list of micro-kernels, and the choice. SPDX-License-Identifier: Apache-2.0 */
#include "ukernels/ukr.h"

#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "kernels/kernels.h"

const vp_ukr *vp_ukr_at(size_t i)
{
    static const vp_ukr *(*const all[])(void) = {
#define GET(name, arch) VP_ON_##arch(name, )
        VP_UKRS(GET)
#undef GET
    };
    return all[i]();
}

#if defined(VP_NO_BLIS)
const char *vp_blis_version(void)
{
    return NULL;
}
#endif

static const vp_ukr *chosen[VP_DTYPE_COUNT];
static bool wish_met = true;
static vp_once once = VP_ONCE_INIT;

bool vp_ukr_may_run(const vp_ukr *ukr)
{
    const vp_target current = vp_target_current();
    const vp_target best = current < VP_TARGET_COUNT ? current : vp_target_best();
    return ukr->target <= best && vp_target_supported(ukr->target);
}

/* The best of each type among those with `part` in their names; returns how many of those
 * may run. */
static size_t choose_named(const char *part)
{
    size_t count = 0;
    for (size_t i = 0; i < VP_UKR_COUNT; i++) {
        const vp_ukr *ukr = vp_ukr_at(i);
        if (vp_ukr_may_run(ukr) && strstr(ukr->name, part) != NULL) {
            chosen[ukr->weight] = ukr;
            count++;
        }
    }
    return count;
}

static void choose(void)
{
    const char *wish = getenv("VITPOOL_UKR");
    (void)choose_named("");
    if (wish != NULL && *wish != '\0') {
        wish_met = choose_named(wish) > 0;
    }
}

const vp_ukr *vp_ukr_for(vp_dtype weight)
{
    vp_run_once(&once, choose);
    return chosen[weight];
}

bool vp_ukr_wish_met(void)
{
    vp_run_once(&once, choose);
    return wish_met;
}
