/* AMX's tiles as all micro-kernels here use them: eight of 16 rows of 64 bytes. Tiles have no C
 * type, the compiler sees their numbers only: 0 to 3 are c, 4 and 5 halves of a's rows, 6 and 7
 * halves of b's columns. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_UKERNELS_AMX_H
#define VP_UKERNELS_AMX_H

#include <immintrin.h>
#include <stdint.h>

/* What a micro-kernel calls as its enter and leave: a worker's tiles are configured while it
 * multiplies, and released after, so that nobody saves them for it. */
static void vp_amx_enter(void)
{
    /* what ldtilecfg reads: palette 1, the rows and the bytes of a row of each tile */
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1,
                .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&config);
}

static void vp_amx_leave(void)
{
    _tile_release();
}

#endif
