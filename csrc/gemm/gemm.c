/* The loop nest around the micro-kernel. SPDX-License-Identifier: Apache-2.0 */
#include "gemm/gemm.h"

#include <assert.h>
#include <string.h>

#include "base/arena.h"
#include "gemm/operand.h"

/* Rows in a block, at most: with 1,024 inputs of float32 they fill most of a 1 MiB L2. */
#define BLOCK_ROWS ((size_t)210)
#define BLOCK_BYTES (BLOCK_ROWS * 1024 * sizeof(float))
/* Panels in a group, at most, and items wanted per worker: small enough to leave no worker
 * idle for long, large enough to read the activations seldom. */
#define GROUP_PANELS ((size_t)4)
#define ITEMS_PER_WORKER ((size_t)6)
/* The same where strips are packed and k is more than one block: the sums of a group wait
 * for the next block, whose strips are packed for all of the group. */
#define GROUP_PANELS_PACKED ((size_t)16)

/* Bytes of a tile that a core's store buffer takes beside the rest. */
#define STORE_BUFFER ((size_t)16 * VP_ALIGN)

/* Rows are cut into strips of nearly equal height (no padding), strips into blocks; an item
 * of work is one block of rows times one group of panels. */
typedef struct {
    size_t first_panel, last_panel;
    size_t strips, blocks, group, groups;
    size_t
        strip_rows; /* height of the first `tall` strips; the rest have one row fewer */
    size_t tall;
} schedule;

static size_t group_panels(const vp_packed *w, size_t panels, size_t row_blocks,
                           size_t workers)
{
    if (w->ukr->pack_strip == NULL) {
        const size_t group = row_blocks * panels / (ITEMS_PER_WORKER * workers);
        return group < 1 ? 1 : vp_min(group, GROUP_PANELS);
    }
    /* As few items as keep all workers busy, since each may pack its strips. */
    const bool one_block = vp_packed_blocks(w) == 1;
    const size_t most = one_block ? panels : GROUP_PANELS_PACKED;
    const size_t wanted =
        one_block && row_blocks < 2 * workers ? ITEMS_PER_WORKER * workers : workers;
    size_t groups = vp_ceil_div(panels, most);
    while (groups < panels &&
           (row_blocks * groups < wanted || row_blocks * groups % workers != 0)) {
        groups++;
    }
    return vp_ceil_div(panels, groups);
}

/* How many blocks of rows a large team should have at least. With r of them its workers
 * together read the rows workers / r times, and the weights r times: m workers / r + n r is
 * least where r is sqrt(m workers / n). */
static size_t team_blocks(size_t m, size_t n, size_t workers)
{
    size_t r = 1;
    while ((r + 1) * (r + 1) * n <= m * workers) {
        r++;
    }
    return r;
}

/* Strips of a block of rows, at most. */
static size_t block_strips(const vp_packed *w)
{
    const vp_ukr *ukr = w->ukr;
    size_t rows = BLOCK_ROWS;
    if (ukr->rows != VP_ROWS_f32) {
        rows = vp_min(rows, BLOCK_BYTES / (w->kc * ukr->strip_bytes));
    }
    return vp_ceil_div(vp_max(rows, 1), ukr->mr);
}

static schedule schedule_of(const vp_gemm *gemm, size_t workers)
{
    const vp_ukr *ukr = gemm->w->ukr;
    const size_t m = gemm->m;
    schedule s;
    s.first_panel = gemm->first_panel;
    s.last_panel = gemm->last_panel > 0 ? gemm->last_panel : gemm->w->panels;
    const size_t panels = s.last_panel - s.first_panel;
    s.strips = vp_ceil_div(m, ukr->mr);
    if (ukr->pack_strip != NULL) { /* packed strips have full height but for the last */
        s.strip_rows = ukr->mr;
        s.tall = s.strips;
    } else {
        s.strip_rows = vp_ceil_div(m, s.strips);
        s.tall = m % s.strips != 0 ? m % s.strips : s.strips;
    }
    s.blocks = vp_ceil_div(s.strips, block_strips(gemm->w));
    s.blocks = vp_max(s.blocks, team_blocks(m, panels * ukr->nr, workers));
    s.blocks = vp_min(s.blocks, s.strips);
    s.group = group_panels(gemm->w, panels, s.blocks, workers);
    s.groups = vp_ceil_div(panels, s.group);
    return s;
}

/* The first strip of a block of rows; blocks differ by one strip at most. */
static size_t block_start(const schedule *s, size_t block)
{
    return block * s->strips / s->blocks;
}

static size_t strip_start(const schedule *s, size_t strip)
{
    const size_t tall = strip < s->tall ? strip : s->tall;
    return tall * s->strip_rows + (strip - tall) * (s->strip_rows - 1);
}

/* Floats of a tile, in whole cache lines. */
static size_t tile_length(const vp_ukr *ukr)
{
    return vp_round_up(ukr->mr * ukr->nr, VP_ALIGN / sizeof(float));
}

/* What a worker keeps in its scratch during one product. */
typedef struct {
    vp_ahead
        next[2];    /* the panel of w, and of the gate, that is split or being split */
    void *other[2]; /* room for the panel after it */
    /* Packed strips of one block of rows and of k, [strip][k, filled up], strip_bytes for
     * each k; which block that is (SIZE_MAX: none). Each worker packs what it multiplies, into
     * its own L2: quicker than to fetch what another core has packed. */
    char *strips;
    size_t packed_rows, packed_k;
    float *sums; /* [panel of the group][strip][w, gate][mr][nr] */
} workspace;

/* Lays a workspace out at base for m rows; at NULL it only measures. Returns bytes. */
static size_t lay_out(const vp_packed *w, size_t m, bool gated, void *base)
{
    const vp_ukr *ukr = w->ukr;
    const size_t gates = gated ? 2 : 1, all = vp_ceil_div(m, ukr->mr);
    const size_t strips = vp_min(all, block_strips(w));
    const size_t group = ukr->pack_strip != NULL ? GROUP_PANELS_PACKED : GROUP_PANELS;
    const size_t slots = w->kc >= w->k ? 1 : group * strips;
    vp_arena arena = {.base = base, .capacity = SIZE_MAX};
    workspace at = {.packed_rows = SIZE_MAX, .packed_k = SIZE_MAX};
    (void)vp_arena_take(&arena, sizeof at);
    for (size_t g = 0; g < gates && ukr->split_panel != NULL; g++) {
        at.next[g].ready = vp_arena_take(&arena, ukr->panel_bytes * w->kc);
        at.other[g] = vp_arena_take(&arena, ukr->panel_bytes * w->kc);
    }
    if (ukr->pack_strip != NULL) {
        at.strips = vp_arena_take(&arena, strips * w->kc * ukr->strip_bytes);
    }
    at.sums = vp_arena_floats(&arena, slots * gates * tile_length(ukr));
    if (base != NULL) {
        memcpy(base, &at, sizeof at);
    }
    return arena.used;
}

size_t vp_gemm_scratch(const vp_packed *w, size_t m, bool gated)
{
    return lay_out(w, m, gated, NULL);
}

typedef struct {
    const vp_run *run;
    const vp_gemm *gemm;
    vp_operand operand;
    schedule schedule;
} job;

/* Where a strip of the packed block is, or will be. */
static void *packed_strip(const vp_packed *w, const workspace *at, size_t strip)
{
    const size_t depth =
        vp_round_up(vp_packed_block_length(w, at->packed_k), w->ukr->kr);
    return at->strips + (strip - at->packed_rows) * depth * w->ukr->strip_bytes;
}

/* Packs a block of rows and of k, unless it is what is packed. */
static void pack_block(const vp_gemm *gemm, workspace *at, size_t first, size_t last,
                       size_t k_block)
{
    const vp_packed *w = gemm->w;
    if (at->packed_rows == first && at->packed_k == k_block) {
        return;
    }
    at->packed_rows = first;
    at->packed_k = k_block;
    for (size_t strip = first; strip < last; strip++) {
        const size_t row = strip * w->ukr->mr;
        w->ukr->pack_strip(w->ukr, packed_strip(w, at, strip),
                           gemm->a + row * gemm->lda + k_block * w->kc, gemm->lda,
                           vp_min(gemm->m - row, w->ukr->mr),
                           vp_packed_block_length(w, k_block));
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
 * runs, so that they have arrived when it ends. Few lines that are only written need no
 * asking: they wait in the store buffer. */
static void fetch_output(const vp_finish *f, size_t row, size_t col, size_t rows,
                         size_t cols)
{
    if (f->residual == NULL && rows * cols * sizeof(float) <= STORE_BUFFER) {
        return;
    }
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

/* The first panel of a work item. */
static size_t group_start(const schedule *s, size_t item)
{
    return s->first_panel + item % s->groups * s->group;
}

/* What a micro-kernel takes of panel `now` of w (gate: 0) or of the gate (1); begins with
 * the one that comes next, evenly over the multiply-adds of `strips` strips: the weights
 * come from memory once a pass. */
static const void *take_panel(const vp_packed *w, workspace *at, size_t gate,
                              const size_t now[2], const size_t next[2], size_t strips)
{
    vp_ahead *ahead = &at->next[gate];
    const void *panel = vp_packed_panel(w, now[0], now[1]);
    void *ready = ahead->ready;
    if (w->ukr->split_panel != NULL) {
        if (ahead->panel != panel) { /* not foreseen */
            ahead->panel = panel;
            ahead->k = vp_packed_block_length(w, now[0]);
            ahead->done = 0;
        }
        w->ukr->split_panel(ahead);
        panel = ready;
    }
    *ahead = (vp_ahead){.panel = vp_packed_panel(w, next[0], next[1]),
                        .k = vp_packed_block_length(w, next[0]),
                        .step = vp_ceil_div(vp_packed_step(w), strips),
                        .ready = at->other[gate]};
    at->other[gate] = ready;
    return panel;
}

/* A tile of integers, whose scales are those of its rows and of w's columns, to float32. */
static void dequantize(const job *j, const vp_packed *w, float *c, size_t row,
                       size_t rows, size_t col, size_t cols)
{
    if (vp_dtype_is_int(w->ukr->weight)) {
        j->run->kernels->dequantize(c, w->ukr->nr, rows, cols, j->operand.scale + row,
                                    j->operand.zero + row, vp_packed_scale(w) + col,
                                    vp_packed_sum(w) + col);
    }
}

/* One block of rows times one group of panels. */
static void tile_task(void *ctx, size_t item, size_t worker)
{
    const job *j = ctx;
    const schedule *s = &j->schedule;
    const vp_gemm *gemm = j->gemm;
    const vp_packed *w = gemm->w, *gate = gemm->gate;
    const vp_ukr *ukr = w->ukr;
    const size_t nr = ukr->nr, tile = tile_length(ukr);
    const size_t first = block_start(s, item / s->groups);
    const size_t last = block_start(s, item / s->groups + 1);
    const size_t panel0 = group_start(s, item);
    const size_t panel1 = vp_min(panel0 + s->group, s->last_panel);
    const size_t blocks = vp_packed_blocks(w);
    const size_t piece = gemm->sum_piece > 0 ? gemm->sum_piece : ukr->sum_piece;
    const size_t next_item =
        vp_parallel_next(j->run->team, s->blocks * s->groups, item, worker);
    workspace *at = vp_run_worker(j->run, worker);

    vp_ukr_enter(ukr);
    for (size_t b = 0; b < blocks; b++) {
        const size_t k = vp_packed_block_length(w, b);
        if (ukr->pack_strip != NULL) {
            pack_block(gemm, at, first, last, b);
        }
        for (size_t p = panel0; p < panel1; p++) {
            const size_t now[2] = {b, p};
            /* After the last panel of a group comes the next block of k, or another
             * item's group. */
            size_t next[2] = {b, p + 1};
            if (p + 1 == panel1) {
                next[0] = b + 1 < blocks ? b + 1 : 0;
                next[1] = b + 1 < blocks ? panel0 : group_start(s, next_item);
            }
            const void *panel = take_panel(w, at, 0, now, next, last - first);
            const void *gate_panel =
                gate != NULL ? take_panel(gate, at, 1, now, next, last - first) : NULL;
            const size_t col = p * nr;
            const size_t cols = vp_min(w->n - col, nr);
            for (size_t strip = first; strip < last; strip++) {
                const size_t row = strip_start(s, strip);
                size_t rows = strip < s->tall ? s->strip_rows : s->strip_rows - 1;
                rows = vp_min(gemm->m - row, rows);
                const void *a = ukr->pack_strip != NULL
                                    ? packed_strip(w, at, strip)
                                    : (const char *)j->operand.rows +
                                          row * j->operand.stride * sizeof(float) +
                                          b * w->kc * ukr->strip_bytes;
                /* One tile is enough where k is one block: it is finished at once. */
                const size_t slot =
                    blocks == 1 ? 0 : (p - panel0) * (last - first) + (strip - first);
                float *c = at->sums + slot * tile * (gate != NULL ? 2 : 1);
                if (b == blocks - 1) {
                    fetch_output(&gemm->finish, row, col, rows, cols);
                }
                vp_ukr_run(ukr, piece, rows, k, a, j->operand.stride, panel, c, nr,
                           b > 0, &at->next[0]);
                if (gate != NULL) {
                    vp_ukr_run(ukr, piece, rows, k, a, j->operand.stride, gate_panel,
                               c + tile, nr, b > 0, &at->next[1]);
                }
                if (b == blocks - 1) {
                    vp_finish finish = finish_at(&gemm->finish, row, col);
                    finish.gate = gate != NULL ? c + tile : NULL;
                    finish.gate_stride = nr;
                    dequantize(j, w, c, row, rows, col, cols);
                    if (gate != NULL) {
                        dequantize(j, gate, c + tile, row, rows, col, cols);
                    }
                    j->run->kernels->finish(c, nr, rows, cols, &finish);
                }
            }
        }
    }
    vp_ukr_leave(ukr);
}

void vp_gemm_run(const vp_run *run, const vp_gemm *gemm)
{
    if (gemm->m == 0) {
        return;
    }
    const size_t workers = run->team->workers;
    job j = {.run = run,
             .gemm = gemm,
             .operand = vp_operand_make(run, gemm->w, gemm->m, gemm->a, gemm->lda),
             .schedule = schedule_of(gemm, workers)};
    for (size_t worker = 0; worker < workers; worker++) {
        const size_t used =
            lay_out(gemm->w, gemm->m, gemm->gate != NULL, vp_run_worker(run, worker));
        assert(used <= run->per_worker);
        (void)used;
    }
    vp_parallel_for(run->team, j.schedule.blocks * j.schedule.groups, tile_task, &j);
}
