/* Panels whose inputs of a column lie side by side in groups of any size, and rows of bytes with a
 * sign: as a machine's micro-kernels want them that this one may not have.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"
#include "gemm/operand.h"
#include "gemm/packed.h"
#include "gemm/panels.h"

/* A micro-kernel that nobody runs. */
static vp_ukr make(vp_rows rows, vp_dtype weight, size_t nr, size_t group, size_t kr)
{
    return (vp_ukr){.name = "nobody's",
                    .rows = rows,
                    .weight = weight,
                    .mr = 6,
                    .nr = nr,
                    .kr = kr,
                    .group = group,
                    .kc = 96,
                    .sum_piece = 96,
                    .strip_bytes = vp_rows_bytes(rows),
                    .panel_bytes = nr * vp_dtype_bytes(weight)};
}

static size_t place(const vp_ukr *ukr, size_t column, size_t i)
{
    return (i / ukr->group * ukr->nr + column) * ukr->group + i % ukr->group;
}

/* -- packed weights -- */

static void check_ints(const vp_ukr *ukr, size_t n, size_t k)
{
    int8_t *q = vp_alloc(n * k), *back = vp_alloc(n * k);
    float *scale = vp_alloc(n * sizeof *scale),
          *scale_back = vp_alloc(n * sizeof *scale);
    for (size_t i = 0; i < n * k; i++) {
        q[i] = (int8_t)(check_random() * 127.0f);
    }
    check_fill(scale, n, 1.0f);
    vp_packed packed;
    CHECK(vp_packed_init(&packed, ukr, n, k) == 0, "no memory");
    memset(packed.data, 99, vp_packed_bytes(&packed));
    vp_pack_int(&packed, q, scale);
    for (size_t c = 0; c < packed.panels * ukr->nr; c++) {
        int32_t sum = 0;
        for (size_t b = 0; b < vp_packed_blocks(&packed); b++) {
            const int8_t *panel = vp_packed_panel(&packed, b, c / ukr->nr);
            const size_t length = vp_packed_block_length(&packed, b);
            for (size_t i = 0; i < vp_ukr_filled(ukr, length); i++) {
                const bool there = c < n && i < length;
                const int want = there ? q[c * k + b * packed.kc + i] : 0;
                const int got = panel[place(ukr, c % ukr->nr, i)];
                CHECK(got == want, "groups of %zu, %zu x %zu: (%zu, %zu) is %d, not %d",
                      ukr->group, n, k, c, b * packed.kc + i, got, want);
                sum += want;
            }
        }
        CHECK(vp_packed_sum(&packed)[c] == sum,
              "groups of %zu, %zu x %zu: column %zu adds up to %d, not %d", ukr->group,
              n, k, c, vp_packed_sum(&packed)[c], sum);
    }
    vp_unpack_int(&packed, back, scale_back);
    CHECK(memcmp(q, back, n * k) == 0 && memcmp(scale, scale_back, n * 4) == 0,
          "groups of %zu, %zu x %zu come out as other numbers", ukr->group, n, k);
    vp_packed_free(&packed);
    vp_free(q);
    vp_free(back);
    vp_free(scale);
    vp_free(scale_back);
}

/* -- attention's panels -- */

static uint16_t bf16_of(float x)
{
    uint16_t half;
    vp_kernels_reference.to_bf16(&half, &x, 1);
    return half;
}

/* x[k][n], or x[n][k] transposed. */
static void check_panels(const vp_ukr *ukr, size_t k, size_t n, bool transposed)
{
    const size_t rows = transposed ? n : k, cols = transposed ? k : n, ldx = cols + 3;
    float *x = vp_alloc(rows * ldx * sizeof *x);
    const size_t bytes = vp_panels_bytes(ukr, k, n);
    char *memory = vp_alloc(1 << 20), *panels = vp_alloc(bytes);
    vp_arena arena = {memory, 1 << 20, 0};
    const vp_run run = {.kernels = vp_kernels_for(VP_TARGET_baseline), .ukr = ukr};
    const vp_panels_room room = vp_panels_take_room(&arena, ukr, k, k);
    check_fill(x, rows * ldx, 1.0f);
    memset(panels, 99, bytes);
    if (transposed) {
        vp_panels_pack_transposed(&run, &room, panels, x, ldx, k, n);
    } else {
        vp_panels_pack(&run, &room, panels, x, ldx, k, n);
    }
    const size_t filled = vp_round_up(k, ukr->kr), nr = ukr->nr;
    for (size_t c = 0; c < vp_round_up(n, nr); c++) {
        const uint16_t *panel =
            (const uint16_t *)(panels + c / nr * filled * ukr->panel_bytes);
        for (size_t i = 0; i < filled; i++) {
            const size_t at = transposed ? c * ldx + i : i * ldx + c;
            const uint16_t want = c < n && i < k ? bf16_of(x[at]) : 0;
            const uint16_t got = panel[place(ukr, c % nr, i)];
            CHECK(got == want,
                  "groups of %zu, %zu x %zu%s: (%zu, %zu) is %04x, not %04x",
                  ukr->group, k, n, transposed ? " transposed" : "", i, c, got, want);
        }
    }
    vp_free(x);
    vp_free(memory);
    vp_free(panels);
}

/* -- rows -- */

/* The integers less 128, and a zero point 128 less: what fills a row up is 0. */
static void check_signed_rows(size_t k, float size)
{
    const vp_ukr with = make(VP_ROWS_s8, VP_DTYPE_s8, 16, 4, 4);
    const vp_ukr without = make(VP_ROWS_u8, VP_DTYPE_s8, 16, 8, 8);
    enum { MOST = 400 };
    float x[MOST], scale[2];
    int8_t q[MOST];
    uint8_t u[MOST];
    int32_t zero[2];
    check_fill(x, k, size);
    memset(q, 99, sizeof q);
    memset(u, 99, sizeof u);
    vp_operand_row(&vp_kernels_reference, &with, q, x, k, &scale[0], &zero[0]);
    vp_operand_row(&vp_kernels_reference, &without, u, x, k, &scale[1], &zero[1]);
    CHECK(zero[0] == zero[1] - 128, "a zero point is %d beside %d", zero[0], zero[1]);
    CHECK(memcmp(&scale[0], &scale[1], sizeof *scale) == 0, "a scale is %g beside %g",
          (double)scale[0], (double)scale[1]);
    for (size_t i = 0; i < vp_round_up(k, 8); i++) {
        CHECK(u[i] == (i < k ? q[i] + 128 : 0), "%zu of %zu is %d beside %d", i, k,
              q[i], u[i]);
        CHECK(i < k || i >= vp_round_up(k, 4) || q[i] == 0, "%d fills a row up", q[i]);
    }
}

int main(void)
{
    static const size_t groups[] = {1, 2, 4, 8}, ks[] = {1, 7, 8, 63, 64, 65, 200};
    static const size_t ns[] = {1, 15, 16, 17, 40};
    for (size_t g = 0; g < 4; g++) {
        for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
            for (size_t j = 0; j < sizeof ns / sizeof *ns; j++) {
                const vp_ukr ints = make(VP_ROWS_u8, VP_DTYPE_s8, 16, groups[g], 8);
                check_ints(&ints, ns[j], ks[i]);
                if (groups[g] == 2 || groups[g] == 4) {
                    const vp_ukr half =
                        make(VP_ROWS_bf16, VP_DTYPE_bf16, 16, groups[g], groups[g]);
                    check_panels(&half, ks[i], ns[j], false);
                    check_panels(&half, ks[i], ns[j], true);
                }
            }
        }
    }
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        check_signed_rows(ks[i], 3.0f);
        check_signed_rows(ks[i], 0.0f);
        check_signed_rows(ks[i], NAN);
    }
    return check_done();
}
