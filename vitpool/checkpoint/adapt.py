# SPDX-License-Identifier: Apache-2.0
"""Fits a checkpoint in timm's keys to a model: sizes, channels, classes, pool.

What timm does in its checkpoint_filter_fn and load_pretrained, but that no trained norm
is dropped: where the model's pool wants it on the other side, it moves there.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..resample import FloatArray, resample_abs_pos_embed, resample_patch_embed
from .formats import find_format
from .lazy import Array, LazyTensor, StateDict, lazy_tensors
from .spec import Spec

_log = logging.getLogger("vitpool")

PATCH = "patch_embed.proj.weight"


def convert_state_dict(
    state_dict: Mapping[str, Any], spec: Spec, *, new_head: bool = True
) -> StateDict:
    """The weights for the model that `spec` describes, in timm's keys, still lazy.

    state_dict: key to array in any layout of `formats`.
    new_head: leave out a head of pretrained_cfg's `num_classes` where the model has
        another number of classes, as timm's load_pretrained does.
    Keys that do not fit are kept. Raises ValueError for what cannot be converted.
    """
    source = getattr(state_dict, "source", "")
    tensors = lazy_tensors(state_dict)
    module = find_format(tensors)
    layout = module.__name__.rpartition(".")[2] if module else "timm"
    try:
        if module:
            tensors = module.convert(tensors, spec)
        out = {}
        for key, tensor in tensors.items():
            if "pre_logits" in key:
                continue  # of the first ViTs; no published weights use it
            out[re.sub(r"gamma_([0-9])", r"ls\1.gamma", key)] = tensor  # DeiT-3
        _positions(out, spec, layout)
        _patches(out, spec, layout)
        _head(out, spec, new_head)
        _norms(out, spec)
        _pool(out, spec)
    except ValueError as error:
        raise ValueError(f"{source}: {error}" if source else str(error)) from None
    except LookupError as error:
        # A layout is known by one key; a file may lack the others, or their axes.
        what = f"looks like a checkpoint of {layout}, but lacks part of it: {error}"
        raise ValueError(f"{source}: {what}" if source else what) from None
    return StateDict(out, source)


def adapt_input_conv(weight: FloatArray, in_chans: int) -> FloatArray:
    """A kernel (O, I, h, w) for another number of channels, as timm makes it.

    One channel gets the sum of all; more repeat the old ones, scaled by I / in_chans so
    that the response keeps its size.
    """
    channels = weight.shape[1]
    if in_chans == channels:
        return weight
    if in_chans == 1:
        return weight.sum(axis=1, keepdims=True)
    repeated = np.tile(weight, (1, math.ceil(in_chans / channels), 1, 1))[:, :in_chans]
    return repeated * np.float32(channels / in_chans)


def _filter(spec: Spec, layout: str) -> tuple[str, bool]:
    """Interpolation and antialiasing; JAX's archives are resized as FlexiViT's are."""
    if layout == "jax":
        return "bilinear", False
    return spec.interpolation, spec.antialias


def _patches(out: dict[str, LazyTensor], spec: Spec, layout: str) -> None:
    """Resize the patch embedding, and change its channels."""
    target = spec.shapes.get(PATCH)
    tensor = out.get(PATCH)
    if tensor is None or target is None:
        return
    if len(tensor.shape) < 4:
        # A linear layer on flat patches, of the time before convolutions.
        tensor = tensor.reshape(target[0], -1, *target[2:])
    if len(tensor.shape) != 4 or 0 in tensor.shape:
        return  # reported as a wrong shape
    width, channels, *old = tensor.shape
    size = (target[2], target[3])
    if tuple(old) != size:
        interpolation, antialias = _filter(spec, layout)

        def resize(data: Array) -> Array:
            return resample_patch_embed(_f32(data), size, interpolation, antialias)

        tensor = tensor.map(resize, (width, channels, *size))
        _log.info("patch embedding resized from %s to %s", tuple(old), size)
    if channels != target[1]:

        def adapt(data: Array) -> Array:
            return adapt_input_conv(_f32(data), target[1])

        tensor = tensor.map(adapt, (width, target[1], *size))
        _log.info("patch embedding changed from %d to %d channels", channels, target[1])
    out[PATCH] = tensor


def _positions(out: dict[str, LazyTensor], spec: Spec, layout: str) -> None:
    """Resize the position embedding to the model's grid; before the patches are."""
    target = spec.shapes.get("pos_embed")
    tensor = out.get("pos_embed")
    if tensor is None or target is None or len(tensor.shape) != 3 or layout == "radio":
        return
    prefix = spec.pos_prefix_tokens
    tokens = tensor.shape[1] - prefix
    patch = out.get(PATCH)
    old = None
    if patch is not None and len(patch.shape) == 4 and 0 not in patch.shape[2:]:
        old = spec.source_grid((patch.shape[2], patch.shape[3]), tokens)
    if layout == "jax":
        old = None  # always square
    same_count = tensor.shape[1] == target[1]
    if same_count and (old is None or old == spec.grid_size):
        return
    if old is None and (tokens < 1 or math.isqrt(tokens) ** 2 != tokens):
        return  # of a grid that nobody tells; reported as a wrong shape
    interpolation, antialias = _filter(spec, layout)

    def resize(data: Array) -> Array:
        return resample_abs_pos_embed(
            _f32(data),
            spec.grid_size,
            old,
            prefix,
            interpolation,
            antialias,
            spec.align_corners,
        )

    rows = prefix + math.prod(spec.grid_size)
    out["pos_embed"] = tensor.map(resize, (1, rows, tensor.shape[2]))
    source = f"{old[0]}x{old[1]}" if old else f"{tokens} positions"
    _log.info("position embedding resized from %s to %dx%d", source, *spec.grid_size)


def _head(out: dict[str, LazyTensor], spec: Spec, new_head: bool) -> None:
    """Leave out the head where the model has none or another number of classes."""
    head = out.get("head.weight")
    if head is None or not head.shape:
        return
    stored = head.shape[0]
    wanted = spec.shapes.get("head.weight", (0,))[0]
    offset = spec.pretrained_cfg.get("label_offset") or 0
    if offset and stored == wanted + offset:
        # A background class in front, which the model does not have.
        for key in ("head.weight", "head.bias"):
            if key in out:
                out[key] = out[key][offset:]
        return
    registered = new_head and stored == spec.pretrained_cfg.get("num_classes")
    if not wanted or (registered and stored != wanted):
        out.pop("head.weight")
        out.pop("head.bias", None)
        _log.info(
            "its head of %d classes is left out: the model has %d", stored, wanted
        )


def _norms(out: dict[str, LazyTensor], spec: Spec) -> None:
    """Move the final norm to where the model's pool has it."""
    for old, new in (("norm.", "fc_norm."), ("fc_norm.", "norm.")):
        stored = [key for key in out if key.startswith(old)]
        wanted = [key for key in spec.shapes if key.startswith(new)]
        unused = stored and not any(key in spec.shapes for key in stored)
        if unused and wanted and not any(key in out for key in wanted):
            for key in stored:
                out[new + key[len(old) :]] = out.pop(key)
            _log.warning("the checkpoint's %s* is loaded as the model's %s*", old, new)
            return


def _pool(out: dict[str, LazyTensor], spec: Spec) -> None:
    """Leave out a trained attention pool that the model does not have, and say so."""
    stored = [key for key in out if key.startswith("attn_pool.")]
    if stored and not any(key.startswith("attn_pool.") for key in spec.shapes):
        for key in stored:
            del out[key]
        _log.warning(
            "the checkpoint's attention pool (%d tensors) is left out, as global_pool "
            "is %r; 'map' would use it",
            len(stored),
            spec.options["global_pool"],
        )


def _f32(data: Array) -> FloatArray:
    return data.astype(np.float32, copy=False)
