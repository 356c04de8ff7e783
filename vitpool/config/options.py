# SPDX-License-Identifier: Apache-2.0
"""The constructor arguments of timm's classes, resolved to the options that the core
takes, and made from those."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..text import did_you_mean
from . import beit, distilled, eva, naflex, relpos, vit
from .checks import as_bool, as_float
from .family import Family

#: timm's classes by name; each module has its class's options.
FAMILIES: dict[str, Family] = {
    "VisionTransformer": vit.FAMILY,
    "VisionTransformerDistilled": distilled.FAMILY,
    "Eva": eva.FAMILY,
    "Beit": beit.FAMILY,
    "VisionTransformerRelPos": relpos.FAMILY,
    "NaFlexVit": naflex.FAMILY,
}

#: VisionTransformer's constructor defaults.
DEFAULTS = vit.DEFAULTS

#: Rates of dropout, of any class.
DROPS = tuple(name for name in DEFAULTS if "drop" in name)

#: What moves rotary embeddings' coordinates in training, and timm's least value.
ROPE_AUGMENTATIONS = {
    "rope_shift_coords": 0.0,
    "rope_jitter_coords": 1.0,
    "rope_rescale_coords": 1.0,
}


def defaults_of(family: str) -> Mapping[str, Any]:
    """The constructor defaults of a class, by its name."""
    return FAMILIES[family].defaults


def refuse_unknown(
    names: Iterable[str],
    known: Collection[str] | None = None,
    family: str = "VisionTransformer",
) -> None:
    """TypeError for the first of names that is none of the class's options."""
    kind = FAMILIES[family]
    known = kind.defaults if known is None else known
    for name in names:
        if name in known:
            continue
        if name in kind.refused:
            raise TypeError(f"{family} has no option {name!r}: {kind.refused[name]}")
        raise TypeError(
            f"{family} has no option {name!r}{did_you_mean(name, known)} "
            f"(options: {', '.join(known)})"
        )


def resolve(
    arguments: Mapping[str, Any], family: str = "VisionTransformer"
) -> dict[str, Any]:
    """The core's options from a class's constructor arguments.

    Unknown arguments and wrong types are TypeErrors, wrong values ValueErrors, each
    naming the argument, what came and what is allowed.
    """
    refuse_unknown(arguments, family=family)
    kind = FAMILIES[family]
    a = {**kind.defaults, **arguments}
    for name, default in kind.defaults.items():
        if isinstance(default, bool):
            a[name] = as_bool(a[name], name)
        elif name in DROPS:
            if not 0.0 <= as_float(a[name], name) <= 1.0:
                raise ValueError(f"{name} must be from 0 to 1, not {a[name]}")
        elif name in ROPE_AUGMENTATIONS and a[name] is not None:
            least = ROPE_AUGMENTATIONS[name]
            if as_float(a[name], name) < least:
                raise ValueError(f"{name} must be at least {least}, not {a[name]}")
    return kind.resolve(a)


def training_only(
    arguments: Mapping[str, Any], family: str
) -> tuple[dict[str, float], dict[str, float]]:
    """The rates of dropout that are not 0, and what moves rope's coordinates: options
    that tell nothing of a finished model."""
    known = [name for name in defaults_of(family) if arguments.get(name) is not None]
    rates = {name: float(arguments[name]) for name in known if name in DROPS}
    moves = {n: float(arguments[n]) for n in known if n in ROPE_AUGMENTATIONS}
    return {name: rate for name, rate in rates.items() if rate}, moves


def all_arguments_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor arguments that give these options, nothing left to a default.

    Those that tell nothing of a finished model (drop rates, how fresh weights are made)
    are left out.
    """
    return FAMILIES[options["family"]].arguments(options)


def arguments_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor arguments that give these options, without those at default."""
    kind = FAMILIES[options["family"]]
    full = kind.arguments(options)
    default = {**kind.defaults, **kind.implied(full)}
    return {name: value for name, value in full.items() if value != default[name]}
