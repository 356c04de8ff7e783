/* Where a forward pass's time goes, op by op. Off unless a caller passes one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_MODEL_PROFILE_H
#define VP_MODEL_PROFILE_H

#include <stddef.h>

#include "base/os.h"

#define VP_PROFILE_OPS(X) \
    X(patch_embed)        \
    X(pos_embed)          \
    X(norm) X(qkv) X(rope) X(attention) X(proj) X(fc1) X(fc2) X(pool) X(head)

typedef enum {
#define VP_PROFILE_ENUM(name) VP_PROFILE_##name,
    VP_PROFILE_OPS(VP_PROFILE_ENUM)
#undef VP_PROFILE_ENUM
        VP_PROFILE_COUNT,
} vp_profile_op;

typedef struct {
    double seconds[VP_PROFILE_COUNT];
    double flops[VP_PROFILE_COUNT]; /* 2 for each multiply-add of a matrix product */
    size_t calls[VP_PROFILE_COUNT];
    double total; /* seconds of the whole pass */
    /* How often its outer loops ran: chunks of the batch; in attention work items, and
     * blocks of keys in all of them. */
    size_t chunks, query_blocks, key_blocks;
} vp_profile;

extern const char *const vp_profile_names[VP_PROFILE_COUNT];

static inline double vp_profile_now(void)
{
    return 1e-9 * (double)vp_now_ns();
}

/* Times the statement and books it under the op; only runs it where profile is NULL. */
#define VP_PROFILED(profile, op, work, ...)                                     \
    do {                                                                        \
        if ((profile) == NULL) {                                                \
            __VA_ARGS__;                                                        \
        } else {                                                                \
            const double vp_start = vp_profile_now();                           \
            __VA_ARGS__;                                                        \
            (profile)->seconds[VP_PROFILE_##op] += vp_profile_now() - vp_start; \
            (profile)->flops[VP_PROFILE_##op] += (double)(work);                \
            (profile)->calls[VP_PROFILE_##op]++;                                \
        }                                                                       \
    } while (0)

#endif
