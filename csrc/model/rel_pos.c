/* Relative position bias: what a table, or timm.layers.RelPosMlp, says of where a query and
 * a key lie to each other, as ops/attention.h reads it.
 *
 * A table's row (qy - ky + gh - 1) (2 gw - 1) + qx - kx + gw - 1 holds the heads' biases; the
 * last three rows, where there is a prefix, are those of token to patch, patch to token, token
 * to token. RelPosMlp computes such a table of the logarithms of the distances, and gives the
 * prefix none. Here head and row change places, and the columns turn round.
 * Source: timm.models.beit, timm.layers.pos_embed_rel. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/modules.h"

/* Rows of a head's biases, and columns. */
typedef struct {
    size_t rows, columns, heads;
} table_size;

static table_size size_of(const vp_config *c)
{
    return (table_size){2 * (c->img_size[0] / c->patch_size[0]) - 1,
                        2 * (c->img_size[1] / c->patch_size[1]) - 1, c->num_heads};
}

/* The place of a table's row in a head's biases. */
static size_t place_of(const table_size *size, size_t row)
{
    return row / size->columns * size->columns + size->columns - 1 -
           row % size->columns;
}

static void from_table(const table_size *size, const float *table, bool prefix,
                       float *bias, float *edges)
{
    const size_t area = size->rows * size->columns;
    for (size_t h = 0; h < size->heads; h++) {
        for (size_t row = 0; row < area; row++) {
            bias[h * area + place_of(size, row)] = table[row * size->heads + h];
        }
        for (size_t i = 0; prefix && i < 3; i++) {
            edges[3 * h + i] = table[(area + i) * size->heads + h];
        }
    }
}

/* The distance of `steps` on an axis of `n` distances, (n - 1) / 2 of them each way: in
 * float32, in timm's order. */
static float log_distance(vp_rel_pos_kind kind, size_t step, size_t n)
{
    const float reach = (float)((n - 1) / 2);
    float x = (float)step - reach;
    if (kind == VP_REL_POS_MLP_SWIN) {
        x = x / reach * 8.0f;
        return copysignf(log2f(1.0f + fabsf(x)) / 3.0f, x);
    }
    return copysignf(logf(1.0f + fabsf(x)), x);
}

/* fc2(relu(fc1(distances))) of each row; in double, since it is done once. */
static vp_status from_mlp(const vp_config *c, const table_size *size,
                          const vp_rel_pos *module, float *bias, vp_error *err)
{
    const size_t hidden = c->rel_pos_dim, heads = size->heads;
    const size_t area = size->rows * size->columns;
    const size_t bytes = vp_size_mul(heads, sizeof(double));
    const float *w1 = module->fc1.weight->plain, *b1 = module->fc1.bias->plain;
    const float *w2 = module->fc2.weight->plain;
    const float *b2 = module->fc2.bias != NULL ? module->fc2.bias->plain : NULL;
    double *sums = vp_alloc(bytes);
    if (sums == NULL) {
        return vp_fail_memory(err, "a sum of each head", bytes);
    }
    for (size_t row = 0; row < area; row++) {
        const float y = log_distance(c->rel_pos, row / size->columns, size->rows);
        const float x = log_distance(c->rel_pos, row % size->columns, size->columns);
        for (size_t h = 0; h < heads; h++) {
            sums[h] = b2 != NULL ? (double)b2[h] : 0.0;
        }
        for (size_t i = 0; i < hidden; i++) {
            const double pre =
                (double)w1[2 * i] * y + (double)w1[2 * i + 1] * x + (double)b1[i];
            const double value = pre < 0.0 ? 0.0 : pre; /* NaN stays */
            for (size_t h = 0; h < heads; h++) {
                sums[h] += value * (double)w2[h * hidden + i];
            }
        }
        for (size_t h = 0; h < heads; h++) {
            const double gained = c->rel_pos == VP_REL_POS_MLP_SWIN
                                      ? 16.0 / (1.0 + exp(-sums[h]))
                                      : sums[h];
            bias[h * area + place_of(size, row)] = (float)gained;
        }
    }
    vp_free(sums);
    return VP_OK;
}

/* A bias of one module alone; `edges` lie behind its numbers. */
static vp_status derive(const vp_config *c, const vp_rel_pos *module,
                        vp_relative *relative, vp_error *err)
{
    const table_size size = size_of(c);
    const size_t area = vp_size_mul(size.heads, vp_size_mul(size.rows, size.columns));
    const size_t prefix = vp_config_prefix(c);
    const size_t bytes = vp_size_mul(vp_size_add(area, 3 * size.heads), sizeof(float));
    float *bias = vp_alloc_zero(bytes), *edges = bias + area;
    if (bias == NULL) {
        return vp_fail_memory(err, "a relative position bias", bytes);
    }
    *relative = (vp_relative){.bias = bias,
                              .edges = edges,
                              .grid = {(size.rows + 1) / 2, (size.columns + 1) / 2},
                              .prefix = prefix};
    if (c->rel_pos == VP_REL_POS_BIAS) {
        from_table(&size, module->table->plain, prefix > 0, bias, edges);
        return VP_OK;
    }
    return from_mlp(c, &size, module, bias, err);
}

/* relative += shared, number by number. */
static void add_shared(const vp_config *c, vp_relative *relative,
                       const vp_relative *shared)
{
    const table_size size = size_of(c);
    const size_t count = size.heads * (size.rows * size.columns + 3);
    vp_kernels_get()->add((float *)relative->bias, shared->bias, count);
}

vp_status vp_rel_pos_finish(vp_vit *vit, vp_error *err)
{
    const vp_config *c = &vit->config;
    vp_rel_pos_free(vit); /* a model may be finished again */
    if (c->rel_pos == VP_REL_POS_NONE) {
        return VP_OK;
    }
    if (c->rel_pos_shared &&
        derive(c, &vit->shared_rel_pos, &vit->shared_relative, err) != VP_OK) {
        return err->code;
    }
    for (size_t i = 0; i < c->depth; i++) {
        vp_attn *attn = &vit->blocks[i].attn[0];
        if (!c->rel_pos_block) {
            attn->relative = vit->shared_relative;
            continue;
        }
        if (derive(c, &attn->rel_pos, &attn->relative, err) != VP_OK) {
            return err->code;
        }
        if (c->rel_pos_shared) {
            add_shared(c, &attn->relative, &vit->shared_relative);
        }
    }
    return VP_OK;
}

void vp_rel_pos_free(vp_vit *vit)
{
    const float *shared = vit->shared_relative.bias;
    for (size_t i = 0; vit->blocks != NULL && i < vit->config.depth; i++) {
        vp_relative *relative = &vit->blocks[i].attn[0].relative;
        if (relative->bias != shared) {
            vp_free((float *)relative->bias);
        }
        *relative = (vp_relative){0};
    }
    vp_free((float *)shared);
    vit->shared_relative = (vp_relative){0};
}

vp_status vp_rel_pos_check(const vp_vit *vit, size_t tokens, vp_error *err)
{
    const vp_config *c = &vit->config;
    const size_t prefix = vp_config_prefix(c), own = vp_config_patches(c) + prefix;
    if (c->rel_pos == VP_REL_POS_NONE || tokens == own) {
        return VP_OK;
    }
    return vp_fail(err, VP_ERR_VALUE,
                   "x has %zu tokens an image, but the relative positions of this "
                   "model are those of its own grid: %zu + %zu x %zu tokens",
                   tokens, prefix, c->img_size[0] / c->patch_size[0],
                   c->img_size[1] / c->patch_size[1]);
}

/* -- the gradient -- */

/* Where the gradients of RelPosMlp are summed, in one piece of doubles. */
typedef struct {
    double *dw1, *db1, *dw2, *db2;
    double *values,
        *slopes; /* of a row: the hidden layer's [hidden]; of its outputs [H] */
} mlp_sums;

size_t vp_rel_pos_gradient_doubles(const vp_config *c)
{
    const size_t hidden = c->rel_pos_dim, heads = c->num_heads;
    return c->rel_pos == VP_REL_POS_BIAS
               ? 0
               : vp_size_add(vp_size_mul(hidden, heads + 4), 2 * heads);
}

static mlp_sums sums_in(const vp_config *c, double *room)
{
    const size_t hidden = c->rel_pos_dim, heads = c->num_heads;
    mlp_sums s = {.dw1 = room};
    s.db1 = s.dw1 + 2 * hidden;
    s.dw2 = s.db1 + hidden;
    s.db2 = s.dw2 + heads * hidden;
    s.values = s.db2 + heads;
    s.slopes = s.values + hidden;
    return s;
}

/* What a row of the table, at distances y and x, adds to the sums; slopes has the gradient of
 * its numbers. */
static void mlp_row(const vp_config *c, const vp_rel_pos *module, float y, float x,
                    mlp_sums *s)
{
    const size_t hidden = c->rel_pos_dim, heads = c->num_heads;
    const float *w1 = module->fc1.weight->plain, *b1 = module->fc1.bias->plain;
    const float *w2 = module->fc2.weight->plain;
    for (size_t i = 0; i < hidden; i++) {
        const double pre =
            (double)w1[2 * i] * y + (double)w1[2 * i + 1] * x + (double)b1[i];
        s->values[i] = pre < 0.0 ? 0.0 : pre;
    }
    for (size_t h = 0; h < heads && c->rel_pos == VP_REL_POS_MLP_SWIN; h++) {
        double sum = 0.0;
        for (size_t i = 0; i < hidden; i++) {
            sum += s->values[i] * (double)w2[h * hidden + i];
        }
        const double gate = 1.0 / (1.0 + exp(-sum));
        s->slopes[h] *= 16.0 * gate * (1.0 - gate);
    }
    for (size_t h = 0; h < heads; h++) {
        s->db2[h] += s->slopes[h];
        for (size_t i = 0; i < hidden; i++) {
            s->dw2[h * hidden + i] += s->slopes[h] * s->values[i];
        }
    }
    for (size_t i = 0; i < hidden; i++) {
        double slope = 0.0;
        for (size_t h = 0; h < heads && s->values[i] > 0.0; h++) {
            slope += s->slopes[h] * (double)w2[h * hidden + i];
        }
        s->dw1[2 * i] += slope * y;
        s->dw1[2 * i + 1] += slope * x;
        s->db1[i] += slope;
    }
}

static void add_sums(float *to, const double *sums, size_t n)
{
    for (size_t i = 0; i < n && to != NULL; i++) {
        to[i] += (float)sums[i];
    }
}

static void mlp_gradient(const vp_config *c, const table_size *size,
                         const vp_rel_pos *module, const float *dbias, size_t stride,
                         const vp_rel_pos_gradients *to, double *room)
{
    const size_t hidden = c->rel_pos_dim, heads = c->num_heads;
    mlp_sums s = sums_in(c, room);
    memset(room, 0, vp_rel_pos_gradient_doubles(c) * sizeof(double));
    for (size_t row = 0; row < size->rows * size->columns; row++) {
        for (size_t h = 0; h < heads; h++) {
            s.slopes[h] = dbias[h * stride + place_of(size, row)];
        }
        mlp_row(c, module, log_distance(c->rel_pos, row / size->columns, size->rows),
                log_distance(c->rel_pos, row % size->columns, size->columns), &s);
    }
    add_sums(to->fc1_weight, s.dw1, 2 * hidden);
    add_sums(to->fc1_bias, s.db1, hidden);
    add_sums(to->fc2_weight, s.dw2, heads * hidden);
    add_sums(to->fc2_bias, s.db2, heads);
}

void vp_rel_pos_gradient(const vp_config *c, const vp_rel_pos *module,
                         const float *dbias, const vp_rel_pos_gradients *to,
                         double *room)
{
    const table_size size = size_of(c);
    const size_t area = size.rows * size.columns, stride = area + 3;
    if (c->rel_pos != VP_REL_POS_BIAS) {
        mlp_gradient(c, &size, module, dbias, stride, to, room);
        return;
    }
    const size_t edges = vp_config_prefix(c) > 0 ? 3 : 0;
    for (size_t h = 0; h < size.heads; h++) {
        for (size_t row = 0; row < area + edges; row++) {
            const size_t at = row < area ? place_of(&size, row) : row;
            to->table[row * size.heads + h] += dbias[h * stride + at];
        }
    }
}
