# SPDX-License-Identifier: Apache-2.0
"""Resets of a model, one after another, and beside each the model built that way.

`walks(subject)` makes them once for all checks that read them: every pool that the
constructor accepts is followed by every pool that reset_classifier might take, then by
reset_classifier(0) and the way back, then by some of the sequences of three (of a slow
model not). A reset that is refused ends its sequence; what it leaves behind is not
looked at here.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

if TYPE_CHECKING:
    from .subject import Subject

# What a reset is asked for, beside the pools that the constructor takes.
POOLS = ("", "avg", "avgmax", "catavgmax", "max", "token", "map", "prr")
# Where the norm is, for classes that move it with the pool and do not record where to.
NORM_OPTIONS = ("fc_norm", "use_fc_norm")
CLASSES, OTHER_CLASSES = 7, 6
TRIPLES = 6
FEW = 3
# Two passes over equal weights by the same operations; a head may be a 1x1 convolution.
RTOL = 1e-4


# A refusal is one of these; anything else was raised by accident. UnboundLocalError and
# its like are not among them.
REFUSALS = (AssertionError, NotImplementedError, TypeError, ValueError)


@dataclass(frozen=True)
class Built:
    """The model that the constructor makes of what a reset asked for, with its weights.

    missing, unexpected: parameters of the reset model that are not as in the built one.
    """

    options: dict[str, Any]
    error: Exception | None = None  # raised by the constructor, or by forward
    refused: bool = False  # it was the constructor
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    output: Any = None
    recorded: bool = False  # the model records its arguments
    guessed: bool = False  # the place of the norm is not among them


@dataclass(frozen=True)
class Step:
    """A model after the last of `resets`, each a (num_classes, global_pool)."""

    options: dict[str, Any]  # with which it was built
    resets: tuple[tuple[Any, ...], ...]
    classes: int
    pool: str | None  # that it should have now; None: its class has no pools
    refused: Exception | None = None
    error: Exception | None = None  # raised by forward
    output: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    built: Built = Built({})
    changed: tuple[str, ...] = ()  # keys with other numbers than before the last reset

    def lines(self) -> list[str]:
        """The resets as a program."""
        return [
            f"model.reset_classifier({', '.join(map(repr, reset))})"
            for reset in self.resets
        ]

    def __str__(self) -> str:
        start = (
            f"{self.options['global_pool']!r}, "
            if "global_pool" in self.options
            else ""
        )
        return start + ", ".join(
            f"reset_classifier({', '.join(map(repr, reset))})" for reset in self.resets
        )


_walked: WeakKeyDictionary[Any, tuple[Step, ...]] = WeakKeyDictionary()


def walks(subject: Subject) -> tuple[Step, ...]:
    """Every step of every sequence, each sequence's steps in order."""
    if subject not in _walked:
        _walked[subject] = tuple(_walks(subject))
    return _walked[subject]


def _walks(subject: Subject) -> Iterator[Step]:
    starts, twins = list(starts_of(subject)), Twins(subject)
    asked = () if subject.slow else POOLS
    targets = (
        tuple(dict.fromkeys((*subject.pools, *asked))) if subject.pools else (None,)
    )
    sound: dict[Any, list[Any]] = {}
    for options in starts:
        start = options.get("global_pool")
        for pool in targets:
            steps = list(_sequence(subject, twins, options, [(CLASSES, pool)]))
            yield from steps
            if steps[-1].refused is None:
                sound.setdefault(start, []).append(pool)
        # the pool stays where none is given; the head goes, and comes back
        yield from _sequence(
            subject, twins, options, [(CLASSES,), (0,), (OTHER_CLASSES,)]
        )
    if subject.slow:
        return
    triples = [
        (options, resets)
        for options in starts
        for resets in itertools.product(
            [
                (classes, pool)
                for classes in (CLASSES, 0)
                for pool in sound.get(options.get("global_pool"), ())
            ],
            repeat=3,
        )
    ]
    random.Random(0).shuffle(triples)
    for options, resets in triples[:TRIPLES]:
        yield from _sequence(subject, twins, options, list(resets))


def starts_of(subject: Subject) -> Iterator[dict[str, Any]]:
    """The options by which each pool is built: without classes where it must be."""
    for pool in subject.pools:
        for options in ({"global_pool": pool}, {"global_pool": pool, "num_classes": 0}):
            if subject.refusal(**options) is None:
                yield options
                break
    if not subject.pools:
        yield {}


def _sequence(
    subject: Subject,
    twins: Twins,
    options: dict[str, Any],
    resets: list[tuple[Any, ...]],
) -> Iterator[Step]:
    model = subject.build(**options)
    subject.fill(model, seed=0)
    pool = options.get("global_pool")
    for count, reset in enumerate(resets, 1):
        if len(reset) > 1 and reset[1] is None:
            reset = reset[:1]
        pool = reset[1] if len(reset) > 1 else pool
        common: dict[str, Any] = {
            "options": options,
            "resets": tuple(resets[:count]),
            "classes": reset[0],
            "pool": pool,
        }
        before = subject.state(model)
        try:
            subject.reset(model, *reset)
        except Exception as error:
            yield Step(**common, refused=error)
            return
        common["changed"] = tuple(changed_keys(before, subject.state(model)))
        common["built"] = twins.built(model, reset[0], pool)
        yield _looked_at(subject, model, common)


def _looked_at(subject: Subject, model: Any, common: dict[str, Any]) -> Step:
    facts = {
        name: getattr(model, name)
        for name in ("num_classes", "num_features", "head_hidden_size")
        if hasattr(model, name)
    }
    pool = getattr(model, "global_pool", None)
    pool = getattr(pool, "pool_type", pool)  # SelectAdaptivePool2d
    if isinstance(pool, str):
        facts["global_pool"] = pool
    try:
        output = subject.run(model)
    except Exception as error:
        return Step(**common, facts=facts, error=error)
    return Step(**common, facts=facts, output=output)


def firsts(
    steps: Iterable[Step], cause: Callable[[Step], Any]
) -> Iterator[tuple[Step, str]]:
    """The shortest step of each cause, and how many more have it, in words."""
    groups: dict[Any, list[Step]] = {}
    for step in steps:
        groups.setdefault(cause(step), []).append(step)
    for group in groups.values():
        first = min(group, key=lambda step: len(step.resets))
        more = len(group) - 1
        yield first, f" (and {more} more such sequences)" if more else ""


def recorded(model: Any) -> dict[str, Any]:
    """The constructor's arguments that a model of timm's or ours says it has."""
    for name in ("_model_args", "config"):
        arguments = getattr(model, name, None)
        if isinstance(arguments, Mapping):
            return dict(arguments)
    return {}


class Twins:
    """The models that the constructor makes; each is made once, and loaded often."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._made: dict[str, Any] = {}

    def built(self, model: Any, classes: int, pool: str | None) -> Built:
        """The model built so, and with what `model` records, with its weights."""
        known = recorded(model)
        options = known | {"num_classes": classes}
        if pool is not None:
            options["global_pool"] = pool
        state = self.subject.state(model)
        first = self._with_state(options, state)
        for norm in ({}, *_norms(self.subject, options)):
            built = self._with_state(options | norm, state) if norm else first
            if not built.refused and not built.missing and not built.unexpected:
                return replace(built, recorded=bool(known), guessed=bool(norm))
        return first

    def _model(self, options: dict[str, Any]) -> Any:
        key = repr(options)
        if key not in self._made:
            if self.subject.slow and len(self._made) >= FEW:  # and large
                del self._made[next(iter(self._made))]
            try:
                self._made[key] = self.subject.build(**options)
            except Exception as error:
                self._made[key] = error
        return self._made[key]

    def _with_state(self, options: dict[str, Any], state: Mapping[str, Any]) -> Built:
        model = self._model(options)
        if isinstance(model, Exception):
            return Built(options, error=model, refused=True)
        shapes = {key: np.shape(value) for key, value in state.items()}
        wanted = {k: np.shape(v) for k, v in self.subject.state(model).items()}
        missing = tuple(key for key in wanted if wanted[key] != shapes.get(key))
        unexpected = tuple(key for key in shapes if key not in wanted)
        if missing or unexpected:
            return Built(options, missing=missing, unexpected=unexpected)
        self.subject.load(model, state)
        try:
            return Built(options, output=self.subject.run(model))
        except Exception as error:
            return Built(options, error=error)


def _norms(subject: Subject, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in NORM_OPTIONS:
        if name in subject.options and name not in options:
            yield from ({name: False}, {name: True})


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Keys of both whose numbers differ in a bit, in whatever shape."""
    return [
        key
        for key, value in before.items()
        if key in after
        and np.asarray(value).tobytes() != np.asarray(after[key]).tobytes()
    ]


def parted(one: Any, other: Any) -> float:
    """max |one - other| over max |other|; inf where shapes or NaN differ."""
    if np.shape(one) != np.shape(other):
        return float("inf")
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return float("inf")
    difference = np.abs(one - other)[np.isfinite(one)]
    scale = np.abs(other[np.isfinite(other)]).max(initial=0)
    return float(difference.max(initial=0) / (scale or 1))
