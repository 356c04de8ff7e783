/* One tensor of the state dict: float32 numbers as they are, or a packed matrix of any dtype.
 *
 * Weights never change once a model uses them; models share them by counting references.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_MODEL_WEIGHT_H
#define VP_MODEL_WEIGHT_H

#include <stdatomic.h>
#include <stddef.h>

#include "gemm/packed.h"

typedef struct {
    atomic_size_t refs;
    size_t count;        /* numbers */
    float *plain;        /* [count], or NULL */
    vp_packed packed[2]; /* rows [0, first) and the rest, where plain is NULL */
    size_t parts;        /* 1 or 2 */
    vp_dtype dtype;      /* of the packed; f32 where plain */
} vp_weight;

/* One reference, numbers not set; NULL without memory. A matrix has n rows of k; with
 * 0 < first < n it is packed in two parts, so that each can be multiplied on its own. */
vp_weight *vp_weight_create_plain(size_t count);
vp_weight *vp_weight_create_matrix(size_t n, size_t k, size_t first, vp_dtype dtype);

vp_weight *vp_weight_ref(vp_weight *weight); /* NULL is fine */
void vp_weight_unref(vp_weight *weight);     /* NULL is fine */

/* Copies count numbers, row-major, in or out. Set is for the creator alone. */
void vp_weight_set(vp_weight *weight, const float *numbers);
void vp_weight_get(const vp_weight *weight, float *numbers);

/* The same of integers q[n][k] and scale[n], where dtype is one of integers: to the bit. */
void vp_weight_set_int(vp_weight *weight, const int8_t *q, const float *scale);
void vp_weight_get_int(const vp_weight *weight, int8_t *q, float *scale);

size_t vp_weight_bytes(const vp_weight *weight);

#endif
