/* A model's parameters: their shapes and numbers, out and in.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "python/model.h"

static PyObject *shape_of(const vp_param *param)
{
    PyObject *shape = PyTuple_New((Py_ssize_t)param->ndim);
    for (size_t d = 0; shape != NULL && d < param->ndim; d++) {
        PyObject *size = PyLong_FromSize_t(param->shape[d]);
        if (size == NULL || PyTuple_SetItem(shape, (Py_ssize_t)d, size) < 0) {
            Py_CLEAR(shape);
        }
    }
    return shape;
}

int vp_check_param_shape(const vp_param *param, PyArrayObject *array)
{
    bool same = PyArray_NDIM(array) == (int)param->ndim;
    for (size_t d = 0; same && d < param->ndim; d++) {
        same = (size_t)PyArray_DIM(array, (int)d) == param->shape[d];
    }
    if (!same) {
        PyObject *got = PyObject_GetAttrString((PyObject *)array, "shape");
        PyObject *want = shape_of(param);
        PyErr_Format(PyExc_ValueError, "%s must have shape %S, not %S", param->name,
                     want, got);
        Py_XDECREF(got);
        Py_XDECREF(want);
    }
    return same ? 0 : -1;
}

int vp_param_from(vp_vit *vit, size_t i, PyObject *value)
{
    if (vp_is_integers(value)) {
        return vp_param_from_integers(vit, i, value);
    }
    const vp_param *param = vp_vit_param(vit, i);
    PyArrayObject *array = vp_array_from(value, param->name, -1, "");
    if (array == NULL || vp_check_param_shape(param, array) < 0) {
        Py_XDECREF(array);
        return -1;
    }
    vp_error err;
    vp_status status;
    Py_BEGIN_ALLOW_THREADS
    status = vp_vit_set_param(vit, i, PyArray_DATA(array), &err);
    Py_END_ALLOW_THREADS
    Py_DECREF(array);
    if (status != VP_OK) {
        (void)vp_raise(&err);
        return -1;
    }
    return 0;
}

const char vp_model_param_shapes_doc[] =
    "param_shapes($self)\n--\n\n"
    "Every parameter's shape by its name in the state dict, in timm's order.";

PyObject *vp_param_shapes(const vp_vit *vit)
{
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict != NULL && i < vp_vit_num_params(vit); i++) {
        const vp_param *param = vp_vit_param(vit, i);
        PyObject *shape = shape_of(param);
        if (shape == NULL || PyDict_SetItemString(dict, param->name, shape) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(shape);
    }
    return dict;
}

PyObject *vp_model_param_shapes(PyObject *object, PyObject *unused)
{
    (void)unused;
    vp_vit *vit = vp_model_acquire((vp_model *)object, NULL);
    PyObject *dict = vit != NULL ? vp_param_shapes(vit) : NULL;
    vp_vit_unref(vit);
    return dict;
}

const char vp_model_get_parameter_doc[] =
    "get_parameter($self, target, /)\n--\n\n"
    "The parameter of this dotted name, e.g. 'blocks.0.attn.qkv.weight', as a new\n"
    "read-only float32 array, whatever it is kept as. KeyError: there is none of that "
    "name.";

vp_vit *vp_model_find(PyObject *object, PyObject *target, size_t *i)
{
    vp_model *self = (vp_model *)object;
    if (!PyUnicode_Check(target)) {
        (void)vp_raise_type(target, "target must be a str");
        return NULL;
    }
    vp_vit *vit = vp_model_acquire(self, NULL);
    if (vit == NULL) {
        return NULL;
    }
    Py_ssize_t length;
    const char *name = PyUnicode_AsUTF8AndSize(target, &length);
    *i = vp_vit_num_params(vit);
    if (name == NULL) { /* lone surrogates: nobody's name */
        PyErr_Clear();
    } else if (strlen(name) == (size_t)length) {
        *i = vp_vit_find_param(vit, name, self->next_param);
    }
    if (*i == vp_vit_num_params(vit)) {
        PyErr_SetObject(PyExc_KeyError, target);
        vp_vit_unref(vit);
        return NULL;
    }
    self->next_param = *i + 1;
    return vit;
}

PyObject *vp_model_get_parameter(PyObject *object, PyObject *target)
{
    size_t i;
    vp_vit *vit = vp_model_find(object, target, &i);
    if (vit == NULL) {
        return NULL;
    }
    const vp_param *param = vp_vit_param(vit, i);
    npy_intp shape[4] = {0};
    for (size_t d = 0; d < param->ndim; d++) {
        shape[d] = (npy_intp)param->shape[d];
    }
    PyArrayObject *array = vp_array_new((int)param->ndim, shape);
    if (array != NULL) {
        Py_BEGIN_ALLOW_THREADS
        vp_weight_get(*param->slot, PyArray_DATA(array));
        Py_END_ALLOW_THREADS
        PyArray_CLEARFLAGS(array, NPY_ARRAY_WRITEABLE);
    }
    vp_vit_unref(vit);
    return (PyObject *)array;
}

const char vp_model_untrained_doc[] =
    "untrained($self)\n--\n\n"
    "The names of the parameters that are random, in timm's order: drawn when the "
    "model\n"
    "was made, or by reset_classifier, and not loaded or set since.";

PyObject *vp_model_untrained(PyObject *object, PyObject *unused)
{
    (void)unused;
    vp_vit *vit = vp_model_acquire((vp_model *)object, NULL);
    PyObject *list = vit != NULL ? PyList_New(0) : NULL;
    for (size_t i = 0; list != NULL && i < vp_vit_num_params(vit); i++) {
        const vp_param *param = vp_vit_param(vit, i);
        PyObject *name = param->random ? PyUnicode_FromString(param->name) : NULL;
        if (param->random && (name == NULL || PyList_Append(list, name) < 0)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(name);
    }
    vp_vit_unref(vit);
    return list;
}
