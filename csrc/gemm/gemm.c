/* The loop nest around the micro-kernel. SPDX-License-Identifier: Apache-2.0 */
#include "gemm/gemm.h"

#include <string.h>

#include "base/memory.h"

/* Rows in a block: with 1,024 inputs its activations fill most of a 1 MiB L2. */
#define BLOCK_ROWS ((size_t)210)
/* Panels in a group, at most, and groups wanted per worker: small enough to leave no
 * worker idle for long, large enough to read the activations seldom. */
#define GROUP_PANELS ((size_t)4)
#define GROUPS_PER_WORKER ((size_t)6)

/* Rows are cut into strips of nearly equal height (no padding), strips into blocks. */
typedef struct {
    size_t strips, blocks, group, groups;
    size_t
        strip_rows; /* height of the first `tall` strips; the rest have one row fewer */
    size_t tall;
    size_t strips_per_block;
} split;

static split split_work(const vp_ukr *ukr, size_t m, size_t panels, size_t workers)
{
    split s;
    s.strips = (m + ukr->mr - 1) / ukr->mr;
    if (ukr->packs_a) { /* packed strips have full height but for the last */
        s.strip_rows = ukr->mr;
        s.tall = s.strips;
    } else {
        s.strip_rows = m / s.strips + (m % s.strips != 0);
        s.tall = m % s.strips != 0 ? m % s.strips : s.strips;
    }
    const size_t per_block = BLOCK_ROWS / ukr->mr;
    s.blocks = (s.strips + per_block - 1) / per_block;
    s.strips_per_block = (s.strips + s.blocks - 1) / s.blocks;
    s.blocks = (s.strips + s.strips_per_block - 1) / s.strips_per_block;
    s.group = panels * s.blocks / (GROUPS_PER_WORKER * workers);
    s.group = s.group < 1 ? 1 : s.group > GROUP_PANELS ? GROUP_PANELS : s.group;
    s.groups = (panels + s.group - 1) / s.group;
    return s;
}

static size_t strip_start(const split *s, size_t strip)
{
    const size_t tall = strip < s->tall ? strip : s->tall;
    return tall * s->strip_rows + (strip - tall) * (s->strip_rows - 1);
}

vp_scratch vp_gemm_scratch(size_t m, size_t k, int gated)
{
    const vp_ukr *ukr = vp_ukr_get();
    const size_t tile = (ukr->mr * ukr->nr + 15) / 16 * 16;
    vp_scratch need = {0, 0};
    need.worker = GROUP_PANELS * (BLOCK_ROWS / ukr->mr + 1) * tile * (gated ? 2 : 1);
    if (ukr->packs_a) {
        need.shared = vp_size_mul((m + ukr->mr - 1) / ukr->mr * ukr->mr + ukr->mr, k);
    }
    return need;
}

void vp_pack_strip(const vp_kernels *kernels, const vp_ukr *ukr, float *strip,
                   const float *a, size_t lda, size_t rows, size_t k)
{
    if (rows < ukr->mr) {
        memset(strip, 0, ukr->mr * k * sizeof(float));
    }
    kernels->transpose(strip, ukr->mr, a, lda, rows, k);
}

typedef struct {
    const vp_run *run;
    const vp_gemm *gemm;
    split split;
} job;

/* Shared scratch of packed strips: [block of k][strip][kc][mr]. */
static float *packed_strip(const job *j, size_t block, size_t strip)
{
    const vp_packed *w = j->gemm->w;
    const size_t mr = w->ukr->mr;
    return j->run->shared + block * w->kc * j->split.strips * mr +
           strip * vp_packed_block_length(w, block) * mr;
}

static void pack_task(void *ctx, size_t strip, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const vp_gemm *gemm = j->gemm;
    const vp_packed *w = gemm->w;
    const size_t row = strip * w->ukr->mr;
    const size_t rows = gemm->m - row < w->ukr->mr ? gemm->m - row : w->ukr->mr;
    for (size_t b = 0; b < vp_packed_blocks(w); b++) {
        vp_pack_strip(j->run->kernels, w->ukr, packed_strip(j, b, strip),
                      gemm->a + row * gemm->lda + b * w->kc, gemm->lda, rows,
                      vp_packed_block_length(w, b));
    }
}

/* The finish of the tile at (row, col). */
static vp_finish finish_at(const vp_finish *f, size_t row, size_t col)
{
    vp_finish at = *f;
    at.bias = f->bias != NULL ? f->bias + col : NULL;
    at.gate_bias = f->gate_bias != NULL ? f->gate_bias + col : NULL;
    at.scale = f->scale != NULL ? f->scale + col : NULL;
    at.residual =
        f->residual != NULL ? f->residual + row * f->residual_stride + col : NULL;
    at.out = f->out + row * f->out_stride + col;
    return at;
}

/* Asks for the tile's lines of out, and of a residual elsewhere, before the micro-kernel
 * runs, so that they have arrived when it ends. */
static void fetch_output(const vp_finish *f, size_t row, size_t col, size_t rows,
                         size_t cols)
{
    const bool apart = f->residual != NULL && f->residual != f->out;
    for (size_t i = 0; i < rows; i++) {
        for (size_t c = 0; c < cols; c += VP_ALIGN / sizeof(float)) {
            __builtin_prefetch(f->out + (row + i) * f->out_stride + col + c, 1);
            if (apart) {
                __builtin_prefetch(f->residual + (row + i) * f->residual_stride + col +
                                   c);
            }
        }
    }
}

/* The panel that this worker will most likely need after `panel`. */
static const float *panel_ahead(const job *j, size_t block, size_t panel,
                                size_t group_end)
{
    const vp_packed *w = j->gemm->w;
    size_t next = panel + 1;
    if (next == group_end) { /* the other workers take the groups in between */
        next += (j->run->team->workers - 1) * j->split.group;
    }
    return vp_packed_panel(w, block, next < w->panels ? next : panel);
}

/* One block of rows times one group of panels. */
static void tile_task(void *ctx, size_t item, size_t worker)
{
    const job *j = ctx;
    const split *s = &j->split;
    const vp_gemm *gemm = j->gemm;
    const vp_packed *w = gemm->w, *gate = gemm->gate;
    const vp_ukr *ukr = w->ukr;
    const size_t nr = ukr->nr, tile = (ukr->mr * nr + 15) / 16 * 16;
    const size_t first = item / s->groups * s->strips_per_block;
    size_t last = first + s->strips_per_block;
    last = last < s->strips ? last : s->strips;
    const size_t panel0 = item % s->groups * s->group;
    size_t panel1 = panel0 + s->group;
    panel1 = panel1 < w->panels ? panel1 : w->panels;
    const size_t blocks = vp_packed_blocks(w);
    const size_t piece = gemm->sum_piece > 0 ? gemm->sum_piece : VP_SUM_PIECE;
    float *sums = vp_run_worker(j->run, worker);

    for (size_t b = 0; b < blocks; b++) {
        const size_t k = vp_packed_block_length(w, b);
        for (size_t p = panel0; p < panel1; p++) {
            const float *panel = vp_packed_panel(w, b, p);
            const float *gate_panel = gate != NULL ? vp_packed_panel(gate, b, p) : NULL;
            const size_t col = p * nr;
            const size_t cols = w->n - col < nr ? w->n - col : nr;
            /* The weights come from memory once a pass: while this panel meets the strips
             * the next one is fetched, evenly over their multiply-adds. */
            const char *ahead = (const char *)panel_ahead(j, b, p, panel1);
            const size_t step =
                (nr * sizeof(float) + last - first - 1) / (last - first);
            for (size_t strip = first; strip < last; strip++) {
                const size_t row = strip_start(s, strip);
                size_t rows = strip < s->tall ? s->strip_rows : s->strip_rows - 1;
                rows = gemm->m - row < rows ? gemm->m - row : rows;
                const float *a = ukr->packs_a ? packed_strip(j, b, strip)
                                              : gemm->a + row * gemm->lda + b * w->kc;
                /* One tile is enough where k is one block: it is finished at once. */
                const size_t slot =
                    blocks == 1 ? 0 : (p - panel0) * (last - first) + (strip - first);
                float *c = sums + slot * tile * (gate != NULL ? 2 : 1);
                if (b == blocks - 1) {
                    fetch_output(&gemm->finish, row, col, rows, cols);
                }
                vp_ukr_run(ukr, piece, rows, k, a, gemm->lda, panel, c, nr, b > 0,
                           ahead, step);
                ahead += k * step;
                if (gate != NULL) {
                    vp_ukr_run(ukr, piece, rows, k, a, gemm->lda, gate_panel, c + tile,
                               nr, b > 0, gate_panel, 0);
                }
                if (b == blocks - 1) {
                    vp_finish finish = finish_at(&gemm->finish, row, col);
                    finish.gate = gate != NULL ? c + tile : NULL;
                    finish.gate_stride = nr;
                    j->run->kernels->finish(c, nr, rows, cols, &finish);
                }
            }
        }
    }
}

void vp_gemm_run(const vp_run *run, const vp_gemm *gemm)
{
    if (gemm->m == 0) {
        return;
    }
    job j = {.run = run, .gemm = gemm};
    j.split = split_work(gemm->w->ukr, gemm->m, gemm->w->panels, run->team->workers);
    if (gemm->w->ukr->packs_a) {
        vp_parallel_for(run->team, j.split.strips, pack_task, &j);
    }
    vp_parallel_for(run->team, j.split.blocks * j.split.groups, tile_task, &j);
}
