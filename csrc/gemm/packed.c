/* A packed weight matrix. SPDX-License-Identifier: Apache-2.0 */
#include "gemm/packed.h"

#include <string.h>

#include "base/memory.h"
#include "base/parallel.h"
#include "kernels/kernels.h"

/* A strip of 14 rows and a panel of 32 columns, both this deep, stream well from L2. */
#define KC_MAX ((size_t)1024)
/* From this size on a matrix is packed by all threads. */
#define PARALLEL_BYTES ((size_t)1 << 20)

static size_t panel_stride(const vp_packed *packed, size_t length)
{
    return (length * packed->ukr->nr + 15) / 16 * 16;
}

size_t vp_packed_blocks(const vp_packed *packed)
{
    return (packed->k + packed->kc - 1) / packed->kc;
}

size_t vp_packed_block_length(const vp_packed *packed, size_t block)
{
    const size_t start = block * packed->kc;
    return packed->k - start < packed->kc ? packed->k - start : packed->kc;
}

static size_t floats(const vp_packed *packed)
{
    const size_t blocks = vp_packed_blocks(packed);
    size_t total = 0;
    for (size_t b = 0; b < blocks; b++) {
        total +=
            packed->panels * panel_stride(packed, vp_packed_block_length(packed, b));
    }
    return total;
}

size_t vp_packed_bytes(const vp_packed *packed)
{
    return floats(packed) * sizeof(float);
}

int vp_packed_init(vp_packed *packed, size_t n, size_t k)
{
    const size_t blocks = (k + KC_MAX - 1) / KC_MAX;
    packed->ukr = vp_ukr_get();
    packed->n = n;
    packed->k = k;
    packed->kc = blocks > 0 ? (k + blocks - 1) / blocks : 1;
    packed->panels = (n + packed->ukr->nr - 1) / packed->ukr->nr;
    /* BLIS's kernels may load (not use) a few vectors past a panel. */
    packed->data = vp_alloc(vp_size_add(vp_packed_bytes(packed), 8 * VP_ALIGN));
    return packed->data != NULL ? 0 : -1;
}

void vp_packed_free(vp_packed *packed)
{
    vp_free(packed->data);
    packed->data = NULL;
}

const float *vp_packed_panel(const vp_packed *packed, size_t block, size_t panel)
{
    const size_t full = packed->panels * panel_stride(packed, packed->kc);
    const size_t length = vp_packed_block_length(packed, block);
    return packed->data + block * full + panel * panel_stride(packed, length);
}

/* One panel of w[n][k], packed or unpacked. */
typedef struct {
    const vp_packed *packed;
    const vp_kernels *kernels;
    const float *from; /* NULL: unpack */
    float *to;
} job;

static void panel_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const vp_packed *packed = j->packed;
    const size_t nr = packed->ukr->nr;
    const size_t b = item / packed->panels, p = item % packed->panels;
    const size_t length = vp_packed_block_length(packed, b);
    const size_t cols = packed->n - p * nr < nr ? packed->n - p * nr : nr;
    const size_t start = p * nr * packed->k + b * packed->kc;
    float *panel = (float *)vp_packed_panel(packed, b, p);
    if (j->from == NULL) {
        j->kernels->transpose(j->to + start, packed->k, panel, nr, length, cols);
        return;
    }
    if (cols < nr) {
        memset(panel, 0, length * nr * sizeof(float));
    }
    j->kernels->transpose(panel, nr, j->from + start, packed->k, cols, length);
}

/* Large matrices take all threads: loading a model waits for memory, most of all for new
 * pages, and two cores wait half as long. */
static void run_panels(job *j)
{
    vp_team team = {.workers = 1};
    const bool large = vp_packed_bytes(j->packed) >= PARALLEL_BYTES;
    if (large) {
        (void)vp_team_open(&team);
    }
    vp_parallel_for(&team, vp_packed_blocks(j->packed) * j->packed->panels, panel_task,
                    j);
    if (large) {
        vp_team_close(&team);
    }
}

void vp_pack(vp_packed *packed, const float *w)
{
    run_panels(&(job){packed, vp_kernels_get(), w, NULL});
}

void vp_unpack(const vp_packed *packed, float *w)
{
    run_panels(&(job){packed, vp_kernels_get(), NULL, w});
}
