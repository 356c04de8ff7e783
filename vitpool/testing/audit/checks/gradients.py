# SPDX-License-Identifier: Apache-2.0
"""For training: checkpointing of activations, and the groups of layer decay."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from ..finding import Finding, Skip
from ..registry import check
from ..subject import Subject
from ..walk import RTOL, parted

# What timm's matchers give to a layer after every block.
LAST = 99999


@check(
    "set_grad_checkpointing changes no number (the checkpointed path is written beside "
    "the plain one, and loses arguments or layers)"
)
def grad_checkpointing_keeps_the_numbers(subject: Subject) -> Iterator[Finding | Skip]:
    """forward and forward_intermediates, with activations computed again."""
    name = "grad_checkpointing_keeps_the_numbers"
    model = subject.build()
    if not hasattr(model, "set_grad_checkpointing") or not subject.kind.trains:
        yield Skip(name, "the class has no set_grad_checkpointing")
        return
    subject.fill(model)
    methods = [m for m in ("forward", "forward_intermediates") if hasattr(model, m)]
    for method in methods:
        model = subject.build()
        subject.fill(model)
        plain = subject.call(model, method, subject.images())
        try:
            model.set_grad_checkpointing(True)
        except AssertionError as error:
            yield Skip(name, f"it is refused: {error}")
            return
        last = "[1][-1]" if method == "forward_intermediates" else ""
        try:
            told = subject.call(model, method, subject.images())
        except Exception as error:
            what = f"fails: {type(error).__name__}: {error}"
        else:
            one, other = (told, plain) if not last else (told[1][-1], plain[1][-1])
            if not hasattr(one, "shape") or parted(one, other) <= RTOL:
                continue
            what = "gives other numbers"
        yield Finding(
            name,
            "B" if what.startswith("fails") else "A",
            f"with set_grad_checkpointing(True) {method} {what}",
            subject.snippet(
                f"plain = model.{method}(x){last}",
                "model.set_grad_checkpointing(True)",
                f"told = model.{method}(x){last}",
                f"assert abs(told - plain).max() <= {RTOL} * abs(plain).max()",
            ),
        )


@check(
    "group_matcher has a place for every parameter below the first block (what it has "
    "no place for trains at the head's rate: layer decay of BEiT, MAE and DINOv2 "
    "recipes)"
)
def layer_groups_have_the_stem(subject: Subject) -> Iterator[Finding | Skip]:
    """Each parameter that the first intermediate depends on is matched."""
    name = "layer_groups_have_the_stem"
    if not subject.kind.trains:
        yield Skip(name, "the class is not trained by torch")
        return
    known: set[str] = set()
    prefix: tuple[dict[str, Any], ...] = ({"reg_tokens": 4}, {"num_reg_tokens": 4})
    for options in (
        {},
        *prefix,
        {"pre_norm": True},
        {"use_pre_transformer_norm": True},
    ):
        if not subject.options.keys() >= options.keys() or subject.refusal(**options):
            continue
        model = subject.build(**options)
        if not hasattr(model, "group_matcher") or not hasattr(
            model, "forward_intermediates"
        ):
            yield Skip(name, "the class has no group_matcher or no intermediates")
            return
        matcher = model.group_matcher(coarse=False)
        if not isinstance(matcher, dict):
            yield Skip(name, "its group_matcher is a function")
            return
        specs = [item for spec in matcher.values() for item in _specs(spec)]
        first = model.forward_intermediates
        try:
            reached = subject.kind.reached(
                model,
                functools.partial(first, indices=[0], intermediates_only=True),
                subject.images(),
            )
        except Exception as error:
            yield Skip(name, f"the first intermediate has no gradient: {error}")
            return
        lost = sorted(key for key in reached - known if _is_last(specs, key))
        known.update(lost)
        if not lost:
            continue
        written = ", ".join(f"{k}={v!r}" for k, v in options.items())
        yield Finding(
            name,
            "C",
            f"{f'with {written}, ' if written else ''}group_matcher has no early group "
            f"for {', '.join(lost[:4])}{' ...' if len(lost) > 4 else ''}: before the "
            "first block, and trained at the head's rate",
            subject.snippet(
                "import re",
                "groups = []",
                "for group in model.group_matcher(coarse=False).values():",
                "    group = group if isinstance(group, (list, tuple)) else [group]",
                "    for g in group:",
                "        groups.append(g if isinstance(g, tuple) else (g, None))",
                f"own = [g for g in groups if re.match(g[0], {lost[0]!r})]",
                "assert own and max(own[0][1] or [0]) < 99999, own",
                **options,
            ),
        )


def _specs(spec: Any) -> list[tuple[str, Any]]:
    """(pattern, suffix) of a group of timm's matchers."""
    specs = spec if isinstance(spec, (list, tuple)) else [spec]
    return [s if isinstance(s, tuple) else (s, None) for s in specs]


def _is_last(specs: list[tuple[str, Any]], key: str) -> bool:
    """Whether a parameter has no group or a late one; the first match counts."""
    for pattern, suffix in specs:
        if re.match(pattern, key):
            return bool(suffix) and max(suffix) >= LAST
    return True
