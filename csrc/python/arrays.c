/* From Python's arrays to the core's pointers. SPDX-License-Identifier: Apache-2.0 */
#include "python/core.h"

#include <string.h>

#include "model/info.h"

/* A door: which dtypes come in, and the words for them. Numbers are widened or rounded to
 * float32, but a dtype never changes what a number means: a bool mask is no float. */
typedef struct {
    const char *dtypes;
    bool (*takes)(PyArray_Descr *dtype);
} door;

/* float16, 32, 64, or bfloat16 (a type that ml_dtypes registers)? */
static bool is_float(PyArray_Descr *dtype)
{
    switch (dtype->type_num) {
    case NPY_FLOAT:
    case NPY_DOUBLE:
    case NPY_HALF:
        return true;
    default:
        break;
    }
    PyObject *name = PyObject_GetAttrString((PyObject *)dtype, "name");
    const bool bfloat16 = name != NULL && PyUnicode_Check(name) &&
                          PyUnicode_CompareWithASCIIString(name, "bfloat16") == 0;
    Py_XDECREF(name);
    PyErr_Clear();
    return bfloat16;
}

static bool is_float_or_bool(PyArray_Descr *dtype)
{
    return dtype->type_num == NPY_BOOL || is_float(dtype);
}

static bool is_float32(PyArray_Descr *dtype)
{
    return dtype->type_num == NPY_FLOAT;
}

static bool is_uint8(PyArray_Descr *dtype)
{
    return dtype->type_num == NPY_UINT8;
}

static bool is_int8(PyArray_Descr *dtype)
{
    return dtype->type_num == NPY_INT8;
}

#define FLOATS "float32 (or float16, float64, bfloat16)"
static const door floats = {FLOATS, is_float},
                  floats_or_bool = {"bool or " FLOATS, is_float_or_bool},
                  float32 = {"float32", is_float32}, uint8 = {"uint8", is_uint8},
                  int8 = {"int8", is_int8};

/* Calls `method` of *object, if it has that, and puts the result in its place; false, and
 * *object is NULL, where the call raises. */
static bool apply(PyObject **object, const char *method)
{
    if (PyObject_HasAttrString(*object, method)) {
        PyObject *before = *object;
        *object = PyObject_CallMethod(before, method, NULL);
        Py_DECREF(before);
    }
    return *object != NULL;
}

/* A torch tensor as one that gives itself to NumPy: without the gradient that it wants, its
 * lazy conjugation and negation done, bfloat16 (which torch does not export) as float32.
 * The values stay what they are. Whatever has none of these methods is left alone. */
static PyObject *exportable(PyObject *object)
{
    PyObject *plain = Py_NewRef(object);
    if (!apply(&plain, "detach") || !apply(&plain, "resolve_conj") ||
        !apply(&plain, "resolve_neg")) {
        return NULL;
    }
    PyObject *dtype = PyObject_GetAttrString(plain, "dtype");
    PyObject *name = dtype != NULL ? PyObject_Str(dtype) : NULL;
    PyErr_Clear(); /* not every exporter has a dtype */
    if (name != NULL && PyUnicode_CompareWithASCIIString(name, "torch.bfloat16") == 0) {
        (void)apply(&plain, "float");
    }
    Py_XDECREF(name);
    Py_XDECREF(dtype);
    return plain;
}

/* What `object` holds, as an ndarray or a subclass. NumPy's own protocols go before
 * __dlpack__: torch's __array__ refuses what its __dlpack__ gives out as if it were plain
 * (a negated, masked or fake tensor). */
static PyObject *as_ndarray(PyObject *object)
{
    if (!PyObject_HasAttrString(object, "__dlpack__")) {
        return PyArray_FROM_O(object);
    }
    PyObject *plain = exportable(object), *array = NULL;
    if (plain != NULL && PyObject_HasAttrString(plain, "__array__")) {
        array = PyArray_FROM_O(plain);
    } else if (plain != NULL) {
        PyObject *numpy = PyImport_ImportModule("numpy");
        array = numpy != NULL ? PyObject_CallMethod(numpy, "from_dlpack", "O", plain)
                              : NULL;
        Py_XDECREF(numpy);
    }
    Py_XDECREF(plain);
    return array;
}

/* Makes the error of an exporter the cause of one that names `what`: a ValueError stays
 * one, what else says "not like this" becomes a TypeError. Errors of other kinds (no
 * memory, an interrupt, a KeyError of the object's own) are left as they are. */
static void explain(PyObject *object, const char *what, const door *in)
{
    PyObject *kind = PyExc_TypeError, *type, *cause, *traceback, *error;
    if (PyErr_ExceptionMatches(PyExc_ValueError)) {
        kind = PyExc_ValueError;
    } else if (!PyErr_ExceptionMatches(PyExc_TypeError) &&
               !PyErr_ExceptionMatches(PyExc_BufferError) &&
               !PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        return;
    }
    PyErr_Fetch(&type, &cause, &traceback);
    PyErr_NormalizeException(&type, &cause, &traceback);
    if (traceback != NULL) {
        (void)PyException_SetTraceback(cause, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    PyObject *name = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__name__");
    if (name != NULL) {
        PyErr_Format(kind, "%s must be an array of %s, not %S: %S", what, in->dtypes,
                     name, cause);
        Py_DECREF(name);
    }
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    PyException_SetCause(error, cause); /* takes the reference */
    PyErr_Restore(type, error, traceback);
}

/* A masked array, or a list of them down to `depth`? NumPy drops the masks of both. */
static bool is_masked(PyObject *object, int depth)
{
    if (PyArray_Check(object)) {
        return !PyArray_CheckExact(object) && PyObject_HasAttrString(object, "mask");
    }
    const bool nested = depth > 0 && (PyList_Check(object) || PyTuple_Check(object));
    const Py_ssize_t size = nested ? PySequence_Size(object) : 0;
    bool masked = false;
    for (Py_ssize_t i = 0; !masked && i < size; i++) {
        PyObject *item = PySequence_GetItem(object, i);
        masked = item != NULL && is_masked(item, depth - 1);
        Py_XDECREF(item);
    }
    PyErr_Clear(); /* of a list that another thread shortens */
    return masked;
}

/* The array that `object` is or gives, of a dtype that the door takes, else an exception.
 * Everything that the module takes as an array comes through here. */
static PyArrayObject *take(PyObject *object, const char *what, const door *in)
{
    const bool is_array = PyArray_Check(object);
    PyArrayObject *array =
        (PyArrayObject *)(is_array ? Py_NewRef(object) : as_ndarray(object));
    if (array == NULL) {
        explain(object, what, in);
        return NULL;
    }
    if (!in->takes(PyArray_DESCR(array))) {
        PyObject *type =
            PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__name__");
        if (type != NULL) {
            PyErr_Format(PyExc_TypeError, "%s must be an array of %s, not %S%s%S", what,
                         in->dtypes, type, is_array ? " of " : ", as an array ",
                         (PyObject *)PyArray_DESCR(array));
            Py_DECREF(type);
        }
        Py_CLEAR(array);
    } else if (is_masked((PyObject *)array, 0) ||
               (!is_array && is_masked(object, PyArray_NDIM(array)))) {
        PyErr_Format(
            PyExc_TypeError,
            "%s must not be a masked array, since its mask would be lost: fill "
            "it first, as by .filled(0)",
            what);
        Py_CLEAR(array);
    }
    return array;
}

/* `given` as a plain, C-contiguous, aligned array of `type`, by NumPy. */
static PyArrayObject *cast(PyArrayObject *given, int type)
{
    return (PyArrayObject *)PyArray_FROM_OTF((PyObject *)given, type,
                                             NPY_ARRAY_IN_ARRAY | NPY_ARRAY_FORCECAST |
                                                 NPY_ARRAY_ENSUREARRAY);
}

/* float16 as float32, several times as fast as NumPy casts it. */
static PyArrayObject *widen(PyArrayObject *given)
{
    PyArrayObject *halves = cast(given, NPY_HALF), *out = NULL;
    if (halves != NULL) {
        out = vp_array_new(PyArray_NDIM(halves), PyArray_DIMS(halves));
    }
    if (out != NULL) {
        const size_t n = (size_t)PyArray_SIZE(halves);
        Py_BEGIN_ALLOW_THREADS
        vp_widen_f16(PyArray_DATA(out), PyArray_DATA(halves), n);
        Py_END_ALLOW_THREADS
    }
    Py_XDECREF(halves);
    return out;
}

/* Consumes `given`: the same numbers as a plain, C-contiguous, aligned array of `type`. */
static PyArrayObject *plain_array(PyArrayObject *given, int type)
{
    const bool half = type == NPY_FLOAT && PyArray_TYPE(given) == NPY_HALF;
    PyArrayObject *plain = half ? widen(given) : cast(given, type);
    Py_DECREF(given);
    return plain;
}

/* As take, with `ndim` dimensions, converted to `type`. */
static PyArrayObject *take_plain(PyObject *object, const char *what, int ndim,
                                 const char *axes, const door *in, int type)
{
    PyArrayObject *array = take(object, what, in);
    if (array == NULL) {
        return NULL;
    }
    if (ndim >= 0 && PyArray_NDIM(array) != ndim) {
        PyObject *shape = PyObject_GetAttrString((PyObject *)array, "shape");
        PyErr_Format(PyExc_ValueError, "%s must have shape %s, not %S", what, axes,
                     shape);
        Py_XDECREF(shape);
        Py_DECREF(array);
        return NULL;
    }
    return plain_array(array, type);
}

PyArrayObject *vp_array_from(PyObject *object, const char *what, int ndim,
                             const char *axes)
{
    return take_plain(object, what, ndim, axes, &floats, NPY_FLOAT);
}

PyArrayObject *vp_pixels_from(PyObject *object, const char *what, int ndim,
                              const char *axes)
{
    return take_plain(object, what, ndim, axes, &uint8, NPY_UINT8);
}

PyArrayObject *vp_int8_from(PyObject *object, const char *what)
{
    return take_plain(object, what, -1, "", &int8, NPY_INT8);
}

PyArrayObject *vp_scale_from(PyObject *object, const char *what)
{
    return take_plain(object, what, 1, "(outputs,)", &float32, NPY_FLOAT);
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
    PyArrayObject *given = take(attn_mask, "attn_mask", &floats_or_bool);
    if (given == NULL) {
        return -1;
    }
    const bool boolean = PyArray_TYPE(given) == NPY_BOOL;
    mask->array = plain_array(given, boolean ? NPY_BOOL : NPY_FLOAT);
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
