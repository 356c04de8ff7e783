/* From statuses to exceptions. SPDX-License-Identifier: Apache-2.0 */
#include "python/core.h"

PyObject *vp_raise(const vp_error *err)
{
    PyObject *type = PyExc_RuntimeError;
    switch (err->code) {
    case VP_ERR_TYPE:
        type = PyExc_TypeError;
        break;
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

Py_ssize_t vp_count_from(PyObject *object, const char *what)
{
    /* NumPy's bool is an index, too, before NumPy 2.3 */
    if (PyBool_Check(object) || PyArray_IsScalar(object, Bool) ||
        !PyIndex_Check(object)) {
        (void)vp_raise_type(object, "%s must be an integer", what);
        return -1;
    }
    PyObject *integer = PyNumber_Index(object);
    if (integer == NULL) {
        return -1;
    }
    int overflow = 0;
    const long long n = PyLong_AsLongLongAndOverflow(integer, &overflow);
    if (overflow != 0 || n < 0 || n > 0x7fffffff) {
        PyErr_Format(PyExc_ValueError, "%s must be from 0 to 2147483647, not %S", what,
                     integer);
        Py_DECREF(integer);
        return -1;
    }
    Py_DECREF(integer);
    return (Py_ssize_t)n;
}
