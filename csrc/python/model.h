/* The object behind _core.VisionTransformer, for the files that implement its methods.
 *
 * It holds one immutable vp_vit and swaps it whole: every reader takes a reference under the
 * global lock and works on that; every writer builds the next vp_vit beside the current one
 * and swaps if nobody else did meanwhile, else starts over. The GIL is released while the
 * core computes. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_PYTHON_MODEL_H
#define VP_PYTHON_MODEL_H

#include "python/core.h"

typedef struct {
    PyObject_HEAD
    vp_vit *vit;               /* swapped under the global lock; NULL before __init__ */
    vp_workspaces *workspaces; /* set once, under it; may be shared with snapshots */
    PyObject *options;         /* a dict nobody else sees, of the vp_vit `options_of` */
    unsigned long long options_of;
    atomic_size_t next_param; /* where get_parameter looks first */
    PyObject *weakrefs;
} vp_model;

/* 0 where `other` is a model as `object` is, else -1 with a TypeError that names `what`. */
int vp_check_model(PyObject *object, PyObject *other, const char *what);

/* A reference to the current model, or NULL with an exception before __init__; with
 * `workspaces`, they are borrowed from the object. */
vp_vit *vp_model_acquire(vp_model *self, vp_workspaces **workspaces);

/* Makes `vit`, whose reference is taken over, the model; where there is one already, only
 * with `again`. 1: done; 0: there is one; -1 with an exception: no memory. */
int vp_model_begin(vp_model *self, vp_vit *vit, bool again);

/* -- parameters.c -- */

/* Sets parameter i from an array of floats, or from (integers, scale); shape and dtype are
 * checked. 0, or -1 with an exception. */
int vp_param_from(vp_vit *vit, size_t i, PyObject *value);

/* Has the array the parameter's shape? 0, or -1 with an exception. */
int vp_check_param_shape(const vp_param *param, PyArrayObject *array);

/* A reference to the current model and the index of the parameter `target`, a str; NULL with
 * an exception, KeyError where there is none. */
vp_vit *vp_model_find(PyObject *object, PyObject *target, size_t *i);

PyObject *vp_model_param_shapes(PyObject *object, PyObject *unused);
PyObject *vp_model_get_parameter(PyObject *object, PyObject *target);
PyObject *vp_model_untrained(PyObject *object, PyObject *unused);
extern const char vp_model_param_shapes_doc[], vp_model_get_parameter_doc[],
    vp_model_untrained_doc[];

/* -- dtypes.c -- */

/* What a mapping from names to titles of dtypes, or NULL, says of each parameter of vit:
 * [num_params], a vp_dtype, or -1 where it says nothing. NULL with an exception; for
 * PyMem_Free. */
signed char *vp_dtypes_from(PyObject *dtypes, const vp_vit *vit);

/* Is it (int8, scale)? */
bool vp_is_integers(PyObject *value);

/* Sets parameter i from that: to the bit where its dtype is one of integers, else to the
 * numbers that they stand for. 0, or -1 with an exception. */
int vp_param_from_integers(vp_vit *vit, size_t i, PyObject *value);

PyObject *vp_model_dtypes(PyObject *object, PyObject *unused);
PyObject *vp_model_integers(PyObject *object, PyObject *target);
extern const char vp_model_dtypes_doc[], vp_model_integers_doc[];

/* -- change.c -- */

int vp_model_init(PyObject *object, PyObject *args, PyObject *kwargs);
PyObject *vp_model_reset_classifier(PyObject *object, PyObject *args, PyObject *kwargs);
PyObject *vp_model_replace(PyObject *object, PyObject *args);
PyObject *vp_model_commit(PyObject *object, PyObject *args);
extern const char vp_model_reset_classifier_doc[], vp_model_replace_doc[],
    vp_model_commit_doc[];

/* -- forward.c, forward_head.c -- */

PyObject *vp_model_run(PyObject *object, PyObject *args, PyObject *kwargs);
PyObject *vp_model_forward_head(PyObject *object, PyObject *args, PyObject *kwargs);
PyObject *vp_model_pool(PyObject *object, PyObject *args, PyObject *kwargs);
extern const char vp_model_run_doc[], vp_model_forward_head_doc[], vp_model_pool_doc[];

/* -- gradients.c -- */

PyObject *vp_model_gradients(PyObject *object, PyObject *args, PyObject *kwargs);
extern const char vp_model_gradients_doc[];

/* -- forward_part.c -- */

PyObject *vp_model_part(PyObject *object, PyObject *args);
extern const char vp_model_part_doc[];

/* x as images: four dimensions, the model's channels. Which sizes fit is for
 * vp_vit_check_forward; any_size is for the message. (forward.c) */
PyArrayObject *vp_images_from(const vp_vit *vit, PyObject *x, bool any_size);

/* A position embedding (1, rows, embed_dim). (forward.c) */
PyArrayObject *vp_pos_embed_from(const vp_vit *vit, PyObject *object, size_t rows);

/* A rotary table, of any shape; and whether its shape is that of `tokens` of the model: 0, or
 * -1 with an exception. (forward.c) */
PyArrayObject *vp_rope_from(PyObject *object);
int vp_check_rope(const vp_vit *vit, PyArrayObject *rope, size_t tokens);

/* x as rows of the model's width: (B, C), or (B, N, C) with ndim 3. */
PyArrayObject *vp_rows_from(const vp_vit *vit, PyObject *x, int ndim);

/* A new array for what `output` gives of a batch. */
PyArrayObject *vp_output_new(const vp_config *config, vp_output output, size_t batch,
                             size_t tokens);

#endif
