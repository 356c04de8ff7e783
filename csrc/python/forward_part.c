/* _core.VisionTransformer._run_part: one module alone. SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "python/model.h"

const char vp_model_part_doc[] =
    "_run_part($self, path, x, attn_mask=None, is_causal=False, rope=None, /)\n--\n\n"
    "What the module at this path makes of x: images for the patch embedding and its\n"
    "proj, which give (batch, patches, embed_dim); tokens (batch, tokens, embed_dim) "
    "for\n"
    "attention, which alone takes a mask and a rotary table (_run), and for the "
    "attention\n"
    "pool; rows (..., width) for any other, and what shape it may for an activation. "
    "KeyError: nothing of that path computes alone.";

/* Any number of rows, each of `width`. */
static PyArrayObject *take_rows(PyObject *x, size_t width)
{
    char axes[48];
    (void)snprintf(axes, sizeof axes, "(..., %zu)", width);
    PyArrayObject *rows = vp_array_from(x, "x", -1, axes);
    const int ndim = rows != NULL ? PyArray_NDIM(rows) : 0;
    if (rows != NULL && (ndim == 0 || (size_t)PyArray_DIM(rows, ndim - 1) != width)) {
        PyObject *shape = PyObject_GetAttrString((PyObject *)rows, "shape");
        PyErr_Format(PyExc_ValueError, "x must have shape %s, not %S", axes, shape);
        Py_XDECREF(shape);
        Py_CLEAR(rows);
    }
    return rows;
}

/* x as the module takes it, and how it goes into `forward`. */
static PyArrayObject *take(const vp_vit *vit, const vp_part_info *info, PyObject *x,
                           vp_forward *forward)
{
    PyArrayObject *array = NULL;
    switch (info->shape) {
    case VP_PART_EACH:
        array = vp_array_from(x, "x", -1, "(...)");
        break;
    case VP_PART_ROWS:
        array = take_rows(x, info->in);
        break;
    case VP_PART_TOKENS:
    case VP_PART_POOL:
        array = vp_rows_from(vit, x, 3);
        break;
    case VP_PART_IMAGES:
        array = vp_images_from(vit, x,
                               strcmp(forward->part, "patch_embed") != 0 ||
                                   vp_vit_config(vit)->dynamic_img_size);
        break;
    }
    if (array == NULL) {
        return NULL;
    }
    const npy_intp *shape = PyArray_DIMS(array);
    if (info->shape == VP_PART_IMAGES) {
        forward->batch = (size_t)shape[0];
        forward->height = (size_t)shape[2];
        forward->width = (size_t)shape[3];
        forward->images = PyArray_DATA(array);
        return array;
    }
    forward->tokens = PyArray_DATA(array);
    if (info->shape == VP_PART_EACH || info->shape == VP_PART_ROWS) {
        forward->batch = (size_t)PyArray_SIZE(array) / info->in;
        forward->num_tokens = 1;
    } else {
        forward->batch = (size_t)shape[0];
        forward->num_tokens = (size_t)shape[1];
    }
    return array;
}

/* An array for the answer. */
static PyArrayObject *answer_for(PyArrayObject *x, const vp_part_info *info,
                                 size_t tokens)
{
    npy_intp shape[64]; /* NumPy's arrays have no more dimensions */
    int ndim = PyArray_NDIM(x);
    for (int i = 0; i < ndim; i++) { /* a number has no dimensions to copy */
        shape[i] = PyArray_DIM(x, i);
    }
    switch (info->shape) {
    case VP_PART_EACH:
        break;
    case VP_PART_ROWS:
        shape[ndim - 1] = (npy_intp)info->out;
        break;
    case VP_PART_TOKENS:
    case VP_PART_IMAGES:
        ndim = 3;
        shape[1] = (npy_intp)tokens;
        shape[2] = (npy_intp)info->out;
        break;
    case VP_PART_POOL:
        ndim = 2;
        shape[1] = (npy_intp)info->out;
        break;
    }
    return vp_array_new(ndim, shape);
}

/* The path as UTF-8; NULL with a TypeError or, where no module can be meant, a KeyError. */
static const char *path_from(PyObject *object)
{
    if (!PyUnicode_Check(object)) {
        (void)vp_raise_type(object, "path must be a str");
        return NULL;
    }
    Py_ssize_t length;
    const char *path = PyUnicode_AsUTF8AndSize(object, &length);
    if (path == NULL || strlen(path) != (size_t)length) {
        PyErr_SetObject(PyExc_KeyError, object);
        return NULL;
    }
    return path;
}

PyObject *vp_model_part(PyObject *object, PyObject *args)
{
    PyObject *path, *x, *attn_mask = Py_None, *rope = Py_None;
    int is_causal = 0;
    if (!PyArg_ParseTuple(args, "OO|OpO:_run_part", &path, &x, &attn_mask, &is_causal,
                          &rope)) {
        return NULL;
    }
    vp_forward forward = {.part = path_from(path)};
    vp_workspaces *workspaces;
    vp_part_info info;
    vp_py_mask mask = {0};
    vp_error err;
    size_t tokens;
    PyArrayObject *array = NULL, *table = NULL, *out = NULL;
    vp_vit *vit =
        forward.part != NULL ? vp_model_acquire((vp_model *)object, &workspaces) : NULL;
    if (vit == NULL) {
        return NULL;
    }
    if (vp_vit_part(vit, forward.part, &info, &err) != VP_OK) {
        (void)vp_raise(&err);
        goto done;
    }
    if (info.shape != VP_PART_TOKENS && (attn_mask != Py_None || is_causal)) {
        PyErr_Format(PyExc_ValueError, "%s takes no mask: attention does",
                     forward.part);
        goto done;
    }
    if (info.shape != VP_PART_TOKENS && rope != Py_None) {
        PyErr_Format(PyExc_ValueError, "%s takes no rope: attention does",
                     forward.part);
        goto done;
    }
    array = take(vit, &info, x, &forward);
    if (array == NULL) {
        goto done;
    }
    if (rope != Py_None) {
        table = vp_rope_from(rope);
        if (table == NULL) {
            goto done;
        }
        forward.rope = PyArray_DATA(table);
    }
    if (vp_vit_check_forward(vit, &forward, &tokens, &err) != VP_OK) {
        (void)vp_raise(&err);
        goto done;
    }
    if (table != NULL && vp_check_rope(vit, table, tokens) < 0) {
        goto done;
    }
    if (vp_py_mask_init(&mask, attn_mask, is_causal, forward.batch,
                        vp_vit_config(vit)->num_heads, tokens) < 0) {
        goto done;
    }
    forward.mask = mask.array != NULL || is_causal ? &mask.mask : NULL;
    out = answer_for(array, &info, tokens);
    if (out != NULL) {
        forward.out = PyArray_DATA(out);
        vp_status status;
        Py_BEGIN_ALLOW_THREADS
        status = vp_vit_forward(vit, workspaces, &forward, &err);
        Py_END_ALLOW_THREADS
        if (status != VP_OK) {
            Py_CLEAR(out);
            (void)vp_raise(&err);
        }
    }
done:
    Py_XDECREF(array);
    Py_XDECREF(table);
    vp_py_mask_free(&mask);
    vp_vit_unref(vit);
    return (PyObject *)out;
}
