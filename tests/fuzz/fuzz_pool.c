/* libFuzzer: the name of a pool, any bytes. SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    vp_error err;
    vp_pool pool = VP_POOL_COUNT;
    const vp_family family = (vp_family)(size % VP_FAMILY_COUNT);
    const vp_status status =
        vp_pool_parse(family, "global_pool", (const char *)data, size, &pool, &err);
    if (status == VP_OK) {
        const char *name = pool < VP_POOL_COUNT ? vp_pool_names[pool] : "?";
        if (strlen(name) != size || memcmp(name, data, size) != 0) {
            abort();
        }
    } else if (status != VP_ERR_VALUE || pool != VP_POOL_COUNT ||
               strlen(err.message) >= sizeof err.message - 1) {
        abort();
    }
    return 0;
}
