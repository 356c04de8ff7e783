/* Steps of optimizers on NumPy's arrays, in place. SPDX-License-Identifier: Apache-2.0 */
#include "python/core.h"

#include <math.h>

#include "base/drop.h"
#include "model/optimizer.h"

/* Arrays that a step changes, or reads: names, objects, how many of the first are changed. */
#define MOST 4
typedef struct {
    const char *names[MOST];
    PyObject *objects[MOST];
    int count, changed;
} arrays;

static float *data_of(const arrays *a, int i)
{
    return PyArray_DATA((PyArrayObject *)a->objects[i]);
}

static size_t size_of(const arrays *a)
{
    return (size_t)PyArray_SIZE((PyArrayObject *)a->objects[0]);
}

/* 0, or -1 with a TypeError or ValueError: nothing is converted, since what is changed must be
 * the caller's own memory. */
static int check_array(PyObject *object, const char *what, bool changed)
{
    if (!PyArray_Check(object)) {
        (void)vp_raise_type(object, "%s must be an array of float32", what);
        return -1;
    }
    PyArrayObject *array = (PyArrayObject *)object;
    if (PyArray_TYPE(array) != NPY_FLOAT || !PyArray_ISNOTSWAPPED(array)) {
        PyErr_Format(PyExc_TypeError, "%s must be an array of float32, not of %S", what,
                     (PyObject *)PyArray_DESCR(array));
        return -1;
    }
    if (!PyArray_IS_C_CONTIGUOUS(array) || !PyArray_ISALIGNED(array)) {
        PyErr_Format(PyExc_ValueError, "%s must be C-contiguous and aligned", what);
        return -1;
    }
    if (changed && !PyArray_ISWRITEABLE(array)) {
        PyErr_Format(PyExc_ValueError, "%s must be writable", what);
        return -1;
    }
    return 0;
}

/* All of them fit, and no two share memory. */
static int check_arrays(const arrays *a)
{
    for (int i = 0; i < a->count; i++) {
        if (check_array(a->objects[i], a->names[i], i < a->changed) < 0) {
            return -1;
        }
        PyArrayObject *one = (PyArrayObject *)a->objects[i];
        PyArrayObject *first = (PyArrayObject *)a->objects[0];
        if (!PyArray_SAMESHAPE(one, first)) {
            PyObject *got = PyObject_GetAttrString((PyObject *)one, "shape");
            PyObject *want = PyObject_GetAttrString((PyObject *)first, "shape");
            if (got != NULL && want != NULL) {
                PyErr_Format(PyExc_ValueError, "%s must have %s's shape %S, not %S",
                             a->names[i], a->names[0], want, got);
            }
            Py_XDECREF(got);
            Py_XDECREF(want);
            return -1;
        }
        for (int k = 0; k < i; k++) {
            const char *p = PyArray_BYTES(one);
            const char *q = PyArray_BYTES((PyArrayObject *)a->objects[k]);
            const npy_intp bytes = PyArray_NBYTES(one);
            if (p < q + bytes && q < p + bytes) {
                PyErr_Format(PyExc_ValueError, "%s and %s must not share memory",
                             a->names[k], a->names[i]);
                return -1;
            }
        }
    }
    return 0;
}

/* A number from 0 to below `end`; 0, or -1 with a TypeError or ValueError. */
static int number_from(PyObject *object, const char *what, double end, double *number)
{
    *number = PyFloat_AsDouble(object);
    if (*number == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            (void)vp_raise_type(object, "%s must be a number", what);
        }
        return -1;
    }
    if (*number >= 0.0 && *number < end) {
        return 0;
    }
    PyErr_Format(PyExc_ValueError, "%s must be 0 or more and %s, not %S", what,
                 isinf(end) ? "finite" : "below 1", object);
    return -1;
}

PyDoc_STRVAR(
    adamw_doc,
    "adamw(w, m, v, g, lr, beta1, beta2, eps, weight_decay, step)\n--\n\n"
    "One step of torch.optim.AdamW, in place: the weights w, their moments m and v "
    "(zeros\n"
    "before the first step) from the gradient g; step counts from 1. Float32,\n"
    "C-contiguous, of one shape, no two sharing memory; else TypeError or ValueError,\n"
    "before anything changes. The bits do not depend on the number of threads.");

static PyObject *adamw(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    static char *names[] = {
        "w",    "m", "v", "g", "lr", "beta1", "beta2", "eps", "weight_decay",
        "step", NULL};
    arrays a = {.names = {"w", "m", "v", "g"}, .count = 4, .changed = 3};
    vp_adamw_options o;
    PyObject *lr, *beta1, *beta2, *eps, *decay, *step;
    Py_ssize_t steps;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OOOOOOOOOO:adamw", names, &a.objects[0], &a.objects[1],
            &a.objects[2], &a.objects[3], &lr, &beta1, &beta2, &eps, &decay, &step) ||
        check_arrays(&a) < 0 || number_from(lr, "lr", INFINITY, &o.lr) < 0 ||
        number_from(beta1, "beta1", 1.0, &o.beta1) < 0 ||
        number_from(beta2, "beta2", 1.0, &o.beta2) < 0 ||
        number_from(eps, "eps", INFINITY, &o.eps) < 0 ||
        number_from(decay, "weight_decay", INFINITY, &o.weight_decay) < 0 ||
        vp_int_from(step, "step", 1, &steps) < 0) {
        return NULL;
    }
    o.step = (double)steps;
    Py_BEGIN_ALLOW_THREADS
    vp_adamw_step(data_of(&a, 0), data_of(&a, 1), data_of(&a, 2), data_of(&a, 3),
                  size_of(&a), &o);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* What sgd and lars have in common; `last` is nesterov or trust. */
static int parse_sgd(PyObject *args, PyObject *kwargs, const char *format, char **names,
                     arrays *a, vp_sgd_options *o, PyObject **last)
{
    PyObject *lr, *momentum, *decay;
    *a = (arrays){.names = {"w", "buf", "g"}, .count = 3, .changed = 2};
    *o = (vp_sgd_options){.lr = 0.0};
    return PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &a->objects[0],
                                       &a->objects[1], &a->objects[2], &lr, &momentum,
                                       &decay, last) &&
                   check_arrays(a) == 0 &&
                   number_from(lr, "lr", INFINITY, &o->lr) == 0 &&
                   number_from(momentum, "momentum", INFINITY, &o->momentum) == 0 &&
                   number_from(decay, "weight_decay", INFINITY, &o->weight_decay) == 0
               ? 0
               : -1;
}

PyDoc_STRVAR(
    sgd_doc,
    "sgd(w, buf, g, lr, momentum, weight_decay, nesterov)\n--\n\n"
    "One step of torch.optim.SGD with dampening 0, in place: the weights w and the\n"
    "momentum's buf (zeros before the first step) from the gradient g. Arrays and "
    "errors\n"
    "as adamw's.");

static PyObject *sgd(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    static char *names[] = {"w",        "buf",          "g",        "lr",
                            "momentum", "weight_decay", "nesterov", NULL};
    arrays a;
    vp_sgd_options o;
    PyObject *nesterov;
    if (parse_sgd(args, kwargs, "OOOOOOO:sgd", names, &a, &o, &nesterov) < 0) {
        return NULL;
    }
    if (!PyBool_Check(nesterov)) {
        return vp_raise_type(nesterov, "nesterov must be a bool");
    }
    o.nesterov = nesterov == Py_True;
    Py_BEGIN_ALLOW_THREADS
    vp_sgd_step(data_of(&a, 0), data_of(&a, 1), data_of(&a, 2), size_of(&a), &o);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    lars_doc,
    "lars(w, buf, g, lr, momentum, weight_decay, trust)\n--\n\n"
    "One step of LARS as MAE's linear probes use it (util/lars.py), in place: as sgd, "
    "but\n"
    "the gradient, with its decay, is multiplied by trust |w| / |gradient|, of the "
    "whole\n"
    "array. trust=0: neither that nor decay, as of biases and norms. Arrays and errors "
    "as\n"
    "adamw's.");

static PyObject *lars(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    static char *names[] = {"w",        "buf",          "g",     "lr",
                            "momentum", "weight_decay", "trust", NULL};
    arrays a;
    vp_sgd_options o;
    PyObject *trust;
    if (parse_sgd(args, kwargs, "OOOOOOO:lars", names, &a, &o, &trust) < 0 ||
        number_from(trust, "trust", INFINITY, &o.trust) < 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    vp_lars_step(data_of(&a, 0), data_of(&a, 1), data_of(&a, 2), size_of(&a), &o);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyDoc_STRVAR(squares_doc,
             "squares(g, /)\n--\n\n"
             "The sum of the squares of a float32, C-contiguous array, in double. The "
             "bits\n"
             "depend on the array alone, not on the number of threads.");

static PyObject *squares(PyObject *module, PyObject *g)
{
    (void)module;
    const arrays a = {.names = {"g"}, .objects = {g}, .count = 1, .changed = 0};
    double sum;
    if (check_arrays(&a) < 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    sum = vp_squares(data_of(&a, 0), size_of(&a));
    Py_END_ALLOW_THREADS
    return PyFloat_FromDouble(sum);
}

PyDoc_STRVAR(
    drop_bits_doc,
    "drop_bits(seed, site, image, count)\n--\n\n"
    "The 24 random bits, uint32 (count,), from which dropout's mask at a site of an "
    "image\n"
    "is made: a number is kept where they are at least uint32(rate * 2**24), rate in\n"
    "float32. seed, site, image: 0 to 2**64 - 1.");

static PyObject *drop_bits(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    static char *names[] = {"seed", "site", "image", "count", NULL};
    PyObject *given[4];
    unsigned long long seed, site, image;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO:drop_bits", names, &given[0],
                                     &given[1], &given[2], &given[3]) ||
        vp_u64_from(given[0], "seed", &seed) < 0 ||
        vp_u64_from(given[1], "site", &site) < 0 ||
        vp_u64_from(given[2], "image", &image) < 0) {
        return NULL;
    }
    const npy_intp count = vp_count_from(given[3], "count");
    PyArrayObject *out =
        count < 0
            ? NULL
            : (PyArrayObject *)PyArray_SimpleNew(1, (npy_intp *)&count, NPY_UINT32);
    if (out != NULL) {
        const vp_drop drop = {.seed = seed, .site = site};
        const uint64_t key = vp_drop_key(&drop, (size_t)image);
        uint32_t *bits = PyArray_DATA(out);
        Py_BEGIN_ALLOW_THREADS
        for (npy_intp i = 0; i < count; i++) {
            bits[i] = vp_drop_bits(key, (uint32_t)i);
        }
        Py_END_ALLOW_THREADS
    }
    return (PyObject *)out;
}

#define WITH_KEYWORDS(name) \
    {#name, (PyCFunction)(void (*)(void))name, METH_VARARGS | METH_KEYWORDS, name##_doc}

PyMethodDef vp_optimizer_functions[] = {
    WITH_KEYWORDS(adamw),
    WITH_KEYWORDS(sgd),
    WITH_KEYWORDS(lars),
    WITH_KEYWORDS(drop_bits),
    {"squares", squares, METH_O, squares_doc},
    {NULL, NULL, 0, NULL},
};
