/* What parameters are kept as: dtypes by name, and integers with their scales, in and out.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "python/model.h"

/* -- dtypes by name -- */

/* "'float32', 'bfloat16', ..." */
#define TITLE(name, bytes, title) ", '" title "'"
static const char titles[] = VP_DTYPES(TITLE);
#undef TITLE

/* The dtype of that title, or -1 with an exception that names the parameter. */
static int dtype_from(PyObject *title, const char *name)
{
    if (!PyUnicode_Check(title)) {
        (void)vp_raise_type(title, "the dtype of %s must be a str", name);
        return -1;
    }
    for (int dtype = 0; dtype < VP_DTYPE_COUNT; dtype++) {
        if (PyUnicode_CompareWithASCIIString(title, vp_dtype_title((vp_dtype)dtype)) ==
            0) {
            return dtype;
        }
    }
    PyErr_Format(PyExc_ValueError, "the dtype of %s must be one of %s, not %R", name,
                 titles + 2, title);
    return -1;
}

/* Notes what `dtypes` says of the parameter `key`; the search begins at *start. */
static int note(signed char *wanted, const vp_vit *vit, PyObject *dtypes, PyObject *key,
                size_t *start)
{
    Py_ssize_t length = 0;
    const char *name =
        PyUnicode_Check(key) ? PyUnicode_AsUTF8AndSize(key, &length) : NULL;
    PyErr_Clear(); /* of lone surrogates: nobody's name */
    const size_t i = name != NULL && strlen(name) == (size_t)length
                         ? vp_vit_find_param(vit, name, *start)
                         : vp_vit_num_params(vit);
    if (i == vp_vit_num_params(vit)) {
        PyErr_Format(PyExc_ValueError, "dtypes names %R, which is no parameter", key);
        return -1;
    }
    PyObject *title = PyObject_GetItem(dtypes, key);
    const int dtype = title != NULL ? dtype_from(title, name) : -1;
    Py_XDECREF(title);
    if (dtype < 0) {
        return -1;
    }
    wanted[i] = (signed char)dtype;
    *start = i + 1;
    return 0;
}

signed char *vp_dtypes_from(PyObject *dtypes, const vp_vit *vit)
{
    const size_t count = vp_vit_num_params(vit);
    signed char *wanted = PyMem_Malloc(count);
    if (wanted == NULL) {
        (void)PyErr_NoMemory();
        return NULL;
    }
    memset(wanted, -1, count);
    PyObject *keys = dtypes != NULL ? PyMapping_Keys(dtypes) : PyList_New(0);
    int failed = keys == NULL;
    const Py_ssize_t given = failed ? 0 : PyList_Size(keys);
    size_t start = 0;
    for (Py_ssize_t k = 0; !failed && k < given; k++) {
        failed = note(wanted, vit, dtypes, PyList_GetItem(keys, k), &start) < 0;
    }
    Py_XDECREF(keys);
    if (failed) {
        PyMem_Free(wanted);
        return NULL;
    }
    return wanted;
}

const char vp_model_dtypes_doc[] =
    "_dtypes($self)\n--\n\n"
    "What each parameter is kept as by its name, in timm's order: 'float32', "
    "'bfloat16',\n"
    "'float16', 'int8' or 'int8_a16'.";

PyObject *vp_model_dtypes(PyObject *object, PyObject *unused)
{
    (void)unused;
    vp_vit *vit = vp_model_acquire((vp_model *)object, NULL);
    PyObject *dict = vit != NULL ? PyDict_New() : NULL;
    for (size_t i = 0; dict != NULL && i < vp_vit_num_params(vit); i++) {
        const vp_param *param = vp_vit_param(vit, i);
        PyObject *title = PyUnicode_FromString(vp_dtype_title(param->dtype));
        if (title == NULL || PyDict_SetItemString(dict, param->name, title) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(title);
    }
    vp_vit_unref(vit);
    return dict;
}

/* -- integers out -- */

const char vp_model_integers_doc[] =
    "_integers($self, target, /)\n--\n\n"
    "The integers of a parameter, int8 of its shape, and their scales, float32, one "
    "for\n"
    "each output (its first axis): new arrays, whose product is the parameter. "
    "KeyError:\n"
    "there is none of that name. ValueError: it is not kept as integers.";

PyObject *vp_model_integers(PyObject *object, PyObject *target)
{
    size_t i;
    vp_vit *vit = vp_model_find(object, target, &i);
    if (vit == NULL) {
        return NULL;
    }
    const vp_param *param = vp_vit_param(vit, i);
    PyObject *pair = NULL;
    if (!vp_dtype_is_int(param->dtype)) {
        PyErr_Format(PyExc_ValueError, "%s is %s, and not kept as integers",
                     param->name, vp_dtype_title(param->dtype));
    } else {
        npy_intp shape[4] = {0};
        for (size_t d = 0; d < param->ndim; d++) {
            shape[d] = (npy_intp)param->shape[d];
        }
        PyObject *q = PyArray_SimpleNew((int)param->ndim, shape, NPY_INT8);
        PyArrayObject *scale = vp_array_new(1, shape);
        if (q != NULL && scale != NULL) {
            Py_BEGIN_ALLOW_THREADS
            vp_weight_get_int(*param->slot, PyArray_DATA((PyArrayObject *)q),
                              PyArray_DATA(scale));
            Py_END_ALLOW_THREADS
            pair = Py_BuildValue("(OO)", q, (PyObject *)scale);
        }
        Py_XDECREF(q);
        Py_XDECREF(scale);
    }
    vp_vit_unref(vit);
    return pair;
}

/* -- integers in -- */

bool vp_is_integers(PyObject *value)
{
    if (!PyTuple_Check(value) || PyTuple_Size(value) != 2) {
        return false;
    }
    /* Of a nested sequence of floats the first is none of int8. */
    PyObject *dtype = PyObject_GetAttrString(PyTuple_GetItem(value, 0), "dtype");
    PyObject *name = dtype != NULL ? PyObject_Str(dtype) : NULL;
    PyErr_Clear();
    const bool integers =
        name != NULL && (PyUnicode_CompareWithASCIIString(name, "int8") == 0 ||
                         PyUnicode_CompareWithASCIIString(name, "torch.int8") == 0);
    Py_XDECREF(dtype);
    Py_XDECREF(name);
    return integers;
}

/* Are all in [-127, 127]? */
static bool in_range(const int8_t *q, size_t count)
{
    int8_t least = 0; /* no way out of the loop: it becomes one on vectors */
    for (size_t i = 0; i < count; i++) {
        least = q[i] < least ? q[i] : least;
    }
    return least != INT8_MIN;
}

/* Are all at least 0 and finite, or NaN, which makes an output NaN? */
static bool are_scales(const float *scale, size_t n)
{
    bool fits = true;
    for (size_t i = 0; i < n; i++) {
        fits = fits && !(scale[i] < 0.0f) && scale[i] != INFINITY;
    }
    return fits;
}

/* The numbers that integers stand for. */
static void dequantize(float *numbers, const int8_t *q, const float *scale, size_t n,
                       size_t k)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < k; j++) {
            numbers[i * k + j] = scale[i] * (float)q[i * k + j];
        }
    }
}

/* Sets parameter i to q and scale, whose types and shapes are right. */
static int set_integers(vp_vit *vit, size_t i, PyArrayObject *q, PyArrayObject *scale)
{
    const vp_param *param = vp_vit_param(vit, i);
    const size_t count = vp_param_count(param), n = param->shape[0];
    const bool keeps = vp_dtype_is_int(param->dtype);
    bool small, scales;
    vp_error err;
    vp_status status = VP_OK;
    PyArrayObject *numbers =
        keeps ? NULL : vp_array_new(PyArray_NDIM(q), PyArray_DIMS(q));
    if (!keeps && numbers == NULL) {
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    small = in_range(PyArray_DATA(q), count);
    scales = are_scales(PyArray_DATA(scale), n);
    if (small && scales && keeps) {
        status =
            vp_vit_set_param_int(vit, i, PyArray_DATA(q), PyArray_DATA(scale), &err);
    } else if (small && scales) {
        dequantize(PyArray_DATA(numbers), PyArray_DATA(q), PyArray_DATA(scale), n,
                   count / n);
        status = vp_vit_set_param(vit, i, PyArray_DATA(numbers), &err);
    }
    Py_END_ALLOW_THREADS
    Py_XDECREF(numbers);
    if (!small) {
        PyErr_Format(PyExc_ValueError, "%s must be integers from -127 to 127, not -128",
                     param->name);
    } else if (!scales) {
        PyErr_Format(PyExc_ValueError,
                     "the scale of %s must be finite numbers from 0, or NaN for an "
                     "output that is NaN",
                     param->name);
    } else if (status != VP_OK) {
        (void)vp_raise(&err);
    }
    return small && scales && status == VP_OK ? 0 : -1;
}

int vp_param_from_integers(vp_vit *vit, size_t i, PyObject *value)
{
    const vp_param *param = vp_vit_param(vit, i);
    char what[sizeof param->name + 16];
    (void)snprintf(what, sizeof what, "the scale of %s", param->name);
    if (!param->matrix) {
        PyErr_Format(PyExc_ValueError,
                     "%s is no matrix of a linear layer: it is floats, not integers "
                     "with a scale",
                     param->name);
        return -1;
    }
    PyArrayObject *q = vp_int8_from(PyTuple_GetItem(value, 0), param->name);
    PyArrayObject *scale =
        q != NULL ? vp_scale_from(PyTuple_GetItem(value, 1), what) : NULL;
    int failed = scale == NULL || vp_check_param_shape(param, q) < 0;
    if (!failed && (size_t)PyArray_DIM(scale, 0) != param->shape[0]) {
        PyErr_Format(PyExc_ValueError, "%s must have shape (%zu,), not (%zd,)", what,
                     param->shape[0], (Py_ssize_t)PyArray_DIM(scale, 0));
        failed = 1;
    }
    failed = failed || set_integers(vit, i, q, scale) < 0;
    Py_XDECREF(q);
    Py_XDECREF(scale);
    return failed ? -1 : 0;
}
