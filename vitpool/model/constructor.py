# SPDX-License-Identifier: Apache-2.0
"""What every class's constructor does."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Container, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

from .. import _core
from ..config import (
    INIT_MODES,
    Dtype,
    as_dtype,
    as_int,
    defaults_of,
    refuse_unknown,
    resolve,
    training_only,
)
from ..text import some
from .dtypes import Given, counters, matrices
from .precision import Precise, change_to

P = ParamSpec("P")
M = TypeVar("M", bound="Constructed")


def with_hints(
    init: Callable[Concatenate[M, P], None],
) -> Callable[Concatenate[M, P], None]:
    """`init`, which says of an unknown option what was probably meant.

    Python's own message for it has no hint before 3.13. The signature stays init's, for
    inspect, editors and type checkers.
    """
    known = list(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def checked(self: M, /, *args: P.args, **kwargs: P.kwargs) -> None:
        refuse_unknown(kwargs, known, self._family)
        init(self, *args, **kwargs)

    wrapped: Callable[Concatenate[M, P], None] = checked
    return wrapped


class Constructed(Precise):
    """The part of a model that builds it from timm's options."""

    def _build(self, given: Mapping[str, Any]) -> None:
        """What every constructor does with its arguments, its own locals()."""
        arguments = {name: given[name] for name in defaults_of(self._family)}
        device, dtype, weights = given["device"], given["dtype"], given["weights"]
        weight_init = arguments.get("weight_init", "")
        _check_device(device)
        wanted = None if dtype is None else as_dtype(dtype)
        if not isinstance(weight_init, str):
            raise TypeError(
                f"weight_init must be a str, not {type(weight_init).__name__}"
            )
        if weight_init not in INIT_MODES:
            raise ValueError(
                f"weight_init must be one of {', '.join(map(repr, INIT_MODES))}, "
                f"not {weight_init!r}"
            )
        options = resolve(arguments, self._family)
        if weights is not None and not hasattr(weights, "keys"):
            raise TypeError(f"weights must be a mapping, not {type(weights).__name__}")
        shapes = _core.param_shapes(options)
        given_weights = None if weights is None else Given(weights)
        super().__init__(
            options,
            weights=given_weights,
            seed=random_seed(given["seed"]),
            weight_init="reset" if weight_init == "skip" else weight_init,
            fix_init=bool(arguments.get("fix_init", False)),
            dtypes=_dtypes(wanted, shapes, weights, given_weights),
        )
        if weights is not None and given_weights is not None:
            beside = given_weights.scales() | counters(shapes)
            extra = set(given_weights) - set(shapes) - beside
            if extra:
                listed = some(map(repr, sorted(map(str, extra))))
                raise ValueError(f"weights has unexpected keys: {listed}")
            untrained = untrained_of(weights)
            if untrained:
                self._replace(None, {}, untrained)
        self._init_state()
        if wanted == "int8":
            self._quantize()
        self._drop_rates, self._rope_moves = training_only(arguments, self._family)

    def _quantize(self) -> None:
        """Makes a model that nobody has seen yet one of int8."""
        change = change_to(self, "int8", frozenset())
        untrained = set(self.untrained()) & set(change.weights)
        self._replace(None, change.weights, untrained, change.dtypes)


def _dtypes(
    wanted: Dtype | None,
    shapes: Mapping[str, Any],
    weights: Any,
    given: Given | None,
) -> dict[str, str]:
    """What parameters are kept as from the start, where that is not float32."""
    if wanted is None:
        return dict(getattr(weights, "dtypes", {}))
    if wanted == "int8":  # chosen of the whole model, but for what is integers already
        integers = given.scales() if given is not None else set()
        named = {name: "int8" for name in shapes if f"{name}_scale" in integers}
        return named | dict(getattr(weights, "dtypes", {}))
    return {} if wanted == "float32" else dict.fromkeys(matrices(shapes), wanted)


def untrained_of(weights: Mapping[str, Any]) -> Container[str]:
    """The keys of a mapping that it says hold random numbers."""
    untrained: Container[str] = getattr(weights, "untrained", ())
    return untrained


def random_seed(seed: int | None) -> int:
    """64 bits: the caller's, or random ones."""
    if seed is None:
        return int.from_bytes(os.urandom(8), "little")
    number = as_int(seed, "seed")
    if number >= 2**64:
        raise ValueError(f"seed must be below 2**64, not {number}")
    return number


def _check_device(device: object) -> None:
    if device is not None and str(device) not in ("cpu", "cpu:0"):
        raise ValueError(f"device must be 'cpu', not {str(device)!r}")
