/* The binding's shared parts: NumPy, module state, conversions. The only folder that knows
 * Python.h. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_PYTHON_CORE_H
#define VP_PYTHON_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL vitpool_numpy_api
#ifndef VP_PYTHON_IMPORT_ARRAY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include "model/vit.h"

/* -- errors.c -- */

/* Raises what `err` says; returns NULL for `return vp_raise(...)`. */
PyObject *vp_raise(const vp_error *err);

/* Raises TypeError "WHAT, not TYPE", of the type of `object`; `what` is a format with what
 * follows it, as for PyErr_Format. Returns NULL. */
PyObject *vp_raise_type(PyObject *object, const char *what, ...);

/* A count from anything with __index__ that is not a bool, at least 0 and at most 2^31 - 1;
 * else TypeError or ValueError naming `what`. -1 with an exception set on failure. */
Py_ssize_t vp_count_from(PyObject *object, const char *what);

/* The same from `least` on; 0, or -1 with an exception set. */
int vp_int_from(PyObject *object, const char *what, Py_ssize_t least, Py_ssize_t *n);

/* The same from 0 to 2^64 - 1; 0, or -1 with an exception set. */
int vp_u64_from(PyObject *object, const char *what, unsigned long long *n);

/* A mapping has keys(); 0, or -1 with a TypeError. */
int vp_check_mapping(PyObject *object, const char *what);

/* -- arrays.c -- */

/* Whatever is taken as an array comes in through one of these, and vp_py_mask_init: an
 * array of any layout, what NumPy takes (__array__, a buffer, a nested sequence), a torch
 * tensor on the CPU, a __dlpack__ exporter. New reference; NULL with a TypeError or
 * ValueError that names `what`. A masked array is refused, and a dtype that would have to
 * change its meaning: no integer or bool becomes a float. */

/* C-contiguous, aligned float32 of `ndim` dimensions (any, if negative) from float16, 32,
 * 64 or bfloat16. `axes` is for the message, e.g. "(batch, in_chans, height, width)". */
PyArrayObject *vp_array_from(PyObject *object, const char *what, int ndim,
                             const char *axes);

/* The same for uint8, from nothing but uint8. */
PyArrayObject *vp_pixels_from(PyObject *object, const char *what, int ndim,
                              const char *axes);

/* Integers of a weight, from nothing but int8, and their scales (outputs,), from nothing but
 * float32. */
PyArrayObject *vp_int8_from(PyObject *object, const char *what);
PyArrayObject *vp_scale_from(PyObject *object, const char *what);

/* A new float32 array. */
PyArrayObject *vp_array_new(int ndim, const npy_intp *shape);

/* A mask as arrays and strides. init: returns 0, or -1 with an exception. */
typedef struct {
    vp_mask mask;
    PyArrayObject *array; /* owned; NULL: causal only */
} vp_py_mask;
int vp_py_mask_init(vp_py_mask *mask, PyObject *attn_mask, int is_causal, size_t batch,
                    size_t heads, size_t tokens);
void vp_py_mask_free(vp_py_mask *mask);

/* -- options.c -- */

/* The config from a dict of resolved options (see vitpool/config/); -1 on failure. */
int vp_config_from_dict(PyObject *options, vp_config *config);
PyObject *vp_config_to_dict(const vp_config *config);

/* A pool from None (-> 0), or a str (-> 1); -1: TypeError or ValueError. */
int vp_pool_from(PyObject *object, const char *what, vp_family family, vp_pool *pool);

/* -- model.c -- */

extern PyType_Spec vp_model_spec;

/* -- steps.c -- */

extern PyMethodDef vp_optimizer_functions[];

/* -- params.c -- */

/* Every parameter's shape, a tuple, by its name, in timm's order. NULL on failure. */
PyObject *vp_param_shapes(const vp_vit *vit);

#endif
