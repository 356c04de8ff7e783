# SPDX-License-Identifier: Apache-2.0
"""The small model with one constructor option changed, or two.

`variants(subject)` builds and runs them once for all checks that read them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from .walk import RTOL, parted

if TYPE_CHECKING:
    from .subject import Subject

# timm's options that change what is computed, each with values that differ.
EFFECTIVE: dict[str, tuple[Any, ...]] = {
    "class_token": (True, False),
    "reg_tokens": (0, 4),
    "num_reg_tokens": (0, 4),
    "pos_embed": ("learn", "learned", "none"),
    "no_embed_class": (False, True),
    "use_abs_pos_emb": (True, False),
    "use_rot_pos_emb": (False, True),
    "use_rel_pos_bias": (False, True),
    "use_shared_rel_pos_bias": (False, True),
    "pre_norm": (False, True),
    "final_norm": (True, False),
    "fc_norm": (None, True, False),
    "use_fc_norm": (None, True, False),
    "qkv_bias": (True, False),
    "qk_norm": (False, True),
    "proj_bias": (True, False),
    "pool_include_prefix": (False, True),
}
# Options of a factory that say what is done with a model, not what it is.
NOT_OF_THE_MODEL = {
    *("pretrained", "features_only", "scriptable", "exportable", "no_jit"),
    *("weight_init", "fix_init", "use_naflex", "pretrained_strict"),
}
PAIRS = 12


@dataclass(frozen=True)
class Variant:
    """A model with these options over the small one's."""

    options: dict[str, Any]
    refused: Exception | None = None  # by the constructor
    error: Exception | None = None  # raised by forward
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    output: Any = None
    unused: frozenset[str] = frozenset()
    no_gradient: Exception | None = None  # raised on the way back

    def __str__(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.options.items()) or "as it is"

    def parts_from(self, other: Variant) -> bool:
        """Whether it is another model: other parameters, or other numbers."""
        return (
            self.shapes != other.shapes
            or self.unused != other.unused
            or parted(self.output, other.output) > RTOL
        )


_made: WeakKeyDictionary[Any, tuple[Variant, ...]] = WeakKeyDictionary()


def variants(subject: Subject) -> tuple[Variant, ...]:
    """The model as it is, with one option each, then with pairs of those taken."""
    if subject not in _made:
        _made[subject] = tuple(_variants(subject))
    return _made[subject]


def _variants(subject: Subject) -> Iterator[Variant]:
    yield _variant(subject, {})
    taken = []
    for name, value in _singles(subject):
        variant = _variant(subject, {name: value})
        yield variant
        if variant.refused is None and variant.error is None and name in EFFECTIVE:
            taken.append((name, value))
    if subject.slow:
        return
    taken += [
        ("global_pool", pool)
        for pool in subject.pools
        if _variant(subject, {"global_pool": pool}).output is not None
    ]
    pairs = [
        dict(pair)
        for pair in itertools.combinations(taken, 2)
        if pair[0][0] != pair[1][0]
    ]
    random.Random(0).shuffle(pairs)
    for options in pairs[:PAIRS]:
        yield _variant(subject, options)


def _singles(subject: Subject) -> Iterator[tuple[str, Any]]:
    for name, default in subject.options.items():
        if name in EFFECTIVE:
            yield from ((name, value) for value in EFFECTIVE[name])
        elif isinstance(default, bool) and name not in NOT_OF_THE_MODEL:
            yield name, not subject.kwargs.get(name, default)
        elif name.endswith("act_layer") and isinstance(default, (str, type(None))):
            yield name, "silu"


def _variant(subject: Subject, options: dict[str, Any]) -> Variant:
    try:
        model = subject.build(**options)
    except Exception as error:
        return Variant(options, refused=error)
    arguments = getattr(model, "_model_args", options)
    if lost := [name for name in options if name not in arguments]:
        told = f"timm.create_model passes no {lost[0]}={options[lost[0]]!r} on"
        return Variant(options, refused=ValueError(told))
    subject.fill(model, seed=0)
    shapes = {key: np.shape(value) for key, value in subject.state(model).items()}
    try:
        output = subject.call(model, "__call__", subject.images())
    except Exception as error:
        # A map that has shrunk to nothing is the small pictures' fault.
        if _runs(subject, model, np.tile(subject.images(), (1, 1, 4, 4))):
            return Variant(options, shapes=shapes)
        return Variant(options, error=error, shapes=shapes)
    if not hasattr(output, "shape"):  # several: an option of a backbone
        return Variant(options, shapes=shapes)
    try:
        unused = frozenset(subject.unused(model))
    except Exception as error:
        return Variant(options, shapes=shapes, output=output, no_gradient=error)
    return Variant(options, shapes=shapes, output=output, unused=unused)


def _runs(subject: Subject, model: Any, images: Any) -> bool:
    try:
        subject.call(model, "__call__", images)
    except Exception:
        return False
    return True
