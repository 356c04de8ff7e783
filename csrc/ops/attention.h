/* Scaled dot-product attention: out = softmax(scale q k^T + bias + mask) v, head by head.
 *
 * Works through the keys in blocks with an online softmax (Milakov & Gimelshein 2018, Dao
 * et al. 2022), so scratch does not grow with N; no N x N matrix exists. Shapes: B images,
 * H query heads of width dk, nq queries, nk keys, value heads of width dv. Head h of a row
 * starts h * dk floats into it (values: h / group * dv; out: h * dv).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_OPS_ATTENTION_H
#define VP_OPS_ATTENTION_H

#include <stdbool.h>

#include "gemm/run.h"

/* What a query may see. Element (b, h / group, i, j) is at b * batch + h * head + i * row + j
 * (strides of 0 broadcast). One of bias and allowed, or neither. */
typedef struct {
    const float *bias;            /* added to the scaled scores */
    const unsigned char *allowed; /* 0: not seen */
    size_t batch, head, row;      /* strides in elements */
    bool causal;                  /* key j is seen by queries i >= j alone */
} vp_mask;

/* The mask of the images from `image` on. */
static inline vp_mask vp_mask_from_image(const vp_mask *mask, size_t image)
{
    vp_mask at = *mask;
    at.bias = at.bias != NULL ? at.bias + image * at.batch : NULL;
    at.allowed = at.allowed != NULL ? at.allowed + image * at.batch : NULL;
    return at;
}

/* A bias added to the scaled scores that depends on where query and key lie to each other:
 * never N x N numbers. Patches are row-major on a grid; `prefix` tokens stand before them.
 * Of query (qy, qx) and key (ky, kx) it is bias[h][qy - ky + gh - 1][kx - qx + gw - 1]: the
 * columns run with kx, so that the keys of one grid row are neighbours. */
typedef struct {
    const float *bias;      /* [H][2 gh - 1][2 gw - 1]; NULL: no bias */
    const float *edges;     /* [H][3]: token to patch, patch to token, token to token */
    size_t grid[2], prefix; /* gh, gw */
} vp_relative;

typedef struct {
    size_t batch, heads,
        group; /* group query heads share a value head and a mask (1, or 2 in diff) */
    size_t
        kv_group; /* grouped-query attention: so many heads share a key and a value head;
                      * 0: 1. Key head h / kv_group, value head h / (group kv_group). */
    const vp_relative *relative; /* may be NULL */
    size_t nq, nk, dk, dv;
    const float *q, *k,
        *v; /* rows q_row, kv_row apart; images q_image, kv_image apart */
    size_t q_row, q_image, kv_row, kv_image;
    float scale;
    const vp_mask *mask; /* may be NULL */
    float *out;          /* [batch][nq] rows of heads * dv, out_row apart */
    size_t out_row, out_image;
} vp_attention;

/* The key head and the value head of query head h. */
static inline size_t vp_attention_key_head(const vp_attention *at, size_t h)
{
    return at->kv_group > 1 ? h / at->kv_group : h;
}
static inline size_t vp_attention_value_head(const vp_attention *at, size_t h)
{
    return vp_attention_key_head(at, h) / at->group;
}

/* Bytes that each worker needs; run has its micro-kernel and its limits. */
size_t vp_attention_scratch(const vp_run *run, size_t nk, size_t dk, size_t dv);

void vp_attention_run(const vp_run *run, const vp_attention *attention);

/* The attention weights themselves, softmax(scale q k^T + mask), into
 * weights[batch][heads][nq][nk] (contiguous). v and out are not used. */
void vp_attention_weights(const vp_run *run, const vp_attention *attention,
                          float *weights);

/* Turns raw scores of query i of head h and keys [j0, j0 + n) into what softmax takes: with a
 * relative bias or a mask they are scaled here, and the function's result is the factor still
 * to apply. */
float vp_attention_mask_row(const vp_run *run, const vp_attention *attention, size_t b,
                            size_t h, size_t i, size_t j0, size_t n, float *scores);

#endif
