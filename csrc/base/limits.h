/* How large the pieces are that a forward pass is cut into, so that each stays in a cache.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_LIMITS_H
#define VP_BASE_LIMITS_H

#include <stddef.h>

typedef struct {
    /* A larger batch goes through in chunks of about this many bytes of activations:
     * scratch stays bounded, and they stay in a last-level cache. A larger team has more
     * of that cache, and needs more rows. */
    size_t chunk_bytes;
    /* Keys at a time in attention: packed keys and values, and a strip's scores, stay in L2
     * and L1. A sum's order depends on it. */
    size_t block_keys;
    /* Queries in a work item of attention, at most: each item packs all keys and values of
     * its head. */
    size_t block_queries;
} vp_limits;

/* The limits of a pass that begins now, with so many workers. */
vp_limits vp_limits_get(size_t workers);

/* For tests alone, so that small models go through every loop; 0: the default. A pass that
 * has begun keeps its limits. */
void vp_limits_set(vp_limits limits);

#endif
