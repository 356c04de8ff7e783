/* A forward pass's scratch memory. SPDX-License-Identifier: Apache-2.0 */
#include "base/arena.h"

#include <assert.h>
#include <stdint.h>

#include "base/memory.h"

void *vp_arena_take(vp_arena *arena, size_t bytes)
{
    const size_t start = arena->used;
    size_t end = vp_size_add(start, bytes);
    end = vp_size_add(end, VP_ALIGN - 1);
    arena->used = end == SIZE_MAX ? end : end / VP_ALIGN * VP_ALIGN;
    if (arena->base == NULL) {
        return NULL;
    }
    assert(arena->used <= arena->capacity);
    return arena->base + start;
}

float *vp_arena_floats(vp_arena *arena, size_t count)
{
    return vp_arena_take(arena, vp_size_mul(count, sizeof(float)));
}
