# SPDX-License-Identifier: Apache-2.0
"""Compares a checkpoint's keys and shapes with a model's, and says what would fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from ..text import printable, some
from .forms import form_of, known_forms
from .hints import what_would_fit
from .lazy import Shape, StateDict
from .spec import Spec

_log = logging.getLogger("vitpool")

# The classifiers; the second is VisionTransformerDistilled's.
HEADS = ("head", "head_dist")
HEAD = tuple(f"{head}.{kind}" for head in HEADS for kind in ("weight", "bias"))
# What stands between the blocks and the head.
_BEHIND_BLOCKS = ("norm.", "fc_norm.", "attn_pool.", "pre_logits.")


class LeftOutWarning(UserWarning):
    """Trained weights of a checkpoint are not loaded: the model has no place for them.

    It is given after all that can be checked was, and before anything changes.
    """

    __module__ = "vitpool"


@dataclass(frozen=True)
class Fit:
    """How the keys and shapes of weights differ from a model's."""

    missing: list[str]
    unexpected: list[str]
    wrong: list[str]

    @classmethod
    def of(cls, weights: StateDict, spec: Spec) -> Fit:
        """Compare the shapes of `weights` with the model's."""
        from ..model import counters

        stored, beside = weights.shapes(), counters(spec.shapes)
        return cls(
            [key for key in spec.shapes if key not in stored],
            [k for k in stored if k not in spec.shapes and k not in beside],
            [k for k, shape in spec.shapes.items() if stored.get(k, shape) != shape],
        )

    def without_wrong(self, weights: StateDict) -> StateDict:
        """The weights but for those of a wrong shape."""
        kept = {k: v for k, v in weights.tensors.items() if k not in self.wrong}
        return StateDict(kept, weights.source, weights.untrained, weights.dtypes)

    def check(self, weights: StateDict, spec: Spec, strict: bool) -> None:
        """Raise ValueError, or without `strict` log, what does not fit.

        A wrong shape is an error either way, as in torch, except in the head; so is a
        file of which nothing fits.
        """
        wrong = [key for key in self.wrong if strict or key not in HEAD]
        if not (wrong or self.wrong or self.missing or self.unexpected):
            return
        stored = weights.shapes()
        parts = []
        if self.missing:
            parts.append(f"missing are {_some(self.missing)}")
        if self.unexpected:
            named = [f"{key:.100} {stored[key]}" for key in self.unexpected]
            parts.append(f"unexpected are {_some(named)}")
        if self.wrong:
            named = [f"{k} is {stored[k]}, not {spec.shapes[k]}" for k in self.wrong]
            parts.append(f"of a wrong shape are {_some(named)}")
        nothing = len(self.missing) == len(spec.shapes)
        text = f"{'; '.join(parts)}{'' if nothing else _hint(self, stored, spec)}"
        what = "holds no weight of the model" if nothing else "does not fit the model"
        source = weights.source or "the checkpoint"
        message = printable(f"{source}: {what}: {text}")
        if strict or wrong or nothing:
            raise ValueError(message)
        _log.warning("%s", message)

    def left_out(self, weights: StateDict) -> list[LeftOutWarning]:
        """A warning of trained norms and pools that `strict` would have refused."""
        keys = [key for key in self.unexpected if key.startswith(_BEHIND_BLOCKS)]
        if not keys:
            return []
        text = f"{_some(keys)} left out: the model has no such parts"
        source = weights.source or "the checkpoint"
        return [LeftOutWarning(printable(f"{source}: of its weights {text}"))]


def _some(items: list[str]) -> str:
    """How many there are, and the first; names come from the file."""
    return f"{len(items)}: {some(items)}"


def _hint(fit: Fit, stored: Mapping[str, Shape], spec: Spec) -> str:
    """The options of a model that would fit, where the weights are timm's at all."""
    known = known_forms(spec.family)
    foreign = [key for key in fit.unexpected if form_of(key) not in known]
    if foreign:
        return f". No {spec.family} of timm's has {foreign[0]!r:.100}"
    hints = what_would_fit(stored, spec)
    if not hints:
        return ""
    return f". The weights are those of a model with {', '.join(hints)}"
