# SPDX-License-Identifier: Apache-2.0
"""The layouts that trained ViTs are published in, one file each.

A format is a module with

- `prefixes(tensors)`: the prefixes below which a model of this layout lies ('' where it
  is the whole file, 'model.', 'teacher.backbone.'); none where there is no such model;
- FAMILIES: the classes whose models are published in this layout;
- UNUSED: what such files hold beside that and is left out on purpose: a text tower,
  what only training needs. The pattern matches at the start of a key, below the prefix
  or in the modules around it;
- BESIDE, where the names of these are the model's own too: such a pattern of what lies
  around the model alone;
- `convert(tensors, prefix, spec)`: takes out of `tensors` what it carries, and gives it
  under timm's keys, VisionTransformer's where the model is a NaFlexVit. What it does
  not know it leaves there, or gives under another key;
- `head_pool(tensors, prefix)`, where the layout tells it: the global_pool that the
  file's head was trained with.

What is then left in `tensors`, or is no key of the model, is reported (`load.Fit`):
nothing is dropped that UNUSED does not name. Sizes, channels and classes are the
business of `adapt`, not of a format.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from ..forms import form_of
from ..lazy import Shape
from ..spec import Spec
from . import (
    aimv2,
    beit,
    beit3,
    deit3,
    dinov2,
    dinov3,
    eva,
    jax,
    mobileclip,
    naflex,
    naflexvit,
    openai_clip,
    perception_encoder,
    radio,
    sapiens2,
    transformers,
    transformers_beit,
    transformers_deit,
    transformers_dinov3,
    trunk,
)
from .keys import Tensors, ancestors, below, take_below

# The first whose keys match is taken. Those that have a key of their own come before
# those that do not: many have a mask token or patches of timm's name.
FORMATS: tuple[ModuleType, ...] = (
    jax,
    mobileclip,
    perception_encoder,
    openai_clip,
    sapiens2,
    dinov3,
    beit,
    eva,
    dinov2,
    beit3,
    deit3,
    naflexvit,
    trunk,
    aimv2,
    radio,
    naflex,
    transformers_dinov3,
    transformers_beit,
    transformers_deit,
    transformers,
)
# Those that come with a config.json of transformers'.
OF_TRANSFORMERS = (
    naflex,
    sapiens2,
    transformers_dinov3,
    transformers_beit,
    transformers_deit,
    transformers,
)
_ENDS = ("norm", "fc_norm", "head")


def layout_of(module: ModuleType) -> str:
    """The name of a format, for messages."""
    return module.__name__.rpartition(".")[2]


def find_format(tensors: Tensors, spec: Spec) -> tuple[ModuleType, str] | None:
    """The format of these keys, and the prefix of the model in them.

    None for timm's own keys, which need no conversion, and for unknown ones. Of several
    models, as a student and a smaller teacher, it is the one whose blocks are those of
    the model that `spec` describes; ValueError where that does not tell, and for the
    layout of another class than the model's.
    """
    for module in FORMATS:
        prefixes = _best_prefixes(module, tensors, spec)
        if prefixes and spec.family not in module.FAMILIES:
            if _are_own(below(tensors, prefixes[0]), spec):
                continue
            classes = " or ".join(sorted(module.FAMILIES))
            raise ValueError(
                f"looks like a checkpoint of {layout_of(module)}, which is for "
                f"{classes}; the model is {spec.family}"
            )
        if len(prefixes) > 1:
            shown = ", ".join(map(repr, prefixes[:4]))
            raise ValueError(
                f"holds {len(prefixes)} models, below {shown}: save the one that is "
                "meant in a file of its own, its keys without that prefix"
            )
        if prefixes:
            return module, prefixes[0]
    return None


def _are_own(keys: list[str], spec: Spec) -> bool:
    """Are all keys the model's own? Some of Eva's models have those of DeiT III."""
    own = {form_of(key) for key in spec.shapes}
    # What is not in every model of the file's.
    own.update(f"{name}.{kind}" for name in _ENDS for kind in ("weight", "bias"))
    return {form_of(key) for key in keys} <= own


def _best_prefixes(module: ModuleType, tensors: Tensors, spec: Spec) -> list[str]:
    """The prefixes of a format; of several those whose blocks fit, if there are any."""
    prefixes = sorted(module.prefixes(tensors))
    if len(prefixes) < 2:
        return prefixes
    return [p for p in prefixes if _has_blocks(module, tensors, p, spec)] or prefixes


def _has_blocks(module: ModuleType, tensors: Tensors, prefix: str, spec: Spec) -> bool:
    """Are the blocks below a prefix those of the model, in number and shape?"""
    below = {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    try:
        converted = module.convert(below, prefix, spec)
    except (ValueError, LookupError):
        return False
    shapes = {key: tensor.shape for key, tensor in converted.items()}
    return _blocks(shapes) == _blocks(spec.shapes)


def _blocks(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    return {key: shapes[key] for key in shapes if key.startswith("blocks.")}


def take_others(module: ModuleType, tensors: Tensors, prefix: str) -> dict[str, int]:
    """Take out the other models of this format: prefix to number of tensors."""
    others = {}
    for other in module.prefixes(tensors) - {prefix}:
        if not prefix.startswith(other):
            others[other] = len(take_below(tensors, other))
    return others


def take_unused(module: ModuleType, tensors: Tensors, prefix: str) -> list[str]:
    """Take out what UNUSED names; returns the keys."""
    patterns = [(around, module.UNUSED) for around in ancestors(prefix)]
    if beside := getattr(module, "BESIDE", None):
        patterns += [(around, beside) for around in ancestors(prefix)[1:]]
    unused = {
        key: None
        for key in tensors
        for around, pattern in patterns
        if key.startswith(around) and pattern.match(key, len(around))
    }
    for key in unused:
        del tensors[key]
    return list(unused)
