/* The rotary tables of a model: of its own grid, derived once, and of any other.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "model/modules.h"

/* Floats of one table of a grid. */
static size_t table_floats(const vp_config *c, const size_t grid[2])
{
    return vp_size_mul(vp_size_mul(grid[0], grid[1]), 2 * vp_config_head_dim(c));
}

/* Tables of a model: one, or with mixed rope one of each block's heads. */
static size_t table_count(const vp_config *c)
{
    return c->rope == VP_ROPE_NONE    ? 0
           : c->rope == VP_ROPE_MIXED ? vp_size_mul(c->depth, c->num_heads)
                                      : 1;
}

size_t vp_vit_rope_size(const vp_vit *vit, const size_t grid[2])
{
    return vp_size_mul(table_count(&vit->config), table_floats(&vit->config, grid));
}

int vp_vit_rope_shape(const vp_vit *vit, size_t patches, size_t shape[4])
{
    const vp_config *c = &vit->config;
    int ndim = 0;
    if (c->rope == VP_ROPE_MIXED) {
        shape[ndim++] = c->depth;
        shape[ndim++] = c->num_heads;
    }
    shape[ndim++] = patches;
    shape[ndim++] = 2 * vp_config_head_dim(c);
    return ndim;
}

void vp_vit_rope(const vp_vit *vit, const size_t grid[2], float *table)
{
    const vp_config *c = &vit->config;
    const size_t count = table_count(c), half = vp_config_head_dim(c) / 2;
    vp_rope_of of = {.kind = c->rope == VP_ROPE_MIXED    ? VP_ROPE_TABLE_MIXED
                             : c->rope == VP_ROPE_DINOV3 ? VP_ROPE_TABLE_DINOV3
                                                         : VP_ROPE_TABLE_CAT,
                     .half = c->rope_rotate_half,
                     .xy = c->rope_xy,
                     .temperature = c->rope_temperature,
                     .grid_offset = c->rope_grid_offset,
                     .ref = {c->rope_ref[0], c->rope_ref[1]},
                     .width = vp_config_head_dim(c),
                     .freqs_axis = count * half};
    for (size_t i = 0; i < count; i++) {
        if (c->rope == VP_ROPE_MIXED) {
            of.freqs = vit->rope_freqs->plain + i * half;
        }
        vp_rope_table(&of, grid, table + i * table_floats(c, grid));
    }
}

vp_status vp_rope_finish(vp_vit *vit, vp_error *err)
{
    size_t grid[2];
    vp_config_grid(&vit->config, grid);
    const size_t bytes = vp_size_mul(vp_vit_rope_size(vit, grid), sizeof(float));
    vp_free(vit->rope);
    vit->rope = NULL;
    if (bytes == 0) {
        return VP_OK;
    }
    vit->rope = vp_alloc(bytes);
    if (vit->rope == NULL) {
        return vp_fail_memory(err, "the rotary table", bytes);
    }
    vp_vit_rope(vit, grid, vit->rope);
    return VP_OK;
}

const float *vp_module_rope(const vp_pass *pass, size_t *head)
{
    const vp_config *c = pass->config;
    const float *table = pass->request->rope;
    *head = 0;
    if (c->rope == VP_ROPE_NONE) {
        return NULL;
    }
    table = table != NULL ? table : pass->vit->rope;
    if (c->rope == VP_ROPE_MIXED) {
        *head = (pass->tokens - vp_config_prefix(c)) * 2 * vp_config_head_dim(c);
        table += pass->block * c->num_heads * *head;
    }
    return table;
}

vp_status vp_rope_check(const vp_vit *vit, const vp_forward *f, const size_t *grid,
                        size_t tokens, vp_error *err)
{
    const vp_config *c = &vit->config;
    const size_t prefix = vp_config_prefix(c);
    size_t own[2];
    vp_config_grid(c, own);
    if (c->rope == VP_ROPE_NONE) {
        return f->rope == NULL
                   ? VP_OK
                   : vp_fail(err, VP_ERR_VALUE,
                             "rope must be None: this model has no rotary embedding");
    }
    if (tokens <= prefix) {
        return vp_fail(err, VP_ERR_VALUE,
                       "x must have more tokens than the %zu of the prefix, not %zu: "
                       "patches are rotated by their place",
                       prefix, tokens);
    }
    if (f->rope != NULL) {
        return VP_OK;
    }
    if (grid != NULL && (grid[0] != own[0] || grid[1] != own[1])) {
        return vp_fail(err, VP_ERR_VALUE,
                       "rope must be given for a grid of %zu x %zu patches: this "
                       "model's own is %zu x %zu",
                       grid[0], grid[1], own[0], own[1]);
    }
    if (tokens - prefix != own[0] * own[1]) {
        return vp_fail(err, VP_ERR_VALUE,
                       "x must have %zu tokens, %zu of the prefix and a grid of %zu x "
                       "%zu patches, not %zu: rope must be given for another grid",
                       prefix + own[0] * own[1], prefix, own[0], own[1], tokens);
    }
    return VP_OK;
}
