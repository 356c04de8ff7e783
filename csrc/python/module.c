/* The module vitpool._core. SPDX-License-Identifier: Apache-2.0 */
#define VP_PYTHON_IMPORT_ARRAY
#include "python/core.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "base/caches.h"
#include "base/cpu.h"
#include "base/limits.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "base/threads_default.h"
#include "model/info.h"

#ifndef VP_BUILD_INFO
#define VP_BUILD_INFO "unknown"
#endif

PyDoc_STRVAR(set_num_threads_doc,
             "set_num_threads(n, /)\n--\n\n"
             "How many threads a forward pass may use, the caller included: 1 to 256.");

static PyObject *set_num_threads(PyObject *module, PyObject *n)
{
    (void)module;
    const Py_ssize_t count = vp_count_from(n, "n");
    if (count < 0) {
        return NULL;
    }
    if (count < 1 || count > VP_MAX_THREADS) {
        PyErr_Format(PyExc_ValueError, "n must be from 1 to %d, not %zd",
                     VP_MAX_THREADS, count);
        return NULL;
    }
    vp_set_num_threads((size_t)count);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    get_num_threads_doc,
    "get_num_threads()\n--\n\n"
    "How many threads a forward pass may use. By default the least of cores, CPU\n"
    "affinity and cgroup quota, or what VITPOOL_NUM_THREADS or OMP_NUM_THREADS "
    "says.");

static PyObject *get_num_threads(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromSize_t(vp_get_num_threads());
}

PyDoc_STRVAR(
    show_config_doc,
    "show_config()\n--\n\n"
    "A dict of what runs: target and targets, micro-kernel, BLIS, threads, build; for\n"
    "weights of each dtype the micro-kernel and the arithmetic of their products; the\n"
    "cpus that this process may use, by cores, CPU affinity and cgroup quota; and the\n"
    "caches of a core, l1d, l2 and the l3 that it may share, in bytes, 0: not known.");

/* {title: {'micro_kernel': name, 'arithmetic': words}} */
static PyObject *products(void)
{
    PyObject *dict = PyDict_New();
    for (int d = 0; dict != NULL && d < VP_DTYPE_COUNT; d++) {
        const vp_info_products info = vp_info_products_of((vp_dtype)d);
        PyObject *one = Py_BuildValue("{s:s,s:s}", "micro_kernel", info.micro_kernel,
                                      "arithmetic", info.arithmetic);
        if (one == NULL ||
            PyDict_SetItemString(dict, vp_dtype_title((vp_dtype)d), one) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(one);
    }
    return dict;
}

static PyObject *show_config(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    PyObject *targets = PyList_New(0);
    for (int t = 0; targets != NULL && t < VP_TARGET_COUNT; t++) {
        if (vp_target_supported((vp_target)t)) {
            PyObject *name = PyUnicode_FromString(vp_target_name((vp_target)t));
            if (name == NULL || PyList_Append(targets, name) < 0) {
                Py_CLEAR(targets);
            }
            Py_XDECREF(name);
        }
    }
    PyObject *dtypes = targets != NULL ? products() : NULL;
    if (dtypes == NULL) {
        Py_XDECREF(targets);
        return NULL;
    }
    const vp_info info = vp_info_get();
    const vp_caches caches = vp_caches_get();
    return Py_BuildValue("{s:s,s:N,s:s,s:(nn),s:N,s:s,s:n,s:n,s:{s:n,s:n,s:n},s:s}",
                         "target", vp_target_name(info.target), "targets", targets,
                         "micro_kernel", info.micro_kernel, "tile", (Py_ssize_t)info.mr,
                         (Py_ssize_t)info.nr, "dtypes", dtypes, "blis",
                         info.blis_version, "threads", (Py_ssize_t)vp_get_num_threads(),
                         "cpus", (Py_ssize_t)vp_usable_cpus(), "caches", "l1d",
                         (Py_ssize_t)caches.l1d, "l2", (Py_ssize_t)caches.l2, "l3",
                         (Py_ssize_t)caches.l3, "build", VP_BUILD_INFO);
}

PyDoc_STRVAR(
    normalize_u8_doc,
    "normalize_u8(pixels, mean, std, /)\n--\n\n"
    "(pixels / 255 - mean) / std, channels first: uint8 (height, width, channels)\n"
    "to float32 (channels, height, width). mean, std: one number a channel.\n"
    "Source: torchvision's ToTensor and Normalize, the same bits.");

/* One finite number for each of `count` channels, as float32: an array of floats, or a
 * sequence of Python's numbers, integers too. */
static PyArrayObject *channel_numbers(PyObject *object, const char *what,
                                      npy_intp count)
{
    PyObject *given = PyList_Check(object) || PyTuple_Check(object)
                          ? Py_NewRef(object)
                          : (PyObject *)vp_array_from(object, what, -1, "");
    PyArrayObject *exact =
        given == NULL ? NULL
                      : (PyArrayObject *)PyArray_FROMANY(given, NPY_DOUBLE, 0, 0,
                                                         NPY_ARRAY_IN_ARRAY);
    Py_XDECREF(given);
    if (exact == NULL) { /* the error says what could not be read */
        return NULL;
    }
    if (PyArray_NDIM(exact) != 1 || PyArray_SIZE(exact) != count) {
        PyObject *shape = PyObject_GetAttrString((PyObject *)exact, "shape");
        PyErr_Format(PyExc_ValueError, "%s must have shape (%zd,), not %S", what,
                     (Py_ssize_t)count, shape);
        Py_XDECREF(shape);
        Py_DECREF(exact);
        return NULL;
    }
    PyArrayObject *numbers = vp_array_new(1, &count);
    for (npy_intp i = 0; numbers != NULL && i < count; i++) {
        const double x = ((const double *)PyArray_DATA(exact))[i];
        if (!(fabs(x) <= (double)FLT_MAX)) {
            PyErr_Format(PyExc_ValueError, "%s must be finite numbers, not %S", what,
                         object);
            Py_CLEAR(numbers);
        } else {
            ((float *)PyArray_DATA(numbers))[i] = (float)x;
        }
    }
    Py_DECREF(exact);
    return numbers;
}

static PyObject *normalize_u8(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *pixels_object, *mean_object, *std_object;
    PyArrayObject *out = NULL;
    if (!PyArg_ParseTuple(args, "OOO:normalize_u8", &pixels_object, &mean_object,
                          &std_object)) {
        return NULL;
    }
    PyArrayObject *pixels =
        vp_pixels_from(pixels_object, "pixels", 3, "(height, width, channels)");
    const npy_intp channels = pixels != NULL ? PyArray_DIM(pixels, 2) : 0;
    PyArrayObject *mean =
        pixels != NULL ? channel_numbers(mean_object, "mean", channels) : NULL;
    PyArrayObject *std =
        mean != NULL ? channel_numbers(std_object, "std", channels) : NULL;
    bool ok = std != NULL;
    for (npy_intp c = 0; ok && c < channels; c++) {
        ok = ((const float *)PyArray_DATA(std))[c] != 0.0f;
        if (!ok) {
            PyErr_Format(PyExc_ValueError, "std must not be 0, as in %S", std_object);
        }
    }
    if (ok) {
        const npy_intp *size = PyArray_DIMS(pixels);
        const npy_intp shape[3] = {channels, size[0], size[1]};
        out = vp_array_new(3, shape);
    }
    if (out != NULL) {
        const size_t count = (size_t)PyArray_DIM(out, 1) * (size_t)PyArray_DIM(out, 2);
        Py_BEGIN_ALLOW_THREADS
        vp_normalize_pixels(PyArray_DATA(out), PyArray_DATA(pixels), count,
                            (size_t)channels, PyArray_DATA(mean), PyArray_DATA(std));
        Py_END_ALLOW_THREADS
    }
    Py_XDECREF(pixels);
    Py_XDECREF(mean);
    Py_XDECREF(std);
    return (PyObject *)out;
}

PyDoc_STRVAR(
    param_shapes_doc,
    "param_shapes(options, /)\n--\n\n"
    "Every parameter's shape by its name in the state dict, in timm's order, of\n"
    "the model that these options make; no weights are. TypeError, ValueError: as\n"
    "VisionTransformer(options).");

static PyObject *param_shapes(PyObject *module, PyObject *options)
{
    (void)module;
    vp_config config;
    vp_vit *vit = NULL;
    vp_error err;
    if (vp_config_from_dict(options, &config) < 0) {
        return NULL;
    }
    if (vp_vit_create(&config, &vit, &err) != VP_OK) {
        return vp_raise(&err);
    }
    PyObject *dict = vp_param_shapes(vit);
    vp_vit_unref(vit);
    return dict;
}

PyDoc_STRVAR(
    as_float32_doc,
    "as_float32(object, what, /)\n--\n\n"
    "A contiguous float32 array of whatever a model takes as one: an array of floats, "
    "a\n"
    "torch tensor on the CPU, a DLPack exporter, a nested sequence. Not a copy where "
    "it\n"
    "is that already. TypeError or ValueError (they name what): anything else, and a\n"
    "masked array, whose mask would be lost.");

static PyObject *as_float32(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *object;
    const char *what;
    if (!PyArg_ParseTuple(args, "Os:as_float32", &object, &what)) {
        return NULL;
    }
    return (PyObject *)vp_array_from(object, what, -1, "");
}

PyDoc_STRVAR(fail_after_doc,
             "_fail_allocations_after(n, /)\n--\n\n"
             "For tests: after n more of the core's allocations every next one fails; "
             "-1: off.");

static PyObject *fail_allocations_after(PyObject *module, PyObject *n)
{
    (void)module;
    Py_ssize_t count;
    if (vp_int_from(n, "n", -1, &count) < 0) {
        return NULL;
    }
    vp_memory_fail_after((long)count);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(set_limits_doc,
             "_set_limits(chunk_bytes=0, block_keys=0, block_queries=0)\n--\n\n"
             "For tests: bytes of a batch's chunk, keys and queries of attention's "
             "blocks, in\nforward passes that begin from now on; 0: the default.");

static PyObject *set_limits(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    static char *names[] = {"chunk_bytes", "block_keys", "block_queries", NULL};
    PyObject *given[3] = {NULL, NULL, NULL};
    size_t limits[3] = {0, 0, 0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OOO:_set_limits", names, &given[0],
                                     &given[1], &given[2])) {
        return NULL;
    }
    for (int i = 0; i < 3; i++) {
        const Py_ssize_t n = given[i] != NULL ? vp_count_from(given[i], names[i]) : 0;
        if (n < 0) {
            return NULL;
        }
        limits[i] = (size_t)n;
    }
    vp_limits_set((vp_limits){limits[0], limits[1], limits[2]});
    Py_RETURN_NONE;
}

PyDoc_STRVAR(allocations_doc,
             "_allocations()\n--\n\n"
             "For tests: how many of the core's allocations have not been freed.");

static PyObject *allocations(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromLong(vp_memory_live());
}

static PyMethodDef functions[] = {
    {"set_num_threads", set_num_threads, METH_O, set_num_threads_doc},
    {"get_num_threads", get_num_threads, METH_NOARGS, get_num_threads_doc},
    {"show_config", show_config, METH_NOARGS, show_config_doc},
    {"normalize_u8", normalize_u8, METH_VARARGS, normalize_u8_doc},
    {"param_shapes", param_shapes, METH_O, param_shapes_doc},
    {"as_float32", as_float32, METH_VARARGS, as_float32_doc},
    {"_fail_allocations_after", fail_allocations_after, METH_O, fail_after_doc},
    {"_set_limits", (PyCFunction)(void (*)(void))set_limits,
     METH_VARARGS | METH_KEYWORDS, set_limits_doc},
    {"_allocations", allocations, METH_NOARGS, allocations_doc},
    {NULL, NULL, 0, NULL},
};

static int import_numpy(void)
{
    import_array1(-1);
    return 0;
}

/* " 'baseline' 'avx2' ..." */
#define TARGET_NAME(name, arch, vectors, features) " '" #name "'"
#define TARGET_NAMES VP_TARGETS(TARGET_NAME)

/* An ImportError: what an environment variable must be, and what it is. */
static int refuse_environment(const char *name, PyObject *allowed)
{
    const char *value = getenv(name);
    PyObject *got = PyUnicode_DecodeFSDefault(value != NULL ? value : "");
    if (allowed != NULL && got != NULL) {
        PyErr_Format(PyExc_ImportError, "%s must be %U, not %R", name, allowed, got);
    }
    Py_XDECREF(got);
    Py_XDECREF(allowed);
    return -1;
}

/* "... of: 'vp_gemm_f32f32_blis__baseline' ..."; NULL with an exception set */
static PyObject *part_of_micro_kernels(void)
{
    PyObject *text = PyUnicode_FromString("a part of the name of a micro-kernel that "
                                          "runs here, of:");
    const char *name = vp_info_micro_kernel(0);
    for (size_t i = 0; text != NULL && name != NULL; name = vp_info_micro_kernel(++i)) {
        PyObject *longer = PyUnicode_FromFormat("%U '%s'", text, name);
        Py_DECREF(text);
        text = longer;
    }
    return text;
}

/* What a variable asks for and cannot have is said at once, and not left unheard. */
static int check_environment(void)
{
    const vp_info info = vp_info_get();
    if (info.target == VP_TARGET_COUNT) {
        return refuse_environment(
            "VITPOOL_TARGET", PyUnicode_FromFormat("one of" TARGET_NAMES
                                                   " and supported by this machine, "
                                                   "whose best is '%s'",
                                                   vp_target_name(vp_target_best())));
    }
    if (!info.wish_met) {
        return refuse_environment("VITPOOL_UKR", part_of_micro_kernels());
    }
    if (!vp_num_threads_wish_met()) {
        return refuse_environment(
            "VITPOOL_NUM_THREADS",
            PyUnicode_FromFormat("an integer from 1 to %d", VP_MAX_THREADS));
    }
    return 0;
}

static int module_exec(PyObject *module)
{
    if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0) {
        /* NumPy's own C-API lives there alone. */
        PyErr_SetString(PyExc_ImportError,
                        "vitpool works in the main interpreter only, as NumPy does");
        return -1;
    }
    if (import_numpy() < 0) {
        return -1;
    }
    if (check_environment() < 0 ||
        PyModule_AddFunctions(module, vp_optimizer_functions) < 0) {
        return -1;
    }
    PyObject *type = PyType_FromModuleAndSpec(module, &vp_model_spec, NULL);
    const int status =
        type != NULL ? PyModule_AddObjectRef(module, "VisionTransformer", type) : -1;
    Py_XDECREF(type);
    return status < 0 ? status
                      : PyModule_AddStringConstant(module, "__version__", VP_VERSION);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if defined(Py_mod_gil)
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "vitpool._core",
    .m_doc = "The C core of vitpool.",
    .m_size = 0,
    .m_methods = functions,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
