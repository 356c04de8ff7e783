/* Small products within one worker. SPDX-License-Identifier: Apache-2.0 */
#include "gemm/panels.h"

#include <assert.h>
#include <string.h>

#include "gemm/encode.h"
#include "gemm/operand.h"

vp_panels_room vp_panels_take_room(vp_arena *arena, const vp_ukr *ukr, size_t part,
                                   size_t k)
{
    vp_panels_room room = {NULL, 0, NULL};
    if (ukr->rows != VP_ROWS_f32) {
        const size_t words = vp_ukr_words(ukr, k);
        room.strip_stride = vp_row_stride(words);
        room.strip = vp_arena_floats(arena, ukr->mr * room.strip_stride);
        room.panel = vp_arena_floats(arena, ukr->nr * words);
    }
    if (ukr->pack_strip != NULL) {
        room.strip = vp_arena_take(
            arena, vp_round_up(part, ukr->kr) * ukr->strip_bytes + VP_UKR_SLACK);
    }
    if (ukr->split_panel != NULL) {
        room.panel = vp_arena_floats(arena, vp_round_up(k, ukr->kr) * ukr->nr);
    }
    return room;
}

/* Bytes from one panel to the next. */
static size_t panel_stride(const vp_ukr *ukr, size_t k)
{
    return vp_round_up(k, ukr->kr) * ukr->panel_bytes;
}

size_t vp_panels_bytes(const vp_ukr *ukr, size_t k, size_t n)
{
    return vp_ceil_div(n, ukr->nr) * panel_stride(ukr, k) + VP_UKR_SLACK;
}

void *vp_panels_take(vp_arena *arena, const vp_ukr *ukr, size_t k, size_t n)
{
    return vp_arena_take(arena, vp_panels_bytes(ukr, k, n));
}

/* Where panel[k][nr] is put together that ends up at `ready`; what makes it ready then. */
static float *begin_panel(const vp_ukr *ukr, const vp_panels_room *room, void *ready)
{
    return ukr->split_panel != NULL ? room->panel : ready;
}

static void end_panel(const vp_ukr *ukr, const float *panel, size_t k, void *ready)
{
    if (ukr->split_panel != NULL) {
        ukr->split_panel(&(vp_ahead){.panel = panel, .k = k, .ready = ready});
    }
}

enum { MOST_COLUMNS = 64, MOST_GROUP = 4 };

/* to[nr][g], g rows side by side; g is a constant where it is called. */
static inline void interleave(uint16_t *restrict to, uint16_t (*rows)[MOST_COLUMNS],
                              size_t nr, size_t g)
{
    for (size_t c = 0; c < nr; c++) {
        for (size_t i = 0; i < g; i++) {
            to[c * g + i] = rows[i][c];
        }
    }
}

/* A group of rows of x side by side: to[nr][group]; zeros from `cols` on, and for the rows from
 * `there` on. */
static void pack_group(const vp_run *run, uint16_t *to, const float *x, size_t ldx,
                       size_t there, size_t cols)
{
    uint16_t rows[MOST_GROUP][MOST_COLUMNS] = {{0}};
    const size_t g = run->ukr->group, nr = run->ukr->nr;
    for (size_t i = 0; i < vp_min(there, g); i++) {
        vp_operand_row(run->kernels, run->ukr, rows[i], x + i * ldx, cols, NULL, NULL);
    }
    if (g == 2) {
        interleave(to, rows, nr, 2);
    } else {
        assert(g == 4);
        interleave(to, rows, nr, 4);
    }
}

/* panel = x[k][cols] in bfloat16 */
static void pack_bf16(const vp_run *run, uint16_t *panel, const float *x, size_t ldx,
                      size_t k, size_t cols)
{
    const size_t g = run->ukr->group, nr = run->ukr->nr;
    const size_t there = vp_round_up(k, g), filled = vp_ukr_filled(run->ukr, k);
    for (size_t i = 0; i < k; i += g) {
        pack_group(run, panel + i * nr, x + i * ldx, ldx, k - i, cols);
    }
    memset(panel + there * nr, 0, (filled - there) * nr * sizeof *panel);
}

/* panel = x[cols][k] transposed, in bfloat16: its groups are transposed */
static void pack_bf16_transposed(const vp_run *run, const vp_panels_room *room,
                                 void *panel, const float *x, size_t ldx, size_t k,
                                 size_t cols)
{
    const vp_ukr *ukr = run->ukr;
    const size_t words = vp_ukr_words(ukr, k), unit = ukr->group * sizeof(uint16_t);
    for (size_t c = 0; c < cols; c++) {
        vp_operand_row(run->kernels, ukr, room->panel + c * words, x + c * ldx, k, NULL,
                       NULL);
    }
    memset(room->panel + cols * words, 0, (ukr->nr - cols) * words * sizeof(float));
    vp_transpose_units(run->kernels, panel, room->panel, words * 4, ukr->nr,
                       words * 4 / unit, unit);
}

void vp_panels_pack(const vp_run *run, const vp_panels_room *room, void *panels,
                    const float *x, size_t ldx, size_t k, size_t n)
{
    const vp_ukr *ukr = run->ukr;
    const size_t nr = ukr->nr, stride = panel_stride(ukr, k);
    for (size_t j = 0; j < n; j += nr) {
        const size_t cols = vp_min(n - j, nr);
        void *ready = (char *)panels + j / nr * stride;
        if (ukr->rows == VP_ROWS_bf16) {
            pack_bf16(run, ready, x + j, ldx, k, cols);
            continue;
        }
        float *panel = begin_panel(ukr, room, ready);
        for (size_t i = 0; i < k; i++) {
            memcpy(panel + i * nr, x + i * ldx + j, cols * sizeof(float));
            memset(panel + i * nr + cols, 0, (nr - cols) * sizeof(float));
        }
        end_panel(ukr, panel, k, ready);
    }
}

void vp_panels_pack_transposed(const vp_run *run, const vp_panels_room *room,
                               void *panels, const float *x, size_t ldx, size_t k,
                               size_t n)
{
    const vp_ukr *ukr = run->ukr;
    const size_t nr = ukr->nr, stride = panel_stride(ukr, k);
    for (size_t j = 0; j < n; j += nr) {
        const size_t cols = vp_min(n - j, nr);
        void *ready = (char *)panels + j / nr * stride;
        if (ukr->rows == VP_ROWS_bf16) {
            pack_bf16_transposed(run, room, ready, x + j * ldx, ldx, k, cols);
            continue;
        }
        float *panel = begin_panel(ukr, room, ready);
        if (cols < nr) {
            memset(panel, 0, k * nr * sizeof(float));
        }
        run->kernels->transpose(panel, nr, x + j * ldx, ldx, cols, k);
        end_panel(ukr, panel, k, ready);
    }
}

void vp_panels_multiply(const vp_run *run, const vp_panels_room *room, const float *a,
                        size_t lda, size_t rows, const void *panels, size_t k,
                        size_t part, size_t n, float *c, size_t ldc, bool accumulate)
{
    const vp_ukr *ukr = run->ukr;
    const size_t strips = vp_ceil_div(rows, ukr->mr), stride = panel_stride(ukr, k);
    vp_ahead nothing = {.panel = panels};
    if (ukr->pack_strip == NULL) {
        part = k;
    }
    for (size_t s = 0; s < strips; s++) {
        const size_t height = rows / strips + (s < rows % strips);
        for (size_t k0 = 0; k0 < k; k0 += part) {
            const size_t length = vp_min(k - k0, part);
            const void *strip = a + k0;
            size_t stride_of_strip = lda;
            if (ukr->rows != VP_ROWS_f32) {
                stride_of_strip = room->strip_stride;
                strip = room->strip;
                for (size_t r = 0; r < height; r++) {
                    vp_operand_row(run->kernels, ukr,
                                   (float *)room->strip + r * stride_of_strip,
                                   a + r * lda, k, NULL, NULL);
                }
            }
            if (ukr->pack_strip != NULL) {
                ukr->pack_strip(ukr, room->strip, strip, lda, height, length);
                strip = room->strip;
            }
            const char *panel = (const char *)panels + k0 * ukr->panel_bytes;
            for (size_t j = 0; j < n; j += ukr->nr) {
                vp_ukr_run(ukr, ukr->sum_piece, height, length, strip, stride_of_strip,
                           panel, c + j, ldc, accumulate || k0 > 0, &nothing);
                panel += stride;
            }
        }
        a += height * lda;
        c += height * ldc;
    }
}
