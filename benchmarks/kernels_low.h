/* kernels.c's cases of the kernels of low precision.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BENCH_KERNELS_LOW_H
#define VP_BENCH_KERNELS_LOW_H

static size_t case_to_bf16(const vp_kernels *kernels, const row *r, size_t variant,
                           const char **name)
{
    (void)name;
    kernels->to_bf16((uint16_t *)r->y, r->x, COLS);
    return variant < 1 ? 3 * ROW / 2 : 0;
}

static size_t case_to_f16(const vp_kernels *kernels, const row *r, size_t variant,
                          const char **name)
{
    (void)name;
    kernels->to_f16((uint16_t *)r->y, r->x, COLS);
    return variant < 1 ? 3 * ROW / 2 : 0;
}

static size_t case_from_f16(const vp_kernels *kernels, const row *r, size_t variant,
                            const char **name)
{
    (void)name;
    kernels->from_f16(r->y, (const uint16_t *)r->x, COLS);
    return variant < 1 ? 3 * ROW / 2 : 0;
}

static size_t case_quantize_u8(const vp_kernels *kernels, const row *r, size_t variant,
                               const char **name)
{
    float scale;
    int32_t zero;
    (void)name;
    kernels->quantize_u8((uint8_t *)r->y, r->x, COLS, &scale, &zero);
    return variant < 1 ? 5 * ROW / 4 : 0;
}

static size_t case_quantize_s16(const vp_kernels *kernels, const row *r, size_t variant,
                                const char **name)
{
    float scale;
    int32_t zero;
    (void)name;
    kernels->quantize_s16((int16_t *)r->y, r->x, COLS, 22017, &scale, &zero);
    return variant < 1 ? 3 * ROW / 2 : 0;
}

static size_t case_dequantize(const vp_kernels *kernels, const row *r, size_t variant,
                              const char **name)
{
    /* a row as a tile of 24 rows of 32; what comes out goes in again, as large as it was */
    static const float row_scale[24] = {1e-9f, 1e-9f, 1e-9f, 1e-9f, 1e-9f, 1e-9f,
                                        1e-9f, 1e-9f, 1e-9f, 1e-9f, 1e-9f, 1e-9f,
                                        1e-9f, 1e-9f, 1e-9f, 1e-9f, 1e-9f, 1e-9f,
                                        1e-9f, 1e-9f, 1e-9f, 1e-9f, 1e-9f, 1e-9f};
    static const int32_t zero[24] = {128, 127, 0, 255}, sum[32] = {-3000, 5000, 77};
    kernels->dequantize(r->y, 32, 24, 32, row_scale, zero, r->w, sum);
    *name = ", 24 x 32";
    return variant < 1 ? 2 * ROW : 0;
}

#endif
