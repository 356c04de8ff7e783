/* The methods of _core.VisionTransformer for what follows the blocks.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "python/model.h"

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

PyArrayObject *vp_output_new(const vp_config *c, vp_output output, size_t batch,
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

PyArrayObject *vp_rows_from(const vp_vit *vit, PyObject *x, int ndim)
{
    const size_t width = vp_vit_config(vit)->embed_dim;
    char axes[48];
    (void)snprintf(axes, sizeof axes, "(B, %s%zu)", ndim == 3 ? "N, " : "", width);
    PyArrayObject *rows = vp_array_from(x, "x", ndim, axes);
    if (rows != NULL && (size_t)PyArray_DIM(rows, ndim - 1) != width) {
        PyObject *shape = PyObject_GetAttrString((PyObject *)rows, "shape");
        PyErr_Format(PyExc_ValueError, "x must have shape %s, not %S", axes, shape);
        Py_XDECREF(shape);
        Py_CLEAR(rows);
    }
    return rows;
}

/* Tokens (B, N, C), as many as this pool needs. */
static PyArrayObject *take_tokens(const vp_vit *vit, vp_pool pool, PyObject *x)
{
    vp_error err;
    PyArrayObject *tokens = vp_rows_from(vit, x, 3);
    if (tokens != NULL &&
        vp_vit_check_tokens(vit, pool, (size_t)PyArray_DIM(tokens, 1), &err) != VP_OK) {
        (void)vp_raise(&err);
        Py_CLEAR(tokens);
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
    vp_vit *vit = vp_model_acquire((vp_model *)object, &workspaces);
    PyArrayObject *out = NULL,
                  *tokens = vit != NULL
                                ? take_tokens(vit, vp_vit_config(vit)->global_pool, x)
                                : NULL;
    if (tokens != NULL) {
        const vp_output output = pre_logits ? VP_OUT_PRE_LOGITS : VP_OUT_LOGITS;
        const size_t batch = (size_t)PyArray_DIM(tokens, 0);
        const size_t n = (size_t)PyArray_DIM(tokens, 1);
        out = vp_output_new(vp_vit_config(vit), output, batch, n);
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
    vp_vit *vit = vp_model_acquire((vp_model *)object, &workspaces);
    if (vit == NULL) {
        return NULL;
    }
    const vp_config *c = vp_vit_config(vit);
    const int given = vp_pool_from(pool_type, "pool_type", c->family, &pool);
    pool = given == 0 ? c->global_pool : pool;
    PyArrayObject *tokens = given >= 0 ? take_tokens(vit, pool, x) : NULL, *out = NULL;
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
