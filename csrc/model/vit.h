/* timm's Vision Transformers: the public header of the core.
 *
 * A vp_vit is built once (create, then each parameter set), then never changed, counted by
 * references and safe to use from any thread. What changes a model (reset_classifier,
 * load_state_dict, pruning) makes a new vp_vit that shares the weights it keeps; the owner
 * swaps one pointer. So every change is whole or has not happened.
 *
 * Letters: B images, N tokens (prefix + patches), C embed_dim, H heads, D head width,
 * K num_classes. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_MODEL_VIT_H
#define VP_MODEL_VIT_H

#include "base/status.h"
#include "model/config.h"
#include "model/profile.h"
#include "model/weight.h"
#include "ops/attention.h"

typedef struct vp_vit vp_vit;

/* A parameter: timm's dotted name and its shape. */
typedef struct {
    char name[96];
    size_t ndim, shape[4];
    vp_weight **slot; /* where the model keeps it */
    bool matrix;      /* packed; shape[0] rows */
    size_t first;     /* rows of the first part, see vp_weight_create_matrix */
    bool random;      /* drawn by vp_vit_init_param, and nothing was set since */
    vp_dtype dtype;   /* what its numbers are kept as; f32 but where set otherwise */
} vp_param;

/* A model without numbers, one reference. VP_ERR_VALUE or VP_ERR_MEMORY. */
vp_status vp_vit_create(const vp_config *config, vp_vit **vit, vp_error *err);
vp_vit *vp_vit_ref(vp_vit *vit);
void vp_vit_unref(vp_vit *vit); /* NULL is fine */

/* A place whose model any thread may read and replace. acquire: a reference to the model
 * that is there (NULL: none yet). commit: puts `next` in the place of `expected`, and drops
 * what is no longer needed of the two references, the place's and the caller's; false, and
 * the place is as it was, where another thread was faster. */
vp_vit *vp_vit_acquire(vp_vit *const *place);
bool vp_vit_commit(vp_vit **place, vp_vit *expected, vp_vit *next);

const vp_config *vp_vit_config(const vp_vit *vit);
size_t vp_vit_num_params(const vp_vit *vit);
const vp_param *vp_vit_param(const vp_vit *vit, size_t i);
size_t vp_param_count(const vp_param *param); /* numbers */
size_t vp_vit_weight_bytes(const vp_vit *vit);

/* A number that no other model has. */
unsigned long long vp_vit_serial(const vp_vit *vit);

/* A number that names this model's attention pool as long as it lives; 0: none. */
unsigned long long vp_vit_pool_serial(const vp_vit *vit);

/* The factor of a differential attention's second map; which: see vp_map. */
float vp_vit_lambda(const vp_vit *vit, size_t block, size_t which);

/* The index of the parameter of that name, or num_params where there is none. The search
 * begins at `start` and wraps around: a walk in order finds each parameter at once. */
size_t vp_vit_find_param(const vp_vit *vit, const char *name, size_t start);

/* Building. Parameter i gets a copy of numbers[count]; or shares `from`'s parameter of the
 * same name and shape (false where there is none); or fresh random numbers, timm's
 * distribution for `mode` ("", "jax", "jax_nlhb", "moco", "reset"; else VP_ERR_VALUE).
 * What is shared keeps its dtype. Sharing begins its search at *start, which it leaves behind
 * what it has found. VP_ERR_VALUE: a finite number is beyond what a float16 parameter holds. */
vp_status vp_vit_set_param(vp_vit *vit, size_t i, const float *numbers, vp_error *err);
bool vp_vit_share_param(vp_vit *vit, size_t i, const vp_vit *from, size_t *start);

/* What parameter i is kept as from its next set_param on; before it has numbers. VP_ERR_VALUE: it
 * is no matrix, or has too many inputs for integers. */
vp_status vp_vit_set_dtype(vp_vit *vit, size_t i, vp_dtype dtype, vp_error *err);

/* Parameter i gets integers q[n][k], -127 to 127, and scale[n]; its dtype is one of integers. */
vp_status vp_vit_set_param_int(vp_vit *vit, size_t i, const int8_t *q,
                               const float *scale, vp_error *err);

/* Parameter i gets the numbers of `from`'s of the same name and shape as this dtype: shared
 * where that is what `from` keeps, else rounded anew; whether it is random stays. VP_ERR_KEY
 * names one that `from` lacks; VP_ERR_VALUE as vp_vit_set_dtype. */
vp_status vp_vit_convert_param(vp_vit *vit, size_t i, const vp_vit *from,
                               vp_dtype dtype, vp_error *err);

/* The dtype of the parameter of that name, f32 where there is none. */
vp_dtype vp_vit_dtype_of(const vp_vit *vit, const char *name);

/* Says that what parameter i was set to is random all the same: resampled from random
 * numbers, or drawn elsewhere. */
void vp_vit_mark_random(vp_vit *vit, size_t i);
typedef struct {
    const char *mode;
    bool fix_init;
    unsigned long long seed;
} vp_init;
vp_status vp_vit_init_param(vp_vit *vit, size_t i, const vp_init *init, vp_error *err);

/* The last step: derives what forward needs from the parameters, all of which are set. */
vp_status vp_vit_finish(vp_vit *vit, vp_error *err);

/* timm's reset_classifier: a new model with num_classes outputs (0: no head) and, unless
 * pool is NULL, that pool. The head is fresh, drawn with `seed`, in float32; all other weights
 * are shared. An attention pool stays, with its serial, as long as `pool` is that pool or NULL;
 * another pool drops it. VP_ERR_VALUE for a pool that needs an attention pool which the
 * model lacks, unless add_attn_pool asks for a fresh one; and for a token pool without a
 * class token. norm and fc_norm stay where they are. (model/classifier.c) */
vp_status vp_vit_reset_classifier(vp_vit *vit, size_t num_classes, const vp_pool *pool,
                                  bool add_attn_pool, unsigned long long seed,
                                  vp_vit **out, vp_error *err);

/* A new model with the same weights where `config` still has them, for changes that only
 * drop parts (pruning) or replace some (set_input_size: the caller sets those first).
 * Parameters already set are kept, the rest shared; VP_ERR_KEY names one that is missing. */
vp_status vp_vit_share_rest(vp_vit *vit, const vp_vit *from, vp_error *err);

/* Scratch memory, reused from call to call; any number of threads, and of models. */
typedef struct vp_workspaces vp_workspaces;
vp_workspaces *vp_workspaces_create(void); /* one reference; NULL without memory */
vp_workspaces *vp_workspaces_ref(vp_workspaces *workspaces);
void vp_workspaces_unref(vp_workspaces *workspaces);   /* NULL is fine */
void vp_workspaces_release(vp_workspaces *workspaces); /* gives idle memory back */
size_t vp_workspaces_bytes(vp_workspaces *workspaces);

typedef enum {
    VP_OUT_NONE,
    VP_OUT_FEATURES,   /* (B, N, C): forward_features */
    VP_OUT_PRE_LOGITS, /* (B, C), or (B, N, C) without a pool */
    VP_OUT_LOGITS,     /* (B, K), or (B, N, K) */
} vp_output;

/* Where in a block the residual stream x is read. A new place is a name here, a call of
 * vp_pass_tap in block.c and a line in vp_block_has. */
#define VP_PLACES(X)                      \
    X(OUT, "out")   /* after the block */ \
    X(IN, "in")     /* before it */       \
    X(ATTN, "attn") /* after attention's residual, before the MLP */

typedef enum {
#define VP_PLACE_ENUM(place, name) VP_PLACE_##place,
    VP_PLACES(VP_PLACE_ENUM)
#undef VP_PLACE_ENUM
        VP_PLACE_COUNT,
} vp_place;

extern const char *const vp_place_names[VP_PLACE_COUNT];

/* The residual stream at a place of block `block`, normed by the final norm if wanted:
 * (B, N, C). The parallel scaling blocks add attention and MLP at once: they have no ATTN. */
typedef struct {
    size_t block;
    vp_place place;
    bool norm;
    float *out;
} vp_tap;

/* Attention weights of block `block`, (B, H', N, N), H' = 2 H in differential attention;
 * or, with block VP_MAP_POOL, of the attention pool: (B, H, 1, N') or (B, H, N', N'). */
#define VP_MAP_POOL ((size_t)-1)
typedef struct {
    size_t block, which; /* which: of the parallel attentions of ParallelThingsBlock */
    float *out;
} vp_map;

typedef struct {
    size_t batch;
    /* What goes in: images, before block 0 (first is 0); or, where images is NULL, tokens,
     * before block `first`, as a tap gives them. */
    const float *images; /* (B, in_chans, height, width) */
    size_t height, width;
    /* In place of images, NaFlexVit: rows (B, num_patches, in_chans * ph * pw) of pixels as
     * its embedding takes them, of which each row has its position in pos_embed. */
    const float *patches;
    size_t num_patches;
    /* Resampled to this grid, or NULL: the model's own. See vp_vit_wants_positions. */
    const float *pos_embed;
    /* The rotary table of this grid (vp_vit_rope), or NULL: the model's own, of whose grid the
     * patches then are. */
    const float *rope;
    const float *tokens; /* (B, num_tokens, C) */
    size_t num_tokens;
    const vp_mask *mask; /* strides as vp_mask; or NULL */
    size_t first, depth; /* blocks [first, depth) run */
    vp_output output;
    float *out;
    /* NULL, or the path of a module that runs alone: images or tokens (B, num_tokens, in)
     * go into it, `out` gets what vp_vit_part says. Then no fields but mask and rope are read
     * further: first, depth, output, taps, maps are not. */
    const char *part;
    const vp_tap *taps;
    size_t num_taps;
    const vp_map *maps;
    size_t num_maps;
    vp_profile *profile; /* or NULL */
} vp_forward;

/* What goes into a module that runs alone, and what comes out of it. */
typedef enum {
    VP_PART_EACH,   /* (B, N, 1) to (B, N, 1), each number for itself */
    VP_PART_ROWS,   /* (B, N, in) to (B, N, out), each row for itself */
    VP_PART_TOKENS, /* the same, an image's rows together; it takes a mask */
    VP_PART_POOL,   /* (B, N, in) to (B, out) */
    VP_PART_IMAGES, /* images to (B, patches, out) */
} vp_part_shape;

/* How the module of that path runs alone. in, out: numbers of a row. VP_ERR_KEY: nothing of
 * that path computes alone. (model/part.c) */
typedef struct {
    vp_part_shape shape;
    size_t in, out;
} vp_part_info;
vp_status vp_vit_part(const vp_vit *vit, const char *path, vp_part_info *info,
                      vp_error *err);

/* Can the model run this? VP_ERR_VALUE says what it cannot. N goes to *tokens. No array is
 * read or written, so a caller may ask before it makes those for the outputs. */
vp_status vp_vit_check_forward(const vp_vit *vit, const vp_forward *forward,
                               size_t *tokens, vp_error *err);

/* Must the request bring positions? Patches lie where only the caller knows, and factorized
 * positions are not kept as a sum. */
bool vp_vit_wants_positions(const vp_vit *vit, const vp_forward *forward);

/* Is (height, width) an input that this model takes? VP_ERR_VALUE says which fit. The
 * grid of patches it gives goes to grid[2]. */
vp_status vp_vit_check_size(const vp_vit *vit, size_t height, size_t width,
                            size_t grid[2], vp_error *err);

/* Floats of the rotary table of a grid, 0 without rope; its dimensions, which are returned:
 * (patches, 2 D), or with mixed rope (depth, H, patches, 2 D); and the table, which is what
 * vp_forward.rope takes. (model/rotary.c) */
size_t vp_vit_rope_size(const vp_vit *vit, const size_t grid[2]);
int vp_vit_rope_shape(const vp_vit *vit, size_t patches, size_t shape[4]);
void vp_vit_rope(const vp_vit *vit, const size_t grid[2], float *table);

/* (H', N, N), the shape of one image's attention weights of a block, or with VP_MAP_POOL of
 * the pool; tokens: N of the image. */
void vp_vit_map_shape(const vp_vit *vit, size_t tokens, size_t block, size_t shape[3]);

/* Runs it; outputs are written on success only. VP_ERR_VALUE and, for a part, VP_ERR_KEY as
 * vp_vit_check_forward, VP_ERR_MEMORY. Thread-safe. */
vp_status vp_vit_forward(const vp_vit *vit, vp_workspaces *workspaces,
                         const vp_forward *forward, vp_error *err);

/* May a pool read images of n tokens of this model? VP_ERR_VALUE: too few, or too many. */
vp_status vp_vit_check_tokens(const vp_vit *vit, vp_pool pool, size_t n, vp_error *err);

/* forward_head on tokens (B, N, C): pool, fc_norm, head as `output` asks. */
vp_status vp_vit_forward_head(const vp_vit *vit, vp_workspaces *workspaces,
                              const float *tokens, size_t batch, size_t n,
                              vp_output output, float *out, vp_error *err);

/* pool on tokens (B, N, C) with this pool, which the model must have: (B, C) or, with
 * VP_POOL_NONE, (B, N, C). */
vp_status vp_vit_pool(const vp_vit *vit, vp_workspaces *workspaces, const float *tokens,
                      size_t batch, size_t n, vp_pool pool, float *out, vp_error *err);

/* May `pool` be used on this model's tokens? VP_ERR_VALUE. */
vp_status vp_vit_check_pool(const vp_vit *vit, vp_pool pool, vp_error *err);

#endif
