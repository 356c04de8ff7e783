/* A forward pass's scratch memory: one block, cut into aligned pieces, with a measure mode.
 *
 * The same planning function runs twice: first on an arena without memory, which only adds
 * up (`used`), then on one with that many bytes. So the plan and the sizes cannot disagree,
 * and a forward pass allocates nothing. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_ARENA_H
#define VP_BASE_ARENA_H

#include <stddef.h>

typedef struct {
    char *base;      /* NULL in measure mode; aligned to VP_ALIGN otherwise */
    size_t capacity; /* bytes at base */
    size_t used;     /* bytes taken so far; SIZE_MAX after an overflow */
} vp_arena;

/* The next piece, aligned to VP_ALIGN; NULL in measure mode. The arena owns it. */
void *vp_arena_take(vp_arena *arena, size_t bytes);

/* The next piece for count floats. */
float *vp_arena_floats(vp_arena *arena, size_t count);

#endif
