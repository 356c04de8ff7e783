/* From statuses to exceptions. SPDX-License-Identifier: Apache-2.0 */
#include "python/core.h"

PyObject *vp_raise(const vp_error *err)
{
    PyObject *type = PyExc_RuntimeError;
    switch (err->code) {
    case VP_ERR_VALUE:
        type = PyExc_ValueError;
        break;
    case VP_ERR_KEY:
        type = PyExc_KeyError;
        break;
    case VP_ERR_MEMORY:
        type = PyExc_MemoryError;
        break;
    case VP_OK:
        break;
    }
    PyErr_SetString(type, err->message);
    return NULL;
}

PyObject *vp_raise_type(PyObject *object, const char *what, ...)
{
    va_list arguments;
    va_start(arguments, what);
    PyObject *text = PyUnicode_FromFormatV(what, arguments);
    va_end(arguments);
    PyObject *name = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__name__");
    if (text != NULL && name != NULL) {
        PyErr_Format(PyExc_TypeError, "%U, not %S", text, name);
    }
    Py_XDECREF(text);
    Py_XDECREF(name);
    return NULL;
}

/* An int from what has __index__ and is not a bool; NULL with a TypeError. */
static PyObject *integer_from(PyObject *object, const char *what)
{
    /* NumPy's bool is an index, too, before NumPy 2.3 */
    if (PyBool_Check(object) || PyArray_IsScalar(object, Bool) ||
        !PyIndex_Check(object)) {
        return vp_raise_type(object, "%s must be an integer", what);
    }
    return PyNumber_Index(object);
}

int vp_int_from(PyObject *object, const char *what, Py_ssize_t least, Py_ssize_t *n)
{
    PyObject *integer = integer_from(object, what);
    if (integer == NULL) {
        return -1;
    }
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(integer, &overflow);
    const bool fits = overflow == 0 && value >= least && value <= 0x7fffffff;
    if (!fits) {
        PyErr_Format(PyExc_ValueError, "%s must be from %zd to 2147483647, not %S",
                     what, least, integer);
    }
    Py_DECREF(integer);
    *n = (Py_ssize_t)value;
    return fits ? 0 : -1;
}

Py_ssize_t vp_count_from(PyObject *object, const char *what)
{
    Py_ssize_t n;
    return vp_int_from(object, what, 0, &n) == 0 ? n : -1;
}

int vp_u64_from(PyObject *object, const char *what, unsigned long long *n)
{
    PyObject *integer = integer_from(object, what);
    if (integer == NULL) {
        return -1;
    }
    *n = PyLong_AsUnsignedLongLong(integer);
    const bool fits = !PyErr_Occurred();
    if (!fits) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s must be from 0 to 2**64 - 1, not %S", what,
                     integer);
    }
    Py_DECREF(integer);
    return fits ? 0 : -1;
}

int vp_check_mapping(PyObject *object, const char *what)
{
    if (!PyMapping_Check(object) || !PyObject_HasAttrString(object, "keys")) {
        (void)vp_raise_type(object, "%s must be a mapping", what);
        return -1;
    }
    return 0;
}
