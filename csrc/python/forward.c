/* The methods of _core.VisionTransformer that compute. SPDX-License-Identifier: Apache-2.0 */
#include "python/core.h"

#include <stdio.h>

/* model.c: a reference to the current model, and its workspaces (borrowed). */
vp_vit *vp_model_acquire(PyObject *object, vp_workspaces **workspaces);

const char vp_model_run_doc[] =
    "_run($self, x, output, attn_mask=None, is_causal=False, pos_embed=None, "
    "depth=-1,\n"
    "     taps=(), maps=(), profile=False, serial=0)\n--\n\n"
    "One forward pass. output: 0 nothing, 1 features, 2 pre_logits, 3 logits.\n"
    "taps: (block, norm) pairs; maps: (block, which) pairs, block -1 for the pool.\n"
    "Gives (output or None, [taps], [maps], profile dict or None); or None where "
    "serial is\n"
    "not 0 and not the model's _serial: it has changed.";

const char vp_model_forward_head_doc[] =
    "forward_head($self, x, pre_logits=False)\n--\n\n"
    "Pool, fc_norm and (unless pre_logits) head of tokens x, shape (batch, tokens,\n"
    "embed_dim): float32 (batch, num_classes), (batch, embed_dim) with pre_logits or\n"
    "without a head, or the same for every token where global_pool is ''.\n"
    "Source: timm.models.VisionTransformer.forward_head.";

const char vp_model_pool_doc[] =
    "pool($self, x, pool_type=None)\n--\n\n"
    "One vector for each image from tokens x, shape (batch, tokens, embed_dim): "
    "float32\n"
    "(batch, embed_dim); with pool_type '' the tokens themselves. None: the model's\n"
    "global_pool. ValueError: a pool that this model's tokens do not allow.\n"
    "Source: timm.models.VisionTransformer.pool.";

/* Everything a request needs, owned; released in one place. */
typedef struct {
    vp_vit *vit;
    PyArrayObject *x, *pos_embed, *out;
    vp_py_mask mask;
    PyObject *tap_arrays, *map_arrays; /* lists */
    vp_tap *taps;
    vp_map *maps;
    vp_forward forward;
    vp_profile profile;
    size_t tokens, grid[2];
} request;

static void request_free(request *r)
{
    vp_vit_unref(r->vit);
    Py_XDECREF(r->x);
    Py_XDECREF(r->pos_embed);
    Py_XDECREF(r->out);
    vp_py_mask_free(&r->mask);
    Py_XDECREF(r->tap_arrays);
    Py_XDECREF(r->map_arrays);
    PyMem_Free(r->taps);
    PyMem_Free(r->maps);
}

/* The images: four dimensions, the model's channels, a size it takes. */
static int take_images(request *r, PyObject *x)
{
    const vp_config *c = vp_vit_config(r->vit);
    vp_error err;
    char axes[64], size[48] = "H, W";
    if (!c->dynamic_img_size) {
        (void)snprintf(size, sizeof size, "%zu, %zu", c->img_size[0], c->img_size[1]);
    }
    (void)snprintf(axes, sizeof axes, "(B, %zu, %s)", c->in_chans, size);
    r->x = vp_array_from(x, "x", 4, axes);
    if (r->x == NULL) {
        return -1;
    }
    const npy_intp *shape = PyArray_DIMS(r->x);
    if ((size_t)shape[1] != c->in_chans) {
        PyErr_Format(PyExc_ValueError,
                     "x must have shape %s, %zu channels, not (%zd, %zd, %zd, %zd)",
                     axes, c->in_chans, (Py_ssize_t)shape[0], (Py_ssize_t)shape[1],
                     (Py_ssize_t)shape[2], (Py_ssize_t)shape[3]);
        return -1;
    }
    if (vp_vit_check_size(r->vit, (size_t)shape[2], (size_t)shape[3], r->grid, &err) !=
        VP_OK) {
        (void)vp_raise(&err);
        return -1;
    }
    r->tokens = r->grid[0] * r->grid[1] + vp_config_prefix(c);
    r->forward.images = PyArray_DATA(r->x);
    r->forward.batch = (size_t)shape[0];
    r->forward.height = (size_t)shape[2];
    r->forward.width = (size_t)shape[3];
    return 0;
}

/* The position embedding must have a row for each token it is added to. */
static int take_pos_embed(request *r, PyObject *pos_embed)
{
    const vp_config *c = vp_vit_config(r->vit);
    const size_t rows = r->tokens - (c->no_embed_class ? vp_config_prefix(c) : 0);
    const size_t own =
        vp_config_patches(c) + (c->no_embed_class ? 0 : vp_config_prefix(c));
    if (!c->pos_embed) {
        return 0;
    }
    if (pos_embed == Py_None) {
        if (rows != own) {
            PyErr_Format(PyExc_ValueError,
                         "pos_embed must be given for this image size");
            return -1;
        }
        return 0;
    }
    r->pos_embed = vp_array_from(pos_embed, "pos_embed", 3, "(1, tokens, embed_dim)");
    if (r->pos_embed == NULL) {
        return -1;
    }
    if ((size_t)PyArray_SIZE(r->pos_embed) != rows * c->embed_dim) {
        PyErr_Format(PyExc_ValueError, "pos_embed must have shape (1, %zu, %zu)", rows,
                     c->embed_dim);
        return -1;
    }
    r->forward.pos_embed = PyArray_DATA(r->pos_embed);
    return 0;
}

/* A pair of integers from item i of a sequence; -1 with an exception. */
static int pair_at(PyObject *sequence, Py_ssize_t i, long pair[2])
{
    PyObject *item = PySequence_GetItem(sequence, i);
    const int ok = item != NULL && PyTuple_Check(item) &&
                   PyArg_ParseTuple(item, "ll", &pair[0], &pair[1]);
    Py_XDECREF(item);
    if (!ok && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_TypeError, "taps and maps must be pairs of integers");
    }
    return ok ? 0 : -1;
}

static int check_block(const request *r, long block)
{
    if (block < 0 || (size_t)block >= r->forward.depth) {
        PyErr_Format(PyExc_ValueError, "block must be from 0 to %zu, not %ld",
                     r->forward.depth - 1, block);
        return -1;
    }
    return 0;
}

static int take_taps(request *r, PyObject *taps)
{
    const vp_config *c = vp_vit_config(r->vit);
    const Py_ssize_t count = PySequence_Size(taps);
    const npy_intp shape[3] = {(npy_intp)r->forward.batch, (npy_intp)r->tokens,
                               (npy_intp)c->embed_dim};
    r->tap_arrays = count >= 0 ? PyList_New(count) : NULL;
    r->taps = PyMem_Calloc((size_t)(count > 0 ? count : 1), sizeof *r->taps);
    if (r->tap_arrays == NULL || r->taps == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        long pair[2];
        if (pair_at(taps, i, pair) < 0 || check_block(r, pair[0]) < 0) {
            return -1;
        }
        PyArrayObject *out = vp_array_new(3, shape);
        if (out == NULL) {
            return -1;
        }
        if (PyList_SetItem(r->tap_arrays, i, (PyObject *)out) < 0) {
            return -1;
        }
        r->taps[i] = (vp_tap){(size_t)pair[0], pair[1] != 0, PyArray_DATA(out)};
    }
    r->forward.taps = r->taps;
    r->forward.num_taps = (size_t)count;
    return 0;
}

/* The shape of a block's attention weights, or of the pool's. */
static int map_shape(const request *r, long block, npy_intp shape[4])
{
    const vp_config *c = vp_vit_config(r->vit);
    size_t queries = r->tokens, keys = r->tokens, heads = c->num_heads;
    if (block == -1) {
        if (c->attn_pool == VP_POOL_NONE) {
            PyErr_SetString(
                PyExc_ValueError,
                "return_attn must not ask for 'attn_pool': this model has none");
            return -1;
        }
        keys -= vp_config_include_prefix(c) ? 0 : vp_config_prefix(c);
        queries = c->attn_pool == VP_POOL_MAP ? 1 : keys;
    } else if (check_block(r, block) < 0) {
        return -1;
    } else if (vp_config_is_diff(c)) {
        heads *= 2;
    }
    shape[0] = (npy_intp)r->forward.batch;
    shape[1] = (npy_intp)heads;
    shape[2] = (npy_intp)queries;
    shape[3] = (npy_intp)keys;
    return 0;
}

static int take_maps(request *r, PyObject *maps)
{
    const vp_config *c = vp_vit_config(r->vit);
    const Py_ssize_t count = PySequence_Size(maps);
    r->map_arrays = count >= 0 ? PyList_New(count) : NULL;
    r->maps = PyMem_Calloc((size_t)(count > 0 ? count : 1), sizeof *r->maps);
    if (r->map_arrays == NULL || r->maps == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        long pair[2];
        npy_intp shape[4];
        if (pair_at(maps, i, pair) < 0 || map_shape(r, pair[0], shape) < 0) {
            return -1;
        }
        if (pair[1] < 0 || pair[1] > (c->block == VP_BLOCK_PARALLEL_THINGS)) {
            PyErr_SetString(PyExc_ValueError, "a block has no such attention");
            return -1;
        }
        PyArrayObject *out = vp_array_new(4, shape);
        if (out == NULL) {
            return -1;
        }
        if (PyList_SetItem(r->map_arrays, i, (PyObject *)out) < 0) {
            return -1;
        }
        const size_t block = pair[0] == -1 ? VP_MAP_POOL : (size_t)pair[0];
        r->maps[i] = (vp_map){block, (size_t)pair[1], PyArray_DATA(out)};
    }
    r->forward.maps = r->maps;
    r->forward.num_maps = (size_t)count;
    return 0;
}

static PyArrayObject *new_output(const vp_config *c, vp_output output, size_t batch,
                                 size_t tokens)
{
    const size_t width =
        output == VP_OUT_LOGITS && c->num_classes > 0 ? c->num_classes : c->embed_dim;
    const npy_intp shape[3] = {(npy_intp)batch, (npy_intp)tokens, (npy_intp)width};
    if (output == VP_OUT_FEATURES || c->global_pool == VP_POOL_NONE) {
        return vp_array_new(3, shape);
    }
    const npy_intp pooled[2] = {shape[0], shape[2]};
    return vp_array_new(2, pooled);
}

static PyObject *profile_dict(const vp_profile *p)
{
    PyObject *dict = Py_BuildValue("{s:d,s:n,s:n,s:n}", "total", p->total, "chunks",
                                   (Py_ssize_t)p->chunks, "query_blocks",
                                   (Py_ssize_t)p->query_blocks, "key_blocks",
                                   (Py_ssize_t)p->key_blocks);
    for (int i = 0; dict != NULL && i < VP_PROFILE_COUNT; i++) {
        PyObject *row =
            Py_BuildValue("{s:d,s:d,s:n}", "seconds", p->seconds[i], "flops",
                          p->flops[i], "calls", (Py_ssize_t)p->calls[i]);
        if (row == NULL || PyDict_SetItemString(dict, vp_profile_names[i], row) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(row);
    }
    return dict;
}

/* (output or None, taps, maps, profile or None); takes nothing from r but references. */
static PyObject *results(request *r)
{
    PyObject *out = r->out != NULL ? (PyObject *)r->out : Py_None;
    if (r->forward.profile == NULL) {
        return PyTuple_Pack(4, out, r->tap_arrays, r->map_arrays, Py_None);
    }
    PyObject *profile = profile_dict(&r->profile);
    PyObject *tuple = profile != NULL
                          ? PyTuple_Pack(4, out, r->tap_arrays, r->map_arrays, profile)
                          : NULL;
    Py_XDECREF(profile);
    return tuple;
}

PyObject *vp_model_run(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"x",         "output", "attn_mask", "is_causal",
                            "pos_embed", "depth",  "taps",      "maps",
                            "profile",   "serial", NULL};
    PyObject *x, *attn_mask = Py_None, *pos_embed = Py_None, *taps = NULL, *maps = NULL;
    int output, is_causal = 0, profile = 0;
    Py_ssize_t depth = -1;
    unsigned long long serial = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Oi|OpOnOOpK:_run", names, &x,
                                     &output, &attn_mask, &is_causal, &pos_embed,
                                     &depth, &taps, &maps, &profile, &serial)) {
        return NULL;
    }
    request r = {0};
    vp_workspaces *workspaces;
    vp_error err;
    PyObject *result = NULL, *none = PyTuple_New(0);
    r.vit = none != NULL ? vp_model_acquire(object, &workspaces) : NULL;
    if (r.vit == NULL) {
        goto done;
    }
    if (serial != 0 && serial != vp_vit_serial(r.vit)) {
        result = Py_NewRef(Py_None);
        goto done;
    }
    const vp_config *c = vp_vit_config(r.vit);
    r.forward.depth = depth < 0 || (size_t)depth > c->depth ? c->depth : (size_t)depth;
    r.forward.output = (vp_output)output;
    r.forward.profile = profile ? &r.profile : NULL;
    if (take_images(&r, x) < 0 || take_pos_embed(&r, pos_embed) < 0 ||
        take_taps(&r, taps != NULL ? taps : none) < 0 ||
        take_maps(&r, maps != NULL ? maps : none) < 0 ||
        vp_py_mask_init(&r.mask, attn_mask, is_causal, r.forward.batch, c->num_heads,
                        r.tokens) < 0) {
        goto done;
    }
    r.forward.mask = r.mask.array != NULL || is_causal ? &r.mask.mask : NULL;
    if (output != VP_OUT_NONE) {
        r.out = new_output(c, r.forward.output, r.forward.batch, r.tokens);
        if (r.out == NULL) {
            goto done;
        }
        r.forward.out = PyArray_DATA(r.out);
    }
    vp_status status;
    Py_BEGIN_ALLOW_THREADS
    status = vp_vit_forward(r.vit, workspaces, &r.forward, &err);
    Py_END_ALLOW_THREADS
    result = status == VP_OK ? results(&r) : vp_raise(&err);
done:
    request_free(&r);
    Py_XDECREF(none);
    return result;
}

/* Tokens (B, N, C) of this model's width, as many as this pool needs. */
static PyArrayObject *take_tokens(const vp_vit *vit, vp_pool pool, PyObject *x)
{
    const vp_config *c = vp_vit_config(vit);
    char axes[48];
    (void)snprintf(axes, sizeof axes, "(B, N, %zu)", c->embed_dim);
    PyArrayObject *tokens = vp_array_from(x, "x", 3, axes);
    if (tokens == NULL) {
        return NULL;
    }
    const size_t n = (size_t)PyArray_DIM(tokens, 1),
                 width = (size_t)PyArray_DIM(tokens, 2);
    const bool patches =
        pool != VP_POOL_NONE && pool != VP_POOL_TOKEN && !vp_config_include_prefix(c);
    const size_t least = patches ? vp_config_prefix(c) + 1 : 1;
    if (width != c->embed_dim || n < least || n > (size_t)1 << 24) {
        PyErr_Format(
            PyExc_ValueError,
            "x must have shape %s with at least %zu tokens, not (%zd, %zu, %zu)", axes,
            least, (Py_ssize_t)PyArray_DIM(tokens, 0), n, width);
        Py_DECREF(tokens);
        return NULL;
    }
    return tokens;
}

PyObject *vp_model_forward_head(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"x", "pre_logits", NULL};
    PyObject *x;
    int pre_logits = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|p:forward_head", names, &x,
                                     &pre_logits)) {
        return NULL;
    }
    vp_workspaces *workspaces;
    vp_error err;
    vp_vit *vit = vp_model_acquire(object, &workspaces);
    PyArrayObject *out = NULL,
                  *tokens = vit != NULL
                                ? take_tokens(vit, vp_vit_config(vit)->global_pool, x)
                                : NULL;
    if (tokens != NULL) {
        const vp_output output = pre_logits ? VP_OUT_PRE_LOGITS : VP_OUT_LOGITS;
        const size_t batch = (size_t)PyArray_DIM(tokens, 0);
        const size_t n = (size_t)PyArray_DIM(tokens, 1);
        out = new_output(vp_vit_config(vit), output, batch, n);
        vp_status status = VP_OK;
        if (out != NULL) {
            Py_BEGIN_ALLOW_THREADS
            status = vp_vit_forward_head(vit, workspaces, PyArray_DATA(tokens), batch,
                                         n, output, PyArray_DATA(out), &err);
            Py_END_ALLOW_THREADS
        }
        if (status != VP_OK) {
            Py_CLEAR(out);
            (void)vp_raise(&err);
        }
    }
    Py_XDECREF(tokens);
    vp_vit_unref(vit);
    return (PyObject *)out;
}

PyObject *vp_model_pool(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"x", "pool_type", NULL};
    PyObject *x, *pool_type = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:pool", names, &x, &pool_type)) {
        return NULL;
    }
    vp_workspaces *workspaces;
    vp_error err;
    vp_pool pool = VP_POOL_NONE;
    const int given = vp_pool_from(pool_type, "pool_type", &pool);
    vp_vit *vit = given >= 0 ? vp_model_acquire(object, &workspaces) : NULL;
    pool = vit != NULL && !given ? vp_vit_config(vit)->global_pool : pool;
    PyArrayObject *tokens = vit != NULL ? take_tokens(vit, pool, x) : NULL, *out = NULL;
    if (tokens != NULL) {
        const npy_intp *shape = PyArray_DIMS(tokens);
        const npy_intp pooled[2] = {shape[0], shape[2]};
        vp_status status = vp_vit_check_pool(vit, pool, &err);
        out = status != VP_OK        ? NULL
              : pool == VP_POOL_NONE ? vp_array_new(3, shape)
                                     : vp_array_new(2, pooled);
        if (out != NULL) {
            Py_BEGIN_ALLOW_THREADS
            status =
                vp_vit_pool(vit, workspaces, PyArray_DATA(tokens), (size_t)shape[0],
                            (size_t)shape[1], pool, PyArray_DATA(out), &err);
            Py_END_ALLOW_THREADS
        }
        if (status != VP_OK) {
            Py_CLEAR(out);
            (void)vp_raise(&err);
        }
    }
    Py_XDECREF(tokens);
    vp_vit_unref(vit);
    return (PyObject *)out;
}
