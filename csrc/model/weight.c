/* One tensor of the state dict. SPDX-License-Identifier: Apache-2.0 */
#include "model/weight.h"

#include <string.h>

#include "base/memory.h"

vp_weight *vp_weight_create_plain(size_t count)
{
    vp_weight *weight = vp_alloc_zero(sizeof *weight);
    if (weight == NULL) {
        return NULL;
    }
    weight->refs = 1;
    weight->count = count;
    weight->plain = vp_alloc(vp_size_mul(count, sizeof(float)));
    if (weight->plain == NULL) {
        vp_free(weight);
        return NULL;
    }
    return weight;
}

vp_weight *vp_weight_create_matrix(size_t n, size_t k, size_t first, vp_dtype dtype)
{
    vp_weight *weight = vp_alloc_zero(sizeof *weight);
    if (weight == NULL) {
        return NULL;
    }
    weight->refs = 1;
    weight->count = n * k;
    weight->dtype = dtype;
    weight->parts = first > 0 && first < n ? 2 : 1;
    const size_t rows[2] = {weight->parts == 2 ? first : n, n - first};
    for (size_t p = 0; p < weight->parts; p++) {
        if (vp_packed_init(&weight->packed[p], vp_ukr_for(dtype), rows[p], k) != 0) {
            vp_weight_unref(weight);
            return NULL;
        }
    }
    return weight;
}

vp_weight *vp_weight_ref(vp_weight *weight)
{
    if (weight != NULL) {
        atomic_fetch_add(&weight->refs, 1);
    }
    return weight;
}

void vp_weight_unref(vp_weight *weight)
{
    if (weight != NULL && atomic_fetch_sub(&weight->refs, 1) == 1) {
        vp_free(weight->plain);
        vp_packed_free(&weight->packed[0]);
        vp_packed_free(&weight->packed[1]);
        vp_free(weight);
    }
}

void vp_weight_set(vp_weight *weight, const float *numbers)
{
    if (weight->plain != NULL) {
        memcpy(weight->plain, numbers, weight->count * sizeof(float));
        return;
    }
    for (size_t p = 0; p < weight->parts; p++) {
        vp_pack(&weight->packed[p], numbers);
        numbers += weight->packed[p].n * weight->packed[p].k;
    }
}

void vp_weight_get(const vp_weight *weight, float *numbers)
{
    if (weight->plain != NULL) {
        memcpy(numbers, weight->plain, weight->count * sizeof(float));
        return;
    }
    for (size_t p = 0; p < weight->parts; p++) {
        vp_unpack(&weight->packed[p], numbers);
        numbers += weight->packed[p].n * weight->packed[p].k;
    }
}

void vp_weight_set_int(vp_weight *weight, const int8_t *q, const float *scale)
{
    for (size_t p = 0; p < weight->parts; p++) {
        vp_packed *packed = &weight->packed[p];
        vp_pack_int(packed, q, scale);
        q += packed->n * packed->k;
        scale += packed->n;
    }
}

void vp_weight_get_int(const vp_weight *weight, int8_t *q, float *scale)
{
    for (size_t p = 0; p < weight->parts; p++) {
        const vp_packed *packed = &weight->packed[p];
        vp_unpack_int(packed, q, scale);
        q += packed->n * packed->k;
        scale += packed->n;
    }
}

size_t vp_weight_bytes(const vp_weight *weight)
{
    if (weight->plain != NULL) {
        return weight->count * sizeof(float);
    }
    size_t bytes = 0;
    for (size_t p = 0; p < weight->parts; p++) {
        bytes += vp_packed_bytes(&weight->packed[p]);
    }
    return bytes;
}
