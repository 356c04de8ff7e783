/* From Python's arrays to the core's pointers. SPDX-License-Identifier: Apache-2.0 */
#include "python/core.h"

#include <string.h>

/* What a non-array gives: through __dlpack__ where it has that, else as numpy.asarray. */
static PyObject *as_ndarray(PyObject *object)
{
    PyObject *numpy = PyImport_ImportModule("numpy");
    if (numpy == NULL) {
        return NULL;
    }
    PyObject *array = NULL;
    if (!PyObject_HasAttrString(object, "__dlpack__")) {
        array = PyObject_CallMethod(numpy, "asarray", "O", object);
    } else {
        /* A torch tensor that wants gradients, or holds bfloat16, exports nothing: both
         * have a method that cures it. NumPy refuses what is not on the CPU by itself. */
        PyObject *plain = Py_NewRef(object);
        static const char *const cures[] = {"detach", "float"};
        for (int i = 0; i < 2 && plain != NULL; i++) {
            if (PyObject_HasAttrString(plain, cures[i])) {
                PyObject *cured = PyObject_CallMethod(plain, cures[i], NULL);
                Py_DECREF(plain);
                plain = cured;
            }
        }
        if (plain != NULL) {
            array = PyObject_CallMethod(numpy, "from_dlpack", "O", plain);
            Py_DECREF(plain);
        }
    }
    Py_DECREF(numpy);
    return array;
}

/* float16, 32, 64, or bfloat16 (a type that ml_dtypes registers)? */
static int is_float(PyArray_Descr *dtype)
{
    switch (dtype->type_num) {
    case NPY_FLOAT:
    case NPY_DOUBLE:
    case NPY_HALF:
        return 1;
    default:
        break;
    }
    PyObject *name = PyObject_GetAttrString((PyObject *)dtype, "name");
    const int bfloat16 = name != NULL && PyUnicode_Check(name) &&
                         PyUnicode_CompareWithASCIIString(name, "bfloat16") == 0;
    Py_XDECREF(name);
    PyErr_Clear();
    return bfloat16;
}

PyArrayObject *vp_array_from(PyObject *object, const char *what, int ndim,
                             const char *axes)
{
    PyObject *given = PyArray_Check(object) ? Py_NewRef(object) : as_ndarray(object);
    if (given == NULL) {
        return NULL;
    }
    PyArrayObject *array = (PyArrayObject *)given;
    if (!is_float(PyArray_DESCR(array))) {
        PyObject *type =
            PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__name__");
        if (type != NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s must be an array of float32 (or float16, float64, "
                         "bfloat16), not %S%s%S",
                         what, type, PyArray_Check(object) ? " of " : ", as an array ",
                         (PyObject *)PyArray_DESCR(array));
            Py_DECREF(type);
        }
        Py_DECREF(given);
        return NULL;
    }
    if (ndim >= 0 && PyArray_NDIM(array) != ndim) {
        PyObject *shape = PyObject_GetAttrString(given, "shape");
        PyErr_Format(PyExc_ValueError, "%s must have shape %s, not %S", what, axes,
                     shape);
        Py_XDECREF(shape);
        Py_DECREF(given);
        return NULL;
    }
    PyObject *plain = PyArray_FROM_OTF(given, NPY_FLOAT,
                                       NPY_ARRAY_IN_ARRAY | NPY_ARRAY_FORCECAST |
                                           NPY_ARRAY_ENSUREARRAY);
    Py_DECREF(given);
    return (PyArrayObject *)plain;
}

PyArrayObject *vp_array_new(int ndim, const npy_intp *shape)
{
    return (PyArrayObject *)PyArray_SimpleNew(ndim, (npy_intp *)shape, NPY_FLOAT);
}

int vp_py_mask_init(vp_py_mask *mask, PyObject *attn_mask, int is_causal, size_t batch,
                    size_t heads, size_t tokens)
{
    memset(mask, 0, sizeof *mask);
    mask->mask.causal = is_causal;
    if (attn_mask == Py_None) {
        return 0;
    }
    if (is_causal) {
        PyErr_SetString(
            PyExc_ValueError,
            "attn_mask must be None where is_causal is True: one or the other");
        return -1;
    }
    PyObject *given =
        PyArray_Check(attn_mask) ? Py_NewRef(attn_mask) : as_ndarray(attn_mask);
    if (given == NULL) {
        return -1;
    }
    const int boolean = PyArray_TYPE((PyArrayObject *)given) == NPY_BOOL;
    if (!boolean && !is_float(PyArray_DESCR((PyArrayObject *)given))) {
        PyErr_Format(PyExc_TypeError,
                     "attn_mask must be an array of bool or float, not %S",
                     (PyObject *)PyArray_DESCR((PyArrayObject *)given));
        Py_DECREF(given);
        return -1;
    }
    mask->array =
        (PyArrayObject *)PyArray_FROM_OTF(given, boolean ? NPY_BOOL : NPY_FLOAT,
                                          NPY_ARRAY_IN_ARRAY | NPY_ARRAY_FORCECAST);
    Py_DECREF(given);
    if (mask->array == NULL) {
        return -1;
    }
    /* Right-aligned against (B, H, N, N), as broadcasting does; the last axis is whole. */
    const npy_intp full[4] = {(npy_intp)batch, (npy_intp)heads, (npy_intp)tokens,
                              (npy_intp)tokens};
    const int ndim = PyArray_NDIM(mask->array);
    size_t strides[4] = {0, 0, 0, 0}, step = 1;
    int fits = ndim >= 2 && ndim <= 4;
    for (int i = 0; fits && i < ndim; i++) {
        const npy_intp size = PyArray_DIM(mask->array, ndim - 1 - i);
        const int axis = 3 - i;
        fits = size == full[axis] || (size == 1 && axis < 3);
        strides[axis] = size == 1 ? 0 : step;
        step *= (size_t)size;
    }
    if (!fits) {
        PyObject *shape = PyObject_GetAttrString((PyObject *)mask->array, "shape");
        PyErr_Format(PyExc_ValueError,
                     "attn_mask must broadcast to (batch, num_heads, tokens, tokens) = "
                     "(%zu, %zu, %zu, %zu) with a whole last axis, not shape %S",
                     batch, heads, tokens, tokens, shape);
        Py_XDECREF(shape);
        vp_py_mask_free(mask);
        return -1;
    }
    mask->mask.batch = strides[0];
    mask->mask.head = strides[1];
    mask->mask.row = strides[2];
    if (boolean) {
        mask->mask.allowed = PyArray_DATA(mask->array);
    } else {
        mask->mask.bias = PyArray_DATA(mask->array);
    }
    return 0;
}

void vp_py_mask_free(vp_py_mask *mask)
{
    Py_CLEAR(mask->array);
}
