# SPDX-License-Identifier: Apache-2.0
"""The layouts that trained ViTs are published in, one file each.

A format is a module with two functions: `matches(tensors)` looks at the keys, and
`convert(tensors, spec)` gives timm's keys. Sizes, channels and classes are the business
of `adapt`, not of a format. Keys that a format does not know stay as they are, so that
they are reported rather than lost.
"""

from __future__ import annotations

from types import ModuleType

from ..lazy import LazyTensor
from . import aimv2, beit3, dinov2, jax, openai_clip, radio, transformers, trunk

# The first whose keys match is taken: timm's order, with transformers' at the end.
FORMATS: tuple[ModuleType, ...] = (
    jax,
    openai_clip,
    dinov2,
    beit3,
    trunk,
    aimv2,
    radio,
    transformers,
)


def find_format(tensors: dict[str, LazyTensor]) -> ModuleType | None:
    """The format of these keys; None for timm's own, which need no conversion."""
    return next((module for module in FORMATS if module.matches(tensors)), None)
