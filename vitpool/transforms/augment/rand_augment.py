# SPDX-License-Identifier: Apache-2.0
"""RandAugment by timm's configuration strings, such as 'rand-m9-mstd0.5-inc1'.

Papers: RandAugment, https://arxiv.org/abs/1909.13719; 3-Augment (the set '3a'), DeiT
III, https://arxiv.org/abs/2204.07118. Source: timm.data.auto_augment.
"""

from __future__ import annotations

import math
import re
from random import Random
from typing import Any

from .ops import LEVELS, OPS

_PLAIN = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize",
    "SolarizeAdd", "Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY",
    "TranslateXRel", "TranslateYRel",
)  # fmt: skip
_INCREASING = tuple(
    f"{name}Increasing" if f"{name}Increasing" in OPS else name for name in _PLAIN
)
# Sets of operations by the name that `t` takes; a dict has a weight for each.
_SETS: dict[str, tuple[str, ...] | dict[str, float]] = {
    "3a": ("SolarizeIncreasing", "Desaturate", "GaussianBlur"),
    "3aw": {
        "SolarizeIncreasing": 6, "Desaturate": 6, "GaussianBlur": 6, "Rotate": 3,
        "ShearX": 2, "ShearY": 2, "PosterizeIncreasing": 1, "AutoContrast": 1,
        "ColorIncreasing": 1, "SharpnessIncreasing": 1, "ContrastIncreasing": 1,
        "BrightnessIncreasing": 1, "Equalize": 1, "Invert": 1,
    },
    "weights": {
        "Rotate": 3, "ShearX": 2, "ShearY": 2, "TranslateXRel": 1, "TranslateYRel": 1,
        "ColorIncreasing": 0.25, "SharpnessIncreasing": 0.25, "AutoContrast": 0.25,
        "SolarizeIncreasing": 0.05, "SolarizeAdd": 0.05, "ContrastIncreasing": 0.05,
        "BrightnessIncreasing": 0.05, "Equalize": 0.05, "PosterizeIncreasing": 0.05,
        "Invert": 0.05,
    },
}  # fmt: skip

_INTEGER = r"\d+"
_NUMBER = r"\d+(?:\.\d*)?"
# Each section of a configuration: its pattern, and what it is in an error.
_SECTIONS = {
    "m": (_INTEGER, "the magnitude, an integer"),
    "n": (_INTEGER, "how many operations, an integer from 1"),
    "p": (_NUMBER, "the probability of each, 0 to 1"),
    "mstd": (_NUMBER, "the magnitude's deviation, a number; above 100: uniform"),
    "mmax": (_INTEGER, "the highest magnitude, an integer from 1"),
    "inc": ("[01]", "0 or 1: a higher magnitude does more"),
    "t": ("|".join(_SETS), f"the set of operations: {', '.join(_SETS)}"),
}
_ALLOWED = "; ".join(f"{name}: {what}" for name, (_, what) in _SECTIONS.items())


def _sections(config: str) -> dict[str, str]:
    """{'m': '9', ...} of a configuration; ValueError for what timm would pass over."""
    if not isinstance(config, str):
        raise TypeError(
            "auto_augment must be a str such as 'rand-m9-mstd0.5-inc1', not "
            f"{type(config).__name__}"
        )
    first, *rest = config.split("-")
    if first != "rand":
        raise ValueError(
            f"auto_augment: {config!r} begins with {first!r}, allowed is RandAugment: "
            "'rand', as in 'rand-m9-mstd0.5-inc1'"
        )
    found: dict[str, str] = {}
    for section in rest:
        for name, (pattern, _) in _SECTIONS.items():
            if match := re.fullmatch(f"{name}({pattern})", section):
                break
        else:
            raise ValueError(
                f"auto_augment: {section!r} in {config!r}, allowed are a name and its "
                f"value, as 'm9' ({_ALLOWED})"
            )
        if name in found:
            raise ValueError(f"auto_augment: {name!r} comes twice in {config!r}")
        found[name] = match[1]
    for name, low, high in (("p", 0.0, 1.0), ("n", 1, math.inf), ("mmax", 1, math.inf)):
        if name in found and not low <= float(found[name]) <= high:
            raise ValueError(
                f"auto_augment: {name + found[name]!r} in {config!r}, allowed is "
                f"{_SECTIONS[name][1]}"
            )
    return found


class RandAugment:
    """Some operations drawn from a set, each done with a probability at a magnitude.

    config: timm's, sections in any order behind 'rand', as 'rand-m9-mstd0.5-inc1':
    m magnitude (10), n operations (2), p the probability of each (0.5), mstd the
    deviation of the magnitude (0; above 100 it is uniform from 0 to m), mmax its upper
    bound (10), inc 1 where a higher magnitude shall do more (0), t another set of
    operations: weights, 3a or 3aw. Of a set with weights no operation comes twice.
    fill: the colour that comes in at the borders. resample: what warps choose from.

    ValueError for a section that is none of these, which timm passes over in part.
    """

    def __init__(self, config: str, fill: Any, resample: tuple[Any, ...]) -> None:
        told = _sections(config)
        self.config = config
        self.magnitude = int(told.get("m", LEVELS))
        self.layers = int(told.get("n", 2))
        self.probability = float(told.get("p", 0.5))
        deviation = float(told.get("mstd", 0))
        self.deviation = math.inf if deviation > 100 else deviation
        self.most = float(told.get("mmax", LEVELS))
        increasing = told.get("inc") == "1"
        chosen = _SETS.get(told.get("t", ""), _INCREASING if increasing else _PLAIN)
        self.names = tuple(chosen)
        self.weights = tuple(chosen.values()) if isinstance(chosen, dict) else None
        if self.weights and self.layers > len(self.weights):
            raise ValueError(
                f"auto_augment: n{self.layers} in {config!r}, allowed are 1 to "
                f"{len(self.weights)} operations of a set with weights"
            )
        self.fill, self.resample = fill, resample

    def __call__(self, image: Any, rng: Random) -> Any:
        """The image after the operations that were drawn for it."""
        for name in self.draw(rng):
            image = self.apply(name, image, rng)
        return image

    def draw(self, rng: Random) -> list[str]:
        """The names of the operations for one picture, in their order."""
        if self.weights is None:
            return [rng.choice(self.names) for _ in range(self.layers)]
        left = dict(zip(self.names, self.weights, strict=True))
        drawn: list[str] = []
        for _ in range(self.layers):
            [name] = rng.choices(list(left), list(left.values()))
            del left[name]
            drawn.append(name)
        return drawn

    def apply(self, name: str, image: Any, rng: Random) -> Any:
        """One operation, with its probability, at a magnitude that is drawn."""
        if self.probability < 1.0 and rng.random() > self.probability:
            return image
        level: float = self.magnitude
        if self.deviation == math.inf:
            level = rng.uniform(0, level)
        elif self.deviation > 0:
            level = rng.gauss(level, self.deviation)
        level = max(0.0, min(level, self.most))
        op = OPS[name]
        told = [] if op.value is None else [op.value(level, rng)]
        if op.warps:
            several = len(self.resample) > 1
            resample = rng.choice(self.resample) if several else self.resample[0]
            return op.apply(image, *told, resample, self.fill)
        return op.apply(image, *told)
