# SPDX-License-Identifier: Apache-2.0
"""Fits a checkpoint in timm's keys to a model: sizes, channels, classes, pool.

What timm does in its checkpoint_filter_fn and load_pretrained, but that no trained norm
is dropped: where the model's pool wants it on the other side, it moves there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from ..text import printable, some, warn_user
from .embeddings import fit_embeddings
from .fit import HEADS, LeftOutWarning
from .formats import find_format, layout_of, take_others, take_unused
from .formats.keys import Tensors
from .forms import other_classes
from .integers import paired
from .lazy import StateDict, lazy_tensors
from .spec import Spec

_log = logging.getLogger("vitpool")

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
    tensors = paired(lazy_tensors(state_dict))
    layout = "timm"
    try:
        others: dict[str, int] = {}
        found = find_format(tensors, spec)
        if found:
            module, prefix = found
            layout = layout_of(module)
            others = take_others(module, tensors, prefix)
            out, pool = _convert(module, tensors, prefix, spec)
        else:
            out, pool = tensors, ""
        _check_class(out, spec)
        fit_embeddings(out, spec, layout)
        _heads(out, spec, new_head)
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


def _check_class(out: Tensors, spec: Spec) -> None:
    """Raise ValueError for the weights of another class than the model's.

    What the classes share would fit, and the rest would not be looked at by whoever
    loads with strict=False.
    """
    key, names = other_classes(out, spec.family)
    if names:
        raise ValueError(
            f"looks like a checkpoint of {' or '.join(names)}: no {spec.family}, which "
            f"the model is, has {key!r:.100}"
        )


def _heads(out: Tensors, spec: Spec, new_head: bool) -> None:
    """Leave out the heads where the model has none or another number of classes."""
    for head in HEADS:
        weight, bias = f"{head}.weight", f"{head}.bias"
        tensor = out.get(weight)
        if tensor is None or not tensor.shape:
            continue
        stored = tensor.shape[0]
        wanted = spec.shapes.get(weight, (0,))[0]
        offset = spec.pretrained_cfg.get("label_offset") or 0
        if offset and stored == wanted + offset:
            # A background class in front, which the model does not have.
            for key in (weight, bias):
                if key in out:
                    out[key] = out[key][offset:]
            continue
        registered = new_head and stored == spec.pretrained_cfg.get("num_classes")
        none = not spec.options["num_classes"]
        if none or (registered and stored != wanted):
            out.pop(weight)
            out.pop(bias, None)
            _log.info(
                "its %s of %d classes is left out: the model has %d",
                head,
                stored,
                spec.options["num_classes"],
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
