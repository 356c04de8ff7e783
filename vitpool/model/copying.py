# SPDX-License-Identifier: Apache-2.0
"""Copies and pickles of a model, and the text that describes it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .. import _core
from ..config import all_arguments_of
from .facts import Facts
from .parts import Float32

if TYPE_CHECKING:
    from typing_extensions import Self

# What a pickle holds. 1, which vitpool 0.1.0 wrote without the number: the constructor
# arguments that differ from its defaults. 2: every argument that tells something of the
# model, so that no later default changes what a pickle means.
_PICKLE_VERSION = 2


class Copying(Facts):
    """The part of VisionTransformer that copies, pickles and shows."""

    def __copy__(self) -> Self:
        copy = type(self).__new__(type(self))
        copy._adopt(self)
        copy._init_state()
        copy._pretrained_cfg = dict(self._pretrained_cfg)
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Weights never change in place, so a copy may share them.
        copy = memo[id(self)] = self.__copy__()
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        now = self.__copy__()  # options and weights of one state
        arguments = all_arguments_of(now._options())
        weights = now.state_dict()
        cfg = now._pretrained_cfg
        return _rebuild, (type(self), arguments, weights, cfg, _PICKLE_VERSION)

    def _facts(self) -> dict[str, str]:
        now = self._snapshot()
        options = now._options()
        count = sum(math.prod(shape) for shape in now.param_shapes().values())
        name = self._pretrained_cfg.get("architecture") or "VisionTransformer"
        tag = self._pretrained_cfg.get("tag")
        return {
            "architecture": f"{name}.{tag}" if tag else str(name),
            "image": _by(options["img_size"]),
            "patch": _by(options["patch_size"]),
            "width x depth, heads": f"{options['embed_dim']} x {options['depth']}, "
            f"{options['num_heads']}",
            "pool": repr(options["global_pool"]),
            "classes": str(options["num_classes"]),
            "parameters": f"{count:,}",
            "dtype": "float32",
            "memory": f"{now.memory_bytes()['weights'] / 1e6:.1f} MB",
        }

    def __repr__(self) -> str:
        facts = self._facts()
        name = facts.pop("architecture")
        rows = "\n".join(f"  {k}: {v}" for k, v in facts.items())
        head = name if name == "VisionTransformer" else f"VisionTransformer {name}"
        return f"{head}(\n{rows}\n)"

    def _repr_html_(self) -> str:
        import html

        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(k)}</th>"
            f"<td style='text-align:left'>{html.escape(v)}</td></tr>"
            for k, v in self._facts().items()
        )
        return f"<table>{rows}</table>"


def _rebuild(
    cls: type[Copying],
    arguments: dict[str, Any],
    weights: dict[str, Float32],
    pretrained_cfg: dict[str, Any],
    version: int = 1,
) -> Copying:
    """A model from its pickle; see _PICKLE_VERSION."""
    if version > _PICKLE_VERSION:
        raise ValueError(
            f"this pickle is of version {version}, written by a later vitpool; "
            f"{_core.__version__} reads versions up to {_PICKLE_VERSION}"
        )
    model = cls(**arguments, weights=weights)
    model.pretrained_cfg = pretrained_cfg
    return model


_rebuild.__module__ = "vitpool.model"  # the name that pickles hold, not this file's


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]} x {pair[1]}"
