/* The methods of _core.VisionTransformer that compute. SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "python/model.h"

const char vp_model_run_doc[] =
    "_run($self, x, output, attn_mask=None, is_causal=False, pos_embed=None, "
    "depth=-1,\n"
    "     taps=(), maps=(), profile=False, first=None, rope=None, "
    "patches=False)\n--\n\n"
    "One forward pass of images x or, where first is given, of tokens x, shape "
    "(batch,\n"
    "tokens, embed_dim), before block first. With patches x is rows of pixels, shape\n"
    "(batch, patches, pixels), and pos_embed has a position for each.\n"
    "output: 0 nothing, 1 features, 2 pre_logits, 3 logits. depth: the blocks before "
    "it\n"
    "run; -1: all.\n"
    "taps: (block, norm) or (block, norm, place) of the residual stream, place 'in',\n"
    "'attn' (after attention, before the MLP) or 'out'. maps: (block, which) pairs, "
    "block\n"
    "-1 for the pool.\n"
    "rope: the rotary table of the patches, as _rope gives it; None: of the model's "
    "own "
    "grid.\n"
    "Gives (output or None, [taps], [maps], profile dict or None).";

/* Everything a request needs, owned; released in one place. */
typedef struct {
    vp_vit *vit;
    PyArrayObject *x, *pos_embed, *rope, *out;
    vp_py_mask mask;
    PyObject *tap_arrays, *map_arrays; /* lists */
    vp_tap *taps;
    vp_map *maps;
    vp_forward forward;
    vp_profile profile;
    size_t tokens; /* of an image */
} request;

static void request_free(request *r)
{
    vp_vit_unref(r->vit);
    Py_XDECREF(r->x);
    Py_XDECREF(r->pos_embed);
    Py_XDECREF(r->rope);
    Py_XDECREF(r->out);
    vp_py_mask_free(&r->mask);
    Py_XDECREF(r->tap_arrays);
    Py_XDECREF(r->map_arrays);
    PyMem_Free(r->taps);
    PyMem_Free(r->maps);
}

PyArrayObject *vp_images_from(const vp_vit *vit, PyObject *x, bool any_size)
{
    const vp_config *c = vp_vit_config(vit);
    char axes[64], size[48] = "H, W";
    if (!any_size) {
        (void)snprintf(size, sizeof size, "%zu, %zu", c->img_size[0], c->img_size[1]);
    }
    (void)snprintf(axes, sizeof axes, "(B, %zu, %s)", c->in_chans, size);
    PyArrayObject *images = vp_array_from(x, "x", 4, axes);
    const npy_intp *shape = images != NULL ? PyArray_DIMS(images) : NULL;
    if (images != NULL && (size_t)shape[1] != c->in_chans) {
        PyErr_Format(PyExc_ValueError,
                     "x must have shape %s, %zu channels, not (%zd, %zd, %zd, %zd)",
                     axes, c->in_chans, (Py_ssize_t)shape[0], (Py_ssize_t)shape[1],
                     (Py_ssize_t)shape[2], (Py_ssize_t)shape[3]);
        Py_CLEAR(images);
    }
    return images;
}

static int take_images(request *r, PyObject *x)
{
    r->x = vp_images_from(r->vit, x, vp_vit_config(r->vit)->dynamic_img_size);
    if (r->x == NULL) {
        return -1;
    }
    const npy_intp *shape = PyArray_DIMS(r->x);
    r->forward.images = PyArray_DATA(r->x);
    r->forward.batch = (size_t)shape[0];
    r->forward.height = (size_t)shape[2];
    r->forward.width = (size_t)shape[3];
    return 0;
}

/* Patches as NaFlexVit's embedding takes them. */
static int take_patches(request *r, PyObject *x)
{
    const vp_config *c = vp_vit_config(r->vit);
    const size_t width = c->in_chans * c->patch_size[0] * c->patch_size[1];
    r->x = vp_array_from(x, "patches", 3, "(B, N, pixels)");
    if (r->x == NULL) {
        return -1;
    }
    const npy_intp *shape = PyArray_DIMS(r->x);
    if ((size_t)shape[2] != width) {
        PyErr_Format(PyExc_ValueError,
                     "patches must have shape (B, N, %zu), not (%zd, %zd, %zd)", width,
                     (Py_ssize_t)shape[0], (Py_ssize_t)shape[1], (Py_ssize_t)shape[2]);
        return -1;
    }
    r->forward.patches = PyArray_DATA(r->x);
    r->forward.batch = (size_t)shape[0];
    r->forward.num_patches = (size_t)shape[1];
    return 0;
}

/* Tokens that go into block `first`. */
static int take_tokens(request *r, PyObject *x, PyObject *first)
{
    const Py_ssize_t block = vp_count_from(first, "first");
    r->x = block >= 0 ? vp_rows_from(r->vit, x, 3) : NULL;
    if (r->x == NULL) {
        return -1;
    }
    r->forward.first = (size_t)block;
    r->forward.tokens = PyArray_DATA(r->x);
    r->forward.batch = (size_t)PyArray_DIM(r->x, 0);
    r->forward.num_tokens = (size_t)PyArray_DIM(r->x, 1);
    return 0;
}

PyArrayObject *vp_pos_embed_from(const vp_vit *vit, PyObject *object, size_t rows)
{
    const size_t width = vp_vit_config(vit)->embed_dim;
    PyArrayObject *array =
        vp_array_from(object, "pos_embed", 3, "(1, tokens, embed_dim)");
    const npy_intp *shape = array != NULL ? PyArray_DIMS(array) : NULL;
    if (array != NULL &&
        (shape[0] != 1 || (size_t)shape[1] != rows || (size_t)shape[2] != width)) {
        PyErr_Format(PyExc_ValueError,
                     "pos_embed must have shape (1, %zu, %zu), not (%zd, %zd, %zd)",
                     rows, width, (Py_ssize_t)shape[0], (Py_ssize_t)shape[1],
                     (Py_ssize_t)shape[2]);
        Py_CLEAR(array);
    }
    return array;
}

/* The position embedding must have a row for each token it is added to. */
static int take_pos_embed(request *r, PyObject *pos_embed)
{
    const vp_config *c = vp_vit_config(r->vit);
    const size_t rows = r->tokens - (c->no_embed_class ? vp_config_prefix(c) : 0);
    const size_t own =
        vp_config_patches(c) + (c->no_embed_class ? 0 : vp_config_prefix(c));
    if (!c->pos_embed || (r->forward.images == NULL && r->forward.patches == NULL)) {
        if (pos_embed != Py_None) {
            PyErr_SetString(PyExc_ValueError,
                            "pos_embed must be None: it is not added");
            return -1;
        }
        return 0;
    }
    if (pos_embed == Py_None) {
        if (rows != own || vp_vit_wants_positions(r->vit, &r->forward)) {
            PyErr_Format(PyExc_ValueError, "pos_embed must be given for %s",
                         rows != own ? "this image size" : "this model");
            return -1;
        }
        return 0;
    }
    r->pos_embed = vp_pos_embed_from(r->vit, pos_embed, rows);
    if (r->pos_embed == NULL) {
        return -1;
    }
    r->forward.pos_embed = PyArray_DATA(r->pos_embed);
    return 0;
}

PyArrayObject *vp_rope_from(PyObject *object)
{
    return vp_array_from(object, "rope", -1, "(patches, 2 * head width)");
}

int vp_check_rope(const vp_vit *vit, PyArrayObject *rope, size_t tokens)
{
    size_t shape[4];
    const int ndim =
        vp_vit_rope_shape(vit, tokens - vp_config_prefix(vp_vit_config(vit)), shape);
    bool fits = PyArray_NDIM(rope) == ndim;
    for (int i = 0; fits && i < ndim; i++) {
        fits = (size_t)PyArray_DIM(rope, i) == shape[i];
    }
    if (!fits) {
        PyObject *given = PyObject_GetAttrString((PyObject *)rope, "shape");
        char wanted[96];
        (void)snprintf(wanted, sizeof wanted,
                       ndim == 2 ? "(%zu, %zu)" : "(%zu, %zu, %zu, %zu)", shape[0],
                       shape[1], shape[2], shape[3]);
        PyErr_Format(PyExc_ValueError, "rope must have shape %s, not %S", wanted,
                     given);
        Py_XDECREF(given);
    }
    return fits ? 0 : -1;
}

/* A tuple of what `taps` or `maps` is, items zeroed for it at *items; its length, or -1. */
static Py_ssize_t take_list(PyObject *sequence, const char *what, size_t size,
                            PyObject **tuple, void **items)
{
    if (!PySequence_Check(sequence) || PyUnicode_Check(sequence)) {
        (void)vp_raise_type(sequence, "%s must be a sequence of tuples", what);
        return -1;
    }
    *tuple = PySequence_Tuple(sequence);
    const Py_ssize_t count = *tuple != NULL ? PyTuple_Size(*tuple) : -1;
    *items = count >= 0 ? PyMem_Calloc((size_t)(count > 0 ? count : 1), size) : NULL;
    if (count >= 0 && *items == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GetItem(*tuple, i);
        if (!PyTuple_Check(item)) {
            (void)vp_raise_type(item, "%s must be a sequence of tuples", what);
            return -1;
        }
    }
    return count;
}

static int place_from(PyObject *object, vp_place *place)
{
    for (int p = 0; PyUnicode_Check(object) && p < VP_PLACE_COUNT; p++) {
        if (PyUnicode_CompareWithASCIIString(object, vp_place_names[p]) == 0) {
            *place = (vp_place)p;
            return 0;
        }
    }
    PyErr_Format(PyUnicode_Check(object) ? PyExc_ValueError : PyExc_TypeError,
                 "a tap's place must be 'in', 'attn' or 'out', not %R", object);
    return -1;
}

static int take_taps(request *r, PyObject *taps)
{
    PyObject *tuple = NULL;
    void *items = NULL;
    const Py_ssize_t count = take_list(taps, "taps", sizeof *r->taps, &tuple, &items);
    bool ok = count >= 0;
    r->taps = items;
    for (Py_ssize_t i = 0; ok && i < count; i++) {
        PyObject *block_object, *place = NULL;
        int norm = 0;
        ok = PyArg_ParseTuple(PyTuple_GetItem(tuple, i),
                              "Op|O;taps must be (block, norm) or (block, norm, place)",
                              &block_object, &norm, &place);
        const Py_ssize_t block = ok ? vp_count_from(block_object, "a tap's block") : -1;
        r->taps[i] = (vp_tap){.block = (size_t)block, .norm = norm};
        ok = block >= 0 && (place == NULL || place_from(place, &r->taps[i].place) == 0);
    }
    Py_XDECREF(tuple);
    r->forward.taps = r->taps;
    r->forward.num_taps = ok ? (size_t)count : 0;
    return ok ? 0 : -1;
}

static int take_maps(request *r, PyObject *maps)
{
    PyObject *tuple = NULL;
    void *items = NULL;
    const Py_ssize_t count = take_list(maps, "maps", sizeof *r->maps, &tuple, &items);
    bool ok = count >= 0;
    r->maps = items;
    for (Py_ssize_t i = 0; ok && i < count; i++) {
        PyObject *block_object, *which_object;
        ok = PyArg_ParseTuple(PyTuple_GetItem(tuple, i),
                              "OO;maps must be (block, which) pairs", &block_object,
                              &which_object);
        Py_ssize_t block = 0, which = 0;
        ok = ok && vp_int_from(block_object, "a map's block", -1, &block) == 0 &&
             vp_int_from(which_object, "a map's attention", 0, &which) == 0;
        r->maps[i].block = block == -1 ? VP_MAP_POOL : (size_t)block;
        r->maps[i].which = (size_t)which;
    }
    Py_XDECREF(tuple);
    r->forward.maps = r->maps;
    r->forward.num_maps = ok ? (size_t)count : 0;
    return ok ? 0 : -1;
}

/* A new array in list[i]; its numbers, or NULL. */
static float *new_array_in(PyObject *list, Py_ssize_t i, int ndim,
                           const npy_intp *shape)
{
    PyArrayObject *array = vp_array_new(ndim, shape);
    if (array == NULL || PyList_SetItem(list, i, (PyObject *)array) < 0) {
        return NULL;
    }
    return PyArray_DATA(array);
}

/* Arrays for the output, taps and maps of a request that has been checked. */
static int new_arrays(request *r)
{
    const vp_config *c = vp_vit_config(r->vit);
    const vp_forward *f = &r->forward;
    const npy_intp batch = (npy_intp)f->batch, tokens = (npy_intp)r->tokens;
    const npy_intp tap_shape[3] = {batch, tokens, (npy_intp)c->embed_dim};
    r->tap_arrays = PyList_New((Py_ssize_t)f->num_taps);
    r->map_arrays = PyList_New((Py_ssize_t)f->num_maps);
    if (r->tap_arrays == NULL || r->map_arrays == NULL) {
        return -1;
    }
    for (size_t i = 0; i < f->num_taps; i++) {
        r->taps[i].out = new_array_in(r->tap_arrays, (Py_ssize_t)i, 3, tap_shape);
        if (r->taps[i].out == NULL) {
            return -1;
        }
    }
    for (size_t i = 0; i < f->num_maps; i++) {
        size_t shape[3];
        vp_vit_map_shape(r->vit, r->tokens, r->maps[i].block, shape);
        const npy_intp map_shape[4] = {batch, (npy_intp)shape[0], (npy_intp)shape[1],
                                       (npy_intp)shape[2]};
        r->maps[i].out = new_array_in(r->map_arrays, (Py_ssize_t)i, 4, map_shape);
        if (r->maps[i].out == NULL) {
            return -1;
        }
    }
    if (f->output != VP_OUT_NONE) {
        r->out = vp_output_new(c, f->output, f->batch, r->tokens);
        if (r->out == NULL) {
            return -1;
        }
        r->forward.out = PyArray_DATA(r->out);
    }
    return 0;
}

static PyObject *profile_dict(const vp_profile *p)
{
    PyObject *dict = Py_BuildValue("{s:d,s:n,s:n,s:n}", "total", p->total, "chunks",
                                   (Py_ssize_t)p->chunks, "query_blocks",
                                   (Py_ssize_t)p->query_blocks, "key_blocks",
                                   (Py_ssize_t)p->key_blocks);
    for (int i = 0; dict != NULL && i < VP_PROFILE_COUNT; i++) {
        PyObject *row =
            Py_BuildValue("{s:d,s:d,s:n}", "seconds", p->seconds[i], "flops",
                          p->flops[i], "calls", (Py_ssize_t)p->calls[i]);
        if (row == NULL || PyDict_SetItemString(dict, vp_profile_names[i], row) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(row);
    }
    return dict;
}

/* (output or None, taps, maps, profile or None); takes nothing from r but references. */
static PyObject *results(request *r)
{
    PyObject *out = r->out != NULL ? (PyObject *)r->out : Py_None;
    if (r->forward.profile == NULL) {
        return PyTuple_Pack(4, out, r->tap_arrays, r->map_arrays, Py_None);
    }
    PyObject *profile = profile_dict(&r->profile);
    PyObject *tuple = profile != NULL
                          ? PyTuple_Pack(4, out, r->tap_arrays, r->map_arrays, profile)
                          : NULL;
    Py_XDECREF(profile);
    return tuple;
}

/* Which output; -1 with an exception. */
static int output_from(PyObject *object)
{
    const Py_ssize_t output = vp_count_from(object, "output");
    if (output > VP_OUT_LOGITS) {
        PyErr_Format(PyExc_ValueError, "output must be from 0 to %d, not %zd",
                     VP_OUT_LOGITS, output);
        return -1;
    }
    return (int)output;
}

PyObject *vp_model_run(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"x",     "output",  "attn_mask", "is_causal", "pos_embed",
                            "depth", "taps",    "maps",      "profile",   "first",
                            "rope",  "patches", NULL};
    PyObject *x, *output_object, *attn_mask = Py_None, *pos_embed = Py_None;
    PyObject *depth_object = NULL, *taps = NULL, *maps = NULL;
    PyObject *first = Py_None, *rope = Py_None;
    int is_causal = 0, profile = 0, patches = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|OpOOOOpOOp:_run", names, &x,
                                     &output_object, &attn_mask, &is_causal, &pos_embed,
                                     &depth_object, &taps, &maps, &profile, &first,
                                     &rope, &patches)) {
        return NULL;
    }
    const int output = output_from(output_object);
    Py_ssize_t depth = -1;
    if (output < 0 ||
        (depth_object != NULL && vp_int_from(depth_object, "depth", -1, &depth) < 0)) {
        return NULL;
    }
    request r = {0};
    vp_workspaces *workspaces;
    vp_error err = {VP_OK, ""};
    PyObject *result = NULL;
    r.vit = vp_model_acquire((vp_model *)object, &workspaces);
    if (r.vit == NULL) {
        return NULL;
    }
    const vp_config *c = vp_vit_config(r.vit);
    r.forward.depth = depth == -1 ? c->depth : (size_t)depth;
    r.forward.output = (vp_output)output;
    r.forward.profile = profile ? &r.profile : NULL;
    if ((first != Py_None ? take_tokens(&r, x, first)
         : patches        ? take_patches(&r, x)
                          : take_images(&r, x)) < 0 ||
        (taps != NULL && take_taps(&r, taps) < 0) ||
        (maps != NULL && take_maps(&r, maps) < 0)) {
        goto done;
    }
    if (rope != Py_None) {
        r.rope = vp_rope_from(rope);
        if (r.rope == NULL) {
            goto done;
        }
        r.forward.rope = PyArray_DATA(r.rope);
    }
    if (vp_vit_check_forward(r.vit, &r.forward, &r.tokens, &err) != VP_OK) {
        result = vp_raise(&err);
        goto done;
    }
    if (take_pos_embed(&r, pos_embed) < 0 ||
        (r.rope != NULL && vp_check_rope(r.vit, r.rope, r.tokens) < 0) ||
        vp_py_mask_init(&r.mask, attn_mask, is_causal, r.forward.batch, c->num_heads,
                        r.tokens) < 0 ||
        new_arrays(&r) < 0) {
        goto done;
    }
    r.forward.mask = r.mask.array != NULL || is_causal ? &r.mask.mask : NULL;
    vp_status status;
    Py_BEGIN_ALLOW_THREADS
    status = vp_vit_forward(r.vit, workspaces, &r.forward, &err);
    Py_END_ALLOW_THREADS
    result = status == VP_OK ? results(&r) : vp_raise(&err);
done:
    request_free(&r);
    return result;
}
