# SPDX-License-Identifier: Apache-2.0
"""Optimisers on float32 arrays, and which learning rate and decay a parameter has.

Source: torch.optim.AdamW, torch.optim.SGD, MAE's util/lars.py,
timm.optim.param_groups_layer_decay (timm 1.0.31).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from .. import _core
from ..model import Float32, PlainViT

OptimizerName = Literal["adamw", "sgd", "lars"]
OPTIMIZERS: tuple[str, ...] = get_args(OptimizerName)

_STATES = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("mu",), "lars": ("mu",)}
_EPS = 1e-8  # AdamW's
_TRUST = 1e-3  # LARS's trust coefficient
_WITH_PREVIOUS = 99999  # timm's MATCH_PREV_GROUP


class Group(NamedTuple):
    """What a parameter has of its own: by what lr is multiplied, and does it decay?"""

    lr_scale: float
    decays: bool


def groups_of(
    model: PlainViT, names: Iterable[str], layer_decay: float = 1.0
) -> dict[str, Group]:
    """The group of each of these parameters.

    As timm has it, parameters of one dimension and those of no_weight_decay() do not
    decay, and lr_scale is layer_decay to the power of the layers behind a parameter's
    own. Layers: the stem, each block (the last with `norm`), and what follows.
    """
    shapes = model.param_shapes()
    layers = layers_of(shapes, model.group_matcher())
    last, exempt = max(layers.values()), model.no_weight_decay()
    return {
        name: Group(
            layer_decay ** (last - layers[name]),
            len(shapes[name]) > 1 and name not in exempt,
        )
        for name in names
    }


def layers_of(names: Iterable[str], matcher: Mapping[str, Any]) -> dict[str, int]:
    """Each parameter's layer from 0, by group_matcher's patterns.

    Source: timm.models._manipulate.group_with_matcher.
    """
    patterns: list[tuple[re.Pattern[str], int, Any]] = []
    for order, given in enumerate(matcher.values()):
        for pattern, suffix in [(given, None)] if isinstance(given, str) else given:
            patterns.append((re.compile(pattern), order, suffix))

    def key(name: str) -> tuple[float, ...]:
        for pattern, order, suffix in patterns:
            if found := pattern.match(name):
                parts = chain((order,), found.groups(), suffix or ())
                return tuple(float(part) for part in parts)
        return (float("inf"),)

    keys = {name: key(name) for name in names}
    layer, number = -1, {}
    for one in sorted(set(keys.values())):
        layer += layer < 0 or one[-1] != _WITH_PREVIOUS
        number[one] = layer
    return {name: number[one] for name, one in keys.items()}


class Optimizer:
    """AdamW, SGD or LARS; `states` are its arrays by kind and parameter."""

    def __init__(
        self,
        name: str,
        groups: Mapping[str, Group],
        shapes: Mapping[str, tuple[int, ...]],
        *,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.9,
    ) -> None:
        self._name, self._groups = name, groups
        self._weight_decay, self._betas, self._momentum = weight_decay, betas, momentum
        self.states: dict[str, dict[str, Float32]] = {
            kind: {key: np.zeros(shapes[key], np.float32) for key in groups}
            for kind in _STATES[name]
        }

    def step(
        self,
        weights: Mapping[str, Float32],
        gradients: Mapping[str, Float32],
        lr: float,
        step: int,
    ) -> None:
        """Updates weights in place. lr: of this step; step: from 1."""
        for name, group in self._groups.items():
            w, g = weights[name], gradients[name]
            s = [self.states[kind][name] for kind in _STATES[self._name]]
            rate = lr * group.lr_scale
            decay = self._weight_decay if group.decays else 0.0
            if self._name == "adamw":
                _core.adamw(w, s[0], s[1], g, rate, *self._betas, _EPS, decay, step)
            elif self._name == "sgd":
                _core.sgd(w, s[0], g, rate, self._momentum, decay, False)
            else:
                trust = _TRUST if w.ndim > 1 else 0.0
                _core.lars(w, s[0], g, rate, self._momentum, decay, trust)


def norm_of(gradients: Iterable[Float32]) -> float:
    """The length of all gradients as one vector."""
    return float(np.sqrt(sum(_core.squares(g) for g in gradients)))


def clip(gradients: Mapping[str, Float32], norm: float, most: float) -> None:
    """Shortens gradients of length `norm` to `most`, in place.

    Source: torch.nn.utils.clip_grad_norm_.
    """
    share = most / (norm + 1e-6)
    if share < 1:
        for gradient in gradients.values():
            gradient *= np.float32(share)
