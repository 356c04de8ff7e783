/* Scaled dot-product attention: out = softmax(scale q k^T + mask) v, head by head.
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

typedef struct {
    size_t batch, heads,
        group; /* group query heads share a value head (1, or 2 in diff) */
    size_t nq, nk, dk, dv;
    const float *q, *k,
        *v; /* rows q_row, kv_row apart; images q_image, kv_image apart */
    size_t q_row, q_image, kv_row, kv_image;
    float scale;
    const vp_mask *mask; /* may be NULL */
    float *out;          /* [batch][nq] rows of heads * dv, out_row apart */
    size_t out_row, out_image;
} vp_attention;

/* Bytes that each worker needs; run has its micro-kernel and its limits. */
size_t vp_attention_scratch(const vp_run *run, size_t nk, size_t dk, size_t dv);

void vp_attention_run(const vp_run *run, const vp_attention *attention);

/* The attention weights themselves, softmax(scale q k^T + mask), into
 * weights[batch][heads][nq][nk] (contiguous). v and out are not used. */
void vp_attention_weights(const vp_run *run, const vp_attention *attention,
                          float *weights);

#endif
