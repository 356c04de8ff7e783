# SPDX-License-Identifier: Apache-2.0
"""Fits a checkpoint in timm's keys to a model: sizes, channels, classes, pool.

What timm does in its checkpoint_filter_fn and load_pretrained, but that no trained norm
is dropped: where the model's pool wants it on the other side, it moves there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from ..resample import FloatArray, resample_abs_pos_embed, resample_patch_embed
from ..text import printable, some, warn_user
from .fit import LeftOutWarning
from .formats import find_format, take_others, take_unused
from .formats.keys import Tensors, renamed
from .lazy import Array, StateDict, lazy_tensors
from .spec import Spec

_log = logging.getLogger("vitpool")

PATCH = "patch_embed.proj.weight"
# timm's attention pool, and the layer before the head that its first ViTs had.
_PARTS = frozenset(
    f"{part}.{kind}"
    for part in (
        *("attn_pool.q", "attn_pool.kv", "attn_pool.proj", "attn_pool.norm"),
        *("attn_pool.mlp.fc1", "attn_pool.mlp.fc2", "pre_logits.fc"),
    )
    for kind in ("weight", "bias")
) | {"attn_pool.latent"}


def convert_state_dict(
    state_dict: Mapping[str, Any], spec: Spec, *, new_head: bool = True
) -> StateDict:
    """The weights for the model that `spec` describes, in timm's keys, still lazy.

    state_dict: key to array in any layout of `formats`.
    new_head: leave out a head of pretrained_cfg's `num_classes` where the model has
        another number of classes, as timm's load_pretrained does.
    Keys that do not fit are kept. Raises ValueError for what cannot be converted, and
    warns of a head under another pool than its own, and of what is left out before it.
    """
    converted, warnings = fitted_state_dict(state_dict, spec, new_head=new_head)
    for warning in warnings:
        warn_user(warning)
    return converted


def fitted_state_dict(
    state_dict: Mapping[str, Any], spec: Spec, *, new_head: bool = True
) -> tuple[StateDict, list[Warning]]:
    """convert_state_dict, which leaves the warnings to the caller."""
    source = getattr(state_dict, "source", "")
    tensors = lazy_tensors(state_dict)
    layout = "timm"
    try:
        others: dict[str, int] = {}
        found = find_format(tensors, spec)
        if found:
            module, prefix = found
            layout = module.__name__.rpartition(".")[2]
            others = take_others(module, tensors, prefix)
            out, pool = _convert(module, tensors, prefix, spec)
        else:
            out, pool = tensors, ""
        out = renamed(out, [(r"^(blocks\.\d+\.)gamma_([12])$", r"\1ls\2.gamma")])
        _positions(out, spec, layout)
        _patches(out, spec, layout)
        _head(out, spec, new_head)
        warnings = [*_fit_pool(out, spec, pool or spec.stored_pool, source)]
        for other, count in others.items():
            text = f"another model, below {other!r} ({count} tensors), is left out"
            text = f"{source or 'the checkpoint'}: {text}"
            warnings.append(LeftOutWarning(printable(text)))
    except (ValueError, LookupError) as error:
        what = str(error)
        if isinstance(error, LookupError):
            # A layout is known by one key; a file may lack the others, or their axes.
            what = f"looks like a checkpoint of {layout}, but lacks part of it: {what}"
        raise ValueError(printable(f"{source}: {what}" if source else what)) from None
    return StateDict(out, source), warnings


def _convert(
    module: ModuleType, tensors: Tensors, prefix: str, spec: Spec
) -> tuple[Tensors, str]:
    """The tensors under timm's keys, and the pool of their head where it is known.

    What the format does not carry keeps the key it has in the file.
    """
    tell = getattr(module, "head_pool", None)
    pool = tell(tensors, prefix) if tell else ""
    unused = take_unused(module, tensors, prefix)
    if unused:
        names = printable(some(unused))
        _log.info("left out by their names are %d tensors: %s", len(unused), names)
    out: Tensors = module.convert(tensors, prefix, spec)
    for key, tensor in tensors.items():
        # Beside the model, and yet called as a part of it: say where it is.
        out[f"{key} (beside {prefix})" if key in spec.shapes else key] = tensor
    return out, pool


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
    if layout in ("jax", "naflex"):
        return "bilinear", layout == "naflex"
    return spec.interpolation, spec.antialias


def _patches(out: Tensors, spec: Spec, layout: str) -> None:
    """Resize the patch embedding, and change its channels."""
    target = spec.shapes.get(PATCH)
    tensor = out.get(PATCH)
    if tensor is None or target is None:
        return
    if len(tensor.shape) == 2 and layout in ("timm", "trunk"):
        # timm's of the time before convolutions: a linear layer on flat patches.
        width, inputs = tensor.shape
        side = math.isqrt(inputs // 3)
        own = inputs == math.prod(target[1:])
        tensor = tensor.reshape(width, *(target[1:] if own else (3, side, side)))
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


def _positions(out: Tensors, spec: Spec, layout: str) -> None:
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
    if layout == "transformers" and "reg_token" not in out:
        antialias = False  # as all of its models but DINOv2 with registers

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


def _head(out: Tensors, spec: Spec, new_head: bool) -> None:
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


def _fit_pool(out: Tensors, spec: Spec, pool: str, source: str) -> Iterator[Warning]:
    """Give the weights around the model's pool.

    pool: what the head was trained with, '' where that is not known.
    Yields a warning of what is left out, or of a head of another pool.
    """
    wanted = spec.options["global_pool"]
    reasons = [*_move_norm(out, spec)]
    left = [*_leave_out(out, spec)]
    reasons += [f"the {part} that it was trained behind is left out" for part in left]
    if not reasons and pool not in ("", wanted):
        reasons = [f"it was trained with global_pool={pool!r}"]
    text = ""
    head = out.get("head.weight")
    if reasons and head and head.shape == spec.shapes.get("head.weight"):
        text = (
            f"its head is loaded under global_pool={wanted!r}, though "
            + " and ".join(reasons)
        )
    elif left:
        text = (
            f"its {' and its '.join(left)}, trained, is left out: the model has "
            f"global_pool={wanted!r} and no such part"
        )
    if text:
        kind = LeftOutWarning if left else UserWarning
        yield kind(printable(f"{source or 'the checkpoint'}: {text}"))


def _move_norm(out: Tensors, spec: Spec) -> Iterator[str]:
    """Move the final norm to where the model's pool has it."""
    for old, new, way in (
        ("norm.", "fc_norm.", "from before the pool to behind it"),
        ("fc_norm.", "norm.", "from behind the pool to before it"),
    ):
        stored = [key for key in out if key.startswith(old)]
        wanted = [key for key in spec.shapes if key.startswith(new)]
        unused = stored and not any(key in spec.shapes for key in stored)
        if unused and wanted and not any(key in out for key in wanted):
            for key in stored:
                out[new + key[len(old) :]] = out.pop(key)
            _log.warning("the checkpoint's %s* is loaded as the model's %s*", old, new)
            yield f"the last norm has to move {way}"
            return


def _leave_out(out: Tensors, spec: Spec) -> Iterator[str]:
    """Leave out what stands before a head and the model has not; its names."""
    for part, what in (
        ("attn_pool", "attention pool"),
        ("pre_logits", "layer before the head"),
    ):
        # By whole names: other libraries call other things an attn_pool.
        stored = [key for key in out if key in _PARTS and key.startswith(f"{part}.")]
        if stored and not any(key.startswith(f"{part}.") for key in spec.shapes):
            for key in stored:
                del out[key]
            yield f"{what} ({len(stored)} tensors)"


def _f32(data: Array) -> FloatArray:
    return data.astype(np.float32, copy=False)
