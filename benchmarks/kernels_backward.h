/* kernels.c's cases of the kernels of training: backward passes, dropout, optimizers.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BENCH_KERNELS_BACKWARD_H
#define VP_BENCH_KERNELS_BACKWARD_H

static size_t case_layer_norm_backward(const vp_kernels *kernels, const row *r,
                                       size_t variant, const char **name)
{
    /* dy is y, in place: the sums of dw and db are another row's too */
    static float dw[COLS], db[COLS];
    kernels->layer_norm_backward(r->y, r->y, r->x, r->w, variant == 0 ? dw : NULL,
                                 variant == 0 ? db : NULL, COLS, 1e-6f, false);
    *name = variant == 0 ? "" : ", dx alone";
    return variant < 2 ? 3 * ROW : 0;
}

static size_t case_rms_norm_backward(const vp_kernels *kernels, const row *r,
                                     size_t variant, const char **name)
{
    static float dw[COLS];
    (void)name;
    kernels->rms_norm_backward(r->y, r->y, r->x, r->w, dw, COLS, 1e-6f, false);
    return variant < 1 ? 3 * ROW : 0;
}

static size_t case_dot(const vp_kernels *kernels, const row *r, size_t variant,
                       const char **name)
{
    (void)name;
    kernels->dot(r->y, r->x, r->w, COLS);
    return variant < 1 ? 2 * ROW : 0;
}

static size_t case_softmax_backward(const vp_kernels *kernels, const row *r,
                                    size_t variant, const char **name)
{
    (void)name;
    kernels->softmax_backward(r->y, r->x, r->y, COLS, 0.125f);
    return variant < 1 ? 3 * ROW : 0;
}

static size_t case_act_backward(const vp_kernels *kernels, const row *r, size_t variant,
                                const char **name)
{
    static const char *const names[] = {", GELU", ", tanh GELU", ", SiLU"};
    static const vp_act acts[] = {VP_ACT_GELU, VP_ACT_GELU_TANH, VP_ACT_SILU};
    kernels->act_backward(r->y, r->y, r->x, COLS, acts[variant % 3]);
    *name = names[variant % 3];
    return variant < 3 ? 3 * ROW : 0;
}

static size_t case_gate_backward(const vp_kernels *kernels, const row *r,
                                 size_t variant, const char **name)
{
    /* half a row is values, the other half gates */
    const size_t n = COLS / 2;
    kernels->gate_backward(r->y, r->y + n, r->w, r->x, r->x + n, n, VP_ACT_SILU);
    *name = ", SiLU";
    return variant < 1 ? 5 * ROW / 2 : 0;
}

static size_t case_drop(const vp_kernels *kernels, const row *r, size_t variant,
                        const char **name)
{
    (void)name;
    kernels->drop(r->y, r->x, COLS, 0x123456789abcdef0u, 0, 0.1f);
    return variant < 1 ? 2 * ROW : 0;
}

static size_t case_adamw(const vp_kernels *kernels, const row *r, size_t variant,
                         const char **name)
{
    /* thirds of a row are w, m, v; beta2 is 0, since v must not be negative */
    const size_t n = COLS / 3;
    const vp_adamw how = {.rest1 = 0.1f,
                          .beta2 = 0.0f,
                          .rest2 = 1.0f,
                          .decay = 1e-5f,
                          .step = 1e-3f,
                          .root = 1.0f,
                          .eps = 1e-3f};
    (void)name;
    kernels->adamw(r->y, r->y + n, r->y + 2 * n, r->x, n, &how);
    return variant < 1 ? 7 * ROW / 3 : 0;
}

static size_t case_sgd(const vp_kernels *kernels, const row *r, size_t variant,
                       const char **name)
{
    const size_t n = COLS / 2;
    const vp_sgd how = {.lr = 0.1f, .momentum = 0.9f, .decay = 1e-4f, .scale = 1.0f};
    (void)name;
    kernels->sgd(r->y, r->y + n, r->x, n, &how);
    return variant < 1 ? 5 * ROW / 2 : 0;
}

#endif
